"""Promises of the route of what acts: `POST /v1/policies/NAME/act`, metered as all requests."""

import base64
from contextlib import ExitStack
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gigafactory.client import Client
from gigafactory.faults import Refused
from gigafactory.jobs import act_child, engines
from gigafactory.jobs.engine_child import KEY
from gigafactory.works.gateway.exchange import engine_words
from tests.gateway_house import RUN, listening, open_house, replica

LACKS = frozenset({"text", "embeddings"})


def steer(said):
    """A policy of two numbers: their sum and their difference."""
    try:
        rows = np.atleast_2d(np.array(said["observation"], dtype=np.float32))
        one, other = rows.T
    except (KeyError, TypeError, ValueError) as error:
        raise act_child.Unfit("an observation has 2 numbers") from error
    return {"object": "action", "actions": np.stack([one + other, one - other], 1).tolist()}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with ExitStack() as stack:
        house = stack.enter_context(open_house(tmp_path_factory.mktemp("home")))
        url = stack.enter_context(listening(act_child.App(steer), lifespan="off"))
        most = engines.ROWS_MAX
        house.services.serve(
            "pilot", replica(url, "job-pilot", LACKS, most, most * engines.SEATS, engine="act")
        )
        yield house


def test_a_policy_acts_under_its_own_name_and_the_request_is_in_the_ledger_with_no_token(house):
    answer = house.post({"observation": [0.5, 0.25]}, "/v1/policies/pilot/act")
    assert answer.status_code == 200
    assert answer.json()["actions"] == [[0.75, 0.25]]
    assert answer.json()["model"] == "pilot"
    reserved, settled = house.rows(2)[-2:]
    assert (reserved.kind, settled.kind) == ("RequestReserved", "RequestSettled")
    assert reserved.run == RUN
    assert reserved.body["model"] == "pilot"
    assert settled.body["outcome"] == "complete"
    assert settled.body["prompt_tokens"] == settled.body["completion_tokens"] == 0
    assert settled.body["money_micro"] == 0


def test_several_observations_are_answered_together_through_the_python_client(house):
    with Client(house.url, house.key) as client:
        answer = client.act("pilot", [[1.0, 0.0], [0.0, 1.0]])
    assert answer["actions"] == [[1.0, 1.0], [1.0, -1.0]]


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/v1/policies/nobody/act", {"observation": [1, 2]}, 404, "no model 'nobody'"),
        ("/v1/policies/pilot/act", {}, 400, "observation"),
        ("/v1/policies/pilot/act", {"observation": [1, 2], "image": ""}, 400, "observation"),
        ("/v1/policies/pilot/act", {"observation": [1, 2, 3]}, 400, "2 numbers"),
        ("/v1/policies/pilot/act", {"observation": {"a": 1}}, 400, "2 numbers"),
        ("/v1/policies/chat/act", {"observation": [1, 2]}, 501, "chat/completions"),
        ("/v1/policies/pilot/act", [1], 400, "JSON object"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(house, path, body, status, word):
    house.services.serve("chat", replica(house.engine_url, lacks={"act", "embeddings"}))
    answer = house.post(body, path)
    assert (answer.status_code, word in answer.json()["error"]["message"]) == (status, True)


def test_what_the_engine_refuses_is_one_error_in_words_with_its_parameter(house):
    error = house.post({"observation": [1, 2, 3]}, "/v1/policies/pilot/act").json()["error"]
    assert error == {
        "message": "the engine refuses: an observation has 2 numbers",
        "type": "invalid_request_error",
        "param": "observation",
        "code": "engine_refused",
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "too long"}', ("too long", None)),
        (b'{"error": {"message": "too long", "code": 400, "param": "n"}}', ("too long", "n")),
        (b'{"object": "error", "message": "too long", "param": null}', ("too long", None)),
        (b'{"detail": "too long"}', ("too long", None)),
        (b"too long", ("too long", None)),
        (b'{"detail": [{"loc": 1}]}', ('{"detail": [{"loc": 1}]}', None)),
        (b"[1]", ("[1]", None)),
        (b"\xff", ("\ufffd", None)),
    ],
)
def test_an_engines_error_is_told_in_its_words_whatever_form_it_has(body, words):
    assert engine_words(body) == words


def test_a_policy_that_is_asked_to_write_says_where_to_ask(house):
    answer = house.post({"model": "pilot", "messages": [{"role": "user", "content": "left?"}]})
    assert answer.status_code == 501
    assert "/v1/policies/NAME/act" in answer.json()["error"]["message"]


def test_get_is_not_allowed_and_a_stranger_learns_nothing(house):
    import httpx

    path = house.url + "/v1/policies/pilot/act"
    assert httpx.post(path, json={"observation": [1, 2]}).status_code == 401
    known = {"authorization": f"Bearer {house.key}"}
    assert httpx.get(path, headers=known).status_code == 405


def test_the_clients_refusal_tells_what_the_gateway_said(house):
    with Client(house.url, house.key) as client, pytest.raises(Refused, match="2 numbers"):
        client.act("pilot", [1.0])


def test_pictures_are_png_or_jpeg_of_bounded_size():
    out = BytesIO()
    Image.new("RGB", (7, 5), (255, 0, 0)).save(out, "PNG")
    seen = act_child.picture(base64.b64encode(out.getvalue()).decode())
    assert seen.shape == (5, 7, 3)
    assert seen[0, 0].tolist() == [255, 0, 0]
    for bad in ("%%", "aGVsbG8=", None, 7):
        with pytest.raises(act_child.Unfit):
            act_child.picture(bad)


def test_an_engine_that_acts_answers_only_who_has_its_key(monkeypatch):
    import httpx

    from gigafactory.jobs.engine_child import Guard

    monkeypatch.setenv(KEY, "secret")
    with listening(Guard(act_child.App(steer)), lifespan="off") as url:
        asked = {"observation": [1, 2]}
        assert httpx.post(url + engines.ACT, json=asked).status_code == 401
        known = {"authorization": "Bearer secret"}
        assert httpx.post(url + engines.ACT, json=asked, headers=known).status_code == 200
