"""A warehouse: racks with aisles, pallets, boxes, people who walk, robots on two driven wheels.

Rack rows run along x, a dock zone lies at low y. Goods, racks and walls are static; people are
mocap bodies that walk to and fro on their route; a robot is a free body with two driven wheels
and two frictionless casters. Geoms: an obstacle has conaffinity 1, a robot's chassis contype 1,
its wheels and casters touch the floor alone (contype 2). So whatever touches a chassis is a
collision, and a sensor `robot/N/touched` counts it.

The routes stand in the model (`<numeric name="routes">`), where everyone is on them in
`data.userdata`: a simulation's state is whole without anything of ours.
"""

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numba import njit
from numpy.typing import NDArray

from gigafactory.jobs.worlds.scene import (
    PARKED,
    PARKED_SOLID,
    PARKED_Z,
    Range,
    Scene,
    draw,
    element,
    within,
)

CLASSES = ("rack", "pallet", "box", "person", "robot")
PARAMETERS = {
    "rack_rows": Range(2, 3, whole=True),
    "rack_columns": Range(2, 4, whole=True),
    "rack_height": Range(1.6, 2.8, "m"),
    "aisle": Range(2.4, 3.2, "m"),
    "dock_depth": Range(3.0, 4.5, "m"),
    "pallets": Range(2, 8, whole=True),
    "boxes": Range(12, 48, whole=True),
    "box_size": Range(0.3, 0.5, "m"),
    "people": Range(0, 5, whole=True),
    "walk_speed": Range(0.5, 1.2, "m/s"),
    "robots": Range(1, 4, whole=True),
    "robot_length": Range(0.6, 0.85, "m"),
    "robot_mass": Range(35.0, 90.0, "kg"),
    "wheel_radius": Range(0.08, 0.11, "m"),
    "floor_friction": Range(0.6, 1.0),
    "light": Range(0.35, 0.8),
    "ambient": Range(0.2, 0.45),
    "light_tilt": Range(-0.5, 0.5, "rad"),
    "warmth": Range(-0.12, 0.12),
    "floor_shade": Range(0.3, 0.65),
    "rack_hue": Range(0.0, 1.0),
    "box_shade": Range(0.6, 1.2),
    "vest_hue": Range(0.0, 1.0),
    "robot_hue": Range(0.0, 1.0),
    "camera_height": Range(3.2, 5.0, "m"),
    "camera_pitch": Range(-0.12, 0.12, "rad"),
    "camera_fov": Range(1.0, 1.45, "rad"),
}
LOOKS = tuple(PARAMETERS)[list(PARAMETERS).index("light") :]
"""What concerns the picture alone; nominal where nothing is to be randomised."""

RACK_LENGTH, RACK_DEPTH, RACK_FOOT = 2.7, 1.0, 0.2
PALLET = (1.2, 0.8, 0.144)  # EUR 1, m
CROSS = 2.4  # the aisle across, at the rows' ends
WALL_HEIGHT = 5.5
RACKS = 12
PALLETS, BOXES, PEOPLE = (int(PARAMETERS[pool].high) for pool in ("pallets", "boxes", "people"))
CAMERAS = 4
CORNERS = 6  # of a route
CARTON = np.array([0.72, 0.55, 0.36])
NOWHERE = np.zeros((0, 2))
REACH = 0.61  # from a robot's middle to its corner, of its length
PERSON_RADIUS = 0.17
WIDTH_OF_LENGTH = 0.7  # of a robot
SPEED, TURN = 1.0, 1.5  # a robot's fastest, m/s and rad/s
ACCELERATION = 1.5  # that a robot's motors can give, m/s2
TIMESTEP = 0.01
PATIENCE_S = 2.0  # then who is in the way is left alone, and one turns back
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """What stands where. A rectangle is x, y, half length, half width, yaw."""

    half: tuple[float, float]
    racks: Floats
    pallets: Floats
    boxes: Floats
    """x, y, z, three half sizes, yaw"""


