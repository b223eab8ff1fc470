"""Places on a map of the world, coloured by a quantity; one SVG file that needs no network.

Robinson projection (table of A. H. Robinson, 1974) about 11.5° east, where the map's edge cuts no
land but Antarctica, which is left out. The frame is what the points need, with room around.
Land: `land.csv`, from Natural Earth 4.1.0 at 1:110 million, public domain, simplified to 0.2°.
Degrees in, units of the drawing out.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

import numpy as np

from gigafactory.console import drawing
from gigafactory.console.drawing import WIDTH, Layer, text

LAND = Path(__file__).with_name("land.csv")
CENTRE_DEG = 11.5
# Robinson's table, each five degrees of latitude from the equator: length of the parallel, and
# its distance from the equator, each over its greatest.
# fmt: off
PARALLEL = (
    1.0, 0.9986, 0.9954, 0.99, 0.9822, 0.973, 0.96, 0.9427, 0.9216, 0.8962,
    0.8679, 0.835, 0.7986, 0.7597, 0.7186, 0.6732, 0.6213, 0.5722, 0.5322,
)
HEIGHT = (
    0.0, 0.062, 0.124, 0.186, 0.248, 0.31, 0.372, 0.434, 0.4958, 0.5571,
    0.6176, 0.6769, 0.7346, 0.7903, 0.8435, 0.8936, 0.9394, 0.9761, 1.0,
)
# fmt: on

TOP, MAP_HEIGHT, LEGEND_HEIGHT = 56, 545, 128
NARROWEST = 0.3
"""A frame is no narrower than this share of the world: the coasts are too coarse for more."""
RADIUS = {"wide": 5.5, "middling": 7.0, "narrow": 11.0}
"""Of a place with one data center; areas are as the data centers, as far as seven."""
BAR = {"wide": 620, "middling": 620, "narrow": 540}
"""The longest that the bar of colours gets."""
CLASSES = 8
# After viridis, which the colour-blind read too: what is high stands out, dark by day and bright
# by night.
DAY = ("#7ad151", "#44bf70", "#22a884", "#1f8a8c", "#2a6a8e", "#3e4989", "#45246b", "#2a0038")
NIGHT = ("#5566c0", "#4379bd", "#2f8fae", "#25a39c", "#3fbc73", "#84d44b", "#c8e020", "#fdf07a")
NONE = "var(--soft)"
STYLE = (
    ".land { fill: var(--land); stroke: var(--shore); stroke-width: .7; fill-rule: evenodd }"
    ".point { stroke-width: 1; stroke: var(--ground) }"
    ".hollow { stroke-width: 3; fill: var(--ground) }"
    ".to { stroke: var(--soft); stroke-width: 1; opacity: .7 }"
    ".label { paint-order: stroke; stroke: var(--ground); stroke-width: 3px;"
    " stroke-linejoin: round }"
    + "".join(f"svg {{ --c{number}: {ink} }}" for number, ink in enumerate(DAY))
    + "@media (prefers-color-scheme: dark) {"
    + "".join(f"svg {{ --c{number}: {ink} }}" for number, ink in enumerate(NIGHT))
    + "}"
)


@dataclass(frozen=True)
class Point:
    """One place. `own` is false where the value is a stand-in or modelled: it is drawn hollow.

    Without a value it is drawn grey and small.
    """

    name: str
    latitude: float
    longitude: float
    value: float | None
    size: float = 1
    """How many data centers stand there."""
    own: bool = True
    said: str = ""
    """What a pointer resting on it is told: figure, basis, source."""


@dataclass(frozen=True)
class Frame:
    """The part of the world that is shown: its upper left corner and the scale."""

    left: float
    upper: float
    scale: float

    def xy(self, latitude: float, longitude: float) -> tuple[float, float]:
        """Where a place lies in the drawing."""
        x, y = project(latitude, longitude)
        return (x - self.left) * self.scale, TOP + (self.upper - y) * self.scale


def svg(points: Sequence[Point], title: str, unit: str, note: str = "", form: str = "{:g}") -> str:
    """A circle for each point; `form` writes a value, `note` says what the colours leave open."""
    view = frame([(point.latitude, point.longitude) for point in points])
    values = [point.value for point in points if point.value is not None] or [0.0]
    bounds = drawing.steps(min(values), max(values), CLASSES)
    land = (
        f'<clipPath id="frame"><rect y="{TOP}" width="{WIDTH}" height="{MAP_HEIGHT}"/></clipPath>'
        f'<path class="land" clip-path="url(#frame)" d="{_land(view)}"/>'
    )

    def draw(layer: Layer) -> str:
        head = text(12, TOP - 18, title, "strong", f'font-size="{1.15 * layer.font:g}"')
        return (
            head + _places(points, view, bounds, layer, form) + _legend(bounds, unit, note, layer)
        )

    height = TOP + MAP_HEIGHT + LEGEND_HEIGHT
    return drawing.file(f"{title}, {unit}", height, draw, STYLE, land)


def project(latitude: float, longitude: float) -> tuple[float, float]:
    """(x, y) of Robinson's projection: a world 1 wide, from -0.5 to 0.5, north up."""
    turn = (longitude - CENTRE_DEG + 180) % 360 - 180
    rows = range(0, 91, 5)
    length = float(np.interp(abs(latitude), rows, PARALLEL))
    rise = float(np.interp(abs(latitude), rows, HEIGHT))
    # The table's radii, 0.8487 and 1.3523, over the length of the equator.
    return length * turn / 360, math.copysign(rise, latitude) * 1.3523 / (2 * math.pi * 0.8487)


