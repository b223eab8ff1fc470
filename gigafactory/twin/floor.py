"""What stands: pools of nodes in racks and blocks, what they draw at rest, what sites may draw.

Power is in W of the machines, without PUE, unless said to be at the meter.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

from gigafactory.blueprint.operations import Racks
from gigafactory.blueprint.schema import Blueprint
from gigafactory.factory import state as st
from gigafactory.faults import Fault, Refused
from gigafactory.plan.quote import Where
from gigafactory.stack import chips
from gigafactory.twin.hours import Hours
from gigafactory.twin.power import Battery, Curtailment, caps
from gigafactory.units import show


@dataclass(frozen=True)
class Pool:
    """One system at one site; its nodes are rows first_node ... first_node + nodes."""

    name: str
    site: int
    system: str
    nodes: int
    chips_per_node: int
    first_node: int
    racks: tuple[int, ...]
    """Number of each node's rack, counted within the pool."""
    idle_w: float
    """Of an idle chip with its share of the node; machines only, without PUE."""
    price_chip_s: float
    peak_flop_per_s: float
    blocks: tuple[int, ...] = ()
    """Number of each rack's block, counted within the pool."""
    rack_w: float | None = None
    """What the machines of a rack may draw."""


def pools(
    places: list[Where],
    sites: tuple[str, ...],
    machine: Mapping[str, Any] | None,
    counts: Mapping[str, int],
    racks: Mapping[str, Racks | None],
) -> tuple[Pool, ...]:
    """A pool for each place; `counts` data centers all alike, each with racks of its own.

    Without racks, the nodes of a data center are one.
    """
    stand, first = [], 0
    for where in places:
        system = chips.system(where.system, machine)
        count, of = counts.get(where.site, 1), racks.get(where.site)
        nodes_per_rack = of.nodes if of else where.nodes
        in_rack = [node // nodes_per_rack for node in range(where.nodes)]
        in_block = [rack // (of.per_block if of else 1) for rack in range(in_rack[-1] + 1)]
        here = range(count)
        stand.append(
            Pool(
                name=where.pool,
                site=sites.index(where.site),
                system=where.system,
                nodes=count * where.nodes,
                chips_per_node=where.chips_per_node,
                first_node=first,
                racks=tuple(c * len(in_block) + rack for c in here for rack in in_rack),
                idle_w=system.chip.idle_w + system.node_overhead_w / system.chips_per_node,
                price_chip_s=where.price_chip_s,
                peak_flop_per_s=system.chip.peak_flop_per_s or 0.0,
                blocks=tuple(c * (in_block[-1] + 1) + block for c in here for block in in_block),
                rack_w=of.power_w if of else None,
            )
        )
        first += count * where.nodes
    return tuple(stand)


def nodes(state: st.State, stand: tuple[Pool, ...]) -> st.State:
    """The core's tables with every node, rack and block; none is up yet."""
    for p, pool in enumerate(stand):
        racks: dict[int, int] = {}
        blocks: dict[int, int] = {}
        for number, size in sorted(Counter(pool.racks).items()):
            cap_mw = st.NO_CAP_MW
            if pool.rack_w is not None:
                cap_mw = round((pool.rack_w - size * pool.chips_per_node * pool.idle_w) * 1e3)
            for _ in range(size):
                block = blocks.get(pool.blocks[number], -1)
                rack = racks.get(number, -1)
                state = st.add_node(state, p, pool.chips_per_node, block, rack, cap_mw)
                racks[number] = int(state.nodes[state.counts[st.NODES] - 1]["rack"])
                blocks[pool.blocks[number]] = int(state.racks[racks[number]]["block"])
    return state


def rest_w(stand: tuple[Pool, ...], site: int) -> float:
    """What all that stands at the site draws while it does nothing."""
    return sum(of.nodes * of.chips_per_node * of.idle_w for of in stand if of.site == site)


def curtailments(blueprint: Blueprint) -> Iterator[tuple[Curtailment, ...]]:
    """Of each site, in seconds from midnight UTC of the first day."""
    opening = datetime.combine(blueprint.start, time(), UTC)
    for site in blueprint.sites.values():
        yield tuple(
            Curtailment((one.at - opening).total_seconds(), one.cut, one.lasts_s)
            for one in site.grid.curtail
        )


def batteries(blueprint: Blueprint) -> Iterator[Battery | None]:
    """Of each site, those of all its data centers together."""
    for site in blueprint.sites.values():
        of, count = site.battery, site.count
        yield Battery(count * of.power_w, count * of.energy_j) if of else None


def capped(
    blueprint: Blueprint, stand: tuple[Pool, ...], hours: Hours, horizon_s: float
) -> Iterator[list[tuple[float, float]]]:
    """(at_s, machines_w) of each site. Raises `Refused` where it cannot even carry idle chips."""
    told = zip(
        blueprint.sites.items(), hours.pue, curtailments(blueprint), batteries(blueprint),
        strict=True,
    )  # fmt: skip
    for number, ((name, site), pue, cuts, battery) in enumerate(told):
        ramp = site.grid.ramp_w_per_s
        ramp = ramp and ramp * site.count
        steps = caps(site.power_w * site.count, cuts, battery, pue, ramp, horizon_s)
        idle_w = rest_w(stand, number)
        if steps[0][1] < idle_w:
            why = f"{show(steps[0][1], 'W')} are left of its power for machines, which draw "
            why += f"{show(idle_w, 'W')} at rest"
            fault = Fault(
                f"{name} cannot carry what stands there", f"sites.{name}.power", why,
                "raise its power, or have fewer nodes there",
            )  # fmt: skip
            raise Refused(fault)
        yield steps
