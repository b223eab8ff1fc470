"""The twin's loop: what the works learns from Ray is drawn here. Modelled. s, work in job units.

Plain loops over plain arrays like the core's, and compiled like it. Three sources of events,
merged by time: submissions (the jobs' table, in order), the world (`World`: nodes that fail and
come back, caps, calendars, drawn before the run, so that two policies meet the same fate),
and ends, on a heap. At equal times what ends comes first, then the world, then submissions;
then the core starts what it can, once.

A job works at the rate of its width, less the share of time that its checkpoints take. A
failure keeps what the last checkpoint before it held; a stop writes one first.
"""

from typing import NamedTuple

import numpy as np

from gigafactory.factory.place import stands_on
from gigafactory.factory.schedule import schedule
from gigafactory.factory.speed import rate
from gigafactory.factory.state import (
    CANCEL,
    CHECKPOINTED,
    ENDED_WELL,
    EVENT,
    HOLDS_CHIPS,
    JOBS,
    JOIN,
    LOSE_NODE,
    NEXT,
    QUEUED,
    REPLACE,
    RUNNING,
    START,
    STARTED,
    STARTING,
    STOP,
    STOPPED,
    STOPPING,
    SUBMIT,
    TICK,
    WAKE,
    State,
)
from gigafactory.factory.step import accepts, happen
from gigafactory.factory.why import why

SLOW, MEND = 120, 121
"""World rows beside the core's events: a node slows its gangs to `value` millionths, and heals."""

LIFE = np.dtype(
    [
        ("submit_s", "f8"),
        ("overhead_s", "f8"),  # from start to work
        ("restart_s", "f8"),  # the same after a failure
        ("luck", "f8"),  # how much faster than the plan's tables it turns out to be
        ("every", "f8"),  # work between checkpoints, 0 for none
        ("write_s", "f8"),  # how long one stops the work
        # Of the attempt that runs:
        ("since_s", "f8"),  # it works since then, at `rate`,
        ("done", "f8"),  # and had done so much by then
        ("rate", "f8"),
        ("was_since_s", "f8"),  # the same of the stretch before this one
        ("was_done", "f8"),
        ("was_rate", "f8"),
        ("version", "i4"),  # of its place on the heap
        ("failed", "?"),  # the attempt before was lost
        ("row", "i8"),  # in the log
    ],
    align=True,
)
WORLD = np.dtype([("event", EVENT), ("frozen_s", "f8")], align=True)
"""`frozen_s`: from when on a failed node's work was in vain; it is noticed at `event.at_s`."""
ATTEMPT = np.dtype(
    [
        ("job", "i4"),
        ("attempt", "i4"),
        ("pool", "i4"),
        ("width", "i4"),
        ("outcome", "i1"),  # ENDED_WELL, STOPPED, LOSE_NODE; 0 for still running
        ("started_s", "f8"),
        ("ended_s", "f8"),
        ("kept", "f8"),  # work that it added; negative where it found older work corrupt
        ("lost", "f8"),  # work that it did in vain
    ],
    align=True,
)
DUE = np.dtype(
    [("at_s", "f8"), ("order", "i8"), ("job", "i4"), ("version", "i4"), ("kind", "i1")], align=True
)
PIECE = np.dtype([("row", "i8"), ("node", "i4"), ("chips", "i4")], align=True)
"""Of an attempt, which is a row in the log."""
SPELL = np.dtype([("at_s", "f8"), ("why", "i1"), ("behind", "i4")], align=True)

ENDED, FULL, PAUSE = range(3)
"""Why the loop came back: nothing is left, the log is full, it is time for the policy."""

AT_S, NEXT_JOB, NEXT_WORLD, DUES, ORDER, LOGGED, FRAMES, SPELLS, EVENTS, PIECES = range(10)
"""Of `clock`: where the run is, as floats; they stay whole numbers well below 2**53."""


