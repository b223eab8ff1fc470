"""A task: many copies of a world, stepped together, with something to do in each.

A step lasts `step_s` seconds of the world. Observations are the task's own units, actions are in
[-1, 1], rewards have no unit. A copy does not depend on its neighbours: the same seeds and
actions give the same bytes, whatever `n` and `threads`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass
class Step:
    """What a step led to, a row a copy; a copy that has ended stays as it is until its reset.

    One that ended without success and without a collision ran out of time (`steps_max`).
    """

    observation: Floats
    reward: Floats
    ended: Flags
    success: Flags
    collision: Flags


class Task(Protocol):
    """Many copies of one world; `drawn` is the parameters of each copy's layout."""

    n: int
    drawn: list[dict[str, float]]

    @property
    def name(self) -> str:
        """What is to be done: navigate, sort, drive."""
        ...

    @property
    def observation_names(self) -> tuple[str, ...]:
        """What each number of an observation is; there are `observation_size`."""
        ...

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each number of an action does; there are `action_size`."""
        ...

    @property
    def observation_size(self) -> int: ...  # noqa: D102

    @property
    def action_size(self) -> int: ...  # noqa: D102

    @property
    def step_s(self) -> float: ...  # noqa: D102

    @property
    def steps_max(self) -> int:
        """An episode that has had so many steps ends."""
        ...

    def reset(self, seeds: Sequence[int], ids: Sequence[int] | None = None) -> Floats:
        """Give the copies `ids` (None: all) the layouts `seeds`; observations of all copies."""
        ...

    def step(self, action: Floats) -> Step:
        """Act in every copy, (n, A) in [-1, 1], for `step_s` seconds."""
        ...

    def expert(self) -> Floats:
        """What one who sees everything would do now, (n, A)."""
        ...

    def scene(self, i: int) -> "tuple[mujoco.MjModel, mujoco.MjData]":
        """Copy `i` as it stands, to be drawn through `camera/0`."""
        ...


def make(world: dict[str, Any], n: int, threads: int = 1) -> Task:
    """`n` copies of what there is to do in `world`: navigate (in a file, too), sort or drive."""
    untimed()
    if world.get("file"):
        from gigafactory.jobs.worlds.own import Own

        return Own(world, n, threads)
    match world.get("scene"):
        case "warehouse":
            from gigafactory.jobs.worlds.navigate import Navigate

            return Navigate(world, n, threads)
        case "factory":
            from gigafactory.jobs.worlds.sort import Sort

            return Sort(world, n, threads)
        case "road":
            from gigafactory.jobs.worlds.drive import Drive

            return Drive(world, n, threads)
    from gigafactory.jobs.worlds.scene import WorldRefused

    raise WorldRefused(
        f"nobody knows what is to be done in {world.get('name', 'this world')}",
        f"worlds.{world.get('name', '?')}",
        "a task belongs to warehouse and to a file (navigate), factory (sort) or road (drive)",
        "give the world one of these scenes, or a file",
    )


def untimed() -> None:
    """Take MuJoCo's stopwatch away, for this process.

    Its Python module has every stage of every step timed, for a profile that nobody reads here:
    7 % of a step of a small robot. `mujoco.set_mjcb_time(None)` would put that stopwatch back.
    """
    import mujoco

    library = ctypes.CDLL(str(next(Path(mujoco.__file__).parent.glob("libmujoco*"))))
    ctypes.c_void_p.in_dll(library, "mjcb_time").value = None
