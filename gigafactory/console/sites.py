"""What the command line prints of places: one page on one place, one table of all.

Every figure bears its basis: a word beside it, or a letter behind it with a key below.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gigafactory.console.site_plots import MONTHS, SEASONS
from gigafactory.stack.sites.answers import SORTS

Json = Mapping[str, Any]

KINDS = {
    "alibaba-region": "open region of Alibaba Cloud",
    "alibaba-announced": "announced by Alibaba Cloud",
    "ai-site": "place of AI",
    "country": "country",
}
SHORT_KINDS = {
    "alibaba-region": "region",
    "alibaba-announced": "plan",
    "ai-site": "AI",
    "country": "country",
}
MARKS = {
    "published": "",
    "measured": "",
    "derived": "d",
    "modelled": "m",
    "estimate": "e",
    "recalled": "r",
    "assumed": "a",
    "unknown": "",
}
PROXY = "*"
LABELS = {
    "data_centers": "data centers",
    "data_centers_assumed": "data centers, assumed",
    "electricity_price": "electricity price",
    "carbon": "grid carbon",
    "pue": "PUE",
    "wue": "water use",
    "pue_published": "PUE, as reported",
    "water_stress": "water stress",
    "time_to_power": "time to power",
    "power": "power, announced",
    "latitude": "latitude",
    "longitude": "longitude",
    "elevation": "elevation",
    "design_dry_bulb": "design dry bulb",
    "design_wet_bulb": "design wet bulb",
    "daily_max_hottest_month": "hottest month's days",
    "dry_bulb": "dry bulb",
    "wet_bulb": "wet bulb",
    "relative_humidity": "humidity",
}
COLUMNS = (
    # figure, heading, how it is written
    ("electricity_price", "USD", "{:.3f}"),
    ("carbon", "gCO2e", "{:.0f}"),
    ("pue", "PUE", "{:.2f}"),
    ("wue", "litres", "{:.2f}"),
    ("water_stress", "dry", "{:.1f}"),
    ("time_to_power", "wait", "{:.0f}"),
)
FIRST_TO_GO = ("kind", "DCs")
"""Columns that a narrow terminal does without; then the last ones, but never the sorted one."""
ROOM = 60
"""From so many characters on, names and ranges of figures stand on one line."""
NARROW = 76
"""Below so many characters an hour has one, else two."""
DIGITS = 5
"""A column's figures stand under each other, whatever marks follow them."""
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Fitted:
    """What `draw` makes of the width that there is."""

    draw: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.draw(options.max_width)


def place(told: Json, sources: bool = False) -> RenderableType:
    """One place: where it is, its figures, its days and months, its neighbours."""
    figures = Fitted(lambda width: _figures(told, width))
    parts: list[RenderableType] = [_heading(told), "", figures, ""]
    for key, words in (("electricity_price", "dear"), ("carbon", "dirty")):
        parts += [_day_fitted(told["hours"][key], LABELS[key], words), ""]
    parts += [Fitted(lambda width: _months(told, width)), "", _neighbours(told["nearest"])]
    if sources:
        parts += ["", _sources(_origins(told))]
    else:
        parts += ["", Text("--sources says where each figure is from; --plot draws", style="dim")]
    return Group(*parts)


def compare(told: Json, sources: bool = False) -> RenderableType:
    """All places in one table, in the order asked for."""
    total = told["sum"]
    said = (
        f"{total['regions']} regions of Alibaba Cloud: {total['data_centers_sourced']} data "
        f"centers with a source + {total['data_centers_assumed']} assumed = {total['data_centers']}"
    )
    order = "by name" if told["sort"] == "name" else f"by {told['sort']}, the least first"
    key = (
        f"{len(told['sites'])} places {order}. USD, gCO2e and litres a kWh; PUE and litres with "
        f"{told['cooling']} cooling; dry: water stress, 0 to 5; wait: months to power; DCs: data "
        f"centers with a source, +n assumed. {PROXY} stand-in, m modelled, d derived, e estimate, "
        "r recalled, a assumed, - unknown"
    )
    table = Fitted(lambda width: _places(told, width))
    parts: list[RenderableType] = [table, "", Text(said, style="bold"), Text(key, style="dim")]
    if sources:
        origins = [
            (LABELS[name], row["id"], row["figures"][name])
            for name in ("data_centers", "data_centers_assumed", *(key for key, _, _ in COLUMNS))
            for row in told["sites"]
            if not _none(name, row["figures"][name])
        ]
        parts += ["", _sources(origins)]
    return Group(*parts)


