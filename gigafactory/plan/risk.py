"""A rule that may come: what it would cost, and what waiting or other chips are worth. Modelled.

Each way to act is priced in both futures, with the rule and without, and weighed by its chance:
now (as if it never came; if it does, what is not delivered by then is cancelled and the rest is
planned anew), waiting (nothing is ordered until it is known), and doing without the systems that
it touches. What the own machines cannot do, or dearer, is done on rented ones at the market's rent,
where no rule read here reaches a tenant; so each way meets every demand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pydantic import BaseModel, ConfigDict

from gigafactory.blueprint.schema import Blueprint
from gigafactory.plan.choose import Choice, Problem, Work, choose
from gigafactory.plan.choose.problem import YEAR_S
from gigafactory.plan.compiled import Compiled, problem_of
from gigafactory.plan.quote import exchange
from gigafactory.stack import law, sites
from gigafactory.stack.money.figures import inputs

MANY = 100_000
"""Nodes that can be had in a quarter where nothing else bounds them."""


class Way(BaseModel):
    """One way to act: discounted cost if the rule comes, if it does not, and expected."""

    model_config = ConfigDict(frozen=True)

    name: str
    words: str
    if_it_comes: float
    if_not: float

    def expected(self, chance: float) -> float:
        """Cost weighed by the chance."""
        return chance * self.if_it_comes + (1 - chance) * self.if_not


class Risk(BaseModel):
    """What a rule that may come is worth knowing, avoiding, or waiting for."""

    model_config = ConfigDict(frozen=True)

    currency: str
    chance: float
    known: date
    """First quarter that begins with the rule in force."""
    touched: list[str]
    """Systems that it forbids somewhere, at some time."""
    ways: list[Way]
    foreknowledge: float
    """What knowing today whether it comes would save, expected, at the sites there are."""
    all_rented: float
    """Discounted cost of owning nothing."""
    basis: str = "modelled"

    @property
    def best(self) -> Way:
        """The way of least expected cost."""
        return min(self.ways, key=lambda way: way.expected(self.chance))


@dataclass(frozen=True)
class _Futures:
    free: Problem
    bound: Problem
    """The same with the rule."""
    known: int
    """First quarter that begins with the rule in force: then it is known."""
    touched: frozenset[str]
    gap: float
    rents: Mapping[str, float]
    rented: float
    """Discounted cost of doing everything on rented machines."""

    def cost(self, problem: Problem) -> float:
        """Discounted, with what is rented."""
        return choose(problem, gap=self.gap).parts.cost + self.rented


def weigh(
    blueprint: Blueprint, rules: law.Book, chance: float, second: str | None = None
) -> Risk | None:
    """The ways to act while `rules` may come to hold; None if they would change nothing.

    `second` is a place of the catalogue for one more site, otherwise like the first.
    """
    compiled = problem_of(blueprint)
    known = sum(day < _first_day(rules) for day in compiled.quarters)
    futures = _futures(blueprint, compiled, problem_of(blueprint, rules).problem, known)
    if futures is None:
        return None
    names = ", ".join(sorted(futures.touched))
    ways = [
        _now(futures),
        Way(
            name="wait",
            words="order nothing until it is known",
            if_it_comes=futures.cost(_held(futures.bound, futures.known)),
            if_not=futures.cost(_held(futures.free, futures.known)),
        ),
        Way(
            name="without",
            words=f"do without {names}",
            if_it_comes=futures.cost(_spared(futures.bound, futures.touched)),
            if_not=futures.cost(_spared(futures.free, futures.touched)),
        ),
    ]
    knowing = chance * futures.cost(futures.bound) + (1 - chance) * ways[0].if_not
    foreknowledge = min(way.expected(chance) for way in ways) - knowing
    if second is not None:
        ways.append(_second(blueprint, rules, second, futures))
    return Risk(
        currency=blueprint.currency,
        chance=chance,
        known=compiled.quarters[min(futures.known, len(compiled.quarters) - 1)],
        touched=sorted(futures.touched),
        ways=ways,
        foreknowledge=foreknowledge,
        all_rented=futures.rented,
    )


def _second(blueprint: Blueprint, rules: law.Book, place: str, futures: _Futures) -> Way:
    """One more site from the start, so that a rule on one place leaves the other."""
    at = sites.site(place)
    first = next(iter(blueprint.sites.values()))
    fresh: dict[str, Any] = {"country": at.country, "place": at.id, "systems": {}}
    fresh |= dict.fromkeys(("energy_price", "carbon_g_per_j", "pue"))
    more = first.model_copy(update=fresh)
    wider = blueprint.model_copy(update={"sites": {**blueprint.sites, f"second-{at.id}": more}})
    rents = futures.rents
    return Way(
        name="second site",
        words=f"one more site, {at.name}, with the power of the first",
        if_it_comes=futures.cost(_or_rented(problem_of(wider, rules).problem, rents)),
        if_not=futures.cost(_or_rented(problem_of(wider).problem, rents)),
    )


def _first_day(rules: law.Book) -> date:
    """On which the first of the rules that are not shipped begins."""
    shipped = {rule.id: rule for rule in law.shipped()}
    return min((rule.first for rule in rules if shipped.get(rule.id) != rule), default=date.max)


def _futures(
    blueprint: Blueprint, compiled: Compiled, bound: Problem, known: int
) -> _Futures | None:
    free = compiled.problem
    stopped = [
        (quarter, name)
        for before, after in zip(free.sites, bound.sites, strict=True)
        for name, allowed in before.lawful.items()
        for quarter, may in enumerate(allowed)
        if may and not after.lawful[name][quarter]
    ]
    if not stopped:
        return None
    rents = _rents(blueprint, compiled)
    assert blueprint.design
    return _Futures(
        free=_or_rented(free, rents),
        bound=_or_rented(bound, rents),
        known=known,
        touched=frozenset(name for _, name in stopped),
        gap=blueprint.design.gap,
        rents=rents,
        rented=sum(_rented(free, work, rents[work.name]) for work in free.works),
    )


def _rents(blueprint: Blueprint, compiled: Compiled) -> dict[str, float]:
    """Work -> money per token on the rented system that does it cheapest."""
    usd = exchange(blueprint)["USD"]
    per_node_s = {
        name: inputs(system)["rent"].value * usd * system.chips_per_node / 3600
        for name, system in compiled.systems.items()
    }
    return {
        work.name: min(per_node_s[name] / rate for name, rate in work.rate.items())
        for work in compiled.problem.works
    }


def _or_rented(problem: Problem, rents: Mapping[str, float]) -> Problem:
    """What an own machine does saves its rent; it need not do it."""
    works = tuple(replace(work, optional=True, revenue=rents[work.name]) for work in problem.works)
    return replace(problem, works=works)


def _rented(problem: Problem, work: Work, per_token: float) -> float:
    """Discounted rent of all of a work; of a training run, as if paid in its first quarter."""
    rate = 1 + problem.discount_per_quarter
    if work.kind == "train":
        return work.need[0] * per_token / rate**work.start
    seconds = problem.quarter_s
    return sum(need * seconds * per_token / rate**quarter for quarter, need in enumerate(work.need))


def _now(futures: _Futures) -> Way:
    """Plan as if it never came; if it does, keep what was delivered and plan the rest anew."""
    first = choose(futures.free, gap=futures.gap)
    again, sunk = _after(futures.bound, first, futures.known)
    return Way(
        name="now",
        words="plan as if it never came, and anew if it does",
        if_it_comes=futures.cost(again) + sunk,
        if_not=first.parts.cost + futures.rented,
    )


def _after(bound: Problem, made: Choice, known: int) -> tuple[Problem, float]:
    """The problem left when the rule comes, and what was paid by then for what was delivered.

    What was ordered before is there for nothing, wherever it is put; the rest costs as ever.
    """
    systems, sunk = [], 0.0
    for system in bound.systems:
        prices = list(system.prices(bound.quarters))
        most = sum(made.buys.values()) + MANY
        supply = list(system.supply or (float(most),) * bound.quarters)
        for quarter in range(min(known, bound.quarters)):
            kept = sum(
                nodes
                for (site, name, when), nodes in made.buys.items()
                if (name, when) == (system.name, quarter) and _delivered(bound, site, name, when)
            )
            sunk += kept * _worth(bound, prices[quarter], quarter, system.lead_quarters)
            prices[quarter], supply[quarter] = 0.0, float(kept)
        systems.append(replace(system, price=tuple(prices), supply=tuple(supply)))
    return replace(bound, systems=tuple(systems)), sunk


def _delivered(bound: Problem, site: str, name: str, quarter: int) -> bool:
    """It is lawful on its day of delivery even with the rule."""
    return next(one for one in bound.sites if one.name == site).lawful[name][quarter]


def _worth(problem: Problem, price: float, quarter: int, lead: int) -> float:
    """Discounted cost of a node bought in a quarter: price, upkeep, less its worth at the end."""
    per_quarter = problem.upkeep * problem.quarter_s / YEAR_S
    rate = 1 + problem.discount_per_quarter
    upkeep = sum(price * per_quarter / rate**one for one in range(quarter + lead, problem.quarters))
    return price / rate**quarter + upkeep - price * problem.residual / rate**problem.quarters


def _held(problem: Problem, known: int) -> Problem:
    """Nothing can be ordered before the rule is known."""
    held = tuple(
        replace(
            site,
            lawful={
                name: tuple(may and quarter >= known for quarter, may in enumerate(allowed))
                for name, allowed in site.lawful.items()
            },
        )
        for site in problem.sites
    )
    return replace(problem, sites=held)


def _spared(problem: Problem, touched: frozenset[str]) -> Problem:
    """Without the touched systems, but for what stands already."""
    never = (False,) * problem.quarters
    spared = tuple(
        replace(site, lawful={**site.lawful, **dict.fromkeys(touched, never)})
        for site in problem.sites
    )
    return replace(problem, sites=spared)
