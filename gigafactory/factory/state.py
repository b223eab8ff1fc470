"""The tables of the factory: a few numpy arrays, changed in place by `step` and nothing else.

The life of a job is the table `NEXT`, printed as a diagram by `diagram()`; everything that is
not in it is illegal. Numbers, not names: `Factory` translates.
"""

from collections.abc import Sequence
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
    (STARTING, STOPPED, QUEUED),
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
        ("entitled", "?"),  # it runs within its tenant's quota, not on borrowed chips
        ("leaving", "?"),  # it runs, and was told to stop at a checkpoint
        ("kind", "i4"),  # row of `kinds`
        ("tenant", "i4"),
        ("chips", "i4"),  # wanted
        ("chips_min", "i4"),  # the fewest it runs on; less than `chips` for elastic jobs
        ("width", "i4"),  # chips held now
        ("priority", "i4"),
        ("retries", "i4"),
        ("attempt", "i4"),
        ("failures", "i4"),
        ("waits_for", "i4"),  # jobs it stands on that are not done
        ("pool", "i4"),  # where it runs, -1 for nowhere
        ("reserved", "i4"),  # pool in which it is the next to start, -1 for none
        ("claims", "i4"),  # pool in which others were told to stop for it, -1 for none
        ("first_hold", "i4"),
        ("before", "i4"),  # neighbours in the list of its pool's running jobs,
        ("behind", "i4"),  # or of paused ones
        ("first_in", "i4"),  # edges from what it stands on: rows first_in ... first_in + ins
        ("ins", "i4"),
        ("first_out", "i4"),  # edges to what stands on it: a list through `next_out`
        ("step", "i8"),  # of its last durable checkpoint
        ("queued_s", "f8"),
        ("started_s", "f8"),
        ("ends_s", "f8"),  # when it is expected to end, inf where nobody knows
        ("resume_s", "f8"),  # when its pause ends
        ("deadline_s", "f8"),
        ("work", "f8"),  # in all, in the unit of its kind; 0 where nobody knows
        ("step_work", "f8"),  # of one step
        ("tried_s", "f8"),  # when others were last looked through for it
        ("score", "f8"),  # filled by the policy: lowest first, inf for not now
    ],
    align=True,
)
NODE = np.dtype(
    [
        ("pool", "i4"),
        ("rack", "i4"),
        ("chips", "i4"),
        ("free", "i4"),
        ("up", "?"),
        ("drained", "?"),
        ("lemon", "?"),  # failed too often; out until it is replaced
        ("failures", "i4"),
        ("failing_since_s", "f8"),  # the first of `failures`
        ("before", "i4"),  # neighbours on its shelf
        ("behind", "i4"),
    ],
    align=True,
)
RACK = np.dtype(
    [
        ("block", "i4"),
        ("next", "i4"),  # of the same block
        ("whole", "i4"),  # nodes wholly free
        ("first_whole", "i4"),
        ("mark", "i8"),
        ("cap_mw", "i8"),
        ("used_mw", "i8"),
    ],
    align=True,
)
BLOCK = np.dtype([("pool", "i4"), ("next", "i4"), ("first_rack", "i4"), ("mark", "i8")], align=True)
POOL = np.dtype(
    [
        ("site", "i4"),
        ("open", "?"),  # whether law and calendar let new work in
        ("touched", "?"),  # something became free since the last pass
        ("node_chips", "i4"),
        ("nodes", "i4"),
        ("first_node", "i4"),
        ("first_block", "i4"),
        ("first_shelf", "i4"),  # shelf of nodes with f chips free: first_shelf + f
        ("free", "i4"),  # chips on nodes that take work
        ("whole", "i4"),
        ("spares", "i4"),  # whole nodes kept for jobs that lost theirs
        ("first_run", "i4"),
        ("leaving", "i4"),  # jobs that were told to stop
        ("lent", "i4"),  # chips held that are borrowed
        ("narrow", "i4"),  # running elastic jobs that could be wider
        ("claim", "i4"),  # job for which others were told to stop, -1 for none
        ("next_up", "i4"),  # job that starts here next; others may not delay it
        ("shadow_s", "f8"),  # when it will be able to, -1 where not yet computed
        ("foreseen_s", "f8"),  # when that was
        ("extra", "i4"),  # chips that will be over then
    ],
    align=True,
)
SITE = np.dtype(
    [
        ("cap_mw", "i8"),
        ("used_mw", "i8"),
        ("bound", "?"),  # a start failed for power
    ],
    align=True,
)
TENANT = np.dtype(
    [
        ("weight", "f8"),
        ("quota", "i8"),  # chips, -1 for none
        ("borrow", "i8"),  # chips beyond it
        ("cohort", "i4"),
        ("fresh", "?"),  # its head is to be tried in every pool
        ("thirsty", "?"),  # its head waits for quota
        ("passed", "i8"),  # pass in which it was last tried
        ("used", "i8"),
        ("entitled", "i8"),  # of these within its quota
        ("usage", "f8"),  # chip-seconds, fading
        ("usage_s", "f8"),  # until when they are counted
    ],
    align=True,
)
COHORT = np.dtype([("quota", "i8"), ("used", "i8"), ("borrowed", "i8")], align=True)
KIND = np.dtype([("first_width", "i4"), ("widths", "i4"), ("overhead_s", "f8")], align=True)
EDGE = np.dtype([("before", "i4"), ("after", "i4"), ("gate", "?"), ("next_out", "i4")], align=True)
HOLD = np.dtype([("node", "i4"), ("chips", "i4"), ("next", "i4")], align=True)
RULES = np.dtype(
    [
        ("backfill", "?"),
        ("fair", "?"),  # the tenant with the least fading usage for its weight goes first
        ("preempts", "?"),  # a lower score takes chips from a higher one
        ("elastic", "?"),  # whether narrow jobs are stopped to grow
        ("window", "i4"),  # jobs behind a blocked head that may be tried
        ("lemons", "i4"),  # failures within `lemon_s` that take a node out, 0 for never
        ("lemon_s", "f8"),
        ("preempt_after_s", "f8"),  # a job runs so long before it may be preempted
        ("grow_after_s", "f8"),
        ("half_life_s", "f8"),  # of fading usage
    ],
    align=True,
)

