"""When each phase starts and ends, how much slack it has, and which path is critical. Modelled.

Forward and backward pass of the critical path method, over one set of durations or thousands at
once. Durations are drawn from PERT's beta distribution (mean (low + 4 likely + high) / 6), each
phase by a generator of its own, so that an option changes no other phase's luck. Phases are drawn
independently: where one cause delays many, the truth is wider than these percentiles.
Weeks from the start. Sources: Kelley 1961, doi:10.1287/opre.9.3.296; Malcolm et al. 1959,
doi:10.1287/opre.7.5.646.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gigafactory.stack.bringup.network import Network

Array = npt.NDArray[np.float64]
PERCENTILES = (10, 50, 90)
HAIR_WEEKS = 1e-6
"""Slack below this is rounding."""


@dataclass(frozen=True)
class Schedule:
    """Weeks by phase in the last axis, in the order of the network; draws before it."""

    network: Network
    start: Array
    finish: Array
    slack: Array
    """How much later a phase may end without moving the first token."""
    makespan: Array
    """From the start to the first token."""
    path: tuple[str, ...]
    """Of one set of durations: the critical phases, `racks 2/4` for a wave; else empty."""

    @property
    def critical(self) -> npt.NDArray[np.bool_]:
        """Whether a phase has no slack."""
        return self.slack <= HAIR_WEEKS

    def span(self, start: str, until: str) -> Array:
        """Weeks from the start of one phase to the finish of another."""
        first, last = self.network.place(start), self.network.place(until)
        return np.asarray(self.finish[..., last] - self.start[..., first])


@dataclass(frozen=True)
class Distribution:
    """What thousands of draws say. By phase: `PERCENTILES` in the first axis."""

    network: Network
    draws: int
    durations_weeks: Array
    """(draws, phases)."""
    schedule: Schedule
    start_weeks: Array
    finish_weeks: Array
    token_weeks: Array
    """`PERCENTILES` of the first token."""
    criticality: Array
    """By phase, the share of draws in which it is critical."""


def schedule(network: Network, durations_weeks: npt.ArrayLike) -> Schedule:
    """Start, finish and slack for durations (..., phases). Raises `ValueError` for bad ones."""
    durations = np.asarray(durations_weeks, dtype=np.float64)
    if durations.ndim == 0 or durations.shape[-1] != len(network.phases):
        raise ValueError(f"{len(network.phases)} durations are needed, in the order of the phases")
    if not np.all(np.isfinite(durations) & (durations >= 0)):
        raise ValueError("a duration is a number of weeks, and not below 0")
    activities = network.activities
    lasts = [activity.share * durations[..., activity.phase] for activity in activities]
    starts, ends = _forward(network, lasts)
    makespan = ends[-1]
    late: list[Array] = [makespan] * len(activities)
    for number in reversed(range(len(activities))):
        begins_late = late[number] - lasts[number]
        for before in activities[number].after:
            late[before] = np.minimum(late[before], begins_late)
    shape = durations.shape
    start, finish, slack = np.full(shape, np.inf), np.zeros(shape), np.full(shape, np.inf)
    for number, activity in enumerate(activities):
        at = (..., activity.phase)
        start[at] = np.minimum(start[at], starts[number])
        finish[at] = np.maximum(finish[at], ends[number])
        slack[at] = np.minimum(slack[at], np.maximum(late[number] - ends[number], 0.0))
    path = _path(network, ends) if durations.ndim == 1 else ()
    return Schedule(network, start, finish, slack, np.asarray(makespan), path)


def makespan(network: Network, durations_weeks: Array) -> Array:
    """Weeks to the first token alone: half the work of `schedule`."""
    lasts = [
        activity.share * durations_weeks[..., activity.phase] for activity in network.activities
    ]
    return np.asarray(_forward(network, lasts)[1][-1])


def draw(network: Network, seed: int, draws: int) -> Array:
    """Durations (draws, phases), each phase by PERT's beta from a generator of its own."""
    columns = []
    for phase in network.phases:
        low, likely, high = phase.weeks.low, phase.weeks.likely, phase.weeks.high
        if high == low:
            columns.append(np.full(draws, low))
            continue
        rng = np.random.default_rng([seed, zlib.crc32(phase.id.encode())])
        up, down = 1 + 4 * (likely - low) / (high - low), 1 + 4 * (high - likely) / (high - low)
        columns.append(low + (high - low) * rng.beta(up, down, draws))
    return np.stack(columns, axis=-1)


def distribution(network: Network, seed: int = 0, draws: int = 10_000) -> Distribution:
    """Percentiles of every phase and of the first token; how often each phase is critical."""
    durations = draw(network, seed, draws)
    timed = schedule(network, durations)
    return Distribution(
        network=network,
        draws=draws,
        durations_weeks=durations,
        schedule=timed,
        start_weeks=np.percentile(timed.start, PERCENTILES, axis=0),
        finish_weeks=np.percentile(timed.finish, PERCENTILES, axis=0),
        token_weeks=np.percentile(timed.makespan, PERCENTILES),
        criticality=timed.critical.mean(axis=0),
    )


def _forward(network: Network, lasts: list[Array]) -> tuple[list[Array], list[Array]]:
    """Earliest start and finish of every activity."""
    starts: list[Array] = []
    ends: list[Array] = []
    for activity, weeks in zip(network.activities, lasts, strict=True):
        begins: Array = np.zeros_like(weeks)
        for before in activity.after:
            begins = np.maximum(begins, ends[before])
        starts.append(begins)
        ends.append(begins + weeks)
    return starts, ends


def _path(network: Network, ends: list[Array]) -> tuple[str, ...]:
    """From the goal back along what each activity waited for last."""
    activities = network.activities
    names, number = [], len(activities) - 1
    while True:
        activity = activities[number]
        name = network.phases[activity.phase].id
        names.append(f"{name} {activity.wave + 1}/{network.waves}" if activity.share < 1 else name)
        if not activity.after:
            return tuple(reversed(names))
        number = max(activity.after, key=lambda before: float(ends[before]))
