"""What each government says of a delivery on a day, and over time. Not legal advice.

The rules of a government that place a chip are asked from high priority to low: the first that
applies is its verdict, and one of which a field is missing makes it `unknown`, never free. What
comes along, duties and fees, is told beside it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import pairwise
from typing import Any

from gigafactory.stack.chips import Chip
from gigafactory.stack.law import rules as book
from gigafactory.stack.law.rules import DUTIES, FEE, OUTCOMES, Book, Rule, Term
from gigafactory.stack.law.stacks import Stack

READ_FROM = date(2022, 1, 1)
"""No rule on chips as such was found before that of 2022-08-26."""
READ_UP_TO = date(2026, 10, 9)
NOTICE = (
    f"not legal advice; rules read up to {READ_UP_TO.isoformat()}, "
    "those in force then are taken to be in force since"
)

UNKNOWN = "unknown"
TOLD = (
    "it_power_kw",
    "training_flop",
    "pi_subjects_per_year",
    "ciio",
    "important_data",
    "personal_data",
    "data_origin",
)
"""What duties ask of a site, a model or data rather than of a chip."""
MAY_STAND = OUTCOMES[: OUTCOMES.index("case_by_case")]
ROUTES = ("export_from_us", "reexport")
# Part of the United States, says 15 CFR 772.1; the other governments' rules name none of them.
TERRITORIES = dict.fromkeys(("AS", "GU", "MP", "PR", "UM", "VI"), "US")


@dataclass(frozen=True)
class Question:
    """May this chip go there, for them, on that day? Countries are ISO codes; None is unknown."""

    chip: Chip | Stack
    destination: str
    owner: str | None
    """Country of the ultimate parent of who will hold the chip."""
    on: date
    route: str | None = "export_from_us"
    """Of `ROUTES`: out of the US, or on from a third country."""
    state_funded: bool | None = False
    buyer: str | None = ""
    """A name that a rule may know; empty for somebody whom none names."""
    gpus: int | None = None
    """How many this buyer takes in all, which some licences cap."""
    seller: str | None = None
    """Country of who ships it; the designer's if None."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """The fields of `TOLD` that are known, by name."""

    def facts(self) -> dict[str, Any]:
        """The fields of conditions, in their units."""
        chip = self.chip
        vendor = chip.vendor_country
        destination = TERRITORIES.get(self.destination, self.destination)
        return {
            **_figures(chip),
            "family": chip.family,
            "dc": chip.datacenter,
            "item": "GPU" if isinstance(chip, Chip) else "HBM",
            "vendor": chip.vendor,
            "vendor_country": vendor,
            "vendor_us": None if vendor is None else vendor == "US",
            "seller": self.seller or vendor,
            "export_kind": self.route,
            "destination": destination,
            "dest": destination,
            "parent": TERRITORIES.get(self.owner, self.owner) if self.owner else None,
            "buyer": self.buyer,
            "state_funded": self.state_funded,
            "n_gpus": self.gpus,
            "end_use_us": destination == "US",
            "adequacy": book.group_on("ADEQUACY", self.on),
            **self.given,
        }


@dataclass(frozen=True)
class Verdict:
    """What one government says: an outcome of `OUTCOMES`, the rule, and what it hangs on."""

    government: str
    outcome: str
    rule: Rule | None = None
    """None where none applies."""
    missing: tuple[str, ...] = ()
    """The fields that would decide, where it is unknown."""

    @property
    def strictness(self) -> int:
        """Place among `OUTCOMES`, from mild to strict."""
        return OUTCOMES.index(self.outcome)

    @property
    def rule_id(self) -> str:
        """The rule's name, or nothing."""
        return self.rule.id if self.rule else ""


