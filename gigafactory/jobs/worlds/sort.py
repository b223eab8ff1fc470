"""Sorting in the factory cell: pick parts from the running belt, each into its kind's bin.

An episode is a layout: three to five parts come, it succeeds when all of them lie where they
belong, rejects in their own bin. A part that leaves the belt's end is missed; one that falls
beside the bins, and a push of the tool against the cell, are collisions and end the episode.

Actions, in [-1, 1]: the tool's speed round the arm's base, outward and up (`factory.RATES`), and
suction, on where positive. Observations are what joint encoders, a vacuum switch and a camera
with a detector would tell: everything relative to the tool, in the same three directions.
Rewards: a metre nearer to what is due 1, a pick 0.3 (a loss of grip -0.3), a part placed right
1.3, wrong or missed -1, a collision -2, an episode that succeeds 2, a step -0.005.
"""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch

from gigafactory.jobs.worlds import factory
from gigafactory.jobs.worlds.factory import (
    BELT_Z,
    BIN_FLOOR,
    BIN_HALF,
    BIN_OF,
    BIN_RIM,
    BINS,
    DEFECT,
    HIT_N,
    INLET_X,
    KIND,
    KINDS,
    OUTLET_X,
    RATES,
    REACH_X,
    SLOTS,
    Array,
)  # fmt: skip
from gigafactory.jobs.worlds.task import Flags, Floats, Step

SUBSTEPS = 10
NEXT = 3
"""Parts on the belt that are observed, the one that is due first."""
OPEN, MISSED, THROWN = -1, BINS, BINS + 1
"""Where a part is that is not in bin 0 to 3."""
DUE = ("there", "turn", "out", "up", *KINDS, "defect")
FAR, NEAR = np.array([1.5, 0.2, 0.1]), np.array([0.1, 0.05, 0.05])
"""Turn (rad), out and up (m) that are told as 1; what is near is told once more, finer."""


