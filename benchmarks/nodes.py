"""A node is killed under 8 tasks: how soon that is noticed, what runs again, what counts twice.

    python benchmarks/nodes.py
    python benchmarks/nodes.py --freeze

Two Ray nodes on this machine, 4 chips each; every task tells when it starts and when it has come
to its end: jobs in the logs of their attempts, plain Ray tasks in a shared file. When all 8 run,
the second node's raylet is killed (`kill -9`) with all that it started: first under the works,
then as plain Ray tasks with Ray's own settings. An execution is a start. The death is noticed by
the works when `NodeLost` is in the ledger, by Ray when `ray.nodes()` says so. With `--freeze` the
raylet is stopped instead (SIGSTOP) and its workers live on, as where a network is cut; only under
the works, as Ray takes a minute.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from gigafactory.blueprint.load import parse
from gigafactory.ledger.store import Ledger, read
from gigafactory.plan import Plan, make
from gigafactory.works.driver import POLL_S, Works
from gigafactory.works.home import Home

TASKS, CHIPS = 8, 4
WAIT_S_MAX = 120.0
SECOND = "home/this-machine-2"
TASK = """\
import os, sys, time
def tell(word):
    with open(sys.argv[1], "a") as file:
        file.write(f"{word} {sys.argv[2]}\\n")
tell("start")
while open(sys.argv[1]).read().count("start") < 8:  # all stand on their nodes together
    time.sleep(0.1)
time.sleep(float(sys.argv[3]))
tell("end")
"""
JOB = """\
import os, sys, time
print("start", sys.argv[1], flush=True)
while not os.path.exists("go"):  # all stand on their nodes together
    time.sleep(0.1)
time.sleep(float(sys.argv[2]))
print("end", sys.argv[1], flush=True)
"""
BLUEPRINT = """\
gigafactory: 1
name: nodes
start: 2026-11-23
owner: FR
sites: {home: {country: FR, power: 10 kW, systems: {this-machine: 2}}}
tenants: {lab: {}}
workloads:
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--freeze", action="store_true", help="stop the raylet, kill nothing")
    parser.add_argument("--task-s", type=float, default=8.0)
    parser.add_argument("--peer", help=argparse.SUPPRESS)  # run as a process of its own
    wish = parser.parse_args()
    if wish.peer:
        peer(Path(wish.peer), wish.task_s)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        ours = asyncio.run(works(Path(folder), wish.task_s, wish.freeze))
    tell("works", ours)
    if not wish.freeze:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, __file__, "--peer", folder, "--task-s", str(wish.task_s)]
            ran = subprocess.run(words, capture_output=True, text=True)
        print(next(line for line in ran.stdout.splitlines() if line.startswith("Ray")))
    return 0 if ours["committed"] == TASKS and ours["committed_twice"] == 0 else 1


