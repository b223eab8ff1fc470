"""A blueprint's design as a problem of choice: law, places, speeds and prices as plain numbers.

Money in the blueprint's currency, SI. What is asked of the stack here, the choice needs no more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from gigafactory.blueprint.design import AnyDemand, Design, ServeDemand, TrainDemand
from gigafactory.blueprint.schema import Blueprint
from gigafactory.faults import Fault, Refused
from gigafactory.plan import grounds, rates
from gigafactory.plan.choose import problem as records
from gigafactory.plan.designed import Lawful
from gigafactory.plan.grounds import Ground, months_later
from gigafactory.plan.quote import exchange
from gigafactory.plan.rates import Cannot, Rate
from gigafactory.stack import chips, law, money
from gigafactory.stack.chips import System, UnknownFigure
from gigafactory.stack.money import build
from gigafactory.stack.money.figures import inputs, middle

MONTHS = 3
LEAD_MONTHS = 10
"""From the order of chips to their delivery: 36 to 52 weeks of `data/bringup.csv`, B11."""
LEAD_QUARTERS = -(-LEAD_MONTHS // MONTHS)


@dataclass(frozen=True)
class Compiled:
    """The problem of choice, and what it was made from."""

    problem: records.Problem
    systems: Mapping[str, System]
    grounds: Mapping[str, Ground]
    speeds: Mapping[tuple[str, str], Rate | Cannot]
    law: list[Lawful]
    quarters: list[date]


def problem_of(blueprint: Blueprint, rules: law.Book | None = None) -> Compiled:
    """The problem of choice that a blueprint states. Raises `Refused` where it states none.

    `rules` are in force instead of the shipped ones.
    """
    design = _design(blueprint)
    quarters = [months_later(blueprint.start, MONTHS * n) for n in range(design.quarters)]
    to_own = exchange(blueprint)
    on = {name: grounds.ground(blueprint, name, to_own) for name in blueprint.sites}
    systems = _systems(blueprint)
    speeds = dict(_speeds(blueprint, systems))
    rulings = [
        one
        for site in blueprint.sites
        for name, system in systems.items()
        for one in _law(blueprint, site, name, system, quarters, rules)
    ]
    usd = to_own["USD"]
    asked = {name: middle(inputs(system)) for name, system in systems.items()}
    some = next(iter(asked.values()))
    any_system = next(iter(systems.values()))
    halls = {
        name: _facility_price(any_system, site.cooling) for name, site in blueprint.sites.items()
    }
    stated = design.budget
    problem = records.Problem(
        systems=tuple(
            records.System(
                name=name,
                chips=system.chips_per_node,
                price=float(build.total(build.capex(system, 1, asked[name]), build.MACHINES)) * usd,
                power_w=build.node_w(system) * (1 + asked[name]["beside"]),
                lead_quarters=LEAD_QUARTERS,
            )
            for name, system in systems.items()
        ),
        sites=tuple(
            _site(blueprint, on[name], quarters, rulings, halls[name] * usd)
            for name in blueprint.sites
        ),
        works=tuple(_works(blueprint, design, systems, on, speeds, quarters)),
        quarters=design.quarters,
        budget=None
        if stated is None
        else money.convert(stated.amount, stated.currency, blueprint.currency, to_own),
        discount_per_quarter=(1 + design.discount) ** (MONTHS / 12) - 1,
        upkeep=some["maintenance_machines"],
        residual=_residual(design, some["machine_life"]) * some["resale"],
        facility_residual=_residual(design, some["facility_life"]),
        objective=design.objective,
    )
    return Compiled(problem, systems, on, speeds, rulings, quarters)


def energy_j(compiled: Compiled, choice: records.Choice) -> float:
    """At the meter, by the mean PUE of each site."""
    watts = {one.name: one.power_w for one in compiled.problem.systems}
    return sum(
        nodes * watts[name] * compiled.grounds[site].pue * compiled.problem.quarter_s
        for (_, site, name, _), nodes in choice.uses.items()
    )


def _design(blueprint: Blueprint) -> Design:
    if blueprint.design is None:
        why = "only a blueprint with `design:` asks what to buy"
        raise Refused(Fault("there is nothing to design", "design", why, "see docs/blueprint.md"))
    return blueprint.design


def _systems(blueprint: Blueprint) -> dict[str, System]:
    """The candidates, and what stands already; by default every system that has a price."""
    design = _design(blueprint)
    standing = [name for site in blueprint.sites.values() for name in site.systems]
    wanted = [*(design.systems or chips.names()), *standing]
    systems: dict[str, System] = {}
    for name in dict.fromkeys(wanted):
        system = chips.system(name)
        try:
            inputs(system)
        except UnknownFigure as error:
            if name in design.systems:
                where = f"design.systems, {name}"
                hint = "take another system, or leave `systems` out"
                raise Refused(Fault(f"{name} has no price", where, str(error), hint)) from None
            continue
        if system.chip.kind != "cpu":
            systems[name] = system
    return systems


def _speeds(
    blueprint: Blueprint, systems: Mapping[str, System]
) -> Iterator[tuple[tuple[str, str], Rate | Cannot]]:
    known: dict[tuple, Rate | Cannot] = {}  # Services alike are searched once.
    for name, demand in _design(blueprint).demands.items():
        model = rates.read(blueprint.models[demand.model].config)
        for system_name, system in systems.items():
            if isinstance(demand, TrainDemand):
                days = (demand.deadline - (demand.starts or blueprint.start)).days
                yield (name, system_name), rates.train(demand, model, system, days)
                continue
            limits = (demand.prompt, demand.answer, demand.ttft_s, demand.tpot_s)
            alike = (demand.model, system_name, *limits)
            if alike not in known:
                known[alike] = rates.serve(demand, model, system)
            yield (name, system_name), known[alike]


def _law(
    blueprint: Blueprint,
    site: str,
    name: str,
    system: System,
    quarters: list[date],
    rules: law.Book | None,
) -> Iterator[Lawful]:
    """What the law says from the first day to the last delivery, a stretch at a time."""
    country = blueprint.sites[site].country
    end = months_later(quarters[-1], MONTHS * (LEAD_QUARTERS + 1))
    question = law.Question(system.chip, country, blueprint.owner, quarters[0])
    licensed = name in _design(blueprint).licensed
    for stretch in law.over(question, quarters[0], end, rules):
        ruling = stretch.ruling
        won = licensed and ruling.outcome in ("case_by_case", "licence_required")
        yield Lawful(
            site=site,
            system=name,
            first=stretch.first,
            end=stretch.end,
            may_stand=ruling.may_stand or won,
            outcome=ruling.outcome,
            rule=ruling.strictest.rule_id,
        )


def _site(
    blueprint: Blueprint,
    ground: Ground,
    quarters: list[date],
    rulings: list[Lawful],
    facility_price: float,
) -> records.Site:
    stated = blueprint.sites[ground.name]
    # The connection must do in the hottest hours; energy is of all hours, so it is priced and
    # weighed by what the mean hour takes of that.
    mean = ground.pue / ground.pue_hot
    here: dict[str, list[Lawful]] = {}
    for one in rulings:
        if one.site == ground.name:
            here.setdefault(one.system, []).append(one)
    lawful = {
        name: tuple(_may_stand(stretches, day) for day in _deliveries(quarters))
        for name, stretches in here.items()
    }
    return records.Site(
        name=ground.name,
        power_w=tuple(stated.power_w if ground.powered <= day else 0.0 for day in quarters),
        pue=ground.pue_hot,
        energy_price=(ground.energy_price * mean,) * len(quarters),
        carbon_g_per_j=(ground.carbon_g_per_j * mean,) * len(quarters),
        facility_price=facility_price,
        lawful=lawful,
        installed=dict(stated.systems),
        count=stated.count,
    )


def _deliveries(quarters: list[date]) -> list[date]:
    """What is ordered in a quarter crosses a border when it is delivered."""
    return [months_later(day, MONTHS * LEAD_QUARTERS) for day in quarters]


def _may_stand(stretches: list[Lawful], day: date) -> bool:
    return any(one.may_stand for one in stretches if one.first <= day < one.end)


def _facility_price(some: System, cooling: str) -> float:
    """USD per W of IT power, the same for any system: shell, power, cooling, commissioning."""
    asked = middle(inputs(some, cooling=cooling))
    return float(asked["facility"] * (1 + asked["commissioning"]) / asked["fill"])


def _residual(design: Design, life_years: float) -> float:
    """Book value at the end of what was bought in the middle of the time, straight down."""
    return max(0.0, 1 - design.quarters * MONTHS / 12 / 2 / life_years)


def _works(
    blueprint: Blueprint,
    design: Design,
    systems: Mapping[str, System],
    on: Mapping[str, Ground],
    speeds: Mapping[tuple[str, str], Rate | Cannot],
    quarters: list[date],
) -> Iterator[records.Work]:
    to_own = exchange(blueprint)
    for name, demand in design.demands.items():
        able = {
            system: rate for system in systems if isinstance(rate := speeds[name, system], Rate)
        }
        starts = demand.starts or blueprint.start
        first = next((n for n, day in enumerate(quarters) if day >= starts), len(quarters))
        common: dict[str, Any] = {
            "name": name,
            "allowed": frozenset(_allowed(blueprint, demand, on)),
            "rate": {system: rate.tokens_per_s for system, rate in able.items()},
        }
        if isinstance(demand, ServeDemand):
            price = demand.price
            revenue = (
                0.0
                if price is None
                else money.convert(price.amount, price.currency, blueprint.currency, to_own)
            )
            yield records.Work(
                kind="serve",
                need=tuple(_load(demand, starts, day) for day in quarters),
                revenue=revenue,
                optional=price is not None,
                **common,
            )
            continue
        ends = [months_later(day, MONTHS) for day in quarters]
        last = sum(end <= demand.deadline for end in ends) - 1
        if last < first:
            what = f"{name!r} has no whole quarter to run in"
            why = f"it starts on {starts} and must be done on {demand.deadline}"
            where = f"design.demands.{name}"
            raise Refused(Fault(what, where, why, "start earlier, or move the deadline"))
        yield records.Work(
            kind="train",
            need=(demand.tokens,),
            start=first,
            deadline=last,
            gang_nodes={system: rate.nodes for system, rate in able.items()},
            **common,
        )


def _load(demand: ServeDemand, starts: date, day: date) -> float:
    """Tokens a second that are wanted in the quarter that begins on `day`."""
    years = (day - starts).days / 365.25
    return demand.output_tokens_per_s * demand.growth**years if day >= starts else 0.0


def _allowed(blueprint: Blueprint, demand: AnyDemand, on: Mapping[str, Ground]) -> Iterator[str]:
    """The sites within its residency and, for a service, near enough to its users."""
    for name, ground in on.items():
        country = blueprint.sites[name].country
        words = demand.residency
        inside = not words or any(law.in_group(country, word, blueprint.start) for word in words)
        if inside and _near(demand, ground):
            yield name


def _near(demand: AnyDemand, ground: Ground) -> bool:
    if not isinstance(demand, ServeDemand) or demand.users is None or demand.latency_s is None:
        return True
    return grounds.near(ground, demand.users, demand.latency_s)
