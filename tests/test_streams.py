"""Streams and operations: read in SI, every fault at once, and what jobs do at each width."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gigafactory.blueprint import Blueprint, load
from gigafactory.blueprint.load import parse
from gigafactory.faults import Refused
from gigafactory.plan import widths as module
from gigafactory.plan.rates import HEADROOM, Cannot, serve
from gigafactory.plan.widths import widths
from gigafactory.stack import chips, models

GOOD = """\
gigafactory: 1
name: campus
start: 2027-01-04
owner: IT
sites:
  milan: {country: IT, power: 1 MW, systems: {h100-8: 16}}
  lulea: {country: SE, power: 1 MW, systems: {b200-8: 16}}
tenants:
  bank: {quota: 64, borrow: 32, cohort: eu}
  lab: {weight: 2, quota: 128, cohort: eu}
models:
  own: {config: llama3.1-8b}
streams:
  runs: {kind: train, tenant: lab, model: own, per_day: 4,
    tokens: {median: 2 B tokens, p90: 9 B tokens}, chips: {8: 0.5, 64: 0.5}, elastic: 8}
  scans: {kind: batch, tenant: bank, per_day: 9, hours: {median: 30 min, p90: 8 h}, chips: {1: 1}}
  chat: {kind: serve, tenant: bank, model: own, load: 90 k tokens/s}
