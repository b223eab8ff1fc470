"""A sorting cell: parts come on a belt, an arm with a suction cup puts each into its bin.

A SCARA arm (two links of one length, a quill, a cup; a cup needs no wrist) stands at the origin,
the belt runs along +x in front of it, four bins stand around: one for each kind of part (block,
disc, hex), one for defective parts, which are off-colour and bear a crack or a stain. The cup
holds by MuJoCo's adhesion, so that a heavy part swung too hard is lost.

The tool's place is given round the arm's base: `angle` from +y, counter-clockwise, rad; `radius`,
m; `height` of the cup's lip over the floor, m. Both links being alike, the elbow alone sets the
radius and the shoulder turns the rest.

Parts have a slot each (`SLOTS`); those that a layout does not use, or that have not come yet,
are parked. When a part comes is written into the model (`enter_s`), and so is the belt's speed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from gigafactory.jobs.worlds.scene import PARKED, PARKED_Z, Range, Scene, draw, element, within

CLASSES = ("part", "defect", "bin", "arm")
KINDS = ("block", "disc", "hex")
SLOTS = tuple(("part", slot % 3) for slot in range(6)) + tuple(("defect", k) for k in range(3))
"""Class and kind of each slot, in the order of their joints."""
KIND = np.array([kind for _, kind in SLOTS])
DEFECT = np.array([class_ == "defect" for class_, _ in SLOTS])
BIN_OF = np.where(DEFECT, len(KINDS), KIND)
"""The bin where a slot's part belongs: its kind's, or the last one, for rejects."""
PARKS_Z = PARKED_Z - 0.5 * np.arange(len(SLOTS))
BINS = len(KINDS) + 1

PARAMETERS = {
    "parts": Range(3, 5, whole=True),
    "defect_share": Range(0.15, 0.5),
    "belt_speed": Range(0.06, 0.13, "m/s"),
    "interval": Range(4.0, 6.5, "s"),  # between two parts
    "lane": Range(0.0, 0.06, "m"),  # how far parts lie from the middle of the belt
    "part_size": Range(0.85, 1.15),
    "density": Range(400, 1000, "kg/m3"),
    "friction": Range(0.5, 1.1),
    "bin_shift": Range(0.0, 0.03, "m"),
    "off_colour": Range(0.0, 0.7),  # of defective parts
    "colour_spread": Range(0.0, 0.3),
    "light": Range(0.35, 0.9),
    "light_side": Range(-1.0, 1.0),
    "warmth": Range(-0.12, 0.12),
    "camera_shift": Range(0.0, 0.08, "m"),
}
LOOKS = ("off_colour", "colour_spread", "light", "light_side", "warmth", "camera_shift")
"""What `randomise=False` keeps at its middle."""

LINK_M = 0.4
RADIUS = (0.28, 0.74)
ANGLE = (-2.75, 2.75)
HEIGHT = (0.30, 0.62)
HOME = (0.0, 0.5, 0.56)  # angle, radius, height
RATES = np.array([2.0, 0.8, 0.6])
"""The tool's highest speeds: rad/s round the base, m/s outward, m/s up."""
HIT_N = 40.0
"""A push of the tool against the cell that counts as a collision."""

BELT_Y, BELT_Z, BELT_HALF = 0.45, 0.40, 0.14
INLET_X, OUTLET_X, END_X = -0.86, 0.62, 0.75
FIRST_X = -0.35  # where the first part is when an episode starts
REACH_X = (-0.42, 0.42)
WAIT_XY = np.array([-0.30, BELT_Y])  # over the belt, where the tool waits for parts
CARRY_Z = 0.58
CLEAT_M = 0.1
BIN_HALF, BIN_FLOOR, BIN_RIM = 0.15, 0.22, 0.40
BIN_ANGLES = np.radians([-146.0, -95.0, 95.0, 146.0])
BIN_RADIUS = 0.52

ARM_Q, PARTS_Q, PARTS_V = slice(1, 4), 4, 4
"""Where the joints are: the belt, three of the arm, then a free joint a slot."""

