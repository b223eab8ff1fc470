"""Plots of places: the year of one, and many beside each other; SVG files and one HTML page.

They draw what `stack/sites/answers.py` tells and add nothing to it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gigafactory.console import drawing, worldmap
from gigafactory.console.drawing import Layer, text

Json = Mapping[str, Any]

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SEASONS = {"DJF": "Dec–Feb", "MAM": "Mar–May", "JJA": "Jun–Aug", "SON": "Sep–Nov"}
KINDS = {"alibaba-announced": "plan", "ai-site": "AI"}
# Okabe and Ito's colours, which the colour-blind tell apart; by night lightened.
DAY = ("#0072b2", "#c75000", "#00815d", "#a8457f")
NIGHT = ("#56b4e9", "#ff9f4a", "#2fcb9a", "#e79bc6")
STYLE = (
    ".curve { fill: none; stroke-width: 2.5; stroke-linejoin: round }"
    ".dot { stroke: var(--ground); stroke-width: 1 }"
    ".open { fill: var(--ground); stroke-width: 2.5 }"
    ".label { paint-order: stroke; stroke: var(--ground); stroke-width: 3px }"
    + "".join(f"svg {{ --s{number}: {ink} }}" for number, ink in enumerate(DAY))
    + "@media (prefers-color-scheme: dark) {"
    + "".join(f"svg {{ --s{number}: {ink} }}" for number, ink in enumerate(NIGHT))
    + "}"
)
PAGE = """
html { color-scheme: light dark; background: #fff; color: #24292f;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif }
body { max-width: 1400px; margin: 0 auto; padding: 16px }
h1 { font-size: 22px; margin: 0 0 6px } p { margin: 0 0 4px; color: #57606a }
main { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 32px 28px }
section { grid-column: 1 / -1; margin-top: 24px } section.tall { grid-column: auto }
svg { display: block; width: 100%; height: auto }
@media (max-width: 900px) { section.tall { grid-column: 1 / -1 } }
@media (prefers-color-scheme: dark) {
  html { background: #0d1117; color: #e6edf3 } p { color: #9aa7b6 }
}
"""
WIDE, TALL = f'viewBox="0 0 {drawing.WIDTH} ', ' class="tall"'
HEAD, GAP = 74, 24
PANEL_WIDTH, PANEL_HEIGHT = (drawing.WIDTH - GAP) / 2, 300
TALLER = 640.0
MARKS = {"wide": 5.5, "middling": 7.0, "narrow": 11.0}
COLUMN, COLUMN_WIDTH, ROW = Layer("any", 15), 640, 21
"""A plot that is no wider than a telephone's screen needs no second layer."""


@dataclass(frozen=True)
class Panel:
    """Curves over the same steps: name -> values. `ticks` are (step, words) below the axis."""

    title: str
    unit: str
    curves: Mapping[str, Sequence[float]]
    ticks: Sequence[tuple[float, str]]
    basis: str = ""
    why: str = ""
    """More on the basis, told to a pointer that rests on it."""


@dataclass(frozen=True)
class Box:
    """Where the values of a plot are drawn."""

    left: float
    top: float
    right: float
    bottom: float


def place(told: Json) -> str:
    """The year of one place: prices, carbon, weather, overhead and water, as one SVG file."""
    panels = panels_of(told)
    rows = -(-len(panels) // 2)
    height = HEAD + rows * (PANEL_HEIGHT + GAP)

    def draw(layer: Layer) -> str:
        parts = [text(8, 0.62 * HEAD, _heading(told), "strong", f'font-size="{1.15 * layer.font}"')]
        for number, panel in enumerate(panels):
            row, column = divmod(number, 2)
            x, y = column * (PANEL_WIDTH + GAP), HEAD + row * (PANEL_HEIGHT + GAP)
            parts.append(f'<g transform="translate({x:g} {y:g})">{_panel(panel, layer)}</g>')
        return "".join(parts)

    return drawing.file(_heading(told), height, draw, STYLE)


def panels_of(told: Json) -> list[Panel]:
    """What is drawn of a place: each curve by hour of the local day, or by month."""
    hours = [(hour, f"{hour} h") for hour in (0, 6, 12, 18)]
    months = [(number, MONTHS[number]) for number in range(0, 12, 3)]
    panels = []
    for key, title in (("electricity_price", "Electricity price"), ("carbon", "Grid carbon")):
        shape = told["hours"][key]
        curves = {SEASONS[season]: values for season, values in shape["by_season"].items()}
        panels.append(Panel(title, shape["unit"], curves, hours, _basis(shape), shape["proxy"]))
    climate = told["climate"]
    bulbs = {"dry bulb": climate["dry_bulb"], "wet bulb": climate["wet_bulb"]}
    curves = {name: bulb["by_month"] for name, bulb in bulbs.items()}
    panels.append(Panel("Outside", "°C", curves, months, "monthly means, modelled hours"))
    humidity = climate["relative_humidity"]
    panels.append(
        Panel("Humidity", "%", {"": humidity["by_month"]}, months, "monthly means, modelled hours")
    )
    for key, title, unit in (("pue", "PUE", ""), ("wue", "Water", "L/kWh")):
        curves = {design: of["by_month"] for design, of in told[key].items()}
        panels.append(Panel(title, unit, curves, months, "modelled"))
    return panels


def price_against_carbon(rows: Sequence[Json]) -> str:
    """A circle for each pair of figures, larger for several places; hollow for stand-ins."""
    groups: dict[tuple[float, float], list[Json]] = {}
    for row in rows:
        carbon, price = (row["figures"][key]["value"] for key in ("carbon", "electricity_price"))
        if carbon is not None and price is not None:
            groups.setdefault((carbon, price), []).append(row)
    across = drawing.steps(0, max((carbon for carbon, _ in groups), default=1), 8)
    up = drawing.steps(0, max((price for _, price in groups), default=1), 7)
    title = "Electricity price against grid carbon"

    def draw(layer: Layer) -> str:
        said = "USD/kWh over gCO2e/kWh; hollow: a stand-in"
        head = text(8, 1.3 * layer.font, title, "strong")
        box = Box(4 * layer.font, 3.6 * layer.font, drawing.WIDTH - 24, TALLER - 2 * layer.font)
        parts = [head, text(8, 2.6 * layer.font, said, "soft"), _grid(box, up, layer)]
        for tick in across[:: 2 if layer.name == "narrow" else 1]:
            x = _at(tick, across, box.left, box.right)
            parts.append(_line(x, box.top, x, box.bottom))
            parts.append(text(x, box.bottom + 1.2 * layer.font, f"{tick:g}", "soft middle"))
        spots = []
        for (carbon, price), found in groups.items():
            x = _at(carbon, across, box.left, box.right)
            y = _at(price, up, box.bottom, box.top)
            radius = MARKS[layer.name] * min(len(found), 9) ** 0.4
            parts.append(_dot(x, y, radius, 0, all(map(_both, found)), _pairs(found)))
            spots.append((x, y, radius, _called(found)))
        return "".join(parts) + _labels(spots, box, layer)

    return drawing.file(title, TALLER, draw, STYLE)


def by_cooling(rows: Sequence[Json], quantity: str, title: str) -> str:
    """A line for each place with a dot for each cooling; ordered by the first, least on top."""
    designs = list(rows[0][quantity]) if rows else []
    ordered = sorted(rows, key=lambda row: row[quantity][designs[0]]["value"])
    values = [of["value"] for row in rows for of in row[quantity].values()] or [0.0]
    ticks = drawing.steps(min(values), max(values), 6)
    font = COLUMN.font
    names = labels(rows)
    box = Box(
        0.6 * max(map(len, names.values()), default=0) * font + 16,
        5 * font,
        COLUMN_WIDTH - 30,
        5 * font + ROW * len(ordered),
    )

    def draw(layer: Layer) -> str:
        parts = [text(8, 1.2 * font, f"{title} (modelled)", "strong")]
        x = 8.0
        for number, design in enumerate(designs):
            parts.append(_dot(x + 8, 2.7 * font, 0.36 * font, number, True, design))
            parts.append(text(x + 8 + 0.7 * font, 3.05 * font, design))
            x += layer.width(design) + 2.2 * font
        for tick in ticks:
            at = _at(tick, ticks, box.left, box.right)
            parts.append(_line(at, box.top - 6, at, box.bottom))
            parts.append(text(at, box.top - 10, f"{tick:.4g}", "soft middle"))
        for place, row in enumerate(ordered):
            y = box.top + (place + 0.5) * ROW
            parts.append(text(box.left - 12, y + 0.34 * font, names[row["id"]], "end"))
            figures = [row[quantity][design] for design in designs]
            spots = [_at(of["value"], ticks, box.left, box.right) for of in figures]
            parts.append(_line(min(spots), y, max(spots), y))
            for number, (of, at) in enumerate(zip(figures, spots, strict=True)):
                said = f"{row['name']}: {said_figure(of)}"
                parts.append(_dot(at, y, 0.36 * font, number, True, said))
        return "".join(parts)

    return drawing.file(title, box.bottom + 12, draw, STYLE, width=COLUMN_WIDTH, layers=[COLUMN])


def world(rows: Sequence[Json], key: str, title: str, unit: str, form: str) -> str:
    """All places on the map, coloured by the figure `key`."""
    points, names = [], labels(rows)
    for row in rows:
        figure = row["figures"][key]
        count = sum(
            row["figures"][name]["value"] or 0 for name in ("data_centers", "data_centers_assumed")
        )
        points.append(
            worldmap.Point(
                name=names[row["id"]],
                latitude=row["latitude"],
                longitude=row["longitude"],
                value=figure["value"],
                size=count,
                own=own(figure),
                said=f"{row['name']}: {said_figure(figure)}",
            )
        )
    unknown = sum(point.value is None for point in points)
    hollow = sum(not point.own and point.value is not None for point in points)
    note = f"{len(points)} places, {hollow} of them with a modelled figure or a stand-in"
    note += f", {unknown} unknown (small, grey)." if unknown else "."
    return worldmap.svg(points, title, unit, note, form)


def page(drawings: Sequence[str], title: str, told: Sequence[str]) -> str:
    """One HTML file with the drawings, one below the other, that needs nothing else."""
    head = "".join(f"<p>{escape(line)}</p>" for line in told)
    # Tall ones stand side by side where there is room for two.
    body = "".join(f"<section{'' if WIDE in svg else TALL}>{svg}</section>" for svg in drawings)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{PAGE}</style>"
        f"<header><h1>{escape(title)}</h1>{head}</header><main>{body}</main></html>\n"
    )


def label(row: Json) -> str:
    """The shortest name of a place."""
    return str(row["city"] or row["country_name"])


def labels(rows: Sequence[Json]) -> dict[str, str]:
    """Id -> name of each place; those of one city but the open region bear their kind, too."""
    often = Counter(map(label, rows))
    return {
        row["id"]: f"{label(row)} ({kind})"
        if often[label(row)] > 1 and (kind := KINDS.get(row["kind"]))
        else label(row)
        for row in rows
    }


def own(figure: Json) -> bool:
    """Is it the place's own figure, neither modelled nor a stand-in?"""
    return not figure["proxy"] and figure["basis"] not in ("modelled", "assumed", "estimate")


def said_figure(figure: Json) -> str:
    """A figure in words: value, unit, basis, source."""
    if figure["value"] is None:
        return f"unknown ({figure['source']})"
    basis = figure["basis"] + (f", {figure['proxy']}" if figure["proxy"] else "")
    unit = "" if figure["unit"] in ("", "1") else f" {figure['unit']}"
    return f"{figure['value']:.4g}{unit} ({basis}; {figure['source']}, {figure['as_of']})"


def _panel(panel: Panel, layer: Layer) -> str:
    """One plot with its curves named at their right end."""
    names = max(layer.width(name, 1.08) for name in panel.curves)
    box = Box(
        left=layer.width("0.000") + 14,
        top=2.2 * layer.font,
        right=PANEL_WIDTH - names - 20,
        bottom=PANEL_HEIGHT - 1.5 * layer.font,
    )
    values = [value for curve in panel.curves.values() for value in curve]
    low, high = _span(values)
    up = drawing.steps(low, high, 6 if layer.name == "wide" else 4)
    said = f"{panel.title}, {panel.unit}" if panel.unit else panel.title
    parts = [text(8, 1.1 * layer.font, said, "strong")]
    if layer.name != "narrow" and panel.basis:
        start = 16 + layer.width(said, 1.12)
        words = text(start, 1.1 * layer.font, panel.basis, "soft")
        parts.append(f"<g>{words}<title>{escape(panel.why)}</title></g>" if panel.why else words)
    parts.append(_grid(box, up, layer))
    count = max(len(curve) for curve in panel.curves.values())
    for step, words in panel.ticks[:: 2 if layer.name == "narrow" else 1]:
        x = box.left + (box.right - box.left) * step / (count - 1)
        parts.append(text(x, box.bottom + 1.15 * layer.font, words, "soft middle"))
    ends = []
    for number, (name, curve) in enumerate(panel.curves.items()):
        spots = " ".join(
            f"{box.left + (box.right - box.left) * step / (count - 1):.1f},"
            f"{_at(value, up, box.bottom, box.top):.1f}"
            for step, value in enumerate(curve)
        )
        parts.append(f'<polyline class="curve" style="stroke:var(--s{number})" points="{spots}"/>')
        ends.append((_at(curve[-1], up, box.bottom, box.top), number, name))
    for y, number, name in _spread(ends, 1.05 * layer.font, box):
        more = f'style="fill:var(--s{number})"'
        parts.append(text(box.right + 8, y + 0.34 * layer.font, name, "", more))
    return "".join(parts)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest; wider where they are all but one, so that flat looks flat."""
    low, high = min(values), max(values)
    if high - low >= 0.01 * abs(high) and high > low:
        return low, high
    return (0.5 * low, 1.5 * high) if low > 0 else (0.0, 1.0)


def _spread(ends: list[tuple[float, int, str]], gap: float, box: Box) -> list[Any]:
    """The labels at the ends of curves, pushed down, then up, until none covers another."""
    placed: list[list[Any]] = [list(end) for end in sorted(ends)]
    for number in range(1, len(placed)):
        placed[number][0] = max(placed[number][0], placed[number - 1][0] + gap)
    below = box.bottom
    for label in reversed(placed):
        label[0] = min(label[0], below)
        below = label[0] - gap
    return placed


def _both(row: Json) -> bool:
    """Are price and carbon the place's own?"""
    return own(row["figures"]["carbon"]) and own(row["figures"]["electricity_price"])


def _pairs(found: Sequence[Json]) -> str:
    """All places of one circle, with the figures of the first."""
    figures = found[0]["figures"]
    said = f"{said_figure(figures['electricity_price'])}; {said_figure(figures['carbon'])}"
    return f"{', '.join(row['name'] for row in found)}: {said}"


def _called(found: Sequence[Json]) -> str:
    """One name for the places of one circle."""
    cities = list(dict.fromkeys(label(row) for row in found))
    if len(cities) == 1:
        return cities[0]
    countries = list(dict.fromkeys(row["country_name"] for row in found))
    return f"{countries[0]}, {len(found)} places" if len(countries) == 1 else ", ".join(cities)


def _labels(spots: Sequence[tuple[float, float, float, str]], box: Box, layer: Layer) -> str:
    """As many names as fit beside their circles, those of the largest first."""
    size = 0.85 * layer.font
    taken = [(x - radius, y - radius, x + radius, y + radius) for x, y, radius, _ in spots]
    parts = []
    for x, y, radius, name in sorted(spots, key=lambda spot: -spot[2]):
        length = layer.width(name, 0.85)
        for left in (x + radius + 5, x - radius - 5 - length):
            frame = (left, y - 0.55 * size, left + length, y + 0.55 * size)
            if box.left < left and frame[2] < box.right and not _covers(frame, taken):
                taken.append(frame)
                more = f'font-size="{size:.1f}"'
                parts.append(text(left, y + 0.36 * size, name, "label", more))
                break
    return "".join(parts)


def _covers(frame: Sequence[float], taken: Sequence[Sequence[float]]) -> bool:
    return any(
        frame[0] < other[2] and other[0] < frame[2] and frame[1] < other[3] and other[1] < frame[3]
        for other in taken
    )


def _grid(box: Box, ticks: Sequence[float], layer: Layer) -> str:
    parts = []
    for tick in ticks:
        y = _at(tick, ticks, box.bottom, box.top)
        parts.append(_line(box.left, y, box.right, y))
        parts.append(text(box.left - 8, y + 0.34 * layer.font, f"{tick:.4g}", "soft end"))
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="line" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _dot(x: float, y: float, radius: float, number: int, solid: bool, said: str) -> str:
    paint = (
        f'class="dot" style="fill:var(--s{number})"'
        if solid
        else f'class="open" style="stroke:var(--s{number})"'
    )
    return (
        f'<circle {paint} cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        f"<title>{escape(said)}</title></circle>"
    )


def _at(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    """Where `value` lies between the first and the last tick."""
    return start + (end - start) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _basis(shape: Json) -> str:
    """In a word or two; a stand-in says why behind its colon."""
    stand_in = shape["proxy"].partition(":")[0]
    return f"stand-in: {stand_in}" if stand_in else str(shape["basis"])


def _heading(told: Json) -> str:
    return f"{told['name']}, {told['country_name']}"
