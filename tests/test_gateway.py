"""Promises of the gateway, kept in front of an engine that does what the story needs."""

import asyncio
import json
import sqlite3
import threading
import time

import httpx
import openai
import pytest

from gigafactory.factory.events import RequestReserved, RequestSettled, from_row, to_row
from gigafactory.ledger import store
from gigafactory.works.gateway import disputes
from gigafactory.works.gateway.answer import DONE, Answer, parsed
from gigafactory.works.gateway.ask import CHAT, understand
from gigafactory.works.gateway.rows import Rows
from gigafactory.works.services import Route
from tests.gateway_house import HELLO, INPUT, OUTPUT, RUN, open_house, replica, until

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@pytest.fixture
def house(tmp_path):
    with open_house(tmp_path) as house:
        yield house


class HeldLedger:
    """A ledger whose disk is as slow as the test wants it."""

    def __init__(self):
        self.queued = []

    def put(self, rows, told):
        self.queued.append((rows, told))

    def write(self, kind):
        """Wait for a row of `kind`, then make it durable."""
        until(lambda: self.queued)
        rows, told = self.queued.pop(0)
        assert [row[1] for row in rows] == [kind]
        told(None)


def test_nothing_is_sent_before_the_reservation_and_no_end_before_the_settlement(tmp_path):
    with open_house(tmp_path, HeldLedger()) as house:
        seen = []

        def listen():
            headers = {"authorization": f"Bearer {house.key}"}
            body = {"model": "chat", "messages": HELLO, "stream": True}
            url = f"{house.url}/v1/chat/completions"
            with httpx.stream("POST", url, json=body, headers=headers) as reply:
                seen.append(b"headers")
                seen.extend(reply.iter_raw())

        client = threading.Thread(target=listen)
        client.start()
        time.sleep(0.3)
        assert not seen
        assert not house.engine.asked
        house.ledger.write("RequestReserved")
        until(lambda: b"".join(seen).count(b'"content"') == 3)
        time.sleep(0.3)
        said = b"".join(seen)
        assert b"finish" not in said
        assert b"[DONE]" not in said
        house.ledger.write("RequestSettled")
        client.join()
        assert b"".join(seen).endswith(b"data: [DONE]\n\n")


def test_rows_are_those_of_the_events():
    """The gateway writes bodies without making the records; both must be the same."""
    put = []

    class Ledger:
        def put(self, rows, told):
            put.extend(rows)
            told(None)

    async def both():
        rows = Rows(Ledger(), RUN, lambda: 7.5)
        await rows.reserved("r1", 'mi"ll', "job", "chat", 99, 12345, "k1")
        await rows.settled("r1", 'mi"ll', "job", 7, 3, 0.25, 1.5, "complete", 36)

    asyncio.run(both())
    events = (
        RequestReserved(7.5, "r1", 'mi"ll', "job", "chat", 99, 12345, "k1"),
        RequestSettled(7.5, "r1", 'mi"ll', "job", 7, 3, 0.25, 1.5, "complete", 36),
    )
    for row, event in zip(put, events, strict=True):
        run, kind, subject, at_s, unix_s, body = row
        assert (kind, subject, at_s, json.loads(body)) == to_row(event)
        assert from_row(kind, at_s, json.loads(body)) == event
        assert run == RUN
        assert abs(unix_s - time.time()) < 60


def test_a_stream_is_openais_and_is_billed_the_engines_usage(house):
    stream = house.client().chat.completions.create(model="chat", messages=HELLO, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).count("la") == 3
    assert all(chunk.usage is None and chunk.model == "chat" for chunk in chunks)
    reserved, settled = house.rows(2)
    assert (reserved.kind, settled.kind) == ("RequestReserved", "RequestSettled")
    assert reserved.subject == settled.subject == chunks[0].id
    assert reserved.body["tokens_max"] >= 10
    assert (reserved.body["job"], reserved.body["key"]) == ("job-chat", "k1")
    assert settled.body["tenant"] == "mill"
    assert (settled.body["prompt_tokens"], settled.body["completion_tokens"]) == (7, 3)
    assert settled.body["money_micro"] == 7 * INPUT + 3 * OUTPUT
    assert settled.body["money_micro"] <= reserved.body["money_micro_max"]
    assert settled.body["outcome"] == "complete"
    assert 0 < settled.body["ttft_s"] <= settled.body["duration_s"]


