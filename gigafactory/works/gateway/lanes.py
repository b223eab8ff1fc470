"""Who is answered next: seats at replicas, and a fair queue before each model.

A replica holds requests up to its KV cache (in tokens, at their upper bound) and `SEATS`. What
finds no seat waits; tenants come next in the order of start-time fair queueing, by tokens over
weight (Goyal et al. 1996, doi:10.1145/248156.248171). A wait is estimated by Little's law, from
the measured stay of a token at a seat: where it would be too long the request is turned away at
once, with the time after which it would not be.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gigafactory.works.gateway.ask import Ask
from gigafactory.works.gateway.refusal import Refusal

if TYPE_CHECKING:
    from gigafactory.works.services import Replica, Route, Services

SEATS = 256  # requests at one replica
WAIT_S_MAX = 30.0  # in the queue
WAKE_S_MAX = 120.0  # while a model that sleeps is started
QUEUE_MAX = 512  # requests of one tenant before one model
POLL_S = 0.05  # how often a queue looks for new replicas
STAY_SHARE = 0.1  # of the newest stay in the running mean


@dataclass(slots=True)
class Load:
    """What a replica holds now."""

    tokens: int = 0
    seats: int = 0


@dataclass(order=True, slots=True)
class Waiting:
    """A request in the queue; the smallest `tag` is next."""

    tag: float
    number: int
    start: float = field(compare=False)
    tenant: str = field(compare=False)
    ask: Ask = field(compare=False)
    seated: "asyncio.Future[Seat]" = field(compare=False)


@dataclass(slots=True)
class Seat:
    """A request's place at a replica, and the other replicas that could answer it."""

    replica: "Replica"
    others: "list[Replica]"
    tokens: int
    since_s: float


class Lane:
    """The queue before one model."""

    def __init__(self) -> None:
        self.heap: list[Waiting] = []
        self.now = 0.0  # virtual time: the start tag of the request that was seated last
        self.tags: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.number = 0
        self.stay_s: float | None = None
        self.seated_tokens = 0

    def wait_s(self, tag: float, tokens: int) -> float:
        """How long a request would wait; 0 where nothing is known yet."""
        if not self.stay_s or not self.seated_tokens:
            return 0.0
        ahead = tokens + sum(one.ask.tokens_max for one in self.heap if one.tag <= tag)
        return self.stay_s * ahead / self.seated_tokens


