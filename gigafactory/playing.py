"""The command `simulate`: weeks of a factory on a virtual clock, or a bare trace. Modelled.

Thin: it reads what was asked, has `twin` play it seed by seed, and prints what came back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigafactory.door import AS_JSON, door, say, working, write_whole
from gigafactory.faults import Fault, Refused

if TYPE_CHECKING:
    from gigafactory.blueprint.schema import Blueprint
    from gigafactory.factory.policy import Policy
    from gigafactory.plan import Plan
    from gigafactory.twin.run import Lived
    from gigafactory.twin.scenario import Scenario

DAYS, SEEDS = 42.0, 5
"""What is played where nobody says: six weeks, five times."""
OWN_EVERY_S = 600.0
"""How often a policy from a file fills its scores."""
LAID_OUT = ("frames", "series", "pools", "failures")
"""What only the page shows."""

Make = Callable[[int], "Scenario"]
"""A scenario of this seed."""


def mount(app: typer.Typer) -> None:
    """Add this command to the door."""
    app.command()(simulate)


def simulate(
    blueprint: Annotated[
        str | None, typer.Argument(help="a blueprint file, or the name of a shipped one")
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.05, max=3660, help=f"how long; {DAYS:g} if left out")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help=f"how often; {SEEDS}, of jobs alone 1")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="the first; the same gives the same")] = 0,
    policy: Annotated[
        str | None, typer.Option(help="fifo, sjf, srtf, fair, ..., or FILE.py:FUNCTION")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="change a value: sites.milan.power=1MW"),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER", help="a blueprint, or `policy=sjf`")
    ] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="JOB", help="why it waited, under the first seed")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="write the animated page here")] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="write the first seed's events here, as Parquet")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="instead of a blueprint: jobs of a CSV or Parquet file")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="of a trace: the cluster's")] = None,
    vc_gpus: Annotated[
        Path | None, typer.Option(help="of a trace: a CSV with vc,gpus,gpus_per_node")
    ] = None,
    starts: Annotated[Path | None, typer.Option(help="of a trace: write job_id,start_s")] = None,
    form: Annotated[str | None, typer.Option(help="of a trace: see `gigafactory trace`")] = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="of a trace: leave unsound rows out")
    ] = False,
    as_json: AS_JSON = False,
) -> None:
    """Play a blueprint on a virtual clock, with the scheduler that really runs.

    Streams of jobs come for weeks, parts fail, the grid curtails; what it comes to is told with
    95 % intervals over the seeds. A blueprint of single jobs is played as a day, into a ledger
    like that of `up`. docs/twin.md says what is modelled and how.

    Examples: `gigafactory simulate campus --days 28 --compare policy=fifo`,
    `gigafactory simulate laptop --seed 7`,
    `gigafactory simulate --trace jobs.csv --gpus 480 --starts starts.csv`
    """
    with door(as_json):
        of_trace: dict[str, Any] = {"--gpus": gpus, "--vc-gpus": vc_gpus, "--starts": starts}
        of_trace |= {"--form": form, "--skip": skip or None}
        of_blueprint: dict[str, Any] = {
            "BLUEPRINT": blueprint,
            "--days": days,
            "--seeds": seeds,
            "--set": set_,
        }
        of_blueprint |= {"--compare": compare, "--explain": explain, "--html": html}
        of_blueprint |= {"--ledger": ledger, "--seed": seed or None}
        _together(trace, of_trace, of_blueprint)
        if trace is not None:
            _replay(trace, gpus, vc_gpus, policy or "fifo", starts, form, skip, as_json)
            return
        assert blueprint is not None
        ours = _course(blueprint, set_, policy, days)
        count = seeds or (SEEDS if ours.streams else 1)
        if explain is not None:
            _explain(ours, seed, explain, as_json)
            return
        beside = None
        if compare is not None:  # Read before anything is played: it may be wrong, too.
            beside = _beside(compare, blueprint, set_, policy, ours.days)
            _one_currency(ours, beside)
        _play(ours, seed, count, bool(html), ledger is not None, as_json)
        if beside is not None:
            _play(beside, seed, count, bool(html), False, as_json)
        _tell(ours, beside, seed, html, ledger, as_json)


def planned(blueprint: str, overrides: list[str] | None) -> "Plan":
    """The plan of a blueprint, with what was measured in this home."""
    from gigafactory.blueprint import load

    return _plan_of(load(blueprint, overrides or ()))


def simulated(made: "Plan", seed: int, file: Path | None = None) -> tuple[Path, str]:
    """Play a plan's day into a Parquet ledger, in this home unless it is said where."""
    from datetime import UTC, datetime

    from gigafactory.ledger.book import write_parquet
    from gigafactory.twin import simulate as play
    from gigafactory.works.home import Home

    run = f"{made.name}-{made.hash[:8]}-seed-{seed}"
    if file is None:
        file = Home.default().path / "simulated" / f"{run}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
    opened_s = datetime.fromisoformat(made.start).replace(tzinfo=UTC).timestamp()
    write_parquet(file, run, play(made, run, seed), opened_s)
    return file, run


