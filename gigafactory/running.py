"""The commands of a factory that runs: start it, give it jobs, watch them, see its machines.

Thin: they ask the works through `Client`, here or at `$GIGAFACTORY_URL`. Where none runs, those
that only read look into the ledger of this home.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigafactory import playing
from gigafactory.door import AS_JSON, as_open_as_theirs, door, out, say
from gigafactory.faults import Fault, Refused, nearest

if TYPE_CHECKING:
    from gigafactory.client import Client

SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="change a value: sites.home.power=60W"),
]
JOB = Annotated[str, typer.Argument(help="the name of a job")]
FOLLOW = Annotated[bool, typer.Option("--follow", "-f", help="go on as it grows")]
LOOK_S = 0.5


def mount(app: typer.Typer) -> None:
    """Add these commands to the door."""
    for command in (
        up, submit, jobs, watch, logs, cancel, artifacts, events, nodes, drain, report,
    ):  # fmt: skip
        app.command()(command)


def up(
    blueprint: Annotated[
        str, typer.Argument(help="a blueprint file, or the name of a shipped one")
    ],
    again: Annotated[bool, typer.Option(help="a new run; calibration and history stay")] = False,
    once: Annotated[bool, typer.Option(help="end after the first answer")] = False,
    recalibrate: Annotated[bool, typer.Option(help="measure this machine anew")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="of console and gateway; 0 for any")
    ] = 8642,
    set_: SET = None,
    as_json: AS_JSON = False,
) -> None:
    """Bring the factory up on this machine, and serve until Ctrl-C.

    Calibrates, quotes, trains, judges, serves, asks the model its first question. Interrupted
    anywhere, the same command goes on where it was.

    Examples: `gigafactory up laptop`, `gigafactory up tiny --once --json`
    """
    with door(as_json):
        from gigafactory.blueprint.load import find, parse, read_text
        from gigafactory.console import live
        from gigafactory.show import Screen, missed
        from gigafactory.works.home import Home
        from gigafactory.works.up import Wish
        from gigafactory.works.up import up as bring_up

        home = Home.default()
        path = find(blueprint)
        text = read_text(path)
        read = parse(text, path, set_ or ())
        import uvloop
        from rich.console import Console

        screen = Screen(Console(stderr=True) if as_json else out)

        wish = Wish(again=again, once=once, recalibrate=recalibrate, port=port)
        with screen, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            run = runner.run(bring_up(home, read, text, wish, screen, live.routes))
        from gigafactory.ledger.book import Book  # not before: it takes 70 MB

        book = Book.open(home.ledger)
        summary = _summary(book, run)
        if as_json:
            print(json.dumps(summary))
        else:
            screen.summary(summary, book.jobs(run))
        if any(job["state"] == "failed" or missed(job) for job in book.jobs(run)):
            raise typer.Exit(1)


def submit(
    files: Annotated[list[Path], typer.Argument(help="YAML files: `name`, then a workload's keys")],
    quote: Annotated[bool, typer.Option(help="only tell the price")] = False,
    watch: Annotated[bool, typer.Option(help="and watch, to the end of the last")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Give the running factory one more job, or many, at the price it quotes.

    The file: `{name: again, kind: evaluate, tenant: lab, of: code-model, suite: bits_per_byte}`

    Examples: `gigafactory submit again.yaml --quote`, `gigafactory submit *.yaml --watch`
    """
    with door(as_json):
        offers = [_offer(file) for file in files]
        with connected() as factory:
            if quote or len(offers) == 1:
                ask = factory.quote if quote else factory.submit
                answers = []
                for file, offer in zip(files, offers, strict=True):
                    with _in_file(file):
                        answers.append(ask(**offer))
            else:
                refused: list[Fault] = []
                for file, one in zip(files, factory.submit_many(offers), strict=True):
                    refused += (_placed(Fault(**f), file) for f in one.get("errors") or ())
                if refused:
                    raise Refused(*refused)  # Which were accepted, `gigafactory jobs` lists.
                answers = [factory.job(offer["name"]) for offer in offers]
            if not as_json or not watch:
                whole = answers[0] if len(answers) == 1 else {"jobs": answers}
                say(whole, as_json, lambda: "\n".join(_priced(one, quote) for one in answers))
            if watch and not quote:
                _watch(factory, [offer["name"] for offer in offers], as_json)


