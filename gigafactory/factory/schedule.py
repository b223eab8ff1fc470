"""A pass of the scheduler: who starts now, where, how wide; who waits, and for what.

Heads of queues are tried in order (priority, then the tenant's share where `fair`, then score,
then who came first). One that finds no place becomes the next in the pool it likes best: who
comes later may start there only if that cannot delay it (EASY backfill: it ends before the
next could start, or takes chips that will be over then), and never without `backfill`.
Then narrow jobs may grow into what nobody wants.
"""

import math

import numpy as np

from gigafactory.factory.place import hold, seek, touch
from gigafactory.factory.preempt import grow, make_room, mark_leaving
from gigafactory.factory.queue import behind, dequeue, head
from gigafactory.factory.quota import BORROWED, ENTITLED, freshen, grant, precedes, take
from gigafactory.factory.speed import narrower, seconds_left
from gigafactory.factory.state import (
    FRESH,
    MANY,
    NEWCOMER,
    NEXT,
    NOBODY,
    PASS,
    PICKED,
    PLACED,
    QUEUED,
    START,
    TOUCHED,
    State,
    command,
)

FORESEE_S = 300.0  # what did not happen as foreseen is foreseen anew no more often


def schedule(state: State, now_s: float, out: np.ndarray, written: int) -> int:
    """Start what can start, stop what must make room; how many commands are written now."""
    counts = state.counts
    if counts[TOUCHED] == 0 and counts[FRESH] == 0 and counts[NEWCOMER] == NOBODY:
        return written
    counts[PASS] += 1
    written = _serve_claims(state, now_s, out, written)
    t = _next_tenant(state, now_s)
    while t >= 0:
        j = head(state, t)
        if start(state, j, now_s, state.tenants[t]["fresh"]):
            written = _write_start(state, j, now_s, out, written)
        else:
            state.tenants[t]["passed"] = counts[PASS]
            state.tenants[t]["thirsty"] = grant(state, j, state.jobs[j]["chips"]) < BORROWED
            _reserve(state, j, now_s)
            written = make_room(state, j, now_s, out, written)
        t = _next_tenant(state, now_s)
    if state.rules[0]["backfill"]:
        written = _fill(state, now_s, out, written)
    if state.rules[0]["elastic"]:
        written = _grow(state, now_s, out, written)
    for i in range(counts[TOUCHED]):
        state.pools[state.touched[i]]["touched"] = False
    for t in range(len(state.tenants)):
        state.tenants[t]["fresh"] = False
    counts[TOUCHED], counts[FRESH], counts[NEWCOMER] = 0, 0, NOBODY
    return written


def start(state: State, j: int, now_s: float, anew: bool) -> bool:
    """Give the job its chips, as many as can be had, in the pool it likes best, or nothing."""
    job = state.jobs[j]
    if math.isinf(job["score"]):
        return False
    width = job["chips"]
    while width > 0:
        granted = grant(state, j, width)
        if granted >= BORROWED:
            p = _pool_for(state, j, width, now_s, anew)
            if p >= 0:
                _begin(state, j, p, width, granted == ENTITLED, now_s)
                return True
        width = narrower(state, j, width)
    return False


def may_pass(state: State, j: int, p: int, width: int, now_s: float) -> bool:
    """Whether the job may start in a pool without delaying the one that is next there."""
    pool = state.pools[p]
    if pool["claim"] >= 0 and pool["claim"] != j:
        return False
    i = pool["next_up"]
    if i < 0 or i == j or precedes(state, j, i, now_s):
        return True
    if not state.rules[0]["backfill"]:
        return False
    stale = pool["shadow_s"] < now_s and pool["foreseen_s"] + FORESEE_S <= now_s
    if pool["shadow_s"] < 0.0 or stale:
        _foresee(state, p, now_s)
    return width <= pool["extra"] or now_s + seconds_left(state, j, p, width) <= pool["shadow_s"]


def leave_queue(state: State, j: int) -> None:
    """Take the job out of its queue, and whatever it had reserved there."""
    job = state.jobs[j]
    dequeue(state, j)
    freshen(state, job["tenant"])  # It has a new head, perhaps.
    drop_reservation(state, j)
    if job["claims"] >= 0:
        state.pools[job["claims"]]["claim"] = -1
        touch(state, job["claims"])
        job["claims"] = -1


