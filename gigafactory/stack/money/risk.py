"""How far the NPV of a project moves with what nobody knows: one by one, and all at once. Modelled.

Each uncertain input moves between its low and its high. The tornado moves one at a time. Monte
Carlo draws each from a triangle with its value on top, all independent of each other: real rents,
token prices and delays move together, so the tails are wider than drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack.money import cash
from gigafactory.stack.money.figures import Input, Number, middle

Array = NDArray[np.float64]
DRAWS = 10_000
CHUNK = 1000
"""Futures that are calculated at once: their months fit the processor's cache."""


@dataclass(frozen=True)
class Bar:
    """NPV with one input at its low and at its high, the others at their values."""

    asked: Input
    at_low: float
    at_high: float

    @property
    def swing(self) -> float:
        """How much hangs on it."""
        return abs(self.at_high - self.at_low)


def tornado(project: cash.Project, asked: Mapping[str, Input], equity: bool = False) -> list[Bar]:
    """A bar for each uncertain input that matters, the widest first."""
    uncertain = [one for one in asked.values() if not one.certain]
    base = middle(asked)
    columns: dict[str, Number] = {
        name: np.full(2 * len(uncertain), value) for name, value in base.items()
    }
    for number, one in enumerate(uncertain):
        column = columns[one.name]
        assert isinstance(column, np.ndarray)
        column[2 * number : 2 * number + 2] = one.low, one.high
    worth = _npv(project, columns, equity)
    bars = [
        Bar(one, float(worth[2 * number]), float(worth[2 * number + 1]))
        for number, one in enumerate(uncertain)
    ]
    return sorted((bar for bar in bars if bar.swing > 0), key=lambda bar: -bar.swing)


def monte_carlo(
    project: cash.Project,
    asked: Mapping[str, Input],
    draws: int = DRAWS,
    seed: int = 0,
    equity: bool = False,
) -> Array:
    """NPV of each of so many futures. Same seed, same bytes."""
    values = draw(asked, draws, seed)
    parts = []
    for start in range(0, draws, CHUNK):
        some = {
            name: value[start : start + CHUNK] if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
        parts.append(np.broadcast_to(_npv(project, some, equity), (min(CHUNK, draws - start),)))
    return np.concatenate(parts)


def draw(asked: Mapping[str, Input], draws: int, seed: int) -> dict[str, Number]:
    """A column of draws for each uncertain input, its value for each certain one."""
    random = np.random.default_rng(seed)
    return {
        name: one.value
        if one.certain
        else random.triangular(one.low, np.clip(one.value, one.low, one.high), one.high, draws)
        for name, one in asked.items()
    }


def _npv(project: cash.Project, values: Mapping[str, Number], equity: bool) -> Array:
    flow = cash.flow(project, values)
    return cash.npv(flow.equity if equity else flow.net, values["discount_rate"])
