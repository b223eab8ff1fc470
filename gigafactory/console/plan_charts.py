"""Small plots of a designed factory, as SVG that stands in a page: columns by quarter, and bars.

Each is drawn for a card some 420 pixels wide, of which a page puts as many side by side as fit;
so letters stay readable on a phone. The page gives the colours `--s0`, `--s1`, ... of `series`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from html import escape

from gigafactory.console import drawing
from gigafactory.console.drawing import CHARACTER, text

WIDTH, HEIGHT, FONT = 420.0, 210.0, 14.0
TOP, BOTTOM, RIGHT = 10.0, 26.0, 4.0
ROW, BAR = 38.0, 12.0
INKS = 8
"""So many series have a colour of their own; all others share the next, grey."""
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
MONEY = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Series:
    """One colour of the columns: a value for each quarter, in the unit of the plot."""

    label: str
    ink: int
    values: Sequence[float]


@dataclass(frozen=True)
class Scale:
    """What a plot's values are divided by, and the unit they then have."""

    factor: float
    unit: str

    def say(self, value: float) -> str:
        """A value with its unit, four digits."""
        return f"{plain(value / self.factor)} {self.unit}".strip()


def scale(most: float, unit: str) -> Scale:
    """The prefix that suits the largest value: `MW`, `M EUR`, `k chips`."""
    if unit == "t":  # A kt is 1,000 t to whoever reads this.
        return Scale(1.0, unit)
    letters = unit.isupper() and len(unit) == 3
    for factor, prefix in MONEY if letters else PREFIXES:
        if abs(most) >= factor * (1 if letters or unit in ("W", "Wh", "g", "L") else 100):
            between = "" if unit in ("W", "Wh", "g", "L") else " "
            return Scale(factor, f"{prefix}{between}{unit}")
    return Scale(1.0, unit)


def plain(value: float) -> str:
    """Four digits, thousands parted, never an exponent; whole numbers whole."""
    return f"{float(f'{value:.4g}') + 0.0:,.10g}"


def columns(
    said: str,
    unit: str,
    quarters: Sequence[date],
    series: Sequence[Series],
    limit: Sequence[float] | None = None,
) -> str:
    """A stacked column for each quarter; `limit` is a dashed line above or through them."""
    totals = [sum(one.values[number] for one in series) for number in range(len(quarters))]
    most = max([*totals, *(limit or ())], default=0.0)
    by = scale(most, unit)
    ticks = drawing.steps(0.0, most / by.factor or 1.0, 4)
    left = 6 + CHARACTER * FONT * max(len(plain(tick)) for tick in ticks)
    low, high = HEIGHT - BOTTOM, TOP
    wide = (WIDTH - left - RIGHT) / max(len(quarters), 1)

    def y(value: float) -> float:
        return low - (low - high) * value / by.factor / ticks[-1]

    parts = []
    for tick in ticks:
        at = y(tick * by.factor)
        parts.append(f'<path class="grid" d="M{left:.1f} {at:.1f}H{WIDTH - RIGHT:.1f}"/>')
        parts.append(text(left - 6, at + 0.34 * FONT, plain(tick), "end soft"))
    parts.append(_years(quarters, left, wide))
    for number, day in enumerate(quarters):
        base = 0.0
        for one in series:
            value = one.values[number]
            if value <= 0:
                continue
            foot, head = y(base), y(base + value)
            # Never thinner than what an eye finds.
            tall = max(foot - head, 0.8)
            told = f"{said}, quarter from {day}: {one.label}, {by.say(value)}"
            parts.append(
                f'<rect class="s{min(one.ink, INKS)}" x="{left + number * wide + 1.5:.1f}" '
                f'y="{foot - tall:.1f}" width="{wide - 3:.1f}" height="{tall:.1f}">'
                f"<title>{escape(told)}</title></rect>"
            )
            base += value
    if limit:
        path = f"M{left:.1f} {y(limit[0]):.1f}"
        for number, cap in enumerate(limit):
            path += f"V{y(cap):.1f}H{left + (number + 1) * wide:.1f}"
        parts.append(f'<path class="limit" d="{path}"/>')
    return _svg(f"{said}, {by.unit}", HEIGHT, "".join(parts))


