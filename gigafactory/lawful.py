"""The command `law`: may a chip stand there, for them, on that day. Not legal advice.

Thin: it reads what was asked, calls `stack.law`, and prints what came back.
"""

import math
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from gigafactory import asked as asking
from gigafactory.door import AS_JSON, door, say, write_table, write_whole
from gigafactory.faults import nearest

CHIP = Annotated[
    str | None, typer.Argument(help="a chip or a memory stack (HBM3e); left out: all chips")
]
TO = Annotated[str | None, typer.Option("--to", metavar="COUNTRY", help="where it shall stand")]
OWNER = Annotated[
    str | None,
    typer.Option(metavar="COUNTRY", help="of the ultimate parent of who will hold it"),
]
ON = Annotated[str | None, typer.Option("--on", metavar="DAY", help="2026-06-15; else today")]
OVER = Annotated[
    str | None, typer.Option(metavar="YEARS", help="a timeline: 2022-2026, or DAY..DAY")
]
ROUTE = Annotated[str, typer.Option(help="export (out of the US) or reexport (from elsewhere)")]
BUYER = Annotated[str, typer.Option(help="a name that a licence may know: G42")]
GPUS = Annotated[int | None, typer.Option(min=1, help="how many the buyer takes in all")]
SELLER = Annotated[
    str | None, typer.Option(metavar="COUNTRY", help="of who ships it, if not its designer")
]
FUNDED = Annotated[bool, typer.Option("--state-funded", help="a state pays for the site")]
FACT = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="what duties ask of a site or model: it_power_kw=50000, training_flop=1e26, "
        "personal_data=true, data_origin=CN",
    ),
]
CASES = Annotated[Path | None, typer.Option(help="a CSV table of deliveries to answer")]
OUT = Annotated[Path | None, typer.Option(help="where the answers to --cases go, as CSV")]
WITH_RULE = Annotated[
    Path | None, typer.Option(help="a CSV of proposed rules, answered as if in force")
]
PLOT = Annotated[Path | None, typer.Option(help="draw the timeline of --over as SVG")]
SOURCES = Annotated[bool, typer.Option("--sources", help="where each word comes from, and when")]

ROUTE_WORDS = {"export": "export_from_us", "export_from_us": "export_from_us"}
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def mount(app: typer.Typer) -> None:
    """Add this command to the door."""
    app.command()(law)


def law(
    chip: CHIP = None,
    to: TO = None,
    owner: OWNER = None,
    on: ON = None,
    over: OVER = None,
    route: ROUTE = "export",
    buyer: BUYER = "",
    gpus: GPUS = None,
    seller: SELLER = None,
    state_funded: FUNDED = False,
    fact: FACT = None,
    cases: CASES = None,
    out: OUT = None,
    with_rule: WITH_RULE = None,
    plot: PLOT = None,
    sources: SOURCES = False,
    as_json: AS_JSON = False,
) -> None:
    """May a chip stand there, for them, on that day? US, Chinese and EU rules; not legal advice.

    A day: `gigafactory law H100 --to FR --owner CN --on 2026-06-15`. All chips:
    `gigafactory law --to CN --on 2026-06-15`. Over time: `gigafactory law H20 --to CN --owner CN
    --over 2022-2026`. A table: `gigafactory law --cases in.csv --out out.csv`. What is not told
    is unknown, and so is the verdict if a rule asks it.
    """
    with door(as_json):
        from gigafactory.console import law as screen
        from gigafactory.stack.law import answers
        from gigafactory.stack.law.rules import countries

        _agree(chip, to, on, over, cases, out, plot)
        rules = _rules(with_rule)
        if cases is not None:
            _cases(cases, out, rules, as_json)
            return
        question = _question(chip, to, owner, on, route, buyer, gpus, seller, state_funded, fact)
        if over is not None:
            _timeline(question, chip, over, rules, plot, as_json)
        elif chip is None:
            told = answers.every_chip(question, rules)
            say(told, as_json, lambda: screen.listing(told, countries(), sources))
        else:
            told = answers.one(question, rules)
            say(told, as_json, lambda: screen.verdict(told, countries(), sources))


