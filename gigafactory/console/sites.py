"""What the command line prints of places: one page on one place, one table of all.

Every figure bears its basis: a word beside it, or a letter behind it with a key below.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gigafactory.console.site_plots import MONTHS, SEASONS

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
DIGITS = 5
"""A column's figures stand under each other, whatever marks follow them."""
BLOCKS = "▁▂▃▄▅▆▇█"


def place(told: Json, sources: bool = False) -> RenderableType:
    """One place: where it is, its figures, its days and months, its neighbours."""
    parts: list[RenderableType] = [_heading(told), "", _figures(told), ""]
    for key, words in (("electricity_price", "dear"), ("carbon", "dirty")):
        parts += [_day(told["hours"][key], LABELS[key], words), ""]
    parts += [_months(told), "", _neighbours(told["nearest"])]
    if sources:
        parts += ["", _sources(_origins(told))]
    else:
        parts += ["", Text("--sources says where each figure is from; --plot draws", style="dim")]
    return Group(*parts)


def compare(told: Json, sources: bool = False) -> RenderableType:
    """All places in one table, in the order asked for."""
    table = Table(box=None, pad_edge=False, header_style="bold dim", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("DCs", justify="right", no_wrap=True)
    for _, heading, _ in COLUMNS:
        table.add_column(heading.rjust(DIGITS), no_wrap=True)
    for row in told["sites"]:
        figures = row["figures"]
        cells = [_marked(figures[key], form) for key, _, form in COLUMNS]
        table.add_row(row["id"], SHORT_KINDS[row["kind"]], _data_centers(figures), *cells)
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
    parts: list[RenderableType] = [table, "", Text(said, style="bold"), Text(key, style="dim")]
    if sources:
        origins = [
            (LABELS[name], row["id"], row["figures"][name])
            for name in ("data_centers", "data_centers_assumed", *(key for key, _, _ in COLUMNS))
            for row in told["sites"]
        ]
        parts += ["", _sources(origins)]
    return Group(*parts)


def cases(told: Json) -> RenderableType:
    """How many rows were answered, and how far off they are where the table has the answers."""
    lines: list[RenderableType] = [f"{told['out']}: PUE of {told['rows']} rows (modelled)"]
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


def _figures(told: Json) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
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
        if figure is None or (name.startswith("data_centers") and figure["value"] == 0):
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


def _day(shape: Json, name: str, bad: str) -> Table:
    """Each season's day as a row of blocks, all on one scale."""
    least = min(min(values) for values in shape["by_season"].values())
    most = max(max(values) for values in shape["by_season"].values())
    table = Table(box=None, pad_edge=False, show_header=False, title_justify="left")
    table.title, table.title_style = f"{name} by hour of the local day, {shape['unit']}", "bold"
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    form = "{:.3f}" if most < 10 else "{:.0f}"
    for season, values in shape["by_season"].items():
        ends = f"{form.format(min(values))} to {form.format(max(values))}"
        bar = "".join(_block(value, least, most) * 2 for value in values)
        table.add_row(SEASONS[season], Text(bar, style="cyan"), ends)
    ruler = "".join(f"{hour:<12}" for hour in (0, 6, 12, 18)).rstrip()
    table.add_row("", Text(ruler, style="dim"), "")
    basis = f"shape {shape['basis']}"
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


def _months(told: Json) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim", padding=(0, 1, 0, 0))
    table.title, table.title_justify, table.title_style = "by month, modelled", "left", "bold"
    table.add_column("", no_wrap=True)
    for month in (*MONTHS, "year"):
        table.add_column(month, justify="right", no_wrap=True)
    climate = told["climate"]
    for name, label in (("dry_bulb", "dry bulb °C"), ("wet_bulb", "wet bulb °C")):
        _row(table, label, climate[name]["by_month"], climate[name]["year"], "{:.1f}")
    humid = climate["relative_humidity"]
    _row(table, "humidity %", humid["by_month"], humid["year"], "{:.0f}")
    for key, form, title in (("pue", "{:.2f}", "PUE"), ("wue", "{:.2f}", "litres per kWh")):
        table.add_row(Text(title, style="bold dim"))
        for design, of in told[key].items():
            _row(table, design, of["by_month"], of["year"]["value"], form)
    stand_in = climate["dry_bulb"]["proxy"]
    if stand_in:
        table.caption, table.caption_justify = f"stand-in: {stand_in}", "left"
        table.caption_style = "yellow"
    return table


def _row(table: Table, label: str, months: Sequence[float], year: float, form: str) -> None:
    table.add_row(label, *(form.format(value) for value in months), f"[b]{form.format(year)}")


def _neighbours(nearest: Sequence[Json]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.title, table.title_justify, table.title_style = "nearest by round trip", "left", "bold"
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    for other in nearest:
        trip = other["round_trip"]
        span = f"[{trip['low'] * 1e3:.3g} to {trip['high'] * 1e3:.3g}]"
        table.add_row(
            other["id"],
            f"{trip['value'] * 1e3:.3g} ms",
            f"{span} {trip['basis']}, {other['distance_m'] / 1e3:,.0f} km",
        )
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
        (LABELS.get(name, name), here, figure) for name, figure in told["figures"].items()
    ]
    for name, shape in told["hours"].items():
        origins.append((f"{LABELS[name]} by hour", here, shape))
    for name, record in told["climate"].items():
        origins.append((LABELS[name], here, record))
    for key in ("pue", "wue"):
        for design, of in told[key].items():
            origins.append((f"{LABELS[key]} ({design})", here, of["year"]))
    origins += [("round trip", other["id"], other["round_trip"]) for other in told["nearest"]]
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
