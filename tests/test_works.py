"""The works' recovery: crash it between any two words to the ledger, and it ends the same.

The engine here is a stand-in that keeps the real protocol of files (so that thousands of
crashes cost seconds, not days); the driver, the core and the ledger are the real ones.
`tests/test_up.py` kills the real thing.
"""

import asyncio
import itertools
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from gigafactory.factory import Factory
from gigafactory.factory import events as ev
from gigafactory.jobs.context import PROGRESS, RESULT
from gigafactory.ledger.store import Ledger, read
from gigafactory.plan import make
from gigafactory.works.driver import Works
from gigafactory.works.engine import Attempt, Ended
from gigafactory.works.home import Home
from tests.test_blueprint import GOOD

PLAN = None


def plan():
    global PLAN
    if PLAN is None:
        from gigafactory.blueprint.load import parse

        PLAN = make(parse(GOOD, Path("mill.yaml")))
    return PLAN


class Crash(BaseException):
    """The process is gone."""


class Fuse:
    """Counts words to the ledger; crashes at a given one, before or after it is durable."""

    def __init__(self, at=None, before=True):
        self.at, self.before, self.words = at, before, 0

    def burn(self, before):
        self.words += before
        if self.words == self.at and before == self.before:
            raise Crash


class FusedLedger(Ledger):
    def __init__(self, path, fuse):
        super().__init__(path)
        self._fuse = fuse

    def append(self, run, *happened):
        self._fuse.burn(before=True)
        future = super().append(run, *happened)
        future.result()
        self._fuse.burn(before=False)
        return future


class Stage:
    """An engine whose attempts do what the script says, through the real files."""

    def __init__(self, script):
        self.script, self.open_folders, self.ready = script, [], True

    def open(self):
        pass

    def start(self, folder, described):
        folder.mkdir(parents=True, exist_ok=True)
        attempt = Attempt(described["work"]["name"], described["attempt"], folder)
        attempt.renew_lease()
        self.open_folders.append((folder, described["work"]["kind"]))
        return attempt

    def ended(self):
        ended = []
        for folder, kind in list(self.open_folders):
            asked = (folder / "stop").exists()
            if kind == "serve" and not asked:
                if not (folder / PROGRESS).exists():
                    say(folder, ready=True, endpoint="http://127.0.0.1:9", model="model")
                continue
            self.open_folders.remove((folder, kind))
            outcome = "stopped" if asked else next(self.script, "done")
            say(folder, phase="work", checkpoint=5)
            if outcome in ("done", "stopped"):
                write_result(folder, outcome)
            ended.append(Ended(folder, outcome, {"what": "chance"}))
        return ended

    def close(self):
        self.ready = False


def say(folder, **figures):
    with open(folder / PROGRESS, "a") as file:
        file.write(json.dumps({"unix_s": time.time(), **figures}) + "\n")


def write_result(folder, outcome):
    results = {"tokens": 1000, "passed": True}
    (folder / RESULT).write_text(json.dumps({"outcome": outcome, "results": results, "unix_s": 0}))


async def live(home, ledger, script):
    """One life of the works: open, turn until all is settled."""
    works = Works(home, plan(), "mill-1", ledger)
    works.engine = Stage(script)
    began_s = time.time()
    works.clock = lambda: 1000.0 * (time.time() - began_s)  # no waiting for a backoff
    await works.open("")
    for _ in range(500):
        await works.turn()
        if works.factory.settled():
            return works
        await asyncio.sleep(0.001)
    raise AssertionError("it never settled")


def lives(home, crashes, script):
    """Live and crash until it settles; returns the last works and how many words were said."""
    for at, before in crashes:
        fuse = Fuse(at, before)
        ledger = FusedLedger(home.ledger, fuse)
        try:
            asyncio.run(live(home, ledger, script))
            ledger.close()
            return
        except Crash:
            ledger.close()
    ledger = FusedLedger(home.ledger, Fuse())
    asyncio.run(live(home, ledger, script))
    ledger.close()


def check(home):
    """One ledger, each job submitted and committed once, and replay gives a settled factory."""
    rows = list(read(home.ledger))
    kinds = Counter(row.kind for row in rows)
    assert kinds["RunOpened"] == 1
    assert {r.subject for r in rows if r.kind == "JobSubmitted"} == {"train", "judge", "serve"}
    assert kinds["JobSubmitted"] == 3
    done = Counter(row.subject for row in rows if row.kind == "JobDone")
    assert done == {"train": 1, "judge": 1}
    factory = Factory(**plan().tables())
    attempts = Counter()
    for row in rows:
        event = row.event()
        if isinstance(event, ev.CoreEvent):
            assert factory.accepts(event), f"{event} is in the ledger and may not happen"
        factory.apply(event)
        if isinstance(event, ev.JobStarted):
            attempts[event.job, event.attempt] += 1
    assert max(attempts.values()) == 1, "an attempt starts once"
    assert factory.settled()
    held = Counter()
    for row in rows:
        if used := row.body.get("used"):
            assert used["chip_s"] >= 0
            held[row.subject] += used["chip_s"]