COLOURS = {
    "floor": (0.42, 0.43, 0.44),
    "belt": (0.16, 0.17, 0.18),
    "cleat": (0.27, 0.28, 0.30),
    "frame": (0.62, 0.64, 0.66),
    "housing": (0.30, 0.36, 0.42),
    "guard": (0.90, 0.72, 0.10),
    "arm": (0.93, 0.45, 0.12),
    "joint": (0.20, 0.21, 0.23),
    "quill": (0.78, 0.80, 0.82),
    "cup": (0.10, 0.10, 0.10),
    "bin0": (0.20, 0.35, 0.70),
    "bin1": (0.75, 0.60, 0.15),
    "bin2": (0.25, 0.55, 0.35),
    "bin3": (0.70, 0.15, 0.15),
    "detail": (0.30, 0.31, 0.33),
    "mark": (0.07, 0.05, 0.04),
    "block": (0.35, 0.52, 0.78),
    "disc": (0.85, 0.70, 0.32),
    "hex": (0.72, 0.74, 0.77),
}
RUST = np.array([0.50, 0.22, 0.10])
MATERIALS = (*tuple(COLOURS)[:-3], *(f"slot{slot}" for slot in range(len(SLOTS))))
CAMERAS = (
    # place, what it looks at, vertical field of view in degrees
    ((-0.12, 0.47, 1.75), (-0.12, 0.43, 0.4), 42.0),
    ((1.15, 1.35, 1.45), (-0.02, 0.15, 0.42), 48.0),
    ((-1.25, -0.95, 1.55), (0.0, 0.15, 0.42), 48.0),
)

Array = NDArray[np.float64]


def build(
    seed: int,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    randomise: bool = True,
) -> Scene:
    """The cell of `seed`: which parts come and when, where the bins stand, how it all looks."""
    rng = np.random.default_rng(seed)
    drawn = draw(rng, PARAMETERS, ranges, () if randomise else LOOKS)
    count, speed = int(drawn["parts"]), drawn["belt_speed"]

    come = _choose(rng, count, drawn["defect_share"])
    enter_s = np.full(len(SLOTS), -1e3)
    waits_s = drawn["interval"] * (np.arange(count) + rng.uniform(-0.1, 0.1, count) * (count > 1))
    enter_s[come] = waits_s - waits_s[0] - (FIRST_X - INLET_X) / speed
    lanes = BELT_Y + drawn["lane"] * rng.uniform(-1, 1, len(SLOTS))
    yaws = rng.uniform(-math.pi, math.pi, len(SLOTS))

    parts = []
    for slot in range(len(SLOTS)):
        x, there = INLET_X - speed * enter_s[slot], INLET_X <= INLET_X - speed * enter_s[slot] < 0
        at = (x if there else INLET_X, lanes[slot], BELT_Z if there else PARKS_Z[slot])
        parts.append(_part(slot, at, yaws[slot], slot in come, there, drawn, rng))
    bins = []
    for bin_, angle in enumerate(rng.permutation(BIN_ANGLES)):
        radius, turn = rng.uniform(-1, 1, 2) * drawn["bin_shift"] * [1, 1 / BIN_RADIUS]
        bins.append(_bin(bin_, angle + turn, BIN_RADIUS + radius))

    look = Look(drawn, rng if randomise else None)
    limits = within(PARAMETERS, ranges or {}).values()
    numbers = {
        "belt_speed": [speed],
        "enter_s": enter_s,
        "ranges": [end for limit in limits for end in (limit.low, limit.high)],
    }
    numerics = [element("numeric", name=name, data=value) for name, value in numbers.items()]
    mjcf = element(
        "mujoco",
        element("compiler", angle="radian", autolimits=True),
        element("option", timestep=0.01, integrator="implicitfast", iterations=20),
        element("visual", element("headlight", ambient=(0.3,) * 3, diffuse=(0.25,) * 3)),
        element("custom", *numerics),
        element("asset", *look.materials_mjcf()),
        element("worldbody", *look.lights_mjcf(), _cell(bins), _arm(), *parts),
        element("actuator", *_actuators()),
        element("sensor", *_sensors()),
        model="factory",
    )
    return Scene("factory", seed, mjcf, drawn, CLASSES)