def drop_reservation(state: State, j: int) -> None:
    """The job is no more the next in its pool."""
    p = state.jobs[j]["reserved"]
    if p >= 0:
        state.pools[p]["next_up"] = -1
        state.jobs[j]["reserved"] = -1
        touch(state, p)


def _next_tenant(state: State, now_s: float) -> int:
    """The tenant whose head is to be tried now, or -1."""
    best, first = -1, -1
    for t in range(len(state.tenants)):
        if state.tenants[t]["passed"] == state.counts[PASS]:
            continue
        j = head(state, t)
        if j < 0 or not (state.tenants[t]["fresh"] or _hopeful(state, j)):
            continue
        if best < 0 or precedes(state, j, first, now_s):
            best, first = t, j
    return best


def _hopeful(state: State, j: int) -> bool:
    """Whether chips that the job could use became free since the last pass."""
    job = state.jobs[j]
    if state.counts[NEWCOMER] == MANY:
        return True
    for i in range(state.counts[TOUCHED]):
        p = state.touched[i]
        if state.pools[p]["free"] >= job["chips_min"] and not math.isinf(
            state.likes[job["kind"], p]
        ):
            return True
    return False


def _pool_for(state: State, j: int, width: int, now_s: float, anew: bool) -> int:
    """The pool it likes best of those that can take it now, its nodes chosen; or -1.

    A job that found none before need look only where something became free since; `anew`: in all.
    """
    ranked, liked = state.ranked[state.jobs[j]["kind"]], state.likes[state.jobs[j]["kind"]]
    if anew:
        for p in ranked:
            if p < 0:
                break
            if _takes(state, j, p, width, now_s):
                return p
        return -1
    best, last = -1, -1
    for i in range(state.counts[TOUCHED]):
        p = state.touched[i]
        better = best < 0 or liked[p] < liked[best]
        if better and not math.isinf(liked[p]) and _takes(state, j, p, width, now_s):
            best = p
        last = p
    if best >= 0 and last != best:
        _takes(state, j, best, width, now_s)  # The nodes are chosen for the last that was asked.
    return best


def _takes(state: State, j: int, p: int, width: int, now_s: float) -> bool:
    """Whether the pool can take the job now; if so its nodes are chosen."""
    job, pool = state.jobs[j], state.pools[p]
    if not pool["open"] or pool["free"] < width:
        return False
    chip_mw = state.chip_mw[job["kind"], p]
    site = state.sites[pool["site"]]
    if site["used_mw"] + width * chip_mw > site["cap_mw"]:
        site["bound"] = True
        return False
    if not may_pass(state, j, p, width, now_s):
        return False
    state.counts[PICKED] = seek(state, p, width, chip_mw, job["attempt"] > 0)
    return state.counts[PICKED] > 0


def _begin(state: State, j: int, p: int, width: int, entitled: bool, now_s: float) -> None:
    job, pool = state.jobs[j], state.pools[p]
    chip_mw = state.chip_mw[job["kind"], p]
    job["ends_s"] = now_s + seconds_left(state, j, p, width)
    if pool["next_up"] >= 0 and pool["next_up"] != j and job["ends_s"] > pool["shadow_s"]:
        pool["extra"] -= width
    leave_queue(state, j)
    hold(state, j, p, state.counts[PICKED], width, chip_mw)
    take(state, j, entitled, now_s)
    job["status"] = NEXT[QUEUED, PLACED]
    job["attempt"] += 1
    job["started_s"] = now_s
    job["before"], job["behind"] = -1, pool["first_run"]
    if pool["first_run"] >= 0:
        state.jobs[pool["first_run"]]["before"] = j
    pool["first_run"] = j
    if width < job["chips"]:
        pool["narrow"] += 1
    if not entitled:
        pool["lent"] += width


def _write_start(state: State, j: int, now_s: float, out: np.ndarray, written: int) -> int:
    job = state.jobs[j]
    return command(out, written, START, j, job["attempt"], job["pool"], now_s)


def _serve_claims(state: State, now_s: float, out: np.ndarray, written: int) -> int:
    """Start those for whom others have stopped."""
    for i in range(state.counts[TOUCHED]):  # Grows while we look; new ones have no claim.
        pool = state.pools[state.touched[i]]
        j = pool["claim"]
        if j < 0 or state.jobs[j]["status"] != QUEUED:
            continue
        if start(state, j, now_s, True):
            written = _write_start(state, j, now_s, out, written)
        elif pool["leaving"] == 0:  # In vain: a node was lost meanwhile.
            pool["claim"] = -1
            state.jobs[j]["claims"] = -1
            freshen(state, state.jobs[j]["tenant"])
    return written


