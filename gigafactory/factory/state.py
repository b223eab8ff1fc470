"""The tables of the factory: a few numpy arrays, changed in place by `step` and nothing else.

The life of a job is the table `NEXT`, printed as a diagram by `diagram()`; everything that is
not in it is illegal. Numbers, not names: `Factory` translates.
"""

from typing import NamedTuple

import numpy as np

# Where a job stands.
WAITING, QUEUED, STARTING, RUNNING, STOPPING, PAUSED, DONE, FAILED, CANCELLED, BLOCKED = range(10)
STATUS = (
    "waiting",  # for the jobs it stands on
    "queued",  # for chips
    "starting",  # the driver was told to start it
    "running",
    "stopping",  # the driver was told to stop it
    "paused",  # after a fault, until its backoff is over
    "done",
    "failed",
    "cancelled",
    "blocked",  # a job it stands on will never be done, or did not pass
)
ENDED = (DONE, FAILED, CANCELLED, BLOCKED)
HOLDS_CHIPS = (STARTING, RUNNING, STOPPING)

# What can happen to a job.
(
    RELEASED,
    STARTED,
    CHECKPOINTED,
    ENDED_WELL,
    ENDED_ILL,
    LOST,
    STOPPED,
    CANCEL,
    RESUMED,
    PLACED,
    CUT,
) = range(11)
HAPPENING = (
    "released",  # all it stands on is done
    "started",
    "checkpointed",
    "done",
    "failed",
    "lost",
    "stopped",
    "cancelled",
    "resumed",  # its pause is over
    "placed",  # chips were found
    "cut off",  # a job it stands on will never be done
)

ILLEGAL = -1
NEXT = np.full((len(STATUS), len(HAPPENING)), ILLEGAL, dtype=np.int8)
for _before, _happening, _after in (
    (WAITING, RELEASED, QUEUED),
    (WAITING, CUT, BLOCKED),
    (WAITING, CANCEL, CANCELLED),
    (QUEUED, PLACED, STARTING),
    (QUEUED, CANCEL, CANCELLED),
    (STARTING, STARTED, RUNNING),
    (STARTING, ENDED_ILL, PAUSED),  # or FAILED, out of retries
    (STARTING, LOST, QUEUED),
    (STARTING, CANCEL, STOPPING),
    (RUNNING, CHECKPOINTED, RUNNING),
    (RUNNING, ENDED_WELL, DONE),
    (RUNNING, ENDED_ILL, PAUSED),  # or FAILED, out of retries
    (RUNNING, LOST, QUEUED),
    (RUNNING, STOPPED, QUEUED),
    (RUNNING, CANCEL, STOPPING),
    (STOPPING, STARTED, STOPPING),
    (STOPPING, CHECKPOINTED, STOPPING),
    (STOPPING, ENDED_WELL, DONE),  # it finished before it heard
    (STOPPING, ENDED_ILL, CANCELLED),
    (STOPPING, LOST, CANCELLED),
    (STOPPING, STOPPED, CANCELLED),
    (PAUSED, RESUMED, QUEUED),
    (PAUSED, CANCEL, CANCELLED),
):
    NEXT[_before, _happening] = _after

JOB = np.dtype(
    [
        ("status", "i1"),
        ("service", "?"),
        ("passed", "?"),
        ("chips", "i4"),
        ("priority", "i4"),
        ("retries", "i4"),
        ("attempt", "i4"),
        ("failures", "i4"),
        ("waits_for", "i4"),  # jobs it stands on that are not done
        ("pool", "i4"),  # where it runs, -1 for nowhere
        ("step", "i8"),  # of its last durable checkpoint
        ("resume_s", "f8"),  # when its pause ends
    ]
)
NODE = np.dtype([("pool", "i4"), ("chips", "i4"), ("free", "i4"), ("up", "?"), ("drained", "?")])
POOL = np.dtype([("site", "i4"), ("chip_w", "f8")])  # draw of a busy chip at the meter
SITE = np.dtype([("cap_w", "f8"), ("used_w", "f8")])
EDGE = np.dtype([("before", "i4"), ("after", "i4"), ("gate", "?")])
HOLD = np.dtype([("job", "i4"), ("node", "i4"), ("chips", "i4")])

# What the core is told, and what it answers.
EVENT = np.dtype(
    [
        ("kind", "i1"),
        ("job", "i4"),
        ("attempt", "i4"),
        ("node", "i4"),
        ("at_s", "f8"),
        ("value", "i8"),
    ]
)
SUBMIT, JOIN, LOSE_NODE, DRAIN, TICK = range(100, 105)
COMMAND = np.dtype([("kind", "i1"), ("job", "i4"), ("attempt", "i4"), ("at_s", "f8")])
START, STOP, WAKE = range(3)


class State(NamedTuple):
    """All tables. `counts` holds how many rows of each growing table are in use."""

    jobs: np.ndarray
    nodes: np.ndarray
    pools: np.ndarray
    sites: np.ndarray
    edges: np.ndarray
    holds: np.ndarray
    rank: np.ndarray  # (jobs, pools): 0 forbidden, else preference from 1, best first
    counts: np.ndarray


JOBS, NODES, EDGES, HOLDS = range(4)


def empty(sites: list[float], pools: list[tuple[int, float]], room: int = 16) -> State:
    """Tables for sites of `cap_w` and pools of `(site, chip_w)`, with `room` rows to grow into."""
    return State(
        jobs=np.zeros(room, JOB),
        nodes=np.zeros(room, NODE),
        pools=np.array(pools, POOL),
        sites=np.array([(cap_w, 0.0) for cap_w in sites], SITE),
        edges=np.zeros(room, EDGE),
        holds=np.zeros(room, HOLD),
        rank=np.zeros((room, len(pools)), np.int32),
        counts=np.zeros(4, np.int64),
    )


def grow(state: State) -> State:
    """The same state with room for at least one more row in each table."""

    def longer(table: np.ndarray, used: int, spare: int = 1) -> np.ndarray:
        if used + spare <= len(table):
            return table
        more = np.zeros((max(len(table), spare), *table.shape[1:]), table.dtype)
        return np.concatenate([table, more])

    jobs, nodes, edges, holds = state.counts
    return state._replace(
        jobs=longer(state.jobs, jobs),
        nodes=longer(state.nodes, nodes),
        edges=longer(state.edges, edges),
        # One start can take a piece of every node.
        holds=longer(state.holds, holds, len(state.nodes) + 1),
        rank=longer(state.rank, jobs),
    )


def diagram() -> str:
    """The life of a job as a Mermaid state diagram, drawn from `NEXT`."""
    lines = ["stateDiagram-v2"]
    for before, happening in zip(*np.nonzero(NEXT != ILLEGAL), strict=True):
        after = NEXT[before, happening]
        lines.append(f"    {STATUS[before]} --> {STATUS[after]}: {HAPPENING[happening]}")
    return "\n".join(lines)
