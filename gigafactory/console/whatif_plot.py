"""One change through all layers as one SVG file: each figure after over before, by layer.

To the right of the middle a figure grew, to the left it shrank; the axis is logarithmic.
"""

import math
from collections.abc import Sequence

from gigafactory.console import drawing
from gigafactory.console.drawing import Layer, text
from gigafactory.plan.whatif import LAYERS, Row

# Okabe and Ito's colours, which the colour-blind tell apart; by night lightened.
STYLE = (
    "svg { --chip: #0072b2; --interconnect: #00815d; --model: #8a5a00; --application: #a0427a }"
    "@media (prefers-color-scheme: dark) {"
    " svg { --chip: #56b4e9; --interconnect: #2fcb9a; --model: #e69f00; --application: #e58cc0 } }"
    ".zero { stroke: var(--soft); stroke-width: 1.5 }"
    ".label { paint-order: stroke; stroke: var(--ground); stroke-width: 4px }"
)
ROW, HEAD = 34.0, 110.0
LEAST_SPAN = math.log(1.25)


def svg(rows: Sequence[Row], changes: Sequence[str]) -> str:
    """The figures that changed and are numbers on both sides; words are in the table."""
    shown = [(row, row.ratio) for row in rows if row.changed and row.ratio]
    height = HEAD + ROW * (len(shown) + len(LAYERS)) + 40
    span = max([LEAST_SPAN, *(abs(math.log(ratio)) for _, ratio in shown)])

    def draw(layer: Layer) -> str:
        title = f"what if {', '.join(changes)}"
        parts = [
            text(8, 1.3 * layer.font, title, "strong", f'font-size="{1.1 * layer.font:.1f}"'),
            text(8, 2.7 * layer.font, "after over before, modelled", "soft"),
        ]
        left = 0.42 * drawing.WIDTH
        middle, half = (left + drawing.WIDTH) / 2, (drawing.WIDTH - left) / 2 - 5 * layer.font
        y, last = HEAD, ""
        parts.append(
            f'<line class="zero" x1="{middle:.1f}" x2="{middle:.1f}" y1="{HEAD - 14:g}" '
            f'y2="{height - 16:g}"/>'
        )
        for row, ratio in shown:
            if row.layer != last:
                parts.append(text(8, y + 0.7 * ROW, row.layer, "strong"))
                y, last = y + ROW, row.layer
            end = middle + half * math.log(ratio) / span
            x, width = min(middle, end), max(abs(end - middle), 2)
            change = f"{ratio - 1:+.1%}" if ratio < 10 else f"× {ratio:,.0f}"
            grew = ratio > 1
            parts += [
                text(left - 12, y + 0.65 * ROW, _short(row.what, layer, left), "end"),
                f'<rect x="{x:.1f}" y="{y + 6:.1f}" width="{width:.1f}" height="{ROW - 12:g}" '
                f'rx="3" fill="var(--{row.layer})"/>',
                text(
                    end + (8 if grew else -8),
                    y + 0.65 * ROW,
                    change,
                    "label" if grew else "label end",
                ),
            ]
            y += ROW
        return "".join(parts)

    return drawing.file(f"What if {', '.join(changes)}", height, draw, STYLE)


def _short(what: str, layer: Layer, room: float) -> str:
    """As much of the words as has room."""
    letters = int((room - 20) / layer.width("m"))
    return what if len(what) <= letters else f"{what[: letters - 1]}…"
