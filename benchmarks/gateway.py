"""What the gateway costs a request, and whether it loses or miscounts one.

    python benchmarks/gateway.py

First before a stand-in for the engine, which answers at once from a process of its own: that
measures the gateway alone. Then before `transformers serve` with a tiny model. Half of the
requests stream. Ends with 1 where a request or a token is missing.
"""

import argparse
import asyncio
import http.client
import itertools
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvicorn
from starlette.applications import Starlette

from gigafactory.jobs import serve
from gigafactory.jobs.context import PROGRESS, STOP, Context, StopJob
from gigafactory.ledger import store
from gigafactory.works.gateway import Endpoint, Gateway
from gigafactory.works.keys import Keys

CONNECTIONS = 32
TOKENS = 32
ONE_BY_ONE = 24  # requests over a single connection, for the latency of an idle gateway
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Answer:
    """What a client saw of one request."""

    tokens: int
    latency_s: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=640, help="before the stand-in")
    parser.add_argument("--engine-requests", type=int, default=64, help="before the real engine")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        url, _ = start(stand_in)
        print(f"stand-in for an engine, {TOKENS} tokens an answer, {CONNECTIONS} connections")
        print(f"  no gateway         {latencies(load(url, '', asked.requests))}")
        print(f"    one connection   {latencies(load(url, '', ONE_BY_ONE, connections=1))}")
        sound = measure(home / "stand-in", Endpoint("job", url, "model", 512, 8192), asked.requests)
        print(f"transformers serve, tiny model, {TOKENS} tokens an answer")
        with real_engine(home / "job") as endpoint:
            sound &= measure(home / "engine", endpoint, asked.engine_requests)
    return 0 if sound else 1


def measure(home: Path, endpoint: Endpoint, requests: int) -> bool:
    """Ask through a gateway before `endpoint`; print what it cost; whether all is there."""
    key = Keys(home).create("benchmark")
    url, process = start(door, home, endpoint)
    load(url, key, CONNECTIONS)  # connections open, code warm
    before = process.cpu_times()
    answers = load(url, key, requests)
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    one_by_one = load(url, key, ONE_BY_ONE, connections=1)
    rows = list(store.read(home / "ledger.sqlite"))
    reserved = {row.subject for row in rows if row.kind == "RequestReserved"}
    settled = [row for row in rows if row.kind == "RequestSettled"]
    sent = CONNECTIONS + requests + ONE_BY_ONE
    told = CONNECTIONS * TOKENS + sum(answer.tokens for answer in answers + one_by_one)
    billed = sum(row.body["completion_tokens"] for row in settled)
    complete = sum(row.body["outcome"] == "complete" for row in settled)
    sound = (
        len(answers) == requests
        and len(reserved) == len(settled) == complete == sent
        and reserved == {row.subject for row in settled}
        and told == billed
    )
    print(f"  through a gateway  {latencies(answers)}")
    print(f"    one connection   {latencies(one_by_one)}")
    print(f"  gateway            {1e3 * cpu_s / requests:.2f} CPU-ms a request")
    lost = requests - len(answers)
    print(f"  requests           {requests} sent, {len(answers)} answered, {lost} lost")
    print(f"  rows of all        {sent} requests, {len(reserved)} reserved, {len(settled)} settled")
    print(f"  tokens             {told} told to clients, {billed} in the ledger")
    print(f"  {'all there' if sound else 'NOT ALL THERE'}")
    return sound


def load(url: str, key: str, requests: int, connections: int = CONNECTIONS) -> list[Answer]:
    """Ask `requests` times over some connections at once; every other request streams."""
    numbers = itertools.count()
    with ThreadPoolExecutor(connections) as pool:
        clients = [pool.submit(client, url, key, numbers, requests) for _ in range(connections)]
        return [answer for one in clients for answer in one.result()]


