"""Several robots in one warehouse, each with a goal of its own, as PettingZoo's parallel API.

What a robot observes and does is as in `navigate`; the others are seen by its lidar alone. Who
reaches its goal or touches something leaves the episode and stays where it is.
"""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from gigafactory.jobs.worlds import navigate, warehouse
from gigafactory.jobs.worlds.navigate import BLOCKS, GOAL_M, OBSERVATION, SUBSTEPS, Navigate
from gigafactory.jobs.worlds.scene import WorldRefused
from gigafactory.jobs.worlds.warehouse import CORNERS, PEOPLE, REACH, SPEED, TURN


class Fleet(ParallelEnv[str, NDArray[np.float32], NDArray[np.float32]]):
    """`robots` robots in one warehouse, `robot_0` and so on."""

    def __init__(self, world: dict[str, Any] | None = None, robots: int = 3):
        world = world or {}
        if world.get("file") or world.get("scene", "warehouse") != "warehouse":
            raise WorldRefused(
                "a fleet drives in a warehouse", f"worlds.{world.get('name', 'world')}",
                f"this is {world.get('file') or world['scene']}", "give it `scene: warehouse`",
            )  # fmt: skip
        self.metadata = {"name": "gigafactory_fleet_v0", "render_modes": []}
        self.render_mode = None
        self.possible_agents = [f"robot_{i}" for i in range(robots)]
        self.agents: list[str] = []
        self._ranges = {**(world.get("ranges") or {}), "robots": (robots, robots)}
        warehouse.build(0, self._ranges, robots_most=robots)  # refuses what is impossible
        self._sees = gymnasium.spaces.Box(-np.inf, np.inf, (len(OBSERVATION),), np.float32)
        self._does = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._seeds = np.random.default_rng()

    def observation_space(self, agent: str) -> gymnasium.spaces.Box:
        """As `navigate.OBSERVATION`."""
        return self._sees

    def action_space(self, agent: str) -> gymnasium.spaces.Box:
        """Speed and turn, each of the fastest."""
        return self._does

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, dict[str, Any]]]:
        """A new layout: that of `seed`, else the next of the seeds that the last one led to."""
        if seed is not None:
            self._seeds = np.random.default_rng([seed, 3])
        layout = int(self._seeds.integers(2**52)) if seed is None else seed
        k = len(self.possible_agents)
        scene = warehouse.build(layout, self._ranges, robots_most=k)
        self.model = scene.model()
        self.state_now = mujoco.MjData(self.model)
        rng = np.random.default_rng([layout, 2])
        warehouse.moment(self.model, self.state_now, rng, randomise=False)
        self._half = self.model.numeric("hall").data[:2].copy()
        self._radius, self._between, self._length = self.model.numeric("wheels").data
        self._people = int(scene.drawn["people"])
        self._speed = scene.drawn["walk_speed"]
        self._routes = self.model.numeric("routes").data.reshape(-1, CORNERS, 2)
        self._walkers = np.zeros((PEOPLE, 3))
        self._blocks = np.zeros((k, BLOCKS + k - 1, 5))
        self._blocks[:, :BLOCKS] = navigate.obstacles(self.model)
        cells = tuple(int(2 * side / navigate.CELL_M) + 2 for side in self._half)
        room = np.zeros(cells, np.float32)
        navigate.clear(self._blocks[0, :BLOCKS], self._half, room)
        self._room = np.repeat(room[None], k, axis=0)
        self._way = np.zeros((k, *cells), np.float32)
        self._goal = np.zeros((k, 2))
        starts: list[NDArray[np.float64]] = []
        qpos = self.state_now.qpos.reshape(k, 9)
        for i in range(k):
            start, self._goal[i] = navigate.errand(
                rng,
                self._half,
                room,
                self._length * REACH,
                self._way[i],
                starts,
                list(self._goal[:i]),
            )
            starts.append(start)
            turned = warehouse.turned(rng.uniform(-np.pi, np.pi))
            qpos[i] = *start, self._radius, *turned, 0.0, 0.0
        # Nobody stands where a robot starts.
        state = self.state_now.userdata.reshape(-1, 3)
        for i in range(self._people):
            away = [min(np.hypot(*(c - s)) for s in starts) for c in self._routes[i]]
            state[i] = int(np.argmax(away)), 1.0, 0.0
            self._walkers[i, :2] = self._routes[i, int(np.argmax(away))]
        self.state_now.mocap_pos[: self._people, :2] = self._walkers[: self._people, :2]
        mujoco.mj_forward(self.model, self.state_now)
        self._left = np.zeros(k)
        self._steps = 0
        self._seen = np.zeros((k, len(OBSERVATION)), np.float32)
        self.agents = list(self.possible_agents)
        self._observe()
        return {a: self._seen[i].copy() for i, a in self._here()}, {a: {} for a in self.agents}

    def step(self, actions: dict[str, NDArray[np.float32]]) -> tuple[
        dict[str, NDArray[np.float32]],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:  # fmt: skip
        """A tenth of a second for everyone."""
        here = self._here()
        asked = np.zeros((len(self.possible_agents), 2))
        for i, agent in here:
            asked[i] = np.clip(actions[agent], -1, 1)
        left, right = warehouse.wheel_speeds(
            SPEED * asked[:, 0], TURN * asked[:, 1], self._radius, self._between
        )
        simulation, people = self.state_now, self._people
        simulation.ctrl[:] = np.stack([left, right], 1).ravel()
        drivers = warehouse.poses(simulation.qpos, len(asked))
        state = simulation.userdata.reshape(-1, 3)
        warehouse.walk(
            self._walkers[:people], drivers, self._routes, state, self._speed,
            self._length * REACH, Navigate.step_s,
        )  # fmt: skip
        before = simulation.mocap_pos[:people, :2].copy()
        touched = np.zeros(len(asked), bool)
        for part in range(1, SUBSTEPS + 1):
            way = self._walkers[:people, :2] - before
            simulation.mocap_pos[:people, :2] = before + way * part / SUBSTEPS
            mujoco.mj_step(self.model, simulation)
            touched |= simulation.sensordata > 0
        left_before = self._left.copy()
        self._observe()
        self._steps += 1
        arrived = ~touched & (self._seen[:, 4] < GOAL_M)
        reward = left_before - self._left - 0.02 + 5.0 * arrived - 10.0 * touched
        late = self._steps >= Navigate.steps_max
        self.agents = [a for i, a in here if not (touched[i] or arrived[i] or late)]
        return (
            {a: self._seen[i].copy() for i, a in here},
            {a: float(reward[i]) for i, a in here},
            {a: bool(touched[i] or arrived[i]) for i, a in here},
            {a: bool(late and not (touched[i] or arrived[i])) for i, a in here},
            {a: {"success": bool(arrived[i]), "collision": bool(touched[i])} for i, a in here},
        )

    def expert(self) -> dict[str, NDArray[np.float32]]:
        """The expert of `navigate` for each robot, which treats the others as it does people."""
        advised = navigate.advise(self._seen)
        return {agent: advised[i] for i, agent in self._here()}

    def _here(self) -> list[tuple[int, str]]:
        return [(i, a) for i, a in enumerate(self.possible_agents) if a in self.agents]

    def _observe(self) -> None:
        k = len(self.possible_agents)
        drivers = warehouse.poses(self.state_now.qpos, k)
        width = self._length * warehouse.WIDTH_OF_LENGTH
        for i in range(k):
            others = np.delete(drivers, i, axis=0)
            self._blocks[i, BLOCKS:, :2] = others[:, :2]
            self._blocks[i, BLOCKS:, 2:4] = self._length / 2, width / 2
            self._blocks[i, BLOCKS:, 4] = others[:, 2]
        navigate.observe(
            np.arange(k),
            drivers,
            self.state_now.qvel.reshape(k, 8),
            np.full(k, self._length),
            self._goal,
            np.repeat(self._half[None], k, axis=0),
            self._blocks,
            np.repeat(self._walkers[None], k, axis=0),
            np.full(k, self._people),
            self._room,
            self._way,
            self._left,
            self._seen,
        )


def parallel_env(world: dict[str, Any] | None = None, robots: int = 3) -> Fleet:
    """The environment, as PettingZoo names its maker."""
    return Fleet(world, robots)
