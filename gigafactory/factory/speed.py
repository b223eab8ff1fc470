"""How fast a job would run somewhere, and so when it would end. Tables of the driver's."""

import math

from gigafactory.factory.state import State


def rate(state: State, j: int, p: int, width: int) -> float:
    """Work a second of the job on so many chips of the pool, in the unit of its kind."""
    kind = state.kinds[state.jobs[j]["kind"]]
    row = kind["first_width"]
    if kind["widths"] == 0:  # As many chips, as much work.
        return width * state.rates[row, p]
    for i in range(kind["widths"] - 1, -1, -1):
        if state.widths[row + i] <= width:
            return state.rates[row + i, p]
    return 0.0


def seconds_left(state: State, j: int, p: int, width: int) -> float:
    """Expected seconds from a start to the end; inf where nobody knows."""
    job = state.jobs[j]
    work_a_second = rate(state, j, p, width)
    if job["work"] <= 0.0 or work_a_second <= 0.0:
        return math.inf
    left = max(job["work"] - job["step"] * job["step_work"], 0.0)
    return state.kinds[job["kind"]]["overhead_s"] + left / work_a_second


def narrower(state: State, j: int, width: int) -> int:
    """The next smaller width that the job runs on, or 0."""
    job = state.jobs[j]
    if width <= job["chips_min"]:
        return 0
    kind = state.kinds[job["kind"]]
    if kind["widths"] == 0:
        return max(width // 2, job["chips_min"])
    for i in range(kind["widths"] - 1, -1, -1):
        narrow = state.widths[kind["first_width"] + i]
        if narrow < width:
            return narrow if narrow >= job["chips_min"] else 0
    return 0


def wider(state: State, j: int, width: int) -> int:
    """The widest width of the job, above `width`, that needs no more than it asked for."""
    job = state.jobs[j]
    candidate = job["chips"]
    return candidate if candidate > width else 0
