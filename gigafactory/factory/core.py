"""The door of the core: events with names in, commands with names out.

Both drivers hold one `Factory`. They ask `accepts` before they write an event to the ledger
and `apply` after; the same events in the same order give the same commands, always.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigafactory.factory import events as ev
from gigafactory.factory import place, queue, quota, step
from gigafactory.factory import policy as policies
from gigafactory.factory import state as st
from gigafactory.factory import why as whys

HAPPENINGS = {
    ev.JobStarted: st.STARTED,
    ev.JobCheckpointed: st.CHECKPOINTED,
    ev.JobDone: st.ENDED_WELL,
    ev.JobFailed: st.ENDED_ILL,
    ev.JobLost: st.LOST,
    ev.JobStopped: st.STOPPED,
    ev.JobCancelled: st.CANCEL,
}
NODE_HAPPENINGS = {ev.NodeJoined: st.JOIN, ev.NodeLost: st.LOSE_NODE, ev.NodeDrained: st.DRAIN}


@dataclass(frozen=True)
class Start:
    """Start this attempt on these chips, from the job's last durable checkpoint."""

    job: str
    attempt: int
    pool: str
    nodes: tuple[str, ...]
    chips: tuple[int, ...]
    from_step: int


@dataclass(frozen=True)
class Stop:
    """Make this attempt stop; what it held is given back when it says so."""

    job: str
    attempt: int


@dataclass(frozen=True)
class Wake:
    """Send a `Ticked` at this time."""

    at_s: float


@dataclass(frozen=True)
class Replace:
    """This node failed too often and takes no more work: put another in its place."""

    node: str


Command = Start | Stop | Wake | Replace


@dataclass(frozen=True)
class Tenant:
    """Who shares the factory. `quota` in chips, None for none; `borrow` so many more, at most."""

    name: str
    weight: float = 1.0
    quota: int | None = None
    borrow: int | None = None
    cohort: str = ""


