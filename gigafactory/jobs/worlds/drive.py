"""Drive: half a minute of dense traffic with cut-ins, merges and people, without a collision.

The ego steers and accelerates every 0.2 s; 15 substeps a second of traffic.py move everybody.
Success: all of the time driven, nobody hit, never off the road, and no slower than PROGRESS of the
limit on average (who stands still hits nobody and gets nowhere). Leaving the road is a collision.
Observation and expert: `traffic.view`, `traffic.expert`; the expert knows no more than the policy.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

from gigafactory.jobs.worlds import road, traffic
from gigafactory.jobs.worlds.task import Floats, Step

SUBSTEPS = 3
PROGRESS = 0.4


class Drive:
    """`n` roads, each with an ego at the wheel."""

    name = "drive"
    observation_names = traffic.VIEW
    action_names = ("acceleration", "steering")
    observation_size = len(traffic.VIEW)
    action_size = 2
    step_s = SUBSTEPS * road.DT_S
    steps_max = 175  # 35 s

    def __init__(self, world: dict[str, Any], n: int, threads: int = 1):
        self.n = n
        self.ranges = {name: tuple(ends) for name, ends in (world.get("ranges") or {}).items()}
        self.drawn: list[dict[str, float]] = [{} for _ in range(n)]
        self.cars, self.roads, self.people = traffic.empty(n, road.CARS, road.PEOPLE)
        self.steps = np.zeros(n, int)
        self.ended = np.ones(n, bool)
        self.success, self.collision = np.zeros(n, bool), np.zeros(n, bool)
        self._seeds = [0] * n
        self._scenes: dict[int, tuple[int, mujoco.MjModel, mujoco.MjData]] = {}
        self._parts = [part for part in np.array_split(np.arange(n), threads) if len(part)]
        self._pool = ThreadPoolExecutor(threads) if len(self._parts) > 1 else None

    def reset(self, seeds: Sequence[int], ids: Sequence[int] | None = None) -> Floats:
        """Give the copies `ids` (None: all) the layouts `seeds`."""
        for i, seed in zip(range(self.n) if ids is None else ids, seeds, strict=True):
            self._seeds[i] = int(seed)
            self.drawn[i] = road.parameters_of(int(seed), self.ranges)
            tables = road.layout(self.drawn[i], np.random.default_rng([int(seed), 1]))
            self.place(i, *tables)
        return self.observe()

    def place(self, i: int, cars: np.ndarray, street: np.ndarray, people: np.ndarray) -> None:
        """Give copy `i` this traffic at time 0 (fewer vehicles or people: nobody else is there)."""
        self.cars[i, :, traffic.KIND] = 0.0
        self.people[i] = traffic.empty(1, 0, road.PEOPLE)[2][0]
        self.cars[i, : len(cars)], self.people[i, : len(people)] = cars, people
        self.roads[i] = street
        self.steps[i] = 0
        self.ended[i] = self.success[i] = self.collision[i] = False

    def observe(self) -> Floats:
        """What each ego sees now."""
        return np.asarray(traffic.view(self.cars, self.roads, self.people), np.float32)

    def step(self, action: Floats) -> Step:
        """Drive on for 0.2 s."""
        live = ~self.ended
        action = np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        before = self.cars[:, 0, [traffic.ACCELERATION, traffic.STEERING]]
        told = traffic.commands(self.cars, action)

        def go(part: np.ndarray) -> None:
            each = slice(part[0], part[-1] + 1)
            traffic.step(
                self.cars[each], self.roads[each], self.people[each], told[each], live[each],
                road.DT_S, SUBSTEPS,
            )  # fmt: skip

        if self._pool:
            list(self._pool.map(go, self._parts))
        else:
            go(self._parts[0])
        ego = self.cars[:, 0]
        limit = self.roads[:, traffic.LIMIT]
        self.steps += live
        self.collision |= live & (ego[:, traffic.CRASHED] > 0)
        time_up = live & ~self.collision & (self.steps >= self.steps_max)
        enough = ego[:, traffic.X] >= PROGRESS * limit * self.steps_max * self.step_s
        self.success |= time_up & enough
        self.ended |= self.collision | time_up
        observation = self.observe()
        reward = self._reward(observation, action, before)
        reward[self.collision] = -10.0
        reward[~live] = 0.0
        return Step(
            observation, reward, self.ended.copy(), self.success.copy(), self.collision.copy()
        )

    def _reward(self, observation: Floats, action: Floats, before: np.ndarray) -> Floats:
        """At most 0.2 a step: progress, less for tailgating, jerks, and straddling lanes."""
        at = {name: k for k, name in enumerate(traffic.VIEW)}
        speed, limit = observation[:, at["speed"]], observation[:, at["limit"]]
        gap_m = 100.0 * observation[:, at["own_ahead_gap"]]
        close = np.clip(1.0 - gap_m / (3.0 + 0.6 * 30.0 * speed), 0.0, 1.0)
        jerk = np.abs(self.cars[:, 0, traffic.ACCELERATION] - before[:, 0]) / 10.0
        reward = 0.2 * np.minimum(speed / limit, 1.1 - (speed > 1.1 * limit))
        reward -= 0.2 * close + 0.02 * jerk + 0.02 * action[:, 1] ** 2
        reward -= 0.05 * observation[:, at["lane_offset"]] ** 2
        return np.asarray(reward, np.float32)

    def expert(self) -> Floats:
        """What the expert does now; it knows the observation alone."""
        return np.asarray(traffic.expert(self.observe()), np.float32)

    def scene(self, i: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Copy `i` as it stands."""
        seed, model, data = self._scenes.get(i, (None, None, None))
        if seed != self._seeds[i] or model is None:
            model = road.build(self._seeds[i], self.ranges).model()
            data = mujoco.MjData(model)
            self._scenes[i] = self._seeds[i], model, data
        road.show(model, data, self.cars[i], self.roads[i], self.people[i])
        return model, data
