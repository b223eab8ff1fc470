"""Jobs of a blueprint's streams as they come: when, how wide, how much. Modelled.

Arrivals are a Poisson process whose rate is constant within an hour and follows day, week and
year; they come in clusters where a stream bursts. A service's load by the hour becomes replicas
that are wanted from one hour to another. Each stream draws from the seed and its own name, so a
stream more or less changes none of the others. s, tokens, chip-s, tokens/s.
"""

import math
from contextlib import suppress
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.blueprint.schema import Blueprint
from gigafactory.blueprint.streams import (
    BatchStream,
    ServeStream,
    Spread,
    Swinging,
    TraceStream,
    TrainStream,
)
from gigafactory.faults import Fault, Refused
from gigafactory.plan.rates import HEADROOM
from gigafactory.plan.widths import Width, widths
from gigafactory.stack import chips, sites
from gigafactory.stack.sites.hours import HOURS, offsets_s

SUBMISSION = np.dtype(
    [
        ("submit_s", "f8"),  # since the blueprint's first day, midnight UTC
        ("stream", "i4"),  # place in `blueprint.streams`
        ("chips", "i4"),
        ("chips_min", "i4"),  # what it may shrink to
        ("work", "f8"),  # tokens of a run, chip-s of a batch or a trace, 0 of a replica
        ("until_s", "f8"),  # when a replica is no longer wanted; 0 of all else
        ("slack", "f8"),  # its deadline in its own run times; 0: none
        ("priority", "i4"),
    ]
)
HOUR_S, DAY_S, YEAR_S = 3600.0, 86_400.0, 365.25 * 86_400.0
PEAK_HOUR = 15.0
Z_P90 = 1.2816
CLUSTER_S = 300.0
"""Mean time from the first job of a cluster to another of it. Assumed."""
LOWER_HOURS = 2
"""So long a service must need fewer replicas before it gives one up."""

Array = NDArray[Any]


def draw(blueprint: Blueprint, horizon_s: float, rng: np.random.Generator) -> Array:
    """Every job of every stream within the horizon, as `SUBMISSION`, by the time it comes.

    At equal times the earlier stream goes first. The same seed gives the same rows, however much
    was drawn from `rng` before.
    """
    kinds: dict[str, Any] = {"serve": _replicas, "trace": _trace}
    rows = [
        kinds.get(stream.kind, _jobs)(blueprint, name, stream, horizon_s, _own(rng, name))
        for name, stream in blueprint.streams.items()
    ]
    for place, some in enumerate(rows):
        some["stream"] = place
    every = np.concatenate([np.empty(0, SUBMISSION), *rows])
    return every[np.argsort(every["submit_s"], kind="stable")]


def loads(
    blueprint: Blueprint, horizon_s: float, rng_seed: int | np.random.Generator
) -> dict[str, Array]:
    """Service to its load, tokens/s by the hour: what `draw` of the same seed has replicas for."""
    rng = np.random.default_rng(rng_seed)
    return {
        name: _load(blueprint, stream, horizon_s, _own(rng, name))
        for name, stream in blueprint.streams.items()
        if isinstance(stream, ServeStream)
    }


def replica(blueprint: Blueprint, name: str) -> Width:
    """One replica of a service: of the systems that it may run on, the slowest that can.

    So the load is met wherever replicas come to stand. Raises `Refused` where none can.
    """
    stream = blueprint.streams[name]
    found = [
        widths(blueprint, stream, chips.system(system))
        for site in stream.allowed(blueprint.sites, blueprint.start)
        for system in blueprint.sites[site].systems
    ]
    able = [one[0] for one in found if isinstance(one, tuple)]
    if not able:
        why = next((one.why for one in found if not isinstance(one, tuple)), "it has no systems")
        remedy = "give it a site with another system, or raise `ttft` and `tpot`"
        raise Refused(Fault(f"nothing can serve {name!r}", f"streams.{name}", why, remedy))
    return min(able, key=lambda one: (one.rate, one.chips))


def _own(rng: np.random.Generator, name: str) -> np.random.Generator:
    """A stream's own generator: of the same seed, by its name."""
    seed: Any = rng.bit_generator.seed_seq
    key = (*seed.spawn_key, *name.encode())
    return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=key))


def _jobs(
    blueprint: Blueprint,
    name: str,
    stream: TrainStream | BatchStream,
    horizon_s: float,
    rng: np.random.Generator,
) -> Array:
    """Training and batch runs: when they come, how wide, how long."""
    if stream.per_day is None:
        at_s = np.array([stream.at_s], float)  # One job; `check_streams` saw to it.
        submit_s = at_s[at_s < horizon_s]
    else:
        per_s = _shape(blueprint, stream, horizon_s) * stream.per_day / DAY_S
        submit_s = _arrivals(per_s, horizon_s, stream.burst, rng)
    rows = _rows(submit_s, stream)
    asked, chances = np.array(list(stream.chips)), np.array(list(stream.chips.values()))
    bounds = np.cumsum(chances)[:-1]
    rows["chips"] = asked[np.searchsorted(bounds, rng.random(len(rows)), side="right")]
    rows["slack"] = stream.slack or 0.0
    if isinstance(stream, TrainStream):
        rows["work"] = _sizes(stream.tokens, len(rows), rng)
        rows["chips_min"] = stream.elastic or rows["chips"]
    else:
        rows["work"] = _sizes(stream.run_s, len(rows), rng) * rows["chips"]
        rows["chips_min"] = rows["chips"]
    return rows


