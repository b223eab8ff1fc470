"""Commands that ask what places give: `site` one, `sites` all, `pue` a table of published ones.

Thin: they read what was asked, call `stack.sites`, and print or draw what came back.
"""

import csv
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gigafactory import asked as asking
from gigafactory.door import AS_JSON, door, say, write_table, write_whole
from gigafactory.faults import nearest

COOLING = Annotated[str, typer.Option(help="air, direct-to-chip or immersion")]
SOURCES = Annotated[bool, typer.Option("--sources", help="say where each figure is from, and when")]
ANSWERS = ("pue_id", "pue", "low", "high")
CLIMATE = ("t_mean_c", "t_hottest_month_c", "wb_mean_c", "wb_hottest_month_c")
NEEDED = ("pue_id", "cooling_type", *CLIMATE)
"""Columns that a table of cases must have; their cells may be blank."""
FIT = "ground_truth_ok"
"""A column that may say 0 where a row is unfit to judge a model by."""
# What `--sort` knows -> figure, title of its map, unit, how a value is written.
MAPS = {
    "carbon": ("carbon", "Carbon of the grid", "gCO2e/kWh, life cycle", "{:.0f}"),
    "price": ("electricity_price", "Price of electricity", "USD/kWh", "{:.3f}"),
    "pue": ("pue", "PUE", "PUE", "{:.2f}"),
    "wue": ("wue", "Water use", "L/kWh of machines", "{:.2f}"),
    "water": ("water_stress", "Water stress", "0 (low) to 5 (extremely high)", "{:.1f}"),
    "time-to-power": ("time_to_power", "Time to power", "months", "{:.0f}"),
}
NAMED = "carbon"
"""What colours the map of places that are sorted by name."""


def mount(app: typer.Typer) -> None:
    """Add these commands to the door."""
    app.command()(site)
    app.command()(sites)
    app.command()(pue)


def site(
    name: Annotated[str, typer.Argument(help="a place, region id, city or country")],
    cooling: COOLING = "air",
    sources: SOURCES = False,
    plot: Annotated[Path | None, typer.Option(help="draw its year into this SVG file")] = None,
    as_json: AS_JSON = False,
) -> None:
    """What one place gives: power, price, carbon, climate, PUE, water, distances.

    Every figure is marked with its basis; a stand-in is named.

    Examples: `gigafactory site milan --sources`, `gigafactory site cn-beijing --plot beijing.svg`
    """
    with door(as_json):
        _cooling(cooling)
        found = _place(name)
        if plot:
            _drawable(plot, (".svg",))
        from gigafactory.console import site_plots
        from gigafactory.console import sites as screen
        from gigafactory.stack.sites import answers

        told = answers.place(found, cooling)
        if plot:
            write_whole(plot, site_plots.place(told))
        say(told, as_json, lambda: screen.place(told, sources))


def sites(
    sort: Annotated[
        str, typer.Option(help="carbon, price, pue, wue, water, time-to-power or name")
    ] = "name",
    kind: Annotated[
        str | None, typer.Option(help="alibaba-region, alibaba-announced, ai-site or country")
    ] = None,
    cooling: COOLING = "air",
    plot: Annotated[
        Path | None, typer.Option(help="draw a map into this .svg, or map and plots into a .html")
    ] = None,
    sources: SOURCES = False,
    as_json: AS_JSON = False,
) -> None:
    """Compare all places: the least of what is sorted by comes first.

    Examples: `gigafactory sites --sort carbon`, `gigafactory sites --sort price --plot map.html`
    """
    with door(as_json):
        from gigafactory.stack.sites import places as stack

        _one_of("sort", sort, (*MAPS, "name"))
        _cooling(cooling)
        if kind is not None:
            _one_of("kind", kind, (*stack.KINDS, stack.COUNTRY))
        if plot:
            _drawable(plot, (".svg", ".html"))
        from gigafactory.console import sites as screen
        from gigafactory.stack.sites import answers

        told = answers.compare(stack.sites(kind), cooling, sort)
        if plot:
            write_whole(plot, _drawn(told, plot.suffix.lower()))
        say(told, as_json, lambda: screen.compare(told, sources))


def pue(
    cases: Annotated[
        Path, typer.Option("--cases", help="a CSV file with the columns of published PUE")
    ],
    output: Annotated[Path, typer.Option("--out", help="where the answers go")],
    as_json: AS_JSON = False,
) -> None:
    """Predict the PUE of every row of a table: a line for each, with its 80 % interval.

    Reads place, climate and cooling, never the answer; where the table has answers, it says how
    far off the predictions are. Example: `gigafactory pue --cases sites.csv --out answers.csv`
    """
    with door(as_json):
        rows = _cases(cases)
        if output.exists() and output.samefile(cases):
            why = "the answers would take the table's place"
            raise asking.refused(f"{output} is the table", "--out", why, "name another file")
        from gigafactory.console import sites as screen
        from gigafactory.stack.sites import pue_cases

        try:
            answers = pue_cases.predict_cases(rows)
        except pue_cases.BadCase as error:
            raise _bad(cases, rows, error.row, error.column, error.why) from None
        errors = _errors(cases, rows, answers)
        lines = [[answer[name] for name in ANSWERS] for answer in answers]
        write_table(output, ANSWERS, lines)
        told = {
            "rows": len(rows),
            "out": str(output),
            "designs": dict(Counter(answer["design"] for answer in answers).most_common()),
            "unstated_design": pue_cases.UNSTATED,
            "design_not_stated": sum(not answer["design_stated"] for answer in answers),
            "climate_not_stated": sum(not answer["climate_stated"] for answer in answers),
            "errors": errors,
            "answers": answers,
        }
        say(told, as_json, lambda: screen.cases(told))