def jobs(
    tenant: Annotated[str | None, typer.Option(help="only of this tenant")] = None,
    status: Annotated[str | None, typer.Option(help="only those that stand there")] = None,
    as_json: AS_JSON = False,
) -> None:
    """List the jobs of the running factory, or of the last run.

    Examples: `gigafactory jobs --json`, `gigafactory jobs --status running`
    """
    with door(as_json):
        from gigafactory.console import terminal

        if runs():
            with connected() as factory:
                rows = list(factory.jobs(tenant, status))
        else:
            from gigafactory.console.view import view as view_of

            book, run = last_run()
            rows = [
                row
                for row in map(_left, view_of(book, run["run"])["jobs"])
                if tenant in (None, row["tenant"]) and status in (None, row["status"])
            ]
        say({"jobs": rows}, as_json, lambda: terminal.jobs(rows))


def watch(job: JOB, as_json: AS_JSON = False) -> None:
    """Follow a job to its end; exit code 1 where it did not end well.

    Example: `gigafactory watch code-model`
    """
    with door(as_json), connected() as factory:
        _watch(factory, [job], as_json)


def logs(job: JOB, follow: FOLLOW = False, as_json: AS_JSON = False) -> None:
    """Print what the newest attempt of a job printed.

    Example: `gigafactory logs code-model -f`
    """
    with door(as_json):
        if not runs():
            piece = _log_on_disk(job)
            _said(job, piece["text"], True, as_json)
            return
        with connected() as factory:
            if follow and not as_json:
                for text in factory.follow(job):
                    print(text, end="", flush=True)
                return
            text, piece = "", factory.logs(job)
            while piece["text"] or (follow and not piece["ended"]):
                text += piece["text"]
                time.sleep(LOOK_S * (not piece["text"]))
                piece = factory.logs(job, piece["offset"])
            _said(job, text, piece["ended"], as_json)


def cancel(job: JOB, as_json: AS_JSON = False) -> None:
    """Cancel a job; what it used so far is billed.

    Example: `gigafactory cancel code-model`
    """
    with door(as_json), connected() as factory:
        answer = factory.cancel(job)
        say(answer, as_json, lambda: f"{job}: {answer['status']}")


def artifacts(
    job: JOB,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="bring all of them into this folder")
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """List the files that a job left, or bring them here.

    Example: `gigafactory artifacts code-model -o model/`
    """
    with door(as_json), as_open_as_theirs():
        if not runs():
            found = _files_on_disk(job, output)
        else:
            with connected() as factory:
                found = factory.artifacts(job)
                if output is not None:
                    for file in found["files"]:
                        factory.fetch(job, file["path"], output)
        rows = [(file["path"], f"{file['bytes']:,}") for file in found["files"]]
        say(found, as_json, lambda: table(("file", "bytes"), rows) if rows else _nothing(found))


def events(
    after: Annotated[int, typer.Option(min=0, help="only rows beyond this number")] = 0,
    follow: FOLLOW = False,
    as_json: AS_JSON = False,
) -> None:
    """What happened, row by row of the ledger; with --follow and --json, one object a line.

    Example: `gigafactory events --after 120 -f`
    """
    with door(as_json):
        if runs():
            with connected() as factory:
                rows = factory.events(after, follow)
                if follow:
                    for row in rows:
                        print(json.dumps(row) if as_json else _row(row), flush=True)
                    return
                found = list(rows)
        else:
            from gigafactory.ledger.store import read
            from gigafactory.works.home import Home

            _, last = last_run()
            found = [row._asdict() for row in read(Home.default().ledger, last["run"], after)]
        say({"events": found}, as_json, lambda: "\n".join(map(_row, found)))


def nodes(as_json: AS_JSON = False) -> None:
    """List the machines: whether they take work, and what runs there.

    Example: `gigafactory nodes`
    """
    with door(as_json), connected() as factory:
        found = factory.nodes()
        header = ("name", "pool", "chips", "used", "state", "jobs")
        rows = [
            [*(str(node[key]) for key in header[:-1]), " ".join(node["jobs"])] for node in found
        ]
        say({"nodes": found}, as_json, lambda: table(header, rows))


def drain(
    node: Annotated[str, typer.Argument(help="as `gigafactory nodes` has it")],
    now: Annotated[bool, typer.Option(help="what runs there moves at its checkpoint")] = False,
    undo: Annotated[bool, typer.Option(help="have it take work again")] = False,
    as_json: AS_JSON = False,
) -> None:
    """Have a machine take no more work; what runs there ends first.

    Examples: `gigafactory drain home/this-machine-1 --now`,
    `gigafactory drain home/this-machine-1 --undo`
    """
    with door(as_json), connected() as factory:
        answer = factory.drain(node, now, undo)
        say(answer, as_json, lambda: f"{node}: {answer['state']}")