def frame(places: Sequence[tuple[float, float]]) -> Frame:
    """The frame that shows all places, each some way from the edge."""
    spots = [project(*place) for place in places] or [(0.0, 0.0)]
    x_min, x_max = min(x for x, _ in spots), max(x for x, _ in spots)
    y_min, y_max = min(y for _, y in spots), max(y for _, y in spots)
    aspect = WIDTH / MAP_HEIGHT
    across = max(1.14 * (x_max - x_min), 1.2 * (y_max - y_min) * aspect, NARROWEST)
    return Frame(
        left=(x_min + x_max - across) / 2,
        upper=(y_min + y_max + across / aspect) / 2,
        scale=WIDTH / across,
    )


def _places(
    points: Sequence[Point], view: Frame, bounds: list[float], layer: Layer, form: str
) -> str:
    """Circles where there is room for them, a line to where they belong, names beside them."""
    true = np.array([view.xy(point.latitude, point.longitude) for point in points]).reshape(-1, 2)
    radii = np.array([_radius(point.size, layer) for point in points])
    spots = apart(true, radii)
    parts = []
    for (x, y), (x0, y0), radius in zip(spots, true, radii, strict=True):
        if math.hypot(x - x0, y - y0) > 0.7 * radius:
            parts.append(
                f'<line class="to" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>'
            )
    for point, (x, y), radius in zip(points, spots, radii, strict=True):
        # An unknown value is grey and small: nothing that an eye should stop at.
        unknown = point.value is None
        ink = NONE if point.value is None else f"var(--c{_class(point.value, bounds)})"
        filled = point.own or unknown
        paint = f'class="point" style="fill:{ink}"'
        if not filled:
            paint = f'class="hollow" style="stroke:{ink}"'
        shown = 0.6 * radius if unknown else radius if filled else radius - 1.5
        parts.append(
            f'<circle {paint} cx="{x:.1f}" cy="{y:.1f}" r="{shown:.1f}">'
            f"<title>{escape(point.said or point.name)}</title></circle>"
        )
    return "".join(parts) + _names(points, spots, radii, layer, form)


def _names(
    points: Sequence[Point], spots: np.ndarray, radii: np.ndarray, layer: Layer, form: str
) -> str:
    """As many names as fit: the least and the greatest value first, then the larger places."""
    taken = [
        (x - radius, y - radius, x + radius, y + radius)
        for (x, y), radius in zip(spots, radii, strict=True)
    ]
    size = 0.86 * layer.font
    parts = []
    names: set[str] = set()
    for number in _order(points):
        point, (x, y), radius = points[number], spots[number], radii[number]
        value = "" if point.value is None else f" {form.format(point.value)}"
        said = f"{point.name}{value}"
        if said in names:
            continue
        length = layer.width(said, 0.86)
        middle = y + 0.36 * size
        for left, base in (
            (x + radius + 4, middle),
            (x - radius - 4 - length, middle),
            (x - length / 2, y - radius - 0.35 * size),
            (x - length / 2, y + radius + 0.95 * size),
        ):
            box = (left - 2, base - 0.82 * size, left + length + 2, base + 0.24 * size)
            inside = (
                box[0] > 4 and box[2] < WIDTH - 4 and box[1] > TOP and box[3] < TOP + MAP_HEIGHT
            )
            mine = taken[number]
            if inside and not any(_meet(box, other) for other in taken if other is not mine):
                taken.append(box)
                names.add(said)
                parts.append(text(left, base, said, "label", f'font-size="{size:.1f}"'))
                break
    return "".join(parts)