class Run(NamedTuple):
    """Everything the loop reads and writes beside the core's tables."""

    life: np.ndarray
    world: np.ndarray
    dues: np.ndarray  # heap of ends, as long as there may be running jobs, twice
    log: np.ndarray
    out: np.ndarray  # commands
    node_speed: np.ndarray  # share of full speed
    starts_s: np.ndarray  # first start of each job, nan before
    frames_s: np.ndarray  # when to look at the floor
    frames: np.ndarray  # (frames, nodes) tenant + 1 of most chips, 0 idle; 254 down, 253 drained
    busy: np.ndarray  # (frames, nodes) percent
    spells: np.ndarray  # what `watched` waited for
    pieces: np.ndarray  # of nodes that each attempt holds; not asked for where there is no room
    event: np.ndarray  # one row, written anew for each
    clock: np.ndarray


def play(state: State, run: Run, until_s: float, watched: int, replace_s: float) -> int:
    """Live until `until_s` or the end; come back early when the log is full."""
    clock, event = run.clock, run.event[0]
    while True:
        now_s = _next_s(state, run)
        if now_s > until_s or now_s == np.inf:
            clock[AT_S] = until_s
            return ENDED if now_s == np.inf else PAUSE
        room = len(run.out)
        if clock[LOGGED] + room > len(run.log) or clock[DUES] + room > len(run.dues):
            return FULL
        if len(run.pieces) > 0 and clock[PIECES] + len(state.holds) > len(run.pieces):
            return FULL
        _look(state, run, now_s)
        clock[AT_S] = now_s
        written = _ends(state, run, event, now_s)
        written = _world(state, run, event, now_s, written)
        written = _submissions(state, run, event, now_s, written)
        written = schedule(state, now_s, run.out, written)
        for i in range(written):
            _carry_out(state, run, event, i, now_s, replace_s)
        if watched >= 0:
            _watch(state, run, watched, now_s)


def finish(state: State, run: Run, at_s: float) -> None:
    """Look at the floor and log what still runs at the end, as far as it has come."""
    _look(state, run, at_s)
    for p in range(len(state.pools)):
        j = state.pools[p]["first_run"]
        while j >= 0:
            _close(state, run, j, at_s, _done(state, run, j, at_s), 0)
            j = state.jobs[j]["behind"]


def _next_s(state: State, run: Run) -> float:
    clock, at_s = run.clock, np.inf
    j, w = int(clock[NEXT_JOB]), int(clock[NEXT_WORLD])
    if j < state.counts[JOBS]:
        at_s = run.life[j]["submit_s"]
    if w < len(run.world):
        at_s = min(at_s, run.world[w]["event"]["at_s"])
    if clock[DUES] > 0:
        at_s = min(at_s, run.dues[0]["at_s"])
    return at_s


def _tell(state: State, run: Run, event: np.void, written: int) -> int:
    run.clock[EVENTS] += 1
    return happen(state, event, run.out, written)


def _ends(state: State, run: Run, event: np.void, now_s: float) -> int:
    """Everything on the heap that is due now."""
    written, clock = 0, run.clock
    while clock[DUES] > 0 and run.dues[0]["at_s"] == now_s:
        due = run.dues[0]
        j, version, kind = due["job"], due["version"], due["kind"]
        _pop(run)
        if kind in (TICK, JOIN):  # A pause is over; another node stands for a lemon.
            event["kind"], event["where"], event["at_s"], event["value"] = kind, j, now_s, 1
            written = _tell(state, run, event, written)
            continue
        job = state.jobs[j]
        if run.life[j]["version"] != version or job["status"] not in HOLDS_CHIPS:
            continue
        if kind == ENDED_WELL:
            _close(state, run, j, now_s, job["work"], ENDED_WELL)
        else:
            done = _done(state, run, j, now_s)
            _close(state, run, j, now_s, done, STOPPED)
            written = _checkpoint(state, run, event, j, done, now_s, written)
        _about(event, kind, j, job["attempt"], now_s, 1)
        written = _tell(state, run, event, written)
    return written


