"""The queues: one for each tenant, in order of priority, then score, then who came first.

Skip lists (Pugh 1990) through one table of links, so that joining, leaving and looking behind
the head are quick however long a queue is. A job's height comes from its number: the same
jobs make the same lists.
"""

import numpy as np

from gigafactory.factory.state import FRESH, LEVELS, State


def before(jobs: np.ndarray, one: int, other: int) -> bool:
    """Whether `one` goes before `other`, their tenants apart."""
    a, b = jobs[one], jobs[other]
    if a["priority"] != b["priority"]:
        return a["priority"] > b["priority"]
    if a["score"] != b["score"]:
        return a["score"] < b["score"]
    return one < other


def head(state: State, t: int) -> int:
    """First job in the tenant's queue, or -1."""
    return state.links[t, 0]


def behind(state: State, j: int) -> int:
    """The job after `j` in its queue, or -1."""
    return state.links[len(state.tenants) + j, 0]


def enqueue(state: State, j: int) -> None:
    """Put a job into its tenant's queue."""
    jobs, links, tails = state.jobs, state.links, state.tails
    tenants, t = len(state.tenants), jobs[j]["tenant"]
    row, height = tenants + j, _height(j)
    last = tails[t, 0]
    if last < tenants or before(jobs, last - tenants, j):
        for level in range(height):  # Most come last; that is cheap.
            links[row, level] = -1
            links[tails[t, level], level] = j
            tails[t, level] = row
        return
    at = t
    for level in range(LEVELS - 1, -1, -1):
        at = _walk(state, at, level, j)
        if level < height:
            links[row, level] = links[at, level]
            links[at, level] = j
            if links[row, level] < 0:
                tails[t, level] = row


def dequeue(state: State, j: int) -> None:
    """Take a job out of its tenant's queue."""
    links, tails = state.links, state.tails
    t = state.jobs[j]["tenant"]
    row, height, at = len(state.tenants) + j, _height(j), t
    for level in range(LEVELS - 1, -1, -1):
        at = _walk(state, at, level, j)
        if level < height:
            links[at, level] = links[row, level]
            if tails[t, level] == row:
                tails[t, level] = at


def reorder(state: State, order: np.ndarray, scores: np.ndarray) -> None:
    """Queue these jobs anew with these scores; `order` holds every queued job, first to last."""
    for t in range(len(state.tenants)):
        state.links[t, :] = -1
        state.tails[t, :] = t
        state.tenants[t]["fresh"] = True
    state.counts[FRESH] = len(state.tenants)
    for i in range(len(order)):
        state.jobs[order[i]]["score"] = scores[i]
        enqueue(state, order[i])


def _walk(state: State, at: int, level: int, j: int) -> int:
    """The last row on this level that goes before `j`."""
    links, jobs, tenants = state.links, state.jobs, len(state.tenants)
    while links[at, level] >= 0 and before(jobs, links[at, level], j):
        at = tenants + links[at, level]
    return at


def _height(j: int) -> int:
    """On how many levels the job stands: one in four reaches the next."""
    mixed = ((int(j) + 1) * 2654435761 & 0xFFFFFFFF) >> 8
    height = 1
    while height < LEVELS and mixed & 3 == 0:
        mixed >>= 2
        height += 1
    return height
