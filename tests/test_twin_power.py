"""The twin's hours and power: what comes by the hour, what machines may draw, what they drew."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.blueprint import load
from gigafactory.stack import sites
from gigafactory.stack.sites.year import year
from gigafactory.twin import power
from gigafactory.twin.hours import between, cumulative, hours
from gigafactory.twin.power import Battery, Curtailment

HOUR_S, DAY_S, MW, MWH, KWH = 3600.0, 86_400.0, 1e6, 3.6e9, 3.6e6
EVEN = np.ones(48)
EVENING = Curtailment(at_s=17 * HOUR_S, cut=0.25, lasts_s=3 * HOUR_S)


def milan(*overrides, start="2027-01-01"):
    return load("milan-50mw", [f"start={start}", *overrides])


def caps(*, curtail=(), battery=None, pue=EVEN, ramp=None, horizon_s=DAY_S):
    """Of a site of 10 MW."""
    return power.caps(10 * MW, curtail, battery, pue, ramp, horizon_s)


# Hours


def test_a_site_has_the_hours_of_its_place_from_the_first_day_on():
    of = hours(milan(start="2027-03-01"), 48, seed=3)
    there = year([sites.site("milan")], "direct-to-chip", 3)
    march = slice(59 * 24, 61 * 24)
    assert of.start_unix_s == np.datetime64("2027-03-01T00:00:00").astype(int)
    assert of.carbon_g_per_j[0] * KWH == pytest.approx(there.carbon_g_per_kwh[0, march])
    assert of.price_per_j[0] * KWH / 0.87 == pytest.approx(there.price_usd_per_kwh[0, march])
    assert of.pue[0] == pytest.approx(there.pue[0, march])
    assert of.wue_l_per_j[0] * KWH == pytest.approx(there.wue_l_per_kwh[0, march])


def test_hours_go_on_into_the_next_year():
    old, new = hours(milan(start="2027-12-31"), 48, 0), hours(milan(start="2028-01-01"), 24, 0)
    assert np.array_equal(old.pue[:, 24:], new.pue)
    assert np.array_equal(old.carbon_g_per_j[:, 24:], new.carbon_g_per_j)


def test_a_day_that_common_years_lack_is_like_the_day_before():
    leap = hours(milan(start="2028-02-28"), 72, 0).pue[0]
    common = hours(milan(start="2027-02-28"), 48, 0).pue[0]
    assert np.array_equal(leap[24:48], leap[:24])
    assert np.array_equal(leap[[*range(24), *range(48, 72)]], common)


def test_what_the_blueprint_states_is_the_mean_of_the_year_and_its_pue_holds_always():
    said = ["carbon=100 gCO2e/kWh", "energy_price=0.2 EUR/kWh", "pue=1.2"]
    of = hours(milan(*(f"sites.milan.{one}" for one in said)), 8760, 0)
    usual = hours(milan(), 8760, 0)
    assert of.carbon_g_per_j.mean() * KWH == pytest.approx(100)
    assert of.price_per_j.mean() * KWH == pytest.approx(0.2)
    assert np.all(of.pue == 1.2)
    # The market moves a dear price by no more money than a cheap one; carbon scales.
    assert np.std(of.price_per_j) == pytest.approx(np.std(usual.price_per_j), rel=1e-3)
    ratio = of.carbon_g_per_j / usual.carbon_g_per_j
    assert ratio == pytest.approx(np.full_like(ratio, ratio[0, 0]), rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_other_weather():
    one, again, other = (hours(milan(), 1000, seed) for seed in (7, 7, 8))
    for name in ("carbon_g_per_j", "price_per_j", "pue", "wue_l_per_j"):
        assert getattr(one, name).tobytes() == getattr(again, name).tobytes()
    assert one.pue.tobytes() != other.pue.tobytes()


@given(st.lists(st.floats(0, 10 * HOUR_S), min_size=2, max_size=2), st.integers(0, 1))
def test_an_integral_between_two_times_counts_each_hour_for_as_long_as_it_lasts(times, site):
    rate = np.random.default_rng(0).random((2, 10))
    first, last = sorted(times)
    slow = sum(
        rate[site, hour] * max(0.0, min(last, (hour + 1) * HOUR_S) - max(first, hour * HOUR_S))
        for hour in range(10)
    )
    summed = cumulative(rate)
    assert between(summed, [first], [last], [site])[0] == pytest.approx(slow, abs=1e-6)
    assert between(summed, first, last)[site] == pytest.approx(slow, abs=1e-6)


def test_a_time_beyond_the_hours_is_not_guessed():
    with pytest.raises(AssertionError, match="outside the hours"):
        between(cumulative(EVEN), 0.0, 49 * HOUR_S)


# What machines may draw


def test_an_undisturbed_site_has_one_cap():
    assert caps() == [(0.0, 10 * MW)]


def test_a_curtailment_cuts_for_its_hours_and_no_longer():
    assert caps(curtail=[EVENING]) == [
        (0.0, 10 * MW),
        (17 * HOUR_S, 7.5 * MW),
        (20 * HOUR_S, 10 * MW),
    ]


def test_a_battery_that_covers_a_curtailment_leaves_nothing_to_notice():
    assert caps(curtail=[EVENING], battery=Battery(2.5 * MW, 7.5 * MWH)) == caps()


def test_a_battery_that_does_not_last_cuts_when_it_is_empty():
    assert caps(curtail=[EVENING], battery=Battery(2.5 * MW, 5 * MWH)) == [
        (0.0, 10 * MW),
        (19 * HOUR_S, 7.5 * MW),
        (20 * HOUR_S, 10 * MW),
    ]


def test_a_battery_adds_no_more_than_its_power():
    steps = caps(curtail=[EVENING], battery=Battery(1 * MW, 100 * MWH))
    assert steps[1] == (17 * HOUR_S, 8.5 * MW)


def test_a_battery_is_charged_for_the_next_curtailment_by_what_machines_leave():
    morning = Curtailment(7 * HOUR_S, 0.25, 2 * HOUR_S)
    steps = caps(curtail=[morning, EVENING], battery=Battery(3 * MW, 7.5 * MWH))
    # 5 MWh go in the morning, 2.5 are left, 7.5 are needed 8 hours later.
    assert steps == [(0.0, 10 * MW), (9 * HOUR_S, 9.375 * MW), (17 * HOUR_S, 10 * MW)]


def test_power_falls_before_a_curtailment_and_rises_after_as_the_grid_asks():
    steps = caps(curtail=[EVENING], ramp=1e3)  # 2.5 MW in 2,500 s
    down, up = (17 * HOUR_S - 2500, 17 * HOUR_S), (20 * HOUR_S, 20 * HOUR_S + 2500)
    falls = [step for step in steps if down[0] <= step[0] <= down[1]]
    rises = [step for step in steps if up[0] <= step[0] <= up[1]]
    assert steps == [(0.0, 10 * MW), *falls, *rises]
    assert falls[-1][1] == 7.5 * MW
    assert rises[-1] == (up[1], 10 * MW)
    for (one_s, one_w), (next_s, next_w) in pairwise(falls):
        assert one_w - next_w == pytest.approx(1e3 * (next_s - one_s))
    assert [w for _, w in falls] == pytest.approx([7.5 * MW, *(w for _, w in rises[:-1])][::-1])


def test_a_hot_afternoon_lowers_what_machines_may_draw():
    summer = hours(milan("sites.milan.cooling=air", start="2027-07-15"), 24, 0).pue[0]
    steps = caps(pue=summer)
    afternoon, night = (
        [watts for at_s, watts in steps if at_s <= hour * HOUR_S][-1] for hour in (13, 3)
    )
    assert summer[13] > summer[3]
    assert afternoon < night
    assert afternoon <= 10 * MW / summer[13]


@given(
    curtail=st.lists(
        st.builds(
            Curtailment,
            st.integers(-120, 24 * 60).map(lambda minute: minute * 60.0),
            st.sampled_from([0.0, 0.07, 0.25, 0.5, 1.0]),
            st.integers(0, 300).map(lambda minute: minute * 60.0),
        ),
        max_size=4,
    ),
    battery=st.none() | st.builds(Battery, st.floats(0, 12 * MW), st.floats(0, 30 * MWH)),
    ramp=st.none() | st.floats(1e3, 1e6),
    pue=st.lists(st.floats(1.0, 1.6), min_size=24, max_size=24).map(np.array),
)
@settings(max_examples=60, deadline=None)
def test_caps_never_exceed_what_the_grid_and_the_battery_give(curtail, battery, ramp, pue):
    steps = caps(curtail=curtail, battery=battery, pue=pue, ramp=ramp)
    at_s, watts = np.array(steps).T
    assert at_s[0] == 0
    assert np.all(np.diff(at_s) > 0)
    # Machines draw all they may; look at every moment at which anything changes, and between.
    edges = np.unique(np.concatenate([at_s, np.arange(0, DAY_S + 1, 60.0)]))
    middle, lasts_s = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    meter_w = (
        watts[np.searchsorted(at_s, middle, "right") - 1] * pue[(middle // HOUR_S).astype(int)]
    )
    grid_w = np.array([given_w(moment, curtail, ramp) for moment in middle])
    most_w, level_j = battery or (0.0, 0.0)
    full_j = level_j
    assert np.all(meter_w <= grid_w + most_w + 1.0)
    for flow_w, dt_s in zip(grid_w - meter_w, lasts_s, strict=True):
        level_j = min(level_j + min(flow_w, most_w) * dt_s, full_j)
        assert level_j >= -1e-6 * MWH


def given_w(moment_s, curtail, ramp):
    """What the grid gives to 10 MW at one moment, told once more and simply."""
    least_w = 10 * MW
    for at_s, cut, lasts_s in curtail:
        away_s = max(at_s - moment_s, moment_s - at_s - lasts_s, 0)
        if lasts_s == 0 and not ramp:
            continue
        rise_w = math.inf if not ramp and away_s else away_s * (ramp or 0)
        least_w = min(least_w, 10 * MW * (1 - cut) + rise_w)
    return least_w


# What they drew


@given(
    attempts=st.lists(
        st.tuples(
            st.floats(-DAY_S, 2 * DAY_S),
            st.floats(0, DAY_S),
            st.integers(0, 2),
            st.floats(0, 1e6),
        ),
        max_size=30,
    ),
    step_s=st.sampled_from([7.0, 15.0, 60.0, 3600.0, 50_000.0]),
)
@settings(max_examples=60, deadline=None)
def test_the_energy_of_a_series_is_that_of_its_attempts(attempts, step_s):
    starts, lasts, site, watts = np.array(attempts).reshape(-1, 4).T
    drawn_w = power.series(
        starts, starts + lasts, site.astype(int), watts, [1e3, 0.0, 2e3], step_s, DAY_S
    )
    end_s = drawn_w.shape[1] * step_s  # The last step is whole.
    held_s = np.clip(starts + lasts, 0, end_s) - np.clip(starts, 0, end_s)
    for row, base_w in enumerate((1e3, 0.0, 2e3)):
        energy_j = (held_s * watts)[site == row].sum() + base_w * end_s
        assert drawn_w[row].sum() * step_s == pytest.approx(energy_j, rel=1e-9, abs=1.0)


def test_an_attempt_counts_in_a_step_for_the_share_that_it_was_there():
    drawn_w = power.series([5.0], [25.0], [0], [300.0], [100.0], 10.0, 40.0)
    assert drawn_w.tolist() == [[250.0, 400.0, 250.0, 100.0]]


def test_a_site_draws_what_its_racks_draw():
    chance = np.random.default_rng(5)
    starts = chance.uniform(0, DAY_S, 500)
    ends, rack, watts = starts + 4000, chance.integers(0, 4, 500), chance.uniform(0, 1e5, 500)
    racks = power.series(starts, ends, rack, watts, [10.0] * 4, 60.0, DAY_S)
    halls = power.series(starts, ends, rack // 2, watts, [20.0] * 2, 60.0, DAY_S)
    assert racks.reshape(2, 2, -1).sum(axis=1) == pytest.approx(halls)


def test_the_meter_shows_machines_times_the_pue_of_each_step():
    pue = np.array([1.1, 1.3])
    assert power.meter(np.array([100.0, 100.0]), pue, HOUR_S) == pytest.approx([110, 130])
    assert power.meter(np.array([100.0]), pue, 2 * HOUR_S) == pytest.approx([120])


def test_a_battery_gives_what_the_grid_lacks_and_takes_what_the_site_leaves():
    meter_w = np.array([80.0, 100.0, 100.0, 100.0, 40.0, 40.0, 90.0])
    given = np.array([100.0, 60.0, 60.0, 60.0, 100.0, 100.0, 100.0])
    levels_j = power.stored(meter_w, given, Battery(50.0, 1000.0), 10.0)
    assert levels_j.tolist() == [1000, 600, 200, 0, 500, 1000, 1000]


def test_a_ramp_is_the_largest_change_within_a_minute():
    slow = np.arange(20) * 15.0  # 1 W/s in steps of 15 s
    jump = np.where(np.arange(20) < 10, 0.0, 600.0)
    assert power.ramps(np.array([slow, jump]), 15.0).tolist() == [1.0, 10.0]
    assert power.ramps(jump, 300.0) == 2.0
    assert power.ramps(np.array([5.0]), 15.0) == 0
