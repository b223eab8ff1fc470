"""Promises of the gateway, kept in front of an engine that does what the story needs."""

import asyncio
import json
import sqlite3
import stat
import threading
import time
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

import httpx
import openai
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from gigafactory.factory.events import RequestReserved, to_row
from gigafactory.ledger import store
from gigafactory.works.gateway import Endpoint, Gateway, disputes
from gigafactory.works.keys import Keys

RUN = "run-1"
HELLO = [{"role": "user", "content": "hello"}]


class Engine:
    """Speaks as `transformers serve` does: usage in the chunk that ends, and no `[DONE]`."""

    def __init__(self):
        self.words = 3
        self.pause_s = 0.0
        self.dies_after = None
        self.asked = []
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
            ]
        )

    def usage(self):
        return {"prompt_tokens": 7, "completion_tokens": self.words, "total_tokens": 7 + self.words}

    async def complete(self, request):
        body = await request.json()
        self.asked.append(body)
        answer = {"id": request.headers["x-request-id"], "created": 1, "model": "model@main"}
        if body.get("stream"):
            return StreamingResponse(self.stream(answer), media_type="text/event-stream")
        said = {"message": {"role": "assistant", "content": "la " * self.words}, "text": "la "}
        choice = {"index": 0, "finish_reason": "stop", **said}
        return JSONResponse(answer | {"object": "x", "choices": [choice], "usage": self.usage()})

    async def stream(self, answer):
        def chunk(delta, **more):
            choice = {"index": 0, "delta": delta, "text": delta.get("content", "")}
            return f"data: {json.dumps(answer | {'choices': [choice], **more})}\n\n"

        yield chunk({"role": "assistant"})
        for word in range(self.words):
            if word == self.dies_after:
                raise ConnectionAbortedError("an engine that dies in the middle")
            await asyncio.sleep(self.pause_s)
            yield chunk({"content": 'la "usage":{"model":"model@main"} '})
        yield chunk({}, usage=self.usage())


class House:
    """A gateway and its engine, listening on this machine."""

    def __init__(self, home, ledger=None):
        self.path = home / "ledger.sqlite"
        self.ledger = ledger or store.Ledger(self.path)
        self.keys = Keys(home)
        self.key = self.keys.create("mill")
        self.engine = Engine()
        self.endpoints = {"soon": Endpoint("soon", None, "model")}

    def client(self, **more):
        return openai.OpenAI(
            base_url=f"{self.url}/v1", **({"api_key": self.key, "max_retries": 0} | more)
        )

    def post(self, body, path="/v1/chat/completions"):
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(self.url + path, content=json.dumps(body), headers=headers)

    def rows(self, count, wait_s=10.0):
        """The requests' rows once there are `count`, which a settlement may take a moment for."""
        end_s = time.monotonic() + wait_s
        while len(rows := list(store.read(self.path, RUN))) < count and time.monotonic() < end_s:
            time.sleep(0.02)
        assert len(rows) == count
        return rows


@contextmanager
def listening(app):
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextmanager
def open_house(home, ledger=None):
    house = House(home, ledger)
    gateway = Gateway(house.ledger, RUN, lambda: 5.0, lambda: house.endpoints, house.keys)

    @asynccontextmanager
    async def lifespan(app):
        yield
        await gateway.aclose()

    app = Starlette(routes=gateway.routes(), lifespan=lifespan)
    with listening(house.engine.app) as engine_url, listening(app) as house.url:
        house.endpoints["chat"] = Endpoint("job-chat", engine_url, "model", 512, 8192)
        yield house


@pytest.fixture
def house(tmp_path):
    with open_house(tmp_path) as house:
        yield house
        house.ledger.close()


class HeldLedger:
    """A ledger whose disk is as slow as the test wants it."""

    def __init__(self):
        self.queued = []

    def append(self, run, event):
        self.queued.append((event, Future()))
        return self.queued[-1][1]

    def write(self, kind):
        """Wait for an event of `kind`, then make it durable."""
        end_s = time.monotonic() + 10
        while not self.queued and time.monotonic() < end_s:
            time.sleep(0.01)
        event, future = self.queued.pop(0)
        assert type(event).__name__ == kind
        future.set_result(1)


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
        time.sleep(0.3)
        said = b"".join(seen)
        assert said.count(b'"content"') == 3
        assert b"finish" not in said
        assert b"[DONE]" not in said
        house.ledger.write("RequestSettled")
        client.join()
        assert b"".join(seen).endswith(b"data: [DONE]\n\n")


def test_a_stream_is_openais_and_is_billed_the_engines_usage(house):
    stream = house.client().chat.completions.create(model="chat", messages=HELLO, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).count("la") == 3
    assert all(chunk.usage is None and chunk.model == "chat" for chunk in chunks)
    reserved, settled = house.rows(2)
    assert (reserved.kind, settled.kind) == ("RequestReserved", "RequestSettled")
    assert reserved.subject == settled.subject == chunks[0].id
    assert reserved.body["tokens_max"] >= 10
    assert reserved.body["job"] == "job-chat"
    assert settled.body["tenant"] == "mill"
    assert (settled.body["prompt_tokens"], settled.body["completion_tokens"]) == (7, 3)
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


def test_an_engine_that_dies_mid_stream_is_told_and_costs_nothing(house):
    house.engine.dies_after = 2
    stream = house.client().chat.completions.create(model="chat", messages=HELLO, stream=True)
    heard = [next(stream) for _ in range(3)]
    assert heard[-1].choices[0].delta.content
    with pytest.raises(openai.APIError, match="the engine of chat failed"):
        next(stream)
    _, settled = house.rows(2)
    assert settled.body["outcome"] == "error"
    assert settled.body["completion_tokens"] == 0


