"""What every command does at its door: refusals in four parts, answers as text or as JSON.

Exit codes: 0 done, 1 it ran and something failed, 2 refused (nothing changed, nothing lost).
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gigafactory.faults import Fault, Refused

AS_JSON = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]

out = Console(soft_wrap=False)


@contextmanager
def door(as_json: bool) -> Iterator[None]:
    """Turn a refusal, or a file that cannot be had, into its text or JSON, and exit code 2."""
    try:
        try:
            yield
        except OSError as error:
            home = os.environ.get("GIGAFACTORY_HOME", str(Path.home() / ".gigafactory"))
            where = str(error.filename or home)
            why = error.strerror or str(error)
            remedy = "see that it is there and can be read, or its folder written"
            if where.startswith(home):
                remedy = "see that it can be read and written, or set another GIGAFACTORY_HOME"
            raise Refused(Fault("a file cannot be used", where, why, remedy)) from error
    except Refused as refused:
        if as_json:
            print(json.dumps(refused.to_json(), indent=1))
        else:
            from gigafactory.console import terminal

            terminal.faults(Console(stderr=True), refused.faults)
        raise typer.Exit(2) from None


_callers_umask = 0o022


def keep_private() -> None:
    """From here on, files are for their owner's eyes, but for those that people ask for."""
    global _callers_umask
    _callers_umask = os.umask(0o077)


@contextmanager
def as_open_as_theirs() -> Iterator[None]:
    """Files and folders made within are those that people asked for: as open as their others."""
    ours = os.umask(_callers_umask)
    try:
        yield
    finally:
        os.umask(ours)


def write_whole(path: Path, text: str) -> None:
    """Write a file that people asked for: there whole or not at all, as open as theirs are.

    A link is followed; a pipe or a terminal holds nothing to lose.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    real = path.resolve()
    temporary = real.with_name(f".{real.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.chmod(0o666 & ~_callers_umask)
        os.replace(temporary, real)
    except OSError as error:
        error.filename = str(path)  # And not the name that it had meanwhile.
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file, whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_whole(path, text.getvalue())


@contextmanager
def working(what: str, quiet: bool) -> Iterator[None]:
    """A sign of life while something takes its time."""
    if quiet:
        yield
        return
    with Console(stderr=True).status(what, spinner="line"):
        yield


def say(value: Any, as_json: bool, shown: Callable[[], Any]) -> None:
    """Print `value` as JSON, or what `shown()` makes of it."""
    if as_json:
        print(json.dumps(value, indent=1, default=str))
    else:
        out.print(shown())
