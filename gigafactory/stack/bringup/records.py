"""Recorded builds beside what the model says of the same stretch, and what a week's delay loses.

Each record names the phases that it spans and the kind of project that it was; the model is asked
for that project, untouched by the records but for `rented` power, which is taken from one.
Weeks, USD. Source: `data/bringup.csv`, rows `record` and `rate`.
"""

from dataclasses import dataclass

import numpy as np

from gigafactory.stack.bringup.network import WEEKS_PER_MONTH, Options, network, rows
from gigafactory.stack.bringup.schedule import PERCENTILES, Array, Distribution, distribution

RATES = ("rental", "lease", "idle")


@dataclass(frozen=True)
class Record:
    """One build: weeks that it took, None where nobody says."""

    id: str
    name: str
    weeks: float | None
    low: float | None
    high: float | None
    start: str
    until: str
    options: Options
    basis: str
    source: str
    as_of: str
    note: str


@dataclass(frozen=True)
class Rate:
    """Money that a week's delay loses for each W of the site."""

    id: str
    name: str
    usd_per_w_week: float
    low: float
    high: float
    basis: str
    source: str
    as_of: str
    note: str


def records() -> list[Record]:
    """All of the table, in its order."""
    told = []
    for row in rows("record"):
        building, power = row["variant"].split()
        told.append(
            Record(
                id=row["id"],
                name=row["name"],
                weeks=_number(row["likely"]),
                low=_number(row["low"]),
                high=_number(row["high"]),
                start=row["after"],
                until=row["until"],
                options=Options(building=building, power=power),
                basis=row["basis"],
                source=row["source"],
                as_of=row["as_of"],
                note=row["note"],
            )
        )
    return told


def modelled(seed: int, draws: int) -> list[tuple[Record, Array]]:
    """Each record with `PERCENTILES` of the same stretch by the model."""
    known: dict[tuple[str, str], Distribution] = {}
    told = []
    for record in records():
        kind = record.options.building, record.options.power
        if kind not in known:
            known[kind] = distribution(network(record.options), seed, draws)
        spans = known[kind].schedule.span(record.start, record.until)
        told.append((record, np.percentile(spans, PERCENTILES)))
    return told


def rate(name: str) -> Rate:
    """`rental`, `lease` or `idle`."""
    row = next(row for row in rows("rate") if row["id"] == name)
    weekly = 1 / WEEKS_PER_MONTH / 1e9
    value = float(row["likely"]) * weekly
    low, high = _number(row["low"]), _number(row["high"])
    return Rate(
        id=name,
        name=row["name"],
        usd_per_w_week=value,
        low=value if low is None else low * weekly,
        high=value if high is None else high * weekly,
        basis=row["basis"],
        source=row["source"],
        as_of=row["as_of"],
        note=row["note"],
    )


def _number(text: str) -> float | None:
    return float(text) if text else None
