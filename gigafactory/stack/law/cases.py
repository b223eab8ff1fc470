"""Tables of deliveries, a row each: what each government says of them.

Columns of a table: `case_id,chip,family,destination,buyer_hq,date,item,export_kind,state_funded,
buyer,n_gpus`. A blank is unknown, but for `buyer` (nobody whom a rule names) and `family` (the
catalog's word). A chip that the catalog does not know has only the family of its row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

from gigafactory.faults import Fault, Refused, nearest
from gigafactory.stack import chips
from gigafactory.stack.chips import Chip
from gigafactory.stack.law.rules import Rule, country
from gigafactory.stack.law.stacks import Stack, stack
from gigafactory.stack.law.verdict import READ_FROM, ROUTES, UNKNOWN, Question, judge

COLUMNS = (
    "case_id",
    "chip",
    "destination",
    "buyer_hq",
    "date",
    "item",
    "export_kind",
    "state_funded",
)
ANSWERS = ("case_id", "us", "cn", "us_rule", "cn_rule")
T = TypeVar("T")
FIGURES = (
    "memory_bytes",
    "memory_bytes_per_s",
    "fabric_bytes_per_s",
    "fabric_chips",
    "network_bytes_per_s",
    "idle_w",
    "busy_w",
)
TRUTHS = {"1": True, "0": False, "true": True, "false": False, "yes": True, "no": False, "": None}


def answer(
    rows: Iterable[Mapping[str, str]], rules: Sequence[Rule] | None, where: str
) -> list[dict[str, str]]:
    """A row of `ANSWERS` for each; refuses with every bad cell of the table at once.

    A day before the rules read here is answered `unknown`.
    """
    answers: list[dict[str, str]] = []
    faults: list[Fault] = []
    for line, row in enumerate(rows, start=2):
        try:
            answers.append(_answer(row, rules, f"{where}:{line}"))
        except Refused as refused:
            faults += refused.faults
    if faults:
        raise Refused(*faults)
    return answers


def _answer(row: Mapping[str, str], rules: Sequence[Rule] | None, where: str) -> dict[str, str]:
    question = _question(row, where)
    if question.on < READ_FROM:
        return dict(zip(ANSWERS, (row["case_id"], UNKNOWN, UNKNOWN, "", ""), strict=True))
    by = judge(question, rules).by
    said = (by["US"].outcome, by["CN"].outcome, by["US"].rule_id, by["CN"].rule_id)
    return dict(zip(ANSWERS, (row["case_id"], *said), strict=True))


def _question(row: Mapping[str, str], where: str) -> Question:
    absent = [column for column in COLUMNS if column not in row]
    if absent:
        why = f"it has no column {', '.join(absent)}"
        raise Refused(Fault("this is no table of cases", where, why, "see `--help`"))
    on = _cell(row, "date", where, date.fromisoformat, "write it as 2026-01-15")
    gpus = row.get("n_gpus", "")
    route = row["export_kind"] or None
    if route not in (*ROUTES, None):
        raise _bad(row, "export_kind", where, nearest(route, ROUTES))
    funded = row["state_funded"].strip().lower()
    if funded not in TRUTHS:
        raise _bad(row, "state_funded", where, "write 1 or 0")
    return Question(
        chip=named(row["chip"], row.get("family", ""), row["item"]),
        destination=country(row["destination"], f"{where}, destination"),
        owner=country(row["buyer_hq"], f"{where}, buyer_hq") if row["buyer_hq"] else None,
        on=on,
        route=route,
        state_funded=TRUTHS[funded],
        buyer=row.get("buyer", ""),
        gpus=_cell(row, "n_gpus", where, int, "write a whole number") if gpus else None,
    )


def named(name: str, family: str = "", item: str = "") -> Chip | Stack:
    """The chip or memory stack of that name; `family` goes before the catalog's."""
    if item == "HBM" or (not item and stack(name)):
        return stack(name) or Stack(name, None)
    try:
        chip = chips.chip(name)
    except chips.UnknownChip:
        nothing: dict[str, Any] = dict.fromkeys(FIGURES)
        chip = Chip(name, "gpu", {}, basis="unknown", sources=(), **nothing)
    return chips.changed(chip, family=family) if family else chip


def _cell(
    row: Mapping[str, str], column: str, where: str, read: Callable[[str], T], remedy: str
) -> T:
    try:
        return read(row[column])
    except ValueError:
        raise _bad(row, column, where, remedy) from None


def _bad(row: Mapping[str, str], column: str, where: str, remedy: str) -> Refused:
    what = f"case {row.get('case_id') or '?'} cannot be read"
    return Refused(Fault(what, f"{where}, {column}", f"{row[column]!r} is none", remedy))
