"""The plots of an investment as one SVG file: cash by month, tornado, histogram of NPV.

They draw what `stack/money/answers.py` tells and add nothing to it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gigafactory.console import drawing
from gigafactory.console.drawing import Layer, text

Json = Mapping[str, Any]

BARS = 10
"""How many bars of the tornado are shown."""
# Okabe and Ito's colours, which the colour-blind tell apart; by night lightened.
STYLE = (
    "svg { --gain: #0072b2; --loss: #c75000; --owner: #00815d }"
    "@media (prefers-color-scheme: dark) {"
    " svg { --gain: #56b4e9; --loss: #ff9f4a; --owner: #2fcb9a } }"
    ".gain { fill: var(--gain) } .loss { fill: var(--loss) }"
    ".curve { fill: none; stroke-width: 3; stroke-linejoin: round }"
    ".zero { stroke: var(--soft); stroke-width: 1.5 }"
    ".mark { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 6 5 }"
    ".label { paint-order: stroke; stroke: var(--ground); stroke-width: 4px }"
)
HEAD, GAP, PANEL = 100.0, 64.0, 300.0


@dataclass(frozen=True)
class Box:
    """Where the values of a plot are drawn."""

    left: float
    top: float
    right: float
    bottom: float


def svg(told: Json) -> str:
    """Cash by month with its payback, the tornado and the histogram of NPV, as one SVG file."""
    bars = told["tornado"][:BARS]
    money = told["currency"]
    title = f"{told['nodes']:,} × {told['system']}" + (
        f", {told['at_name']}" if told["at_name"] else ""
    )

    def draw(layer: Layer) -> str:
        parts = [text(8, 1.2 * layer.font, title, "strong", f'font-size="{1.15 * layer.font:.1f}"')]
        said = f"modelled, before tax; NPV at {told['discount_rate']:.1%} a year"
        if layer.name != "narrow":
            said += "; in the last month what has value left is sold"
        parts.append(text(8, 2.6 * layer.font, said, "soft"))
        top = HEAD
        for name, height in panels.items():
            box = Box(6.2 * layer.font, top + 2.4 * layer.font, drawing.WIDTH - 16, top + height)
            parts.append(DRAWN[name](told, box, layer, money))
            top += height + GAP
        return "".join(parts)

    panels = {
        "cumulated": PANEL + 50,
        "months": PANEL - 60,
        "tornado": 80 + 36.0 * len(bars),
        "futures": PANEL,
    }
    height = HEAD + sum(panels.values()) + GAP * len(panels) - 10
    return drawing.file(f"Cash of {title}", height, draw, STYLE)


def short(bar: Json) -> str:
    """Name of an input of the tornado in few letters."""
    return str(bar["name"]).replace("_", " ")


def unit_words(unit: str) -> str:
    """A unit as people read it."""
    return (
        ""
        if unit == "1"
        else {"1/year": "a year", "month": "months", "year": "years"}.get(unit, unit)
    )


def _cumulated(told: Json, box: Box, layer: Layer, money: str) -> str:
    """What is left of what was spent, month by month; where it is back is marked."""
    curves = {"project": ("gain", told["cash"]["net"])}
    if told["debt"]["share"]:
        curves["owners"] = ("owner", told["cash"]["equity"])
    sums = {name: _running_sum(flows) for name, (_, flows) in curves.items()}
    everything = [value for values in sums.values() for value in values]
    ticks = drawing.steps(min(everything) / 1e6, max(max(everything) / 1e6, 0), 6)
    months = told["cash"]["months"]
    heading = f"Cash in all, M {money}"
    parts = [_title(box, layer, heading), _frame(box, ticks, months, layer)]
    x = 8 + layer.width(heading, 1.1) + layer.font
    for name, (ink, _) in curves.items():
        words = f"— {name}"
        parts.append(text(x, box.top - 1.2 * layer.font, words, "", f'style="fill:var(--{ink})"'))
        x += layer.width(words) + 2 * layer.font
    first = months.index(told["first_token"][:7])
    parts.append(_upright(box, _month_x(first, months, box), "first token planned", layer))
    for name, (ink, _) in curves.items():
        spots = [
            (_month_x(number, months, box), _at(value / 1e6, ticks, box.bottom, box.top))
            for number, value in enumerate([0.0, *sums[name]])
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline class="curve" style="stroke:var(--{ink})" points="{path}"/>')
    paid = told["project"]["payback_month"]
    if paid:
        x = _month_x(paid + 1, months, box)
        y = _at(sums["project"][paid] / 1e6, ticks, box.bottom, box.top)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{0.5 * layer.font:.1f}" class="gain" '
            f'style="stroke:var(--ground);stroke-width:2"/>'
        )
        said = f"paid back {months[paid]}"
        above = max(y - 0.7 * layer.font, box.top + 1.2 * layer.font)
        parts.append(text(x - layer.font, above, said, "end label strong"))
    else:
        at = (box.left + box.right) / 2
        parts.append(text(at, box.top + 2.8 * layer.font, "never paid back", "middle label strong"))
    return "".join(parts)


def _months(told: Json, box: Box, layer: Layer, money: str) -> str:
    """The project's cash of each month, as bars."""
    months, net = told["cash"]["months"], [value / 1e6 for value in told["cash"]["net"]]
    ticks = drawing.steps(min(*net, 0.0), max(*net, 0.0), 5)
    title = _title(box, layer, f"Cash of each month, project, M {money}")
    parts = [title, _frame(box, ticks, months, layer)]
    zero = _at(0, ticks, box.bottom, box.top)
    wide = (box.right - box.left) / len(months)
    for number, value in enumerate(net):
        y = _at(value, ticks, box.bottom, box.top)
        kind = "gain" if value >= 0 else "loss"
        parts.append(
            f'<rect class="{kind}" x="{box.left + number * wide + 1:.1f}" y="{min(y, zero):.1f}" '
            f'width="{max(wide - 2, 1):.1f}" height="{abs(y - zero):.1f}">'
            f"<title>{months[number]}: {value:,.2f} M {money}</title></rect>"
        )
    return "".join(parts)