def test_who_asks_for_the_usage_gets_it_as_the_last_chunk_and_only_there(house):
    options = {"include_usage": True}
    create = house.client().chat.completions.create
    *chunks, last = create(model="chat", messages=HELLO, stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage.total_tokens == 10
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_text_that_looks_like_the_protocol_passes_unchanged(house):
    stream = house.client().chat.completions.create(model="chat", messages=HELLO, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == 'la "usage":{"model":"model@main"} ' * 3


def test_the_usage_is_found_wherever_an_engine_cuts_its_stream():
    """In one piece or byte by byte, with words in the same chunk that look like a chunk."""
    said = [
        {"model": "m", "choices": [{"index": 0, "delta": {"content": "data: [DONE]"}}]},
        {"model": "m", "usage": None, "choices": [{"index": 0, "delta": {"content": 'data: {"'}}]},
        {"model": "m", "choices": [{"delta": {"content": "data: {"}}], "usage": USAGE},
    ]
    wire = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in said)
    wire += b"data: [DONE]\n\n"
    asked = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    ask = understand(CHAT, asked, [])
    for size in (1, 7, 50, len(wire)):
        answer, rest, told = Answer("r", "chat", ask), b"", b""
        for at in range(0, len(wire), size):
            rest += wire[at : at + size]
            cut = rest.rfind(b"\n\n") + 2
            if cut > 1:
                told, rest = told + answer.heard(rest[:cut]), rest[cut:]
        assert answer.done
        answer.ended()
        assert answer.usage == (7, 3)
        chunks = list(parsed(told + answer.end))
        assert [chunk["model"] for chunk in chunks] == ["chat"] * 4
        words = [c["choices"][0]["delta"]["content"] for c in chunks[:3]]
        assert words == ["data: [DONE]", 'data: {"', "data: {"]
        assert (chunks[3]["choices"], chunks[3]["usage"]) == ([], USAGE)
        assert (told + answer.end).count(b"\n\ndata: [DONE]\n\n") == 1


def test_an_engine_that_counts_in_every_chunk_is_billed_its_last_count(house):
    """As vLLM does with continuous_usage_stats; the client sees a stream like any other."""
    house.engine.counts_on = True
    client = house.client()
    chunks = list(client.chat.completions.create(model="chat", messages=HELLO, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks).count("la") == 3
    assert all(chunk.usage is None for chunk in chunks)
    options = {"include_usage": True}
    create = client.chat.completions.create
    *chunks, last = create(model="chat", messages=HELLO, stream=True, stream_options=options)
    assert all(chunk.usage is None for chunk in chunks)
    assert (last.choices, last.usage.completion_tokens) == ([], 3)
    events = list(client.responses.create(model="chat", input="hello", stream=True))
    assert events[-1].response.usage.output_tokens == 3
    assert events[-1].response.output_text.count("la") == 3
    bills = [row.body for row in house.rows(6) if row.kind == "RequestSettled"]
    assert [bill["completion_tokens"] for bill in bills] == [3, 3, 3]


def test_a_stream_that_breaks_after_a_count_and_before_its_end_costs_nothing(house):
    house.engine.counts_on, house.engine.dies_after = True, 2
    assert '"error"' in house.chat(stream=True).text
    _, settled = house.rows(2)
    assert (settled.body["outcome"], settled.body["completion_tokens"]) == ("error", 0)


def test_the_last_count_before_the_end_is_billed_however_the_stream_is_cut():
    def chunk(word, count, **more):
        choice = {"index": 0, "delta": {"content": word}, **more}
        usage = {"prompt_tokens": 7, "completion_tokens": count}
        return {"model": "m", "choices": [choice], "usage": usage}

    said = [chunk("a", 1), chunk("b", 2), chunk("c", 3, finish_reason="stop")]
    said.append(chunk("", 4) | {"choices": []})
    wire = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in said)
    ask = understand(CHAT, {"messages": HELLO, "stream": True}, [])
    for size, goodbye in ((1, DONE), (60, DONE), (len(wire), DONE), (len(wire), b"")):
        answer, rest, told = Answer("r", "chat", ask), b"", b""
        for at in range(0, len(wire + goodbye), size):
            rest += (wire + goodbye)[at : at + size]
            cut = rest.rfind(b"\n\n") + 2
            if cut > 1:
                told, rest = told + answer.heard(rest[:cut]), rest[cut:]
        assert answer.done == bool(goodbye)
        assert b"stop" not in told, "the end waits for the settlement"
        answer.ended()
        assert answer.usage == (7, 4)
        chunks = list(parsed(told + answer.end))
        assert "".join(one["choices"][0]["delta"]["content"] for one in chunks) == "abc"
        assert not any("usage" in one for one in chunks)
        assert answer.end.endswith(DONE)


def test_a_whole_answer_is_openais_and_is_billed_the_engines_usage(house):
    answer = house.client().chat.completions.create(model="chat", messages=HELLO, max_tokens=9)
    assert answer.choices[0].message.content == "la la la "
    assert (answer.model, answer.usage.total_tokens) == ("chat", 10)
    assert house.client().completions.create(model="chat", prompt="hello").choices[0].text == "la "
    assert [row.kind for row in house.rows(4)] == ["RequestReserved", "RequestSettled"] * 2
    chat, text = house.engine.asked
    assert (chat["max_tokens"], text["max_tokens"]) == (9, 16)
    assert chat["model"] == text["model"] == "model"


def test_a_client_that_leaves_mid_stream_is_billed_what_the_engine_produced(house):
    house.engine.words, house.engine.pause_s = 20, 0.03
    stream = house.client().chat.completions.create(model="chat", messages=HELLO, stream=True)
    next(stream)
    stream.close()
    _, settled = house.rows(2)
    assert settled.body["outcome"] == "disconnected"
    assert settled.body["completion_tokens"] == 20
    assert settled.body["duration_s"] > 20 * 0.03


def test_a_client_that_takes_nothing_has_left(house, monkeypatch):
    from gigafactory.works.gateway import door

    monkeypatch.setattr(door, "STALL_S_MAX", 0.5)
    monkeypatch.setattr(door, "WATCH_S", 0.1)
    house.engine.words = 400_000  # more than the buffers between us and the client hold
    house.engine.deltas = [{"content": "la " * 400_000}] * 20
    house.engine.words = 20
    headers = {"authorization": f"Bearer {house.key}"}
    body = {"model": "chat", "messages": HELLO, "stream": True}
    url = f"{house.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers) as reply:
        assert reply.status_code == 200
        _, settled = house.rows(2)
    assert settled.body["outcome"] == "disconnected"
    assert settled.body["completion_tokens"] == 20


def test_a_wrong_key_is_401_one_that_may_not_is_403_and_neither_leaves_a_row(house):
    for key, status in (("gf-wrong", 401), ("-", 401), ("gf-reader", 403)):
        answer = house.chat(key=key)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
    assert httpx.get(f"{house.url}/v1/models").status_code == 401
    with pytest.raises(openai.AuthenticationError, match="not known"):
        house.client(api_key="gf-wrong").models.list()
    house.rows(0)


def test_an_unknown_model_is_404_with_the_names_of_the_known(house):
    house.services.serve("soon")
    with pytest.raises(openai.NotFoundError, match="chat, soon"):
        house.client().chat.completions.create(model="gpt", messages=HELLO)
    assert {model.id for model in house.client().models.list()} == {"soon", "chat"}
    assert house.client().models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError, match="gpt"):
        house.client().models.retrieve("gpt")


