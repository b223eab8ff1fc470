"""Who must stop so that another can start, and when power falls.

Why it ends. Order jobs by (entitled to its chips, priority, and under `preempts` the lower
score). A job takes chips only from jobs strictly below it, and within one pass nobody rises:
so the running set grows in the multiset order (Dershowitz and Manna 1979) with every
preemption, over finitely many jobs. `below` is that order; a test plays against it. Between
passes a job that has just started is safe for `preempt_after_s`.

A job that is told to stop keeps its chips until it says that it has. Meanwhile the pool is
claimed for the job that they are for, so nobody slips in.
"""

import math

import numpy as np

from gigafactory.factory.place import lay, lift, seek
from gigafactory.factory.quota import BORROWED, ENTITLED, grant
from gigafactory.factory.speed import narrower
from gigafactory.factory.state import LEAST_PRIORITY, RUNNING, STOP, WAKE, State, command

RETRY_S = 300.0  # a job looks through the others no more often


def below(state: State, v: int, j: int, entitled: bool) -> bool:
    """Whether the running job `v` stands strictly below `j`, started as entitled or not."""
    mine, theirs = state.jobs[j], state.jobs[v]
    if entitled != theirs["entitled"]:
        return entitled
    if mine["priority"] != theirs["priority"]:
        return mine["priority"] > theirs["priority"]
    return state.rules[0]["preempts"] and mine["score"] < theirs["score"]


def make_room(state: State, j: int, now_s: float, out: np.ndarray, written: int) -> int:
    """Tell jobs to stop so that `j` can start, in the pool it likes best where that helps."""
    job = state.jobs[j]
    if job["claims"] >= 0 or math.isinf(job["score"]):
        return written
    width = job["chips_min"]
    ranks = job["priority"] > state.counts[LEAST_PRIORITY] or state.rules[0]["preempts"]
    if now_s - job["tried_s"] < RETRY_S or not (ranks or _may_reclaim(state, j, width)):
        return written
    job["tried_s"] = now_s
    for p in state.ranked[job["kind"]]:
        if p < 0:
            break
        pool = state.pools[p]
        enough = ranks or pool["free"] + pool["lent"] >= width
        if not pool["open"] or pool["claim"] >= 0 or not enough:
            continue
        count = _choose(state, j, p, width, now_s)
        if count > 0:
            pool["claim"] = j
            job["claims"] = p
            for i in range(count):
                written = mark_leaving(state, state.lifted[i], out, written)
            return written
        if count < 0:  # Those who could stop have only just started.
            wake_s = now_s + max(state.rules[0]["preempt_after_s"], RETRY_S)
            return command(out, written, WAKE, j, 0, p, wake_s)
    return written


def shed(state: State, s: int, out: np.ndarray, written: int) -> int:
    """Power fell: tell jobs of a site to stop, the least of them first, until it is enough."""
    site = state.sites[s]
    used_mw = site["used_mw"]
    for p in range(len(state.pools)):
        if state.pools[p]["site"] == s:
            used_mw -= _leaving_mw(state, p)
    while used_mw > site["cap_mw"]:
        least = -1
        for p in range(len(state.pools)):
            if state.pools[p]["site"] != s:
                continue
            j = state.pools[p]["first_run"]
            while j >= 0:
                if not state.jobs[j]["leaving"] and (least < 0 or _lesser(state, j, least)):
                    least = j
                j = state.jobs[j]["behind"]
        if least < 0:
            return written
        used_mw -= _power_mw(state, least)
        written = mark_leaving(state, least, out, written)
    return written


def mark_leaving(state: State, j: int, out: np.ndarray, written: int) -> int:
    """Tell a running job to stop at a checkpoint."""
    job = state.jobs[j]
    job["leaving"] = True
    state.pools[job["pool"]]["leaving"] += 1
    return command(out, written, STOP, j, job["attempt"], job["pool"], 0.0)


def grow(state: State, p: int, now_s: float) -> int:
    """A narrow job that has run long enough, has long to go, and would fit wider; or -1."""
    j = state.pools[p]["first_run"]
    after_s = state.rules[0]["grow_after_s"]
    while j >= 0:
        job = state.jobs[j]
        ripe = now_s - job["started_s"] >= after_s and job["ends_s"] - now_s >= after_s
        free_to = job["status"] == RUNNING and not job["leaving"]
        if job["width"] < job["chips"] and ripe and free_to and _fits_wider(state, j, p):
            return j
        j = job["behind"]
    return -1


def _fits_wider(state: State, j: int, p: int) -> bool:
    job = state.jobs[j]
    chip_mw, width = state.chip_mw[job["kind"], p], job["chips"]
    held, fits = job["width"], False
    lift(state, j, chip_mw)
    while width > held and not fits:
        site = state.sites[state.pools[p]["site"]]
        powered = site["used_mw"] + width * chip_mw <= site["cap_mw"]
        allowed = grant(state, j, width - held) == ENTITLED
        fits = powered and allowed and seek(state, p, width, chip_mw, False) > 0
        width = narrower(state, j, width)
    lay(state, j, chip_mw)
    return fits