class Sort:
    """`n` cells, stepped together."""

    name = "sort"
    step_s = 0.1
    steps_max = 400
    action_names = ("turn", "out", "up", "suction")
    observation_names = (
        *("angle", "radius", "height", "angle_rate", "radius_rate", "height_rate"),
        *("belt_turn", "belt_out", "held", *(f"held_{kind}" for kind in KINDS), "held_defect"),
        "held_clear",
        *("goal_turn", "goal_out", "goal_up", "goal_turn_near", "goal_out_near", "goal_up_near"),
        *(f"bin{bin_}_{way}" for bin_ in range(BINS) for way in ("turn", "out")),
        *(f"next{rank}_{what}" for rank in range(NEXT) for what in DUE),
    )
    observation_size = len(observation_names)
    action_size = len(action_names)

    def __init__(self, world: dict[str, Any], n: int, threads: int = 1):
        self.n = n
        self.ranges = world.get("ranges")
        first = factory.build(0, self.ranges)
        model = first.model()
        self.models = [model] * n
        self.drawn = [first.drawn] * n
        self.cell = factory.read(self.models)
        self.batch = Batch(model, n, nthread=threads)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.ctrl, self.sensors = self.batch.bind("ctrl"), self.batch.bind("sensordata")
        self.steps = np.zeros(n, int)
        self.place = np.full((n, len(SLOTS)), OPEN)
        self.ended = np.ones(n, bool)
        self.success, self.collision = np.zeros(n, bool), np.zeros(n, bool)
        self.reset(range(n))

    def reset(self, seeds: Sequence[int], ids: Sequence[int] | None = None) -> Floats:
        """Give the copies `ids` the layouts `seeds`."""
        rows = np.arange(self.n) if ids is None else np.asarray(ids, int)
        for row, seed in zip(rows, seeds, strict=True):
            scene = factory.build(int(seed), self.ranges)
            model = scene.model()
            used = np.flatnonzero(model.numeric("enter_s").data > -1e3)
            factory.show(model, used)
            self.models[row], self.drawn[row] = model, scene.drawn
        layouts = factory.read([self.models[row] for row in rows])
        for name, values in vars(layouts).items():
            getattr(self.cell, name)[rows] = values
        self.batch.set_models(self.models)
        self.batch.reset(rows)
        self.steps[rows] = 0
        self.place[rows] = np.where(self.cell.enter_s[rows] > -1e3, OPEN, MISSED)
        self.ended[rows] = self.success[rows] = self.collision[rows] = False
        self.qvel[rows, 0] = self.cell.speed[rows]
        return self.observe()

    def step(self, action: Floats) -> Step:
        """A tenth of a second in every copy that has not ended."""
        rows = np.flatnonzero(~self.ended)
        reward = np.zeros(self.n)
        if len(rows):
            reward[rows] = self._go(rows, np.clip(np.asarray(action, float)[rows], -1, 1))
        return Step(
            self.observe(), reward.astype(np.float32), self.ended.copy(), self.success.copy(),
            self.collision.copy(),
        )  # fmt: skip

    def expert(self) -> Floats:
        """The script of the cell, which sees no more than the observation tells."""
        action = factory.script(self.cell, self._tool(), self._parts(), self._held())
        return action.astype(np.float32)

    def scene(self, i: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Copy `i` as it stands."""
        data = self.batch.get_data(i)
        mujoco.mj_forward(self.models[i], data)
        return self.models[i], data

    def observe(self) -> Floats:
        """What is seen in each copy."""
        tool, parts, held = self._tool(), self._parts(), self._held()
        shoulder, elbow, lift = self.qvel[:, 1:4].T
        angle, radius, height = tool.T
        radius_rate = -factory.LINK_M * np.sin(self.qpos[:, 2] / 2) * elbow
        belt = self.cell.speed
        rows, holds = np.arange(self.n), held >= 0
        clear = np.where(holds, height - self.cell.height[rows, held] - BELT_Z, 0.0)
        columns = [
            angle / 2, (radius - 0.5) / 0.2, (height - 0.5) / 0.1,
            (shoulder + elbow / 2) / RATES[0], radius_rate / RATES[1], lift / RATES[2],
            -belt * np.cos(angle) / radius / RATES[0] * 5, -belt * np.sin(angle) / RATES[1] * 5,
            holds, *((holds & (KIND[held] == kind)) for kind in range(len(KINDS))),
            holds & DEFECT[held], np.clip(clear / 0.05, -1, 2),
        ]  # fmt: skip
        goal = factory.goal(self.cell, parts, held)
        to_goal = np.column_stack([factory.aim_at(goal.xy, tool), goal.height - height])
        columns += [*(to_goal / FAR).T, *np.clip(to_goal / NEAR, -1, 1).T]
        to_bins = factory.aim_at(self.cell.bin_xy, tool[:, None]) / FAR[:2]

        order, there = self._next(parts, held)
        seen = parts[rows[:, None], order]
        up = seen[..., 2] + self.cell.height[rows[:, None], order] / 2 - height[:, None]
        to_parts = np.dstack([factory.aim_at(seen, tool[:, None]), up]) / FAR
        kinds = KIND[order][..., None] == np.arange(len(KINDS))
        on_belt = np.dstack([np.ones(order.shape), to_parts, kinds, DEFECT[order]])
        observation = np.concatenate(
            [
                np.stack(columns, axis=1),
                to_bins.reshape(self.n, -1),
                (on_belt * there[..., None]).reshape(self.n, -1),
            ],
            axis=1,
        )
        return np.clip(observation, -5, 5).astype(np.float32)

    def _go(self, rows: Any, action: Array) -> Array:
        """Step these copies; their rewards."""
        held_before = self._held()[rows]
        before = factory.goal(self._cell(rows), self._parts()[rows], held_before)
        far_before = self._far(rows, before)
        self.ctrl[rows] = factory.controls(self._cell(rows), self.qpos[rows], action)
        hit = np.zeros(len(rows), bool)
        for _ in range(2):
            self.batch.step(rows, nstep=SUBSTEPS // 2)
            hit |= np.linalg.norm(self.sensors[rows, :3], axis=1) > HIT_N
        self.steps[rows] += 1
        self._feed(rows)

        held = self._held()[rows]
        fresh = self._settle(rows, held)
        right = fresh & (self.place[rows] == BIN_OF)
        wrong = fresh & ~right
        open_ = (self.place[rows] == OPEN).any(axis=1)
        self.collision[rows] = hit | (self.place[rows] == THROWN).any(axis=1)
        used = self.cell.enter_s[rows] > -1e3
        placed = ((self.place[rows] == BIN_OF) | ~used).all(axis=1)
        self.success[rows] = placed & ~self.collision[rows]
        over = self.collision[rows] | ~open_ | (self.steps[rows] >= self.steps_max)
        self.ended[rows] = over

        after = factory.goal(self._cell(rows), self._parts()[rows], held)
        same = (after.slot == before.slot) & (held == held_before) & (before.slot >= 0)
        far = self._far(rows, after)
        picked = (held >= 0).astype(float) - (held_before >= 0)
        return (
            np.where(same, far_before - far, 0.0)
            + 0.3 * picked
            + 1.3 * right.sum(axis=1)
            - 1.0 * wrong.sum(axis=1)
            - 2.0 * self.collision[rows]
            + 2.0 * self.success[rows]
            - 0.005
        )

    def _feed(self, rows: Any) -> None:
        """Put on the belt what has come by now; keep parked what has not, or never will."""
        enter_s, speed = self.cell.enter_s[rows], self.cell.speed[rows, None]
        late_s = self.steps[rows, None] * self.step_s - enter_s
        qpos, qvel = self.qpos[rows], self.qvel[rows]
        poses, height = factory.parts_of(qpos), self.cell.height[rows]
        comes = (late_s >= 0) & (enter_s > 0) & (poses[..., 2] < -1)
        poses[..., 0] = np.where(comes, INLET_X + speed * late_s, poses[..., 0])
        poses[..., 2] = np.where(comes, BELT_Z + height / 2, poses[..., 2])
        factory.tend(qpos, qvel, speed[:, 0], poses[..., 2] < -1)
        speeds = qvel[:, factory.PARTS_V :].reshape(len(rows), len(SLOTS), 6)
        speeds[comes, 0] = np.broadcast_to(speed, comes.shape)[comes]
        speeds[comes, 1:] = 0
        self.qpos[rows], self.qvel[rows] = qpos, qvel

    def _settle(self, rows: Any, held: Any) -> Flags:
        """Note where parts have come to lie; which of them did so in this step, (rows, S)."""
        parts = self._parts()[rows]
        bin_xy = self.cell.bin_xy[rows]
        away = parts[:, :, None, :2] - bin_xy[:, None]
        # A bin's sides lie along and across the line from the arm's base.
        outward = bin_xy / np.linalg.norm(bin_xy, axis=-1, keepdims=True)
        along = (away * outward[:, None]).sum(axis=-1)
        across = away[..., 0] * outward[:, None, :, 1] - away[..., 1] * outward[:, None, :, 0]
        z = parts[..., 2]
        over = (np.abs(along) < BIN_HALF) & (np.abs(across) < BIN_HALF)
        inside = over & ((z > BIN_FLOOR - 0.02) & (z < BIN_RIM - 0.01))[..., None]
        place = np.where(inside.any(axis=-1), inside.argmax(axis=-1), OPEN)
        place[(place == OPEN) & (z < BIN_RIM - 0.04) & (z > -1)] = THROWN
        place[(place == OPEN) & (parts[..., 0] > OUTLET_X) & (z > BELT_Z - 0.05)] = MISSED
        free = np.arange(len(SLOTS)) != held[:, None]
        fresh = (self.place[rows] == OPEN) & (place != OPEN) & free
        self.place[rows] = np.where(fresh, place, self.place[rows])
        return fresh

    def _far(self, rows: Any, goal: factory.Goal) -> Array:
        """How far the tool is from where it is due, m; what is above a bin is above it."""
        tool = self._tool()[rows]
        way = factory.aim_at(goal.xy, tool)
        up = np.where(self._held()[rows] >= 0, 0.0, goal.height - tool[:, 2])
        return np.sqrt((way[:, 0] * tool[:, 1]) ** 2 + way[:, 1] ** 2 + up**2)

    def _next(self, parts: Array, held: Any) -> tuple[Any, Flags]:
        """The slots of the next parts on the belt, the furthest first, and which there are."""
        there = factory.on_belt(parts) & (parts[..., 0] < REACH_X[1])
        there &= np.arange(len(SLOTS)) != held[:, None]
        order = np.argsort(np.where(there, -parts[..., 0], np.inf), axis=1, kind="stable")
        order = order[:, :NEXT]
        return order, np.take_along_axis(there, order, axis=1)

    def _cell(self, rows: Any) -> factory.Cell:
        return factory.Cell(**{name: values[rows] for name, values in vars(self.cell).items()})

    def _tool(self) -> Array:
        return factory.tool_of(self.qpos)

    def _parts(self) -> Array:
        return factory.parts_of(self.qpos)[..., :3]

    def _held(self) -> Any:
        return factory.held_in(self.sensors, self.ctrl)
