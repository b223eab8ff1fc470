"""A robot finds its way to a goal in a warehouse where people walk.

Ten actions a second: speed and turn, each of the robot's fastest. A planner has the plan of the
hall without its people: Dijkstra from the goal over cells of 0.2 m, once a layout, where room to
the obstacles is worth a detour. What the robot gets of it are two points of the way ahead. Of its
surroundings it has a lidar, and from that how far each of 13 corridors of its own width is free
(`free_0`: straight ahead): these, and more clearance of the way, took imitation from 0.85 to 0.99.
All observations are of the moment (m, m/s, rad/s, the robot's frame, x ahead), so that a policy
needs no memory; the expert sees no more than it.

An episode ends at the goal (0.4 m), with a contact of the chassis as MuJoCo finds it in any
substep, or after 60 s.
"""

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numba import njit
from numpy.typing import NDArray

from gigafactory.jobs.worlds import warehouse
from gigafactory.jobs.worlds.scene import PARKED_Z, Scene, WorldRefused
from gigafactory.jobs.worlds.task import Step
from gigafactory.jobs.worlds.warehouse import CORNERS, PEOPLE, PERSON_RADIUS, REACH, SPEED, TURN

RAYS = 36
LIDAR_M = 6.0  # range
CELL_M = 0.2
NEAR_M, FAR_M = 0.8, 2.6  # along the way, of the two points that are observed
GOAL_M = 0.4
TRIES = 1000
WAY_M = (5.0, math.inf)  # of an errand, from and to
SUBSTEPS = 10
BLOCKS = warehouse.RACKS + warehouse.PALLETS
WAYS = 13  # straight ones that the observation says how far they are free, 15 degrees apart
FIRST_WAY, FIRST_RAY = 10, 10 + WAYS
RAY_COS, RAY_SIN = (f(2 * np.pi * np.arange(RAYS) / RAYS) for f in (np.cos, np.sin))
STEP_RAD, SIDE_RAD = math.radians(5), math.radians(30)
OBSERVATION = (
    "near_x", "near_y", "far_x", "far_y", "goal_distance", "goal_cos", "goal_sin",
    "speed", "turn", "length", *(f"free_{15 * i - 90}" for i in range(WAYS)),
    *(f"lidar_{i}" for i in range(RAYS)),
)  # fmt: skip
Floats = NDArray[np.float64]


