"""A robot finds its way in a world of one's own: `navigate`, on the floor of a user's file.

Robot, people, lidar, planner, expert and what is observed are the warehouse's. The place is the
file's floor plan (`floor_plan`): what the planner and the lidar know is what the robot can touch,
and it stands still. So nothing of the file is simulated but a moment of rest before the first
layout; it is drawn whole. A layout draws the robot, the people and their ways, start and goal, and
how free bodies stand (moved a little, as in `imported`); the place itself is always the same.

Tasks are in the plan's frame, whose origin is the middle of the floor. Lengths m, angles rad.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from gigafactory.jobs.worlds import floor_plan, imported, warehouse
from gigafactory.jobs.worlds.floor_plan import BAND_M, FloorPlan
from gigafactory.jobs.worlds.navigate import CELL_M, WAY_M, Navigate, clear, in_sight
from gigafactory.jobs.worlds.scene import Scene, WorldRefused, draw, element, within
from gigafactory.jobs.worlds.warehouse import CORNERS, PEOPLE, REACH

DRAWN = ("people", "walk_speed", "robot_length", "robot_mass", "wheel_radius", "floor_friction",
         "vest_hue", "robot_hue")  # fmt: skip
PARAMETERS = {name: warehouse.PARAMETERS[name] for name in DRAWN} | {
    name: imported.PARAMETERS[name] for name in ("shift", "turn")
}
WAY_MOST_M = 30.0  # of an errand: a robot has a minute for it
PERSON_M2 = 25.0  # of free floor to a person at the most, as in the warehouse
PERSON_ROOM_M, BEND = 0.45, 0.9
GUEST = "gigafactory/"
"""What the names of robot and people begin with, where they are drawn in the user's world."""
TALL = BAND_M[1] / 2
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A user's world at rest, and its floor plan."""

    scene: Scene
    model: mujoco.MjModel
    data: mujoco.MjData
    qpos: Floats
    plan: FloorPlan
    room: NDArray[np.float32]
    """Where the largest robot can drive, wherever free bodies stand."""
    way_m: tuple[float, float]

    @property
    def free_m2(self) -> float:
        """Floor on which the largest robot can stand and turn."""
        return float((self.room > 0).sum()) * CELL_M**2

    def moved(self, rng: np.random.Generator, shift: float, turn: float) -> Floats:
        """Positions of all, free bodies moved by so much at most."""
        qpos = self.qpos.copy()
        imported.move(self.model, qpos, rng, shift, turn)
        return qpos

    def loose(self, qpos: Floats) -> Floats:
        """Rectangles of what free bodies take of the floor."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        return floor_plan.rectangles(self.model, self.data, self.plan)

    @cached_property
    def camera(self) -> tuple[Floats, Floats]:
        """Place and attitude, in the file's frame, of a camera that sees much of the floor.

        From above where no roof is, else from a corner.
        """
        middle, half = np.array(self.plan.middle), np.array(self.plan.half)
        cells = np.argwhere(self.room > 0)
        some = cells[:: max(1, len(cells) // 150)]
        points = np.column_stack([(some + 0.5) * CELL_M - half, np.full(len(some), 0.15)]) + middle
        back = 1.9 * max(half[1], 0.75 * half[0]) + 1.0
        places = [middle + back * np.array([0.0, -math.cos(t), math.sin(t)]) for t in (1.0, 1.3)]
        for x in (points[:, 0].min(), points[:, 0].max()):
            for y in (points[:, 1].min(), points[:, 1].max()):
                places += [np.array([x, y, middle[2] + tall]) for tall in (2.2, 3.5, 5.0)]
        self.loose(self.qpos)
        groups, geom = np.array([1, 1, 1, 0, 0, 0], np.uint8), np.zeros(1, np.int32)

        def seen(at: Floats) -> int:
            way = middle - at
            way /= np.linalg.norm(way)
            count = 0
            for point in points:
                far = float(np.linalg.norm(point - at))
                to = (point - at) / far
                if to @ way > math.cos(math.radians(27)):
                    hit = mujoco.mj_ray(self.model, self.data, at, to, groups, 1, -1, geom)
                    count += hit < 0 or hit > far - 0.05
            return count

        at = max(places, key=seen)
        yaw, flat = math.atan2(*(middle - at)[1::-1]), math.hypot(*(middle - at)[:2])
        return at, warehouse.looking(yaw, math.atan2(at[2] - middle[2], flat))


def place(world: dict[str, Any]) -> Place:
    """The place that a world's file holds; refused where no robot can drive."""
    ranges = within(PARAMETERS, world.get("ranges") or {}, f"worlds.{world.get('name')}.ranges")
    path = Path(world["file"])
    imported.known(path)
    state = path.stat()
    most = tuple(ranges[name].high for name in ("robot_length", "shift", "turn"))
    return _place(str(path.resolve()), state.st_mtime_ns, state.st_size, *most)


