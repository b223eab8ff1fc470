"""Who must stop for whom: reclaim, priority, and that it ends."""

import numpy as np

from gigafactory.factory import Factory, Start, Stop, Tenant
from gigafactory.factory import events as ev
from gigafactory.factory.policy import POLICIES, Asked


def factory(tenants, chips=8, **rules):
    made = Factory([("mill", 1e6)], [("mill/gpu", "mill", 10.0)], tenants, rules=rules)
    made.apply(ev.NodeJoined(0.0, "n1", "mill/gpu", chips))
    return made


def submit(made, name, tenant, chips, at_s=0.0, **more):
    commands = made.apply(
        ev.JobSubmitted(at_s, name, tenant, "pretrain", chips, ("mill/gpu",), **more)
    )
    return begin(made, commands, at_s)


def begin(made, commands, at_s):
    for one in commands:
        if isinstance(one, Start):
            made.apply(ev.JobStarted(at_s, one.job, one.attempt, one.pool, one.nodes, one.chips))
    return commands


LENDERS = [Tenant("bank", 1.0, 4, 4, "eu"), Tenant("lab", 1.0, 4, 4, "eu")]


def test_what_is_lent_comes_back_when_its_owner_asks():
    made = factory(LENDERS)
    submit(made, "own", "bank", 4)
    submit(made, "lent", "bank", 4)
    assert submit(made, "mine", "lab", 4, 5.0) == [Stop("lent", 1)]
    assert made.why("mine", 5.0) == "others were told to stop for it"
    commands = begin(made, made.apply(ev.JobStopped(6.0, "lent", 1, {})), 6.0)
    assert [one.job for one in commands] == ["mine"]
    assert made.status("lent") == "queued"
    assert made.why("lent", 7.0) == "its tenant's quota is used, and nothing is left to borrow"


def test_a_borrower_never_takes_from_one_who_has_but_his_own():
    made = factory(LENDERS)
    submit(made, "own", "bank", 4)
    submit(made, "mine", "lab", 4, priority=9)
    assert submit(made, "more", "lab", 2, 5.0, priority=9) == []


def test_a_tenant_s_urgent_job_takes_the_place_of_its_lesser_one_within_its_quota():
    made = factory([Tenant("bank", 1.0, 8, 0)])
    submit(made, "small", "bank", 1, priority=1)
    assert submit(made, "large", "bank", 8, 5.0, priority=2) == [Stop("small", 1)]


def test_nobody_is_stopped_before_he_had_his_time():
    made = factory([Tenant("lab")], preempt_after_s=60.0)
    submit(made, "small", "lab", 8)
    (wake,) = submit(made, "urgent", "lab", 8, 5.0, priority=2)
    assert wake.at_s >= 60.0
    assert made.apply(ev.Ticked(wake.at_s)) == [Stop("small", 1)]


def test_those_who_need_not_stop_go_on():
    made = factory([Tenant("lab")])
    for name, chips in (("one", 2), ("two", 4), ("three", 2)):
        submit(made, name, "lab", chips)
    assert submit(made, "urgent", "lab", 4, 5.0, priority=1) == [Stop("two", 1)]


def test_an_elastic_job_starts_narrow_and_grows_when_there_is_room():
    made = factory([Tenant("lab")], elastic=True, grow_after_s=10.0)
    submit(made, "small", "lab", 4, expected_s=100.0)
    (start,) = submit(made, "wide", "lab", 8, 1.0, chips_min=2, expected_s=1000.0)
    assert sum(start.chips) == 4
    assert made.apply(ev.JobDone(50.0, "small", 1, True, {}, {})) == [Stop("wide", 1)]
    (start,) = made.apply(ev.JobStopped(51.0, "wide", 1, {}))
    assert sum(start.chips) == 8


def test_a_policy_s_scores_are_numbers_whatever_it_is_asked():
    columns = {
        "chips": np.array([8, 8, 8]),
        "priority": np.zeros(3),
        "submitted_s": np.zeros(3),
        "whole_s": np.array([3600.0, np.inf, 3600.0]),
        "left_s": np.array([1800.0, np.inf, 1800.0]),
        "deadline_s": np.array([90_000.0, np.inf, np.inf]),
        "flop_per_j": np.array([1.0, 0.0, 2.0]),
        "carbon_ahead": np.array([5.0, 1.0, 5.0]),
    }
    with np.errstate(all="raise"):
        scores = {name: one(Asked(0.0, **columns)) for name, one in POLICIES.items()}
    assert not any(np.isnan(score).any() for score in scores.values())
    assert np.isinf(scores["carbon"]).tolist() == [True, False, False]
    assert np.isfinite(scores["sjf"]).all(), "what nobody can tell the length of starts, too"