class Factory:
    """The running factory. Holds no clock and no file; `apply` is its only verb.

    `sites` are `(name, cap_w)`; `pools`, each one system at one site, are
    `(name, site, chip_w)` with the draw of a busy chip at the meter, PUE included. `policy` is a
    name of `POLICIES` or a function like those; `rules` are fields of `state.RULES`. With
    `compiled` the same core runs some fifty times as fast, and takes 100 MB and, the first time
    that a version of it runs on a machine, a minute to compile.
    """

    def __init__(
        self,
        sites: Iterable[tuple[str, float]],
        pools: Iterable[tuple[str, str, float]],
        tenants: Iterable[Tenant] = (),
        policy: str | policies.Policy = "fifo",
        rules: Mapping[str, Any] | None = None,
        spares: int = 0,
        compiled: bool = False,
    ):
        self._core: dict[str, Any] = {"step": step, "queue": queue, "place": place, "why": whys}
        if compiled:
            from gigafactory.factory.compiled import core

            self._core = core()
        sites, pools, tenants = list(sites), list(pools), list(tenants)
        self._sites = {name: i for i, (name, _) in enumerate(sites)}
        self._pools = {name: i for i, (name, _, _) in enumerate(pools)}
        self._pool_names = [name for name, _, _ in pools]
        self._tenants = {tenant.name: i for i, tenant in enumerate(tenants)}
        self._cohorts = cohorts_of(tenants)
        self._chip_mw = np.array([round(chip_w * 1e3) for *_, chip_w in pools], np.int64)
        self._jobs: dict[str, int] = {}
        self._job_names: list[str] = []
        self._nodes: dict[str, int] = {}
        self._node_names: list[str] = []
        self._racks: dict[tuple[int, str, str], int] = {}
        self._blocks: dict[tuple[int, str], int] = {}
        self._kinds: dict[tuple[str, ...], int] = {}
        self._submitted_s: list[float] = []
        self._out = np.zeros(16, st.COMMAND)
        self._policy = policies.POLICIES[policy] if isinstance(policy, str) else policy
        self._every_s = policies.EVERY_S.get(policy, 0.0) if isinstance(policy, str) else 0.0
        self.state = st.empty(
            [round(cap_w * 1e3) for _, cap_w in sites],
            [(self._sites[site], spares) for _, site, _ in pools],
            rows_of(tenants),
        )
        implied = policies.RULES.get(policy, {}) if isinstance(policy, str) else {}
        for name, value in {**implied, **(rules or {})}.items():
            self.state.rules[name] = value

    def accepts(self, event: ev.Event) -> bool:
        """Whether the event may happen now; an old attempt's word may not."""
        if isinstance(event, ev.JobSubmitted):
            known = self._jobs
            fits = 0 < (event.chips_min or event.chips) <= event.chips
            stands = all(job in known for job in (*event.after, *event.through))
            return fits and stands and event.job not in known
        if isinstance(event, ev.NodeJoined):
            return event.pool in self._pools and self._may_join(event)
        if isinstance(event, ev.NodeEvent):
            return event.node in self._nodes
        if isinstance(event, ev.SiteCapped):
            return event.site in self._sites
        if isinstance(event, ev.PoolOpened):
            return event.pool in self._pools
        if isinstance(event, ev.JobEvent) and event.job not in self._jobs:
            return False
        if type(event) not in HAPPENINGS:
            return True
        return bool(self._core["step"].accepts(self.state, self._encode(event)))

    def apply(self, event: ev.Event, accepted: bool = False) -> list[Command]:
        """Let the event happen; answer what the driver is to do. Facts for queries do nothing.

        `accepted`: `accepts` was asked, and since then nothing happened that could matter.
        """
        if not isinstance(event, ev.CoreEvent):
            return []
        assert accepted or self.accepts(event), event
        if self._is_tight():
            self.state = st.grow(self.state)
        if isinstance(event, ev.JobSubmitted):
            self._enter(event)
        elif isinstance(event, ev.NodeJoined):
            self._join(event)
        elif isinstance(event, ev.TenantChanged):
            self._change(event)
        elif isinstance(event, ev.Ticked) and self._every_s:
            self._rescore(event.at_s)
        jobs, nodes = self.state.counts[st.JOBS], self.state.counts[st.NODES]
        if len(self._out) < 4 * (jobs + nodes) + 4:
            self._out = np.zeros(8 * (jobs + nodes) + 4, st.COMMAND)
        written = self._core["step"].step(self.state, self._encode(event), self._out)
        return [self._decode(command) for command in self._out[:written]]

    def status(self, job: str) -> str:
        """Where the job stands, in a word of `STATUS`."""
        return st.STATUS[self._row(job)["status"]]

    def attempt(self, job: str) -> int:
        """Number of the job's newest attempt; 0 before the first."""
        return int(self._row(job)["attempt"])

    def step_of(self, job: str) -> int:
        """Step of the job's last durable checkpoint."""
        return int(self._row(job)["step"])

    def why(self, job: str, now_s: float) -> str:
        """What a queued job waits for, in words; empty for any other."""
        j = self._jobs[job]
        if self._row(job)["status"] != st.QUEUED:
            return ""
        return st.WHY[self._core["why"].why(self.state, j, now_s)]

    def jobs(self) -> list[str]:
        """Names of all jobs, in the order they came."""
        return list(self._job_names)

    def running(self) -> list[str]:
        """Jobs that hold chips."""
        status = self.state.jobs["status"][: len(self._job_names)]
        return [self._job_names[j] for j in np.flatnonzero(np.isin(status, st.HOLDS_CHIPS))]

    def settled(self) -> bool:
        """Whether every job that is no service has ended, and every service runs or ended."""
        jobs = self.state.jobs[: len(self._job_names)]
        serves = jobs["service"] & (jobs["status"] == st.RUNNING)
        return bool((np.isin(jobs["status"], st.ENDED) | serves).all())

    def _row(self, job: str) -> np.void:
        return self.state.jobs[self._jobs[job]]

    def _is_tight(self) -> bool:
        """Whether a table may be full: one event adds a row of each at most, and a hold a node."""
        state, counts = self.state, self.state.counts
        return bool(
            counts[st.JOBS] + 2 > len(state.jobs)
            or counts[st.NODES] + 2 > len(state.nodes)
            or counts[st.HOLDS] + len(state.nodes) + 2 > len(state.holds)
            or len(state.links) < len(state.tenants) + counts[st.JOBS] + 2
            or len(state.lifted) < len(state.jobs)
            or len(state.scratch) < len(state.nodes) + 1
        )

    def _enter(self, event: ev.JobSubmitted) -> None:
        j = len(self._job_names)
        self._jobs[event.job] = j
        self._job_names.append(event.job)
        self._submitted_s.append(event.at_s)
        if event.tenant not in self._tenants:
            self._add_tenant(event.tenant)
        if event.pools not in self._kinds:
            self._kinds[event.pools] = len(self._kinds)
            self._add_kind(event.pools)
        row = self.state.jobs[j]
        row["service"], row["chips"] = event.service, event.chips
        row["chips_min"] = event.chips_min or event.chips
        row["priority"], row["retries"] = event.priority, event.retries
        row["tenant"], row["kind"] = self._tenants[event.tenant], self._kinds[event.pools]
        row["work"] = event.expected_s * event.chips
        row["deadline_s"] = np.inf if event.deadline_s is None else event.deadline_s
        row["first_out"] = -1
        self.state.counts[st.JOBS] += 1
        row["score"] = self._scores(np.array([j]), event.at_s)[0]
        self._stand_on(j, event)

    def _add_tenant(self, name: str) -> None:
        self._tenants[name] = len(self._tenants)
        self.state = st.add_tenant(self.state, 1.0, -1, 0, -1)

    def _change(self, event: ev.TenantChanged) -> None:
        """Another share of what is shared; what runs is counted anew, and nothing is stopped."""
        if event.tenant not in self._tenants:
            self._add_tenant(event.tenant)
        t = self._tenants[event.tenant]
        asked = Tenant(event.tenant, event.weight, event.quota, event.borrow, event.cohort)
        if not event.open and asked.quota is None:
            asked = Tenant(event.tenant, event.weight, 0, 0, event.cohort)
        self._cohorts = cohorts_of([asked], self._cohorts)
        row = self.state.tenants[t]
        row["weight"], row["quota"], row["borrow"], row["cohort"] = row_of(asked, self._cohorts)
        if not event.open:
            row["borrow"] = -row["quota"]  # Its quota stays to be lent; itself it starts nothing.
        self.state = self.state._replace(cohorts=self._counted(len(self._cohorts)))
        for tenant in range(len(self._tenants)):
            quota.freshen(self.state, tenant)

    def _counted(self, cohorts: int) -> np.ndarray:
        """The cohorts' table from what runs now; the first jobs of a tenant fill its quota."""
        table = np.zeros(cohorts, st.COHORT)
        tenants, jobs = self.state.tenants, self.state.jobs[: len(self._job_names)]
        tenants["entitled"] = 0
        for tenant in tenants[tenants["quota"] >= 0]:
            table[tenant["cohort"]]["quota"] += tenant["quota"]
        for j in np.flatnonzero(np.isin(jobs["status"], st.HOLDS_CHIPS)):
            job = jobs[j]
            tenant, width = tenants[job["tenant"]], job["width"]
            if tenant["quota"] < 0:
                continue
            job["entitled"] = tenant["entitled"] + width <= tenant["quota"]
            tenant["entitled"] += width * job["entitled"]
            table[tenant["cohort"]]["used"] += width
            table[tenant["cohort"]]["borrowed"] += width * (not job["entitled"])
        return table

    def _add_kind(self, pools: tuple[str, ...]) -> None:
        likes = np.full(len(self._pools), np.inf)
        for rank, pool in enumerate(pools):
            if pool in self._pools:
                likes[self._pools[pool]] = rank
        one = np.ones((1, len(likes)))
        self.state = st.add_kind(self.state, (), one, self._chip_mw, likes)

    def _stand_on(self, j: int, event: ev.JobSubmitted) -> None:
        state = self.state
        state.jobs[j]["first_in"] = state.counts[st.EDGES]
        for before in dict.fromkeys((*event.after, *event.through)):
            self.state = state = st.grow(state)
            e, i = state.counts[st.EDGES], self._jobs[before]
            state.edges[e] = (i, j, before in event.through, state.jobs[i]["first_out"])
            state.jobs[i]["first_out"] = e
            state.jobs[j]["ins"] += 1
            state.counts[st.EDGES] += 1

    def _may_join(self, event: ev.NodeJoined) -> bool:
        pool = self.state.pools[self._pools[event.pool]]
        alike = pool["nodes"] == 0 or pool["node_chips"] == event.chips
        if event.node not in self._nodes:
            return bool(alike and event.chips > 0)
        node = self.state.nodes[self._nodes[event.node]]
        return bool(alike and node["pool"] == self._pools[event.pool])

    def _join(self, event: ev.NodeJoined) -> None:
        if event.node in self._nodes:
            return
        p = self._pools[event.pool]
        block = self._blocks.get((p, event.block), -1)
        rack = self._racks.get((p, event.block, event.rack), -1)
        cap_mw = st.NO_CAP_MW if event.rack_w is None else round(event.rack_w * 1e3)
        self.state = st.add_node(self.state, p, event.chips, block, rack, cap_mw)
        self._nodes[event.node] = n = len(self._node_names)
        self._node_names.append(event.node)
        rack = int(self.state.nodes[n]["rack"])
        self._racks[p, event.block, event.rack] = rack
        self._blocks[p, event.block] = int(self.state.racks[rack]["block"])

    def _rescore(self, now_s: float) -> None:
        """Fill the score column anew, and queue by it."""
        jobs = self.state.jobs[: len(self._job_names)]
        live = np.flatnonzero(np.isin(jobs["status"], (st.QUEUED, *st.HOLDS_CHIPS)))
        scores = self._scores(live, now_s)
        queued = jobs["status"][live] == st.QUEUED
        jobs["score"][live[~queued]] = scores[~queued]
        order = np.lexsort((live, scores, -jobs["priority"][live]))
        order = order[queued[order]]
        self._core["queue"].reorder(self.state, live[order], scores[order])

    def _scores(self, which: np.ndarray, now_s: float) -> np.ndarray:
        jobs = self.state.jobs[which]
        whole_s = np.where(jobs["work"] > 0, jobs["work"] / jobs["chips"], np.inf)
        left_s = np.where(jobs["work"] > 0, whole_s - jobs["step"] * jobs["step_work"], np.inf)
        submitted_s = np.array([self._submitted_s[j] for j in which])
        none = np.zeros(0)
        return self._policy(
            policies.Asked(
                now_s, jobs["chips"], jobs["priority"], submitted_s, whole_s, left_s,
                jobs["deadline_s"], np.zeros(len(which)), none,
            )
        )  # fmt: skip

    def _encode(self, event: ev.Event) -> np.void:
        row = np.zeros(1, st.EVENT)[0]
        row["at_s"] = event.at_s
        if isinstance(event, ev.JobSubmitted):
            row["kind"], row["job"] = st.SUBMIT, self._jobs[event.job]
        elif isinstance(event, ev.JobEvent):
            row["kind"], row["job"] = HAPPENINGS[type(event)], self._jobs[event.job]
            row["attempt"] = getattr(event, "attempt", 0)
            row["value"] = getattr(event, "step", getattr(event, "passed", 0))
        elif isinstance(event, ev.NodeEvent):
            row["kind"], row["where"] = NODE_HAPPENINGS[type(event)], self._nodes[event.node]
            at_fault = isinstance(event, ev.NodeLost)
            row["value"] = getattr(event, "now", getattr(event, "replaced", at_fault))
        elif isinstance(event, ev.SiteCapped):
            row["kind"], row["where"] = st.CAP, self._sites[event.site]
            row["value"] = round(event.cap_w * 1e3)
        elif isinstance(event, ev.PoolOpened):
            row["kind"] = st.OPEN if event.open else st.CLOSE
            row["where"] = self._pools[event.pool]
        else:
            row["kind"] = st.TICK
        return row

    def _decode(self, row: np.void) -> Command:
        if row["kind"] == st.WAKE:
            return Wake(float(row["at_s"]))
        if row["kind"] == st.REPLACE:
            return Replace(self._node_names[row["where"]])
        j, attempt = int(row["job"]), int(row["attempt"])
        name = self._job_names[j]
        if row["kind"] == st.STOP:
            return Stop(name, attempt)
        held = list(self.held(j))
        return Start(
            name,
            attempt,
            self._pool_names[row["where"]],
            tuple(self._node_names[n] for n, _ in held),
            tuple(chips for _, chips in held),
            int(self.state.jobs[j]["step"]),
        )

    def held(self, j: int) -> Iterable[tuple[int, int]]:
        """Rows of nodes, and chips on each, that a job holds."""
        h = self.state.jobs[j]["first_hold"]
        while h >= 0:
            hold = self.state.holds[h]
            yield int(hold["node"]), int(hold["chips"])
            h = hold["next"]

    def takes_work(self, node: str) -> bool:
        """Whether the node is up, not drained, and not given up."""
        return bool(self._core["place"].usable(self.state, self._nodes[node]))


def rows_of(tenants: Iterable[Tenant]) -> list[tuple[float, int, int, int]]:
    """Tenants as `state.empty` wants them."""
    tenants = list(tenants)
    cohorts = cohorts_of(tenants)
    return [row_of(tenant, cohorts) for tenant in tenants]


def cohorts_of(tenants: Iterable[Tenant], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Rows of cohorts by name, after those `known`; a tenant with a quota alone is its own."""
    cohorts = dict(known or {})
    for tenant in tenants:
        if tenant.quota is not None:
            cohorts.setdefault(tenant.cohort or f"={tenant.name}", len(cohorts))
    return cohorts


def row_of(tenant: Tenant, cohorts: Mapping[str, int]) -> tuple[float, int, int, int]:
    """A tenant as `state.add_tenant` wants it."""
    if tenant.quota is None:
        return tenant.weight, -1, 0, -1
    borrow = 1 << 40 if tenant.borrow is None else tenant.borrow
    cohort = cohorts[tenant.cohort or f"={tenant.name}"]
    return tenant.weight, tenant.quota, borrow, cohort
