"""Leases, fences and nodes, with real processes: frozen ones, killed ones, and Ray's own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from gigafactory.blueprint.load import parse
from gigafactory.jobs.context import LEASE, RESULT
from gigafactory.ledger.store import Ledger, read
from gigafactory.plan import make
from gigafactory.works import engine as engines
from gigafactory.works import executor
from gigafactory.works.driver import POLL_S, Works
from gigafactory.works.engine import Attempt, Ended, Engine, Stands
from gigafactory.works.home import Home
from tests.test_script import COUNTING

WAIT_S_MAX = 90


class Processes(Engine):
    """The engine without Ray: each attempt a process of its own."""

    def __init__(self, home):
        super().__init__({"n": 1}, home)
        self.processes, self.ready = {}, True

    def open(self):
        pass

    def close(self):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _send(self, line):
        words = "import sys; from pathlib import Path; from gigafactory.works import executor;"
        words += "executor.HEARTBEAT_S = 0.2; executor.run_rank(Path(sys.argv[1]), 0, 1)"
        folder = line["start"]
        self.processes[folder] = subprocess.Popen([sys.executable, "-c", words, folder])

    def ended(self):
        ended = []
        for folder, process in list(self.processes.items()):
            if process.poll() is not None:
                del self.processes[folder]
                whole = (Path(folder) / RESULT).exists()
                outcome = executor._outcome(Path(folder)) if whole else "failed"
                ended.append(Ended(Path(folder), outcome, {"what": "it died"}))
        return ended


def plan_of_one():
    files = json.dumps({"count.py": COUNTING})
    text = f"""\
gigafactory: 1
name: mill
start: 2026-11-23
owner: FR
sites: {{home: {{country: FR, power: 100 W, systems: {{this-machine: 1}}}}}}
tenants: {{lab: {{}}}}
workloads:
  count: {{kind: script, tenant: lab, command: [{sys.executable}, -S, count.py], files: {files}}}
