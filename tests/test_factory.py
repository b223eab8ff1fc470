"""The core: stories for understanding, random lives for truth."""

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from gigafactory.factory import Factory, Start, Stop, Tenant, Wake, queue
from gigafactory.factory import events as ev
from gigafactory.factory import state as tables
from gigafactory.factory.core import HAPPENINGS

CHIP_W = 10.0


def factory(cap_w=1000.0, nodes=(8,)):
    made = Factory([("mill", cap_w)], [("mill/gpu", "mill", CHIP_W)])
    for number, chips in enumerate(nodes, 1):
        made.apply(ev.NodeJoined(0.0, f"n{number}", "mill/gpu", chips))
    return made


def shared_factory(compiled=False, **more):
    """Three tenants with quotas on twelve chips, two of which lend to each other."""
    tenants = [Tenant("lab", 2.0, 6, 6, "both"), Tenant("mill", 1.0, 4, 6, "both")]
    rules = {"elastic": True, "preempt_after_s": 5.0, "grow_after_s": 5.0, "lemons": 3}
    made = Factory(
        [("mill", 200.0)], [("mill/gpu", "mill", CHIP_W)], [*tenants, Tenant("own", 1.0, 2)],
        rules={**rules, **more}, compiled=compiled,
    )  # fmt: skip
    for number in (1, 2, 3):
        made.apply(ev.NodeJoined(0.0, f"n{number}", "mill/gpu", 4, f"r{number % 2}"))
    return made


def job(name, chips=1, at_s=0.0, **more):
    tenant = more.pop("tenant", "lab")
    return ev.JobSubmitted(at_s, name, tenant, "pretrain", chips, ("mill/gpu",), **more)


def started(start, at_s=1.0):
    return ev.JobStarted(
        at_s, start.job, start.attempt, start.pool, start.nodes, start.chips, start.from_step
    )


def done(name, attempt=1, at_s=2.0, passed=True):
    return ev.JobDone(at_s, name, attempt, passed, {}, {})


def run(made, name, **more):
    """Submit a job and let it start."""
    (start,) = made.apply(job(name, **more))
    made.apply(started(start))
    return start


def test_a_lost_node_costs_only_the_work_since_the_checkpoint():
    made = factory(nodes=(8, 8))
    (first,) = run(made, "train", chips=8).nodes
    made.apply(ev.JobCheckpointed(600.0, "train", 1, 40))
    stop, start = made.apply(ev.NodeLost(1500.0, first, "power"))
    (other,) = {"n1", "n2"} - {first}
    assert stop == Stop("train", 1)
    assert start == Start("train", 2, "mill/gpu", (other,), (8,), 40)


def test_a_gang_starts_whole_or_not_at_all():
    made = factory(nodes=(4, 4))
    run(made, "small", chips=1)
    assert made.apply(job("gang", chips=8)) == []
    assert made.status("gang") == "queued"
    (start,) = made.apply(done("small"))
    assert sorted(start.chips) == [4, 4]


def test_the_head_of_the_queue_is_not_overtaken_by_smaller_jobs():
    made = factory(nodes=(4,))
    run(made, "one", chips=3)
    made.apply(job("large", chips=4))
    assert made.apply(job("small", chips=1)) == []
    assert made.status("small") == "queued"


def test_a_higher_priority_goes_first():
    made = factory(nodes=(1,))
    run(made, "one")
    made.apply(job("later"))
    made.apply(job("urgent", priority=5))
    (start,) = made.apply(done("one"))
    assert start.job == "urgent"


def test_no_start_exceeds_the_site_s_power_cap():
    made = factory(cap_w=25.0, nodes=(8,))
    run(made, "one", chips=2)
    assert made.apply(job("two", chips=1)) == []
    (start,) = made.apply(done("one"))
    assert start.job == "two"


def test_a_fault_is_retried_after_a_pause_that_doubles_and_then_fails():
    made = factory()
    run(made, "shaky", retries=2)
    pauses = []
    now = 10.0
    for attempt in (1, 2):
        (wake,) = made.apply(ev.JobFailed(now, "shaky", attempt, {}, {}))
        assert isinstance(wake, Wake)
        pauses.append(wake.at_s - now)
        (start,) = made.apply(ev.Ticked(wake.at_s))
        made.apply(started(start, wake.at_s))
        now = wake.at_s + 10
    assert pauses == [2.0, 4.0]
    assert made.apply(ev.JobFailed(now, "shaky", 3, {}, {})) == []
    assert made.status("shaky") == "failed"