class Navigate:
    """`n` warehouses with one robot each."""

    name = "navigate"
    observation_size = len(OBSERVATION)
    action_size = 2
    step_s = SUBSTEPS * warehouse.TIMESTEP
    steps_max = 600
    observation_names = OBSERVATION
    action_names = ("speed", "turn")
    _way_m = WAY_M

    def __init__(self, world: dict[str, Any], n: int, threads: int = 1):
        self.n = n
        first, half, blocks = self._first(world)
        self._models = [first] * n
        self._batch = Batch(first, n, threads)
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._ctrl = self._batch.bind("ctrl")
        self._mocap = self._batch.bind("mocap_pos")
        self._quat = self._batch.bind("mocap_quat")
        self.drawn: list[dict[str, float]] = [{}] * n
        self._scenes: dict[int, Scene] = {}
        self._shown: dict[int, tuple[mujoco.MjModel, mujoco.MjData]] = {}
        cells = tuple(int(2 * side / CELL_M) + 2 for side in half)
        self._room = np.zeros((n, *cells), np.float32)
        self._way = np.zeros((n, *cells), np.float32)
        self._half = np.ones((n, 2))
        self._blocks = np.zeros((n, blocks, 5))
        self._goal = np.zeros((n, 2))
        self._robot = np.ones((n, 3))  # wheel radius, between the wheels, length
        self._walkers = np.zeros((n, PEOPLE, 3))
        self._count = np.zeros(n, np.int64)  # of walkers
        self._walk_speed = np.zeros(n)
        self._routes = np.zeros((n, PEOPLE, CORNERS, 2))
        self._on_route = np.zeros((n, PEOPLE, 3))
        self._left = np.zeros(n)  # of the way to the goal
        self._steps = np.zeros(n, np.int64)
        self._ended = np.ones(n, bool)
        self._success = np.zeros(n, bool)
        self._collision = np.zeros(n, bool)
        self._observation = np.zeros((n, self.observation_size), np.float32)

    def reset(self, seeds: Sequence[int], ids: Sequence[int] | None = None) -> NDArray[np.float32]:
        """New layouts for the copies `ids`, each with a start and a goal."""
        copies = np.arange(self.n) if ids is None else np.asarray(ids, np.int64)
        assert len(seeds) == len(copies)
        starts = np.array(
            [self._lay_out(i, int(seed)) for i, seed in zip(copies, seeds, strict=True)]
        )
        self._batch.set_models(self._models)
        self._batch.reset(copies, stage=0)
        for i, (x, y, yaw) in zip(copies, starts.reshape(-1, 3), strict=True):
            self._qpos[i, :7] = x, y, self._robot[i, 0], *warehouse.turned(yaw)
        self._ended[copies] = self._success[copies] = self._collision[copies] = False
        self._steps[copies] = 0
        self._place_walkers(copies)
        self._observe(copies)
        return self._observation.copy()

    def step(self, action: NDArray[np.float32]) -> Step:
        """Drive for a tenth of a second in the copies that have not ended."""
        ids = np.flatnonzero(~self._ended)
        reward = np.zeros(self.n, np.float32)
        if len(ids):
            asked = np.clip(np.asarray(action, np.float64)[ids], -1, 1)
            radius, between = self._robot[ids, 0], self._robot[ids, 1]
            left, right = warehouse.wheel_speeds(
                SPEED * asked[:, 0], TURN * asked[:, 1], radius, between
            )
            self._ctrl[ids] = np.stack([left, right], 1)
            # People move within the step, too: a jump would push a robot that stands well clear.
            before = self._mocap[ids].copy()
            self._walk(ids)
            self._place_walkers(ids)
            part = np.arange(1, SUBSTEPS + 1)[None, :, None, None] / SUBSTEPS
            moving = before[:, None] + part * (self._mocap[ids] - before)[:, None]
            touched = self._batch.rollout(
                SUBSTEPS,
                moving.reshape(len(ids), SUBSTEPS, -1),
                int(mujoco.mjtState.mjSTATE_MOCAP_POS),
                record=("sensordata",),
                ids=ids,
            )["sensordata"]
            left_before = self._left[ids].copy()
            self._observe(ids)
            self._steps[ids] += 1
            collision = (touched > 0).any((1, 2))
            success = ~collision & (self._observation[ids, 4] < GOAL_M)
            self._collision[ids], self._success[ids] = collision, success
            self._ended[ids] = collision | success | (self._steps[ids] >= self.steps_max)
            reward[ids] = left_before - self._left[ids] - 0.02 + 5 * success - 10 * collision
        return Step(
            self._observation.copy(),
            reward,
            self._ended.copy(),
            self._success.copy(),
            self._collision.copy(),
        )

    def expert(self) -> NDArray[np.float32]:
        """Toward the farther point of the way, round what the lidar sees, slow when it is near."""
        return advise(self._observation)

    def scene(self, i: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Copy `i` as it is to be seen, with its goal as a green disc."""
        if i not in self._shown:
            self._shown[i] = self._drawn_whole(i)
        model, data = self._shown[i]
        self._pose(self._batch.get_data(i), model, data)
        return model, data

    def _drawn_whole(self, i: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        spec = mujoco.MjSpec.from_string(self._scenes[i].mjcf)
        self._show_goal(i, spec)
        model = spec.compile()
        return model, mujoco.MjData(model)

    def _show_goal(self, i: int, spec: mujoco.MjSpec) -> None:
        spec.worldbody.add_geom(
            name="goal", type=mujoco.mjtGeom.mjGEOM_CYLINDER, pos=[*self._goal[i], 0.01],
            size=[GOAL_M, 0.01, 0], rgba=[0, 0.9, 0.3, 1], **warehouse.shown(True),
        )  # fmt: skip

    def _pose(self, now: mujoco.MjData, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Put what is seen where it now is."""
        data.qpos[:], data.qvel[:] = now.qpos, now.qvel
        data.mocap_pos[:], data.mocap_quat[:] = now.mocap_pos, now.mocap_quat
        mujoco.mj_forward(model, data)

    def _first(self, world: dict[str, Any]) -> tuple[mujoco.MjModel, tuple[float, float], int]:
        """A model like all that follow, half the largest hall, the most rectangles in it."""
        self._ranges = {**(world.get("ranges") or {}), "robots": (1, 1)}
        return warehouse.build(0, self._ranges, robots_most=1).model(), most_half(), BLOCKS

    def _stand(self, i: int, seed: int) -> tuple[Scene, mujoco.MjModel]:
        """Build layout `seed` in copy `i`: what stands where, and how much room is between."""
        scene = warehouse.build(seed, self._ranges, robots_most=1)
        model = scene.model()
        self._half[i] = model.numeric("hall").data[:2]
        self._routes[i] = model.numeric("routes").data.reshape(-1, CORNERS, 2)[:PEOPLE]
        self._blocks[i] = obstacles(model)
        clear(self._blocks[i], self._half[i], self._room[i])
        return scene, model

    def _lay_out(self, i: int, seed: int) -> tuple[float, float, float]:
        """Build and plan layout `seed` in copy `i`; where the robot starts."""
        scene, model = self._stand(i, seed)
        self._models[i], self.drawn[i], self._scenes[i] = model, scene.drawn, scene
        self._shown.pop(i, None)
        self._count[i] = int(scene.drawn["people"])
        self._walk_speed[i] = scene.drawn["walk_speed"]
        self._robot[i] = model.numeric("wheels").data
        rng = np.random.default_rng([seed, 1])
        start, self._goal[i] = errand(
            rng, self._half[i], self._room[i], self._robot[i, 2] * REACH, self._way[i],
            way_m=self._way_m,
        )  # fmt: skip
        for k in range(PEOPLE):
            for _ in range(30):
                leg = int(rng.integers(1, CORNERS))
                a, b = self._routes[i, k, leg - 1 : leg + 1]
                at = a + rng.random() * (b - a)
                if math.hypot(*(at - start)) > 2.0:
                    break
            self._walkers[i, k] = *at, math.atan2(*(b - a)[::-1])
            self._on_route[i, k] = leg, 1.0, 0.0
        return *start, float(rng.uniform(-math.pi, math.pi))

    def _walk(self, ids: NDArray[np.int64]) -> None:
        robots = warehouse.poses(self._qpos[ids].ravel(), len(ids))
        warehouse.walk_all(
            ids,
            self._count,
            self._walkers,
            robots,
            self._routes,
            self._on_route,
            self._walk_speed,
            self._robot[:, 2] * REACH,
            self.step_s,
        )

    def _place_walkers(self, ids: NDArray[np.int64]) -> None:
        here = np.arange(PEOPLE) < self._count[ids, None]
        self._mocap[ids, :, :2] = np.where(here[..., None], self._walkers[ids, :, :2], 0.0)
        self._mocap[ids, :, 2] = np.where(here, 0.0, PARKED_Z)
        self._quat[ids, :, 0] = np.cos(self._walkers[ids, :, 2] / 2)
        self._quat[ids, :, 3] = np.sin(self._walkers[ids, :, 2] / 2)

    def _observe(self, ids: NDArray[np.int64]) -> None:
        robots = warehouse.poses(self._qpos[ids].ravel(), len(ids))
        observe(
            ids,
            robots,
            self._qvel[ids],
            np.ascontiguousarray(self._robot[:, 2]),
            self._goal,
            self._half,
            self._blocks,
            self._walkers,
            self._count,
            self._room,
            self._way,
            self._left,
            self._observation,
        )


def errand(
    rng: np.random.Generator,
    half: Floats,
    room: NDArray[np.float32],
    reach: float,
    way: NDArray[np.float32],
    starts: Sequence[Floats] = (),
    goals: Sequence[Floats] = (),
    way_m: tuple[float, float] = WAY_M,
) -> tuple[Floats, Floats]:
    """A start and a goal with room around them and `way_m` of way between; plans into `way`.

    Both keep 2 m from the starts, or the goals, that others have already.
    """
    free = np.argwhere(room > reach + 0.25)
    places = (free + 0.5) * CELL_M - half

    def far_from(others: Sequence[Floats]) -> NDArray[np.bool_]:
        far = np.ones(len(free), bool)
        for other in others:
            far &= np.linalg.norm(places - other, axis=1) > 2
        return far

    goals_free, starts_free = np.flatnonzero(far_from(goals)), far_from(starts)
    for _ in range(TRIES):
        goal = goals_free[rng.integers(len(goals_free))]
        plan(room, reach, free[goal][0], free[goal][1], way)
        costs = way[free[:, 0], free[:, 1]]
        long_enough = (costs > way_m[0]) & (costs <= way_m[1])
        possible = np.flatnonzero(starts_free & long_enough & np.isfinite(costs))
        if len(possible):
            return places[possible[rng.integers(len(possible))]], places[goal]
    raise WorldRefused(
        "there is no errand for a robot here", "the floor's plan",
        f"of {TRIES} goals none has a way of {way_m[0]:.1f} to {way_m[1]:.0f} m to it",
        "move things apart, or close off what belongs to no hall",
    )  # fmt: skip


def most_half() -> tuple[float, float]:
    """Half the length and width of the largest hall, m."""
    most = {name: range_.high for name, range_ in warehouse.PARAMETERS.items()}
    hall = warehouse.lay_out(np.random.default_rng(0), most)
    return hall.half


def obstacles(model: mujoco.MjModel) -> Floats:
    """Rectangles (x, y, half length, half width, yaw) of what a robot may run into, as compiled."""
    found = np.zeros((BLOCKS, 5))
    found[:, :2] = 1e3
    count = 0
    for class_ in ("rack", "pallet"):
        stands = warehouse.bodies(model, class_)
        for body in range(stands.start, stands.stop):
            geom = model.body_geomadr[body]
            if model.geom_conaffinity[geom] == 1:
                w, *_, z = model.body_quat[body]
                found[count, :2] = model.body_pos[body, :2]
                found[count, 2:4] = model.geom_size[geom, :2]
                found[count, 4] = 2 * math.atan2(z, w)
                count += 1
    return found


@njit(cache=True)
def clear(blocks: Floats, half: Floats, room: NDArray[np.float32]) -> None:
    """Distance from each cell's middle to the nearest obstacle or wall, m; -1 outside the hall."""
    for i in range(room.shape[0]):
        for j in range(room.shape[1]):
            x, y = (i + 0.5) * CELL_M - half[0], (j + 0.5) * CELL_M - half[1]
            least = min(half[0] - abs(x), half[1] - abs(y))
            if least > 0:
                for b in range(len(blocks)):
                    dx, dy = x - blocks[b, 0], y - blocks[b, 1]
                    if abs(dx) + abs(dy) > 50:
                        continue
                    c, s = math.cos(blocks[b, 4]), math.sin(blocks[b, 4])
                    ox = max(abs(c * dx + s * dy) - blocks[b, 2], 0.0)
                    oy = max(abs(c * dy - s * dx) - blocks[b, 3], 0.0)
                    least = min(least, math.hypot(ox, oy))
            room[i, j] = max(least, -1.0)


@njit(cache=True)
def plan(
    room: NDArray[np.float32], reach: float, goal_i: int, goal_j: int, way: NDArray[np.float32]
) -> None:
    """Cost of the way from each cell to the goal, m where there is room; inf where none leads.

    A cell nearer to an obstacle than the robot's corners reach may be driven through (a robot
    pushed there must know the way out), at ten times its length.
    """
    way.fill(np.inf)
    way[goal_i, goal_j] = 0.0
    queue = [(0.0, goal_i, goal_j)]
    while len(queue) > 0:
        cost, i, j = heappop(queue)
        if cost > way[i, j] + 1e-6:
            continue
        for di in range(-1, 2):
            for dj in range(-1, 2):
                a, b = i + di, j + dj
                if a < 0 or b < 0 or a >= room.shape[0] or b >= room.shape[1]:
                    continue
                space = room[a, b]
                if (di == 0 and dj == 0) or space < 0.25:
                    continue
                tight = max(reach + 0.6 - space, 0.0) / 0.6
                price = 1.0 + 2.0 * tight * tight + (10.0 if space < reach + 0.05 else 0.0)
                through = cost + CELL_M * math.hypot(di, dj) * price
                if through < way[a, b] - 1e-6:
                    way[a, b] = through
                    heappush(queue, (through, a, b))


@njit(cache=True)
def scan(
    x: float,
    y: float,
    yaw: float,
    half: Floats,
    blocks: Floats,
    people: Floats,
    ranges: NDArray[np.float32],
) -> None:
    """What a lidar at (x, y) measures, m: walls, rectangles and legs; ray 0 looks ahead.

    Into `ranges`, element by element: numba takes seconds to compile what could fail on a shape.
    """
    for ray in range(RAYS):
        angle = yaw + 2 * math.pi * ray / RAYS
        ux, uy = math.cos(angle), math.sin(angle)
        # The hall from inside.
        best = LIDAR_M
        if abs(ux) > 1e-9:
            best = min(best, (math.copysign(half[0], ux) - x) / ux)
        if abs(uy) > 1e-9:
            best = min(best, (math.copysign(half[1], uy) - y) / uy)
        for b in range(len(blocks)):
            dx, dy = blocks[b, 0] - x, blocks[b, 1] - y
            along, aside = dx * ux + dy * uy, dx * uy - dy * ux
            size = blocks[b, 2] + blocks[b, 3]
            if along + size < 0 or along - size > best or abs(aside) > size:
                continue
            c, s = math.cos(blocks[b, 4]), math.sin(blocks[b, 4])
            px, py = -(c * dx + s * dy), s * dx - c * dy
            vx, vy = c * ux + s * uy, c * uy - s * ux
            vx = vx if abs(vx) > 1e-12 else 1e-12
            vy = vy if abs(vy) > 1e-12 else 1e-12
            x1, x2 = (-blocks[b, 2] - px) / vx, (blocks[b, 2] - px) / vx
            y1, y2 = (-blocks[b, 3] - py) / vy, (blocks[b, 3] - py) / vy
            enter, leave = max(min(x1, x2), min(y1, y2)), min(max(x1, x2), max(y1, y2))
            if 0 <= enter <= leave:
                best = min(best, enter)
        for k in range(len(people)):
            dx, dy = people[k, 0] - x, people[k, 1] - y
            along, aside = dx * ux + dy * uy, dx * uy - dy * ux
            if along > 0 and abs(aside) < PERSON_RADIUS:
                best = min(best, along - math.sqrt(PERSON_RADIUS**2 - aside**2))
        ranges[ray] = max(best, 0.0)


@njit(cache=True)
def in_sight(
    x: float,
    y: float,
    to_x: float,
    to_y: float,
    half: Floats,
    room: NDArray[np.float32],
    need: float,
) -> bool:
    """Whether the straight way keeps `need` from all obstacles."""
    far = math.hypot(to_x - x, to_y - y)
    for k in range(1, int(far / 0.1) + 1):
        part = k * 0.1 / far
        i = int((x + part * (to_x - x) + half[0]) / CELL_M)
        j = int((y + part * (to_y - y) + half[1]) / CELL_M)
        if room[i, j] < need:
            return False
    return True


@njit(cache=True)
def ahead(
    x: float, y: float, half: Floats, room: NDArray[np.float32], way: NDArray[np.float32],
    goal: Floats, need: float,
) -> tuple[float, float, float, float, float]:  # fmt: skip
    """Two points of the way, `NEAR_M` ahead and the farthest in sight, and what is left of it."""
    i = min(max(int((x + half[0]) / CELL_M), 0), room.shape[0] - 1)
    j = min(max(int((y + half[1]) / CELL_M), 0), room.shape[1] - 1)
    left = way[i, j]
    near_x, near_y, far_x, far_y = x, y, x, y
    gone = 0.0
    while gone < FAR_M:
        best, to_i, to_j = way[i, j], i, j
        for a in range(max(i - 1, 0), min(i + 2, room.shape[0])):
            for b in range(max(j - 1, 0), min(j + 2, room.shape[1])):
                if way[a, b] < best:
                    best, to_i, to_j = way[a, b], a, b
        if to_i == i and to_j == j:
            break
        gone += CELL_M * math.hypot(to_i - i, to_j - j)
        i, j = to_i, to_j
        point_x, point_y = (i + 0.5) * CELL_M - half[0], (j + 0.5) * CELL_M - half[1]
        if gone <= NEAR_M:
            near_x, near_y = point_x, point_y
        if gone <= NEAR_M or in_sight(x, y, point_x, point_y, half, room, need):
            far_x, far_y = point_x, point_y
    if way[i, j] == 0.0 and gone <= NEAR_M:
        near_x, near_y, far_x, far_y = goal[0], goal[1], goal[0], goal[1]
    return near_x, near_y, far_x, far_y, left


@njit(cache=True)
def observe(
    ids: NDArray[np.int64],
    robots: Floats,
    velocity: Floats,
    length: Floats,
    goal: Floats,
    half: Floats,
    blocks: Floats,
    walkers: Floats,
    count: NDArray[np.int64],
    room: NDArray[np.float32],
    way: NDArray[np.float32],
    left: Floats,
    observation: NDArray[np.float32],
) -> None:
    """Fill the rows `ids` of `observation`, and what is `left` of their ways."""
    points = np.empty((RAYS, 2))
    for row in range(len(ids)):
        i = ids[row]
        x, y, yaw = robots[row, 0], robots[row, 1], robots[row, 2]
        c, s = math.cos(yaw), math.sin(yaw)
        need = length[i] * REACH + 0.15
        near_x, near_y, far_x, far_y, left_now = ahead(
            x, y, half[i], room[i], way[i], goal[i], need
        )
        if math.isfinite(left_now):
            left[i] = left_now
        seen = observation[i]
        seen[0] = c * (near_x - x) + s * (near_y - y)
        seen[1] = c * (near_y - y) - s * (near_x - x)
        seen[2] = c * (far_x - x) + s * (far_y - y)
        seen[3] = c * (far_y - y) - s * (far_x - x)
        dx, dy = goal[i, 0] - x, goal[i, 1] - y
        far = math.hypot(dx, dy)
        seen[4] = far
        seen[5] = (c * dx + s * dy) / max(far, 1e-6)
        seen[6] = (c * dy - s * dx) / max(far, 1e-6)
        seen[7] = c * velocity[row, 0] + s * velocity[row, 1]
        seen[8] = velocity[row, 5]
        seen[9] = length[i]
        k = count[i]
        scan(x, y, yaw, half[i], blocks[i], walkers[i, :k], seen[FIRST_RAY:])
        known = points[: near_points(seen, points)]
        for k in range(WAYS):
            seen[FIRST_WAY + k] = freedom(
                known,
                (k - WAYS // 2) * math.radians(15),
                length[i] / 2,
                length[i] * warehouse.WIDTH_OF_LENGTH / 2 + 0.1,
            )


@njit(cache=True)
def advise(observation: NDArray[np.float32]) -> NDArray[np.float32]:
    """The expert, (n, 2). It weighs headings smoothly, so that its actions can be learned."""
    action = np.zeros((len(observation), 2), np.float32)
    points = np.empty((RAYS, 2))
    for i in range(len(observation)):
        seen = observation[i]
        known = points[: near_points(seen, points)]
        half_length, half_width = seen[9] / 2, seen[9] * warehouse.WIDTH_OF_LENGTH / 2
        target = math.atan2(seen[3], seen[2])
        want = min(math.hypot(seen[2], seen[3]), 1.6)
        # Headings within 100 degrees of the one wanted, every 5 degrees.
        total, mean = 0.0, 0.0
        for k in range(-20, 21):
            free = freedom(known, target + k * STEP_RAD, half_length, half_width + 0.15)
            weight = math.exp(-abs(k) * 0.35 - 8.0 * max(want - free, 0.0))
            total += weight
            mean += weight * k * STEP_RAD
        heading = (target + mean / total + math.pi) % (2 * math.pi) - math.pi
        # Free ahead, and where the turn will lead.
        lead = min(max(heading, -0.5), 0.5)
        free = min(
            freedom(known, 0.0, half_length, half_width + 0.1),
            freedom(known, lead, half_length, half_width + 0.1),
        )
        # Who comes from the side may step in front.
        beside = min(
            freedom(known, -SIDE_RAD, half_length, half_width + 0.1),
            freedom(known, SIDE_RAD, half_length, half_width + 0.1),
        )
        if abs(heading) < 1.2:
            free = min(free - 0.25, beside + 0.3)
            action[i, 0] = math.cos(heading) ** 2 * min(max(free, 0.0), 1.0)
        action[i, 1] = min(max(2.0 * heading / TURN, -1.0), 1.0)
    return action


@njit(cache=True)
def near_points(seen: NDArray[np.float32], points: Floats) -> int:
    """What the lidar hit within 4 m, in the robot's frame, into `points`; how many."""
    count = 0
    for ray in range(RAYS):
        far = seen[FIRST_RAY + ray]
        if far < 4.0:
            points[count, 0] = far * RAY_COS[ray]
            points[count, 1] = far * RAY_SIN[ray]
            count += 1
    return count


@njit(cache=True)
def freedom(points: Floats, heading: float, half_length: float, half_width: float) -> float:
    """How far the robot could go that way before its corridor meets one of the points, m."""
    free = 3.0
    c, s = math.cos(heading), math.sin(heading)
    for k in range(len(points)):
        along = c * points[k, 0] + s * points[k, 1]
        if 0 < along < free + half_length:
            aside = c * points[k, 1] - s * points[k, 0]
            if -half_width < aside < half_width:
                free = along - half_length
    return max(free, 0.0)
