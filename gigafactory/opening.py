"""Commands from a field to the first token: `bringup` dates it, `accept` judges what was measured.

Thin: they read what was asked, call `stack.bringup`, and print or draw what came back.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from gigafactory import asked as asking
from gigafactory.door import AS_JSON, door, say, write_whole
from gigafactory.faults import nearest

SOURCES = Annotated[bool, typer.Option("--sources", help="say where each figure is from, and when")]
FIRST_YEAR, LAST_YEAR = 2000, 2100
MOST_WEEKS = 5200.0
MONEY = "1.2 M USD"
FIELDS = ("chip", "devices", "run", "measured")
RUN = {
    "model": None,
    "sequence": 4096,
    "batch": 256,
    "precision": "BF16",
    "task": "pretrain",
    "layout": None,
}
"""What the reference run may say, and what holds where it does not, as `estimate train` has it."""
ONE_MEASURE = 'write {"chip": "H100", "devices": 64, "measured": {"devices_found": 64}}'


def mount(app: typer.Typer) -> None:
    """Add these commands to the door."""
    app.command()(bringup)
    app.command()(accept)


def bringup(
    at: Annotated[
        str | None, typer.Option(help="a place of the catalog, whose time to power holds")
    ] = None,
    building: Annotated[str, typer.Option(help="greenfield, existing or modular")] = "greenfield",
    power: Annotated[str, typer.Option(help="grid, on-site, rented or ready")] = "grid",
    grid: Annotated[
        str | None,
        typer.Option(help="in place of a place: typical, virginia, us-average or europe-hubs"),
    ] = None,
    licence: Annotated[
        bool, typer.Option("--licence", help="the law asks an export licence for the chips")
    ] = False,
    waves: Annotated[int, typer.Option(help="in how many waves the racks come")] = 1,
    weeks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHASE=WEEKS", help="known better: `shell=40`, `grid=60/80/120`; repeatable"
        ),
    ] = None,
    start: Annotated[str | None, typer.Option(help="first day: `2027-01-04`; gives dates")] = None,
    per_week: Annotated[
        str | None, typer.Option(help=f"what the finished factory earns a week: `{MONEY}`")
    ] = None,
    idle_per_week: Annotated[
        str | None, typer.Option(help="what its capital costs a week while it waits")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="in place of the two: `50 MW`, at a published rate")
    ] = None,
    rate: Annotated[str, typer.Option(help="of --size: rental, lease or idle")] = "rental",
    draws: Annotated[int, typer.Option(help="how often durations are drawn")] = 10_000,
    seed: Annotated[int, typer.Option(help="of the draws: same seed, same answer")] = 0,
    plot: Annotated[Path | None, typer.Option(help="draw the Gantt chart into this .svg")] = None,
    sources: SOURCES = False,
    as_json: AS_JSON = False,
) -> None:
    """From site selection to the first token: when, what it waits for, what a week is worth.

    Examples: `gigafactory bringup --at milan --start 2027-01-04 --size "50 MW"`,
    `gigafactory bringup --building existing --power rented --weeks generators=0 --waves 4`
    """
    with door(as_json):
        from gigafactory.stack import bringup as stack
        from gigafactory.stack.bringup.network import MOST_WAVES

        _one_of("building", building, stack.BUILDINGS)
        _one_of("power", power, stack.POWERS)
        _within("--waves", waves, 1, MOST_WAVES, "4")
        _within("--draws", draws, 100, 200_000, "10000")
        _within("--seed", seed, 0, 2**32 - 1, "0")
        if plot is not None and plot.suffix.lower() != ".svg":
            why = "the Gantt chart is drawn as SVG"
            raise asking.refused(f"cannot draw {plot.name}", "--plot", why, "name it gantt.svg")
        first = _day(start) if start is not None else None
        known = _known(weeks or [])
        place, found = "", None
        if at is not None or grid is not None:
            place, found = _grid(at, grid, power, known)
        if found is not None:
            known["grid"] = found
        try:
            options = stack.Options(building, power, grid or "typical", licence, waves, known)
            stack.network(options)
        except stack.UnknownPhase as error:
            why = "it is not part of this project"
            hint = nearest(error.name, error.known)
            if error.name == "licence":
                hint = "add --licence"
            raise asking.refused(f"no phase {error.name!r}", "--weeks", why, hint) from None
        money = _money(per_week, idle_per_week, size, rate)
        from gigafactory.console import gantt as screen
        from gigafactory.stack.bringup import answers

        told = answers.bringup(options, seed, draws, first, money, place)
        if plot is not None:
            write_whole(plot.resolve(), screen.svg(told))
        say(told, as_json, lambda: screen.page(told, sources))


def accept(
    measured: Annotated[Path, typer.Argument(metavar="MEASURED.json", help="what was measured")],
    sources: SOURCES = False,
    as_json: AS_JSON = False,
) -> None:
    """Judge the gates between the rack and the first invoice: exit code 1 if one has not passed.

    What is missing, is no number or has another unit has not passed. docs/bringup.md has an
    example of the file. Example: `gigafactory accept measured.json`
    """
    with door(as_json), asking.asked():
        from gigafactory.console import gantt as screen
        from gigafactory.stack.bringup import answers, gates

        told = _document(measured)
        expected = _expected(told, measured)
        readings = told["measured"]
        for name in readings:
            names = [check.measure for check in gates.checks()]
            if name not in names:
                what, where = f"no measure {name!r}", f"{measured}, measured.{name}"
                raise asking.refused(what, where, "no gate asks for it", nearest(name, names))
        answer = answers.accept(gates.judge(readings, expected))
        say(answer, as_json, lambda: screen.gates(answer, sources))
    if not answer["accepted"]:
        raise typer.Exit(1)


def _grid(at: str | None, grid: str | None, power: str, known: Mapping[str, Any]) -> Any:
    """(name of the place, its weeks to power); weeks are None for a grid by name."""
    from gigafactory.stack import bringup as stack
    from gigafactory.stack.sites import UnknownPlace, site

    where = "--at" if at is not None else "--grid"
    if at is not None and grid is not None:
        why = "each says how long the grid takes"
        raise asking.refused("--at and --grid", "--grid", why, "keep one of them")
    if "grid" in known:
        why = "each says how long power takes"
        raise asking.refused(f"{where} and --weeks grid", where, why, "keep one of them")
    if grid is not None:
        _one_of("grid", grid, stack.GRIDS)
        if power != "grid":
            why = f"power comes {power}"
            raise asking.refused("--grid without a grid", "--grid", why, "take --power grid")
        return "", None
    try:
        found = site(at or "")
    except UnknownPlace as error:
        every = "`gigafactory sites` lists them"
        near = f"did you mean {' or '.join(error.near)}?" if len(error.near) <= 3 else every
        why = "it is no id, region, city or country of the catalog"
        raise asking.refused(f"no place {at!r}", "--at", why, near) from None
    if power != "grid":
        return found.name, None
    figure = found.figures.get("time_to_power")
    if figure is None or figure.value is None:
        why = "nobody says how long the grid takes there"
        hint = "give --weeks grid=LOW/LIKELY/HIGH"
        raise asking.refused(f"no time to power for {found.name}", "--at", why, hint)
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    return found.name, stack.time_to_power(
        figure.value,
        low,
        high,
        basis=figure.basis,
        source=figure.source,
        as_of=figure.as_of,
        note=figure.proxy,
    )


def _known(pairs: Iterable[str]) -> dict[str, Any]:
    """Phase -> weeks, as `shell=40` or `grid=60/80/120`."""
    from gigafactory.stack.bringup import Weeks

    known: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = (part.strip() for part in pair.partition("="))
        try:
            numbers = [float(part) for part in text.split("/")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        ordered = len(numbers) == 3 and 0 <= numbers[0] <= numbers[1] <= numbers[2] <= MOST_WEEKS
        if not ordered:
            why = f"it must be weeks, or low/likely/high in this order, up to {MOST_WEEKS:g}"
            hint = f"write `--weeks {name or 'shell'}=40` or `--weeks {name or 'shell'}=30/40/60`"
            raise asking.refused(f"{pair!r} is no duration", "--weeks", why, hint)
        if name in known:
            what = f"{name} is given twice"
            raise asking.refused(what, "--weeks", "only one can hold", "keep one of them")
        low, likely, high = numbers
        known[name] = Weeks(low, likely, high)
    return known


def _money(earned: str | None, idle: str | None, size: str | None, rate: str) -> Any:
    """What a week of the factory is worth, with its parts; None where nobody said."""
    from gigafactory.stack import money as stack
    from gigafactory.stack.bringup import records

    _one_of("rate", rate, records.RATES)
    if size is not None:
        if earned is not None or idle is not None:
            why = "each says what a week is worth"
            raise asking.refused("--size and --per-week", "--size", why, "keep one of them")
        watts = asking.quantity(size, "W", "--size", "50 MW", 1)
        of = records.rate(rate)
        told = {"value": of.usd_per_w_week, "low": of.low, "high": of.high}
        words = {name: getattr(of, name) for name in ("basis", "source", "as_of", "note")}
        scaled: dict[str, Any] = {name: watts * usd for name, usd in told.items()}
        return {**scaled, "currency": "USD", "of": of.name, **words}
    if earned is None and idle is None:
        return None
    parts = [
        _amount(text, where)
        for text, where in ((earned, "--per-week"), (idle, "--idle-per-week"))
        if text is not None
    ]
    currency = parts[0].currency
    value = sum(
        stack.convert(part.amount, part.currency, currency, stack.rates()) for part in parts
    )
    said = " and ".join(filter(None, (earned, idle and f"{idle} idle")))
    words = {"basis": "assumed", "source": "as asked", "as_of": "", "note": ""}
    return {
        "value": value,
        "low": value,
        "high": value,
        "currency": currency,
        "of": said,
        **words,
    }


def _amount(text: str, where: str) -> Any:
    from gigafactory import units

    try:
        money = units.parse_money(text)
    except units.NotAQuantity as error:
        hint = f"write `{MONEY}`"
        raise asking.refused(f"{text!r} is no money", where, str(error), hint) from None
    if not 0 <= money.amount < 1e15:
        why = "it must be from 0 up, and finite"
        raise asking.refused(f"{text!r} is out of range", where, why, f"write `{MONEY}`")
    return money


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        why, hint = "not of the calendar", "write it as 2027-01-04"
        raise asking.refused(f"{text!r} is no day", "--start", why, hint) from None
    _within("--start", day.year, FIRST_YEAR, LAST_YEAR, "2027-01-04")
    return day


def _within(where: str, given: int, low: int, high: int, example: str) -> None:
    if not low <= given <= high:
        why = f"it must be from {low} to {high}"
        raise asking.refused(f"{given} is out of range", where, why, f"write {where} {example}")


def _one_of(what: str, given: str, known: Iterable[str]) -> None:
    """Refuse a word that is not among the known ones, which are named once."""
    if given not in known:
        near = nearest(given, known)
        hint = near if near.startswith("did you mean") else "take one of them"
        why = f"known: {', '.join(known)}"
        raise asking.refused(f"no {what} {given!r}", f"--{what}", why, hint)


def _document(path: Path) -> dict[str, Any]:
    """The file as it stands: an object that says each thing once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for name, value in pairs:
            if name in told:
                why = "which of the two holds would be anybody's guess"
                raise asking.refused(f"{name!r} is given twice", str(path), why, "keep one of them")
            told[name] = value
        return told

    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        why = str(error)
        raise asking.refused(f"{path} is no JSON", str(path), why, ONE_MEASURE) from None
    if not isinstance(told, dict) or not isinstance(told.get("measured"), dict):
        why = "`measured` must hold an object of measures"
        raise asking.refused(f"{path} holds no measures", str(path), why, ONE_MEASURE)
    for name in told:
        if name not in FIELDS:
            what, where = f"no field {name!r}", f"{path}, {name}"
            raise asking.refused(what, where, "nothing reads it", nearest(name, FIELDS))
    return told


