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

from gigafactory.blueprint.load import parse
from gigafactory.factory import Factory
from gigafactory.factory import events as ev
from gigafactory.faults import Refused
from gigafactory.jobs.context import PROGRESS, RESULT, step_folder
from gigafactory.ledger.store import Ledger, read
from gigafactory.plan import make
from gigafactory.works import driver
from gigafactory.works.driver import Works
from gigafactory.works.engine import Attempt, Ended, Stands, kept_checkpoint
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
        self.said, self.described = [], {}

    def open(self):
        pass

    def start(self, folder, described):
        folder.mkdir(parents=True, exist_ok=True)
        attempt = Attempt(described["work"]["name"], described["attempt"], folder)
        attempt.renew_lease()
        self.open_folders.append((folder, described["work"]["kind"]))
        self.described[attempt.job] = described
        return attempt

    def ended(self):
        ended, self.said = self.said, []
        for folder, kind in list(self.open_folders):
            asked = (folder / "stop").exists()
            if kind == "serve" and not asked:
                if not (folder / PROGRESS).exists():
                    say(folder, ready=True, endpoint="http://127.0.0.1:9", model="model")
                continue
            self.open_folders.remove((folder, kind))
            outcome = "stopped" if asked else next(self.script, "done")
            checkpoint(folder, 5)
            if outcome in ("done", "stopped"):
                write_result(folder, outcome)
            ended.append(Ended(folder, outcome, {"what": "chance"}))
        return ended

    def close(self):
        self.ready = False


def say(folder, **figures):
    with open(folder / PROGRESS, "a") as file:
        file.write(json.dumps({"unix_s": time.time(), **figures}) + "\n")


def checkpoint(folder, step):
    (folder / "checkpoints" / step_folder(step)).mkdir(parents=True)
    say(folder, phase="work", checkpoint=step)


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


# Nodes come and go.

MILL, TWIN = "home/this-machine-1", "home/this-machine-2"


def told(tmp_path, story, nodes=1, chips=2):
    """Let `story(works)` happen on a works of so many nodes; the rows that came of it."""
    home = Home(tmp_path)
    places = [
        where.model_copy(update={"nodes": nodes, "chips_per_node": chips})
        for where in plan().places
    ]

    async def tell():
        works = Works(home, plan().model_copy(update={"places": places}), "mill-1", ledger)
        works.engine = Quiet(iter(()))
        await works.open("")
        await story(works)

    ledger = Ledger(home.ledger)
    asyncio.run(tell())
    ledger.close()
    rows = list(read(home.ledger))
    factory = Factory(**plan().tables())
    for row in rows:
        event = row.event()
        if isinstance(event, ev.CoreEvent):
            assert factory.accepts(event), f"{event} is in the ledger and may not happen"
        factory.apply(event)
    return rows


class Quiet(Stage):
    """Attempts run until they are told what to do: no end of their own, save where asked."""

    def ended(self):
        ended, self.said = self.said, []
        for folder, kind in list(self.open_folders):
            if (folder / "stop").exists():
                self.open_folders.remove((folder, kind))
                checkpoint(folder, 5)
                write_result(folder, "stopped")
                ended.append(Ended(folder, "stopped", {}))
        return ended


def bodies(rows, kind, job="train"):
    return [row.body for row in rows if row.kind == kind and row.subject == job]


def test_what_ran_on_a_lost_node_is_billed_and_goes_on_elsewhere_from_its_checkpoint(tmp_path):
    async def story(works):
        assert not works.factory.running(), "of several nodes none is there before it is seen"
        works.engine.said = [Stands(MILL, True), Stands(TWIN, True)]
        await works.turn()
        first = works.engine.described["train"]
        (node,) = first["nodes"]
        old = works.home.attempt("mill-1", "train", 1)
        checkpoint(old, 5)
        await works.turn()
        works.engine.said = [Stands(node, False)]
        await works.turn()
        again = works.engine.described["train"]
        assert set(again["nodes"]) == {MILL, TWIN} - {node}
        assert Path(again["resume_from"]).parent == works.home.checkpoints("mill-1", "train")
        assert not (old / "lease").exists(), "it was fenced off"

    rows = told(tmp_path, story, nodes=2)
    (lost,) = bodies(rows, "JobLost")
    assert lost["used"]["chip_s"] > 0
    assert lost["reason"].endswith("it does not answer")
    starts = bodies(rows, "JobStarted")
    assert [(s["attempt"], s["from_step"]) for s in starts] == [(1, 0), (2, 5)]
    kinds = [row.kind for row in rows]
    assert kinds.index("JobLost") < kinds.index("NodeLost")


