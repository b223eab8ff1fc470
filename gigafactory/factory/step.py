"""What happens when something happens: one event in, tables changed in place, commands out.

Plain loops over plain arrays, so that the same source runs as Python (under the works, where
a debugger matters) and can be compiled by numba, with equal results (a test). No clock, no
disk, no dict, no exception: an event that may not be is told by the return value.
"""

import numpy as np

from gigafactory.factory.state import (
    BLOCKED,
    CANCEL,
    CANCELLED,
    CHECKPOINTED,
    CUT,
    DONE,
    DRAIN,
    EDGES,
    ENDED,
    ENDED_ILL,
    ENDED_WELL,
    FAILED,
    HOLDS,
    HOLDS_CHIPS,
    ILLEGAL,
    JOBS,
    JOIN,
    LOSE_NODE,
    LOST,
    NEXT,
    NODES,
    PAUSED,
    PLACED,
    QUEUED,
    RELEASED,
    RESUMED,
    START,
    STOP,
    STOPPING,
    SUBMIT,
    TICK,
    WAITING,
    WAKE,
    State,
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
    kind, now_s, written = event["kind"], event["at_s"], 0
    if kind == SUBMIT:
        _submit(state, event["job"])
    elif kind == JOIN:
        state.nodes[event["node"]]["up"] = True
        state.nodes[event["node"]]["drained"] = False
    elif kind == DRAIN:
        state.nodes[event["node"]]["drained"] = True
    elif kind == LOSE_NODE:
        written = _lose_node(state, event["node"], out, written)
    elif kind != TICK:
        written = _happen(state, event, out, written)
    _resume(state, now_s)
    return _place(state, out, written, now_s)


def _submit(state: State, j: int) -> None:
    jobs = state.jobs
    jobs[j]["status"] = WAITING
    jobs[j]["pool"] = -1
    for e in range(state.counts[EDGES]):
        edge = state.edges[e]
        if edge["after"] == j and jobs[edge["before"]]["status"] != DONE:
            jobs[j]["waits_for"] += 1
    _settle_waiting(state, j)


def _happen(state: State, event: np.void, out: np.ndarray, written: int) -> int:
    """One happening in the life of a job, by the table."""
    j, kind = event["job"], event["kind"]
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
            job["resume_s"] = event["at_s"] + pause_s
            out[written]["kind"] = WAKE
            out[written]["job"] = j
            out[written]["at_s"] = job["resume_s"]
            written += 1
    if kind == CANCEL and after == STOPPING:
        out[written]["kind"] = STOP
        out[written]["job"] = j
        out[written]["attempt"] = job["attempt"]
        written += 1
    if kind == ENDED_WELL:
        job["passed"] = event["value"] != 0
    job["status"] = after
    if before in HOLDS_CHIPS and after not in HOLDS_CHIPS:
        _release(state, j)
    if after in ENDED:
        _tell_dependants(state, j)
    return written


def _tell_dependants(state: State, j: int) -> None:
    """A job ended: those that stand on it come nearer, or will never start."""
    done = state.jobs[j]["status"] == DONE
    for e in range(state.counts[EDGES]):
        edge = state.edges[e]
        if edge["before"] == j and state.jobs[edge["after"]]["status"] == WAITING:
            if done:
                state.jobs[edge["after"]]["waits_for"] -= 1
            _settle_waiting(state, edge["after"])


def _settle_waiting(state: State, j: int) -> None:
    """Queue a waiting job that waits for nothing; block one that waits in vain, and its heirs."""
    jobs = state.jobs
    for e in range(state.counts[EDGES]):
        edge = state.edges[e]
        if edge["after"] != j:
            continue
        status = jobs[edge["before"]]["status"]
        if status in NEVER or (
            edge["gate"] and status == DONE and not jobs[edge["before"]]["passed"]
        ):
            jobs[j]["status"] = NEXT[jobs[j]["status"], CUT]
            for heir in range(state.counts[EDGES]):
                after = state.edges[heir]["after"]
                if state.edges[heir]["before"] == j and jobs[after]["status"] == WAITING:
                    _settle_waiting(state, after)
            return
    if jobs[j]["waits_for"] == 0:
        jobs[j]["status"] = NEXT[jobs[j]["status"], RELEASED]


def _lose_node(state: State, n: int, out: np.ndarray, written: int) -> int:
    """Every gang with a piece on the node stops everywhere and is queued again."""
    state.nodes[n]["up"] = False
    h = 0
    while h < state.counts[HOLDS]:
        j = state.holds[h]["job"]
        if state.holds[h]["node"] != n:
            h += 1
            continue
        state.jobs[j]["status"] = NEXT[state.jobs[j]["status"], LOST]
        _release(state, j)
        out[written]["kind"] = STOP
        out[written]["job"] = j
        out[written]["attempt"] = state.jobs[j]["attempt"]
        written += 1
        if state.jobs[j]["status"] == CANCELLED:
            _tell_dependants(state, j)
        h = 0  # rows moved
    return written


def _resume(state: State, now_s: float) -> None:
    for j in range(state.counts[JOBS]):
        if state.jobs[j]["status"] == PAUSED and state.jobs[j]["resume_s"] <= now_s:
            state.jobs[j]["status"] = NEXT[PAUSED, RESUMED]


def _place(state: State, out: np.ndarray, written: int, now_s: float) -> int:
    """Start what fits: highest priority first, then first come; the first that waits blocks.

    Without that a large gang would starve behind small jobs that keep slipping past it.
    """
    while True:
        j = _head(state)
        if j < 0:
            return written
        p = _pool_for(state, j)
        if p < 0:
            return written
        job = state.jobs[j]
        _hold(state, j, p)
        job["status"] = NEXT[job["status"], PLACED]
        job["attempt"] += 1
        out[written]["kind"] = START
        out[written]["job"] = j
        out[written]["attempt"] = job["attempt"]
        out[written]["at_s"] = now_s
        written += 1


def _head(state: State) -> int:
    """The queued job that goes next, or -1."""
    head = -1
    for j in range(state.counts[JOBS]):
        job = state.jobs[j]
        if job["status"] == QUEUED and (head < 0 or job["priority"] > state.jobs[head]["priority"]):
            head = j
    return head


def _pool_for(state: State, j: int) -> int:
    """The best-liked pool with free chips and power for the whole gang, or -1."""
    chips, best = state.jobs[j]["chips"], -1
    for p in range(len(state.pools)):
        rank = state.rank[j, p]
        if rank == 0 or (best >= 0 and rank >= state.rank[j, best]):
            continue
        pool = state.pools[p]
        site = state.sites[pool["site"]]
        if site["used_w"] + chips * pool["chip_w"] > site["cap_w"] * (1 + 1e-9):
            continue
        free = 0
        for n in range(state.counts[NODES]):
            node = state.nodes[n]
            if node["pool"] == p and node["up"] and not node["drained"]:
                free += node["free"]
        if free >= chips:
            best = p
    return best


def _hold(state: State, j: int, p: int) -> None:
    """Take the gang's chips: from the one node that fits tightest, else whole nodes first."""
    needed = state.jobs[j]["chips"]
    while needed > 0:
        chosen = -1
        for n in range(state.counts[NODES]):
            node = state.nodes[n]
            if node["pool"] != p or not node["up"] or node["drained"] or node["free"] == 0:
                continue
            if chosen < 0:
                chosen = n
                continue
            fits, free, best = node["free"] >= needed, node["free"], state.nodes[chosen]["free"]
            # The tightest node that takes the rest; while none does, the emptiest.
            if (fits and (best < needed or free < best)) or (best < needed and free > best):
                chosen = n
        taken = min(needed, state.nodes[chosen]["free"])
        state.nodes[chosen]["free"] -= taken
        hold = state.holds[state.counts[HOLDS]]
        hold["job"], hold["node"], hold["chips"] = j, chosen, taken
        state.counts[HOLDS] += 1
        needed -= taken
    pool = state.pools[p]
    state.sites[pool["site"]]["used_w"] += state.jobs[j]["chips"] * pool["chip_w"]
    state.jobs[j]["pool"] = p


def _release(state: State, j: int) -> None:
    """Give back everything that the gang holds."""
    kept = 0
    for h in range(state.counts[HOLDS]):
        hold = state.holds[h]
        if hold["job"] == j:
            state.nodes[hold["node"]]["free"] += hold["chips"]
        else:
            state.holds[kept] = hold
            kept += 1
    state.counts[HOLDS] = kept
    job = state.jobs[j]
    pool = state.pools[job["pool"]]
    # Recomputed, not subtracted: floating-point dust must not fill a site.
    job["pool"] = -1
    used_w = 0.0
    for h in range(kept):
        hold = state.holds[h]
        held_by = state.pools[state.jobs[hold["job"]]["pool"]]
        if held_by["site"] == pool["site"]:
            used_w += hold["chips"] * held_by["chip_w"]
    state.sites[pool["site"]]["used_w"] = used_w