@lru_cache(maxsize=8)
def _place(
    path: str, changed_ns: int, size: int, longest: float, shift: float, turn: float
) -> Place:
    scene = imported.look(path, still=True).scene
    model = scene.model()
    data = mujoco.MjData(model)
    imported.settle(model, data, np.random.default_rng(0), 0.0, 0.0)
    mujoco.mj_kinematics(model, data)
    reach = longest * REACH
    plan = floor_plan.read(model, data, reach, Path(path).name, shift, turn)
    room = plan.room.copy()
    clear(floor_plan.rectangles(model, data, plan, shift, turn), np.array(plan.half), room)
    room = floor_plan.drivable(np.minimum(room, plan.room), reach)
    # Whoever stands anywhere has one of the two farthest places at half their distance at least.
    across = float(np.ptp(floor_plan.errands(room, reach), axis=0).max())
    way_m = min(WAY_M[0], 0.45 * across), WAY_MOST_M
    return Place(scene, model, data, data.qpos.copy(), plan, room, way_m)


def told(world: dict[str, Any]) -> str:
    """Whether a robot can drive in a world, in a sentence."""
    try:
        here = place(world)
    except WorldRefused as refused:
        return f"no robot can drive here: {refused.why}"
    z = here.plan.middle[2]
    return f"a robot can drive here: {here.free_m2:,.0f} m2 of free floor at z = {z:.3g} m"