def _agree(
    chip: str | None,
    to: str | None,
    on: str | None,
    over: str | None,
    cases: Path | None,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Refuse options that have no meaning together."""
    alone = "the one has no meaning with the other"
    for wrong, what, where in (
        (cases is not None and chip is not None, "--cases and a chip", "--cases"),
        (cases is not None and to is not None, "--cases and --to", "--cases"),
        (cases is None and out is not None, "--out without --cases", "--out"),
        (over is None and plot is not None, "--plot without --over", "--plot"),
        (over is not None and on is not None, "--over and --on", "--over"),
    ):
        if wrong:
            raise asking.refused(what, where, alone, "see the examples of `--help`")
    if plot is not None and plot.suffix.lower() != ".svg":
        why = "the timeline is drawn as SVG"
        raise asking.refused(f"cannot draw {plot.name}", "--plot", why, "name it FILE.svg")


def _timeline(
    question: Any,
    chip: str | None,
    over: str,
    rules: Any,
    plot: Path | None,
    as_json: bool,
) -> None:
    from gigafactory.console import law as screen
    from gigafactory.console import timeline
    from gigafactory.stack.law import answers
    from gigafactory.stack.law.rules import countries

    if chip is None:
        raise asking.refused("no chip", "CHIP", "a timeline is of one chip", "write `law H100 ...`")
    first, end = _span(over)
    told = answers.timeline(question, first, end, rules)
    rows = [
        (name, [(*map(date.fromisoformat, band[:2]), *band[2:]) for band in bands])
        for name, bands in answers.bands(told["intervals"])
    ]
    if plot is not None:
        owner = f", owner from {countries()[told['owner']]}" if told["owner"] else ""
        title = f"{told['chip']} to {countries()[told['destination']]}{owner}"
        write_whole(plot, timeline.svg(rows, first, end, title))
    drawn = timeline.bands(rows, first, end)
    say(told, as_json, lambda: screen.timeline(told, countries(), drawn))


def _cases(table: Path, out: Path | None, rules: Any, as_json: bool) -> None:
    from gigafactory.console import law as screen
    from gigafactory.stack.law import NOTICE
    from gigafactory.stack.law.cases import ANSWERS, answer, written

    rows = asking.table(table)
    rulings = answer(rows, rules, str(table))
    answers = [written(row["case_id"], ruling) for row, ruling in zip(rows, rulings, strict=True)]
    if out is not None:
        write_table(out, ANSWERS, [row.values() for row in answers])
    different, compared = [], 0
    for row, said in zip(rows, answers, strict=True):
        expected = [row.get("expected_us", ""), row.get("expected_cn", "")]
        compared += any(expected)
        if any(expected) and expected != [said["us"], said["cn"]]:
            words = {"said": f"{said['us']} / {said['cn']}", "expected": " / ".join(expected)}
            different.append({"case_id": row["case_id"], **words})
    told = {
        "cases": len(answers),
        "compared": compared,
        "as_expected": compared - len(different),
        "different": different,
        "out": str(out) if out else None,
        "notice": NOTICE,
    }
    reasons = [
        {
            "may_stand": ruling.may_stand if ruling else False,
            "missing": sorted({field for one in ruling.by.values() for field in one.missing})
            if ruling
            else ["date"],
        }
        for ruling in rulings
    ]
    full = {**told, "answers": [{**a, **b} for a, b in zip(answers, reasons, strict=True)]}
    say(full, as_json, lambda: screen.cases(answers, told))


def _rules(table: Path | None) -> Any:
    from gigafactory.stack.law import with_rules

    return None if table is None else with_rules(asking.table(table), str(table))


def _question(
    chip: str | None,
    to: str | None,
    owner: str | None,
    on: str | None,
    route: str,
    buyer: str,
    gpus: int | None,
    seller: str | None,
    state_funded: bool,
    fact: list[str] | None,
) -> Any:
    from gigafactory.stack import chips
    from gigafactory.stack.law import Question, country, stacks

    if to is None:
        hint = "write `--to FR`, or `--cases FILE.csv` for a table"
        raise asking.refused("no destination", "--to", "the law asks where it shall stand", hint)
    asking.one_of("route", route, (*ROUTE_WORDS, "reexport"))
    try:
        # With no chip asked for, any stands in: the list asks for each in its stead.
        named = chips.CPU_CORE if chip is None else chip.strip()
        thing = stacks.stack(named) or chips.chip(named)
    except chips.UnknownChip:
        hint = nearest(str(chip), [*chips.chip_names(), *stacks.names()])
        raise asking.refused(f"no chip {chip!r}", "CHIP", "not in the catalog", hint) from None
    return Question(
        chip=thing,
        destination=country(to, "--to"),
        owner=None if owner is None else country(owner, "--owner"),
        on=_day(on, "--on") if on else date.today(),
        route=ROUTE_WORDS.get(route, route),
        state_funded=state_funded,
        buyer=buyer,
        gpus=gpus,
        seller=None if seller is None else country(seller, "--seller"),
        given=_given(fact or []),
    )


def _given(pairs: list[str]) -> dict[str, Any]:
    """Further facts by name, of the kind that conditions hold them to."""
    from gigafactory.stack.law import country
    from gigafactory.stack.law.condition import FIELDS, NUMBER, TRUTH
    from gigafactory.stack.law.verdict import TOLD

    known = {field: FIELDS.get(field) for field in TOLD}
    given: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = (part.strip() for part in pair.partition("="))
        if name not in known:
            why = "it is no fact of a site, a model or data that a duty asks"
            raise asking.refused(f"no fact {name!r}", "--fact", why, nearest(name, known))
        if known[name] == TRUTH:
            given[name] = TRUTHS.get(text.lower())
        elif known[name] == NUMBER:
            given[name] = _amount(text)
        else:
            given[name] = country(text, "--fact")
        if given[name] is None:
            why = f"it is {known[name]}, and not below 0"
            hint = f"write {name}={'true' if known[name] == TRUTH else '50000'}"
            raise asking.refused(f"{name} = {text!r} cannot be read", "--fact", why, hint)
    return given


def _amount(text: str) -> float | None:
    try:
        amount = float(text)
    except ValueError:
        return None
    return amount if 0 <= amount < math.inf else None


def _span(over: str) -> tuple[date, date]:
    """`2022-2026` is from the first day of the one to the last of the other."""
    from datetime import timedelta

    years = over.split("-")
    if len(years) == 2 and all(len(year) == 4 and year.isdigit() for year in years):
        first, last = _day(f"{years[0]}-01-01", "--over"), _day(f"{years[1]}-12-31", "--over")
    else:
        begins, dots, ends = over.partition("..")
        first, last = _day(begins, "--over"), _day(ends if dots else begins, "--over")
    if last < first:
        why = f"{last} is before {first}"
        raise asking.refused(f"{over!r} is no stretch of time", "--over", why, "write 2022-2026")
    return first, last + timedelta(days=1)


def _day(text: str, where: str) -> date:
    from gigafactory.stack.law import READ_FROM

    try:
        day = date.fromisoformat(text)
    except ValueError:
        hint = "write it as 2026-06-15"
        raise asking.refused(f"{text!r} is no day", where, "not of the calendar", hint) from None
    if not READ_FROM <= day < date(2100, 1, 1):
        why = f"the rules were read from {READ_FROM} on, and nobody knows those of 2100"
        hint = f"take a day from {READ_FROM} to 2099-12-31"
        raise asking.refused(f"no rules are known for {day}", where, why, hint)
    return day
