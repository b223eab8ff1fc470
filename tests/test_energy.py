"""Energy: counted where the machine counts it, whole, to those who used it; else a model."""

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigafactory.blueprint.load import parse
from gigafactory.plan import Rates, make
from gigafactory.works import meter
from gigafactory.works.energy import Held, Nvml, Rapl, Shares, cpu_s
from tests.test_rates import POOL, PRICED, unix

RANGE_UJ = 262_143_328_850


@pytest.fixture
def machine(tmp_path):
    """A machine of two packages, as Linux shows it."""

    def zone(path, name, joules):
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        return folder

    zone("intel-rapl:0", "package-0", 1000)
    zone("intel-rapl:0:0", "core", 800)
    zone("intel-rapl:0:1", "dram", 50)
    zone("intel-rapl:1", "package-1", 2000)
    zone("intel-rapl:2", "psys", 9000)
    zone("intel-rapl-mmio:0", "package-0", 1000)
    (tmp_path / "intel-rapl").mkdir()
    (tmp_path / "stat").write_text("cpu  1000 0 0 9000 0 0 0 0 0 0\n")
    return SimpleNamespace(path=tmp_path, zone=zone)


def test_packages_and_their_memory_are_counted_once(machine):
    rapl = Rapl(machine.path)
    assert rapl.joules() == 0
    machine.zone("intel-rapl:0", "package-0", 1010)
    machine.zone("intel-rapl:0:0", "core", 808)
    machine.zone("intel-rapl:0:1", "dram", 53)
    machine.zone("intel-rapl:1", "package-1", 2100)
    machine.zone("intel-rapl:2", "psys", 9500)
    machine.zone("intel-rapl-mmio:0", "package-0", 1010)
    assert rapl.joules() == pytest.approx(113)


def test_a_counter_that_wraps_loses_nothing(machine):
    top_j = RANGE_UJ / 1e6
    machine.zone("intel-rapl:0", "package-0", top_j - 5)
    rapl = Rapl(machine.path)
    machine.zone("intel-rapl:0", "package-0", 7)
    assert rapl.joules() == pytest.approx(12)
    machine.zone("intel-rapl:0", "package-0", 8)
    assert rapl.joules() == pytest.approx(13)


def test_a_machine_that_does_not_tell_says_nothing(machine, tmp_path):
    assert Rapl(tmp_path / "none").joules() is None
    rapl = Rapl(machine.path)
    (machine.path / "intel-rapl:1" / "energy_uj").unlink()  # as for one who is not root
    assert rapl.joules() is None
    assert Rapl(machine.path).joules() is None


class Driver:
    """NVML as its Python binding shows it, of two GPUs."""

    class NVMLError(Exception):
        """What it raises."""

    def __init__(self, *millijoules):
        self.millijoules = list(millijoules)

    def nvmlInit(self):
        if not self.millijoules:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self):
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, number):
        return number

    def nvmlDeviceGetTotalEnergyConsumption(self, number):
        if self.millijoules[number] is None:
            raise self.NVMLError("not supported")
        return self.millijoules[number]


def test_all_gpus_are_counted_or_none():
    assert Nvml(Driver(1500, 500)).joules() == 2.0
    assert Nvml(Driver(1500, None)).joules() is None
    assert Nvml(Driver()).joules() is None


def busy(machine, seconds):
    ticks = 1000 + round(seconds * 100)
    (machine.path / "stat").write_text(f"cpu  {ticks} 0 0 9000 5 0 0 0 0 0\n")


def test_joules_fall_to_who_used_them(machine):
    """8 chips at 2 W rest; in 10 s 560 J, 400 of them work: 30 CPU-s a, 10 b, 10 the house."""
    shares = Shares(8, 2.0, Rapl(machine.path), machine.path / "stat")
    shares.turn(0.0, {"a": Held(4, 100.0), "b": Held(2, 0.0)})
    machine.zone("intel-rapl:0", "package-0", 1560)
    busy(machine, 50)
    shares.turn(10.0, {"a": Held(4, 130.0), "b": Held(2, 10.0)})
    assert shares.end("a") == pytest.approx(400 * 30 / 50 + 160 * 4 / 8)
    assert shares.end("b") == pytest.approx(400 * 10 / 50 + 160 * 2 / 8)
    assert shares.end("b") is None


