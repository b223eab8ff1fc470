"""What a factory costs to build, to run, and by hour of a GPU: parts that add up. Modelled.

In: a system, how many nodes, and the inputs (`figures.py`) as numbers or columns of draws. Out:
USD and USD a year, in the same shape. Before tax, without land.
Energy is that of chips which are busy for `load` of the hours and idle else, of what their nodes
draw all the time, of network and storage beside them, times PUE.
"""

from typing import Any

import numpy as np

from gigafactory.stack.chips import System
from gigafactory.stack.money.figures import Number, Values

HOURS = 8766.0
"""Of a mean year."""
MACHINES = ("servers", "export fees", "network", "storage")
FACILITY = ("shell", "power", "cooling", "commissioning")
RUNNING = ("energy", "staff", "maintenance")
Parts = dict[str, Number]


def node_w(system: System) -> float:
    """What a node draws with all chips busy."""
    return system.chip.busy_w * system.chips_per_node + system.node_overhead_w


def nameplate_w(system: System, nodes: int, values: Values) -> Number:
    """Power of machines that the hall is built for: more than they draw, see `fill`."""
    return nodes * node_w(system) * (1 + values["beside"]) / values["fill"]


def nodes_in(system: System, nameplate: float, values: Values) -> int:
    """How many nodes a hall of so much nameplate holds."""
    each = nameplate_w(system, 1, values)
    return int(float(np.max(nameplate / each)) + 1e-9)


def capex(system: System, nodes: int, values: Values, it_power_w: float | None = None) -> Parts:
    """Price of everything, in parts; `it_power_w` is the nameplate if not that of the nodes."""
    power_w = nameplate_w(system, nodes, values) if it_power_w is None else it_power_w
    servers = nodes * values["node_price"]
    facility = power_w * values["facility"]
    shell, cooling = facility * values["shell_share"], facility * values["cooling_share"]
    return {
        "servers": servers,
        "export fees": servers * values["fee"],
        "network": servers * values["network"],
        "storage": servers * values["storage"],
        "shell": shell,
        "power": facility - shell - cooling,
        "cooling": cooling,
        "commissioning": facility * values["commissioning"],
    }


def opex(
    system: System,
    nodes: int,
    values: Values,
    it_power_w: float | None = None,
    busy: Number | None = None,
) -> Parts:
    """USD a year, at the prices of the first. `busy` is the share of hours if it is not `load`."""
    power_w = nameplate_w(system, nodes, values) if it_power_w is None else it_power_w
    parts = capex(system, nodes, values, it_power_w)
    load = values["load"] if busy is None else busy
    draw_w = nodes * (idle_w(system) + load * swing_w(system)) * (1 + values["beside"])
    return {
        "energy": draw_w / 1e3 * HOURS * values["pue"] * values["electricity_price"],
        "staff": power_w * values["staff"],
        "maintenance": total(parts, MACHINES) * values["maintenance_machines"]
        + total(parts, FACILITY) * values["maintenance_facility"],
    }


def idle_w(system: System) -> float:
    """What a node draws that waits."""
    return system.chip.idle_w * system.chips_per_node + system.node_overhead_w


def swing_w(system: System) -> float:
    """What busy chips of a node add to that."""
    return (system.chip.busy_w - system.chip.idle_w) * system.chips_per_node


def yearly(system: System, nodes: int, values: Values, it_power_w: float | None = None) -> Parts:
    """USD a year of owning and running: straight depreciation, the cost of capital, opex.

    Capital is what equal yearly payments over each life at `discount_rate` cost above depreciation.
    """
    parts = capex(system, nodes, values, it_power_w)
    machines, facility = total(parts, MACHINES), total(parts, FACILITY)
    rate = values["discount_rate"]
    depreciation = {
        "machines": machines / values["machine_life"],
        "facility": facility / values["facility_life"],
    }
    paid = machines * annuity(rate, values["machine_life"])
    paid = paid + facility * annuity(rate, values["facility_life"])
    capital = paid - depreciation["machines"] - depreciation["facility"]
    return {**depreciation, "capital": capital, **opex(system, nodes, values, it_power_w)}


def annuity(rate: Number, terms: Number) -> Number:
    """Equal payment at the end of each term for a loan of 1, at `rate` a term."""
    rate, terms = np.asarray(rate, np.float64), np.asarray(terms, np.float64)
    some = np.where(rate < 1e-12, 1.0, rate)
    due: Any = np.where(rate < 1e-12, 1 / terms, some / -np.expm1(-terms * np.log1p(some)))
    return float(due) if due.ndim == 0 else due


def total(parts: Parts, names: tuple[str, ...] | None = None) -> Number:
    """Sum of these parts, or of all."""
    return sum((parts[name] for name in names or parts), 0.0)
