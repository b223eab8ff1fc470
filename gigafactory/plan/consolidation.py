"""The same tenants apart and together: chips, energy and money saved, and the queueing it costs.

Apart, each tenant has the sites and the budget to itself and buys for its own demands; together
they share. Loads are what must be sustained, so what sharing saves here is rounding, idle nodes
between demands and better deals of system and site; peaks that fall apart would save more.
Queueing is Erlang's formula over the requests that the standing nodes can have in flight.
Modelled.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from gigafactory.blueprint.design import ServeDemand
from gigafactory.blueprint.schema import Blueprint
from gigafactory.plan.choose import Choice, apart, choose
from gigafactory.plan.compiled import Compiled, energy_j, problem_of
from gigafactory.plan.design import proven
from gigafactory.plan.rates import HEADROOM, Rate

Place = tuple[str, str, int]
"""Site, system, quarter."""


class Frozen(BaseModel):
    """Part of the answer."""

    model_config = ConfigDict(frozen=True)


class Side(Frozen):
    """One tenant alone, or all together."""

    tenant: str
    nodes: int
    chips: int
    energy_kwh: float
    carbon_kg: float
    cost: float
    """Discounted."""
    wait_s: float | None
    """Mean wait for a free slot in the fullest quarter, over its services; None without any."""


class Consolidation(Frozen):
    """Apart, together, and the difference."""

    currency: str
    apart: list[Side]
    together: Side
    chips_saved: int
    energy_saved_kwh: float
    cost_saved: float
    basis: str = "modelled"


def consolidate(blueprint: Blueprint) -> Consolidation:
    """Design for each tenant alone and for all. Raises `Refused` where one cannot be."""
    compiled = problem_of(blueprint)
    assert blueprint.design
    gap = blueprint.design.gap
    tenants = {name: demand.tenant for name, demand in blueprint.design.demands.items()}
    with proven(blueprint):
        alone = apart(compiled.problem, tenants, gap=gap)
        shared = choose(compiled.problem, gap=gap)
    sides = [_side(blueprint, compiled, name, choice) for name, choice in alone.items()]
    whole = _side(blueprint, compiled, "together", shared)
    return Consolidation(
        currency=blueprint.currency,
        apart=sides,
        together=whole,
        chips_saved=sum(side.chips for side in sides) - whole.chips,
        energy_saved_kwh=sum(side.energy_kwh for side in sides) - whole.energy_kwh,
        cost_saved=sum(side.cost for side in sides) - whole.cost,
    )


def erlang_wait_s(servers: int, busy: float, service_s: float) -> float:
    """Mean wait of a request for one of `servers`, `busy` of which are so on average (M/M/c).

    Infinite where more is asked than can be done. Source: Erlang 1917, by the stable recursion.
    """
    if busy >= servers:
        return math.inf
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = busy * blocked / (server + busy * blocked)
    waiting = blocked / (1 - busy / servers * (1 - blocked))
    return waiting * service_s / (servers - busy)


def _side(blueprint: Blueprint, compiled: Compiled, tenant: str, choice: Choice) -> Side:
    chips = {system.name: system.chips for system in compiled.problem.systems}
    waits = list(_waits(blueprint, compiled, choice))
    return Side(
        tenant=tenant,
        nodes=choice.nodes(),
        chips=sum(nodes * chips[name] for (_, name, _), nodes in choice.buys.items()),
        energy_kwh=energy_j(compiled, choice) / 3.6e6,
        carbon_kg=choice.carbon_g / 1e3,
        cost=choice.parts.cost,
        wait_s=max(waits, default=None),
    )


def _waits(blueprint: Blueprint, compiled: Compiled, choice: Choice) -> Iterator[float]:
    """The wait at each site and system, in its fullest quarter, of the services there."""
    lead = {system.name: system.lead_quarters for system in compiled.problem.systems}
    standing: Counter[Place] = Counter()
    for site in compiled.problem.sites:
        for name, nodes in site.installed.items():
            for quarter in range(compiled.problem.quarters):
                standing[site.name, name, quarter] += nodes * site.count
    for (where, name, bought), nodes in choice.buys.items():
        for quarter in range(bought + lead[name], compiled.problem.quarters):
            standing[where, name, quarter] += nodes
    used: dict[Place, float] = defaultdict(float)
    in_flight: dict[Place, float] = defaultdict(float)
    seconds: dict[Place, float] = defaultdict(float)
    assert blueprint.design
    for (work, where, name, quarter), busy in choice.uses.items():
        demand, rate = blueprint.design.demands[work], compiled.speeds[work, name]
        place = (where, name, quarter)
        used[place] += busy
        if isinstance(demand, ServeDemand) and isinstance(rate, Rate):
            each_s = (rate.ttft_s or 0) + demand.answer * (rate.tpot_s or 0)
            requests = busy * rate.tokens_per_s * each_s / demand.answer
            in_flight[place] += requests
            seconds[place] += requests * each_s
    for place, requests in in_flight.items():
        # Nodes that stand idle beside those in use have room for more requests of the same kind.
        servers = int(requests / HEADROOM * max(standing[place] / used[place], 1))
        if servers > requests >= 1:
            yield erlang_wait_s(servers, requests, seconds[place] / requests)