def test_paths_and_methods_that_are_not_here_are_refused(house):
    headers = {"authorization": f"Bearer {house.key}"}
    for method, path, status in (
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/images/generations", 404),
        ("GET", "/v1/modelsx", 404),
    ):
        answer = httpx.request(method, house.url + path, headers=headers)
        assert answer.status_code == status, path
        assert answer.json()["error"]["code"]
    assert httpx.get(house.url).json() == {"here": "the console"}


def test_a_service_that_will_never_answer_says_so_and_is_not_asked_again(house):
    house.services.routes["never"] = Route("never", [], True, False, gone=True)
    answer = house.post({"model": "never", "messages": HELLO})
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert answer.json()["error"]["message"] == (
        "never is not served: it failed, or what it stands on did not pass its gate"
    )


def test_a_model_that_still_loads_is_503_with_retry_after(house):
    house.services.serve("soon")
    answer = house.post({"model": "soon", "messages": HELLO})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["code"] == "model_not_ready"
    house.rows(0)


def test_a_full_disk_is_503_and_the_engine_is_not_asked(house, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(house.ledger, "put", lambda rows, told: told(store.LedgerFailure("full")))
    answer = house.chat(stream=True)
    assert answer.status_code == 503
    assert "the ledger cannot be written: full" in answer.json()["error"]["message"]
    assert "retry-after" in answer.headers
    assert not house.engine.asked
    monkeypatch.undo()
    assert house.chat().status_code == 200


def test_a_disk_that_fills_during_the_answer_leaves_no_end_but_a_dispute(house, monkeypatch):
    put = house.ledger.put

    def full(rows, told):
        if rows[0][1] == "RequestSettled":
            told(store.LedgerFailure("disk is full"))
        else:
            put(rows, told)

    monkeypatch.setattr(house.ledger, "put", full)
    answer = house.chat(stream=True).text
    assert answer.count('"content"') == 3
    assert "disk is full" in answer
    assert "[DONE]" not in answer
    (reserved,) = house.rows(1)
    assert [dispute.request for dispute in disputes(house.path, RUN)] == [reserved.subject]


BEYOND_THE_ENGINE = [
    ({"messages": []}, 400, "messages"),
    ({"messages": "hello"}, 400, "messages"),
    ({"messages": [{"content": "no role"}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": ""}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": 7}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "x", "audio": {}}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
    ({"messages": HELLO, "max_tokens": 0}, 400, "max_tokens"),
    ({"messages": HELLO, "max_tokens": 513}, 400, "max_tokens"),
    ({"messages": HELLO, "max_tokens": "9"}, 400, "max_tokens"),
    ({"messages": HELLO, "max_completion_tokens": True}, 400, "max_tokens"),
    ({"messages": HELLO, "stream": "yes"}, 400, "stream"),
    ({"messages": HELLO, "n": 2}, 400, "n"),
    ({"messages": HELLO, "generation_config": "{}"}, 400, "generation_config"),
    ({"messages": [{"role": "user", "content": "x" * 9000}]}, 400, None),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None),
    ({"messages": HELLO, "stop": ["."]}, 501, "stop"),
    ({"messages": HELLO, "logprobs": True}, 501, "logprobs"),
    ({"messages": HELLO, "response_format": {"type": "json_object"}}, 501, "response_format"),
]


def test_what_the_engine_cannot_do_or_would_not_survive_is_refused(house):
    for body, status, param in BEYOND_THE_ENGINE:
        answer = house.post({"model": "chat", **body})
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), body
    assert not house.engine.asked
    house.rows(0)


