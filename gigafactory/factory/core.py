"""The door of the core: events with names in, commands with names out.

Both drivers hold one `Factory`. They ask `accepts` before they write an event to the ledger
and `apply` after; the same events in the same order give the same commands, always.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gigafactory.factory import events as ev
from gigafactory.factory import state as st
from gigafactory.factory.step import accepts, step

HAPPENINGS = {
    ev.JobStarted: st.STARTED,
    ev.JobCheckpointed: st.CHECKPOINTED,
    ev.JobDone: st.ENDED_WELL,
    ev.JobFailed: st.ENDED_ILL,
    ev.JobLost: st.LOST,
    ev.JobStopped: st.STOPPED,
    ev.JobCancelled: st.CANCEL,
}


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


Command = Start | Stop | Wake


class Factory:
    """The running factory. Holds no clock and no file; `apply` is its only verb.

    `sites` are `(name, cap_w)`; `pools`, each one system at one site, are
    `(name, site, chip_w)` with the draw of a busy chip at the meter, PUE included.
    """

    def __init__(self, sites: Iterable[tuple[str, float]], pools: Iterable[tuple[str, str, float]]):
        sites, pools = list(sites), list(pools)
        site_index = {name: i for i, (name, _) in enumerate(sites)}
        self._pools = {name: i for i, (name, _, _) in enumerate(pools)}
        self._pool_names = [name for name, _, _ in pools]
        self._jobs: dict[str, int] = {}
        self._job_names: list[str] = []
        self._nodes: dict[str, int] = {}
        self._node_names: list[str] = []
        self.state = st.empty(
            [cap_w for _, cap_w in sites],
            [(site_index[site], chip_w) for _, site, chip_w in pools],
        )

    def accepts(self, event: ev.Event) -> bool:
        """Whether the event may happen now; an old attempt's word may not."""
        if isinstance(event, ev.JobSubmitted):
            known = {*self._jobs}
            return event.job not in known and {*event.after, *event.through} <= known
        if isinstance(event, ev.NodeJoined):
            return event.pool in self._pools
        if isinstance(event, ev.NodeEvent):
            return event.node in self._nodes
        if isinstance(event, ev.JobEvent) and event.job not in self._jobs:
            return False
        if type(event) not in HAPPENINGS:
            return True
        return bool(accepts(self.state, self._encode(event)))

    def apply(self, event: ev.Event) -> list[Command]:
        """Let the event happen; answer what the driver is to do. Facts for queries do nothing."""
        if not isinstance(event, ev.CoreEvent):
            return []
        assert self.accepts(event), event
        self.state = st.grow(self.state)
        if isinstance(event, ev.JobSubmitted):
            self._enter(event)
        elif isinstance(event, ev.NodeJoined):
            self._join(event)
        jobs, nodes = self.state.counts[st.JOBS], self.state.counts[st.NODES]
        out = np.zeros(2 * (jobs + nodes) + 2, st.COMMAND)
        written = step(self.state, self._encode(event), out)
        return [self._decode(command) for command in out[:written]]

    def status(self, job: str) -> str:
        """Where the job stands, in a word of `STATUS`."""
        return st.STATUS[self._row(job)["status"]]

    def attempt(self, job: str) -> int:
        """Number of the job's newest attempt; 0 before the first."""
        return int(self._row(job)["attempt"])

    def step_of(self, job: str) -> int:
        """Step of the job's last durable checkpoint."""
        return int(self._row(job)["step"])

    def jobs(self) -> list[str]:
        """Names of all jobs, in the order they came."""
        return list(self._job_names)

    def running(self) -> list[str]:
        """Jobs that hold chips."""
        return [job for job in self._job_names if self._row(job)["status"] in st.HOLDS_CHIPS]

    def settled(self) -> bool:
        """Whether every job that is no service has ended, and every service runs or ended."""
        return all(
            row["status"] in st.ENDED or (row["service"] and row["status"] == st.RUNNING)
            for row in self.state.jobs[: len(self._job_names)]
        )

    def _row(self, job: str) -> np.void:
        return self.state.jobs[self._jobs[job]]

    def _enter(self, event: ev.JobSubmitted) -> None:
        state, j = self.state, len(self._job_names)
        self._jobs[event.job] = j
        self._job_names.append(event.job)
        row = state.jobs[j]
        row["service"], row["chips"] = event.service, event.chips
        row["priority"], row["retries"] = event.priority, event.retries
        for rank, pool in enumerate(event.pools, start=1):
            if pool in self._pools:
                state.rank[j, self._pools[pool]] = rank
        for before in dict.fromkeys((*event.after, *event.through)):
            if state.counts[st.EDGES] == len(state.edges):
                self.state = state = st.grow(state)
            edge = state.edges[state.counts[st.EDGES]]
            edge["before"], edge["after"] = self._jobs[before], j
            edge["gate"] = before in event.through
            state.counts[st.EDGES] += 1
        state.counts[st.JOBS] += 1

    def _join(self, event: ev.NodeJoined) -> None:
        n = self._nodes.setdefault(event.node, len(self._node_names))
        if n == len(self._node_names):
            self._node_names.append(event.node)
            row = self.state.nodes[n]
            row["pool"], row["chips"] = self._pools[event.pool], event.chips
            row["free"] = event.chips
            self.state.counts[st.NODES] += 1

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
            kinds = {ev.NodeJoined: st.JOIN, ev.NodeLost: st.LOSE_NODE, ev.NodeDrained: st.DRAIN}
            row["kind"], row["node"] = kinds[type(event)], self._nodes[event.node]
        else:
            row["kind"] = st.TICK
        return row

    def _decode(self, row: np.void) -> Command:
        if row["kind"] == st.WAKE:
            return Wake(float(row["at_s"]))
        j, attempt = int(row["job"]), int(row["attempt"])
        name = self._job_names[j]
        if row["kind"] == st.STOP:
            return Stop(name, attempt)
        state = self.state
        held = [hold for hold in state.holds[: state.counts[st.HOLDS]] if hold["job"] == j]
        return Start(
            name,
            attempt,
            self._pool_names[state.jobs[j]["pool"]],
            tuple(self._node_names[hold["node"]] for hold in held),
            tuple(int(hold["chips"]) for hold in held),
            int(state.jobs[j]["step"]),
        )
