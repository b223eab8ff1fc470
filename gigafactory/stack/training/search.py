"""The best layout of a training job on given chips: all of a space, or as much as proves it.

A space has two kinds of axes. A *shape* (`SHAPE`) says how a step is split, in whole parts: heads
over tensor ranks, layers over stages, sequences over context ranks, the batch over data ranks and
micro-batches. A *mode* (`MODES`) says what each rank does with its part: a full grid. Two splits
need not be even. The first and last of a pipeline may have fewer layers (`stages`). And data
ranks may share a batch that they do not divide, as on seven chips: the fullest rank says how long
a step takes, only the sequences asked for are counted, and `Found.batch` is the batch to set.

Why `best` returns what `exhaustive` returns. It takes two bounds on each shape, over its modes.
*Time*, at `FASTEST`. Offloading only adds a term, `offload_s`. Without it more work or traffic
never makes a step shorter: what a rank does besides hides at most as much communication or
launching as it takes itself. Recomputation adds work; norms and borders that tensor ranks do not
share, and communication that nothing overlaps, add time; sharding the optimizer saves work, and
sharding gradients as well costs nothing. Whether sharded weights cost more is left open, and both
are computed. *Memory*, at `FRUGAL`. Offloading and sequence parallelism only take bytes off a
rank; so does sharding, but for weights gathered again, and recomputation, but for the layer being
recomputed: what is left open is computed. *Cost* rises with time, and so does *energy*, as no
part of a step draws less than waiting, which is all that can be hidden. A shape whose least memory
is too much, or whose least value is above those of two shapes found, is neither optimum nor
runner-up, nor does it tie with them. `tests/test_search.py` holds each of these as a property.

Values within one part in a billion are a tie, and the earlier shape or mode wins it: so rounding,
which differs between an array and a part of it, does not choose. s, B, J. Modelled.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gigafactory.stack import training
from gigafactory.stack.chips import Chip
from gigafactory.stack.training import Job, Layout, Number, Step
from gigafactory.stack.training.shapes import SHAPE, Table, chips_used, describe, shapes

MODES: dict[str, tuple[int, ...]] = {
    "recompute": (training.NONE, training.SELECTIVE, training.FEED_FORWARD, training.FULL),
    "sequence_parallel": (True, False),
    "tensor_overlap": (True, False),
    "data_overlap": (True, False),
    "zero": (1, 0, 2, 3),
    "offload_optimizer": (False, True),
    "offload_activations": (False, True),
}
"""Among modes that tie, the first values win."""
FASTEST: dict[str, tuple[int, ...]] = {
    "recompute": (training.NONE,),
    "sequence_parallel": (True,),
    "tensor_overlap": (True,),
    "data_overlap": (True,),
    "zero": (1, 3),
    "offload_optimizer": (False,),
    "offload_activations": (False,),
}
"""At one of these a shape takes no more time than at any mode."""
FRUGAL: dict[str, tuple[int, ...]] = {
    "recompute": (training.FEED_FORWARD, training.FULL),
    "sequence_parallel": (True,),
    "tensor_overlap": (True,),
    "data_overlap": (True,),
    "zero": (2, 3),
    "offload_optimizer": (True,),
    "offload_activations": (True,),
}
"""At one of these a shape takes no more memory than at any mode."""
OBJECTIVES: dict[str, tuple[str, Callable[[Step, Chip, Number], Number]]] = {
    "time": ("s", lambda step, chip, chips: step.step_s),
    "cost": ("chip-s", lambda step, chip, chips: step.step_s * chips),
    "energy": ("J", lambda step, chip, chips: training.power_w(step, chip) * step.step_s * chips),
}
"""What is minimised: unit, and value of one step on its chips. Cost is rent, paid by the time."""
TIE = 1e-9
"""Relative difference below which two values are the same."""
BLOCK = 128
"""Shapes evaluated at once: their arrays stay in the processor's cache."""