def _reserve(state: State, j: int, now_s: float) -> None:
    """Make a head that waits for chips the next in the pool it likes best."""
    job = state.jobs[j]
    if math.isinf(job["score"]) or grant(state, j, job["chips_min"]) < BORROWED:
        drop_reservation(state, j)
        return
    best = -1
    for p in state.ranked[job["kind"]]:
        if p < 0:
            break
        pool = state.pools[p]
        draw_mw = job["chips_min"] * state.chip_mw[job["kind"], p]
        carries = draw_mw <= state.sites[pool["site"]]["cap_mw"]
        if pool["open"] and carries and pool["nodes"] * pool["node_chips"] >= job["chips_min"]:
            best = p
            break
    if best < 0 or best == job["reserved"]:
        return
    i = state.pools[best]["next_up"]
    if i >= 0 and not precedes(state, j, i, now_s):
        return
    if i >= 0:
        state.jobs[i]["reserved"] = -1
    if job["reserved"] >= 0:
        drop_reservation(state, j)
    job["reserved"] = best
    state.pools[best]["next_up"] = j
    state.pools[best]["shadow_s"] = -1.0


def _foresee(state: State, p: int, now_s: float) -> None:
    """When the next in the pool will find its chips, and how many will be over. By count alone.

    What services hold does not come back: where that is what it waits for, nobody delays it.
    Where some end is unknown nobody can know that he does not delay it.
    """
    pool = state.pools[p]
    wanted = state.jobs[pool["next_up"]]["chips_min"]
    free, at_s = pool["free"], now_s
    while free < wanted and not math.isinf(at_s):
        at_s, width = _next_end(state, p, at_s, now_s)
        free += width
    if math.isinf(at_s) and free >= wanted:
        at_s, free = now_s, wanted
    pool["shadow_s"], pool["foreseen_s"] = at_s, now_s
    # Chips that will be over lie anywhere; only on a single node are they not the gang's own.
    pool["extra"] = max(free - wanted, 0) if pool["nodes"] == 1 else 0


def _next_end(state: State, p: int, after_s: float, now_s: float) -> tuple[float, int]:
    """When the next of the pool's jobs after `after_s` should end, and the chips of all that do.

    What should have ended long ago is taken to end in a second. At inf: those whose end nobody
    knows, services apart.
    """
    ends_s, width, j = math.inf, 0, state.pools[p]["first_run"]
    while j >= 0:
        job = state.jobs[j]
        one_s = max(job["ends_s"], now_s + 1.0)
        if not job["service"] and after_s < one_s <= ends_s:
            if one_s < ends_s:
                ends_s, width = one_s, 0
            width += job["width"]
        j = job["behind"]
    return ends_s, width


def _fill(state: State, now_s: float, out: np.ndarray, written: int) -> int:
    """Start jobs behind blocked heads where that delays nobody."""
    j = state.counts[NEWCOMER]
    if j >= 0 and state.jobs[j]["status"] == QUEUED and start(state, j, now_s, True):
        written = _write_start(state, j, now_s, out, written)
    if not _room(state):
        return written
    for t in range(len(state.tenants)):
        j = head(state, t)
        for _ in range(state.rules[0]["window"]):
            if j < 0:
                break
            after = behind(state, j)
            anew = state.counts[NEWCOMER] == MANY
            if _hopeful(state, j) and start(state, j, now_s, anew):
                written = _write_start(state, j, now_s, out, written)
            j = after
    return written


def _room(state: State) -> bool:
    """Whether anything that became free is still so."""
    room = state.counts[NEWCOMER] == MANY
    for i in range(state.counts[TOUCHED]):
        room |= state.pools[state.touched[i]]["free"] > 0
    return room


def _grow(state: State, now_s: float, out: np.ndarray, written: int) -> int:
    """Let a narrow job stop and come back wider, where chips are free and nobody is next."""
    for i in range(state.counts[TOUCHED]):
        p = state.touched[i]
        pool = state.pools[p]
        if pool["narrow"] > 0 and pool["free"] > 0 and pool["next_up"] < 0 and pool["claim"] < 0:
            j = grow(state, p, now_s)
            if j >= 0:
                pool["claim"] = j
                state.jobs[j]["claims"] = p
                written = mark_leaving(state, j, out, written)
    return written
