"""Kueue's own two performance scenarios through our API, ledger and core, beside what Kueue took.

    OMP_NUM_THREADS=1 python -m benchmarks.queues [--only large-scale]

A works in a process of its own, with its doors, its ledger on this disk (one durable row for every
submission, start and end) and the compiled core; a client that submits in batches over HTTP as
fast as they are accepted. Run times are slept by a stand-in for Ray: what is measured is the
control plane, from the first submission to the last end. Kueue's figures are those of its own
CI (benchmarks/kueue.py holds the scenarios): its controller creates workloads at intervals, so
its wall time has a floor that ours has not, and it runs on another machine.

Before that, one submission at a time: how long until the acknowledgement, which is durable.
"""

import argparse
import asyncio
import heapq
import json
import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.kueue import BORROW, QUOTA, SCENARIOS, Scenario
from gigafactory.blueprint.load import parse
from gigafactory.ledger.store import Ledger, select
from gigafactory.plan import make
from gigafactory.works.api import Api, bind, serve, split
from gigafactory.works.driver import Works
from gigafactory.works.engine import Attempt, Ended, Stands
from gigafactory.works.home import Home
from gigafactory.works.house import House

BATCH = 500  # jobs in a request
ONE_BY_ONE = 200
TURN_S = 0.02
NODE_CHIPS = 72
FORMAT = """\
gigafactory: 1
name: queues
currency: USD
start: 2026-11-23
owner: US
sites:
  hall: {{country: US, power: 1 GW, systems: {{gb200-nvl72: {nodes}}}}}
tenants:
{tenants}
workloads:
  first: {{kind: script, tenant: q0-0, command: [sleep, "0.01"]}}
"""


class Asleep(Attempt):
    """An attempt that only sleeps: it has no folder and says nothing."""

    def renew_lease(self) -> None: ...

    def fence(self) -> None: ...

    def kill(self) -> None: ...

    def expired(self) -> bool:
        return False

    def news(self) -> list[dict[str, Any]]:
        return []

    def cpu_s(self) -> float | None:
        return None

    def result(self) -> dict[str, Any] | None:
        return {"outcome": "done", "results": {}}

    def ask_to_stop(self) -> None:
        self.stopped = True


class Sleeper:
    """Stands for Ray: an attempt ends when the time that its command sleeps is over."""

    ready = True

    def __init__(self, nodes: list[str]):
        self._news: list[Any] = [Stands(node, True) for node in nodes]
        self._asleep: list[tuple[float, int, Asleep]] = []
        self._started = 0

    def open(self) -> None: ...

    def close(self) -> None: ...

    def start(self, folder: Path, described: dict[str, Any]) -> Asleep:
        attempt = Asleep(described["work"]["name"], described["attempt"], folder)
        self._started += 1
        ends_s = time.monotonic() + float(described["work"]["command"][1])
        heapq.heappush(self._asleep, (ends_s, self._started, attempt))
        return attempt

    def ended(self) -> list[Any]:
        news, self._news = self._news, []
        while self._asleep and self._asleep[0][0] <= time.monotonic():
            attempt = heapq.heappop(self._asleep)[2]
            outcome = "stopped" if getattr(attempt, "stopped", False) else "done"
            news.append(Ended(attempt.folder, outcome, {}))
        return news