def _world(state: State, run: Run, event: np.void, now_s: float, written: int) -> int:
    clock = run.clock
    while clock[NEXT_WORLD] < len(run.world):
        row = run.world[int(clock[NEXT_WORLD])]
        if row["event"]["at_s"] != now_s:
            break
        clock[NEXT_WORLD] += 1
        kind, where = row["event"]["kind"], row["event"]["where"]
        if kind in (SLOW, MEND):
            speed = row["event"]["value"] / 1e6 if kind == SLOW else 1.0
            _slow(state, run, where, speed, now_s)
            continue
        if kind == CANCEL:
            job = state.jobs[row["event"]["job"]]
            _about(event, CANCEL, row["event"]["job"], job["attempt"], now_s, 0)
            if not accepts(state, event):
                continue
        else:
            if kind == LOSE_NODE:
                if not state.nodes[where]["up"]:
                    continue
                written = _lose(state, run, event, where, row["frozen_s"], now_s, written)
            event["kind"], event["where"], event["at_s"] = kind, where, now_s
            event["value"] = row["event"]["value"]
        written = _tell(state, run, event, written)
    return written


def _submissions(state: State, run: Run, event: np.void, now_s: float, written: int) -> int:
    clock = run.clock
    while clock[NEXT_JOB] < state.counts[JOBS]:
        j = int(clock[NEXT_JOB])
        if run.life[j]["submit_s"] != now_s:
            break
        clock[NEXT_JOB] += 1
        _about(event, SUBMIT, j, 0, now_s, 0)
        written = _tell(state, run, event, written)
    return written


def _carry_out(
    state: State, run: Run, event: np.void, i: int, now_s: float, replace_s: float
) -> None:
    command = run.out[i]
    kind, j = command["kind"], command["job"]
    if kind == START:
        if state.jobs[j]["attempt"] == command["attempt"]:
            _begin(state, run, event, j, now_s)
    elif kind == STOP:
        job = state.jobs[j]
        held = job["status"] == STOPPING or (job["status"] == RUNNING and job["leaving"])
        if held and job["attempt"] == command["attempt"]:
            _push(run, now_s + run.life[j]["write_s"], j, run.life[j]["version"], STOPPED)
    elif kind == WAKE:
        _push(run, command["at_s"], j, 0, TICK)
    elif kind == REPLACE:
        _push(run, now_s + replace_s, command["where"], 0, JOIN)


def _begin(state: State, run: Run, event: np.void, j: int, now_s: float) -> None:
    """An attempt starts: it will end by itself, unless the world decides otherwise."""
    job, life = state.jobs[j], run.life[j]
    job["status"] = NEXT[STARTING, STARTED]  # As the core does when it is told.
    run.clock[EVENTS] += 1
    if np.isnan(run.starts_s[j]):
        run.starts_s[j] = now_s
    row = int(run.clock[LOGGED])
    run.clock[LOGGED] += 1
    entry = run.log[row]
    entry["job"], entry["attempt"], entry["pool"] = j, job["attempt"], job["pool"]
    entry["width"], entry["started_s"] = job["width"], now_s
    if len(run.pieces) > 0:
        _note(state, run, j, row)
    life["row"] = row
    _remember(life)
    life["since_s"] = now_s + (life["restart_s"] if life["failed"] else life["overhead_s"])
    life["failed"] = False
    life["done"] = job["step"] * job["step_work"]
    _expect(state, run, j)


def _remember(life: np.void) -> None:
    """A new stretch of work begins; a failure may turn out to be older than it."""
    life["was_since_s"], life["was_done"] = life["since_s"], life["done"]
    life["was_rate"] = life["rate"]


