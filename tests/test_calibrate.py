"""The machine as a chip: measured in a process of its own, kept, and told apart by hash."""

import json
import sys

import pytest

from gigafactory.stack import chips, fabric
from gigafactory.works import calibrate

QUICK = """
import json, sys
{before}
from gigafactory.works import calibrate
calibrate.MEASURE_S = 0.02
print(json.dumps(calibrate.measure(thorough=calibrate.THOROUGH in sys.argv)))
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


def test_a_thorough_calibration_adds_shapes_the_smallest_operation_and_collectives(
    tmp_path, monkeypatch
):
    quickly(monkeypatch, before="from gigafactory.works import calibrate as c; c.cores = lambda: 2")
    calibrate.calibrate(tmp_path)
    told = []
    snapshot = calibrate.calibrate(tmp_path, thorough=True, progress=told.append)  # not the old one
    assert calibrate.load(tmp_path) == snapshot
    assert "measuring collectives of 2 processes" in told

    assert {product["dtype"] for product in snapshot["products"]} == set(chips.DTYPES)
    assert all(product["flop_per_s"] > 1e8 for product in snapshot["products"])
    assert 1e-8 < snapshot["launch_s"] < 1e-3
    small, large = (
        one for one in snapshot["collectives"][::6] if one["collective"] == "all_reduce"
    )
    assert small["payload_bytes"] < large["payload_bytes"]
    assert small["bus_bytes_per_s"] < large["bus_bytes_per_s"]

    chip = chips.system("this-machine", snapshot).chip
    assert chip.fabric_bytes_per_s == large["bus_bytes_per_s"]
    assert chip.launch_s == snapshot["launch_s"]
    assert fabric.all_reduce_s(chip, large["payload_bytes"], 2) == pytest.approx(
        large["s"], rel=1.0
    )


def test_ranks_that_cannot_meet_cost_only_the_collectives(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no interface")

    torch = pytest.importorskip("torch.multiprocessing")
    monkeypatch.setattr(torch, "start_processes", refuse)
    told = []
    assert calibrate._collectives("cpu", 2, told.append) == []
    assert told[-1] == "no collectives: no interface"
    assert calibrate._collectives("cpu", 1, told.append) == []


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