def test_an_undisturbed_run_commits_each_job_once(tmp_path):
    lives(Home(tmp_path), [], iter(()))
    check(Home(tmp_path))


def test_a_crash_before_or_after_any_word_to_the_ledger_ends_the_same(tmp_path):
    counting = Fuse()
    home = Home(tmp_path / "count")
    ledger = FusedLedger(home.ledger, counting)
    asyncio.run(live(home, ledger, iter(())))
    ledger.close()
    for at, before in itertools.product(range(1, counting.words + 1), (True, False)):
        home = Home(tmp_path / f"{at}-{before}")
        lives(home, [(at, before)], iter(()))
        check(home)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 25), st.booleans()), max_size=4),
    st.lists(st.sampled_from(["done", "failed", "lost"]), max_size=3),
)
def test_any_crashes_with_any_faults_of_jobs_end_the_same(crashes, script):
    note(f"crashes {crashes}, ends {script}")
    with tempfile.TemporaryDirectory() as folder:
        lives(Home(Path(folder)), crashes, iter(script))
        check(Home(Path(folder)))


def test_an_attempt_that_ended_while_the_works_was_dead_is_adopted_not_repeated(tmp_path):
    home = Home(tmp_path)
    # Word 5 is JobStarted of `train` (after RunOpened, three submissions and the node).
    ledger = FusedLedger(home.ledger, Fuse(7, True))
    with pytest.raises(Crash):
        asyncio.run(live(home, ledger, iter(())))
    ledger.close()
    started = [row for row in read(home.ledger) if row.kind == "JobStarted"]
    folder = home.attempt("mill-1", "train", started[0].body["attempt"])
    assert (folder / RESULT).exists()
    lives(home, [], iter(()))
    check(home)
    assert [r.body["attempt"] for r in read(home.ledger, kinds=["JobStarted"])
            if r.subject == "train"] == [1]  # fmt: skip


def test_a_factory_that_is_closed_goes_on_from_the_checkpoints_it_stopped_at(tmp_path):
    async def close_at_once():
        works = Works(home, plan(), "mill-1", ledger)
        works.engine = Stage(iter(()))
        await works.open("")
        await works.close()
        assert works.factory.status("train") == "queued"

    home = Home(tmp_path)
    ledger = Ledger(home.ledger)
    asyncio.run(close_at_once())
    ledger.close()
    lives(home, [], iter(()))
    check(home)
    starts = [r.body for r in read(home.ledger, kinds=["JobStarted"]) if r.subject == "train"]
    assert [(s["attempt"], s["from_step"]) for s in starts] == [(1, 0), (2, 5)]


def test_two_submits_of_one_name_leave_one_job_and_the_second_is_told(tmp_path):
    async def story():
        works = Works(Home(tmp_path), plan(), "mill-1", ledger)
        works.engine = Stage(iter(()))
        await works.open("")
        jobs = [plan().job("judge").model_copy(deep=True) for _ in "ab"]
        for job in jobs:
            object.__setattr__(job.spec, "name", "more")
        return await asyncio.gather(*(works.submit(job) for job in jobs))

    ledger = Ledger(Home(tmp_path).ledger)
    assert asyncio.run(story()) == [True, False]
    ledger.close()
    submitted = [r.subject for r in read(Home(tmp_path).ledger, kinds=["JobSubmitted"])]
    assert submitted.count("more") == 1


def test_a_job_that_is_cancelled_while_it_runs_is_stopped_and_billed(tmp_path):
    async def story():
        home = Home(tmp_path)
        works = Works(home, plan(), "mill-1", ledger)
        works.engine = Stage(iter(()))
        await works.open("")
        assert works.factory.status("train") == "running"
        assert await works.cancel("train", "ann")
        await works.turn()
        assert works.factory.status("train") == "cancelled"
        assert works.factory.status("serve") == "blocked"
        assert not await works.cancel("train", "ann")

    ledger = Ledger(Home(tmp_path).ledger)
    asyncio.run(story())
    ledger.close()
    (stopped,) = read(Home(tmp_path).ledger, kinds=["JobStopped"])
    assert stopped.body["used"]["chip_s"] > 0
