"""The factory that a blueprint's `design` asks for: what to buy, where, when, and what runs on it.

The blueprint, the law, the places, the performance model and the prices are compiled into a
problem of choice (`plan/choose`), whose answer is proven to its gap. Everything is modelled.
The same blueprint and catalog give the same design to the byte.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from gigafactory.blueprint.schema import Blueprint
from gigafactory.faults import Fault, Refused
from gigafactory.plan import halls
from gigafactory.plan.choose import problem as records
from gigafactory.plan.compiled import MONTHS, Compiled, energy_j, problem_of
from gigafactory.plan.designed import Designed, Month, Place, Purchase, Speed, Use
from gigafactory.plan.grounds import Ground, months_later
from gigafactory.plan.rates import Cannot, Rate
from gigafactory.stack import facts


def make(blueprint: Blueprint) -> Designed:
    """The proven best factory. Raises `Refused` with a short proof where there is none."""
    from gigafactory.plan.choose import choose

    compiled = problem_of(blueprint)
    assert blueprint.design
    with proven(blueprint):
        choice = choose(compiled.problem, gap=blueprint.design.gap)
    made = _designed(blueprint, compiled, choice)
    return made.model_copy(update={"opens": halls.first_tokens(blueprint, made)})


def front(blueprint: Blueprint, points: int = 5) -> list[Designed]:
    """From the cleanest factory to the cheapest, none better in both. Raises `Refused`."""
    from gigafactory.plan.choose import front as of_both

    compiled = problem_of(blueprint)
    assert blueprint.design
    with proven(blueprint):
        choices = of_both(compiled.problem, points=points, gap=blueprint.design.gap)
    return [_designed(blueprint, compiled, choice) for choice in choices]


@contextmanager
def proven(blueprint: Blueprint) -> Iterator[None]:
    """Turn a proof that there is none into a refusal."""
    try:
        yield
    except records.Infeasible as error:
        raise Refused(_proof(blueprint, error)) from None
    except records.OutOfTime as error:
        why = "that says nothing about whether there is a factory"
        fault = Fault("no factory was found in time", "design.gap", str(error) or why, "raise it")
        raise Refused(fault) from None


def _proof(blueprint: Blueprint, error: records.Infeasible) -> Fault:
    """What cannot all hold, and the cheapest change that helps; of the law, whom to ask."""
    conflicts = "; ".join(one.words for one in error.conflicts)
    where = ", ".join(dict.fromkeys(f"{one.kind} {one.of}".strip() for one in error.conflicts))
    remedy = error.cheapest.words
    for name in (one.of for one in error.conflicts if one.kind == "power"):
        day, basis, _ = halls.ready(blueprint, name)
        if day > blueprint.start:
            conflicts += f"; the hall of {name} is ready on {day} ({basis})"
    if barred := next((one.of for one in error.conflicts if one.kind == "law"), None):
        country = blueprint.sites[barred].country
        remedy += f"; `gigafactory law --to {country} --owner {blueprint.owner}` lists what may"
    return Fault("no factory meets all demands", where, conflicts, remedy)


def _designed(blueprint: Blueprint, compiled: Compiled, choice: records.Choice) -> Designed:
    problem, quarters = compiled.problem, compiled.quarters
    systems = {one.name: one for one in problem.systems}
    lead = {one.name: one.lead_quarters for one in problem.systems}
    purchases = [
        Purchase(
            site=site,
            system=name,
            quarter=quarter,
            day=quarters[quarter],
            stands=months_later(quarters[quarter], MONTHS * lead[name]),
            nodes=nodes,
            chips=nodes * systems[name].chips,
            price=nodes * systems[name].prices(problem.quarters)[quarter],
            power_w=nodes * systems[name].power_w,
        )
        for (site, name, quarter), nodes in sorted(
            choice.buys.items(), key=lambda one: one[0][::-1]
        )
        if nodes
    ]
    first = choice.first_token_quarter
    return Designed(
        name=blueprint.name,
        currency=blueprint.currency,
        blueprint_hash=_hash(blueprint.model_dump(mode="json")),
        catalog_hash=facts.catalog_hash(),
        objective=problem.objective,
        start=blueprint.start,
        quarters=quarters,
        purchases=purchases,
        uses=[
            Use(demand=work, site=site, system=name, quarter=quarter, nodes=nodes)
            for (work, site, name, quarter), nodes in sorted(choice.uses.items())
            if nodes > 1e-9
        ],
        speeds=[
            _told(key, rate, compiled.systems[key[1]].chips_per_node)
            for key, rate in compiled.speeds.items()
        ],
        places=[_placed(blueprint, one) for one in compiled.grounds.values()],
        law=compiled.law,
        cash=list(_cash(compiled, choice)),
        parts=asdict(choice.parts),
        cost=choice.parts.cost,
        spent=choice.spent,
        carbon_kg=choice.carbon_g / 1e3,
        energy_kwh=energy_j(compiled, choice) / 3.6e6,
        water_l=_water_l(compiled, choice),
        tokens=choice.tokens,
        first_token=None if first is None else quarters[first],
        objective_value=choice.objective,
        bound=choice.bound,
        gap=choice.gap,
        binding=list(choice.binding),
        reasons=dict(choice.reasons),
    )


def _by_quarter(bought: tuple[tuple[str, str, int], int]) -> tuple[int, str, str]:
    (site, system, quarter), _ = bought
    return quarter, site, system


def _cash(compiled: Compiled, choice: records.Choice) -> Iterator[Month]:
    """Machines and buildings are paid in the month of their order, the rest month by month."""
    problem, quarters = compiled.problem, compiled.quarters
    systems = {one.name: one for one in problem.systems}
    sites = {one.name: one for one in problem.sites}
    works = {one.name: one for one in problem.works}
    machines, facility, upkeep, energy, revenue = ([0.0] * len(quarters) for _ in range(5))
    for (where, name, quarter), nodes in choice.buys.items():
        system = systems[name]
        price = nodes * system.prices(problem.quarters)[quarter]
        machines[quarter] += price
        facility[quarter] += nodes * system.power_w * sites[where].facility_price
        for standing in range(quarter + system.lead_quarters, len(quarters)):
            upkeep[standing] += price * problem.upkeep * problem.quarter_s / records.YEAR_S
    for (work, where, name, quarter), busy in choice.uses.items():
        site = sites[where]
        used_j = busy * systems[name].power_w * site.pue * problem.quarter_s
        energy[quarter] += used_j * site.energy_price[quarter]
        tokens = busy * works[work].rate[name] * problem.quarter_s
        revenue[quarter] += tokens * works[work].revenue
    for quarter, day in enumerate(quarters):
        for month in range(MONTHS):
            yield Month(
                day=months_later(day, month),
                machines=0.0 if month else machines[quarter],
                facility=0.0 if month else facility[quarter],
                upkeep=upkeep[quarter] / MONTHS,
                energy=energy[quarter] / MONTHS,
                revenue=revenue[quarter] / MONTHS,
            )


def _water_l(compiled: Compiled, choice: records.Choice) -> float:
    """Litres: of the energy of the machines, at each site's mean WUE."""
    watts = {one.name: one.power_w for one in compiled.problem.systems}
    return sum(
        nodes
        * watts[name]
        * compiled.problem.quarter_s
        / 3.6e6
        * compiled.grounds[site].wue_l_per_kwh
        for (_, site, name, _), nodes in choice.uses.items()
    )


def _told(key: tuple[str, str], rate: Rate | Cannot, chips: int) -> Speed:
    """`chips` are those of a node."""
    demand, system = key
    if isinstance(rate, Cannot):
        return Speed(demand=demand, system=system, why_not=rate.why)
    return Speed(
        demand=demand,
        system=system,
        tokens_per_s_per_node=rate.tokens_per_s,
        tokens_per_s_per_chip=rate.tokens_per_s / chips,
        nodes=rate.nodes,
        layout=rate.layout,
        mfu=rate.mfu,
        tpot_s=rate.tpot_s,
        ttft_s=rate.ttft_s,
    )


def _placed(blueprint: Blueprint, ground: Ground) -> Place:
    site = blueprint.sites[ground.name]
    return Place(
        site=ground.name,
        place=ground.catalog.id,
        country=site.country,
        count=site.count,
        power_w=site.power_w,
        powered=ground.powered,
        pue=ground.pue,
        pue_hot=ground.pue_hot,
        wue_l_per_kwh=ground.wue_l_per_kwh,
        energy_price_per_kwh=ground.energy_price * 3.6e6,
        carbon_g_per_kwh=ground.carbon_g_per_j * 3.6e6,
        basis=dict(ground.basis),
        sources=dict(ground.sources),
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