"""


def read(text=GOOD, *overrides):
    return parse(text, Path("campus.yaml"), overrides)


def faults(*changes, overrides=()):
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(Refused) as refused:
        read(text, *overrides)
    return refused.value.faults


def test_a_campus_is_read_in_si():
    milan = load("campus").sites["milan"]
    assert (milan.racks.nodes, milan.racks.per_block, milan.racks.power_w) == (4, 8, 36e3)
    assert (milan.battery.power_w, milan.battery.energy_j) == (150e3, 450e3 * 3600)
    assert milan.grid.ramp_w_per_s == pytest.approx(60e3 / 60)
    (cut,) = milan.grid.curtail
    assert (cut.at, cut.lasts_s) == (datetime(2027, 1, 15, 17, tzinfo=UTC), 3 * 3600)
    stated = load("campus").operations
    assert (stated.maintenance.every_s, stated.maintenance.lasts_s) == (90 * 86400, 4 * 3600)


def test_a_blueprint_that_says_nothing_of_operations_has_a_quiet_day():
    stated = load("tiny").operations
    assert (stated.policy, stated.backfill, stated.failures) == ("fifo", True, "none")
    assert (stated.preempt_after_s, stated.checkpoint_s, stated.maintenance) == (600, None, None)
    assert load("tiny").streams == {}


def test_streams_alone_are_work_enough():
    assert read().workloads == {}
    (fault,) = faults((GOOD[GOOD.index("streams:") :], ""))
    assert "no workloads" in fault.what


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("operations={policy: sjf}", lambda b: b.operations.policy == "sjf"),
        ("streams.runs.tokens.median=3 B tokens", lambda b: b.streams["runs"].tokens.median == 3e9),
        ("streams.runs.per_day=7", lambda b: b.streams["runs"].per_day == 7),
        ("streams.scans.hours.p90=9 h", lambda b: b.streams["scans"].run_s.p90 == 32400),
        ("streams.runs.elastic=4", lambda b: b.streams["runs"].elastic == 4),
        ("tenants.bank.quota=100", lambda b: b.tenants["bank"].quota == 100),
        ("sites.milan.grid={ramp: 6 MW/min}", lambda b: b.sites["milan"].grid.ramp_w_per_s == 1e5),
        ("operations={checkpoint: 30 min}", lambda b: b.operations.checkpoint_s == 1800),
    ],
)
def test_set_reaches_every_part(override, value):
    assert not value(read())
    assert value(read(GOOD, override))


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("tenant: lab", "tenant: lap", 14, ["lap", "did you mean lab"]),
        ("model: own, per", "model: won, per", 14, ["won", "did you mean own"]),
        ("elastic: 8", "elastic: 8, sites: [milano]", 15, ["milano", "did you mean milan"]),
        ("elastic: 8", "elastic: 8, residency: XQ", 15, ["XQ"]),
        ("elastic: 8", "elastic: 8, residency: FR", 15, ["may run nowhere"]),
        ("elastic: 8", "elastic: 16", 15, ["cannot shrink to 16", "8 at most"]),
        ("8: 0.5, 64: 0.5", "8: 0.5, 64: 0.4", 15, ["add up to 0.9"]),
        ("8: 0.5, 64: 0.5", "8: 0.5, 256: 0.5", 15, ["256 chips", "128 at most"]),
        ("8: 0.5, 64: 0.5", "0: 0.5, 64: 0.5", 15, ["greater than"]),
        ("p90: 9 B tokens", "p90: 1 B tokens", 15, ["p90 lies below"]),
        ("p90: 9 B tokens", "p80: 9 B tokens", 15, ["p80", "p90"]),
        ("per_day: 4", "per_dya: 4", 14, ["did you mean per_day"]),
        ("kind: train", "kind: trane", 14, ["'train'"]),
        ("kind: serve", "kind: trace, file: nowhere.csv", 17, ["model"]),
        ("chips: {1: 1}", "chips: {1: 0.5, 128: 0.5}", 16, ["may never use", "96"]),
        ("quota: 64, borrow", "borrow", 9, ["a quota that it has not"]),
        ("borrow: 32, cohort: eu", "borrow: 32", 9, ["nobody to borrow from"]),
        ("borrow: 32, cohort: eu", "cohort: ue", 9, ["alone in cohort 'ue'", "did you mean eu"]),
        ("quota: 128", "quota: 200", 8, ["264 chips", "256 stand"]),
        ("16}}\n  l", "16}, racks: {nodes: 4, power: 8 kW}}\n  l", 6, ["cannot carry", "8.4 kW"]),
        ("power: 1 MW, systems: {h", "power: 1 MW, battery: {power: 5}, systems: {h", 6, ["5"]),
    ],
)
def test_a_fault_names_its_line_and_a_remedy(old, new, line, words):
    fault = faults((old, new))[0]
    text = " ".join((fault.what, fault.where, fault.why, fault.remedy))
    assert f"campus.yaml:{line}" in fault.where
    assert fault.remedy
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("curtail", "words"),
    [
        ("[{at: 2027-01-03T17:00, cut: 0.25, lasts: 3 h}]", "starts on 2027-01-04"),
        ("[{at: 2027-01-15T17:00, cut: 1.25, lasts: 3 h}]", "less than or equal to 1"),
        ("[{at: 2027-01-15T17:00, cut: 0.25, lasts: 9 d}]", "smaller connection"),
        (
            "[{at: 2027-01-15T18:00, cut: 0.1, lasts: 1 h},"
            " {at: 2027-01-15T17:00+00:00, cut: 0.2, lasts: 3 h}]",
            "overlap",
        ),
    ],
)
def test_a_curtailment_without_reason_is_refused(curtail, words):
    (fault,) = faults(overrides=[f"sites.milan.grid={{curtail: {curtail}}}"])
    assert words in f"{fault.what} {fault.why}"


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        ("{maintenance: {every: 5 d, lasts: 4 h, at_once: 0.02}}", "a round of maintenance"),
        ("{spares: 16}", "are spares"),
        ("{failures: llama2}", "llama3"),
        ("{checkpoint: 30}", "30"),
        ("{policy: lifo}", "fifo"),
    ],
)
def test_operations_that_cannot_be_are_refused(operations, words):
    found = faults(overrides=[f"operations={operations}"])
    assert words in f"{found[0].what} {found[0].why} {found[0].remedy}"


def test_all_faults_are_told_at_once():
    found = faults(("tenant: lab", "tenant: lap"), ("elastic: 8", "elastic: 9"), ("64,", "999,"))
    assert len(found) == 3


def test_a_trace_must_be_there(tmp_path):
    (tmp_path / "jobs.csv").write_text("submit_s,duration_s,num_gpus\n0,60,8\n")
    stream = "  old: {kind: trace, tenant: lab, file: %s}\n"
    assert read(GOOD + stream % (tmp_path / "jobs.csv")).streams["old"].busy == 0.7
    with pytest.raises(Refused) as refused:
        read(GOOD + stream % "nowhere.csv")
    assert "nowhere.csv" in refused.value.faults[0].what


def test_an_elastic_run_has_the_doublings_between_its_least_and_its_most():
    own = read()
    found = widths(own, own.streams["runs"], chips.system("h100-8"))
    assert [one.chips for one in found] == [8, 16, 32, 64]
    stiff = read(GOOD.replace(", elastic: 8", ""))
    alone = widths(stiff, stiff.streams["runs"], chips.system("h100-8"))
    assert [one.chips for one in alone] == [8, 64]
    assert alone == (found[0], found[-1])


def test_more_chips_train_faster_but_each_a_little_less():
    own = load("campus")
    for system in map(chips.system, ("h100-8", "b200-8")):
        found = widths(own, own.streams["research"], system)
        rates = [one.rate for one in found]
        each = [one.rate / one.chips for one in found]
        assert rates == sorted(rates)
        assert each == sorted(each, reverse=True)
        assert all(system.chip.idle_w < one.power_w <= system.chip.busy_w for one in found)


def test_a_batch_run_does_a_chip_second_a_second_on_each_chip():
    own = read()
    (one,) = widths(own, own.streams["scans"], chips.system("h100-8"))
    chip = chips.system("h100-8").chip
    assert (one.chips, one.rate) == (1, 1.0)
    assert one.power_w == pytest.approx(0.7 * chip.busy_w + 0.3 * chip.idle_w)


def test_a_replica_is_what_the_planner_serves_with():
    own, system = load("campus"), chips.system("h100-8")
    (one,) = widths(own, own.streams["chat"], system)
    planned = serve(own.streams["chat"], models.read("qwen3-30b-a3b"), system)
    assert one.chips == planned.nodes * 8
    assert one.rate * HEADROOM == pytest.approx(planned.tokens_per_s * planned.nodes)


def test_a_model_too_large_for_its_chips_has_no_width_there():
    own = read(GOOD.replace("llama3.1-8b", "llama3.1-405b"))
    answer = widths(own, own.streams["runs"], chips.system("h100-8"))
    assert not isinstance(answer, Cannot)
    assert [one.chips for one in answer] == [32, 64]
    small = read(GOOD.replace("llama3.1-8b", "llama3.1-405b").replace("64: 0.5", "16: 0.5"))
    assert "fits in" in widths(small, small.streams["runs"], chips.system("h100-8")).why


def test_a_demand_of_a_design_has_the_width_it_was_planned_on():
    design = load("milan-50mw")
    found = {
        name: widths(design, demand, chips.system("b200-8"))
        for name, demand in design.design.demands.items()
    }
    assert all(isinstance(one, tuple) and len(one) == 1 for one in found.values())


def test_ninety_sites_search_once_for_each_system(monkeypatch):
    module._laid_out.cache_clear()
    searched = []
    best = module.search.best
    monkeypatch.setattr(
        module.search,
        "best",
        lambda job, chip, count: searched.append(count) or best(job, chip, count),
    )
    own = read()
    for _ in range(91):
        for system in ("h100-8", "h200-8", "b200-8"):
            widths(own, own.streams["runs"], chips.system(system))
    assert len(searched) == 3 * 4


def test_the_widths_of_the_campus_take_less_than_a_second():
    own = load("campus")

    def took_s():
        module._laid_out.cache_clear()
        module._replica.cache_clear()
        began_s = time.process_time()
        for stream in own.streams.values():
            for system in ("h100-8", "b200-8"):
                assert not isinstance(widths(own, stream, chips.system(system)), Cannot)
        return time.process_time() - began_s

    assert any(took_s() < 1.0 for _ in range(8))  # a shared core is slower at times


def test_the_schema_of_a_blueprint_is_the_same_each_time_it_is_asked():
    assert " at 0x" not in str(Blueprint.model_json_schema())


def test_the_manual_has_an_example_without_fault_and_every_key_with_its_meaning():
    text = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert set(parse(example, Path("manual.yaml")).streams) == {"research", "mixed", "chat"}
    told = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`[^`\n]+`", text))))
    parts = Blueprint.model_json_schema(by_alias=True)["$defs"]
    for part in ("Tenant", "Racks", "Battery", "Grid", "Curtailment", "Operations", "Maintenance"):
        assert set(parts[part]["properties"]) <= told, part
    for part in ("TrainStream", "BatchStream", "ServeStream", "TraceStream"):
        assert set(parts[part]["properties"]) <= told, part