@dataclass
class _Course:
    """What is played, and what came of it."""

    name: str
    make: Make
    days: float | None
    plan: "Plan"
    streams: bool
    demand: Any
    """What its jobs are drawn from."""
    lives: list[dict[str, float]] = field(default_factory=list)
    cpu_s: float = 0.0
    played: dict[str, Any] = field(default_factory=dict)
    first: "tuple[Scenario, Lived] | None" = None
    against: Callable[..., tuple[list[Any], list[str]]] | None = None
    """Of a design: sets what was lived beside the plan."""


def _together(trace: Path | None, of_trace: dict[str, Any], of_blueprint: dict[str, Any]) -> None:
    """Refuse, in one error, what does not go together."""
    wrong = of_trace if trace is None else of_blueprint
    given = [name for name, value in wrong.items() if value is not None]
    if trace is None and of_blueprint["BLUEPRINT"] is None:
        why = "a blueprint is played, or the jobs of a trace"
        hint = "write `gigafactory simulate campus`, or --trace FILE"
        raise Refused(Fault("nothing is named to be played", "BLUEPRINT", why, hint))
    if given:
        what = f"{', '.join(given)}: not of a {'blueprint' if trace is None else 'trace'}"
        why = "a trace has jobs and nothing else" if trace else "only a trace (--trace) takes it"
        raise Refused(Fault(what, given[0], why, "leave it out"))
    alone = [name for name in ("--compare", "--html", "--ledger") if of_blueprint[name] is not None]
    if of_blueprint["--explain"] is not None and (alone or (of_blueprint["--seeds"] or 1) > 1):
        what = f"--explain goes without {' and '.join(alone or ['--seeds'])}"
        why = "it tells of one job under one seed"
        raise Refused(Fault(what, "--explain", why, "ask for one at a time; --seed says which"))


def _course(
    blueprint: str, overrides: list[str] | None, policy: str | None, days: float | None
) -> _Course:
    from gigafactory.blueprint import load
    from gigafactory.twin import scenario

    own = _own(policy)
    if policy is not None and own is None:
        overrides = [*(overrides or ()), f"operations.policy={policy}"]
    read = load(blueprint, overrides or ())
    if read.design is not None and not (read.streams or read.workloads):
        return _designed(read, days, policy, own)
    made = _plan_of(read)

    def make(seed: int) -> "Scenario":
        if read.streams:
            came = scenario.of(read, days or DAYS, seed, own, made.measured)
        else:
            came = scenario.of_plan(made, seed)
        if own is not None:
            came.scene.policy, came.scene.every_s = own, OWN_EVERY_S
            came.policy = str(policy)
        return came

    return _Course(read.name, make, days, made, bool(read.streams), _demand(read))


