"""A loss curve within a page: the line as SVG that takes any width, its ends in words around it.

Steps and losses in; lengths are the drawing's units. The style comes from the page's, by class.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gigafactory.console.words import digits

POINTS_MAX = 240
WIDTH, HEIGHT, EDGE = 1000, 200, 8


def curve(name: str, points: Sequence[Mapping[str, Any]]) -> str:
    """The loss of a job by step; empty where there is nothing to draw."""
    told = [point for point in points if math.isfinite(point["loss"])]
    if not told:
        return ""
    every = -(-len(told) // POINTS_MAX)
    told = told[::-1][::every][::-1]  # the last one always among them
    first, last = told[0], told[-1]
    losses = [point["loss"] for point in told]
    across = (WIDTH - 2 * EDGE) / max(last["step"] - first["step"], 1)
    up = (HEIGHT - 2 * EDGE) / max(max(losses) - min(losses), 1e-9)
    spots = [
        (
            EDGE + across * (at["step"] - first["step"]),
            HEIGHT - EDGE - up * (at["loss"] - min(losses)),
        )
        for at in told
    ]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    x, y = spots[-1]
    begin, end = digits(first["loss"]), digits(last["loss"])
    said = f"loss of {name}: {begin} at step {first['step']}, {end} at step {last['step']}"
    return (
        f'<figure class="loss"><p><span>loss {begin}</span><span>{end}</span></p>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(said)}">'
        f'<path class="area" d="M{spots[0][0]:.1f} {HEIGHT}L{line}L{x:.1f} {HEIGHT}Z"/>'
        f'<path class="line" d="M{line}"/><path class="end" d="M{x:.1f} {y:.1f}h.01"/></svg>'
        f"<p><span>step {first['step']:,}</span><span>{last['step']:,}</span></p></figure>"
    )