def _choose(state: State, j: int, p: int, width: int, now_s: float) -> int:
    """The victims, into `lifted`: how many; 0 for none, -1 where some would do later."""
    count, later = 0, False
    while not _fits(state, j, p, width, count):
        least, v = -1, state.pools[p]["first_run"]
        while v >= 0:
            if _may_stop(state, v, j, width) and not _is_lifted(state, v, count):
                if now_s - state.jobs[v]["started_s"] < state.rules[0]["preempt_after_s"]:
                    later = True
                elif least < 0 or _lesser(state, v, least):
                    least = v
            v = state.jobs[v]["behind"]
        if least < 0:
            _put_back(state, count)
            return -1 if later else 0
        _lift_off(state, least)
        state.lifted[count] = least
        count += 1
    kept = 0
    for i in range(count):  # Who need not stop after all, the greatest first.
        v = state.lifted[count - 1 - i]
        _put_on(state, v)
        state.lifted[count - 1 - i] = -1
        if _fits(state, j, p, width, count):
            continue
        state.lifted[count - 1 - i] = v
        _lift_off(state, v)
    for i in range(count):
        if state.lifted[i] >= 0:
            state.lifted[kept] = state.lifted[i]
            kept += 1
    _put_back(state, kept)
    return kept


def _fits(state: State, j: int, p: int, width: int, count: int) -> bool:
    """Whether the job could start, so many being lifted; entitled, where one of them was."""
    pool, chip_mw = state.pools[p], state.chip_mw[state.jobs[j]["kind"], p]
    site = state.sites[pool["site"]]
    if site["used_mw"] + width * chip_mw > site["cap_mw"]:
        return False
    least = BORROWED
    for i in range(count):
        if state.lifted[i] >= 0 and state.jobs[state.lifted[i]]["entitled"]:
            least = ENTITLED
    return grant(state, j, width) >= least and seek(state, p, width, chip_mw, True) > 0


def _may_stop(state: State, v: int, j: int, width: int) -> bool:
    """Whether `v` may be stopped for `j`, provided that `_fits` then."""
    mine, theirs = state.jobs[j], state.jobs[v]
    if theirs["status"] != RUNNING or theirs["leaving"]:
        return False
    my_tenant, their_tenant = state.tenants[mine["tenant"]], state.tenants[theirs["tenant"]]
    free = my_tenant["quota"] < 0 and their_tenant["quota"] < 0
    if mine["tenant"] == theirs["tenant"] or free:
        return below(state, v, j, theirs["entitled"])
    # What is lent is given back, by those who have more than their own.
    lent = my_tenant["cohort"] == their_tenant["cohort"] and not theirs["entitled"]
    entitled = my_tenant["entitled"] + width <= my_tenant["quota"]
    return lent and entitled and their_tenant["used"] > their_tenant["quota"]


def _may_reclaim(state: State, j: int, width: int) -> bool:
    """Whether anybody of its cohort has more than his own, and the job's tenant less."""
    tenant = state.tenants[state.jobs[j]["tenant"]]
    if tenant["quota"] < 0 or tenant["entitled"] + width > tenant["quota"]:
        return False
    found = False
    for t in range(len(state.tenants)):
        other = state.tenants[t]
        found |= other["cohort"] == tenant["cohort"] and other["used"] > other["quota"]
    return found


def _lesser(state: State, one: int, other: int) -> bool:
    """Which of two running jobs stops first: services last, then the order of `below`, then age."""
    a, b = state.jobs[one], state.jobs[other]
    if a["service"] != b["service"]:
        return b["service"]
    if a["entitled"] != b["entitled"]:
        return b["entitled"]
    if a["priority"] != b["priority"]:
        return a["priority"] < b["priority"]
    if a["started_s"] != b["started_s"]:
        return a["started_s"] > b["started_s"]
    return one > other


def _is_lifted(state: State, v: int, count: int) -> bool:
    found = False
    for i in range(count):
        found |= state.lifted[i] == v
    return found


def _put_back(state: State, count: int) -> None:
    for i in range(count):
        _put_on(state, state.lifted[i])


def _lift_off(state: State, v: int) -> None:
    """As if it had stopped: nodes, power, quota."""
    lift(state, v, _chip_mw(state, v))
    _lend(state, v, -state.jobs[v]["width"])


def _put_on(state: State, v: int) -> None:
    lay(state, v, _chip_mw(state, v))
    _lend(state, v, state.jobs[v]["width"])


def _lend(state: State, v: int, chips: int) -> None:
    tenant = state.tenants[state.jobs[v]["tenant"]]
    tenant["used"] += chips
    if tenant["quota"] >= 0:
        state.cohorts[tenant["cohort"]]["used"] += chips
        if state.jobs[v]["entitled"]:
            tenant["entitled"] += chips


def _chip_mw(state: State, j: int) -> int:
    return state.chip_mw[state.jobs[j]["kind"], state.jobs[j]["pool"]]


def _power_mw(state: State, j: int) -> int:
    return state.jobs[j]["width"] * _chip_mw(state, j)


def _leaving_mw(state: State, p: int) -> int:
    total, j = 0, state.pools[p]["first_run"]
    while j >= 0:
        if state.jobs[j]["leaving"]:
            total += _power_mw(state, j)
        j = state.jobs[j]["behind"]
    return total
