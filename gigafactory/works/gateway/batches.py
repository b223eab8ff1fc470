"""`/v1/batches`: files of requests, answered when there is room, in OpenAI's protocol.

A line is asked through the gateway as any request is, under the name `BATCH:LINE` (asked again,
with something added: a name is billed once). It is asked only while nobody waits for its model
and half of a replica is free, and again after `Retry-After` where it was turned away.

`BatchOpened` and `BatchEnded` in the ledger say which batches there are, the audit's
`batch.cancel` which of them to end early, and the output files which lines are done. An answer
is durable in its file before it is settled, so after a crash it is there and billed, or there
and its reservation disputed, or to be asked anew. No line is answered twice, none is billed twice.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from gigafactory.factory.events import BatchEnded, BatchOpened, Json
from gigafactory.failpoint import failpoint
from gigafactory.ledger import store
from gigafactory.works.gateway.ask import parse
from gigafactory.works.gateway.door import ASKED, BODY_BYTES_MAX, DRAIN_S_MAX, Gateway, read
from gigafactory.works.gateway.exchange import Caller, Client, Message, Receive
from gigafactory.works.gateway.files import (
    JSON_TYPE,
    OWNER_ONLY,
    Files,
    after,
    no_such,
    page,
    sync_folder,
)
from gigafactory.works.gateway.refusal import Refusal, unfit

if TYPE_CHECKING:
    from gigafactory.works.house import Grant
    from gigafactory.works.services import Route

log = logging.getLogger(__name__)

BATCHES = "/v1/batches"
WINDOW, WINDOW_S = "24h", 86400.0
LINES_MAX = 50_000
UNDER_WAY_MAX = 16  # lines of a batch
OPEN_MAX = 100  # batches of a tenant
FAULTS_MAX = 50  # told of one file
LISTED_MAX = 100
METADATA_MAX = (16, 64, 512)  # keys, characters of a key, of a value
CUSTOM_ID_CHARS_MAX = 256
YIELD_S = 0.05  # how often a line looks whether there is room for it
ROUTE_S = 1.0  # a look is no request: it must not take a turn of the replicas each time
RETRY_S_MAX = 60.0  # a budget may be raised before it resets
DISK_S = 5.0  # between two tries to write where the disk is full
ENGINE_TRIES = 3  # where an engine breaks off; another replica may not
TURN_LINES = 64  # of a file, between which others have their turn


@dataclass
class Batch:
    """A batch as it stands."""

    opened: BatchOpened
    ended: BatchEnded | None = None
    ended_unix_s: float | None = None
    cancelled_unix_s: float | None = None
    """Since when no more lines are asked because somebody wants it so."""
    fresh: bool = True  # no crash lies between its opening and now
    answered: int = 0
    failed: int = 0
    stir: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def file_ids(self) -> tuple[str, str]:
        """Of the answers, and of the errors."""
        name = "file-" + self.opened.batch.removeprefix("batch_")
        return f"{name}-output", f"{name}-errors"

    def said(self) -> Message:
        """As OpenAI tells it."""
        opened, ended = self.opened, self.ended
        made_unix_s = opened.expires_unix_s - WINDOW_S
        outcome = ended.outcome if ended else None
        cancelling = "cancelling" if self.cancelled_unix_s is not None else "in_progress"

        def when(unix_s: float | None, wanted: bool = True) -> int | None:
            return int(unix_s) if unix_s is not None and wanted else None

        faults = orjson.loads(ended.errors) if ended and outcome == "failed" else None
        return {
            "id": opened.batch,
            "object": "batch",
            "endpoint": opened.endpoint,
            "errors": {"object": "list", "data": faults} if faults else None,
            "input_file_id": opened.file,
            "completion_window": WINDOW,
            "status": outcome or cancelling,
            "output_file_id": (ended.output or None) if ended else None,
            "error_file_id": (ended.errors or None) if ended and not faults else None,
            "created_at": when(made_unix_s),
            "in_progress_at": when(made_unix_s, outcome != "failed"),
            "expires_at": when(opened.expires_unix_s),
            "finalizing_at": when(self.ended_unix_s, outcome in ("completed", "expired")),
            "completed_at": when(self.ended_unix_s, outcome == "completed"),
            "failed_at": when(self.ended_unix_s, outcome == "failed"),
            "expired_at": when(self.ended_unix_s, outcome == "expired"),
            "cancelling_at": when(self.cancelled_unix_s),
            "cancelled_at": when(self.ended_unix_s, outcome == "cancelled"),
            "request_counts": {
                "total": opened.lines,
                "completed": self.answered,
                "failed": self.failed,
            },
            "metadata": opened.metadata or None,
        }


class Batches:
    """All batches and their files; `folder` is where these lie. Used from one event loop.

    `where` is what `ledger` writes to, `clock` the run's. A batch of an earlier run goes on in
    this one: to its tenant a run is nothing.
    """

    def __init__(
        self,
        gateway: Gateway,
        ledger: store.Ledger,
        where: Path | str,
        run: str,
        clock: Callable[[], float],
        folder: Path,
        unix: Callable[[], float] = time.time,
    ):
        self._gateway, self._ledger, self._where = gateway, ledger, where
        self._run, self._clock, self._unix = run, clock, unix
        self.files = Files(folder)
        self._batches: dict[str, Batch] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._routes: dict[str, tuple[float, Route | None]] = {}

    async def open(self) -> None:
        """Go on where the ledger and the files stand, and answer from now on."""
        for row in store.read(self._where, kinds=["BatchOpened", "BatchEnded"]):
            event = row.event()
            if isinstance(event, BatchOpened):
                self._batches[event.batch] = Batch(event, fresh=False)
            elif isinstance(event, BatchEnded):
                batch = self._batches[event.batch]
                batch.ended, batch.ended_unix_s = event, row.unix_s
                batch.answered, batch.failed = event.answered, event.failed
        for row in store.read(self._where, store.HOUSE, kinds=["Acted"]):
            if row.body["did"] == "batch.cancel" and row.subject in self._batches:
                self._batches[row.subject].cancelled_unix_s = row.at_s
        going = [batch for batch in self._batches.values() if batch.ended is None]
        growing = {name for batch in going for name in batch.file_ids}
        ends = [batch.ended for batch in self._batches.values() if batch.ended is not None]
        last = {name for end in ends for name in written(end)}
        self.files.open(frozenset(growing | last))
        for end in ends:
            await self._publish(end)
        for batch in going:
            self._start(batch)
        self._gateway.batches = self

    async def aclose(self) -> None:
        """Ask no more lines and let those under way end; the rest goes on at the next `open`."""
        self._closing = True
        for batch in self._batches.values():
            batch.stir.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=DRAIN_S_MAX)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def answer(
        self, grant: "Grant", scope: Message, receive: Receive, client: Client
    ) -> None:
        """Answer a request for `/v1/files` or `/v1/batches` and what lies under them."""
        if not (scope["path"] + "/").startswith(BATCHES + "/"):
            await self.files.answer(grant.tenant, scope, receive, client)
            return
        method, (name, _, part) = scope["method"], after(BATCHES, scope).partition("/")
        match method, bool(name), part:
            case "POST", False, "":
                said = (await self._create(grant, parse(await read(receive)))).said()
            case "GET", False, "":
                own = [b.said() for b in self._batches.values() if b.opened.tenant == grant.tenant]
                said = page(own, scope, 20, LISTED_MAX)
            case "GET", True, "":
                said = self._get(grant, name).said()
            case "POST", True, "cancel":
                said = (await self._cancel(grant, self._get(grant, name))).said()
            case _:
                raise no_such(method, scope)
        await client.answer(200, said, JSON_TYPE)

    def _get(self, grant: "Grant", name: str) -> Batch:
        batch = self._batches.get(name)
        if batch is None or batch.opened.tenant != grant.tenant:
            raise Refusal(404, f"no batch {name!r}", "not_found", "batch_id")
        return batch

    async def _create(self, grant: "Grant", said: Message) -> Batch:
        known = {"input_file_id", "endpoint", "completion_window", "metadata"}
        if more := {name for name in said.keys() - known if said[name] is not None}:
            name = min(more)
            raise Refusal(400, f"{name} is not supported here", "unsupported_parameter", name)
        endpoint, metadata = said.get("endpoint"), said.get("metadata") or {}
        if endpoint not in ASKED:
            raise unfit("endpoint", f"is one of {', '.join(sorted(ASKED))}")
        if said.get("completion_window") != WINDOW:
            raise unfit("completion_window", f"is {WINDOW}")
        if not labels(metadata):
            keys, key_chars, value_chars = METADATA_MAX
            bound = f"at most {keys} strings of {value_chars} characters, by names of {key_chars}"
            raise unfit("metadata", f"is {bound}")
        file = self.files.get(grant.tenant, said.get("input_file_id"))
        if file.purpose != "batch":
            raise unfit("input_file_id", "is a file of purpose batch")
        open_now = [b.opened for b in self._batches.values() if b.ended is None]
        if sum(opened.tenant == grant.tenant for opened in open_now) >= OPEN_MAX:
            raise Refusal(429, f"{OPEN_MAX} batches are open", "too_many_batches", retry_s=60)
        self.files.readers[file.id] += 1
        try:
            lines, faults = await self._check(self.files.path(grant.tenant, file.id), endpoint)
            batch = Batch(
                BatchOpened(
                    self._clock(), f"batch_{os.urandom(16).hex()}", grant.tenant, grant.key,
                    endpoint, file.id, lines, self._unix() + WINDOW_S, metadata,
                )
            )  # fmt: skip
            opened = batch.opened
            events: list[BatchOpened | BatchEnded] = [opened]
            if faults:
                told = orjson.dumps(faults).decode()
                batch.ended = BatchEnded(
                    opened.at_s, opened.batch, opened.tenant, "failed", 0, 0, errors=told
                )
                batch.ended_unix_s = self._unix()
                events.append(batch.ended)
            try:
                await asyncio.wrap_future(self._ledger.append(self._run, *events))
            except store.LedgerFailure as failure:
                why = f"the ledger cannot be written: {failure}"
                raise Refusal(503, why, "ledger", retry_s=5) from failure
            self._batches[opened.batch] = batch
            if batch.ended is None:
                self._start(batch)
        finally:
            self.files.readers[file.id] -= 1
        return batch

    async def _check(self, path: Path, endpoint: str) -> tuple[int, list[Json]]:
        """How many lines a file has, and what is wrong with them."""
        faults: list[Json] = []
        lines, seen, names = 0, set[str](), set(self._gateway.services.names())

        def fault(code: str, message: str, param: str | None, line: int | None) -> None:
            faults.append({"code": code, "message": message, "param": param, "line": line})

        for number, line in numbered(path):
            lines += 1
            if lines % TURN_LINES == 0:
                await asyncio.sleep(0)
            if lines > LINES_MAX:
                fault("too_many_lines", f"a batch has at most {LINES_MAX} lines", None, number)
            elif len(line) > BODY_BYTES_MAX:
                why = f"a line has at most {BODY_BYTES_MAX} bytes"
                fault("line_too_long", why, None, number)
            elif wrong := judged(line, endpoint, names, seen):
                fault(*wrong, number)
            if lines > LINES_MAX or len(line) > BODY_BYTES_MAX or len(faults) >= FAULTS_MAX:
                break
        if not lines:
            fault("empty_file", "the file has no line", None, None)
        return lines, faults

    async def _cancel(self, grant: "Grant", batch: Batch) -> Batch:
        if batch.ended is not None:
            raise Refusal(400, f"this batch has {batch.ended.outcome} already", "batch_ended")
        if batch.cancelled_unix_s is None:
            try:
                act = await self._gateway.house.act(grant, "batch.cancel", batch.opened.batch, {})
            except store.LedgerFailure as failure:
                why = f"the ledger cannot be written: {failure}"
                raise Refusal(503, why, "ledger", retry_s=5) from failure
            batch.cancelled_unix_s = act.at_s
            batch.stir.set()
        return batch

    def _start(self, batch: Batch) -> None:
        self.files.readers[batch.opened.file] += 1
        task = asyncio.create_task(self._run_batch(batch))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a batch stands still until the works opens again", exc_info=error)

    async def _run_batch(self, batch: Batch) -> None:
        """From its first line that is not answered to its end."""
        opened = batch.opened
        paths = [self.files.path(opened.tenant, name) for name in batch.file_ids]
        answers, errors = [await asyncio.to_thread(_Output, path) for path in paths]
        try:
            batch.answered, batch.failed = len(answers.lines), len(errors.lines)
            source = self.files.path(opened.tenant, opened.file)
            rest = (
                (number, line)
                for number, line in numbered(source)
                if number not in answers.lines and number not in errors.lines
            )
            async with asyncio.TaskGroup() as workers:
                for _ in range(UNDER_WAY_MAX):
                    workers.create_task(self._work(batch, rest, answers, errors))
            if self._closing:
                return
            outcome = "completed"
            if batch.answered + batch.failed < opened.lines:
                outcome = "cancelled" if self._unwanted(batch) else "expired"
            if outcome == "expired":
                await self._expire(batch, source, answers, errors)
            failpoint("batch.before_end")
            output, faults = batch.file_ids
            ended = BatchEnded(
                self._clock(), opened.batch, opened.tenant, outcome, batch.answered, batch.failed,
                output if batch.answered else "", faults if batch.failed else "",
            )  # fmt: skip
            while not await self._ended(ended):
                await asyncio.sleep(DISK_S)  # cancelled where the works closes first
        finally:
            answers.close()
            errors.close()
        failpoint("batch.ended")
        for path in paths:
            if path.name not in written(ended):
                path.unlink()  # nothing was ever written there
        await self._publish(ended)
        batch.ended, batch.ended_unix_s = ended, self._unix()
        self.files.readers[opened.file] -= 1

    async def _ended(self, ended: BatchEnded) -> bool:
        try:
            await asyncio.wrap_future(self._ledger.append(self._run, ended))
        except store.LedgerFailure as failure:
            log.warning("%s has ended and the ledger cannot be written: %s", ended.batch, failure)
            return False
        return True

    async def _publish(self, ended: BatchEnded) -> None:
        """Make files of what an ended batch has written."""
        for name in written(ended):
            shown = f"{ended.batch}_{name.rpartition('-')[2]}.jsonl"
            await self.files.adopt(ended.tenant, name, shown)

    async def _work(
        self,
        batch: Batch,
        rest: Iterator[tuple[int, bytes]],
        answers: "_Output",
        errors: "_Output",
    ) -> None:
        """One of the hands of a batch: takes the next line until there is none."""
        while not self._over(batch) and (taken := next(rest, None)) is not None:
            number, line = taken
            said = orjson.loads(line)
            fault = await self._ask(batch, number, said, answers)
            if fault is not None:
                status, body = fault
                wrong = {"status_code": status, "body": body}
                while not await errors.put(batch, number, said["custom_id"], wrong):
                    await asyncio.sleep(DISK_S)
                batch.failed += 1

    async def _ask(
        self, batch: Batch, number: int, said: Json, answers: "_Output"
    ) -> tuple[int, Json] | None:
        """Ask one line until there is an answer or an error, which is returned.

        Where the batch is over first there is neither, and the line is left.
        """
        opened, model = batch.opened, said["body"]["model"]
        kept = False
        tries = 0

        async def keep(body: bytes) -> None:
            nonlocal kept
            whole = {"status_code": 200, "body": orjson.Fragment(one_line(body))}
            if not await answers.put(batch, number, said["custom_id"], whole):
                raise OSError("the disk is full")
            kept = True
            batch.answered += 1
            failpoint("batch.line_written")

        while True:
            while not self._room(model) and not self._over(batch):
                await self._pause(batch, YIELD_S)
            if self._over(batch):
                return None
            request = f"{opened.batch}:{number}"
            if tries or not batch.fresh:
                request += ":" + os.urandom(4).hex()
            tries += 1
            failpoint("batch.before_line")
            try:
                grant = self._grant(opened)
                caller = Caller(keep)
                await self._gateway.carry_out(grant, opened.endpoint, said["body"], caller, request)
            except Refusal as refusal:
                # Kept and then not settled: it is answered all the same, at no cost.
                broken = refusal.status == 502 and tries < ENGINE_TRIES
                if not kept and refusal.status not in (429, 503) and not broken:
                    return refusal.status, refusal.body
                if not kept:
                    await self._pause(batch, min(refusal.retry_s or 2.0, RETRY_S_MAX))
            except Exception:  # a mistake of ours, which must not keep the others waiting
                log.exception("%s could not be asked", request)
                if not kept:
                    fault = Refusal(500, "this could not be asked", "internal_error")
                    return fault.status, fault.body
            if kept:
                return None

    def _grant(self, opened: BatchOpened) -> "Grant":
        """What the lines are asked with: the key that opened the batch, to ask models alone."""
        from gigafactory.works.house import Grant

        return Grant("", opened.tenant, frozenset({"infer"}), opened.key)

    def _room(self, model: str) -> bool:
        """Whether nobody with less time would have to wait for a line to this model."""
        now_s = time.monotonic()
        asked_s, route = self._routes.get(model, (float("-inf"), None))
        if now_s - asked_s > ROUTE_S:
            route = self._gateway.services.route(model)
            self._routes[model] = now_s, route
        return route is None or self._gateway.lanes.spare(route)

    def _over(self, batch: Batch) -> bool:
        """Whether no more lines of it are to be asked."""
        late = self._unix() >= batch.opened.expires_unix_s
        return self._closing or late or self._unwanted(batch)

    def _unwanted(self, batch: Batch) -> bool:
        """Whether somebody cancelled it, or revoked the key that opened it."""
        key = self._gateway.house.keys.get(batch.opened.key)
        revoked = key is not None and key.revoked_unix_s is not None
        return batch.cancelled_unix_s is not None or revoked

    async def _pause(self, batch: Batch, wait_s: float) -> None:
        """Wait, but not beyond the end of the batch."""
        left_s = max(0.0, batch.opened.expires_unix_s - self._unix())
        if batch.stir.is_set():
            await asyncio.sleep(YIELD_S)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(batch.stir.wait(), min(wait_s, left_s))

    async def _expire(
        self, batch: Batch, source: Path, answers: "_Output", errors: "_Output"
    ) -> None:
        """Say of each line that is left that it came too late."""
        why = "This request could not be executed before the completion window expired."
        error = {"code": "batch_expired", "message": why}
        coming = []
        for number, line in numbered(source):
            if number not in answers.lines and number not in errors.lines:
                custom_id = orjson.loads(line)["custom_id"]
                coming.append((number, result(batch, number, custom_id, None, error)))
        while not await errors.append(coming):
            await asyncio.sleep(DISK_S)
        batch.failed = len(errors.lines)


class _Output:
    """A file of results that grows; lines that come during an fsync share the next one."""

    def __init__(self, path: Path):
        """Open it, cut off what a crash left of its last lines, and see which lines are done."""
        self.lines: set[int] = set()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._file = os.open(path, flags, OWNER_ONLY)
        self._length = 0
        with open(path, "rb") as found:
            for line in found:
                try:
                    number = int(orjson.loads(line)["id"].rpartition(":")[2])
                except (ValueError, TypeError, KeyError):
                    break
                if not line.endswith(b"\n"):
                    break
                self.lines.add(number)
                self._length += len(line)
        os.ftruncate(self._file, self._length)
        os.fsync(self._file)
        sync_folder(path.parent)
        self._coming: list[tuple[int, bytes]] = []
        self._next: asyncio.Task[bool] | None = None
        self._writing = asyncio.Lock()

    async def put(self, batch: Batch, number: int, custom_id: str, response: Json) -> bool:
        """Append a result; whether it is durable, else it is not there."""
        return await self.append([(number, result(batch, number, custom_id, response, None))])

    async def append(self, results: list[tuple[int, bytes]]) -> bool:
        """Append results, all or none; whether they are durable."""
        self._coming += results
        if self._next is None:
            self._next = asyncio.create_task(self._write_next())
        return await asyncio.shield(self._next)

    def close(self) -> None:
        """Let go, once nothing is being written."""
        if self._next is None and not self._writing.locked():
            os.close(self._file)

    async def _write_next(self) -> bool:
        async with self._writing:
            coming, self._coming = self._coming, []
            self._next = None
            try:
                await asyncio.to_thread(self._write, b"".join(line for _, line in coming))
            except OSError as fault:
                log.warning("results of a batch cannot be written: %s", fault)
                return False
            self.lines.update(number for number, _ in coming)
            return True

    def _write(self, lines: bytes) -> None:
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._length)
            raise
        self._length += len(lines)


def result(batch: Batch, number: int, custom_id: str, response: Any, error: Any) -> bytes:
    """A line of an output or error file."""
    name = f"{batch.opened.batch}:{number}"
    if response is not None:
        response = {"request_id": name, **response}
    said = {"id": name, "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


def written(ended: BatchEnded) -> list[str]:
    """The files that an ended batch has; a failed one has none."""
    found = [] if ended.outcome == "failed" else [ended.output, ended.errors]
    return [name for name in found if name]


def numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, by number from 1, and of a long one the start."""
    with open(path, "rb") as lines:
        number = 0
        while line := lines.readline(BODY_BYTES_MAX + 2):
            number += 1
            if line := line.strip():
                yield number, line