# What the core is told, and what it answers. `where` is a node, a site or a pool.
EVENT = np.dtype(
    [
        ("kind", "i1"),
        ("job", "i4"),
        ("attempt", "i4"),
        ("where", "i4"),
        ("at_s", "f8"),
        ("value", "i8"),
    ],
    align=True,
)
SUBMIT, JOIN, LOSE_NODE, DRAIN, TICK, CAP, OPEN, CLOSE = range(100, 108)
COMMAND = np.dtype(
    [("kind", "i1"), ("job", "i4"), ("attempt", "i4"), ("where", "i4"), ("at_s", "f8")], align=True
)
START, STOP, WAKE, REPLACE = range(4)

# Why a job waits.
(
    NO_WAIT, BEHIND, QUOTA, CHIPS, SCATTERED, POWER, NEXT_UP, CLAIMED, CLOSED, HELD, MAKING_ROOM,
) = range(11)  # fmt: skip
WHY = (
    "nothing: it can start now",
    "others of its tenant are before it",
    "its tenant's quota is used, and nothing is left to borrow",
    "too few chips are free",
    "enough chips are free, but not on nodes that take the gang together",
    "the site's power is used",
    "a job before it would start later if this one started now",
    "chips are being freed for another job",
    "no pool that may run it is open",
    "its policy holds it back for a better hour",
    "others were told to stop for it",
)

COUNTS = 18
NOBODY, MANY = -1, -2  # what `NEWCOMER` may be instead of a job
LEVELS = 8  # of the skip lists that are the queues
NO_CAP_MW = 1 << 62


class State(NamedTuple):
    """All tables. `counts` holds how many rows of each growing table are in use."""

    jobs: np.ndarray
    nodes: np.ndarray
    racks: np.ndarray
    blocks: np.ndarray
    pools: np.ndarray
    sites: np.ndarray
    tenants: np.ndarray
    cohorts: np.ndarray
    kinds: np.ndarray
    widths: np.ndarray  # (rows,) chips of each width of each kind, ascending within a kind
    rates: np.ndarray  # (rows, pools) work a second at that width
    chip_mw: np.ndarray  # (kinds, pools) draw of a busy chip at the meter, mW
    likes: np.ndarray  # (kinds, pools) lowest first, inf for forbidden
    ranked: np.ndarray  # (kinds, pools) pools so ordered; -1 behind the last that is allowed
    links: np.ndarray  # (tenants + jobs, LEVELS) next in the queue, as a job; -1 for none
    tails: np.ndarray  # (tenants, LEVELS) last of each level, as a row of `links`
    edges: np.ndarray
    holds: np.ndarray
    shelves: np.ndarray  # first node on each shelf
    scratch: np.ndarray  # nodes picked: of use within one call only
    lifted: np.ndarray  # jobs, likewise
    touched: np.ndarray  # pools with their flag up
    rules: np.ndarray  # one row
    counts: np.ndarray


