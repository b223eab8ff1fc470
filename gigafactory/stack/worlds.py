"""What each of our scenes draws from a seed, and between which ends: its parameters; its cameras.

Rows: `data/worlds.csv`, as `gigafactory.jobs.worlds` has them. Units as the row says: m, kg, rad,
1/s, ...; a whole parameter is a count. The row `cameras` is not drawn: there are so many.
"""

from dataclasses import dataclass
from functools import cache

from gigafactory.stack import facts

SCENES = ("warehouse", "factory", "road")
CAMERAS = "cameras"


@dataclass(frozen=True)
class Parameter:
    """What can be drawn; a blueprint may ask for less."""

    low: float
    high: float
    unit: str
    whole: bool


def parameters(scene: str) -> dict[str, Parameter]:
    """The parameters of a scene by name."""
    return {name: of for name, of in _rows(scene).items() if name != CAMERAS}


def cameras(scene: str) -> int:
    """How many cameras every layout of a scene has."""
    return int(_rows(scene)[CAMERAS].low)


@cache
def _rows(scene: str) -> dict[str, Parameter]:
    return {
        row["parameter"]: Parameter(
            float(row["low"]), float(row["high"]), row["unit"], row["whole"] == "yes"
        )
        for row in facts.rows("worlds")
        if row["world"] == scene
    }
