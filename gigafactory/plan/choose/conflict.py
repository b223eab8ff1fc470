"""Why nothing is possible, as a short proof, and the cheapest change that helps.

Constraints come in groups with a name: the power of a site, the budget, the law at a site, where a
work may run, its deadline, the supply of a system, the demand of a work. A deletion filter drops
groups, many at once while that works, as long as the rest still cannot hold: what is left is
irreducible, so dropping any one of it makes the rest possible.

A change loosens one group as little as suffices with all others held. Cheapest is the smallest
share of what there was; law and residency are never for sale.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NoReturn

import numpy as np

from gigafactory.plan.choose.aggregate import small
from gigafactory.plan.choose.deal import deal
from gigafactory.plan.choose.linear import INF, Array, Solved
from gigafactory.plan.choose.model import Model, least, quarters_said
from gigafactory.plan.choose.problem import Change, Conflict, Infeasible, Kind, OutOfTime, Problem
from gigafactory.units import PREFIXES

Group = tuple[Kind, str]
"""Kind and name; of sites alike the first name stands for all."""
CHECK_S = 10.0
"""A check that takes longer counts as possible: nothing is blamed without proof. Assumed."""
FEW = 16
"""Sites that are each looked at by themselves; of more, those alike are one where that does."""
FINE = 1e-4
"""How close to the least a change is, in shares of what it takes."""
ROUNDS = 12
"""Changes tried together before works are dropped instead. Assumed."""


@dataclass(frozen=True)
class Loosened:
    """The least change of one group that suffices, and how to make it."""

    share: float
    """How large it is in shares of what there was."""
    words: str
    holds: str
    """What the constraint is against what it takes."""
    apply: Callable[[Problem], Problem]


@dataclass(frozen=True)
class Case:
    """A problem to be checked: its sites taken apart where the answer could not be dealt out."""

    problem: Problem
    split: frozenset[str]
    alike: dict[str, frozenset[str]]
    """First of the sites alike to all of them."""

    def of(self, problem: Problem) -> "Case":
        """The same with another problem."""
        return replace(self, problem=problem)


def explain_infeasible(whole: Problem, split: frozenset[str]) -> NoReturn:
    """Raises `Infeasible` for a problem without an answer."""
    members = small(whole).members.values()
    alike = {places[0][0]: frozenset(name for name, _ in places) for places in members}
    few = sum(site.count for site in whole.sites) <= FEW
    case = Case(whole, frozenset(site.name for site in whole.sites) if few else split, alike)
    conflict, core = _irreducible(case)
    words = tuple(Conflict(kind, of, _said(core, (kind, of), conflict)) for kind, of in conflict)
    raise Infeasible(words, _cheapest(case, core, conflict))


def possible(case: Case) -> bool:
    """Whether anything meets all constraints; the linear model is asked first, being quick."""
    split = case.split
    while True:
        less = small(case.problem, split)
        model = Model(less.problem)
        try:
            found = least(model, model.cost, (), 1.0, time.monotonic() + CHECK_S)
        except OutOfTime:
            return True
        if found is None:
            return False
        _, failed = deal(less, model, found.values)
        if not failed:
            return True
        split |= failed


def _groups(case: Case) -> list[Group]:
    """All constraints by name; those that come first are the first to be dropped."""
    problem = case.problem
    last, every = problem.quarters - 1, frozenset(site.name for site in problem.sites)
    sites = [site for site in problem.sites if site.name in case.alike]
    names = [system.name for system in problem.systems]
    groups: list[Group] = []
    groups += [("supply", each.name) for each in problem.systems if each.supply is not None]
    groups += [
        ("law", site.name)
        for site in sites
        if not all(all(site.lawful.get(name, (False,))) for name in names)
    ]
    groups += [("residency", work.name) for work in problem.works if not work.allowed >= every]
    groups += [
        ("deadline", work.name)
        for work in problem.works
        if work.kind == "train" and problem.last(work) < last
    ]
    groups += [("budget", "")] if problem.budget is not None else []
    groups += [("power", site.name) for site in sites if math.isfinite(min(site.power_w))]
    groups += [
        ("demand", work.name) for work in problem.works if not work.optional and max(work.need) > 0
    ]
    return groups


def _irreducible(case: Case) -> tuple[list[Group], Case]:
    """A conflict from which nothing can be dropped, and the problem with nothing else in it."""
    dropped: list[Group] = []
    left = _groups(case)
    size = max(len(left) // 2, 1)
    while True:
        at = 0
        while at < len(left):
            tried = left[at : at + size]
            if possible(case.of(_without(case, [*dropped, *tried]))):
                at += size
            else:
                dropped += tried
                left = left[:at] + left[at + size :]
        if size == 1:
            return left, case.of(_without(case, dropped))
        size = max(min(size // 2, len(left) // 2), 1)


def _without(case: Case, groups: list[Group]) -> Problem:
    """The problem when these constraints are no more."""
    problem, gone = case.problem, set(groups)
    every = frozenset(site.name for site in problem.sites)
    first = {name: one for one, names in case.alike.items() for name in names}
    free = {system.name: (True,) * problem.quarters for system in problem.systems}
    unlimited = (INF,) * problem.quarters
    systems = [
        replace(each, supply=None) if ("supply", each.name) in gone else each
        for each in problem.systems
    ]
    sites = [
        replace(
            each,
            power_w=unlimited if ("power", first[each.name]) in gone else each.power_w,
            lawful=free if ("law", first[each.name]) in gone else each.lawful,
        )
        for each in problem.sites
    ]
    works = [
        replace(
            each,
            allowed=every if ("residency", each.name) in gone else each.allowed,
            deadline=None if ("deadline", each.name) in gone else each.deadline,
        )
        for each in problem.works
        if ("demand", each.name) not in gone
    ]
    budget = None if ("budget", "") in gone else problem.budget
    return replace(
        problem, systems=tuple(systems), sites=tuple(sites), works=tuple(works), budget=budget
    )


def _cheapest(case: Case, core: Case, conflict: list[Group]) -> Change:
    """The smallest change that makes the whole problem possible.

    One change where one is enough; where several conflicts stand side by side, the smallest for
    each in turn.
    """
    alone = [each for each in (_loosen(case, group) for group in conflict) if each is not None]
    for each in sorted(alone, key=lambda each: each.share):
        changed = each.apply(case.problem)
        if possible(case.of(changed)):
            return Change(each.words, each.share, changed)
    words, share, now = [], 0.0, case
    for turn in itertools.count():
        some = [each for each in (_loosen(core, group) for group in conflict) if each is not None]
        best = min(some, key=lambda each: each.share, default=None)
        demands = [of for kind, of in conflict if kind == "demand"]
        if demands and (best is None or turn >= ROUNDS):
            best = _dropped(demands[0])
        assert best is not None, "a conflict without a demand has too little power for what stands"
        words.append(best.words)
        share += best.share
        now = now.of(best.apply(now.problem))
        if possible(now):
            return Change(" and ".join(words), share, now.problem)
        conflict, core = _irreducible(now)
    raise AssertionError("unreachable")


def _loosen(case: Case, group: Group) -> Loosened | None:
    """The least change of `group` alone that makes `case` possible; None where there is none."""
    kind, of = group
    if kind == "budget":
        return _more_budget(case)
    ways = {
        "power": _more_power,
        "supply": _more_supply,
        "deadline": _more_time,
        "demand": _less_demand,
    }
    return ways[kind](case, of) if kind in ways else None


def _least(model: Model, column: int) -> float | None:
    """The least value of a column."""
    cost = np.zeros(model.linear.columns)
    cost[column] = 1.0
    found = _found(model, cost)
    return None if found is None else float(found.values[column])


def _found(model: Model, cost: Array) -> Solved | None:
    """The least `cost`; None where there is none, or none was found in time."""
    try:
        return least(model, cost, (), FINE, time.monotonic() + CHECK_S)
    except OutOfTime:
        return None


def _more_power(case: Case, of: str) -> Loosened | None:
    record = next(site for site in case.problem.sites if site.name == of)
    less = small(_without(case, [("power", of)]), case.split)
    model = Model(less.problem)
    more_at = int(model.linear.add_columns(0.0, INF)[0])
    unit_w = max(system.power_w for system in less.problem.systems) * record.pue
    for at, site in enumerate(less.problem.sites):
        if less.members[site.name][0][0] not in case.alike[of]:
            continue
        rows = model.linear.add_rows(-INF, site.count * np.array(record.power_w) / unit_w)
        model.linear.put(rows, more_at, -float(site.count))
        for pair, (place, system) in enumerate(model.pairs):
            if place == at:
                node_w = less.problem.systems[system].power_w * site.pue
                model.linear.put(rows, model.standing[pair], node_w / unit_w)
    more = _least(model, more_at)
    if more is None:
        return None
    old_w = max(record.power_w)
    new_w = _up(old_w + more * unit_w)

    def apply(problem: Problem) -> Problem:
        sites = (
            replace(site, power_w=tuple(each + new_w - old_w for each in site.power_w))
            if site.name in case.alike[of]
            else site
            for site in problem.sites
        )
        return replace(problem, sites=tuple(sites))

    more_w = _exact(new_w - old_w, "W")
    ever = f", {more_w} more in every quarter" if min(record.power_w) < old_w else ""
    return Loosened(
        _share(new_w - old_w, old_w),
        f"raise power of {_site(case, of)} to {_exact(new_w, 'W')}{ever}",
        f"{_exact(old_w, 'W')} < {_exact(new_w, 'W')}",
        apply,
    )


def _more_budget(case: Case) -> Loosened | None:
    model = Model(small(replace(case.problem, budget=None), case.split).problem)
    found = _found(model, model.measures["spent"])
    if found is None:
        return None
    old, new = case.problem.budget or 0.0, _up(found.objective)
    return Loosened(
        _share(new - old, old),
        f"raise the budget to {_exact(new)}",
        f"{_exact(old)} < {_exact(new)}",
        lambda problem: replace(problem, budget=new),
    )


def _more_supply(case: Case, of: str) -> Loosened | None:
    system = next(each for each in case.problem.systems if each.name == of)
    assert system.supply is not None
    less = small(_without(case, [("supply", of)]), case.split)
    model = Model(less.problem)
    more_at = int(model.linear.add_columns(0.0, [INF], integer=True)[0])
    rows = model.linear.add_rows(-INF, np.floor(np.array(system.supply) + 1e-9))
    model.linear.put(rows, more_at, -1.0)
    for pair, (columns, when) in model.bought.items():
        if less.problem.systems[model.pairs[pair][1]].name == of:
            model.linear.put(rows[when], columns, 1.0)
    found = _least(model, more_at)
    if found is None:
        return None
    more, old = math.ceil(found - 1e-6), sum(system.supply)
    words = f"{more} more node{'s' * (more > 1)} of {of} in every quarter"

    def apply(problem: Problem) -> Problem:
        systems = (
            replace(each, supply=tuple(nodes + more for nodes in each.supply))
            if each.name == of and each.supply is not None
            else each
            for each in problem.systems
        )
        return replace(problem, systems=tuple(systems))

    return Loosened(
        _share(more * case.problem.quarters, old),
        f"find {words}",
        f"{old:g} nodes in {quarters_said(range(case.problem.quarters))}, it takes {words}",
        apply,
    )


def _more_time(case: Case, of: str) -> Loosened | None:
    work = next(each for each in case.problem.works if each.name == of)
    old = case.problem.last(work)
    for quarter in range(old + 1, case.problem.quarters):
        later = _with_work(of, deadline=quarter)
        if possible(case.of(later(case.problem))):
            many = "one quarter" if quarter == old + 1 else f"{quarter - old} quarters"
            return Loosened(
                (quarter - old) / max(old + 1 - work.start, 1),
                f"move the deadline of {of} by {many}, to quarter {quarter}",
                f"quarter {old} < quarter {quarter}",
                later,
            )
    return None


def _less_demand(case: Case, of: str) -> Loosened | None:
    model = Model(small(case.problem, case.split, alone=of).problem, short=of)
    assert model.part is not None
    cost = np.zeros(model.linear.columns)
    cost[model.part] = -1.0
    found = _found(model, cost)
    if found is None:
        return None
    # Three digits, rounded down with a little to spare; if it lacks less than that, take that.
    part = min(math.floor(-found.objective * 1e3 - 1e-3) / 1e3, 0.999)
    if part <= 0.0:
        return _dropped(of)
    work = next(each for each in case.problem.works if each.name == of)
    verb = "serve" if work.kind == "serve" else "train"
    return Loosened(
        1 - part,
        f"{verb} {part * 100:.4g} % of {of}",
        f"{part * 100:.4g} % of it can be had",
        _with_work(of, need=tuple(each * part for each in work.need)),
    )


def _dropped(of: str) -> Loosened:
    def apply(problem: Problem) -> Problem:
        return replace(problem, works=tuple(w for w in problem.works if w.name != of))

    return Loosened(1.0, f"drop {of}", "none of it can be had", apply)


def _with_work(of: str, **changes: Any) -> Callable[[Problem], Problem]:
    def apply(problem: Problem) -> Problem:
        works = (replace(w, **changes) if w.name == of else w for w in problem.works)
        return replace(problem, works=tuple(works))

    return apply


def _share(more: float, old: float) -> float:
    return more / old if old > 0 else INF


def _said(core: Case, group: Group, conflict: list[Group]) -> str:
    """The constraint against what the others ask of it, all else left aside."""
    kind, of = group
    problem = core.problem
    wants = _list([name for what, name in conflict if what == "demand"])
    loosened = _loosen(core, group)
    holds = loosened.holds if loosened else ""
    if kind == "power":
        site = next(each for each in problem.sites if each.name == of)
        needed = f"needed by {wants}" if wants else "drawn by what stands there"
        return f"site {_site(core, of)}: {holds or _exact(max(site.power_w), 'W')} {needed}"
    if kind == "budget":
        return f"budget: {holds or _exact(problem.budget or 0.0)} needed by {wants}"
    if kind == "supply":
        return f"supply of {of}: {holds or 'too few nodes'}"
    if kind == "deadline":
        return f"deadline of {of}: {holds or 'too early'}"
    if kind == "law":
        return f"law at {_site(core, of)}: {_barred(problem, of)} may not be bought"
    work = next(each for each in problem.works if each.name == of)
    if kind == "residency":
        return f"residency: {of} may run only at {_list(sorted(work.allowed)) or 'no site'}"
    part = f", {holds}" if holds else ""
    if work.kind == "serve":
        peak = max(work.need)
        wanted = f"{_exact(peak, 'tokens/s')} in quarter {work.need.index(peak)}"
    else:
        wanted = f"{_exact(work.need[0], 'tokens')} in {quarters_said(problem.window(work))}"
    return f"demand: {of} wants {wanted}{part}"


def _barred(problem: Problem, of: str) -> str:
    """What the law keeps from a site, and when."""
    site = next(each for each in problem.sites if each.name == of)
    barred = []
    for system in problem.systems:
        lawful = site.lawful.get(system.name, (False,) * problem.quarters)
        when = [quarter for quarter in range(problem.quarters) if not lawful[quarter]]
        if len(when) == problem.quarters:
            barred.append(system.name)
        elif when:
            barred.append(f"{system.name} in {quarters_said(when)}")
    return _list(barred)


def _site(case: Case, of: str) -> str:
    """A site by name, with how many are alike."""
    count = sum(site.count for site in case.problem.sites if site.name in case.alike[of])
    return of if count == 1 else f"{of} ({count} alike, each)"


def _list(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _up(value: float) -> float:
    """Four digits, rounded up with a little to spare, so that what is printed is enough."""
    if value <= 0:
        return 0.0
    value *= 1 + 1e-6
    digit = Decimal(10) ** (math.floor(math.log10(value)) - 3)
    return float(math.ceil(Decimal(value) / digit) * digit)


def _exact(value: float, unit: str = "") -> str:
    """Four digits: what is needed and what there is may differ in the fourth."""
    for prefix in ("E", "P", "T", "G", "M", "k"):
        if abs(value) >= PREFIXES[prefix]:
            space = " " if unit.startswith("token") else ""
            return f"{value / PREFIXES[prefix]:.4g} {prefix}{space}{unit}".strip()
    return f"{value:.4g} {unit}".strip()
