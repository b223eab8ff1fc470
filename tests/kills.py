"""`kill -9` of a whole control plane, again and again; then its ledger is asked what was lost.

    python -m tests.kills --random 10000 --seed 7   # so many kills, at random
    python -m tests.kills                           # at every named failpoint of the sources
    python -m tests.kills --story 7:12              # one story again, told as it goes

A story is one home and some sixteen lives. Each life is `works.up` itself, in a process of its
own: ledger, house, core, driver, services, gateway, API. Stand-ins are Ray (attempts that speak
through their real files and go on while the works is dead) and the engine. This process is the
outside world: it submits, cancels, asks models, makes and revokes keys, changes tenants, and
remembers each answer that came whole. It kills at the n-th pass of a failpoint, which the seed
fixes, or after a time, which it does not quite. In some lives the clock jumps by days.

At the end the works lives undisturbed until every job has ended, dies once more, comes up, says
what is left of the budgets and is told to stop. Then `violations` reads the ledger.
"""

import argparse
import asyncio
import gc
import importlib
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BLUEPRINT = """\
gigafactory: 1
name: mill
start: 2026-11-23
owner: FR
sites:
  home: {country: FR, power: 500 W, systems: {this-machine: 1}}
tenants:
  lab: {budgets: [{limit: 1000000 EUR, per: year}, {limit: 900 M tokens, per: year}]}
  shop: {budgets: [{limit: 1000000 EUR, per: year}, {limit: 900 M tokens, per: year}]}
prices: {chip_hour: 3.60 EUR/GPU-h, input: 700 EUR/M tokens, output: 900 EUR/M tokens}
operations: {lemons: 1000}
models:
  tiny: {config: qwen3-moe-tiny}
workloads:
  train: {kind: pretrain, tenant: lab, model: tiny, tokens: 1 k tokens}
  judge: {kind: evaluate, tenant: lab, of: train, suite: bits_per_byte, gate: {bytes: "> 0"}}
  serve: {kind: serve, tenant: lab, of: train, through: judge, priority: 9}
"""
SERVICE, RUN = "serve", "mill-1"
CHAT, BOUNDARY = "/v1/chat/completions", "part-of-a-form"
FAILPOINT = re.compile(r'failpoint\("([a-z_.]+)"\)')
LIVES = 16  # of a story, all killed; its ledger, which each reads, grows
LIFE_S_MAX = 0.2  # of a life that is killed after a time, from its first answer
REACH_S_MAX = 60.0  # until a failpoint is passed that must be
SETTLE_S_MAX = 60.0
TALKERS = 3
POLL_S = 0.02  # of the wheel; five times as fast as it turns for people
BACKOFF_S = 0.02  # after a job's first fault, instead of two seconds
DAY_S = 86400.0
OVER = {"done", "failed", "cancelled", "blocked"}


def failpoints() -> list[str]:
    """Every place in the sources where the works may be told to die."""
    texts = (file.read_text() for file in sorted((ROOT / "gigafactory").rglob("*.py")))
    return sorted({name for text in texts for name in FAILPOINT.findall(text)})


# The works, in a process that was forked from one which had imported everything.


def nursery() -> None:
    """Bear works: a line of JSON in for each, its process id out; they end by themselves."""
    shift = {"s": 0.0, "at_s": 0.0}
    real = time.time
    # Before anything of ours binds it: the clock of the wall, which may jump in mid-life.
    time.time = lambda: real() + (shift["s"] if time.monotonic() >= shift["at_s"] else 0.0)
    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries them
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        wish = json.loads(line)
        child = os.fork()
        if child == 0:
            shift |= {"s": wish["shift_s"], "at_s": time.monotonic() + wish["shift_after_s"]}
            _live(wish)
        print(child, flush=True)


def _warm_up() -> None:
    """Live once, so that everything is imported that a life needs; no thread is left."""
    import threading

    import httpcore  # noqa: F401  # httpx imports it at its first client

    from gigafactory.works import api

    # How the API describes itself is most of what it takes to start, and nobody asks here.
    api._Faults = None  # type: ignore[assignment, misc]
    with tempfile.TemporaryDirectory() as home:
        wish = {"seed": "0", "engine": "http://127.0.0.1:9", "port": 0}
        asyncio.run(_live_a_moment(Path(home), wish))
    assert threading.active_count() == 1, "a fork would lose them"


async def _live_a_moment(home: Path, wish: dict[str, Any]) -> None:
    living = asyncio.create_task(_bring_up(home, wish))
    async with asyncio.timeout(60):
        while not (home / "works.json").exists() and not living.done():
            await asyncio.sleep(0.01)
        port = int(json.loads((home / "works.json").read_text())["url"].rpartition(":")[2])
        key = (home / "key").read_text().strip()
        while not (await ask(port, key, "GET", "/api/jobs"))[0]:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await living


