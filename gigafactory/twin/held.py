"""A lived scene as columns: which jobs held which chips, from when to when, to what use. Modelled.

In: a scenario and what the loop logged. Times in s from the start, cut off at the horizon; W of the
machines. Answers, pictures and explanations are all made of these columns.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.factory import speed
from gigafactory.factory import state as st
from gigafactory.twin.hours import HOUR_S
from gigafactory.twin.power import series
from gigafactory.twin.run import Lived
from gigafactory.twin.scenario import Scenario

Array = NDArray[Any]
AT_EASE_S = 1e-6


@dataclass(frozen=True)
class Jobs:
    """All jobs that came, one a row."""

    submit_s: Array
    free_s: Array
    """When nothing but chips was missing: submission, or the end of what it stands on."""
    start_s: Array
    """First start; inf where there was none."""
    end_s: Array
    """When it was done, or no longer wanted; inf where neither came."""
    done: Array
    kind: Array
    tenant: Array
    chips: Array
    service: Array
    deadline_s: Array


@dataclass(frozen=True)
class Held:
    """Attempts, one a row, sorted by job and start. Seconds are an attempt's, not its chips'."""

    job: Array
    kind: Array
    tenant: Array
    pool: Array
    site: Array
    chips: Array
    start_s: Array
    end_s: Array
    ready_s: Array
    """When it began to work."""
    outcome: Array
    useful_s: Array
    """Of full speed, whose work was kept; of a service, all that it stood ready."""
    lost_s: Array
    """Whose work was lost to a failure, with the checkpoints in it."""
    kept: Array
    added_w: Array
    """What its chips draw beyond idle ones, all together."""
    last: Array
    """Whether it is the newest of its job."""

    @cached_property
    def chip_s(self) -> Array:
        """Chip-seconds held."""
        return np.asarray(self.chips * (self.end_s - self.start_s))


def end_of(scenario: Scenario) -> float:
    """The last second that is counted: the horizon, or where the hours end."""
    return min(scenario.horizon_s, scenario.hours.pue.shape[1] * HOUR_S)


def jobs(scenario: Scenario, lived: Lived) -> Jobs:
    """The jobs that were submitted before the end."""
    life = lived.life
    rows, count = lived.state.jobs[: len(life)], len(life)
    end_s = np.full(count, np.inf)
    ended = lived.log[lived.log["outcome"] == st.ENDED_WELL]
    end_s[ended["job"]] = ended["ended_s"]
    world = scenario.scene.world["event"]
    unwanted = world[world["kind"] == st.CANCEL]
    np.minimum.at(end_s, unwanted["job"], unwanted["at_s"])
    free_s = life["submit_s"].copy()
    edges = lived.state.edges[: lived.state.counts[st.EDGES]]
    np.maximum.at(free_s, edges["after"], end_s[edges["before"]])
    return Jobs(
        submit_s=life["submit_s"],
        free_s=free_s,
        start_s=np.nan_to_num(lived.starts_s, nan=np.inf),
        end_s=end_s,
        done=rows["status"] == st.DONE,
        kind=rows["kind"],
        tenant=rows["tenant"],
        chips=rows["chips"],
        service=rows["service"] | (rows["work"] <= 0),
        deadline_s=rows["deadline_s"],
    )


def held(scenario: Scenario, lived: Lived) -> Held:
    """The log, sorted by job, with what each attempt was good for."""
    log, rows, life = lived.log, lived.state.jobs, lived.life
    log = log[np.argsort(log["job"], kind="stable")]
    job, pool, chips = log["job"], log["pool"], log["width"]
    until_s = end_of(scenario)
    start_s = np.clip(log["started_s"], 0.0, until_s)
    end_s = np.clip(log["ended_s"], start_s, until_s)
    first = np.ones(len(log), bool)
    first[1:] = job[1:] != job[:-1]
    after_failure = np.zeros(len(log), bool)
    after_failure[1:] = ~first[1:] & (log["outcome"][:-1] == st.LOSE_NODE)
    overhead_s = np.where(after_failure, life["restart_s"][job], life["overhead_s"][job])
    ready_s = np.minimum(start_s + overhead_s, end_s)
    kind = rows["kind"][job]
    per_s = rates(lived.state, kind, pool, chips) * life["luck"][job]
    unit_s = np.divide(1.0, per_s, out=np.zeros(len(log)), where=per_s > 0)
    every, write_s = life["every"][job], life["write_s"][job]
    saving_s = np.divide(write_s, every, out=np.zeros(len(log)), where=every > 0)
    works = rows["work"][job] > 0
    pool_site = np.array([one.site for one in scenario.pools], np.int64)
    idle_w = np.array([one.idle_w for one in scenario.pools])
    busy_w = np.array([one.busy_w for one in scenario.kinds])
    return Held(
        job=job,
        kind=kind,
        tenant=rows["tenant"][job],
        pool=pool,
        site=pool_site[pool],
        chips=chips,
        start_s=start_s,
        end_s=end_s,
        ready_s=ready_s,
        outcome=log["outcome"],
        useful_s=np.where(works, log["kept"] * unit_s, end_s - ready_s),
        lost_s=np.where(works, log["lost"] * (unit_s + saving_s), 0.0),
        kept=log["kept"],
        added_w=chips * (busy_w[kind, pool] - idle_w[pool]),
        last=np.append(first[1:], True)[: len(log)],
    )


def rates(state: st.State, kind: Array, pool: Array, chips: Array) -> Array:
    """Work a second by the core's own table, asked once for each kind, pool and width."""
    if not len(kind):
        return np.zeros(0)
    pools = len(state.pools)
    # One number for all three: sorting rows of three takes ten times as long.
    key = (kind.astype(np.int64) * pools + pool) << 32 | chips
    which, where = np.unique(key, return_inverse=True)
    one = state._replace(jobs=np.zeros(1, st.JOB))
    found = np.zeros(len(which))
    for i, row in enumerate(which.tolist()):
        one.jobs["kind"], p = divmod(row >> 32, pools)
        found[i] = speed.rate(one, 0, p, row & 0xFFFFFFFF)
    return np.asarray(found[where])