def _designed(
    read: "Blueprint", days: float | None, policy: str | None, own: "Policy | None"
) -> _Course:
    """What a design buys, on the first day on which all that it is for runs."""
    from functools import partial

    from gigafactory.plan import design
    from gigafactory.twin import designed as lived

    with working(f"designing {read.name}", False):
        bought = design.make(read)
    on = lived.first_day(bought)

    def make(seed: int) -> "Scenario":
        came = lived.of_design(read, days or DAYS, seed, own, on, bought)
        if own is not None:
            came.scene.every_s, came.policy = OWN_EVERY_S, str(policy)
        return came

    plan = _plan_of(lived.factory(read, bought, on))
    against = partial(lived.held_against, read, bought)
    return _Course(read.name, make, days, plan, True, _demand(read), against=against)


def _demand(read: "Blueprint") -> Any:
    """What the jobs of a blueprint are drawn from: where it is alike, so are they."""
    return read.start, read.streams, read.workloads, read.design


def _beside(
    compare: str,
    blueprint: str,
    overrides: list[str] | None,
    policy: str | None,
    days: float | None,
) -> _Course:
    """The other course: the same blueprint under another policy, or another blueprint."""
    word, equals, other = compare.partition("=")
    if not equals:
        return _course(compare, None, policy, days)
    if word != "policy":
        why = f"{word!r} cannot be compared so"
        hint = "write --compare policy=sjf, or name another blueprint"
        raise Refused(Fault(f"nothing to compare with: {compare!r}", "--compare", why, hint))
    return _course(blueprint, overrides, other, days)


def _one_currency(ours: _Course, beside: _Course) -> None:
    """Refuse to set amounts of two currencies against each other."""
    mine, other = ours.plan.currency, beside.plan.currency
    if mine == other:
        return
    what = f"{ours.name} is in {mine}, {beside.name} in {other}"
    why = "amounts of two currencies cannot be set against each other; no rate is assumed"
    hint = "state both blueprints in one: `currency:` and its prices"
    raise Refused(Fault(what, "--compare", why, hint))


def _own(policy: str | None) -> "Policy | None":
    """Somebody's own policy, from a file that they name; None where it is one of ours."""
    if policy is None:
        return None
    from gigafactory.twin.replayed import policy_of

    found = policy_of(policy)
    return None if isinstance(found, str) else found


def _play(course: _Course, seed: int, seeds: int, frames: bool, pieces: bool, quiet: bool) -> None:
    """Live through every seed; of the first, keep all."""
    from gigafactory.twin import answers, played
    from gigafactory.twin.run import live

    with working(f"drawing the jobs of {course.name}", quiet):
        scenario = course.make(seed)
    _warm(len(scenario.scene.life), sum(pool.nodes for pool in scenario.pools), quiet)
    with _bar(f"playing {course.name}", seeds, quiet) as step:
        for number in range(seed, seed + seeds):
            if number > seed:
                scenario = course.make(number)
            photographs = played.frames_of(scenario.horizon_s / played.DAY_S)
            first = course.first is None
            lived = live(
                scenario.scene,
                frames=photographs if frames and first else 0,
                pieces=pieces and first,
            )
            course.lives.append(answers.of(scenario, lived))
            course.cpu_s += lived.cpu_s
            if first:
                course.first = (scenario, lived)
            step()
    assert course.first is not None
    course.played = played.of(*course.first, course.lives)
    if course.against is not None:
        pairs, broken = course.against(*course.first, course.lives[0])
        told = (pair._asdict() for pair in pairs)
        planned = [one | {"twin": one["twin"] if isfinite(one["twin"]) else None} for one in told]
        course.played["planned"] = planned
        course.played["missed"] += [{"what": what} for what in broken]


