"""`kill -9` at random moments of `up --once`, again and again, against an undisturbed run.

    python benchmarks/kill.py --kills 20

Each round starts a fresh home, brings the tiny blueprint up, kills one process of the factory
(the works, Ray's executor, raylet, GCS, a worker or an engine) at a random moment, and says
`up --once` again until it ends. It must end with the weights of the undisturbed run, with one
ledger, and with no job committed twice. Exit code 1 where it does not; the seed is printed.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from gigafactory.ledger.store import read
from gigafactory.works.home import Home

TRIES_MAX = 5
UP = [sys.executable, "-m", "gigafactory.cli", "up", "tiny", "--once", "--json", "--port", "0"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    wish = parser.parse_args()
    print(f"seed {wish.seed}")
    chance = random.Random(wish.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm = Path(folder) / "calm"
        began_s = time.monotonic()
        undisturbed = up(calm)
        calm_s = time.monotonic() - began_s
        assert undisturbed.returncode == 0, undisturbed.stderr[-2000:]
        wanted = facts(calm)
        print(f"undisturbed: {calm_s:.0f} s, weights {wanted['weights'][:12]}")
        bad = 0
        for number in range(1, wish.kills + 1):
            home = Path(folder) / f"kill-{number}"
            home.mkdir()
            for kept in ("machine.json", "cache"):
                copy(calm / kept, home / kept)
            after_s = chance.uniform(0.5, calm_s)
            victim, tries, ended = disturbed(home, after_s, chance)
            found = facts(home)
            faults = wrong(found, wanted) + ([] if ended else ["it did not end"])
            bad += bool(faults)
            verdict = "same" if not faults else "; ".join(faults)
            print(f"{number:3} kill {victim:<14} at {after_s:5.1f} s, {tries} more: {verdict}")
            shutil.rmtree(home)
    print(f"{wish.kills} kills, {bad} bad")
    return 1 if bad else 0


def up(home: Path) -> subprocess.CompletedProcess:
    return subprocess.run(UP, env=env(home), capture_output=True, text=True)


def disturbed(home: Path, after_s: float, chance: random.Random) -> tuple[str, int, bool]:
    """Start, kill one process after a while, and say `up` again until it ends."""
    works = subprocess.Popen(UP, env=env(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(after_s)
    victim = "nobody"
    if works.poll() is None:
        processes = [psutil.Process(works.pid), *psutil.Process(works.pid).children(True)]
        chosen = chance.choice(processes)
        try:
            victim = role(chosen, works.pid)
            chosen.kill()
        except psutil.NoSuchProcess:
            victim = "one that ended"
    code = finish(works)
    tries = 0
    while code != 0 and tries < TRIES_MAX:
        tries += 1
        code = up(home).returncode
    return victim, tries, code == 0


def finish(works: subprocess.Popen) -> int:
    works.communicate()
    return works.returncode


def role(process: psutil.Process, works: int) -> str:
    if process.pid == works:
        return "works"
    line = " ".join(process.cmdline())
    for word, name in (
        ("works.executor", "executor"),
        ("raylet/raylet", "raylet"),
        ("gcs_server", "gcs"),
        ("transformers", "engine"),
        ("ray::", "worker"),
        ("default_worker", "idle worker"),
    ):
        if word in line:
            return name
    return process.name()


def facts(home: Path) -> dict:
    """What must be the same: weights, and how often each job was committed."""
    done = list(read(Home(home).ledger, kinds=["JobDone"]))
    opened = list(read(Home(home).ledger, kinds=["RunOpened"]))
    submitted = Counter(row.subject for row in read(Home(home).ledger, kinds=["JobSubmitted"]))
    weights = [row.body["results"].get("weights_sha256") for row in done]
    return {
        "weights": next((w for w in weights if w), ""),
        "commits": Counter(row.subject for row in done),
        "runs": len(opened),
        "submitted": submitted,
    }


def wrong(found: dict, wanted: dict) -> list[str]:
    faults = []
    if found["weights"] != wanted["weights"]:
        faults.append(f"weights {found['weights'][:12]}")
    if found["commits"] != wanted["commits"]:
        faults.append(f"commits {dict(found['commits'])}")
    if found["runs"] != 1:
        faults.append(f"{found['runs']} runs")
    if found["submitted"] != wanted["submitted"]:
        faults.append(f"submitted {json.dumps(found['submitted'])}")
    return faults


def env(home: Path) -> dict[str, str]:
    return {**os.environ, "GIGAFACTORY_HOME": str(home)}


def copy(source: Path, target: Path) -> None:
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)


if __name__ == "__main__":
    sys.exit(main())
