"""Gates between the rack and the first invoice: what is measured, and what it must be to pass.

A gate passes when all its measures do. A measure that is missing, is no number, has another unit,
or has nothing to be held to, has not passed. Gates after the first that failed are not reached.
B/s, s and plain counts inside; thresholds in their source's unit in `data/gates.csv`, as a share
of what the model expects where the row says of what.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gigafactory import units
from gigafactory.stack import fabric, facts
from gigafactory.stack.chips import Chip

PASSED, FAILED, NOT_REACHED = "passed", "failed", "not reached"
PAYLOAD_BYTES = 8 * 2.0**30
"""Of the all-reduce that is measured: where bus bandwidth has reached its plateau."""
PHYSICAL = {"h": "s", "s": "s", "GB/s": "B/s"}
"""Units that are written with the number; all others are counts, or shares up to 1."""
SHARE = "1"
HOUR_S = 3600.0


@dataclass(frozen=True)
class Check:
    """One measure of a gate, as the table has it."""

    gate: str
    order: int
    measure: str
    comparator: str
    threshold: float
    unit: str
    of: str
    """Name of the expected figure that the threshold is a share of; empty for none."""
    basis: str
    source: str
    as_of: str
    note: str


@dataclass(frozen=True)
class Reading:
    """What became of one check. `threshold` and `value` in SI; None where there is none."""

    check: Check
    outcome: str
    """`passed`, `failed`, or `not reached`."""
    value: float | None
    threshold: float | None
    why: str


@dataclass(frozen=True)
class Verdict:
    """One gate."""

    gate: str
    order: int
    outcome: str
    readings: tuple[Reading, ...]


def checks() -> list[Check]:
    """All checks, in the order of the gates."""
    told = [
        Check(
            gate=row["gate"],
            order=int(row["order"]),
            measure=row["measure"],
            comparator=row["comparator"],
            threshold=float(row["threshold"]),
            unit=row["unit"],
            of=row["of"],
            basis=row["basis"],
            source=row["source"],
            as_of=row["as_of"],
            note=row["note"],
        )
        for row in facts.rows("gates")
    ]
    return sorted(told, key=lambda check: check.order)


def judge(
    measured: Mapping[str, Any], expected: Mapping[str, float] | None = None
) -> list[Verdict]:
    """Every gate in its order; `expected` is what `expectations` says, in SI."""
    verdicts: list[Verdict] = []
    by_gate: dict[str, list[Check]] = {}
    for check in checks():
        by_gate.setdefault(check.gate, []).append(check)
    reached = True
    for gate, asked in by_gate.items():
        if reached:
            readings = tuple(_read(check, measured, expected or {}) for check in asked)
            reached = all(reading.outcome == PASSED for reading in readings)
            outcome = PASSED if reached else FAILED
        else:
            why = "an earlier gate has not passed"
            readings = tuple(
                Reading(check, NOT_REACHED, None, _threshold(check, expected or {}), why)
                for check in asked
            )
            outcome = NOT_REACHED
        verdicts.append(Verdict(gate, asked[0].order, outcome, readings))
    return verdicts


def expectations(
    chip: Chip, devices: int, mfu: float | None = None, mtbf_s: float | None = None
) -> dict[str, float]:
    """What the model expects of that many devices: counts, B/s, share, s.

    `mfu` and `mtbf_s` are the prediction for the reference run; without them its gates stay shut.
    """
    expected = {"devices": float(devices)}
    seconds = float(fabric.all_reduce_s(chip, PAYLOAD_BYTES, devices)) if devices > 1 else 0.0
    if seconds > 0:
        expected["all_reduce_bus_bandwidth"] = 2 * (devices - 1) / devices * PAYLOAD_BYTES / seconds
    if mfu is not None:
        expected["training_mfu"] = mfu
    if mtbf_s is not None:
        soak_s = next(
            check.threshold * HOUR_S for check in checks() if check.measure == "soak_duration"
        )
        expected["failure_free"] = min(soak_s, mtbf_s)
    return expected


def _read(check: Check, measured: Mapping[str, Any], expected: Mapping[str, float]) -> Reading:
    """One measure held to its threshold."""
    threshold = _threshold(check, expected)
    if check.measure not in measured or measured[check.measure] is None:
        return Reading(check, FAILED, None, threshold, "not measured")
    try:
        value = _value(measured[check.measure], check.unit)
    except ValueError as error:
        return Reading(check, FAILED, None, threshold, str(error))
    if threshold is None:
        return Reading(check, FAILED, value, None, f"nothing says what to expect of {check.of}")
    good = {
        "=": value == threshold,
        ">=": value >= threshold,
        "<=": value <= threshold,
    }[check.comparator]
    return Reading(check, PASSED if good else FAILED, value, threshold, "")


def _threshold(check: Check, expected: Mapping[str, float]) -> float | None:
    if not check.of:
        unit = PHYSICAL.get(check.unit)
        scale = units.parse(f"1 {check.unit}", unit) if unit else 1.0
        return check.threshold * scale
    of = expected.get(check.of)
    if of is None or not math.isfinite(of) or of <= 0:
        return None
    return check.threshold * of


def _value(given: Any, unit: str) -> float:
    """In SI. Raises `ValueError` with the reason why it cannot be read."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(f"{given!r} is no number")
    if unit in PHYSICAL:
        if not isinstance(given, str):
            raise ValueError(f"{given!r} has no unit; it is measured in {unit}")
        value = units.parse(given, PHYSICAL[unit])  # `NotAQuantity` is a `ValueError`.
    else:
        value = _count(given, unit)
    if not math.isfinite(value):
        raise ValueError(f"{given!r} is no number")
    if value < 0:
        raise ValueError(f"{given!r} is below 0")
    if unit == SHARE and value > 1:
        raise ValueError(f"{given!r} is more than the whole; write 0.95 or `95 %`")
    if unit not in PHYSICAL and unit != SHARE and value != int(value):
        raise ValueError(f"{given!r} is no whole number")
    return value


def _count(given: float | str, unit: str) -> float:
    """A bare number, or one with its word: `64 devices`; a share also as `95 %`."""
    if not isinstance(given, str):
        return float(given) if abs(given) < 1e300 else math.inf
    number, _, word = given.strip().partition(" ")
    if unit == SHARE and given.strip().endswith("%"):
        number, word = given.strip()[:-1].strip(), "%"
    allowed = {"", "%"} if unit == SHARE else {"", unit, f"{unit}s"}
    if word.strip() not in allowed:
        kind = "a share of 1" if unit == SHARE else f"counted in {unit}s"
        raise ValueError(f"{given!r} has another unit; it is {kind}")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"{given!r} is no number") from None
    return value / 100 if word == "%" else value
