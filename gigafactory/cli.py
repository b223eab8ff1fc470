"""The door. Thin: it reads what was asked, calls one room, and prints what came back.

Exit codes: 0 done, 1 it ran and something failed, 2 refused (nothing changed, nothing lost).
"""

import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gigafactory import (
    building,
    costs,
    estimates,
    failing,
    lawful,
    opening,
    places,
    playing,
    rendering,
    replaying,
    running,
    sharing,
    tracing,
)
from gigafactory.door import AS_JSON, door, keep_private, say, working, write_whole
from gigafactory.faults import Fault, Refused, nearest

BLUEPRINT = Annotated[str, typer.Argument(help="a blueprint file, or the name of a shipped one")]
SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="change a value: sites.home.power=60W"),
]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""An open AI factory: one *blueprint*, planned, simulated and run.

    Start with `gigafactory up laptop`: it trains, judges and serves on this machine.
    `gigafactory plan laptop` tells the price first; `gigafactory simulate laptop` plays it.
    `gigafactory estimate train llama3-70b --on H100 --chips 64` asks the model behind it.""",
)
estimates.mount(app)
lawful.mount(app)
places.mount(app)
opening.mount(app)
costs.mount(app)
playing.mount(app)
failing.mount(app)
tracing.mount(app)
replaying.mount(app)
running.mount(app)
sharing.mount(app)
rendering.mount(app)
building.mount(app)


def main() -> None:
    """Entry of the `gigafactory` command; what it writes is for its owner's eyes."""
    keep_private()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A pipe on Windows may not know `å`.
    app()


@app.command()
def check(blueprint: BLUEPRINT, set_: SET = None, as_json: AS_JSON = False) -> None:
    """Read a blueprint and say all that is wrong with it, and with the files of its worlds.

    Example: `gigafactory check my.yaml --set sites.home.power=60W`
    """
    with door(as_json):
        from gigafactory.blueprint import load

        read = load(blueprint, set_ or ())
        opened = building.open_files(read)
        counts = {"sites": len(read.sites), "workloads": len(read.workloads)}
        if read.design is not None:
            counts["demands"] = len(read.design.demands)
        told = [f"{count} {name}" for name, count in counts.items()]
        worlds = {"worlds": opened} if opened else {}
        told += worlds.values()
        say(
            {"blueprint": read.name, "ok": True, **counts, **worlds},
            as_json,
            lambda: f"{read.name}: {', '.join(told)}, no fault",
        )


@app.command()
def plan(
    blueprint: BLUEPRINT,
    set_: SET = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="of a design: where the figures of places come from")
    ] = False,
    apart: Annotated[
        bool, typer.Option("--apart", help="of a design: what its tenants save by sharing")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="of a design: one page to print or send, here")
    ] = None,
    front: Annotated[
        bool, typer.Option("--front", help="of a design: from the cheapest to the cleanest")
    ] = False,
    as_json: AS_JSON = False,
) -> None:
    """Quote every job before anything runs; or, of a blueprint with a design, what to buy.

    Jobs that have run here before are quoted by what they took: time, tokens, energy, carbon,
    money. A design is chosen under power, budget, law, residency, latency and deadlines, and
    proven to its gap.

    Examples: `gigafactory plan laptop`, `gigafactory plan milan-50mw --set design.budget="1 B EUR"`
    """
    with door(as_json):
        from gigafactory.blueprint import load

        loaded = load(blueprint, set_ or ())
        ways = {"--apart": apart, "--front": front, "--html": html is not None}
        given = [name for name, is_given in ways.items() if is_given]
        if given and (len(given) > 1 or loaded.design is None):
            why = "each is another answer" if loaded.design else "the blueprint has no `design`"
            hint = "ask for one at a time, of a blueprint with a design: milan-50mw"
            raise Refused(Fault(f"{' and '.join(given)} cannot be told", given[-1], why, hint))
        if loaded.design is not None:
            from gigafactory.console import design as screen
            from gigafactory.plan import consolidation, design

            if apart:
                with working("designing for each tenant, and for all", as_json):
                    sides = consolidation.consolidate(loaded)
                say(sides.model_dump(mode="json"), as_json, lambda: screen.consolidation(sides))
                return
            if front:
                with working("designing from the cleanest to the cheapest", as_json):
                    points = design.front(loaded)
                told = {"front": [point.model_dump(mode="json") for point in points]}
                say(told, as_json, lambda: screen.front(points))
                return
            with working("designing", as_json):
                designed = design.make(loaded)
            if html is not None:
                from gigafactory.console import plan_report
                from gigafactory.plan.halls import openings

                write_whole(html, plan_report.page(designed, openings(loaded, designed)))
            say(designed.model_dump(mode="json"), as_json, lambda: screen.whole(designed, sources))
            return
        made = playing.planned(blueprint, set_)

        def shown() -> Any:
            from rich.console import Group

            from gigafactory.console import terminal

            return Group(terminal.factory(made), "", terminal.quotes(made))

        say(made.model_dump(mode="json"), as_json, shown)