def moment(
    model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, randomise: bool = True
) -> dict[str, float]:
    """Some parts on the belt, some already in bins, the arm anywhere at its work."""
    ends = model.numeric("ranges").data.reshape(-1, 2)
    limits = {name: Range(*end) for name, end in zip(PARAMETERS, ends, strict=True)}
    fresh = {name: limits[name] for name in ("defect_share", "lane", *LOOKS)}
    values = draw(rng, fresh, {}, () if randomise else LOOKS)
    if randomise:
        Look(values, rng).write(model)

    mujoco.mj_resetData(model, data)
    cell = read([model])
    height = cell.height[0]
    riding, lying = int(rng.integers(2, 8)), int(rng.integers(0, 3))
    here = _choose(rng, riding + lying, values["defect_share"])
    show(model, here)
    yaws = rng.uniform(-math.pi, math.pi, len(SLOTS))
    poses = parts_of(data.qpos[None])[0]
    poses[:, 2], poses[:, 3:] = PARKS_Z, 0
    poses[:, 3], poses[:, 6] = np.cos(yaws / 2), np.sin(yaws / 2)
    # Seven places along the belt, in front of its housing, further apart than parts are wide.
    x = -0.5 + 0.16 * (rng.permutation(7) + rng.uniform(-0.05, 0.05, 7))
    y = BELT_Y + values["lane"] * rng.uniform(-1, 1, 7)
    on = here[:riding]
    poses[on, :3] = np.column_stack([x[:riding], y[:riding], BELT_Z + height[on] / 2])
    # Two in one bin lie on each other, not in each other.
    off = here[riding:]
    layer_z = 0.075 * np.arange(lying) * (len(set(BIN_OF[off])) < lying)
    poses[off, :2] = cell.bin_xy[0, BIN_OF[off]] + rng.uniform(-0.05, 0.05, (lying, 2))
    poses[off, 2] = BIN_FLOOR + height[off] / 2 + layer_z

    tool = rng.uniform((-2.2, 0.36, 0.50), (2.2, 0.68, 0.60))
    part, lift = poses[here[0]], rng.uniform(0, 0.1)
    works = rng.random()
    if works < 0.35:  # It has lifted a part.
        part[2] += lift
        data.ctrl[4] = 1
    if works < 0.5:  # Or its cup is on one.
        tool[0], tool[1] = aim_at(part[:2], np.zeros(3))
        tool[2] = part[2] + height[here[0]] / 2 + 0.0005
    data.qpos[0] = rng.uniform(0, CLEAT_M)
    data.qpos[ARM_Q] = joints(tool)
    data.qvel[0] = data.ctrl[0] = cell.speed[0]
    mujoco.mj_forward(model, data)
    return values


def advance(
    model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, seconds: float
) -> None:
    """The belt runs, the arm sorts; a part that reaches the end of the belt comes once more."""
    cell = read([model])
    steps = max(1, round(seconds / model.opt.timestep))
    for step in range(steps):
        if step % 10 == 0:
            poses = parts_of(data.qpos[None])
            past = (poses[0, :, 0] > OUTLET_X) & (poses[0, :, 2] > BELT_Z - 0.02)
            near = (poses[0, :, 0] < INLET_X + 0.15) & (poses[0, :, 2] > 0)
            if past.any() and not near.any():
                poses[0, np.argmax(past), 0] = INLET_X
            tend(data.qpos[None], data.qvel[None], cell.speed, poses[..., 2] < -1)
            tool = tool_of(data.qpos[None])
            action = script(cell, tool, poses[..., :3], held_in(data.sensordata[None], data.ctrl))
            data.ctrl[:] = controls(cell, data.qpos[None], action)[0]
        mujoco.mj_step(model, data)
    mujoco.mj_forward(model, data)


def _choose(rng: np.random.Generator, count: int, defect_share: float) -> NDArray[np.int64]:
    """Which slots' parts come, in what order: as many of them faulty as slots allow."""
    good, bad = np.flatnonzero(~DEFECT), np.flatnonzero(DEFECT)
    faulty = int(np.clip(rng.binomial(count, defect_share), count - len(good), len(bad)))
    chosen = [rng.choice(good, count - faulty, False), rng.choice(bad, faulty, False)]
    return rng.permutation(np.concatenate(chosen))


# --- the arm: where its tool is, and what its motors must do ------------------------------------


def joints(tool: Array) -> Array:
    """Shoulder, elbow and quill that bring the tool to (angle, radius, height)."""
    elbow = 2 * np.arccos(tool[..., 1] / (2 * LINK_M))
    return np.stack([tool[..., 0] - elbow / 2, elbow, tool[..., 2]], axis=-1)


def tool_of(qpos: Array) -> Array:
    """Angle, radius and height of the tool, (..., 3)."""
    half = qpos[..., 2] / 2  # of the elbow
    return np.stack([qpos[..., 1] + half, 2 * LINK_M * np.cos(half), qpos[..., 3]], axis=-1)


def controls(cell: "Cell", qpos: Array, action: Array) -> Array:
    """The motors' speeds for an action (n, 4) in [-1, 1]; the tool stays within its limits."""
    tool = tool_of(qpos)
    limits = np.array([ANGLE, RADIUS, HEIGHT])
    # The nearer a limit, the slower towards it, as a real controller's soft limits.
    rates = np.clip(action[:, :3] * RATES, 6 * (limits[:, 0] - tool), 6 * (limits[:, 1] - tool))
    elbow_rate = -rates[:, 1] / (LINK_M * np.sin(qpos[:, 2] / 2))
    return np.stack(
        [cell.speed, rates[:, 0] - elbow_rate / 2, elbow_rate, rates[:, 2], action[:, 3] > 0],
        axis=-1,
    )