def _tell(
    ours: _Course,
    beside: _Course | None,
    seed: int,
    html: Path | None,
    ledger: Path | None,
    as_json: bool,
) -> None:
    told: dict[str, Any] = {}
    if not ours.streams:
        from gigafactory.ledger.book import Book

        file, run = simulated(ours.plan, seed, ledger)
        book = Book.open(file)
        jobs = [{**job, "status": job["state"]} for job in book.jobs(run)]
        told = {"run": run, "ledger": str(file), "seed": seed, "jobs": jobs, "bill": book.bill(run)}
    elif ledger is not None:
        told = {"run": _written(ours, ledger), "ledger": str(ledger)}
    theirs = beside.played if beside is not None else None
    if beside is not None:
        _pair(ours, beside)
    if html is not None:
        from gigafactory.console.twin_page import page

        write_whole(html, page(ours.played, theirs))
        told["html"] = str(html)
    told = _data(ours) | {"simulate_cpu_s": ours.cpu_s} | told
    if beside is not None:
        told["compared"] = _data(beside)

    def shown() -> Any:
        from rich.console import Group

        from gigafactory.console import terminal, twin

        parts: list[Any] = []
        if not ours.streams:
            parts += [
                f"simulated day of {ours.name}, seed {seed} (modelled)",
                terminal.jobs(told["jobs"]),
                terminal.bill(told["bill"], ours.plan.currency),
                "",
            ]
        parts += [
            twin.answers(ours.played, theirs),
            "",
            twin.tenants(ours.played),
        ]
        if "planned" in ours.played:
            parts += ["", _planned(ours.played["planned"])]
        missed = f"missed{twin.of_seed(ours.played)}"
        parts += _listed(missed, [one["what"] for one in ours.played["missed"]])
        parts += _listed("assumed", ours.played["sources"])
        parts += [f"{word}: {told[word]}" for word in ("ledger", "html") if word in told]
        return Group(*parts)

    say(told, as_json, shown)


def _data(course: _Course) -> dict[str, Any]:
    return {key: value for key, value in course.played.items() if key not in LAID_OUT}


def _pair(ours: _Course, beside: _Course) -> None:
    """Beside each answer of ours, what it has more than theirs, seed by seed."""
    from gigafactory.twin import answers

    differences = answers.compared(ours.lives, beside.lives)
    for one, other in zip(ours.played["answers"], beside.played["answers"], strict=True):
        one["paired"] = differences[one["key"]]
        # Where either side's times are of a part of its jobs, the row says so.
        one["name"] = max(one["name"], other["name"], key=len)
    ours.played["draws_alike"] = ours.demand == beside.demand


def _explain(course: _Course, seed: int, job: str, as_json: bool) -> None:
    from gigafactory.twin import explain
    from gigafactory.twin.run import live

    scenario = course.make(seed)
    watched = explain.row(scenario, job)
    _warm(len(scenario.scene.life), sum(pool.nodes for pool in scenario.pools), as_json)
    with working(f"playing {course.name}", as_json):
        lived = live(scenario.scene, watched=watched)
    story = explain.story(scenario, lived, job)

    def shown() -> Any:
        from gigafactory.console import twin

        return twin.explained(story)

    say({"seed": seed, "policy": scenario.policy, **story}, as_json, shown)


def _written(course: _Course, file: Path) -> str:
    """Write what the works would have written of the first seed; the run's name."""
    from gigafactory.ledger.book import write_parquet
    from gigafactory.twin import story

    assert course.first is not None
    scenario, lived = course.first
    run = f"{scenario.name}-seed-{scenario.seed}"
    write_parquet(file, run, story.events(scenario, lived, course.plan, run), scenario.start_unix_s)
    return run


def _replay(
    file: Path,
    gpus: int | None,
    vc_gpus: Path | None,
    policy: str,
    starts: Path | None,
    form: str | None,
    skip: bool,
    as_json: bool,
) -> None:
    """A bare trace."""
    from gigafactory.twin import replayed, traces

    _size(gpus, vc_gpus)
    pools = None if vc_gpus is None else traces.pools(vc_gpus)
    fate: Any = "skip" if skip else "refuse"
    with working("reading the trace", as_json):
        read = traces.load(file, form, fate, gpus, pools)
    _warm(len(read), 0, as_json)
    with working("playing the trace", as_json):
        came = replayed.play(read, gpus, pools, policy)
    if starts is not None:
        replayed.write_starts(starts, came)
    told = {"trace": str(file), **came.to_json(), "starts": starts and str(starts)}
    say(told, as_json, lambda: _replay_screen(told))


