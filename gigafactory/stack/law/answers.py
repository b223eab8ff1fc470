"""What the law says, as JSON-ready answers: one delivery, a stretch of time, a list of chips."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from gigafactory.stack import chips, facts
from gigafactory.stack.chips import Chip
from gigafactory.stack.law import rules as book
from gigafactory.stack.law.rules import LAST_DAY, Book, Rule
from gigafactory.stack.law.stacks import Stack
from gigafactory.stack.law.verdict import (
    NOTICE,
    READ_UP_TO,
    Duty,
    Interval,
    Question,
    Ruling,
    Verdict,
    judge,
    over,
)
from gigafactory.stack.law.ways import Way, fastest, ways

UNITS = {
    "tpp": "TPP",
    "pd": "TPP/mm2",
    "mem_bw": "GB/s",
    "interconnect": "GB/s",
    "hbm_bw_density": "GB/s/mm2",
    "n_gpus": "GPUs",
}
NOTICES_SHOWN = 5
RULE = ("rule", "title", "detail", "from", "to", "confidence", "source", "as_of")
# What rules ask of a chip, and of a stack, as the catalog names it.
ASKED = (
    "tpp",
    "performance_density",
    "peak_memory_bandwidth",
    "peak_interconnect",
    "datacenter",
    "family",
    "vendor_country",
    "release",
    "bandwidth_density",
)


def one(question: Question, rules: Book | None = None) -> dict[str, Any]:
    """The verdicts, what comes with them, and what would change them."""
    rules = book.shipped() if rules is None else rules
    ruling = judge(question, rules)
    return {
        **_asked(question),
        **_ruling(ruling),
        "figures": _figures(question.chip),
        "duties": [_duty(duty) for duty in ruling.duties],
        "ways": [_way(way) for way in ways(question, rules)],
        "fastest": _best(fastest(question, rules)),
        "fastest_datacenter": _best(fastest(question, rules, datacenter=True)),
        "notices": _notices(question),
        **_read(),
    }


def timeline(
    question: Question, first: date, end: date, rules: Book | None = None
) -> dict[str, Any]:
    """The rulings on the days `first <= day < end`; nothing lies between two intervals."""
    said = over(question, first, end, rules)
    asked = _asked(question)
    del asked["on"]
    return {
        **asked,
        "from": first.isoformat(),
        "to": end.isoformat(),
        "intervals": _joined([_interval(interval) for interval in said]),
        **_read(),
    }


def every_chip(question: Question, rules: Book | None = None) -> dict[str, Any]:
    """Each accelerator of the catalog in the question's stead, the fastest first."""
    known = [chip for chip in map(chips.chip, chips.chip_names()) if chip.kind != "cpu"]
    known.sort(key=lambda chip: (-(chip.peak_flop_per_s or 0), chip.name))
    asked = _asked(question)
    del asked["chip"]
    return {
        **asked,
        "chips": [
            {
                "chip": chip.name,
                "peak_flop_per_s": chip.peak_flop_per_s,
                "tpp": chip.tpp,
                "released": _plain(chip.released),
                "figures": _figures(chip),
                **_ruling(judge(replace(question, chip=chip), rules)),
            }
            for chip in known
        ],
        "notices": _notices(question),
        **_read(),
    }


