"""A trace replayed: its jobs through the factory's own scheduler, on one pool or on many. Modelled.

In: a sound `Trace` and how many GPUs there are. Out: when each job starts and ends, in s. What the
trace does not know is not there: no failures, no power, no time to load or to write checkpoints; a
job that is stopped for another goes on later where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.factory import policy as policies
from gigafactory.factory.state import ENDED_WELL
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.twin import bare, run
from gigafactory.twin.traces import Trace, VcPool

SAME_AS_FIFO = {
    "deadline": "no deadlines",
    "carbon": "no carbon intensity",
    "goodput-per-watt": "no useful work and no energy",
}
"""What a bare trace lacks for these policies to tell its jobs apart."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """What came of a trace; columns in its order, which is that of submission."""

    policy: str
    gpus: int
    job_id: NDArray[Any]
    start_s: NDArray[np.float64]
    """First start."""
    end_s: NDArray[np.float64]
    jct_s: NDArray[np.float64]
    """From submission to end."""
    queue_s: NDArray[np.float64]
    """Of that, not running."""
    makespan_s: float
    """From the first submission to the last end."""
    utilisation: float
    """Of the GPUs, over the makespan."""
    preemptions: int
    simulate_cpu_s: float
    """CPU-seconds of the simulation loop alone."""
    skipped: dict[str, int]
    """Unsound rows that were left out, by kind."""
    noted: dict[str, int]
    """Rows left out or changed that are no fault."""
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the columns, in plain numbers."""
        told: dict[str, Any] = {
            "policy": self.policy,
            "gpus": self.gpus,
            "jobs": len(self.job_id),
        }
        for name, column in (("jct", self.jct_s), ("queue", self.queue_s)):
            told[f"mean_{name}_s"] = float(column.mean())
            for percent in (50, 95):
                told[f"p{percent}_{name}_s"] = float(np.percentile(column, percent))
        return told | {
            "makespan_s": self.makespan_s,
            "utilisation": self.utilisation,
            "preemptions": self.preemptions,
            "simulate_cpu_s": self.simulate_cpu_s,
            "modelled": True,
            "skipped": self.skipped,
            "noted": self.noted,
            "assumptions": list(self.assumptions),
        }


def play(
    trace: Trace,
    gpus: int | None = None,
    pools: Sequence[VcPool] | None = None,
    policy: str = "fifo",
    compiled: bool | None = None,
) -> Replayed:
    """Replay the trace on `gpus` interchangeable GPUs, or on `pools`, one for each virtual cluster.

    `policy` is a name of `POLICIES` or a user's own, `file.py:function`. Raises `Refused`, also
    where a job could never start; `traces.load` finds these by line, and leaves them out if asked.
    """
    if (gpus is None) == (pools is None):
        why = "a trace runs either on so many GPUs or on a pool for each virtual cluster"
        hint = "give one of `--gpus N` and `--vc-gpus FILE`"
        raise Refused(Fault("it is not clear how large the cluster is", "--gpus", why, hint))
    chosen = policy_of(policy)
    rooms, vc = _rooms(trace, gpus, pools)
    by_vc = policy == "fair" and pools is None
    scene = bare.scene_of(
        trace.submit_s,
        trace.duration_s,
        trace.num_gpus,
        policy=chosen,
        pools=rooms,
        vc=vc,
        tenant=trace.vc if by_vc else None,
    )
    if compiled is None:
        compiled = len(trace) >= run.SMALL
    if compiled:
        run.warm()  # So that compiling is not counted.
    lived = run.live(scene, compiled=compiled)
    return _told(trace, policy, gpus or sum(size for size, _ in rooms), lived, by_vc)


def write_starts(path: Path, replayed: Replayed) -> None:
    """Write `job_id,start_s`, every digit of the times, in order of submission."""
    import csv

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("job_id", "start_s"))
        writer.writerows(zip(replayed.job_id.tolist(), replayed.start_s.tolist(), strict=True))


