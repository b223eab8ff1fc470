"""Overhead of a data center hour by hour from the weather outside: PUE and WUE. Modelled.

In: dry bulb and wet bulb outside, degrees Celsius, and a design by name. Out: PUE (power of the
whole site over power of its machines) and WUE (litres of water per kWh of its machines).
An hour's PUE is 1 + losses of power conversion + fans and pumps + mechanical share / COP. The
share grows from 0 to 1 over a few kelvin above the outside temperature up to which outside air
or water alone does the work: wet bulb where water evaporates, dry bulb where none does. The COP
is a fixed part of Carnot's between the cold that the design needs and the outside.
Sources: each constant's own, in `data/cooling.csv`; six are fitted to published PUE and two to
published WUE by `benchmarks/pue.py`, which also says how far off they are (`docs/pue.md`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack import facts

ZERO_C_K = 273.15
Constants = Mapping[tuple[str, str], float]
"""(subject, quantity) of `data/cooling.csv` -> value."""


@dataclass(frozen=True)
class Plant:
    """One way to carry the heat out. Powers are per watt of machines."""

    losses: float
    """Power conversion, distribution and lighting."""
    movers: float
    """Fans and pumps."""
    sink: str
    """What compressors wait for: `wet` or `dry` bulb above `free_to_c`; or `always`, `never`."""
    free_to_c: float
    """Temperature outside up to which no compressor runs."""
    cold_c: float
    """What the compressors evaporate at."""
    water: str
    """`never`; `assist` (sprayed into warm outside air); `tower` (evaporated all year)."""


@dataclass(frozen=True)
class Physics:
    """What is the same in all plants. Temperatures in degrees Celsius, differences in kelvin."""

    carnot_share: float
    """COP of compressors with their auxiliaries over Carnot's."""
    lift: float
    """Condensing temperature above the temperature outside."""
    ramp: float
    """Above `free_to_c`: what it takes until compressors carry all heat."""
    water: float
    """Litres that evaporate to carry 1 kWh."""
    bleed: float
    """Water drawn over water evaporated: some is let off lest salts build up."""
    evaporated: float
    """Share of a tower's heat that leaves as vapour; the rest warms the air."""
    assist_from: float
    """Dry bulb above which outside air is cooled by water."""
    assist_reach: float
    """How near to the wet bulb that gets, as a share of the way."""
    air_rise: float
    """What air warms by on its way through the machines."""
    wet_chillers: float
    """Share of mechanical cooling in `assist` plants that gives its heat to water."""


@dataclass(frozen=True)
class Cooling:
    """A design: plants, each with the share of the heat that it carries."""

    name: str
    says: str
    parts: tuple[tuple[float, Plant], ...]
    physics: Physics


def pue(dry_bulb_c: Any, wet_bulb_c: Any, design: str | Cooling) -> NDArray[Any]:
    """PUE of each hour, in the shape and precision of the input."""
    cooling = find(design)
    dry, wet = _floats(dry_bulb_c), _floats(wet_bulb_c)
    total = np.ones_like(dry)
    for share, plant in cooling.parts:
        power = _compressors(dry, wet, plant, cooling.physics)
        total += share * (plant.losses + plant.movers + power)
    return total


def wue_l_per_kwh(dry_bulb_c: Any, wet_bulb_c: Any, design: str | Cooling) -> NDArray[Any]:
    """Litres drawn per kWh of machines in each hour, in the shape and precision of the input."""
    cooling = find(design)
    physics = cooling.physics
    dry, wet = _floats(dry_bulb_c), _floats(wet_bulb_c)
    heat = np.zeros_like(dry)
    for share, plant in cooling.parts:
        if plant.water == "tower":
            heat += share * physics.evaporated * (1 + _compressors(dry, wet, plant, physics))
        elif plant.water == "assist":
            reach_k = physics.assist_reach * (dry - wet)
            sprayed_k = np.clip(np.minimum(dry - physics.assist_from, reach_k), 0, None)
            chillers = physics.wet_chillers * _mechanical_share(dry, wet, plant, physics)
            heat += share * np.minimum(sprayed_k / physics.air_rise + chillers, 1)
    heat *= physics.water * physics.bleed
    return heat


