"""Tables of deliveries, a row each: what each government says of them.

Columns of a table: `case_id,chip,family,destination,buyer_hq,date,item,export_kind,state_funded,
buyer,n_gpus`. A blank is unknown, but for `buyer` (nobody whom a rule names). A chip that the
catalog does not know has only the family of its row, which is not asked otherwise.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any, TypeVar

from gigafactory.faults import Fault, Refused
from gigafactory.stack import chips
from gigafactory.stack.chips import Chip
from gigafactory.stack.law.rules import Book, country
from gigafactory.stack.law.stacks import Stack, stack
from gigafactory.stack.law.verdict import READ_FROM, ROUTES, UNKNOWN, Question, Ruling, judge

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
ROUTE_WORDS = {"export": ROUTES[0], "": None} | {route: route for route in ROUTES}
TRUTHS = {"1": True, "0": False, "true": True, "false": False, "yes": True, "no": False, "": None}


def answer(
    rows: Iterable[Mapping[str, str]], rules: Book | None, where: str
) -> list[Ruling | None]:
    """What is said of each row; refuses with every bad cell of the table at once.

    None stands for a day before the rules read here.
    """
    questions = []
    faults: list[Fault] = []
    for line, row in enumerate(rows, start=2):
        try:
            questions.append(_question(row, f"{where}:{line}"))
        except Refused as refused:
            faults += refused.faults
            if any(column not in row for column in COLUMNS):
                break  # So is every other row.
    if faults:
        raise Refused(*faults)
    return [judge(one, rules) if one.on >= READ_FROM else None for one in questions]


def written(case_id: str, ruling: Ruling | None) -> dict[str, str]:
    """A ruling as a row of `ANSWERS`."""
    if ruling is None:
        return dict(zip(ANSWERS, (case_id, UNKNOWN, UNKNOWN, "", ""), strict=True))
    us, cn = ruling.by["US"], ruling.by["CN"]
    said = (case_id, us.outcome, cn.outcome, us.rule_id, cn.rule_id)
    return dict(zip(ANSWERS, said, strict=True))


def _question(row: Mapping[str, str], where: str) -> Question:
    absent = [column for column in COLUMNS if column not in row]
    if absent:
        why = f"it has no column {', '.join(absent)}"
        raise Refused(Fault("this is no table of cases", where, why, "see `--help`"))
    cells = _Cells(row, where)
    question = Question(
        chip=named(row["chip"], row.get("family", ""), row["item"]),
        destination=cells.country("destination") or "",
        owner=cells.country("buyer_hq") if row["buyer_hq"] else None,
        on=cells.read("date", _day, "write it as 2026-01-15") or READ_FROM,
        route=cells.read("export_kind", ROUTE_WORDS.__getitem__, "write export_from_us, reexport"),
        state_funded=cells.read("state_funded", TRUTHS.__getitem__, "write 1 or 0"),
        buyer=row.get("buyer", ""),
        gpus=cells.read("n_gpus", _count, "write a whole number of at least 1"),
    )
    if cells.faults:
        raise Refused(*cells.faults)
    return question


class _Cells:
    """Reads the cells of a row, and keeps what is wrong with them."""

    def __init__(self, row: Mapping[str, str], where: str):
        self._row, self._where = row, where
        self.faults: list[Fault] = []

    def read(self, column: str, read: Callable[[str], T], remedy: str) -> T | None:
        text = self._row.get(column, "").strip().lower()
        try:
            return read(text)
        except (ValueError, KeyError):
            what = f"case {self._row.get('case_id') or '?'} cannot be read"
            where = f"{self._where}, {column}"
            self.faults.append(Fault(what, where, f"{text!r} is none", remedy))
            return None

    def country(self, column: str) -> str | None:
        try:
            return country(self._row[column], f"{self._where}, {column}")
        except Refused as refused:
            self.faults += refused.faults
            return None


def _day(text: str) -> date:
    if not re.fullmatch(r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}", text):
        raise ValueError(text)
    return date.fromisoformat(text)


def _count(text: str) -> int | None:
    if text and int(text) < 1:
        raise ValueError(text)
    return int(text) if text else None


def named(name: str, family: str = "", item: str = "") -> Chip | Stack:
    """The chip or memory stack of that name; `family` is for chips that are not catalogued."""
    if item == "HBM" or (not item and stack(name)):
        return stack(name) or Stack(name, None)
    try:
        return chips.chip(name)
    except chips.UnknownChip:
        nothing: dict[str, Any] = dict.fromkeys(FIGURES)
        known = family.strip().upper() or None
        return Chip(name, "gpu", {}, basis="unknown", sources=(), family=known, **nothing)
