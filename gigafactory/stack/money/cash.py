"""Cash by month of one project: what is paid, what comes in, and what that is worth today.

Months are counted from the first spending; USD of each month (nominal), before tax. The facility is
paid evenly until the planned first token, machines in the last months before it. Chips come on
line over a ramp; an hour is sold only where its price pays its energy. At the end what has book
value left is sold. A loan pays its share of capex, gathers interest until the planned first token,
and is paid back in equal months from then on, or at the end.
All of it holds for numbers and for columns of draws alike: the last axis is months. Modelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack.chips import System
from gigafactory.stack.money import build, prices
from gigafactory.stack.money.figures import Number, Values, term

Array = NDArray[np.float64]
HOURS = build.HOURS / 12
"""Of a mean month."""
RENT, TOKENS = "rent", "tokens"
SALES = (RENT, TOKENS)


@dataclass(frozen=True)
class Project:
    """What is built, when it is to earn, how, and on whose money."""

    system: System
    nodes: int
    first_token: date
    months: int = 60
    """From the planned first token to the end."""
    sell: str = RENT
    rent_as_of: str = ""
    """Day of the input `rent`; the catalog's if empty."""
    tokens_as_of: str = "2026-08-05"
    """Day of the input `token_price`."""
    debt: float = 0.0
    """Share of capex."""
    debt_rate: float = 0.0
    debt_years: float = 5.0
    it_power_w: float | None = None
    """Nameplate, if it is not that of the nodes."""
    building_months: int | None = None
    """First spending to planned first token; the usual if None."""

    @property
    def chips(self) -> int:
        """How many there are."""
        return self.nodes * self.system.chips_per_node

    @property
    def build_months(self) -> int:
        """The same, known."""
        return int(term("build_months")) if self.building_months is None else self.building_months

    @property
    def start(self) -> date:
        """First day of the month of the first spending."""
        month = self.first_token.year * 12 + self.first_token.month - 1 - self.build_months
        return date(month // 12, month % 12 + 1, 1)

    def days(self) -> Array:
        """Middle of each month, in days since 1970."""
        first = np.datetime64(self.start, "M")
        months = first + np.arange(self.build_months + self.months)
        return months.astype("datetime64[D]").astype(np.float64) + 14.0


@dataclass(frozen=True)
class Flow:
    """Months on the last axis. Costs are negative."""

    parts: dict[str, Array]
    """Machines, facility, energy, staff, maintenance, revenue, residual."""
    loan: dict[str, Array]
    """Drawn (positive), service (negative)."""
    gpu_hours: Array
    """Sold in each month."""
    price: Array
    """What a GPU-hour sold for."""

    @property
    def net(self) -> Array:
        """Of the project, whoever pays for it."""
        return np.asarray(sum(self.parts.values()))

    @property
    def equity(self) -> Array:
        """Of the owners, after the loan."""
        return np.asarray(self.net + sum(self.loan.values()))

    @property
    def costs(self) -> Array:
        """All but revenue, as positive amounts."""
        return np.asarray(self.parts["revenue"] - self.net)


def flow(project: Project, values: Values, serve_all: bool = False) -> Flow:
    """Cash of every month. `serve_all` runs the chips though an hour's price may not pay."""
    system, nodes, first = project.system, project.nodes, project.build_months
    months = np.arange(first + project.months, dtype=np.float64)
    capex = build.capex(system, nodes, values, project.it_power_w)
    machines, facility = (build.total(capex, names) for names in (build.MACHINES, build.FACILITY))
    online = online_share(project, values)
    running = months >= first

    inflated = (1 + _column(values["inflation"])) ** (months / 12)
    price = gpu_hour_price(project, values)
    each = _column(values["pue"] * values["electricity_price"] * (1 + values["beside"])) * inflated
    swing_kw, idle_kw = (watts(system) / 1e3 for watts in (build.swing_w, build.idle_w))
    pays = price > each * swing_kw / system.chips_per_node
    busy = _column(values["load"]) * (np.ones_like(pays) if serve_all else pays)
    hours = project.chips * HOURS * online * busy
    year = build.opex(system, nodes, values, project.it_power_w)

    facility_left = np.maximum(1 - project.months / 12 / np.asarray(values["facility_life"]), 0)
    machines_left = np.maximum(1 - project.months / 12 / np.asarray(values["machine_life"]), 0)
    left = (facility * facility_left + machines * machines_left) * values["resale"]
    parts = {
        "machines": -_column(machines) * _evenly(months, first - _machine_months(first), first),
        "facility": -_column(facility) * _evenly(months, 0, first),
        "energy": -each * nodes * HOURS * online * (idle_kw + busy * swing_kw),
        "staff": -_column(year["staff"]) / 12 * inflated * running,
        "maintenance": -_column(year["maintenance"]) / 12 * inflated * running,
        "revenue": hours * price,
        "residual": _column(left) * (months == months[-1]),
    }
    parts = dict(zip(parts, np.broadcast_arrays(*parts.values()), strict=True))
    spent = parts["machines"] + parts["facility"]
    return Flow(parts, _loan(project, -spent), hours, price)


def online_share(project: Project, values: Values) -> Array:
    """Share of the chips that is on line in each month: none before the delayed first token."""
    first = project.build_months
    months = np.arange(first + project.months, dtype=np.float64)
    since = months + 0.5 - first - _column(values["delay_months"])
    return np.asarray(np.clip(since / _column(values["ramp_months"]), 0.0, 1.0))


def gpu_hour_price(project: Project, values: Values) -> Array:
    """What a busy GPU-hour earns in each month: its rent by contract, or its tokens."""
    days = project.days()
    if project.sell == RENT:
        level = _column(values["rent"] * values["contract"])
        drift = _column(values["rent_drift"])
        return np.asarray(level * prices.rent_shape(days, _rent_day(project), drift))
    level = _column(values["token_price"] * values["realised"] * values["tokens_per_s"])
    shape = prices.token_shape(days, project.tokens_as_of, _column(values["token_drift"]))
    return np.asarray(level * 3600 / 1e6 * shape)


def npv(flows: Array, rate: Number) -> Array:
    """Worth on the day of the first spending, at a yearly `rate`."""
    months = np.arange(flows.shape[-1])
    return np.asarray((flows / (1 + _column(rate)) ** (months / 12)).sum(-1))


def irr(flows: Sequence[float] | Array) -> float | None:
    """Yearly rate at which one project is worth nothing; None if there is none."""
    import pyxirr

    amounts = [float(amount) for amount in np.ravel(np.asarray(flows))]
    if not min(amounts) < 0 < max(amounts):
        return None
    monthly = pyxirr.irr(amounts, silent=True)
    if monthly is None or not np.isfinite(monthly):
        return None
    return float((1 + monthly) ** 12 - 1)


def payback_month(flows: Array) -> int | None:
    """First month from which on all that was spent is back for good; None if it never is."""
    left = np.cumsum(np.ravel(flows))
    short = np.flatnonzero(left < 0)
    if short.size == 0:
        return 0
    return int(short[-1]) + 1 if short[-1] + 1 < left.size else None


def _loan(project: Project, spent: Array) -> dict[str, Array]:
    """Drawn with what is spent; equal payments from the planned first token on."""
    first, count = project.build_months, spent.shape[-1]
    rate, term_months = project.debt_rate / 12, round(12 * project.debt_years)
    months = np.arange(count)
    drawn = project.debt * spent
    owed = (drawn * (1 + rate) ** np.maximum(first - 1 - months, 0)).sum(-1, keepdims=True)
    payment = owed * build.annuity(rate, term_months)
    service = np.where((months >= first) & (months < first + term_months), payment, 0.0)
    if project.months < term_months:  # The rest is due when everything is sold.
        left = build.annuity(rate, term_months) / build.annuity(rate, term_months - project.months)
        service = service + np.where(months == count - 1, owed * left, 0.0)
    return {"drawn": drawn, "service": -service}


def _machine_months(first: int) -> int:
    return min(int(term("machine_months")), first)


def _evenly(months: Array, start: int, end: int) -> Array:
    return np.where((months >= start) & (months < end), 1 / (end - start), 0.0)


def _rent_day(project: Project) -> str:
    return project.rent_as_of or prices.as_of_rent(project.system)


def _column(value: Number) -> Array:
    """One row a future, so that months can lie beside."""
    array = np.asarray(value, np.float64)
    return array if array.ndim == 0 else array.reshape(-1, 1)
