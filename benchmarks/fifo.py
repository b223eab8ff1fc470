"""Strict first come, first served: the twin beside SimPy and beside a bare loop in Python.

    OMP_NUM_THREADS=1 python benchmarks/fifo.py [TRACE] [--gpus 480 | --vc-gpus FILE] [--json]
    OMP_NUM_THREADS=1 python benchmarks/fifo.py --oracle 10000

Everybody plays the same jobs in the same process on one core; CPU-seconds of the loops alone, the
best of three rounds, reading and compiling apart. Start times must be the same, to the last bit.
Without a file, jobs are made up after Philly's published summary (modelled). With `--vc-gpus` each
virtual cluster is a pool of nodes, and HeliosArtifact's figures stand beside, quoted.
`--oracle` plays so many small random traces, full of ties, against both peers.
"""

import argparse
import heapq
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import simpy

from gigafactory.twin import replayed, run, traces

Job = tuple[float, float, int]
"""Submission in s, run time in s, GPUs; always in order of submission."""
HELIOS_CPU_S = 163.4
HELIOS_MEAN_JCT_S = 11_585.6
"""Quoted, not measured here: HeliosArtifact (Hu et al. 2021, doi:10.1145/3458817.3476223), FIFO
with consolidated placement on Philly of October and November 2017, 68,503 jobs, 11 clusters."""
AFTER_ALL = 2
"""A priority behind SimPy's own: what is scheduled with it comes last of its time."""
GPUS = 480


def heap_fifo(jobs: Sequence[Job], gpus: int) -> list[float]:
    """Start times on `gpus` interchangeable GPUs: nobody starts before the one ahead."""
    free, now_s = gpus, 0.0
    ends: list[tuple[float, int]] = []
    starts_s = []
    for submit_s, duration_s, wanted in jobs:
        now_s = max(now_s, submit_s)
        while ends and (ends[0][0] <= now_s or free < wanted):
            end_s, back = heapq.heappop(ends)
            now_s = max(now_s, end_s)
            free += back
        free -= wanted
        starts_s.append(now_s)
        heapq.heappush(ends, (now_s + duration_s, wanted))
    return starts_s


def simpy_fifo(jobs: Sequence[Job], gpus: int) -> list[float]:
    """The same by SimPy, whose containers serve strictly in turn."""
    world = simpy.Environment()
    free = simpy.Container(world, gpus, gpus)
    starts_s = [0.0] * len(jobs)

    def live(row: int, submit_s: float, duration_s: float, wanted: int) -> Generator:
        yield world.timeout(submit_s)
        yield free.get(wanted)
        starts_s[row] = world.now
        yield world.timeout(duration_s)
        yield free.put(wanted)

    for row, job in enumerate(jobs):
        world.process(live(row, *job))
    world.run()
    return starts_s


class Floor:
    """Nodes: whole ones first, the rest on the fullest that fits; of equals the last touched."""

    def __init__(self, nodes: int, size: int):
        self.size, self.free, self.clock = size, [size] * nodes, nodes
        self.touched = list(range(nodes))

    def take(self, gpus: int) -> list[tuple[int, int]] | None:
        """Nodes and GPUs on each, or nothing."""
        free, touched = self.free, self.touched
        whole, rest = divmod(gpus, self.size)
        part = [n for n, has in enumerate(free) if rest and rest <= has < self.size]
        if rest and not part:
            whole += 1
        empty = [n for n, has in enumerate(free) if has == self.size] if whole else []
        if len(empty) < whole:
            return None
        picked = heapq.nlargest(whole, empty, key=touched.__getitem__)
        if part:
            picked.append(min(part, key=lambda n: (free[n], -touched[n])))
        held = []
        for n in picked:
            held.append((n, min(gpus, free[n])))
            gpus -= held[-1][1]
        self.put([(n, -taken) for n, taken in held])
        return held

    def put(self, held: list[tuple[int, int]]) -> None:
        """Give back."""
        for n, gpus in held:
            self.free[n] += gpus
            self.clock += 1
            self.touched[n] = self.clock


def heap_floor(jobs: Sequence[Job], floor: Floor) -> list[float]:
    """Start times on nodes. What ends at a time is freed before what waits is started."""
    starts_s: list[float] = []
    ends: list[tuple[float, int, list[tuple[int, int]]]] = []
    came = 0
    while len(starts_s) < len(jobs):
        now_s = jobs[came][0] if came < len(jobs) else ends[0][0]
        now_s = min(now_s, ends[0][0]) if ends else now_s
        while ends and ends[0][0] == now_s:
            floor.put(heapq.heappop(ends)[2])
        while came < len(jobs) and jobs[came][0] == now_s:
            came += 1
        while len(starts_s) < came and (held := floor.take(jobs[len(starts_s)][2])):
            row = len(starts_s)
            starts_s.append(now_s)
            heapq.heappush(ends, (now_s + jobs[row][1], row, held))
    return starts_s


