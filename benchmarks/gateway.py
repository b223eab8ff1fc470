"""What the gateway costs a request, beside LiteLLM, and whether it loses or miscounts one.

    python benchmarks/gateway.py [--litellm PYTHON] [--clients] [--real]

Everything is one run on one machine: a stand-in for the engine, which has its answers ready; our
gateway with keys, budgets, limits, metrics and a durable ledger on; with `--litellm`, the Python
of a place where `litellm[proxy]` is installed, its proxy with a master key and no ledger; and a
load that asks again as soon as it is answered. CPU is that of the gateway's process alone. The
disk's commit is measured in the same folder. `--clients` compares HTTP clients for engines;
`--real` asks `transformers serve` with a tiny model, too.

Ends with 1 where a request or a token is missing in the ledger.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httptools
import psutil
import uvloop

TOKENS = 32
SPAWN = multiprocessing.get_context("spawn")
CONNECTIONS = (8, 32)
START_S_MAX = 90.0
MODEL = "model"
MILL = """\
gigafactory: 1
name: benchmark
start: 2026-11-23
owner: FR
sites:
  home: {country: FR, power: 500 W, systems: {this-machine: 1}}
tenants:
  mill:
    budgets: [{limit: 1 M EUR, per: month}, {limit: 900 M tokens, per: day}]
    requests_per_minute: 10000000
    tokens_per_minute: 1000000000
prices: {input: 1 EUR/M tokens, output: 4 EUR/M tokens}
models:
  tiny: {config: qwen3-moe-tiny}
workloads:
  train: {kind: pretrain, tenant: mill, model: tiny, tokens: 1 k tokens}
"""


@dataclass(frozen=True)
class Seen:
    """What the clients saw of one load."""

    requests: int
    answered: int
    tokens: int
    seconds: float
    latencies_s: list[float]
    cpu_s: float

    def ms(self, part: float) -> float:
        return 1e3 * self.latencies_s[int(part * (len(self.latencies_s) - 1))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=3000, help="of each load")
    parser.add_argument("--litellm", metavar="PYTHON", help="with litellm[proxy] installed")
    parser.add_argument("--clients", action="store_true", help="compare clients for engines")
    parser.add_argument("--real", action="store_true", help="before transformers serve as well")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        engine, _ = start(stand_in)
        if asked.clients:
            compare_clients(engine)
        bare = {
            (stream, n): load(engine, "-", asked.requests, n, stream)
            for stream, n in itertools.product((False, True), CONNECTIONS)
        }
        sound, ours = measure(home / "ours", {"url": engine}, asked.requests, bare)
        if asked.litellm:
            beside_litellm(asked.litellm, home, engine, max(100, asked.requests // 20), bare, ours)
        if asked.real:
            with real_engine(home / "job") as replica:
                print(f"before transformers serve, tiny model, {TOKENS} tokens an answer")
                sound &= measure(home / "real", replica, 64, {})[0]
    return 0 if sound else 1


def measure(home: Path, replica: dict, requests: int, bare: dict) -> tuple[bool, dict]:
    """Ask through our gateway; print what it cost, and whether all of it is in the ledger."""
    from gigafactory.ledger import store

    home.mkdir()
    (url, key), process = start(door, home, replica)
    commits = [commit_s(home)]
    load(url, key, 200, 32, stream=True)  # connections open, code warm
    sent, told, ours = 200, 200 * TOKENS, {}
    for stream, connections in itertools.product((False, True), CONNECTIONS):
        seen = load(url, key, requests, connections, stream, process)
        commits.append(commit_s(home))
        ours[stream, connections] = seen
        sent, told = sent + requests, told + seen.tokens
    p50, p99 = (1e3 * sum(c[at] for c in commits) / len(commits) for at in (0, 1))
    print(f"commit of this disk: p50 {p50:.2f} ms, p99 {p99:.2f} ms; a request waits for two")
    for which, seen in ours.items():
        tell("ours", which, seen, bare.get(which), 2 * p50, 2 * p99)
    rows = list(store.read(home / "ledger.sqlite", "run"))
    reserved = {row.subject for row in rows if row.kind == "RequestReserved"}
    settled = [row for row in rows if row.kind == "RequestSettled"]
    billed = sum(row.body["completion_tokens"] for row in settled)
    sound = (
        len(reserved) == len(settled) == sent
        and reserved == {row.subject for row in settled}
        and all(row.body["outcome"] == "complete" for row in settled)
        and all(seen.answered == seen.requests for seen in ours.values())
        and told == billed
    )
    print(
        f"ledger: {sent} sent, {len(reserved)} reserved, {len(settled)} settled;"
        f" {told} tokens told, {billed} billed: {'all there' if sound else 'NOT ALL THERE'}"
    )
    return sound, ours


def beside_litellm(
    python: str, home: Path, engine: str, requests: int, bare: dict, ours: dict
) -> None:
    """The same load through LiteLLM's proxy, and the ratios."""
    with litellm(python, home, engine) as (url, key, process):
        load(url, key, 50, 8, stream=False)
        for which in ours:
            stream, connections = which
            seen = load(url, key, requests, connections, stream, process)
            tell("LiteLLM", which, seen, bare[which])
            ratio = cpu_ms(seen) / cpu_ms(ours[which])
            print(f"    its CPU a request is {ratio:.1f} times ours")


