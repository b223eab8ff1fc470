"""Predicted against measured, as one SVG file that any page or browser shows, by day or night.

Both axes are logarithmic and relative: across, what was measured; up, predicted over measured,
so that a good model is a flat line at 1 whatever the metric's size.
"""

import math
from collections.abc import Sequence
from html import escape

from gigafactory.stack.score import Pair, kind

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 230, 28, 46
SPAN = 2.5  # the plot reaches from 1/SPAN to SPAN; what lies beyond is drawn at the edge
STYLE = """
svg { font: 12px system-ui, sans-serif; fill: #24292f; background: #fff }
.grid { stroke: #d0d7de; stroke-width: 1 } .one { stroke: #57606a; stroke-width: 1.5 }
.band { fill: #57606a; opacity: .09 } .range { stroke-width: 1; opacity: .28 }
circle { opacity: .8 }
@media (prefers-color-scheme: dark) {
  svg { fill: #e6edf3; background: #0d1117 } .grid { stroke: #30363d }
  .one { stroke: #9198a1 } .band { fill: #9198a1 }
}
"""


def svg(pairs: Sequence[Pair], title: str = "predicted over measured") -> str:
    """A circle for each pair, its 80 % interval as a line; suite and metric by colour."""
    suites = sorted({_suite(pair) for pair in pairs})
    # Neighbours in the list far apart in hue, and light and dark in turn.
    colour = {
        suite: f"hsl({number * 137.5 % 360:.0f} 62% {38 + 16 * (number % 2)}%)"
        for number, suite in enumerate(suites)
    }
    low, high = _decades(pairs)
    parts = [_frame(title, low, high)]
    for pair in sorted(pairs, key=lambda pair: pair.id):
        x = _x(pair.measured, low, high)
        bounds = [_y(bound / pair.measured) for bound in (pair.low, pair.high)]
        y, ink = _y(pair.predicted / pair.measured), colour[_suite(pair)]
        said = (
            f"{pair.id}: {pair.metric} {pair.predicted:.4g} predicted, {pair.measured:.4g} measured"
        )
        parts.append(
            f'<line class="range" stroke="{ink}" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{bounds[0]:.1f}" y2="{bounds[1]:.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{ink}">'
            f"<title>{escape(said)}</title></circle>"
        )
    for number, suite in enumerate(suites):
        y = TOP + 10 + 18 * number
        x = WIDTH - RIGHT + 18
        parts.append(
            f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour[suite]}"/>'
            f'<text x="{x + 16}" y="{y}">{escape(suite)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _suite(pair: Pair) -> str:
    return f"{pair.suite} {kind(pair.metric)}"


def _frame(title: str, low: int, high: int) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<text x="{LEFT}" y="16" font-weight="600">{escape(title)}</text>',
        f'<rect class="band" x="{LEFT}" width="{right - LEFT}" y="{_y(1.25):.1f}" '
        f'height="{_y(0.8) - _y(1.25):.1f}"/>',
    ]
    for ratio in (0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0):
        y = _y(ratio)
        kind = "one" if ratio == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{ratio:g}</text>')
    for decade in range(low, high + 1):
        x = _x(10.0**decade, low, high)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**decade:g}</text>'
        )
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">'
        "measured, in the unit of its metric</text>"
    )
    return "".join(parts)


def _decades(pairs: Sequence[Pair]) -> tuple[int, int]:
    values = [pair.measured for pair in pairs] or [1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _x(value: float, low: int, high: int) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * (math.log10(value) - low) / (high - low)


def _y(ratio: float) -> float:
    inside = min(max(ratio, 1 / SPAN), SPAN)
    share = (math.log(inside) + math.log(SPAN)) / (2 * math.log(SPAN))
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share
