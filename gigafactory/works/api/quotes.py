"""Quotes for jobs that come while the factory runs, a thousand a second where they are alike.

A quote is made by `plan.submit`, as for a job of the blueprint. Jobs that differ only in name,
owner and order are priced once, until something new was measured.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from gigafactory import plan
from gigafactory.blueprint.load import grow
from gigafactory.blueprint.schema import Blueprint, Workload
from gigafactory.faults import Fault, Refused
from gigafactory.plan import Measured, PlannedJob
from gigafactory.works import walls
from gigafactory.works.history import History

if TYPE_CHECKING:
    from gigafactory.works.driver import Works

FRESH_S = 1.0  # what was measured since is in no quote yet
ALIKE_MAX = 4096  # prices that are remembered
HINTS_MAX = 200  # names among which a misspelt one is sought
ASIDE = {"tenant", "after", "through", "of", "priority", "retries", "seed", "gate", "prompt"}
"""What of a job says nothing about what it takes."""


class Quoter:
    """Plans jobs for a works that runs; nothing passes here that would fail in a blueprint."""

    def __init__(self, works: "Works", blueprint: Blueprint):
        self._works, self._blueprint = works, blueprint
        self._history = History(works.home.path, works.home.ledger)
        self._measured = Measured()
        self._read_s = float("-inf")
        self._lock = asyncio.Lock()
        self._alike: dict[tuple, PlannedJob] = {}

    async def freshen(self) -> None:
        """Learn what jobs took up to now."""
        async with self._lock:
            if time.monotonic() - self._read_s > FRESH_S:
                measured = await asyncio.to_thread(self._history.measured)
                self._read_s = time.monotonic()
                if measured != self._measured:
                    self._measured = measured
                    self._alike.clear()

    def seen_by(
        self, sees: Callable[[str], bool], coming: Mapping[str, PlannedJob] | None = None
    ) -> Blueprint:
        """The factory as somebody knows it: the tenants they see, and the jobs of those.

        With jobs that are `coming`, in one batch with what is asked about.
        """
        tenants = {name: of for name, of in self._works.house.tenants.items() if sees(name)}
        known = _Known(self._works.planned, {} if coming is None else coming, sees)
        return self._blueprint.model_copy(update={"workloads": known, "tenants": tenants})

    def planned(self, seen: Blueprint, name: str, work: Any) -> PlannedJob:
        """One more job, quoted. Raises `Refused` with every fault."""
        if name in self._works.planned:
            raise Refused(exists(name))
        known = grow(seen, name, work)
        like = (known.model_dump_json(exclude=ASIDE), *_made_from(seen, known))
        job = self._alike.get(like)
        if job is None:
            job = plan.submit(seen, name, known, self._measured)
            if len(self._alike) >= ALIKE_MAX:
                self._alike.clear()
            self._alike[like] = job
        spec = job.spec.model_copy(update={"name": name, "work": known})
        quote = job.quote.model_copy(update={"job": name})
        reference = job.reference and job.reference.model_copy(update={"job": name})
        job = job.model_copy(update={"spec": spec, "quote": quote, "reference": reference})
        if fault := self._works.spending.refusal(job) or walls.refusal(self._works, job):
            raise Refused(fault)
        return job


class _Known(Mapping[str, Workload]):
    """Jobs by name, those of tenants that one sees; only the newest are counted up, as hints."""

    def __init__(
        self,
        planned: Mapping[str, PlannedJob],
        coming: Mapping[str, PlannedJob],
        sees: Callable[[str], bool],
    ):
        self._planned, self._coming, self._sees = planned, coming, sees

    def __getitem__(self, name: str) -> Workload:
        job = self._planned.get(name) or self._coming[name]
        work = job.spec.work
        if not self._sees(work.tenant):
            raise KeyError(name)
        return work

    def __iter__(self) -> Iterator[str]:
        newest = islice(reversed(list(self._planned)), HINTS_MAX)
        return (name for name in newest if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def exists(name: str) -> Fault:
    """The fault of a name that is taken."""
    return Fault(f"{name!r} exists already", "name", "names are for ever", "choose another")


def _made_from(seen: Blueprint, work: Workload) -> Iterator[str]:
    """What of the jobs that a job stands on decides what it takes."""
    told = {"kind", "model", "learns", "world", "width", "height"}
    for name in work.needs:
        yield seen.workloads[name].model_dump_json(include=told)
