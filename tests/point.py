"""The smallest task there is, for tests: a point that must reach a goal and stay on its floor."""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from gigafactory.jobs.worlds.scene import Range
from gigafactory.jobs.worlds.task import Floats, Step

PARAMETERS = {"reach": Range(0.5, 1.0, "m"), "walls": Range(1, 4, whole=True)}
SCENE = """<mujoco><worldbody>
  <light pos="0 0 3"/><camera name="camera/0" pos="0 0 4"/>
  <geom type="plane" size="2 2 .1"/>
  <body name="point/1" mocap="true"><geom type="sphere" size=".1" rgba="1 0 0 1"/></body>
</worldbody></mujoco>"""


class Point:
    """Steps of 0.2 m; the goal within 0.2 m is success, 2 m from the middle a collision."""

    name = "reach"
    observation_size, action_size = 4, 2
    step_s, steps_max = 0.1, 20
    observation_names = ("to_x", "to_y", "x", "y")
    action_names = ("go_x", "go_y")

    def __init__(self, world: dict[str, Any], n: int, threads: int = 1):
        self.n = n
        self.drawn: list[dict[str, float]] = [{} for _ in range(n)]
        self.at, self.goal = np.zeros((n, 2)), np.zeros((n, 2))
        self.steps = np.zeros(n, int)
        self.ended = np.ones(n, bool)
        self.success, self.collision = np.zeros(n, bool), np.zeros(n, bool)
        self.model = mujoco.MjModel.from_xml_string(SCENE)

    def reset(self, seeds: Sequence[int], ids: Sequence[int] | None = None) -> Floats:
        ids = np.arange(self.n) if ids is None else np.asarray(ids)
        for i, seed in zip(ids, seeds, strict=True):
            draw = np.random.default_rng(int(seed))
            reach, turn = draw.uniform(0.5, 1.0), draw.uniform(0, 2 * np.pi)
            self.drawn[i] = {"reach": reach, "walls": float(draw.integers(1, 5))}
            self.at[i], self.goal[i] = 0, (reach * np.cos(turn), reach * np.sin(turn))
        self.steps[ids] = 0
        self.ended[ids] = self.success[ids] = self.collision[ids] = False
        return self.observe()

    def step(self, action: Floats) -> Step:
        go = ~self.ended
        before = np.linalg.norm(self.goal - self.at, axis=1)
        self.at[go] += 0.2 * np.clip(action, -1, 1)[go]
        self.steps += go
        left = np.linalg.norm(self.goal - self.at, axis=1)
        self.success |= go & (left < 0.2)
        self.collision |= go & (np.linalg.norm(self.at, axis=1) > 2)
        self.ended |= self.success | self.collision | (self.steps >= self.steps_max)
        reward = (before - left + self.success - self.collision) * go
        return Step(
            self.observe(),
            reward.astype(np.float32),
            self.ended.copy(),
            self.success.copy(),
            self.collision.copy(),
        )

    def expert(self) -> Floats:
        to = self.goal - self.at
        return (to / np.maximum(np.linalg.norm(to, axis=1, keepdims=True), 0.2)).astype(np.float32)

    def scene(self, i: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        simulated = mujoco.MjData(self.model)
        simulated.mocap_pos[0, :2] = self.at[i]
        mujoco.mj_forward(self.model, simulated)
        return self.model, simulated

    def observe(self) -> Floats:
        return np.hstack([self.goal - self.at, self.at]).astype(np.float32)
