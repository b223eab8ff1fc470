"""Failures: published rates, what they cost a job, when to checkpoint, what the twin will meet."""

import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import typer
import typer.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gigafactory import failing
from gigafactory.faults import Refused
from gigafactory.stack import facts, reliability
from gigafactory.stack.reliability import rates
from gigafactory.twin import fate

DAY_S = 86_400.0
LLAMA_CHIPS, LLAMA_NODES, LLAMA_S = 16_384, 2048, 54 * DAY_S
SEEDS = 400
LLAMA3 = reliability.study("llama3")
runner = typer.testing.CliRunner()
app = typer.Typer()
failing.mount(app)
app.command()(lambda: None)  # With one command alone, typer would take away its name.


def run(*words, code=0):
    result = runner.invoke(app, ["failures", *map(str, words)], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    return result.stdout


def ask(*words):
    return json.loads(run(*words, "--json"))


def per_1000_node_days(per_node_s):
    return per_node_s * 1000 * DAY_S


# What was published


def test_every_row_has_a_known_unit_a_basis_a_source_and_a_date():
    seen = set()
    for row in facts.rows("failures"):
        assert row["unit"] in rates.SI or row["unit"] == "name", row
        assert row["basis"] in facts.BASES, row
        assert row["source"], row
        assert row["as_of"], row
        if row["low"]:
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"]), row
        key = row["study"], row["class"], row["figure"]
        assert key not in seen
        seen.add(key)


def test_llama_3_s_classes_sum_to_its_419_unplanned_interruptions():
    unplanned = [row for row in facts.rows("failures") if row["figure"] == "unplanned"]
    assert LLAMA3.count == int(unplanned[0]["value"]) == 419
    assert LLAMA3.planned + LLAMA3.count == 466
    assert per_1000_node_days(LLAMA3.rate_per_node_s) == pytest.approx(3.79, abs=0.005)
    assert reliability.mttf_s(LLAMA3, LLAMA_CHIPS) / 3600 == pytest.approx(3.09, abs=0.005)


def test_the_interval_of_a_rate_is_garwood_s():
    for count in (1, 6, 10, 419):
        low, high = rates.count_interval(count)
        assert low == pytest.approx(stats.chi2.ppf(0.025, 2 * count) / 2, rel=1e-6)
        assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * count + 2) / 2, rel=1e-6)
    assert rates.count_interval(0) == (0.0, pytest.approx(-math.log(0.025)))
    low, high = LLAMA3.rate_interval_per_node_s
    assert low < LLAMA3.rate_per_node_s < high
    assert reliability.study("rsc-1").rate_interval_per_node_s is None


@pytest.mark.parametrize("chips", [8, 1024, 16_384, 1_000_000])
def test_interruptions_to_come_are_as_uncertain_as_their_count(chips):
    mean, low, high = reliability.expected_failures(LLAMA3, chips, LLAMA_S)
    more = chips / LLAMA_CHIPS
    predicted = stats.nbinom(419.5, 1 / (1 + more))
    assert mean == pytest.approx(419 * more)
    assert (low, high) == tuple(predicted.ppf((0.025, 0.975)))
    mean, low, high = reliability.expected_failures(reliability.study("rsc-2"), chips, LLAMA_S)
    assert (low, high) == tuple(stats.poisson(mean).ppf((0.025, 0.975)))


def test_the_published_time_at_16384_chips_follows_from_that_cluster_s_node_rate():
    rows = {(row.study, row.chips): row for row in reliability.published()}
    for key in (("rsc-1", 16_384), ("rsc-1", 131_072), ("llama3", 16_384)):
        assert rows[key].ours_s == pytest.approx(rows[key].published_s, rel=0.2)
    # To the digits that were printed, the projections are the node rate.
    assert round(rows["rsc-1", 16_384].ours_s / 3600, 1) == 1.8
    assert round(rows["rsc-1", 131_072].ours_s / 3600, 2) == 0.23


