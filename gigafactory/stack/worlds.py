"""What each of our scenes draws from a seed, and between which ends: its parameters.

Rows: `data/worlds.csv`, as `gigafactory.jobs.worlds` has them. Units as the row says: m, kg, rad,
1/s, ...; a whole parameter is a count.
"""

from dataclasses import dataclass
from functools import cache

from gigafactory.stack import facts

SCENES = ("warehouse", "factory", "road")


@dataclass(frozen=True)
class Parameter:
    """What can be drawn; a blueprint may ask for less."""

    low: float
    high: float
    unit: str
    whole: bool


@cache
def parameters(scene: str) -> dict[str, Parameter]:
    """The parameters of a scene by name."""
    return {
        row["parameter"]: Parameter(
            float(row["low"]), float(row["high"]), row["unit"], row["whole"] == "yes"
        )
        for row in facts.rows("worlds")
        if row["world"] == scene
    }
