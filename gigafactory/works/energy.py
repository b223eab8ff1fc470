"""What this machine draws, counted by the machine itself, and whose it is. J, s, W.

CPU packages and their DRAM by RAPL (`/sys/class/powercap`, which may ask for root), GPUs by
NVML. What is not told is not guessed here: it stays modelled, and says so. What board, fans and
power supply draw, neither counts.

codecarbon is not used: it reads the same two counters, models the rest, from its own tables,
without saying of each figure which it is, and brings pandas.

An interval's joules fall to the attempts that ran in it: the idle draw by the chips they held,
all above it by the CPU-seconds they used of those that the machine was busy. What the house
itself used, and chips that nobody held, fall to nobody.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

POWERCAP = Path("/sys/class/powercap")
STAT = Path("/proc/stat")
TICK_S = 0.01  # of /proc/stat: USER_HZ, 100 on every Linux
BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq of its first line


class Rapl:
    """Joules of CPU packages and their DRAM since it was made; `joules` is None if untold.

    The counters wrap, at 262 kJ on many machines: read more often than every ten minutes.
    """

    def __init__(self, powercap: Path = POWERCAP):
        self._zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if _counts(zone)]
        self._last = {zone: _number(zone / "energy_uj") for zone in self._zones}
        self._total_uj = 0

    def joules(self) -> float | None:
        """All that was counted so far."""
        for zone in self._zones:
            now, last = _number(zone / "energy_uj"), self._last[zone]
            wraps_at = _number(zone / "max_energy_range_uj")
            if now is None or last is None or wraps_at is None:
                return None
            self._total_uj += now - last if now >= last else now - last + wraps_at
            self._last[zone] = now
        return self._total_uj / 1e6 if self._zones else None


class Nvml:
    """Joules of all GPUs of this machine; None where there are none, or one does not tell."""

    def __init__(self, nvml: Any = None):
        self._nvml = nvml or _pynvml()
        self._gpus: list[Any] = []
        try:
            if self._nvml:
                self._nvml.nvmlInit()
                count = self._nvml.nvmlDeviceGetCount()
                self._gpus = [self._nvml.nvmlDeviceGetHandleByIndex(n) for n in range(count)]
        except self._nvml.NVMLError:  # no driver, no GPU
            self._gpus = []

    def joules(self) -> float | None:
        """All that was counted since the driver was loaded."""
        try:
            counted = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in self._gpus]
        except self._nvml.NVMLError:  # before Volta there is no counter
            return None
        return sum(counted) / 1e3 if counted else None


class Held(NamedTuple):
    """What an attempt has so far: chips, and CPU-seconds, None where a chip is a GPU."""

    chips: int
    cpu_s: float | None


class Shares:
    """Whose the joules of one machine are, told at every turn who holds what."""

    def __init__(self, chips: int, idle_w: float, counter: Rapl | Nvml, stat: Path = STAT):
        """`idle_w` is the draw of one chip at rest, without PUE, as calibration found it."""
        self._chips, self._idle_w = chips, idle_w
        self._counter, self._stat = counter, stat
        self._at_s: float | None = None
        self._joules = counter.joules()
        self._busy_s = _busy_s(stat)
        self._cpu_s: dict[str, float] = {}
        self._shares: dict[str, float | None] = {}

    def turn(self, now_s: float, held: Mapping[str, Held]) -> None:
        """The time since the last turn is over; `held` says who held what in it.

        An attempt that is new here is counted from now on.
        """
        joules, busy_s = self._counter.joules(), _busy_s(self._stat)
        if self._at_s is not None:
            known = {name: h for name, h in held.items() if name in self._cpu_s}
            if joules is None or self._joules is None:
                self._shares.update(dict.fromkeys(known))  # a gap: no longer measured
            else:
                self._split(joules - self._joules, now_s - self._at_s, busy_s, known)
        self._at_s, self._joules, self._busy_s = now_s, joules, busy_s
        for name, has in held.items():
            self._shares.setdefault(name, None if joules is None else 0.0)
            self._cpu_s[name] = has.cpu_s or 0.0

    def end(self, name: str) -> float | None:
        """Joules of an attempt that ended, up to the last turn; None where not all were told."""
        self._cpu_s.pop(name, None)
        return self._shares.pop(name, None)

    def _split(
        self, joules: float, lasted_s: float, busy_s: float | None, held: Mapping[str, Held]
    ) -> None:
        idle_j = min(joules, self._idle_w * self._chips * lasted_s)
        used = {
            name: h.chips * lasted_s if h.cpu_s is None else max(0.0, h.cpu_s - self._cpu_s[name])
            for name, h in held.items()
        }
        # A GPU is busy when it is held; CPUs work for others too.
        all_used = sum(used.values())
        on_cpus = all(has.cpu_s is not None for has in held.values())
        if on_cpus and busy_s is not None and self._busy_s is not None:
            all_used = max(all_used, busy_s - self._busy_s)
        for name, has in held.items():
            share = self._shares.get(name)
            if share is not None:
                active_j = (joules - idle_j) * used[name] / all_used if all_used else 0.0
                self._shares[name] = share + active_j + idle_j * has.chips / self._chips


def shares_of(machine: Mapping[str, Any]) -> Shares | None:
    """The shares of this machine, as calibration found it; None where nothing counts its joules."""
    counter: Rapl | Nvml = Nvml() if machine.get("kind") == "gpu" else Rapl()
    if counter.joules() is None:
        return None
    return Shares(machine["chips"], machine["idle_w"], counter)


def cpu_s(folder: Path) -> float:
    """CPU-seconds so far of the processes that an attempt told of in its folder, and theirs."""
    total = 0.0
    for file in folder.glob("pid-*.json"):
        with suppress(psutil.Error, OSError, ValueError):
            born = json.loads(file.read_text(encoding="utf-8"))
            process = psutil.Process(born["pid"])
            if abs(process.create_time() - born["created_unix_s"]) < 1:
                for one in (process, *process.children(recursive=True)):
                    times = one.cpu_times()
                    total += times.user + times.system
    return total


def _counts(zone: Path) -> bool:
    """Whether a zone is a package or its DRAM: cores are in the package, psys holds them all."""
    try:
        name = (zone / "name").read_text().strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _busy_s(stat: Path) -> float | None:
    """Seconds for which the CPUs of this machine were busy, all together, since it started."""
    try:
        ticks = stat.read_text().split("\n", 1)[0].split()[1:]
        return sum(int(ticks[field]) for field in BUSY) * TICK_S
    except (OSError, ValueError, IndexError):
        return None


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml
