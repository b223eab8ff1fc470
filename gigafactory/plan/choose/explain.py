"""Shadow prices and why the others lost.

Prices are those of the linear model in which training jobs keep their places and nodes may be
split: with whole nodes fixed as well, power would have no price, as nothing could use it. They
hold for a little more, in units of the objective, summed over the quarters named.
"""

import math
from collections.abc import Mapping

import numpy as np

from gigafactory.plan.choose.aggregate import Small
from gigafactory.plan.choose.linear import Array, Row
from gigafactory.plan.choose.model import Model, quarters_said
from gigafactory.plan.choose.problem import Objective, Site, System, Work
from gigafactory.units import show

MW = 1e6
UNITS: dict[Objective, str] = {
    "cost": "",
    "carbon": "gCO2e",
    "first-token": "",
    "tokens-per-joule": "tokens/J",
}
Said = tuple[tuple[tuple[str, str], ...], dict[str, str]]


def say(
    less: Small,
    model: Model,
    weights: Mapping[str, float],
    rows: tuple[Row, ...],
    values: Array,
    buys: Mapping[tuple[str, str, int], int],
) -> Said:
    """What binds, and why each system and site that was not chosen lost."""
    decided = model.decisions()
    priced = model.linear.solve(
        model.weighted(weights), rows=rows, fix=(decided, np.round(values[decided])), relax=True
    )
    if priced.row_prices is None:
        return (), {}
    prices = priced.row_prices
    tokens = {
        work.name: _token_prices(model, number, work, prices, values)
        for number, work in enumerate(model.problem.works)
    }
    binding = _binding(less, model, prices, tokens)
    return binding, _reasons(less, model, weights, prices, tokens, buys)


def _binding(
    less: Small, model: Model, prices: Array, token_prices: Mapping[str, Array]
) -> tuple[tuple[str, str], ...]:
    """Constraints with a price, the most valuable first."""
    problem = model.problem
    found: list[tuple[float, str, str]] = []

    def worth(amount: float) -> str:
        return show(amount, UNITS[problem.objective]).strip()

    for at, site in enumerate(problem.sites):
        # More room never costs: a price of the other sign is rounding.
        each = np.maximum(-_power_prices(model, at, prices), 0.0) * MW
        value, when = math.fsum(each.tolist()), np.flatnonzero(each)
        if value:
            names = _names(less, site.name)
            cap = show(max(site.power_w[quarter] for quarter in when), "W")
            found.append(
                (
                    value * max(site.power_w) / MW,
                    f"power of {names}: {cap}",
                    f"one more MW at {names} in {quarters_said(when.tolist())} is worth"
                    f" {worth(value)}",
                )
            )
    if problem.budget is not None:
        value = float(-prices[model.rows["budget", ""][0]] / model.dearest)
        if value > 0:
            found.append(
                (
                    value * problem.budget,
                    f"budget: {show(problem.budget, '').strip()}",
                    f"one more unit of budget is worth {worth(value)}",
                )
            )
    for system in problem.systems:
        if system.supply is None:
            continue
        each = np.maximum(-prices[model.rows["supply", system.name]], 0.0)
        for quarter in np.flatnonzero(each > 0).tolist():
            value = float(each[quarter])
            found.append(
                (
                    value * system.supply[quarter],
                    f"supply of {system.name}: {system.supply[quarter]:g} in quarter {quarter}",
                    f"one more node of {system.name} in quarter {quarter} is worth {worth(value)}",
                )
            )
    for work in problem.works:
        cost = token_prices[work.name]
        tokens = _tokens(model, work)
        if not tokens.sum():
            continue
        value = float((cost * tokens).sum() / tokens.sum())
        if abs(value) * tokens.sum() > 0:
            names = _names_of_works(less, work)
            sign = "costs" if value > 0 else "is worth"
            found.append(
                (
                    abs(value) * float(tokens.sum()),
                    f"demand of {names}: {show(float(tokens.sum()), 'tokens')}",
                    f"one more million tokens of {names} {sign} {worth(abs(value) * 1e6)}",
                )
            )
    largest = max((each[0] for each in found), default=0.0)
    found = [each for each in found if each[0] > 1e-7 * largest]
    return tuple((what, value) for _, what, value in sorted(found, key=lambda f: (-f[0], f[1])))


