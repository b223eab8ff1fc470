"""What the command line prints of the law: verdicts, what would change them, lists, cases."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]
MILD, HARSH = "green", "red"
HEADINGS = {
    "case_by_case": "not without a licence",
    "licence_required": "not without a licence",
    "unknown": "unknown",
    "withheld": "approval is withheld",
    "presumption_of_denial": "a licence is presumed to be denied",
    "prohibited": "forbidden",
}
# Fields of conditions -> how to tell them.
TOLD_BY = {
    "parent": "the owner's ultimate parent (--owner)",
    "n_gpus": "how many (--gpus)",
    "it_power_kw": "it_power_kw (--fact it_power_kw=50000)",
    "training_flop": "training_flop (--fact training_flop=1e26)",
    "personal_data": "personal_data (--fact personal_data=true)",
}


def verdict(told: Json, names: Mapping[str, str], sources: bool) -> RenderableType:
    """One delivery: what each government says, what comes with it, what would change it."""
    lines: list[RenderableType] = [_heading(told, names), "", _by(told, sources)]
    for title, part in (
        ("what is known of it", _figures(told) if sources else None),
        ("fees and caps that come with it", _terms(told)),
        ("what is owed beside", _duties(told, sources)),
        ("one change that would make it lawful", _ways(told, names)),
        ("said, but no rule", _notices(told, sources)),
    ):
        if part is not None:
            lines += ["", Text(title, style="bold"), Padding(part, (0, 0, 0, 2))]
    return Group(*lines, "", _small(told))


def listing(told: Json, names: Mapping[str, str], sources: bool) -> RenderableType:
    """Every chip of the catalog, the fastest first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("chip", no_wrap=True, max_width=24)
    for name in ("TPP", "TFLOP/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("", "US", "CN"):
        table.add_column(name, no_wrap=name == "")
    if sources:
        table.add_column("rule and source", overflow="fold")
    for row in told["chips"]:
        cells: list[RenderableType] = [
            Text(row["chip"]),
            _number(row["tpp"], 1),
            _number(row["peak_flop_per_s"], 1e12),
            Text("✓", MILD) if row["may_stand"] else Text("✗", HARSH),
            *(_said(row["by"][name]) for name in ("US", "CN")),
        ]
        if sources:
            tpp = [f"TPP {_read(one)}" for one in row["figures"] if one["quantity"] == "tpp"]
            cells.append(Text("\n".join([*tpp, *filter(None, map(_cited, row["by"].values()))])))
        table.add_row(*cells)
    count = sum(row["may_stand"] for row in told["chips"])
    heading = Text.assemble(
        (f"{count} of {len(told['chips'])} chips may stand", "bold"), f" {_where(told, names)}"
    )
    lines: list[RenderableType] = [heading, "", table]
    if (notices := _notices(told, sources)) is not None:
        lines += ["", Text("said, but no rule", style="bold"), Padding(notices, (0, 0, 0, 2))]
    return Group(*lines, "", _small(told))


def timeline(told: Json, names: Mapping[str, str], drawn: RenderableType) -> RenderableType:
    """The bands as drawn, and each stretch in words."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("from", "until", "may stand", "US", "CN"):
        table.add_column(name, no_wrap=name in ("from", "until"))
    for row in told["intervals"]:
        table.add_row(
            row["from"],
            row["to"],
            Text("yes", MILD) if row["may_stand"] else Text("no", HARSH),
            *(_said(row["by"][name]) for name in ("US", "CN")),
        )
    heading = Text.assemble((told["chip"], "bold"), f" {_where(told, names)}")
    return Group(heading, "", drawn, "", table, "", _small(told))


def cases(answers: Sequence[Mapping[str, str]], told: Mapping[str, Any]) -> RenderableType:
    """How many rows were answered, and where they differ from what the table expected."""
    lines: list[RenderableType] = [Text(f"{told['cases']} cases answered", style="bold")]
    if told["compared"]:
        lines.append(Text(f"{told['as_expected']} of {told['compared']} as the table expects"))
    for row in told["different"]:
        lines.append(Text(f"  {row['case_id']}: {row['said']}, expected {row['expected']}"))
    if not told["out"]:
        table = Table(*(answers[0] if answers else ()), box=None, padding=(0, 2, 0, 0))
        for answer in answers:
            table.add_row(*answer.values())
        lines.append(table)
    return Group(*lines, "", _small(told))


def _heading(told: Json, names: Mapping[str, str]) -> Text:
    word = HEADINGS.get(told["outcome"], "may not stand")
    if told["may_stand"]:
        word = "may stand"
    ink = MILD if told["may_stand"] else HARSH
    return Text.assemble((told["chip"], "bold"), f" {_where(told, names)}: ", (word, f"bold {ink}"))


def _where(told: Json, names: Mapping[str, str]) -> str:
    owner = names[told["owner"]] if told["owner"] else "an unknown country"
    parts = [f"in {names[told['destination']]}, owner's ultimate parent in {owner}"]
    if told["buyer"]:
        parts.append(f"bought by {told['buyer']}")
    if told["gpus"]:
        parts.append(f"{told['gpus']:,} GPUs")
    if told["state_funded"]:
        parts.append("with a state's money")
    if told["route"] == "reexport":
        parts.append("re-exported")
    if "on" in told:
        parts.append(f"on {told['on']}")
    return ", ".join(parts)


def _by(told: Json, sources: bool) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, said in told["by"].items():
        if not said["rule"] and name not in ("US", "CN"):
            continue
        why = [Text(said["rule"] or "no rule of those read applies", "" if said["rule"] else "dim")]
        if said["rule"]:
            since = f"in force since {said['from']}" + (f" until {said['to']}" * bool(said["to"]))
            why.append(Text(f"{said['title']}; {since}; confidence {said['confidence']}", "dim"))
        if said["missing"]:
            why.append(Text(f"missing: {_missing(said)}", HARSH))
        elif said["detail"]:
            why.append(Text(said["detail"], "dim"))
        if sources and said["source"]:
            why.append(Text(_read(said), "cyan"))
        table.add_row(Text(name, "bold"), _said(said), Group(*why))
    return table


def _terms(told: Json) -> RenderableType | None:
    lines = []
    for term in told["terms"]:
        most = "at most " if term["of"] == "volume" or term["count"] else ""
        lines.append(Text.assemble(most + term["text"], (f"  {term['rule']}", "dim")))
    return Group(*lines) if lines else None


def _duties(told: Json, sources: bool) -> RenderableType | None:
    lines = []
    for duty in told["duties"]:
        word = duty["kind"].replace("_", " ")
        if duty["due"] is None:
            word += f" unknown, missing {_missing(duty)}"
        said = Text.assemble(f"{word}: {duty['title']}", (f"  {duty['rule']}", "dim"))
        lines.append(said)
        if duty["detail"]:
            lines.append(Text(f"  {duty['detail']}", "dim"))
        if sources:
            lines.append(Text(f"  {_read(duty)}", "cyan"))
    return Group(*lines) if lines else None


def _ways(told: Json, names: Mapping[str, str]) -> RenderableType | None:
    if told["may_stand"]:
        return None
    lines = [_way(way, names) for way in told["ways"]]
    if not lines:
        lines = [Text("none: no single number lowered, no other owner, no later day known")]
    best, housed = told["fastest"], told["fastest_datacenter"]
    if best is None:
        lines.append(Text("nothing else of the catalog may stand there either"))
    else:
        lines.append(Text.assemble("or another: the fastest that may stand there is ", _fast(best)))
    if housed and housed != best:
        lines.append(Text.assemble("of those made for data centres it is ", _fast(housed)))
    return Group(*lines)


def _fast(best: Json) -> Text:
    rate = (
        f"{best['peak_flop_per_s'] / 1e12:,.0f} TFLOP/s in bf16"
        if "dtype" in best
        else f"{best['bandwidth_bytes_per_s'] / 1e9:,.0f} GB/s"
    )
    return Text.assemble((best["chip"], "bold"), f", {rate} ({best['outcome'].replace('_', ' ')})")


def _way(way: Json, names: Mapping[str, str]) -> Text:
    if way["lowered_by"] is not None:
        least = "below" if way["below"] else "at most"
        said = f"{least} {_amount(way['becomes'])} {way['unit']}, now {_amount(way['now'])}"
        share = way["lowered_by"]
        said = f"{said} ({f'{share:.0%}' if share >= 0.01 else 'less than 1%'} lower)"
        if way["field"] == "tpp":
            said += ", on the same die"
    else:
        becomes, now = (names.get(way[key], way[key]) for key in ("becomes", "now"))
        said = f"{becomes}" if way["field"] == "day" else f"{becomes} instead of {now or 'unknown'}"
    rule = f" ({way['rule']})" if way["rule"] else ""
    words = way["outcome"].replace("_", " ")
    name = way["field"].replace("_", " ")
    return Text.assemble((f"{name:<16}", "bold"), f"{said}: {words}{rule}")


def _notices(told: Json, sources: bool) -> RenderableType | None:
    lines = []
    for notice in told["notices"]:
        text = f"{notice['date']}  {notice['authority']}: {notice['title']}"
        lines.append(Text.assemble(text, (f"  confidence {notice['confidence']}", "dim")))
        if sources:
            lines.append(Text(f"            {notice['effect']}", "dim"))
            lines.append(
                Text(f"            {notice['source_url'] or notice['source_title']}", "cyan")
            )
    return Group(*lines) if lines else None


def _said(said: Json) -> Text:
    word = said["outcome"]
    ink = {"no_licence_required": MILD, "no_restriction": MILD, "allowed_with_conditions": MILD}
    return Text(word.replace("_", " "), ink.get(word, "yellow" if "notif" in word else HARSH))


def _missing(said: Json) -> str:
    return ", ".join(TOLD_BY.get(field, f"{field} of the chip") for field in said["missing"])


def _cited(said: Json) -> str:
    return f"{said['rule']} {_read(said)}" if said["rule"] else ""


def _read(said: Json) -> str:
    return f"{said['source']} (read {said['as_of']})" if said["as_of"] else str(said["source"])


def _figures(told: Json) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for one in told["figures"]:
        unit = "" if one["unit"] == "name" else one["unit"]
        shown = f"{one['value']} {unit}".strip() if one["value"] else "unknown"
        source = Text(f"{one['source']} ({one['as_of']})", "cyan")
        table.add_row(one["quantity"].replace("_", " "), shown, one["basis"], source)
    return table


def _number(value: float | None, unit: float) -> str:
    return "unknown" if value is None else f"{value / unit:,.0f}"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _small(told: Json) -> Text:
    return Text(told["notice"], style="dim")