def simpy_floor(jobs: Sequence[Job], floor: Floor) -> list[float]:
    """The same by SimPy: who waits is looked at when all else of that time has happened."""
    world = simpy.Environment()
    queue: deque[tuple[int, simpy.Event]] = deque()
    starts_s = [0.0] * len(jobs)

    def serve(_: Any) -> None:
        while queue and (held := floor.take(queue[0][0])):
            queue.popleft()[1].succeed(held)

    def look() -> None:
        later = simpy.Event(world)
        later.callbacks.append(serve)
        later._ok, later._value = True, None
        world.schedule(later, priority=AFTER_ALL)

    def live(row: int, submit_s: float, duration_s: float, wanted: int) -> Generator:
        yield world.timeout(submit_s)
        go = world.event()
        queue.append((wanted, go))
        look()
        held = yield go
        starts_s[row] = world.now
        yield world.timeout(duration_s)
        floor.put(held)
        look()

    for row, job in enumerate(jobs):
        world.process(live(row, *job))
    world.run()
    return starts_s


def drawn(random: np.random.Generator, jobs_max: int = 40) -> tuple[traces.Trace, int, int]:
    """A small random trace with what is hard: ties, no length, gangs as large as the pool.

    And the nodes and GPUs a node of each of its virtual clusters.
    """
    jobs, vcs = int(random.integers(1, jobs_max + 1)), int(random.integers(1, 4))
    size, nodes = int(random.integers(1, 9)), int(random.integers(1, 7))
    # Whole seconds and quarters tie; other floats show whether sums are rounded alike.
    grain = random.choice([1.0, 0.25, 0.1, 1e-9])
    span_s = random.choice([3.0, 30.0, 300.0])
    submit_s = np.sort(np.floor(random.uniform(0, span_s, jobs) / grain) * grain)
    duration_s = np.floor(random.exponential(span_s / 4, jobs) / grain) * grain
    duration_s[random.uniform(size=jobs) < 0.15] = 0.0
    gpus = np.minimum(random.geometric(random.choice([0.1, 0.4]), jobs), size * nodes)
    gpus[random.uniform(size=jobs) < 0.1] = size * nodes
    trace = traces.Trace(
        "plain",
        np.arange(jobs),
        submit_s,
        duration_s,
        gpus.astype(np.int32),
        random.integers(0, vcs, jobs).astype(np.int32),
        tuple("abc"[:vcs]),
        np.full(jobs, np.nan),
        np.zeros(jobs, np.int8),
    )
    return trace, nodes, size


def differing(trace: traces.Trace, nodes: int, size: int, compiled: bool | None) -> list[str]:
    """Where our start times are not those of the oracles, bit by bit; nothing if all is well."""
    found = []
    plain = replayed.play(trace, gpus=nodes * size, compiled=compiled).start_s.tolist()
    for peer in (heap_fifo, simpy_fifo):
        if peer(jobs_of(trace), nodes * size) != plain:
            found.append(peer.__name__)
    pools = [traces.VcPool(vc, nodes * size, size) for vc in trace.vcs]
    ours_s = replayed.play(trace, pools=pools, compiled=compiled).start_s
    for peer in (heap_floor, simpy_floor):
        for vc in range(len(trace.vcs)):
            of_vc = trace.vc == vc
            if peer(jobs_of(trace, of_vc), Floor(nodes, size)) != ours_s[of_vc].tolist():
                found.append(f"{peer.__name__} of {trace.vcs[vc]}")
    return found


def jobs_of(trace: traces.Trace, which: Any = slice(None)) -> list[Job]:
    """The jobs as plain Python."""
    columns = (trace.submit_s, trace.duration_s, trace.num_gpus)
    return list(zip(*(column[which].tolist() for column in columns), strict=True))


def oracle(count: int) -> dict[str, Any]:
    """Play `count` random traces, each by seed, and tell the seeds that differ."""
    run.warm()
    jobs, wrong = 0, {}
    for seed in range(count):
        made = drawn(np.random.default_rng(seed))
        jobs += len(made[0])
        if found := differing(*made, compiled=True):
            wrong[seed] = found
    return {"traces": count, "jobs": jobs, "identical": count - len(wrong), "differing": wrong}