def _tokens(model: Model, work: Work) -> Array:
    """Tokens wanted by quarter; those of training stand in its first quarter."""
    if work.kind == "serve":
        return np.array(work.need) * model.problem.quarter_s
    tokens = np.zeros(model.problem.quarters)
    tokens[work.start] = work.need[0]
    return tokens


def _token_prices(model: Model, number: int, work: Work, prices: Array, values: Array) -> Array:
    """What one more token of `work` costs by quarter; training has one price."""
    problem = model.problem
    if work.kind == "train":
        for (job, pair), place in model.placed.items():
            if job == number and values[place] > 0.5:
                rate = work.rate[problem.systems[model.pairs[pair][1]].name]
                price = prices[model.done[number, pair]] / (rate * problem.quarter_s)
                return np.full(problem.quarters, price)
        return np.zeros(problem.quarters)
    by_quarter = np.zeros(problem.quarters)
    if ("demand", work.name) in model.rows:
        when = np.flatnonzero(np.array(work.need) > 0)
        fastest = max(work.rate.values(), default=1.0)
        by_quarter[when] = prices[model.rows["demand", work.name]] / (fastest * problem.quarter_s)
    return by_quarter


def _power_prices(model: Model, at: int, prices: Array) -> Array:
    """What one more W at the meter of a site saves by quarter, as a negative number."""
    rows = model.rows.get(("power", model.problem.sites[at].name))
    if rows is None:
        return np.zeros(model.problem.quarters)
    return prices[rows] / model.node_w(at)


def _reasons(
    less: Small,
    model: Model,
    weights: Mapping[str, float],
    prices: Array,
    tokens: Mapping[str, Array],
    buys: Mapping[tuple[str, str, int], int],
) -> dict[str, str]:
    """System or site that was not chosen to why not."""
    problem = model.problem
    bought = {system for _, system, _ in buys}
    chosen = {site for site, _, _ in buys}
    margins = {
        (site.name, system.name): _margin(model, weights, prices, tokens, at, kind)
        for at, site in enumerate(problem.sites)
        for kind, system in enumerate(problem.systems)
    }
    reasons = {}
    for system in problem.systems:
        if system.name not in bought:
            reasons[system.name] = _why_no_system(less, system, margins)
    for site in problem.sites:
        names = list(dict.fromkeys(name for name, _ in less.members[site.name]))
        taken = [name for name in names if name in chosen]
        for name in names:
            if name in chosen:
                continue
            if taken:
                reasons[name] = f"the same as {taken[0]}, where all that is needed found room"
            else:
                reasons[name] = _why_no_site(less, site, margins)
    return reasons


Margin = tuple[float, float, int] | None
"""Costs and worth of a node at the prices of the plan, in the quarter where it does best."""


def _margin(
    model: Model,
    weights: Mapping[str, float],
    prices: Array,
    tokens: Mapping[str, Array],
    at: int,
    kind: int,
) -> Margin:
    """What a node would cost, with power, budget and supply at their prices, and be worth."""
    problem = model.problem
    site, system = problem.sites[at], problem.systems[kind]
    quarters, lead = problem.quarters, system.lead_quarters
    lawful = np.array(site.lawful.get(system.name, (False,) * quarters), bool)
    lawful[max(quarters - lead, 0) :] = False
    if system.supply is not None:
        lawful &= np.array(system.supply) >= 1
    lawful[: max(quarters - lead, 0)] &= np.array(
        [min(site.power_w[when:]) >= system.power_w * site.pue for when in range(lead, quarters)],
        bool,
    )
    runs = [
        work for work in problem.works if site.name in work.allowed and system.name in work.rate
    ]
    if not lawful.any() or not runs:
        return None
    measures = model.of_buying(at, kind)
    costs = sum(
        (weights[name] * each for name, each in measures.items() if name in weights),
        np.zeros(quarters),
    )
    if problem.budget is not None:
        costs = costs - prices[model.rows["budget", ""][0]] / model.dearest * measures["spent"]
    if system.supply is not None:
        costs = costs - prices[model.rows["supply", system.name]]
    earns = np.zeros(quarters)
    for work in runs:
        use = model.of_using(work, at, kind)
        gain = use["tokens"] * tokens[work.name] - sum(
            weights[name] * each for name, each in use.items() if name in weights
        )
        window = np.array(problem.window(work), int)
        earns[window] = np.maximum(earns[window], gain[window])
    room = -_power_prices(model, at, prices) * system.power_w * site.pue
    onwards = np.zeros((2, quarters))
    for row, each in enumerate((room, earns)):
        left = np.cumsum(each[::-1])[::-1][lead:]
        onwards[row, : left.size] = left
    costs, earns = costs + onwards[0], onwards[1]
    when = int(np.argmin(np.where(lawful, costs - earns, np.inf)))
    return float(costs[when]), float(earns[when]), when


