"""Figures with the note that says what each is, on which basis and from which source; tables.

A figure bears the number of its note. Notes alike are one note, numbered in the order of the
page. What the catalog says of a system or a rule is looked up here.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from html import escape
from typing import Any

from gigafactory.console.plan_charts import plain
from gigafactory.stack import chips, facts, law
from gigafactory.stack.chips import UnknownChip, UnknownFigure
from gigafactory.stack.money import figures

OPEN_UP_TO = 24
"""Lists longer than this are folded."""
BASES = {
    "stated": "the blueprint says so",
    "published": "a source says so",
    "measured": "measured, by the source or here",
    "derived": "calculated from sourced figures",
    "modelled": "what our model gives; compare before you rely on it",
    "estimate": "a source's or our estimate",
    "assumed": "taken as so, without a source",
    "recalled": "remembered, not looked up",
    "unknown": "not known",
}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


MARK = re.compile(r'<a class="n" href="#n(\d+)" aria-label="note \d+">\d+</a>')


def _mark(number: int) -> Html:
    return Html(f'<a class="n" href="#n{number}" aria-label="note {number}">{number}</a>')


class Notes:
    """The numbered notes of one page."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str, str], int] = {}

    def mark(self, what: str, basis: str, source: str) -> Html:
        """The number of a note, to stand behind what it is about."""
        number = self._numbers.setdefault((what, basis, source), len(self._numbers) + 1)
        return _mark(number)

    def figure(self, shown: str, what: str, basis: str, source: str) -> Html:
        """A figure that bears the number of its note."""
        return Html(f'<span class="f">{escape(shown)}{self.mark(what, basis, source)}</span>')

    def settled(self, page: str) -> str:
        """The page with its notes numbered in the order in which they stand there."""
        seen = [int(number) for number in MARK.findall(page)]
        order = {old: new for new, old in enumerate(dict.fromkeys(seen), start=1)}
        by_old = {number: note for note, number in self._numbers.items()}
        self._numbers = {by_old[old]: new for old, new in order.items()}
        return MARK.sub(lambda mark: _mark(order[int(mark[1])]), page)

    def listed(self) -> Html:
        """All notes as a table, and what the bases mean."""
        rows = "".join(
            f'<tr id="n{number}"><td class="number">{number}</td><td>{escape(what)}</td>'
            f"<td>{escape(basis)}</td><td>{escape(source)}</td></tr>"
            for (what, basis, source), number in self._numbers.items()
        )
        used = dict.fromkeys(basis for _, basis, _ in self._numbers)
        meant = "; ".join(
            f"<b>{escape(basis)}</b>: {escape(BASES.get(basis, basis))}" for basis in used
        )
        return Html(
            '<table class="notes"><thead><tr><th class="number">note</th><th>figure</th>'
            f"<th>basis</th><th>source</th></tr></thead><tbody>{rows}</tbody></table>"
            f'<p class="soft">{meant}.</p>'
        )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    numbers: Collection[int] = (),
    prose: Collection[int] = (),
    foot: Sequence[Any] | None = None,
) -> Html:
    """A table; the columns `numbers` are set to the right, those of `prose` may wrap."""

    def line(tag: str, cells: Sequence[Any]) -> str:
        kinds = [
            "number" if place in numbers else "prose" if place in prose else ""
            for place in range(len(head))
        ]
        return "".join(
            f"<{tag}{f' class={kind}' if kind else ''}>{cell(one)}</{tag}>"
            for kind, one in zip(kinds, cells, strict=True)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    last = f"<tfoot><tr>{line('td', foot)}</tr></tfoot>" if foot else ""
    return Html(
        '<div class="wide" tabindex="0"><table>'
        f"<thead><tr>{line('th', head)}</tr></thead><tbody>{body}</tbody>{last}</table></div>"
    )


def cell(value: Any) -> str:
    """A value as it stands in a table: numbers as people write them, all else escaped."""
    if isinstance(value, Html):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return plain(value) if isinstance(value, float) else escape(str(value))


def folded(title: str, inside: str, shown: bool = False) -> Html:
    """A list that opens when it is asked for, and in print."""
    return Html(
        f"<details{' open' if shown else ''}><summary>{escape(title)}</summary>{inside}</details>"
    )


@cache
def chips_of(name: str) -> tuple[str, str, str]:
    """(what, basis, source) of how many chips a node has."""
    fact = facts.by_subject("systems").get(name, {}).get("chips_per_node")
    what = f"chips of {name}: nodes × chips a node"
    if fact is None:
        return what, "modelled", "chosen by the optimiser; the catalog has no row for the node"
    said = f"{fact.text} chips a node: {fact.source} ({fact.as_of}); the nodes are chosen"
    return what, fact.basis, said


@cache
def price_of(name: str) -> tuple[str, str, str]:
    """(what, basis, source) of what a node costs with its network and storage."""
    what = f"price of {name}: nodes × (node + network + storage)"
    try:
        asked = figures.inputs(chips.system(name), names=("node_price", "network", "storage"))
    except (UnknownChip, UnknownFigure):
        return what, "unknown", "the catalog has no price of this name"
    parts = "; ".join(
        f"{one.words} {plain(one.value)} {one.unit if one.unit != '1' else ''} "
        f"[{plain(one.low)} to {plain(one.high)}], {one.basis}: {one.source} ({one.as_of})"
        for one in asked.values()
    )
    return what, asked["node_price"].basis, parts


@cache
def power_of(name: str) -> tuple[str, str, str]:
    """(what, basis, source) of what a node draws on the IT side."""
    what = f"IT power of {name}: nodes × (chips at full draw + what the node draws beside them)"
    try:
        system = chips.system(name)
    except UnknownChip:
        return what, "unknown", "the catalog has no system of this name"
    beside = figures.inputs(system, names=("beside",))["beside"]
    chip = facts.by_subject("chips").get(system.chip.name, {}).get("busy_power")
    node = facts.by_subject("systems").get(name, {}).get("node_overhead")
    said = "; ".join(
        f"{words} {fact.text} {fact.stated_unit}, {fact.basis}: {fact.source} ({fact.as_of})"
        for words, fact in ((f"{system.chips_per_node} chips of", chip), ("beside them", node))
        if fact is not None
    )
    said += f"; {beside.words} {beside.value:g}, {beside.basis}: {beside.source}"
    return what, "derived", said


@cache
def part_of(name: str) -> str:
    """What else a part of the net cost is made from, to be added to its source."""
    asked = {
        "upkeep": ("maintenance_machines",),
        "residual": ("machine_life", "resale"),
        "facility": ("facility", "commissioning", "fill"),
    }
    words = {
        "capex": "the price of each system, see the bill",
        "energy": "each site's price of electricity and PUE, see the places",
        "revenue": "the price of a token in the blueprint",
    }
    rows = {one.quantity: one for one in facts.load("economics") if one.subject in figures.SUBJECTS}
    said = [
        f"{figures.KNOWN[each][0]} {rows[each].text} {rows[each].stated_unit}, "
        f"{rows[each].basis}: {rows[each].source} ({rows[each].as_of})"
        for each in asked.get(name, ())
    ]
    return "; ".join(["", *said]) if said else f"; {words[name]}" if name in words else ""


@cache
def rule_of(name: str) -> tuple[str, str, str]:
    """(what, basis, source) of a rule of law."""
    for rule in law.shipped():
        if rule.id == name:
            said = f"{rule.source} (read {rule.as_of}; {rule.status}, confidence {rule.confidence})"
            return f"rule {name}: {rule.title}", "published", said
    return f"rule {name}", "unknown", "the catalog has no rule of this name"