def _live(wish: dict[str, Any]) -> None:
    """One life, from birth to a normal end; never returns."""
    from gigafactory.faults import Refused

    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        home = Path(wish["home"])
        out = os.open(home / "works.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for at in (1, 2):
            os.dup2(out, at)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["GIGAFACTORY_FAILPOINT"] = wish["failpoint"]
        from gigafactory import failpoint

        importlib.reload(failpoint)  # who holds the function sees what it reads now
        asyncio.run(_bring_up(home, wish))
        code = 0
    except Refused as refused:
        print("Refused:", refused.faults[0].what, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


async def _bring_up(path: Path, wish: dict[str, Any]) -> None:
    from gigafactory.factory import step
    from gigafactory.works import calibrate, driver, up
    from gigafactory.works.home import Home

    step.BACKOFF_S = BACKOFF_S
    up.POLL_S = POLL_S
    up.calibrate.calibrate = lambda *_: {}
    assert up.calibrate is calibrate
    driver.Engine = lambda chips, home: Stage(wish["seed"], wish["engine"])  # type: ignore
    said = up.Wish(port=wish["port"])
    await up.up(Home(path), _blueprint(), BLUEPRINT, said, Silent(), pages=lambda _: [])


@cache
def _blueprint() -> Any:
    from gigafactory.blueprint.load import parse

    return parse(BLUEPRINT, Path("mill.yaml"))


class Silent:
    """A watcher that shows nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Stage:
    """In Ray's place: attempts that speak through their files, as the seed has it.

    They take some turns, checkpoint, and end well, ill or not at all; asked to stop they do.
    """

    def __init__(self, seed: int, engine: str):
        self._seed, self._engine = seed, engine
        self._open: list[tuple[Path, str, Iterator[str]]] = []
        self.ready = True

    def open(self) -> None:
        """Nothing is to be started."""

    def close(self) -> None:
        """Nothing was."""
        self.ready = False

    def start(self, folder: Path, described: dict[str, Any]) -> Any:
        """Start an attempt in its folder."""
        from gigafactory.works.engine import Attempt

        folder.mkdir(parents=True, exist_ok=True)
        attempt = Attempt(described["work"]["name"], described["attempt"], folder)
        attempt.renew_lease()
        course = self._course(folder, attempt, described["work"]["kind"])
        self._open.append((folder, described["work"]["kind"], course))
        return attempt

    def ended(self) -> list[Any]:
        """Attempts that ended since the last call."""
        from gigafactory.works.engine import Ended

        said, going = [], []
        for folder, kind, course in self._open:
            if not (folder / "lease").exists():
                continue  # fenced off: nobody listens any more
            outcome = "stopped" if (folder / "stop").exists() else next(course)
            try:
                if outcome in ("done", "stopped"):
                    last_word(folder, outcome)
            except OSError:  # no disk left: it tries again
                course, outcome = chain([outcome], course), ""
            if not outcome:
                going.append((folder, kind, course))
                continue
            said.append(Ended(folder, outcome, {"what": "chance"}))
        self._open = going
        return said

    def _course(self, folder: Path, attempt: Any, kind: str) -> Iterator[str]:
        """An outcome for each turn; empty while the attempt goes on."""
        chance = random.Random(f"{self._seed}/{attempt.job}/{attempt.number}")
        if kind == "serve":
            with suppress(OSError):
                say(folder, ready=True, endpoint=self._engine, model="model", context_tokens=512,
                    cache_tokens=100_000)  # fmt: skip
            while True:
                yield ""
        for turn in range(chance.randint(0, 4)):
            if chance.random() < 0.4:
                checkpoint(folder, 10 * attempt.number + turn)
            yield ""
        ill = attempt.number < 3 and attempt.job not in ("train", "judge")
        yield chance.choices(("done", "failed", "lost"), (6, 2 * ill, ill + 0.5))[0]


def say(folder: Path, **figures: Any) -> None:
    """A line of an attempt's report."""
    with open(folder / "progress.jsonl", "a") as file:
        file.write(json.dumps({"unix_s": time.time(), **figures}) + "\n")


def checkpoint(folder: Path, step: int) -> None:
    """An attempt's checkpoint, and that it says so."""
    from gigafactory.jobs.context import step_folder

    with suppress(OSError):  # it is there already, or no disk is left
        (folder / "checkpoints" / step_folder(step)).mkdir(parents=True)
        say(folder, phase="work", checkpoint=step)


def last_word(folder: Path, outcome: str) -> None:
    """An attempt's result, which bears its number."""
    results = {"passed": True, "by": int(folder.name.partition("-")[2])}
    text = json.dumps({"outcome": outcome, "results": results, "unix_s": time.time()})
    half = folder / "result.half"
    half.write_text(text)
    os.replace(half, folder / "result.json")


# The world outside: it asks, and remembers what it was told.


@dataclass
class Reply:
    """An answer that came whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


@dataclass
class Told:
    """What the works has acknowledged, and what was asked that it may not have answered."""

    jobs: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    acts: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """Did, about, and what of `said` is known; in the order of the answers."""
    batches: set[str] = field(default_factory=set)
    answers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Usage of each request that was answered whole."""
    unsure: int = 0
    """Requests that were sent and not heard to their end."""
    refused: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What no works may answer."""


class Engine:
    """An inference engine that answers, breaks off or fails, and counts by request."""

    def __init__(self, chance: random.Random):
        self._chance = chance
        self.said: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.asked = 0
        self.kind = False

    async def __aenter__(self) -> "Engine":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = _fields(head)
                body = json.loads(await reader.readexactly(int(fields["content-length"])))
                if not await self._answer(fields["x-request-id"], body, writer):
                    break
        writer.close()

    async def _answer(self, request: str, body: Any, writer: asyncio.StreamWriter) -> bool:
        """Answer as chance has it; whether the connection may be used again."""
        self.asked += 1
        mood = "well" if self.kind else self._chance.choices(
            ("well", "slow", "breaks", "fails"), (80, 10, 5, 5)
        )[0]  # fmt: skip
        if mood == "fails":
            writer.write(b"HTTP/1.1 500 no\r\ncontent-length: 2\r\n\r\n{}")
            return True
        completion = self._chance.randint(1, body["max_tokens"])
        usage = self._chance.randint(1, 5), completion
        figures = {"prompt_tokens": usage[0], "completion_tokens": completion,
                   "total_tokens": sum(usage)}  # fmt: skip
        about = {"id": request, "object": "chat.completion", "created": 0, "model": "model"}
        pause_s = 0.03 if mood == "slow" else self._chance.choice((0, 0, 0.004))
        if not body.get("stream"):
            await asyncio.sleep(pause_s)
            message = {"role": "assistant", "content": "la " * completion}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = json.dumps({**about, "choices": [choice], "usage": figures}).encode()
            if mood == "breaks":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n" + whole[:20])
                return False
            self.said[request].append(usage)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(whole) + whole)
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                     b"transfer-encoding: chunked\r\n\r\n")  # fmt: skip
        pieces: list[dict[str, Any]] = [{"delta": {"content": "la "}} for _ in range(completion)]
        pieces[0]["delta"]["role"] = "assistant"
        pieces[-1]["finish_reason"] = "stop"
        for number, piece in enumerate(pieces):
            if mood == "breaks" and number == completion // 2:
                return False
            _chunk(writer, {**about, "choices": [{"index": 0, **piece}]})
            await writer.drain()
            await asyncio.sleep(pause_s)
            if writer.is_closing():
                return False
        self.said[request].append(usage)
        _chunk(writer, {**about, "choices": [], "usage": figures})
        last = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
        return True


def _chunk(writer: asyncio.StreamWriter, said: dict[str, Any]) -> None:
    data = b"data: " + json.dumps(said).encode() + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (li.partition(":") for li in lines)}


async def ask(
    port: int, key: str, method: str, path: str, body: Any = None, leave: bool = False
) -> tuple[Reply | None, bool]:
    """The whole answer or None, and whether the question was sent."""
    sent = False
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            form = isinstance(body, bytes)
            data = body if form else b"" if body is None else json.dumps(body).encode()
            kind = f"multipart/form-data; boundary={BOUNDARY}" if form else "application/json"
            writer.write(
                b"%b %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nconnection: close\r\n"
                b"content-type: %b\r\ncontent-length: %d\r\n\r\n%b"
                % (method.encode(), path.encode(), key.encode(), kind.encode(), len(data), data)
            )
            sent = True
            head = await reader.readuntil(b"\r\n\r\n")
            if leave:
                return None, sent
            fields = _fields(head)
            if "content-length" in fields:
                whole = await reader.readexactly(int(fields["content-length"]))
            else:
                whole = b""
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    whole += (await reader.readexactly(size + 2))[:-2]
                await reader.readexactly(2)
            return Reply(int(head.split(None, 2)[1]), fields, whole), sent
        finally:
            writer.close()
    except (OSError, asyncio.IncompleteReadError):
        return None, sent


class Nursery:
    """The forking process, from outside."""

    def __enter__(self) -> "Nursery":
        command = [sys.executable, "-m", "tests.kills", "--nursery"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def bear(self, **wish: Any) -> int:
        """One more works; its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Life:
    """One works while it lives; `gone` is set when it does not."""

    def __init__(self, pid: int, port: int, home: Path):
        self.pid, self.port, self.home = pid, port, home
        self.gone = asyncio.Event()
        self.killed_by_us = self.answers = False
        self.key = ""
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = -1
            self.gone.set()
        else:
            asyncio.get_running_loop().add_reader(self._handle, self._buried)

    def _buried(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        os.close(self._handle)
        self._handle = -1
        self.gone.set()

    def send(self, sign: int) -> None:
        """A signal, if it lives."""
        if self._handle >= 0:
            self.killed_by_us |= sign == signal.SIGKILL
            signal.pidfd_send_signal(self._handle, sign)

    async def up(self) -> bool:
        """Whether it answers, as soon as it does; False if it dies before."""
        while not self.gone.is_set():
            with suppress(OSError, ValueError):
                if json.loads((self.home / "works.json").read_text())["pid"] == self.pid:
                    self.key = (self.home / "key").read_text().strip()
                    reply, _ = await ask(self.port, self.key, "GET", "/healthz")
                    if reply:
                        self.answers = True
                        return True
            await asyncio.sleep(0.003)
        return False


class World:
    """Everybody outside of one home, and what they were told."""

    def __init__(self, home: Path, chance: random.Random):
        self.home, self.chance, self.told = home, chance, Told()
        self.keys: list[tuple[str, str]] = []
        """Of members of lab: id and secret."""
        self.revoked: list[str] = []
        self.life: Life
        self._number = 0

    async def live(self, busy: bool = True) -> None:
        """All that people do while it lives; returns when it is dead."""
        life = self.life
        if busy and await life.up():
            doers = [self._talks() for _ in range(TALKERS)]
            await asyncio.gather(*doers, self._submits(), self._governs(), self._batches())
        await life.gone.wait()

    async def _ask(self, method: str, path: str, body: Any = None, key: str = "") -> Reply | None:
        reply, _ = await ask(self.life.port, key or self.life.key, method, path, body)
        if reply and reply.status not in (200, 400, 401, 404, 422, 429, 503):
            self.told.wrong.append(f"{method} {path}: {reply.status} {reply.body[:200]!r}")
        if reply and reply.status != 200:
            self.told.refused[reply.status] += 1
        return reply if reply and reply.status == 200 else None

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _talks(self) -> None:
        """Ask the model, streamed or not, by different keys; now and then leave early."""
        told, chance = self.told, self.chance
        while not self.life.gone.is_set():
            await asyncio.sleep(chance.choice((0, 0.002, 0.01)))
            key = chance.choice(self.keys)[1] if self.keys else self.life.key
            body: dict[str, Any] = {
                "model": SERVICE,
                "max_tokens": 8,
                "messages": [{"role": "user", "content": "la?"}],
            }
            if chance.random() < 0.5:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            leave = chance.random() < 0.05
            reply, sent = await ask(self.life.port, key, "POST", CHAT, body, leave)
            if reply is None:
                told.unsure += sent
            elif reply.status != 200:
                told.refused[reply.status] += 1
                if reply.status not in (401, 429, 502, 503):
                    told.wrong.append(f"{CHAT}: {reply.status} {reply.body[:200]!r}")
            elif (usage := _usage(reply.body)) is not None:
                told.answers[reply.headers["x-request-id"]] = usage
            else:
                told.refused[0] += 1  # it broke off and said so

    async def _submits(self) -> None:
        """Submit one job, or several at once that stand on each other; cancel some."""
        told, chance = self.told, self.chance
        while not self.life.gone.is_set():
            await asyncio.sleep(chance.choice((0, 0.02, 0.08)))
            names = [f"job-{self._next()}" for _ in range(chance.choice((1, 1, 2, 5)))]
            if len(names) > 1:
                jobs = [{"name": n, "work": self._work(names[:at])} for at, n in enumerate(names)]
                reply = await self._ask("POST", "/api/jobs/batch", {"jobs": jobs})
                said = reply.json()["jobs"] if reply else ()
                told.jobs |= {job["name"] for job in said if job["accepted"]}
            elif await self._ask("POST", "/api/jobs", {"name": names[0], "work": self._work()}):
                told.jobs.add(names[0])
            if told.jobs and chance.random() < 0.2:
                job = chance.choice(sorted(told.jobs))
                if await self._ask("POST", f"/api/jobs/{job}/cancel"):
                    told.cancelled.add(job)

    def _work(self, before: list[str] | None = None) -> dict[str, Any]:
        work: dict[str, Any] = {
            "kind": "script",
            "command": ["true"],
            "tenant": self.chance.choice(("lab", "shop")),
            "priority": self.chance.choice((0, 0, 0, 5)),
        }
        if before and self.chance.random() < 0.3:
            work["after"] = self.chance.choice(before)
        return work

    async def _governs(self) -> None:
        """Make keys and revoke them, change tenants and users; one thing after another."""
        told, chance = self.told, self.chance
        await self._keys_hold()
        while not self.life.gone.is_set():
            await asyncio.sleep(chance.choice((0, 0.01, 0.03)))
            what, number = chance.choice(("make", "make", "revoke", "tenant", "user")), self._next()
            if what == "make":
                new = {"user": f"ann-{number}", "role": "member", "tenant": "lab"}
                if reply := await self._ask("POST", "/api/keys", new):
                    made = reply.json()
                    self.keys.append((made["made"]["id"], made["key"]))
                    told.acts.append(("key.make", made["made"]["id"], new))
            elif what == "revoke" and self.keys:
                # From here on nobody asks with it, whether or not it comes to be revoked.
                key, secret = self.keys.pop(chance.randrange(len(self.keys)))
                if await self._ask("DELETE", f"/api/keys/{key}"):
                    told.acts.append(("key.revoke", key, {}))
                    self.revoked.append(secret)
            elif what == "tenant":
                changes = {"weight": 1 + number / 1000}
                if await self._ask("PATCH", "/api/tenants/shop", changes):
                    told.acts.append(("tenant.set", "shop", {"changes": changes}))
            elif what == "user":
                new = {"role": "viewer", "tenant": "shop"}
                if await self._ask("PUT", f"/api/users/bob-{number}", new):
                    told.acts.append(("user.set", f"bob-{number}", new))

    async def _batches(self) -> None:
        """Hand in files of questions, to be answered when there is room; cancel some."""
        told, chance = self.told, self.chance
        while not self.life.gone.is_set():
            await asyncio.sleep(chance.choice((0, 0.02, 0.1)))
            lines = chance.randint(1, 6)
            body = {"model": SERVICE, "max_tokens": 8,
                    "messages": [{"role": "user", "content": "la?"}]}  # fmt: skip
            line = {"method": "POST", "url": CHAT, "body": body}
            text = "".join(json.dumps({"custom_id": str(n), **line}) + "\n" for n in range(lines))
            if not (file := await self._ask("POST", "/v1/files", _form(text))):
                continue
            new = {"input_file_id": file.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
            if batch := await self._ask("POST", "/v1/batches", new):
                told.batches.add(batch.json()["id"])
                if chance.random() < 0.2:
                    await self._ask("POST", f"/v1/batches/{batch.json()['id']}/cancel", {})

    async def _keys_hold(self) -> None:
        """What was made opens, what was revoked does not; in this life as in that."""
        for _, secret in self.keys[-2:]:
            reply, _ = await ask(self.life.port, secret, "GET", "/v1/models")
            if reply and reply.status != 200:
                self.told.wrong.append(f"a key that was made opens nothing: {reply.status}")
        for secret in self.revoked[-2:]:
            for path in ("/v1/models", "/api/tenants"):
                reply, _ = await ask(self.life.port, secret, "GET", path)
                if reply and reply.status != 401:
                    self.told.wrong.append(f"a revoked key opens {path}: {reply.status}")

    def work_goes_on(self) -> None:
        """What attempts do while the works is dead: some end, some checkpoint; old ones, too."""
        for folder in (self.home / "runs").glob("*/*/attempt-*"):
            if folder.parent.name.startswith(SERVICE) or (folder / "result.json").exists():
                continue
            if self.chance.random() < 0.3:
                checkpoint(folder, 10 * int(folder.name.partition("-")[2]) + 9)
            if self.chance.random() < 0.3:
                last_word(folder, self.chance.choice(("done", "stopped")))


def _form(text: str) -> bytes:
    """The form that hands in a file for a batch."""
    head = "content-disposition: form-data; name="
    return (
        f'--{BOUNDARY}\r\n{head}"purpose"\r\n\r\nbatch\r\n'
        f'--{BOUNDARY}\r\n{head}"file"; filename="lines"\r\n\r\n{text}\r\n--{BOUNDARY}--\r\n'
    ).encode()


def _usage(body: bytes) -> tuple[int, int] | None:
    """The usage in a whole answer; None where it says that it failed."""
    events = [e[6:] for e in body.split(b"\n\n") if e.startswith(b"data: {")] or [body]
    said = [json.loads(event) for event in events]
    if any("error" in one for one in said) or (b"data: " in body and b"[DONE]" not in body):
        return None
    usage = said[-1]["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


# Stories.


@dataclass
class Kill:
    """How a life ends: at the n-th pass of a failpoint, or after a time if that comes first."""

    failpoint: str = ""
    after_s: float = LIFE_S_MAX
    from_birth: bool = False
    """Whether that time counts from birth, and not from the first answer."""
    shift_s: float = 0.0
    shift_after_s: float = 0.0
    must: bool = False
    """Whether the failpoint must be what ends it."""
    sleeps_s: float = 0.0
    """Before all that, for how long it is stopped while another wants its home."""
    full_s: float = 0.0
    """And for how long the disk is full."""


@dataclass
class Evidence:
    """What came of stories."""

    lives: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    attempts: int = 0
    done: int = 0
    acts: int = 0
    reserved: int = 0
    settled: int = 0
    answered: int = 0
    batches: int = 0
    disputed: int = 0
    disputed_lines: int = 0
    unsure: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Evidence") -> None:
        """Count another's."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def at_random(chance: random.Random, kills: int) -> list[Kill]:
    """Deaths as chance has them: most at some commit or failpoint, the rest after a time."""
    names = [n for n in failpoints() if n not in ("house.taken_over", "house.local")]
    # The first goes on until there is a service, so that the others have one from the start.
    deaths = [Kill(f"gateway.settled:{chance.randint(1, 9)}", REACH_S_MAX, must=True)]
    while len(deaths) < kills:
        kind = chance.random()
        death = Kill(after_s=5 * LIFE_S_MAX)
        if kind < 0.35:
            commit = chance.choice(("ledger.before_commit", "ledger.after_commit"))
            death.failpoint = f"{commit}:{chance.randint(1, 40)}"
        elif kind < 0.65:
            name = chance.choice(names)
            death.failpoint = f"{name}:{chance.randint(1, 5 if name.startswith('gateway') else 2)}"
        else:
            death.from_birth = chance.random() < 0.3
            death.after_s = chance.uniform(0.0, LIFE_S_MAX)
        if chance.random() < 0.2:
            death.shift_s = chance.uniform(-10, 10) * DAY_S
            death.shift_after_s = chance.choice((0.0, chance.uniform(0, LIFE_S_MAX)))
        deaths.append(death)
    return deaths


def at_every_failpoint() -> list[tuple[str, list[Kill]]]:
    """Two stories: a death at the first pass of each, and at the third where there is one."""
    once = ["house.taken_over", "house.local"]  # passed in the first life of a home
    often = [name for name in failpoints() if name not in once]
    first = [Kill(name, REACH_S_MAX, must=True) for name in once + often]
    third = [Kill(f"{name}:3", REACH_S_MAX, must=True) for name in often]
    return [("each", first), ("third", third)]


async def story(
    nursery: Nursery, folder: Path, seed: str, deaths: list[Kill], tell: bool = False
) -> Evidence:
    """One home from its first life to its last, and what is wrong with its ledger."""
    with socket.socket() as held:  # bound, so that nobody is given its port between two lives
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        return await _story(nursery, folder, seed, deaths, tell, held.getsockname()[1])


async def _story(
    nursery: Nursery, folder: Path, seed: str, deaths: list[Kill], tell: bool, port: int
) -> Evidence:
    chance = random.Random(seed)
    home = folder / "home"
    home.mkdir(parents=True)
    _leave_old_keys(home, f"gf-legacy-{seed}")
    came = Evidence()
    async with Engine(random.Random(f"{seed}/engine")) as engine:
        world = World(home, chance)

        def fork(death: Kill, port: int = port) -> int:
            return nursery.bear(
                home=str(home), port=port, engine=engine.url, seed=seed, failpoint=death.failpoint,
                shift_s=death.shift_s, shift_after_s=death.shift_after_s,
            )  # fmt: skip

        def bear(death: Kill) -> Life:
            came.lives += 1
            world.life = Life(fork(death), port, home)
            return world.life

        for death in deaths:
            life = bear(death)
            living = asyncio.create_task(world.live())
            while not (death.from_birth or life.answers or life.gone.is_set()):
                await asyncio.sleep(0.003)
            if death.sleeps_s:
                came.violations += await _put_to_sleep(world, fork, death.sleeps_s)
            if death.full_s:
                came.violations += await _fill_the_disk(world, death.full_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(life.gone.wait(), death.after_s)
            life.send(signal.SIGKILL)
            await living
            how = "after a time" if life.killed_by_us else death.failpoint.partition(":")[0]
            came.kills[how] += 1
            if death.must and life.killed_by_us:
                came.violations.append(f"{death.failpoint} was never passed")
            if not (life.killed_by_us or death.failpoint):
                came.violations.append("it ended by itself")
            if tell:
                told = f"{len(world.told.jobs):4} jobs, {len(world.told.answers):4} answers"
                print(f"{told}: killed {how}; {death}", flush=True)
            world.work_goes_on()
        engine.kind = True
        settling = bear(Kill())
        living = asyncio.create_task(world.live(busy=False))
        came.violations += await _settle(world)
        settling.send(signal.SIGKILL)
        await living
        last = bear(Kill())
        living = asyncio.create_task(world.live(busy=False))
        said = await _ask_at_last(world)
        last.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(living, REACH_S_MAX)
        except TimeoutError:
            came.violations.append("it did not end when it was told to")
            last.send(signal.SIGKILL)
        count(came, home, world.told)
        came.violations += violations(home, world.told, engine, said, came.lives)
        came.violations += _broke(home, sum(death.sleeps_s > 0 for death in deaths))
    came.violations = [f"story {seed}: {fault}" for fault in came.violations]
    return came


def _broke(home: Path, turned_away: int) -> Iterator[str]:
    """What the works has said that it must not; so many were turned away as there was another."""
    log = (home / "works.log").read_text()
    if "Traceback" in log:
        yield "the works broke: " + log[log.index("Traceback") :][-1500:]
    refused = re.findall("^Refused: (.*)", log, re.MULTILINE)
    if refused != ["a factory already runs from this home"] * turned_away:
        yield f"the works would not come up: {refused}"


def _leave_old_keys(home: Path, key: str) -> None:
    """A key as older versions kept it."""
    import hashlib

    hashed = hashlib.sha256(key.encode()).hexdigest()
    (home / "keys.json").write_text(json.dumps({hashed: "lab"}))


async def _settle(world: World) -> list[str]:
    """Let every job end and a question be answered; the service is cancelled at last."""
    life = world.life
    if not await life.up():
        return ["it did not come up undisturbed"]
    late_s = time.monotonic() + SETTLE_S_MAX
    answered = False
    status: dict[str, str] = {}
    while time.monotonic() < late_s:
        await asyncio.sleep(0.02)
        if not answered:
            body = {"model": SERVICE, "max_tokens": 8,
                    "messages": [{"role": "user", "content": "la?"}]}  # fmt: skip
            reply, _ = await ask(life.port, life.key, "POST", CHAT, body)
            if reply and reply.status == 200:
                world.told.answers[reply.headers["x-request-id"]] = _usage(reply.body) or (-1, -1)
                answered = True
        status = await _statuses(life)
        left = {job for job, at in status.items() if at not in OVER}
        if answered and left <= {SERVICE} and await _batches_ended(world):
            await ask(life.port, life.key, "POST", f"/api/jobs/{SERVICE}/cancel")
            if not left:
                return []
    waiting = {job: at for job, at in status.items() if at not in OVER}
    return [f"it did not settle: {waiting}, answered {answered}"]


async def _batches_ended(world: World) -> bool:
    for batch in world.told.batches:
        reply, _ = await ask(world.life.port, world.life.key, "GET", f"/v1/batches/{batch}")
        if reply is None or reply.json().get("status") in (None, "in_progress", "cancelling"):
            return False
    return True


async def _statuses(life: Life) -> dict[str, str]:
    status: dict[str, str] = {}
    cursor: int | None = 0
    while cursor is not None:
        reply, _ = await ask(life.port, life.key, "GET", f"/api/jobs?cursor={cursor}")
        if reply is None or reply.status != 200:
            return {"nobody": "knows"}
        page = reply.json()
        status |= {job["name"]: job["status"] for job in page["jobs"]}
        cursor = page["cursor"]
    return status


async def _ask_at_last(world: World) -> dict[str, Any]:
    """What a works that has just started anew says."""
    life, said = world.life, {}
    if await life.up():
        said["jobs"] = await _statuses(life)
        for what in ("budgets", "tenants", "audit?verify=true&limit=1"):
            reply, _ = await ask(life.port, life.key, "GET", f"/api/{what}")
            said[what[:7]] = reply.json() if reply else None
    return said


async def _put_to_sleep(world: World, bear: Callable[..., int], sleep_s: float) -> list[str]:
    """SIGSTOP for a while, in which another wants its home; what was wrong with that."""
    life, found = world.life, []
    life.send(signal.SIGSTOP)
    while not _stands(life.pid):
        await asyncio.sleep(0.003)
    before = _newest(world.home)
    another = Life(bear(Kill(), port=0), 0, world.home)
    with suppress(TimeoutError):
        await asyncio.wait_for(another.gone.wait(), REACH_S_MAX)
    if not another.gone.is_set():
        found.append("another took the home of one that slept")
        another.send(signal.SIGKILL)
    await asyncio.sleep(sleep_s)
    if _newest(world.home) != before:
        found.append("somebody wrote to the ledger of one that slept")
    life.send(signal.SIGCONT)
    return found + await _goes_on(world, "woken")


def _stands(pid: int) -> bool:
    """Whether no thread of a process runs any more: it has been stopped, or is gone."""
    told = (task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(words.rpartition(")")[2].split()[0] in "TXZ" for words in told)


async def _fill_the_disk(world: World, full_s: float) -> list[str]:
    """No file may grow for a while; what was wrong with that."""
    life, found = world.life, []
    none, most = resource.prlimit(life.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (1, most))
    await asyncio.sleep(0.05)  # what was under way comes to its end
    refused, late_s = world.told.refused[503], time.monotonic() + REACH_S_MAX
    while world.told.refused[503] == refused and time.monotonic() < late_s:
        await asyncio.sleep(0.003)
    if world.told.refused[503] == refused:
        found.append("nobody was told that the disk is full")
    before = _newest(world.home)
    await asyncio.sleep(full_s)
    if _newest(world.home) != before:
        found.append("a full disk was written to")
    if life.gone.is_set():
        return [*found, "a full disk killed it"]
    resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (none, most))
    return found + await _goes_on(world, "with room again")


async def _goes_on(world: World, since: str) -> list[str]:
    """Whether people have their answers again, and jobs are accepted and committed."""

    def figures() -> tuple[int, ...]:
        commits = sum(1 for _ in read(world.home / "ledger.db", RUN, kinds=["JobDone"]))
        return len(world.told.answers), len(world.told.jobs), commits

    from gigafactory.ledger.store import read

    before, late_s = figures(), time.monotonic() + REACH_S_MAX
    while time.monotonic() < late_s:
        if all(now > then for now, then in zip(figures(), before, strict=True)):
            return []
        await asyncio.sleep(0.02)
    return [f"{since} it did not go on: {before} answers, jobs and commits are now {figures()}"]


def _newest(home: Path) -> int:
    from gigafactory.ledger.store import select

    return next(select(home / "ledger.db", "select max(seq) from events"))[0]


# The judge.


def count(came: Evidence, home: Path, told: Told) -> None:
    """Figures of a story, from its ledger."""
    from gigafactory.ledger.store import read

    kinds = Counter(row.kind for row in read(home / "ledger.db"))
    came.jobs, came.attempts, came.done = (
        kinds["JobSubmitted"], kinds["JobStarted"], kinds["JobDone"]
    )  # fmt: skip
    came.reserved, came.settled = kinds["RequestReserved"], kinds["RequestSettled"]
    came.batches = kinds["BatchOpened"]
    disputed = Counter(
        _line(row.subject) for row in read(home / "ledger.db", kinds=["RequestDisputed"])
    )
    came.disputed, came.acts = disputed.pop("", 0), kinds["Acted"]
    came.disputed_lines = disputed.total()
    came.answered, came.unsure = len(told.answers), told.unsure


def violations(
    home: Path, told: Told, engine: Engine, said: dict[str, Any], lives: int
) -> list[str]:
    """All that is wrong with a ledger, given what the world was told and the engine said."""
    from gigafactory.ledger import audit
    from gigafactory.ledger.store import HOUSE, read

    rows = list(read(home / "ledger.db"))
    found = list(told.wrong)
    found += _wrong_jobs(home, rows, told, said.get("jobs"))
    found += _wrong_requests(rows, told, engine, lives)
    found += _wrong_batches(home, rows, told)
    found += _wrong_sums(rows, said.get("budgets"))
    found += _wrong_acts([row for row in rows if row.kind == "Acted"], told, said.get("tenants"))
    if fault := audit.verify(read(home / "ledger.db", HOUSE, kinds=["Acted"])):
        found.append(f"the audit: {fault}")
    if [row.seq for row in rows] != list(range(1, len(rows) + 1)):
        found.append("rows are not numbered without a gap")
    if {row.run for row in rows} - {RUN, HOUSE}:
        found.append("another run was opened")
    return found


@contextmanager
def _short_pauses() -> Iterator[None]:
    """The core's pauses as the works had them that is replayed."""
    from gigafactory.factory import step

    before, step.BACKOFF_S = step.BACKOFF_S, BACKOFF_S
    try:
        yield
    finally:
        step.BACKOFF_S = before


def _wrong_jobs(home: Path, rows: list[Any], told: Told, status: Any) -> Iterator[str]:
    from gigafactory.factory import Factory
    from gigafactory.factory.events import JobSubmitted
    from gigafactory.twin import replay

    submitted = Counter(row.subject for row in rows if row.kind == "JobSubmitted")
    starts = Counter((r.subject, r.body["attempt"]) for r in rows if r.kind == "JobStarted")
    done = Counter(row.subject for row in rows if row.kind == "JobDone")
    cancelled = {row.subject for row in rows if row.kind == "JobCancelled"}
    yield from (f"job {job} was acknowledged and is lost" for job in told.jobs - submitted.keys())
    yield from (f"job {job} was submitted {n} times" for job, n in submitted.items() if n > 1)
    yield from (f"attempt {of} started {n} times" for of, n in starts.items() if n > 1)
    yield from (f"job {job} was committed {n} times" for job, n in done.items() if n > 1)
    yield from (f"the cancelling of {job} is lost" for job in told.cancelled - cancelled)
    for row in rows:
        if row.kind == "JobDone" and row.body["results"].get("by") != row.body["attempt"]:
            yield f"{row.subject}: attempt {row.body['attempt']} committed another's result"
    ends = Counter(
        (r.subject, r.body["attempt"])
        for r in rows if r.kind in ("JobDone", "JobFailed", "JobLost", "JobStopped")
    )  # fmt: skip
    yield from (f"attempt {of} ended {n} times" for of, n in ends.items() if n > 1)
    with _short_pauses():
        day = replay.read(home / "ledger.db", RUN)
        if not (again := replay.again(day)).equal:
            yield f"replay parts from what was lived: {again.difference}"
            return
        factory = Factory(**day.plan.tables())
        for event in day.events:
            factory.apply(event)
    now = {job: factory.status(job) for job in submitted}
    if now != status:
        odd = {job: (at, (status or {}).get(job)) for job, at in now.items()
               if at != (status or {}).get(job)}  # fmt: skip
        yield f"replay gives another state than the works has: {odd or status}"
    for job, at in now.items():
        if at not in OVER:
            yield f"job {job} has not ended: {at}"
        if (at == "done") != (done[job] == 1):
            yield f"job {job} is {at} and was committed {done[job]} times"
    services = {e.job for e in day.events if isinstance(e, JobSubmitted) and e.service}
    if done.keys() & services:
        yield "a service was committed"


def _line(request: str) -> str:
    """The line of a batch, `BATCH:NUMBER`, that a request asks; empty for what people ask."""
    is_line = request.startswith("batch_")
    return ":".join(request.split(":")[:2]) if is_line else ""


def _wrong_requests(rows: list[Any], told: Told, engine: Engine, lives: int) -> Iterator[str]:
    of: dict[str, defaultdict[str, list[Any]]] = {
        kind: defaultdict(list) for kind in ("Reserved", "Settled", "Disputed")
    }
    for row in rows:
        if row.kind.startswith("Request"):
            of[row.kind.removeprefix("Request")][row.subject].append(row.body)
    reserved, settled, disputed = map(dict, of.values())
    for request in reserved.keys() | settled.keys() | disputed.keys():
        began = len(reserved.get(request, ()))
        ends = len(settled.get(request, ())) + len(disputed.get(request, ()))
        if began != 1 or ends != 1:
            yield f"request {request}: {began} reservations, {ends} ends"
    for request, (body, *_) in settled.items():
        used = body["prompt_tokens"], body["completion_tokens"]
        if sum(used) and used not in engine.said.get(request, []):
            yield f"request {request} is settled with {used}, and the engine said no such thing"
        if body["money_micro"] != 700 * used[0] + 900 * used[1]:
            yield f"request {request} is billed {body['money_micro']} for {used}"
        if body["money_micro"] > min(b["money_micro_max"] for b in reserved.get(request, ())):
            yield f"request {request} costs more than was reserved"
    for request, usage in told.answers.items():
        billed = [(b["prompt_tokens"], b["completion_tokens"]) for b in settled.get(request, ())]
        if billed != [usage]:
            yield f"request {request} was answered with {usage} and is billed {billed}"
    doubts = Counter(map(_line, disputed))
    if (n := doubts.pop("", 0)) > told.unsure + lives:  # its own question, too
        yield f"{n} disputed rows, and {told.unsure} questions without an end in {lives} lives"
    yield from (f"line {line} is disputed {n} times" for line, n in doubts.items() if n > lives)


def _wrong_batches(home: Path, rows: list[Any], told: Told) -> Iterator[str]:
    opened = {row.subject: row.body for row in rows if row.kind == "BatchOpened"}
    ended = defaultdict(list)
    for row in rows:
        if row.kind == "BatchEnded":
            ended[row.subject].append(row.body)
    billed = Counter(
        _line(row.subject)
        for row in rows
        if row.kind == "RequestSettled" and row.body["completion_tokens"]
    )
    del billed[""]
    yield from (f"{lost} was acknowledged and is lost" for lost in told.batches - opened.keys())
    yield from (f"line {line} is billed {n} times" for line, n in billed.items() if n > 1)
    for batch, body in opened.items():
        if len(ended[batch]) != 1:
            yield f"{batch} has ended {len(ended[batch])} times"
            continue
        (end,) = ended[batch]
        output = home / "files" / body["tenant"] / end["output"]
        text = output.read_text() if end["output"] else ""
        lines = Counter(json.loads(line)["id"].rpartition(":")[2] for line in text.splitlines())
        if len(lines) != end["answered"] or lines.total() != len(lines):
            yield f"{batch} has {end['answered']} answers, and its file {lines}"
        if end["outcome"] == "completed" and end["answered"] + end["failed"] != body["lines"]:
            yield f"{batch} of {body['lines']} lines is complete with {end}"
        asked = (line.partition(":") for line in billed)
        if unheard := {number for of, _, number in asked if of == batch} - lines.keys():
            yield f"{batch}: lines {unheard} are billed and were not answered"


def _wrong_sums(rows: list[Any], said: Any) -> Iterator[str]:
    from gigafactory.works.budgets import bounds

    began, ends = bounds("year", time.time())
    whose = {row.subject: row.body["tenant"] for row in rows if row.kind == "JobSubmitted"}
    sums: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.kind == "RequestSettled" and began <= row.unix_s < ends:
            body = row.body
            sums[body["tenant"], "money"] += body["money_micro"]
            sums[body["tenant"], "tokens"] += body["prompt_tokens"] + body["completion_tokens"]
        for piece in row.body.get("used", {}).get("charges", ()):
            if began <= piece["from_unix_s"] < ends:
                sums[whose.get(row.subject, ""), "money"] += piece["money_micro"]
            if piece["money_micro"] < 0 or piece["chip_s"] < 0:
                yield f"{row.subject} was paid for: {piece}"
    if not said or len(said["budgets"]) != 4:
        yield f"budgets are not told: {said}"
        return
    for left in said["budgets"]:
        of = left["budget"]["of"]
        spent = round(left["spent"] * (1e6 if of == "money" else 1))
        if spent != sums[left["tenant"], of] or left["reserved"]:
            yield f"{left['tenant']} has spent {sums[left['tenant'], of]} {of}; it says {left}"


def _wrong_acts(acts: list[Any], told: Told, tenants: Any) -> Iterator[str]:
    at = 0
    rows = [(row.body["did"], row.subject, row.body["said"]) for row in acts]
    for did, about, said in told.acts:  # in the order in which they were acknowledged
        while at < len(rows) and not (
            rows[at][:2] == (did, about) and said.items() <= rows[at][2].items()
        ):
            at += 1
        if at == len(rows):
            yield f"{did} {about} {said} was acknowledged and is lost, or out of order"
            return
    made = Counter(about for did, about, _ in rows if did == "key.make")
    yield from (f"key {key} was made {n} times" for key, n in made.items() if n > 1)
    weights = [said["changes"]["weight"] for did, about, said in rows if did == "tenant.set"]
    now = tenants["tenants"]["shop"]["weight"] if tenants else None
    if weights and weights[-1] != now:
        yield f"the weight of shop was set to {weights[-1]} and is {now}"
    if not any(s.get("user") == "keys.json" for did, _, s in rows if did == "key.make"):
        yield "the key of an older version was lost"


async def stories(
    nursery: Nursery,
    wanted: list[tuple[str, list[Kill]]],
    at_once: int = 3,
    tell: bool = False,
) -> Evidence:
    """Several stories, some at a time; stops after the first that went wrong."""
    whole, began_s = Evidence(), time.monotonic()
    turn = asyncio.Semaphore(at_once)
    shelf = "/dev/shm" if os.path.isdir("/dev/shm") else None  # kills spare the page cache
    with tempfile.TemporaryDirectory(dir=shelf) as folder:

        async def one(number: int, seed: str, deaths: list[Kill]) -> None:
            async with turn:
                if whole.violations:
                    return
                path = Path(folder) / str(number)
                whole.add(await story(nursery, path, seed, deaths, tell))
                if not whole.violations:
                    subprocess.run(["rm", "-rf", str(path)], check=True)
                if len(wanted) > 10 and (number + 1) % 10 == 0:
                    pace = whole.lives / (time.monotonic() - began_s)
                    print(f"{whole.lives:,} lives, {pace:.1f} a second", flush=True)

        await asyncio.gather(*(one(n, *of) for n, of in enumerate(wanted)))
    return whole


def random_stories(kills: int, seed: int) -> list[tuple[str, list[Kill]]]:
    """So many kills in stories of `LIVES`."""
    return [random_story(f"{seed}:{n}", min(LIVES, kills - n * LIVES))
            for n in range(-(-kills // LIVES))]  # fmt: skip


def random_story(name: str, kills: int = LIVES) -> tuple[str, list[Kill]]:
    """The story of a seed and number, as the table names it."""
    return name, at_random(random.Random(f"{name}/deaths"), kills)


def table(came: Evidence) -> str:
    """The evidence, for people."""
    lines = [f"{n:8,}  killed {how}" for how, n in sorted(came.kills.items())]
    lines += [
        f"{came.kills.total():8,}  kills of {came.lives:,} lives",
        f"{came.jobs:8,}  jobs, {came.attempts:,} attempts, {came.done:,} commits",
        f"{came.batches:8,}  batches of requests",
        f"{came.acts:8,}  acts in the audit",
        f"{came.reserved:8,}  requests reserved; {came.answered:,} heard whole by who asked",
        f"{came.settled:8,}  settled, each once",
        f"{came.disputed:8,}  disputed, billed 0; {came.unsure + came.lives:,} could have been",
        f"{came.disputed_lines:8,}  disputed lines of batches, billed 0 and asked anew",
        f"{len(came.violations):8,}  violations",
    ]
    return "\n".join([*lines, *came.violations])


def main() -> int:
    """Kill as asked; 1 where anything was lost, doubled or billed wrong."""
    asked = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    asked.add_argument("--random", type=int, default=0, help="so many kills")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--failpoints", action="store_true", help="at each, too")
    asked.add_argument("--story", help="one random story again: SEED:NUMBER")
    asked.add_argument("--at-once", type=int, default=3, help="stories at a time")
    asked.add_argument("--nursery", action="store_true", help=argparse.SUPPRESS)
    said = asked.parse_args()
    if said.nursery:
        nursery()
        sys.stdout.flush()
        os._exit(0)  # some library complains at an end that it has not seen coming
    wanted: list[tuple[str, list[Kill]]] = random_stories(said.random, said.seed)
    if said.failpoints or not (said.random or said.story):
        wanted = at_every_failpoint() + wanted
    if said.story:
        wanted = [random_story(said.story)]
    began_s = time.monotonic()
    with Nursery() as forks:
        came = asyncio.run(stories(forks, wanted, said.at_once, tell=bool(said.story)))
    print(table(came))
    print(f"{time.monotonic() - began_s:8.0f}  s")
    return 1 if came.violations else 0


if __name__ == "__main__":
    sys.exit(main())
