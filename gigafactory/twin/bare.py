"""A bare trace: who asks when for how many chips, and nothing else. Modelled.

Each virtual cluster is its own pool and its own queue. A gang gets whole nodes first, and what
is over on the fullest node that fits; `fifo` is strict, the head of a queue blocks. Ends are exact:
what the clock said at the start plus the duration, rounded once.
"""

from collections.abc import Sequence

import numpy as np

from gigafactory.factory import policy as policies
from gigafactory.factory import state as st
from gigafactory.twin import loop
from gigafactory.twin.run import Scene

AT_ONCE_S = 1e-290
"""What a job of no length takes: 0 stands for work that nobody knows. Added to any time but 0 it
is nothing."""
OWN_EVERY_S = 600.0
"""How often a user's own policy fills its scores."""
STEPS = 2**40
"""In a job, so that one that is stopped and goes on later has lost nothing."""


def scene_of(
    submit_s: np.ndarray,
    duration_s: np.ndarray,
    chips: np.ndarray,
    *,
    policy: str | policies.Policy = "fifo",
    pools: Sequence[tuple[int, int]] = (),
    vc: np.ndarray | None = None,
    tenant: np.ndarray | None = None,
) -> Scene:
    """Jobs in order of submission, each to be played for its duration once it starts.

    `pools` are `(chips, chips a node)`, and `vc` says in which of them each job runs. Without
    them one node holds as many chips as the largest job wants. `tenant` says in whose queue it
    waits, where that is not its pool's.
    """
    pools = pools or [(int(chips.max(initial=1)), int(chips.max(initial=1)))]
    where = np.zeros(len(submit_s), np.int32) if vc is None else vc
    whose = where if tenant is None else tenant
    tenants = [(1.0, -1, 0, -1)] * max(len(pools), int(whose.max(initial=0)) + 1)
    state = st.empty([st.NO_CAP_MW], [(0, 0)] * len(pools), tenants)
    for p, (total, node_chips) in enumerate(pools):
        likes = np.full(len(pools), np.inf)
        likes[p] = 0.0
        none = np.zeros(len(pools), np.int64)
        # Work is in seconds, at one a second however wide the gang: nothing to multiply, and so
        # nothing to round.
        state = st.add_kind(state, (1,), np.ones((1, len(pools))), none, likes)
        for n in range(total // node_chips):
            rack = -1 if n == 0 else int(state.counts[st.RACKS]) - 1
            block = -1 if n == 0 else int(state.counts[st.BLOCKS]) - 1
            state = st.add_node(state, p, node_chips, block, rack, st.NO_CAP_MW)
    state, life = with_jobs(state, len(submit_s))
    jobs = state.jobs
    jobs["kind"], jobs["tenant"] = where, whose
    jobs["chips"] = jobs["chips_min"] = chips
    jobs["work"] = np.maximum(duration_s, AT_ONCE_S)
    jobs["step_work"] = jobs["work"] / STEPS
    jobs["deadline_s"] = np.inf
    life["submit_s"] = submit_s
    state.rules["backfill"] = False
    known = policy if isinstance(policy, str) else ""
    for name, value in policies.RULES.get(known, {}).items():
        state.rules[name] = value
    joins = np.zeros(int(state.counts[st.NODES]), loop.WORLD)
    joins["event"]["kind"], joins["event"]["where"] = st.JOIN, np.arange(len(joins))
    joins["event"]["at_s"] = min(0.0, float(submit_s.min(initial=0.0)))
    return Scene(
        state=state,
        life=life,
        world=joins,
        horizon_s=np.inf,
        policy=policies.POLICIES[policy] if isinstance(policy, str) else policy,
        every_s=policies.EVERY_S.get(known, 0.0 if known else OWN_EVERY_S),
    )


def with_jobs(state: st.State, count: int) -> tuple[st.State, np.ndarray]:
    """The same tables with `count` empty rows for jobs, and their lives."""
    tenants = len(state.tenants)
    jobs = np.zeros(count, st.JOB)
    jobs["first_out"] = jobs["pool"] = -1
    state.counts[st.JOBS] = count
    chips = int(state.nodes["chips"].sum())
    made = state._replace(
        jobs=jobs,
        links=np.full((tenants + count, st.LEVELS), -1, np.int32),
        holds=np.zeros(chips + len(state.nodes) + 1, st.HOLD),
        scratch=np.zeros(len(state.nodes) + 1, np.int32),
        lifted=np.zeros(min(count, chips) + 1, np.int32),
    )
    life = np.zeros(count, loop.LIFE)
    life["luck"] = 1.0
    return made, life
