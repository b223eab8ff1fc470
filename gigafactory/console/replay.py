"""What the command line prints of a replayed day: equal or not, and where the twin parts from it.

In: what `gigafactory replay --json` prints. Times in s.
"""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gigafactory.units import show_duration

Json = Mapping[str, Any]


def whole(told: Json) -> RenderableType:
    """The verdict on the commands, both free days beside the lived one, each difference."""
    quoted, lived = told["free"]["quoted"], told["free"]["lived"]
    notes = [f"{job['job']}: {why}" for job in quoted["jobs"] for why in job["why"]]
    scheduling = [f"{job['job']}: {why}" for job in lived["jobs"] for why in job["why"]]
    return Group(
        Text.assemble("run ", (told["run"], "bold cyan"), f" of {told['ledger']}"),
        _again(told["again"]),
        "",
        Text("the twin's own day, from what came from outside alone (modelled)", "bold"),
        _day(quoted, lived),
        "",
        _jobs(quoted, lived),
        *_notes("Twin with quoted durations, less the lived day:", notes),
        *_notes("With the lived durations given, what is left is scheduling:", scheduling),
        *_notes(f"{quoted['swaps']} pairs started in another order:", quoted["swapped"]),
    )


def _again(came: Json) -> RenderableType:
    counts = (
        f"{came['events']:,} events given again, {came['starts']:,} starts as commanded, "
        f"{came['commands']:,} commands equal byte for byte"
    )
    if came["untold"]:
        counts += f"; answers not recorded, by an old works or one that died: {came['untold']:,}"
    if came["equal"]:
        return Group(Text("the core commands the same", "bold green"), Text(counts))
    first = came["difference"]
    return Group(
        Text(f"the core differs: {first['what']}", "bold red"),
        Text(f"  at {first['at_s']:.3f} s, {first['event']} {first['subject']}"),
        Text(f"  lived     {json.dumps(first['lived'], sort_keys=True)}"),
        Text(f"  replayed  {json.dumps(first['replayed'], sort_keys=True)}"),
        Text(f"before it: {counts}"),
    )


def _day(quoted: Json, lived: Json) -> RenderableType:
    table = _table("", "lived", "twin, quoted", "error", "twin, lived durations", "error")
    for name, key in (("mean JCT", "mean_jct"), ("makespan", "makespan")):
        row = [_time(quoted[f"lived_{key}_s"])]
        for one in (quoted, lived):
            row += [_time(one[f"twin_{key}_s"]), _error(one[f"{key}_error"])]
        table.add_row(name, *row)
    taus = ["–" if one["tau"] is None else f"{one['tau']:.3f}" for one in (quoted, lived)]
    table.add_row("order of starts, τ", "", taus[0], "", taus[1], "")
    return table


def _jobs(quoted: Json, lived: Json) -> RenderableType:
    table = _table("job", "outcome", "JCT lived", "twin, quoted", "ran lived", "twin, quoted")
    for job in quoted["jobs"]:
        outcome = job["lived"] if job["lived"] == job["twin"] else f"{job['lived']}/{job['twin']}"
        keys = ("lived_jct_s", "twin_jct_s", "lived_ran_s", "twin_ran_s")
        table.add_row(job["job"], outcome, *(_time(job[key]) for key in keys))
    return table


def _notes(head: str, notes: list[str]) -> list[RenderableType]:
    return [Text(f"\n{head}\n" + "\n".join(f"  {note}" for note in notes))] if notes else []


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
    return table


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else show_duration(seconds)


def _error(error: float | None) -> str:
    return "" if error is None else f"{round(error, 3) + 0.0:+.1%}"  # no -0.0 %
