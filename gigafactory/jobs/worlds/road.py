"""The road: several lanes with cars, trucks, people who cross, cut-ins and an on-ramp, as MJCF.

Lengths m, x along the road, y to the LEFT of it, z up (traffic.py has y to the right: it is
mirrored here and nowhere else). Vehicles and people are mocap bodies that traffic.py moves; its
tables live in `data.userdata`, so a copy of the data is a copy of the traffic. The ego is `car/1`
and carries `camera/0`; `camera/1` stands on a pole beside the road, `camera/2` flies above.

What repeats (dashes, posts, trees) is drawn once for the stretch about the ego, on one body that
jumps by the length of its pattern; signs that fell behind stand up again ahead.
"""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from gigafactory.jobs.worlds import traffic
from gigafactory.jobs.worlds.scene import PARKED_Z, Range, Scene, draw, element

PARAMETERS = {
    "lanes": Range(2, 4, whole=True),
    "limit_m_s": Range(14, 28, "m/s"),
    "vehicles": Range(5, 12, whole=True),
    "trucks": Range(0, 0.35),
    "headway_s": Range(1.0, 1.8, "s"),
    "cut_ins": Range(0, 2, whole=True),
    "ramp": Range(0, 1, whole=True),
    "ego_on_ramp": Range(0, 1, whole=True),
    "merging": Range(0, 2, whole=True),
    "people": Range(0, 2, whole=True),
    "grip_m_s2": Range(5.5, 9, "m/s²"),
    "signs": Range(1, 6, whole=True),
    "sun_height_deg": Range(20, 80, "deg"),
    "sun_side_deg": Range(-180, 180, "deg"),
    "brightness": Range(0.6, 1.1),
    "warmth": Range(-1, 1),
    "overcast": Range(0, 1),  # 0 sun alone, 1 light from everywhere
    "camera_height_m": Range(1.2, 1.7, "m"),
    "camera_pitch_deg": Range(-4, 6, "deg"),
    "camera_fov_deg": Range(48, 66, "deg"),
}
LOOKS = tuple(PARAMETERS)[-8:]
CLASSES = ("car", "truck", "person", "sign")

OTHERS = 16  # vehicles beside the ego: 12 of the traffic, 2 that merge, 2 that cut in
CARS, TRUCKS, PEOPLE, SIGNS = 1 + OTHERS, 5, 2, 6
DT_S = 1 / 15
LANE_M = 4.0
PATTERN_M, SEEN_M, FAR_M = 24.0, 144.0, 1600.0
SIGN_EVERY_M = 60.0
PAINT = np.array(
    [(0.75, 0.08, 0.08), (0.9, 0.9, 0.88), (0.12, 0.13, 0.15), (0.15, 0.3, 0.65),
     (0.55, 0.57, 0.6), (0.1, 0.35, 0.2), (0.85, 0.65, 0.1)]
)  # fmt: skip
# Length, width, height: hatchback, saloon, van, in turn; the ego is one of 5 m.
KINDS = ((4.1, 1.75, 1.5), (4.7, 1.85, 1.42), (5.2, 1.95, 1.95))
CAR_SIZES = ((5.0, 1.9, 1.45), *(KINDS[j % 3] for j in range(OTHERS)))
TRUCK_SIZES = tuple((9.0 + 0.8 * k, 2.5) for k in range(TRUCKS))
USERDATA = CARS * traffic.CAR + traffic.ROAD + PEOPLE * traffic.PERSON

Tables = tuple[np.ndarray, np.ndarray, np.ndarray]


def parameters_of(
    seed: int, ranges: Mapping[str, tuple[float, float]] | None = None, randomise: bool = True
) -> dict[str, float]:
    """The parameters of the road of this seed; looks at their nominal value unless `randomise`."""
    return draw(np.random.default_rng(seed), PARAMETERS, ranges, () if randomise else LOOKS)


