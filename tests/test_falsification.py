"""Promises about the search for failures: unbiased, replayable, fair about what was avoidable."""

import json
from xml.etree import ElementTree as XML

import numpy as np
import pytest
from scipy.stats import norm

from gigafactory.jobs import falsification, policy, rare, video
from gigafactory.jobs.context import Context
from gigafactory.jobs.worlds import cutins, openscenario, traffic
from gigafactory.jobs.worlds.drive import Drive
from gigafactory.jobs.worlds.scene import WorldRefused

ROAD = {"name": "street", "scene": "road", "ranges": {}}


def one_side(u):
    return 4.0 - u.sum(1) / np.sqrt(u.shape[1])


def two_sides(u):
    return np.minimum(4.0 - u[:, 0], 4.2 + u[:, 1])


@pytest.mark.parametrize(
    ("margin", "true"),
    [(one_side, norm.sf(4.0)), (two_sides, 1 - norm.cdf(4.0) * norm.cdf(4.2))],
)
def test_the_interval_holds_a_probability_that_is_known_and_crude_draws_would_not_see(margin, true):
    found = [rare.estimate(margin, 6, 6000, seed) for seed in range(12)]
    assert sum(one.low <= true <= one.high for one in found) >= 10
    assert np.mean([one.probability for one in found]) == pytest.approx(true, rel=0.1)
    assert min(one.variance_ratio for one in found) > 20
    assert all(one.weights.sum() == pytest.approx(one.probability) for one in found)
    assert all((margin(one.failures) < 0).all() for one in found)


def test_where_nothing_fails_the_interval_says_what_the_plain_draws_leave_possible():
    found = rare.estimate(lambda u: np.ones(len(u)), 3, 4000, 0)
    assert (found.probability, found.low) == (0.0, 0.0)
    assert rare.count(found.weights) == 0
    # 95 % upper end of no failure among the plain share of the counted draws: the rule of three.
    assert found.high == pytest.approx(3 / (rare.DEFENSIVE * found.counted), rel=0.01)


def test_no_failure_counts_more_than_the_plain_share_allows():
    rng = np.random.default_rng(0)
    mixture = rare.Mixture(np.full((1, 4), 9.0), np.eye(4)[None], np.ones(1))
    ratios = mixture.ratio(rng.standard_normal((1000, 4)) * 5)
    assert (ratios <= 1 / rare.DEFENSIVE + 1e-9).all()
    # The mean of p/q over draws of q is 1: what makes the estimate unbiased.
    assert mixture.ratio(mixture.draw(200_000, rng)).mean() == pytest.approx(1.0, abs=0.03)


def test_the_estimate_lies_inside_the_interval_of_crude_draws():
    def margin(u):
        told = cutins.parameters("merge", u)
        return traffic.cut_in(told, traffic.EGO_IDM, 1 / 15, 12.0)[:, traffic.MARGIN_M]

    crude = (
        margin(np.random.default_rng(3).standard_normal((150_000, cutins.DIMENSIONS))) < 0
    ).sum()
    low, high = (crude - 3 * crude**0.5) / 150_000, (crude + 3 * crude**0.5) / 150_000
    found = rare.estimate(margin, cutins.DIMENSIONS, 12_000, 1)
    assert low < found.probability < high
    assert found.variance_ratio > 5


def scenario(gap, slower, takes_s=2.0):
    told = cutins.parameters("cut_in", np.zeros((1, cutins.DIMENSIONS)))
    told[0, traffic.GAP], told[0, traffic.CUT_TAKES_S] = gap, takes_s
    told[0, traffic.OTHER_SPEED] = told[0, traffic.BRAKES_TO] = told[0, traffic.EGO_SPEED] - slower
    return told


def asleep(seen):
    return np.zeros((len(seen), 2))


def test_a_wide_cut_in_is_avoidable_for_who_is_awake_and_a_tight_fast_one_for_nobody():
    wide, tight = scenario(40.0, 10.0), scenario(19.0, 15.0, 1.2)
    for told in (wide, tight):
        assert cutins.drive(told, asleep).margin[0] < 0
    assert cutins.drive(wide, traffic.expert).margin[0] >= 0
    assert cutins.best(wide).all()
    assert not cutins.best(tight).any()


