"""Promises of the works under `kill -9`: nothing acknowledged is lost, nothing is billed twice.

What is killed, by whom, and what is checked: `tests/kills.py`.
"""

import asyncio
import shutil
import sqlite3

import pytest

from tests import kills


@pytest.fixture(scope="module")
def nursery():
    with kills.Nursery() as nursery:
        yield nursery


def came_of(nursery, *stories):
    """The evidence of stories, in which nothing may be wrong."""
    came = asyncio.run(kills.stories(nursery, list(stories)))
    assert not came.violations, kills.table(came)
    return came


def test_a_kill_at_every_named_failpoint_loses_nothing_and_bills_nothing_twice(nursery):
    came = came_of(nursery, *kills.at_every_failpoint())
    assert {name for name in came.kills if name != "after a time"} == set(kills.failpoints())
    assert min(came.done, came.answered, came.settled, came.disputed, came.acts) > 0


def test_two_hundred_random_kills_lose_nothing_and_bill_nothing_twice(nursery):
    came = came_of(nursery, *kills.random_stories(200, seed=1))
    assert came.kills.total() == 200
    assert min(came.jobs, came.answered, came.settled, came.disputed) > 50
    assert came.disputed <= came.unsure + came.lives


@pytest.fixture(scope="module")
def lived(nursery, tmp_path_factory):
    """A home that was killed twice, with all that is needed to judge it."""
    kept = {}

    def judge(home, told, engine, said, lives):
        kept.update(told=told, engine=engine, said=said, lives=lives)
        return violations(home, told, engine, said, lives)

    violations, folder = kills.violations, tmp_path_factory.mktemp("kills")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kills, "violations", judge)
        deaths = [
            kills.Kill("gateway.settled:9", kills.REACH_S_MAX, must=True),
            kills.Kill("gateway.before_settle:2", kills.REACH_S_MAX, must=True),
            kills.Kill("house.acted:4", kills.REACH_S_MAX, must=True),
        ]
        came = asyncio.run(kills.story(nursery, folder, "lived", deaths))
    assert not came.violations, kills.table(came)
    return folder / "home", kept


FORGED = {
    "a job was lost": "delete from events where seq = (select max(seq) from events where kind = "
    "'JobSubmitted')",
    "committed twice": "insert into events select (select max(seq) + 1 from events), run, kind, "
    "subject, at_s, unix_s, body from events where kind = 'JobDone' limit 1",
    "settled twice": "insert into events select (select max(seq) + 1 from events), run, kind, "
    "subject, at_s, unix_s, body from events where kind = 'RequestSettled' limit 1",
    "a settlement was lost": "delete from events where seq = (select max(seq) from events where "
    "kind = 'RequestSettled')",
    "more was billed": "update events set body = json_set(body, '$.money_micro', 999999) where "
    "kind = 'RequestSettled'",
    "more was counted": "update events set body = json_set(body, '$.completion_tokens', 99) where "
    "kind = 'RequestSettled'",
    "a dispute was dropped": "delete from events where kind = 'RequestDisputed'",
    "a start nobody commanded": "update events set body = json_set(body, '$.attempt', 7) where "
    "seq = (select max(seq) from events where kind = 'JobStarted')",
    "another's result": "update events set body = json_set(body, '$.results.by', 7) where "
    "kind = 'JobDone'",
    "an act was changed": "update events set body = json_set(body, '$.by', 'nobody') where "
    "kind = 'Acted'",
    "the last act was cut off": "delete from events where seq = (select max(seq) from events "
    "where kind = 'Acted')",
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_ledger_that_is_wrong_is_found_out(lived, tmp_path, forgery):
    home, kept = lived
    forged = tmp_path / "home"
    shutil.copytree(home, forged)
    with sqlite3.connect(forged / "ledger.db") as ledger:
        assert ledger.execute(FORGED[forgery]).rowcount > 0
    ledger.close()
    assert kills.violations(forged, **kept)


def served(**bad):
    """A life long enough to serve, and then one with something bad in it."""
    return [
        kills.Kill("gateway.settled:5", kills.REACH_S_MAX, must=True),
        kills.Kill(after_s=0.1, **bad),
    ]


def test_a_works_that_was_stopped_and_woken_was_alone_all_the_time_and_goes_on(nursery):
    came_of(nursery, ("sleeper", served(sleeps_s=0.5)))


def test_a_full_disk_refuses_and_loses_nothing_and_with_room_all_goes_on(nursery):
    came_of(nursery, ("full", served(full_s=1.0)))


def test_a_clock_that_jumps_by_days_back_and_forth_changes_no_sum(nursery):
    jumps = [
        kills.Kill(after_s=0.3, shift_s=days * kills.DAY_S, shift_after_s=0.15)
        for days in (9, -9, 5, -2)
    ]
    came_of(nursery, ("clock", served() + jumps))