def layout(drawn: Mapping[str, float], rng: np.random.Generator) -> Tables:
    """A road with its traffic at time 0, as `traffic`'s tables for one road. The ego is at x = 0.

    Nobody starts where they cannot but crash: gaps to the car ahead are a second and 8 m at least.
    """
    cars, roads, people = traffic.empty(1, CARS, PEOPLE)
    car, road = cars[0], roads[0]
    lanes, limit = int(drawn["lanes"]), drawn["limit_m_s"]
    on_ramp = bool(drawn["ramp"] and drawn["ego_on_ramp"])
    road[[traffic.LANES, traffic.LANE_WIDTH_M, traffic.LIMIT]] = lanes, LANE_M, limit
    road[[traffic.CENTRE_GAPS, traffic.GRIP, traffic.STEER_RATE]] = 0.0, drawn["grip_m_s2"], 0.6
    start_s, length_s = rng.uniform([2.5 if on_ramp else 5.0, 8.0], [5.0 if on_ramp else 12.0, 11])
    if drawn["ramp"]:
        road[traffic.RAMP_START_M] = start_s * limit
        road[traffic.RAMP_END_M] = (start_s + length_s) * limit

    # All numbers are drawn, needed or not: one vehicle more does not change the others.
    u = rng.random((CARS, 12))
    trucks = 0
    taken: list[list[tuple[float, float, float]]] = [[] for _ in range(lanes + 1)]
    # Who cuts in must find a place beside the ego, so they come before the traffic.
    for j in (0, 15, 16, *range(1, 15)):
        truck = 0 < j <= 12 and u[j, 0] < drawn["trucks"] and trucks < TRUCKS
        x, lane = -70.0 + 250.0 * u[j, 1], int(u[j, 2] * lanes)
        wanted = limit * ((0.62 if truck else 0.7) + (0.18 if truck else 0.3) * u[j, 3])
        speed = wanted * (0.88 + 0.12 * u[j, 4])
        if j == 0:
            x, lane = 0.0, (lanes if on_ramp else lane)
            wanted, speed = limit, limit * (0.7 + 0.2 * u[j, 4])
        elif j <= 12:
            if j > drawn["vehicles"]:
                continue
        elif j <= 14:
            if not drawn["ramp"] or j - 12 > drawn["merging"]:
                continue
            lane = lanes  # so that it comes to the ramp's beginning about when the ego does
            x = road[traffic.RAMP_START_M] * (1 - speed / car[0, traffic.SPEED]) - 30 + 60 * u[j, 1]
        else:
            if j - 14 > drawn["cut_ins"]:
                continue
            lane = int(car[0, traffic.LANE]) + (1 if u[j, 2] < 0.5 else -1)
            lane = lane if 0 <= lane < lanes else 2 * int(car[0, traffic.LANE]) - lane
            x = -10.0 + 45.0 * u[j, 1]
            speed = car[0, traffic.SPEED] * (1.0 if x > 0 else 1.1)
            wanted = limit
            car[j, traffic.CUT_S] = 1.0 + 8.0 * u[j, 6]
            car[j, traffic.CUT_GAP_M] = 5.0 + 9.0 * u[j, 7]
            car[j, traffic.CUT_DURATION_S] = 1.8 + 2.2 * u[j, 8]
            car[j, traffic.BRAKE_AFTER_S] = 1.0 + 3.0 * u[j, 9]
            car[j, traffic.BRAKE_M_S2] = 1.0 + 2.5 * u[j, 10]
            car[j, traffic.BRAKE_TO] = limit * (0.6 + 0.25 * u[j, 11])
        length_m, width_m = TRUCK_SIZES[trucks % TRUCKS] if truck else CAR_SIZES[j][:2]
        x = _free(taken[lane], x, speed, length_m)
        taken[lane].append((x, speed, length_m))
        trucks += truck
        car[j, [traffic.KIND, traffic.LENGTH, traffic.WIDTH]] = 1.0 + truck, length_m, width_m
        car[j, [traffic.X, traffic.Y, traffic.SPEED, traffic.WANTED]] = (
            x, lane * LANE_M, speed, wanted,
        )  # fmt: skip
        car[j, [traffic.LANE, traffic.TARGET]] = lane
        car[j, traffic.HEADWAY_S] = drawn["headway_s"] * (0.85 + 0.3 * u[j, 9])
        car[j, [traffic.JAM_GAP_M, traffic.EXPONENT, traffic.BRAKE]] = 2.5, 4.0, 2.5
        car[j, traffic.ACCEL] = 1.0 if truck else 1.2 + u[j, 10]
        car[j, traffic.LATERAL_SPEED] = 1.0 + 0.8 * u[j, 11]
        car[j, traffic.TIMER] = u[j, 8]
    car[0, traffic.CONTROL] = traffic.ACTIONS
    v = rng.random((PEOPLE, 4))
    for k in range(int(drawn["people"])):
        arrival_s = 6 + 24 * v[k, 2]  # of the ego, if nothing holds it up much
        pace = (1.2 + 0.6 * v[k, 0]) * (1 if v[k, 1] < 0.5 else -1)
        people[0, k, [traffic.PACE, traffic.START_S]] = pace, arrival_s - 9.0
        people[0, k, traffic.ACCEPT] = 2.0 + v[k, 3]
        _stand(people[0, k], road, 0.85 * limit * arrival_s)
    return car, road, people[0]


