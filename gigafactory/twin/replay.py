"""A lived day given to the core again, event by event: it must command the same, byte for byte.

In: a ledger that the works wrote, or the twin. Out: how many events and commands are equal, or
the first difference with both sides. `beside` holds the same day against the twin.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gigafactory.factory import Command, Factory, Start
from gigafactory.factory import events as ev
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.ledger.store import LedgerFailure, Row, is_url, shown
from gigafactory.ledger.store import read as read_store
from gigafactory.plan import Plan

ADOPTING = ev.JobCheckpointed | ev.JobDone | ev.JobLost | ev.JobStarted
"""What a works that starts anew says of attempts it finds, before its nodes join again; what
they leave free may be started on at once."""

QUOTED = {"overhead_s", "work_s", "duration_s"}
"""What is asked of a job's quote to live it again."""


@dataclass(frozen=True)
class Day:
    """One run, as its ledger tells it."""

    run: str
    plan: Plan
    events: tuple[ev.Event, ...]


def read(path: Path | str, run: str | None = None) -> Day:
    """The run of that name, or the newest, of a ledger or a `.parquet`. Raises `Refused`."""
    opened = [row.run for row in _rows(path, kinds=("RunOpened",))]
    if not opened:
        why, hint = "no run was opened in it", "`gigafactory up laptop` starts a first run"
        raise Refused(Fault("nothing has run yet", shown(path), why, hint))
    if run is not None and run not in opened:
        why = "no such run is in the ledger"
        raise Refused(Fault(f"there is no run {run!r}", "--run", why, nearest(run, opened)))
    name = run or opened[-1]
    rows = _rows(path, name)
    try:
        events = tuple(row.event() for row in rows)
        (plan,) = (Plan.model_validate(e.plan) for e in events if isinstance(e, ev.RunOpened))
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, ValidationError):
            why = "; ".join(f"{_path(e['loc'])}: {e['msg']}" for e in error.errors()[:3])
        hint = "replay it with the version of gigafactory that wrote it"
        raise Refused(Fault(f"run {name!r} cannot be read", shown(path), why, hint)) from None
    return Day(name, plan, events)


def quoted(day: Day, path: Path | str) -> None:
    """Refuse a day with jobs that no quote was given for: a simulated one of streams.

    Its core knew speeds and powers of each stream in each pool. The ledger does not have them,
    nor what was commanded, so neither half of a replay can be had.
    """
    submitted = [event for event in day.events if isinstance(event, ev.JobSubmitted)]
    lacking = [event for event in submitted if QUOTED - event.quote.keys()]
    if not lacking:
        return
    streams = sorted({str(event.spec.get("stream") or event.kind) for event in lacking})
    what = f"run {day.run!r} is a simulated one of streams, which cannot be replayed"
    why = (
        f"{len(lacking):,} of {len(submitted):,} jobs ({', '.join(streams[:5])}) have no quote, "
        "and what the scheduler knew of their speed in each pool is not in a ledger"
    )
    hint = (
        "replay a day that the works lived, or a simulated one of planned jobs; "
        "`gigafactory simulate` with the same --seed gives the same course again"
    )
    raise Refused(Fault(what, shown(path), why, hint))


def _path(keys: Iterable[int | str]) -> str:
    return ".".join(("plan", *map(str, keys)))


def _rows(path: Path | str, run: str | None = None, kinds: Iterable[str] = ()) -> list[Row]:
    if not is_url(path) and not Path(path).exists():
        why, hint = "there is no such file", "`gigafactory up laptop --once` writes one, or name it"
        raise Refused(Fault("no ledger to replay", shown(path), why, hint))
    if is_url(path) or Path(path).suffix != ".parquet":
        try:
            return list(read_store(path, run, kinds=kinds))
        except LedgerFailure as error:
            raise Refused(_no_ledger(path, str(error))) from None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(Row._fields))
        rows = [Row(**{**row, "body": json.loads(row["body"])}) for row in table.to_pylist()]
    except (pa.ArrowException, ValueError) as error:
        raise Refused(_no_ledger(path, str(error))) from None
    wanted = (r for r in rows if run in (None, r.run) and (not kinds or r.kind in kinds))
    return sorted(wanted, key=lambda row: row.seq)