def test_every_constant_rate_misses_one_of_the_published_times_by_nearly_two():
    rows = [row for row in reliability.published() if row.study == "rsc-1"]
    nodes = np.array([row.chips / 8 for row in rows])
    seen_s = np.array([row.published_s for row in rows])
    rate = np.geomspace(1e-9, 1e-5, 20_000)[:, None]
    error = np.maximum(seen_s * nodes * rate, 1 / (seen_s * nodes * rate)).max(axis=1)
    assert error.min() > 1.9
    assert error.min() == pytest.approx(ask("--mttf")["one_rate_misses_by"], rel=1e-3)


def test_a_study_that_nobody_made_is_refused_with_the_nearest():
    with pytest.raises(Refused) as refused:
        reliability.study("llama")
    assert "llama3" in refused.value.faults[0].remedy


def test_detection_and_relaunch_make_up_the_restart_of_a_job():
    for name in reliability.studies():
        of = reliability.study(name)
        assert of.detect_s + of.relaunch_s == pytest.approx(rates.restart_s())
    (hang,) = [one for one in LLAMA3.classes if one.handling == "hang"]
    assert min(one.detect_s for one in LLAMA3.classes) < LLAMA3.detect_s < hang.detect_s


# When to checkpoint


@pytest.mark.parametrize(("mtbf_min", "printed_min"), [(1440, 117), (360, 57), (15, 9.1)])
def test_intervals_are_those_that_daly_printed(mtbf_min, printed_min):
    """Daly 2006, figures 3 to 5: a dump takes 5 min, a restart 10 min."""
    assert reliability.daly_s(300, mtbf_min * 60) / 60 == pytest.approx(printed_min, rel=0.01)
    assert reliability.best_interval_s(300, mtbf_min * 60) / 60 == pytest.approx(
        printed_min, rel=0.01
    )


@pytest.mark.parametrize(
    ("write_s", "mtbf_s", "restart_s"), [(10, 11_135, 600), (120, 6480, 600), (300, 900, 300)]
)
def test_the_best_interval_is_that_of_a_simulated_sweep(write_s, mtbf_s, restart_s):
    """Lives between failures; in each, whole segments after the restart are kept."""
    gaps_s = np.random.default_rng(1).exponential(mtbf_s, 400_000)
    best_s = reliability.best_interval_s(write_s, mtbf_s)
    around = np.geomspace(0.6, 1.6, 21)

    def lived(interval_s):
        segments = np.maximum(gaps_s - restart_s, 0) // (interval_s + write_s)
        return interval_s * segments.sum() / gaps_s.sum()

    ettrs = [lived(best_s * factor) for factor in around]
    bent, slope, _ = np.polyfit(np.log(around), ettrs, 2)
    assert bent < 0
    assert math.exp(-slope / (2 * bent)) == pytest.approx(1, abs=0.05)
    for factor, simulated in zip(around, ettrs, strict=True):
        expected = reliability.ettr(best_s * factor, write_s, mtbf_s, restart_s)
        assert simulated == pytest.approx(expected, rel=0.01)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(1e-3, 1e5),
    st.floats(1, 1e8),
    st.floats(0, 1e5),
    st.floats(-3, 3).map(lambda power: 10**power),
)
def test_no_interval_leaves_more_than_the_best(write_s, mtbf_s, restart_s, factor):
    best_s = reliability.best_interval_s(write_s, mtbf_s)
    best = reliability.ettr(best_s, write_s, mtbf_s, restart_s)
    other = reliability.ettr(best_s * factor, write_s, mtbf_s, restart_s)
    assert 0 < best_s <= mtbf_s
    assert 0 <= other <= best * (1 + 1e-9) <= 1 + 1e-9


def test_where_nothing_fails_nothing_is_checkpointed():
    none = reliability.study("none")
    assert reliability.mttf_s(none, LLAMA_CHIPS) == math.inf
    assert reliability.best_interval_s(10, math.inf) == math.inf
    assert reliability.ettr(math.inf, 10, math.inf, 600) == 1
    assert len(fate.draw(none, 100, LLAMA_S, np.random.default_rng(0))) == 0


# What the twin will meet


@pytest.fixture(scope="module")
def lives():
    """Llama 3's cluster and window, many times over."""
    rngs = [np.random.default_rng(seed) for seed in range(SEEDS)]
    return [fate.draw(LLAMA3, LLAMA_NODES, LLAMA_S, rng) for rng in rngs]