(
    JOBS, NODES, EDGES, HOLDS, RACKS, BLOCKS, KINDS, WIDTHS, PASS, MARK, FREE_HOLD, SPAN,
    PICKED, PAUSED_JOBS, TOUCHED, FRESH, NEWCOMER, LEAST_PRIORITY,
) = range(18)  # fmt: skip


def empty(
    sites: Sequence[int],
    pools: Sequence[tuple[int, int]],
    tenants: Sequence[tuple[float, int, int, int]] = (),
    *,
    room: int = 16,
) -> State:
    """Tables for sites of `cap_mw`, pools of `(site, spares)`, tenants of `(weight, quota,
    borrow, cohort)`, with `room` rows to grow into. Quota -1 is none; cohorts count from 0.
    """
    in_pools = len(pools)
    state = State(
        jobs=np.zeros(room, JOB),
        nodes=np.zeros(room, NODE),
        racks=np.zeros(room, RACK),
        blocks=np.zeros(room, BLOCK),
        pools=np.zeros(in_pools, POOL),
        sites=np.array([(cap_mw, 0, False) for cap_mw in sites], SITE),
        tenants=np.zeros(0, TENANT),
        cohorts=np.zeros(max((cohort for *_, cohort in tenants), default=-1) + 1, COHORT),
        kinds=np.zeros(room, KIND),
        widths=np.zeros(room, np.int32),
        rates=np.zeros((room, in_pools)),
        chip_mw=np.zeros((room, in_pools), np.int64),
        likes=np.full((room, in_pools), np.inf),
        ranked=np.full((room, in_pools), -1, np.int32),
        links=np.full((room, LEVELS), -1, np.int32),
        tails=np.zeros((0, LEVELS), np.int32),
        edges=np.zeros(room, EDGE),
        holds=np.zeros(room, HOLD),
        shelves=np.zeros(0, np.int32),
        scratch=np.zeros(room, np.int32),
        lifted=np.zeros(room, np.int32),
        touched=np.zeros(in_pools, np.int32),
        rules=np.zeros(1, RULES),
        counts=np.zeros(COUNTS, np.int64),
    )
    for name in ("first_node", "first_block", "first_run", "claim", "next_up"):
        state.pools[name] = -1
    state.pools["open"], state.pools["shadow_s"] = True, -1.0
    if in_pools:
        state.pools["site"], state.pools["spares"] = np.array(pools).T
    rules = state.rules
    rules["backfill"], rules["window"], rules["half_life_s"] = True, 32, 7 * 86400.0
    rules["lemon_s"], rules["grow_after_s"] = 30 * 86400.0, 600.0
    state.counts[[FREE_HOLD, PAUSED_JOBS, NEWCOMER]] = -1
    state.counts[LEAST_PRIORITY] = 1 << 30
    for tenant in tenants:
        state = add_tenant(state, *tenant)
    return state


def add_tenant(state: State, weight: float, quota: int, borrow: int, cohort: int) -> State:
    """One more tenant, with an empty queue."""
    t = len(state.tenants)
    row = np.zeros(1, TENANT)
    row["weight"], row["quota"], row["borrow"], row["cohort"] = weight, quota, borrow, cohort
    row["passed"] = -1
    if quota >= 0:
        state.cohorts[cohort]["quota"] += quota
    tails = np.where(state.tails >= t, state.tails + 1, state.tails)  # Rows of jobs move by one.
    return state._replace(
        tenants=np.concatenate([state.tenants, row]),
        links=np.insert(state.links, t, -1, axis=0),
        tails=np.concatenate([tails, np.full((1, LEVELS), t)]).astype(np.int32),
    )