def _stand(person: np.ndarray, road: np.ndarray, x: float) -> None:
    """Put a person beside the road at `x`, before the rail, about to cross all lanes there."""
    lanes = road[traffic.LANES] + (x < road[traffic.RAMP_END_M] + 5.0)
    kerbs = (-0.5 * LANE_M - 0.6, (lanes - 0.5) * LANE_M + 0.6)
    person[traffic.PERSON_X] = x
    person[[traffic.PERSON_Y, traffic.END_Y]] = kerbs if person[traffic.PACE] > 0 else kerbs[::-1]


def _free(
    taken: list[tuple[float, float, float]], x: float, speed: float, length_m: float
) -> float:
    """The place nearest to `x`, from there forwards, with room before and behind.

    `taken`: x, speed, length of those in the lane already. Plain numbers: a dozen are no array.
    """
    for _ in range(CARS):
        beyond = x
        for other_x, other_speed, other_m in taken:
            # Who is behind keeps the distance: its speed counts.
            need_m = 6.0 + 0.5 * (length_m + other_m) + (other_speed if x > other_x else speed)
            if abs(x - other_x) < need_m:
                beyond = max(beyond, other_x + other_speed + 6.1 + 0.5 * (length_m + other_m))
        if beyond == x:
            break
        x = beyond
    return x


def build(
    seed: int, ranges: Mapping[str, tuple[float, float]] | None = None, randomise: bool = True
) -> Scene:
    """The road of this seed with its traffic at time 0."""
    drawn = parameters_of(seed, ranges, randomise)
    tables = layout(drawn, np.random.default_rng([seed, 1]))
    looks = np.random.default_rng([seed, 2])
    mjcf = _mjcf(drawn, tables, looks if randomise else np.random.default_rng(0))
    return Scene("road", seed, mjcf, drawn, CLASSES)


def moment(
    model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, randomise: bool = True
) -> dict[str, float]:
    """Fresh traffic on this road, some seconds after its start; light, paint and camera, too."""
    drawn = dict(zip(PARAMETERS, model.numeric("drawn").data.tolist(), strict=True))
    tables = layout(drawn, rng)
    seconds = rng.uniform(0.4, 2.0)
    _drive(tables, seconds)
    _step_out(tables, rng)
    if randomise:
        fresh = draw(rng, {name: PARAMETERS[name] for name in LOOKS})
        drawn |= fresh
        _light(model, drawn)
        _paint(model, rng)
    show(model, data, *tables)
    return drawn | {"seconds": float(seconds)}


def _step_out(tables: Tables, rng: np.random.Generator) -> None:
    """People near the ego, who is what pictures are of: on the road where all could stop."""
    cars, road, people = tables
    for person in people[: np.count_nonzero(people[:, traffic.PACE])]:
        x, share = cars[0, traffic.X] + rng.uniform(8, 45), rng.random()
        _stand(person, road, x)
        bumper_m = x - cars[:, traffic.X] - 0.5 * cars[:, traffic.LENGTH]
        comes = (cars[:, traffic.KIND] > 0) & (bumper_m > -cars[:, traffic.LENGTH] - 1.0)
        stops_m = 0.5 * cars[comes, traffic.SPEED] ** 2 / 4.0 + traffic.PERSON_MARGIN_M
        person[[traffic.WALK, traffic.START_S]] = 0.0
        if (stops_m < bumper_m[comes]).all():
            person[traffic.WALK] = 1.0
            person[traffic.PERSON_Y] += share * (person[traffic.END_Y] - person[traffic.PERSON_Y])


