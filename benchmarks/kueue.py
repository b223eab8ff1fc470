"""Kueue's own two performance scenarios, played by the twin beside what Kueue measured of itself.

    OMP_NUM_THREADS=1 python benchmarks/kueue.py [--json]

Queues with a quota each borrow within their cohort; who is entitled takes back what is lent; in a
queue a higher priority takes from a lower one.
Quotas alone bind: there is one unit of the resource for each unit of quota.

Not comparable, and so no ratio of times is told: Kueue's figures are of the real controller with
its API server, whose round trips make most of its wall time; ours are of the scheduler alone, on
a virtual clock. Its usage counts a workload until the controller has seen it end. The floor below
which no scheduler can come, all work over all quota, stands beside.
Modelled. As in Kueue's runner: the first of a set comes after one interval, a stopped workload
begins anew, admission is told of the attempt that ended, and usage is that of all queues together.
One virtual second here is a millisecond there, since our core looks for victims for a job at most
once a minute, as suits jobs of hours. Those behind a blocked head may pass it (theirs: the
BestEffortFIFO of Kueue), up to the core's window.
"""

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigafactory.factory import state as st
from gigafactory.twin import bare, loop, run

# kubernetes-sigs/kueue, test/performance/scheduler/configs/{baseline,large-scale}: generator.yaml
# and rangespec.yaml at ff69552e79 (2026-08-22), Apache-2.0; facts re-expressed.
QUOTA, BORROW = 20, 100


@dataclass(frozen=True)
class Class:
    """Workloads of a queue, created one by one, in all queues at once."""

    name: str
    count: int
    every_ms: int
    runtime_ms: int
    priority: int
    units: int


@dataclass(frozen=True)
class Scenario:
    """Cohorts of queues, and what Kueue took: wall time, usage, waits by class."""

    cohorts: int
    queues: int
    classes: tuple[Class, ...]
    wall_ms: float
    usage_percent: float
    admission_ms: dict[str, float]


SCENARIOS = {
    "baseline": Scenario(
        5,
        6,
        (
            Class("small", 350, 100, 200, 50, 1),
            Class("medium", 100, 500, 500, 100, 5),
            Class("large", 50, 1200, 1000, 200, 20),
        ),
        351_116,
        55.9,
        {"large": 16_501, "medium": 76_768, "small": 215_468},
    ),
    "large-scale": Scenario(
        10,
        100,
        (
            Class("small", 35, 60, 150, 50, 1),
            Class("medium", 11, 300, 350, 100, 5),
            Class("large", 4, 700, 700, 200, 20),
        ),
        1_179_411,
        38.64,
        {"large": 105_604, "medium": 256_413, "small": 700_379},
    ),
}


def scene_of(scenario: Scenario) -> tuple[run.Scene, np.ndarray]:
    """The scenario, a second for each of its milliseconds; and the class of each job."""
    queues = scenario.cohorts * scenario.queues
    rows = [
        ((i + 1) * one.every_ms, queue, which)
        for which, one in enumerate(scenario.classes)
        for i in range(one.count)
        for queue in range(queues)
    ]
    rows.sort(key=lambda row: row[0])
    created_ms, queue, which = (np.array(column) for column in zip(*rows, strict=True))
    tenants = [(1.0, QUOTA, BORROW, queue // scenario.queues) for queue in range(queues)]
    state = st.empty([st.NO_CAP_MW], [(0, 0)], tenants)
    nothing_mw, liked = np.zeros(1, np.int64), np.zeros(1)
    state = st.add_kind(state, (1,), np.ones((1, 1)), nothing_mw, liked)
    state = st.add_node(state, 0, queues * QUOTA, -1, -1, st.NO_CAP_MW)
    state, life = bare.with_jobs(state, len(rows))
    of_class = {
        name: np.array([getattr(one, name) for one in scenario.classes])[which]
        for name in ("units", "runtime_ms", "priority")
    }
    jobs = state.jobs
    jobs["tenant"], jobs["priority"] = queue, of_class["priority"]
    jobs["chips"] = jobs["chips_min"] = of_class["units"]
    jobs["work"], jobs["deadline_s"] = of_class["runtime_ms"], np.inf
    life["submit_s"] = created_ms
    joins = np.zeros(1, loop.WORLD)
    joins["event"]["kind"] = st.JOIN
    return run.Scene(state=state, life=life, world=joins, horizon_s=np.inf), which


def played(scenario: Scenario) -> dict[str, Any]:
    """What the twin makes of it, times in ms."""
    scene, which = scene_of(scenario)
    created_ms = scene.life["submit_s"].copy()
    lived = run.live(scene, compiled=True)
    assert (lived.state.jobs["status"] == st.DONE).all()
    log = lived.log
    ended = log[log["outcome"] == st.ENDED_WELL]
    wall_ms = float(ended["ended_s"].max())
    held = float(((log["ended_s"] - log["started_s"]) * log["width"]).sum())
    queues = scenario.cohorts * scenario.queues
    waits_ms = np.zeros(len(created_ms))
    waits_ms[ended["job"]] = ended["started_s"] - created_ms[ended["job"]]
    work = sum(one.count * one.units * one.runtime_ms for one in scenario.classes)
    return {
        "workloads": len(created_ms),
        "cpu_s": lived.cpu_s,
        "events_per_cpu_s": lived.events / lived.cpu_s,
        "preemptions": len(log) - len(ended),
        "wall_ms": {"twin": wall_ms, "floor": work / QUOTA, "kueue": scenario.wall_ms},
        "usage_percent": {
            "twin": 100 * held / (queues * QUOTA * wall_ms),
            "kueue": scenario.usage_percent,
        },
        "admission_ms_mean": {
            one.name: {
                "twin": float(waits_ms[which == i].mean()),
                "kueue": scenario.admission_ms[one.name],
            }
            for i, one in enumerate(scenario.classes)
        },
    }


def said(name: str, report: dict[str, Any]) -> str:
    """One scenario in words."""
    wall_ms, usage = report["wall_ms"], report["usage_percent"]
    lines = [
        f"{name}: {report['workloads']:,} workloads, {report['cpu_s']:.2f} CPU-s,"
        f" {report['events_per_cpu_s']:,.0f} events/CPU-s, {report['preemptions']:,} preemptions",
        f"  wall time        twin {wall_ms['twin'] / 1e3:9.1f} s   Kueue"
        f" {wall_ms['kueue'] / 1e3:9.1f} s   floor {wall_ms['floor'] / 1e3:.1f} s",
        f"  usage            twin {usage['twin']:9.1f} %   Kueue {usage['kueue']:9.1f} %",
    ]
    for one, ms in report["admission_ms_mean"].items():
        twin_s, kueue_s = ms["twin"] / 1e3, ms["kueue"] / 1e3
        lines.append(f"  admission {one:<6} twin {twin_s:9.2f} s   Kueue {kueue_s:9.1f} s")
    return "\n".join(lines)


def main() -> None:
    """Play both and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    run.warm()
    reports = {name: played(scenario) for name, scenario in SCENARIOS.items()}
    if options.json:
        print(json.dumps(reports))
        return
    print("\n".join(said(name, report) for name, report in reports.items()))
    print("Kueue's times are of its controller with an API server; ours of the scheduler alone.")


if __name__ == "__main__":
    main()