def judged(
    line: bytes, endpoint: str, names: set[str], seen: set[str]
) -> tuple[str, str, str | None] | None:
    """What is wrong with a line: code, message, and of which key; its id is `seen` now."""
    try:
        said = parse(line)
    except Refusal as refusal:
        return "invalid_json_line", str(refusal), None
    custom_id, body = said.get("custom_id"), said.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID_CHARS_MAX:
        why = f"custom_id is a text of 1 to {CUSTOM_ID_CHARS_MAX} characters"
        return "missing_required_parameter", why, "custom_id"
    if custom_id in seen:
        return "duplicate_custom_id", "another line has this custom_id", "custom_id"
    seen.add(custom_id)
    if said.get("method") != "POST":
        return "invalid_method", "method is POST", "method"
    if said.get("url") != endpoint:
        return "mismatched_url", f"url is the batch's endpoint, {endpoint}", "url"
    if not isinstance(body, dict):
        return "missing_required_parameter", "body is an object", "body"
    if not isinstance(model := body.get("model"), str) or model not in names:
        return "model_not_found", f"served: {', '.join(sorted(names)) or 'none yet'}", "body.model"
    return None


def one_line(body: bytes) -> bytes:
    """JSON without line ends, which in JSON never stand inside a text."""
    return body.replace(b"\r", b" ").replace(b"\n", b" ").strip()


def labels(said: Any) -> bool:
    """Whether this is metadata as OpenAI has it."""
    keys, key_chars, value_chars = METADATA_MAX
    return (
        isinstance(said, dict)
        and len(said) <= keys
        and all(len(key) <= key_chars for key in said)
        and all(isinstance(value, str) and len(value) <= value_chars for value in said.values())
    )
