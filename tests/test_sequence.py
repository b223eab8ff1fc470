"""The line of events: what was accepted is in the ledger, and the ledger gives the state."""

import asyncio
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.factory import Factory, Start, Stop
from gigafactory.factory import events as ev
from gigafactory.ledger.store import LedgerFailure
from gigafactory.works import sequence
from gigafactory.works.sequence import Sequence

POOL = "mill/gpu"


class Shelf:
    """A ledger in memory whose disk fails when the script says so."""

    def __init__(self, fails=()):
        self.fails, self.events, self.commits = iter(fails), [], 0

    def append(self, run, *happened):
        future = Future()
        if next(self.fails, False):
            future.set_exception(LedgerFailure("the disk is full"))
        else:
            self.events += happened
            self.commits += 1
            future.set_result(len(self.events))
        return future


def factory():
    return Factory([("mill", 1e6)], [(POOL, "mill", 1.0)])


def carried(event, commands):
    """A driver whose jobs start at once, and stop at once where they are told to."""
    for command in commands:
        if isinstance(command, Start):
            yield ev.JobStarted(
                event.at_s, command.job, command.attempt, command.pool, command.nodes,
                command.chips, command.from_step,
            )  # fmt: skip
        elif isinstance(command, Stop):
            yield ev.JobStopped(event.at_s, command.job, command.attempt, {})


def made(ledger, chips=4):
    core = factory()
    return core, Sequence(ledger, "run", core, carried), ev.NodeJoined(0.0, "n1", POOL, chips)


def job(name, chips=1, **more):
    return ev.JobSubmitted(1.0, name, "lab", "script", chips, (POOL,), **more)


def core_events(ledger):
    return [event for event in ledger.events if isinstance(event, ev.CoreEvent)]


def test_a_thousand_jobs_cost_a_handful_of_commits():
    ledger = Shelf()
    core, line, node = made(ledger, chips=600)

    async def story():
        await line.happen(node)
        assert await line.accept(*(job(f"j{i}") for i in range(1000))) == [True] * 1000
        await line.happen()

    asyncio.run(story())
    assert len(core.running()) == 600
    assert ledger.commits <= 5


def test_what_stands_on_a_job_of_the_same_wave_comes_after_it_and_a_name_is_taken_once():
    core, line, node = made(Shelf())

    async def story():
        await line.happen(node)
        return await line.accept(
            job("one"), job("two", after=("one",)), job("one", chips=2), job("three", after=("x",))
        )

    assert asyncio.run(story()) == [True, True, False, False]
    assert core.jobs() == ["one", "two"]


def test_a_full_disk_refuses_what_is_asked_and_keeps_what_happened(monkeypatch):
    monkeypatch.setattr(sequence, "RETRY_S", 0.001)
    ledger = Shelf([False, False, False, True, True, True])
    core, line, node = made(ledger)

    async def story():
        await line.happen(node, job("one"))
        done = ev.JobDone(2.0, "one", 1, True, {}, {})
        waits = asyncio.create_task(line.happen(done))
        await asyncio.sleep(0)
        with pytest.raises(LedgerFailure):
            await line.accept(job("two"))
        assert "full" in line.trouble
        await waits

    asyncio.run(story())
    assert core.status("one") == "done"
    assert core.jobs() == ["one"]
    assert not line.trouble


def test_a_start_that_follows_from_an_accepted_job_waits_for_the_disk(monkeypatch):
    monkeypatch.setattr(sequence, "RETRY_S", 0.001)
    ledger = Shelf([False, False, True, True])
    core, line, node = made(ledger)

    async def story():
        await line.happen(node)
        assert await line.accept(job("one")) == [True]
        assert core.status("one") == "starting"
        await line.happen()
        while line._waiting:
            await asyncio.sleep(0.001)

    asyncio.run(story())
    assert core.status("one") == "running"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "done", "fail", "cancel", "cap", "drain"]),
            st.integers(0, 9),
            st.integers(1, 4),
            st.booleans(),
        ),
        max_size=40,
    ),
    st.lists(st.booleans(), max_size=60),
)
def test_the_ledger_gives_the_state_however_the_disk_fails(choices, fails):
    ledger = Shelf([False, *fails])
    core, line, node = made(ledger)

    async def play(nth, what, which, chips, waits):
        name = f"j{which}"
        attempt = core.attempt(name) if name in core.jobs() else 1
        event = {
            "submit": job(name, chips, by=str(nth)),
            "done": ev.JobDone(2.0, name, attempt, True, {}, {}),
            "fail": ev.JobFailed(2.0, name, attempt, {}, {}),
            "cancel": ev.JobCancelled(2.0, name, str(nth)),
            "cap": ev.SiteCapped(2.0, "mill", 4.0 * chips),
            "drain": ev.NodeDrained(2.0, "n1"),
        }[what]
        if what in ("submit", "cancel"):
            before = len(ledger.events)
            try:
                (accepted,) = await line.accept(event)
            except LedgerFailure:
                accepted = False
            assert (event in ledger.events[before:]) == accepted
        elif waits:
            await line.happen(event)

    async def story():
        await line.happen(node)
        await asyncio.gather(*(play(nth, *choice) for nth, choice in enumerate(choices)))
        while line._waiting:
            await asyncio.sleep(0.001)

    retry_s, sequence.RETRY_S = sequence.RETRY_S, 0.0
    try:
        asyncio.run(story())
    finally:
        sequence.RETRY_S = retry_s
    again = factory()
    for event in core_events(ledger):
        assert again.accepts(event), f"{event} is in the ledger and may not happen"
        again.apply(event)
    for one, other in zip(core.state, again.state, strict=True):
        assert (one == other).all()