def report(
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("report.html"),
    run: Annotated[str | None, typer.Option(help="a run by name; the last by default")] = None,
    as_json: AS_JSON = False,
) -> None:
    """Write one self-contained HTML page: the lived day beside the simulated one.

    Example: `gigafactory report -o day.html`
    """
    with door(as_json):
        from gigafactory.console.report import report as write
        from gigafactory.ledger.book import Book
        from gigafactory.plan import Plan
        from gigafactory.works.exhibits import pictures
        from gigafactory.works.home import Home

        book, last = last_run(run)
        file, simulated = playing.simulated(Plan.model_validate(last["plan"]), 0)
        home, run = Home.default(), str(last["run"])
        left = {
            job["name"]: pictures(home.attempt(run, job["name"], job["attempts"]) / "output")
            for job in book.jobs(run)
        }
        write((book, run), (Book.open(file), simulated), output, left)
        say(
            {"run": last["run"], "report": str(output)},
            as_json,
            lambda: f"{output}: {last['run']} beside its simulated day",
        )


def runs() -> bool:
    """Whether there is a factory to ask."""
    from gigafactory.works.home import Home

    return bool(os.environ.get("GIGAFACTORY_URL") or Home.default().address())


def connected() -> "Client":
    """The factory to ask. Raises `Refused` where none runs."""
    from gigafactory.client import Client

    return Client()


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Any:
    """Lines and columns for the terminal; what others wrote is text, never markup."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for name in header:
        shown.add_column(name, style="" if name else "dim")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def _offer(file: Path) -> dict[str, Any]:
    """A job's name and work from its file, which is called as the job where it gives no name."""
    from gigafactory.blueprint.load import read_text, read_tree

    tree = read_tree(read_text(file), file)
    name = tree.pop("name", None)
    if isinstance(name, list | dict):
        why = "it is a name: letters, digits, - and _"
        raise Refused(Fault("the job's name cannot be read", f"{file}, name", why, "name: my-job"))
    name = file.stem if name is None else str(name)
    return {"name": name, "work": json.loads(json.dumps(tree, default=str))}


@contextmanager
def _in_file(file: Path) -> Iterator[None]:
    """What the factory refuses of a job, told as a place in the file that it came from."""
    try:
        yield
    except Refused as refused:
        refused.faults = tuple(_placed(fault, file) for fault in refused.faults)
        raise


def _placed(fault: Fault, file: Path) -> Fault:
    where = re.sub(r"^the job(:\d+)?(, )?(workloads\.[^.]+|work)?\.?", "", fault.where)
    if where == fault.where and where != "name":
        return fault
    return replace(fault, where=f"{file}, {where}" if where else str(file))


def _priced(answer: dict[str, Any], quote: bool) -> str:
    took = answer["quote"]
    verb = "would take" if quote else "accepted, takes"
    return (
        f"{took['job']}: {verb} {took['duration_s']['value']:.0f} s"
        f" and {took['money']['value']:.4f} {answer['currency']} on {took['pool']}"
    )


def _watch(factory: "Client", names: list[str], as_json: bool) -> None:
    """Follow jobs to their ends, one after another."""
    ended = []
    for name in names:
        before = ""
        for job in factory.watch(name):
            line = _standing(job)
            if line != before and not as_json:
                print(line, flush=True)
            before = line
        ended.append(job)
    if as_json:
        print(json.dumps(ended[0] if len(ended) == 1 else {"jobs": ended}))
    ill = (job for job in ended if job["status"] != "done" or job["passed"] is False)
    if not all(map(_let_go, ill)):
        raise typer.Exit(1)


def _let_go(job: dict[str, Any]) -> bool:
    """Whether it is a replica of a service, ended by the factory since nobody asked it."""
    return job["status"] == "cancelled" and job.get("cancelled_by") == "services"


def _left(row: dict[str, Any]) -> dict[str, Any]:
    """A job as the last run left it: without a works nothing runs, and nothing will by itself."""
    if row["over"]:
        return row
    status = "stopped" if row["attempts"] else "waiting"
    return row | {"status": status, "why": "waits for `gigafactory up`"}


def _nothing(found: dict[str, Any]) -> str:
    """Of a job without files."""
    if not found["attempt"]:
        return "nothing yet: it has not started"
    so_far = "" if found["committed"] else " so far"
    return f"it left nothing{so_far}: only files in its $GIGAFACTORY_OUTPUT are kept"