def _tornado_drawn(told: Json, box: Box, layer: Layer, money: str) -> str:
    """A bar for each input, from the NPV at its low to that at its high."""
    bars = told["tornado"][:BARS]
    base = told["project"]["npv"] / 1e6
    title = _title(box, layer, f"What moves the NPV ({base:,.1f} M {money})")
    if not bars:
        return title
    names = [short(bar) if layer.name == "narrow" else bar["words"] for bar in bars]
    left = min(max(layer.width(name) for name in names) + 20, 0.5 * drawing.WIDTH)
    inner = Box(left, box.top, box.right - 3 * layer.font, box.bottom)
    values = [bar[end] / 1e6 for bar in bars for end in ("npv_at_low", "npv_at_high")]
    ticks = drawing.steps(min(values), max(values), 4 if layer.name == "narrow" else 7)
    parts = [title]
    for tick in ticks:
        x = _at(tick, ticks, inner.left, inner.right)
        parts.append(_line(x, inner.top, x, inner.bottom))
        parts.append(text(x, inner.bottom + 1.2 * layer.font, f"{tick:,.4g}", "soft middle"))
    middle = _at(base, ticks, inner.left, inner.right)
    row = (inner.bottom - inner.top) / len(bars)
    for number, bar in enumerate(bars):
        y = inner.top + number * row
        parts.append(text(left - 10, y + 0.5 * row + 0.34 * layer.font, names[number], "end"))
        for end, which in (("npv_at_low", "low"), ("npv_at_high", "high")):
            x = _at(bar[end] / 1e6, ticks, inner.left, inner.right)
            kind = "gain" if bar[end] / 1e6 >= base else "loss"
            said = f"{bar['words']} = {bar[which]:.4g} {unit_words(bar['unit'])}".strip()
            parts.append(
                f'<rect class="{kind}" x="{min(x, middle):.1f}" y="{y + 0.15 * row:.1f}" '
                f'width="{abs(x - middle):.1f}" height="{0.7 * row:.1f}">'
                f"<title>{escape(said)}: {bar[end] / 1e6:,.1f} M {money}</title></rect>"
            )
    parts.append(_line(middle, inner.top, middle, inner.bottom, "zero"))
    return "".join(parts)