def test_an_engine_that_is_away_is_503_and_settled(house):
    house.endpoints["chat"] = Endpoint("job-chat", "http://127.0.0.1:9", "model", 512, 8192)
    answer = house.post({"model": "chat", "messages": HELLO})
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert house.rows(2)[1].body["outcome"] == "error"


def test_a_wrong_key_is_401_and_leaves_no_row(house):
    for key in ("gf-wrong", "-"):
        answer = httpx.post(
            f"{house.url}/v1/chat/completions",
            json={"model": "chat", "messages": HELLO},
            headers={"authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 401
    with pytest.raises(openai.AuthenticationError, match="not known"):
        house.client(api_key="gf-wrong").models.list()
    house.rows(0)


def test_an_unknown_model_is_404_with_the_names_of_the_known(house):
    with pytest.raises(openai.NotFoundError, match="chat, soon"):
        house.client().chat.completions.create(model="gpt", messages=HELLO)
    assert [model.id for model in house.client().models.list()] == ["soon", "chat"]


def test_a_model_that_still_loads_is_503_with_retry_after(house):
    answer = house.post({"model": "soon", "messages": HELLO})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"]["code"] == "model_not_ready"
    house.rows(0)


def test_a_full_disk_is_503_and_the_engine_is_not_asked(house, monkeypatch):
    def full(connection, rows):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "_insert", full)
    answer = house.post({"model": "chat", "messages": HELLO, "stream": True})
    assert answer.status_code == 503
    assert "disk is full" in answer.json()["error"]["message"]
    assert not house.engine.asked
    monkeypatch.undo()
    assert house.post({"model": "chat", "messages": HELLO}).status_code == 200


def test_a_disk_that_fills_during_the_answer_leaves_no_end_but_a_dispute(house, monkeypatch):
    insert = store._insert

    def full(connection, rows):
        if rows[0][1] == "RequestSettled":
            raise sqlite3.OperationalError("database or disk is full")
        return insert(connection, rows)

    monkeypatch.setattr(store, "_insert", full)
    answer = house.post({"model": "chat", "messages": HELLO, "stream": True}).text
    assert answer.count('"content"') == 3
    assert "disk is full" in answer
    assert "[DONE]" not in answer
    (reserved,) = house.rows(1)
    assert [dispute.request for dispute in disputes(house.path, RUN)] == [reserved.subject]


BEYOND_THE_ENGINE = [
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"content": "no role"}]}, "messages"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
    ({"messages": HELLO, "max_tokens": 513}, "max_tokens"),
    ({"messages": HELLO, "max_tokens": "9"}, "max_tokens"),
    ({"messages": HELLO, "max_completion_tokens": True}, "max_tokens"),
    ({"messages": HELLO, "stream": "yes"}, "stream"),
    ({"messages": HELLO, "n": 2}, "n"),
    ({"messages": HELLO, "stop": ["."]}, "stop"),
    ({"messages": HELLO, "generation_config": "{}"}, "generation_config"),
    ({"messages": [{"role": "user", "content": "x" * 9000}]}, None),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
]


def test_what_the_engine_cannot_do_or_would_not_survive_is_400(house):
    for body, param in BEYOND_THE_ENGINE:
        answer = house.post({"model": "chat", **body})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), body
    assert not house.engine.asked
    house.rows(0)


def test_a_body_that_is_not_json_or_too_large_is_refused(house):
    url, headers = f"{house.url}/v1/completions", {"authorization": f"Bearer {house.key}"}
    for body, status in ((b"[" * 100_000, 400), (b"[]", 400), (b"x" * (2 << 20), 413)):
        assert httpx.post(url, content=body, headers=headers).status_code == status
    assert house.post({"model": "chat", "prompt": ""}, "/v1/completions").status_code == 400


def test_settings_without_effect_are_named(house):
    answer = house.post({"model": "chat", "messages": HELLO, "temperature": 0.7, "n": 1})
    assert answer.headers["x-gigafactory-ignored"] == "temperature"
    assert "temperature" not in house.engine.asked[0]


def test_of_32_connections_at_once_none_is_lost(house):
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


def test_a_reservation_that_a_crash_left_is_disputed_once_and_costs_nothing(tmp_path):
    ledger = store.Ledger(tmp_path / "ledger.sqlite")
    reserved = RequestReserved(3.0, "r1", "mill", "job-chat", "chat", 100)
    ledger.append(RUN, reserved).result()
    (dispute,) = disputes(ledger.path, RUN)
    assert (dispute.request, dispute.tenant, dispute.at_s) == ("r1", "mill", 3.0)
    assert "tokens" not in json.dumps(to_row(dispute))
    ledger.append(RUN, dispute).result()
    assert disputes(ledger.path, RUN) == []
    assert disputes(ledger.path, "another run") == []


def test_keys_are_kept_as_hashes_that_only_the_owner_reads(tmp_path):
    keys = Keys(tmp_path / "home")
    assert keys.tenant_of("gf-anything") is None
    key = keys.local("me")
    assert keys.local("me") == key
    other = Keys(tmp_path / "home").create("mill")
    assert (keys.tenant_of(key), keys.tenant_of(other)) == ("me", "mill")
    assert key not in (tmp_path / "home" / "keys.json").read_text()
    for name in ("keys.json", "key"):
        assert stat.S_IMODE((tmp_path / "home" / name).stat().st_mode) == 0o600
