"""The command `trace`: reads a job trace, says what is wrong with it and how far it is from what
was published of its cluster, or makes one up after that.

Thin: it reads what was asked, calls `twin.traces`, and prints or writes what came back.
"""

import io
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gigafactory import asked as asking
from gigafactory.door import AS_JSON, door, say, working, write_whole

SUFFIXES = (".parquet", ".csv")


def mount(app: typer.Typer) -> None:
    """Add this command to the door."""
    app.command()(trace)


def trace(
    file: Annotated[Path | None, typer.Argument(help="CSV, Parquet, JSON, sacct or SWF")] = None,
    form: Annotated[
        str | None, typer.Option(help="plain, philly, helios, acme, pai2020, ..., sacct, swf")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="a published cluster: Philly, Helios, Seren, Kalos, ...")
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="leave unsound rows out")] = False,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="size of the cluster; no job may be larger")
    ] = None,
    vc_gpus: Annotated[
        Path | None, typer.Option(help="virtual clusters: a CSV with vc,gpus,gpus_per_node")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="make a trace up after a published cluster")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="with --like: how many")] = 10_000,
    days: Annotated[float, typer.Option(help="with --like: over how many days")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="with --like: another, another trace")] = 1,
    output: Annotated[
        Path | None, typer.Option("--out", help="write the jobs to this .parquet or .csv")
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Read a job trace, check every row, and hold it against what its cluster published.

    Unsound rows are refused by line and kind; `--skip` leaves them out and counts them.
    docs/traces.md lists the forms and the checks.

    Examples: `gigafactory trace cluster_log.csv --against Venus`,
    `gigafactory trace --like Seren --jobs 10000 --days 30 --seed 1 --out t.parquet`
    """
    with door(as_json):
        _asked(file, like, any((form, skip, gpus, vc_gpus)), output)
        from gigafactory.twin import traces

        if against is not None:
            against = traces.known(against)
        with working("reading the trace" if file else "making a trace", as_json):
            if like is not None:
                like = traces.known(like)
                read = traces.like(like, jobs, days, seed)
            else:
                assert file is not None
                pools = traces.pools(vc_gpus) if vc_gpus else None
                fate: Any = "skip" if skip else "refuse"
                read = traces.load(file, form, fate, gpus, pools)
            if output is not None:
                _write(output, traces.to_table(read))
        told: dict[str, Any] = {
            "file": str(file) if file else None,
            "like": like,
            "modelled": like is not None,
            "form": read.form,
            "begins": read.begins or None,
            "virtual_clusters": len([name for name in read.vcs if name]),
            "noted": read.noted,
            "fault_counts": read.fault_counts,
            "faults": [asdict(fault) for fault in read.faults],
            "summary": traces.summary(read),
            "against": None,
            "out": str(output) if output else None,
        }
        compared = against or like
        if compared:
            found = traces.against(read, compared)
            told["against"] = {
                "name": compared,
                "verdict": traces.verdict(read, compared, found),
                "differences": [asdict(one) for one in found],
            }
        say(told, as_json, lambda: _screen(told))


def _asked(file: Path | None, like: str | None, checks: bool, output: Path | None) -> None:
    """Refuse what does not go together before anything is read."""
    if (file is None) == (like is None):
        why = "a trace is read from a FILE or made with --like"
        raise asking.refused("no trace is named", "FILE", why, "give one of the two")
    if like is not None and checks:
        what, why = "--like reads no file", "--form, --skip, --gpus, --vc-gpus are for a FILE"
        raise asking.refused(what, "--like", why, "leave them out")
    if output is None:
        return
    if output.suffix.lower() not in SUFFIXES:
        why = f"it must end in {' or '.join(SUFFIXES)}"
        hint = f"name it {output.stem or 'trace'}.parquet"
        raise asking.refused(f"{output} is no file for a trace", "--out", why, hint)
    if file is not None and output.exists() and file.exists() and output.samefile(file):
        why = "what was left out would be lost"
        raise asking.refused(f"{output} is the trace", "--out", why, "name another file")


def _write(path: Path, table: Any) -> None:
    """The jobs in the `plain` form, there whole or not at all."""
    import pyarrow.csv
    import pyarrow.parquet

    content = io.BytesIO()
    if path.suffix.lower() == ".csv":
        pyarrow.csv.write_csv(table, content)
        write_whole(path, content.getvalue().decode())
        return
    pyarrow.parquet.write_table(table, content)
    beside = path.with_name(f".{path.name}.{os.getpid()}.parquet")
    try:
        write_whole(beside, "")  # As open as the files that people ask for are.
        beside.write_bytes(content.getvalue())
        os.replace(beside, path)
    except OSError as error:
        error.filename = str(path)  # And not the name that it had meanwhile.
        raise
    finally:
        beside.unlink(missing_ok=True)


def _screen(told: dict[str, Any]) -> Any:
    """Form, what was left out, the figures, and the difference from the published ones."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    of = f"made up after {told['like']}, modelled" if told["like"] else f"form {told['form']}"
    head = f"{told['summary']['jobs']:,.0f} GPU jobs, {of}"
    if told["virtual_clusters"]:
        head += f", {told['virtual_clusters']} virtual clusters"
    if told["begins"]:
        head += f", from {told['begins']}"
    compared = told["against"]
    there = {one["quantity"]: one for one in compared["differences"]} if compared else {}
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("figure", no_wrap=True)
    for name in ("here", f"published of {compared['name']}", "ratio") if compared else ("here",):
        table.add_column(name, justify="right")
    for quantity, here in told["summary"].items():
        row = [quantity.replace("_", " "), _figure(quantity, here)]
        if one := there.get(quantity):
            row.append(_figure(quantity, one["published"]))
            row.append("–" if one["ratio"] is None else f"{one['ratio']:.3f}")
            row[-1] += " *" if one["note"] else ""
        if here is not None:
            table.add_row(*row)
    lines = []
    if told["noted"]:
        words = (f"{count:,} {name.replace('_', ' ')}" for name, count in told["noted"].items())
        lines.append(f"Set aside or changed, no faults: {', '.join(words)}.")
    for kind, count in told["fault_counts"].items():
        first = next(fault for fault in told["faults"] if fault["what"] == kind)
        why = f"line {first['line']}: {first['why']}"
        lines.append(f"Left out: {count:,} with {kind} ({why}).")
    notes = {one["note"]: one["quantity"].replace("_", " ") for one in there.values()}
    lines += [f"* {quantity}: {note}." for note, quantity in notes.items() if note]
    if told["out"]:
        lines.append(f"Written: {told['out']}")
    end = [Text(compared["verdict"], style="bold")] if compared else []
    return Group(Text(head, style="bold"), table, *(Text(line) for line in lines), *end)


def _figure(quantity: str, value: float | None) -> str:
    from gigafactory.units import show

    if value is None:
        return "–"
    if quantity.endswith("share"):
        return f"{value:.1%}"
    if quantity == "gpu_time":
        hours = value / 3600
        return f"{hours:,.0f} GPU-h" if hours >= 100 else f"{hours:.3g} GPU-h"
    if quantity == "jobs" or quantity.startswith("gpus"):
        return f"{value:,.6g}" if value < 1e6 else f"{value:,.0f}"
    return show(value, "s") if value else "0 s"
