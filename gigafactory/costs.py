"""Commands that ask for money: `cost` of owning a factory, `invest` in one or not.

Thin: they read what was asked, call `stack.money`, and print or draw what came back.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from gigafactory import asked as asking
from gigafactory.door import AS_JSON, door, say, write_whole
from gigafactory.faults import nearest

ON = Annotated[str, typer.Option(metavar="SYSTEM", help="what is built of: gb300-nvl72, b200-8")]
POWER = Annotated[
    str | None, typer.Option(metavar="POWER", help="of the whole site: 50MW; or give --nodes")
]
NODES = Annotated[int | None, typer.Option(min=1, max=10**6, help="how many of SYSTEM")]
AT = Annotated[
    str | None, typer.Option(metavar="PLACE", help="for its electricity and weather: milan")
]
COOLING = Annotated[str, typer.Option(help="direct-to-chip, immersion, or air: a cheaper hall")]
LOAD = Annotated[float | None, typer.Option(help="share of hours that chips are sold: 0.8")]
CURRENCY = Annotated[str, typer.Option(metavar="MONEY", help="USD, EUR, CNY, GBP, CHF, JPY")]
FACT = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="another value of an input: rent=2.2, fee=15%"),
]
SOURCES = Annotated[bool, typer.Option("--sources", help="say where each figure is from, and when")]
SHARES = ("debt", "rate")


def mount(app: typer.Typer) -> None:
    """Add these commands to the door."""
    app.command()(cost)
    app.command()(invest)


def cost(
    on: ON,
    power: POWER = None,
    nodes: NODES = None,
    at: AT = None,
    cooling: COOLING = "direct-to-chip",
    load: LOAD = None,
    years: Annotated[float | None, typer.Option(help="that machines last: 5")] = None,
    currency: CURRENCY = "USD",
    fact: FACT = None,
    sources: SOURCES = False,
    as_json: AS_JSON = False,
) -> None:
    """What a factory costs to build, by the year, and by the hour of a GPU. Modelled.

    Examples: `gigafactory cost --on gb300-nvl72 --power 50MW --at milan --currency EUR`,
    `gigafactory cost --on b200-8 --nodes 100 --load 0.7 --sources`
    """
    with door(as_json), _asked():
        from gigafactory.console import cash as screen
        from gigafactory.stack.money import answers

        given = _given(fact, load=load, machine_life=years)
        system, site = _system(on), _site(at)
        asked = _inputs(system, site, cooling, None, given)
        count = _count(system, power, nodes, asked, site, cooling)
        _currency(currency)
        told = answers.cost(system, count, asked, currency, site, cooling)
        say(told, as_json, lambda: screen.cost(told, sources))


def invest(
    on: ON,
    power: POWER = None,
    nodes: NODES = None,
    at: AT = None,
    first_token: Annotated[
        str, typer.Option(metavar="DAY", help="when it is to earn: 2028-03-01")
    ] = "2028-01-01",
    build_months: Annotated[
        int | None, typer.Option(min=1, max=120, help="first spending to first token: 18")
    ] = None,
    sell: Annotated[str, typer.Option(help="rent (GPU-hours) or tokens")] = "rent",
    model: Annotated[
        str, typer.Option(help="whose list price tokens have: qwen3.6-plus")
    ] = "qwen3.6-plus",
    owner: Annotated[
        str | None,
        typer.Option(metavar="COUNTRY", help="of the ultimate parent: adds fees and duties of law"),
    ] = None,
    cooling: COOLING = "direct-to-chip",
    load: LOAD = None,
    years: Annotated[float, typer.Option(help="of work from the first token on, 1 to 7")] = 5,
    debt: Annotated[str, typer.Option(help="share of capex that is borrowed: 0.6 or 60%")] = "0",
    rate: Annotated[str | None, typer.Option(help="of the loan, a year: 7%")] = None,
    term: Annotated[float | None, typer.Option(min=1, max=30, help="of the loan, years")] = None,
    draws: Annotated[int, typer.Option(min=100, max=200_000, help="futures of Monte Carlo")] = (
        10_000
    ),
    seed: Annotated[int, typer.Option(min=0, help="of Monte Carlo")] = 0,
    currency: CURRENCY = "USD",
    fact: FACT = None,
    plot: Annotated[Path | None, typer.Option(help="draw all of it into this SVG file")] = None,
    sources: SOURCES = False,
    as_json: AS_JSON = False,
) -> None:
    """Cash by month, NPV, IRR, payback, risk; and whether to build, rent, buy tokens or wait.

    Modelled, before tax. Examples: `gigafactory invest --on b200-8 --nodes 100 --at milan
    --first-token 2028-03-01 --plot cash.svg`, `gigafactory invest --on gb300-nvl72 --power 50MW
    --sell tokens --debt 60% --rate 7%`
    """
    with door(as_json), _asked():
        from gigafactory.console import cash as screen
        from gigafactory.console import cash_plots
        from gigafactory.stack import money
        from gigafactory.stack.money import answers, cash, prices
        from gigafactory.stack.money.figures import term as usual

        asking.one_of("sell", sell, cash.SALES)
        if model not in prices.sellers():
            why = "it has no list price"
            hint = nearest(model, prices.sellers())
            raise asking.refused(f"no token price of {model!r}", "--model", why, hint)
        if plot is not None and plot.suffix.lower() != ".svg":
            why = "the plots are one SVG file"
            raise asking.refused(f"cannot draw {plot.name}", "--plot", why, "name it FILE.svg")
        day = _day(first_token)
        _between(years, 1, 7, "--years", "no chip of these facts has worked for longer", "5")
        borrowed = _share(debt, "--debt", "0.6", 1)
        interest = usual("debt_rate") if rate is None else _share(rate, "--rate", "7%", 1)
        given = _given(fact, load=load)
        system, site = _system(on), _site(at)
        asked = _inputs(system, site, cooling, model, given)
        ruling = _ruling(system, site, owner, day)
        if ruling is not None:
            asked = answers.with_fee(asked, ruling)
        _currency(currency)
        project = money.Project(
            system=system,
            nodes=_count(system, power, nodes, asked, site, cooling),
            first_token=day,
            months=round(12 * years),
            sell=sell,
            tokens_as_of=prices.seller(model).as_of,
            debt=borrowed,
            debt_rate=interest,
            debt_years=usual("debt_years") if term is None else term,
            building_months=build_months,
        )
        told = answers.invest(project, asked, currency, site, cooling, draws, seed, model, ruling)
        if plot is not None:
            write_whole(plot, cash_plots.svg(told))
        say(told, as_json, lambda: screen.invest(told, sources))


def _system(name: str) -> Any:
    """A system of the catalog, but not this machine, which nobody sells."""
    from gigafactory.stack import chips

    system = chips.system(name)
    if system.chip.kind == "cpu":
        why = "neither its price nor its rent is one of a factory"
        raise asking.refused(f"no factory of {name}", "--on", why, "take b200-8 or gb300-nvl72")
    return system


@contextmanager
def _asked() -> Iterator[None]:
    """Turn what the stack does not know into a fault of what was asked."""
    from gigafactory.stack import chips

    with asking.asked():
        try:
            yield
        except chips.UnknownFigure as error:
            name = {"price": "node_price", "rent": "rent"}.get(error.quantity, "tokens_per_s")
            why = "nobody has published it"
            hint = f"give it: --fact {name}=NUMBER"
            raise asking.refused(str(error), "--on", why, hint) from None


def _inputs(
    system: Any, site: Any, cooling: str, model: str | None, given: dict[str, float]
) -> dict[str, Any]:
    from gigafactory.stack.money import figures as stack
    from gigafactory.stack.sites import cooling as designs

    asking.one_of("cooling", cooling, designs.COOLINGS)
    names = stack.OWNING if model is None else tuple(stack.KNOWN)
    if unused := sorted(set(given) - set(names)):
        why = "the cost of owning does not ask it"
        raise asking.refused(f"{unused[0]} is of no use", "--fact", why, nearest(unused[0], names))
    origin = "the command line"
    return stack.inputs(system, site, cooling, model or stack.MODEL, given, origin, names)


def _count(
    system: Any,
    power: str | None,
    nodes: int | None,
    asked: dict[str, Any],
    site: Any,
    cooling: str,
) -> int:
    """Nodes as asked, or as many as the site's power feeds in the hottest hour."""
    from gigafactory.stack.money import build, figures

    if (power is None) == (nodes is None):
        why = (
            "one of them says how large it is"
            if power is None
            else "the one follows from the other"
        )
        what = "neither --power nor --nodes" if power is None else "--power and --nodes"
        raise asking.refused(what, "--power", why, "write --power 50MW, or --nodes 100")
    if nodes is not None:
        return nodes
    assert power is not None
    site_w = asking.quantity(power, "W", "--power", "50MW", 1.0)
    values = figures.middle(asked)
    worst = values["pue"] if site is None else figures.hottest_pue(site, cooling)
    count = build.nodes_in(system, site_w / max(worst, values["pue"]), values)
    if not 1 <= count <= 10**7:
        need_w = float(build.nameplate_w(system, 1, values)) * max(worst, values["pue"])
        why = f"one {system.name} with what is around it needs {need_w / 1e3:.0f} kW of the site"
        raise asking.refused(f"{power} is out of range", "--power", why, "write --power 50MW")
    return count


