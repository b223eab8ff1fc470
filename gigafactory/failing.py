"""The command `failures`: how often what breaks, when to checkpoint, what is left of the time.

Thin: it reads what was asked, calls `stack.reliability`, and prints what came back.
"""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigafactory import asked as asking
from gigafactory.door import AS_JSON, door, say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MODEL = "llama3.1-405b"
"""Whose checkpoint is written where nobody says: with the other defaults, the Llama 3 run."""
MARKS = {"published": "", "derived": "d", "recalled": "r", "assumed": "a"}
KEY = "d derived, r recalled, a assumed"
PER_1000_NODE_DAYS = 1000 * 86_400.0
HYPOTHESES = (
    "jobs end by more than their nodes: shared storage and network, their own program",
    "a few sick nodes or one job that starts again and again weigh on what jobs meet",
    "the rate and the observed times were taken over different jobs or months",
)


def mount(app: typer.Typer) -> None:
    """Add this command to the door."""
    app.command()(failures)


def failures(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="llama3, rsc-1, rsc-2 or none")
    ] = "llama3",
    chips: Annotated[int, typer.Option(min=1, max=10**7, help="size of the job")] = 16_384,
    model: Annotated[
        str | None, typer.Option(help=f"whose checkpoint is written; {MODEL} if left out")
    ] = None,
    write: Annotated[
        str | None, typer.Option(help="instead: how long training stops for one: `10s`")
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, max=36_525, help="how long it runs")] = 54,
    mttf: Annotated[
        bool, typer.Option("--mttf", help="the published times between failures, and ours")
    ] = False,
    as_json: AS_JSON = False,
) -> None:
    """How often a job is interrupted and by what, when to checkpoint, what is left of the time.

    Rates are those of a published study. *Modelled*: failures are independent of each other.

    Examples: `gigafactory failures`, `gigafactory failures rsc-1 --chips 1024 --write 30s`,
    `gigafactory failures --mttf`
    """
    with door(as_json), asking.asked():
        if mttf:
            told = _published()
            say(told, as_json, lambda: _published_screen(told))
            return
        if model and write:
            why = "the model says how long its checkpoint takes"
            raise asking.refused("--model and --write are both given", "--write", why, "keep one")
        if write:
            write_s, writes = asking.quantity(write, "s", "--write", "10s", 1e-3), "as given"
        else:
            from gigafactory.stack.training.goodput import goodput

            writes = model or MODEL
            write_s = goodput(asking.model(writes), chips).checkpoint_s
        told = _interruptions(study, chips, days, write_s, writes)
        say(told, as_json, lambda: _screen(told))


def _interruptions(
    name: str, chips: int, days: float, write_s: float, writes: str
) -> dict[str, Any]:
    from gigafactory.stack import reliability as stack
    from gigafactory.stack.reliability.rates import restart_s

    of = stack.study(name)
    total = of.rate_per_node_s
    classes = [
        {
            "class": one.name,
            "count": one.count,
            "per_1000_node_days": one.per_node_s * PER_1000_NODE_DAYS,
            "share": one.per_node_s / total if one.slow == 1 else None,
            "mttf_s": of.chips_per_node / (one.per_node_s * chips),
            "node_leaves": one.node_leaves,
            "detect_s": one.detect_s,
            "repair_s": one.repair_s,
            "silent": one.silent,
            "slow": one.slow,
            "basis": one.basis,
            "handling_basis": "assumed",
            "source": one.source,
        }
        for one in sorted(of.classes, key=lambda one: (one.slow < 1, -one.per_node_s))
    ]
    others = [other for other in stack.studies() if other not in (name, "none")]
    return {
        "chips": chips,
        "days": days,
        "write_s": write_s,
        "write_of": writes,
        "restart_s": restart_s(),
        "modelled": True,
        **_by(of, chips, days, write_s),
        "planned_counted": of.planned,
        "classes": classes,
        "others": [_by(stack.study(other), chips, days, write_s) for other in others],
    }


def _by(of: Any, chips: int, days: float, write_s: float) -> dict[str, Any]:
    """What the rates of one study make of the job; None stands for never."""
    from gigafactory.stack import reliability as stack
    from gigafactory.stack.reliability.rates import restart_s

    mtbf_s = stack.mttf_s(of, chips)
    mean, low, high = stack.expected_failures(of, chips, days * 86_400)
    intervals = {
        "young": stack.young_s(write_s, mtbf_s),
        "daly": stack.daly_s(write_s, mtbf_s),
        "exact": stack.best_interval_s(write_s, mtbf_s),
    }
    rate = of.rate_interval_per_node_s
    return {
        "study": of.name,
        "basis": of.stopping[0].basis if of.stopping else "assumed",
        "per_1000_node_days": of.rate_per_node_s * PER_1000_NODE_DAYS,
        "per_1000_node_days_95": rate and [end * PER_1000_NODE_DAYS for end in rate],
        "mttf_s": _finite(mtbf_s),
        "interruptions": {"mean": mean, "low": low, "high": high, "rate_counted": rate is not None},
        "interval_s": {name: _finite(interval_s) for name, interval_s in intervals.items()},
        "ettr": {
            name: stack.ettr(interval_s, write_s, mtbf_s, restart_s(), of.silent_s)
            for name, interval_s in intervals.items()
        },
    }


