"""Jobs as they come: as many, as large and at the hours that their streams say."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.blueprint import load
from gigafactory.blueprint.load import parse
from gigafactory.faults import Refused
from gigafactory.plan.rates import HEADROOM
from gigafactory.plan.widths import widths
from gigafactory.stack import chips
from gigafactory.twin.demand import SUBMISSION, draw, loads, replica

DAY_S = 86_400.0
CAMPUS = """\
gigafactory: 1
name: campus
start: 2027-01-04
owner: IT
sites:
  milan: {country: IT, place: milan, power: 1 MW, systems: {h100-8: 16}}
  tokyo: {country: JP, place: tokyo, power: 1 MW, systems: {b200-8: 16}}
tenants: {lab: {}}
models: {own: {config: llama3.1-8b}}
streams:
"""
BATCH = """\
  scans: {kind: batch, tenant: lab, per_day: %s, hours: {median: 30 min, p90: 4 h},
    chips: {1: 0.6, 8: 0.4}%s}
"""
SERVE = "  chat: {kind: serve, tenant: lab, model: own, load: 900 k tokens/s%s}\n"
TRAIN = """\
  runs: {kind: train, tenant: lab, model: own, per_day: 100, chips: {8: 0.5, 64: 0.5},
    tokens: {median: 2 B tokens, p90: 20 B tokens}%s}