@dataclass(frozen=True)
class Found:
    """The best layout that fits, the next that differs in shape, and how they were found."""

    job: Job
    chip: Chip
    layout: Layout
    step: Step
    runner_up: Layout | None
    runner_up_step: Step | None
    objective: str
    points: int
    """Size of the space."""
    evaluated: int
    """Points whose time was computed, those of the bounds included."""
    fitting: int | None
    """Points that fit in memory; None where not all were looked at."""

    @property
    def chips(self) -> int:
        """How many it uses."""
        return chips_used(self.layout)

    @property
    def batch(self) -> int:
        """Sequences that its data ranks have room for: the job's, where they divide it."""
        at_once = self.layout.data * self.layout.microbatch
        return int(-(-self.job.batch // at_once) * at_once)

    @property
    def tokens_per_s(self) -> float:
        """Of all chips together; of the job's sequences only."""
        return self.job.batch * self.job.sequence / float(self.step.step_s)

    def why(self) -> str:
        """Why the runner-up lost, by the parts of its step that differ most."""
        if self.runner_up is None or self.runner_up_step is None:
            return "no other shape fits in memory"
        unit, value = OBJECTIVES[self.objective]
        ours = float(value(self.step, self.chip, self.chips))
        theirs = float(value(self.runner_up_step, self.chip, chips_used(self.runner_up)))
        more_share = f"{theirs / ours - 1:.2%} more"
        said = f"{describe(self.runner_up)} needs {theirs:.4g} {unit} a step, {more_share}"
        if theirs <= ours * (1 + TIE):
            said = f"{describe(self.runner_up)} is as good"
        more = {
            part: float(getattr(self.runner_up_step, part)) - float(getattr(self.step, part))
            for part in training.PARTS
        }
        parts = sorted(more, key=lambda part: -abs(more[part]))[:3]
        threshold_s = 0.02 * sum(abs(seconds) for seconds in more.values())
        words = [
            f"{part[:-2].replace('_', ' ')} {more[part]:+.3g} s"
            for part in sorted(parts, key=lambda part: -more[part])
            if abs(more[part]) > threshold_s
        ]
        if chips_used(self.runner_up) != self.chips:
            words.insert(0, f"{chips_used(self.runner_up):,} chips rather than {self.chips:,}")
        return f"{said}: {', '.join(words)}" if words else said


@dataclass(frozen=True)
class Point:
    """One layout on the front: no other is as good in time, chips and memory, and better in one."""

    layout: Layout
    chips: int
    step_s: float
    memory_bytes: float


class NothingFits(ValueError):
    """No layout of the space fits in the chips' memory; the message has the nearest miss."""

    def __init__(self, what: str, remedy: str, need_bytes: float | None = None):
        self.what, self.remedy, self.need_bytes = what, remedy, need_bytes
        super().__init__(f"{what}; {remedy}")


def best(
    job: Job,
    chip: Chip,
    chips: int | Sequence[int],
    *,
    objective: str = "time",
    memory_bytes: float | None = None,
    fixed: Mapping[str, int] | None = None,
) -> Found:
    """The layout that minimises `objective` among those that fit `memory_bytes` a chip.

    `chips` may be several counts to choose from; `fixed` pins fields of the layout. Raises
    `NothingFits`.
    """
    space = _Space(job, chip, chips, objective, memory_bytes, fixed)
    bound, _ = space.bounds()
    order = np.argsort(bound, kind="stable")[: np.count_nonzero(np.isfinite(bound))]
    leaders = _Leaders()
    evaluated = len(order) * math.prod(map(len, space.fastest.values()))
    start, block = 0, 8
    while start < len(order):
        rows = order[start : start + block]
        rows = np.sort(rows[bound[rows] <= leaders.second * (1 + 2 * TIE)])
        if not len(rows):
            break
        leaders.add(rows, *space.scores(rows)[:2])
        evaluated += len(rows) * space.modes_count
        start, block = start + block, min(2 * block, BLOCK)
    return space.found(leaders, evaluated, None)


def exhaustive(
    job: Job,
    chip: Chip,
    chips: int | Sequence[int],
    *,
    objective: str = "time",
    memory_bytes: float | None = None,
    fixed: Mapping[str, int] | None = None,
) -> Found:
    """What `best` returns, by evaluating every point."""
    space = _Space(job, chip, chips, objective, memory_bytes, fixed)
    leaders = _Leaders()
    fitting = 0
    for start in range(0, space.shapes, BLOCK):
        rows = np.arange(start, min(start + BLOCK, space.shapes))
        lowest, scores, fits = space.scores(rows)
        leaders.add(rows, lowest, scores)
        fitting += fits
    return space.found(leaders, space.points, fitting)


def pareto(
    job: Job,
    chip: Chip,
    chips: int | Sequence[int],
    *,
    memory_bytes: float | None = None,
    fixed: Mapping[str, int] | None = None,
) -> list[Point]:
    """The front over step time, chips used and memory a chip, by chips and then time.

    A shape is skipped where one point is better than both of its bounds, on no more chips.
    """
    space = _Space(job, chip, chips, "time", memory_bytes, fixed)
    bound, small = space.bounds()
    used = space.used()
    stairs = front = np.empty((0, 5))  # step_s, memory_bytes, chips, row, mode
    for count in np.unique(used):
        rows = np.flatnonzero((used == count) & np.isfinite(bound))
        rows = rows[np.argsort(bound[rows], kind="stable")]
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            some = some[~_behind(stairs, bound[some] * (1 - TIE), small[some] * (1 - TIE))]
            if len(some):
                stairs = _stairs(np.concatenate([stairs, space.fitting_points(some)]))
        front = np.concatenate([front, stairs[stairs[:, 2] == count][::-1]])
    if not len(front):
        raise space.nothing_fits()
    return [
        Point(space.layout(int(row), int(mode)), int(count), float(step_s), float(memory))
        for step_s, memory, count, row, mode in front
    ]


def size(job: Job, chips: int) -> int:
    """How many points the space of `job` on `chips` has."""
    return shapes(job, chips).shape[1] * math.prod(map(len, MODES.values()))


class _Space:
    """Shapes and modes of a job, what may be spent on them, and what is looked for."""

    def __init__(
        self,
        job: Job,
        chip: Chip,
        chips: int | Sequence[int],
        objective: str,
        memory_bytes: float | None,
        fixed: Mapping[str, int] | None,
    ):
        self.job, self.chip, self.objective = job, chip, objective
        self.value = OBJECTIVES[objective][1]
        self.limit_bytes = training.usable_bytes(chip) if memory_bytes is None else memory_bytes
        self.fixed = dict(fixed or {})
        assert self.fixed.keys() <= {*SHAPE, *MODES}, self.fixed
        self.counts = sorted({int(count) for count in np.atleast_1d(chips)})
        table = np.concatenate([shapes(job, count) for count in self.counts], axis=1)
        for index, name in enumerate(SHAPE):
            if name in self.fixed:
                table = table[:, table[index] == self.fixed[name]]
        self.table = table
        self.shapes = table.shape[1]
        self.modes = self.pinned(MODES)
        # Offloading that is fixed is left out of the bound: more work may hide more of it.
        offload = {name: FASTEST[name] for name in MODES if "offload" in name}
        self.fastest = self.pinned(FASTEST) | offload
        self.modes_count = math.prod(map(len, self.modes.values()))
        self.points = self.shapes * self.modes_count

    def pinned(self, modes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """These modes, but for those that are fixed."""
        return {
            name: (self.fixed[name],) if name in self.fixed else values
            for name, values in modes.items()
        }

    def layouts(self, table: Table, modes: Mapping[str, tuple[int, ...]]) -> Layout:
        """Shapes, along the last axis, at all of `modes`, an axis for each before it.

        Shapes come last because arrays are fastest along a last axis that is long.
        """
        axes = len(modes) + 1
        grid = {
            name: np.array(values).reshape([-1 if axis == index else 1 for axis in range(axes)])
            for index, (name, values) in enumerate(modes.items())
        }
        return Layout(**dict(zip(SHAPE, table, strict=True)), **grid)

    def steps(self, table: Table, modes: Mapping[str, tuple[int, ...]]) -> Step:
        """Their steps."""
        return training.step(self.job, self.chip, self.layouts(table, modes))

    def scores(self, rows: npt.NDArray[np.int64]) -> tuple[Table, Table, int]:
        """Of shapes: the lowest value, the value at all modes, and how many points fit.

        What does not fit has an infinite value.
        """
        table = self.table[:, rows]
        step = self.steps(table, self.modes)
        fits = step.memory_bytes <= self.limit_bytes
        value = np.where(fits, self.value(step, self.chip, _used(table)), np.inf)
        full = (*map(len, self.modes.values()), len(rows))
        scores = np.broadcast_to(value, full).reshape(-1, len(rows))
        times = self.modes_count * len(rows) // fits.size
        return scores.min(axis=0), scores, int(np.count_nonzero(fits)) * times

    def bounds(self) -> tuple[Table, Table]:
        """Of every shape: the value and the memory that no mode of it is below.

        The value is infinite where nothing fits.
        """
        bound, small = np.full(self.shapes, np.inf), self.least_bytes()
        fits = np.flatnonzero(small <= self.limit_bytes * (1 + TIE))
        for start in range(0, len(fits), 8 * BLOCK):
            rows = fits[start : start + 8 * BLOCK]
            table = self.table[:, rows]
            step = self.steps(table, self.fastest)
            bound[rows] = _least(self.value(step, self.chip, _used(table)))
        return bound, small

    def least_bytes(self) -> Table:
        """Of every shape, the memory that no mode of it is below."""
        small = np.empty(self.shapes)
        for start in range(0, self.shapes, 8 * BLOCK):
            block = slice(start, start + 8 * BLOCK)
            small[block] = _least(sum(self.frugal(self.table[:, block]).values()))
        return small

    def frugal(self, table: Table) -> dict[str, Number]:
        """Memory of shapes at their most frugal modes, by what it holds."""
        laid_out = self.layouts(table, self.pinned(FRUGAL))
        return training.memory(self.job, self.chip, laid_out)

    def used(self) -> Table:
        """Chips of every shape."""
        return _used(self.table)

    def fitting_points(self, rows: npt.NDArray[np.int64]) -> Table:
        """Of shapes, what fits: a row a point of step_s, memory_bytes, chips, row, mode."""
        step = self.steps(self.table[:, rows], self.modes)
        full = (*map(len, self.modes.values()), len(rows))
        step_s = np.broadcast_to(step.step_s, full).reshape(-1, len(rows))
        memory = np.broadcast_to(step.memory_bytes, full).reshape(-1, len(rows))
        mode, column = np.nonzero(memory <= self.limit_bytes)
        row = rows[column]
        # Whole bytes, so that rounding makes no two of one.
        memory = np.round(memory[mode, column])
        return np.stack([step_s[mode, column], memory, self.used()[row], row, mode], axis=1)

    def layout(self, row: int, mode: int) -> Layout:
        """One point, in plain numbers."""
        places = np.unravel_index(mode, [len(values) for values in self.modes.values()])
        chosen = {
            name: values[int(place)]
            for (name, values), place in zip(self.modes.items(), places, strict=True)
        }
        shape: dict[str, Any] = dict(zip(SHAPE, map(int, self.table[:, row]), strict=True))
        return Layout(**shape, **chosen)

    def found(self, leaders: "_Leaders", evaluated: int, fitting: int | None) -> Found:
        """The answer, or why there is none."""
        if not leaders.kept:
            raise self.nothing_fits()
        layouts = [self.layout(row, mode) for row, mode in leaders.two()]
        steps = [training.step(self.job, self.chip, layout) for layout in layouts]
        return Found(
            self.job,
            self.chip,
            layouts[0],
            steps[0],
            layouts[1] if len(layouts) > 1 else None,
            steps[1] if len(steps) > 1 else None,
            self.objective,
            self.points,
            evaluated,
            fitting,
        )

    def nothing_fits(self) -> NothingFits:
        """The nearest miss, and what would help."""
        name, count = self.job.model.name, max(self.counts)
        where = f"{count:,} {self.chip.name}"
        if not self.shapes:
            return NothingFits(
                f"{name} cannot be laid out on {where}",
                f"its {self.job.model.heads} heads, {self.job.model.layers} layers and batch of "
                f"{self.job.batch:,} sequences divide over other numbers of chips",
            )
        small = self.least_bytes()
        nearest = self.frugal(self.table[:, [small.argmin()]])
        parts = np.stack(np.broadcast_arrays(*nearest.values())).reshape(len(nearest), -1)
        need_bytes, mode = float(small.min()), int(parts.sum(axis=0).argmin())
        largest = list(nearest)[int(parts[:, mode].argmax())]
        what = (
            f"none of {self.points:,} layouts of {name} on {where} fits in "
            f"{self.limit_bytes / 1e9:.4g} GB: the smallest needs {need_bytes / 1e9:.4g} GB "
            f"a chip, most of it {largest.removesuffix('_bytes')}"
        )
        return NothingFits(what, self._remedy(count, largest), need_bytes)

    def _remedy(self, count: int, largest: str) -> str:
        for times in (1, 2, 4, 8, 16, 32, 64):
            for fixed in (self.fixed, None):
                more = _Space(self.job, self.chip, count * times, "time", self.limit_bytes, fixed)
                if more.shapes and more.least_bytes().min() <= self.limit_bytes:
                    free = "" if fixed else f", with {', '.join(self.fixed)} left free"
                    return f"{count * times:,} chips would do{free * bool(self.fixed)}"
        other = "shorter sequences" if largest == "activations_bytes" else "chips with more memory"
        return f"more chips do not help: take {other}"


class _Leaders:
    """The shapes that may still be first or second, each at its best mode."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, int, int]] = []
        """Value, row, mode; those that tie with the second are kept as well."""

    @property
    def second(self) -> float:
        """What a shape must not exceed to be among the two."""
        return self.kept[1][0] if len(self.kept) > 1 else np.inf

    def add(self, rows: npt.NDArray[np.int64], lowest: Table, scores: Table) -> None:
        """Take note of shapes: their lowest values, and those of their modes."""
        near = np.partition(lowest, 1)[1] if len(lowest) > 1 else np.inf
        limit = min(near, self.second) * (1 + TIE)
        for column in np.flatnonzero(np.isfinite(lowest) & (lowest <= limit)):
            mode = int(np.argmax(scores[:, column] <= lowest[column] * (1 + TIE)))
            self.kept.append((float(lowest[column]), int(rows[column]), mode))
        self.kept.sort()
        self.kept = [one for one in self.kept if one[0] <= self.second * (1 + TIE)]

    def two(self) -> list[tuple[int, int]]:
        """(row, mode) of the first and the second, ties decided."""
        left = list(self.kept)
        chosen: list[tuple[int, int]] = []
        while left and len(chosen) < 2:
            ties = [one for one in left if one[0] <= left[0][0] * (1 + TIE)]
            winner = min(ties, key=lambda one: one[1])
            left.remove(winner)
            chosen.append((winner[1], winner[2]))
        return chosen


def _used(table: Table) -> Table:
    """Chips of each shape."""
    return np.asarray(table[[0, 1, 2, 4]].prod(axis=0))


def _least(values: Number) -> Table:
    """Of each shape, the least over its modes."""
    return np.asarray(values.min(axis=tuple(range(values.ndim - 1))))


def _stairs(points: Table) -> Table:
    """The points (step_s, memory_bytes, ...) that beat in time all that need no more memory."""
    points = points[np.lexsort(points.T[[4, 3, 2, 0, 1]])]
    before = np.minimum.accumulate(points[:, 0])[:-1]
    return points[np.append(True, points[1:, 0] < before * (1 - TIE))]


def _behind(stairs: Table, step_s: Table, memory_bytes: Table) -> npt.NDArray[np.bool_]:
    """Whether one point of the stairs is as good in both."""
    if not len(stairs):
        return np.zeros(len(step_s), dtype=bool)
    below = np.searchsorted(stairs[:, 1], memory_bytes, side="right") - 1
    return (below >= 0) & (stairs[below, 0] <= step_s)
