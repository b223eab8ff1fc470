"""A model that answers: its engine, watched from its first to its last second.

The engine (`engines`) is a child process on 127.0.0.1 that speaks OpenAI's protocol and batches
what it is asked together. Clients reach it through the gateway, which meters them and alone has
the key. Measured with transformers 5.23 and torch 2.13 on one core of an AMD EPYC: a tiny model
answers after 4.8 CPU-s, nearly all of it imports, and takes 0.43 GB; SmolLM2-135M after 6.5
CPU-s, takes 1.1 GB, and makes 55 tokens a CPU-s for 8 clients at once.

Three things that `transformers serve` does not say of itself, each found by trying:
- A prompt of no tokens, or one request larger than the whole KV cache, ends the batching for
  everybody; `/health` then answers 503. So the job reports `cache_tokens` for the gateway to
  refuse beyond, and fails where the health does, to be started anew.
- Sampling is not a matter of the request: the first one decides for all. The first is our
  warm-up, so what holds is the model's own `generation_config.json`.
- Unbounded, the cache takes 60 % of the memory that is free.
"""

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from gigafactory.jobs import engines
from gigafactory.jobs.context import Context
from gigafactory.jobs.engine_child import KEY
from gigafactory.jobs.weights import without_pickles

CONTEXT_TOKENS = 2048  # where neither the blueprint nor the model asks for less
WATCH_S = 0.5
GRACE_S = 10.0  # for answers under way, when the job is stopped
ANSWER_S_MAX = 30.0  # a health check or a warm-up that takes longer has failed
LOG = "engine.log"
LOG_TAIL_BYTES = 2000
KEY_FILE = "engine.key"
HOST = "GIGAFACTORY_ENGINE_HOST"
"""Of the environment: the address of this machine where its engines answer, for a gateway on
another; they want their key there as on the loopback. IPv4."""


class EngineDied(RuntimeError):
    """The engine ended, or lives and answers no more; the tail of its log says why."""


def run(context: Context) -> NoReturn:
    """Serve the model that job `of` made. A service has no end of its own: it ends by `StopJob`."""
    context.phase("load")
    model = without_pickles(context.inputs[context.work["of"]] / engines.MODEL)
    context_tokens = context_length(model, context.work.get("context_tokens"))
    host = os.environ.get(HOST, "127.0.0.1")
    port = free_port(host)
    asked = engines.Asked(model, context_tokens, context.chips, engines.gpu(), port, host)
    way = engines.way(context.work.get("engine", "auto"), asked)
    key = secrets.token_urlsafe(32)
    with Engine(way, asked, key, context.folder / LOG) as engine:
        while not engine.ready():
            context.check()
            time.sleep(WATCH_S)
        engine.warm_up(*way.warm_up)
        context.phase("work")
        context.report(
            endpoint=f"http://{asked.host}:{asked.port}",
            model=engines.MODEL,
            engine=way.engine,
            lacks=sorted(way.lacks),
            context_tokens=context_tokens,
            cache_tokens=way.cache_tokens,
            example=str(model / engines.EXAMPLE) if (model / engines.EXAMPLE).exists() else None,
            key_file=str(keep(context.folder / KEY_FILE, key)),
            ready=True,
        )
        while True:
            context.check()
            engine.check()
            time.sleep(WATCH_S)


def context_length(model: Path, wanted: float | None) -> int:
    """Tokens of prompt and answer together: as wanted, within what the model was made for."""
    if engines.acts(model):
        return engines.ROWS_MAX
    made_for = engines.config(model).get("max_position_embeddings") or CONTEXT_TOKENS
    return min(int(wanted or CONTEXT_TOKENS), made_for)


def keep(file: Path, key: str) -> Path:
    """Write the key where only our own user reads it; what is reported is the file."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="ascii") as out:
        out.write(key)
    return file


class Engine:
    """An engine as a child process; leaving the `with` ends it."""

    def __init__(self, way: engines.Way, asked: engines.Asked, key: str, log: Path):
        self.host, self.port = asked.host, asked.port
        self._key = key
        self._log = log
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                way.command,
                env=os.environ | way.environment | {KEY: key},
                stdin=subprocess.PIPE,  # never written to: see `engine_child.end_with_parent`
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the job, which then ends the engine
            )

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        with suppress(ProcessLookupError):  # it and all that it started
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:  # closes its pipe and waits
            pass

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

    def warm_up(self, path: str, body: dict[str, Any]) -> None:
        """A first request, so that the first client waits for no cache to be made."""
        status, answer = self._ask("POST", path, json.dumps(body))
        self.check()
        if status != 200:
            raise EngineDied(f"the engine does not answer: {status} {answer}\n{self._tail()}")

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        # Not through a client that heeds http_proxy: this never leaves the machine.
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._key}"}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER_S_MAX)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode(errors="replace")
        finally:
            connection.close()

    def _tail(self) -> str:
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


def free_port(host: str) -> int:
    """A TCP port of `host` that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
