"""What happens, in order: durable first, then told to the core, then carried out.

Events that stand in nobody's way are written in one transaction, a *wave*, so that thousands
of jobs a second cost one commit for many; what the core commands in answer makes the next wave.
Replaying the ledger gives the same state, since the core hears events in the order of the rows.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gigafactory.factory import Command, Factory
from gigafactory.factory import events as ev
from gigafactory.failpoint import failpoint
from gigafactory.ledger.store import Ledger, LedgerFailure

WAVE_MAX = 2000  # events; more would keep the loop from everything else for too long
RETRY_S = 0.5  # after the ledger could not be written: a full disk, a server that is gone

log = logging.getLogger(__name__)


@dataclass
class _Waiting:
    """Events that somebody wants to happen, and what became of them."""

    events: deque[ev.Event]
    wanted: int
    patient: bool
    """Whether they wait for a ledger that cannot be written: what happened, happened."""
    told: asyncio.Future[Any]
    """Of the patient: all happened that followed. Of the others: which were accepted."""
    accepted: list[bool] = field(default_factory=list)

    def end(self, failure: LedgerFailure | None = None) -> None:
        """Tell who waits; what was not reached was not accepted."""
        if self.told.done():
            return
        if failure is not None and not any(self.accepted):
            self.told.set_exception(failure)
        else:
            self.told.set_result((self.accepted + [False] * self.wanted)[: self.wanted])


class Sequence:
    """The one line in which events reach the ledger and the core.

    `carry_out` is told of each event with what the core commands in answer, when both are
    durable and decided, and gives the events that follow from it.
    """

    def __init__(
        self,
        ledger: Ledger,
        run: str,
        factory: Factory,
        carry_out: Callable[[ev.Event, list[Command]], Iterable[ev.Event]],
    ):
        self._ledger, self._run, self._factory = ledger, run, factory
        self._carry_out = carry_out
        self._waiting: deque[_Waiting] = deque()
        self._answers: list[ev.Event] = []
        self._pump: asyncio.Task | None = None
        self._broken: BaseException | None = None
        self.trouble = ""
        """Why the ledger cannot be written, while it cannot."""

    async def happen(self, *happened: ev.Event) -> None:
        """Let events happen, with all that follows from them; returns when that is done.

        One that may not happen (of an attempt that was fenced off, a second end) is dropped. A
        ledger that cannot be written is waited for.
        """
        await self._join(happened, patient=True)

    async def accept(self, *wanted: ev.Event) -> list[bool]:
        """Which of the events were accepted; those are durable when this returns.

        Raises `LedgerFailure` where the ledger cannot be written and none of them is in it.
        """
        return await self._join(wanted, patient=False)

    def _join(self, events: Iterable[ev.Event], patient: bool) -> asyncio.Future:
        if self._broken is not None:  # What was decided was not carried out: only a new start
            raise self._broken  # from the ledger makes it whole.
        told = asyncio.get_running_loop().create_future()
        told.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        queued = deque(events)
        self._waiting.append(_Waiting(queued, len(queued), patient, told))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run_dry())
        return told

    async def _run_dry(self) -> None:
        """Wave after wave until nobody waits."""
        try:
            while self._waiting:
                await self._turn()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            for waiting in self._waiting:
                if not waiting.told.done():
                    waiting.told.set_exception(error)
            self._waiting.clear()
            self._broken = error

    async def _turn(self) -> None:
        """One wave: from the ledger's commit to what follows."""
        wave = self._wave()
        events = [event for _, event, _ in wave]
        if events:
            try:
                written = self._ledger.append(self._run, *self._answers, *events)
                await asyncio.wrap_future(written)
            except LedgerFailure as failure:
                self._put_back(wave, failure)
                await asyncio.sleep(RETRY_S)
                return
            self.trouble, self._answers = "", []
        failpoint("sequence.durable")
        left = sum(isinstance(event, ev.CoreEvent) for event in events)
        for waiting, event, place in wave:
            waiting.accepted[place] = True
            left -= isinstance(event, ev.CoreEvent)
            commands = self._factory.apply(event, accepted=True)
            if commands:
                said = tuple({"command": type(c).__name__, **vars(c)} for c in commands)
                self._answers.append(ev.Commanded(event.at_s, said, left))
            self._follow(waiting, self._carry_out(event, commands))
        failpoint("sequence.applied")
        if self._answers and not any(waiting.events for waiting in self._waiting):
            # Nobody waits for them: a crash loses only the answers to the last wave.
            self._ledger.append(self._run, *self._answers)
            self._answers = []
        for waiting in self._waiting:
            if not waiting.events:
                waiting.end()
        self._waiting = deque(waiting for waiting in self._waiting if waiting.events)

    def _wave(self) -> list[tuple[_Waiting, ev.Event, int]]:
        """Events that can be written together: none changes whether another may happen.

        Those are words on different jobs. Anything else goes alone. Each with who wants it, and
        where its verdict belongs.
        """
        wave: list[tuple[_Waiting, ev.Event, int]] = []
        subjects: set[str] = set()
        for waiting in self._waiting:
            while waiting.events:
                event = waiting.events[0]
                alone = isinstance(event, ev.CoreEvent) and not isinstance(event, ev.JobEvent)
                if len(wave) == WAVE_MAX or (wave and (alone or _stands_on(event, subjects))):
                    return wave
                waiting.events.popleft()
                waiting.accepted.append(False)
                if not isinstance(event, ev.CoreEvent) or self._factory.accepts(event):
                    wave.append((waiting, event, len(waiting.accepted) - 1))
                    subjects.add(event.subject)
                    if alone:
                        return wave
        return wave

    def _follow(self, waiting: _Waiting, events: Iterable[ev.Event]) -> None:
        """Put what follows behind what it follows from; who is not patient does not wait for it."""
        if waiting.patient:
            waiting.events.extend(events)
        elif follows := deque(events):
            told = asyncio.get_running_loop().create_future()
            told.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            self._waiting.append(_Waiting(follows, len(follows), True, told))

    def _put_back(self, wave: list[tuple[_Waiting, ev.Event, int]], failure: LedgerFailure) -> None:
        """Nothing of the wave happened: who is patient waits, the others are told."""
        if not self.trouble:
            log.error("the ledger cannot be written: %s", failure)
        self.trouble = str(failure)
        for waiting, event, _ in reversed(wave):
            waiting.events.appendleft(event)
        for waiting in self._waiting:
            if not waiting.patient:
                waiting.end(failure)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.patient)


def _stands_on(event: ev.Event, subjects: set[str]) -> bool:
    """Whether the event may depend on one of a wave: about the same, or after it."""
    if event.subject in subjects:
        return True
    after = (*event.after, *event.through) if isinstance(event, ev.JobSubmitted) else ()
    return not subjects.isdisjoint(after)