def _joined(intervals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours that differ in duties alone, which a timeline does not tell, made one."""
    joined: list[dict[str, Any]] = []
    for one in intervals:
        if joined and {**joined[-1], "from": "", "to": ""} == {**one, "from": "", "to": ""}:
            joined[-1]["to"] = one["to"]
        else:
            joined.append(one)
    return joined


def bands(said: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """The intervals of `timeline` as (government, [(from, to, outcome, rule, title)]), joined."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for interval in said:
        for name, verdict in interval["by"].items():
            row = rows.setdefault(name, [])
            band = (interval["from"], interval["to"], verdict["outcome"], verdict["rule"])
            if row and row[-1][2:4] == band[2:4]:
                row[-1] = (row[-1][0], *band[1:], verdict["title"])
            else:
                row.append((*band, verdict["title"]))
    spoken = {name for name, row in rows.items() if any(band[3] for band in row)}
    return [(name, row) for name, row in rows.items() if name in spoken | {"US", "CN"}]


def _asked(question: Question) -> dict[str, Any]:
    return {
        "chip": question.chip.name,
        "destination": question.destination,
        "owner": question.owner,
        "on": question.on.isoformat(),
        "route": question.route,
        "state_funded": question.state_funded,
        "buyer": question.buyer,
        "gpus": question.gpus,
    }


def _ruling(ruling: Ruling) -> dict[str, Any]:
    return {
        "may_stand": ruling.may_stand,
        "outcome": ruling.outcome,
        "by": {name: _verdict(said) for name, said in ruling.by.items()},
        "terms": [
            {
                "rule": rule,
                "text": term.text,
                "fraction": term.fraction,
                "of": term.of,
                "count": term.count,
            }
            for rule, term in ruling.terms
        ],
    }


def _verdict(said: Verdict) -> dict[str, Any]:
    return {
        "outcome": said.outcome,
        **_rule(said.rule),
        "missing": list(said.missing),
    }


def _rule(rule: Rule | None) -> dict[str, Any]:
    if rule is None:
        return dict.fromkeys(RULE, "")
    return {
        "rule": rule.id,
        "title": rule.title,
        "detail": rule.detail,
        "from": rule.first.isoformat(),
        "to": "" if rule.end == LAST_DAY else rule.end.isoformat(),
        "confidence": rule.confidence,
        "source": rule.source,
        "as_of": rule.as_of,
    }


def _duty(duty: Duty) -> dict[str, Any]:
    return {
        "government": duty.rule.government,
        "kind": duty.rule.outcome,
        "due": duty.due,
        **_rule(duty.rule),
        "missing": list(duty.missing),
    }


def _way(way: Way) -> dict[str, Any]:
    return {
        "field": way.field,
        "now": _plain(way.now),
        "becomes": _plain(way.becomes),
        "below": way.below,
        "lowered_by": way.lowered_by,
        "unit": UNITS.get(way.field, ""),
        "outcome": way.ruling.outcome,
        "rule": way.ruling.strictest.rule_id,
    }


def _figures(thing: Chip | Stack) -> list[dict[str, Any]]:
    """What the rules are asked with of the chip, each with its source."""
    of = facts.by_subject("chips" if isinstance(thing, Chip) else "memory_stacks")
    return [
        {
            "quantity": name,
            "value": fact.text or None,
            "unit": fact.stated_unit,
            "basis": fact.basis,
            "source": fact.source,
            "as_of": fact.as_of,
        }
        for name in ASKED
        if (fact := of.get(thing.name, {}).get(name))
    ]


def _best(found: tuple[Chip | Stack, Ruling] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    thing, ruling = found
    rates: dict[str, Any] = (
        {"peak_flop_per_s": thing.peak_flop_per_s, "dtype": "bfloat16"}
        if isinstance(thing, Chip)
        else {"bandwidth_bytes_per_s": thing.bandwidth_bytes_per_s}
    )
    return {"chip": thing.name, **rates, "outcome": ruling.outcome}


def _interval(interval: Interval) -> dict[str, Any]:
    return {
        "from": interval.first.isoformat(),
        "to": interval.end.isoformat(),
        **_ruling(interval.ruling),
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _notices(question: Question) -> list[dict[str, str]]:
    """The latest news, until that day, that speaks of this place or owner and is no rule."""
    near = [country for country in (question.destination, question.owner) if country]

    def speaks_of_them(scope: str) -> bool:
        words = scope.split("+")
        return book.WORLD in words or any(
            book.in_group(country, word, question.on) for country in near for word in words
        )

    told = [
        row
        for row in facts.rows("law_notices")
        if row["date"] <= question.on.isoformat() and speaks_of_them(row["scope"])
    ]
    told.sort(key=lambda row: row["date"], reverse=True)
    return told[:NOTICES_SHOWN]


def _read() -> dict[str, str]:
    return {"rules_read_up_to": READ_UP_TO.isoformat(), "notice": NOTICE}