def _expected(told: Mapping[str, Any], path: Path) -> dict[str, float]:
    """What the model expects of the factory that the file names; less where it names less."""
    from gigafactory.stack import answers, chips
    from gigafactory.stack.bringup import gates

    if "chip" not in told and "devices" not in told and "run" not in told:
        return {}
    chip, devices = told.get("chip"), told.get("devices")
    whole = isinstance(devices, int) and not isinstance(devices, bool)
    if not isinstance(chip, str) or not whole or not 1 <= devices <= 10**7:  # type: ignore[operator]
        why = "the model is asked about `devices` chips of that name"
        where = f"{path}, chip and devices"
        raise asking.refused("no factory to expect anything of", where, why, ONE_MEASURE)
    assert isinstance(devices, int), "seen above"
    try:
        silicon = asking.chip(chip)
    except chips.UnknownChip as error:
        hint = f"did you mean {' or '.join(error.near[:3])}?"
        why = "not in the catalog"
        raise asking.refused(f"no chip {chip!r}", f"{path}, chip", why, hint) from None
    if "run" not in told:
        return gates.expectations(silicon, devices)
    run = _run(told["run"], path)
    job, _ = asking.job(
        run["model"], chip, run["sequence"], run["batch"], run["precision"], run["task"]
    )
    told_run = answers.train(job, silicon, devices, asking.layout(run["layout"], job, devices))
    return gates.expectations(
        silicon, devices, told_run["mfu"]["value"], told_run["goodput"]["mtbf_s"]
    )


def _run(run: Any, path: Path) -> dict[str, Any]:
    """The reference run, every field of its kind."""
    where = f"{path}, run"
    if not isinstance(run, dict) or not isinstance(run.get("model"), str):
        hint = 'write {"model": "llama3-8b", "sequence": 8192, "batch": 128}'
        raise asking.refused("the reference run has no model", where, "it is trained", hint)
    for name, value in run.items():
        if name not in RUN:
            what = f"no field {name!r}"
            raise asking.refused(what, where, "nothing reads it", nearest(name, RUN))
        if name in ("sequence", "batch"):
            good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10**8
        else:
            good = isinstance(value, str) or (value is None and name == "layout")
        if not good:
            why = "it must be a whole number" if name in ("sequence", "batch") else "it is a word"
            what = f"{name} = {value!r} cannot be read"
            raise asking.refused(what, f"{where}.{name}", why, f"leave it out: {RUN[name]}")
    return {**RUN, **run}
