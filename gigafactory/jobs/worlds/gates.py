"""Is this world sane? What is measured on any scene, ours or imported, before it is used.

Each gate has a value, the threshold it was held against, and a sentence that says why it matters.
A driver is any free body with two or more driven wheels: round, colliding geoms on hinges that
have a motor each. It is tried alone on the floor, so that no rack is in its way.
"""

import copy
import math
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from gigafactory.jobs.worlds.scene import PARKED_Z, Scene, things

SETTLE_S = 2.0
DRIVE_S = 2.5
DRIVE_M_PER_S = 0.5
SINK_M = 0.01
OVERLAP_M = 0.005
ENERGY_J_PER_KG = 1.0  # lifts everything by 10 cm
DRIFT, SLIP = 0.03, 0.03  # of the distance
Geom = mujoco.mjtGeom
ROUND = [int(shape) for shape in (Geom.mjGEOM_SPHERE, Geom.mjGEOM_ELLIPSOID, Geom.mjGEOM_CYLINDER)]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gate:
    """One measurement. `value` and `threshold` are in what `why` says.

    One that was not `tried`, since there was nothing to try it on, stops nothing; `why` tells.
    """

    name: str
    passed: bool
    value: float
    threshold: float
    why: str
    tried: bool = True


def untried(name: str, threshold: float, why: str) -> Gate:
    """A gate that nothing here could fail."""
    return Gate(name, True, 0.0, threshold, why, tried=False)


@dataclass(frozen=True)
class Driver:
    """A free body on driven wheels: (actuator, joint, geom, radius m, +1 or -1) each."""

    body: int
    wheels: tuple[tuple[int, int, int, float, int], ...]


def check(scene: Scene) -> list[Gate]:
    """Every gate that applies to the scene; the first alone where it does not compile."""
    try:
        model = scene.model()
    except (ValueError, mujoco.FatalError) as error:
        return [Gate("compiles", False, 0, 1, f"MuJoCo refuses it: {error}")]
    return [
        Gate("compiles", True, 1, 1, "MuJoCo accepts it"),
        *at_start(model),
        *left_alone(model),
        *(gate for driver in drivers(model)[:2] for gate in driven(model, driver)),
        *answered(model),
    ]


def at_start(model: mujoco.MjModel) -> list[Gate]:
    """What can be said without letting time pass."""
    simulation = started(model)
    mobile = int(model.njnt + model.nmocap)
    masses = moving(model)
    # No point of a body is farther from its centre of mass than its geoms reach.
    gyration = {
        body: math.sqrt(max(model.body_inertia[body]) / max(model.body_mass[body], 1e-12))
        for body in masses
    }
    worst = max((gyration[body] / max(reach(model, body), 1e-9) for body in masses), default=0.0)
    lightest = min((float(model.body_mass[body]) for body in masses), default=1.0)
    heaviest = max((float(model.body_mass[body]) for body in masses), default=1.0)
    depth = max((-contact.dist for contact in simulation.contact), default=0.0)
    return [
        Gate("can move", mobile > 0, mobile, 1, "joints and mocap bodies: else nothing can move"),
        Gate(
            "masses",
            lightest >= 1e-4 and heaviest <= 1e5,
            lightest if lightest < 1e-4 else heaviest,
            1e-4 if lightest < 1e-4 else 1e5,
            "kg of a body that moves: lighter than 0.1 g or heavier than 100 t is a unit mistaken",
        ),
        Gate(
            "inertias",
            worst <= 1.0,
            worst,
            1.0,
            "radius of gyration, of the body's reach: more is impossible for that shape",
        ),
        Gate(
            "apart",
            depth <= OVERLAP_M,
            depth,
            OVERLAP_M,
            "m that things overlap at the start: the solver will throw them apart",
        ),
    ]


def left_alone(model: mujoco.MjModel) -> list[Gate]:
    """Two seconds with its motors at rest."""
    simulation = started(model)
    floor = floor_z(model, simulation)
    free = [b for b in range(1, model.nbody) if floats(model, b) and not parked(simulation, b)]
    low = [b for b in [*free, *(t.body for t in things(model))] if not parked(simulation, b)]
    sunk = max((floor - lowest(model, simulation, body) for body in low), default=0.0)
    before = energy(simulation)
    rise = 0.0
    for _ in range(math.ceil(SETTLE_S / model.opt.timestep)):
        mujoco.mj_step(model, simulation)
        now = energy(simulation)
        rise = max(rise, now - before) if math.isfinite(now) else math.inf
    mujoco.mj_forward(model, simulation)
    sunk = max([sunk, *(floor - lowest(model, simulation, body) for body in free)])
    warnings = int(sum(warning.number for warning in simulation.warning))
    mass = float(sum(model.body_mass[body] for body in moving(model))) or 1.0
    finite = bool(np.isfinite(simulation.qpos).all())
    if not low:
        sinks = untried("nothing sinks", SINK_M, "no body is free and none is labelled")
    elif math.isinf(floor):
        sinks = untried("nothing sinks", SINK_M, "there is no floor: no level plane to sink into")
    else:
        why = "m below the floor, of things at the start and of free bodies after two seconds"
        sinks = Gate("nothing sinks", sunk <= SINK_M, sunk, SINK_M, why)
    return [
        sinks,
        Gate(
            "nothing explodes",
            rise / mass <= ENERGY_J_PER_KG,
            rise / mass,
            ENERGY_J_PER_KG,
            "J/kg that appear from nowhere while all motors rest: a stack that bursts",
        ),
        Gate(
            "no warnings",
            warnings == 0 and finite,
            warnings,
            0,
            "MuJoCo's own (NaN, huge accelerations, full buffers) in two seconds",
        ),
    ]