def advance(
    model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, seconds: float
) -> None:
    """Let the traffic go on, the ego driven by `traffic.expert`; `rng` is not needed."""
    tables = tables_of(data)
    _drive(tables, seconds)
    show(model, data, *tables)


def _drive(tables: Tables, seconds: float) -> None:
    """A decision of the ego each 0.2 s; the rest of a second's fraction as one more step."""
    cars, roads, people = (table[None] for table in tables)
    live = np.ones(1, bool)
    while seconds > 1e-9:
        dt_s = min(DT_S, seconds / 3)
        actions = traffic.commands(cars, traffic.expert(traffic.view(cars, roads, people)))
        traffic.step(cars, roads, people, actions, live, dt_s, 3)
        seconds -= 3 * dt_s


def tables_of(data: mujoco.MjData) -> Tables:
    """The traffic that `show` put into `data`, to be changed and shown again."""
    first, second = CARS * traffic.CAR, CARS * traffic.CAR + traffic.ROAD
    return (
        data.userdata[:first].reshape(CARS, traffic.CAR).copy(),
        data.userdata[first:second].copy(),
        data.userdata[second:].reshape(PEOPLE, traffic.PERSON).copy(),
    )


def show(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    cars: np.ndarray,
    road: np.ndarray,
    people: np.ndarray,
) -> None:
    """Put one road's traffic into the scene and remember it in `data.userdata`."""
    data.userdata[:] = np.concatenate([cars.ravel(), road, people.ravel()])
    poses, groups = _poses(cars, road, people, int(model.numeric("drawn").data[SIGNS_AT]))
    data.mocap_pos[:] = poses[:, :3]
    data.mocap_quat[:] = 0.0
    data.mocap_quat[:, 0] = np.cos(poses[:, 3] / 2)
    data.mocap_quat[:, 3] = np.sin(poses[:, 3] / 2)
    there = np.repeat(groups, model.body_geomnum[1 : 1 + len(groups)])
    first = int(model.body_geomadr[1])
    model.geom_group[first : first + len(there)] = np.where(there, 2, 4)
    mujoco.mj_forward(model, data)


SIGNS_AT = list(PARAMETERS).index("signs")


def _poses(
    cars: np.ndarray, road: np.ndarray, people: np.ndarray, signs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each mocap body x, y, z, yaw, and whether it is there: cars, trucks, people, signs, rest.

    A vehicle's body is that of its number: cars have CARS bodies, trucks take TRUCKS more in turn.
    """
    count = CARS + TRUCKS + PEOPLE + SIGNS
    poses, there = np.zeros((count + 3, 4)), np.zeros(count, bool)
    poses[:count, 2] = PARKED_Z
    truck = CARS
    for j in range(CARS):
        kind = cars[j, traffic.KIND]
        if kind == 0:
            continue
        body = j
        if kind == 2:
            body, truck = truck, truck + 1
        poses[body] = cars[j, traffic.X], -cars[j, traffic.Y], 0.0, -cars[j, traffic.HEADING]
        there[body] = True
    at = CARS + TRUCKS
    for k in range(PEOPLE):
        if people[k, traffic.PACE] != 0:
            yaw = -np.pi / 2 if people[k, traffic.PACE] > 0 else np.pi / 2
            poses[at + k] = people[k, traffic.PERSON_X], -people[k, traffic.PERSON_Y], 0.0, yaw
            there[at + k] = True
    at += PEOPLE
    ego_x = cars[0, traffic.X]
    for k in range(signs):
        x = 35.0 + SIGN_EVERY_M * k
        x += np.ceil((ego_x - 20.0 - x) / (SIGN_EVERY_M * SIGNS)) * SIGN_EVERY_M * SIGNS
        lanes = road[traffic.LANES] + (x < road[traffic.RAMP_END_M] + 10)
        poses[at + k] = x, -(lanes - 0.5) * LANE_M - 2.0, 0.0, 0.0
        there[at + k] = True
    poses[count] = np.floor(ego_x / PATTERN_M) * PATTERN_M, 0.0, 0.0, 0.0
    poses[count + 1] = np.floor(ego_x / 60.0) * 60.0 + 75.0, 0.0, 0.0, 0.0
    poses[count + 2] = ego_x, 0.0, 0.0, 0.0
    return poses, there


def _light(model: mujoco.MjModel, drawn: Mapping[str, float]) -> None:
    """Sun, sky's share, camera of the ego, as `_mjcf` writes them."""
    sun, ambient, towards = _sun(drawn)
    model.light_dir[0], model.light_diffuse[0], model.light_ambient[0] = towards, sun, ambient
    camera = model.camera("camera/0").id
    model.cam_pos[camera] = 2.0, 0.0, drawn["camera_height_m"]
    model.cam_fovy[camera] = drawn["camera_fov_deg"]
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, _forward(drawn["camera_pitch_deg"]).T.ravel())
    model.cam_quat[camera] = quat