def _given(fact: Sequence[str] | None, **options: float | None) -> dict[str, float]:
    """Inputs that have another value: those of options, and `--fact NAME=VALUE`."""
    from gigafactory.stack.money import figures

    given: dict[str, float] = {}
    flags = {"load": "--load", "machine_life": "--years"}
    for name, value in options.items():
        if value is not None:
            _within(name, value, flags[name])
            given[name] = value
    for text in fact or ():
        name, _, written = (word.strip() for word in text.partition("="))
        if name not in figures.KNOWN:
            hint = nearest(name, figures.KNOWN)
            raise asking.refused(f"no input {name!r}", "--fact", "it is not one", hint)
        if name in given:
            why = "its value would be anybody's guess"
            raise asking.refused(f"{name} is given twice", "--fact", why, "keep one of them")
        given[name] = _number(written, f"--fact {name}", f"{name}=0.5")
        _within(name, given[name], f"--fact {name}")
    return given


def _within(name: str, value: float, where: str) -> None:
    from gigafactory.stack.money import figures

    words, least, most = figures.KNOWN[name]
    if not least <= value <= most or value == float("inf"):
        why = f"{words}: it lies between {least:g} and {most:g}"
        raise asking.refused(f"{name} = {value:g} is out of range", where, why)


def _share(text: str, where: str, example: str, most: float) -> float:
    value = _number(text, where, example)
    _between(value, 0, most, where, "it is a share", example)
    return value


