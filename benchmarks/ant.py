"""Gymnasium's Ant-v5, 64 at once: ours beside Gymnasium's own vector environments.

    python benchmarks/ant.py [--copies 64] [--steps 100] [--rounds 5] [--json]

Steps of the environment (each five of physics) per CPU-second, one thread, random actions, falls
and resets included. The observations, rewards, ends and infos are the same to the last bit
(`tests/test_gym.py` holds them against each other). Contenders take turns, each in a process
of its own; every round is printed with its ratio, and the medians count. The vector interface
(autoreset, infos) is the one our worlds have, the physics is `mujoco.batch.Batch`, as there.

Physics is the floor: some 95 % of our step is inside MuJoCo, twenty evaluations of the ant (five
steps of Runge-Kutta) whose arithmetic the last bit allows nobody to change.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box
from mujoco.batch import Batch
from numba import cfunc, types

from gigafactory.jobs.worlds.gym import Many
from gigafactory.jobs.worlds.task import Step, untimed

FRAMES = 5
STEPS_MAX = 1000
CONTROL_COST, CONTACT_COST, CONTACT_LIMIT = 0.5, 5e-4, 1.0
HEALTHY_Z = 0.2, 1.0
NOISE = 0.1


class Plugin(ctypes.Structure):
    """MuJoCo's `mjpPlugin` (mjplugin.h), the callbacks as addresses."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("attributes", ctypes.c_int),
        ("attribute", ctypes.c_void_p),
        ("capabilities", ctypes.c_int),
        ("stage", ctypes.c_int),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("nstate", "nsensordata", "init", "destroy", "copy", "reset", "compute"),
                *("advance", "visualize", "act_dot", "distance", "gradient", "static"),
                *("attribute_of", "aabb"),
            )
        ),
    )


@cfunc(types.int32(types.voidptr, types.int32))
def _no_state(model: Any, instance: int) -> int:
    return 0


@cfunc(types.int32(types.voidptr, types.voidptr, types.int32))
def _begin(model: Any, simulated: Any, instance: int) -> int:
    return 0


@cfunc(types.void(types.voidptr, types.voidptr, types.voidptr, types.int32))
def _reset(model: Any, state: Any, data: Any, instance: int) -> None:
    pass


@cfunc(types.void(types.voidptr, types.voidptr, types.int32, types.int32))
def _compute(model: Any, simulated: Any, instance: int, capability: int) -> None:
    pass


CONTACTS = "gigafactory.contacts"


def model() -> mujoco.MjModel:
    """Gymnasium's ant, whose steps end with the forces of contact on each body.

    Gymnasium calls `mj_rnePostConstraint` after the steps; a batch cannot, and after a step of
    Runge-Kutta the forces are those of its last stage, which no sensor sees. So the function is
    hung in where time goes on, at each step's end, as an engine plugin that does nothing else.
    (It takes two arguments and is handed three: in C's calling conventions the third is ignored.)

    What cannot touch need not be looked for: all that collides in this model is the ant's parts
    with the floor, so the pairs are named. No islands are sought where there is one ant, nor
    springs, dry friction, equalities or sensors where there are none; the camera and the light,
    which nobody looks at, are left out. That was 2 % of the time.
    """
    library = ctypes.CDLL(str(next(Path(mujoco.__file__).parent.glob("libmujoco*"))))
    plugin = Plugin()
    library.mjp_defaultPlugin(ctypes.byref(plugin))
    plugin.name = CONTACTS.encode()
    plugin.capabilities = int(mujoco.mjtPluginCapabilityBit.mjPLUGIN_PASSIVE)
    plugin.nstate, plugin.init = _no_state.address, _begin.address
    plugin.reset, plugin.compute = _reset.address, _compute.address
    plugin.advance = ctypes.cast(library.mj_rnePostConstraint, ctypes.c_void_p).value
    library.mjp_registerPlugin(ctypes.byref(plugin))

    text = (Path(gymnasium.__file__).parent / "envs/mujoco/assets/ant.xml").read_text("utf-8")
    plain = mujoco.MjModel.from_xml_string(text)
    extension = f'<extension><plugin plugin="{CONTACTS}"><instance name="0"/></plugin></extension>'
    text = text.replace("<worldbody>", f"{extension}<worldbody>", 1)
    torso = '<body name="torso" pos="0 0 0.75">'
    assert torso in text
    spec = mujoco.MjSpec.from_string(text.replace(torso, f'{torso}<plugin instance="0"/>', 1))
    floor = plain.geom("floor")
    for geom in spec.geoms:
        part = plain.geom(geom.name)
        if part.id != floor.id:
            slide, spin, roll = np.maximum(part.friction, floor.friction)
            spec.add_pair(
                geomname1=floor.name,
                geomname2=part.name,
                condim=max(part.condim[0], floor.condim[0]),
                margin=part.margin[0] + floor.margin[0],
                solref=part.solref,
                solimp=part.solimp,
                friction=[slide, slide, spin, roll, roll],
            )
        geom.contype = geom.conaffinity = 0
    for seen in (*spec.cameras, *spec.lights):
        spec.delete(seen)
    ant = spec.compile()
    assert not ant.jnt_stiffness.any()
    assert not ant.dof_frictionloss.any()
    for idle in ("ISLAND", "SPRING", "FRICTIONLOSS", "EQUALITY", "SENSOR", "MIDPHASE"):
        ant.opt.disableflags |= int(getattr(mujoco.mjtDisableBit, f"mjDSBL_{idle}"))
    return ant


