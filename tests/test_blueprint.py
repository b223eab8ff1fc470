"""The one file: read in people's units, and everything wrong with it said at once."""

import json
from pathlib import Path

import pytest

from gigafactory.blueprint import load, shipped
from gigafactory.blueprint.load import parse
from gigafactory.faults import Refused

GOOD = """\
gigafactory: 1
name: mill
start: 2026-11-23
owner: FR
sites:
  home: {country: FR, power: 100 W, systems: {this-machine: 1}}
tenants:
  lab: {}
models:
  tiny: {config: qwen3-moe-tiny}
workloads:
  train: {kind: pretrain, tenant: lab, model: tiny, tokens: 1 k tokens}
  judge: {kind: evaluate, tenant: lab, of: train, suite: bits_per_byte, gate: {bytes: "> 0"}}
  serve: {kind: serve, tenant: lab, of: train, through: judge}
"""


def faults(text, overrides=()):
    with pytest.raises(Refused) as refused:
        parse(text, Path("mill.yaml"), overrides)
    return refused.value.faults


RUN = {"laptop", "tiny", "h100-8", "campus", "llama3-405b", "warehouse", "factory-cell", "road"}
DESIGNED = {"milan-50mw", "eu-gigafactory", "alibaba-91", "qwen3-max", "qwen3-omni"}


@pytest.mark.parametrize("name", sorted(RUN | DESIGNED))
def test_every_shipped_blueprint_is_without_fault(name):
    read = load(name)
    assert read.name == name
    assert (read.design is not None) == (name in DESIGNED)


def test_all_shipped_blueprints_are_tested():
    assert set(shipped()) == RUN | DESIGNED


def test_a_good_blueprint_reads_in_si():
    blueprint = parse(GOOD, Path("mill.yaml"))
    assert blueprint.sites["home"].power_w == 100
    assert blueprint.workloads["train"].tokens == 1000
    assert blueprint.workloads["serve"].through == ("judge",)


def test_a_set_option_changes_one_value():
    assert parse(GOOD, Path("m"), ["sites.home.power=62MW"]).sites["home"].power_w == 62e6


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("power: 100 W", "powr: 100 W", 6, ["powr", "power"]),
        ("power: 100 W", "power: 5 MB", 6, ["5 MB", "power"]),
        ("power: 100 W", "power: 100", 6, ["100"]),
        ("this-machine", "this-machin", 6, ["this-machin", "did you mean this-machine"]),
        ("country: FR", "country: XX", 6, ["XX"]),
        ("model: tiny", "model: tny", 12, ["tny", "did you mean tiny"]),
        ("config: qwen3-moe-tiny", "config: nonesuch", 10, ["nonesuch"]),
        ("of: train, suite", "of: trian, suite", 13, ["trian", "did you mean train"]),
        ("through: judge", "through: train", 14, ["judges nothing"]),
        (", through: judge", "", 14, ["nothing has judged", "through"]),
        ("kind: pretrain", "kind: pretran", 12, ["pretran"]),
        ("1 k tokens", "-5", 12, ["tokens"]),
        ("start: 2026-11-23\n", "", 1, ["start", "missing"]),
        ("2026-11-23", "2026-13-45", 1, ["date"]),
        ("gate: {bytes:", "gate: {byts:", 13, ["byts", "did you mean bytes"]),
        (', gate: {bytes: "> 0"}', "", 14, ["no gate"]),
        ("tokens: 1 k tokens", "tokens: 1 k tokens, after: serve", 12, ["wait for ever"]),
        ("power: 100 W", "power: -1 W", 6, ["power"]),
        ("power: 100 W", "power: 400.0", 6, ["400.0"]),
        ("power: 100 W", "power: 1e999 W", 6, ["power"]),
        ("FR, power", "FR, carbon: -5 gCO2e/kWh, power", 6, ["carbon"]),
        ("tokens: 1 k", "learning_rate: .inf, tokens: 1 k", 12, ["learning_rate"]),
        ("tokens: 1 k", "priority: 99999999999999, tokens: 1 k", 12, ["priority"]),
    ],
)
def test_a_fault_names_its_line_and_a_remedy(old, new, line, words):
    assert old in GOOD
    found = faults(GOOD.replace(old, new))
    fault = found[0]
    text = " ".join((fault.what, fault.where, fault.why, fault.remedy))
    assert f"mill.yaml:{line}" in fault.where
    assert fault.remedy
    for word in words:
        assert word in text


def test_all_faults_are_told_at_once():
    found = faults(GOOD.replace("power: 100 W", "powr: 100 W").replace("kind: serve", "kind: serv"))
    assert len(found) >= 2


def test_a_circle_of_jobs_is_shown_as_a_circle():
    (fault,) = faults(GOOD.replace("tokens: 1 k tokens", "tokens: 1 k tokens, after: judge"))
    assert "circle" in fault.what
    assert fault.why in ("train → judge → train", "judge → train → judge")


def test_a_gang_larger_than_the_system_is_refused():
    large = GOOD.replace("this-machine: 1", "h100-8: 1").replace(
        "tokens: 1 k", "chips: 16, tokens: 1 k"
    )
    (fault,) = faults(large)
    assert "16 chips" in fault.what
    assert "8" in fault.remedy


def test_a_model_folder_with_a_pickle_in_it_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    text = GOOD.replace("config: qwen3-moe-tiny", "config: qwen3-moe-tiny, weights: model")
    with pytest.raises(Refused) as refused:
        parse(text, tmp_path / "mill.yaml")
    (fault,) = refused.value.faults
    assert "pickle" in fault.what
    assert "safetensors" in fault.remedy


def test_weights_that_are_nowhere_are_refused():
    text = GOOD.replace("config: qwen3-moe-tiny", "config: qwen3-moe-tiny, weights: no-such-thing")
    (fault,) = faults(text)
    assert "no-such-thing" in fault.what


@pytest.mark.parametrize("text", ["a: [1", "just words", "a: 1\na: 2\n", "", "a: \0"])
def test_what_is_no_blueprint_at_all_gets_one_clear_fault(text):
    (fault,) = faults(text)
    assert fault.where.startswith("mill.yaml:")


@pytest.mark.parametrize(
    "override", ["sites.hme.power=1 W", "sites.home.power", "=3", "name.x=3", "name=[1"]
)
def test_a_set_option_that_leads_nowhere_is_refused(override):
    (fault,) = faults(GOOD, [override])
    assert "--set" in fault.what


def test_an_unknown_name_suggests_the_nearest_blueprint():
    with pytest.raises(Refused) as refused:
        load("labtop")
    assert "laptop" in refused.value.faults[0].remedy
