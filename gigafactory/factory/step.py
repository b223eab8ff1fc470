"""What happens when something happens: one event in, tables changed in place, commands out.

Plain loops over plain arrays, so that the same source runs as Python (under the works, where
a debugger matters) and compiled by numba (in the twin), with equal results (a test). No clock,
no disk, no dict, no exception: an event that may not be is told by the return value.
"""

import numpy as np

from gigafactory.factory.place import admit, release, retire, stands_on, touch, touch_site, usable
from gigafactory.factory.preempt import mark_leaving, shed
from gigafactory.factory.queue import enqueue, head
from gigafactory.factory.quota import freshen, give_back
from gigafactory.factory.schedule import leave_queue, schedule
from gigafactory.factory.state import (
    BLOCKED,
    CANCEL,
    CANCELLED,
    CAP,
    CHECKPOINTED,
    CUT,
    DONE,
    DRAIN,
    ENDED,
    ENDED_ILL,
    ENDED_WELL,
    FAILED,
    HOLDS_CHIPS,
    ILLEGAL,
    JOIN,
    LEAST_PRIORITY,
    LOSE_NODE,
    LOST,
    MANY,
    NEWCOMER,
    NEXT,
    NOBODY,
    OPEN,
    PAUSED,
    PAUSED_JOBS,
    QUEUED,
    RELEASED,
    REPLACE,
    RESUMED,
    RUNNING,
    STOP,
    STOPPING,
    SUBMIT,
    TICK,
    WAITING,
    WAKE,
    State,
    command,
)

NEVER = (FAILED, CANCELLED, BLOCKED)

BACKOFF_S = 2.0  # pause after the first fault; doubles with each, up to BACKOFF_MAX_S
BACKOFF_MAX_S = 300.0


def accepts(state: State, event: np.void) -> bool:
    """Whether the event may happen now. An old attempt's word, and a second one, may not."""
    kind = event["kind"]
    if kind >= len(NEXT[0]):
        return True
    job = state.jobs[event["job"]]
    if kind != CANCEL and event["attempt"] != job["attempt"]:
        return False
    return NEXT[job["status"], kind] != ILLEGAL


def step(state: State, event: np.void, out: np.ndarray) -> int:
    """Apply an event that `accepts` allowed; write commands to `out`, return how many."""
    written = happen(state, event, out, 0)
    return schedule(state, event["at_s"], out, written)


def happen(state: State, event: np.void, out: np.ndarray, written: int) -> int:
    """Change the tables as the event says. What waits is started by `schedule`, later."""
    kind, now_s, where = event["kind"], event["at_s"], event["where"]
    if kind < SUBMIT:
        written = _happen_to_job(state, event, out, written)
    elif kind == SUBMIT:
        _submit(state, event["job"], now_s)
    elif kind == JOIN:
        _join(state, where, event["value"] != 0)
    elif kind == DRAIN:
        written = _drain(state, where, event["value"] != 0, out, written)
    elif kind == LOSE_NODE:
        written = _lose_node(state, where, event["value"] != 0, now_s, out, written)
    elif kind == CAP:
        state.sites[where]["cap_mw"] = event["value"]
        touch_site(state, where)
        written = shed(state, where, out, written)
    elif kind == TICK:
        for t in range(len(state.tenants)):
            if head(state, t) >= 0:
                freshen(state, t)
    else:
        state.pools[where]["open"] = kind == OPEN
        touch(state, where)
    _resume(state, now_s)
    return written


def _submit(state: State, j: int, now_s: float) -> None:
    jobs, job = state.jobs, state.jobs[j]
    job["status"] = WAITING
    job["pool"], job["reserved"], job["claims"], job["first_hold"] = -1, -1, -1, -1
    job["tried_s"] = -1e18
    state.counts[LEAST_PRIORITY] = min(state.counts[LEAST_PRIORITY], job["priority"])
    cut = False
    for e in range(job["first_in"], job["first_in"] + job["ins"]):
        before = jobs[state.edges[e]["before"]]
        if before["status"] != DONE:
            job["waits_for"] += 1
        if before["status"] in NEVER or _fails_gate(state, e):
            cut = True
    if cut:
        job["status"] = NEXT[WAITING, CUT]
    elif job["waits_for"] == 0:
        _queue(state, j, NEXT[WAITING, RELEASED], now_s)


def _fails_gate(state: State, e: int) -> bool:
    before = state.jobs[state.edges[e]["before"]]
    return state.edges[e]["gate"] and before["status"] == DONE and not before["passed"]


def _queue(state: State, j: int, status: int, now_s: float) -> None:
    """The job waits for chips from now on."""
    state.jobs[j]["status"] = status
    state.jobs[j]["queued_s"] = now_s
    enqueue(state, j)
    t = state.jobs[j]["tenant"]
    if head(state, t) == j:
        freshen(state, t)
    if state.rules[0]["backfill"]:
        state.counts[NEWCOMER] = j if state.counts[NEWCOMER] == NOBODY else MANY


def _happen_to_job(state: State, event: np.void, out: np.ndarray, written: int) -> int:
    """One happening in the life of a job, by the table."""
    j, kind, now_s = event["job"], event["kind"], event["at_s"]
    job = state.jobs[j]
    before, after = job["status"], NEXT[job["status"], kind]
    if kind == CHECKPOINTED:
        job["step"] = event["value"]
        return written
    if kind == ENDED_ILL and after == PAUSED:
        job["failures"] += 1
        if job["failures"] > job["retries"]:
            after = FAILED
        else:
            pause_s = min(BACKOFF_S * 2.0 ** (job["failures"] - 1), BACKOFF_MAX_S)
            job["resume_s"] = now_s + pause_s
            written = command(out, written, WAKE, j, 0, -1, job["resume_s"])
    if kind == CANCEL and after == STOPPING:
        written = command(out, written, STOP, j, job["attempt"], job["pool"], now_s)
    if kind == ENDED_WELL:
        job["passed"] = event["value"] != 0
    if before == QUEUED:
        leave_queue(state, j)
    elif before == PAUSED:
        _unpause(state, j)
    if before in HOLDS_CHIPS and after not in HOLDS_CHIPS:
        _give_up(state, j, now_s)
    _become(state, j, after, now_s)
    return written