@dataclass(frozen=True)
class Duty:
    """What is owed beside: a report, an obligation, a fee. `due` is None where it is unknown."""

    rule: Rule
    due: bool | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ruling:
    """What all governments say of one delivery on one day."""

    by: Mapping[str, Verdict]
    duties: tuple[Duty, ...]
    at_home: bool
    """Domestic chip, at home, for an owner from there."""

    @property
    def strictest(self) -> Verdict:
        """The verdict that decides."""
        return max(self.by.values(), key=lambda one: (self._weight(one), one.strictness))

    @property
    def outcome(self) -> str:
        """Of the verdict that decides."""
        return self.strictest.outcome

    @property
    def may_stand(self) -> bool:
        """No licence has to be won first, nothing is unknown, nobody forbids."""
        return self._weight(self.strictest) < len(MAY_STAND)

    @property
    def is_free(self) -> bool:
        """It may stand, and nobody calls it a risk."""
        return self.may_stand and self.outcome in MAY_STAND

    @property
    def terms(self) -> tuple[tuple[str, Term], ...]:
        """(rule, fee or cap) that come with it."""
        rules = [one.rule for one in self.by.values() if one.rule and one.outcome != UNKNOWN]
        rules += [duty.rule for duty in self.duties if duty.due]
        return tuple((rule.id, rule.term) for rule in rules if rule.term)

    def _weight(self, verdict: Verdict) -> int:
        # General Prohibition 10 is a risk for who deals with such chips abroad; a country's own
        # chip at home is neither imported nor exported, so there it warns and does not forbid.
        at_risk = verdict.outcome == "prohibited_risk" and self.at_home
        return OUTCOMES.index("discouraged") if at_risk else verdict.strictness


@dataclass(frozen=True)
class Interval:
    """A ruling that holds on the days `first <= day < end`."""

    first: date
    end: date
    ruling: Ruling


def judge(question: Question, rules: Book | None = None) -> Ruling:
    """What the rules say; the shipped ones unless others (`with_rules`) are given, by priority.

    A core of a CPU is asked of no rule read here: they control accelerators.
    """
    rules = book.shipped() if rules is None else rules
    facts = question.facts()
    if question.buyer:
        facts["buyer"] = rules.buyers.get(question.buyer.lower(), question.buyer)
    said = {name: _free(name) for name in rules.governments}
    duties: list[Duty] = []
    if question.chip.kind == "cpu":
        return Ruling(said, (), at_home=False)
    for rule in rules.on(question.on):
        name = rule.government
        settled = said[name].rule is not None
        if settled and rule.outcome in OUTCOMES:
            continue
        applies = book.applies(rule, facts, question.on)
        if applies is False:
            continue
        missing = () if applies else _missing(rule, facts, question.on)
        if rule.outcome in (*DUTIES, FEE):
            duties.append(Duty(rule, applies, missing))
        else:
            said[name] = Verdict(name, rule.outcome if applies else UNKNOWN, rule, missing)
    domestic = question.chip.vendor_country == question.destination
    return Ruling(said, tuple(duties), domestic and question.owner == question.destination)


def over(question: Question, first: date, end: date, rules: Book | None = None) -> list[Interval]:
    """The rulings on the days `first <= day < end`, without gaps, alike neighbours joined."""
    rules = book.shipped() if rules is None else rules
    joined: list[Interval] = []
    for begins, ends in _stretches(first, end, rules):
        ruling = judge(replace(question, on=begins), rules)
        if joined and joined[-1].ruling == ruling:
            joined[-1] = replace(joined[-1], end=ends)
        else:
            joined.append(Interval(begins, ends, ruling))
    return joined


def _stretches(first: date, end: date, rules: Book) -> Iterator[tuple[date, date]]:
    """Between two neighbours nothing changes: no rule begins or ends, no group gains or loses."""
    changes = {day for rule in rules for day in (rule.first, rule.end)}
    for group in book.groups():
        for _, joins, leaves in book.members(group):
            changes |= {joins, leaves}
    edges = [first, *sorted(day for day in changes if first < day < end), end]
    return pairwise(edges)


def _missing(rule: Rule, facts: Mapping[str, Any], on: date) -> tuple[str, ...]:
    absent = rule.condition.missing(facts) if rule.condition.holds(facts) is None else []
    if book.reaches(rule, facts, on) is None:
        absent = sorted({*absent, "parent"})
    return tuple(absent)


def _free(government: str) -> Verdict:
    return Verdict(government, book.FREE.get(government, "no_restriction"))


def _figures(chip: Chip | Stack) -> dict[str, float | None]:
    """The numbers that rules limit, in the units of the rules."""
    if isinstance(chip, Stack):
        mem_bw = _giga(chip.bandwidth_bytes_per_s)
        return {"hbm_bw_density": chip.bandwidth_density, "mem_bw": mem_bw}
    return {
        "tpp": chip.tpp,
        "pd": chip.performance_density,
        "mem_bw": _giga(chip.peak_memory_bytes_per_s),
        "interconnect": _giga(chip.interconnect_bytes_per_s),
    }


def _giga(bytes_per_s: float | None) -> float | None:
    return None if bytes_per_s is None else bytes_per_s / 1e9