def waits(of: Jobs, held: Held, until_s: float) -> tuple[Array, Array, Array]:
    """(job, from_s, to_s) of every stretch in which a job waited for chips."""
    first = np.ones(len(held.job), bool)
    first[1:] = held.job[1:] != held.job[:-1]
    before_s = np.concatenate([[0.0], held.end_s])[: len(held.job)]
    from_s = np.where(first, of.free_s[held.job], before_s)
    # What was stopped or lost at the end, or never started, waits still.
    gone = np.isin(held.outcome, (st.LOSE_NODE, st.STOPPED)) & held.last
    never = np.flatnonzero(np.isinf(of.start_s))
    job = np.concatenate([held.job, held.job[gone], never])
    from_s = np.concatenate([from_s, held.end_s[gone], of.free_s[never]])
    to_s = np.concatenate([held.start_s, of.end_s[held.job[gone]], of.end_s[never]])
    from_s = np.clip(from_s, 0.0, until_s)
    to_s = np.clip(to_s, from_s, until_s)
    kept = to_s - from_s > AT_EASE_S
    return job[kept], from_s[kept], to_s[kept]


def standing(scenario: Scenario) -> tuple[Array, Array, Array]:
    """(node, from_s, to_s) of every stretch in which a node was up and took work."""
    event, until_s = scenario.scene.world["event"], end_of(scenario)
    event = event[np.isin(event["kind"], (st.JOIN, st.LOSE_NODE, st.DRAIN))]
    event = event[event["at_s"] < until_s]
    event = event[np.argsort(event["where"], kind="stable")]
    node = event["where"]
    to_s = np.append(event["at_s"][1:], until_s)[: len(event)]
    to_s[np.append(node[1:] != node[:-1], True)[: len(event)]] = until_s
    up = event["kind"] == st.JOIN
    from_s = np.maximum(event["at_s"], 0.0)
    return node[up], from_s[up], np.maximum(to_s, from_s)[up]


def node_chips(scenario: Scenario) -> Array:
    """Chips of each node, in the order of its row."""
    return np.asarray(scenario.scene.state.nodes["chips"][: scenario.scene.state.counts[st.NODES]])


def resting_w(scenario: Scenario) -> Array:
    """What everything that stands at each site draws while idle."""
    watts = np.zeros(len(scenario.sites))
    for pool in scenario.pools:
        watts[pool.site] += pool.nodes * pool.chips_per_node * pool.idle_w
    return watts


def machines_w(scenario: Scenario, held: Held, step_s: float) -> Array:
    """(sites, steps): mean draw of the machines."""
    return series(
        held.start_s,
        held.end_s,
        held.site,
        held.added_w,
        resting_w(scenario),
        step_s,
        end_of(scenario),
    )
