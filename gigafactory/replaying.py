"""Command that holds a lived day against the core and the twin: `gigafactory replay LEDGER`.

Thin: it reads the ledger, asks `twin.replay` and `twin.beside`, and prints what came back.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gigafactory.door import AS_JSON, door, say


def mount(app: typer.Typer) -> None:
    """Add this command to the door."""
    app.command()(replay)


def replay(
    ledger: Annotated[
        Path | None, typer.Argument(help="a .db or .parquet ledger; this home's by default")
    ] = None,
    run: Annotated[str | None, typer.Option(help="a run by name; the last by default")] = None,
    as_json: AS_JSON = False,
) -> None:
    """Give a lived day to the scheduler again, and let the twin live it freely beside it.

    Again: every event that happened, and the commands must be the same, byte for byte; where
    they are not, the exit code is 1. Freely: from the submissions alone, with the order of
    starts, the time of each job and of the whole day beside the lived ones, and why they differ.
    A simulated course of streams is refused: its ledger lacks what the scheduler knew.

    Examples: `gigafactory replay`, `gigafactory replay day.parquet --run laptop-2 --json`
    """
    with door(as_json):
        from gigafactory.console import replay as screen
        from gigafactory.twin.beside import compare
        from gigafactory.twin.replay import again, quoted, read
        from gigafactory.works.home import Home

        path = ledger or Home.default().ledger
        day = read(path, run)
        quoted(day, path)
        came = again(day)
        told = {
            "ledger": str(path),
            "run": day.run,
            "again": {"equal": came.equal, **asdict(came)},
            "free": {how: asdict(compare(day, how == "lived")) for how in ("quoted", "lived")},
        }
        say(told, as_json, lambda: screen.whole(told))
    if not came.equal:
        raise typer.Exit(1)