def test_what_stands_on_a_failed_job_is_blocked_and_so_are_its_heirs():
    made = factory()
    run(made, "data", retries=0)
    made.apply(job("train", after=("data",)))
    made.apply(job("serve", after=("train",)))
    made.apply(ev.JobFailed(5.0, "data", 1, {}, {}))
    assert [made.status(name) for name in ("data", "train", "serve")] == [
        "failed",
        "blocked",
        "blocked",
    ]


@pytest.mark.parametrize(("passed", "status"), [(True, "starting"), (False, "blocked")])
def test_a_model_is_served_only_through_its_gate(passed, status):
    made = factory()
    run(made, "judge")
    made.apply(job("serve", after=("judge",), through=("judge",)))
    made.apply(done("judge", passed=passed))
    assert made.status("serve") == status


def test_an_old_attempt_s_word_changes_nothing():
    made = factory()
    run(made, "train")
    (again,) = made.apply(ev.JobLost(5.0, "train", 1, "restart", {}))
    made.apply(started(again))
    assert not made.accepts(done("train", attempt=1))
    assert not made.accepts(ev.JobCheckpointed(6.0, "train", 1, 99))
    assert made.accepts(done("train", attempt=2))
    made.apply(done("train", attempt=2))
    assert not made.accepts(done("train", attempt=2))


def test_a_cancelled_job_stops_and_gives_its_chips_back():
    made = factory(nodes=(2,))
    run(made, "train", chips=2)
    assert made.apply(ev.JobCancelled(3.0, "train", "ann")) == [Stop("train", 1)]
    made.apply(job("next", chips=2))
    (start,) = made.apply(ev.JobStopped(4.0, "train", 1, {}))
    assert (made.status("train"), start.job) == ("cancelled", "next")


def test_a_drained_node_takes_nothing_new_until_it_joins_again():
    made = factory(nodes=(2,))
    made.apply(ev.NodeDrained(1.0, "n1"))
    assert made.apply(job("train")) == []
    (start,) = made.apply(ev.NodeJoined(2.0, "n1", "mill/gpu", 2))
    assert start.job == "train"


def test_a_tenant_that_is_closed_starts_nothing_until_it_opens_and_lends_its_quota_meanwhile():
    made = Factory([("mill", 1e3)], [("mill/gpu", "mill", CHIP_W)], [
        Tenant("lab", 1.0, 4, 4, "both"), Tenant("mill", 1.0, 4, 4, "both")
    ])  # fmt: skip
    made.apply(ev.NodeJoined(0.0, "n1", "mill/gpu", 8))
    run(made, "one", chips=2)
    closed = ev.TenantChanged(1.0, "lab", 1.0, 4, 4, "both", open=False, why="spent")
    assert made.apply(closed) == []
    assert made.apply(job("two")) == []
    assert made.status("one") == "running"
    run(made, "theirs", chips=6, tenant="mill")
    assert made.apply(done("one")) == []
    assert made.apply(done("theirs")) == []
    assert made.status("two") == "queued"
    (start,) = made.apply(ev.TenantChanged(3.0, "lab", 1.0, 4, 4, "both"))
    assert start.job == "two"


def test_a_tenant_given_a_quota_while_it_runs_is_counted_within_it():
    made = factory(nodes=(8,))
    run(made, "one", chips=3)
    made.apply(ev.TenantChanged(1.0, "lab", 1.0, 4, 0))
    assert made.apply(job("two", chips=2)) == []
    (start,) = made.apply(done("one"))
    assert start.job == "two"


def test_the_diagram_shows_every_status():
    assert all(status in tables.diagram() for status in tables.STATUS)


# Lives: random submissions and happenings, then everything checked after every event.


CHOICES = [
    *("submit", "submit", "start", "start", "done", "fail", "lose", "checkpoint", "stop"),
    *("cancel", "lose-node", "join", "drain", "tick", "stale", "cap", "close", "tenant"),
]