def cases(told: Json) -> RenderableType:
    """How many rows were answered, and how far off they are where the table has the answers."""
    designs = ", ".join(f"{count} {name}" for name, count in told["designs"].items())
    lines: list[RenderableType] = [
        f"{told['out']}: PUE of {told['rows']} rows (modelled)",
        f"cooling read as: {designs}",
    ]
    if told["design_not_stated"]:
        lines.append(
            f"no known word of cooling in {told['design_not_stated']} of them: taken as "
            f"{told['unstated_design']}"
        )
    if told["climate_not_stated"]:
        lines.append(
            f"{told['climate_not_stated']} rows lack a climate: a catalogued place's stands in, "
            "and --json says which"
        )
    errors = told["errors"]
    if errors:
        aside = f"; {errors['set_aside']} unfit rows set aside" if errors["set_aside"] else ""
        lines.append(
            f"error of {errors['rows']} rows with an answer: median {errors['median']:.3f}, mean "
            f"{errors['mean']:.3f}, worst {errors['worst']:.3f} ({errors['worst_id']}); "
            f"{errors['inside']} within their 80 % interval{aside}"
        )
    else:
        lines.append(Text("the table has no answers to compare with", style="dim"))
    return Group(*lines)


def _places(told: Json, width: int) -> RenderableType:
    """The table of all places, without the columns for which there is no room."""
    rows = told["sites"]
    columns = {
        "": [Text(row["id"]) for row in rows],
        "kind": [Text(SHORT_KINDS[row["kind"]]) for row in rows],
        "DCs": [Text(_data_centers(row["figures"]), justify="right") for row in rows],
    }
    for key, heading, form in COLUMNS:
        columns[heading.rjust(DIGITS)] = [_marked(row["figures"][key], form) for row in rows]
    sorted_by = next((name for key, name, _ in COLUMNS if key == SORTS[told["sort"]]), "")
    kept = ("", sorted_by.rjust(DIGITS))
    wide = {name: max(len(name), *map(len, cells), 0) + 1 for name, cells in columns.items()}
    go = [*FIRST_TO_GO, *(name for name in reversed(columns) if name not in FIRST_TO_GO)]
    left_out = []
    for name in go:
        if name not in kept and sum(wide.values()) > width:
            left_out.append(name.strip())
            del columns[name], wide[name]
    table = Table(box=None, pad_edge=False, header_style="bold dim", padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    if not left_out:
        return table
    said = f"left out, for the terminal is narrow: {', '.join(left_out)}"
    return Group(table, Text(said, style="yellow"))


def _heading(told: Json) -> Text:
    where = ", ".join(filter(None, (told["city"], told["state"], told["country_name"])))
    up_down = f"{abs(told['latitude']):.2f}° {'N' if told['latitude'] >= 0 else 'S'}"
    across = f"{abs(told['longitude']):.2f}° {'E' if told['longitude'] >= 0 else 'W'}"
    text = Text.assemble((told["name"], "bold cyan"), f"  {where}")
    kind = KINDS[told["kind"]] + (f" {told['region_id']}" if told["region_id"] else "")
    status = f"; {told['status']}" if told["status"] not in ("", told["kind"]) else ""
    text.append(f"\n{kind}{status}")
    text.append(f"\n{up_down}, {across}, {told['elevation_m']:.0f} m, {told['timezone']}")
    if told["note"]:
        text.append(f"\n{told['note']}", style="yellow")
    return text


def _figures(told: Json, width: int) -> Table:
    whole = width >= ROOM
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=whole, style="dim", overflow="fold")
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=whole, overflow="fold")
    table.add_column()
    figures, climate = told["figures"], told["climate"]
    cooled = f" ({told['cooling']})"
    for name, label, form, unit in (
        ("data_centers", "", "{:.0f}", ""),
        ("data_centers_assumed", "", "{:.0f}", ""),
        ("electricity_price", "", "{:.4g}", "USD/kWh"),
        ("carbon", "", "{:.0f}", "gCO2e/kWh"),
        ("pue", f"PUE{cooled}", "{:.3f}", ""),
        ("pue_published", "", "{:.2f}", ""),
        ("wue", f"water use{cooled}", "{:.2f}", "L/kWh"),
        ("water_stress", "", "{:.1f}", "of 5"),
        ("time_to_power", "", "{:.0f}", "months"),
        ("power", "", "{:.4g}", "MW"),
        ("design_dry_bulb", "", "{:.1f}", "°C"),
        ("design_wet_bulb", "", "{:.1f}", "°C"),
    ):
        figure = figures.get(name) or climate.get(name)
        if figure is None or _none(name, figure):
            continue
        scale = 1e-6 if name == "power" else 1.0
        table.add_row(label or LABELS[name], *_written(figure, form, unit, scale))
    return table