def _become(state: State, j: int, after: int, now_s: float) -> None:
    """The job enters a status that its chips, if it held any, are already out of the way of."""
    job = state.jobs[j]
    if after == QUEUED:
        _queue(state, j, after, now_s)
        return
    job["status"] = after
    if after == PAUSED:
        job["behind"] = state.counts[PAUSED_JOBS]
        state.counts[PAUSED_JOBS] = j
    elif after in ENDED:
        if job["claims"] >= 0:
            state.pools[job["claims"]]["claim"] = -1
            touch(state, job["claims"])
            job["claims"] = -1
        _tell_dependants(state, j, now_s)


def _give_up(state: State, j: int, now_s: float) -> None:
    """The job holds its chips no more."""
    job = state.jobs[j]
    pool = state.pools[job["pool"]]
    if job["before"] >= 0:
        state.jobs[job["before"]]["behind"] = job["behind"]
    else:
        pool["first_run"] = job["behind"]
    if job["behind"] >= 0:
        state.jobs[job["behind"]]["before"] = job["before"]
    if job["leaving"]:
        job["leaving"] = False
        pool["leaving"] -= 1
    if job["width"] < job["chips"]:
        pool["narrow"] -= 1
    if not job["entitled"]:
        pool["lent"] -= job["width"]
    give_back(state, j, now_s)
    release(state, j, state.chip_mw[job["kind"], job["pool"]])


def _tell_dependants(state: State, j: int, now_s: float) -> None:
    """A job ended: those that stand on it come nearer, or will never start, nor their heirs."""
    e = state.jobs[j]["first_out"]
    while e >= 0:
        heir = state.edges[e]["after"]
        if state.jobs[heir]["status"] == WAITING:
            if state.jobs[j]["status"] == DONE and not _fails_gate(state, e):
                state.jobs[heir]["waits_for"] -= 1
                if state.jobs[heir]["waits_for"] == 0:
                    _queue(state, heir, NEXT[WAITING, RELEASED], now_s)
            else:
                state.jobs[heir]["status"] = NEXT[WAITING, CUT]
                _tell_dependants(state, heir, now_s)
        e = state.edges[e]["next_out"]


def _join(state: State, n: int, replaced: bool) -> None:
    """The node stands ready (again)."""
    node = state.nodes[n]
    took = usable(state, n)
    node["up"], node["drained"] = True, False
    if replaced:
        node["lemon"], node["failures"] = False, 0
    if not took and usable(state, n):
        admit(state, n)


def _drain(state: State, n: int, now: bool, out: np.ndarray, written: int) -> int:
    """The node takes no new work; with `now`, what runs on it stops at its next checkpoint."""
    if usable(state, n):
        retire(state, n)
    state.nodes[n]["drained"] = True
    j = state.pools[state.nodes[n]["pool"]]["first_run"] if now else -1
    while j >= 0:
        job = state.jobs[j]
        if job["status"] == RUNNING and not job["leaving"] and stands_on(state, j, n):
            written = mark_leaving(state, j, out, written)
        j = job["behind"]
    return written


def _lose_node(
    state: State, n: int, faulty: bool, now_s: float, out: np.ndarray, written: int
) -> int:
    """Every gang with a piece on the node stops everywhere and is queued again.

    A node that was itself at fault too often takes no more work until it is replaced.
    """
    node, rules = state.nodes[n], state.rules[0]
    if usable(state, n):
        retire(state, n)
    if node["up"] and faulty:
        if now_s - node["failing_since_s"] > rules["lemon_s"]:
            node["failures"], node["failing_since_s"] = 0, now_s
        node["failures"] += 1
        if rules["lemons"] > 0 and node["failures"] >= rules["lemons"] and not node["lemon"]:
            node["lemon"] = True
            written = command(out, written, REPLACE, -1, 0, n, now_s)
    node["up"] = False
    j = state.pools[node["pool"]]["first_run"]
    while j >= 0:
        job = state.jobs[j]
        after_j = job["behind"]
        if stands_on(state, j, n):
            written = command(out, written, STOP, j, job["attempt"], job["pool"], now_s)
            after = NEXT[job["status"], LOST]
            _give_up(state, j, now_s)
            _become(state, j, after, now_s)
        j = after_j
    return written


def _resume(state: State, now_s: float) -> None:
    j = state.counts[PAUSED_JOBS]
    while j >= 0:
        after = state.jobs[j]["behind"]
        if state.jobs[j]["resume_s"] <= now_s:
            _unpause(state, j)
            _queue(state, j, NEXT[PAUSED, RESUMED], now_s)
        j = after


def _unpause(state: State, j: int) -> None:
    """Take the job out of the list of paused ones."""
    if state.counts[PAUSED_JOBS] == j:
        state.counts[PAUSED_JOBS] = state.jobs[j]["behind"]
        return
    at = state.counts[PAUSED_JOBS]
    while state.jobs[at]["behind"] != j:
        at = state.jobs[at]["behind"]
    state.jobs[at]["behind"] = state.jobs[j]["behind"]