def policy_of(policy: str) -> str | policies.Policy:
    """A known policy as its name; `file.py:function` as the function, which is then looked after.

    The file is the user's own code, and is run.
    """
    if policy in policies.POLICIES:
        return policy
    file, colon, name = policy.rpartition(":")
    if not colon:
        hint = f"{nearest(policy, policies.POLICIES)}; or give your own as file.py:function"
        raise _no_policy(policy, "it is none of the known ones", hint)
    spec = util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise _no_policy(policy, f"{file} is no Python file", "give file.py:function")
    module = util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _no_policy(policy, _said(error), f"mend {file}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = (key for key, value in vars(module).items() if callable(value))
        raise _no_policy(policy, f"{file} has no function {name!r}", nearest(name, known))

    def own(asked: policies.Asked) -> policies.Column:
        try:
            scores = np.asarray(function(asked), float)
        except Exception as error:
            raise _no_policy(policy, _said(error), f"mend {name} in {file}") from error
        if scores.shape != asked.chips.shape:
            why = f"it gave scores of shape {scores.shape} for {len(asked.chips)} jobs"
            raise _no_policy(policy, why, "return one number for each job")
        if np.isnan(scores).any():
            why = f"the score of {np.isnan(scores).sum()} jobs is not a number"
            raise _no_policy(policy, why, "return inf for a job that is to wait")
        return scores

    return own


def _rooms(
    trace: Trace, gpus: int | None, pools: Sequence[VcPool] | None
) -> tuple[list[tuple[int, int]], NDArray[np.int32] | None]:
    """Pools as `bare` wants them, and which is each job's."""
    if pools is None:
        assert gpus is not None
        # More than all jobs together could hold makes no difference.
        size = min(gpus, int(trace.num_gpus.sum(dtype=np.int64)))
        _fits(trace, trace.num_gpus > gpus, f"the cluster has {gpus}")
        return [(size, size)], None
    row_of = {pool.vc: row for row, pool in enumerate(pools)}
    if lacking := [name for name in trace.vcs if name not in row_of]:
        why = f"jobs run in {', '.join(map(repr, lacking[:5]))}, of which no size is given"
        hint = "add them to `--vc-gpus`, or leave their jobs out with `--skip`"
        raise Refused(Fault(f"{len(lacking)} unknown virtual clusters", "--vc-gpus", why, hint))
    vc = np.array([row_of[name] for name in trace.vcs], np.int32)[trace.vc]
    sizes = np.array([pool.gpus for pool in pools])
    _fits(trace, trace.num_gpus > sizes[vc], "its virtual cluster has fewer")
    return [(pool.gpus, pool.gpus_per_node) for pool in pools], vc


def _fits(trace: Trace, large: NDArray[np.bool_], why: str) -> None:
    if large.any():
        first = int(np.argmax(large))
        what = f"{large.sum()} jobs could never start"
        why = f"job {trace.job_id[first]} asks for {trace.num_gpus[first]} GPUs; {why}"
        hint = "give more GPUs, or leave them out with `--skip`"
        raise Refused(Fault(what, "--gpus", why, hint))


def _told(trace: Trace, policy: str, gpus: int, lived: run.Lived, by_vc: bool) -> Replayed:
    start_s = np.where(lived.starts_s < bare.AT_ONCE_S * 1e10, 0.0, lived.starts_s)
    if held := int(np.isnan(start_s).sum()):
        why = f"it gives {held} jobs an infinite score to the end"
        raise _no_policy(policy, why, "let every job go in the end")
    end_s = np.empty(len(trace))
    ended = lived.log[lived.log["outcome"] == ENDED_WELL]
    assert len(ended) == len(trace), "every job that started ends"
    end_s[ended["job"]] = np.where(ended["ended_s"] < bare.AT_ONCE_S * 1e10, 0.0, ended["ended_s"])
    jct_s = end_s - trace.submit_s
    attempts = np.bincount(lived.log["job"], minlength=len(trace))
    queue_s = np.where(attempts == 1, start_s - trace.submit_s, jct_s - trace.duration_s)
    makespan_s = float(end_s.max() - trace.submit_s.min())
    gpu_s = float(trace.duration_s @ trace.num_gpus)
    assumptions = []
    if policy in SAME_AS_FIFO:
        assumptions.append(f"a bare trace has {SAME_AS_FIFO[policy]}: {policy} is fifo here")
    if policy == "fair":
        whose = "virtual clusters share the GPUs" if by_vc else "each virtual cluster has its own"
        assumptions.append(f"{whose}; weights are equal")
    return Replayed(
        policy=policy,
        gpus=gpus,
        job_id=trace.job_id,
        start_s=start_s,
        end_s=end_s,
        jct_s=jct_s,
        queue_s=queue_s,
        makespan_s=makespan_s,
        utilisation=gpu_s / (gpus * makespan_s) if makespan_s > 0 else 0.0,
        preemptions=len(lived.log) - len(trace),
        simulate_cpu_s=lived.cpu_s,
        skipped=dict(trace.fault_counts),
        noted=dict(trace.noted),
        assumptions=tuple(assumptions),
    )


def _no_policy(policy: str, why: str, remedy: str) -> Refused:
    return Refused(Fault(f"{policy} is no policy", "--policy", why, remedy))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
