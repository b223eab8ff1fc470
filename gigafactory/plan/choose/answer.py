"""The best choice, proven: solve the small problem, deal the answer out, say what binds.

A bound is HiGHS' own, from the small problem, which allows no less than the whole one; an answer
is one that was dealt out. Where two choices are as good, the cheaper is taken.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gigafactory.plan.choose import explain
from gigafactory.plan.choose.aggregate import Small, small
from gigafactory.plan.choose.conflict import explain_infeasible
from gigafactory.plan.choose.deal import Dealt, deal
from gigafactory.plan.choose.linear import Array, Row, Solved
from gigafactory.plan.choose.model import PARTS, Model, least, total
from gigafactory.plan.choose.problem import Choice, Objective, OutOfTime, Parts, Problem

MONEY = dict.fromkeys(PARTS, 1.0)


@dataclass(frozen=True)
class Saved:
    """What sharing saves against each tenant alone; what it costs in queueing is not here."""

    nodes: int
    energy_j: float
    money: float


@dataclass(frozen=True)
class Best:
    """An answer of the small problem; it was found for these weights of measures, under `rows`."""

    values: Array
    objective: float
    bound: float
    weights: Mapping[str, float]
    rows: tuple[Row, ...]


def choose(problem: Problem, gap: float = 0.01, time_limit_s: float = 60.0) -> Choice:
    """The best choice within `gap` of a proven bound.

    Raises `Infeasible` with the conflict and what would help, and `OutOfTime` when no choice was
    found in time. An answer that took all the time has a larger gap than asked, and says so.
    """
    return _choose(problem, gap, time_limit_s, {})


def front(
    problem: Problem,
    objectives: tuple[Objective, Objective] = ("cost", "carbon"),
    points: int = 5,
    gap: float = 0.01,
    time_limit_s: float = 60.0,
) -> list[Choice]:
    """Choices from the best in the second objective to the best in the first.

    Epsilon constraint: the first is made best while the second is held to a value, at even steps
    between its two extremes.
    """
    first, second = objectives
    ends = [
        _choose(replace(problem, objective=each), gap, time_limit_s, {}) for each in (second, first)
    ]
    low, high = (_measure(second, each) for each in ends)
    middle = replace(problem, objective=first)
    steps = [low + (high - low) * step / (points - 1) for step in range(1, points - 1)]
    found = [_choose(middle, gap, time_limit_s, {second: step}) for step in steps]
    return [ends[0], *found, ends[1]]


def apart(
    problem: Problem, tenants: Mapping[str, str], gap: float = 0.01, time_limit_s: float = 60.0
) -> dict[str, Choice]:
    """Tenant to the choice for its works alone; `tenants` maps each work to its tenant.

    Each has sites, supply and budget to itself. What stands already is dealt in turn, so that no
    node is counted twice.
    """
    names = sorted(set(tenants.values()))
    return {
        name: choose(
            replace(
                problem,
                works=tuple(work for work in problem.works if tenants[work.name] == name),
                sites=tuple(
                    replace(
                        site,
                        installed={
                            system: nodes // len(names) + (turn < nodes % len(names))
                            for system, nodes in site.installed.items()
                        },
                    )
                    for site in problem.sites
                ),
            ),
            gap,
            time_limit_s,
        )
        for turn, name in enumerate(names)
    }


def shared_saving(together: Choice, alone: Mapping[str, Choice]) -> Saved:
    """What `together` saves against `apart`, within the gaps of both.

    Never less than no money where power, supply and budget leave room for all of `alone` at once.
    Nodes may be more where many small ones are cheaper than few large ones.
    """
    return Saved(
        sum(each.nodes() for each in alone.values()) - together.nodes(),
        sum(each.energy_j for each in alone.values()) - together.energy_j,
        sum(each.parts.cost for each in alone.values()) - together.parts.cost,
    )


def _choose(
    problem: Problem, gap: float, time_limit_s: float, held: Mapping[Objective, float]
) -> Choice:
    """`choose` with further objectives held to values."""
    cpu_s, end_s = time.process_time(), time.monotonic() + time_limit_s
    split: frozenset[str] = frozenset()
    while True:
        less = small(problem, split)
        model = Model(less.problem)
        rows = tuple(_hold(model, objective, value) for objective, value in held.items())
        best = _best(model, problem.objective, rows, gap, end_s)
        if best is None:
            explain_infeasible(problem, split)
        dealt, failed = deal(less, model, best.values)
        if not failed:
            break
        split |= failed
    choice = _told(less, model, best, dealt)
    return replace(choice, cpu_s=time.process_time() - cpu_s)


def _measure(objective: Objective, choice: Choice) -> float:
    if objective == "cost":
        return choice.parts.cost
    if objective == "carbon":
        return choice.carbon_g
    if objective == "tokens-per-joule":
        return choice.tokens / choice.energy_j if choice.energy_j else 0.0
    assert choice.first_token_quarter is not None
    return float(choice.first_token_quarter)


def _hold(model: Model, objective: Objective, value: float) -> Row:
    """The row that keeps an objective no worse than `value`, rounding left aside."""
    if objective == "first-token":
        return model.first_by(round(value))
    if objective == "tokens-per-joule":
        ratio = value * (1 - 1e-7)
        return model.at_most(ratio * model.measures["energy_j"] - model.measures["tokens"], 0.0)
    measure = model.cost if objective == "cost" else model.measures["carbon_g"]
    return model.at_most(measure, value + 1e-7 * abs(value))


def _best(
    model: Model, objective: Objective, rows: tuple[Row, ...], gap: float, end_s: float
) -> Best | None:
    """The best answer of the small problem; None where there is none."""
    if objective == "first-token":
        return _earliest(model, rows, gap, end_s)
    if objective == "tokens-per-joule":
        return _most_per_joule(model, rows, gap, end_s)
    weights = MONEY if objective == "cost" else {"carbon_g": 1.0}
    measure = model.weighted(weights)
    found = least(model, measure, rows, gap, end_s)
    if found is None:
        return None
    if objective == "cost":
        return Best(found.values, found.objective, found.bound, weights, rows)
    held = (*rows, _hold(model, "carbon", found.objective))
    cheap = _cheapest(model, held, found, gap, end_s)
    return Best(cheap, total(measure, cheap), found.bound, weights, rows)


def _cheapest(
    model: Model, rows: tuple[Row, ...], found: Solved, gap: float, end_s: float
) -> Array:
    """The cheapest answer under `rows`, beginning from one that meets them."""
    try:
        cheap = least(model, model.cost, rows, gap, end_s, found.values)
    except OutOfTime:
        cheap = None
    return found.values if cheap is None else cheap.values


def _earliest(model: Model, rows: tuple[Row, ...], gap: float, end_s: float) -> Best | None:
    """The first quarter that can have a token, then the cheapest way to have it then."""
    quarters = model.problem.quarters
    for quarter in range(quarters):
        row = model.first_by(quarter)
        if not row[0].size:
            continue
        with_row = (*rows, row)
        found = least(model, model.cost, with_row, gap, end_s)
        if found is not None:
            return Best(found.values, float(quarter), float(quarter), MONEY, with_row)
    found = least(model, model.cost, rows, gap, end_s)
    if found is None:
        return None
    return Best(found.values, float(quarters), float(quarters), MONEY, rows)


def _most_per_joule(model: Model, rows: tuple[Row, ...], gap: float, end_s: float) -> Best | None:
    """Most tokens per joule by Dinkelbach's method.

    Tokens less r times energy are made largest; r becomes the ratio of the answer, until nothing
    is left. First with divisible nodes, which gives the bound that Charnes and Cooper's form
    would; then with whole ones. Something must run: no tokens for no energy are no ratio.
    Source: Dinkelbach 1967, doi:10.1287/mnsc.13.7.492
    """
    energy, tokens = model.measures["energy_j"], model.measures["tokens"]
    something = model.first_by(model.problem.quarters - 1)
    if not something[0].size:
        return _best(model, "cost", rows, gap, end_s)
    rows = (*rows, something)
    fewest = model.linear.solve(energy, rows=rows, relax=True)
    if not fewest.found:
        return None
    ratio = bound = total(tokens, fewest.values) / fewest.objective
    for _ in range(50):
        step = model.linear.solve(bound * energy - tokens, rows=rows, relax=True)
        ratio = total(tokens, step.values) / total(energy, step.values)
        if ratio <= bound * (1 + 1e-9):
            break
        bound = ratio
    bound, best = bound * (1 + 1e-9), None
    for _ in range(50):
        slack = gap / 2 * ratio * fewest.objective
        found = least(
            model,
            ratio * energy - tokens,
            rows,
            0.0,
            end_s,
            None if best is None else best.values,
            slack,
        )
        if found is None:
            return None
        now = total(tokens, found.values) / total(energy, found.values)
        # Largest of T - rE is F: T/E of any other is at most r + F / E, and E at least the least.
        bound = min(bound, ratio + max(-found.bound, 0.0) / fewest.objective)
        if best is not None and now <= ratio * (1 + 1e-12):
            break
        best, ratio = found, now
        if bound <= ratio * (1 + gap):
            break
    assert best is not None
    held = (*rows, _hold(model, "tokens-per-joule", ratio))
    cheap = _cheapest(model, held, best, gap, end_s)
    joules = total(energy, cheap)
    now = total(tokens, cheap) / joules
    weights = {"energy_j": ratio / joules, "tokens": -1.0 / joules}
    return Best(cheap, now, max(bound, now), weights, rows)


def _told(less: Small, model: Model, best: Best, dealt: Dealt) -> Choice:
    """The choice, with what binds it and why the others lost."""
    measures = {name: total(each, best.values) for name, each in model.measures.items()}
    nodes, uses = dealt
    buys: dict[tuple[str, str, int], int] = {}
    for (site, _, system, quarter), count in nodes.items():
        key = (site, system, quarter)
        buys[key] = buys.get(key, 0) + count
    away = abs(best.objective - best.bound) / max(abs(best.objective), 1e-9)
    binding, reasons = explain.say(less, model, best.weights, best.rows, best.values, buys)
    return Choice(
        buys=buys,
        dealt=nodes,
        uses=uses,
        parts=Parts(**{part: measures[part] for part in PARTS}),
        spent=measures["spent"],
        carbon_g=measures["carbon_g"],
        energy_j=measures["energy_j"],
        tokens=measures["tokens"],
        first_token_quarter=min((quarter for *_, quarter in uses), default=None),
        objective=best.objective,
        bound=best.bound,
        gap=away,
        binding=binding,
        reasons=reasons,
    )