def _futures_drawn(told: Json, box: Box, layer: Layer, money: str) -> str:
    """How often each NPV was drawn."""
    futures = told["monte_carlo"]
    edges, counts = [edge / 1e6 for edge in futures["edges"]], futures["counts"]
    said = f"NPV of {futures['draws']:,} futures, M {money}"
    said += f": {futures['chance_of_gain']:.0%} above zero"
    parts = [_title(box, layer, said)]
    inner = Box(2.5 * layer.font, box.top, drawing.WIDTH - 2.5 * layer.font, box.bottom)
    ticks = drawing.steps(edges[0], edges[-1], 4 if layer.name == "narrow" else 9)
    for tick in ticks:
        x = _at(tick, ticks, inner.left, inner.right)
        parts.append(_line(x, inner.top, x, inner.bottom))
        parts.append(text(x, inner.bottom + 1.2 * layer.font, f"{tick:,.4g}", "soft middle"))
    tallest = max(counts)
    for number, count in enumerate(counts):
        start, end = (
            _at(edge, ticks, inner.left, inner.right) for edge in edges[number : number + 2]
        )
        height = (inner.bottom - inner.top) * 0.86 * count / tallest
        kind = "gain" if edges[number] + edges[number + 1] >= 0 else "loss"
        parts.append(
            f'<rect class="{kind}" x="{start + 0.5:.1f}" y="{inner.bottom - height:.1f}" '
            f'width="{max(end - start - 1, 0.5):.1f}" height="{height:.1f}">'
            f"<title>{edges[number]:,.1f} to {edges[number + 1]:,.1f}: {count}</title></rect>"
        )
    for name in ("p10", "p50", "p90"):
        x = _at(futures[name] / 1e6, ticks, inner.left, inner.right)
        parts.append(_upright(inner, x, name.upper(), layer))
    return "".join(parts)


DRAWN: dict[str, Callable[[Json, Box, Layer, str], str]] = {
    "cumulated": _cumulated,
    "months": _months,
    "tornado": _tornado_drawn,
    "futures": _futures_drawn,
}


def _running_sum(flows: Sequence[float]) -> list[float]:
    sums, total = [], 0.0
    for flow in flows:
        total += flow
        sums.append(total)
    return sums


def _title(box: Box, layer: Layer, said: str) -> str:
    return text(8, box.top - 1.2 * layer.font, said, "strong")


def _frame(box: Box, ticks: Sequence[float], months: Sequence[str], layer: Layer) -> str:
    """Lines with their amounts, and the years below."""
    parts = []
    for tick in ticks:
        y = _at(tick, ticks, box.bottom, box.top)
        parts.append(_line(box.left, y, box.right, y, "zero" if tick == 0 else "line"))
        parts.append(text(box.left - 8, y + 0.34 * layer.font, f"{tick:,.4g}", "soft end"))
    for number, month in enumerate(months):
        if month.endswith("-01"):
            x = _month_x(number, months, box)
            parts.append(_line(x, box.bottom, x, box.bottom + 6))
            if x + 4 + layer.width("2028") < drawing.WIDTH:
                parts.append(text(x + 4, box.bottom + 1.2 * layer.font, month[:4], "soft"))
    return "".join(parts)


def _upright(box: Box, x: float, said: str, layer: Layer) -> str:
    """A marked place on the axis with its name, on the side where there is room."""
    line = _line(x, box.top - 2, x, box.bottom, "mark")
    room = x + layer.width(said) + 10 < box.right
    at, kind = (x + 6, "label soft") if room else (x - 6, "label soft end")
    return line + text(at, box.top + 1.2 * layer.font, said, kind)


def _month_x(number: int, months: Sequence[str], box: Box) -> float:
    return box.left + (box.right - box.left) * number / len(months)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "line") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _at(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return start + (end - start) * (value - ticks[0]) / (ticks[-1] - ticks[0])