def _published() -> dict[str, Any]:
    """The published times, ours, and what follows from them."""
    from gigafactory.stack import reliability as stack

    rows = stack.published()
    rsc = [row for row in rows if row.study == "rsc-1"]
    told = []
    for row in rows:
        rate = row.implied_per_node_s * PER_1000_NODE_DAYS
        told.append({**asdict(row), "implied_per_1000_node_days": rate})
    observed, projected = (
        sorted(row.implied_per_node_s for row in rsc if row.kind == kind)
        for kind in ("observed", "projected")
    )
    return {
        "rows": told,
        "observed_differ": observed[-1] / observed[0] - 1,
        "projected_differ": projected[-1] / projected[0] - 1,
        "observed_over_projected": [observed[0] / projected[-1], observed[-1] / projected[0]],
        # The rate whose largest factor of error is least lies midway between the extremes.
        "one_rate_misses_by": math.sqrt(observed[-1] / projected[0]),
        "node_rate_per_1000_node_days": stack.study("rsc-1").rate_per_node_s * PER_1000_NODE_DAYS,
        "hypotheses": list(HYPOTHESES),
    }


def _screen(told: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from gigafactory.units import show_duration as duration

    heading = Text.assemble(
        ("failures ", "bold"),
        (told["study"], "bold cyan"),
        f"  {told['chips']:,} chips, {told['days']:g} days",
    )
    if not told["classes"]:
        return Group(heading, Text("nothing fails"))
    classes = _table("class", "rate", "share", "MTTF", "found", "away")
    for one in told["classes"]:
        classes.add_row(
            one["class"],
            f"{one['per_1000_node_days']:.3g}{MARKS[one['basis']]:>2}",
            "slows" if one["share"] is None else f"{one['share']:.1%}",
            duration(one["mttf_s"]),
            duration(one["detect_s"]),
            duration(one["repair_s"]) if one["node_leaves"] or one["slow"] < 1 else "stays",
        )
    names = ("study", "rate", "MTTF", "interruptions", "checkpoint", "ETTR")
    studies = _table(*names)
    for row in (told, *told["others"]):
        count, limits = row["interruptions"], row["per_1000_node_days_95"]
        rate = f"{row['per_1000_node_days']:.2f} {MARKS[row['basis']]}".rstrip()
        known = f" ({limits[0]:.2f}-{limits[1]:.2f})" if limits else ""
        wide = "" if count["rate_counted"] else " *"
        studies.add_row(
            row["study"],
            rate + known,
            duration(row["mttf_s"]),
            f"{count['mean']:,.0f} ({count['low']:,.0f}-{count['high']:,.0f}){wide}",
            duration(row["interval_s"]["exact"]),
            f"{row['ettr']['exact']:.3f}",
        )
    checkpoints = _table("best interval by", "work between", "ETTR")
    for name, interval_s in told["interval_s"].items():
        checkpoints.add_row(name, duration(interval_s), f"{told['ettr'][name]:.5f}")
    notes = [
        "Rate: failures per 1,000 node-days. MTTF: mean time between them for the whole job. "
        f"A checkpoint stops training for {duration(told['write_s'])} ({told['write_of']}); from a "
        f"failure to work again {duration(told['restart_s'])}, estimated. When a failure "
        f"is found, and how long its node is away, are assumed. {KEY}.",
        "Ranges: 95 %, of the rate by its count, of the interruptions as a prediction. * nothing "
        "was counted, so the rate is taken as told, and the range is too narrow.",
        "Rates of the cluster that they were counted on reproduce it; elsewhere they are a "
        "transfer. Modelled: failures are independent, and a job stops when any of its nodes does.",
    ]
    if told["planned_counted"]:
        counted = f"{told['planned_counted']} planned interruptions were counted, too; not drawn."
        notes.append(counted)
    text = Text("\n".join(notes), style="dim")
    return Group(heading, classes, "", checkpoints, "", studies, "", text)


def _published_screen(told: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from gigafactory.units import show_duration as duration

    table = _table("chips", "published", "", "implies *", "study", "ours", "ratio")
    for row in told["rows"]:
        table.add_row(
            f"{row['chips']:,}",
            f"{duration(row['published_s'])}{MARKS[row['basis']]:>2}",
            row["kind"],
            f"{row['implied_per_1000_node_days']:.2f}",
            row["study"],
            duration(row["ours_s"]),
            f"{row['ours_s'] / row['published_s']:.2f}",
        )
    low, high = told["observed_over_projected"]
    text = (
        f"* failures per 1,000 node-days at which a job meets one in the published time. {KEY}.\n\n"
        "The RSC figures are two pairs. What jobs were observed to meet implies rates that differ "
        f"by {told['observed_differ']:.0%}; what was projected implies the node rate, "
        f"{told['node_rate_per_1000_node_days']:.2f}, within its rounding. Between the pairs lies "
        f"a factor of {low:.1f} to {high:.1f}: no constant rate comes nearer to all four than a "
        f"factor of {told['one_rate_misses_by']:.1f}. So they do not show that a node fails less "
        "often in a larger job: the large figures were never observed, and the Llama 3 job is "
        "another cluster's.\n\nWhy jobs met more than the node rate, the figures do not say. "
        "Hypotheses:"
    )
    hypotheses = "\n".join(f"- {one}" for one in told["hypotheses"])
    return Group(table, "", Text(text), Text(hypotheses))


def _table(*headings: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _finite(value: float) -> float | None:
    return value if value < math.inf else None