def test_a_body_that_is_not_json_too_deep_or_too_large_is_refused(house):
    url, headers = f"{house.url}/v1/completions", {"authorization": f"Bearer {house.key}"}
    deep = b'{"model": "chat", "prompt": ' + b"[" * 100 + b"]" * 100 + b"}"
    for body, status in (
        (b"[" * 100_000, 400), (deep, 400), (b"[]", 400), (b"x" * (2 << 20), 413), (b"", 400)
    ):  # fmt: skip
        assert httpx.post(url, content=body, headers=headers).status_code == status

    def pieces():
        for _ in range(40):
            yield b" " * (1 << 15)

    assert httpx.post(url, content=pieces(), headers=headers).status_code == 413
    assert house.post({"model": "chat", "prompt": ""}, "/v1/completions").status_code == 400


def test_settings_without_effect_are_named(house):
    answer = house.chat(temperature=0.7, n=1, user="ann")
    assert answer.headers["x-gigafactory-ignored"] == "temperature, user"
    assert "temperature" not in house.engine.asked[0]


def test_an_engine_that_heeds_them_gets_the_settings(house):
    house.services.serve("chat", replica(house.engine_url, engine="vllm"))
    answer = house.chat(temperature=0.7, stop=["."], seed=1)
    assert "x-gigafactory-ignored" not in answer.headers
    asked = house.engine.asked[0]
    assert (asked["temperature"], asked["seed"], asked["stop"]) == (0.7, 1, ["."])