class Lanes:
    """All seats and queues."""

    def __init__(self, services: "Services", queued: Callable[[str, int], None]):
        self._services, self._queued = services, queued
        self._loads: dict[str, Load] = {}
        self._lanes: dict[str, Lane] = {}
        self._watch: asyncio.Task | None = None

    async def enter(self, route: "Route", tenant: str, weight: float, ask: Ask) -> Seat:
        """A seat, at once or after the queue; raises `Refusal` where there will be none."""
        lane = self._lanes.get(route.name)
        if lane is None:
            lane = self._lanes[route.name] = Lane()
        if not lane.heap and (seat := self._seat(lane, route, ask)):
            return seat
        return await self._wait(lane, route, tenant, weight, ask)

    def would_wait(self, route: "Route", ask: Ask) -> bool:
        """Whether `enter` would not come back at once."""
        lane = self._lanes.get(route.name)
        if not route.ready or (lane is not None and lane.heap):
            return True
        return all(not self._room(replica, ask) for replica in route.ready)

    def spare(self, route: "Route") -> bool:
        """Whether nobody waits and a replica is less than half full: room for what has time."""
        lane = self._lanes.get(route.name)
        if lane is not None and lane.heap:
            return False
        return not route.ready or any(
            (load := self._loads.get(replica.job)) is None
            or (2 * load.seats < SEATS and 2 * load.tokens < replica.cache_tokens)
            for replica in route.ready
        )

    def leave(self, name: str, seat: Seat) -> None:
        """Free a seat, which may seat others."""
        lane = self._lanes[name]
        self._free(seat)
        lane.seated_tokens -= seat.tokens
        stay_s = time.monotonic() - seat.since_s
        lane.stay_s = (
            stay_s if lane.stay_s is None else lane.stay_s + STAY_SHARE * (stay_s - lane.stay_s)
        )
        if self._watch is not None:  # somebody waits, maybe in another lane for this replica
            self._call_in()

    def move(self, seat: Seat) -> bool:
        """Sit down at the next replica, where there is one; it may have to hold one too many."""
        if not seat.others:
            return False
        self._free(seat)
        seat.replica = seat.others.pop(0)
        self._take(seat.replica, seat.tokens)
        return True

    def _seat(self, lane: Lane, route: "Route", ask: Ask) -> Seat | None:
        """A seat at the first replica with room; None where none has."""
        able = able_to(route.ready, ask)
        for replica in able:
            if self._room(replica, ask):
                self._take(replica, ask.tokens_max)
                lane.seated_tokens += ask.tokens_max
                others = [other for other in able if other is not replica]
                return Seat(replica, others, ask.tokens_max, time.monotonic())
        return None

    def _room(self, replica: "Replica", ask: Ask) -> bool:
        load = self._loads.get(replica.job)
        return load is None or (
            load.seats < SEATS and load.tokens + ask.tokens_max <= replica.cache_tokens
        )

    def _take(self, replica: "Replica", tokens: int) -> None:
        load = self._loads.get(replica.job)
        if load is None:
            load = self._loads[replica.job] = Load()
        load.tokens += tokens
        load.seats += 1
        self._services.used(replica.job, 1)

    def _free(self, seat: Seat) -> None:
        load = self._loads[seat.replica.job]
        load.tokens -= seat.tokens
        load.seats -= 1
        self._services.used(seat.replica.job, -1)

    async def _wait(self, lane: Lane, route: "Route", tenant: str, weight: float, ask: Ask) -> Seat:
        name = route.name
        start = max(lane.now, lane.tags.get(tenant, 0.0))
        tag = start + ask.tokens_max / weight
        wait_s = lane.wait_s(tag, ask.tokens_max)
        if lane.counts.get(tenant, 0) >= QUEUE_MAX or (route.ready and wait_s > WAIT_S_MAX):
            raise busy(name, max(1.0, wait_s - WAIT_S_MAX))
        lane.number += 1
        seated = asyncio.get_running_loop().create_future()
        waiting = Waiting(tag, lane.number, start, tenant, ask, seated)
        heapq.heappush(lane.heap, waiting)
        lane.tags[tenant] = tag
        lane.counts[tenant] = lane.counts.get(tenant, 0) + 1
        self._tell(name, lane)
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(WAIT_S_MAX if route.ready else WAKE_S_MAX):
                return await seated
        except TimeoutError:
            raise busy(name, max(1.0, wait_s)) from None
        except asyncio.CancelledError:
            if seated.done() and not seated.cancelled() and seated.exception() is None:
                self.leave(name, seated.result())  # seated and called away in one turn
            raise
        finally:
            lane.counts[tenant] -= 1
            if waiting in lane.heap:
                lane.heap.remove(waiting)
                heapq.heapify(lane.heap)
            self._tell(name, lane)

    def _call_in(self) -> None:
        """Seat those who are next and for whom there is room."""
        for name, lane in self._lanes.items():
            if not lane.heap:
                continue
            route = self._services.route(name)
            while lane.heap:
                first = lane.heap[0]
                if first.seated.done():  # called away
                    heapq.heappop(lane.heap)
                    continue
                try:
                    if route is None:
                        raise Refusal(404, f"{name} is not served any more", "model_not_found")
                    if not route.ready and not route.waking:
                        raise not_ready(route)
                    # The next one waits for room of its own: no smaller one overtakes it.
                    seat = self._seat(lane, route, first.ask) if route.ready else None
                except Refusal as refusal:
                    heapq.heappop(lane.heap)
                    first.seated.set_exception(refusal)
                    continue
                if seat is None:
                    break
                heapq.heappop(lane.heap)
                lane.now = max(lane.now, first.start)
                first.seated.set_result(seat)

    async def _look(self) -> None:
        """While somebody waits: look for replicas that have come, and say that they are wanted."""
        try:
            while any(lane.heap for lane in self._lanes.values()):
                self._call_in()
                for name, lane in self._lanes.items():
                    if lane.heap:
                        self._services.demand(name, len(lane.heap))
                await asyncio.sleep(POLL_S)
        finally:
            self._watch = None

    def _tell(self, name: str, lane: Lane) -> None:
        self._queued(name, len(lane.heap))
        self._services.demand(name, len(lane.heap))
        if not lane.heap:
            lane.tags.clear()  # an idle lane owes nobody anything
            lane.now = 0.0


def able_to(ready: Iterable["Replica"], ask: Ask) -> "list[Replica]":
    """The replicas that can answer, in their order; raises why where none of them can."""
    able, fault = [], None
    for replica in ready:
        if why := ask.fault(replica):
            fault = fault or why
        else:
            able.append(replica)
    if fault and not able:
        raise fault
    return able


def busy(name: str, retry_s: float) -> Refusal:
    """Turned away: the queue is too long."""
    return Refusal(503, f"{name} is busy: too many requests wait", "overloaded", retry_s=retry_s)


def not_ready(route: "Route") -> Refusal:
    """Nothing serves it now, and nothing is on the way."""
    if route.gone:
        why = "is not served: it failed, or what it stands on did not pass its gate"
        return Refusal(503, f"{route.name} {why}", "model_not_ready", "model", final=True)
    return Refusal(503, f"{route.name} is not ready yet", "model_not_ready", "model", retry_s=2)
