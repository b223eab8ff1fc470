"""Measures the machine it stands on as a chip: a core, or a GPU where torch sees one.

Measured with all cores (or one GPU) busy: FLOP/s of large matrix products, B/s of a large copy
(read plus written), W where the machine tells (RAPL, nvidia-smi). What it does not tell is taken
from the catalog and marked `modelled`. Where it is to be thorough, also: products of several
shapes, the smallest operation, collectives between processes (gloo) or GPUs (NCCL). The snapshot
lies in `machine.json`; the measuring runs in a process of its own, so that torch is never loaded
here.
"""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
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
THOROUGH = "--thorough"
MEASURE_S = 0.6
"""Seconds of short runs for each rate; the faster half of them counts."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PRODUCT = 768
"""Side of the square matrices: 0.9 GFLOP, 9 MB, about 10 ms on a core."""
COPY_ITEMS = 16 * 2**20
"""64 MB, more than a cache holds."""
SHAPES = {
    "cpu": ((1536, 1536, 1536), (16, 2048, 2048), (1, 2048, 2048)),
    "gpu": ((16384, 8192, 8192), (1024, 8192, 8192), (64, 8192, 8192), (1, 8192, 8192)),
}
"""Products (m, k) times (k, n) that a thorough calibration adds: large, and ever more skinny."""
PAYLOADS = {
    "cpu": (2**14, 2**18, 2**22, 2**25),
    "gpu": (2**16, 2**20, 2**26, 2**30),
}
"""Bytes of the tensors that it sends around."""
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


def calibrate(
    home: Path, again: bool = False, progress: Said | None = None, thorough: bool = False
) -> Snapshot:
    """The snapshot of this machine: the one in `home`, or a fresh one that is put there.

    `progress` is told each thing as it begins to be measured. `thorough` always measures, and
    more: some 15 seconds on two cores.
    """
    known = None if again or thorough else load(home)
    if known is not None:
        return known
    process = subprocess.Popen(
        [*COMMAND, *[THOROUGH] * thorough],
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


def measure(say: Said = print, thorough: bool = False) -> Snapshot:
    """Measure now, in this process. Imports torch if there is one."""
    try:
        import torch
    except ImportError:
        return _measure_cpu(None, say)
    if torch.cuda.is_available():
        snapshot = _measure_gpu(torch, say)
    else:
        torch.set_num_threads(1)
        snapshot = _measure_cpu(torch, say)
    return _with_more(snapshot, torch, say) if thorough else snapshot


def _measure_cpu(torch: Any, say: Said) -> Snapshot:
    """All cores at once, one thread each; by numpy and in float32 only where torch is None."""
    library = torch or np
    say("measuring power at rest")
    idle_w = _packages_w(lambda: time.sleep(MEASURE_S))

    rates: dict[str, float] = {}

    def products() -> None:
        dtypes = chips.DTYPES if torch else ("float32",)
        for dtype in 2 * dtypes:  # Twice, apart in time: a neighbour rarely disturbs both.
            say(f"measuring matrix products in {dtype} with {library.__name__}")
            rate = 2 * PRODUCT**3 / _core_s(_product(library, dtype, PRODUCT, PRODUCT, PRODUCT))
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


def _product(library: Any, dtype: str, m: int, k: int, n: int) -> Callable[[], Act]:
    def on_core() -> Act:
        left, right = _ones(library, dtype, m, k), _ones(library, dtype, k, n)
        return lambda: library.matmul(left, right)

    return on_core


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

    say("measuring matrix products")
    rates = {}
    for dtype in chips.DTYPES:
        left, right = torch.randn(2, 8192, 8192, device="cuda").to(getattr(torch, dtype))
        rates[dtype] = 2 * 8192**3 / _gpu_s(torch, partial(torch.mm, left, right))
    busy_w = _gpu_w(lambda: torch.mm(left, right).sum().item())
    say("measuring memory bandwidth")
    source, target = torch.ones(2, 2**28, device="cuda")
    copy_s = _gpu_s(torch, lambda: target.copy_(source))
    bandwidth = 2 * source.numel() * source.element_size() / copy_s
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


def _with_more(snapshot: Snapshot, torch: Any, say: Said) -> Snapshot:
    """The snapshot with what only a thorough calibration measures."""
    kind = snapshot["kind"]
    products = []
    for dtype in chips.DTYPES:
        say(f"measuring shapes of matrix products in {dtype}")
        for m, k, n in SHAPES[kind]:
            if kind == "gpu":
                left, right = (
                    torch.randn(*shape, device="cuda").to(getattr(torch, dtype))
                    for shape in ((m, k), (k, n))
                )
                taken_s = _gpu_s(torch, partial(torch.mm, left, right))
            else:
                taken_s = _core_s(_product(torch, dtype, m, k, n), MEASURE_S / 3)
            rate = 2 * m * k * n / taken_s
            products.append({"dtype": dtype, "shape": [m, k, n], "flop_per_s": rate})
    say("measuring the smallest operation")
    more: Snapshot = {"products": products, "launch_s": _launch_s(torch, kind)}
    more["collectives"] = _collectives(kind, snapshot["chips"], say)
    sums = [one for one in more["collectives"] if one["collective"] == "all_reduce"]
    if sums:
        more["fabric_bytes_per_s"] = sums[-1]["bus_bytes_per_s"]  # of the largest payload
    basis = {thing: "measured" for thing in more if more[thing]}
    return snapshot | more | {"basis": snapshot["basis"] | basis}


def _gpu_s(torch: Any, act: Act) -> float:
    def run() -> None:
        act()
        torch.cuda.synchronize()

    return _fastest_s(run)


def _launch_s(torch: Any, kind: str) -> float:
    """Seconds of one of many operations on a single element, one after the other."""
    element = torch.ones(1, device="cuda" if kind == "gpu" else "cpu")

    def thousand() -> None:
        for _ in range(1000):
            element.add_(1)
        if kind == "gpu":
            torch.cuda.synchronize()

    return _fastest_s(thousand, within_s=MEASURE_S / 3) / 1000


def _collectives(kind: str, count: int, say: Said) -> list[dict[str, Any]]:
    """All-reduce and all-gather, by payload; none where there is one rank or they cannot meet."""
    ranks = count if kind == "gpu" else min(count, 2)
    if ranks < 2:
        return []
    from torch.multiprocessing import start_processes

    # A fork has torch at once; CUDA and other systems need a fresh process.
    start = "fork" if kind == "cpu" and sys.platform == "linux" else "spawn"
    say(f"measuring collectives of {ranks} {'GPUs' if kind == 'gpu' else 'processes'}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            start_processes(_rank, (ranks, kind, folder), nprocs=ranks, start_method=start)
            answer: list[dict[str, Any]] = json.loads((Path(folder) / "answer").read_text())
        except Exception as failure:  # No network interface, say: the rest is worth keeping.
            say(f"no collectives: {failure}")
            return []
    return answer


def _rank(rank: int, ranks: int, kind: str, folder: str) -> None:
    """One rank of the collectives; the first writes down what they took."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    device = f"cuda:{rank}" if kind == "gpu" else "cpu"
    if kind == "gpu":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if kind == "gpu" else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=ranks,
    )
    gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name before
    answer = []
    for payload in PAYLOADS[kind]:
        items = payload // 4 // ranks * ranks
        whole = torch.zeros(items, device=device)
        share = torch.zeros(items // ranks, device=device)
        acts: dict[str, tuple[Act, float]] = {
            "all_reduce": (partial(dist.all_reduce, whole), 2.0),
            "all_gather": (partial(gather, whole, share), 1.0),
        }
        for collective, (act, crossings) in acts.items():
            seconds = _together_s(torch, dist, act, 30 if payload < 2**22 else 5, kind)
            crossing_bytes = crossings * (ranks - 1) / ranks * 4 * items
            answer.append(
                {
                    "collective": collective,
                    "ranks": ranks,
                    "payload_bytes": 4 * items,
                    "s": seconds,
                    "bus_bytes_per_s": crossing_bytes / seconds,
                }
            )
    if rank == 0:
        (Path(folder) / "answer").write_text(json.dumps(answer), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _together_s(torch: Any, dist: Any, act: Act, repeats: int, kind: str) -> float:
    """Median seconds of `act`, which all ranks must do equally often."""
    act()
    dist.barrier()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        if kind == "gpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


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


def _core_s(make: Callable[[], Act], within_s: float | None = None) -> float:
    """Seconds that a core computes for one act, while every core is at an act of its own.

    Counted in the thread's own processor time: neighbours that take the core away do not count.
    """
    acts = [make() for _ in range(cores())]
    with ThreadPoolExecutor(len(acts)) as pool:
        timed = partial(_fastest_s, clock=time.thread_time, within_s=within_s)
        return statistics.mean(pool.map(timed, acts))


def _fastest_s(
    act: Act, clock: Callable[[], float] = time.perf_counter, within_s: float | None = None
) -> float:
    """Seconds of one `act`: the median of the faster half, which neighbours disturb least."""
    act()
    seconds: list[float] = []
    until = time.perf_counter() + (MEASURE_S if within_s is None else within_s)
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
    print(json.dumps(measure(thorough=THOROUGH in sys.argv)))
