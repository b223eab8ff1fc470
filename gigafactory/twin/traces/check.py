"""Rows of whatever form into a sound trace; what is unsound is refused or left out, by line.

Units: s, GPUs. Vectorised: a million rows take less than a second.
"""

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gigafactory.faults import Fault, Refused
from gigafactory.twin.traces.pools import VcPool
from gigafactory.twin.traces.sheet import Sheet
from gigafactory.twin.traces.trace import RowFault, Trace

SHOWN = 20
"""Rows of each kind of fault that are told one by one; all are counted."""
GPUS_MAX = 2**31 - 1
Mask = NDArray[np.bool_]
Problem = tuple[str, Mask, Callable[[int], str]]
"""Kind, the rows that have it, and why of one of them."""
_NONE = np.empty(0)


@dataclass
class Rows:
    """What every form gives; nan where a cell is empty."""

    submit_s: NDArray[np.float64] = field(default_factory=_NONE.copy)
    duration_s: NDArray[np.float64] = field(default_factory=_NONE.copy)
    gpus: NDArray[np.float64] = field(default_factory=_NONE.copy)
    ids: pa.Array | None = None
    vc: pa.Array | None = None
    queue_s: NDArray[np.float64] | None = None
    outcome: NDArray[np.int8] | None = None
    aside: dict[str, Mask] = field(default_factory=dict)
    """Rows to leave out that are no fault."""
    noted: dict[str, Mask] = field(default_factory=dict)
    """Rows to keep of which something is to be said."""
    problems: list[Problem] = field(default_factory=list)
    """At first: cells that cannot be read."""
    shared: bool = False
    """GPUs may be shared: a fraction is lawful, and rounded up."""
    ordered: bool = False
    """The form promises the order of submission."""
    dated: bool = False


def sound(
    form: str,
    sheet: Sheet,
    rows: Rows,
    skip: bool,
    gpus: int | None,
    vc_pools: Sequence[VcPool] | None,
) -> Trace:
    """The trace of all sound rows. Raises `Refused` for any other, unless they are to be skipped.

    Steps, CPU jobs and jobs without a whole run are no faults and go first.
    """
    unread = _any(rows.problems, np.zeros(len(sheet.line), bool))
    aside, noted = _aside(rows, unread)
    noted["blank"] = sheet.blank
    whole_gpus = np.ceil(rows.gpus - 1e-9) if rows.shared else rows.gpus
    problems = rows.problems + _values(rows, unread)
    problems += _sizes(whole_gpus, rows, gpus, vc_pools)
    bad = _any(problems, aside)
    early = _earlier(rows, bad) if rows.ordered else []
    twice = _twice(rows, _any(early, bad))
    if early:  # Again: what is left out for its id says nothing of the order.
        early = _earlier(rows, _any(twice, bad))
        twice = _twice(rows, _any(early, bad))
    problems += early + twice
    told, counts = _told(sheet, problems, aside)
    if counts and not skip:
        raise _refused(sheet, counts, told)
    kept = np.flatnonzero(~_any(problems, aside))
    if not len(kept):
        what, why = f"{sheet.path.name} has no sound GPU job", _counted({**noted, **counts})
        hint = "see that it is the file that you mean"
        raise Refused(Fault(what, str(sheet.path), why, hint))
    noted |= {name: int(mask[kept].sum()) for name, mask in rows.noted.items()}
    noted["rounded_up"] = int((whole_gpus[kept] != rows.gpus[kept]).sum())
    noted["sorted"] = int((np.diff(rows.submit_s[kept]) < 0).sum())
    kept = kept[np.argsort(rows.submit_s[kept], kind="stable")]
    submit_s, begins = rows.submit_s[kept], ""
    if rows.dated:
        begins = str(np.datetime64(int(submit_s[0]), "s")).replace("T", " ")
        submit_s = submit_s - submit_s[0]
    vc, vcs = _vc(rows.vc, kept)
    return Trace(
        form,
        _ids(sheet, rows.ids, kept),
        submit_s,
        rows.duration_s[kept],
        whole_gpus[kept].astype(np.int32),
        vc,
        vcs,
        np.full(len(kept), np.nan) if rows.queue_s is None else rows.queue_s[kept],
        np.zeros(len(kept), np.int8) if rows.outcome is None else rows.outcome[kept],
        {name: count for name, count in noted.items() if count},
        tuple(told),
        counts,
        begins,
    )


