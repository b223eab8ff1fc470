"""A trace: what jobs were submitted, how many GPUs they took, how long they ran. Units: s, GPUs."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUTCOMES = ("unknown", "completed", "cancelled", "failed")
SYNTHETIC = "synthetic"
"""The form of a trace that was made up."""


@dataclass(frozen=True)
class RowFault:
    """One row that is no sound job. `line` counts from 1: lines of text, rows of Parquet, JSON."""

    line: int
    what: str
    why: str


@dataclass(frozen=True, eq=False)
class Trace:
    """Jobs in the order of submission; ties as in the file."""

    form: str
    job_id: NDArray[Any]
    """As in the file, int or str; the row number from 0 where it has none."""
    submit_s: NDArray[np.float64]
    """As in the file; where that has dates, seconds since the first submission."""
    duration_s: NDArray[np.float64]
    num_gpus: NDArray[np.int32]
    vc: NDArray[np.int32]
    """Index into `vcs`."""
    vcs: tuple[str, ...]
    queue_s: NDArray[np.float64]
    """Waiting as published; nan where unknown."""
    outcome: NDArray[np.int8]
    """Index into `OUTCOMES`."""
    noted: dict[str, int] = field(default_factory=dict)
    """Rows left out or changed that are no fault: `cpu_only`, `unfinished`, `steps`, ..."""
    faults: tuple[RowFault, ...] = ()
    """Rows left out as unsound: the first of each kind."""
    fault_counts: dict[str, int] = field(default_factory=dict)
    """All of them, by kind; a row may have several."""
    begins: str = ""
    """Date and time of second 0, where the file has dates."""

    def __len__(self) -> int:
        return len(self.submit_s)

    @property
    def cpu_only(self) -> int:
        """Jobs that asked for no GPU and were left out."""
        return self.noted.get("cpu_only", 0)


def summary(trace: Trace) -> dict[str, float | None]:
    """What is published of clusters, of this trace; None where it does not know. GPU time: GPU-s.

    Shares are of the jobs whose outcome is known.
    """
    gpu_s = trace.duration_s * trace.num_gpus
    waited_s = trace.queue_s[~np.isnan(trace.queue_s)]
    known = np.count_nonzero(trace.outcome)
    told: dict[str, float | None] = {
        "jobs": float(len(trace)),
        "run_time_mean": _of(np.mean, trace.duration_s),
        "run_time_median": _of(np.median, trace.duration_s),
        "run_time_max": _of(np.max, trace.duration_s),
        "queue_mean": _of(np.mean, waited_s),
        "queue_median": _of(np.median, waited_s),
        "gpus_mean": _of(np.mean, trace.num_gpus),
        "gpus_median": _of(np.median, trace.num_gpus),
        "gpus_max": _of(np.max, trace.num_gpus),
        "gpu_time": float(gpu_s.sum()),
    }
    known_gpu_s = gpu_s[trace.outcome > 0].sum()
    for number, name in enumerate(OUTCOMES[1:], start=1):
        those = trace.outcome == number
        told[f"{name}_share"] = float(those.sum() / known) if known else None
        share = float(gpu_s[those].sum() / known_gpu_s) if known_gpu_s > 0 else None
        told[f"{name}_gpu_time_share"] = share
    return told


def to_table(trace: Trace) -> Any:
    """The trace as an Arrow table in the `plain` form, which `load` reads back."""
    import pyarrow as pa

    vcs = pa.array(trace.vcs, pa.string())
    return pa.table(
        {
            "job_id": pa.array(trace.job_id),
            "submit_s": trace.submit_s,
            "duration_s": trace.duration_s,
            "num_gpus": trace.num_gpus,
            "vc": pa.DictionaryArray.from_arrays(trace.vc, vcs).cast(pa.string()),
            "queue_s": pa.array(trace.queue_s, mask=np.isnan(trace.queue_s)),
            "outcome": np.array(OUTCOMES)[trace.outcome],
        }
    )


def _of(measure: Any, values: NDArray[Any]) -> float | None:
    return float(measure(values)) if len(values) else None