def tell(
    who: str, which: tuple, seen: Seen, bare: Seen | None, p50: float = 0.0, p99: float = 0.0
) -> None:
    """A load in a line, and what of its latency is the gateway's own."""
    stream, connections = which
    print(
        f"{who:8}{'streamed' if stream else 'whole':9}{connections:3} connections"
        f"  {cpu_ms(seen):.3f} CPU-ms a request  {seen.answered / seen.seconds:7.0f} requests/s"
        f"  p50 {seen.ms(0.5):.1f} p99 {seen.ms(0.99):.1f} ms"
    )
    if bare is not None:
        added = seen.ms(0.5) - bare.ms(0.5), seen.ms(0.99) - bare.ms(0.99)
        print(f"    added p50 {added[0]:.1f} p99 {added[1]:.1f} ms", end="")
        beyond = f"; beyond two commits {added[0] - p50:.1f} and {added[1] - p99:.1f} ms"
        print(beyond if p50 else "")


def cpu_ms(seen: Seen) -> float:
    return 1e3 * seen.cpu_s / max(1, seen.answered)


def commit_s(folder: Path) -> tuple[float, float]:
    """p50 and p99 of a transaction of one row, synced to the disk."""
    connection = sqlite3.connect(folder / "commit.sqlite")
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute("create table if not exists rows (body text)")
    times = []
    for _ in range(100):
        began_s = time.perf_counter()
        with connection:
            connection.execute("insert into rows values (?)", ["x" * 250])
        times.append(time.perf_counter() - began_s)
    connection.close()
    times.sort()
    return times[50], times[98]


# The load.


def load(url: str, key: str, requests: int, connections: int, stream: bool, process=None) -> Seen:
    """Ask `requests` times over some connections at once; CPU is that of `process`."""
    began = cpu_s(process)
    began_s = time.perf_counter()
    clients = uvloop.run(ask_all(url, key, requests, connections, stream))
    seconds = time.perf_counter() - began_s
    latencies_s = sorted(latency for client in clients for latency in client.latencies_s)
    tokens = sum(client.tokens for client in clients)
    spent = cpu_s(process) - began
    return Seen(requests, len(latencies_s), tokens, seconds, latencies_s, spent)


def cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    whole = [process, *process.children(recursive=True)]
    return sum(times.user + times.system for times in (one.cpu_times() for one in whole))


async def ask_all(
    url: str, key: str, requests: int, connections: int, stream: bool
) -> list["Client"]:
    host, _, port = url.removeprefix("http://").partition(":")
    said = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    said |= {"max_tokens": TOKENS}
    if stream:
        said |= {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(said)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    numbers = itertools.count()
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        made = Client((head + body).encode(), numbers, requests, loop.create_future())
        _, client = await loop.create_connection(lambda made=made: made, host, int(port))
        clients.append(client)
    await asyncio.gather(*(client.ended for client in clients))
    return clients


class Client(asyncio.Protocol):
    """One connection, which asks again as soon as it has its answer."""

    def __init__(self, request: bytes, numbers, requests: int, ended: asyncio.Future):
        self.request, self.numbers, self.requests, self.ended = request, numbers, requests, ended
        self.parser = httptools.HttpResponseParser(self)
        self.latencies_s: list[float] = []
        self.tokens = 0
        self.body: list[bytes] = []

    def connection_made(self, transport):
        self.transport = transport
        self.next()

    def next(self):
        if next(self.numbers) >= self.requests:
            return self.transport.close()
        self.body = []
        self.began_s = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes):
        self.parser.feed_data(data)

    def on_body(self, body: bytes):
        self.body.append(body)

    def on_message_complete(self):
        latency_s = time.perf_counter() - self.began_s
        said = b"".join(self.body)
        if self.parser.get_status_code() == 200:
            self.latencies_s.append(latency_s)
            self.tokens += int(said.rsplit(b'"completion_tokens":', 1)[1].split(b",")[0])
        else:
            print(f"  {self.parser.get_status_code()} {said[:300]!r}", file=sys.stderr)
        self.next()

    def connection_lost(self, error):
        if not self.ended.done():
            self.ended.set_result(None)


