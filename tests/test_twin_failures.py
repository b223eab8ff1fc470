"""Failures as the twin plays them: the Llama 3 run, checkpoint intervals, and what must hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from benchmarks import failures
from gigafactory.blueprint import load
from gigafactory.factory import state as st
from gigafactory.faults import Refused
from gigafactory.stack import reliability
from gigafactory.twin import demand, fate, scenario, world
from gigafactory.twin.held import held
from gigafactory.twin.run import live

DAY_S = 86_400.0
LLAMA3 = reliability.study("llama3")
NODES, STAND_BY = 16, 32
SMALL = (
    f"sites.east.systems={{h100-8: {NODES + STAND_BY}}}",
    f"streams.pretrain.chips={{{8 * NODES}: 1}}",
    "models.large.config=llama3.1-8b",  # Its checkpoint takes as long as the large one's there.
    "operations.maintenance=null",
    "operations.checkpoint=336 s",
)


def small(seed, days, keep=lambda fated, study: np.ones(len(fated), bool)):
    """The run on 16 nodes that fail 128 times as often each: together as often as 2,048."""
    made = scenario.of(load("llama3-405b", list(SMALL)), days, seed)
    often = replace(
        LLAMA3, classes=tuple(replace(c, per_node_s=c.per_node_s * 128) for c in LLAMA3.classes)
    )
    # Nobody repairs a node in a day that fails every other day: here it takes a 16th.
    rng = np.random.default_rng(seed)
    fated = fate.draw(often, NODES + STAND_BY, days * DAY_S, rng, lemon_share=0.0)
    fated["repair_s"] /= np.where(fated["slow"] == 1, 16, 1)
    made.scene.state.rules["lemons"] = 1_000_000
    failures.befall(made, fated[keep(fated, LLAMA3)], None)
    return made, live(made.scene, compiled=False)


@pytest.fixture(scope="module")
def weeks():
    """Five courses of eleven days."""
    return [failures.course(*small(seed, 11)) for seed in range(5)]


# The published run


def test_the_blueprint_is_the_published_run():
    made = scenario.of(load("llama3-405b"), 54, 0)
    (kind,), (pool,) = made.kinds, made.pools
    assert (kind.chips, len(made.scene.life), made.scene.life["submit_s"][0]) == (16_384, 1, 0.0)
    assert pool.nodes > 2048
    drains = made.scene.world["event"][made.scene.world["event"]["kind"] == st.DRAIN]
    assert len(np.unique(drains["at_s"])) == LLAMA3.planned == 47
    # It cannot be done before the 54 days are over, however lucky.
    fastest = max(kind.rates[-1]) * made.scene.life["luck"][0]
    assert made.scene.state.jobs["work"][0] / fastest > 54 * DAY_S
    assert kind.every / max(kind.rates[-1]) == pytest.approx(
        reliability.best_interval_s(kind.write_s, reliability.mttf_s(LLAMA3, 16_384))
    )


def test_its_own_rates_foretell_as_many_failures_as_were_counted():
    expected = 54 * DAY_S * 2048 * LLAMA3.rate_per_node_s
    assert expected == pytest.approx(419)
    counts = []
    for seed in range(20):
        fated = scenario.of(load("llama3-405b"), 54, seed).fate
        counts.append((fated["slow"] == 1).sum() * 2048 / 2100)
    assert np.mean(counts) == pytest.approx(419, abs=4 * math.sqrt(419 / 20))


def test_played_small_the_run_meets_them_and_keeps_nine_tenths_of_its_time(weeks):
    expected = 419 * 11 / 54
    unplanned = np.mean([one.unplanned for one in weeks])
    # While it is down nothing more can stop it: a few hundredths fewer.
    assert unplanned == pytest.approx(expected, abs=4 * math.sqrt(expected / 5))
    assert 0.89 < np.mean([one.ettr for one in weeks]) < 0.95
    told = reliability.ettr(336.0, 5.2, reliability.mttf_s(LLAMA3, 16_384), 600.0, LLAMA3.silent_s)
    # The formula knows neither stragglers nor that they are worked through.
    assert np.mean([one.effective for one in weeks]) == pytest.approx(told, abs=0.015)


def test_another_clusters_rates_are_another_answer():
    def rate(name):
        fated = scenario.of(load("llama3-405b", [f"operations.failures={name}"]), 54, 1).fate
        return (fated["slow"] == 1).sum()

    assert rate("rsc-2") < 0.8 * rate("llama3") < 0.8 * 0.8 * rate("rsc-1")


@pytest.mark.parametrize(("chips", "times"), [(8, 100), (1024, 30)])
def test_a_job_of_any_size_fails_at_its_nodes_rate_which_the_observed_times_contradict(
    chips, times
):
    study = reliability.study("rsc-1")
    (told,) = (o for o in reliability.published() if (o.chips, o.study) == (chips, "rsc-1"))
    found = [failures.met(study, chips, times * told.ours_s, s, compiled=False) for s in range(4)]
    played_s = sum(ran_s for _, ran_s in found) / sum(count for count, _ in found)
    assert played_s == pytest.approx(told.ours_s, rel=0.2)
    assert told.kind == "observed"
    assert played_s > 2.5 * told.published_s


def test_trouble_that_is_taken_away_costs_nothing_more(weeks):
    for seed in (0, 2):
        one = weeks[seed]
        swift = failures.course(*small(seed, 11, failures.swift))
        loud = failures.course(*small(seed, 11, failures.loud))
        assert swift.ettr > one.ettr + 0.005
        # Apart but for what an earlier attempt had saved and this one found corrupt.
        assert swift.effective == pytest.approx(swift.ettr, abs=0.005)
        assert loud.unplanned < one.unplanned
        assert loud.ettr > one.ettr
        assert loud.undone_chip_h < one.undone_chip_h


# The best interval


def test_the_interval_that_takes_least_time_is_young_and_dalys():
    write_s, mtbf_s = failures.REGIMES[0]
    played_s, tried = failures.best_played_s(
        write_s, mtbf_s, points=7, failures=1500, compiled=False
    )
    for rule in (reliability.young_s, reliability.daly_s, reliability.best_interval_s):
        assert played_s == pytest.approx(rule(write_s, mtbf_s), rel=0.05)
    for interval_s, share in tried:
        told = reliability.ettr(interval_s, write_s, mtbf_s, failures.RESTART_S)
        assert share == pytest.approx(told, abs=0.005)


# What must hold


def test_held_time_is_start_and_work_kept_and_lost_and_checkpoints():
    made, lived = small(3, 5, failures.swift)
    attempts, job = held(made, lived), lived.life[0]
    rate = lived.life["luck"][0] * max(made.kinds[0].rates[-1])
    lost = lived.log["lost"]
    # What was found corrupt was done by an earlier attempt.
    worked_s = (
        (attempts.kept.clip(min=0) + lost) / rate * (1 + job["write_s"] * rate / job["every"])
    )
    held_s, start_s = attempts.end_s - attempts.start_s, attempts.ready_s - attempts.start_s
    np.testing.assert_allclose(start_s + worked_s, held_s, atol=1e-6, rtol=0)
    assert (lost > 0).sum() > 20
    # No attempt loses more than what it did since a checkpoint or since it was past saving.
    event = made.scene.world["event"]
    noticed_s = dict(
        zip(event["at_s"].tolist(), made.scene.world["frozen_s"].tolist(), strict=True)
    )
    for row in lived.log[lived.log["outcome"] == st.LOSE_NODE]:
        unseen_s = row["ended_s"] - noticed_s[float(row["ended_s"])]
        assert row["lost"] / job["every"] < 1 + unseen_s / 336.0


HAIR = 1e-5
"""Seconds of work by which a reckoning of its own may differ, of 20,000."""
FAILURES = some.lists(
    some.tuples(some.floats(1.0, 4000.0), some.floats(0.0, 900.0)), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(
    gaps=FAILURES,
    interval_s=some.sampled_from([0.0, 50.0, 333.0, 5000.0]),
    write_s=some.sampled_from([0.0, 5.0, 60.0]),
    work_s=some.floats(10.0, 20_000.0),
)
def test_kept_work_adds_up_to_the_job_and_none_of_it_is_from_after_the_failure(
    gaps, interval_s, write_s, work_s
):
    """Against a reckoning of its own, failure after failure."""
    scene, at_s, noticed = None, 0.0, []
    for until_s, unseen_s in gaps:  # One fails after the one before was noticed.
        noticed.append((at_s + until_s, at_s + until_s + unseen_s))
        at_s = noticed[-1][1]
    lost = world.rows(st.LOSE_NODE, [seen for _, seen in noticed], 0)
    lost["frozen_s"] = [frozen for frozen, _ in noticed]
    back = world.rows(st.JOIN, [seen for _, seen in noticed], 0)
    timing = {"write_s": write_s, "interval_s": interval_s, "restart_s": 100.0}
    scene = failures.gang(1, 0, [lost, back], 1e6, **timing)
    scene.state.jobs["work"], scene.state.jobs["step_work"] = work_s, work_s / 2**40
    lived = live(scene, compiled=False)

    log = lived.log
    speed = 1 / (1 + write_s / interval_s) if interval_s else 1.0
    since_s, saved, outcomes = 0.0, 0.0, []
    for (frozen_s, seen_s), kept in zip(noticed, log["kept"], strict=False):
        spare_s = since_s + (work_s - saved) / speed - seen_s
        # At the very moment of its end, or of a checkpoint, rounding decides: either way is right.
        if spare_s < -HAIR or (spare_s <= HAIR and log["outcome"][len(outcomes)] == st.ENDED_WELL):
            break
        then = saved + max(frozen_s - since_s, 0.0) * speed
        held = [math.floor((then + hair) / interval_s) * interval_s if interval_s else 0.0
                for hair in (-HAIR, HAIR)]  # fmt: skip
        assert min(abs(saved + kept - max(each, saved)) for each in held) < HAIR
        assert 0 <= kept <= max(frozen_s - since_s, 0.0) * speed + HAIR
        saved, since_s = saved + kept, seen_s + 100.0
        outcomes.append(st.LOSE_NODE)
    assert lived.state.jobs["status"][0] == st.DONE
    assert log["outcome"].tolist() == [*outcomes, st.ENDED_WELL]
    assert log["kept"].sum() == pytest.approx(work_s, abs=HAIR)
    assert log["kept"][-1] == pytest.approx(work_s - saved, abs=HAIR)


# One job


def test_a_stream_of_one_job_has_one_at_its_time():
    asked = demand.draw(load("llama3-405b", ["streams.pretrain.at=2 h"]), DAY_S, rng())
    assert asked["submit_s"].tolist() == [7200.0]
    assert asked["chips"].tolist() == [16_384]
    late = load("llama3-405b", ["streams.pretrain.at=2 d"])
    assert len(demand.draw(late, DAY_S, rng())) == 0


def test_a_stream_says_either_how_often_or_when():
    with pytest.raises(Refused) as refused:
        load("llama3-405b", ["streams.pretrain.per_day=3"])
    (fault,) = refused.value.faults
    assert "'pretrain' does not say when" in fault.what
    assert "at: 0 d" in fault.remedy


def rng():
    return np.random.default_rng(0)