# --- the cell as numbers, a row a copy ---------------------------------------------------------


@dataclass
class Cell:
    """What of a layout matters to who works in it, a row a copy."""

    speed: Array  # (n,) m/s
    enter_s: Array  # (n, S); -1000: never
    height: Array  # (n, S) m, of a part
    bin_xy: Array  # (n, 4, 2) m


def read(models: Sequence[mujoco.MjModel]) -> Cell:
    """The layouts of these models."""
    geoms = [models[0].geom(f"{class_}/{_nth(slot)}").id for slot, (class_, _) in enumerate(SLOTS)]
    bins = [models[0].body(f"bin/{bin_}").id for bin_ in range(BINS)]
    return Cell(
        speed=np.array([model.numeric("belt_speed").data[0] for model in models]),
        enter_s=np.array([model.numeric("enter_s").data for model in models]),
        height=np.array([2 * model.geom_size[geoms, 2] for model in models]),
        bin_xy=np.array([model.body_pos[bins, :2] for model in models]),
    )


def parts_of(qpos: Array) -> Array:
    """Place and quaternion of each slot's part, (n, S, 7), a view."""
    return qpos[:, PARTS_Q:].reshape(len(qpos), len(SLOTS), 7)


def held_in(sensors: Array, ctrl: Array) -> NDArray[np.int64]:
    """The slot whose part hangs at the cup, -1 for none, (n,)."""
    touched = (sensors[:, 3:] > 0) & (np.atleast_2d(ctrl)[:, 4:5] > 0)
    return np.where(touched.any(axis=1), touched.argmax(axis=1), -1)


def tend(qpos: Array, qvel: Array, speed: Array, parked: NDArray[np.bool_]) -> None:
    """Let the belt run on for ever, and keep what is parked where it is."""
    qpos[:, 0] %= CLEAT_M
    qvel[:, 0] = speed
    poses, speeds = parts_of(qpos), qvel[:, PARTS_V:].reshape(len(qvel), len(SLOTS), 6)
    poses[..., 2] = np.where(parked, PARKS_Z, poses[..., 2])
    speeds[parked] = 0


def show(model: mujoco.MjModel, slots: Sequence[int] | NDArray[np.int64]) -> None:
    """Make these slots' parts real in the model, and the others not."""
    for slot, (class_, _) in enumerate(SLOTS):
        body = model.body(f"{class_}/{_nth(slot)}")
        first, here = body.geomadr[0], slot in slots
        model.body_gravcomp[body.id] = not here
        model.geom_group[first + 1 : first + body.geomnum[0]] = 2 if here else PARKED["group"]
        model.geom_contype[first], model.geom_conaffinity[first] = bits = REAL if here else UNREAL
        model.body_contype[body.id], model.body_conaffinity[body.id] = bits


@dataclass
class Goal:
    """Where the tool is due: over the next part, or over the bin of the part that it holds."""

    slot: NDArray[np.int64]  # (n,) of that part, -1: nothing to do
    xy: Array  # (n, 2) m
    height: Array  # (n,) m: of the part's top; or low enough over the bin to let go


def goal(cell: Cell, parts: Array, held: NDArray[np.int64]) -> Goal:
    """What the line's controller tells the arm, which knows what belongs where."""
    rows, free = np.arange(len(held)), held < 0
    slot = np.where(free, wanted(parts), held)
    part, tall = parts[rows, slot], cell.height[rows, slot]
    bin_xy = cell.bin_xy[rows, BIN_OF[slot]]
    xy = np.where(free[:, None], part[:, :2], bin_xy)
    height = np.where(free, part[:, 2] + tall / 2, BIN_RIM + 0.03 + tall)
    none = slot < 0
    return Goal(slot, np.where(none[:, None], WAIT_XY, xy), np.where(none, HOME[2], height))