def _any(problems: Sequence[Problem], bad: Mask) -> Mask:
    """Rows that have one of the problems, or were bad before."""
    return np.logical_or.reduce([bad, *(mask for _, mask, _ in problems)])


def _aside(rows: Rows, unread: Mask) -> tuple[Mask, dict[str, int]]:
    """Rows that are no GPU jobs to replay, each counted under the first reason."""
    aside: Mask = np.zeros(len(unread), bool)
    counted: dict[str, int] = {}
    reasons = {**rows.aside, "cpu_only": rows.gpus == 0}
    for name in ("steps", "cpu_only", "unfinished"):
        if name in reasons:
            those = reasons[name] & ~aside
            if name != "steps":
                those &= ~unread  # What cannot be read is not known to be no job.
            counted[name] = int(those.sum())
            aside |= those
    return aside, counted


def _told(
    sheet: Sheet, problems: Sequence[Problem], aside: Mask
) -> tuple[list[RowFault], dict[str, int]]:
    """The first rows of each kind, by line, and the number of all."""
    faults: dict[str, dict[int, RowFault]] = {}
    counts = {"no row": len(sheet.torn)} if sheet.torn else {}
    for fault in sheet.torn[:SHOWN]:
        faults.setdefault(fault.what, {})[fault.line] = fault
    seen: dict[str, Mask] = {}
    for kind, mask, why in problems:
        before = seen.get(kind, aside)
        at = np.flatnonzero(mask & ~before)  # A row with two holes is one row.
        if not len(at):
            continue
        seen[kind] = mask | before
        counts[kind] = counts.get(kind, 0) + len(at)
        for row in at[:SHOWN]:
            line = int(sheet.line[row])
            faults.setdefault(kind, {})[line] = RowFault(line, kind, why(int(row)))
    told = [those[line] for those in faults.values() for line in sorted(those)[:SHOWN]]
    return told, counts


def _values(rows: Rows, unread: Mask) -> list[Problem]:
    """Holes, and figures that cannot be."""
    submit_s, duration_s, gpus = rows.submit_s, rows.duration_s, rows.gpus
    found: list[Problem] = [
        ("hole", np.isnan(values) & ~unread, _missing(noun))
        for values, noun in (
            (submit_s, "the time of submission"),
            (duration_s, "the run time"),
            (gpus, "the number of GPUs"),
        )
    ]
    if not rows.dated:  # Seconds since 1970 may well be negative.
        at = _is("submitted at", submit_s)
        found.append(("bad submit time", _wrong(submit_s), at))
    found.append(("bad duration", _wrong(duration_s), _is("runs", duration_s)))
    wrong_gpus = _wrong(gpus) | (gpus > GPUS_MAX)
    if not rows.shared:
        wrong_gpus |= np.isfinite(gpus) & (gpus != np.floor(gpus))
    found.append(("bad GPU count", wrong_gpus, lambda row: f"asks for {gpus[row]:g} GPUs"))
    if rows.queue_s is not None:
        waits_s = rows.queue_s
        found.append(("starts before it was submitted", _wrong(waits_s), _is("waits", waits_s)))
    return found


def _wrong(values: NDArray[np.float64]) -> Mask:
    """Infinite or negative."""
    return np.isinf(values) | (values < 0)


def _missing(noun: str) -> Callable[[int], str]:
    return lambda row: f"{noun} is missing"


def _is(verb: str, values: NDArray[np.float64]) -> Callable[[int], str]:
    return lambda row: f"{verb} {values[row]:g} s"


def _sizes(
    whole_gpus: NDArray[np.float64],
    rows: Rows,
    gpus: int | None,
    vc_pools: Sequence[VcPool] | None,
) -> list[Problem]:
    """Jobs that could never start here."""
    found: list[Problem] = []
    if gpus is not None:
        large = np.isfinite(whole_gpus) & (whole_gpus > gpus)
        found.append(
            ("larger than the cluster", large, lambda row: f"{whole_gpus[row]:g} GPUs of {gpus}")
        )
    if vc_pools is None:
        return found
    coded = (rows.vc if rows.vc is not None else pa.nulls(len(whole_gpus), pa.string())).fill_null(
        ""
    )
    coded = coded.dictionary_encode()
    names: list[str] = coded.dictionary.to_pylist()
    sizes = {pool.vc: pool.gpus for pool in vc_pools}
    code = coded.indices.to_numpy(zero_copy_only=False)
    size = np.array([sizes.get(name, math.inf) for name in names], float)[code]
    unknown = np.array([name not in sizes for name in names], bool)[code]
    large = np.isfinite(whole_gpus) & (whole_gpus > size)

    def whose(row: int) -> str:
        return f"{whole_gpus[row]:g} GPUs of {size[row]:g} in {names[code[row]]!r}"

    found.append(("larger than its virtual cluster", large, whose))
    found.append(
        ("unknown virtual cluster", unknown, lambda row: f"no pool {names[code[row]]!r} is given")
    )
    return found


