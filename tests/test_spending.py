"""Budgets over time, held against jobs that run: the driver, core and ledger are the real ones."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from gigafactory.blueprint.load import parse
from gigafactory.ledger.book import Book
from gigafactory.ledger.store import Ledger, read
from gigafactory.plan import make
from gigafactory.works import spending
from gigafactory.works.budgets import Spent
from gigafactory.works.driver import Works
from gigafactory.works.engine import Ended
from gigafactory.works.home import Home
from gigafactory.works.spending import Spending
from tests.test_works import Stage, write_result

TEXT = """\
gigafactory: 1
name: mill
start: 2026-11-23
owner: FR
sites:
  home: {country: FR, power: 1 kW, systems: {this-machine: 1}}
tenants:
  lab: {budgets: [{limit: 50 EUR, per: hour}]}
  mill: {}
prices: {chip_hour: 3600 EUR/GPU-h}
models:
  tiny: {config: qwen3-moe-tiny}
workloads:
  first: {kind: pretrain, tenant: lab, model: tiny, tokens: 10 tokens}
  second: {kind: pretrain, tenant: lab, model: tiny, tokens: 10 tokens, after: first}
"""
NOON = time.time() // 3600 * 3600  # an hour of now, since rows are stamped by the real clock


class Patient(Stage):
    """Attempts run until the test ends them, or until they are asked to stop."""

    def __init__(self):
        super().__init__(iter(()))
        self.ends = set()

    def ended(self):
        ended = []
        for folder, kind in list(self.open_folders):
            outcome = "stopped" if (folder / "stop").exists() else "done"
            if outcome == "stopped" or folder.parent.name in self.ends:
                self.open_folders.remove((folder, kind))
                write_result(folder, outcome)
                ended.append(Ended(folder, outcome, {}))
        return ended


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A works whose clock is ours: `story(works, pass_s)` is told of it."""
    monkeypatch.setattr(spending, "EVERY_S", 0.0)

    def play(story, text=TEXT):
        async def whole():
            ledger = Ledger(Home(tmp_path).ledger)
            works = Works(Home(tmp_path), make(parse(text, Path("mill.yaml"))), "mill-1", ledger)
            works.engine, works.opened_unix_s = Patient(), NOON
            now = [0.0]
            works.clock = lambda: now[0]
            works.spending = Spending(works, lambda: NOON + now[0])
            await works.open("")

            async def pass_s(seconds):
                now[0] += seconds
                await works.turn()
                await works.turn()

            await story(works, pass_s)
            ledger.close()

        asyncio.run(whole())
        return Home(tmp_path).ledger

    return play


def test_a_tenant_that_spent_its_budget_stops_at_a_checkpoint_and_goes_on_in_the_next_hour(played):
    async def story(works, pass_s):
        assert works.factory.status("first") == "running"
        await pass_s(40)
        assert works.factory.status("first") == "running"
        await pass_s(11)  # 51 EUR of 50 at 1 EUR a chip-second
        assert works.factory.status("first") == "queued"
        assert "50 EUR a hour is spent; it goes on in 59" in works.why("first")
        await pass_s(1000)
        assert works.factory.status("first") == "queued"
        await pass_s(3600 - 1051)
        assert works.factory.status("first") == "running"
        assert works.why("first") == ""

    ledger = played(story)
    changed = [row.body["open"] for row in read(ledger, kinds=["TenantChanged"])]
    assert changed == [False, True]
    (stopped,) = read(ledger, kinds=["JobStopped"])
    assert sum(c["money_micro"] for c in stopped.body["used"]["charges"]) == 51_000_000


def test_what_the_bill_says_is_what_the_budget_counted(played):
    async def story(works, pass_s):
        await pass_s(7)
        works.engine.ends = {"first"}
        await pass_s(3)
        (left,) = works.budgets.left("lab")
        assert left.spent == pytest.approx(10.0)

    ledger = played(story)
    (bill,) = Book.open(ledger).bill("mill-1")
    assert bill["total_micro"] == 10_000_000


def test_a_works_that_starts_anew_knows_what_was_spent_and_stays_closed(played):
    async def spend(works, pass_s):
        await pass_s(60)
        assert works.factory.status("first") == "queued"

    async def again(works, pass_s):
        assert works.factory.status("first") == "queued"
        (left,) = works.budgets.left("lab")
        assert left.spent == pytest.approx(60.0)
        await pass_s(120)
        assert works.factory.status("first") == "queued"
        await pass_s(3600)
        assert works.factory.status("first") == "running"

    played(spend)
    played(again)


def test_a_request_finds_no_room_that_a_running_job_has_used(played):
    async def story(works, pass_s):
        await pass_s(40)  # 40 EUR of 50
        assert isinstance(works.budgets.reserve("lab", money_micro=10_500_000), Spent)
        hold = works.budgets.reserve("lab", money_micro=9_500_000)
        works.budgets.settle(hold, 9_500_000, 10)
        await pass_s(1)
        assert works.factory.status("first") == "queued"
        (left,) = works.budgets.left("lab")
        assert left.spent == pytest.approx(41 + 9.5)

    played(story)


def test_a_budget_of_one_does_not_stop_another(played):
    async def story(works, pass_s):
        job = works.planned["first"]
        work = job.spec.work.model_copy(update={"tenant": "mill"})
        theirs = job.model_copy(
            update={"spec": job.spec.model_copy(update={"name": "theirs", "work": work})}
        )
        await pass_s(60)
        assert await works.submit(theirs)
        await pass_s(1)
        assert works.factory.status("first") == "queued"
        assert works.factory.status("theirs") == "running"

    played(story)


def test_a_job_that_no_window_could_pay_is_refused_before_it_waits_for_ever(played):
    async def story(works, pass_s):
        assert works.spending.refusal(works.planned["first"]) is None
        poor = TEXT.replace("50 EUR", "0.0001 EUR")
        works.plan = make(parse(poor, Path("mill.yaml")))
        fault = works.spending.refusal(works.planned["first"])
        assert fault.what == "'first' costs more than lab may spend"
        assert "0.0001 EUR a hour is the whole of it" in fault.why

    played(story)


def test_what_ran_when_the_works_was_killed_is_billed_up_to_its_last_sign_of_life(played):
    async def run(works, pass_s):
        folder = works.home.attempt("mill-1", "first", 1)
        renewed = works.opened_unix_s + 30.0
        os.utime(folder / "lease", (renewed, renewed))

    played(run)  # and no close: it is gone

    async def again(works, pass_s):
        (left,) = works.budgets.left("lab")
        assert left.spent == pytest.approx(30.0)

    played(again)