def script(cell: Cell, tool: Array, parts: Array, held: NDArray[np.int64]) -> Array:
    """What a good arm does, from what is to be seen alone: an action (n, 4) without memory.

    Free: follow the part that is furthest down the belt, go down on it, suck. With a part: up,
    over to its bin, down to its rim, let go.
    """
    due, free = goal(cell, parts, held), held < 0
    to_goal = aim_at(due.xy, tool)
    distance = np.hypot(to_goal[:, 0] * tool[:, 1], to_goal[:, 1])
    above = tool[:, 2] - due.height
    seeks = free & (due.slot >= 0)

    # The part's bottom must clear the rails before it is carried aside.
    bottom = tool[:, 2] - cell.height[np.arange(len(held)), held]
    cleared = np.where(free, 1.0, np.clip((bottom - BELT_Z - 0.015) / 0.03, 0.0, 1.0))
    down = np.where(
        seeks,
        np.clip((distance - 0.015) * 3, 0.0, 0.05) - 0.006,
        np.where(free | (distance < 0.1), 0.0, CARRY_Z - due.height),
    )
    belt = np.where(seeks | (cleared < 1), cell.speed, 0.0)
    rates = np.stack(
        [
            4.5 * to_goal[:, 0] * cleared - belt * np.cos(tool[:, 0]) / tool[:, 1],
            4.5 * to_goal[:, 1] * cleared - belt * np.sin(tool[:, 0]),
            6.0 * (down - above),
        ],
        axis=-1,
    )
    grips = seeks & (distance < 0.03) & (above < 0.03)
    keeps = ~free & ~((distance < 0.05) & (above < 0.04))
    return np.concatenate(
        [np.clip(rates / RATES, -1, 1), np.where(grips | keeps, 1.0, -1.0)[:, None]], axis=-1
    )


def wanted(parts: Array) -> NDArray[np.int64]:
    """The slot of the part to be picked next, the furthest one within reach; -1 for none."""
    x = np.where(on_belt(parts), parts[..., 0], -np.inf)
    x = np.where((x > REACH_X[0]) & (x < REACH_X[1]), x, -np.inf)
    return np.where(np.isfinite(x).any(axis=1), x.argmax(axis=1), -1)


def on_belt(parts: Array) -> NDArray[np.bool_]:
    """Which parts ride on the belt, (n, S)."""
    over = (np.abs(parts[..., 1] - BELT_Y) < BELT_HALF) & (parts[..., 0] < END_X)
    return over & (parts[..., 2] > BELT_Z) & (parts[..., 2] < BELT_Z + 0.06)


def aim_at(xy: Array, tool: Array) -> Array:
    """How far the tool has to turn (rad) and to reach out (m) to be over `xy`, (..., 2)."""
    angle = -np.arctan2(xy[..., 0], xy[..., 1])
    return np.stack(
        [angle - tool[..., 0], np.hypot(xy[..., 0], xy[..., 1]) - tool[..., 1]], axis=-1
    )


# --- how it looks ------------------------------------------------------------------------------


class Look:
    """Colours, lights and cameras: written as MJCF, or into a model that stands already."""

    def __init__(self, values: Mapping[str, float], rng: np.random.Generator | None):
        def noise(*shape: int) -> Array:
            return rng.uniform(-1, 1, shape) if rng is not None else np.zeros(shape)

        colours = np.array([*list(COLOURS.values())[:-3], *(COLOURS[KINDS[k]] for k in KIND)])
        rust = values["off_colour"] * DEFECT[:, None]
        colours[-len(SLOTS) :] += rust * (RUST - colours[-len(SLOTS) :])
        colours *= 1 + values["colour_spread"] * noise(*colours.shape)
        self.rgba = np.clip(np.column_stack([colours, np.ones(len(colours))]), 0, 1)
        tint = np.array([1 + values["warmth"], 1.0, 1 - values["warmth"]])
        self.light_diffuse = np.clip([values["light"] * tint, 0.35 * values["light"] * tint], 0, 1)
        side = values["light_side"]
        self.light_dir = np.array([[side, 0.3, -1.2], [-0.6 * side, -0.8, -0.6]])
        self.light_dir /= np.linalg.norm(self.light_dir, axis=1, keepdims=True)
        jitter = values["camera_shift"] * noise(2, len(CAMERAS), 3)
        self.cam_pos = np.array([place for place, _, _ in CAMERAS]) + jitter[0]
        targets = np.array([target for _, target, _ in CAMERAS]) + 0.5 * jitter[1]
        self.cam_quat = _facing(self.cam_pos, targets)
        self.cam_fovy = np.array([fovy for _, _, fovy in CAMERAS])

    def write(self, model: mujoco.MjModel) -> None:
        """Into the model, in the order in which its MJCF names them."""
        model.mat_rgba[:] = self.rgba
        model.light_diffuse[:], model.light_dir[:] = self.light_diffuse, self.light_dir
        model.cam_pos[:], model.cam_quat[:] = self.cam_pos, self.cam_quat

    def materials_mjcf(self) -> list[str]:
        """A material for each of `MATERIALS`."""
        return [
            element("material", name=name, rgba=rgba, specular=0.2, shininess=0.3)
            for name, rgba in zip(MATERIALS, self.rgba, strict=True)
        ]

    def lights_mjcf(self) -> list[str]:
        """The lights and the cameras."""
        lights = zip(self.light_diffuse, self.light_dir, strict=True)
        cameras = zip(self.cam_pos, self.cam_quat, self.cam_fovy, strict=True)
        return [
            element("light", pos=(0, 0, 3), dir=way, diffuse=diffuse, directional=True,
                    castshadow=False, specular=(0.2,) * 3)
            for diffuse, way in lights
        ] + [
            element("camera", name=f"camera/{i}", pos=pos, quat=quat, fovy=fovy)
            for i, (pos, quat, fovy) in enumerate(cameras)
        ]  # fmt: skip


