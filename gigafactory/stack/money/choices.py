"""Build, rent GPUs, buy tokens, or wait: the same work, by what it costs. Modelled.

The work is what the project's chips do at its utilisation, in every month from the planned first
token to the end; its costs are worth what they are on the day of the project's first spending, in
USD. Each way does all of the work: while chips ramp up, or are waited for, the cheaper of rent and
tokens fills the gap. Rented chips are had on demand for the hours that are worked, or by contract
for all hours, whichever is cheaper that month. Who waits pays for machines that do the same work
for less (`machine_drift`) and has younger ones to sell at the end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack.money import cash
from gigafactory.stack.money.figures import Number, Values

Array = NDArray[np.float64]
BUILD, RENT, TOKENS = "build", "rent", "tokens"
QUARTERS = (2, 4, 8)
GRID = np.linspace(0.01, 1.0, 100)
"""Utilisations at which building is compared with the market."""


@dataclass(frozen=True)
class Choice:
    """What each way costs, USD, and from which utilisation on building beats the market."""

    costs: Mapping[str, float]
    tokens: float
    """Output tokens of the work."""
    gpu_hours: float
    """Of the work."""
    discounted_hours: float
    """The same, an hour counted like a dollar of its month: what costs are levelised over."""
    break_even: Mapping[str, float | None]
    """Way of the market -> utilisation; None where the market is cheaper at any."""

    @property
    def cheapest(self) -> str:
        """The way that costs least."""
        return min(self.costs, key=lambda way: self.costs[way])


def choose(
    project: cash.Project, values: Mapping[str, float], quarters: Iterable[int] = QUARTERS
) -> Choice:
    """All ways side by side; waiting for each number of `quarters` that leaves months to work."""
    costs = {name: float(cost[0]) for name, cost in _costs(project, _columns(values, 1)).items()}
    for wait in quarters:
        if 3 * wait < project.months:
            costs[waiting(wait)] = float(_wait(project, _columns(values, 1), wait)[0])
    at = _columns(values, GRID.size) | {"load": GRID}
    by_load = _costs(project, at)
    wins = {way: by_load[BUILD] <= by_load[way] for way in (RENT, TOKENS)}
    due = project.chips * cash.HOURS * values["load"] * _due(project)
    hours = float(due.sum())
    return Choice(
        costs=costs,
        tokens=hours * 3600 * values["tokens_per_s"],
        gpu_hours=hours,
        discounted_hours=float(cash.npv(due, values["discount_rate"])),
        break_even={
            way: float(GRID[won].min()) if won.any() else None for way, won in wins.items()
        },
    )


def waiting(quarters: int) -> str:
    """Name of that way."""
    return f"wait {quarters} quarters"


def _columns(values: Mapping[str, float], count: int) -> dict[str, Number]:
    return {name: np.full(count, value) for name, value in values.items()}


def _costs(project: cash.Project, values: Values) -> dict[str, Array]:
    """Building, renting, buying tokens."""
    rented, bought = _market(project, values)
    gap = (1 - cash.online_share(project, values)) * np.minimum(rented, bought)
    costs = {BUILD: _built(project, values) + gap, RENT: rented, TOKENS: bought}
    return {name: cash.npv(cost, values["discount_rate"]) for name, cost in costs.items()}


def _wait(project: cash.Project, values: Values, quarters: int) -> Array:
    """Buy from the market, and build so much later."""
    months = 3 * quarters
    first = project.first_token.year * 12 + project.first_token.month - 1 + months
    later = replace(
        project,
        first_token=project.first_token.replace(year=first // 12, month=first % 12 + 1, day=1),
        months=project.months - months,
    )
    cheaper = (1 + np.asarray(values["machine_drift"])) ** (months / 12)
    then = dict(values) | {"node_price": values["node_price"] * cheaper}
    online = _shifted(cash.online_share(later, then), months)
    market = np.minimum(*_market(project, values))
    cost = _shifted(_built(later, then), months) + (1 - online) * market
    return cash.npv(cost, values["discount_rate"])


def _built(project: cash.Project, values: Values) -> Array:
    """Costs of the project by month, less what is sold at the end."""
    return cash.flow(project, values, serve_all=True).costs


def _market(project: cash.Project, values: Values) -> tuple[Array, Array]:
    """(rented, bought as tokens) by month; nothing before the planned first token."""
    hours = project.chips * cash.HOURS * _due(project)
    load, contract = (np.reshape(values[name], (-1, 1)) for name in ("load", "contract"))
    listed = cash.gpu_hour_price(replace(project, sell=cash.RENT), {**values, "contract": 1.0})
    tokens = cash.gpu_hour_price(replace(project, sell=cash.TOKENS), values)
    return hours * listed * np.minimum(load, contract), hours * load * tokens


def _due(project: cash.Project) -> Array:
    """1 in the months in which there is work, from the planned first token on."""
    months = np.arange(project.build_months + project.months)
    return np.where(months >= project.build_months, 1.0, 0.0)


def _shifted(flows: Array, months: int) -> Array:
    """The same later, nothing before; to the same end."""
    return np.pad(flows, [(0, 0), (months, 0)])
