"""Measures the machine it stands on as a chip: a core, or a GPU where torch sees one.

Measured with all cores (or one GPU) busy: FLOP/s of large matrix products, B/s of a large copy
(read plus written), W where the machine tells (RAPL, nvidia-smi). What it does not tell is taken
from the catalog and marked `modelled`. The snapshot lies in `machine.json`; the measuring runs in
a process of its own, so that torch is never loaded here.
"""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gigafactory.stack import chips, facts

SNAPSHOT = "machine.json"
COMMAND = [sys.executable, "-m", "gigafactory.works.calibrate"]
"""Says what it measures line by line, and the snapshot last."""
MEASURE_S = 0.6
"""Seconds of short runs for each rate; the faster half of them counts."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PRODUCT = 768
"""Side of the square matrices: 0.9 GFLOP, 9 MB, about 10 ms on a core."""
COPY_ITEMS = 16 * 2**20
"""64 MB, more than a cache holds."""
RAPL = Path("/sys/class/powercap")
CGROUP = Path("/sys/fs/cgroup")

Snapshot = dict[str, Any]
Act = Callable[[], Any]
Said = Callable[[str], None]


class CalibrationFailed(RuntimeError):
    """The measuring process died; the message ends with what it said last."""


def load(home: Path) -> Snapshot | None:
    """The snapshot that lies in `home`, if there is a whole one."""
    try:
        snapshot = json.loads((Path(home) / SNAPSHOT).read_text(encoding="utf-8"))
        chips.system(chips.THIS_MACHINE, snapshot)  # readable as a chip?
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    return snapshot


def calibrate(home: Path, again: bool = False, progress: Said | None = None) -> Snapshot:
    """The snapshot of this machine: the one in `home`, or a fresh one that is put there.

    `progress` is told each thing as it begins to be measured.
    """
    known = None if again else load(home)
    if known is not None:
        return known
    process = subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    said = ""
    for said in process.stdout:
        if progress and said.startswith("measuring "):
            progress(said.strip())
    if process.wait() != 0 or not said.startswith("{"):
        raise CalibrationFailed(f"calibration ended with code {process.returncode}: {said.strip()}")
    snapshot = json.loads(said)
    _write(Path(home), snapshot)
    return snapshot


def snapshot_hash(snapshot: Snapshot) -> str:
    """SHA-256 of what was measured, so that a plan can say which machine it was made for."""
    canonical = json.dumps(snapshot, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def cores() -> int:
    """Cores this process may use: its affinity, less what its control group withholds."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _words(CGROUP / "cpu.max")
    if len(quota) == 2 and quota[0] != "max":
        count = min(count, int(quota[0]) // int(quota[1]))
    return max(count, 1)


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or its control group's limit."""
    limit = _words(CGROUP / "memory.max")
    total = psutil.virtual_memory().total
    return min(total, int(limit[0])) if limit and limit[0] != "max" else total


def measure(say: Said = print) -> Snapshot:
    """Measure now, in this process. Imports torch if there is one."""
    try:
        import torch
    except ImportError:
        return _measure_cpu(None, say)
    if torch.cuda.is_available():
        return _measure_gpu(torch, say)
    torch.set_num_threads(1)
    return _measure_cpu(torch, say)


def _measure_cpu(torch: Any, say: Said) -> Snapshot:
    """All cores at once, one thread each; by numpy and in float32 only where torch is None."""
    library = torch or np
    say("measuring power at rest")
    idle_w = _packages_w(lambda: time.sleep(MEASURE_S))

    def product(dtype: str) -> Callable[[], Act]:
        def on_core() -> Act:
            left, right = (_ones(library, dtype, PRODUCT, PRODUCT) for _ in range(2))
            return lambda: library.matmul(left, right)

        return on_core

    rates: dict[str, float] = {}

    def products() -> None:
        dtypes = chips.DTYPES if torch else ("float32",)
        for dtype in 2 * dtypes:  # Twice, apart in time: a neighbour rarely disturbs both.
            say(f"measuring matrix products in {dtype} with {library.__name__}")
            rate = 2 * PRODUCT**3 / _core_s(product(dtype))
            rates[dtype] = max(rate, rates.get(dtype, 0.0))

    def copy() -> Act:
        source, target = (_ones(library, "float32", COPY_ITEMS) for _ in range(2))
        return (lambda: target.copy_(source)) if torch else (lambda: np.copyto(target, source))

    busy_w = _packages_w(products)
    say("measuring memory bandwidth")
    bandwidth = 2 * 4 * COPY_ITEMS / _core_s(copy)
    return _cpu_snapshot(
        rates, bandwidth, idle_w, busy_w, f"{library.__name__} {library.__version__}"
    )


def _cpu_snapshot(
    rates: dict[str, float],
    bandwidth: float,
    idle_w: float | None,
    busy_w: float | None,
    measured_with: str,
) -> Snapshot:
    """Rates are of one core with all busy; power is of all, shared out among them."""
    count = cores()
    return {
        "name": chips.THIS_MACHINE,
        "kind": "cpu",
        "model": _cpu_model(),
        "chips": count,
        "memory_bytes": memory_bytes(),
        "memory_bytes_per_chip": memory_bytes() / count,
        "flop_per_s": rates,
        "memory_bytes_per_s": bandwidth,
        **_power(idle_w, busy_w, count, chips.chip(chips.CPU_CORE)),
        "node_overhead_w": _node_overhead_w(),
        "measured_with": measured_with,
        "when": _now(),
    }


def _measure_gpu(torch: Any, say: Said) -> Snapshot:
    torch.set_float32_matmul_precision("high")  # TF32, as the catalog's float32 rows have it.
    say("measuring power at rest")
    idle_w = _gpu_w(lambda: time.sleep(0.05))

    def seconds(act: Callable[[], Any]) -> float:
        def run() -> None:
            act()
            torch.cuda.synchronize()

        return _fastest_s(run)

    say("measuring matrix products")
    rates = {}
    for dtype in chips.DTYPES:
        left, right = torch.randn(2, 8192, 8192, device="cuda").to(getattr(torch, dtype))
        rates[dtype] = 2 * 8192**3 / seconds(partial(torch.mm, left, right))
    busy_w = _gpu_w(lambda: torch.mm(left, right).sum().item())
    say("measuring memory bandwidth")
    source, target = torch.ones(2, 2**28, device="cuda")
    bandwidth = 2 * source.numel() * source.element_size() / seconds(lambda: target.copy_(source))
    device = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    return {
        "name": chips.THIS_MACHINE,
        "kind": "gpu",
        "model": device.name,
        "chips": count,
        "memory_bytes": count * device.total_memory,
        "memory_bytes_per_chip": device.total_memory,
        "flop_per_s": rates,
        "memory_bytes_per_s": bandwidth,
        **_power(idle_w, busy_w, 1, chips.chip("H100 SXM")),
        "node_overhead_w": _node_overhead_w() + cores() * chips.chip(chips.CPU_CORE).busy_w,
        "measured_with": f"torch {torch.__version__}",
        "when": _now(),
    }


def _power(
    idle_w: float | None, busy_w: float | None, count: int, like: chips.Chip
) -> dict[str, Any]:
    """Power of one chip of `count`, as metered or as that of `like`; and what is from where."""
    told = idle_w is not None and busy_w is not None
    if idle_w is None or busy_w is None:
        idle_w, busy_w, count = like.idle_w, like.busy_w, 1
    return {
        "idle_w": idle_w / count,
        "busy_w": max(busy_w, idle_w) / count,
        "basis": {
            "flop_per_s": "measured",
            "memory_bytes_per_s": "measured",
            "memory_bytes": "measured",
            "idle_w": "measured" if told else "modelled",
            "busy_w": "measured" if told else "modelled",
            "node_overhead_w": "modelled",  # Nobody meters the rest of the machine.
        },
    }


def _core_s(make: Callable[[], Act]) -> float:
    """Seconds that a core computes for one act, while every core is at an act of its own.

    Counted in the thread's own processor time: neighbours that take the core away do not count.
    """
    acts = [make() for _ in range(cores())]
    with ThreadPoolExecutor(len(acts)) as pool:
        return statistics.mean(pool.map(lambda act: _fastest_s(act, time.thread_time), acts))


def _fastest_s(act: Act, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one `act`: the median of the faster half, which neighbours disturb least."""
    act()
    seconds: list[float] = []
    until = time.perf_counter() + MEASURE_S
    while time.perf_counter() < until or len(seconds) < 4:
        start = clock()
        act()
        seconds.append(clock() - start)
    seconds.sort()
    return seconds[len(seconds) // 4]


def _ones(library: Any, dtype: str, *shape: int) -> Any:
    return library.ones(shape, dtype=getattr(library, dtype))


def _packages_w(act: Callable[[], Any]) -> float | None:
    """Mean power of all CPU packages during `act`, from RAPL; None where it cannot be read."""
    before, start = _packages_uj(), time.perf_counter()
    act()
    after, seconds = _packages_uj(), time.perf_counter() - start
    if before is None or after is None or after <= before:  # absent, or the counter wrapped
        return None
    return (after - before) / 1e6 / seconds


def _packages_uj() -> int | None:
    """Energy counted so far by the packages (`intel-rapl:0`), not by parts of them (`:0:1`)."""
    packages = [path for path in RAPL.glob("intel-rapl:*") if path.name.count(":") == 1]
    try:
        return sum(int((path / "energy_uj").read_text()) for path in packages) or None
    except (OSError, ValueError):
        return None


def _gpu_w(act: Act) -> float | None:
    """Power of the first GPU as its driver tells it while `act` is repeated."""
    query = ["nvidia-smi", "--id=0", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    try:
        asking = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        while asking.poll() is None:
            act()
        return float(asking.communicate()[0])
    except (OSError, ValueError):
        return None


def _node_overhead_w() -> float:
    overhead_w = facts.by_subject("systems")[chips.THIS_MACHINE]["node_overhead"].value
    assert overhead_w is not None
    return overhead_w


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _write(home: Path, snapshot: Snapshot) -> None:
    """Whole or not at all."""
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f"{SNAPSHOT}.{os.getpid()}"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(json.dumps(snapshot, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(home / SNAPSHOT)


if __name__ == "__main__":
    print(json.dumps(measure()))