def test_a_node_that_is_gone_and_back_leaves_one_attempt_known_and_the_old_one_fenced(tmp_path):
    async def story(works):
        node = next(iter(works.plan.nodes()))
        for _ in range(2):
            await works.happen(ev.NodeLost(works.clock(), node, "chance"))
            at = works.plan.nodes()[node]
            await works.happen(ev.NodeJoined(works.clock(), node, *at, replaced=True))
        folders = [works.home.attempt("mill-1", "train", n) for n in (1, 2, 3)]
        assert [(folder / "lease").exists() for folder in folders] == [False, False, True]
        write_result(folders[0], "done")
        works.engine.said = [Ended(folders[0], "done", {})]
        await works.turn()
        assert works.factory.status("train") == "running", "an old attempt's end is no end"

    rows = told(tmp_path, story)
    assert [body["attempt"] for body in bodies(rows, "JobLost")] == [1, 2]
    assert all(body["used"]["chip_s"] > 0 for body in bodies(rows, "JobLost"))
    assert not bodies(rows, "JobDone")


def test_an_attempt_that_was_done_when_its_node_died_is_committed_and_not_repeated(tmp_path):
    async def story(works):
        write_result(works.home.attempt("mill-1", "train", 1), "done")
        await works.happen(ev.NodeLost(works.clock(), MILL, "chance"))
        assert works.factory.status("train") == "done"

    rows = told(tmp_path, story)
    assert len(bodies(rows, "JobDone")) == 1
    assert not bodies(rows, "JobLost")


def test_a_drained_node_is_emptied_at_checkpoints_and_what_ran_there_moves(tmp_path):
    async def story(works):
        works.engine.said = [Stands(MILL, True), Stands(TWIN, True)]
        await works.turn()
        (node,) = works.engine.described["train"]["nodes"]
        await works.happen(ev.NodeDrained(works.clock(), node, now=True))
        await works.turn()
        assert set(works.engine.described["train"]["nodes"]) == {MILL, TWIN} - {node}
        assert not works.factory.takes_work(node)

    rows = told(tmp_path, story, nodes=2)
    assert len(bodies(rows, "JobStopped")) == 1
    assert [body["from_step"] for body in bodies(rows, "JobStarted")] == [0, 5]


def test_a_narrower_attempt_leaves_chips_for_another_job_and_grows_back(tmp_path):
    async def story(works):
        await works.cancel("train", "ann")
        await works.turn()
        wide = another("wide", chips=2, chips_min=1)
        works.planned["wide"] = wide[0]
        now_s = [1000.0]
        works.clock = lambda: now_s[0]
        await works.happen(ev.JobSubmitted(now_s[0], **wide[1]))
        assert works.engine.described["wide"]["chips"] == 2
        now_s[0] += 900
        urgent = another("urgent", chips=1, priority=9)
        works.planned["urgent"] = urgent[0]
        await works.happen(ev.JobSubmitted(now_s[0], **urgent[1]))
        for _ in range(3):
            now_s[0] += 1
            await works.turn()
        assert works.engine.described["wide"]["chips"] == 1
        assert works.engine.described["wide"]["resume_from"].endswith("step-000005.1")
        assert sorted(works.factory.running()) == ["urgent", "wide"]
        checkpoint(works.home.attempt("mill-1", "wide", 2), 7)
        write_result(works.home.attempt("mill-1", "urgent", 1), "done")
        works.engine.said = [Ended(works.home.attempt("mill-1", "urgent", 1), "done", {})]
        for _ in range(5):
            now_s[0] += 900
            await works.happen(ev.Ticked(now_s[0]))
            await works.turn()
        assert works.engine.described["wide"]["chips"] == 2

    told(tmp_path, story)


def another(name, **changes):
    job = plan().job("train").model_copy(deep=True)
    object.__setattr__(job.spec, "name", name)
    return job, {**job.submission(), "expected_s": 1e6, **changes}


