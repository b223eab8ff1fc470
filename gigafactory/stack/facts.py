"""Sourced facts: one a row, in its source's unit in the file, in SI once loaded.

Files: `data/TABLE.csv` with the columns `SUBJECT,quantity,value,low,high,unit,basis,source,as_of`,
where the first column is named for what the table is about (`chip`, `system`, `place`, ...).
An unknown fact is a row too: empty value, basis `unknown`. Money stays in the currency and per
the unit that people trade in (`USD/GPU-h`, `USD/kWh`), carbon in `gCO2e/kWh`.
"""

import csv
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gigafactory import units

FOLDER = Path(__file__).with_name("data")
BASES = (
    "published",
    "measured",
    "derived",
    "estimate",
    "assumed",
    "recalled",
    "unknown",
)
# The unit of a row -> its SI unit; a unit that stands for itself is left as the source has it.
SI = {
    "GFLOP/s": "FLOP/s",
    "TFLOP/s": "FLOP/s",
    "MB/s": "B/s",
    "GB/s": "B/s",
    "TB/s": "B/s",
    "GB": "B",
    "W": "W",
    "kW": "W",
    "us": "s",
    "ms": "s",
    "s": "s",
    "1/s": "1/s",
    "B": "B",
    "1": "1",
    "USD": "USD",
    "USD/GPU-h": "USD/GPU-h",
    "USD/kWh": "USD/kWh",
    "gCO2e/kWh": "gCO2e/kWh",
    "mm2": "mm2",
    "TPP": "TPP",
    "TPP/mm2": "TPP/mm2",
    "GB/s/mm2": "GB/s/mm2",
    "MW": "W",
    "L/kWh": "L/kWh",
    "degC": "degC",
    "K": "K",
    "deg": "deg",
    "m": "m",
    "km": "m",
    "1/K": "1/K",
    "1/deg": "1/deg",
    "month": "month",
    "USD/W": "USD/W",
    "USD/W/year": "USD/W/year",
    "USD/Mtoken": "USD/Mtoken",
    "CNY/Mtoken": "CNY/Mtoken",
    "token/s": "token/s",
    "1/year": "1/year",
    "year": "year",
    "name": "name",
}


@dataclass(frozen=True)
class Fact:
    """What a source says of one quantity of one subject. `text` is the value as the row has it."""

    subject: str
    quantity: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    basis: str
    source: str
    as_of: str
    text: str
    stated_unit: str
    """The unit of `text`, as the row has it."""


@cache
def load(table: str) -> list[Fact]:
    """All facts of `data/TABLE.csv`, in the order of the file."""
    return [_fact(row) for row in rows(table)]


@cache
def by_subject(table: str) -> dict[str, dict[str, Fact]]:
    """The same as subject -> quantity -> fact."""
    subjects: dict[str, dict[str, Fact]] = {}
    for fact in load(table):
        subjects.setdefault(fact.subject, {})[fact.quantity] = fact
    return subjects


@cache
def rows(table: str) -> list[dict[str, str]]:
    """The rows of `data/TABLE.csv` as they stand."""
    with open(FOLDER / f"{table}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def catalog_hash() -> str:
    """SHA-256 over all data files of the stack, so that a plan can say what it was made from."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.rglob("*.*")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(FOLDER).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _fact(row: dict[str, str]) -> Fact:
    unit = row["unit"]
    return Fact(
        subject=next(iter(row.values())),
        quantity=row["quantity"],
        value=_si(row["value"], unit),
        low=_si(row["low"], unit),
        high=_si(row["high"], unit),
        unit=SI[unit],
        basis=row["basis"],
        source=row["source"],
        as_of=row["as_of"],
        text=row["value"],
        stated_unit=unit,
    )


def _si(number: str, unit: str) -> float | None:
    if number == "" or unit == "name":
        return None
    if SI[unit] == unit:
        return float(number)
    return units.parse(f"{number} {unit}", SI[unit])