class Ant:
    """`n` ants, stepped together; a seed of None goes on with a copy's own chance."""

    name = "ant"
    action_size = 8

    def __init__(self, n: int, threads: int = 1):
        untimed()
        self.n = n
        self.drawn: list[dict[str, float]] = [{} for _ in range(n)]
        self.batch = Batch(model(), n, threads)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.ctrl, self.force = self.batch.bind("ctrl"), self.batch.bind("cfrc_ext")
        self.torso = self.batch.bind("xpos")[:, 1, :2]
        self.still = self.batch.model.qpos0.copy()
        self.begin = self.batch.state[0].copy()
        self.step_s = self.batch.model.opt.timestep * FRAMES
        self.chance: list[Any] = [None] * n
        self.steps = np.zeros(n, int)
        self.healthy, self.ended = np.ones(n, bool), np.ones(n, bool)
        positions, speeds = self.qpos.shape[1] - 2, self.qvel.shape[1]
        self.observation_size = positions + speeds + self.force[0, 1:].size
        self.observation = np.zeros((n, self.observation_size))
        self.positions = self.observation[:, :positions]
        self.speeds = self.observation[:, positions : positions + speeds]
        self.contact = self.observation[:, positions + speeds :]
        # Gymnasium's sum has the world's row, of zeros, before; the order of a sum is its bits.
        self.squares = np.zeros((n, self.force[0].size))
        self.terms: dict[str, Any] = {}

    def reset(self, seeds: Sequence[int | None], ids: Sequence[int] | None = None) -> Any:
        rows = np.arange(self.n) if ids is None else np.asarray(ids)
        for row, seed in zip(rows, seeds, strict=True):
            if seed is not None:
                self.chance[row] = gymnasium.utils.seeding.np_random(seed)[0]
        self.batch.state[rows] = self.begin
        for row in rows:
            chance = self.chance[row]
            self.qpos[row] = self.still + chance.uniform(-NOISE, NOISE, self.still.size)
            self.qvel[row] = NOISE * chance.standard_normal(self.qvel.shape[1])
        self.batch.forward(rows)
        self.steps[rows] = 0
        self.ended[rows] = False
        self._observe()
        self.contact[rows] = 0  # Gymnasium does not compute forces at rest.
        return self.observation

    def step(self, action: Any) -> Step:
        alive = ~self.ended
        before = self.torso.copy()
        self.ctrl[alive] = action[alive]
        self.batch.step(None if alive.all() else np.flatnonzero(alive), nstep=FRAMES)
        self.steps += alive
        self._observe()
        velocity = (self.torso - before) / self.step_s
        low, high = HEALTHY_Z
        state = self.batch.state
        self.healthy = (low <= self.qpos[:, 2]) & (self.qpos[:, 2] <= high)
        if not np.isfinite(state).all():
            self.healthy &= np.isfinite(self.qpos).all(1) & np.isfinite(self.qvel).all(1)
        control = np.float32(CONTROL_COST) * np.square(action).sum(1)
        np.square(self.contact, out=self.squares[:, -self.contact.shape[1] :])
        contact = CONTACT_COST * self.squares.sum(1)
        survive = self.healthy * 1.0
        self.terms = {
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": velocity[:, 0],
            "reward_ctrl": -control,
            "reward_contact": -contact,
            "reward_survive": survive,
        }
        reward = velocity[:, 0] + survive - (control + contact)
        out_of_time = self.steps >= STEPS_MAX
        self.ended = ~self.healthy | out_of_time
        none = np.zeros(self.n, bool)
        return Step(self.observation, reward, self.ended, none, ~self.healthy)

    def _observe(self) -> None:
        self.positions[:] = self.qpos[:, 2:]
        self.speeds[:] = self.qvel
        forces = self.force.reshape(self.n, -1)[:, -self.contact.shape[1] :]
        np.minimum(
            np.maximum(forces, -CONTACT_LIMIT, out=self.contact), CONTACT_LIMIT, out=self.contact
        )


