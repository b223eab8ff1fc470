"""The choice as a linear model with whole numbers. Modelled; the rules are in `problem`.

Columns, for a site c, a system s, a work w and a quarter q:
    x[c, s, q]      nodes bought, whole
    n[c, s, q]      nodes that stand
    u[w, c, s, q]   nodes in use, the mean over the quarter
    z[w, c, s]      1 where a training job has its place
    a[w, q]         1 from the quarter in which a training job with a gang begins
Rows:
    n = n of the quarter before + x of `lead_quarters` before
    use             sum of u over w <= n
    power           sum of n times node power times PUE over s <= cap
    supply          sum of x over c <= supply
    budget          money spent on x <= budget
    demand          sum of u times rate = need, of each quarter or of the whole job
    place           sum of z = 1
    gang            n >= gang (z + a - 1)
Nodes never leave, so a cap that falls later counts at once.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace

import numpy as np

from gigafactory.plan.choose.linear import INF, Array, Linear, Row, Solved
from gigafactory.plan.choose.problem import YEAR_S, OutOfTime, Parts, Problem, Work

PARTS = tuple(part.name for part in fields(Parts))
MEASURES = (*PARTS, "spent", "carbon_g", "energy_j", "tokens")
FIRST_USE = 1e-3
"""Nodes of a quarter that count as a first token: two hours of one node. Assumed."""
IDLE = 1e-6
"""Nodes below this are none."""


class Model:
    """`problem` in columns and rows; where each is, and what each column costs."""

    def __init__(self, problem: Problem, short: str = ""):
        """With `short`, a work of which less than its need may be done."""
        self.problem, self.short = problem, short
        self.part: int | None = None  # the share of `short` that is done
        self.linear = Linear()
        self.pairs: list[tuple[int, int]] = []
        self.most: list[Array] = []  # nodes that can stand at most, by quarter
        self.bought: dict[int, tuple[Array, Array]] = {}  # pair -> (columns, quarters)
        self.standing: dict[int, Array] = {}
        self.used: dict[tuple[int, int], tuple[Array, Array]] = {}  # (work, pair)
        self.placed: dict[tuple[int, int], int] = {}
        self.done: dict[tuple[int, int], int] = {}  # the row: tokens trained there
        self.begun: dict[int, Array] = {}
        self.rows: dict[tuple[str, str], Array] = {}  # (kind, name) -> rows by quarter
        self._measured: dict[str, list[tuple[Array, Array]]] = {name: [] for name in MEASURES}
        quarters = problem.quarters
        self.discount = (1 + problem.discount_per_quarter) ** -np.arange(quarters, dtype=float)
        self._find_pairs()
        for pair in range(len(self.pairs)):
            self._buy(pair)
        for number, work in enumerate(problem.works):
            self._use(number, work)
        self._limit()
        self.measures = {name: self._vector(name) for name in MEASURES}
        self.cost = self.weighted(dict.fromkeys(PARTS, 1.0))
        if problem.budget is not None:
            spent = self.measures["spent"]
            (columns,) = np.nonzero(spent)
            row = self.linear.add_rows(-INF, problem.budget / self.dearest)
            self.linear.put(row, columns, spent[columns] / self.dearest)
            self.rows["budget", ""] = row

    @property
    def dearest(self) -> float:
        """The unit of the budget row: what the dearest column costs."""
        return max(float(self.measures["spent"].max(initial=0.0)), 1e-300)

    def _find_pairs(self) -> None:
        """Which system can be of use at which site, and how many nodes can stand at most."""
        problem = self.problem
        for at, site in enumerate(problem.sites):
            room_w = np.minimum.accumulate(np.array(site.power_w, float)[::-1])[::-1] / site.pue
            taken_w = sum(
                system.power_w * site.installed.get(system.name, 0) for system in problem.systems
            )
            runs = {
                name for work in problem.works if site.name in work.allowed for name in work.rate
            }
            for kind, system in enumerate(problem.systems):
                stands = site.installed.get(system.name, 0)
                lawful = np.array(site.lawful.get(system.name, ()), bool)
                if not (stands or (lawful.any() and system.name in runs)):
                    continue
                more = np.maximum(np.floor((room_w - taken_w) / system.power_w + 1e-9), 0.0)
                come = np.zeros(problem.quarters)
                sold = np.inf if system.supply is None else np.floor(np.array(system.supply) + 1e-9)
                last = problem.quarters - system.lead_quarters
                if lawful.size and last > 0:
                    come[system.lead_quarters :] = np.where(lawful, sold, 0.0)[:last]
                most = stands * site.count + np.minimum(more * site.count, np.cumsum(come))
                self.pairs.append((at, kind))
                self.most.append(most)

    def _buy(self, pair: int) -> None:
        """Nodes bought and nodes that stand, with what they cost."""
        problem = self.problem
        site, system = (problem.sites[self.pairs[pair][0]], problem.systems[self.pairs[pair][1]])
        quarters, lead, most = problem.quarters, system.lead_quarters, self.most[pair]
        stands = site.installed.get(system.name, 0) * site.count
        standing = self.linear.add_columns(float(stands), np.maximum(most, stands))
        self.standing[pair] = standing
        grows = self.linear.add_rows(
            np.r_[stands, np.zeros(quarters - 1)], np.r_[stands, np.zeros(quarters - 1)]
        )
        self.linear.put(grows, standing, 1.0)
        self.linear.put(grows[1:], standing[:-1], -1.0)
        lawful = np.zeros(quarters, bool)
        if system.name in site.lawful:
            lawful[: max(quarters - lead, 0)] = site.lawful[system.name][: max(quarters - lead, 0)]
        (when,) = np.nonzero(lawful)
        when = when[most[when + lead] > stands] if when.size else when
        if not when.size:
            return
        limit = most[-1] - stands
        sold = (
            np.full(quarters, INF)
            if system.supply is None
            else np.floor(np.array(system.supply) + 1e-9)
        )
        columns = self.linear.add_columns(0.0, np.minimum(limit, sold[when]), integer=True)
        self.linear.put(grows[when + lead], columns, -1.0)
        self.bought[pair] = (columns, when)
        for name, values in self.of_buying(*self.pairs[pair]).items():
            self._measure(name, columns, values[when])

    def of_buying(self, at: int, kind: int) -> dict[str, Array]:
        """What a node bought in each quarter adds to the measures."""
        problem = self.problem
        site, system = problem.sites[at], problem.systems[kind]
        price = np.array(system.prices(problem.quarters), float)
        building = np.full(problem.quarters, system.power_w * site.facility_price)
        # Discounted quarters in which a node bought in each quarter stands.
        stood = np.zeros(problem.quarters)
        left = np.cumsum(self.discount[::-1])[::-1][system.lead_quarters :]
        stood[: left.size] = left
        end = (1 + problem.discount_per_quarter) ** -problem.quarters
        return {
            "capex": price * self.discount,
            "facility": building * self.discount,
            "spent": price + building,
            "upkeep": problem.upkeep * problem.quarter_s / YEAR_S * price * stood,
            "residual": -(problem.residual * price + problem.facility_residual * building) * end,
        }

    def of_using(self, work: Work, at: int, kind: int) -> dict[str, Array]:
        """What a node in use through each quarter adds to the measures."""
        problem = self.problem
        site, system = problem.sites[at], problem.systems[kind]
        joules = np.full(problem.quarters, system.power_w * site.pue * problem.quarter_s)
        tokens = np.full(problem.quarters, work.rate[system.name] * problem.quarter_s)
        return {
            "energy": joules * np.array(site.energy_price) * self.discount,
            "revenue": -work.revenue * tokens * self.discount,
            "carbon_g": joules * np.array(site.carbon_g_per_j),
            "energy_j": joules,
            "tokens": tokens,
        }

    def _use(self, number: int, work: Work) -> None:
        """Nodes in use by one work: what they earn, draw and emit, and the rows of its demand."""
        problem = self.problem
        window = np.array(problem.window(work), int)
        if work.kind == "serve":
            window = window[np.array(work.need)[window] > 0]
        elif work.need[0] <= 0:
            return
        fastest = max(work.rate.values(), default=1.0)
        short, least = work.name == self.short, 0.0 if work.optional else 1.0
        if work.kind == "serve":
            need = np.array(work.need)[window] / fastest
            demand = self.linear.add_rows(
                *((0 * need, 0 * need) if short else (least * need, need))
            )
        else:
            demand = self.linear.add_rows(least, 1.0)
        self.rows["demand", work.name] = demand
        if short:
            # Of each quarter the same part is served, or that part is trained.
            self.part = int(self.linear.add_columns(0.0, 1.0)[0])
            partly = demand if work.kind == "serve" else self.linear.add_rows(0.0, 0.0)
            self.linear.put(partly, self.part, -need if work.kind == "serve" else -1.0)
        gangs = work.kind == "train" and any(size > 1 for size in work.gang_nodes.values())
        if gangs:
            self.begun[number] = self.linear.add_columns(0.0, np.ones(window.size), integer=True)
            begins = self.linear.add_rows(-INF, np.zeros(window.size))
            self.linear.put(begins, self.begun[number], -1.0)
        for pair, (at, kind) in enumerate(self.pairs):
            site, system = problem.sites[at], problem.systems[kind]
            rate = work.rate.get(system.name, 0.0)
            if site.name not in work.allowed or not rate:
                continue
            most = self.most[pair][window]
            if work.kind == "train":
                # One site holds the whole job, however many are alike.
                room = np.array(site.power_w)[window] / (site.pue * system.power_w)
                most = np.minimum(most, np.floor(room + 1e-9))
                whole = work.need[0] / (rate * problem.quarter_s)
                gang = work.gang_nodes.get(system.name, 0)
                most = np.where(most >= max(gang, 1), most, 0.0)
                if not short and most.sum() < whole * (1 - 1e-9):
                    continue
            when = window[most > 0]
            if not when.size:
                continue
            used = self.linear.add_columns(0.0, most[most > 0])
            self.used[number, pair] = (used, when)
            for name, values in self.of_using(work, at, kind).items():
                self._measure(name, used, values[when])
            if work.kind == "serve":
                self.linear.put(demand[most > 0], used, rate / fastest)
                continue
            place = self.linear.add_columns(0.0, 1.0, integer=True)
            self.placed[number, pair] = int(place[0])
            self.linear.put(demand, place, 1.0)
            self.done[number, pair] = self.linear.rows
            done = self.linear.add_rows(-INF if short else 0.0, 0.0)
            self.linear.put(done, used, 1.0)
            self.linear.put(done, place, -whole)
            if short:
                self.linear.put(partly, used, 1.0 / whole)
            if gangs:
                self.linear.put(begins[most > 0], used, 1.0 / whole)
            if gang > 1:
                rows = self.linear.add_rows(-float(gang), np.full(when.size, INF))
                self.linear.put(rows, self.standing[pair][when], 1.0)
                self.linear.put(rows, place, -gang)
                self.linear.put(rows, self.begun[number][most > 0], -gang)
                # Nodes never leave, so in the end they stand: this bound needs no whole numbers.
                row = self.linear.add_rows(0.0, INF)
                self.linear.put(row, self.standing[pair][when[-1]], 1.0)
                self.linear.put(row, place, -gang)

    def _limit(self) -> None:
        """Use, power and supply."""
        problem = self.problem
        users: dict[int, list[tuple[Array, Array]]] = {}
        for (_, pair), used in self.used.items():
            users.setdefault(pair, []).append(used)
        for pair, uses in users.items():
            rows = self.linear.add_rows(-INF, np.zeros(problem.quarters))
            self.linear.put(rows, self.standing[pair], -1.0)
            for columns, when in uses:
                self.linear.put(rows[when], columns, 1.0)
        for at, site in enumerate(problem.sites):
            here = [pair for pair, (place, _) in enumerate(self.pairs) if place == at]
            cap = np.array(site.power_w, float)
            if not here or not np.isfinite(cap).any():
                continue
            unit = self.node_w(at)
            rows = self.linear.add_rows(-INF, site.count * cap / unit)
            for pair in here:
                node_w = problem.systems[self.pairs[pair][1]].power_w * site.pue
                self.linear.put(rows, self.standing[pair], node_w / unit)
            self.rows["power", site.name] = rows
        for kind, system in enumerate(problem.systems):
            if system.supply is None:
                continue
            rows = self.linear.add_rows(-INF, np.floor(np.array(system.supply) + 1e-9))
            for pair, (columns, when) in self.bought.items():
                if self.pairs[pair][1] == kind:
                    self.linear.put(rows[when], columns, 1.0)
            self.rows["supply", system.name] = rows

    def node_w(self, at: int) -> float:
        """The unit of a site's power row: its most hungry node at the meter."""
        return max(system.power_w for system in self.problem.systems) * self.problem.sites[at].pue

    def _measure(self, name: str, columns: Array, values: Array) -> None:
        self._measured[name].append((columns, values))

    def _vector(self, name: str) -> Array:
        vector = np.zeros(self.linear.columns)
        for columns, values in self._measured[name]:
            vector[columns] += values
        return vector

    def weighted(self, weights: Mapping[str, float]) -> Array:
        """A sum of measures."""
        parts = (weight * self.measures[name] for name, weight in weights.items())
        return sum(parts, np.zeros(self.linear.columns))

    def at_most(self, measure: Array, value: float) -> Row:
        """The row that bounds a measure."""
        (columns,) = np.nonzero(measure)
        return columns, measure[columns], -INF, value

    def first_by(self, quarter: int) -> Row:
        """The row that wants something to run in some quarter up to this."""
        columns = [used[when <= quarter] for used, when in self.used.values()]
        chosen = np.concatenate(columns) if columns else np.empty(0, int)
        return chosen, np.ones(chosen.size), FIRST_USE, INF

    def whole(self) -> Array:
        """All columns of whole numbers."""
        return np.nonzero(self.linear.bounds()[2])[0]

    def decisions(self) -> Array:
        """The columns that are yes or no: places and beginnings of training jobs."""
        parts = [np.fromiter(self.placed.values(), int), *self.begun.values()]
        return np.sort(np.concatenate(parts))