def _place(name: str) -> Any:
    """The place of that name, or one refusal with the nearest."""
    from gigafactory.stack.sites import places as stack

    try:
        return stack.site(name)
    except stack.UnknownPlace as error:
        every = "`gigafactory sites` lists them"
        near = f"did you mean {' or '.join(error.near)}?" if len(error.near) <= 3 else every
        why = "it is no id, region, city or country of the catalog"
        raise asking.refused(f"no place {name!r}", "NAME", why, near) from None


def _cooling(name: str) -> None:
    from gigafactory.stack.sites import answers

    _one_of("cooling", name, answers.ANYWHERE)


def _one_of(what: str, given: str, known: Iterable[str]) -> None:
    """Refuse a word that is not among the known ones, which are named once."""
    if given not in known:
        near = nearest(given, known)
        hint = near if near.startswith("did you mean") else "take one of them"
        why = f"known: {', '.join(known)}"
        raise asking.refused(f"no {what} {given!r}", f"--{what}", why, hint)


def _drawn(told: Any, suffix: str) -> str:
    """The map as SVG; or a page with the map and two plots."""
    from gigafactory.console import site_plots

    rows = told["sites"]
    key, title, unit, form = MAPS[told["sort"] if told["sort"] in MAPS else NAMED]
    if key in ("pue", "wue"):
        unit += f", {told['cooling']}"
    title = f"{title}, {len(rows)} places"
    world = site_plots.world(rows, key, title, unit, form)
    if suffix == ".svg":
        return world
    total = told["sum"]
    said = (
        f"{total['regions']} regions of Alibaba Cloud with {total['data_centers_sourced']} data "
        f"centers that have a source and {total['data_centers_assumed']} that are assumed, "
        "announced ones, and places of AI. PUE and water are modelled; a hollow circle is modelled "
        "or a stand-in. Rest the pointer on a circle for its figure, basis, source and date."
    )
    drawings = [
        world,
        site_plots.price_against_carbon(rows),
        site_plots.by_cooling(rows, "pue_by_cooling", "PUE by cooling"),
        site_plots.by_cooling(rows, "wue_by_cooling", "Water by cooling, L/kWh"),
    ]
    return site_plots.page(drawings, "What the places give", [said])


def _drawable(path: Path, suffixes: Sequence[str]) -> None:
    """Refuse a file that is no drawing of ours before anything is computed."""
    if path.suffix.lower() not in suffixes:
        what = f"{path} is no file to draw into"
        hint = f"name it {path.stem or 'plot'}{suffixes[0]}"
        raise asking.refused(what, "--plot", f"it must end in {' or '.join(suffixes)}", hint)


def _cases(path: Path) -> list[dict[str, str]]:
    """The rows of a table of cases, every column that is needed there and every id once."""
    rows = asking.table(path)
    missing = [name for name in NEEDED if name not in rows[0]]
    if missing:
        what, why = f"{path} is no table of PUE", f"columns missing: {', '.join(missing)}"
        raise asking.refused(what, str(path), why, "docs/sites.md lists the columns")
    seen: dict[str, int] = {}
    for line, row in zip(_lines(path, len(rows)), rows, strict=True):
        name = row["pue_id"].strip()
        if name and name in seen:
            what, why = f"{name!r} is there twice", f"lines {seen[name]} and {line}"
            raise asking.refused(what, f"{path}:{line}, pue_id", why, "keep one of them")
        seen[name] = line
    return rows


def _bad(path: Path, rows: Sequence[Mapping[str, str]], row: str, column: str, why: str) -> Any:
    """A row that cannot be read, with the line that it stands on."""
    names = [case["pue_id"].strip() for case in rows]
    number = names.index(row) if row in names else names.index("")
    line = _lines(path, len(rows))[number]
    what, where = f"{row if row in names else f'line {line}'} cannot be read", f"{path}:{line}"
    hint = f"mend {column}; a blank cell is taken as unknown"
    if column == "pue_id":
        hint = "give every row a name of its own"
    return asking.refused(what, f"{where}, {column}", why, hint)


def _lines(path: Path, count: int) -> list[int]:
    """The line of the file on which each row starts; blank lines and broken cells count."""
    starts = []
    if path.is_file():  # A pipe was read already.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader, start = csv.reader(file), 1
            for row in reader:
                starts += [start] if row else []
                start = reader.line_num + 1
    return starts[1:] if len(starts) == count + 1 else list(range(2, count + 2))


def _errors(
    path: Path, rows: Sequence[Mapping[str, str]], answers: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Absolute errors of PUE over the rows that have an answer; None if none has.

    Rows that their table marks as unfit to judge a model by (design values) are set aside.
    """
    known, aside = [], 0
    for row, answer in zip(rows, answers, strict=True):
        text = (row.get("pue") or "").strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 1 <= value < 10:
            why = f"{text!r} is no PUE: a number from 1 up"
            raise _bad(path, rows, row["pue_id"].strip(), "pue", why)
        if (row.get(FIT) or "1").strip() == "0":
            aside += 1
        else:
            known.append((abs(answer["pue"] - value), answer, value))
    if not known:
        return None
    worst, of, _ = max(known, key=lambda one: one[0])
    return {
        "rows": len(known),
        "set_aside": aside,
        "median": statistics.median(error for error, _, _ in known),
        "mean": statistics.fmean(error for error, _, _ in known),
        "worst": worst,
        "worst_id": of["pue_id"],
        "inside": sum(one["low"] <= value <= one["high"] for _, one, value in known),
    }