def _size(gpus: int | None, vc_gpus: Path | None) -> None:
    if (gpus is None) == (vc_gpus is None):
        why = "a trace does not say how large the cluster is"
        hint = "give one of --gpus N and --vc-gpus FILE"
        raise Refused(Fault("one size is needed", "--gpus", why, hint))


def _replay_screen(told: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from gigafactory.console.twin import counted
    from gigafactory.units import show_duration

    jobs, gpus = counted(told["jobs"], "job"), counted(told["gpus"], "GPU")
    head = f"{jobs} on {gpus}, policy {told['policy']} (modelled)"
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for number, name in enumerate(("", "mean", "median", "P95")):
        table.add_column(name, justify="right" if number else "left")
    for name, words in (("jct", "time to completion"), ("queue", "wait")):
        figures = (told[f"{part}_{name}_s"] for part in ("mean", "p50", "p95"))
        table.add_row(words, *map(show_duration, figures))
    lines = [
        f"makespan {show_duration(told['makespan_s'])}, utilisation {told['utilisation']:.1%}, "
        f"{counted(told['preemptions'], 'preemption')}",
        f"simulated in {told['simulate_cpu_s']:.3g} CPU-seconds",
    ]
    for what in ("skipped", "noted"):
        lines += [f"{what}: {count:,} {kind}" for kind, count in told[what].items()]
    lines += [f"assumed: {words}" for words in told["assumptions"]]
    if told["starts"]:
        lines.append(f"starts: {told['starts']}")
    return Group(Text(head, "bold"), table, *map(Text, lines))


def _plan_of(read: "Blueprint") -> "Plan":
    from gigafactory import plan as planning
    from gigafactory.works import history
    from gigafactory.works.home import Home

    home = Home.default()
    return planning.make(read, history.measured(home.path, home.ledger))


def _warm(jobs: int, nodes: int, quiet: bool) -> None:
    """Have the scheduler compiled where it is needed so; a new version takes about a minute."""
    from gigafactory.twin import run

    if run.is_large(jobs, nodes):
        with working("loading the scheduler (a new version is compiled once)", quiet):
            run.warm()


@contextmanager
def _bar(what: str, count: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """A bar over the seeds, where there are several."""
    if quiet or count < 2:
        with working(what, quiet):
            yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=count)
        yield lambda: progress.advance(task)


def _planned(rows: list[dict[str, Any]]) -> Any:
    """The plan's figures beside the twin's."""
    from rich.table import Table
    from rich.text import Text

    from gigafactory.units import show, show_duration

    def told(value: float | None, unit: str) -> str:
        if value is None:
            return "never"
        if unit == "s":
            return show_duration(value)
        if unit == "share":
            return f"{value:.2%}"
        if unit == "kWh":
            value, unit = value * 1e3, "Wh"
        return f"{value:.4g}" if unit == "1" else show(value, unit)

    table = Table(box=None, pad_edge=False, header_style="bold dim")
    table.add_column("plan and twin, first seed")
    for name in ("plan says", "twin says", "of it"):
        table.add_column(name, justify="right")
    table.add_column("what to know")
    for row in rows:
        figures = [told(row[side], row["unit"]) for side in ("plan", "twin")]
        share = "" if row["twin"] is None else f"{row['twin'] / row['plan']:.1%}"
        table.add_row(row["what"], *figures, share, Text(row["why"], "dim"))
    return table


def _listed(head: str, lines: list[str]) -> list[Any]:
    from rich.text import Text

    if not lines:
        return []
    return ["", Text(head, "bold"), *(Text(f"  {line}") for line in lines)]