def _note(state: State, run: Run, j: int, row: int) -> None:
    """Which chips an attempt holds."""
    h = state.jobs[j]["first_hold"]
    while h >= 0:
        piece = run.pieces[int(run.clock[PIECES])]
        run.clock[PIECES] += 1
        piece["row"], piece["node"] = row, state.holds[h]["node"]
        piece["chips"] = state.holds[h]["chips"]
        h = state.holds[h]["next"]


def _expect(state: State, run: Run, j: int) -> None:
    """Put the end of the running attempt on the heap, at the speed of now."""
    job, life = state.jobs[j], run.life[j]
    life["version"] += 1
    if job["work"] <= 0.0:
        return
    slowest, h = 1.0, job["first_hold"]
    while h >= 0:
        slowest = min(slowest, run.node_speed[state.holds[h]["node"]])
        h = state.holds[h]["next"]
    bare = rate(state, j, job["pool"], job["width"]) * life["luck"] * slowest
    if bare <= 0.0:
        life["rate"] = 0.0
        return
    a_unit_s = 1.0 / bare
    if life["every"] > 0.0:
        a_unit_s += life["write_s"] / life["every"]
    life["rate"] = 1.0 / a_unit_s
    ends_s = life["since_s"] + max(job["work"] - life["done"], 0.0) * a_unit_s
    _push(run, ends_s, j, life["version"], ENDED_WELL)


def _done(state: State, run: Run, j: int, at_s: float) -> float:
    """Work done by then in all, saved or not; back to the stretch before this one."""
    life = run.life[j]
    if at_s < life["since_s"] and life["was_since_s"] < life["since_s"]:
        fresh = max(at_s - life["was_since_s"], 0.0) * life["was_rate"]
        return min(life["was_done"] + fresh, life["done"])
    fresh = max(at_s - life["since_s"], 0.0) * life["rate"]
    return min(life["done"] + fresh, state.jobs[j]["work"])


def _close(state: State, run: Run, j: int, at_s: float, done: float, outcome: int) -> None:
    """Log the end of the running attempt, after which `done` is kept in all.

    Less than it began with, where what an earlier attempt had saved turns out to be corrupt.
    """
    job, life = state.jobs[j], run.life[j]
    entry = run.log[life["row"]]
    entry["outcome"], entry["ended_s"] = outcome, at_s
    entry["kept"] = done - job["step"] * job["step_work"]
    life["version"] += 1


def _checkpoint(
    state: State, run: Run, event: np.void, j: int, done: float, now_s: float, written: int
) -> int:
    """Tell the core of a checkpoint that holds `done`."""
    job = state.jobs[j]
    if job["step_work"] <= 0.0:
        return written
    _about(event, CHECKPOINTED, j, job["attempt"], now_s, int(done / job["step_work"]))
    return _tell(state, run, event, written)


def _lose(
    state: State, run: Run, event: np.void, n: int, frozen_s: float, now_s: float, written: int
) -> int:
    """Before the core hears that a node is lost: what its gangs had saved by then."""
    j = state.pools[state.nodes[n]["pool"]]["first_run"]
    while j >= 0:
        job, life = state.jobs[j], run.life[j]
        if stands_on(state, j, n):
            done, before = _done(state, run, j, now_s), job["step"] * job["step_work"]
            saved = before
            if life["every"] > 0.0:
                saved = int(_done(state, run, j, frozen_s) / life["every"]) * life["every"]
                if frozen_s >= run.log[life["row"]]["started_s"]:
                    saved = max(saved, before)
            elif job["work"] <= 0.0:
                saved = done
            _close(state, run, j, now_s, saved, LOSE_NODE)
            run.log[life["row"]]["lost"] = done - max(saved, before)
            life["failed"] = True
            written = _checkpoint(state, run, event, j, saved, now_s, written)
        j = job["behind"]
    return written


