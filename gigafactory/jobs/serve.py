"""A model that answers: the engine `transformers serve`, watched from its first to its last second.

The engine is a child process on 127.0.0.1 that speaks OpenAI's protocol and batches what it is
asked together (continuous batching over a paged KV cache). Clients reach it through the
gateway, which meters them. Measured with transformers 5.23 and torch 2.13 on one core of an
AMD EPYC: a tiny model answers after 4.8 CPU-s, nearly all of it imports, and takes 0.43 GB;
SmolLM2-135M after 6.5 CPU-s, takes 1.1 GB, and makes 55 tokens a CPU-s for 8 clients at once.

Three things that the engine does not say of itself, each found by trying:
- A prompt of no tokens, or one request larger than the whole KV cache, ends the batching for
  everybody; `/health` then answers 503. So the job reports `cache_tokens` for the gateway to
  refuse beyond, and fails where the health does, to be started anew.
- Sampling is not a matter of the request: the first one decides for all. The first is our
  warm-up, so what holds is the model's own `generation_config.json`.
- Unbounded, the cache takes 60 % of the memory that is free.
"""

import http.client
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from gigafactory.jobs.context import Context
from gigafactory.jobs.weights import without_pickles

MODEL = "model"
"""What the engine is called in requests: its folder's name, relative to where it runs."""

CONTEXT_TOKENS = 2048  # where neither the blueprint nor the model asks for less
SEATS = 8  # full contexts that the KV cache holds
PAGE_TOKENS = 256  # of the KV cache; transformers' default
BATCH_TOKENS = 512  # in one forward pass; the attention mask grows with it
WATCH_S = 0.5
GRACE_S = 10.0  # for answers under way, when the job is stopped
ANSWER_S_MAX = 30.0  # a health check or a warm-up that takes longer has failed
LOG = "engine.log"
LOG_TAIL_BYTES = 2000


class EngineDied(RuntimeError):
    """The engine ended, or lives and answers no more; the tail of its log says why."""


def run(context: Context) -> NoReturn:
    """Serve the model that job `of` made. A service has no end of its own: it ends by `StopJob`."""
    context.phase("load")
    model = without_pickles(context.inputs[context.work["of"]] / MODEL)
    context_tokens = context_length(model, context.work.get("context_tokens"))
    cache_pages = SEATS * -(-context_tokens // PAGE_TOKENS)
    with Engine(model, cache_pages, context.chips, context.folder / LOG) as engine:
        while not engine.ready():
            context.check()
            time.sleep(WATCH_S)
        engine.warm_up()
        context.phase("work")
        context.report(
            endpoint=f"http://127.0.0.1:{engine.port}",
            model=MODEL,
            context_tokens=context_tokens,
            cache_tokens=cache_pages * PAGE_TOKENS,
            ready=True,
        )
        while True:
            context.check()
            engine.check()
            time.sleep(WATCH_S)


def context_length(model: Path, wanted: int | None) -> int:
    """Tokens of prompt and answer together: as wanted, within what the model was made for."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return min(wanted or CONTEXT_TOKENS, config.get("max_position_embeddings") or CONTEXT_TOKENS)


class Engine:
    """`transformers serve` as a child process; leaving the `with` ends it."""

    def __init__(self, model: Path, cache_pages: int, threads: int, log: Path):
        self.port = free_port()
        self._log = log
        settings = {
            "force_model": MODEL,  # loaded before the port opens, never unloaded
            "continuous_batching": True,
            "attn_implementation": "sdpa",  # of those that page their cache, the one for a CPU
            "device": "cpu",
            "dtype": dtype(),
            "cb_num_blocks": cache_pages,
            "cb_max_batch_tokens": BATCH_TOKENS,
            "host": "127.0.0.1",
            "port": self.port,
            "log_level": "error",
        }
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # an engine that waits leaves the cores to others
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(model.parent), json.dumps(settings)],
                env=os.environ | environment,
                stdin=subprocess.PIPE,  # never written to: see `end_with_parent`
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the job, which then ends the engine
            )

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its pipe and waits
            self._process.terminate()
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def ready(self) -> bool:
        """Whether the engine answers yet; raises `EngineDied` where it never will."""
        try:
            self.check()
        except ConnectionRefusedError:
            return False
        return True

    def check(self) -> None:
        """Raise `EngineDied` unless the engine lives and is well."""
        if self._process.poll() is not None:
            raise EngineDied(f"the engine ended with {self._process.returncode}:\n{self._tail()}")
        try:
            status, answer = self._ask("GET", "/health")
        except TimeoutError as late:
            raise EngineDied(f"the engine hangs for {ANSWER_S_MAX:g} s:\n{self._tail()}") from late
        if status != 200:
            raise EngineDied(f"the engine is not well: {answer}\n{self._tail()}")

    def warm_up(self) -> None:
        """One token, so that the first client waits for no cache to be made."""
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 1}
        status, answer = self._ask("POST", "/v1/completions", json.dumps(body))
        self.check()
        if status != 200:
            raise EngineDied(f"the engine does not answer: {status} {answer}\n{self._tail()}")

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        # Not through a client that heeds http_proxy: this never leaves the machine.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S_MAX)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read().decode(errors="replace")
        finally:
            connection.close()

    def _tail(self) -> str:
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


def dtype() -> str:
    """As the weights are stored, where the processor multiplies bfloat16 itself; else float32.

    Measured with SmolLM2-135M, 8 clients: 55 tokens a CPU-s in bfloat16, 42 in float32.
    """
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    return "auto" if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) else "float32"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def engine(folder: str, settings: dict[str, Any]) -> None:
    """What the child process runs: `transformers serve`, its model looked for in `folder`.

    Not through the command line, whose entry asks the network for a newer version.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.chdir(folder)
    # A line a request would grow for ever; what the requests were is in the ledger.
    logging.getLogger("uvicorn.access").addFilter(lambda record: False)
    from transformers.cli.serve import Serve

    Serve(**settings)


def end_with_parent() -> None:
    """End this process when its parent is gone, however it went.

    Standard input is a pipe whose other end the parent holds and never writes to; the kernel
    closes it with the parent, by `kill -9` too, and the read ends.
    """
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    engine(sys.argv[1], json.loads(sys.argv[2]))
