"""Money: what a factory costs and earns, by month, with the range of every figure that it asks.

`currency` is always here: dated rates, bills in millionths, the rent of a chip. The rest loads
with its module: `figures` (every uncertain figure, sourced), `build` (capex, opex, depreciation),
`prices` (rents and tokens over time), `cash` (months, NPV, IRR, payback), `risk` (tornado, Monte
Carlo), `choices` (build, rent, buy tokens or wait), `answers` (all of it for the commands).

Amounts are USD inside, and turned into another currency at the door. Everything here is modelled,
before tax.

from gigafactory.stack import chips, money
asked = money.inputs(chips.system("b200-8"))
money.capex(chips.system("b200-8"), 100, money.middle(asked))
"""

from importlib import import_module
from typing import Any

from gigafactory.stack.money.currency import (
    UnknownCurrency,
    chip_hour_price,
    convert,
    micro,
    rates,
)

# Name -> the module that has it: numpy and pyxirr load when somebody asks.
LATER = {
    "Input": "figures",
    "inputs": "figures",
    "middle": "figures",
    "capex": "build",
    "opex": "build",
    "yearly": "build",
    "Project": "cash",
    "flow": "cash",
    "npv": "cash",
    "irr": "cash",
    "payback_month": "cash",
    "tornado": "risk",
    "monte_carlo": "risk",
    "choose": "choices",
}

__all__ = ["UnknownCurrency", "chip_hour_price", "convert", "micro", "rates"]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LATER[name]}"), name)
