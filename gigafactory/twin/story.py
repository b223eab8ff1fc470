"""What came of a scene as events: those that the works would have written. Modelled. s, J.

An attempt reports twenty times over its job's whole work; a stop or a loss is told with the
checkpoint that is left. Equal times are in the order of `ORDER`. Not told is another machine that
comes in place of a node that failed too often.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gigafactory.factory import events as ev
from gigafactory.factory import state as st
from gigafactory.plan import Plan
from gigafactory.twin import scenario as scenes
from gigafactory.twin.hours import HOUR_S, between, cumulative
from gigafactory.twin.kinds import Kind
from gigafactory.twin.run import Lived, live
from gigafactory.twin.scenario import Scenario

REPORTS = 20
"""Progress rows of a job; enough to draw its curve."""
ORDER: tuple[type[ev.Event], ...] = (
    ev.RunOpened, ev.JobReported, ev.JobCheckpointed, ev.JobDone, ev.JobStopped, ev.JobSubmitted,
    ev.NodeJoined, ev.NodeLost, ev.NodeDrained, ev.SiteCapped, ev.PoolOpened, ev.JobLost,
    ev.JobCancelled, ev.JobStarted,
)  # fmt: skip


def simulate(plan: Plan, run: str, seed: int = 0, blueprint: str = "") -> list[ev.Event]:
    """Everything that would happen on a quiet day: the events that the works would write for it.

    The run starts at midnight UTC of the plan's first day and ends when every job has ended
    and every service answers.
    """
    scenario = scenes.of_plan(plan, seed)
    return events(scenario, live(scenario.scene, pieces=True), plan, run, blueprint)


def events(
    scenario: Scenario, lived: Lived, plan: Plan, run: str, blueprint: str = ""
) -> list[ev.Event]:
    """All events by time; `lived` is to have been asked for its pieces."""
    said = plan.model_dump(mode="json")
    opened = ev.RunOpened(0.0, run, "virtual", scenario.start_unix_s, blueprint, said)
    happened = [
        *_submitted(scenario, lived, plan),
        *_befell(scenario),
        *_attempts(scenario, lived),
    ]
    place = {kind: number for number, kind in enumerate(ORDER)}
    happened.sort(key=lambda event: (event.at_s, place[type(event)]))
    return [opened, *happened]


def _submitted(scenario: Scenario, lived: Lived, plan: Plan) -> Iterator[ev.Event]:
    planned = {job.spec.name: job.submission() for job in plan.jobs}
    jobs, likes = lived.state.jobs, lived.state.likes
    submit_s = lived.life["submit_s"].tolist()
    for j, (name, at_s) in enumerate(zip(scenario.job_names, submit_s, strict=True)):
        if at_s > scenario.horizon_s:
            return
        if name in planned:
            yield ev.JobSubmitted(at_s, **planned[name])
            continue
        job, kind = jobs[j], scenario.kinds[jobs[j]["kind"]]
        liked = likes[job["kind"]]
        chips, deadline_s = int(job["chips"]), float(job["deadline_s"])
        rate = max(kind.rates[-1]) * (1 if kind.widths else chips)
        yield ev.JobSubmitted(
            at_s,
            name,
            tenant=scenario.tenants[job["tenant"]],
            kind=kind.kind,
            chips=chips,
            pools=tuple(scenario.pools[p].name for p in np.argsort(liked) if np.isfinite(liked[p])),
            priority=int(job["priority"]),
            retries=int(job["retries"]),
            service=bool(job["service"]),
            chips_min=int(job["chips_min"]),
            expected_s=kind.overhead_s + float(job["work"]) / rate if job["work"] > 0 else 0.0,
            deadline_s=deadline_s if np.isfinite(deadline_s) else None,
            spec={"stream": kind.stream, "work": float(job["work"]), "unit": kind.unit},
        )


def _befell(scenario: Scenario) -> Iterator[ev.Event]:
    """What the world did, up to the horizon."""
    whose = {
        node: p for p in scenario.pools for node in range(p.first_node, p.first_node + p.nodes)
    }
    for row in scenario.scene.world["event"]:
        at_s, where, value = float(row["at_s"]), int(row["where"]), int(row["value"])
        if at_s > scenario.horizon_s:
            return
        if row["kind"] == st.CANCEL:
            yield ev.JobCancelled(at_s, scenario.job_names[row["job"]], "its stream")
        elif row["kind"] == st.CAP:
            yield ev.SiteCapped(at_s, scenario.sites[where], value / 1e3)
        elif row["kind"] in (st.OPEN, st.CLOSE):
            opened = bool(row["kind"] == st.OPEN)
            yield ev.PoolOpened(at_s, scenario.pools[where].name, opened, "law")
        elif row["kind"] == st.LOSE_NODE:
            yield ev.NodeLost(at_s, _node(whose[where], where), "it failed")
        elif row["kind"] == st.DRAIN:
            yield ev.NodeDrained(at_s, _node(whose[where], where), bool(value))
        elif row["kind"] == st.JOIN:
            pool = whose[where]
            rack = pool.racks[where - pool.first_node]
            near = (str(rack), str(pool.blocks[rack])) if max(pool.racks) else ("", "")
            name, chips = _node(pool, where), pool.chips_per_node
            yield ev.NodeJoined(at_s, name, pool.name, chips, *near, pool.rack_w)


def _node(pool: scenes.Pool, node: int) -> str:
    return f"{pool.name}-{node - pool.first_node + 1}"


def _attempts(scenario: Scenario, lived: Lived) -> Iterator[ev.Event]:
    """Of every attempt its start, its reports and how it ended, if it did."""
    log, jobs, life = lived.log, lived.state.jobs, lived.life
    pue = cumulative(scenario.hours.pue)
    last_s = scenario.hours.pue.shape[1] * HOUR_S
    pieces = np.split(lived.pieces, np.searchsorted(lived.pieces["row"], np.arange(1, len(log))))
    had: dict[int, float] = {}
    failed: set[int] = set()
    for row, held in zip(log, pieces, strict=False):
        j, pool = int(row["job"]), scenario.pools[row["pool"]]
        kind = scenario.kinds[jobs[j]["kind"]]
        who = (scenario.job_names[j], int(row["attempt"]))
        started_s, ended_s = float(row["started_s"]), float(row["ended_s"])
        nodes = tuple(_node(pool, int(node)) for node in held["node"])
        step_work, before = float(jobs[j]["step_work"]), had.get(j, 0.0)
        step = int(before / step_work) if step_work else 0
        chips = tuple(held["chips"].tolist())
        yield ev.JobStarted(started_s, *who, pool.name, nodes, chips, step)

        load_s = float(life[j]["restart_s" if j in failed else "overhead_s"])
        work_from_s = min(started_s + load_s, ended_s)
        had[j] = before + float(row["kept"])
        if jobs[j]["work"] > 0:
            made = had[j] + float(row["lost"])
            whole = float(jobs[j]["work"])
            yield from _reports(who, kind, whole, (before, made), (work_from_s, ended_s))
        elif started_s + load_s <= ended_s:
            yield ev.JobReported(started_s + load_s, *who, {"ready": True})

        if row["outcome"] == 0:
            continue
        pue_s = between(pue[pool.site], min(started_s, last_s), min(ended_s, last_s))
        energy_j = int(row["width"]) * kind.busy_w[row["pool"]] * float(pue_s)
        used = {
            "chip_s": round((ended_s - started_s) * int(row["width"]), 6),
            "cpu_s": None,
            "energy_j": round(energy_j, 3),
            "energy_basis": "modelled",
            "pool": pool.name,
            "phases": {
                "load": round(work_from_s - started_s, 3),
                "work": round(ended_s - work_from_s, 3),
            },
        }
        if row["outcome"] == st.ENDED_WELL:
            results: dict[str, Any] = {"modelled": True}
            if kind.unit == "token":
                results["tokens"] = round(float(jobs[j]["work"]))
            yield ev.JobDone(ended_s, *who, True, results, used)
            continue
        yield ev.JobCheckpointed(ended_s, *who, int(had[j] / step_work) if step_work else 0)
        if row["outcome"] == st.STOPPED:
            yield ev.JobStopped(ended_s, *who, used)
        else:
            yield ev.JobLost(ended_s, *who, "a node of it failed", used)
        failed.add(j) if row["outcome"] == st.LOSE_NODE else failed.discard(j)


def _reports(
    who: tuple[str, int],
    kind: Kind,
    whole: float,
    work: tuple[float, float],
    at_s: tuple[float, float],
) -> Iterator[ev.Event]:
    """Each twentieth of the whole that the attempt came past."""
    first, last = work
    for part in range(1, REPORTS + 1):
        done = whole * part / REPORTS
        if first < done <= last * (1 + 1e-9):
            share = min((done - first) / (last - first), 1.0)
            figures: dict[str, Any] = {"step": part, "steps": REPORTS}
            if kind.unit == "token":
                figures["tokens"] = round(done)
            yield ev.JobReported(at_s[0] + (at_s[1] - at_s[0]) * share, *who, figures)
