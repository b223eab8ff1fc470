"""A file as a table of cells with line numbers: CSV, Parquet, JSON, SWF; gzip or not.

What a file is, its bytes say, not its name. CSV is read by Arrow in one block, so that the type of
a column is that of all its cells.
"""

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from gigafactory.faults import Fault, Refused
from gigafactory.twin.traces.trace import RowFault

# Published without a header line; the columns are in the `.header` files beside them
# (alibaba/clusterdata, cluster-trace-gpu-v2020/data).
PAI_TASK = (
    "job_name,task_name,inst_num,status,start_time,end_time,plan_cpu,plan_mem,plan_gpu,gpu_type"
)
PAI_JOB = "job_name,inst_id,user,status,start_time,end_time"
# Standard Workload Format 2.2, www.cs.huji.ac.il/labs/parallel/workload/swf.html: 18 fields.
SWF = (
    "job_number submit_time wait_time run_time allocated_processors cpu_time used_memory"
    " requested_processors requested_time requested_memory swf_status user_id group_id"
    " executable queue_number partition_number preceding_job think_time"
)
# Columns that stay text, whatever they look like: `7e1402` is a virtual cluster, no number.
TEXT = (
    *("job_id", "jobid", "job_name", "task_name", "name", "instance_sn", "JobID", "job_number"),
    *("vc", "organization", "app_name", "Partition", "queue_number"),
    *("state", "status", "State", "pod_phase", "outcome", "AllocTRES", "ReqTRES"),
)
MISSING = ("", "nan", "na", "n/a", "null", "none", "unknown")


