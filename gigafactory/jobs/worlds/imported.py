"""A world from a user's file: MJCF, URDF or OpenUSD, read in a process of its own.

Whatever a file does to the libraries that read it (crash, hang, take all memory), it does to that
process, and becomes one refusal. What pictures need and the file has not is added, and told: a
floor, a light, a camera that goes around the world and looks at its middle. Lengths m, angles rad.
"""

import base64
import functools
import importlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import mujoco
import numpy as np

from gigafactory.jobs.worlds.mjcf_read import Element, World
from gigafactory.jobs.worlds.scene import Range, Scene, WorldRefused, draw, things

READERS = {".xml": "mjcf_read", ".urdf": "mjcf_read", ".usd": "usd_read", ".usda": "usd_read",
           ".usdc": "usd_read"}  # fmt: skip
MEMORY_BYTES = 6 << 30
READ_S = 120.0
ORBIT = "gigafactory_orbit"
"""Marks a world whose camera is ours, as a number of its own."""
SETTLE_S, SETTLE_STEPS = 0.2, 60

PARAMETERS = {
    "azimuth": Range(-math.pi, math.pi, "rad"),
    "elevation": Range(0.35, 1.0, "rad"),
    "distance": Range(1.4, 2.4),
    "light": Range(0.6, 1.3),
    "colour": Range(0.0, 0.15),
    "shift": Range(0.0, 0.02, "m"),
    "turn": Range(0.0, 0.15, "rad"),
}
"""Camera around the world (distance in radii), light (times what it is), how far colours, free
bodies and cameras are moved at most."""
LOOKS = ("azimuth", "elevation", "distance", "light", "colour")


@dataclass(frozen=True)
class Imported:
    """What a file holds, and what is not as it is there."""

    scene: Scene
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Nominal:
    """A model's looks as it was compiled, so that jitter does not add up."""

    diffuse: Any
    geoms: Any
    materials: Any
    cameras: Any
    low: Any
    high: Any


_nominal: WeakKeyDictionary[mujoco.MjModel, Nominal] = WeakKeyDictionary()


def read(path: Path | str) -> Scene:
    """The world of a file, whole."""
    return look(path).scene


def look(path: Path | str, still: bool = False) -> Imported:
    """The world of a file, and what a person should be told about it.

    One in which nothing can move is refused, unless it may be `still`.
    """
    path = Path(path)
    known(path)
    state = path.stat()
    return _look(str(path.resolve()), state.st_mtime_ns, state.st_size, still)


def known(path: Path) -> None:
    """Refuse what is no file of a form that we read."""
    if path.suffix.lower() not in READERS:
        raise WorldRefused(
            f"no world is read from {path.suffix or 'such a file'}",
            str(path),
            f"known are {', '.join(READERS)}",
            "export it as one of these",
        )
    if not path.is_file():
        why = "a folder is there" if path.is_dir() else "nothing is there"
        raise WorldRefused("there is no such file", str(path), why, "correct the path")