def _facing(places: Array, targets: Array) -> Array:
    """The quaternions of cameras that look at their targets, upright; straight down, +y is up."""
    back = places - targets
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    # To the right lies what is across both the way back and the vertical.
    right = np.column_stack([-back[:, 1], back[:, 0], np.zeros(len(back))])
    length = np.linalg.norm(right, axis=1, keepdims=True)
    right = np.where(length > 0.14, right / length.clip(1e-9), [1.0, 0.0, 0.0])
    right -= (right * back).sum(axis=1, keepdims=True) * back
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    quats = np.empty((len(back), 4))
    frames = np.stack([right, np.cross(back, right), back], axis=2)
    for quat, frame in zip(quats, frames, strict=True):
        mujoco.mju_mat2Quat(quat, frame.ravel())
    return quats


# --- what it is made of ------------------------------------------------------------------------


def _nth(slot: int) -> int:
    """The number of a slot among those of its class."""
    return slot if slot < 6 else slot - 6


SEEN = {"contype": 0, "conaffinity": 0, "group": 2, "mass": 0}
LINK = {"contype": 0, "conaffinity": 4, "group": 2}  # a collider that nothing here answers
FIXED = {"contype": 0, "conaffinity": 3, "group": 2}
"""Fixtures and belt touch parts (bit 1) and the tool (bit 2), never each other."""
REAL, UNREAL = (1, 3), (0, 4)
"""Bits of a part that is touched, and of a parked one. No geom answers to the latter's; were they
all zero the compiler would leave the geom out of its tree, and layouts would differ in size."""


def _box(
    at: object, half: object, material: str, kind: Mapping[str, object], **more: object
) -> str:
    return element("geom", type_="box", pos=at, size=half, material=material, **kind, **more)


def _tube(at: object, radius: float, half: float, material: str, kind: Mapping[str, object]) -> str:
    return element("geom", type_="cylinder", pos=at, size=(radius, half), material=material, **kind)


def _cell(bins: list[str]) -> str:
    """Floor, conveyor with its housing, bins, guards: one body, for what the tool may not hit."""
    middle, half = (INLET_X - 0.15 + END_X) / 2, (END_X - INLET_X + 0.15) / 2
    rails = [
        _box((middle, BELT_Y + side * (BELT_HALF + 0.012), BELT_Z - 0.025),
             (half, 0.012, 0.04), "frame", FIXED)
        for side in (-1, 1)
    ]  # fmt: skip
    legs = [
        _box((x, BELT_Y + y, 0.17), (0.02, 0.02, 0.17), "frame", SEEN)
        for x in (-0.8, 0.0, 0.65)
        for y in (-0.13, 0.13)
    ]
    rollers = [
        _tube((x, BELT_Y, BELT_Z - 0.04), 0.035, BELT_HALF, "joint",
              {**SEEN, "quat": (0.7071068, 0.7071068, 0, 0)})
        for x in (INLET_X - 0.12, END_X - 0.03)
    ]  # fmt: skip
    x = INLET_X + 0.03
    housing = [
        _box((x, BELT_Y, 0.58), (0.18, 0.18, 0.01), "housing", FIXED),
        _box((x, BELT_Y - 0.17, 0.40), (0.18, 0.01, 0.18), "housing", FIXED),
        _box((x, BELT_Y + 0.17, 0.40), (0.18, 0.01, 0.18), "housing", FIXED),
    ]
    guards = [
        _box((x, y, z), half, "guard", FIXED)
        for x, y, z, half in (
            (-1.0, -1.0, 0.4, (0.02, 0.02, 0.4)),
            (1.0, -1.0, 0.4, (0.02, 0.02, 0.4)),
            (-1.0, 0.75, 0.4, (0.02, 0.02, 0.4)),
            (1.0, 0.75, 0.4, (0.02, 0.02, 0.4)),
            (0.0, -1.0, 0.75, (1.0, 0.012, 0.02)),
            (0.0, -1.0, 0.35, (1.0, 0.012, 0.02)),
            (-1.0, -0.12, 0.75, (0.012, 0.87, 0.02)),
            (1.0, -0.12, 0.75, (0.012, 0.87, 0.02)),
        )
    ]
    cleats = [
        _box((CLEAT_M * i, 0, 0), (0.006, BELT_HALF - 0.01, 0.0008), "cleat", SEEN)
        for i in range(-8, 7)
    ]
    # The belt is a slab that slides at the belt's speed and is set back by one cleat at a time.
    belt = element(
        "body",
        element("joint", name="belt", type_="slide", axis=(1, 0, 0)),
        _box((middle, 0, -0.015), (half - 0.06, BELT_HALF, 0.015), "belt", FIXED,
             mass=60, friction=(0.5, 0.005, 0.0001)),
        *cleats,
        name="belt", pos=(0, BELT_Y, BELT_Z), gravcomp=1,
    )  # fmt: skip
    floor = _box((0, 0, -0.05), (5, 5, 0.05), "floor", FIXED)
    return element(
        "body", floor, *rails, *legs, *rollers, *housing, *guards, belt, *bins, name="cell"
    )


