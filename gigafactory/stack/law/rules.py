"""The rules: dated rows with a scope, a condition and an outcome, read from a table and checked.

A row is in force on the days `effective_date <= day < end_date`. It reaches a delivery if the
destination is in `dest_scope`, or the owner's ultimate parent in `hq_scope` (abroad only: a
delivery within the rule's own country is no export). Scopes are ISO codes and groups of
`data/law_groups.csv` joined by `+`, and the words of `WORLDS`. One row is one rule: a proposed
one is answered for as if it were in force by adding its row.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property
from typing import Any

from gigafactory.faults import Fault, Refused, nearest
from gigafactory.stack import facts
from gigafactory.stack.law.condition import BadCondition, Condition, Truth

# From mild to strict: where two governments speak, the stricter is the verdict.
OUTCOMES = (
    "no_restriction",
    "no_licence_required",
    "allowed_with_conditions",
    "notification_required",
    "discouraged",
    "case_by_case",
    "licence_required",
    "unknown",
    "withheld",
    "presumption_of_denial",
    "prohibited_risk",
    "prohibited",
)
FREE = {"US": "no_licence_required"}
"""What a government says where no rule of its applies; `no_restriction` but for the US."""
DUTIES = ("obligations", "report", "mechanism_required")
FEE = "fee"
KINDS = (*OUTCOMES, *DUTIES, FEE)

WORLD, BUT_TIER1, TRANSIT, EU_MARKET = "WORLD", "WORLD-TIER1", "US-TRANSIT", "EU-MARKET"
WORLDS = (WORLD, BUT_TIER1, TRANSIT, EU_MARKET)
DATA_SCOPE = re.compile(r"DATA:(\w+)->(any|third)")
REQUIRED = ("rule_id", "jurisdiction", "priority", "condition", "outcome")
OTHERS = (
    "effective_date",
    "authority",
    "title",
    "announced",
    "end_date",
    "status",
    "dest_scope",
    "hq_scope",
    "outcome_detail",
    "fee_or_cap",
    "confidence",
    "source_title",
    "source_url",
    "as_of",
    "notes",
)
LAST_DAY = date.max
_FEE = re.compile(r"([\d.]+) ?% (?:of )?(revenue|value|duty)")
_SHARE = re.compile(r"([\d.]+) ?% (?:of )?(?:US )?volume")
_COUNT = re.compile(r"([\d,]+) GPU")


@dataclass(frozen=True)
class Term:
    """A fee or a cap that comes with an outcome, for others to carry into money and counts.

    A fee is a `fraction` of `revenue` from such sales or of their `value`; a cap is a `fraction`
    of the product's US `volume`, or a `count` of GPUs for each buyer. What is in no such form
    stays `text`.
    """

    text: str
    fraction: float | None = None
    of: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Rule:
    """One row. `first <= day < end`."""

    id: str
    government: str
    title: str
    first: date
    end: date
    destinations: tuple[str, ...]
    parents: tuple[str, ...]
    priority: int
    condition: Condition = field(compare=False)
    outcome: str
    detail: str
    term: Term | None
    status: str
    confidence: str
    source: str
    as_of: str
    """When it was read."""

    @property
    def strictness(self) -> int:
        """Place among the outcomes, mild to strict; -1 for a duty or a fee."""
        return OUTCOMES.index(self.outcome) if self.outcome in OUTCOMES else -1


class Book(tuple[Rule, ...]):
    """Rules by priority; of two alike the stricter stands first."""

    @cached_property
    def governments(self) -> list[str]:
        """Who speaks in these rules: US and CN first."""
        known = {rule.government for rule in self}
        return sorted(known, key=lambda name: (name not in FREE, name != "CN", name))

    @cached_property
    def buyers(self) -> dict[str, str]:
        """The buyers that conditions name, by their name in lower case."""
        names = (pair for rule in self for pair in rule.condition.names)
        return {name.lower(): name for field, name in names if field == "buyer"}

    @cached_property
    def _by_day(self) -> dict[date, list[Rule]]:
        return {}

    def on(self, day: date) -> list[Rule]:
        """Those in force that day."""
        if day not in self._by_day:
            self._by_day[day] = [rule for rule in self if rule.first <= day < rule.end]
        return self._by_day[day]


@cache
def shipped() -> Book:
    """The rules of `data/law_rules.csv`, by priority."""
    return _by_priority(_read(facts.rows("law_rules"), "data/law_rules.csv"))


def with_rules(rows: Iterable[Mapping[str, str]], where: str) -> Book:
    """The shipped rules and these; one with a known id takes that one's place.

    `where` names the table in refusals. Raises `Refused` with every fault of every row.
    """
    added = _read(list(rows), where)
    replaced = {rule.id for rule in added}
    return _by_priority([*(rule for rule in shipped() if rule.id not in replaced), *added])


@cache
def countries() -> dict[str, str]:
    """ISO 3166-1 code -> English name."""
    return {row["code"]: row["name"] for row in facts.rows("countries")}


@cache
def _spelt() -> dict[str, str]:
    """Code, name or alias in lower case -> code."""
    spelt = {}
    for row in facts.rows("countries"):
        for name in (*row["aliases"].split("|"), row["name"], row["code"]):
            spelt[name.lower()] = row["code"]
    return spelt


def country(name: str, where: str) -> str:
    """ISO code of a country by code, English name or alias; refuses what is none."""
    code = _spelt().get(name.strip().lower())
    if code is None:
        known = [*countries().values(), *countries()]
        why = "it is neither an ISO 3166-1 code nor the English name of a country"
        raise Refused(Fault(f"unknown country {name!r}", where, why, nearest(name, known)))
    return code


@cache
def members(group: str) -> tuple[tuple[str, date, date], ...]:
    """(country, first day, end) of each membership of a group."""
    return tuple(
        (
            row["country"],
            date.fromisoformat(row["from_date"] or "0001-01-01"),
            date.fromisoformat(row["to_date"]) if row["to_date"] else LAST_DAY,
        )
        for row in facts.rows("law_groups")
        if row["group"] == group
    )


@cache
def in_group(code: str, group: str, on: date) -> bool:
    """Whether a country is in a group (or is the country of that code) on a day."""
    return code == group or any(
        code == one and first <= on < end for one, first, end in members(group)
    )


@cache
def group_on(group: str, on: date) -> tuple[str, ...]:
    """The members of a group on a day."""
    return tuple(code for code, first, end in members(group) if first <= on < end)


@cache
def groups() -> frozenset[str]:
    """The groups of countries that a scope may name."""
    return frozenset(row["group"] for row in facts.rows("law_groups"))


def applies(rule: Rule, asked: Mapping[str, Any], on: date) -> Truth:
    """Whether the rule is in force on that day and true of what is asked: Kleene's and.

    A rule that does not ask what the item is speaks of GPUs.
    """
    if not rule.first <= on < rule.end:
        return False
    if "item" not in rule.condition.fields and asked["item"] != "GPU":
        return False
    reached = reaches(rule, asked, on)
    if reached is False or _stays_home(rule, asked):
        return False
    holds = rule.condition.holds(asked)
    return holds if reached or holds is False else None


def _stays_home(rule: Rule, asked: Mapping[str, Any]) -> bool:
    """A country's own chip in that country crosses no border, which all but WORLD rules are of."""
    home = asked.get("vendor_country") == asked["destination"] != rule.government
    return home and WORLD not in rule.destinations