def _standing(job: dict[str, Any]) -> str:
    """Where a job stands, in a line."""
    progress = job["progress"]
    step = f", step {progress['step']}/{progress.get('steps', '?')}" if "step" in progress else ""
    loss = f", loss {progress['loss']:.3f}" if isinstance(progress.get("loss"), float) else ""
    if _let_go(job):
        return f"{job['name']}: let go, nobody asked"
    why = f": {job['why']}" if job["why"] else ""
    error = _error(job["error"]) if job.get("error") else ""
    from gigafactory.console.words import verdict

    judged = verdict((job.get("results") or {}).get("verdicts") or job.get("verdicts"))
    judged = f": {judged}" if judged else ""
    return f"{job['name']}: {job['status']}{why}{step}{loss}{error}{judged}"


def _error(error: dict[str, Any]) -> str:
    """What went wrong, why, and what to do, as far as the job said."""
    said = [error[key] for key in ("what", "why") if error.get(key)]
    hint = f"; hint: {error['remedy']}" if error.get("remedy") else ""
    return f": {': '.join(said)}{hint}"


def _row(row: dict[str, Any]) -> str:
    return f"{row['seq']:>8}  {row['at_s']:>10.1f} s  {row['kind']:<16} {row['subject']}"


def _said(job: str, text: str, ended: bool, as_json: bool) -> None:
    """A log, whole."""
    if as_json:
        print(json.dumps({"job": job, "text": text, "ended": ended}))
    else:
        print(text, end="", flush=True)


def last_run(name: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The ledger of this home and its newest run, or the one called `name`."""
    from gigafactory.ledger.book import Book
    from gigafactory.works.home import Home

    home = Home.default()
    book = Book.open(home.ledger)
    runs = {run["run"]: run for run in book.runs()}
    if not runs:
        raise Refused(
            Fault(
                "nothing has run yet",
                str(home.ledger),
                "the ledger is empty",
                "`gigafactory up laptop` starts a first run",
            )
        )
    if name is not None and name not in runs:
        raise Refused(
            Fault(
                f"there is no run {name!r}",
                "--run",
                "no such run is in the ledger",
                nearest(name, runs),
            )
        )
    return book, runs[name] if name else list(runs.values())[-1]


def _on_disk(job: str) -> tuple[Path, dict[str, Any]]:
    """The folder of the newest attempt in the last run, where no works answers, and its row."""
    from gigafactory.works.home import Home

    book, last = last_run()
    known = {row["name"]: row for row in book.jobs(last["run"])}
    if job not in known:
        raise Refused(
            Fault(
                f"there is no job {job!r}", last["run"], "none was submitted", nearest(job, known)
            )
        )
    row = known[job]
    return Home.default().attempt(last["run"], job, row["attempts"]), row


def _files_on_disk(job: str, output: Path | None) -> dict[str, Any]:
    """What the newest attempt of the last run left, and a copy of it where one is asked for."""
    import shutil

    from gigafactory.works.api import files

    folder, row = _on_disk(job)
    found = list(files.listed(folder / "output", most=sys.maxsize))
    for file in found if output is not None else ():
        to = Path(output or "") / file["path"]
        to.parent.mkdir(parents=True, exist_ok=True)
        with (
            os.fdopen(files.open_inside(folder / "output", file["path"]), "rb") as source,
            to.open("wb") as made,
        ):
            shutil.copyfileobj(source, made)
    return {"attempt": row["attempts"], "committed": row["state"] == "done", "files": found}


def _log_on_disk(job: str) -> dict[str, Any]:
    """The newest attempt's log of the last run, where no works answers."""
    folder, _ = _on_disk(job)
    file = folder / "log.txt"
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    return {"text": text, "offset": len(text), "ended": True}


def _summary(book: Any, run: str) -> dict[str, Any]:
    """What `up --json` says last."""
    first = book.first_token(run)
    quoted = {row["name"]: row for row in book.predicted_measured(run)}
    return {
        "run": run,
        "time_to_first_token_s": first and first["time_to_first_token_s"],
        "answer": first and first["answer"],
        "jobs": [
            {
                "name": job["name"],
                "kind": job["kind"],
                "state": job["state"],
                "attempts": job["attempts"],
                "results": job["results"],
                "error": job["error"],
                "predicted_s": job["quote"]["duration_s"]["value"],
                "measured_s": None,
                **quoted.get(job["name"], {}),
            }
            for job in book.jobs(run)
        ],
        "bill": book.bill(run),
    }
