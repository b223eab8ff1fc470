"""What the command line prints of a simulated course: its answers, its tenants, why a job waited.

In: what the twin played, as plain data. Times in s, energy in kWh, carbon in kg of CO2e, money in
the course's currency. All of it modelled.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gigafactory.console.plan_charts import plain
from gigafactory.units import show, show_duration

Json = Mapping[str, Any]

NOTHING = "–"
LARGE = ((1e9, "B"), (1e6, "M"))
BAR = 24
"""Letters of the longest bar in the terminal."""
SPELLS_SHOWN = 15
"""The longest; a job that waits for hours has hundreds."""
STYLES = {"better": "green", "worse": "red", "differs": "bold"}


def answers(played: Json, compared: Json | None = None) -> RenderableType:
    """Every figure with its interval over the seeds; beside another course, what parts them."""
    mine, others = labels(played, compared)
    spread = ["±"] if compared and not is_paired(played) else []
    head = [mine, *spread, others, *spread, "difference", ""] if compared else [mine, ""]
    table = _table(["figure", *head])
    group = None
    for one in played["answers"]:
        if one["group"] != group:
            group = one["group"]
            table.add_row(Text(group, "bold"))
        name, value = f"  {one['name']}", Text(said(one["value"], one["unit"]), "bold")
        if compared is None:
            table.add_row(name, value, interval(one))
            continue
        other = counterpart(one, compared)
        difference, verdict = against(one, other, min(played["seeds"], compared["seeds"]))
        theirs = said(other["value"], one["unit"]) if other else NOTHING
        ours, its = ([_half(one)], [_half(other) if other else ""]) if spread else ([], [])
        told = Text(verdict, STYLES.get(verdict, "dim"))
        table.add_row(name, value, *ours, theirs, *its, difference, told)
    return Group(_heading(played), "", table, "", Text(footnote(played), "dim"))


def tenants(played: Json) -> RenderableType:
    """Who used how much, waited how long and pays what."""
    table = _table(tenant_head(played["currency"]))
    for one in played["tenants"]:
        table.add_row(*tenant_row(one))
    return table


def explained(story: Json) -> RenderableType:
    """Why a job waited: each spell with its reason, as long as it was."""
    if not story["spells"]:
        return Text(story["text"])
    heading = Text.assemble(
        (story["job"], "bold cyan"), " waited ", (show_duration(story["waited_s"]), "bold")
    )
    table = _table(["after", "for", "", "why"], left=("", "why"))
    spells = story["spells"]
    first_s = story.get("came_s", min((spell["from_s"] for spell in spells), default=0.0))
    most_s = max((spell["to_s"] - spell["from_s"] for spell in spells), default=0.0)
    shown_s = sorted((spell["to_s"] - spell["from_s"] for spell in spells), reverse=True)
    least_s = shown_s[:SPELLS_SHOWN][-1]
    for spell in spells:
        lasted_s = spell["to_s"] - spell["from_s"]
        if lasted_s < least_s:
            continue
        bar = "█" * math.ceil(BAR * lasted_s / most_s) if most_s else ""
        after_s = spell["from_s"] - first_s
        after = show_duration(after_s) if after_s else "at once"
        table.add_row(after, show_duration(lasted_s), Text(bar, "cyan"), Text(spell["why"]))
    parts: list[RenderableType] = [Text(story["text"]), "", table]
    if not story["text"].startswith(heading.plain):
        parts.insert(0, heading)
    rest_s = [lasted_s for lasted_s in shown_s if lasted_s < least_s]
    if rest_s:
        parts.append(
            Text(
                f"and {counted(len(rest_s), 'shorter spell')}, {show_duration(sum(rest_s))}", "dim"
            )
        )
    return Group(*parts)


def said(value: float | None, unit: str) -> str:
    """A figure as people write it; a `share` in percent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 0:
        return _signed(f"-{said(-value, unit)}")
    value += 0.0  # Of the two zeros, the one without a sign.
    if unit == "share":
        return f"{value:.1%}"
    if unit == "s":
        return show_duration(value) if value else "0 s"
    if unit == "kWh":
        return show(value * 3.6e6, "J")
    if unit in ("W", "J", "tokens"):
        return show(value, unit)
    if unit.startswith("kg") and 0 < abs(value) < 0.1:
        return said(value * 1e3, unit[1:])
    if unit.startswith("kg") and abs(value) >= 1e4:
        return said(value / 1e3, f"t{unit[2:]}")
    factor, prefix = next((one for one in LARGE if abs(value) >= one[0]), (1.0, ""))
    return " ".join(filter(None, (plain(value / factor), prefix, "" if unit == "1" else unit)))


def interval(one: Json) -> str:
    """The interval over the seeds; none where there is but one."""
    low, high = one["low"], one["high"]
    if low is None or high is None or low == high:
        return ""
    first, last = said(low, one["unit"]), said(high, one["unit"])
    if first == last:
        return ""
    if one["unit"] != "s":  # A unit that both ends have is said once.
        first = first.removesuffix(last[last.find(" ") :]) if " " in last else first
    return f"{first} to {last}"


def counterpart(one: Json, compared: Json) -> Json | None:
    """The answer to the same question in the other course."""
    return next((other for other in compared["answers"] if other["key"] == one["key"]), None)