"""


def campus(*streams):
    return parse(CAMPUS + "".join(streams), Path("campus.yaml"))


def rows(blueprint, days, seed=0):
    return draw(blueprint, days * DAY_S, np.random.default_rng(seed))


def test_as_many_jobs_come_as_the_stream_says():
    some = rows(campus(BATCH % (1000, "")), 28)
    assert len(some) == pytest.approx(28_000, abs=4 * 28_000**0.5)
    assert 0 <= some["submit_s"].min() < some["submit_s"].max() < 28 * DAY_S
    assert (np.diff(some["submit_s"]) >= 0).all()


def test_widths_and_lengths_follow_their_chances():
    some = rows(campus(BATCH % (5000, ""), TRAIN % ""), 28)
    scans, runs = some[some["stream"] == 0], some[some["stream"] == 1]
    assert (scans["chips"] == 8).mean() == pytest.approx(0.4, abs=0.01)
    run_s = scans["work"] / scans["chips"]
    assert np.median(run_s) == pytest.approx(1800, rel=0.03)
    assert np.quantile(run_s, 0.9) == pytest.approx(4 * 3600, rel=0.05)
    assert np.median(runs["work"]) == pytest.approx(2e9, rel=0.1)


def test_an_elastic_run_tells_its_least_width_and_a_slack_its_deadline():
    stiff = rows(campus(TRAIN % ""), 3)
    assert (stiff["chips_min"] == stiff["chips"]).all()
    assert not stiff["slack"].any()
    elastic = rows(campus(TRAIN % ", elastic: 8, slack: 4, priority: 5"), 3)
    assert set(elastic["chips_min"]) == {8}
    assert set(elastic["slack"]) == {4.0}
    assert set(elastic["priority"]) == {5}


@pytest.mark.parametrize(("site", "peak_utc"), [("milan", 14), ("tokyo", 6)])
def test_the_day_peaks_at_three_in_the_afternoon_of_its_first_site(site, peak_utc):
    some = rows(campus(BATCH % (20_000, f", daily: 0.8, sites: [{site}]")), 28)
    hours = np.bincount((some["submit_s"] // 3600 % 24).astype(int), minlength=24)
    wave = np.exp(-2j * np.pi * (np.arange(24) + 0.5) / 24) @ hours
    assert (-np.angle(wave) / 2 / np.pi * 24) % 24 == pytest.approx(peak_utc, abs=0.1)
    assert 2 * abs(wave) / hours.sum() == pytest.approx(0.8, abs=0.02)


def test_weekends_are_quieter_by_their_factor():
    some = rows(campus(BATCH % (5000, ", weekend: 0.4")), 28)
    days = np.bincount((some["submit_s"] // DAY_S).astype(int)).reshape(4, 7)
    assert days[:, 5:].mean() / days[:, :5].mean() == pytest.approx(0.4, abs=0.02)


def test_growth_is_what_a_year_brings():
    some = rows(campus(BATCH % (1000, ", growth: 3")), 365)
    first, last = (some["submit_s"] < 30 * DAY_S).sum(), (some["submit_s"] > 335 * DAY_S).sum()
    assert last / first == pytest.approx(3 ** (335 / 365.25), rel=0.04)


def test_bursts_bring_the_same_jobs_but_closer_together():
    calm = rows(campus(BATCH % (1000, "")), 90)["submit_s"]
    wild = rows(campus(BATCH % (1000, ", burst: 5")), 90)["submit_s"]
    assert len(wild) == pytest.approx(len(calm), rel=0.03)
    spread = [np.bincount((came_s // 3600).astype(int)) for came_s in (calm, wild)]
    dispersion = [hourly.var() / hourly.mean() for hourly in spread]
    assert dispersion[0] == pytest.approx(1.0, abs=0.1)
    # Clusters of geometric size with mean b: E[n^2] / E[n] = 2 b - 1, less what spills over.
    assert 7.5 < dispersion[1] < 9.5


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    own = load("campus")
    assert rows(own, 7, 1).tobytes() == rows(own, 7, 1).tobytes()
    assert rows(own, 7, 1).tobytes() != rows(own, 7, 2).tobytes()
    used = np.random.default_rng(1)
    used.random(1000)
    assert draw(own, 7 * DAY_S, used).tobytes() == rows(own, 7, 1).tobytes()
    assert (loads(own, 7 * DAY_S, used)["chat"] == loads(own, 7 * DAY_S, 1)["chat"]).all()


def test_one_stream_more_changes_none_of_the_others():
    alone = rows(campus(BATCH % (100, "")), 7)
    both = rows(campus(TRAIN % "", BATCH % (100, "")), 7)
    scans = both[both["stream"] == 1]
    for field in set(SUBMISSION.names) - {"stream"}:
        assert (scans[field] == alone[field]).all()


def test_replicas_are_enough_for_the_load_of_every_hour():
    own = campus(SERVE % ", daily: 0.5, weekend: 0.6, burst: 1.3, sites: [milan]")
    some, load = rows(own, 14, 3), loads(own, 14 * DAY_S, 3)["chat"]
    one = replica(own, "chat")
    middle_s = (np.arange(len(load)) + 0.5) * 3600
    standing = [((some["submit_s"] <= t) & (t < some["until_s"])).sum() for t in middle_s]
    assert len(load) == 14 * 24
    assert (np.array(standing) * one.rate * HEADROOM >= load).all()
    assert set(some["chips"]) == {one.chips}
    assert not some["work"].any()


def test_the_load_peaks_at_what_is_stated():
    own = campus(SERVE % ", daily: 0.5, weekend: 0.6, sites: [milan]")
    load = loads(own, 7 * DAY_S, 0)["chat"]
    assert load.max() == pytest.approx(900e3, rel=0.01)
    assert int(load[:24].argmax()) in (13, 14)  # 15:00 in Milan in winter
    assert load[5 * 24 :].max() == pytest.approx(0.6 * 900e3, rel=0.01)


def test_a_steady_load_keeps_its_replicas_from_first_to_last():
    some = rows(campus(SERVE % ""), 5)
    assert (some["submit_s"] == 0).all()
    assert (some["until_s"] == 5 * DAY_S).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), burst=st.sampled_from([1.0, 1.5, 3.0]))
def test_replicas_go_only_when_fewer_were_needed_for_two_hours(seed, burst):
    own = campus(SERVE % f", daily: 0.9, burst: {burst}")
    some, load = rows(own, 3, seed), loads(own, 3 * DAY_S, seed)["chat"]
    needed = np.maximum(np.ceil(load / (replica(own, "chat").rate * HEADROOM)), 1)
    hours = np.arange(len(load))[:, None] * 3600
    standing = ((some["submit_s"] <= hours) & (hours < some["until_s"])).sum(axis=1)
    for hour in range(len(load)):
        assert standing[hour] == needed[max(hour - 2, 0) : hour + 1].max()
    assert (some["until_s"] > some["submit_s"]).all()


def test_a_replica_is_that_of_the_slowest_system_it_may_stand_on():
    both, fast = campus(SERVE % ""), campus(SERVE % ", sites: [tokyo]")
    assert replica(both, "chat") == replica(campus(SERVE % ", sites: [milan]"), "chat")
    assert replica(campus(SERVE % ", residency: JP"), "chat") == replica(fast, "chat")
    assert replica(fast, "chat").rate > replica(both, "chat").rate


def test_a_service_that_no_system_can_give_is_refused_with_a_reason():
    with pytest.raises(Refused) as refused:
        rows(campus(SERVE % ", tpot: 1 us"), 1)
    (fault,) = refused.value.faults
    assert "'chat'" in fault.what
    assert "TPOT" in fault.why


def test_a_trace_comes_as_its_file_has_it(tmp_path):
    file = tmp_path / "jobs.csv"
    file.write_text("submit_s,duration_s,num_gpus\n1000,60,8\n1030,600,1\n999999,60,8\n")
    own = campus(f"  old: {{kind: trace, tenant: lab, file: {file}, priority: 3}}\n")
    some = rows(own, 1)
    assert some["submit_s"].tolist() == [0, 30]
    assert some["chips"].tolist() == some["chips_min"].tolist() == [8, 1]
    assert some["work"].tolist() == [480, 600]
    assert set(some["priority"]) == {3}


def test_a_million_jobs_are_drawn_in_a_second():
    own = campus(BATCH % (30_000, ", daily: 0.5, weekend: 0.8, burst: 3"))

    def took_s(seed):
        began_s = time.process_time()
        assert len(rows(own, 36, seed)) > 950_000
        return time.process_time() - began_s

    assert any(took_s(seed) < 1.0 for seed in range(8))  # a shared core is slower at times


def test_the_campus_is_asked_for_most_of_its_chips_but_not_for_all():
    own, days = load("campus"), 28
    systems = {"h100-8": 512, "b200-8": 256}
    shares = []
    for seed in range(4):
        some, held = rows(own, days, seed), 0.0
        for place, stream in enumerate(own.streams.values()):
            of = some[some["stream"] == place]
            if stream.kind == "serve":
                held += (of["chips"] * (of["until_s"] - of["submit_s"])).sum()
            for system, count in systems.items() if stream.kind != "serve" else ():
                rate = {one.chips: one.rate for one in widths(own, stream, chips.system(system))}
                busy = sum(
                    of["work"][of["chips"] == width].sum() / rate[width] * width
                    for width in stream.chips
                )
                held += busy * count / 768
        shares.append(held / (days * DAY_S * 768))
    assert 0.7 < np.mean(shares) < 0.9