def blueprint_of(scenario: Scenario) -> str:
    tenants = "\n".join(
        f"  q{cohort}-{queue}: {{quota: {QUOTA}, borrow: {BORROW}, cohort: c{cohort}}}"
        for cohort in range(scenario.cohorts)
        for queue in range(scenario.queues)
    )
    chips = scenario.cohorts * scenario.queues * QUOTA
    return FORMAT.format(nodes=-(-chips // NODE_CHIPS), tenants=tenants)


def offers_of(scenario: Scenario) -> list[dict[str, Any]]:
    """The scenario's workloads as jobs, shuffled as they would come from many."""
    offers = [
        {
            "name": f"{one.name}-{cohort}-{queue}-{number}",
            "work": {
                "kind": "script",
                "tenant": f"q{cohort}-{queue}",
                "command": ["sleep", str(one.runtime_ms / 1e3)],
                "expects": f"{one.runtime_ms / 1e3} s",
                "chips": one.units,
                "priority": one.priority,
            },
        }
        for one in scenario.classes
        for number in range(one.count)
        for cohort in range(scenario.cohorts)
        for queue in range(scenario.queues)
    ]
    random.Random(0).shuffle(offers)
    return offers


def works_of(pipe: Any, folder: str, scenario: Scenario) -> None:
    """The process of the works."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(turn(pipe, Home(Path(folder)), scenario))


async def turn(pipe: Any, home: Home, scenario: Scenario) -> None:
    text = blueprint_of(scenario)
    blueprint = parse(text, Path("queues.yaml"))
    plan = make(blueprint)
    ledger = Ledger(home.ledger)
    house = House(ledger, home.ledger, blueprint, home.path)
    key = house.local("q0-0")
    works = Works(home, plan, "queues-1", ledger, house)
    works.engine = Sleeper(list(plan.nodes()))  # type: ignore[assignment]
    works.compile_core()
    await works.open(text)
    while works.factory.status("first") != "done":
        await works.turn()
        await asyncio.sleep(TURN_S)
    listening = bind(0)
    api = Api(works, blueprint)
    server, serving = serve(split(api.app(), api.app()), listening)
    pipe.send((f"http://127.0.0.1:{listening.getsockname()[1]}", key))
    while not pipe.poll():
        await works.turn()
        await asyncio.sleep(TURN_S)
    expected = pipe.recv()
    while len(works.factory.jobs()) < expected or not works.factory.settled():
        await works.turn()
        await asyncio.sleep(TURN_S)
    pipe.send(time.time())
    server.should_exit = True
    await serving
    ledger.close()


def measured(scenario: Scenario) -> dict[str, Any]:
    offers = offers_of(scenario)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        here, there = spawn.Pipe()
        process = spawn.Process(target=works_of, args=(there, folder, scenario), daemon=True)
        process.start()
        url, key = here.recv()
        with httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {key}"},
            timeout=120,
            trust_env=False,
        ) as client:
            acknowledged_s = one_by_one(client)
            used = psutil.Process(process.pid).cpu_times()
            began_s = time.time()
            for first in range(0, len(offers), BATCH):
                some = {"jobs": offers[first : first + BATCH]}
                answer = client.post("/api/jobs/batch", json=some)
                answer.raise_for_status()
                assert answer.json()["refused"] == 0, answer.text[:2000]
            submitted_s = time.time()
            here.send(len(offers) + ONE_BY_ONE + 1)
            ended_s = here.recv()
            cpu = psutil.Process(process.pid).cpu_times()
            memory_mb = psutil.Process(process.pid).memory_info().rss / 1e6
        process.join()
        done = select(
            Path(folder) / "ledger.db",
            "select count(*), count(distinct subject) from events where kind = 'JobDone'",
        )
        commits, jobs = next(iter(done))
    assert commits == jobs == len(offers) + ONE_BY_ONE + 1, "each ended once"
    work = sum(one.count * one.units * one.runtime_ms for one in scenario.classes)
    return {
        "workloads": len(offers),
        "queues": scenario.cohorts * scenario.queues,
        "acknowledged_ms_p50": 1e3 * sorted(acknowledged_s)[len(acknowledged_s) // 2],
        "acknowledged_ms_p99": 1e3 * sorted(acknowledged_s)[int(len(acknowledged_s) * 0.99)],
        "accepted_per_s": len(offers) / (submitted_s - began_s),
        "wall_s": ended_s - began_s,
        "floor_s": work / QUOTA / 1e3,
        "kueue_wall_s": scenario.wall_ms / 1e3,
        "cpu_s": cpu.user + cpu.system - used.user - used.system,
        "memory_mb": memory_mb,
    }


def one_by_one(client: httpx.Client) -> list[float]:
    """Seconds until each of some jobs was acknowledged."""
    took_s = []
    for number in range(ONE_BY_ONE):
        work = {"kind": "script", "tenant": "q0-0", "command": ["sleep", "0.01"]}
        began_s = time.perf_counter()
        client.post("/api/jobs", json={"name": f"one-{number}", "work": work}).raise_for_status()
        took_s.append(time.perf_counter() - began_s)
    return took_s


def said(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name}: {row['workloads']:,} workloads in {row['queues']:,} queues\n"
        f"  one submission   p50 {row['acknowledged_ms_p50']:.1f} ms,"
        f" p99 {row['acknowledged_ms_p99']:.1f} ms to the durable acknowledgement\n"
        f"  in batches       {row['accepted_per_s']:,.0f} jobs/s accepted, {BATCH} a request\n"
        f"  wall time        ours {row['wall_s']:.1f} s, Kueue {row['kueue_wall_s']:.0f} s,"
        f" floor {row['floor_s']:.1f} s\n"
        f"  the works        {row['cpu_s']:.1f} CPU-s, {row['memory_mb']:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(SCENARIOS), help="one scenario")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    rows = {name: measured(SCENARIOS[name]) for name in SCENARIOS if asked.only in (None, name)}
    print(json.dumps(rows) if asked.json else "\n".join(said(*row) for row in rows.items()))


if __name__ == "__main__":
    main()