def _bin(bin_: int, angle: float, radius: float) -> str:
    """An open box on a foot, its sides along and across the arm's reach."""
    high, wall = (BIN_RIM - BIN_FLOOR) / 2, 0.006
    sides = [
        _box((x * BIN_HALF, y * BIN_HALF, BIN_FLOOR + high),
             (wall if x else BIN_HALF, wall if y else BIN_HALF, high), f"bin{bin_}", FIXED)
        for x, y in ((-1, 0), (1, 0), (0, -1), (0, 1))
    ]  # fmt: skip
    # Thicker than a falling part gets in a step of the physics.
    floor = _box((0, 0, BIN_FLOOR - 0.03), (BIN_HALF, BIN_HALF, 0.03), f"bin{bin_}", FIXED)
    foot = _box((0, 0, BIN_FLOOR / 2 - 0.06), (0.08, 0.08, BIN_FLOOR / 2 - 0.06), "frame", SEEN)
    at = (-radius * math.sin(angle), radius * math.cos(angle), 0)
    return element("body", floor, *sides, foot, name=f"bin/{bin_}", pos=at, euler=(0, 0, angle))


def _arm() -> str:
    """The arm at `HOME`: its joints' values are those of `joints`."""
    shoulder, elbow, quill = (float(q) for q in joints(np.array(HOME)))
    top = 0.80
    tool = element(
        "body",
        element("joint", name="quill", type_="slide", axis=(0, 0, 1), ref=quill, armature=1,
                range=(HEIGHT[0] - 0.02, HEIGHT[1] + 0.02)),
        _tube((0, 0, 0.30), 0.014, 0.26, "quill", SEEN),
        _tube((0, 0, 0.05), 0.020, 0.02, "joint", SEEN),
        _tube((0, 0, 0.016), 0.022, 0.014, "cup", SEEN),
        _box((0, 0, 0.03), (0.02, 0.02, 0.03), "cup",
             {"contype": 2, "conaffinity": 0, "group": 4, "mass": 0.8},
             name="cup", friction=(1.2, 0.02, 0.001), condim=4),
        name="tool", pos=(0, LINK_M, quill - top), gravcomp=1,
    )  # fmt: skip
    fore = element(
        "body",
        element("joint", name="elbow", axis=(0, 0, 1), ref=elbow, armature=0.1, range=(0.3, 2.7)),
        _box((0, LINK_M / 2, 0.075), (0.045, LINK_M / 2, 0.03), "arm", LINK | {"mass": 2}),
        _tube((0, 0, 0.075), 0.06, 0.045, "joint", SEEN),
        _tube((0, LINK_M, 0.085), 0.05, 0.055, "arm", SEEN),
        tool,
        name="fore", pos=(0, LINK_M, 0), euler=(0, 0, elbow), gravcomp=1,
    )  # fmt: skip
    upper = element(
        "body",
        element("joint", name="shoulder", axis=(0, 0, 1), ref=shoulder, armature=0.3),
        _box((0, LINK_M / 2, 0), (0.055, LINK_M / 2, 0.035), "arm", LINK | {"mass": 3}),
        _tube((0, 0, 0), 0.075, 0.05, "arm", SEEN),
        _tube((0, LINK_M, 0), 0.058, 0.038, "arm", SEEN),
        fore,
        name="upper", pos=(0, 0, top), euler=(0, 0, shoulder), gravcomp=1,
    )  # fmt: skip
    column = _tube((0, 0, top / 2 - 0.025), 0.07, top / 2 - 0.03, "joint", SEEN)
    return element("body", column, upper, name="arm/0")