@st.composite
def lives(draw):
    """A list of choices; each is turned into an event that fits the state of that moment."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(CHOICES),
                st.integers(0, 7),
                st.integers(0, 3),
            ),
            max_size=60,
        )
    )


def event_of(made, choice, at_s):
    """The event that a choice means now, or None where it means nothing."""
    what, which, how = choice
    names = made.jobs()
    node = f"n{which % 3 + 1}"
    if what == "submit":
        after = tuple(names[-1:]) if how == 1 else ()
        chips = which % 5 + 1
        return job(
            f"j{len(names)}", chips=chips, at_s=at_s, priority=how, retries=how,
            after=after, through=after if which % 2 else (), service=which == 7,
            tenant=("lab", "mill", "own", "lab")[how], chips_min=max(1, chips - 2 * how),
            expected_s=0.0 if which == 3 else 10.0 * which, 
        )  # fmt: skip
    if what == "tick":
        return ev.Ticked(at_s)
    if what == "join":
        return ev.NodeJoined(at_s, node, "mill/gpu", 4)
    if what == "drain":
        return ev.NodeDrained(at_s, node, now=how == 3)
    if what == "cap":
        return ev.SiteCapped(at_s, "mill", (30.0, 60.0, 90.0, 200.0)[how])
    if what == "close":
        return ev.PoolOpened(at_s, "mill/gpu", open=how > 0)
    if what == "tenant":
        quota = (None, 0, 2, 5)[how]
        cohort = ("", "both")[which % 2]
        return ev.TenantChanged(
            at_s, ("lab", "mill", "own")[which % 3], 1.0, quota, which, cohort, which < 5
        )
    if what == "lose-node":
        return ev.NodeLost(at_s, node, "chance")
    if not names:
        return None
    name = names[which % len(names)]
    attempt = made.attempt(name) - (what == "stale")
    held = (at_s, name, attempt)
    return {
        "start": ev.JobStarted(*held, "mill/gpu", (), ()),
        "done": ev.JobDone(*held, bool(how), {}, {}),
        "stale": ev.JobDone(*held, True, {}, {}),
        "fail": ev.JobFailed(*held, {}, {}),
        "lose": ev.JobLost(*held, "chance", {}),
        "checkpoint": ev.JobCheckpointed(*held, how),
        "stop": ev.JobStopped(*held, {}),
        "cancel": ev.JobCancelled(at_s, name, "ann"),
    }[what]


def check(made, before=None):
    """The invariants of every moment; `before` tells what tenants and cohorts held a moment ago."""
    state = made.state
    had = [{}, {}] if before is None else before
    jobs = state.jobs[: state.counts[tables.JOBS]]
    nodes = state.nodes[: state.counts[tables.NODES]]
    held_by_job = np.zeros(len(jobs), int)
    held_on_node = np.zeros(len(nodes), int)
    for j in range(len(jobs)):
        for n, chips in made.held(j):
            held_by_job[j] += chips
            held_on_node[n] += chips
    holding = np.isin(jobs["status"], tables.HOLDS_CHIPS)
    assert (held_by_job == np.where(holding, jobs["width"], 0)).all(), "a gang is whole or nothing"
    wide = (jobs["chips_min"] <= jobs["width"]) & (jobs["width"] <= jobs["chips"])
    assert (wide | ~holding).all(), "no gang is narrower or wider than it asked to be"
    assert (held_on_node + nodes["free"] == nodes["chips"]).all(), "chips are neither lost nor made"
    assert (nodes["free"] >= 0).all()
    assert (nodes["up"] | (held_on_node == 0)).all(), "nothing runs on a node that is down"
    takes = nodes["up"] & ~nodes["drained"] & ~nodes["lemon"]
    for p, pool in enumerate(state.pools):
        mine = takes & (nodes["pool"] == p)
        assert pool["free"] == nodes["free"][mine].sum(), "what is free is counted right"
        assert pool["whole"] == (mine & (nodes["free"] == nodes["chips"])).sum()
        assert pool["leaving"] == (holding & (jobs["pool"] == p) & jobs["leaving"]).sum()
    assert (state.sites["used_mw"] == held_by_job.sum() * CHIP_W * 1e3).all(), "power is counted"
    for t, tenant in enumerate(state.tenants):
        mine = jobs["tenant"] == t
        assert tenant["used"] == held_by_job[mine].sum(), "tenants are charged for what they hold"
        assert queue_of(state, t) == sorted(
            np.flatnonzero(mine & (jobs["status"] == tables.QUEUED)),
            key=lambda j: (-jobs[j]["priority"], jobs[j]["score"], j),
        ), "a queue holds who waits, in order"
        if tenant["quota"] >= 0:
            assert tenant["entitled"] == held_by_job[mine & jobs["entitled"]].sum()
            assert tenant["entitled"] <= tenant["quota"]
            most = max(tenant["quota"] + tenant["borrow"], had[0].get(t, 0))
            assert tenant["used"] <= most, "nobody borrows too much, nor more than he had"
    for c, cohort in enumerate(state.cohorts):
        lent = state.tenants["cohort"] == c
        assert cohort["used"] == state.tenants["used"][lent].sum()
        assert cohort["quota"] == state.tenants["quota"][lent].sum()
        assert cohort["used"] <= max(cohort["quota"], had[1].get(c, 0))
    assert (jobs["failures"] <= jobs["retries"] + 1).all()


def queue_of(state, t):
    """Jobs in a tenant's queue, first to last."""
    found, j = [], queue.head(state, t)
    while j >= 0:
        found.append(j)
        j = queue.behind(state, j)
    return found


