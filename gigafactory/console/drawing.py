"""What the drawings of this room share: one SVG file, by day or night, on a screen of any width.

A file that is shown narrow would shrink its letters beyond reading, so what carries letters is
drawn for several widths, and the viewer's width picks one. Lengths are in the drawing's units.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 1200
CHARACTER = 0.6
"""Mean width of a letter over the size of its font."""
STYLE = """
svg { font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif;
  fill: #24292f; background: #fff; --ground: #fff; --ink: #24292f; --soft: #57606a;
  --line: #d8dee4; --land: #e4e8ec; --shore: #c3cad2 }
.soft { fill: var(--soft) } .strong { font-weight: 600 } .end { text-anchor: end }
.middle { text-anchor: middle } .line { stroke: var(--line); stroke-width: 1 }
.narrow, .middling { display: none }
@media (max-width: 1000px) { .wide { display: none } .middling { display: inline } }
@media (max-width: 560px) { .middling { display: none } .narrow { display: inline } }
@media (prefers-color-scheme: dark) {
  svg { fill: #e6edf3; background: #0d1117; --ground: #0d1117; --ink: #e6edf3;
    --soft: #9aa7b6; --line: #2b3440; --land: #222a33; --shore: #3a4552 }
}
"""


@dataclass(frozen=True)
class Layer:
    """The drawing for one range of widths: `font` is the size of its letters."""

    name: str
    font: float

    def width(self, text: str, share: float = 1) -> float:
        """About how wide `text` is, in letters of `share` of the font."""
        return CHARACTER * self.font * share * len(text)


LAYERS = (Layer("wide", 14), Layer("middling", 18), Layer("narrow", 32))
"""At 1400, 900 and 390 pixels these letters are some 16, 13 and 10 pixels tall."""


def file(
    title: str,
    height: float,
    draw: Callable[[Layer], str],
    style: str = "",
    below: str = "",
    width: float = WIDTH,
    layers: Sequence[Layer] = LAYERS,
) -> str:
    """A whole SVG file: `below` once, and over it what `draw` makes of every layer."""
    drawn = "".join(
        f'<g class="{layer.name}" font-size="{layer.font:g}">{draw(layer)}</g>' for layer in layers
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="{escape(title)}"><style>{STYLE}{style}</style>{below}{drawn}'
        "</svg>\n"
    )


def text(x: float, y: float, said: str, kind: str = "", more: str = "") -> str:
    """Words at a place; `kind` are classes, `more` further attributes."""
    classes = f' class="{kind}"' if kind else ""
    extra = f" {more}" if more else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{classes}{extra}>{escape(said)}</text>'


def wrapped(said: str, letters: int) -> list[str]:
    """`said` in lines of at most so many letters, broken between words."""
    lines = [""]
    for word in said.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def steps(low: float, high: float, most: int) -> list[float]:
    """Round numbers from below `low` to above `high`, at most `most` intervals."""
    span = max(high - low, 0.01 * abs(high), 1e-9)
    for exponent in itertools.count(math.floor(math.log10(span / most))):
        for factor in (1, 2, 2.5, 5):
            step = factor * 10.0**exponent
            # A bound that is a rounding error away from a step is that step.
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            last = max(last, first + 1)
            if last - first <= most:
                return [round(step * number, 12) for number in range(first, last + 1)]
    raise AssertionError("there is always a step that is large enough")