def _between(
    value: float, least: float, most: float, where: str, reason: str, example: str
) -> None:
    if not least <= value <= most:
        why = f"{reason}; it lies between {least:g} and {most:g}"
        raise asking.refused(f"{value:g} is out of range", where, why, f"write {where} {example}")


def _number(text: str, where: str, example: str) -> float:
    """`0.6`, `60%` or `1e3`."""
    import math

    bare = text.strip()
    try:
        value = float(bare.removesuffix("%")) / (100 if bare.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        why = "it must be a number, or one with %"
        raise asking.refused(f"{text!r} is no number", where, why, f"write `{example}`")
    return value


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        why = "it must be a day of the calendar"
        hint = "write --first-token 2028-03-01"
        raise asking.refused(f"{text!r} is no day", "--first-token", why, hint) from None
    if not 2023 <= day.year <= 2040:
        why = "prices are known from 2023 on, and drift from there"
        hint = "write --first-token 2028-03-01"
        raise asking.refused(f"{text} is out of range", "--first-token", why, hint)
    return day


def _site(name: str | None) -> Any:
    if name is None:
        return None
    from gigafactory.stack import sites

    try:
        return sites.site(name)
    except sites.UnknownPlace as error:
        hint = f"did you mean {' or '.join(error.near[:3])}?"
        what = f"no place {name!r}"
        raise asking.refused(what, "--at", "it is not in the catalog", hint) from None


def _currency(name: str) -> None:
    from gigafactory.stack import money

    known = money.rates()
    if name not in known:
        why = f"rates are known of {', '.join(sorted(known))}"
        raise asking.refused(f"no currency {name!r}", "--currency", why, nearest(name, known))


def _ruling(system: Any, site: Any, owner: str | None, day: date) -> Any:
    """What the law says of the delivery; None where nobody asks."""
    if owner is None:
        return None
    from gigafactory.stack import law

    if site is None:
        why = "law is of a place"
        raise asking.refused("--owner without --at", "--owner", why, "add --at milan")
    parent = law.country(owner, "--owner")
    return law.judge(law.Question(system.chip, site.country, parent, day))