def tell(who: str, figures: dict) -> None:
    print(f"{who:6} " + "  ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


def two_nodes(task_s: float) -> Plan:
    """The plan of two nodes that are both this machine; `up` would refuse it."""
    text = BLUEPRINT
    for n in range(1, TASKS + 1):
        command = json.dumps([sys.executable, "task.py", f"t{n}", str(task_s)])
        files = json.dumps({"task.py": JOB})
        text += f"  t{n}: {{kind: script, tenant: lab, command: {command}, files: {files}}}\n"
    plan = make(parse(text, Path("nodes.yaml")))
    places = [where.model_copy(update={"chips_per_node": CHIPS}) for where in plan.places]
    return plan.model_copy(update={"places": places})


async def works(folder: Path, task_s: float, freeze: bool) -> dict:
    """The 8 tasks as jobs of a works with two nodes."""
    home = Home(folder)
    ledger = Ledger(home.ledger)
    factory = Works(home, two_nodes(task_s), "nodes-1", ledger)
    words = ["join", "--home", str(folder), "--name", SECOND, "--chips", str(CHIPS)]
    with open(folder / "join.log", "wb") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "gigafactory.works.executor", *words], stdout=log, stderr=log
        )
    killed_s, noticed_s = 0.0, 0.0
    try:
        await factory.open("")
        late_s = time.monotonic() + WAIT_S_MAX
        while not factory.factory.settled():
            assert time.monotonic() < late_s, (folder / "executor.log").read_text()[-2000:]
            await factory.turn()
            if killed_s or said(home).count("start") == TASKS:
                for work in home.path.glob("runs/nodes-1/*/attempt-*/work"):
                    (work / "go").touch()
            if not killed_s and said(home).count("start") == TASKS:
                await asyncio.sleep(task_s / 4)
                kill_node(node.pid, freeze)
                killed_s = time.time()
            if killed_s and not noticed_s:
                lost = list(read(home.ledger, kinds=["NodeLost"]))
                noticed_s = factory.opened_unix_s + lost[0].at_s if lost else 0.0
            await asyncio.sleep(POLL_S)
        done = Counter(row.subject for row in read(home.ledger, kinds=["JobDone"]))
    finally:
        await factory.close()
        ledger.close()
        for one in [*psutil.Process(node.pid).children(recursive=True), node]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        node.wait()
    return {
        "noticed_s": round(noticed_s - killed_s, 2),
        **counts(said(home).splitlines()),
        "committed": len(done),
        "committed_twice": sum(count > 1 for count in done.values()),
    }


def peer(folder: Path, task_s: float) -> None:
    """The same 8 tasks under Ray alone, with its own retries and health checks."""
    import ray

    shared = folder / "told"
    shared.touch()
    ray.init(
        address="local",
        num_cpus=CHIPS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        _node_ip_address="127.0.0.1",
    )
    gcs = ray.get_runtime_context().gcs_address
    words = ["start", f"--address={gcs}", f"--num-cpus={CHIPS}", "--node-ip-address=127.0.0.1"]
    with open(folder / "join.log", "wb") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *words, "--block"], stdout=log, stderr=log
        )
    while sum(one["Alive"] for one in ray.nodes()) < 2:
        time.sleep(0.1)

    @ray.remote(num_cpus=1)
    def task(name: str) -> None:
        subprocess.run([sys.executable, "-c", TASK, str(shared), name, str(task_s)], check=True)

    waiting = [task.remote(f"t{n}") for n in range(1, TASKS + 1)]
    while shared.read_text().count("start") < TASKS:
        time.sleep(0.1)
    time.sleep(task_s / 4)
    kill_node(node.pid)
    killed_s = time.time()
    while sum(one["Alive"] for one in ray.nodes()) == 2:
        time.sleep(0.05)
    noticed_s = time.time() - killed_s
    ray.get(waiting)
    time.sleep(task_s / 2)  # one that outlived its node may still come to its end
    tell("Ray", {"noticed_s": round(noticed_s, 2), **counts(shared.read_text().splitlines())})
    node.terminate()
    ray.shutdown()


def kill_node(joined: int, freeze: bool = False) -> None:
    """End the raylet under a process and all that it started, or stop the raylet alone."""
    below = psutil.Process(joined).children(recursive=True)
    (raylet,) = (one for one in below if "raylet/raylet" in " ".join(one.cmdline()[:1]))
    workers = raylet.children(recursive=True)
    os.kill(raylet.pid, signal.SIGSTOP if freeze else signal.SIGKILL)
    for worker in [] if freeze else workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def said(home: Home) -> str:
    """What all attempts of all jobs printed."""
    logs = sorted(home.path.glob("runs/nodes-1/*/attempt-*/log.txt"))
    return "".join(log.read_text() for log in logs)


def counts(lines: list[str]) -> dict:
    """How often tasks started, and how many came to their end more than once."""
    ends = Counter(line for line in lines if line.startswith("end"))
    return {
        "executions": sum(line.startswith("start") for line in lines),
        "ended_twice": sum(count > 1 for count in ends.values()),
    }


if __name__ == "__main__":
    sys.exit(main())