def _why_no_system(less: Small, system: System, margins: Mapping[tuple[str, str], Margin]) -> str:
    whole = less.whole
    if not any(any(site.lawful.get(system.name, ())) for site in whole.sites):
        return "may not be bought at any site in any quarter"
    if not any(system.name in work.rate for work in whole.works):
        return "runs none of the works"
    if system.lead_quarters >= whole.quarters:
        return f"comes {system.lead_quarters} quarters after it is bought, when all is over"
    if system.supply is not None and max(system.supply) < 1:
        return "none can be had in any quarter"
    here = {site: margin for (site, name), margin in margins.items() if name == system.name}
    cut = {site: better for (site, name), better in less.cut.items() if name == system.name}
    found = _least_short(here)
    if found is None:
        if cut:
            better = " or ".join(sorted(set(cut.values())))
            return f"nowhere better than {better}: no cheaper, no faster, draws no less"
        return "no site where it is lawful may run its works and has power for a node"
    site, margin = found
    return f"best at {_names(less, site)}, {_short(less.whole.objective, margin)}"


def _why_no_site(less: Small, site: Site, margins: Mapping[tuple[str, str], Margin]) -> str:
    whole = less.whole
    first = less.members[site.name][0][0]
    if not any(first in work.allowed for work in whole.works):
        return "none of the works may run there"
    if not any(
        any(when) for each in whole.sites if each.name == first for when in each.lawful.values()
    ):
        return "no system may be bought for it in any quarter"
    here = {name: margin for (at, name), margin in margins.items() if at == site.name}
    found = _least_short(here)
    if found is None:
        return "no system that is lawful there runs a work allowed there within its power"
    system, margin = found
    return f"best with {system}, {_short(whole.objective, margin)}"


def _least_short(margins: Mapping[str, Margin]) -> tuple[str, tuple[float, float, int]] | None:
    """Where least is missing to be chosen."""
    known = [(name, margin) for name, margin in margins.items() if margin is not None]
    return min(known, key=lambda each: (each[1][0] - each[1][1], each[0]), default=None)


def _short(objective: Objective, margin: tuple[float, float, int]) -> str:
    """What a node costs and what it is worth, in a clause."""
    costs, earns, when = margin

    def said(amount: float) -> str:
        return show(amount, UNITS[objective]).strip()

    if costs - earns <= 1e-6 * max(abs(costs), abs(earns)):
        return f"in quarter {when}, where a node is worth its cost: as good, and not needed"
    return (
        f"in quarter {when}, where a node costs {said(costs)} with the power it takes and is"
        f" worth {said(earns)}"
    )


def _names(less: Small, site: str) -> str:
    """A site of the smaller problem by name, with how many it stands for."""
    names = list(dict.fromkeys(name for name, _ in less.members[site]))
    count = len(less.members[site])
    return names[0] if count == 1 else f"{names[0]} ({count} alike)"


def _names_of_works(less: Small, work: Work) -> str:
    count = len(less.merged[work.name])
    return work.name if count == 1 else f"{work.name} and {count - 1} alike"
