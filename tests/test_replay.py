"""A lived day given again: the same commands to the byte, and a twin that comes close."""

import asyncio
import dataclasses
import itertools
import json
import logging
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gigafactory import replaying
from gigafactory.factory import Replace
from gigafactory.factory import events as ev
from gigafactory.faults import Refused
from gigafactory.ledger.book import write_parquet
from gigafactory.ledger.store import Ledger
from gigafactory.ledger.store import read as read_rows
from gigafactory.twin import beside, free
from gigafactory.twin.replay import Day, again, read
from gigafactory.twin.run import live as live_scene
from gigafactory.twin.scenario import of_plan
from gigafactory.works.driver import Works
from gigafactory.works.home import Home
from tests.test_works import Fuse, FusedLedger, Stage, live, lives, plan

LAPTOP = Path(__file__).with_name("data") / "laptop-day.parquet"
"""The second run of `laptop` on a machine with two cores; its quotes are measured."""


@pytest.fixture(scope="module")
def laptop():
    return read(LAPTOP)


def changed(day, at, event):
    """The day with another event at a place, or with none."""
    events = [*day.events[:at], *([] if event is None else [event]), *day.events[at + 1 :]]
    return dataclasses.replace(day, events=tuple(events))


def first(day, kind, after=0):
    return next(i for i, e in enumerate(day.events) if i >= after and isinstance(e, kind))


def test_the_recorded_day_is_commanded_again_to_the_byte(laptop):
    came = again(laptop)
    assert came.equal, came.difference
    assert came.starts == 5
    assert came.commands >= came.starts
    assert came.untold == 0


@pytest.mark.parametrize("lived", [False, True])
def test_the_twin_comes_within_a_quarter_of_the_recorded_day(laptop, lived):
    compared = beside.compare(laptop, lived)
    assert compared.ended_in_both == len(compared.jobs) == 5
    within = 0.02 if lived else 0.25
    assert abs(compared.makespan_error) < within
    assert abs(compared.mean_jct_error) < within
    assert compared.tau == 1.0


def test_the_parts_of_a_difference_add_up_and_each_has_its_words(laptop):
    for job in beside.compare(laptop).jobs:
        parts = [job.ran_longer_s, job.retried_longer_s, job.stood_longer_s, job.queued_longer_s]
        assert sum(parts) == pytest.approx(job.twin_jct_s - job.lived_jct_s, abs=1e-6)
        assert len(job.why) == sum(abs(part) >= beside.NOTED_S for part in parts)


def test_a_command_that_was_another_is_found_and_both_sides_are_told(laptop):
    at = first(laptop, ev.Commanded)
    command = {**laptop.events[at].commands[0], "attempt": 7}
    commands = (command, *laptop.events[at].commands[1:])
    came = again(changed(laptop, at, dataclasses.replace(laptop.events[at], commands=commands)))
    assert came.difference.what == "other commands"
    assert came.difference.lived[0]["attempt"] == 7
    assert came.difference.replayed[0]["attempt"] == 1


def test_a_record_that_is_missing_where_the_works_lived_on_is_a_difference(laptop):
    second = first(laptop, ev.Commanded, first(laptop, ev.Commanded) + 1)
    came = again(changed(laptop, second, None))
    assert came.difference.lived == []
    assert came.difference.replayed


def test_a_start_that_nobody_commanded_is_a_difference(laptop):
    at = first(laptop, ev.JobStarted)
    came = again(changed(laptop, at, dataclasses.replace(laptop.events[at], from_step=3)))
    assert came.difference.what == "another start than the core's"
    assert came.difference.lived["from_step"] == 3


def test_an_event_that_may_not_be_is_a_difference(laptop):
    at = first(laptop, ev.JobDone)
    came = again(changed(laptop, at, dataclasses.replace(laptop.events[at], attempt=9)))
    assert came.difference.event == "JobDone"
    nobodys = changed(laptop, at, dataclasses.replace(laptop.events[at], job="nobody"))
    assert again(nobodys).difference.subject == "nobody"
    assert beside.compare(nobodys).ended_in_both == 4


def test_a_ledger_from_before_commands_were_recorded_is_held_to_its_starts(laptop):
    events = tuple(e for e in laptop.events if not isinstance(e, ev.Commanded))
    came = again(dataclasses.replace(laptop, events=events))
    assert came.equal
    assert came.commands == 0
    assert came.untold > 0
    assert came.starts == 5


def test_a_works_that_died_after_any_word_replays_equal(tmp_path):
    counting = Fuse()
    ledger = FusedLedger(Home(tmp_path / "count").ledger, counting)
    asyncio.run(live(Home(tmp_path / "count"), ledger, iter(())))
    ledger.close()
    untold = 0
    for at in range(1, counting.words + 1):
        home = Home(tmp_path / str(at))
        lives(home, [(at, False)], iter(["failed"]))
        came = again(read(home.ledger))
        assert came.equal, f"killed after word {at}: {came.difference}"
        untold += came.untold
    assert untold >= 2, "some deaths lie between an event and its commands"