def play(made, choices):
    """Live through the choices; returns the events that happened and the commands they gave."""
    happened, commanded = [], []
    for second, choice in enumerate(choices):
        event = event_of(made, choice, float(second))
        if event is None or not made.accepts(event):
            continue
        before = {name: made.status(name) for name in made.jobs()}
        had = [dict(enumerate(made.state.tenants["used"])), {}]
        if isinstance(event, ev.TenantChanged):  # What runs is counted anew, and may be too much.
            had[1] = {c: len(made.jobs()) * 9 for c in range(len(made.state.cohorts) + 1)}
        else:
            had[1] = dict(enumerate(made.state.cohorts["used"]))
        happened.append(event)
        commands = made.apply(event)
        commanded.append(commands)
        check(made, had)
        for name, status in before.items():
            ended = status in ("done", "failed", "cancelled", "blocked")
            assert not ended or made.status(name) == status, "what has ended stays so"
        starts = [c.job for c in commands if isinstance(c, Start)]
        assert len(starts) == len(set(starts)), "no job starts twice at once"
        assert all(before.get(name) not in ("starting", "running") or
                   Stop(name, made.attempt(name) - 1) in commands or
                   isinstance(event, ev.JobLost | ev.JobStopped | ev.JobFailed)
                   for name in starts)  # fmt: skip
    return happened, commanded


@settings(max_examples=300, deadline=None)
@given(lives())
def test_every_moment_of_every_life_keeps_the_invariants_and_replays(choices):
    made = factory(cap_w=90.0, nodes=(4, 4, 4))
    happened, commanded = play(made, choices)
    note(f"{len(happened)} events")
    again = factory(cap_w=90.0, nodes=(4, 4, 4))
    assert [again.apply(event) for event in happened] == commanded
    for one, other in zip(made.state, again.state, strict=True):
        assert (one == other).all()


@settings(max_examples=100, deadline=None)
@given(lives())
def test_every_accepted_job_ends_once_the_world_is_kind(choices):
    made = factory(cap_w=90.0, nodes=(4, 4, 4))
    play(made, choices)
    now = 1000.0
    for node in ("n1", "n2", "n3"):
        made.apply(ev.NodeJoined(now, node, "mill/gpu", 4))
    made.apply(ev.SiteCapped(now, "mill", 90.0))
    made.apply(ev.PoolOpened(now, "mill/gpu", open=True))
    for tenant in ("lab", "mill", "own"):
        made.apply(ev.TenantChanged(now, tenant))
    for _ in range(4 * len(made.jobs()) + 1):
        now += 1000.0
        made.apply(ev.Ticked(now))
        for name in made.running():
            attempt = made.attempt(name)
            for event in (
                ev.JobStarted(now, name, attempt, "mill/gpu", (), ()),
                ev.JobDone(now, name, attempt, True, {}, {}),
            ):
                if made.accepts(event):
                    made.apply(event)
    assert {made.status(name) for name in made.jobs()} <= {"done", "failed", "cancelled", "blocked"}


def test_the_core_compiled_by_numba_does_what_the_python_does():
    rng = np.random.default_rng(7)
    choices = [
        (str(rng.choice(CHOICES)), int(rng.integers(8)), int(rng.integers(4))) for _ in range(900)
    ]
    lives = []
    for compiled in (False, True):
        made = shared_factory(compiled)
        lives.append((*play(made, choices), made.state))
    (events, commands, state), (their_events, their_commands, their_state) = lives
    assert len(events) > 300
    assert (events, commands) == (their_events, their_commands)
    for one, other in zip(state, their_state, strict=True):
        assert (one == other).all()


def test_every_happening_has_an_event():
    driven = set(HAPPENINGS.values())
    inner = {tables.RELEASED, tables.RESUMED, tables.PLACED, tables.CUT}
    assert driven | inner == set(range(len(tables.HAPPENING)))