def add_node(state: State, p: int, chips: int, block: int, rack: int, cap_mw: int) -> State:
    """One more node, not yet up; a block or rack that is -1 is a new one of the pool."""
    state = grow(state)
    counts, pool = state.counts, state.pools[p]
    if block < 0:
        block = counts[BLOCKS]
        counts[BLOCKS] += 1
        state.blocks[block] = (p, pool["first_block"], -1, 0)
        pool["first_block"] = block
    if rack < 0:
        rack = counts[RACKS]
        counts[RACKS] += 1
        state.racks[rack] = (block, state.blocks[block]["first_rack"], 0, -1, 0, cap_mw, 0)
        state.blocks[block]["first_rack"] = rack
    if pool["nodes"] == 0:
        pool["node_chips"], pool["first_shelf"] = chips, len(state.shelves)
        pool["first_node"] = counts[NODES]
        state = state._replace(
            shelves=np.concatenate([state.shelves, np.full(chips, -1, np.int32)])
        )
    node = state.nodes[counts[NODES]]
    node["pool"], node["rack"], node["chips"], node["free"] = p, rack, chips, chips
    node["failing_since_s"] = -1e18
    pool["nodes"] += 1
    counts[NODES] += 1
    return state


def add_kind(
    state: State,
    widths: Sequence[int],
    rates: np.ndarray,
    chip_mw: np.ndarray,
    likes: np.ndarray,
    overhead_s: float = 0.0,
) -> State:
    """One more kind of job. `rates` (max(widths, 1), pools); without widths: work a chip-second."""
    c, row = state.counts[KINDS], state.counts[WIDTHS]
    rows = max(len(widths), 1)
    state = grow(state, widths=rows)
    state.kinds[c] = (row, len(widths), overhead_s)
    state.widths[row : row + len(widths)] = widths
    state.rates[row : row + rows] = rates
    state.chip_mw[c], state.likes[c] = chip_mw, likes
    order = np.argsort(likes, kind="stable")
    state.ranked[c] = np.where(np.isinf(likes[order]), -1, order)
    state.counts[KINDS] += 1
    state.counts[WIDTHS] += rows
    return state


def grow(state: State, widths: int = 1) -> State:
    """The same state with room for at least one more row in each table."""

    def longer(table: np.ndarray, used: int, spare: int = 1, fill: int = 0) -> np.ndarray:
        if used + spare <= len(table):
            return table
        more = np.full((max(len(table), spare), *table.shape[1:]), fill, table.dtype)
        return np.concatenate([table, more])

    counts, tenants = state.counts, len(state.tenants)
    nodes = longer(state.nodes, counts[NODES])
    jobs = longer(state.jobs, counts[JOBS])
    return state._replace(
        jobs=jobs,
        nodes=nodes,
        racks=longer(state.racks, counts[RACKS]),
        blocks=longer(state.blocks, counts[BLOCKS]),
        kinds=longer(state.kinds, counts[KINDS]),
        widths=longer(state.widths, counts[WIDTHS], widths),
        rates=longer(state.rates, counts[WIDTHS], widths),
        chip_mw=longer(state.chip_mw, counts[KINDS]),
        likes=longer(state.likes, counts[KINDS]),
        ranked=longer(state.ranked, counts[KINDS]),
        links=longer(state.links, tenants + counts[JOBS], fill=-1),
        edges=longer(state.edges, counts[EDGES]),
        # One start can take a piece of every node.
        holds=longer(state.holds, counts[HOLDS], len(nodes) + 1),
        scratch=longer(state.scratch, len(nodes) + 1),
        lifted=longer(state.lifted, len(jobs)),
    )


def command(
    out: np.ndarray, written: int, kind: int, job: int, attempt: int, where: int, at_s: float
) -> int:
    """Write one command; how many are written now."""
    row = out[written]
    row["kind"], row["job"], row["attempt"] = kind, job, attempt
    row["where"], row["at_s"] = where, at_s
    return written + 1


def diagram() -> str:
    """The life of a job as a Mermaid state diagram, drawn from `NEXT`."""
    lines = ["stateDiagram-v2"]
    for before, happening in zip(*np.nonzero(NEXT != ILLEGAL), strict=True):
        after = NEXT[before, happening]
        lines.append(f"    {STATUS[before]} --> {STATUS[after]}: {HAPPENING[happening]}")
    return "\n".join(lines)