def _order(points: Sequence[Point]) -> list[int]:
    """The two least and the two greatest values, then all others from the largest place down."""
    known = {number: point.value for number, point in enumerate(points) if point.value is not None}
    larger = sorted(range(len(points)), key=lambda number: (-points[number].size, number))
    least = sorted((number for number in larger if number in known), key=lambda one: known[one])
    most = sorted((number for number in larger if number in known), key=lambda one: -known[one])
    return list(dict.fromkeys(least[:2] + most[:2] + larger))


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def apart(true: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Centres near the `true` ones whose circles do not overlap: pairs push, homes pull."""
    count = len(true)
    # A turn of its own for each, so that circles on one spot part, and always the same way.
    turns = np.arange(count) * 2.399963
    spots = true + 0.01 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    reach = radii[:, None] + radii[None, :] + 1.5
    np.fill_diagonal(reach, 0)
    for number in range(400):
        between = spots[:, None] - spots[None, :]
        distance = np.hypot(between[..., 0], between[..., 1]) + np.eye(count)
        overlap = np.maximum(reach - distance, 0)
        if number > 50 and overlap.max(initial=0) < 0.5:
            break
        push = (between / distance[..., None] * overlap[..., None]).sum(axis=1)
        pull = 0.02 if number < 300 else 0.0
        spots = spots + 0.35 * push + pull * (true - spots)
    return spots


def _legend(bounds: list[float], unit: str, note: str, layer: Layer) -> str:
    """The classes of colour with their bounds, and what a hollow circle and a large one mean."""
    line = 1.32 * layer.font
    y = TOP + MAP_HEIGHT + 12
    box = min(6.2 * layer.font, BAR[layer.name] / (len(bounds) - 1))
    start = 12 + 1.1 * layer.font
    parts = []
    for number in range(len(bounds) - 1):
        parts.append(
            f'<rect x="{start + number * box:.1f}" y="{y}" width="{box:.1f}" '
            f'height="{0.8 * layer.font:.1f}" style="fill:var(--c{_shade(number, bounds)})"/>'
        )
    base = y + 1.9 * layer.font
    for number, bound in enumerate(bounds):
        parts.append(text(start + number * box, base, f"{bound:.4g}", "middle"))
    right = start + 0.8 * layer.font + box * (len(bounds) - 1)
    parts.append(text(right + 0.8 * layer.font, y + 0.78 * layer.font, unit, "strong"))
    radius = 0.34 * layer.font
    x = right + 0.8 * layer.font + radius
    said = "hollow: modelled or a stand-in"
    parts.append(
        f'<circle class="hollow" style="stroke:{NONE}" cx="{x:.1f}" '
        f'cy="{base - 0.34 * layer.font:.1f}" r="{radius:.1f}"/>'
    )
    parts.append(text(x + 1.8 * radius, base, said, "soft"))
    letters = int((WIDTH - 24) / layer.width("a", 0.9))
    more = ["larger circle: more data centers"]
    if layer.name != "narrow":
        more = drawing.wrapped(f"{more[0]}. {note}", letters)
    for number, words in enumerate(more):
        row = base + (number + 1) * line
        parts.append(text(12, row, words, "soft", f'font-size="{0.9 * layer.font:.1f}"'))
    return "".join(parts)


def _class(value: float, bounds: list[float]) -> int:
    number = int(np.searchsorted(bounds, value, side="right")) - 1
    return _shade(min(max(number, 0), len(bounds) - 2), bounds)


def _shade(number: int, bounds: list[float]) -> int:
    """The colour of a class, the classes spread over all colours."""
    return round(number * (CLASSES - 1) / max(len(bounds) - 2, 1))


def _radius(size: float, layer: Layer) -> float:
    return RADIUS[layer.name] * math.sqrt(min(max(size, 1), 7))


def _land(view: Frame) -> str:
    """All coasts that the frame may show, as one path; whole units are fine enough."""
    parts = []
    for ring in coasts():
        spots = [view.xy(latitude, longitude) for longitude, latitude in ring]
        x_min, x_max = min(x for x, _ in spots), max(x for x, _ in spots)
        y_min, y_max = min(y for _, y in spots), max(y for _, y in spots)
        if x_max < 0 or x_min > WIDTH or y_max < TOP or y_min > TOP + MAP_HEIGHT:
            continue
        parts.append("M" + " ".join(f"{x:.0f},{y:.0f}" for x, y in spots) + "Z")
    return "".join(parts)


@cache
def coasts() -> list[list[tuple[float, float]]]:
    """Rings of (longitude, latitude), counted east from -168.5° so that none crosses the edge."""
    rings = []
    with LAND.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = [float(word) for word in row["longitude_latitude_deg"].split()]
            rings.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return rings