def unit_of(unit: str, series: Sequence[Series], limit: Sequence[float] | None = None) -> str:
    """The unit in which `columns` would write these values."""
    totals = [sum(values) for values in zip(*(one.values for one in series), strict=True)]
    return scale(max([*totals, *(limit or ())], default=0.0), unit).unit


def bars(said: str, unit: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """A bar for each (label, value, what a pointer on it is told); negative ones point left."""
    values = [value for _, value, _ in rows]
    low, high = min([0.0, *values]), max([0.0, *values])
    by, span = scale(max(abs(low), abs(high)), unit), (high - low) or 1.0
    room = WIDTH - 2 * RIGHT
    zero = RIGHT + room * -low / span
    parts = []
    for number, (label, value, told) in enumerate(rows):
        y = number * ROW
        shown = by.say(value)
        letters = int((room - CHARACTER * FONT * (len(shown) + 2)) / (CHARACTER * FONT))
        parts.append(text(RIGHT, y + 1.05 * FONT, shortened(label, letters)))
        parts.append(text(WIDTH - RIGHT, y + 1.05 * FONT, shown, "end"))
        length = room * abs(value) / span
        kind = "in" if value < 0 else "out"
        parts.append(
            f'<rect class="{kind}" x="{zero - (length if value < 0 else 0):.1f}" '
            f'y="{y + 1.5 * FONT:.1f}" width="{max(length, 1):.1f}" height="{BAR:g}" rx="2">'
            f"<title>{escape(told or f'{label}: {shown}')}</title></rect>"
        )
        if low < 0:
            parts.append(f'<path class="zero" d="M{zero:.1f} {y + 1.3 * FONT:.1f}v{BAR + 6:g}"/>')
    return _svg(f"{said}, {by.unit}", ROW * len(rows), "".join(parts))


def shortened(said: str, letters: int) -> str:
    """At most so many letters, with a mark where some are left out."""
    return said if len(said) <= letters else said[: max(letters - 1, 1)].rstrip(" ,") + "…"


def curve(said: str, unit: str, points: Sequence[tuple[date, float]]) -> str:
    """A line through values by month, with the line of nothing."""
    values = [value for _, value in points]
    by = scale(max((abs(value) for value in values), default=0.0), unit)
    low, high = min([0.0, *values]), max([0.0, *values])
    ticks = drawing.steps(low / by.factor, high / by.factor if high > low else 1.0, 4)
    left = 6 + CHARACTER * FONT * max(len(plain(tick)) for tick in ticks)
    wide = (WIDTH - left - RIGHT) / max(len(points), 1)

    def y(value: float) -> float:
        share = (value / by.factor - ticks[0]) / (ticks[-1] - ticks[0])
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share

    parts = []
    for tick in ticks:
        at = y(tick * by.factor)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{left:.1f} {at:.1f}H{WIDTH - RIGHT:.1f}"/>')
        parts.append(text(left - 6, at + 0.34 * FONT, plain(tick), "end soft"))
    parts.append(_years([day for day, _ in points], left, wide))
    spots = [(left + (n + 1) * wide, y(value)) for n, value in enumerate(values)]
    path = " ".join(f"{x:.1f},{at:.1f}" for x, at in [(left, y(0.0)), *spots])
    parts.append(f'<polyline class="flow" points="{path}"/>')
    for (day, value), (x, _) in zip(points, spots, strict=True):
        # A pointer finds the month anywhere above or below the line.
        parts.append(
            f'<rect class="none" x="{x - wide:.1f}" y="{TOP:g}" width="{wide:.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP:g}"><title>{escape(f"{said}, {day:%Y-%m}")}: '
            f"{escape(by.say(value))}</title></rect>"
        )
    return _svg(f"{said}, {by.unit}", HEIGHT, "".join(parts))


def _years(quarters: Sequence[date], left: float, wide: float) -> str:
    """The year below its first quarter, as many as there is room for."""
    parts, free, last = [], 0.0, None
    for number, day in enumerate(quarters):
        x = left + number * wide
        if day.year != last and x >= free and x + 4 * CHARACTER * FONT <= WIDTH:
            parts.append(text(x + 1.5, HEIGHT - 0.5 * FONT, str(day.year), "soft"))
            free = x + 5 * CHARACTER * FONT
        last = day.year
    return "".join(parts)


def _svg(said: str, height: float, drawn: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH:g} {height:g}" font-size="{FONT:g}" role="img" '
        f'aria-label="{escape(said)}">{drawn}</svg>'
    )