def on_stage(tmp_path, story):
    """Let `story(works)` happen on a works with a stand-in engine; the day that came of it."""

    async def told():
        works = Works(Home(tmp_path), plan(), "mill-1", ledger)
        works.engine = Stage(iter(()))
        await works.open("")
        await story(works)

    ledger = Ledger(Home(tmp_path).ledger)
    asyncio.run(told())
    ledger.close()
    return read(Home(tmp_path).ledger)


def another(name, **changes):
    """The submission of one more training job, and its planned job."""
    job = plan().job("train").model_copy(deep=True)
    object.__setattr__(job.spec, "name", name)
    return job, ev.JobSubmitted(0.0, **{**job.submission(), **changes})


async def accept(works, name, **changes):
    job, submitted = another(name, **changes)
    works.planned[name] = job
    await works.happen(dataclasses.replace(submitted, at_s=works.clock()))


def chips():
    return plan().places[0].chips


def test_a_job_stopped_for_another_goes_on_from_its_checkpoint(tmp_path):
    async def story(works):
        await works.cancel("train", "ann")
        await works.turn()
        await accept(works, "meek", chips=chips())
        assert works.factory.status("meek") == "running"
        seconds = itertools.count(700)  # it has run long enough to be stopped
        works.clock = lambda: float(next(seconds))
        await accept(works, "urgent", chips=chips(), priority=9)
        for _ in range(6):
            await works.turn()

    day = on_stage(tmp_path, story)
    starts = [(e.job, e.from_step) for e in day.events if isinstance(e, ev.JobStarted)]
    assert starts[-3:] == [("meek", 0), ("urgent", 0), ("meek", 5)]
    assert [e.job for e in day.events if isinstance(e, ev.JobStopped)] == ["train", "meek"]
    came = again(day)
    assert came.equal, came.difference
    assert came.commands > came.starts
    twins = [e.job for e in free.live(day, lived=True) if isinstance(e, ev.JobStarted)]
    assert twins[:4] == ["train", "meek", "urgent", "meek"]


def test_caps_calendars_and_drains_move_jobs_and_replay_equal(tmp_path):
    async def story(works):
        site, pool = next(iter(plan().sites)), plan().places[0].pool
        node = next(iter(plan().nodes()))
        for event, undone in (
            (ev.SiteCapped(0.0, site, 0.0), ev.SiteCapped(0.0, site, plan().sites[site])),
            (ev.PoolOpened(0.0, pool, False, "law"), ev.PoolOpened(0.0, pool, True)),
            (ev.NodeDrained(0.0, node, now=True), ev.NodeJoined(0.0, node, *plan().nodes()[node])),
        ):
            await works.happen(dataclasses.replace(event, at_s=works.clock()))
            for _ in range(3):
                await works.turn()
            await works.happen(dataclasses.replace(undone, at_s=works.clock()))
        for _ in range(20):
            await works.turn()
        assert works.factory.settled()

    day = on_stage(tmp_path, story)
    stopped = [e.job for e in day.events if isinstance(e, ev.JobStopped)]
    assert stopped[0] == "train", "the cap fell below what it draws"
    came = again(day)
    assert came.equal, came.difference


def test_an_elastic_job_is_described_with_the_chips_it_got(tmp_path):
    described = []

    async def story(works):
        await works.cancel("train", "ann")
        await works.turn()
        start = works.engine.start
        works.engine.start = lambda folder, told: described.append(told) or start(folder, told)
        await accept(works, "wide", chips=2 * chips(), chips_min=1)

    on_stage(tmp_path, story)
    assert [told["chips"] for told in described] == [chips()]


def test_a_node_that_fails_too_often_is_told_in_the_log_and_nothing_else(tmp_path, caplog):
    async def story(works):
        with caplog.at_level(logging.WARNING):
            assert list(works._answer([Replace("home-1")])) == []

    before = on_stage(tmp_path, story)
    assert "home-1 failed too often" in caplog.text
    assert again(before).equal


def test_a_free_day_gives_the_core_the_same_commands_again(laptop):
    events = (laptop.events[0], *free.live(laptop))
    came = again(dataclasses.replace(laptop, events=events))
    assert came.equal, came.difference
    assert came.starts == 5