def build(
    seed: int,
    ranges: dict[str, tuple[float, float]] | None = None,
    randomise: bool = True,
    robots_most: int = 4,
) -> Scene:
    """A hall. `robots_most` is the size of the pool of robots, each of which costs time."""
    rng = np.random.default_rng(seed)
    drawn = draw(rng, PARAMETERS, ranges, () if randomise else LOOKS)
    drawn["robots"] = min(drawn["robots"], robots_most)
    hall = lay_out(rng, drawn)
    blocks = np.concatenate([hall.racks, hall.pallets])
    widest = drawn["robot_length"] * REACH + 0.15
    people = routes(rng, hall.half, blocks, PEOPLE, 0.45)
    robots = routes(rng, hall.half, blocks, robots_most, widest, people[:, 0])
    parts = [
        surroundings(hall, drawn),
        *(rack(i, hall.racks, drawn) for i in range(RACKS)),
        *(pallet(i, hall.pallets) for i in range(PALLETS)),
        *(box(i, hall.boxes, rng, drawn) for i in range(BOXES)),
        *(person(i, people[i], i < drawn["people"], drawn) for i in range(len(people))),
        *(robot(i, robots[i], i < drawn["robots"], drawn) for i in range(robots_most)),
    ]
    everyone = np.concatenate([people, robots])
    looks = within(PARAMETERS, ranges or {})
    numbers = {
        "routes": everyone.ravel(),
        "hall": [*hall.half, drawn["people"], drawn["robots"], drawn["walk_speed"]],
        "wheels": [drawn["wheel_radius"], track(drawn), drawn["robot_length"]],
        "looks": [end for name in LOOKS for end in (looks[name].low, looks[name].high)],
        "boxes": np.concatenate(
            [hall.boxes[:, :2], np.zeros((BOXES - len(hall.boxes), 2))]
        ).ravel(),
    }
    mjcf = element(
        "mujoco",
        "\n",
        element("option", timestep=TIMESTEP, integrator="implicitfast", iterations=20),
        element("size", nuserdata=3 * len(everyone)),
        element("compiler", angle="radian", autolimits=True),
        element(
            "visual",
            element(
                "headlight", ambient=(drawn["ambient"],) * 3, diffuse=(0, 0, 0), specular=(0,) * 3
            ),
            element("map", znear=0.01, zfar=6.0),
            element("quality", shadowsize=0, offsamples=0),
            element("global", offwidth=1280, offheight=960),
        ),
        element("statistic", extent=10.0, center=(0, 0, 1)),
        element(
            "custom",
            *(element("numeric", name=name, data=values) for name, values in numbers.items()),
        ),
        element("worldbody", "\n", *parts),
        *motors_and_touch(robots_most, drawn),
        model="warehouse",
    )
    return Scene("warehouse", seed, mjcf, drawn, CLASSES)


def motors_and_touch(robots: int, drawn: dict[str, float]) -> tuple[str, str]:
    """The actuators and the sensors of so many robots."""
    radius, mass = drawn["wheel_radius"], drawn["robot_mass"]
    wheels = [f"robot/{i}/{side}" for i in range(robots) for side in ("left", "right")]
    most = mass * radius / 2 * ACCELERATION
    motors = [
        element(
            "velocity",
            name=wheel,
            joint=wheel,
            kv=mass * radius**2 / 2 / 0.08,
            ctrlrange=(-20, 20),
            forcerange=(-most, most),
        )
        for wheel in wheels
    ]
    touches = [
        element(
            "contact",
            name=f"robot/{i}/touched",
            geom1=f"robot/{i}/chassis",
            data="found",
            num=1,
        )
        for i in range(robots)
    ]
    return element("actuator", "\n", *motors), element("sensor", "\n", *touches)


def track(drawn: dict[str, float]) -> float:
    """Between the wheels of a robot, m."""
    return drawn["robot_length"] * WIDTH_OF_LENGTH - 0.08