def test_a_fenced_attempt_cannot_touch_what_a_later_one_stands_on(tmp_path):
    async def story(works):
        old = works.home.attempt("mill-1", "train", 1)
        checkpoint(old, 5)
        (old / "checkpoints" / step_folder(5) / "weights").write_text("good")
        await works.turn()
        await works.happen(ev.NodeLost(works.clock(), MILL, "chance"))
        await works.happen(ev.NodeJoined(works.clock(), MILL, *works.plan.nodes()[MILL]))
        # The zombie goes on, by every path that it knows.
        for step in (5, 6):
            checkpoint(old, step)
            (old / "checkpoints" / step_folder(step) / "weights").write_text("bad")
        write_result(old, "done")
        for _ in range(3):
            await works.turn()
        kept = works.home.checkpoints("mill-1", "train")
        assert [path.name for path in kept.iterdir()] == ["step-000005.1"]
        assert (kept_checkpoint(kept, 5) / "weights").read_text() == "good"
        assert works.factory.step_of("train") == 5

    rows = told(tmp_path, story)
    assert [body["step"] for body in bodies(rows, "JobCheckpointed")] == [5]
    assert not bodies(rows, "JobDone")


def test_a_checkpoint_that_a_later_one_replaces_is_deleted(tmp_path):
    async def story(works):
        for step in (5, 10, 15):
            checkpoint(works.home.attempt("mill-1", "train", 1), step)
            await works.turn()
        kept = works.home.checkpoints("mill-1", "train")
        assert [path.name for path in kept.iterdir()] == ["step-000015.1"]

    told(tmp_path, story)


def test_a_disk_that_is_full_at_the_start_is_a_fault_of_the_attempt_not_of_the_works(tmp_path):
    async def story(works):
        works.engine.start = full
        await works.happen(ev.NodeLost(works.clock(), MILL, "chance"))
        await works.happen(ev.NodeJoined(works.clock(), MILL, *works.plan.nodes()[MILL]))
        assert works.factory.status("train") == "paused"

    def full(folder, described):
        raise OSError(28, "No space left on device")

    (failed,) = bodies(told(tmp_path, story), "JobFailed")
    assert "No space left" in failed["error"]["what"]


@pytest.mark.parametrize("where", ["before_launch", "launched", "before_commit", "committed"])
@pytest.mark.parametrize("fatal", [1, 2])
def test_a_crash_around_a_start_and_a_commit_ends_the_same(where, fatal, tmp_path, monkeypatch):
    passes = Counter()

    def point(name):
        passes[name] += 1
        if name == f"driver.{where}" and passes[name] == fatal:
            raise Crash

    monkeypatch.setattr(driver, "failpoint", point)
    lives(Home(tmp_path), [(10**6, True)], iter(()))
    assert passes[f"driver.{where}"] >= fatal, "it died there"
    check(Home(tmp_path))


def test_a_changed_blueprint_does_not_leave_accepted_jobs_behind_unsaid(tmp_path):
    from gigafactory.works.up import _choose

    home = Home(tmp_path)

    async def begin():
        works = Works(home, make(blueprint()), "mill-1", ledger)
        works.engine = Stage(iter(()))
        await works.open("")

    def blueprint(weight=1):
        text = GOOD.replace("lab: {}", f"lab: {{weight: {weight}}}")
        return parse(text, Path("mill.yaml"))

    ledger = Ledger(home.ledger)
    asyncio.run(begin())
    ledger.close()
    assert _choose(home, blueprint(), again=False)[::2] == ("mill-1", True)
    with pytest.raises(Refused) as refused:
        _choose(home, blueprint(weight=2), again=False)
    (fault,) = refused.value.faults
    assert fault.what == "the blueprint changed since mill-1 began"
    assert "train, judge of it have not ended" in fault.why
    assert _choose(home, blueprint(weight=2), again=True)[::2] == ("mill-2", False)
    ledger = Ledger(home.ledger)
    asyncio.run(begin_and_end(home, ledger, blueprint()))
    ledger.close()
    assert _choose(home, blueprint(weight=2), again=False)[::2] == ("mill-2", False)


async def begin_and_end(home, ledger, blueprint):
    works = Works(home, make(blueprint), "mill-1", ledger)
    works.engine = Stage(iter(()))
    await works.open("")
    for job in ("train", "judge"):
        await works.cancel(job, "ann")
    await works.turn()
    await works.turn()
