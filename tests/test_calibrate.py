"""The machine as a chip: measured in a process of its own, kept, and told apart by hash."""

import json
import sys

import pytest

from gigafactory.stack import chips
from gigafactory.works import calibrate

QUICK = """
import json, sys
{before}
from gigafactory.works import calibrate
calibrate.MEASURE_S = 0.02
print(json.dumps(calibrate.measure()))
"""


def quickly(monkeypatch, before=""):
    """Let the measuring process take a twentieth of a second for each figure."""
    code = QUICK.format(before=before)
    monkeypatch.setattr(calibrate, "COMMAND", [sys.executable, "-c", code])


def test_this_machine_is_measured_kept_and_not_measured_again(tmp_path, monkeypatch):
    quickly(monkeypatch)
    told = []
    first = calibrate.calibrate(tmp_path / "home", progress=told.append)
    assert any(said.startswith("measuring matrix products") for said in told)
    assert calibrate.load(tmp_path / "home") == first

    monkeypatch.setattr(calibrate, "COMMAND", [sys.executable, "-c", "raise SystemExit(9)"])
    assert calibrate.calibrate(tmp_path / "home") == first
    with pytest.raises(calibrate.CalibrationFailed, match="code 9"):
        calibrate.calibrate(tmp_path / "home", again=True)
    assert calibrate.load(tmp_path / "home") == first
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["machine.json"]


def test_a_snapshot_makes_a_chip_that_jobs_can_be_quoted_on(tmp_path, monkeypatch):
    quickly(monkeypatch)
    system = chips.system("this-machine", calibrate.calibrate(tmp_path))
    assert system.chips_per_node >= 1
    assert system.chip.basis == "measured"
    assert all(rate > 1e8 for rate in system.chip.flop_per_s.values())
    assert system.chip.memory_bytes_per_s > 1e8
    assert 0 < system.chip.idle_w <= system.chip.busy_w


def test_without_torch_float32_is_measured_by_numpy_and_said_so(tmp_path, monkeypatch):
    quickly(monkeypatch, before="sys.modules['torch'] = None")
    snapshot = calibrate.calibrate(tmp_path)
    assert set(snapshot["flop_per_s"]) == {"float32"}
    assert snapshot["measured_with"].startswith("numpy")


def test_half_a_snapshot_counts_as_none(tmp_path):
    assert calibrate.load(tmp_path) is None
    (tmp_path / "machine.json").write_text('{"name": "this-', encoding="utf-8")
    assert calibrate.load(tmp_path) is None


def test_the_hash_is_of_the_content_not_its_order():
    a = {"chips": 2, "kind": "cpu"}
    assert calibrate.snapshot_hash(a) == calibrate.snapshot_hash({"kind": "cpu", "chips": 2})
    assert calibrate.snapshot_hash(a) != calibrate.snapshot_hash(a | {"chips": 4})


def test_power_is_energy_over_time_and_none_where_nothing_tells_it(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "RAPL", tmp_path)
    assert calibrate._packages_w(lambda: None) is None
    for part in ("intel-rapl:0", "intel-rapl:0:0"):  # a package, and a part of it
        (tmp_path / part).mkdir()
        (tmp_path / part / "energy_uj").write_text("1000\n")
    counter = tmp_path / "intel-rapl:0" / "energy_uj"

    ticks = iter([10.0, 12.0, 20.0, 22.0])
    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: next(ticks))
    assert calibrate._packages_w(lambda: counter.write_text("60001000")) == 30.0
    assert calibrate._packages_w(lambda: counter.write_text("5")) is None  # it wrapped


def test_a_container_counts_only_what_it_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "CGROUP", tmp_path)
    everything = calibrate.cores(), calibrate.memory_bytes()
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert (calibrate.cores(), calibrate.memory_bytes()) == (1, 2**30)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (calibrate.cores(), calibrate.memory_bytes()) == everything


def test_a_snapshot_is_plain_json(tmp_path, monkeypatch):
    quickly(monkeypatch, before="sys.modules['torch'] = None")
    snapshot = calibrate.calibrate(tmp_path)
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert {"flop_per_s", "memory_bytes_per_s", "idle_w", "busy_w"} <= snapshot["basis"].keys()