class Ants(Many):
    """The ants with Gymnasium's spaces and infos."""

    def __init__(self, n: int, threads: int = 1):
        # As Gymnasium: a seed counts on over the copies, and what falls goes on by its own chance.
        ants: Any = Ant(n, threads)
        super().__init__(ants, lambda seed, copy, episode: None if episode else seed + copy)
        size = self.task.observation_size
        self.single_observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.observation_space = Box(-np.inf, np.inf, (n, size), np.float64)

    def infos(self, step: Step | None, begun: Any) -> dict[str, Any]:
        ant: Any = self.task
        everywhere = np.ones(ant.n, bool)
        place = ant.qpos[:, :2].copy()
        told: dict[str, Any] = {
            "x_position": place[:, 0],
            "y_position": place[:, 1],
            # The dot product of a row is its `norm`'s; a sum of squares rounds otherwise.
            "distance_from_origin": np.sqrt(np.vecdot(place, place)),
        }
        told |= {f"_{name}": everywhere for name in tuple(told)}
        if step is not None and not begun.all():
            for name, values in ant.terms.items():
                told[name], told[f"_{name}"] = np.where(begun, values.dtype.type(0), values), ~begun
        return told


def many(copies: int, threads: int = 1) -> Ants:
    """Our ants."""
    return Ants(copies, threads)


CONTENDERS = {
    "gigafactory": many,
    "SyncVectorEnv": lambda copies: gymnasium.make_vec("Ant-v5", copies, "sync"),
    "AsyncVectorEnv": lambda copies: gymnasium.make_vec("Ant-v5", copies, "async"),
}


def rate(name: str, copies: int, steps: int) -> float:
    """Steps of the environment per CPU-second, of this process and its children."""
    envs = CONTENDERS[name](copies)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, copies, 8)).astype(np.float32)
    envs.reset(seed=0)
    envs.step(actions[0])
    begun_s = cpu_s()
    for action in actions:
        envs.step(action)
    took_s = cpu_s() - begun_s
    envs.close()
    return steps * copies / took_s


def cpu_s() -> float:
    """CPU-seconds of this process and, through /proc, of the living processes it started."""
    total_s = time.process_time()
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            total_s += (int(fields[11]) + int(fields[12])) * tick_s
    return total_s


def main() -> None:
    """Measure in turn, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=CONTENDERS, help="this one alone, in this process")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.only:
        print(rate(asked.only, asked.copies, asked.steps))
        return
    size = ["--copies", str(asked.copies), "--steps", str(asked.steps)]
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(asked.rounds):
        for name, found in rates.items():
            command = [sys.executable, __file__, *size, "--only", name]
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            run = subprocess.run(
                command, check=True, capture_output=True, text=True, env=one_thread
            )
            found.append(float(run.stdout))
    middle = {name: median(found) for name, found in rates.items()}
    pairs = zip(rates["gigafactory"], rates["SyncVectorEnv"], strict=True)
    ratios = [ours / theirs for ours, theirs in pairs]
    if asked.json:
        told = {"steps_per_cpu_s": middle, "ratio": median(ratios), "ratios": ratios}
        print(json.dumps({**told, "rounds": rates}, indent=1))
        return
    rows = {**rates, "ratio to SyncVectorEnv": ratios}
    print(f"{'steps per CPU-s':22} {'median':>8}  rounds")
    for name, found in rows.items():
        digits = 2 if found is ratios else 0
        rounds = " ".join(f"{value:8.{digits}f}" for value in found)
        print(f"{name:22} {median(found):8.{digits}f}  {rounds}")


if __name__ == "__main__":
    main()
