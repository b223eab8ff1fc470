"""The forms in which clusters publish their jobs, each turned into the same few columns.

In: files as published. Out: `Trace`; times in s, whole GPUs.
Columns as in the READMEs and headers of msr-fiddle/philly-traces, S-Lab-System-Group/HeliosData,
InternLM/AcmeTrace and alibaba/clusterdata (cluster-trace-gpu-v2020, -v2023, -v2025,
cluster-trace-v2026-spot-gpu), the pages of `sacct` and of the Standard Workload Format 2.2. Not
verified: the header of PAI's flattened job list, of which the columns read here are known from
the simulator beside it, and that the spot trace's `gpu_request` is of one worker (as its excerpt
suggests).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gigafactory.faults import Fault, Refused, nearest
from gigafactory.twin.traces.check import Rows, sound
from gigafactory.twin.traces.pools import VcPool
from gigafactory.twin.traces.sheet import Sheet, open_sheet
from gigafactory.twin.traces.trace import OUTCOMES, Trace

_WORDS = {
    "completed": ("completed", "pass", "terminated", "succeeded"),
    "cancelled": ("cancelled", "killed", "preempted"),
    # Acme and Helios count a time limit and a lost node as failures, and so do we.
    "failed": ("failed", "timeout", "node_fail", "out_of_memory", "boot_fail", "deadline"),
}
OUTCOME_OF = {word: OUTCOMES.index(name) for name, words in _WORDS.items() for word in words}
SWF_OUTCOME = {"0": 3, "1": 1, "5": 2}


def load(
    path: str | Path,
    form: str | None = None,
    on_fault: Literal["refuse", "skip"] = "refuse",
    gpus: int | None = None,
    vc_pools: Sequence[VcPool] | None = None,
) -> Trace:
    """Read a trace and check every row; `form` is seen from the columns where it is not given.

    Unsound rows (docs/traces.md lists the kinds) are refused, one fault for each kind, or with
    `skip` left out, and counted in `fault_counts`. `gpus` is the size of the cluster, `vc_pools`
    that of its virtual clusters; a job that could never start in them is unsound.
    """
    sheet = open_sheet(Path(path))
    form = _form(sheet, form)
    return sound(form, sheet, FORMS[form].rows(sheet), on_fault == "skip", gpus, vc_pools)


def _form(sheet: Sheet, asked: str | None) -> str:
    """The form of a file, or a refusal that names what is missing."""
    have = set(sheet.cells.column_names)
    if asked is not None and asked not in FORMS:
        why, hint = f"known: {', '.join(FORMS)}", nearest(asked, FORMS)
        raise Refused(Fault(f"no form {asked!r}", "--form", why, hint))
    for name in [asked] if asked else FORMS:
        if any(have.issuperset(needs) for needs in FORMS[name].needs):
            return name
    where = str(sheet.path)
    if {"sn", "gpu", "model"} <= have or {"node_name", "gpu_capacity_num"} <= have:
        what, why = f"{sheet.path.name} is no trace", "it lists nodes, not jobs"
        raise Refused(Fault(what, where, why, "give the table of its jobs or pods"))
    name, missing = min(
        (
            (name, set(needs) - have)
            for name in ([asked] if asked else FORMS)
            for needs in FORMS[name].needs
        ),
        key=lambda pair: len(pair[1]),
    )
    has = ", ".join(sheet.cells.column_names[:20])
    why = f"columns missing for the form {name}: {', '.join(sorted(missing))}; it has {has}"
    what = f"{sheet.path.name} has the columns of no trace"
    hint = "rename its columns to submit_s, duration_s, num_gpus; docs/traces.md lists other forms"
    raise Refused(Fault(what, where, why, hint))


@dataclass
class _Made(Rows):
    """Rows in the making: columns of a sheet, with what could not be read."""

    sheet: Sheet = field(kw_only=True)

    def number(self, name: str) -> NDArray[np.float64]:
        return self._read(name, self.sheet.numbers, "number")

    def time(self, name: str) -> NDArray[np.float64]:
        return self._read(name, self.sheet.times, "time")

    def _read(self, name: str, read: Any, noun: str) -> NDArray[np.float64]:
        values, bad = read(name)
        if bad.any():
            cells = self.sheet.text(name)

            def why(row: int) -> str:
                return f"{name} is {cells[row].as_py()!r}, no {noun}"

            self.problems.append(("unreadable cell", bad, why))
        return values


def _new(sheet: Sheet, ids: str | None, vc: str | None = None) -> _Made:
    made = _Made(sheet=sheet)
    if ids and sheet.has(ids):
        made.ids = sheet.text(ids)
    if vc and sheet.has(vc):
        made.vc = sheet.text(vc)
    return made


def _plain(sheet: Sheet) -> _Made:
    made = _new(sheet, "job_id", "vc")
    made.submit_s = made.number("submit_s")
    made.duration_s = made.number("duration_s")
    made.gpus = made.number("num_gpus")
    made.ordered = True
    if sheet.has("queue_s"):
        made.queue_s = made.number("queue_s")
    if sheet.has("outcome"):
        made.outcome = _outcomes(sheet.text("outcome"))
    return made


def _philly(sheet: Sheet) -> _Made:
    made = _new(sheet, "jobid", "vc")
    _timed(made, "submitted_time", "start_time", "end_time")
    made.gpus = made.number("attempt_gpus")
    made.outcome = _outcomes(sheet.text("status"))
    return made


def _slurm_log(sheet: Sheet) -> _Made:
    """Helios and Acme. `duration` and `queue` are what their summaries are made from.

    In Kalos the `duration` of the published examples runs from the submission, not the start:
    rows where it is not end - start are noted.
    """
    made = _new(sheet, "job_id", "vc")
    made.dated = sheet.dated("submit_time")
    made.submit_s = made.time("submit_time")
    made.duration_s, made.gpus = made.number("duration"), made.number("gpu_num")
    made.queue_s = made.number("queue")
    made.outcome = _outcomes(sheet.text("state"))
    if sheet.has("start_time") and sheet.has("end_time"):
        run_s = made.time("end_time") - made.time("start_time")
        made.noted["duration_is_not_end_less_start"] = np.abs(run_s - made.duration_s) > 1
        made.aside["unfinished"] = np.isnan(run_s) & np.isnan(made.duration_s)
    return made


def _pai2020(sheet: Sheet) -> _Made:
    return _pai2020_flat(sheet) if sheet.has("num_gpu") else _pai2020_tasks(sheet)


def _pai2020_tasks(sheet: Sheet) -> _Made:
    """The task table; a task is a job, as in its published summary. `plan_gpu` is in percent.

    The job table beside it, if there is one, tells when the job was submitted.
    """
    made = _new(sheet, None)
    named = sheet.text("job_name")
    made.ids = pc.binary_join_element_wise(named, sheet.text("task_name"), "/")
    start_s, end_s = made.time("start_time"), made.time("end_time")
    made.submit_s, made.duration_s = start_s, end_s - start_s
    plan, instances = made.number("plan_gpu"), made.number("inst_num")
    none = (np.isnan(plan) & ~sheet.numbers("plan_gpu")[1]) | (plan == 0)
    made.gpus = np.where(none, 0.0, plan / 100 * instances)
    made.shared = True
    made.outcome = _outcomes(sheet.text("status"))
    made.aside["unfinished"] = np.isnan(made.duration_s)
    beside = sheet.path.with_name(sheet.path.name.replace("task", "job"))
    if beside != sheet.path and beside.is_file():
        jobs = open_sheet(beside)
        at = pc.index_in(named, jobs.text("job_name"))
        found = at.is_valid().to_numpy(zero_copy_only=False)
        submit_s = jobs.times("start_time")[0][at.fill_null(0).to_numpy(zero_copy_only=False)]
        made.submit_s = np.where(found, submit_s, start_s)
        made.queue_s = np.where(found, start_s - submit_s, np.nan)
        made.noted["not_in_the_job_table"] = ~found
    return made


def _pai2020_flat(sheet: Sheet) -> _Made:
    """One row a job, as the simulator beside the trace reads it; `num_gpu` of one instance."""
    made = _new(sheet, "job_id")
    made.submit_s, made.duration_s = made.number("submit_time"), made.number("duration")
    made.gpus = made.number("num_gpu") * made.number("num_inst")
    made.shared = True
    if sheet.has("wait_time"):
        made.queue_s = made.number("wait_time")
    return made


def _pai2023(sheet: Sheet) -> _Made:
    made = _new(sheet, "name")
    _timed(made, "creation_time", "scheduled_time", "deletion_time")
    part = np.where(made.number("gpu_milli") > 0, made.number("gpu_milli") / 1000, 1)
    gpus = made.number("num_gpu")
    made.gpus = np.where(gpus == 1, part, gpus)
    made.shared = True
    made.outcome = _outcomes(sheet.text("pod_phase"))
    return made


def _pai2025(sheet: Sheet) -> _Made:
    made = _new(sheet, "instance_sn", "app_name")
    _timed(made, "creation_time", "scheduled_time", "deletion_time")
    made.gpus = made.number("gpu_request")
    # An empty creation or deletion lies outside the time that was watched.
    made.aside["unfinished"] |= np.isnan(made.submit_s)
    return made


def _pai2026_spot(sheet: Sheet) -> _Made:
    made = _new(sheet, "job_name", "organization")
    made.submit_s, made.duration_s = made.number("submit_time"), made.number("duration")
    made.gpus = made.number("gpu_request") * made.number("worker_num")
    made.shared = True
    return made


def _sacct(sheet: Sheet) -> _Made:
    made = _new(sheet, "JobID", "Partition")
    made.aside["steps"] = _where(pc.match_substring(made.ids, "."))
    _timed(made, "Submit", "Start", "End")
    made.gpus = np.zeros(len(sheet.line))
    for name in ("ReqTRES", "AllocTRES"):  # What was given counts more than what was asked.
        if sheet.has(name):
            gpus = np.array([_tres_gpus(cell) for cell in sheet.text(name).to_pylist()])
            made.gpus = np.where(gpus > 0, gpus, made.gpus)
    made.outcome = _outcomes(sheet.text("State"))
    return made


def _swf(sheet: Sheet) -> _Made:
    """Processors count as GPUs, -1 is unknown; status 2 to 4 is a part of a job above it."""
    made = _new(sheet, "job_number", "queue_number")
    status = sheet.text("swf_status")
    made.submit_s, made.duration_s = made.number("submit_time"), made.number("run_time")
    given, asked = made.number("allocated_processors"), made.number("requested_processors")
    made.gpus = np.where(given > 0, given, asked)
    wait_s = made.number("wait_time")
    made.queue_s = np.where(wait_s == -1, np.nan, wait_s)
    made.outcome = _outcomes(status, SWF_OUTCOME)
    made.ordered = True
    made.aside["steps"] = _where(pc.is_in(status, pa.array(["2", "3", "4"])))
    made.aside["unfinished"] = (made.duration_s == -1) | (made.gpus == -1)
    return made


def _timed(made: _Made, submit: str, start: str, end: str) -> None:
    """Run time and waiting from three moments; without a start or an end there was no run."""
    made.dated = made.sheet.dated(submit)
    made.submit_s, start_s, end_s = made.time(submit), made.time(start), made.time(end)
    made.duration_s, made.queue_s = end_s - start_s, start_s - made.submit_s
    made.aside["unfinished"] = np.isnan(made.duration_s)


def _outcomes(
    words: pa.Array, meaning: dict[str, int] = OUTCOME_OF, unknown: int = 0
) -> NDArray[np.int8]:
    """Words as outcomes; of `CANCELLED by 1000` the first counts."""
    coded = words.fill_null("").dictionary_encode()
    code = [
        meaning.get(word.lower().split(" ")[0].rstrip("+"), unknown)
        for word in coded.dictionary.to_pylist()
    ]
    return np.array(code, np.int8)[coded.indices.to_numpy(zero_copy_only=False)]


def _tres_gpus(cell: str | None) -> float:
    """GPUs in `cpu=8,gres/gpu=4,gres/gpu:a100=4`: the plain figure, else the sum of the typed."""
    plain, typed = 0.0, 0.0
    for part in (cell or "").split(","):
        name, _, count = part.partition("=")
        if name == "gres/gpu" and count.isdigit():
            plain = float(count)
        elif name.startswith("gres/gpu:") and count.isdigit():
            typed += float(count)
    return plain or typed


def _where(mask: pa.Array) -> NDArray[np.bool_]:
    return mask.fill_null(False).to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class _Form:
    rows: Callable[[Sheet], _Made]
    needs: tuple[tuple[str, ...], ...]
    """Columns that it must have, one set of these."""


def _needs(*texts: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(text.split()) for text in texts)


FORMS = {
    "plain": _Form(_plain, _needs("submit_s duration_s num_gpus")),
    "philly": _Form(
        _philly, _needs("jobid vc status submitted_time start_time end_time attempt_gpus")
    ),
    "helios": _Form(_slurm_log, _needs("job_id vc gpu_num state submit_time duration queue")),
    "acme": _Form(_slurm_log, _needs("job_id type gpu_num state submit_time duration queue")),
    "pai2020": _Form(
        _pai2020,
        _needs(
            "job_name task_name inst_num status start_time end_time plan_gpu",
            "job_id submit_time duration num_gpu num_inst",
        ),
    ),
    "pai2023": _Form(
        _pai2023,
        _needs("name num_gpu gpu_milli pod_phase creation_time scheduled_time deletion_time"),
    ),
    "pai2025": _Form(
        _pai2025,
        _needs("instance_sn app_name gpu_request creation_time scheduled_time deletion_time"),
    ),
    "pai2026-spot": _Form(
        _pai2026_spot,
        _needs("job_name organization gpu_request worker_num submit_time duration"),
    ),
    "sacct": _Form(
        _sacct,
        _needs("JobID Submit Start End State AllocTRES", "JobID Submit Start End State ReqTRES"),
    ),
    "swf": _Form(
        _swf,
        _needs(
            "job_number submit_time wait_time run_time allocated_processors"
            " requested_processors swf_status queue_number"
        ),
    ),
}
"""In the order in which a file's columns are held against them."""
