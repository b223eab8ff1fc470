"""Promises when things break: a request is billed once and rightly, or not at all."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from gigafactory.blueprint.schema import Budget
from gigafactory.ledger import store
from gigafactory.works.gateway import disputes
from gigafactory.works.gateway.engine import Engines
from tests.gateway_house import HELLO, INPUT, OUTPUT, RUN, Engine, House, listening, replica

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER = {"id": "x", "model": "model@main"}


def whole():
    """An engine's whole answer on the wire."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a"}}
    body = json.dumps(ANSWER | {"choices": [choice], "usage": USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def streamed():
    """An engine's streamed answer on the wire; some chunks hold half an event, some two."""

    def event(delta, **more):
        choice = {"index": 0, "delta": delta}
        return b"data: " + json.dumps(ANSWER | {"choices": [choice], **more}).encode() + b"\n\n"

    words = event({"role": "assistant"}) + event({"content": "a"}) + event({"content": "b"})
    pieces = [words[:40], words[40:], event({}, usage=USAGE), b"data: [DONE]\n\n", b""]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks


class Severed:
    """A network that carries so many bytes of each answer, in pieces, and then breaks."""

    def __init__(self, answer):
        self.answer, self.bytes_max = answer, len(answer)

    async def converse(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        said = self.answer[: self.bytes_max]
        for at in range(0, len(said), 97):
            writer.write(said[at : at + 97])
            await asyncio.sleep(0)
        await writer.drain()
        writer.close()


async def ask(gateway, stream, key="gf-mill"):
    """Ask as an ASGI server does; returns status and body."""
    body = json.dumps({"model": "chat", "messages": HELLO, "stream": stream, "max_tokens": 9})
    news = [{"type": "http.request", "body": body.encode(), "more_body": False}]
    sent = []

    async def receive():
        if news:
            return news.pop()
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    await gateway(scope, receive, send)
    assert sent[-1]["more_body"] is False
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("answer", [whole, streamed])
def test_a_network_cut_at_any_byte_bills_the_whole_answer_or_nothing(tmp_path, answer):
    house = House(tmp_path)
    house.budgets.set("mill", [Budget.model_validate({"limit": "9 M tokens", "per": "year"})])
    said = answer()
    stream = answer is streamed

    async def sever():
        network = Severed(said)
        server = await asyncio.start_server(network.converse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        house.services.serve("chat", replica(f"http://127.0.0.1:{port}"))
        answers = []
        for network.bytes_max in range(len(said) + 1):
            answers.append(await ask(house.gateway, stream))
        await house.gateway.aclose()
        server.close()
        return answers

    answers = asyncio.run(sever())
    house.ledger.close()
    rows = list(store.read(house.path, RUN))
    settled = [row.body for row in rows if row.kind == "RequestSettled"]
    assert len(rows) == 2 * len(answers) == 2 * len(settled)
    for (status, body), bill in zip(answers, settled, strict=True):
        figures = bill["prompt_tokens"], bill["completion_tokens"], bill["money_micro"]
        if bill["outcome"] == "complete":
            assert figures == (7, 3, 7 * INPUT + 3 * OUTPUT)
            assert body.endswith(b"data: [DONE]\n\n") if stream else json.loads(body)["usage"]
        else:
            assert (bill["outcome"], *figures) == ("error", 0, 0, 0)
            assert b"[DONE]" not in body
            assert b'"error"' in body
            assert status in ((200, 502, 503) if stream else (502, 503))
    outcomes = [bill["outcome"] for bill in settled]
    assert outcomes[-1] == "complete"
    assert outcomes == sorted(outcomes, reverse=True)  # errors up to a byte, from there complete
    complete = outcomes.count("complete")
    (left,) = house.budgets.left("mill")
    assert (left.spent, left.reserved) == (10 * complete, 0)
    assert not +house.services.under_way


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.gateway_house import House, replica
from tests.test_gateway_faults import ask
house = House(Path(sys.argv[1]))
house.services.serve("chat", replica(sys.argv[2]))
asyncio.run(ask(house.gateway, stream=True))
"""
DEATHS = {  # rows that a death there leaves, and disputes
    "gateway.before_reserve": (0, 0),
    "gateway.reserved": (1, 1),
    "gateway.first_byte": (1, 1),
    "gateway.before_settle": (1, 1),
    "gateway.settled": (2, 0),
}


def test_kill_9_at_any_failpoint_leaves_a_bill_or_a_dispute_and_never_both(tmp_path):
    engine = Engine()
    with listening(engine.app) as url:
        children = []
        for point in DEATHS:
            home = tmp_path / point
            environment = os.environ | {"GIGAFACTORY_FAILPOINT": point}
            command = [sys.executable, "-c", CHILD, str(home), url]
            children.append(subprocess.Popen(command, env=environment))
        for child in children:
            assert child.wait(300) == -signal.SIGKILL
    for point, (rows, disputed) in DEATHS.items():
        ledger = tmp_path / point / "ledger.sqlite"
        assert len(list(store.read(ledger, RUN))) == rows, point
        assert len(disputes(ledger, RUN)) == disputed, point


def test_an_exchange_that_the_server_cuts_off_is_closed_and_costs_nothing(tmp_path):
    """The gateway closes while an engine still speaks."""
    house = House(tmp_path)

    async def close_in_the_middle():
        spoken = asyncio.Event()

        async def silent(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            spoken.set()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        house.services.serve("chat", replica(f"http://127.0.0.1:{port}"))
        asking = asyncio.create_task(ask(house.gateway, stream=False))
        await spoken.wait()
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await house.gateway.aclose()
        server.close()
        async with asyncio.timeout(60):
            while len(list(store.read(house.path, RUN))) < 2:
                await asyncio.sleep(0.01)

    asyncio.run(close_in_the_middle())
    house.ledger.close()
    _, settled = store.read(house.path, RUN)
    assert (settled.body["outcome"], settled.body["money_micro"]) == ("error", 0)
    assert disputes(house.path, RUN) == []


def test_an_engine_that_speaks_out_of_turn_or_no_http_is_an_error(tmp_path):
    house = House(tmp_path)

    async def babble():
        async def nonsense(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"hello?\r\n\r\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        house.services.serve("chat", replica(f"http://127.0.0.1:{port}"))
        answer = await ask(house.gateway, stream=False)
        await house.gateway.aclose()
        server.close()
        return answer

    status, _ = asyncio.run(babble())
    assert status == 503
    house.ledger.close()
    assert [row.body.get("outcome") for row in store.read(house.path, RUN)] == [None, "error"]


def test_a_kept_connection_that_the_engine_closed_is_made_anew():
    seen = Counter()

    async def twice():
        async def once(reader, writer):
            seen["connections"] += 1
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await reader.read(1)  # the second request on this connection: close in its face
            writer.close()

        server = await asyncio.start_server(once, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        engines, said = Engines(), []
        for _ in range(3):
            connection = await engines.ask(url, "/v1/x", "", "r", b"{}")
            said.append(await connection.whole())
            connection.leave()
        engines.close()
        server.close()
        return said

    assert asyncio.run(twice()) == [b"ok"] * 3
    assert seen["connections"] == 3


def test_a_silent_engine_is_given_up(tmp_path, monkeypatch):
    from gigafactory.works.gateway import door, engine

    monkeypatch.setattr(engine, "SILENT_S_MAX", 0.3)
    monkeypatch.setattr(door, "WATCH_S", 0.1)
    house = House(tmp_path)

    async def wait():
        async def silent(reader, writer):
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        house.services.serve("chat", replica(f"http://127.0.0.1:{port}"))
        began_s = time.monotonic()
        status, body = await ask(house.gateway, stream=True)
        await house.gateway.aclose()
        server.close()
        return status, body, time.monotonic() - began_s

    status, body, took_s = asyncio.run(wait())
    assert status == 503
    assert b"no word for 0.3 s" in body
    assert took_s < 60  # ten times less than it would be given
    house.ledger.close()