def client(url: str, key: str, numbers: itertools.count, requests: int) -> list[Answer]:
    """One connection, which asks again as soon as it has its answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    answers = []
    while (number := next(numbers)) < requests:
        body = {"model": "model", "messages": [{"role": "user", "content": "hello"}]}
        body |= {"max_tokens": TOKENS}
        if number % 2:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        began_s = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        reply = connection.getresponse()
        said = reply.read()
        latency_s = time.perf_counter() - began_s
        if reply.status == 200:
            answers.append(Answer(tokens_told(said, stream=bool(number % 2)), latency_s))
        else:
            print(f"  {reply.status} {said[:300]!r}", file=sys.stderr)
    connection.close()
    return answers


def tokens_told(said: bytes, stream: bool) -> int:
    """Completion tokens of the `usage` that a client was told."""
    if stream:
        chunks = [c.removeprefix(b"data: ") for c in said.split(b"\n\n") if b'"usage":{' in c]
        said = chunks[-1]
    return json.loads(said)["usage"]["completion_tokens"]


def latencies(answers: list[Answer]) -> str:
    times = sorted(answer.latency_s for answer in answers)
    p50, p99 = (1e3 * times[int(part * (len(times) - 1))] for part in (0.50, 0.99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def start(part, *arguments) -> tuple[str, psutil.Process]:
    """Run `part` in a process of its own that ends with ours; its URL, and the process."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=part, args=(there, *arguments), daemon=True)
    process.start()
    return f"http://127.0.0.1:{here.recv()}", psutil.Process(process.pid)


def door(pipe, home: Path, endpoint: Endpoint) -> None:
    """A gateway, as the works runs it."""
    began_s = time.monotonic()
    ledger = store.Ledger(home / "ledger.sqlite")
    endpoints = {"model": endpoint}
    gateway = Gateway(
        ledger, "run", lambda: time.monotonic() - began_s, lambda: endpoints, Keys(home)
    )
    config = uvicorn.Config(Starlette(routes=gateway.routes()), log_level="error", port=0)
    server = uvicorn.Server(config)
    asyncio.run(tell_port(server, pipe))


async def tell_port(server: uvicorn.Server, pipe) -> None:
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    pipe.send(server.servers[0].sockets[0].getsockname()[1])
    await serving


def stand_in(pipe) -> None:
    """Speaks as `transformers serve` does, and has its answers ready."""
    asyncio.run(speak(pipe))


async def speak(pipe) -> None:
    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: a request, an answer, and so on until the other side closes it."""
    usage = {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}
    answer = {"id": "x", "created": 1, "model": "model@main"}
    word = {"index": 0, "delta": {"content": "la "}}
    end = {"index": 0, "delta": {}, "finish_reason": "length"}
    message = {"role": "assistant", "content": "la " * TOKENS}
    whole = json.dumps(answer | {"choices": [end | {"message": message}], "usage": usage}).encode()
    chunk = f"data: {json.dumps(answer | {'choices': [word]})}\n\n".encode()
    last = json.dumps(answer | {"choices": [end], "usage": usage}, separators=(",", ":"))
    closing = f"data: {last}\n\n".encode()
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return writer.close()
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        asked = json.loads(await reader.readexactly(length))
        if asked.get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
            writer.write(b"transfer-encoding: chunked\r\n\r\n")
            for piece in [chunk] * TOKENS + [closing, b""]:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await asyncio.sleep(0)  # so that each is a write of its own, as tokens are
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            writer.write(b"content-length: %d\r\n\r\n%b" % (len(whole), whole))
        await writer.drain()


@contextmanager
def real_engine(folder: Path) -> Iterator[Endpoint]:
    """The serve job with a random tiny model, for as long as the `with` lasts."""
    make_model(folder / "tiny" / "model")
    work = {"name": "model", "kind": "serve", "of": "tiny", "context_tokens": 256}
    context = Context.alone(folder, work, inputs={"tiny": folder / "tiny"})
    job = threading.Thread(target=until_stopped, args=(context,))
    job.start()
    ready = None
    while ready is None and job.is_alive():
        time.sleep(0.1)
        lines = (context.folder / PROGRESS).read_text().splitlines()
        ready = next((line for line in map(json.loads, lines) if line.get("ready")), None)
    try:
        limits = {name: ready[name] for name in ("context_tokens", "cache_tokens")}
        yield Endpoint("job", ready["endpoint"], ready["model"], **limits)
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


def until_stopped(context: Context) -> None:
    """Serve; the end of a service is no fault."""
    with suppress(StopJob):
        serve.run(context)


if __name__ == "__main__":
    sys.exit(main())