def against(one: Json, other: Json | None, seeds: int) -> tuple[str, str]:
    """(difference to the other course, verdict: better, worse, differs, or why there is none).

    Where `one` has its difference `paired` seed by seed, that is what is judged; else two figures
    differ where their intervals part.
    """
    if other is None or not all(map(_known, (one["value"], other["value"]))):
        return NOTHING, ""
    paired = one.get("paired")
    if paired and _known(paired["value"]):
        return _more(paired["value"], one, other) + _spread(paired, one, other), paired["verdict"]
    more = one["value"] - other["value"]
    difference = _more(more, one, other)
    if more == 0:
        return difference, "same"
    if seeds < 2:
        return difference, "one seed: no telling"
    if one["low"] <= other["high"] and other["low"] <= one["high"]:
        return difference, "intervals overlap"
    better = {"low": more < 0, "high": more > 0}.get(one["better"])
    return difference, "differs" if better is None else "better" if better else "worse"


def _more(more: float, one: Json, other: Json) -> str:
    if one["unit"] == "share":
        return _signed(f"{100 * more:+.1f} points")
    if other["value"]:
        return _signed(f"{more / abs(other['value']):+.1%}")
    return _signed(f"{'+' if more > 0 else ''}{said(more, one['unit'])}") if more else "0"


def _signed(figure: str) -> str:
    """Without its sign where no digit but 0 is left: "-0.0 points" are "0 points"."""
    digits = re.match(r"[+-]0(\.0+)?(?![\d.])", figure)
    return f"0{figure[digits.end() :]}" if digits else figure


def _spread(paired: Json, one: Json, other: Json) -> str:
    """Half the interval of a paired difference, in the words of the difference."""
    if paired["low"] is None or paired["low"] == paired["high"]:
        return ""
    half = (paired["high"] - paired["low"]) / 2
    if one["unit"] == "share":
        return f" ±{100 * half:.1f}"
    return f" ±{half / abs(other['value']):.1%}" if other["value"] else ""


def labels(played: Json, compared: Json | None) -> tuple[str, str]:
    """What to call two courses: by their names, or by their policies where only these differ."""
    if compared is None:
        return "value", ""
    for key in ("name", "policy"):
        if played[key] != compared[key]:
            return played[key], compared[key]
    return "this", "other"


def tenant_head(currency: str) -> list[str]:
    """The columns of `tenant_row`."""
    return [
        "tenant",
        "weight",
        "quota",
        "jobs",
        "chip-h",
        "waits",
        "energy",
        "CO2e",
        currency,
        "goodput",
    ]


def tenant_row(one: Json) -> list[str]:
    """A tenant's figures as people write them."""
    quota = one["quota"]
    return [
        one["name"],
        plain(one["weight"]),
        NOTHING if quota is None else f"{quota:,}",
        f"{one['jobs']:,}",
        said(one["chip_hours"], "1"),
        said(one["queue_mean_s"], "s"),
        said(one["energy_kwh"], "kWh"),
        said(one["carbon_kg"], "kg"),
        said(one["cost"], "1"),
        said(one["goodput"], "share"),
    ]


def course(played: Json) -> str:
    """What was played, in a line."""
    seeds, days, replicas = played["seeds"], played["days"], played.get("replicas", 0)
    long = f"{days:g} day{'s' * (days != 1)}" if days >= 1 else show_duration(86_400 * days)
    came = counted(played["jobs"], "job")
    came += f" and {counted(replicas, 'replica')}" if replicas else ""
    return (
        f"{long} from {played['start'][:10]}, policy {played['policy']}, {came}, "
        f"{counted(played['events'], 'event')}{of_seed(played)}, {counted(seeds, 'seed')}"
    )


def of_seed(played: Json) -> str:
    """Which seed a figure is of, where several were played and it is of the first alone."""
    return f" of seed {played['seed']}" if played["seeds"] > 1 else ""


def counted(count: int, noun: str) -> str:
    """So many of them; of one, without the s."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def is_paired(played: Json) -> bool:
    """Whether its differences to another course were taken seed by seed."""
    return any("paired" in one for one in played["answers"])


def footnote(played: Json) -> str:
    """What the intervals are, and that all is modelled."""
    spread = "intervals over the seeds" if played["seeds"] > 1 else "one seed, so no intervals"
    if is_paired(played) and played["seeds"] > 1:
        spread = "95 % intervals over the seeds; differences are taken seed by seed"
        if played.get("draws_alike", False):
            spread += ", for under one seed both courses draw alike"
    return f"modelled throughout; {spread}"


def _table(head: Sequence[str], left: Collection[str] = ("figure", "tenant", "")) -> Table:
    apart = 2 if len(head) < 8 else 1  # So that 80 letters hold ten columns.
    table = Table(box=None, pad_edge=False, padding=(0, apart, 0, 0), header_style="bold dim")
    for number, name in enumerate(head):
        justify: Literal["left", "right"] = "left" if name in left else "right"
        table.add_column(name, justify=justify, no_wrap=number == 0, overflow="fold")
    return table


def _half(one: Json) -> str:
    """Half the interval, over the value."""
    if not one["value"] or not interval(one):
        return ""
    return f"±{(one['high'] - one['low']) / 2 / abs(one['value']):.0%}"


def _heading(played: Json) -> RenderableType:
    return Text.assemble((played["name"], "bold cyan"), f": {course(played)}")


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