# Those who answer, each in a process of its own that ends with ours.


def start(part, *arguments):
    """Run `part`; what it says first, and its process."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=part, args=(there, *arguments), daemon=True)
    process.start()
    return here.recv(), psutil.Process(process.pid)


def door(pipe, home: Path, replica: dict) -> None:
    """A gateway, as the works runs it."""
    from gigafactory.blueprint.load import parse
    from gigafactory.ledger.store import Ledger
    from gigafactory.plan import make
    from gigafactory.works.api import bind, serve
    from gigafactory.works.budgets import Budgets
    from gigafactory.works.gateway import Gateway
    from gigafactory.works.house import House

    blueprint = parse(MILL, home / "mill.yaml")
    ledger = Ledger(home / "ledger.sqlite")
    house = House(ledger, home / "ledger.sqlite", blueprint)
    budgets = Budgets(time.time)
    budgets.set("mill", blueprint.tenants["mill"].budgets)
    rates = rates_of(make(blueprint))
    gateway = Gateway(ledger, "run", time.monotonic, Services(replica), house, budgets, rates, home)
    key = house.local("mill")
    listening = bind(0)

    async def answer() -> None:
        server, serving = serve(gateway, listening)
        while not server.started:
            await asyncio.sleep(0.01)
        pipe.send((f"http://127.0.0.1:{listening.getsockname()[1]}", key))
        await serving

    uvloop.run(answer())


def rates_of(plan):
    from gigafactory.plan.tariff import Rates

    return Rates.of(plan)


class Services:
    """One replica, always there."""

    def __init__(self, replica: dict):
        from gigafactory.works.services import Replica, Route

        given = {"job": "job", "model": MODEL, "context_tokens": 512, "cache_tokens": 1 << 20}
        self.to = Route(MODEL, [Replica(**(given | replica))])

    def names(self):
        return [MODEL]

    def route(self, name):
        return self.to if name == MODEL else None

    def demand(self, name, queued):
        """There is no other."""

    def used(self, job, under_way=0):
        """It stays."""

    def failed(self, job):
        """There is no other."""


def stand_in(pipe) -> None:
    """Speaks as `transformers serve` does, and has its answers ready."""

    async def speak() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Speaker, "127.0.0.1", 0)
        pipe.send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()

    uvloop.run(speak())


def event(said: dict) -> bytes:
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def ok(kind: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\n"


USAGE = {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}
ANSWER = {"id": "x", "created": 1, "model": "model@main", "object": "chat.completion"}
PIECE = ANSWER | {"object": "chat.completion.chunk"}
END = {"index": 0, "finish_reason": "length"}
MESSAGE = {"role": "assistant", "content": "la " * TOKENS}
WHOLE = json.dumps(ANSWER | {"choices": [END | {"message": MESSAGE}], "usage": USAGE}).encode()
WHOLE = ok(b"application/json") + b"content-length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE)
BEGIN = ok(b"text/event-stream") + b"transfer-encoding: chunked\r\n\r\n"
WORD = chunk(event(PIECE | {"choices": [{"index": 0, "delta": {"content": "la "}}]}))
CLOSE = chunk(event(PIECE | {"choices": [END | {"delta": {}}], "usage": USAGE})) + chunk(b"")


class Speaker(asyncio.Protocol):
    """One connection: a request, an answer, and so on."""

    def connection_made(self, transport):
        self.transport, self.body = transport, b""
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes):
        self.parser.feed_data(data)

    def on_body(self, body: bytes):
        self.body += body

    def on_message_complete(self):
        streams = self.body and json.loads(self.body).get("stream")
        self.body = b""
        if streams:
            self.speaking = asyncio.create_task(self.stream())
        else:
            self.transport.write(WHOLE)

    async def stream(self):
        self.transport.write(BEGIN)
        for _ in range(TOKENS):
            self.transport.write(WORD)
            await asyncio.sleep(0)  # so that each is a write of its own, as tokens are
        self.transport.write(CLOSE)


@contextmanager
def litellm(python: str, home: Path, engine: str) -> Iterator[tuple[str, str, psutil.Process]]:
    """LiteLLM's proxy with one worker, before the same engine."""
    key = "sk-benchmark"
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}", "api_base": f"{engine}/v1", "api_key": "none"
                },
            }
        ],
        "general_settings": {"master_key": key},
    }  # fmt: skip
    file = home / "litellm.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(python).with_name("litellm")
    command = [str(program), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with open(home / "litellm.log", "wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        end_s = time.monotonic() + START_S_MAX
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if child.poll() is not None or time.monotonic() > end_s:
                raise SystemExit((home / "litellm.log").read_text()[-2000:])
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", key, psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(10)


# Clients for engines.


def compare_clients(engine: str, requests: int = 1500, at_once: int = 8) -> None:
    """CPU a request of three clients, whole answers over kept connections."""
    import aiohttp
    import httpx

    from gigafactory.works.gateway.engine import Engines

    path, headers = "/v1/chat/completions", {"content-type": "application/json"}

    async def with_httpx(body):
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            yield None
            while True:
                (await client.post(engine + path, content=body, headers=headers)).read()
                yield None

    async def with_aiohttp(body):
        async with aiohttp.ClientSession() as client:
            yield None
            while True:
                async with client.post(engine + path, data=body, headers=headers) as reply:
                    await reply.read()
                yield None

    async def with_ours(body):
        engines = Engines()
        yield None
        while True:
            connection = await engines.ask(engine, path, "", "r", body)
            await connection.whole()
            connection.leave()
            yield None

    async def run(client):
        async def one():
            asking = client(b'{"model": "model"}')
            for _ in range(requests // at_once + 1):
                await anext(asking)
            await asking.aclose()

        await asyncio.gather(*(one() for _ in range(at_once)))

    for client in (with_httpx, with_aiohttp, with_ours):
        uvloop.run(run(client))  # warm
        began_s = time.process_time()
        uvloop.run(run(client))
        spent_us = 1e6 * (time.process_time() - began_s) / requests
        print(f"client {client.__name__:13} {spent_us:.0f} us of CPU a request")


# The real engine.


@contextmanager
def real_engine(folder: Path) -> Iterator[dict]:
    """The serve job with a random tiny model, for as long as the `with` lasts."""
    from gigafactory.jobs import serve
    from gigafactory.jobs.context import PROGRESS, STOP, Context, StopJob

    def until_stopped() -> None:
        with suppress(StopJob):
            serve.run(context)

    make_model(folder / "tiny" / "model")
    work = {"name": MODEL, "kind": "serve", "of": "tiny", "context_tokens": 256}
    work |= {"engine": "transformers"}
    context = Context.alone(folder, work, inputs={"tiny": folder / "tiny"})
    job = threading.Thread(target=until_stopped)
    job.start()
    ready = None
    while ready is None and job.is_alive():
        time.sleep(0.1)
        with suppress(FileNotFoundError):
            lines = (context.folder / PROGRESS).read_text().splitlines()
            ready = next((line for line in map(json.loads, lines) if line.get("ready")), None)
    try:
        assert ready is not None, (context.folder / serve.LOG).read_text()[-2000:]
        yield {
            "url": ready["endpoint"],
            "model": ready["model"],
            "context_tokens": ready["context_tokens"],
            "cache_tokens": ready["cache_tokens"],
            "engine": ready["engine"],
            "lacks": frozenset(ready["lacks"]),
            "key": Path(ready["key_file"]).read_text(),
        }
    finally:
        (context.folder / STOP).touch()
        job.join()


def make_model(folder: Path) -> None:
    """A Llama with random weights, and a tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    single_bytes = Tokenizer(models.BPE())
    single_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    single_bytes.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    single_bytes.train_from_iterator([""], trainers.BpeTrainer(initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=single_bytes)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