@dataclass
class Sheet:
    """What a file holds, before anybody asks which form it has."""

    path: Path
    cells: pa.Table
    line: NDArray[np.int64]
    torn: list[RowFault]
    """Lines that are no rows."""
    blank: int = 0

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self.cells.column_names

    def text(self, name: str) -> pa.Array:
        """A column as text; an empty cell is null."""
        try:
            column = self.cells[name].combine_chunks().cast(pa.string())
        except pa.ArrowException:
            kind = self.cells.schema.field(name).type
            raise _no_table(self.path, f"column {name} is of {kind}") from None
        return pc.if_else(pc.equal(column, ""), None, column)

    def numbers(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """A column as numbers, nan where empty; and where cells are neither."""
        return self._cast(name, _number)

    def times(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """A column as s (since 1970, if it has dates; one without a zone counts as UTC's)."""
        kind = self.cells.schema.field(name).type
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            in_us = pa.timestamp("us", getattr(kind, "tz", None))
            moments = self.cells[name].cast(in_us, safe=False)
            values = moments.cast(pa.int64()).cast(pa.float64(), safe=False)
            return values.to_numpy() / 1e6, np.zeros(len(self.line), bool)
        return self._cast(name, _moment)

    def dated(self, name: str) -> bool:
        """Whether a column of times has dates."""
        kind = self.cells.schema.field(name).type
        return not (pa.types.is_integer(kind) or pa.types.is_floating(kind))

    def _cast(self, name: str, read: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        column = self.cells[name].combine_chunks()
        if pa.types.is_null(column.type):
            return np.full(len(column), np.nan), np.zeros(len(column), bool)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return values, np.zeros(len(column), bool)
        pairs = [read(cell) for cell in self.text(name).to_pylist()]
        values = np.array([value for value, _ in pairs], float)
        return values, np.array([bad for _, bad in pairs], bool)


def open_sheet(path: Path) -> Sheet:
    """Read a file. Raises `Refused` for what is no table."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise _no_table(path, f"it begins like gzip, but: {error}") from None
    if not content.strip():
        raise _no_table(path, "it is empty")
    if content[:4] == b"PAR1":
        return _parquet(path, content)
    if path.suffix.lower() in (".parquet", ".pq"):
        raise _no_table(path, "it is named Parquet, but does not begin with PAR1")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise _no_table(path, f"it is neither Parquet nor text in UTF-8: {error}") from None
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start in (b"[", b"{"):
        return _json(path, content)
    first = content.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    if start == b";" or (len(first.split()) == len(SWF.split()) and "," not in first):
        return _swf(path, content)
    width = first.count(",") + 1
    for header in (PAI_TASK, PAI_JOB):
        status = first.split(",")[3:4]
        if width == header.count(",") + 1 and status[0] in PAI_STATUS:
            return _csv(path, content, ",", header.split(","))
    return _csv(path, content, "|" if "|" in first else ",")


PAI_STATUS = ("Running", "Terminated", "Failed", "Waiting", "Interrupted")


def _csv(path: Path, content: bytes, delimiter: str, names: list[str] | None = None) -> Sheet:
    torn: list[RowFault] = []

    def tear(row: Any) -> str:
        why = f"{row.actual_columns} cells where the header has {row.expected_columns}"
        torn.append(RowFault(row.number, "no row", why))
        return "skip"

    def read() -> pa.Table:
        return pyarrow.csv.read_csv(
            pa.BufferReader(content),
            # One thread and one block: only so do the rows know their lines, the columns a type.
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=len(content) + 1, column_names=names
            ),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, ignore_empty_lines=False, invalid_row_handler=tear
            ),
            pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in TEXT}),
        )

    try:
        cells = read()
    except pa.ArrowInvalid as error:
        raise _no_table(path, f"it cannot be read as CSV: {error}") from None
    first = 1 if names else 2
    line = np.arange(first, first + cells.num_rows + len(torn))
    line = np.setdiff1d(line, [fault.line for fault in torn])
    sheet = _sheet(path, cells, line[: cells.num_rows], torn)
    empty = np.ones(cells.num_rows, bool)
    for column in sheet.cells.itercolumns():
        bare = pc.is_null(column)
        if pa.types.is_string(column.type):
            bare = pc.or_kleene(bare, pc.equal(column, ""))
        empty &= bare.to_numpy()
        if not empty.any():
            return sheet
    kept = pa.array(~empty)
    cells = sheet.cells.filter(kept)
    return Sheet(path, cells, sheet.line[~empty], torn, int(empty.sum()))


def _swf(path: Path, content: bytes) -> Sheet:
    content = re.sub(rb"(?m)^[ \t]*;.*$", b"", content.replace(b"\t", b" ").replace(b"\r", b""))
    while b"  " in content:
        content = content.replace(b"  ", b" ")
    content = re.sub(rb"(?m)^ | $", b"", content)
    if not content.strip():
        raise _no_table(path, "it has comments and no jobs")
    sheet = _csv(path, content, " ", SWF.split())
    sheet.blank = 0  # They were comments.
    return sheet


def _parquet(path: Path, content: bytes) -> Sheet:
    try:
        cells = pyarrow.parquet.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise _no_table(path, f"it begins like Parquet, but: {error}") from None
    return _sheet(path, cells, np.arange(1, cells.num_rows + 1), [])


def _json(path: Path, content: bytes) -> Sheet:
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _no_table(path, f"it begins like JSON, but: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise _no_table(path, "JSON must be a list of jobs")
    torn: list[RowFault] = []
    rows, line = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            rows.append(_philly(entry) if "attempts" in entry else dict(entry))
            line.append(number)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            torn.append(RowFault(number, "no row", f"no job: {type(error).__name__} {error}"))
    if not rows:
        raise _no_table(path, "none of its entries is a job")
    try:
        cells = pa.Table.from_pylist(rows)
    except pa.ArrowException as error:
        raise _no_table(path, f"its entries do not agree: {error}") from None
    return _sheet(path, cells, np.array(line), torn)


def _philly(job: dict[str, Any]) -> dict[str, Any]:
    """A job of Microsoft's Philly, whose attempts are a list, as one row.

    Run time and GPUs as in the notebook beside the trace (msr-fiddle/philly-traces): from the
    first attempt's start to the last one's end, on the first one's GPUs.
    """
    attempts = job["attempts"]
    gpus = None
    if attempts:
        gpus = sum(len(machine["gpus"]) for machine in attempts[0]["detail"])
    return {
        "jobid": str(job["jobid"]),
        "vc": str(job["vc"]),
        "status": str(job["status"]),
        "submitted_time": _cell(job["submitted_time"]),
        "start_time": _cell(attempts[0]["start_time"]) if attempts else None,
        "end_time": _cell(attempts[-1]["end_time"]) if attempts else None,
        "attempt_gpus": gpus,
    }


def _cell(value: Any) -> str | None:
    return None if value is None else str(value)


def _sheet(path: Path, cells: pa.Table, line: NDArray[np.int64], torn: list[RowFault]) -> Sheet:
    names = [name.strip() for name in cells.column_names]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise _no_table(path, f"column {', '.join(twice)} is there twice")
    if not cells.num_rows and not torn:
        raise _no_table(path, "it has a header and no rows")
    return Sheet(path, cells.rename_columns(names), line, torn)


def _number(cell: str | None) -> tuple[float, bool]:
    if cell is None or cell.strip().lower() in MISSING:
        return np.nan, False
    try:
        return float(cell.replace("_", "?")), False
    except ValueError:
        return np.nan, True


def _moment(cell: str | None) -> tuple[float, bool]:
    value, bad = _number(cell)
    if not bad or cell is None:
        return value, bad
    try:
        moment = datetime.fromisoformat(cell.strip())
    except ValueError:
        return np.nan, True
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), False


def _no_table(path: Path, why: str) -> Refused:
    remedy = "give CSV, Parquet, JSON or SWF; docs/traces.md lists the forms"
    return Refused(Fault(f"{path.name} is no trace", str(path), why, remedy))