def _no_ledger(path: Path | str, why: str) -> Fault:
    what = f"{Path(shown(path)).name} is no ledger"
    return Fault(what, shown(path), why.splitlines()[0], "name another file")


@dataclass(frozen=True)
class Difference:
    """Where the replayed core first parts from the lived one."""

    at_s: float
    event: str
    subject: str
    what: str
    lived: Any
    replayed: Any


@dataclass(frozen=True)
class Again:
    """What came of giving the day's events to the core anew."""

    events: int
    """Core events given."""
    starts: int
    """Of them starts, each as the core said it."""
    commands: int
    """Commands that were recorded and are equal, byte for byte."""
    untold: int
    """Answers that nobody recorded: an old ledger, or a crash just then."""
    difference: Difference | None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.difference is None


def again(day: Day) -> Again:
    """Give every lived event to a fresh core, up to the first difference.

    A works that restarts gives its new core the whole ledger too, so a day with restarts in it
    is still one unbroken line of events.
    """
    factory = Factory(**day.plan.tables())
    heard = _heard(day.events)
    first_told = next((i for i, (_, said) in enumerate(heard) if said is not None), len(heard))
    due: dict[str, Start] = {}
    events = starts = commands = untold = 0

    def part(event: ev.Event, what: str, lived: Any, replayed: Any) -> Again:
        kind, subject = type(event).__name__, event.subject
        difference = Difference(event.at_s, kind, subject, what, lived, replayed)
        return Again(events, starts, commands, untold, difference)

    for i, (event, said) in enumerate(heard):
        if isinstance(event, ev.CoreEvent) and not factory.accepts(event):
            return part(event, "the core does not let it happen", asdict(event), None)
        events += isinstance(event, ev.CoreEvent)
        if isinstance(event, ev.JobStarted):
            lived, replayed = _start(event), due.pop(event.job, None)
            if lived != replayed:
                what = "another start than the core's"
                return part(event, what, _told(lived), replayed and _told(replayed))
            starts += 1
        answer = factory.apply(event)
        due.update({command.job: command for command in answer if isinstance(command, Start)})
        told = [_told(command) for command in answer]
        if said is None and told and (i < first_told or _was_last_word(heard, i, answer)):
            untold += 1
        elif _canonical(told) != _canonical(said or ()):
            return part(event, "other commands", list(said or ()), told)
        else:
            commands += len(told)
    return Again(events, starts, commands, untold, None)


def _heard(events: Iterable[ev.Event]) -> list[tuple[ev.Event, tuple[ev.Json, ...] | None]]:
    """What the core heard, each with the answer that was recorded, if one was."""
    heard: list[tuple[ev.Event, tuple[ev.Json, ...] | None]] = []
    for event in events:
        if isinstance(event, ev.CoreEvent | ev.RunOpened):
            heard.append((event, None))
        elif isinstance(event, ev.Commanded) and heard:
            answered = -1 - event.back
            before, said = heard[answered]
            heard[answered] = (before, (said or ()) + event.commands)
    return heard


def _was_last_word(heard: list[tuple[ev.Event, Any]], i: int, answer: list[Command]) -> bool:
    """Whether the works that wrote event `i` answered no more: it died, or the ledger ends.

    An answer is written down before it is carried out, so none of its starts can follow. Events
    that were written together are answered together, so they may follow, and their answers lack.
    """
    joined = {event.node for event, _ in heard[: i + 1] if isinstance(event, ev.NodeJoined)}
    for event, said in heard[i + 1 :]:
        if isinstance(event, ev.NodeJoined) and event.node in joined:
            return True
        if said is not None and not isinstance(event, ADOPTING):
            return False
        if isinstance(event, ev.JobStarted) and _start(event) in answer:
            return False
    return True


def _start(event: ev.JobStarted) -> Start:
    return Start(
        event.job, event.attempt, event.pool, event.nodes, event.chips, event.from_step
    )  # fmt: skip


def _told(command: Command) -> ev.Json:
    return {"command": type(command).__name__, **asdict(command)}


def _canonical(commands: Iterable[ev.Json]) -> str:
    return json.dumps(list(commands), sort_keys=True, separators=(",", ":"))