@functools.lru_cache(maxsize=32)
def _look(path: str, changed_ns: int, size: int, still: bool) -> Imported:
    """As `look`; a file that has changed is read anew."""
    asked = json.dumps(path) + "\n"
    reader = [sys.executable, "-m", "gigafactory.jobs.worlds.imported", *(["still"] * still)]
    name = Path(path).name
    with tempfile.TemporaryDirectory() as cwd:  # MuJoCo leaves its log where it stands.
        try:
            ran = subprocess.run(
                reader, input=asked, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd, timeout=READ_S,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise WorldRefused(
                "the file could not be read",
                name,
                f"reading it takes more than {READ_S:g} s",
                "make it simpler",
            ) from None
    if not ran.stdout.endswith("\n"):
        raise WorldRefused(
            "the file could not be read", name,
            f"its reader ended with {ran.returncode}: it is damaged, or needs too much memory",
            "export the world again, or make it simpler",
        )  # fmt: skip
    return answer(json.loads(ran.stdout))


def answer(told: dict[str, Any]) -> Imported:
    """What the reading process said."""
    if "refused" in told:
        raise WorldRefused(*told["refused"])
    assets = {name: base64.b64decode(content) for name, content in told["assets"].items()}
    scene = Scene("import", 0, told["mjcf"], {}, tuple(told["classes"]), assets)
    return Imported(scene, tuple(told["notes"]))


def here(path: Path, still: bool = False) -> dict[str, Any]:
    """Read a file in this process: what `answer` understands."""
    try:
        known(path)
        if not path.stat().st_size:
            raise WorldRefused(
                "the file is empty", path.name, "it holds nothing", "export it again"
            )
        reader = importlib.import_module(f"gigafactory.jobs.worlds.{READERS[path.suffix.lower()]}")
        world: World = reader.read(path)
        return _finished(world, path.name, still)
    except WorldRefused as refused:
        return {"refused": [refused.what, refused.where, refused.why, refused.remedy]}
    except (MemoryError, RecursionError) as error:
        return {
            "refused": [
                "the file could not be read",
                path.name,
                f"it is too big or too deep: {type(error).__name__}",
                "make it simpler",
            ]
        }
    except OSError as error:
        why = error.strerror or type(error).__name__
        return {
            "refused": ["the file could not be read", path.name, why, "see that it can be read"]
        }
    except Exception as error:
        # Libraries answer a damaged file with errors of every kind; who reads it wants one.
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return {"refused": ["the file could not be read", path.name, why, "export the world again"]}


def moment(
    model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, randomise: bool = True
) -> dict[str, float]:
    """One fresh moment: free bodies moved a little and at rest again, light, colours, camera."""
    usual = _usual(model)
    drawn = draw(rng, PARAMETERS, fixed=() if randomise else LOOKS)
    noise = np.random.default_rng(rng.integers(2**63))
    strength = drawn["light"] if randomise else 1.0
    tint = drawn["colour"] if randomise else 0.0
    model.light_diffuse[:] = np.clip(usual.diffuse * strength, 0, 1)
    for now, colours in ((model.geom_rgba, usual.geoms), (model.mat_rgba, usual.materials)):
        jitter = noise.uniform(1 - tint, 1 + tint, (len(colours), 3))
        now[:, :3] = np.clip(colours[:, :3] * jitter, 0, 1)
    settle(model, data, noise, drawn["shift"], drawn["turn"])
    if model.nnumeric and model.numeric(0).name == ORBIT:
        _orbit(model, usual, drawn)
    elif randomise:
        model.cam_pos[:] = (
            usual.cameras + noise.uniform(-1, 1, usual.cameras.shape) * drawn["shift"]
        )
    mujoco.mj_forward(model, data)
    return drawn


def advance(
    model: mujoco.MjModel, data: mujoco.MjData, rng: np.random.Generator, seconds: float
) -> None:
    """Let it go on; what is driven wanders within its limits."""
    steps = max(1, round(seconds / model.opt.timestep))
    every = max(1, round(0.2 / model.opt.timestep))
    low, high = model.actuator_ctrlrange.T
    for step in range(steps):
        if step % every == 0 and model.nu:
            data.ctrl += rng.normal(0, 0.1, model.nu) * (high - low)
            limited = model.actuator_ctrllimited.astype(bool)
            data.ctrl[limited] = np.clip(data.ctrl, low, high)[limited]
        mujoco.mj_step(model, data)


def box(model: mujoco.MjModel, data: mujoco.MjData) -> tuple[Any, Any]:
    """The lowest and highest corner of what is drawn, but for planes without end."""
    drawn = (model.geom_group <= 2) & (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE)
    if not drawn.any():
        return np.full(3, -1.0), np.full(3, 1.0)
    turn = data.geom_xmat[drawn].reshape(-1, 3, 3)
    aabb = model.geom_aabb[drawn]
    middle = data.geom_xpos[drawn] + np.einsum("nij,nj->ni", turn, aabb[:, :3])
    half = np.einsum("nij,nj->ni", np.abs(turn), aabb[:, 3:])
    return (middle - half).min(0), (middle + half).max(0)


def _usual(model: mujoco.MjModel) -> Nominal:
    if model not in _nominal:
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        _nominal[model] = Nominal(
            model.light_diffuse.copy(), model.geom_rgba.copy(), model.mat_rgba.copy(),
            model.cam_pos.copy(), *box(model, data),
        )  # fmt: skip
    return _nominal[model]


def settle(
    model: mujoco.MjModel, data: mujoco.MjData, noise: Any, shift: float, turn: float
) -> None:
    """Move what is free, and let it come to rest."""
    for moved in (True, False):
        if model.nkey:
            mujoco.mj_resetDataKeyframe(model, data, 0)
        else:
            mujoco.mj_resetData(model, data)
        if not moved:
            return  # It does not stand being moved; it stays as it was.
        move(model, data.qpos, noise, shift, turn)
        for _ in range(min(SETTLE_STEPS, math.ceil(SETTLE_S / model.opt.timestep))):
            mujoco.mj_step(model, data)
        bad = data.warning[int(mujoco.mjtWarning.mjWARN_BADQACC)].number
        if np.isfinite(data.qpos).all() and not bad:
            data.qvel[:] = 0
            return


def move(model: mujoco.MjModel, qpos: Any, noise: Any, shift: float, turn: float) -> None:
    """Shift and turn free bodies on the spot, by so much at most."""
    for joint in np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE):
        at = int(model.jnt_qposadr[joint])
        qpos[at : at + 2] += noise.uniform(-shift, shift, 2)
        yaw = noise.uniform(-turn, turn) / 2
        turned = np.zeros(4)
        mujoco.mju_mulQuat(
            turned, np.array([math.cos(yaw), 0, 0, math.sin(yaw)]), qpos[at + 3 : at + 7]
        )
        qpos[at + 3 : at + 7] = turned