@app.command()
def whatif(
    blueprint: BLUEPRINT,
    set_: SET = None,
    rule: Annotated[
        Path | None, typer.Option(help="a CSV of rules that may come, as of `law --with-rule`")
    ] = None,
    chance: Annotated[float, typer.Option(min=0, max=1, help="that the rule comes")] = 0.5,
    second: Annotated[
        str | None, typer.Option(metavar="PLACE", help="of a rule: weigh one more site there, too")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="draw before and after as SVG")] = None,
    as_json: AS_JSON = False,
) -> None:
    """Follow one change of a design through chip, interconnect, model and application.

    Or weigh a rule that may come: to act now, to wait until it is known, to do without the chips
    that it touches. Examples: `gigafactory whatif milan-50mw --set design.systems=[b300-8]`,
    `gigafactory whatif milan-50mw --rule proposed.csv --chance 0.3`
    """
    with door(as_json):
        from gigafactory.blueprint import load
        from gigafactory.console import design as screen
        from gigafactory.plan import design
        from gigafactory.plan.whatif import compare

        if rule is not None:
            told = _risk(load(blueprint, set_ or ()), rule, chance, second, as_json)
            say(told.model_dump(mode="json"), as_json, lambda: screen.risk(told))
            return
        if second is not None:
            why, hint = "a second site is weighed against a rule", "add --rule FILE, or drop it"
            raise Refused(Fault("--second without --rule", "--second", why, hint))
        if not set_:
            hint = "write --set sites.milan.power=30MW, or --rule FILE"
            why = "there is nothing to compare with"
            raise Refused(Fault("no change is given", "--set", why, hint))
        with working("designing before and after", as_json):
            before, after = (design.make(load(blueprint, changes)) for changes in ((), set_))
        rows = compare(before, after)
        if plot is not None:
            from gigafactory.console import whatif_plot

            write_whole(plot, whatif_plot.svg(rows, set_))
        changes = {"changes": set_, "rows": [row.told() for row in rows]}
        say(changes, as_json, lambda: screen.whatif(rows, set_ or ()))


@app.command()
def calibrate(as_json: AS_JSON = False) -> None:
    """Measure this machine and keep it as the chip `this-machine`: some 15 seconds.

    Matrix products by dtype and shape, memory, the smallest operation, collectives, power.
    Plans and estimates use it from then on. Example: `gigafactory calibrate`
    """
    with door(as_json):
        from rich.console import Console

        from gigafactory.console import terminal
        from gigafactory.works import calibrate as measuring
        from gigafactory.works.home import Home

        home = Home.default().path
        home.mkdir(parents=True, exist_ok=True)
        with Console(stderr=True).status("measuring", spinner="line") as status:
            try:
                snapshot = measuring.calibrate(home, thorough=True, progress=status.update)
            except measuring.CalibrationFailed as error:
                raise Refused(
                    Fault(
                        "this machine could not be measured",
                        str(home),
                        str(error),
                        "see that nothing else takes all of its memory, and try again",
                    )
                ) from None
        say(snapshot, as_json, lambda: terminal.machine(snapshot))


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="blueprint, job, quote, plan, context, event, ...")],
) -> None:
    """Print the JSON schema of a contract; `schema example` prints a blueprint to start from.

    Example: `gigafactory schema blueprint > blueprint.schema.json`
    """
    with door(False):
        from gigafactory import contracts

        if name == "example":
            print(contracts.example(), end="")
            return
        print(json.dumps(contracts.schema(name), indent=1))


def _risk(blueprint: Any, rule: Path, chance: float, second: str | None, quiet: bool) -> Any:
    """What a rule that may come means for a design."""
    from gigafactory import asked
    from gigafactory.plan import risk
    from gigafactory.plan.design import proven
    from gigafactory.stack import law, sites

    rules = law.with_rules(asked.table(rule), str(rule))
    if second is not None:
        try:
            sites.site(second)
        except sites.UnknownPlace as error:
            why, hint = "`gigafactory sites` lists those it knows", nearest(second, error.near)
            raise Refused(Fault(f"no place {second!r}", "--second", why, hint)) from None
    with proven(blueprint), working("designing for each future", quiet):
        told = risk.weigh(blueprint, rules, chance, second)
    if told is not None and told.known <= blueprint.start:
        why, hint = "nobody can wait for it", "give it a later effective_date"
        raise Refused(Fault("the rule is in force from the start", str(rule), why, hint))
    if told is None:
        why = "no system that could be bought for a site is forbidden by it in these quarters"
        hint = "see `gigafactory law --with-rule`, its scope and its day"
        raise Refused(Fault("the rule changes nothing here", str(rule), why, hint))
    return told


if __name__ == "__main__":
    main()