def test_the_counts_of_llama_3_lie_inside_95_percent_of_its_drawn_lives(lives):
    """A reproduction: the rates are that run's own."""
    drawn = np.array([np.bincount(life["klass"], minlength=len(LLAMA3.classes)) for life in lives])
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    stopping = [number for number, one in enumerate(LLAMA3.classes) if one.slow == 1]
    for number in stopping:
        assert low[number] <= LLAMA3.classes[number].count <= high[number]
    total = drawn[:, stopping].sum(axis=1)
    assert np.percentile(total, 2.5) < 419 < np.percentile(total, 97.5)
    assert total.mean() == pytest.approx(419, rel=0.01)
    assert total.var() == pytest.approx(419, rel=0.25)  # Poisson


def test_llama_3_kept_nine_tenths_of_its_time_and_so_do_its_drawn_lives(lives):
    told = ask("llama3")
    assert 0.90 <= told["ettr"]["exact"] <= 0.95
    write_s, interval_s = told["write_s"], told["interval_s"]["exact"]
    kept = [_worked_s(life, interval_s, write_s) / LLAMA_S for life in lives[:40]]
    assert np.mean(kept) == pytest.approx(told["ettr"]["exact"], abs=0.005)


def _worked_s(life, interval_s, write_s):
    """Play one job on all nodes: silent faults undo checkpoints written after them."""
    silent = np.array([one.silent for one in LLAMA3.classes])[life["klass"]]
    stops_s = life["at_s"] + np.where(silent, life["detect_s"], 0)
    kept, now_s = [], 0.0
    for number in np.argsort(stops_s):
        if life["slow"][number] < 1:
            continue
        segment_s = interval_s + write_s
        segments = max(int((stops_s[number] - now_s) // segment_s), 0)
        kept += [now_s + (segment + 1) * segment_s for segment in range(segments)]
        while kept and kept[-1] > life["at_s"][number]:
            kept.pop()
        now_s = stops_s[number] + rates.restart_s()
    return len(kept) * interval_s


def test_the_same_seed_is_the_same_fate_and_another_is_not(lives):
    again = fate.draw(LLAMA3, LLAMA_NODES, LLAMA_S, np.random.default_rng(7))
    assert again.tobytes() == lives[7].tobytes() != lives[8].tobytes()
    assert again.dtype == fate.FATE


def test_fate_comes_in_order_within_its_horizon_and_its_nodes(lives):
    for life in lives[:20]:
        assert (np.diff(life["at_s"]) >= 0).all()
        assert ((life["at_s"] >= 0) & (life["at_s"] < LLAMA_S)).all()
        assert ((life["node"] >= 0) & (life["node"] < LLAMA_NODES)).all()


def test_no_node_fails_before_it_joins_and_exposure_is_what_counts():
    join_s = np.linspace(0, LLAMA_S, LLAMA_NODES)
    counts = []
    for seed in range(40):
        life = fate.draw(LLAMA3, LLAMA_NODES, LLAMA_S, np.random.default_rng(seed), join_s=join_s)
        assert (life["at_s"] >= join_s[life["node"]]).all()
        counts.append((life["slow"] == 1).sum())
    assert np.mean(counts) == pytest.approx(419 / 2, rel=0.05)


def test_lemons_fail_often_without_more_failures_in_all():
    def failed(lemon_share, lemon_factor):
        counts, most = [], []
        for seed in range(30):
            rng = np.random.default_rng(seed)
            life = fate.draw(
                LLAMA3, 500, 365 * DAY_S, rng, lemon_share=lemon_share, lemon_factor=lemon_factor
            )
            counts.append(len(life))
            most.append(np.bincount(life["node"]).max())
        return np.mean(counts), np.mean(most)

    evenly, with_lemons = failed(0, 1), failed(0.02, 20)
    assert with_lemons[0] == pytest.approx(evenly[0], rel=0.02)
    assert with_lemons[1] > 3 * evenly[1]


def test_a_program_s_fault_leaves_nodes_in_place_and_knows_no_lemons():
    life = fate.draw(
        LLAMA3, 200, 3650 * DAY_S, np.random.default_rng(0), lemon_share=0.05, lemon_factor=50
    )
    stays = np.array([not one.node_leaves and one.slow == 1 for one in LLAMA3.classes])
    here = stays[life["klass"]]
    assert (life["repair_s"][here] == 0).all()
    leaves = np.array([one.node_leaves for one in LLAMA3.classes])[life["klass"]]
    assert (life["repair_s"][leaves] > 0).all()
    spread = np.bincount(life["node"][here], minlength=200)
    assert spread.var() < 2 * spread.mean()  # As even as chance is.
    lemons = np.bincount(life["node"][leaves], minlength=200)
    assert lemons.var() > 20 * lemons.mean()


def test_repairs_scatter_about_their_mean_stragglers_slow_and_corruption_is_found_late(lives):
    life = np.concatenate(lives)
    for number, one in enumerate(LLAMA3.classes):
        mine = life[life["klass"] == number]
        if len(mine) > 20_000:
            assert mine["repair_s"].mean() == pytest.approx(one.repair_s, rel=0.05)
            assert mine["detect_s"].mean() == pytest.approx(one.detect_s, rel=0.05)
        assert (mine["slow"] == one.slow).all()
    (silent,) = [number for number, one in enumerate(LLAMA3.classes) if one.silent]
    assert np.median(life["detect_s"][life["klass"] == silent]) > 3600
    assert 0 < (life["slow"] < 1).mean() < 0.5


def test_six_weeks_of_12500_nodes_are_drawn_in_milliseconds():
    def drawn_s():
        began = time.process_time()
        fate.draw(LLAMA3, 12_500, 42 * DAY_S, np.random.default_rng(0))
        return time.process_time() - began

    assert any(drawn_s() < 0.02 for _ in range(50))  # a shared core is slower at times


# At the door


def test_the_command_tells_rates_shares_and_what_each_is_worth():
    told = ask("llama3", "--write", "10s")
    assert told["write_s"] == 10
    stops = [one for one in told["classes"] if one["share"] is not None]
    assert sum(one["share"] for one in stops) == pytest.approx(1)
    assert {one["basis"] for one in stops} == {"published"}
    assert {one["handling_basis"] for one in told["classes"]} == {"assumed"}
    assert told["interruptions"]["low"] <= 419 <= told["interruptions"]["high"]
    assert {row["study"]: row["basis"] for row in told["others"]} == {
        "rsc-1": "recalled",
        "rsc-2": "recalled",
    }
    exact, daly, young = (told["interval_s"][name] for name in ("exact", "daly", "young"))
    assert exact == pytest.approx(daly, rel=1e-4)
    assert exact == pytest.approx(young, rel=0.05)


def test_a_smaller_job_meets_fewer_failures_and_checkpoints_less_often():
    small, large = ask("rsc-1", "--chips", 1024), ask("rsc-1", "--chips", 8192)
    assert small["mttf_s"] == pytest.approx(8 * large["mttf_s"])
    assert small["interruptions"]["mean"] == pytest.approx(large["interruptions"]["mean"] / 8)
    assert small["interval_s"]["exact"] > large["interval_s"]["exact"]
    assert small["write_s"] > large["write_s"]  # Each chip holds more of the model.


def test_without_failures_the_answer_is_still_json():
    told = ask("none")
    assert told["mttf_s"] is None
    assert told["classes"] == []
    assert told["ettr"]["exact"] == 1
    assert "nothing fails" in run("none")


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["llama4"], "STUDY"),
        (["--write", "fast"], "--write"),
        (["--write", "0s"], "--write"),
        (["--write", "10s", "--model", "llama3-8b"], "--write"),
        (["--model", "llama9"], "MODEL"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_four_parts(words, where):
    (fault,) = json.loads(run(*words, "--json", code=2))["errors"]
    assert fault["where"] == where
    assert all(fault[part] for part in ("what", "where", "why", "remedy"))


def test_the_manual_shows_what_the_command_prints():
    page = (Path(__file__).parents[1] / "docs" / "failures.md").read_text(encoding="utf-8")
    shown = re.findall(r"```text\n\$ gigafactory failures ?(.*?)\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 2
    for words, text in shown:
        printed = "\n".join(line.rstrip() for line in run(*words.split()).splitlines())
        assert printed.strip() == text.strip()