"""
    return make(parse(text, Path("mill.yaml")))


def run(home, disturb):
    """The life of a works of one counting job; `disturb(works)` is called on every turn."""
    ledger = Ledger(home.ledger)

    async def live():
        works = Works(home, plan_of_one(), "mill-1", ledger)
        works.engine = Processes(home.path)
        await works.open("")
        deadline = time.monotonic() + WAIT_S_MAX
        while not works.factory.settled():
            assert time.monotonic() < deadline
            await works.turn()
            disturb(works)
            await asyncio.sleep(0.05)
        return works

    works = asyncio.run(live())
    ledger.close()
    return works


def count_of(home):
    (done,) = read(home.ledger, kinds=["JobDone"])
    folder = home.attempt("mill-1", "count", done.body["attempt"])
    return done.body["attempt"], (folder / "output" / "count").read_bytes()


def freeze(folder):
    """SIGSTOP to the process of an attempt and its command; their processes."""
    pid = json.loads((folder / "pid-0.json").read_text())["pid"]
    frozen = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in frozen:
        process.suspend()
    return frozen


def test_a_frozen_attempt_loses_its_lease_and_its_late_words_change_nothing(tmp_path, monkeypatch):
    home = Home(tmp_path)
    first = home.attempt("mill-1", "count", 1)
    frozen = []
    monkeypatch.setattr(engines, "LEASE_S", 1.5)

    def disturb(works):
        kept = home.checkpoints("mill-1", "count")
        if not frozen and kept.exists() and any(kept.iterdir()):
            # As where the network is cut: nobody here can end it.
            monkeypatch.setattr(executor, "kill", lambda folder: None)
            frozen.extend(freeze(first))

    run(home, disturb)
    attempt, counted = count_of(home)
    before = [(row.seq, row.kind) for row in read(home.ledger)]
    assert (attempt, counted) == (2, b"60"), "another attempt ended as an undisturbed one would"
    (lost,) = read(home.ledger, kinds=["JobLost"])
    assert lost.body["reason"] == "its lease ran out"
    assert lost.body["used"]["chip_s"] > 1.5
    told = (home.attempt("mill-1", "count", 2) / "log.txt").read_text()
    assert not told.endswith("from 0\n"), "it went on from the checkpoint"

    for process in reversed(frozen):
        process.resume()
    _gone, alive = psutil.wait_procs(frozen, timeout=60)
    assert not alive, "awake again it sees that it was fenced off, and ends"
    assert not (first / RESULT).exists()
    assert [(row.seq, row.kind) for row in read(home.ledger)] == before


def test_an_attempt_that_dies_without_a_word_is_failed_and_its_command_with_it(tmp_path):
    home, killed = Home(tmp_path), []

    def disturb(works):
        if not killed and (home.checkpoints("mill-1", "count")).exists():
            pid = json.loads((home.attempt("mill-1", "count", 1) / "pid-0.json").read_text())["pid"]
            killed.extend(psutil.Process(pid).children(recursive=True))
            os.kill(pid, signal.SIGKILL)

    run(home, disturb)
    assert count_of(home) == (2, b"60")
    assert not psutil.wait_procs(killed, timeout=60)[1]
    assert Counter(row.kind for row in read(home.ledger))["JobFailed"] == 1


def test_what_is_silent_is_told_by_changes_and_not_by_dates(tmp_path, monkeypatch):
    attempt = Attempt("count", 1, tmp_path)
    alive = tmp_path / "alive-0"
    now_s = [100.0]
    monkeypatch.setattr(engines.time, "monotonic", lambda: now_s[0])
    now_s[0] += 1000
    assert not attempt.expired(), "before its first word it only waits for its turn"
    for date_s in (5, 10**10, 7):  # its clock jumps
        alive.touch()
        os.utime(alive, (date_s, date_s))
        now_s[0] += engines.LEASE_S - 1
        assert not attempt.expired()
    now_s[0] += engines.LEASE_S - 1
    assert not attempt.expired()
    now_s[0] += 2
    assert attempt.expired()
    alive.unlink()
    now_s[0] += 2
    assert not attempt.expired(), "it came to its end"


def test_an_attempt_whose_turn_comes_after_it_was_fenced_off_does_not_begin(tmp_path):
    attempt = Attempt("count", 1, tmp_path)
    attempt.renew_lease()
    attempt.fence()
    with pytest.raises(executor.Fenced):
        executor.run_rank(tmp_path, 0, 1)
    assert not (tmp_path / "pid-0.json").exists()


def test_nobody_is_killed_for_the_number_that_a_process_of_another_machine_has(tmp_path):
    bystander = subprocess.Popen(["sleep", "60"])
    born = psutil.Process(bystander.pid).create_time()
    told = {"pid": bystander.pid, "created_unix_s": born, "host": "another"}
    (tmp_path / "pid-0.json").write_text(json.dumps(told))
    executor.kill(tmp_path)
    assert bystander.poll() is None
    told["created_unix_s"] -= 100  # an older process of this machine had the number
    (tmp_path / "pid-0.json").write_text(json.dumps(told | {"host": executor.socket.gethostname()}))
    executor.kill(tmp_path)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


@pytest.fixture
def two_nodes(tmp_path):
    """Ray with a head and a second node that joined it."""
    engine = Engine({"mill-1": 1, "mill-2": 1}, tmp_path)
    engine.open()
    words = ["join", "--home", str(tmp_path), "--name", "mill-2", "--chips", "1"]
    with open(tmp_path / "join.log", "wb") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "gigafactory.works.executor", *words], stdout=log, stderr=log
        )
    yield engine, node, tmp_path
    below = psutil.Process(node.pid).children(recursive=True)
    node.terminate()
    engine.close()
    node.wait(60)
    for one in psutil.wait_procs(below, timeout=5)[1]:
        one.kill()


STRANGER = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5))
"""


def heard(engine, what):
    """Wait until the executor has said it."""
    deadline = time.monotonic() + WAIT_S_MAX
    said = []
    while what not in said:
        assert time.monotonic() < deadline, said
        said += engine.ended()
        time.sleep(POLL_S / 4)
    return said


def test_ray_takes_nobody_in_without_the_token_and_a_dead_node_is_noticed_in_time(two_nodes):
    engine, node, folder = two_nodes
    said = heard(engine, Stands("mill-1", True))
    deadline = time.monotonic() + WAIT_S_MAX
    while not engine.ready:  # a word of its own, which may come a moment later
        assert time.monotonic() < deadline
        said += engine.ended()
        time.sleep(POLL_S / 4)
    assert (folder / executor.TOKEN).stat().st_mode & 0o777 == 0o600
    address = json.loads((folder / executor.ADDRESS).read_text())["address"]
    assert address.startswith("127.0.0.1:")
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, address],
            env={"PATH": os.environ["PATH"], "RAY_AUTH_MODE": "token", **wrong},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "InvalidAuthToken" in stranger.stderr, stranger.stderr[-500:]
        assert not stranger.stdout

    if Stands("mill-2", True) not in said:
        heard(engine, Stands("mill-2", True))
    below = psutil.Process(node.pid).children(recursive=True)
    (raylet,) = (one for one in below if "raylet/raylet" in one.cmdline()[0])
    raylet.kill()
    began_s = time.monotonic()
    heard(engine, Stands("mill-2", False))
    assert time.monotonic() - began_s <= 5


def test_a_fence_is_a_lease_that_is_not_there(tmp_path):
    attempt = Attempt("count", 1, tmp_path)
    attempt.renew_lease()
    assert (tmp_path / LEASE).exists()
    attempt.fence()
    assert not (tmp_path / LEASE).exists()