def least(
    model: Model,
    cost: Array,
    rows: tuple[Row, ...],
    gap: float,
    end_s: float,
    start: Array | None = None,
    slack: float = 0.0,
) -> Solved | None:
    """Least `cost` with whole numbers that are whole; None where nothing is feasible.

    The linear model bounds it. What that leaves at nothing is left at nothing first, so that few
    whole numbers remain; only if that is too far from the bound is everything tried.
    """
    linear, whole = model.linear, model.whole()
    relaxed = linear.solve(cost, rows=rows, relax=True)
    if not relaxed.found:
        return None
    idle = whole[relaxed.values[whole] < IDLE]
    left_s = end_s - time.monotonic()
    best = linear.solve(
        cost,
        rows=rows,
        fix=(idle, np.zeros(idle.size)),
        start=start,
        gap=gap / 2,
        slack=slack / 2,
        time_limit_s=left_s / 2,
    )
    bound = relaxed.objective
    if not (best.found and best.objective - bound <= max(gap * abs(best.objective), slack)):
        best = linear.solve(
            cost,
            rows=rows,
            start=best.values if best.found else start,
            gap=gap,
            slack=slack,
            time_limit_s=end_s - time.monotonic(),
        )
        assert best.status != "unbounded"
        if best.status == "infeasible":
            return None
        if not best.found:
            raise OutOfTime("no choice was found in the time given")
        bound = max(bound, best.bound)
    settled = linear.solve(cost, rows=rows, fix=(whole, np.round(best.values[whole])), relax=True)
    if not settled.found:
        # Rounding a number that was whole within tolerance broke a row within tolerance.
        settled = best
    return replace(settled, bound=min(bound, settled.objective))


def total(measure: Array, values: Array) -> float:
    """A measure of an answer, rounded once."""
    (at,) = np.nonzero(measure)
    return math.fsum((measure[at] * values[at]).tolist())


def quarters_said(when: Iterable[int]) -> str:
    """`quarter 3`, `quarters 0-4`, `quarters 0-1 and 5`."""
    runs: list[list[int]] = []
    for quarter in sorted(set(when)):
        if runs and quarter == runs[-1][1] + 1:
            runs[-1][1] = quarter
        else:
            runs.append([quarter, quarter])
    said = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs]
    plural = "s" if len(said) > 1 or "-" in "".join(said) else ""
    return f"quarter{plural} {' and '.join(filter(None, [', '.join(said[:-1]), said[-1]]))}"