def _earlier(rows: Rows, bad: Mask) -> list[Problem]:
    """Rows submitted before one that stands above them, of those that are sound else."""
    good = np.flatnonzero(~bad)
    submit_s = rows.submit_s[good]
    latest_s = np.maximum.accumulate(submit_s)
    mask = np.zeros(len(bad), bool)
    mask[good] = submit_s < latest_s
    above_s = np.full(len(bad), np.nan)
    above_s[good] = latest_s

    def why(row: int) -> str:
        return f"submitted at {rows.submit_s[row]:.12g} s, a row above at {above_s[row]:.12g} s"

    return [("out of order", mask, why)]


def _twice(rows: Rows, bad: Mask) -> list[Problem]:
    """Rows whose id a sound row above them has."""
    if rows.ids is None:
        return []
    ids = rows.ids
    good = np.flatnonzero(~bad)
    codes = ids.take(pa.array(good)).dictionary_encode().indices
    known = codes.is_valid().to_numpy(zero_copy_only=False)
    good, codes = good[known], codes.drop_null().to_numpy()
    mask = np.zeros(len(bad), bool)
    mask[good] = True
    mask[good[np.unique(codes, return_index=True)[1]]] = False
    holes = ids.is_null().to_numpy(zero_copy_only=False)
    return [
        ("job id twice", mask, lambda row: f"a row above is job {ids[row].as_py()!r}, too"),
        ("hole", holes, lambda row: "the job id is missing"),
    ]


def _refused(sheet: Sheet, counts: dict[str, int], told: list[RowFault]) -> Refused:
    """A fault for each kind: how many, the first lines, and why of the first."""
    faults = []
    for kind, count in counts.items():
        those = [fault for fault in told if fault.what == kind]
        lines = ", ".join(str(fault.line) for fault in those[:5])
        more = f" and {count - 5:,} more" if count > 5 else ""
        noun = "row" if count == 1 else "rows"
        faults.append(
            Fault(
                f"{count:,} {noun}: {kind}",
                f"{sheet.path}, line {lines}{more}",
                f"line {those[0].line}: {those[0].why}",
                REMEDY.get(kind, MEND).format(shlex.quote(str(sheet.path))),
            )
        )
    return Refused(*faults)


MEND = "mend the file: `gigafactory trace {} --skip --out CLEAN.parquet` leaves them out"
"""Holds wherever a trace is read, also for a stream of a blueprint, which knows no `--skip`."""
REMEDY = {
    "larger than the cluster": "give more `--gpus`, or leave them out with `--skip`",
    "larger than its virtual cluster": "give it more GPUs, or leave them out with `--skip`",
    "unknown virtual cluster": "add its pool to `--vc-gpus`, or leave them out with `--skip`",
    "out of order": f"sort the file by time of submission, or {MEND}",
}


def _counted(counts: dict[str, int]) -> str:
    words = [f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return ", ".join(words) or "no rows"


def _vc(names: pa.Array | None, kept: NDArray[np.int64]) -> tuple[NDArray[np.int32], Any]:
    if names is None:
        return np.zeros(len(kept), np.int32), ("",)
    coded = names.take(pa.array(kept)).fill_null("").dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False), tuple(coded.dictionary.to_pylist())


def _ids(sheet: Sheet, ids: pa.Array | None, kept: NDArray[np.int64]) -> NDArray[Any]:
    """Ids as in the file: int where every one is written as an int is; else text."""
    if ids is None:
        torn = [fault.line for fault in sheet.torn]
        return kept + np.searchsorted(torn, sheet.line[kept])  # They were rows, too.
    ids = ids.take(pa.array(kept))
    try:
        numbers = ids.cast(pa.int64())
    except pa.ArrowInvalid:
        return ids.to_numpy(zero_copy_only=False)
    return (numbers if numbers.cast(pa.string()).equals(ids) else ids).to_numpy(
        zero_copy_only=False
    )
