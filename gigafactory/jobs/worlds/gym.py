"""Tasks as Gymnasium knows environments: one (`Single`), or many stepped together (`Many`).

    import gymnasium
    gymnasium.make("gigafactory.jobs.worlds.gym:gigafactory/Warehouse-v0")
    gymnasium.make_vec("gigafactory.jobs.worlds.gym:gigafactory/Road-v0", num_envs=64)

Every episode has a fresh layout of the training split, drawn from the seed of `reset`; whoever
wants to be judged asks for `layouts="heldout"`. `jobs/ppo.py` has the same for stable-baselines3.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv

from gigafactory.jobs.worlds import task as tasks
from gigafactory.jobs.worlds.scene import WorldRefused, seed_of
from gigafactory.jobs.worlds.task import Flags, Step, Task

WIDTH, HEIGHT = 320, 240
IDS = {"Warehouse": "warehouse", "Factory": "factory", "Road": "road"}

Fresh = Callable[[int, int, int], Any]
"""The layout of an episode, from: seed, copy, how many episodes the copy had before."""


class Single(gymnasium.Env[Any, Any]):
    """One copy of a world."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, world: dict[str, Any], layouts: str = "train", render_mode: str | None = None
    ):
        self.task = tasks.make(world, 1)
        self.metadata = self.metadata | {"render_fps": round(1 / self.task.step_s)}
        self.layouts = layouts
        self.render_mode = render_mode
        self._renderer: Any = None
        self.observation_space = observations(self.task)
        self.action_space = actions(self.task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a fresh layout."""
        super().reset(seed=seed)
        layout = seed_of(int(self.np_random.integers(2**31)), self.layouts, 0)
        return self.task.reset([layout])[0].copy(), {"layout": layout}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act for `step_s` seconds."""
        step = self.task.step(fit(action, self.action_space)[None])
        terminated, truncated = ends(step)
        return (
            step.observation[0].copy(),
            float(step.reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            {"success": bool(step.success[0]), "collision": bool(step.collision[0])},
        )

    def render(self) -> Any:
        """The world through `camera/0`, (HEIGHT, WIDTH, 3) bytes."""
        if self.render_mode is None:
            return None
        from gigafactory.jobs.synthesize.render import Renderer

        if self._renderer is None:
            self._renderer = Renderer(WIDTH, HEIGHT)
        model, simulated = self.task.scene(0)
        self._renderer.load(model, np.zeros(model.ngeom, np.int32))
        return self._renderer.draw(simulated, "camera/0").rgb

    def close(self) -> None:
        """Give the memory of the drawing back."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class Many(VectorEnv[Any, Any, Any]):
    """All copies of a task; one that has ended begins a fresh layout in the next step."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, task: Task, fresh: Fresh):
        self.task = task
        self.fresh = fresh
        self.num_envs = task.n
        self.single_observation_space = observations(task)
        self.single_action_space = actions(task)
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, task.n
        )
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, task.n)
        self.seed: int | None = None
        self.episodes = np.zeros(task.n, int)
        self.over = np.ones(task.n, bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin everywhere; without a seed, go on with the layouts that follow."""
        super().reset(seed=seed)
        if seed is not None or self.seed is None:
            self.seed = int(self.np_random.integers(2**31)) if seed is None else seed
            self.episodes[:] = 0
        self.over[:] = True
        observation = self._begin()
        self.over[:] = False
        return observation.copy(), self.infos(None, np.ones(self.num_envs, bool))

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act in all copies; those that had ended begin, whatever they were told to do."""
        step = self.task.step(fit(action, self.action_space))
        begun = self.over.copy()
        observation = self._begin() if begun.any() else step.observation
        terminated, truncated = ends(step)
        terminated, truncated = terminated & ~begun, truncated & ~begun
        self.over = terminated | truncated
        reward = np.where(begun, 0.0, step.reward)
        return observation.copy(), reward, terminated, truncated, self.infos(step, begun)

    def infos(self, step: Step | None, begun: Flags) -> dict[str, Any]:
        """What else is to be told of each copy, with `_NAME` where it is told."""
        if step is None:
            return {}
        return {
            "success": step.success & ~begun,
            "_success": ~begun,
            "collision": step.collision & ~begun,
            "_collision": ~begun,
        }

    def _begin(self) -> Any:
        ids = np.flatnonzero(self.over).tolist()
        assert self.seed is not None, "reset comes before step"
        layouts = [self.fresh(self.seed, int(i), int(self.episodes[i])) for i in ids]
        self.episodes[ids] += 1
        return self.task.reset(layouts, ids)


def many(num_envs: int, world: dict[str, Any], layouts: str = "train", threads: int = 1) -> Many:
    """`Many` copies of a world, as `gymnasium.make_vec` asks for it."""
    return Many(tasks.make(world, num_envs, threads), fresh_of(layouts, num_envs))


def fresh_of(layouts: str, n: int) -> Fresh:
    """Layouts of a split such that no two episodes of `n` copies share one."""
    return lambda seed, copy, episode: seed_of(seed, layouts, episode * n + copy)


def ends(step: Step) -> tuple[Flags, Flags]:
    """Which copies came to an end of their own, and which only ran out of time."""
    own = step.success | step.collision
    return step.ended & own, step.ended & ~own


def fit(action: Any, space: Any) -> Any:
    """The action as numbers of the space's shape; anything else is refused."""
    try:
        numbers = np.asarray(action, np.float32)
    except (TypeError, ValueError):
        numbers = np.empty(0, np.float32)
    if numbers.shape != space.shape or not np.isfinite(numbers).all():
        raise WorldRefused(
            "this is no action of this world",
            "step",
            f"it must be finite numbers of shape {space.shape}, and has shape {numbers.shape}",
            "take one of `action_space`; beyond -1 and 1 it is cut off",
        )
    return numbers


def observations(task: Task) -> Box:
    """The space of a copy's observations."""
    return Box(-np.inf, np.inf, (task.observation_size,), np.float32)


def actions(task: Task) -> Box:
    """The space of a copy's actions."""
    return Box(-1.0, 1.0, (task.action_size,), np.float32)


for _name, _scene in IDS.items():
    gymnasium.register(
        f"gigafactory/{_name}-v0",
        entry_point=f"{__name__}:Single",
        vector_entry_point=f"{__name__}:many",
        kwargs={"world": {"name": _scene, "scene": _scene}},
    )