def test_a_scenario_does_not_depend_on_those_driven_beside_it():
    u = np.random.default_rng(1).standard_normal((300, cutins.DIMENSIONS)) * 2
    told = cutins.parameters("cut_in", u)
    whole = cutins.drive(told, traffic.expert)
    alone = cutins.drive(told[100:120], traffic.expert)
    assert (whole.margin[100:120] == alone.margin).all()
    assert (whole.margin < 0).any()
    assert (whole.margin >= 0).any()


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory):
    """The output of a job that learned to hold its speed."""
    output = tmp_path_factory.mktemp("sleeper")
    sizes = (2 * Drive.observation_size, *policy.HIDDEN, Drive.action_size)
    told = {"mean": np.zeros(sizes[0], np.float32), "scale": np.ones(sizes[0], np.float32)}
    for at in range(len(sizes) - 1):
        told[f"{at}.weight"] = np.zeros((sizes[at + 1], sizes[at]), np.float32)
        told[f"{at}.bias"] = np.zeros(sizes[at + 1], np.float32)
    config = {
        "gigafactory": "policy",
        "task": "drive",
        "observation_names": list(Drive.observation_names),
        "action_names": list(Drive.action_names),
        "observation_size": Drive.observation_size,
        "action_size": Drive.action_size,
        "hidden": policy.HIDDEN,
    }
    policy.save(output / "model", config, told)
    return output


def context(folder, sleeper, **more):
    work = {"name": "break", "kind": "evaluate", "of": "pilot", "world": ROAD, "examples": 4000}
    return Context.alone(folder, work | more, inputs={"pilot": sleeper})


def test_each_failure_is_left_as_a_scenario_that_fails_again_and_the_first_as_films(
    tmp_path, sleeper
):
    attempt = context(tmp_path, sleeper, against="pilot")
    judged = falsification.evaluate(attempt)
    metrics = judged["metrics"]
    assert metrics["failure_probability"] > 10 * metrics["expert_failure_probability"]
    assert metrics["regression"] == 0.0
    assert metrics["failures"] == metrics["avoidable_failures"] + metrics["unavoidable_failures"]
    assert 0 < metrics["failure_probability_low"] < metrics["failure_probability_high"] <= 1
    act = policy.load(sleeper / "model").act
    assert {one["kind"] for one in judged["samples"]} == set(cutins.KINDS)
    for one in judged["samples"]:
        again = falsification.replay(attempt.output / one["scenario"], act)
        assert again.margin[0] < 0
        assert again.when_s[0] == pytest.approx(one["when_s"], abs=1e-6)
        told = json.loads((attempt.output / one["scenario"]).read_text())
        root = XML.parse(attempt.output / one["xosc"]).getroot()
        speeds = [float(at.get("value")) for at in root.iter("AbsoluteTargetSpeed")]
        assert speeds[:2] == pytest.approx(
            [told["parameters"]["ego_speed"], told["parameters"]["other_speed"]]
        )
        begins = [float(at.get("value")) for at in root.iter("SimulationTimeCondition")]
        assert told["parameters"]["cut_begin_s"] in begins
    filmed = [one["video"] for one in judged["samples"] if "video" in one]
    assert len(filmed) == falsification.FILMED
    pictures = list(video.read(attempt.output / filmed[0]))
    assert len(pictures) > 5
    assert np.std(pictures[0]) > 10  # there is something to see
    assert not np.array_equal(pictures[0], pictures[-1])


def test_the_same_seed_finds_the_same_failures(tmp_path, sleeper):
    told = [
        falsification.evaluate(context(tmp_path / str(at), sleeper))["metrics"] for at in range(2)
    ]
    assert told[0] == told[1]


def test_the_road_has_the_lanes_that_the_scenarios_name(tmp_path):
    openscenario.write_road(tmp_path / "road.xodr")
    lanes = {int(one.get("id")) for one in XML.parse(tmp_path / "road.xodr").iter("lane")}
    assert {0, openscenario.EGO_LANE, openscenario.OTHER_LANE} <= lanes


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"world": {"name": "hall", "scene": "warehouse", "ranges": {}}}, "only driving"),
        ({"examples": 100}, "too few"),
    ],
)
def test_what_cannot_be_falsified_is_refused(tmp_path, sleeper, changes, word):
    with pytest.raises(WorldRefused, match=word):
        falsification.evaluate(context(tmp_path, sleeper, **changes))