def driven(model: mujoco.MjModel, driver: Driver) -> list[Gate]:
    """All wheels alike: does it go straight, and as far as its wheels say?"""
    model = alone(model, driver)
    simulation = started(model)
    hinges = [joint for _, joint, *_ in driver.wheels]
    radii = np.array([radius for *_, radius, _ in driver.wheels])
    signs = np.array([sign for *_, sign in driver.wheels])
    # A wheel that turns about +y rolls to +x.
    forward = np.cross((signs[:, None] * simulation.xaxis[hinges]).mean(0), [0.0, 0.0, 1.0])
    forward /= max(float(np.linalg.norm(forward)), 1e-9)
    turns = model.jnt_qposadr[hinges]
    place = simulation.xpos[driver.body].copy()
    angle = simulation.qpos[turns].copy()
    for actuator, _, _, radius, sign in driver.wheels:
        simulation.ctrl[actuator] = sign * command(model, actuator, radius)
    for _ in range(math.ceil(DRIVE_S / model.opt.timestep)):
        mujoco.mj_step(model, simulation)
    rolled = float(np.mean(signs * radii * (simulation.qpos[turns] - angle)))
    moved = simulation.xpos[driver.body] - place
    along = float(moved @ forward)
    aside = float(np.linalg.norm((moved - along * forward)[:2]))
    far = max(abs(along), 1e-6)
    slip = abs(rolled - along) / max(abs(rolled), 1e-6)
    name = model.body(driver.body).name
    return [
        Gate(
            "goes straight",
            abs(along) > 0.1 and aside / far <= DRIFT,
            aside / far,
            DRIFT,
            f"drift of {name}, of the {far:.2f} m that it went in {DRIVE_S:g} s",
        ),
        Gate(
            "wheels grip",
            slip <= SLIP,
            slip,
            SLIP,
            f"way that the wheels of {name} rolled ({rolled:.2f} m) and it did not go, of the way",
        ),
    ]


def answered(model: mujoco.MjModel) -> list[Gate]:
    """Does what every motor drives move when it is told to?"""
    if not model.nu:
        return []
    rest, pushed = started(model), started(model)
    low, high = model.actuator_ctrlrange.T
    # Halfway to the end of its range that is farther off.
    end = np.where(high - rest.ctrl >= rest.ctrl - low, high, low)
    limited = model.actuator_ctrllimited.astype(bool)
    pushed.ctrl[:] = np.where(limited, (rest.ctrl + end) / 2, rest.ctrl + 1.0)
    for _ in range(math.ceil(0.5 / model.opt.timestep)):
        mujoco.mj_step(model, rest)
        mujoco.mj_step(model, pushed)
    far = np.abs(pushed.actuator_length - rest.actuator_length)
    # What sticks (adhesion) has no length to change.
    idle = int(((far < 1e-4) & (model.actuator_trntype != mujoco.mjtTrn.mjTRN_BODY)).sum())
    return [
        Gate("motors act", idle == 0, idle, 0, "motors that move nothing in half a second of push")
    ]


# What the gates stand on.


def started(model: mujoco.MjModel) -> mujoco.MjData:
    """A simulation at its start, every servo told to stay where it is."""
    simulation = mujoco.MjData(model)
    if model.nkey:
        mujoco.mj_resetDataKeyframe(model, simulation, 0)
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    mujoco.mj_forward(model, simulation)
    servo = model.actuator_biasprm[:, 1] != 0
    simulation.ctrl[servo] = simulation.actuator_length[servo]
    mujoco.mj_forward(model, simulation)
    return simulation


def moving(model: mujoco.MjModel) -> list[int]:
    """The bodies that joints move."""
    return [body for body in range(1, model.nbody) if model.body_weldid[body] and not
            model.body_mocapid[model.body_rootid[body]] >= 0]  # fmt: skip


def floats(model: mujoco.MjModel, body: int) -> bool:
    """Whether the body has a free joint."""
    first = model.body_jntadr[body]
    return first >= 0 and model.jnt_type[first] == mujoco.mjtJoint.mjJNT_FREE


def parked(simulation: mujoco.MjData, body: int) -> bool:
    """Whether this layout does without the body."""
    return bool(simulation.xpos[body, 2] < PARKED_Z / 2)