def _written(figure: Json, form: str, unit: str, scale: float) -> tuple[str, str, Text]:
    """(value, unit and range, basis) of a figure."""
    basis = Text(figure["basis"], style="dim")
    if figure["proxy"]:
        basis.append(f", stand-in: {figure['proxy']}", style="yellow")
    if figure["value"] is None:
        return "-", "", basis if figure["basis"] == "unknown" else Text("unknown", style="dim")
    ends = [figure["low"], figure["high"]]
    said = unit
    if None not in ends:
        said += f" [{form.format(ends[0] * scale)} to {form.format(ends[1] * scale)}]"
    return form.format(figure["value"] * scale), said.strip(), basis


def _none(name: str, figure: Json) -> bool:
    """Is it a count of data centers where there are none to count?"""
    return name.startswith("data_centers") and figure["value"] == 0


def _day_fitted(shape: Json, name: str, bad: str) -> Fitted:
    return Fitted(lambda width: _day(shape, name, bad, 1 if width < NARROW else 2))


def _day(shape: Json, name: str, bad: str, letters: int) -> Table:
    """Each season's day as a row of blocks, so many an hour, all on one scale."""
    least = min(min(values) for values in shape["by_season"].values())
    most = max(max(values) for values in shape["by_season"].values())
    table = Table(box=None, pad_edge=False, show_header=False, title_justify="left")
    table.title, table.title_style = f"{name} by hour of the local day, {shape['unit']}", "bold"
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    form = "{:.3f}" if most < 10 else "{:.0f}"
    for season, values in shape["by_season"].items():
        ends = f"{form.format(min(values))} to {form.format(max(values))}"
        bar = "".join(_block(value, least, most) * letters for value in values)
        table.add_row(SEASONS[season], Text(bar, style="cyan"), ends)
    ruler = "".join(f"{hour:<{6 * letters}}" for hour in (0, 6, 12, 18)).rstrip()
    table.add_row("", Text(ruler, style="dim"), "")
    basis = str(shape["basis"])
    if shape["proxy"]:
        basis += f", stand-in: {shape['proxy']}"
    table.caption = f"{_extremes(shape, bad)}; {basis}"
    table.caption_justify, table.caption_style = "left", "dim"
    return table


def _extremes(shape: Json, bad: str) -> str:
    """When it is best and worst."""
    if shape["least_hour"] is None:
        return "alike in all hours"
    good, worst = ("cheapest", "dearest") if bad == "dear" else ("cleanest", "dirtiest")
    return (
        f"{good} at {shape['least_hour']}:00 and in {SEASONS[shape['least_season']]}, {worst} at "
        f"{shape['most_hour']}:00 and in {SEASONS[shape['most_season']]}"
    )


