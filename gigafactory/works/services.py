"""Services: names that clients ask for, the replicas that answer, and how many there are.

A service is a workload of kind `serve`, and its first replica the job of that name. Further ones
are jobs `NAME.2`, `NAME.3`, accepted like any other; to let one go is to cancel it. Numbers come
from the jobs that the ledger knows and are never used again, so after a crash all that is here
is there again, but who was asked when. A route is a name that stands for services, by weight.

When waiting requests have waited `PATIENCE_S`, all replicas answer, and chips are free, one more
is started. When the requests under way would have fitted one replica fewer for `idle`, the newest
gets no more of them, and goes when it has answered its last. With `replicas_min: 0` the last one
goes too; the next request finds the service `waking`.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from gigafactory.blueprint.schema import Serve
from gigafactory.ledger.store import LedgerFailure, read
from gigafactory.plan import PlannedJob
from gigafactory.works.driver import Works

BY = "services"
PATIENCE_S = 3.0  # requests wait so long before there is one more replica
FAILED_S = 5.0  # a replica that could not be reached is asked last for so long
DRAIN_S = 1.0  # from the last request that may be sent to a replica to its end, at least
GOING = ("stopping", "cancelled")
SPENT = ("failed", "blocked")
COMING = ("starting", "running", "paused")  # has or will have its chips; running is not yet ready


@dataclass(frozen=True)
class Replica:
    """One engine that answers; `lacks` are the things of OpenAI's protocol that it has not.

    `context_tokens` bounds one answer, `cache_tokens` prompt and answer together. `key` is what
    the engine wants to hear, as a bearer token. `weight` is its share of what the name is asked.
    """

    job: str
    url: str
    model: str
    context_tokens: int = 0
    cache_tokens: int = 0
    engine: str = "transformers"
    lacks: frozenset[str] = frozenset()
    weight: float = 1.0
    key: str = ""

    @property
    def seats(self) -> int:
        """Requests that it answers side by side."""
        return max(1, self.cache_tokens // max(1, self.context_tokens))


@dataclass(frozen=True)
class Route:
    """Whom to ask, in order. `waking`: nobody yet, but soon; the request may wait. `gone`: nobody,
    and nobody will, since all that is left of it failed or stands on a gate that was not passed."""

    name: str
    ready: list[Replica]
    known: bool = True
    waking: bool = False
    gone: bool = False


@dataclass
class _Name:
    """What a name stands for, as of the last turn."""

    weighted: list[Replica]
    spare: list[Replica]
    """Of all fallbacks, and theirs."""
    fallback: tuple[str, ...]
    asleep: frozenset[str]
    """Services with a share of the requests that nobody answers for."""
    waking: bool
    gone: bool
    turns: dict[str, float]
    """How much longer than its share each replica has waited for its turn."""


@dataclass(eq=False)
class _Service:
    """A service, as of the last turn."""

    name: str
    jobs: list[str] = field(default_factory=list)
    """All it ever had, in order of their numbers."""
    alive: list[str] = field(default_factory=list)
    """Those that have not ended and are not to be let go."""
    leaving: list[str] = field(default_factory=list)
    spent: int = 0
    """Those that failed for good: each keeps its place, or a broken model would never end."""
    ready: list[Replica] = field(default_factory=list)
    over: bool = False
    """A person has cancelled it."""
    stuck: bool = False
    """What it stands on is not there yet, or what it had has failed."""
    busy_s: float = 0.0
    """When it last needed every replica that it has."""
    under_way: int = 0

    def needs_all(self) -> bool:
        """Whether the requests under way would not fit one replica fewer."""
        seats = self.ready[0].seats if self.ready else 1
        return self.under_way > (len(self.alive) - 1) * seats


class Services:
    """What the gateway asks for replicas, and the wheel that keeps their number right."""

    def __init__(self, works: Works, clock: Callable[[], float] = time.monotonic):
        self.works = works
        self._clock = clock
        self._routes: dict[str, dict[str, Any]] = works.plan.blueprint.get("routes") or {}
        self._services: dict[str, _Service] = {}
        self._names: dict[str, _Name] = {}
        self._seen: list[str] = []
        self._heard: dict[str, tuple[dict[str, Any], Replica]] = {}
        self._queued: dict[str, tuple[int, float]] = {}
        self._wanted: set[str] = set()
        self._leaving: dict[str, float] = {}
        self._failed: dict[str, float] = {}
        self._under_way: Counter[str] = Counter()
        cancelled = read(works.home.ledger, works.run, kinds=["JobCancelled"])
        self._let_go = {row.subject for row in cancelled if row.body["by"] == BY}
        self._look()

    def names(self) -> list[str]:
        """Every name that may be asked for, whether it answers now or not."""
        return list(self._names)

    def route(self, name: str) -> Route | None:
        """Whom to ask for `name`; None where nothing has that name. To ask wakes it."""
        at = self._names.get(name)
        if at is None:
            return None
        if self._failed:
            now = self._clock()
            self._failed = {job: s for job, s in self._failed.items() if s > now}
        ready = self._in_turn(name)
        if self._failed:
            ready += [r for r in (*at.weighted, *at.spare) if r.job in self._failed]
        if len(ready) > 1:
            ready = list({replica.job: replica for replica in ready}.values())
        return Route(name, ready, True, at.waking and not ready, at.gone and not ready)

    def ready(self, name: str) -> bool:
        """Whether somebody answers for `name`. To look wakes nothing."""
        at = self._names.get(name)
        return at is not None and bool(at.weighted or at.spare)

    def demand(self, name: str, queued: int) -> None:
        """So many requests for `name` wait now, until told otherwise."""
        if queued <= 0:
            self._queued.pop(name, None)
        else:
            since_s = self._queued[name][1] if name in self._queued else self._clock()
            self._queued[name] = queued, since_s

    def used(self, job: str, under_way: int = 0) -> None:
        """A request was sent to a replica (+1), has ended there (-1), or goes on."""
        self._under_way[job] += under_way
        service = self._services.get(service_of(job))
        if service is not None:
            service.under_way += under_way
            if len(service.alive) <= 1 or service.needs_all():
                service.busy_s = self._clock()

    def failed(self, job: str) -> None:
        """A replica could not be reached; for a while it is asked last."""
        self._failed[job] = self._clock() + FAILED_S

    async def turn(self) -> None:
        """Start a replica that is wanted, let go of one too many; at most one a service."""
        self._look()
        pressed = self._pressed()
        for service in list(self._services.values()):
            with suppress(LedgerFailure):  # nothing was done; the next turn tries again
                await self._scale(service, pressed.get(service.name))

    def has(self, name: str) -> bool:
        """Whether a service of this name was ever accepted."""
        return name in self._services

    async def end(self, name: str, by: str) -> bool:
        """Cancel a whole service, every replica of it; False where nothing of it lives."""
        service = self._services.get(name)
        here = [] if service is None else [*service.alive, *service.leaving]
        told = [await self.works.cancel_one(job, by) for job in here]
        return any(told)

    def _in_turn(self, name: str) -> list[Replica]:
        """The sound replicas of a name, its fallbacks last.

        Smooth weighted round robin, as nginx has it: each gains its weight, the richest goes
        first and pays what all have gained. No chance in it, and no bursts.
        """
        at = self._names[name]
        self._wanted |= at.asleep
        sound = [r for r in at.weighted if r.job not in self._failed]
        if not sound:
            return [r for other in at.fallback for r in self._in_turn(other)]
        if len(sound) > 1:
            for replica in sound:
                at.turns[replica.job] = at.turns.get(replica.job, 0.0) + replica.weight
            sound.sort(key=lambda r: -at.turns[r.job])
            at.turns[sound[0].job] -= sum(replica.weight for replica in sound)
        return sound + [r for r in at.spare if r.job not in self._failed]

    def _look(self) -> None:
        """See what there is: services and their jobs, who is ready, what each name stands for."""
        self._find()
        for service in self._services.values():
            self._update(service)
        old, self._names = self._names, {}
        for service in self._services.values():
            if not service.over:
                self._names[service.name] = self._name(service.name, {service.name: 1.0})
        for name, route in self._routes.items():
            self._names[name] = self._name(name, route["weights"], tuple(route["fallback"]))
        for name, at in self._names.items():
            at.fallback = tuple(other for other in at.fallback if other in self._names)
            turns = old[name].turns if name in old else {}
            at.turns = {r.job: turns[r.job] for r in at.weighted if r.job in turns}
        for at in self._names.values():
            at.spare = list(self._spare(at))
            at.waking |= any(self._names[other].waking for other in at.fallback)
        self._wanted = {name for name in self._wanted if not self._services[name].alive}

    def _find(self) -> None:
        """Take note of jobs that came since; no other pass over all jobs is made."""
        planned, seen = self.works.planned, self._seen
        if len(planned) == len(seen) and (not seen or next(reversed(planned)) == seen[-1]):
            return
        if len(planned) <= len(seen):  # one was taken back: begin anew
            seen.clear()
            for service in self._services.values():
                service.jobs = []
        new = list(islice(planned.items(), len(seen), None))
        seen += [job for job, _ in new]
        for job, at in new:
            if isinstance(at.spec.work, Serve):
                name = service_of(job)
                service = self._services.setdefault(name, _Service(name, busy_s=self._clock()))
                service.jobs.append(job)
                service.jobs.sort(key=number_of)

    def _update(self, service: _Service) -> None:
        status = {job: self._status(job) for job in service.jobs}
        here = [job for job, at in status.items() if at not in ("", *SPENT, *GOING)]
        service.leaving = [job for job in here if job in self._leaving]
        service.alive = [job for job in here if job not in self._leaving]
        service.spent = sum(at in SPENT for at in status.values())
        service.ready = [r for job in service.alive if (r := self._replica(job, status[job]))]
        by_hand = [j for j, at in status.items() if at in GOING and j not in self._let_go]
        service.over = service.name in by_hand or bool(by_hand and not service.alive)
        waiting = all(status[job] == "waiting" for job in service.alive)
        service.stuck = waiting if service.alive else service.spent > 0
        service.under_way = sum(self._under_way[job] for job in service.alive)
        coming = [job for job in service.alive if status[job] in COMING]
        if len(service.ready) < len(coming) or (service.alive and service.needs_all()):
            service.busy_s = self._clock()

    def _status(self, job: str) -> str:
        try:
            return self.works.factory.status(job)
        except KeyError:  # not yet durable, or not accepted
            return ""

    def _replica(self, job: str, status: str) -> Replica | None:
        """The replica, once its engine answers; its report is read once."""
        said = self.works.endpoints.get(job)
        if said is None or status != "running":
            return None
        heard = self._heard.get(job)
        if heard is None or heard[0] is not said:
            file = said.get("key_file")
            if file and not Path(file).exists():
                return None
            self._heard[job] = heard = (
                said,
                Replica(
                    job,
                    said["endpoint"],
                    said["model"],
                    said.get("context_tokens", 0),
                    said.get("cache_tokens", 0),
                    said.get("engine", "transformers"),
                    frozenset(said.get("lacks", ())),
                    key=Path(file).read_text(encoding="ascii") if file else "",
                ),
            )
        return heard[1]

    def _name(self, name: str, weights: dict[str, float], fallback: tuple[str, ...] = ()) -> _Name:
        shares = {
            self._services[service]: weight
            for service, weight in weights.items()
            if weight > 0 and service in self._services and not self._services[service].over
        }
        # Whole numbers as long as the weights are, so that no rounding spoils the turns.
        parts = math.lcm(*(len(service.ready) for service in shares if service.ready))
        return _Name(
            weighted=[
                replace(replica, weight=weight * (parts // len(service.ready)))
                for service, weight in shares.items()
                for replica in service.ready
            ],
            spare=[],
            fallback=fallback,
            asleep=frozenset(s.name for s in shares if not s.alive and not s.stuck),
            waking=any(not service.stuck for service in shares),
            gone=bool(shares) and all(s.spent and not s.alive for s in shares),
            turns={},
        )

    def _spare(self, at: _Name) -> Iterator[Replica]:
        for other in at.fallback:
            yield from self._names[other].weighted
            yield from self._spare(self._names[other])

    def _pressed(self) -> dict[str, str]:
        """Services that need one more replica, and for which name; of a route, the one whose
        replicas have the largest shares."""
        pressed, now = {}, self._clock()
        for name, (_, since_s) in self._queued.items():
            if name in self._names and now - since_s >= PATIENCE_S:
                weights = self._routes.get(name, {"weights": {name: 1.0}})["weights"]
                room = [
                    (weights[s.name] / (1 + len(s.alive)), s.name)
                    for s in self._services.values()
                    if weights.get(s.name) and self._may_grow(s)
                ]
                if room:
                    pressed[max(room)[1]] = name
        return pressed

    def _may_grow(self, service: _Service) -> bool:
        """Whether all it has answers, it may have more, and chips are free."""
        job = self.works.planned[service.name]
        work = job.spec.work
        assert isinstance(work, Serve)
        room = len(service.alive) + service.spent < work.replicas_max
        room = room and len(service.ready) == len(service.alive)
        return room and not service.over and not service.stuck and self._free(job) >= work.chips

    def _free(self, job: PlannedJob) -> int:
        """Chips free in the best of the pools where the job may run."""
        places = [place.pool for place in self.works.plan.places]
        pools = self.works.factory.state.pools
        return max(int(pools[places.index(pool)]["free"]) for pool in job.pools if pool in places)

    async def _scale(self, service: _Service, pressed: str | None) -> None:
        """One step towards the right number of replicas."""
        work = self.works.planned[service.name].spec.work
        assert isinstance(work, Serve)
        now = self._clock()
        done = [
            job
            for job in service.leaving
            if now - self._leaving[job] >= DRAIN_S and not self._under_way[job]
        ]
        for job in [*service.alive, *service.leaving] if service.over else done:
            if await self.works.cancel_one(job, by=BY):
                self._let_go.add(job)
        if service.over or service.stuck:
            return
        wanted = max(work.replicas_min, service.name in self._wanted)
        if pressed is not None or len(service.alive) + service.spent < wanted:
            await self._grow(service)
            if pressed in self._queued:
                self._queued[pressed] = self._queued[pressed][0], now  # patience with the new one
        elif len(service.alive) > work.replicas_min and now - service.busy_s >= work.idle_s:
            self._leaving[service.alive[-1]] = now
            service.busy_s = now  # before another one is let go
            self._look()

    async def _grow(self, service: _Service) -> None:
        first = self.works.planned[service.name]
        number = 1 + max(map(number_of, service.jobs))
        while not await self.works.submit(_numbered(first, number), by=BY):
            number += 1
        service.busy_s = self._clock()
        self._look()


def service_of(job: str) -> str:
    """The service that a replica is of."""
    return job.partition(".")[0]


def number_of(job: str) -> int:
    """Which replica it is; the first has no number in its name."""
    return int(job.partition(".")[2] or 1)


def _numbered(first: PlannedJob, number: int) -> PlannedJob:
    name = f"{first.spec.name}.{number}"
    spec = first.spec.model_copy(update={"name": name})
    quote = first.quote.model_copy(update={"job": name})
    return first.model_copy(update={"spec": spec, "quote": quote})