def energy(simulation: mujoco.MjData) -> float:
    """Potential and kinetic, J."""
    return float(simulation.energy.sum())


def reach(model: mujoco.MjModel, body: int) -> float:
    """From the body's centre of mass to the farthest point of its geoms, m, at most."""
    first, count = model.body_geomadr[body], model.body_geomnum[body]
    return max(
        (
            float(np.linalg.norm(model.geom_pos[geom] - model.body_ipos[body]))
            + float(np.linalg.norm(model.geom_aabb[geom, 3:]))
            + float(np.linalg.norm(model.geom_aabb[geom, :3]))
            for geom in range(first, first + count)
        ),
        # A body without geoms has an inertia that somebody wrote: nothing to hold it against.
        default=math.inf,
    )


def floor_z(model: mujoco.MjModel, simulation: mujoco.MjData) -> float:
    """Height of the highest level plane; without one there is no floor to sink into."""
    levels = [
        float(simulation.geom_xpos[geom, 2])
        for geom in range(model.ngeom)
        if model.geom_type[geom] == Geom.mjGEOM_PLANE and simulation.geom_xmat[geom, 8] > 0.99
    ]
    return max(levels, default=-math.inf)


def lowest(model: mujoco.MjModel, simulation: mujoco.MjData, body: int) -> float:
    """Height of the lowest point of a body and all it carries, m."""
    points = [math.inf]
    for geom in range(model.ngeom):
        part = model.geom_bodyid[geom]
        while part and part != body:
            part = model.body_parentid[part]
        if part == body and model.geom_type[geom] != Geom.mjGEOM_PLANE:
            down = simulation.geom_xmat[geom].reshape(3, 3)[2]
            points.append(
                float(
                    simulation.geom_xpos[geom, 2]
                    + down @ model.geom_aabb[geom, :3]
                    - extent(model, geom, down)
                )
            )
    return min(points)


def extent(model: mujoco.MjModel, geom: int, axis: Floats) -> float:
    """How far a geom reaches from its middle along `axis` (in its own frame), m."""
    size = model.geom_size[geom]
    # numpy's integers equal no member of an enum, ours do.
    match int(model.geom_type[geom]):
        case Geom.mjGEOM_SPHERE:
            return float(size[0])
        case Geom.mjGEOM_ELLIPSOID:
            return float(np.linalg.norm(size * axis))
        case Geom.mjGEOM_CAPSULE:
            return float(size[0] + size[1] * abs(axis[2]))
        case Geom.mjGEOM_CYLINDER:
            return float(size[0] * math.hypot(axis[0], axis[1]) + size[1] * abs(axis[2]))
    return float(np.abs(axis) @ model.geom_aabb[geom, 3:])


def drivers(model: mujoco.MjModel) -> list[Driver]:
    """Every free body that has two driven wheels or more, and is not parked."""
    simulation = started(model)
    found: dict[int, list[tuple[int, int, int, float, int]]] = {}
    axes: dict[int, Floats] = {}
    for actuator in range(model.nu):
        joint = model.actuator_trnid[actuator, 0]
        if (
            model.actuator_trntype[actuator] != mujoco.mjtTrn.mjTRN_JOINT
            or model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_HINGE
            or model.actuator_biasprm[actuator, 1] != 0
        ):
            continue
        body = model.jnt_bodyid[joint]
        root = model.body_rootid[body]
        axis = simulation.xaxis[joint]
        if not floats(model, root) or parked(simulation, root) or abs(axis[2]) > 0.1:
            continue
        first = model.body_geomadr[body]
        for geom in range(first, first + model.body_geomnum[body]):
            if int(model.geom_type[geom]) in ROUND and (
                model.geom_contype[geom] or model.geom_conaffinity[geom]
            ):
                axle = axes.setdefault(int(root), axis.copy())
                sign = 1 if axis @ axle > 0 else -1
                radius = float(model.geom_size[geom, 0])
                found.setdefault(int(root), []).append((actuator, int(joint), geom, radius, sign))
                break
    return [Driver(body, tuple(wheels)) for body, wheels in found.items() if len(wheels) > 1]


def alone(model: mujoco.MjModel, driver: Driver) -> mujoco.MjModel:
    """The model with the driver and the planes as the only things that touch."""
    model = copy.copy(model)
    for geom in range(model.ngeom):
        plane = model.geom_type[geom] == Geom.mjGEOM_PLANE
        mine = model.body_rootid[model.geom_bodyid[geom]] == driver.body
        if not plane and not mine:
            model.geom_contype[geom] = model.geom_conaffinity[geom] = 0
    return model


def command(model: mujoco.MjModel, actuator: int, radius: float) -> float:
    """Half a metre a second for a velocity servo, a fifth of its most for any other motor."""
    if model.actuator_biasprm[actuator, 2] != 0:
        return DRIVE_M_PER_S / radius
    return 0.2 * float(model.actuator_ctrlrange[actuator, 1] or 1.0)