def reaches(rule: Rule, asked: Mapping[str, Any], on: date) -> Truth:
    """Whether the rule's scope takes in this delivery; None where the owner decides, unknown."""
    destination: str = asked["destination"]
    said = [_to(word, destination, asked, on) for word in rule.destinations]
    if rule.parents and destination != rule.government:
        parent = asked.get("parent")
        said += [parent and in_group(parent, word, on) for word in rule.parents]
    if True in said:
        return True
    return None if None in said else False


def _to(word: str, destination: str, asked: Mapping[str, Any], on: date) -> Truth:
    if word == WORLD:
        return True
    if word == BUT_TIER1:
        return destination != "US" and not in_group(destination, "TIER1", on)
    if word == TRANSIT:  # What leaves the US for elsewhere has entered it.
        route = asked.get("export_kind")
        return destination != "US" and (route and route == "export_from_us")
    if word == EU_MARKET:
        return in_group(destination, "EU", on)
    if data := DATA_SCOPE.fullmatch(word):
        origin = asked.get("data_origin")  # Rules on data answer where their origin is told.
        outside = not in_group(destination, "EEA" if data[1] == "EU" else data[1], on)
        return origin is not None and in_group(origin, data[1], on) and outside
    return in_group(destination, word, on)


def _by_priority(rules: Iterable[Rule]) -> Book:
    return Book(sorted(rules, key=lambda rule: (-rule.priority, -rule.strictness)))