def _sun(drawn: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours of the sun and of the light from everywhere, and where the sun shines to."""
    warm = drawn["warmth"]
    tint = np.array([1.0 + 0.08 * warm, 1.0, 1.0 - 0.12 * warm])
    bright, overcast = drawn["brightness"], drawn["overcast"]
    height, side = np.deg2rad([drawn["sun_height_deg"], drawn["sun_side_deg"]])
    towards = -np.array(
        [np.cos(height) * np.cos(side), np.cos(height) * np.sin(side), np.sin(height)]
    )
    return tint * bright * (1.0 - 0.6 * overcast), tint * bright * (0.5 + 0.3 * overcast), towards


def _towards(*direction: float) -> np.ndarray:
    """A camera's `xyaxes` that looks along `direction`, upright."""
    right = np.cross(direction, (0, 0, 1))
    up = np.cross(right, direction)
    return np.concatenate([right / np.linalg.norm(right), up / np.linalg.norm(up)])


def _forward(pitch_deg: float) -> np.ndarray:
    """Rows: right, up and back of a camera that looks along x, `pitch_deg` downwards."""
    pitch = np.deg2rad(pitch_deg)
    return np.array(
        [[0, -1, 0], [np.sin(pitch), 0, np.cos(pitch)], [-np.cos(pitch), 0, np.sin(pitch)]]
    )


def _paint(model: mujoco.MjModel, rng: np.random.Generator) -> None:
    """Other colours for all vehicles: those of their geoms that carry paint."""
    colours = _colours(rng)
    painted = np.flatnonzero(model.geom_user[:, 0] == 1)
    # Bodies count from 1, vehicles come first.
    model.geom_rgba[painted, :3] = colours[model.geom_bodyid[painted] - 1]


def _colours(rng: np.random.Generator) -> np.ndarray:
    """A colour for each car and truck."""
    count = CARS + TRUCKS
    base = PAINT[rng.integers(len(PAINT), size=count)]
    return np.clip(base + rng.uniform(-0.06, 0.06, (count, 3)), 0.0, 1.0)


def _mjcf(drawn: Mapping[str, float], tables: Tables, looks: np.random.Generator) -> str:
    """The whole model. `looks` draws paint and plants; bodies and geoms are always the same."""
    cars, road, people = tables
    poses, there = _poses(cars, road, people, int(drawn["signs"]))
    sun, ambient, towards = _sun(drawn)
    colours = _colours(looks)
    bodies = [_car(*CAR_SIZES[j], colours[j]) for j in range(CARS)]
    bodies += [_truck(*TRUCK_SIZES[k], colours[CARS + k]) for k in range(TRUCKS)]
    bodies += [_person(looks) for _ in range(PEOPLE)]
    bodies += [_sign(k) for k in range(SIGNS)]
    names = [f"car/{j + 1}" for j in range(CARS)] + [f"truck/{k + 1}" for k in range(TRUCKS)]
    names += [f"person/{k + 1}" for k in range(PEOPLE)] + [f"sign/{k + 1}" for k in range(SIGNS)]
    written = []
    for k, (name, geoms) in enumerate(zip(names, bodies, strict=True)):
        if k == 0:
            view = _forward(drawn["camera_pitch_deg"])
            geoms = geoms + element(
                "camera", name="camera/0", pos=(2.0, 0, drawn["camera_height_m"]),
                xyaxes=(*view[0], *view[1]), fovy=drawn["camera_fov_deg"],
            )  # fmt: skip
        if not there[k]:
            geoms = geoms.replace('group="2"', 'group="4"')
        written.append(_mocap(name, poses[k], geoms))
    right_m = -(drawn["lanes"] + (0.5 if drawn["ramp"] else -0.5)) * LANE_M
    middle_m = -0.5 * (drawn["lanes"] - 1) * LANE_M
    pole = element("camera", name="camera/1", pos=(0, right_m - 2.5, 6.0),
                   xyaxes=_towards(-1.0, 0.32, -0.2), fovy=50.0)  # fmt: skip
    drone = element("camera", name="camera/2", pos=(-20, middle_m, 20),
                    xyaxes=_towards(1.0, 0.0, -0.8), fovy=50.0)  # fmt: skip
    rest = (_pattern(drawn, looks), pole, drone)
    written += [
        _mocap(name, pose, geoms)
        for name, pose, geoms in zip(
            ("stretch", "pole", "drone"), poses[len(names) :], rest, strict=True
        )
    ]
    grey = 0.75 - 0.3 * drawn["overcast"]
    sky = (0.45 * grey + 0.3, 0.6 * grey + 0.25, 0.9 * grey + 0.1)
    return element(
        "mujoco",
        element("compiler", angle="radian"),
        element("option", timestep=0.01, integrator="implicitfast", gravity=(0, 0, -9.81)),
        element("size", nuserdata=USERDATA),
        element(
            "visual",
            element("global", offwidth=1280, offheight=960),
            element("quality", offsamples=0, shadowsize=0, numslices=10, numstacks=6),
            element("headlight", active=0),
            element("map", znear=0.005, zfar=8.0),
        ),
        element("statistic", center=(0, 0, 0), extent=60.0),
        element("custom", element("numeric", name="drawn", data=tuple(drawn.values()))),
        element(
            "asset",
            element("texture", type="skybox", builtin="gradient", rgb1=sky, rgb2=(0.8, 0.82, 0.84),
                    width=32, height=32),
        ),
        element("default", element("geom", contype=0, conaffinity=0, group=2)),
        element(
            "worldbody",
            element("light", name="sun", type="directional", castshadow=False, pos=(0, 0, 50),
                    dir=towards, diffuse=sun, ambient=ambient, specular=(0.1, 0.1, 0.1)),
            *written,
            _ground(drawn, road),
        ),
        model="road",
    )  # fmt: skip


def _mocap(name: str, pose: np.ndarray, inside: str) -> str:
    half = pose[3] / 2
    quat = (np.cos(half), 0.0, 0.0, np.sin(half))
    return element("body", inside, name=name, mocap=True, pos=pose[:3], quat=quat)


def _geom(type_: str, pos: Any, size: Any, rgb: Any, paint: bool = False, **more: Any) -> str:
    rgba = f"{rgb} 1" if isinstance(rgb, str) else (*rgb, 1.0)
    user = 1 if paint else None
    return element("geom", type=type_, pos=pos, size=size, rgba=rgba, user=user, group=2, **more)


GLASS, RUBBER, LAMP, TAIL, STEEL = (
    "0.1 0.12 0.15", "0.06 0.06 0.06", "0.95 0.93 0.8", "0.7 0.03 0.03", "0.6 0.62 0.64",
)  # fmt: skip


def _wheels(axles: Any, width_m: float, radius_m: float) -> str:
    """A cylinder right across for each axle: a pair of wheels for half the triangles."""
    return "".join(
        _geom("cylinder", (x, 0, radius_m), (radius_m, width_m / 2 - 0.02), RUBBER,
              euler=(np.pi / 2, 0, 0))
        for x in axles
    )  # fmt: skip


def _car(length_m: float, width_m: float, height_m: float, colour: np.ndarray) -> str:
    half, van = length_m / 2, height_m > 1.7
    waist = 0.5 * height_m + 0.12
    cabin_m, at = (0.36 * length_m, -0.11 * length_m) if van else (0.25 * length_m, -0.2)
    glass_z = (waist + height_m) / 2
    if van:  # a band of windows about a painted cabin
        size_m = (cabin_m, width_m / 2 - 0.09, 0.2)
        over = _geom("box", (at + 0.03, 0, waist + 0.3), size_m, GLASS)
    else:  # a painted roof on a cabin of glass
        size_m = (cabin_m - 0.12, width_m / 2 - 0.14, 0.04)
        over = _geom("box", (at, 0, height_m), size_m, colour, paint=True)
    return (
        _geom("box", (0, 0, (0.22 + waist) / 2), (half, width_m / 2, (waist - 0.22) / 2), colour,
              paint=True)
        + _geom("box", (at, 0, glass_z), (cabin_m, width_m / 2 - 0.1, (height_m - waist) / 2),
                colour if van else GLASS, paint=van)
        + over
        + _geom("box", (half, 0, waist - 0.18), (0.01, width_m / 2 - 0.12, 0.07), LAMP)
        + _geom("box", (-half, 0, waist - 0.15), (0.01, width_m / 2 - 0.1, 0.08), TAIL)
        + _wheels((0.31 * length_m, -0.3 * length_m), width_m, 0.32)
    )  # fmt: skip


def _truck(length_m: float, width_m: float, colour: np.ndarray) -> str:
    half, side = length_m / 2, width_m / 2
    load_m = (length_m - 2.4) / 2
    return (
        _geom("box", (-half + load_m, 0, 2.15), (load_m, side, 1.35), "0.82 0.82 0.8")
        + _geom("box", (half - 1.0, 0, 1.6), (1.0, side - 0.05, 1.15), colour, paint=True)
        + _geom("box", (half, 0, 2.1), (0.02, side - 0.2, 0.42), GLASS)
        + _geom("box", (half, 0, 0.75), (0.02, side - 0.15, 0.1), LAMP)
        + _geom("box", (-half, 0, 0.75), (0.02, side - 0.1, 0.1), TAIL)
        + _geom("box", (-0.3, 0, 0.65), (half - 0.4, side - 0.5, 0.2), RUBBER)
        + _wheels((half - 1.1, -half + 2.4, -half + 1.2), width_m, 0.48)
    )


def _person(looks: np.random.Generator) -> str:
    coat, legs = looks.uniform(0.1, 0.9, 3), looks.uniform(0.1, 0.5, 3)
    return (
        _geom("capsule", (0.12, 0.1, 0.45), (0.09, 0.33), legs, euler=(0, -0.25, 0))
        + _geom("capsule", (-0.1, -0.1, 0.45), (0.09, 0.33), legs, euler=(0, 0.25, 0))
        + _geom("capsule", (0, 0, 1.15), (0.2, 0.22), coat)
        + _geom("sphere", (0, 0, 1.62), (0.12,), "0.75 0.58 0.46")
    )


def _sign(k: int) -> str:
    """Even ones are round, as limits are; odd ones square: directions and warnings."""
    pole = _geom("cylinder", (0, 0, 1.2), (0.04, 1.2), STEEL)
    facing = (0, np.pi / 2, 0)
    if k % 2 == 0:
        return (
            pole
            + _geom("cylinder", (0, 0, 2.6), (0.45, 0.02), "0.8 0.05 0.05", euler=facing)
            + _geom("cylinder", (-0.02, 0, 2.6), (0.33, 0.02), "0.95 0.95 0.95", euler=facing)
        )
    return (
        pole
        + _geom("box", (0, 0, 2.6), (0.02, 0.55, 0.4), ("0.1 0.25 0.65", "0.9 0.75 0.1")[k // 3])
        + _geom("box", (-0.02, 0, 2.6), (0.02, 0.35, 0.08), "0.95 0.95 0.95")
    )


def _pattern(drawn: Mapping[str, float], looks: np.random.Generator) -> str:
    """Dashes between lanes, posts of the rail and trees, for as far as one sees them."""
    lanes, out = int(drawn["lanes"]), []
    period = PATTERN_M / 2
    for line in range(3):
        there = line < lanes - 1
        for x in np.arange(-SEEN_M / 2, SEEN_M, period):
            z = 0.012 if there else PARKED_Z
            y = -(line + 0.5) * LANE_M
            out.append(_hidden(not there, _geom("box", (x, y, z), (2.0, 0.07, 0.008), WHITE)))
    green = np.array([0.16, 0.34, 0.14]) * looks.uniform(0.7, 1.3, 3)
    heights = looks.uniform(3.0, 6.5, 4)
    right_m = -(lanes + (0.5 if drawn["ramp"] else -0.5)) * LANE_M
    for k, x in enumerate(np.arange(-PATTERN_M * 2, SEEN_M + 1, PATTERN_M / 2)):
        tall, left = heights[2 * (k % 2)], k % 2 == 0
        y = 0.5 * LANE_M + 9.0 if left else right_m - 10.0
        out.append(_geom("cylinder", (x, y, 1.0), (0.16, 1.0), "0.3 0.22 0.15"))
        out.append(_geom("ellipsoid", (x, y, 1.2 + tall / 2), (1.7, 1.7, tall / 2), green))
    return "".join(out)


WHITE = "0.88 0.88 0.86"


def _hidden(hidden: bool, geom: str) -> str:
    return geom.replace('group="2"', 'group="4"') if hidden else geom


def _ground(drawn: Mapping[str, float], road: np.ndarray) -> str:
    """Grass, asphalt, edge lines, rails; the ramp with the line one may cross only where dashed."""
    lanes, ramp = drawn["lanes"], bool(drawn["ramp"])
    start_m, end_m = (
        (road[traffic.RAMP_START_M], road[traffic.RAMP_END_M]) if ramp else (0.0, -FAR_M / 4)
    )
    back_m = -FAR_M / 4
    left_m, edge_m = 0.5 * LANE_M, -(lanes - 0.5) * LANE_M
    outer_m = edge_m - (LANE_M if ramp else 0.0)

    def strip(x0: float, x1: float, y0: float, y1: float, z: float, rgb: Any, gone: bool) -> str:
        half = (max(x1 - x0, 0.1) / 2, max(abs(y1 - y0), 0.1) / 2, 0.01)
        pos = ((x0 + x1) / 2, (y0 + y1) / 2, PARKED_Z if gone else z - 0.01)
        return _hidden(gone, _geom("box", pos, half, rgb))

    def rail(x0: float, x1: float, y: float, gone: bool = False) -> str:
        half = (max(x1 - x0, 0.1) / 2, 0.06, 0.16)
        pos = ((x0 + x1) / 2, y, PARKED_Z if gone else 0.6)
        return _hidden(gone, _geom("box", pos, half, STEEL))

    warm = drawn["warmth"]
    grass = (0.34 + 0.07 * warm, 0.46, 0.26 - 0.06 * warm)
    dark = 0.36 - 0.02 * (9 - drawn["grip_m_s2"])  # wet asphalt is darker
    asphalt = (dark, dark, dark + 0.01)
    return (
        _geom("plane", (0, 0, -0.03), (FAR_M, 300, 10), grass)
        + strip(back_m, FAR_M, left_m + 1.2, edge_m - 1.2, 0.0, asphalt, False)
        + strip(back_m, end_m + 25, edge_m - 1.2, outer_m - 1.2, 0.0, asphalt, not ramp)
        + strip(back_m, FAR_M, left_m - 0.25, left_m - 0.1, 0.012, WHITE, False)
        + strip(end_m, FAR_M, edge_m + 0.1, edge_m + 0.25, 0.012, WHITE, False)
        + strip(back_m, start_m, edge_m - 0.07, edge_m + 0.07, 0.012, WHITE, not ramp)
        + strip(back_m, end_m, outer_m + 0.1, outer_m + 0.25, 0.012, WHITE, not ramp)
        + strip(end_m - 1, end_m + 1, edge_m, outer_m, 0.012, "0.85 0.6 0.1", not ramp)
        + rail(back_m, FAR_M, left_m + 1.0)
        + rail(back_m, end_m + 25, outer_m - 1.0, not ramp)
        + rail(end_m + 25 if ramp else back_m, FAR_M, edge_m - 1.0)
    )