def best(work: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    """What it finds, and the fewest CPU-seconds it took."""
    taken_s = []
    for _ in range(rounds):
        began_s = time.process_time()
        found = work()
        taken_s.append(time.process_time() - began_s)
    return found, min(taken_s)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Ours and the peers', on one trace."""
    pools = traces.pools(options.vc_gpus) if options.vc_gpus else None
    if options.trace:
        fate = "skip" if options.skip else "refuse"
        gpus = None if pools else options.gpus
        trace = traces.load(options.trace, options.form, fate, gpus, pools)
    else:
        trace = traces.like("Philly", 50_000, 60, seed=1)
    sized = {"pools": pools} if pools else {"gpus": options.gpus}
    plays = [replayed.play(trace, **sized, compiled=True) for _ in range(options.rounds)]
    ours, ours_s = plays[0], min(play.simulate_cpu_s for play in plays)
    rows = {"ours": _row(trace, ours.start_s, ours_s, ours_s)}
    if pools is None:
        jobs = jobs_of(trace)
        for peer in (simpy_fifo, heap_fifo):
            starts_s, cpu_s = best(lambda peer=peer: peer(jobs, options.gpus), options.rounds)
            rows[peer.__name__] = _row(trace, np.array(starts_s), cpu_s, ours_s)
            rows[peer.__name__]["same_starts"] = starts_s == ours.start_s.tolist()
    else:
        size = {pool.vc: (pool.gpus // pool.gpus_per_node, pool.gpus_per_node) for pool in pools}
        starts_s, cpu_s = np.empty(len(trace)), 0.0
        for row, vc in enumerate(trace.vcs):
            jobs = jobs_of(trace, trace.vc == row)
            of_vc, taken_s = best(lambda jobs=jobs, vc=vc: heap_floor(jobs, Floor(*size[vc])), 1)
            starts_s[trace.vc == row], cpu_s = of_vc, cpu_s + taken_s
        rows["heap_floor"] = _row(trace, starts_s, cpu_s, ours_s)
        rows["heap_floor"]["same_starts"] = starts_s.tolist() == ours.start_s.tolist()
        rows["HeliosArtifact, quoted"] = {
            "cpu_s": HELIOS_CPU_S,
            "jobs_per_cpu_s": 68_503 / HELIOS_CPU_S,
            "mean_jct_s": HELIOS_MEAN_JCT_S,
            "slower_than_ours": HELIOS_CPU_S / ours_s,
            "mean_jct_differs": abs(ours.jct_s.mean() / HELIOS_MEAN_JCT_S - 1),
        }
    return {"jobs": len(trace), "gpus": ours.gpus, "made_up": not options.trace, "of": rows}


def _row(trace: traces.Trace, starts_s: Any, cpu_s: float, ours_s: float) -> dict[str, Any]:
    return {
        "cpu_s": cpu_s,
        "jobs_per_cpu_s": len(trace) / cpu_s,
        "mean_jct_s": float((starts_s + trace.duration_s - trace.submit_s).mean()),
        "slower_than_ours": cpu_s / ours_s,
    }


def said(report: dict[str, Any]) -> str:
    """The report in words."""
    lines = [f"{report['jobs']:,} jobs, {report['gpus']:,} GPUs"]
    lines[0] += ", made up after Philly's summary" if report["made_up"] else ""
    for name, row in report["of"].items():
        lines.append(
            f"{name:<23} {row['cpu_s']:9.4f} CPU-s {row['jobs_per_cpu_s']:12,.0f} jobs/CPU-s"
            f"  mean JCT {row['mean_jct_s']:12,.2f} s  x {row['slower_than_ours']:.4g}"
        )
        if "same_starts" in row:
            lines[-1] += "  same starts" if row["same_starts"] else "  OTHER STARTS"
        if "mean_jct_differs" in row:
            lines[-1] += f"  mean JCT differs by {row['mean_jct_differs']:.4%}"
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", nargs="?")
    parser.add_argument("--gpus", type=int, default=GPUS)
    parser.add_argument("--vc-gpus")
    parser.add_argument("--form")
    parser.add_argument("--skip", action="store_true", help="leave unsound rows out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--oracle", type=int, metavar="TRACES", help="compare start times only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.oracle:
        report = oracle(options.oracle)
        print(json.dumps(report))
        raise SystemExit(bool(report["differing"]))
    if options.vc_gpus and not options.trace:
        parser.error("--vc-gpus is for a TRACE that names virtual clusters")
    report = measured(options)
    print(json.dumps(report) if options.json else said(report))


if __name__ == "__main__":
    main()