def test_an_attempt_is_counted_from_its_first_turn(machine):
    shares = Shares(2, 0.0, Rapl(machine.path), machine.path / "stat")
    shares.turn(0.0, {})
    machine.zone("intel-rapl:0", "package-0", 1100)
    shares.turn(10.0, {"a": Held(2, 5.0)})
    machine.zone("intel-rapl:0", "package-0", 1150)
    shares.turn(20.0, {"a": Held(2, 25.0)})
    assert shares.end("a") == pytest.approx(50)


def test_after_a_gap_an_attempt_is_modelled_and_the_next_is_measured(machine):
    shares = Shares(2, 0.0, Rapl(machine.path), machine.path / "stat")
    held = {"a": Held(2, 1.0)}
    shares.turn(0.0, held)
    (machine.path / "intel-rapl:0" / "energy_uj").unlink()
    shares.turn(1.0, held)
    machine.zone("intel-rapl:0", "package-0", 1100)
    shares.turn(2.0, {**held, "b": Held(1, 0.0)})
    machine.zone("intel-rapl:0", "package-0", 1200)
    shares.turn(3.0, {"a": Held(2, 2.0), "b": Held(1, 1.0)})
    assert shares.end("a") is None
    assert shares.end("b") == pytest.approx(50)


def test_a_gpu_is_at_work_while_it_is_held(machine):
    driver = Driver(0, 0)
    shares = Shares(2, 50.0, Nvml(driver), machine.path / "stat")
    shares.turn(0.0, {"a": Held(1, None)})
    driver.millijoules = [600_000, 50_000]
    shares.turn(1.0, {"a": Held(1, None)})
    assert shares.end("a") == pytest.approx(550 + 50)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e4), st.floats(0.1, 60), st.lists(st.integers(0, 60), min_size=3,
                  max_size=3)), min_size=1, max_size=8)
)  # fmt: skip
def test_nobody_is_given_joules_that_were_not_drawn(tmp_path_factory, turns):
    counter = SimpleNamespace(total=0.0)
    counter.joules = lambda: counter.total
    shares = Shares(6, 3.0, counter, tmp_path_factory.getbasetemp() / "no-stat")
    now, cpu_s = 0.0, [0.0, 0.0, 0.0]
    everyone = {str(n): Held(2, 0.0) for n in range(3)}
    shares.turn(now, everyone)
    for joules, lasts_s, worked_s in turns:
        counter.total += joules
        now += lasts_s
        cpu_s = [before + more for before, more in zip(cpu_s, worked_s, strict=True)]
        shares.turn(now, {str(n): Held(2, cpu_s[n]) for n in range(3)})
    given_out = [shares.end(str(n)) for n in range(3)]
    assert min(given_out) >= 0
    assert sum(given_out) <= counter.total * (1 + 1e-9)
    if all(sum(worked_s) for _, _, worked_s in turns):  # all chips are held, all work is theirs
        assert sum(given_out) == pytest.approx(counter.total)


def test_usage_says_whether_it_was_measured_and_what_it_costs():
    plan = make(parse(PRICED, Path("mill.yaml")))
    where, rates = plan.where(POOL), Rates.of(plan)
    began = unix(2026, 12, 31, 23, 30)
    modelled = meter.used(where, 2, 3600.0, 1800.0, {"work": 3600.0})
    assert modelled["energy_basis"] == "modelled"
    assert "charges" not in modelled
    measured = meter.used(
        where, 2, 3600.0, 1800.0, {}, measured_j=1000.0, rates=rates, began_unix_s=began
    )
    assert measured["energy_basis"] == "measured"
    assert measured["energy_j"] == pytest.approx(1000 * 1.1)
    first, second = measured["charges"]
    assert (first["month"], second["month"]) == ("2026-12", "2027-01")
    assert first["money_micro"] == second["money_micro"] == 3_600_000
    assert first["energy_j"] + second["energy_j"] == pytest.approx(measured["energy_j"])
    assert first["carbon_g"] == pytest.approx(550 * 36 / 3.6e6)


def test_the_cpu_seconds_of_an_attempt_are_those_of_its_processes_and_theirs(tmp_path):
    me = psutil.Process()
    born = {"pid": me.pid, "created_unix_s": me.create_time()}
    (tmp_path / "pid-0.json").write_text(json.dumps(born))
    (tmp_path / "pid-1.json").write_text(json.dumps(born | {"created_unix_s": 0.0}))
    (tmp_path / "pid-2.json").write_text("half a li")
    times = me.cpu_times()
    assert cpu_s(tmp_path) >= times.user + times.system > 0
    assert cpu_s(tmp_path / "nowhere") == 0.0