def _read(rows: list[dict[str, str]] | list[Mapping[str, str]], where: str) -> list[Rule]:
    rules: list[Rule] = []
    faults: list[Fault] = []
    for line, row in enumerate(rows, start=2):
        try:
            rules.append(_rule(row, f"{where}:{line}"))
        except Refused as refused:
            faults += refused.faults
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            why = "each rule has its own name"
            faults.append(Fault(f"rule {rule.id} stands twice", where, why, "rename one"))
        seen.add(rule.id)
    if faults:
        raise Refused(*faults)
    return rules


def _rule(row: Mapping[str, str], where: str) -> Rule:
    """One row as a rule; refuses with everything wrong in it."""
    faults: list[Fault] = []

    def wrong(column: str, why: str, remedy: str) -> None:
        what = f"rule {row.get('rule_id') or '?'} cannot be read"
        faults.append(Fault(what, f"{where}, {column}", why, remedy))

    def day(column: str, otherwise: date) -> date:
        text = row.get(column) or ""
        try:
            return date.fromisoformat(text) if text else otherwise
        except ValueError:
            wrong(column, f"{text!r} is no day", "write it as 2026-01-15")
            return otherwise

    for column in REQUIRED:
        if not (row.get(column) or "").strip():
            wrong(column, "it is empty", f"a rule needs {', '.join(REQUIRED)}")
    for column in sorted(set(row) - {*REQUIRED, *OTHERS}):
        wrong(column, "no such column", nearest(column, (*REQUIRED, *OTHERS)))
    if faults:
        raise Refused(*faults)
    condition = Condition("False")
    try:
        condition = Condition(row["condition"])
    except BadCondition as error:
        remedy = f"did you mean {' or '.join(error.near)}?" if error.near else "mend the condition"
        wrong("condition", str(error), remedy)
    if row["outcome"] not in KINDS:
        wrong("outcome", f"no outcome {row['outcome']!r}", nearest(row["outcome"], KINDS))
    if not re.fullmatch(r"-?[0-9]{1,6}", row["priority"].strip()):
        wrong("priority", f"{row['priority']!r} is no whole number", "write 60")
    scopes = {}
    for column in ("dest_scope", "hq_scope"):
        scopes[column] = tuple(filter(None, (row.get(column) or "").replace(" ", "").split("+")))
        for word in scopes[column]:
            known = {*WORLDS, *groups(), *countries()}
            if word not in known and not DATA_SCOPE.fullmatch(word):
                wrong(column, f"no country or group {word!r}", nearest(word, known))
    if not any(scopes.values()):
        wrong("dest_scope", "it reaches nobody", "name countries or groups: CN+HK, D5, WORLD")
    # A proposal without a day is asked for as if it had always been in force.
    first, end = day("effective_date", date.min), day("end_date", LAST_DAY)
    if faults:
        raise Refused(*faults)
    return Rule(
        id=row["rule_id"],
        government=row["jurisdiction"],
        title=row.get("title") or row["rule_id"],
        first=first,
        end=end,
        destinations=scopes["dest_scope"],
        parents=scopes["hq_scope"],
        priority=int(row["priority"]),
        condition=condition,
        outcome=row["outcome"],
        detail=row.get("outcome_detail") or "",
        term=_term(row.get("fee_or_cap") or ""),
        status=row.get("status") or "",
        confidence=row.get("confidence") or "",
        source=row.get("source_url") or row.get("source_title") or where,
        as_of=row.get("as_of") or "",
    )


def _term(text: str) -> Term | None:
    if not text:
        return None
    if fee := _FEE.search(text):
        return Term(text, float(fee[1]) / 100, "value" if fee[2] == "duty" else fee[2])
    if share := _SHARE.search(text):
        return Term(text, float(share[1]) / 100, "volume")
    if count := _COUNT.search(text):
        return Term(text, count=int(count[1].replace(",", "")))
    return Term(text)