def annual(dry_bulb_c: Any, wet_bulb_c: Any, design: str | Cooling) -> tuple[Any, Any]:
    """(PUE, WUE) over the last axis, each hour weighing alike as machines draw steadily."""
    return (
        pue(dry_bulb_c, wet_bulb_c, design).mean(axis=-1),
        wue_l_per_kwh(dry_bulb_c, wet_bulb_c, design).mean(axis=-1),
    )


class UnknownCooling(LookupError):
    """No such design; `known` are those there are."""

    def __init__(self, name: str):
        self.name, self.known = name, sorted(COOLINGS)
        super().__init__(f"no cooling {name!r}; known: {', '.join(self.known)}")


def find(design: str | Cooling) -> Cooling:
    """The design of that name. Raises `UnknownCooling`."""
    if isinstance(design, Cooling):
        return design
    if design not in COOLINGS:
        raise UnknownCooling(design)
    return COOLINGS[design]


def constants() -> dict[tuple[str, str], float]:
    """All constants of the model, as `data/cooling.csv` has them."""
    return {
        (fact.subject, fact.quantity): fact.value
        for fact in facts.load("cooling")
        if fact.value is not None
    }


def build(of: Constants) -> dict[str, Cooling]:
    """All designs from these constants, so that a fit can try others than the file's."""
    physics = Physics(**{name: of["all", name] for name in Physics.__dataclass_fields__})

    def plant(name: str, sink: str, water: str = "never") -> Plant:
        return Plant(
            losses=of.get((name, "losses"), of["all", "losses"]),
            movers=of[name, "movers"],
            sink=sink,
            free_to_c=of.get((name, "free_to"), np.nan),
            cold_c=of.get((name, "cold"), of["all", "cold"]),
            water=water,
        )

    air = plant("air", "wet", "assist")
    towers = plant("evaporative", "wet", "tower")
    dry = plant("dry", "dry")
    halls = plant("chilled-water", "always")
    warm = plant("warm-water", "dry")
    bath = plant("immersion", "dry")
    sea = plant("sea-water", "never")
    leased = of["mixed", "leased_share"]
    rented = of["colocation", "chilled_share"]
    liquid = of["direct-to-chip", "liquid_share"]
    designs: dict[str, tuple[str, list[tuple[float, Plant]]]] = {
        "air": ("outside air, water sprayed in when warm, chillers when humid", [(1, air)]),
        "evaporative": ("water from cooling towers, chillers in humid heat", [(1, towers)]),
        "dry": ("closed loop: dry coolers when cold, else air-cooled chillers", [(1, dry)]),
        "chilled-water": ("older hall, air-cooled chillers all year", [(1, halls)]),
        "sea-water": ("water from sea or lake through heat exchangers", [(1, sea)]),
        "mixed": (
            "own halls as air, some leased with chillers",
            [(1 - leased, air), (leased, halls)],
        ),
        "colocation": ("older and newer halls side by side", [(rented, halls), (1 - rented, dry)]),
        "direct-to-chip": (
            "warm water to the chips, the rest as dry",
            [(liquid, warm), (1 - liquid, dry)],
        ),
        "immersion": ("machines in liquid, dry coolers", [(1, bath)]),
    }
    return {
        name: Cooling(name, says, tuple(parts), physics) for name, (says, parts) in designs.items()
    }


def _compressors(dry: Any, wet: Any, plant: Plant, physics: Physics) -> Any:
    """Compressor power per watt of machines: the mechanical share over the COP."""
    outside = wet if plant.water == "tower" else dry
    # Compressors do not run on no lift at all, however cold it is.
    lift_k = np.maximum(outside + (physics.lift - plant.cold_c), physics.lift / 2)
    lift_k *= 1 / (physics.carnot_share * (plant.cold_c + ZERO_C_K))
    return lift_k * _mechanical_share(dry, wet, plant, physics)


def _mechanical_share(dry: Any, wet: Any, plant: Plant, physics: Physics) -> Any:
    """Share of the heat that compressors carry, 0 to 1."""
    if plant.sink == "always":
        return 1.0
    if plant.sink == "never":
        return 0.0
    over_k = (wet if plant.sink == "wet" else dry) - plant.free_to_c
    return np.clip(over_k / physics.ramp, 0, 1)


def _floats(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    return array if array.dtype.kind == "f" else array.astype(float)


COOLINGS = build(constants())
"""The designs by name."""
