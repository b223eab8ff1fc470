"""Who may have how many chips: quotas, borrowing within a cohort, and shares over time.

A tenant is entitled to its quota. What its cohort leaves unused it may borrow, up to `borrow`
more, until an entitled tenant wants it back. A cohort never holds more than the sum of its
quotas. Tenants without a quota take what is free.
"""

import math

import numpy as np

from gigafactory.factory.queue import before
from gigafactory.factory.state import FRESH, State

NOTHING, CROWDED, BORROWED, ENTITLED = range(4)


def grant(state: State, j: int, chips: int) -> int:
    """As what the job may have so many chips now; `CROWDED`: entitled, but all is lent."""
    tenant = state.tenants[state.jobs[j]["tenant"]]
    if tenant["quota"] < 0:
        return ENTITLED
    if tenant["used"] + chips > tenant["quota"] + tenant["borrow"]:
        return NOTHING
    cohort = state.cohorts[tenant["cohort"]]
    room = cohort["used"] + chips <= cohort["quota"]
    if tenant["entitled"] + chips <= tenant["quota"]:
        return ENTITLED if room else CROWDED
    return BORROWED if room else NOTHING


def take(state: State, j: int, entitled: bool, now_s: float) -> None:
    """Count the chips that the job holds from now on."""
    job = state.jobs[j]
    job["entitled"] = entitled
    _count(state, j, job["width"], now_s)


def give_back(state: State, j: int, now_s: float) -> None:
    """Count them no more; who waited for quota is to be tried again."""
    job = state.jobs[j]
    _count(state, j, -job["width"], now_s)
    tenant = state.tenants[job["tenant"]]
    if tenant["quota"] >= 0:
        for t in range(len(state.tenants)):
            if state.tenants[t]["thirsty"] and state.tenants[t]["cohort"] == tenant["cohort"]:
                freshen(state, t)


def freshen(state: State, t: int) -> None:
    """The head of the tenant's queue is to be tried in every pool."""
    if not state.tenants[t]["fresh"]:
        state.tenants[t]["fresh"] = True
        state.counts[FRESH] += 1


def precedes(state: State, one: int, other: int, now_s: float) -> bool:
    """Whether `one` goes before `other`, whoever's they are."""
    a, b = state.jobs[one], state.jobs[other]
    if state.rules[0]["fair"] and a["tenant"] != b["tenant"] and a["priority"] == b["priority"]:
        mine, theirs = share(state, a["tenant"], now_s), share(state, b["tenant"], now_s)
        if mine != theirs:
            return mine < theirs
    return before(state.jobs, one, other)


def share(state: State, t: int, now_s: float) -> float:
    """What the tenant had lately, for its weight: chip-seconds, fading by half in `half_life_s`."""
    tenant = state.tenants[t]
    return _faded(state, tenant, now_s) / tenant["weight"]


def _faded(state: State, tenant: np.void, now_s: float) -> float:
    tau_s = state.rules[0]["half_life_s"] / math.log(2.0)
    kept = math.exp(-(now_s - tenant["usage_s"]) / tau_s)
    return tenant["usage"] * kept + tenant["used"] * tau_s * (1.0 - kept)


def _count(state: State, j: int, chips: int, now_s: float) -> None:
    job = state.jobs[j]
    tenant = state.tenants[job["tenant"]]
    if state.rules[0]["fair"]:
        tenant["usage"] = _faded(state, tenant, now_s)
        tenant["usage_s"] = now_s
    tenant["used"] += chips
    if tenant["quota"] >= 0:
        cohort = state.cohorts[tenant["cohort"]]
        cohort["used"] += chips
        if job["entitled"]:
            tenant["entitled"] += chips
        else:
            cohort["borrowed"] += chips