def _orbit(model: mujoco.MjModel, usual: Nominal, drawn: dict[str, float]) -> None:
    """Put our camera around the world, looking at its middle."""
    middle, radius = (usual.low + usual.high) / 2, float(np.linalg.norm(usual.high - usual.low)) / 2
    azimuth, elevation = drawn["azimuth"], drawn["elevation"]
    back = np.array([math.cos(azimuth) * math.cos(elevation),
                     math.sin(azimuth) * math.cos(elevation), math.sin(elevation)])  # fmt: skip
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    model.cam_pos[0] = middle + back * drawn["distance"] * max(radius, 0.05)
    axes = np.stack([right, np.cross(back, right), back], 1)
    mujoco.mju_mat2Quat(model.cam_quat[0], axes.ravel())


def _finished(world: World, told: str, still: bool) -> dict[str, Any]:
    """Compile it, see that something moves, and add what pictures need."""
    model = world.compiled()
    if not model.nv and not model.nmocap and not still:
        raise WorldRefused(
            "nothing in this world can move", told,
            f"its {model.nbody - 1} bodies have no joint",
            "give a body a joint (<freejoint/> in MJCF, RigidBodyAPI in USD, a joint in URDF); or"
            " let a robot act in it, which it may do as it is",
        )  # fmt: skip
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    low, high = box(model, data)
    ground = (model.body_weldid[model.geom_bodyid] == 0) & (model.geom_group <= 2)
    root = world.root.child("worldbody")
    if not ground.any():
        z = float(low[2]) - 0.001
        root.add(
            "geom",
            name="floor",
            type="plane",
            size="0 0 1",
            pos=[0.0, 0.0, z],
            rgba="0.5 0.5 0.5 1",
        )
        world.notes.append(f"it has no floor: one is put at z = {z:.4g} m")
    if not model.nlight:
        root.add(
            "light", type="directional", dir="-0.4 0.3 -1", diffuse="0.7 0.7 0.7", castshadow=False
        )
        world.notes.append("it has no light: one is added")
    _cameras(world, root, model, low, high)
    model = world.compiled()
    try:
        data = mujoco.MjData(model)
        for _ in range(3):  # What stops the engine does so here, and not in a job.
            mujoco.mj_step(model, data)
    except mujoco.FatalError as error:
        raise WorldRefused("the engine stops at this world", told, str(error),
                           "look for shapes and masses without size") from None  # fmt: skip
    labelled = things(model)
    return {
        "mjcf": world.text()[0], "notes": world.notes,
        "classes": list(dict.fromkeys(thing.class_ for thing in labelled)),
        "assets": {name: base64.b64encode(held).decode() for name, held in world.assets.items()},
    }  # fmt: skip


def _cameras(world: World, root: Element, model: mujoco.MjModel, low: Any, high: Any) -> None:
    """Call cameras `camera/0`, `camera/1`, ...; where there is none, add ours."""
    bodies = [child for child in world.root.children if child.tag == "worldbody"]
    own = [each for body in bodies for each in body.walk() if each.tag == "camera"]
    renamed = {}
    for number, camera in enumerate(own):
        renamed[camera.attributes.get("name", "")] = f"camera/{number}"
        camera.attributes["name"] = f"camera/{number}"
    for element in world.root.walk():
        if (name := element.attributes.get("camera", "")) in renamed:
            element.attributes["camera"] = renamed[name]
        if element.attributes.get("objtype") == "camera":
            name = element.attributes.get("objname", "")
            element.attributes["objname"] = renamed.get(name, name)
    if own or any(re.fullmatch(r"camera/\d+", model.cam(i).name) for i in range(model.ncam)):
        return
    radius = max(float(np.linalg.norm(high - low)) / 2, 0.05)
    # It stands first, so that its number in the model is 0.
    root.add("camera", name="camera/0", pos=(low + high) / 2 + [0, 0, 3 * radius], fovy=55.0)
    root.children.insert(0, root.children.pop())
    custom = Element("custom", {}, root.file, root.line)
    custom.add("numeric", name=ORBIT, data="1")
    world.root.children.insert(0, custom)
    world.notes.append("it has no camera: one goes around it")


def _serve() -> None:
    """Answer each line of the input, the path of a file, with one line."""
    speak = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no answer.
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        speak.write(json.dumps(here(Path(json.loads(line)), "still" in sys.argv)) + "\n")
        speak.flush()


if __name__ == "__main__":
    _serve()