def _part(
    slot: int,
    at: tuple[float, float, float],
    yaw: float,
    comes: bool,
    there: bool,
    drawn: Mapping[str, float],
    rng: np.random.Generator,
) -> str:
    """A part: a hidden block that is touched (its height is the part's), and what is seen."""
    class_, kind = SLOTS[slot]
    scale = drawn["part_size"] * rng.uniform(0.92, 1.08)
    half = scale * rng.uniform(0.021, 0.027)
    colour, skin = f"slot{slot}", SEEN if comes else {**SEEN, **PARKED}
    if KINDS[kind] == "block":
        a, b = scale * np.array([0.045, 0.034])
        touched = (a, b, half)
        seen = [
            _box((0, 0, 0), (a, b, half - 0.001), colour, skin),
            _box((0, 0, half - 0.001), (0.62 * a, 0.30 * b, 0.001), "detail", skin),
        ]
    elif KINDS[kind] == "disc":
        a = b = scale * 0.045
        touched = (0.86 * a, 0.86 * a, half)
        seen = [
            _tube((0, 0, 0), a, half - 0.001, colour, skin),
            _tube((0, 0, half - 0.001), 0.35 * a, 0.001, "detail", skin),
        ]
    else:
        a = b = scale * 0.042  # across flats, by half
        touched = (a, 0.9 * a, half)
        seen = [
            _box((0, 0, 0), (a, a * math.tan(math.pi / 6), half - 0.001), colour, skin,
                 euler=(0, 0, turn * math.pi / 3))
            for turn in range(3)
        ] + [_tube((0, 0, half - 0.001), 0.5 * a, 0.001, "detail", skin)]  # fmt: skip
    if class_ == "defect":
        seen += _marks(a, b, half, skin, rng)
    volume = 8 * touched[0] * touched[1] * touched[2]
    bits = dict(zip(("contype", "conaffinity"), REAL if comes else UNREAL, strict=True))
    block = element("geom", name=f"{class_}/{_nth(slot)}", type_="box", size=touched,
                    mass=drawn["density"] * volume, friction=(drawn["friction"], 0.005, 0.0001),
                    group=4, **bits)  # fmt: skip
    return element(
        "body", element("freejoint"), block, *seen,
        name=f"{class_}/{_nth(slot)}", pos=(*at[:2], at[2] + half), gravcomp=int(not there),
        quat=(math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)),
    )  # fmt: skip


def _marks(
    a: float, b: float, half: float, skin: Mapping[str, object], rng: np.random.Generator
) -> list[str]:
    """A crack right across the top, or a stain, or both; what there is not lies inside the part."""
    which = rng.integers(3)
    turn, crack = rng.uniform(-0.9, 0.9), rng.uniform(0.005, 0.008)
    stain = rng.uniform(0.32, 0.42) * min(a, b)
    x, y = rng.choice([-1, 1], 2) * rng.uniform(0.4, 0.55, 2) * (a, b)
    crack_z, stain_z = np.where([which != 1, which != 0], half, 0.0)
    return [
        _box((0, 0, crack_z + 0.0008), (1.1 * min(a, b), crack, 0.0006), "mark", skin,
             euler=(0, 0, turn)),
        _tube((x, y, stain_z + 0.0005), stain, 0.0005, "mark", skin),
    ]  # fmt: skip


def _actuators() -> list[str]:
    def motor(joint: str, kv: float, most: float) -> str:
        return element("velocity", name=joint, joint=joint, kv=kv, forcerange=(-most, most))

    return [
        element("velocity", name="belt", joint="belt", kv=1e4),
        motor("shoulder", 30, 90),
        motor("elbow", 12, 40),
        motor("quill", 100, 60),
        element("adhesion", name="suction", body="tool", ctrlrange=(0, 1), gain=60),
    ]


def _sensors() -> list[str]:
    """How hard the tool pushes against the cell (N), then whether it touches each slot's part."""
    touches = [
        element("contact", name=f"touch{slot}", body1="tool", body2=f"{class_}/{_nth(slot)}",
                data="found", num=1)
        for slot, (class_, _) in enumerate(SLOTS)
    ]  # fmt: skip
    hit = element("contact", name="hit", body1="tool", subtree2="cell", data="force", num=1,
                  reduce="netforce")  # fmt: skip
    return [hit, *touches]
