"""Worlds: built from a seed (`warehouse`, `factory`, `road`) or read from a user's file.

A world is a dict, as a blueprint's `worlds` has it: `{"name", "scene", "ranges"}` or
`{"name", "file"}`. MuJoCo is imported only when one is built.
"""

import importlib
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gigafactory.jobs.worlds.scene import Range, Scene

SCENES = ("warehouse", "factory", "road")


def module(world: dict[str, Any]) -> ModuleType:
    """The module with the world's `moment` and `advance`."""
    if world.get("file"):
        return importlib.import_module("gigafactory.jobs.worlds.imported")
    if world.get("scene") in SCENES:
        return importlib.import_module(f"gigafactory.jobs.worlds.{world['scene']}")
    from gigafactory.jobs.worlds.scene import WorldRefused

    raise WorldRefused(
        f"no scene is called {world.get('scene')!r}" if world.get("scene") else "a world of what?",
        f"worlds.{world.get('name', '?')}.scene",
        f"scenes are {', '.join(SCENES)}",
        "name one of these, or a file (.usd, .xml or .urdf)",
    )


def build(world: dict[str, Any], seed: int, randomise: bool = True) -> "Scene":
    """The world, drawn from `seed`; a world from a file is what the file says."""
    builder = module(world)
    if world.get("file"):
        return replace(builder.read(world["file"]), seed=seed)
    scene: Scene = builder.build(seed, world.get("ranges"), randomise)
    return scene


def parameters(scene: str) -> dict[str, "Range"]:
    """What a scene draws, and between which ends; in a `file`, of a robot that acts in it."""
    own = importlib.import_module("gigafactory.jobs.worlds.own") if scene == "file" else None
    drawn: dict[str, Range] = (own or module({"scene": scene})).PARAMETERS
    return drawn