def test_the_loop_of_the_twin_lives_the_same_free_day(laptop):
    day = free.lives(free.live(laptop))
    plain = laptop.plan.model_copy(deep=True)
    for job in plain.jobs:
        for figure in (job.quote.overhead_s, job.quote.work_s, job.quote.tokens):
            object.__setattr__(figure, "low", figure.value)
            object.__setattr__(figure, "high", figure.value)
    scene = of_plan(plain, 0).scene
    scene.world["event"]["at_s"] = laptop.events[first(laptop, ev.NodeJoined)].at_s
    starts_s = live_scene(scene, compiled=False).starts_s
    assert starts_s.tolist() == pytest.approx([day[job].attempts[0].started_s for job in day])


def test_a_failure_and_a_cancelled_job_are_told_in_words(laptop):
    events = list(laptop.events)
    done = first(laptop, ev.JobDone)
    job, at_s = events[done].job, events[done].at_s
    failed = ev.JobFailed(at_s, job, 1, {"what": "out of memory"}, {})
    cancelled = ev.JobCancelled(at_s + 200, job, "ann")
    day = dataclasses.replace(laptop, events=(*events[:done], failed, cancelled))
    (told,) = (one for one in beside.compare(day).jobs if one.job == job)
    assert told.lived == "cancelled"
    assert "out of memory" in told.why[0]


def test_a_retry_is_one_of_the_parts(tmp_path):
    home = Home(tmp_path)
    lives(home, [], iter(["failed"]))
    (train,) = (one for one in beside.compare(read(home.ledger)).jobs if one.job == "train")
    assert train.retried_longer_s < 0
    given_its_life = beside.compare(read(home.ledger), lived=True)
    assert given_its_life.tau == 1.0
    assert abs(given_its_life.jobs[0].retried_longer_s) < 0.05


def test_tau_counts_pairs_in_order_and_leaves_ties_out():
    assert beside.tau_b([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    # By hand: 1 pair agrees, 5 do not; 8 of 10 are untied on the left, 9 on the right.
    assert beside.tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-4 / 72**0.5)
    assert beside.tau_b([1, 1], [1, 2]) is None


def run(*words):
    app = typer.Typer()
    replaying.mount(app)
    return CliRunner().invoke(app, [*map(str, words)])


def test_the_command_tells_both_days_and_ends_with_0_or_1(tmp_path, laptop):
    told = json.loads(run(LAPTOP, "--json").stdout)
    assert told["again"]["equal"] is True
    assert set(told["free"]) == {"quoted", "lived"}
    shown = run(LAPTOP)
    assert shown.exit_code == 0
    assert "the core commands the same" in shown.stdout
    at = first(laptop, ev.JobStarted)
    other = dataclasses.replace(laptop.events[at], from_step=3)
    file = tmp_path / "other.parquet"
    write_parquet(file, laptop.run, list(changed(laptop, at, other).events), 0.0)
    differs = run(file)
    assert differs.exit_code == 1
    assert "another start" in differs.stdout


def test_what_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("not a database, and long enough to be looked into" * 99)
    (tmp_path / "text.parquet").write_text("nor this")
    Ledger(tmp_path / "empty.db").close()
    for name, what in (
        ("text.db", "is no ledger"),
        ("text.parquet", "is no ledger"),
        ("empty.db", "nothing has run yet"),
        ("none.db", "no ledger to replay"),
    ):
        with pytest.raises(Refused, match=what):
            read(tmp_path / name)
    with pytest.raises(Refused, match="there is no run 'laptop-9'"):
        read(LAPTOP, "laptop-9")


def test_a_simulated_day_of_streams_is_refused_in_four_parts(tmp_path, laptop):
    at = first(laptop, ev.JobSubmitted)
    other = dataclasses.replace(laptop.events[at], quote={}, spec={"stream": "scans"})
    file = tmp_path / "streams.parquet"
    write_parquet(file, laptop.run, list(changed(laptop, at, other).events), 0.0)
    refused = run(file, "--json")
    assert refused.exit_code == 2
    (fault,) = json.loads(refused.stdout)["errors"]
    assert set(fault) == {"what", "where", "why", "remedy"}
    assert "of streams" in fault["what"]
    assert "1 of 5 jobs (scans) have no quote" in fault["why"]


def test_a_plan_of_another_form_is_refused_with_the_field(tmp_path, laptop):
    opened = laptop.events[0]
    other = dataclasses.replace(opened, plan={**opened.plan, "sites": "milan"})
    file = tmp_path / "other.parquet"
    write_parquet(file, laptop.run, [other, *laptop.events[1:]], 0.0)
    with pytest.raises(Refused) as refused:
        read(file)
    assert "plan.sites" in refused.value.faults[0].why


def test_a_day_is_read_alike_from_both_forms(tmp_path):
    home = Home(tmp_path)
    lives(home, [], iter(()))
    events = [row.event() for row in read_rows(home.ledger)]
    write_parquet(tmp_path / "day.parquet", "mill-1", events, 0.0)
    assert read(home.ledger) == read(tmp_path / "day.parquet", "mill-1")
    assert isinstance(read(home.ledger), Day)
