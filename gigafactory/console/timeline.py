"""Verdicts of the law over time: a band for each government, as an SVG file or in the terminal.

A row is (label, [(from, to, outcome, rule, title)]): `from` is the first day it holds, `to` the
first day it holds no more, None while it still does; days are `datetime.date` or ISO text.
Outcomes are told by words as well as by colour, wherever a band is wide enough to be written on.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from html import escape

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gigafactory.console import drawing
from gigafactory.console.drawing import WIDTH, Layer, text

Day = date | str | None
Band = tuple[Day, Day, str, str, str]
Row = tuple[str, Sequence[Band]]

# From mild to strict: ground and letters, the same by day and night. Blue to red, through light,
# so that they differ by lightness too; what is not known is grey.
OUTCOMES = {
    "no_licence_required": ("#1f5fa8", "#ffffff"),
    "no_restriction": ("#2a76b4", "#ffffff"),
    "allowed_with_conditions": ("#6fb1de", "#0d1117"),
    "notification_required": ("#a9d3ec", "#0d1117"),
    "discouraged": ("#fbe7a1", "#0d1117"),
    "case_by_case": ("#f9c965", "#0d1117"),
    "licence_required": ("#f19a3e", "#0d1117"),
    "unknown": ("#8b949e", "#0d1117"),
    "withheld": ("#b08ac9", "#0d1117"),
    "presumption_of_denial": ("#d9542b", "#0d1117"),
    "prohibited_risk": ("#b0263c", "#ffffff"),
    "prohibited": ("#6e0f2e", "#ffffff"),
}
OTHER = ("#57606a", "#ffffff")
LEFT, RIGHT, TOP = 16, 16, 62
LABEL, BAND, GAP, AXIS = 40, 54, 18, 48
KEY = 44
MARGIN = 8
COLUMNS = 72
"""Letters of a band in the terminal."""
STYLE = (
    ".band { stroke: var(--ground); stroke-width: 1.5 } .inside { font-weight: 600 }"
    ".year { stroke: var(--line); stroke-width: 1.5 }"
)


def words(outcome: str) -> str:
    """The outcome as people say it."""
    return outcome.replace("_", " ")


def svg(rows: Sequence[Row], first: Day, last: Day, title: str) -> str:
    """All rows from `first` to `last` as one SVG file, years as its grid."""
    start, end = _span(first, last)
    bottom = TOP + len(rows) * (LABEL + BAND + GAP)
    keys = _present(rows, start, end)
    columns = max(_columns(layer, keys) for layer in drawing.LAYERS[:1])
    lines = -(-len(keys) // min(columns, _columns(drawing.LAYERS[-1], keys)))
    height = bottom + AXIS + KEY * lines + 10

    def draw(layer: Layer) -> str:
        head = text(LEFT, TOP - 22, title, "strong", f'font-size="{1.1 * layer.font:g}"')
        return (
            head
            + _bands(rows, start, end, layer)
            + _years(start, end, bottom, layer)
            + (_key(keys, bottom + AXIS, layer))
        )

    grid = "".join(
        f'<line class="year" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        for x in (_x(date(year, 1, 1), start, end) for year in _january(start, end))
    )
    return drawing.file(title, height, draw, STYLE, grid)


def bands(rows: Sequence[Row], first: Day, last: Day) -> RenderableType:
    """The same for the terminal: a coloured bar a row, then what each stretch of it is."""
    start, end = _span(first, last)
    parts: list[RenderableType] = []
    for label, stretches in rows:
        bar, table = Text(), Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, style="dim")
        table.add_column(no_wrap=True)
        table.add_column()
        place = 0
        cut = _within(stretches, start, end)
        for number, (begin, stop, (_, _, outcome, rule, what)) in enumerate(cut, start=1):
            ground, ink = OUTCOMES.get(outcome, OTHER)
            upto = round(COLUMNS * ((stop - start) / (end - start)))
            room = max(upto - place, 0)
            # What is too narrow for its words bears the number of its line below.
            said = words(outcome) if len(words(outcome)) + 2 <= room else str(number)
            bar.append(said[:room].center(room), style=f"{ink} on {ground}")
            place += room
            days = f"{begin} to {stop - timedelta(days=1)}"
            mark = Text.assemble(("■ ", ground), words(outcome))
            table.add_row(
                str(number), days, mark, Text(" ".join(filter(None, (rule, what))), style="dim")
            )
        parts += [Text(label, style="bold"), bar, _ruler(start, end), table, ""]
    return Group(*parts[:-1])


def _bands(rows: Sequence[Row], start: date, end: date, layer: Layer) -> str:
    parts = []
    for number, (label, stretches) in enumerate(rows):
        y = TOP + number * (LABEL + BAND + GAP)
        parts.append(text(LEFT, y + LABEL - 10, label, "strong"))
        y += LABEL
        for begin, stop, (_, _, outcome, rule, what) in _within(stretches, start, end):
            ground, ink = OUTCOMES.get(outcome, OTHER)
            x, width = _x(begin, start, end), _x(stop, start, end) - _x(begin, start, end)
            last = stop - timedelta(days=1)
            said = f"{label}: {words(outcome)} from {begin} to {last}. {rule} {what}".strip()
            parts.append(
                f'<rect class="band" x="{x:.1f}" y="{y}" width="{max(width, 1.5):.1f}" '
                f'height="{BAND}" rx="3" fill="{ground}"><title>{escape(said)}</title></rect>'
            )
            parts.append(_written(x, y, width, ink, words(outcome), rule, layer))
    return "".join(parts)


def _written(x: float, y: float, width: float, ink: str, said: str, rule: str, layer: Layer) -> str:
    """The outcome on its band, in one line or two, with the rule below where both fit."""
    for share in (1.0, 0.85):
        room = int((width - 2 * MARGIN) / layer.width("a", share))
        lines = drawing.wrapped(said, room) if room > 0 else [said]
        height = 1.12 * share * layer.font
        if max(map(len, lines)) > room or len(lines) * height > BAND - 6:
            continue
        below = len(rule) * 0.8 <= room and (len(lines) + 1) * height <= BAND - 4 and bool(rule)
        top = y + (BAND - (len(lines) + below) * height) / 2 + 0.82 * height
        more = f'fill="{ink}" font-size="{share * layer.font:.1f}"'
        parts = [
            text(x + MARGIN, top + number * height, line, "inside", more)
            for number, line in enumerate(lines)
        ]
        if below:
            small = f'fill="{ink}" font-size="{0.8 * share * layer.font:.1f}"'
            parts.append(text(x + MARGIN, top + len(lines) * height, rule, "", small))
        return "".join(parts)
    return ""


def _years(start: date, end: date, bottom: float, layer: Layer) -> str:
    """The number of each year at its first of January, as many as there is room for."""
    parts, free = [], 0.0
    width = layer.width("2022")
    for year in _january(start, end):
        x = _x(date(year, 1, 1), start, end)
        left = max(x - width / 2, LEFT)
        if left >= free and left + width <= WIDTH:
            parts.append(text(left, bottom + 1.05 * layer.font, str(year), "soft"))
            free = left + width + 8
    if not parts:
        parts.append(text(LEFT, bottom + 1.05 * layer.font, f"{start} to {end}", "soft"))
    return "".join(parts)


def _key(keys: Sequence[str], y: float, layer: Layer) -> str:
    columns = _columns(layer, keys)
    cell = (WIDTH - LEFT - RIGHT) / columns
    size = 0.8 * layer.font
    parts = []
    for number, outcome in enumerate(keys):
        row, column = divmod(number, columns)
        x, base = LEFT + column * cell, y + row * 1.35 * layer.font + layer.font
        ground, _ = OUTCOMES.get(outcome, OTHER)
        parts.append(
            f'<rect x="{x:.1f}" y="{base - size:.1f}" width="{size:.1f}" height="{size:.1f}" '
            f'rx="2" fill="{ground}"/>'
        )
        parts.append(text(x + 1.5 * size, base, words(outcome)))
    return "".join(parts)


def _columns(layer: Layer, keys: Sequence[str]) -> int:
    longest = max((layer.width(words(key)) for key in keys), default=1) + 3 * layer.font
    return max(int((WIDTH - LEFT - RIGHT) // longest), 1)


def _present(rows: Sequence[Row], start: date, end: date) -> list[str]:
    """The outcomes that are shown, from mild to strict, those of no known name at the end."""
    seen = {band[2] for _, stretches in rows for _, _, band in _within(stretches, start, end)}
    return [name for name in OUTCOMES if name in seen] + sorted(seen - set(OUTCOMES))


def _within(stretches: Sequence[Band], start: date, end: date) -> list[tuple[date, date, Band]]:
    """The stretches that touch the span, cut to it."""
    cut = []
    for band in stretches:
        begin, stop = max(_day(band[0]) or start, start), min(_day(band[1]) or end, end)
        if begin < stop:
            cut.append((begin, stop, band))
    return sorted(cut, key=lambda part: part[0])


def _ruler(start: date, end: date) -> Text:
    """The years below a bar, each under its first of January."""
    line = [" "] * COLUMNS
    free = 0
    for year in _january(start, end):
        place = round(COLUMNS * ((date(year, 1, 1) - start) / (end - start)))
        if place >= free and place + 4 <= COLUMNS:
            line[place : place + 4] = str(year)
            free = place + 5
    return Text("".join(line).rstrip(), style="dim")


def _january(start: date, end: date) -> list[int]:
    return [year for year in range(start.year, end.year + 1) if start <= date(year, 1, 1) < end]


def _span(first: Day, last: Day) -> tuple[date, date]:
    start, end = _day(first), _day(last)
    assert start is not None, "a timeline begins on a day"
    assert end is not None, "a timeline ends on a day"
    return start, max(end, start + timedelta(days=1))


def _day(day: Day) -> date | None:
    """A date as it was given, or as ISO text; blank is none."""
    if isinstance(day, str):
        return date.fromisoformat(day) if day else None
    return day


def _x(day: date, start: date, end: date) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * ((day - start) / (end - start))