class Own(Navigate):
    """`n` copies of a user's world with one robot each."""

    def _first(self, world: dict[str, Any]) -> tuple[mujoco.MjModel, tuple[float, float], int]:
        self._ranges = world.get("ranges") or {}
        self._place = place(world)
        self._way_m = self._place.way_m
        self._stands = [self._place.qpos] * self.n
        plan = self._place.plan
        drawn = draw(np.random.default_rng(0), PARAMETERS, self._ranges)
        blocks = np.concatenate([plan.blocks, self._place.loose(self._place.qpos)])
        ways = np.zeros((PEOPLE, CORNERS, 2))
        first = mujoco.MjModel.from_xml_string(simulated(plan, blocks, ways, drawn))
        return first, plan.half, len(blocks)

    def _stand(self, i: int, seed: int) -> tuple[Scene, mujoco.MjModel]:
        here, plan = self._place, self._place.plan
        rng = np.random.default_rng(seed)
        drawn = draw(rng, PARAMETERS, self._ranges)
        drawn["people"] = float(min(drawn["people"], here.free_m2 // PERSON_M2))
        self._stands[i] = here.moved(rng, drawn["shift"], drawn["turn"])
        loose = here.loose(self._stands[i])
        self._half[i] = plan.half
        self._blocks[i] = np.concatenate([plan.blocks, loose])
        room = self._room[i]
        clear(loose, self._half[i], room)
        room[:] = floor_plan.drivable(np.minimum(room, plan.room), drawn["robot_length"] * REACH)
        self._routes[i] = ways_of_people(rng, self._half[i], room)
        mjcf = simulated(plan, self._blocks[i], self._routes[i], drawn)
        scene = Scene("import", seed, mjcf, drawn, ())
        return scene, scene.model()

    def _drawn_whole(self, i: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """The user's world with the robot, the people and the goal of copy `i` in it."""
        here, plan = self._place, self._place.plan
        guests = mujoco.MjSpec.from_string(
            element("mujoco", *everyone(self._routes[i], self.drawn[i]))
        )
        self._show_goal(i, guests)
        spec = mujoco.MjSpec.from_string(here.scene.mjcf, assets=here.scene.assets)
        for key in list(spec.keys):
            spec.delete(key)  # It would lack the guests.
        spec.attach(guests, prefix=GUEST, frame=spec.worldbody.add_frame(pos=plan.middle))
        model = spec.compile()
        if here.model.nnumeric and here.model.numeric(0).name == imported.ORBIT:
            camera = model.camera("camera/0").id
            model.cam_pos[camera], model.cam_quat[camera] = here.camera
        data = mujoco.MjData(model)
        data.qpos[: here.model.nq] = self._stands[i]
        return model, data

    def _pose(self, now: mujoco.MjData, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        middle = np.array(self._place.plan.middle)
        at = model.joint(f"{GUEST}robot/0/free").qposadr[0]
        data.qpos[at : at + now.qpos.size] = now.qpos
        data.qpos[at : at + 3] += middle
        for person in range(PEOPLE):
            mocap = model.body(f"{GUEST}person/{person}").mocapid[0]
            data.mocap_pos[mocap] = now.mocap_pos[person] + middle
            data.mocap_quat[mocap] = now.mocap_quat[person]
        mujoco.mj_fwdPosition(model, data)


def simulated(plan: FloorPlan, blocks: Floats, ways: Floats, drawn: dict[str, float]) -> str:
    """What is simulated, as MJCF: the floor, its rectangles, robot and people; nothing is drawn."""
    obstacles = [
        element(
            "geom", type="box", pos=(x, y, TALL), size=(hx, hy, TALL), quat=warehouse.turned(yaw),
            **warehouse.solid(True),
        )
        for x, y, hx, hy, yaw in blocks.tolist()
    ]  # fmt: skip
    floor = warehouse.walled_floor(plan.half, drawn["floor_friction"], 0.5)
    option = {"timestep": warehouse.TIMESTEP, "integrator": "implicitfast", "iterations": 20}
    wheels = [drawn["wheel_radius"], warehouse.track(drawn), drawn["robot_length"]]
    return element(
        "mujoco",
        element("option", **option),
        element("custom", element("numeric", name="wheels", data=wheels)),
        element("worldbody", *floor, *obstacles),
        *everyone(ways, drawn),
    )


def everyone(ways: Floats, drawn: dict[str, float]) -> tuple[str, ...]:
    """One robot and all people, those who are not there below the floor; motors and touch."""
    people = [warehouse.person(k, ways[k], k < drawn["people"], drawn) for k in range(PEOPLE)]
    robot = warehouse.robot(0, np.zeros((CORNERS, 2)), True, drawn)
    return (
        element("compiler", angle="radian", autolimits=True),
        element("worldbody", *people, robot),
        *warehouse.motors_and_touch(1, drawn),
    )


def ways_of_people(rng: np.random.Generator, half: Floats, room: NDArray[np.float32]) -> Floats:
    """Ways (PEOPLE, CORNERS, 2) over free floor, to and fro, each corner in sight of the last.

    They are long and bend: whoever finds a robot in the way can then turn back and be out of it.
    """
    free = (np.argwhere(room > PERSON_ROOM_M) + 0.5) * CELL_M - half
    ways = np.empty((PEOPLE, CORNERS, 2))
    for way in ways:
        way[0] = last = here = free[rng.integers(len(free))]
        for corner in range(1, CORNERS):
            best = 0.0
            for x, y in free[rng.integers(len(free), size=40)]:
                to, back = np.array([x, y]) - here, last - here
                far, behind = math.hypot(*to), math.hypot(*back)
                worth = far - BEND * float(to @ back) / max(behind, 1e-6)
                if worth > best and in_sight(here[0], here[1], x, y, half, room, PERSON_ROOM_M):
                    best, way[corner] = worth, (x, y)
            if not best:
                way[corner] = here
            last, here = here, way[corner]
    return ways
