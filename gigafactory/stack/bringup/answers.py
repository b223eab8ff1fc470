"""What bring-up answers to one question, as plain numbers: the JSON of the door.

Weeks from the start, and days where it is given; money in the currency that was asked.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np

from gigafactory.stack.bringup import delay, gates, records
from gigafactory.stack.bringup.network import Options, Phase, Weeks, network, rows
from gigafactory.stack.bringup.schedule import (
    PERCENTILES,
    Array,
    Distribution,
    distribution,
    schedule,
)

Json = dict[str, Any]
NOTICE = (
    "Modelled: phases are drawn independently from PERT's beta distribution; one cause that delays "
    "many would widen the range."
)
CAUTIOUS = 10
"""Percentile of the latest start: later than that moves the first token in 10 % of draws."""


def bringup(
    options: Options,
    seed: int,
    draws: int,
    start: date | None = None,
    money_per_week: Json | None = None,
    place: str = "",
) -> Json:
    """Critical path, first token, every phase with what a week of it costs, records beside it.

    `money_per_week` has `value`, `low`, `high`, `currency` and what it is made of.
    """
    of = distribution(network(options), seed, draws)
    likely = schedule(of.network, [phase.weeks.likely for phase in of.network.phases])
    worth = delay.worth(of)
    shown = [number for number, phase in enumerate(of.network.phases) if phase.weeks.high > 0]
    phases = [_phase(of, number, worth, start, money_per_week) for number in shown]
    names = {phase["id"] for phase in phases}
    return {
        "building": options.building,
        "power": options.power,
        "grid": options.grid if options.power == "grid" and not place else None,
        "place": place or None,
        "licence": options.licence,
        "waves": options.waves,
        "draws": draws,
        "seed": seed,
        "start": start.isoformat() if start else None,
        "critical_path": [step for step in likely.path if step.partition(" ")[0] in names],
        "likely_weeks": float(likely.makespan),
        "first_token": _ranged(of.token_weeks, start),
        "money_per_week": money_per_week,
        "phases": phases,
        "worth_buying": [
            of.network.phases[number].id
            for number in worth.ranked()
            if number in shown and worth.gain[number] > 0
        ],
        "parts_of_commissioning": [_part(row) for row in rows("part")],
        "records": [_record(record, spans) for record, spans in records.modelled(seed, draws)],
        "notice": NOTICE,
    }


def accept(verdicts: Sequence[gates.Verdict]) -> Json:
    """Every gate with its readings, in SI."""
    return {
        "accepted": all(verdict.outcome == gates.PASSED for verdict in verdicts),
        "gates": [
            {
                "gate": verdict.gate,
                "order": verdict.order,
                "outcome": verdict.outcome,
                "checks": [
                    {
                        "measure": reading.check.measure,
                        "outcome": reading.outcome,
                        "value": reading.value,
                        "comparator": reading.check.comparator,
                        "threshold": reading.threshold,
                        "unit": gates.PHYSICAL.get(reading.check.unit, reading.check.unit),
                        "share_of_expected": reading.check.threshold if reading.check.of else None,
                        "why": reading.why,
                        "basis": reading.check.basis,
                        "source": reading.check.source,
                        "as_of": reading.check.as_of,
                        "note": reading.check.note,
                    }
                    for reading in verdict.readings
                ],
            }
            for verdict in verdicts
        ],
    }


def _phase(
    of: Distribution, number: int, worth: delay.Worth, start: date | None, money: Json | None
) -> Json:
    phase: Phase = of.network.phases[number]
    timed = of.schedule
    begins_late = timed.start[:, number] + timed.slack[:, number]
    by = float(np.percentile(begins_late, CAUTIOUS))
    slip, gain = float(worth.slip[number]), float(worth.gain[number])
    return {
        "id": phase.id,
        "name": phase.name,
        "after": list(phase.after),
        "weeks": _weeks(phase.weeks),
        "start": _ranged(of.start_weeks[:, number], start),
        "finish": _ranged(of.finish_weeks[:, number], start),
        "criticality": float(of.criticality[number]),
        "slack_weeks_mean": float(timed.slack[:, number].mean()),
        "start_by_weeks": by,
        "start_by_on": day(start, by),
        "slip_weeks": slip,
        "gain_weeks": gain,
        "cost_of_delay": _times(slip, money),
        "break_even_price": _times(gain, money),
    }


def _weeks(weeks: Weeks) -> Json:
    return {
        "low": weeks.low,
        "likely": weeks.likely,
        "high": weeks.high,
        "basis": weeks.basis,
        "source": weeks.source,
        "as_of": weeks.as_of,
        "note": weeks.note,
    }


def _part(row: dict[str, str]) -> Json:
    numbers = {name: float(row[name]) for name in ("low", "likely", "high")}
    words = {name: row[name] for name in ("id", "name", "basis", "source", "as_of", "note")}
    return {**words, **numbers}


def _record(record: records.Record, spans: Array) -> Json:
    return {
        "id": record.id,
        "name": record.name,
        "weeks": record.weeks,
        "low": record.low,
        "high": record.high,
        "from": record.start,
        "until": record.until,
        "building": record.options.building,
        "power": record.options.power,
        "modelled_weeks": _ranged(spans, None),
        "basis": record.basis,
        "source": record.source,
        "as_of": record.as_of,
        "note": record.note,
    }


def _ranged(weeks: Array, start: date | None) -> Json:
    told: Json = {f"p{percent}": float(at) for percent, at in zip(PERCENTILES, weeks, strict=True)}
    if start:
        told |= {f"{name}_on": day(start, at) for name, at in list(told.items())}
    return told


def day(start: date | None, weeks: float) -> str | None:
    """The day so many weeks after the start; None without one."""
    return (start + timedelta(days=round(7 * weeks))).isoformat() if start else None


def _times(weeks: float, money: Json | None) -> Json | None:
    return money and {
        **{name: weeks * money[name] for name in ("value", "low", "high")},
        "currency": money["currency"],
    }
