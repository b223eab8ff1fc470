"""Plays a scene: the core's tables, the lives of jobs and the fate of the world, to its end.

The loop is compiled for large scenes and runs as Python for small ones, with equal results;
compiling takes most of a minute, once for each version of the sources.
"""

import time
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType

import numpy as np

from gigafactory.factory import policy as policies
from gigafactory.factory import queue, speed
from gigafactory.factory import state as st
from gigafactory.factory.compiled import compile_modules, core
from gigafactory.twin import loop

SMALL = 400
"""Jobs and nodes together below which Python is done before the compiled loop is loaded."""
REPLACE_S = 7 * 86400.0
"""Until another machine stands for a node that failed too often. Assumed."""


@dataclass
class Scene:
    """What is to be played. `life` has a row a job, in order of submission like the jobs' table."""

    state: st.State
    life: np.ndarray
    world: np.ndarray
    horizon_s: float
    policy: policies.Policy = policies.fifo
    every_s: float = 0.0
    """How often the policy fills its scores anew; 0 for only once."""
    carbon_g_per_j: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """By hour, where the cleanest site stands; for policies."""
    flop_per_work: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Of each kind of job; for policies."""


@dataclass
class Lived:
    """What came of a scene."""

    log: np.ndarray
    """`loop.ATTEMPT` rows in order of start."""
    starts_s: np.ndarray
    state: st.State
    life: np.ndarray
    frames_s: np.ndarray
    frames: np.ndarray
    busy: np.ndarray
    spells: np.ndarray
    events: int
    cpu_s: float
    """CPU-seconds of the loop alone."""
    pieces: np.ndarray
    """`loop.PIECE` rows of each attempt, where they were asked for."""


def live(
    scene: Scene,
    frames: int = 0,
    watched: int = -1,
    compiled: bool | None = None,
    pieces: bool = False,
) -> Lived:
    """Play the scene; its tables are used up. `pieces`: tell which chips each attempt held."""
    state, life = scene.state, scene.life
    if compiled is None:
        compiled = is_large(len(life), int(state.counts[st.NODES]))
    played = _compiled() if compiled else loop
    run = _run(scene, frames, watched, pieces)
    began_s = time.process_time()
    at_s = 0.0
    _score(scene, at_s)
    while True:
        until_s = min(at_s + scene.every_s, scene.horizon_s) if scene.every_s else scene.horizon_s
        came = played.play(state, run, until_s, watched, REPLACE_S)
        if came == loop.FULL:
            run = run._replace(
                log=_longer(run.log), dues=_longer(run.dues), pieces=_longer(run.pieces)
            )
            continue
        if came == loop.ENDED or until_s >= scene.horizon_s:
            break
        at_s = until_s
        _score(scene, at_s)
    at_s = float(run.clock[loop.AT_S]) if np.isfinite(scene.horizon_s) else np.inf
    played.finish(state, run, at_s)
    cpu_s = time.process_time() - began_s
    logged, seen = int(run.clock[loop.LOGGED]), int(run.clock[loop.FRAMES])
    return Lived(
        log=run.log[:logged],
        starts_s=run.starts_s,
        state=state,
        life=life,
        frames_s=run.frames_s[:seen],
        frames=run.frames[:seen],
        busy=run.busy[:seen],
        spells=run.spells[: int(run.clock[loop.SPELLS])],
        events=int(run.clock[loop.EVENTS]),
        cpu_s=cpu_s,
        pieces=run.pieces[: int(run.clock[loop.PIECES])],
    )


def is_large(jobs: int, nodes: int) -> bool:
    """Whether the compiled loop is worth its loading."""
    return jobs + nodes >= SMALL


def warm() -> None:
    """Load the compiled loop, compiling it where this version never was."""
    from gigafactory.twin.bare import scene_of

    live(scene_of(np.zeros(1), np.ones(1), np.ones(1, np.int32)), compiled=True)


@cache
def _compiled() -> ModuleType:
    return compile_modules({"loop": "gigafactory.twin.loop"}, core())["loop"]


def _run(scene: Scene, frames: int, watched: int, pieces: bool) -> loop.Run:
    jobs, nodes = len(scene.life), int(scene.state.counts[st.NODES])
    chips = int(scene.state.nodes["chips"].sum())
    commands = 2 * min(jobs, chips) + 2 * nodes + 64
    return loop.Run(
        life=scene.life,
        world=scene.world,
        dues=np.zeros(2 * commands, loop.DUE),
        log=np.zeros(jobs + jobs // 8 + 2 * commands, loop.ATTEMPT),
        out=np.zeros(commands, st.COMMAND),
        node_speed=np.ones(nodes),
        starts_s=np.full(jobs, np.nan),
        frames_s=(np.arange(frames) + 0.5) * (scene.horizon_s / max(frames, 1)),
        frames=np.zeros((frames, nodes), np.uint8),
        busy=np.zeros((frames, nodes), np.uint8),
        spells=np.zeros(1000 if watched >= 0 else 0, loop.SPELL),
        pieces=np.zeros(2 * len(scene.state.holds) if pieces else 0, loop.PIECE),
        event=np.zeros(1, st.EVENT),
        clock=np.zeros(10),
    )


def _score(scene: Scene, now_s: float) -> None:
    """Fill the scores of all that is yet to come or still lives, and queue by them."""
    if scene.policy is policies.fifo:
        return  # They are all zero already.
    state, jobs = scene.state, scene.state.jobs[: len(scene.life)]
    # Those that come before the next time are scored, too: they are rows of zeros, as if waiting.
    until_s = now_s + scene.every_s if scene.every_s else np.inf
    known = int(np.searchsorted(scene.life["submit_s"], until_s, "right"))
    live_rows = np.flatnonzero(~np.isin(jobs["status"][:known], st.ENDED))
    scores = scene.policy(_asked(scene, live_rows, now_s))
    queued = jobs["status"][live_rows] == st.QUEUED
    jobs["score"][live_rows[~queued]] = scores[~queued]
    order = np.lexsort((live_rows, scores, -jobs["priority"][live_rows]))
    order = order[queued[order]]
    if len(order):
        queue.reorder(state, live_rows[order], scores[order])


def _asked(scene: Scene, rows: np.ndarray, now_s: float) -> policies.Asked:
    jobs, state = scene.state.jobs[rows], scene.state
    best_rate, watts = _best(state, jobs)
    known = (jobs["work"] > 0) & (best_rate > 0)
    best_rate = np.where(known, best_rate, 1.0)
    whole_s = np.where(known, jobs["work"] / best_rate, np.inf)
    left_s = np.where(known, whole_s - jobs["step"] * jobs["step_work"] / best_rate, np.inf)
    flop = scene.flop_per_work[jobs["kind"]] if len(scene.flop_per_work) else np.zeros(len(rows))
    hour = int(now_s // 3600)
    return policies.Asked(
        now_s=now_s,
        chips=jobs["chips"],
        priority=jobs["priority"],
        submitted_s=scene.life["submit_s"][rows],
        whole_s=whole_s,
        left_s=left_s,
        deadline_s=jobs["deadline_s"],
        flop_per_j=flop * best_rate / np.maximum(watts, 1e-9),
        carbon_ahead=scene.carbon_g_per_j[hour : hour + 24 * 14],
    )


def _best(state: st.State, jobs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Work a second, and W, of each job at full width in the pool where it is fastest."""
    both = jobs["kind"].astype(np.int64) << 32 | jobs["chips"]
    which, where = np.unique(both, return_inverse=True)
    found = np.zeros((2, len(which)))
    one = state._replace(jobs=np.zeros(1, st.JOB))
    for i, (kind, chips) in enumerate(zip(which >> 32, which & 0xFFFFFFFF, strict=True)):
        one.jobs["kind"] = kind
        pools = np.flatnonzero(np.isfinite(state.likes[kind]))
        rates = [speed.rate(one, 0, int(p), int(chips)) for p in pools]
        if rates:
            best = int(np.argmax(rates))
            found[:, i] = rates[best], chips * state.chip_mw[kind, pools[best]] / 1e3
    return found[0, where], found[1, where]


def _longer(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table, np.zeros(len(table), table.dtype)])
