"""A day that the twin lives freely, from what came from outside alone. Modelled. Times in s.

It is given a lived day's submissions, cancellations, nodes and caps, and lets the same core
schedule them, each job taking what it was quoted; or what it took, so that the scheduling alone
is the twin's. `lives` reads the jobs of either day from its events.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gigafactory.factory import Command, Factory, Start, Stop, Wake
from gigafactory.factory import events as ev
from gigafactory.twin.replay import Day

OUTSIDE = (
    ev.JobSubmitted | ev.JobCancelled | ev.NodeJoined | ev.NodeLost | ev.NodeDrained
    | ev.SiteCapped | ev.PoolOpened
)  # fmt: skip
"""What no scheduler decides."""


@dataclass
class Attempt:
    """One attempt, as its events tell it."""

    number: int
    chips: int
    decided_s: float
    """When the core said start; the works wrote it down and began a moment later."""
    started_s: float
    cause: str = ""
    """What happened when the core decided."""
    ready_s: float | None = None
    ended_s: float | None = None
    outcome: str = ""
    passed: bool = True
    why: str = ""


@dataclass
class Life:
    """One job of a day. A service counts as ended when it first answers."""

    submitted: ev.JobSubmitted
    attempts: list[Attempt] = field(default_factory=list)
    cancelled: bool = False

    @property
    def last(self) -> Attempt | None:
        """The attempt that made it: the one that was done, or that first answered."""
        made = (a for a in self.attempts if self._made_s(a) is not None)
        return next(made, None)

    @property
    def ended_s(self) -> float | None:
        """When the job was done, or first answered; None where it never was."""
        return None if self.last is None else self._made_s(self.last)

    @property
    def outcome(self) -> str:
        """In a word."""
        if self.last is not None:
            return "answers" if self.submitted.service else "done"
        if self.cancelled:
            return "cancelled"
        return (self.attempts[-1].outcome or "running") if self.attempts else "never started"

    def _made_s(self, attempt: Attempt) -> float | None:
        if self.submitted.service:
            return attempt.ready_s
        return attempt.ended_s if attempt.outcome == "done" else None


def lives(events: Iterable[ev.Event]) -> dict[str, Life]:
    """Every job of a day, in the order they were submitted."""
    found: dict[str, Life] = {}
    decided_s, cause = 0.0, ""
    for event in events:
        if isinstance(event, ev.JobSubmitted):
            found[event.job] = Life(event)
        elif isinstance(event, ev.JobEvent) and event.job not in found:
            continue  # `again` tells of it
        elif isinstance(event, ev.JobCancelled):
            found[event.job].cancelled = True
        elif isinstance(event, ev.JobStarted):
            attempt = Attempt(event.attempt, sum(event.chips), decided_s, event.at_s, cause)
            found[event.job].attempts.append(attempt)
        elif isinstance(event, ev.AttemptEvent):
            _note(found[event.job].attempts, event)
        if isinstance(event, ev.CoreEvent) and not isinstance(event, ev.JobStarted):
            decided_s, cause = event.at_s, _cause(event)
    return found


def _cause(event: ev.CoreEvent) -> str:
    match event:
        case ev.JobSubmitted():
            return f"{event.job} was submitted"
        case ev.JobLost():
            return f"{event.job} was lost ({event.reason})"
        case ev.JobEvent():
            return f"{event.job} gave its chips back"
        case ev.NodeJoined():
            return f"{event.node} stood ready"
        case ev.Ticked():
            return "its pause was over"
        case _:
            return f"{event.subject} changed"


def _note(attempts: list[Attempt], event: ev.AttemptEvent) -> None:
    attempt = next((a for a in attempts if a.number == event.attempt), None)
    if attempt is None:  # commanded, and lost before it was a process
        return
    if isinstance(event, ev.JobReported):
        if event.figures.get("ready") and attempt.ready_s is None:
            attempt.ready_s = event.at_s
    elif isinstance(event, ev.JobDone | ev.JobFailed | ev.JobLost | ev.JobStopped):
        attempt.ended_s = event.at_s
        attempt.outcome = type(event).__name__.removeprefix("Job").lower()
        attempt.passed = getattr(event, "passed", True)
        attempt.why = getattr(event, "reason", "") or getattr(event, "error", {}).get("what", "")


@dataclass(frozen=True)
class _Stretch:
    """A job on all the chips it asks for, up to an end that is its own."""

    work_s: float | None
    """None for a service that just goes on."""
    outcome: str = ""
    ready_s: float | None = None
    passed: bool = True


def live(day: Day, lived: bool = False) -> list[ev.Event]:
    """Let the twin live the day from what came from outside alone.

    Every job takes what it was quoted and nothing fails; with `lived`, each takes and suffers
    what it did.
    """
    return list(_Course(day, lived).live())


def _quoted(job: ev.JobSubmitted) -> _Stretch:
    overhead_s, work_s = job.quote["overhead_s"]["value"], job.quote["work_s"]["value"]
    if job.service:
        return _Stretch(None, ready_s=overhead_s)
    return _Stretch(overhead_s + work_s, "done")


def _lived(life: Life) -> list[_Stretch]:
    """What a job went through; an attempt that was told to stop is part of what followed it."""
    quoted, stretches = _quoted(life.submitted), []
    work_s, ready_s = 0.0, None
    for one in life.attempts:
        width = one.chips / life.submitted.chips
        if one.ready_s is not None and ready_s is None:
            ready_s = work_s + (one.ready_s - one.started_s) * width
        if one.ended_s is not None:
            work_s += (one.ended_s - one.started_s) * width
        if one.outcome in ("done", "failed", "lost"):
            stretches.append(_Stretch(work_s, one.outcome, ready_s, one.passed))
            work_s, ready_s = 0.0, None
    if not life.attempts or life.attempts[-1].outcome in ("", "stopped"):
        # The ledger, or its owner, ended it: nobody knows how long it would have taken.
        if life.submitted.service or life.cancelled:
            stretches.append(_Stretch(None, ready_s=ready_s or quoted.ready_s))
        else:
            assert quoted.work_s is not None
            stretches.append(_Stretch(max(quoted.work_s, work_s), "done"))
    return stretches


class _Course:
    """A day of the core in which an attempt takes what is given for it."""

    def __init__(self, day: Day, lived: bool):
        self.factory = Factory(**day.plan.tables())
        self.lives = lives(day.events)
        self.stretches = {
            job: _lived(life) if lived else [_quoted(life.submitted)]
            for job, life in self.lives.items()
        }
        self.began_s: dict[str, float] = {}
        self.spent_s = dict.fromkeys(self.lives, 0.0)
        """Of the stretch a job is in, by attempts before the one that runs."""
        self.queue: list[tuple[float, int, ev.Event]] = []
        self.order = 0
        for event in _from_outside(day.events):
            self._expect(event)

    def live(self) -> Iterator[ev.Event]:
        while self.queue:
            waiting = deque([heapq.heappop(self.queue)[2]])
            while waiting:
                event = waiting.popleft()
                if isinstance(event, ev.CoreEvent) and not self.factory.accepts(event):
                    continue
                yield event
                if isinstance(event, ev.JobFailed | ev.JobLost) and self.stretches[event.job][1:]:
                    self.stretches[event.job].pop(0)
                    self.spent_s[event.job] = 0.0
                for command in self.factory.apply(event):
                    waiting.extend(self._carry_out(event.at_s, command))

    def _expect(self, event: ev.Event) -> None:
        heapq.heappush(self.queue, (event.at_s, self.order, event))
        self.order += 1

    def _carry_out(self, now_s: float, command: Command) -> Iterator[ev.Event]:
        if isinstance(command, Wake):
            self._expect(ev.Ticked(command.at_s))
        elif isinstance(command, Stop):
            self.spent_s[command.job] += now_s - self.began_s[command.job]
            yield ev.JobStopped(now_s, command.job, command.attempt, {})
        elif isinstance(command, Start):
            yield ev.JobStarted(
                now_s, command.job, command.attempt, command.pool, command.nodes, command.chips,
                command.from_step,
            )  # fmt: skip
            self._run(now_s, command)

    def _run(self, now_s: float, start: Start) -> None:
        """Expect what becomes of an attempt. On fewer chips it takes as much longer: assumed."""
        who, stretch = (start.job, start.attempt), self.stretches[start.job][0]
        slower = self.lives[start.job].submitted.chips / sum(start.chips)
        self.began_s[start.job] = now_s
        spent_s = self.spent_s[start.job]
        if stretch.ready_s is not None:
            ready_s = now_s + max(stretch.ready_s - spent_s, 0.0) * slower
            self._expect(ev.JobReported(ready_s, *who, {"ready": True}))
        if stretch.work_s is None:
            return
        at_s = now_s + max(stretch.work_s - spent_s, 0.0) * slower
        ends = {
            "done": ev.JobDone(at_s, *who, stretch.passed, {}, {}),
            "failed": ev.JobFailed(at_s, *who, {}, {}),
            "lost": ev.JobLost(at_s, *who, "as it was lived", {}),
        }
        self._expect(ends[stretch.outcome])


def _from_outside(events: Sequence[ev.Event]) -> list[ev.Event]:
    """What no scheduler decided; the drain with which the works was closed at last left out."""
    joins = [i for i, event in enumerate(events) if isinstance(event, ev.NodeJoined)]
    last = joins[-1] if joins else -1
    return [
        event
        for i, event in enumerate(events)
        if isinstance(event, OUTSIDE) and not (i > last and isinstance(event, ev.NodeDrained))
    ]