def _slow(state: State, run: Run, n: int, speed: float, now_s: float) -> None:
    """A node slows down, or is well again: its gangs with it."""
    run.node_speed[n] = speed
    j = state.pools[state.nodes[n]["pool"]]["first_run"]
    while j >= 0:
        job, life = state.jobs[j], run.life[j]
        if job["status"] == RUNNING and not job["leaving"] and stands_on(state, j, n):
            done = _done(state, run, j, now_s)
            _remember(life)
            life["done"], life["since_s"] = done, max(life["since_s"], now_s)
            _expect(state, run, j)
        j = job["behind"]


def _look(state: State, run: Run, now_s: float) -> None:
    """Photograph the floor as it stood at each frame that lies before now."""
    f = int(run.clock[FRAMES])
    while f < len(run.frames_s) and run.frames_s[f] < now_s:
        for n in range(run.frames.shape[1]):
            node = state.nodes[n]
            out = not node["up"] or node["lemon"]
            run.frames[f, n] = 254 if out else 253 if node["drained"] else 0
            run.busy[f, n] = 100 * (node["chips"] - node["free"]) // node["chips"]
        for p in range(len(state.pools)):
            j = state.pools[p]["first_run"]
            while j >= 0:
                h = state.jobs[j]["first_hold"]
                while h >= 0:
                    n = state.holds[h]["node"]
                    if run.frames[f, n] < 200:
                        run.frames[f, n] = min(state.jobs[j]["tenant"] + 1, 199)
                    h = state.holds[h]["next"]
                j = state.jobs[j]["behind"]
        f += 1
        run.clock[FRAMES] = f


def _watch(state: State, run: Run, j: int, now_s: float) -> None:
    """Note what a job waits for, whenever that changes; -1 while it does not wait."""
    reason = why(state, j, now_s) if state.jobs[j]["status"] == QUEUED else -1
    behind = -1
    if reason >= 0 and state.jobs[j]["reserved"] < 0:
        for p in range(len(state.pools)):
            if not np.isinf(state.likes[state.jobs[j]["kind"], p]):
                behind = max(behind, state.pools[p]["next_up"])
    n = int(run.clock[SPELLS])
    if n > 0 and run.spells[n - 1]["why"] == reason and run.spells[n - 1]["behind"] == behind:
        return
    if n < len(run.spells):
        run.spells[n]["at_s"], run.spells[n]["why"] = now_s, reason
        run.spells[n]["behind"] = behind
        run.clock[SPELLS] += 1


def _about(event: np.void, kind: int, j: int, attempt: int, at_s: float, value: int) -> None:
    event["kind"], event["job"], event["attempt"] = kind, j, attempt
    event["at_s"], event["value"] = at_s, value


def _push(run: Run, at_s: float, j: int, version: int, kind: int) -> None:
    dues, i = run.dues, int(run.clock[DUES])
    order = int(run.clock[ORDER])
    run.clock[DUES] += 1
    run.clock[ORDER] += 1
    while i > 0 and dues[(i - 1) // 2]["at_s"] > at_s:
        dues[i] = dues[(i - 1) // 2]
        i = (i - 1) // 2
    dues[i]["at_s"], dues[i]["order"], dues[i]["job"] = at_s, order, j
    dues[i]["version"], dues[i]["kind"] = version, kind


def _pop(run: Run) -> None:
    """Take the earliest from the heap; of equal times the one that came first."""
    dues = run.dues
    run.clock[DUES] -= 1
    count = int(run.clock[DUES])
    at_s, order = dues[count]["at_s"], dues[count]["order"]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        right = child + 1
        if right < count and _earlier(dues, right, dues[child]["at_s"], dues[child]["order"]):
            child = right
        if not _earlier(dues, child, at_s, order):
            break
        dues[i] = dues[child]
        i = child
    dues[i] = dues[count]


def _earlier(dues: np.ndarray, i: int, at_s: float, order: int) -> bool:
    due = dues[i]
    return due["at_s"] < at_s or (due["at_s"] == at_s and due["order"] < order)