def _months(told: Json, width: int) -> RenderableType:
    """The year by month; one table, or several below each other where there is less room."""
    climate = told["climate"]
    rows = [("", [*MONTHS, "year"])]
    for name, label, form in (
        ("dry_bulb", "dry bulb °C", "{:.1f}"),
        ("wet_bulb", "wet bulb °C", "{:.1f}"),
        ("relative_humidity", "humidity %", "{:.0f}"),
    ):
        values = [*climate[name]["by_month"], climate[name]["year"]]
        rows.append((label, [form.format(value) for value in values]))
    for key, title in (("pue", "PUE"), ("wue", "litres per kWh")):
        rows.append((title, []))
        for design, of in told[key].items():
            values = [*of["by_month"], of["year"]["value"]]
            rows.append((design, [f"{value:.2f}" for value in values]))
    label_width = max(len(label) for label, _ in rows)
    columns = zip(*(cells for _, cells in rows if cells), strict=True)
    wide = [max(map(len, column)) + 1 for column in columns]
    room = width - label_width
    each = next(  # As even as can be: 13, then 7 + 6.
        each
        for each in (13, 7, 5, 4, 3, 2, 1)
        if each == 1 or max(sum(wide[at : at + each]) for at in range(0, 13, each)) <= room
    )
    parts: list[RenderableType] = [Text("by month, modelled", style="bold")]
    for start in range(0, len(wide), each):
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
        table.add_column(min_width=label_width)
        for _ in range(each):
            table.add_column(justify="right", no_wrap=True)
        for label, cells in rows:
            shown = cells[start : start + each]
            style = "bold dim" if label in ("", "PUE", "litres per kWh") else ""
            table.add_row(label, *shown, style=style)
        parts.append(table)
    if climate["dry_bulb"]["proxy"]:
        parts.append(Text(f"stand-in: {climate['dry_bulb']['proxy']}", style="yellow"))
    return Group(*parts)


def _neighbours(nearest: Sequence[Json]) -> Table:
    """The modelled round trips, and the published ones where somebody measured."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.title, table.title_justify, table.title_style = "nearest by round trip", "left", "bold"
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for other in nearest:
        trip, stated = other["round_trip"], other["round_trip_published"]
        said = f"[{trip['low'] * 1e3:.3g} to {trip['high'] * 1e3:.3g}] {trip['basis']}"
        said += f", {other['distance_m'] / 1e3:,.0f} km"
        if stated:
            said += f"; {stated['value'] * 1e3:.3g} ms {stated['basis']}"
        table.add_row(other["id"], f"{trip['value'] * 1e3:.3g} ms", said)
    return table


def _data_centers(figures: Json) -> str:
    sourced, assumed = (figures[name]["value"] for name in ("data_centers", "data_centers_assumed"))
    said = f"{sourced:.0f}" if sourced else ""
    return said + (f"+{assumed:.0f}" if assumed else "")


def _marked(figure: Json, form: str) -> Text:
    """A value with the letter of its basis, and the mark of a stand-in."""
    if figure["value"] is None:
        return Text("-".rjust(DIGITS), style="dim")
    mark = (PROXY if figure["proxy"] else "") + MARKS[figure["basis"]]
    return Text.assemble(form.format(figure["value"]).rjust(DIGITS), (mark, "dim"))


def _origins(told: Json) -> list[tuple[str, str, Json]]:
    """(label, other place if any, record with source and date) of every figure on the page."""
    here = ""
    origins: list[tuple[str, str, Json]] = [
        (LABELS.get(name, name), here, figure)
        for name, figure in told["figures"].items()
        if not _none(name, figure)
    ]
    for name, shape in told["hours"].items():
        origins.append((f"{LABELS[name]} by hour", here, shape))
    for name, record in told["climate"].items():
        origins.append((LABELS[name], here, record))
    for key in ("pue", "wue"):
        for design, of in told[key].items():
            origins.append((f"{LABELS[key]} ({design})", here, of["year"]))
    for key in ("round_trip", "round_trip_published"):
        origins += [("round trip", one["id"], one[key]) for one in told["nearest"] if one[key]]
    return origins


def _sources(origins: Iterable[tuple[str, str, Json]]) -> Table:
    """Each source once, with its date and the figures that are from it."""
    used: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for label, where, record in origins:
        key = (record["source"], record["as_of"], record["basis"])
        used.setdefault(key, {}).setdefault(label, []).append(where)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.title, table.title_justify, table.title_style = "sources", "left", "bold"
    table.add_column(max_width=30)
    table.add_column(overflow="fold")
    for (source, as_of, basis), figures in used.items():
        said = Text()
        for label, places in figures.items():
            there = ", ".join(filter(None, places))
            said.append(f"{label}: {there}\n" if there else f"{label}\n")
        said.rstrip()
        whence = Text(source, overflow="fold")
        whence.append(f" ({basis}, {as_of})", style="dim")
        table.add_row(said, whence)
    return table


def _block(value: float, least: float, most: float) -> str:
    if most <= least:
        return BLOCKS[3]
    return BLOCKS[min(int((value - least) / (most - least) * len(BLOCKS)), len(BLOCKS) - 1)]