def test_of_32_connections_at_once_none_is_lost(house):
    house.services.serve("chat", replica(house.engine_url, cache=1 << 20))

    async def ask(client, number):
        if number % 2:
            answer = await client.chat.completions.create(model="chat", messages=HELLO)
            return answer.usage.completion_tokens
        options = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="chat", messages=HELLO, stream=True, stream_options=options
        )
        return [chunk async for chunk in stream][-1].usage.completion_tokens

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=house.key) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(96)))

    assert asyncio.run(all_at_once()) == [3] * 96
    rows = house.rows(2 * 96)
    for kind in ("RequestReserved", "RequestSettled"):
        assert len({row.subject for row in rows if row.kind == kind}) == 96
    assert sum(row.body.get("completion_tokens", 0) for row in rows) == 3 * 96


def test_what_runs_in_this_process_is_billed_alike(house):
    """Batches ask so: no socket, same reservation, same settlement."""
    grant = house.doors.grants["gf-mill"]

    async def ask():
        said = {"model": "chat", "messages": HELLO}
        whole = await house.gateway.complete(grant, "/v1/chat/completions", said)
        return whole, await house.gateway.complete(grant, "/v1/completions", {"model": "gpt"})

    fresh = type(house)(house.home)  # a gateway belongs to one event loop
    fresh.services.serve("chat", replica(house.engine_url))
    house.gateway = fresh.gateway
    (status, answer), (no_status, no) = asyncio.run(ask())
    assert (status, answer["usage"]["completion_tokens"], answer["model"]) == (200, 3, "chat")
    assert (no_status, no["error"]["code"]) == (404, "model_not_found")
    assert [row.kind for row in house.rows(2)] == ["RequestReserved", "RequestSettled"]


def test_a_reservation_that_a_crash_left_is_disputed_once_and_costs_nothing(tmp_path):
    ledger = store.Ledger(tmp_path / "ledger.sqlite")
    reserved = RequestReserved(3.0, "r1", "mill", "job-chat", "chat", 100)
    ledger.append(RUN, reserved).result()
    path = tmp_path / "ledger.sqlite"
    (dispute,) = disputes(path, RUN)
    assert (dispute.request, dispute.tenant, dispute.at_s) == ("r1", "mill", 3.0)
    assert "tokens" not in json.dumps(to_row(dispute))
    ledger.append(RUN, dispute).result()
    assert disputes(path, RUN) == []
    assert disputes(path, "another run") == []