def lay_out(rng: np.random.Generator, drawn: dict[str, float]) -> Layout:
    """Where racks, pallets and boxes stand, so that every aisle stays open."""
    rows, columns, aisle = int(drawn["rack_rows"]), int(drawn["rack_columns"]), drawn["aisle"]
    middle = CROSS if columns > 2 else 0.0  # a cross aisle through long rows
    half_x = (columns * RACK_LENGTH + middle) / 2 + CROSS
    half_y = (rows * (RACK_DEPTH + aisle) + aisle + drawn["dock_depth"]) / 2
    racks = []
    for row in range(rows):
        y = -half_y + drawn["dock_depth"] + aisle + RACK_DEPTH / 2 + row * (RACK_DEPTH + aisle)
        for column in range(columns):
            x = -half_x + CROSS + (column + 0.5) * RACK_LENGTH
            x += middle if column >= (columns + 1) // 2 else 0.0
            if rng.random() < 0.9:
                racks.append((x, y, RACK_LENGTH / 2, RACK_DEPTH / 2, 0.0))

    # Pallets stand in the dock zone or with their long side against a rack's low-y side,
    # a place for one in each: what is left of an aisle is then 1.5 m at least.
    places = [(x, y - RACK_DEPTH / 2 - 0.46, 0.03) for x, y, *_ in racks]
    at_dock = np.arange(-half_x + CROSS, half_x - CROSS + 0.01, 2.6)
    places += [(x, -half_y + 1.6, 0.25) for x in at_dock]
    chosen = rng.permutation(len(places))[: int(drawn["pallets"])]
    pallets = []
    for place in chosen:
        x, y, loose = places[place]
        yaw = rng.uniform(-loose, loose)
        pallets.append((x + rng.uniform(-0.3, 0.3), y, PALLET[0] / 2, PALLET[1] / 2, yaw))

    # Boxes: stacks on pallets, two by two or three at most, and singles on shelves.
    slots = []
    largest = drawn["box_size"]
    for x, y, hx, hy, yaw in pallets:
        across, along = int(2 * hy / largest), int(2 * hx / largest)
        for i in range(along * across):
            at = (
                ((i % along + 0.5) / along * 2 - 1) * hx,
                ((i // along + 0.5) / across * 2 - 1) * hy,
            )
            c, s = math.cos(yaw), math.sin(yaw)
            stack = int(rng.integers(0, 4))
            base = (x + c * at[0] - s * at[1], y + s * at[0] + c * at[1], PALLET[2], yaw)
            slots.append((base, stack))
    for x, y, hx, *_ in racks:
        for level in shelf_tops(drawn["rack_height"])[:-1]:
            for i in range(5):
                at_x = x + ((i + 0.5) / 5 * 2 - 1) * (hx - 0.1)
                slots.append(((at_x, y + rng.uniform(-0.2, 0.2), level, 0.0), 1))
    boxes: list[tuple[float, ...]] = []
    for slot in rng.permutation(len(slots)):
        (x, y, z, yaw), stack = slots[slot]
        for _ in range(stack):
            size = largest * rng.uniform(0.55, 0.84, 3) / 2
            if len(boxes) < drawn["boxes"]:
                boxes.append((x, y, z + size[2], *size, yaw + rng.uniform(-0.12, 0.12)))
            z += 2 * size[2]
    return Layout(
        (half_x, half_y),
        np.array(racks).reshape(-1, 5),
        np.array(pallets).reshape(-1, 5),
        np.array(boxes).reshape(-1, 7),
    )


def shelf_tops(height: float) -> tuple[float, float, float]:
    """Upper faces of a rack's foot and of its two shelves."""
    return RACK_FOOT, (RACK_FOOT + height) / 2, height


def routes(
    rng: np.random.Generator,
    half: tuple[float, float],
    blocks: Floats,
    count: int,
    room: float,
    taken: Floats = NOWHERE,
) -> Floats:
    """Polylines of `CORNERS` points, (count, CORNERS, 2), that keep `room` from everything.

    Their first points keep apart from one another, and from those `taken`.
    """
    c, s = np.abs(np.cos(blocks[:, 4])), np.abs(np.sin(blocks[:, 4]))
    reach = np.stack([c * blocks[:, 2] + s * blocks[:, 3], s * blocks[:, 2] + c * blocks[:, 3]], 1)
    low, high = blocks[:, :2] - reach - room, blocks[:, :2] + reach + room
    limit = np.array(half) - room
    found = np.empty((count, CORNERS, 2))
    points = rng.uniform(-limit, limit, (300, 2))
    inside = np.all((points[:, None] > low) & (points[:, None] < high), axis=2)
    points = points[~np.any(inside, axis=1)]
    for route in found:
        free = points[rng.permutation(len(points))[:90]]
        apart = np.linalg.norm(free[:, None] - taken, axis=2).min(1, initial=9.0)
        route[0] = free[np.argmax(apart > 1.2)]
        taken = np.concatenate([taken, route[:1]])
        # Every corner is the farthest of a few points in sight, so that routes are long.
        for i in range(1, CORNERS):
            some = free[i::CORNERS]
            seen = some[~crosses(route[i - 1], some, low, high)]
            away = np.linalg.norm(seen - route[i - 1], axis=1)
            route[i] = seen[np.argsort(away)[-1 - i % 3 :][0]] if len(seen) else route[i - 1]
    return found


def crosses(start: Floats, ends: Floats, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Whether the straight way from `start` to each of `ends` meets any rectangle."""
    way = ends - start
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)[:, None]
    first, second = (low - start) / way, (high - start) / way
    enter = np.minimum(first, second).max(2)
    leave = np.maximum(first, second).min(2)
    return ((enter < leave) & (leave > 0) & (enter < 1)).any(1)


# Moments, and what happens between them.


def moment(
    model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, randomise: bool = True
) -> dict[str, float]:
    """Everyone somewhere on the way, cartons nudged; new light, colours and cameras too."""
    half_x, half_y, people, robots, _ = model.numeric("hall").data
    radius = model.numeric("wheels").data[0]
    mujoco.mj_resetData(model, data)
    ways = model.numeric("routes").data.reshape(-1, CORNERS, 2)
    state = data.userdata.reshape(-1, 3)
    taken: list[Floats] = []
    for i in [*range(int(people)), *range(PEOPLE, PEOPLE + int(robots))]:
        # The place that is farthest from everyone else, of a few.
        apart = -1.0
        for _ in range(30):
            some = int(rng.integers(1, CORNERS))
            place = ways[i, some - 1] + rng.random() * (ways[i, some] - ways[i, some - 1])
            nearest = min((math.hypot(*(place - other)) for other in taken), default=9.0)
            if nearest > apart:
                apart, leg, at = nearest, some, place
            if apart > 1.2:
                break
        taken.append(at)
        start, end = ways[i, leg - 1], ways[i, leg]
        onward = int(rng.integers(2)) * 2 - 1
        state[i] = (leg if onward > 0 else leg - 1), onward, 0.0
        ahead = (end - start) * onward
        yaw = math.atan2(ahead[1], ahead[0])
        if i < PEOPLE:
            data.mocap_pos[i] = *at, 0.0
            data.mocap_quat[i] = turned(yaw)
        else:
            pose = data.qpos[9 * (i - PEOPLE) :]
            pose[:7] = *at, radius, *turned(yaw + rng.uniform(-0.3, 0.3))
            pose[7:9] = rng.uniform(-3, 3, 2)
    homes = model.numeric("boxes").data.reshape(BOXES, 2)
    model.body_pos[bodies(model, "box"), :2] = homes + rng.uniform(-0.01, 0.01, homes.shape)
    drawn = relook(model, rng, (half_x, half_y)) if randomise else {}
    mujoco.mj_forward(model, data)
    return drawn


def relook(
    model: mujoco.MjModel, rng: np.random.Generator, half: tuple[float, float]
) -> dict[str, float]:
    """Draw light, colours and cameras again, each within what the user asked for."""
    low, high = model.numeric("looks").data.reshape(-1, 2).T
    drawn = dict(zip(LOOKS, (low + rng.random(len(low)) * (high - low)).tolist(), strict=True))
    model.vis.headlight.ambient[:] = drawn["ambient"]
    model.light_diffuse[:] = light_colour(drawn)
    model.light_dir[:, 0] = drawn["light_tilt"] + np.array([-0.3, 0.3])
    # As mj_compile does.
    model.light_dir[:] /= np.linalg.norm(model.light_dir, axis=1, keepdims=True)
    for camera in range(CAMERAS):
        at, quat = corner(camera, half, drawn["camera_height"], drawn["camera_pitch"])
        model.cam_pos[camera], model.cam_quat[camera] = at, quat
    model.cam_pos[:CAMERAS, :2] += rng.uniform(-0.2, 0.2, (CAMERAS, 2))
    model.cam_fovy[:CAMERAS] = math.degrees(drawn["camera_fov"])
    paint = model.geom_rgba
    paint[model.geom("floor").id, :3] = drawn["floor_shade"]
    first, count = model.body_geomadr, model.body_geomnum
    for body in range(*bodies(model, "rack").indices(model.nbody)):
        paint[first[body] + 3 : first[body] + count[body]] = hue(drawn["rack_hue"])
    cartons = first[bodies(model, "box")]
    # Each carton, vest and robot has a colour of its own about the one drawn.
    shades = drawn["box_shade"] * rng.uniform(0.85, 1.15, (BOXES, 1))
    paint[cartons, :3] = np.clip(CARTON * shades, 0, 1)
    for body in range(*bodies(model, "person").indices(model.nbody)):
        paint[first[body] + 1 : first[body] + 4] = hue(drawn["vest_hue"] + rng.uniform(-0.1, 0.1))
    for body in range(*bodies(model, "robot").indices(model.nbody))[::3]:
        paint[first[body]] = hue(drawn["robot_hue"] + rng.uniform(-0.1, 0.1), 0.7)
    return drawn


def advance(
    model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, seconds: float
) -> None:
    """People walk and robots drive along their routes; nothing is drawn from `rng`."""
    del rng
    _, _, people, robots, speed = model.numeric("hall").data
    radius, between, length = model.numeric("wheels").data
    n, m, reach = int(people), int(robots), length * REACH
    ways = model.numeric("routes").data.reshape(-1, CORNERS, 2)
    state = data.userdata.reshape(-1, 3)
    end = data.time + seconds - model.opt.timestep / 2
    tick = 0
    while data.time < end:
        # Those who walk and steer do so every 5th of the steps.
        if tick % 5 == 0:
            dt = 5 * model.opt.timestep
            drivers = poses(data.qpos, m)
            walkers = np.empty((n, 3))
            walkers[:, :2] = data.mocap_pos[:n, :2]
            walkers[:, 2] = 2 * np.arctan2(data.mocap_quat[:n, 3], data.mocap_quat[:n, 0])
            walk(walkers, drivers, ways, state, speed, reach, dt)
            data.mocap_pos[:n, :2] = walkers[:, :2]
            data.mocap_quat[:n, 0] = np.cos(walkers[:, 2] / 2)
            data.mocap_quat[:n, 3] = np.sin(walkers[:, 2] / 2)
            for i in range(m):
                others = np.concatenate([walkers, drivers[:i], drivers[i + 1 :]])
                asked = cruise(drivers[i], others, ways[PEOPLE + i], state[PEOPLE + i], dt)
                data.ctrl[2 * i : 2 * i + 2] = wheel_speeds(*asked, radius, between)
        mujoco.mj_step(model, data)
        tick += 1
    mujoco.mj_forward(model, data)


def poses(qpos: Floats, robots: int) -> Floats:
    """x, y and yaw of each robot, (robots, 3)."""
    body = qpos.reshape(-1, 9)[:robots]
    w, x, y, z = body[:, 3:7].T
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return np.stack([body[:, 0], body[:, 1], yaw], axis=1)


def wheel_speeds(speed: Any, turn: Any, radius: Any, between: Any) -> tuple[Any, Any]:
    """Of the left and the right wheel, rad/s, for m/s and rad/s, or arrays of them."""
    return (speed - turn * between / 2) / radius, (speed + turn * between / 2) / radius


@njit(cache=True)
def walk(
    walkers: Floats,
    drivers: Floats,
    ways: Floats,
    state: Floats,
    speed: float,
    reach: float,
    dt: float,
) -> None:
    """Move each walker (x, y, yaw) `dt` seconds along its way, in place.

    Who finds somebody in front waits, and turns back when patience ends: people do not walk into
    robots, robots may drive into people. `state` is a row (next corner, +1 or -1, waited s) each.
    """
    for i in range(len(walkers)):
        x, y, yaw = walkers[i, 0], walkers[i, 1], walkers[i, 2]
        corner = int(state[i, 0])
        dx, dy = ways[i, corner, 0] - x, ways[i, corner, 1] - y
        far = math.hypot(dx, dy)
        if far <= speed * dt:
            if not 0 <= corner + state[i, 1] < CORNERS:
                state[i, 1] = -state[i, 1]
            state[i, 0] += state[i, 1]
            continue
        dx, dy = dx / far, dy / far
        blocked = False
        for j in range(len(walkers) + len(drivers)):
            if j == i:
                continue
            if j < len(walkers):
                ex, ey, width = walkers[j, 0] - x, walkers[j, 1] - y, PERSON_RADIUS
            else:
                other = drivers[j - len(walkers)]
                ex, ey, width = other[0] - x, other[1] - y, reach
            width += PERSON_RADIUS + 0.2
            # In front, near, and not to be passed with 0.2 m between.
            if (
                ex * dx + ey * dy > 0
                and math.hypot(ex, ey) < width + 0.2
                and abs(ex * dy - ey * dx) < width
            ):
                blocked = True
        if blocked:
            state[i, 2] += dt
            if state[i, 2] > PATIENCE_S:
                state[i, 2] = 0.0
                state[i, 1] = -state[i, 1]
                state[i, 0] = min(max(corner + state[i, 1], 0), CORNERS - 1)
        else:
            state[i, 2] = 0.0
            walkers[i, 0] += dx * speed * dt
            walkers[i, 1] += dy * speed * dt
            off = (math.atan2(dy, dx) - yaw + math.pi) % (2 * math.pi) - math.pi
            walkers[i, 2] += min(max(off, -4 * dt), 4 * dt)


@njit(cache=True)
def walk_all(
    ids: NDArray[np.int64],
    count: NDArray[np.int64],
    walkers: Floats,
    robots: Floats,
    routes: Floats,
    on_route: Floats,
    speed: Floats,
    reach: Floats,
    dt: float,
) -> None:
    """Everyone in the copies `ids` walks on for `dt`."""
    for row in range(len(ids)):
        i, k = ids[row], count[ids[row]]
        walk(walkers[i, :k], robots[row : row + 1], routes[i], on_route[i], speed[i], reach[i], dt)


@njit(cache=True)
def cruise(
    me: Floats, others: Floats, way: Floats, state: Floats, dt: float
) -> tuple[float, float]:
    """Speed and turn of a robot on its route that stops for whoever is ahead."""
    corner = int(state[0])
    dx, dy = way[corner, 0] - me[0], way[corner, 1] - me[1]
    if math.hypot(dx, dy) < 0.25:
        if not 0 <= corner + state[1] < CORNERS:
            state[1] = -state[1]
        state[0] += state[1]
    off = (math.atan2(dy, dx) - me[2] + math.pi) % (2 * math.pi) - math.pi
    blocked = False
    for other in others:
        ex, ey = other[0] - me[0], other[1] - me[1]
        away = math.hypot(ex, ey)
        if away < 1.5 and ex * dx + ey * dy > 0.5 * away * math.hypot(dx, dy):
            blocked = True
    turn = min(max(2.0 * off, -TURN), TURN)
    if blocked:
        state[2] += dt
        if state[2] > PATIENCE_S:
            state[2] = 0.0
            state[1] = -state[1]
            state[0] = min(max(corner + state[1], 0), CORNERS - 1)
        return 0.0, turn
    state[2] = 0.0
    return (0.8 * SPEED * math.cos(off) if abs(off) < 0.6 else 0.0), turn


# The bodies, each as its text.


def bodies(model: mujoco.MjModel, class_: str) -> slice:
    """The bodies of a pool; a robot has two wheels after itself."""
    first = dict(zip(CLASSES, np.cumsum([1, RACKS, PALLETS, BOXES, PEOPLE]).tolist(), strict=True))
    following = {"rack": "pallet", "pallet": "box", "box": "person", "person": "robot"}
    end = first[following[class_]] if class_ in following else model.nbody
    return slice(first[class_], end)


def surroundings(hall: Layout, drawn: dict[str, float]) -> str:
    """Floor, walls, two dock doors with their marks, lights and cameras."""
    x, y = hall.half
    seen = {"type": "box", **shown(True)}
    grey, yellow = (0.3, 0.33, 0.38, 1), (0.9, 0.75, 0.1, 1)
    parts = walled_floor(hall.half, drawn["floor_friction"], drawn["floor_shade"])
    for side in (-1, 1):
        door = side * x / 2
        parts += [
            element("geom", pos=(door, -y, 1.5), size=(1.3, 0.02, 1.5), rgba=grey, **seen),
            element(
                "geom",
                pos=(door, -y + 1.5, 0),
                size=(1.4, 0.06, 0.004),
                rgba=yellow,
                **seen,
            ),
        ]
    for side in (-1, 1):
        parts.append(
            element(
                "light",
                name=f"light/{int(side > 0)}",
                type="directional",
                castshadow=False,
                pos=(0, 0, 6),
                dir=(drawn["light_tilt"] + 0.3 * side, 0.4 * side, -1.0),
                diffuse=light_colour(drawn),
                specular=(0.05, 0.05, 0.05),
            )
        )
    for camera in range(CAMERAS):
        at, quat = corner(camera, hall.half, drawn["camera_height"], drawn["camera_pitch"])
        fovy = math.degrees(drawn["camera_fov"])  # MJCF has it in degrees, always
        parts.append(element("camera", name=f"camera/{camera}", pos=at, quat=quat, fovy=fovy))
    return "".join(parts)


def walled_floor(half: tuple[float, float], friction: float, shade: float) -> list[str]:
    """A level floor and the four walls around it."""
    x, y = half
    wall = {"type": "box", "contype": 0, "conaffinity": 1, "rgba": (0.72, 0.74, 0.76, 1)}
    tall = WALL_HEIGHT / 2
    return [
        element(
            "geom",
            name="floor",
            type="plane",
            size=(x, y, 1),
            contype=0,
            conaffinity=3,
            # A contact has the larger condim of its two geoms: 3 here would rub on the casters.
            condim=1,
            friction=(friction, 0.005, 0.0001),
            rgba=(shade, shade, shade * 1.02, 1),
        ),
        element(
            "geom", name="wall/north", pos=(0, y + 0.1, tall), size=(x + 0.2, 0.1, tall), **wall
        ),
        element(
            "geom", name="wall/south", pos=(0, -y - 0.1, tall), size=(x + 0.2, 0.1, tall), **wall
        ),
        element("geom", name="wall/east", pos=(x + 0.1, 0, tall), size=(0.1, y, tall), **wall),
        element("geom", name="wall/west", pos=(-x - 0.1, 0, tall), size=(0.1, y, tall), **wall),
    ]


def corner(
    camera: int, half: tuple[float, float], height: float, pitch: float
) -> tuple[Floats, Floats]:
    """Place and attitude of a camera in its corner, that looks at the middle of the floor."""
    side = np.array([(-1, -1), (1, 1), (1, -1), (-1, 1)][camera % 4])
    at = np.array([*(side * (np.array(half) - 0.35)), height])
    forward = np.array([0.0, 0.0, 0.5]) - at
    yaw = math.atan2(forward[1], forward[0])
    down = math.atan2(-forward[2], math.hypot(forward[0], forward[1])) + pitch
    return at, looking(yaw, down)


def light_colour(drawn: dict[str, float]) -> Floats:
    """Of each of the two lights."""
    return drawn["light"] / 1.5 * np.array([1 + drawn["warmth"], 1.0, 1 - drawn["warmth"]])


def looking(yaw: float, down: float) -> Floats:
    """Quaternion of a camera (x right, y up, looks along -z) turned to `yaw`, tilted `down`."""
    # About z by yaw - 90 degrees, then about its own x by 90 degrees - down.
    z, x = (yaw - math.pi / 2) / 2, (math.pi / 2 - down) / 2
    cz, sz, cx, sx = math.cos(z), math.sin(z), math.cos(x), math.sin(x)
    return np.array([cz * cx, cz * sx, sz * sx, sz * cx])


def hue(turn: float, value: float = 0.85) -> tuple[float, float, float, float]:
    """A strong colour."""
    r, g, b = (0.5 + 0.5 * math.cos(2 * math.pi * (turn - shift / 3)) for shift in range(3))
    return value * (0.15 + 0.85 * r), value * (0.15 + 0.85 * g), value * (0.15 + 0.85 * b), 1.0


def solid(here: bool) -> dict[str, Any]:
    """Attributes of a geom that robots run into, where its body is here."""
    return {"contype": 0, "conaffinity": 1} if here else dict(PARKED_SOLID)


def shown(here: bool) -> dict[str, Any]:
    """Attributes of a geom that is only seen, where its body is here."""
    return {"contype": 0, "conaffinity": 0, "group": 2} if here else dict(PARKED)


def rack(number: int, racks: Floats, drawn: dict[str, float]) -> str:
    """A foot that is solid, two shelves, two frames of two posts."""
    here = number < len(racks)
    x, y = racks[number, :2] if here else (0.0, 0.0)
    hx, hy = RACK_LENGTH / 2, RACK_DEPTH / 2
    foot, *shelves = shelf_tops(drawn["rack_height"])
    colour = hue(drawn["rack_hue"])
    tall = (shelves[-1] + 0.2) / 2
    parts = [
        element(
            "geom", type="box", pos=(0, 0, foot / 2), size=(hx, hy, foot / 2),
            rgba=(0.22, 0.23, 0.26, 1), **solid(here),
        ),
        *(
            element(
                "geom", type="box", pos=(0, 0, top - 0.03), size=(hx - 0.04, hy - 0.01, 0.03),
                rgba=(0.62, 0.6, 0.55, 1), **shown(here),
            )
            for top in shelves
        ),
        *(
            element(
                "geom", type="box", pos=(sx * (hx - 0.04), sy * (hy - 0.04), tall),
                size=(0.04, 0.04, tall), rgba=colour, **shown(here),
            )
            for sx in (-1, 1)
            for sy in (-1, 1)
        ),
    ]  # fmt: skip
    return element("body", *parts, name=f"rack/{number}", pos=(x, y, 0.0 if here else PARKED_Z))


def pallet(number: int, pallets: Floats) -> str:
    """One block, with the slots for a fork drawn on its short ends."""
    here = number < len(pallets)
    x, y, yaw = pallets[number, [0, 1, 4]] if here else (0.0, 0.0, 0.0)
    hx, hy, hz = (side / 2 for side in PALLET)
    wood, dark = (0.68, 0.52, 0.33, 1), (0.12, 0.09, 0.06, 1)
    parts = [
        element("geom", type="box", size=(hx, hy, hz), rgba=wood, **solid(here)),
        *(
            element(
                "geom", type="box", pos=(0, side * 0.2, -0.01), size=(hx + 0.004, 0.13, 0.045),
                rgba=dark, **shown(here),
            )
            for side in (-1, 1)
        ),
    ]  # fmt: skip
    at = (x, y, hz if here else PARKED_Z)
    return element("body", *parts, name=f"pallet/{number}", pos=at, quat=turned(yaw))


def box(number: int, boxes: Floats, rng: np.random.Generator, drawn: dict[str, float]) -> str:
    """A carton. It hangs over nothing, so that no robot can reach it but over a pallet."""
    here = number < len(boxes)
    place = boxes[number] if here else np.array([0, 0, PARKED_Z, 0.1, 0.1, 0.1, 0])
    rgba = (*np.clip(CARTON * drawn["box_shade"], 0, 1), 1)
    part = element("geom", type="box", size=place[3:6], rgba=rgba, **shown(here))
    return element("body", part, name=f"box/{number}", pos=place[:3], quat=turned(place[6]))


def person(number: int, route: Floats, here: bool, drawn: dict[str, float]) -> str:
    """Legs in one, the only solid part, a vest with two arms, a head with a helmet."""
    vest, skin = hue(drawn["vest_hue"]), (0.85, 0.66, 0.52, 1)
    at = (*route[0], 0.0 if here else PARKED_Z)
    r = PERSON_RADIUS
    parts = [
        element(
            "geom", type="cylinder", pos=(0, 0, 0.42), size=(r, 0.42), rgba=(0.16, 0.18, 0.3, 1),
            **solid(here),
        ),
        element(
            "geom", type="capsule", pos=(0, 0, 1.12), size=(0.19, 0.2), rgba=vest, **shown(here)
        ),
        *(
            element(
                "geom", type="capsule", fromto=(0, y, 1.36, 0.1, 1.2 * y, 0.85), size=0.055,
                rgba=vest, **shown(here),
            )
            for y in (-0.24, 0.24)
        ),
        element("geom", type="sphere", pos=(0, 0, 1.6), size=0.11, rgba=skin, **shown(here)),
        element(
            "geom", type="ellipsoid", pos=(0.02, 0, 1.67), size=(0.14, 0.12, 0.08),
            rgba=(0.95, 0.85, 0.2, 1), **shown(here),
        ),
    ]  # fmt: skip
    return element("body", *parts, name=f"person/{number}", mocap=True, pos=at)


def robot(number: int, route: Floats, here: bool, drawn: dict[str, float]) -> str:
    """A low carrier. Its casters end 1 mm above the floor, so that the wheels bear the load."""
    name, r, length = f"robot/{number}", drawn["wheel_radius"], drawn["robot_length"]
    width, mass = length * WIDTH_OF_LENGTH, drawn["robot_mass"]
    yaw = math.atan2(*(route[1] - route[0])[::-1])
    at = (*(route[0] if here else (3.0 * number, 0.0)), r if here else PARKED_Z)
    floats = {} if here else {"gravcomp": 1}
    rolling: dict[str, Any] = {"contype": 2, "conaffinity": 0} if here else dict(PARKED_SOLID)
    body: dict[str, Any] = {"contype": 1, "conaffinity": 1} if here else dict(PARKED_SOLID)
    # Lowest edge 4 cm above the floor; the top carries a plate.
    middle, tall = 0.04 + 0.11 - r, 0.11
    colour, black = hue(drawn["robot_hue"], 0.7), (0.1, 0.1, 0.1, 1)
    wheel = [
        element(
            "body",
            element("joint", name=f"{name}/{side}", axis=(0, 1, 0), damping=0.01),
            element(
                "geom", type="ellipsoid", size=(r, 0.03, r), mass=1.5, rgba=black, condim=3,
                friction=(drawn["floor_friction"], 0.005, 0.0001), **rolling,
            ),
            name=f"{name}/{side}", pos=(0, sign * track(drawn) / 2, 0), **floats,
        )
        for side, sign in (("left", 1), ("right", -1))
    ]  # fmt: skip
    parts = [
        element("freejoint", name=f"{name}/free"),
        element(
            "geom", name=f"{name}/chassis", type="box", pos=(0, 0, middle),
            size=(length / 2, width / 2, tall), mass=mass - 4, rgba=colour, **body,
        ),
        element(
            "geom", type="box", pos=(-0.04, 0, middle + tall + 0.02), mass=0,
            size=(length / 2 - 0.08, width / 2 - 0.03, 0.02), rgba=black, **shown(here),
        ),
        element(
            "geom", type="cylinder", pos=(length / 2 - 0.1, 0, middle + tall + 0.04), mass=0,
            size=(0.04, 0.04), rgba=(0.9, 0.9, 0.9, 1), **shown(here),
        ),
        *(
            element(
                "geom", type="sphere", pos=(end * (length / 2 - 0.06), 0, 0.031 - r), size=0.03,
                mass=0.5, condim=1, rgba=black, **rolling,
            )
            for end in (-1, 1)
        ),
        *wheel,
    ]  # fmt: skip
    return element("body", *parts, name=name, pos=at, quat=turned(yaw), **floats)


def turned(yaw: float) -> tuple[float, float, float, float]:
    """The quaternion of a turn about z."""
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