def _replicas(
    blueprint: Blueprint,
    name: str,
    stream: ServeStream,
    horizon_s: float,
    rng: np.random.Generator,
) -> Array:
    """A row for each stretch of hours in which the k-th replica is wanted."""
    one = replica(blueprint, name)
    load = _load(blueprint, stream, horizon_s, rng)
    needed = np.maximum(np.ceil(load / (one.rate * HEADROOM)), 1).astype(np.int64)
    held = needed.copy()
    for hours in range(1, LOWER_HOURS + 1):
        held[hours:] = np.maximum(held[hours:], needed[:-hours])
    before, after = np.append(0, held), np.append(held, 0)
    up, started = _each(np.maximum(after - before, 0), before)
    down, ended = _each(np.maximum(before - after, 0), after)
    # The last that came is the first to go, so of each replica starts and ends alternate.
    first, last = np.lexsort((up, started)), np.lexsort((down, ended))
    rows = _rows(up[first] * HOUR_S, stream)
    rows["until_s"] = np.minimum(down[last] * HOUR_S, horizon_s)
    rows["chips"] = rows["chips_min"] = one.chips
    return rows[np.argsort(rows["submit_s"], kind="stable")]


def _each(counts: Array, base: Array) -> tuple[Array, Array]:
    """(hour, replica) for `counts[h]` replicas from number `base[h]` on, hour by hour."""
    hours = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(hours)) - np.repeat(np.cumsum(counts) - counts, counts)
    return hours, base[hours] + within


def _trace(
    blueprint: Blueprint,
    name: str,
    stream: TraceStream,
    horizon_s: float,
    rng: np.random.Generator,
) -> Array:
    """The jobs of a file, counted from its first; those beyond the horizon are left out."""
    from gigafactory.twin import traces

    trace = traces.load(stream.file)
    since_s = np.asarray(trace.submit_s, float)
    since_s = since_s - since_s.min(initial=np.inf)
    kept = np.flatnonzero(since_s < horizon_s)
    rows = _rows(since_s[kept], stream)
    rows["chips"] = rows["chips_min"] = np.asarray(trace.num_gpus)[kept]
    rows["work"] = np.asarray(trace.duration_s, float)[kept] * rows["chips"]
    return rows[np.argsort(rows["submit_s"], kind="stable")]


def _rows(submit_s: Array, stream: Any) -> Array:
    rows = np.zeros(len(submit_s), SUBMISSION)
    rows["submit_s"] = submit_s
    rows["priority"] = stream.priority
    return rows


def _arrivals(per_s: Array, horizon_s: float, burst: float, rng: np.random.Generator) -> Array:
    """Times of arrival for a rate by the hour: by the inverse of the cumulative rate."""
    edges_s = np.minimum(np.arange(len(per_s) + 1) * HOUR_S, horizon_s)
    expected = np.append(0.0, np.cumsum(per_s * np.diff(edges_s))) / burst
    count = rng.poisson(expected[-1])
    came_s = np.interp(rng.random(count) * expected[-1], expected, edges_s)
    if burst > 1:
        sizes = rng.geometric(1 / burst, count)
        after_s = rng.exponential(CLUSTER_S, sizes.sum())
        after_s[np.cumsum(sizes) - sizes] = 0.0  # the first of each
        came_s = np.repeat(came_s, sizes) + after_s
        came_s = came_s[came_s < horizon_s]
    came_s.sort()
    return came_s


def _sizes(spread: Spread, count: int, rng: np.random.Generator) -> Array:
    sigma = math.log(spread.p90 / spread.median) / Z_P90
    return np.asarray(spread.median * np.exp(sigma * rng.standard_normal(count)))


def _load(
    blueprint: Blueprint, stream: ServeStream, horizon_s: float, rng: np.random.Generator
) -> Array:
    """Tokens/s by the hour; the stated load is a weekday's peak at the start."""
    curve = _shape(blueprint, stream, horizon_s) / (1 + stream.daily)
    noise = np.exp(math.log(stream.burst) / Z_P90 * rng.standard_normal(len(curve)))
    return np.asarray(stream.output_tokens_per_s * curve * noise)


def _shape(blueprint: Blueprint, stream: Swinging, horizon_s: float) -> Array:
    """The rate of each hour over the mean of a weekday at the start."""
    hours = np.arange(math.ceil(horizon_s / HOUR_S))
    middle_s = (hours + 0.5) * HOUR_S
    local_s = middle_s + _ahead_s(blueprint, stream)[hours % HOURS]
    swing = 1 + stream.daily * np.cos(2 * np.pi * (local_s / HOUR_S - PEAK_HOUR) / 24)
    weekday = (blueprint.start.weekday() + np.floor(local_s / DAY_S)) % 7
    return np.asarray(
        swing * np.where(weekday >= 5, stream.weekend, 1.0) * stream.growth ** (middle_s / YEAR_S)
    )


def _ahead_s(blueprint: Blueprint, stream: Swinging) -> Array:
    """Seconds that the clock of its first site is ahead of UTC, by the hour from the start."""
    ahead_s: Array = np.zeros(HOURS)
    if stream.sites:
        site = blueprint.sites[stream.sites[0]]
        # A country of which the catalog knows nothing keeps UTC.
        with suppress(sites.UnknownPlace):
            ahead_s = offsets_s(sites.site(site.place or site.country).timezone)
    first = (blueprint.start - date(blueprint.start.year, 1, 1)).days * 24
    return np.roll(ahead_s, -first)
