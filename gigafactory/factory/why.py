"""Why a job waits: the first thing that would have to change. For people; decides nothing."""

import math

from gigafactory.factory.place import seek
from gigafactory.factory.queue import head
from gigafactory.factory.quota import BORROWED, grant
from gigafactory.factory.schedule import may_pass
from gigafactory.factory.speed import narrower
from gigafactory.factory.state import (
    BEHIND,
    CHIPS,
    CLAIMED,
    CLOSED,
    HELD,
    MAKING_ROOM,
    NEXT_UP,
    NO_WAIT,
    POWER,
    QUOTA,
    SCATTERED,
    State,
)


def why(state: State, j: int, now_s: float) -> int:
    """A number of `WHY` for a queued job."""
    job = state.jobs[j]
    if math.isinf(job["score"]):
        return HELD
    if job["claims"] >= 0:
        return MAKING_ROOM
    reason, width = QUOTA, job["chips"]
    while width > 0:
        if grant(state, j, width) >= BORROWED:
            nearest = CLOSED
            for p in range(len(state.pools)):
                if not math.isinf(state.likes[job["kind"], p]):
                    nearest = _nearer(nearest, _why_not_here(state, j, p, width, now_s))
            reason = nearest if reason == QUOTA else _nearer(reason, nearest)
        width = narrower(state, j, width)
    if reason == NO_WAIT and head(state, job["tenant"]) != j:
        return BEHIND
    return reason


def _why_not_here(state: State, j: int, p: int, width: int, now_s: float) -> int:
    pool, chip_mw = state.pools[p], state.chip_mw[state.jobs[j]["kind"], p]
    site = state.sites[pool["site"]]
    if not pool["open"]:
        return CLOSED
    if pool["free"] < width:
        return CHIPS
    if site["used_mw"] + width * chip_mw > site["cap_mw"]:
        return POWER
    if seek(state, p, width, chip_mw, state.jobs[j]["attempt"] > 0) == 0:
        return SCATTERED
    if pool["claim"] >= 0 and pool["claim"] != j:
        return CLAIMED
    shadow_s, extra, foreseen_s = pool["shadow_s"], pool["extra"], pool["foreseen_s"]
    passes = may_pass(state, j, p, width, now_s)
    # To ask is not to change.
    pool["shadow_s"], pool["extra"], pool["foreseen_s"] = shadow_s, extra, foreseen_s
    return NO_WAIT if passes else NEXT_UP


def _nearer(one: int, other: int) -> int:
    """Of two reasons the one that is nearer to a start."""
    for reason in (NO_WAIT, NEXT_UP, CLAIMED, SCATTERED, POWER, CHIPS):
        if reason in (one, other):
            return reason
    return CLOSED
