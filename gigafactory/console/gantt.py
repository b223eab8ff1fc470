"""The way to the first token, as a Gantt chart in an SVG file and as a page of the terminal; gates.

A bar reaches from the median start to the median finish of a phase, a whisker from P10 to P90 of
its finish, a pale bar over its mean slack. Colour is the share of draws in which it is critical.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from html import escape
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gigafactory.console import drawing
from gigafactory.console.drawing import WIDTH, Layer, text
from gigafactory.units import show

Json = Mapping[str, Any]
# From this share of draws on -> colour, what it is called. By lightness too.
HEAT = (
    (0.75, "#b0263c", "critical ≥ 75 %"),
    (0.25, "#f19a3e", "25 to 75 %"),
    (1e-9, "#f2d06b", "under 25 %"),
    (0.0, "#6fb1de", "never"),
)
LEFT, RIGHT, TOP = 16, 16, 62
LABEL, BAR, GAP, AXIS = 36, 16, 8, 48
ROW = LABEL + BAR + GAP
STYLE = (
    ".grid { stroke: var(--line); stroke-width: 1.5 } .slack { opacity: .3 }"
    ".whisker { stroke: var(--ink); stroke-width: 2 }"
    ".over { paint-order: stroke; stroke: var(--ground); stroke-width: .3em }"
    ".goal { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 6 5 }"
)
MARKS = {"derived": "d", "estimate": "e", "assumed": "a", "recalled": "r"}
KEY = "basis: d derived, e estimate, a assumed; none: published"
CITED = ("basis", "source", "as_of", "note")
OUTCOMES = {"passed": ("✓", "green"), "failed": ("✗", "red"), "not reached": ("·", "dim")}
WORTH = 5
"""How many phases are listed as worth a week's price."""
AT_ONCE = 0.1
ORDERS = ("grid", "transformers", "switchgear", "generators", "chips", "licence")


def svg(told: Json) -> str:
    """The Gantt chart of what `bringup` answered."""
    phases = sorted(told["phases"], key=lambda phase: phase["start"]["p50"])
    most = max(phase["finish"]["p90"] for phase in phases) * 1.02
    bottom = TOP + ROW * len(phases)
    start = date.fromisoformat(told["start"]) if told["start"] else None
    last = drawing.LAYERS[-1]
    rows = -(-len(HEAT) // _columns(last))
    height = bottom + AXIS + rows * 1.4 * last.font + 10
    ticks = _ticks(most, start)

    def x(weeks: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * weeks / most

    goal = x(told["first_token"]["p50"])
    below = "".join(
        f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{bottom}"/>'
        for at, _ in ticks
    )
    below += f'<line class="goal" x1="{goal:.1f}" x2="{goal:.1f}" y1="{TOP}" y2="{bottom}"/>'
    for number, phase in enumerate(phases):
        below += _bar(phase, TOP + number * ROW + LABEL, x)

    def draw(layer: Layer) -> str:
        size = f'font-size="{1.1 * layer.font:g}"'
        parts = [text(LEFT, TOP - 22, _title(told, layer), "strong", size)]
        whole = _roomy(phases, layer)
        for number, phase in enumerate(phases):
            parts.append(_label(phase, TOP + number * ROW + LABEL - 9, layer, whole))
        free = 0.0
        for at, said in ticks:
            left = max(x(at) - layer.width(said) / 2, LEFT)
            if left >= free and left + layer.width(said) <= WIDTH:
                parts.append(text(left, bottom + 1.05 * layer.font, said, "soft"))
                free = left + layer.width(said) + 8
        return "".join([*parts, _key(bottom + AXIS, layer)])

    return drawing.file("From site to first token", height, draw, STYLE, below)


def page(told: Json, sources: bool = False) -> RenderableType:
    """First token, critical path, phases, what a week is worth, records beside it."""
    parts: list[RenderableType] = [*_heading(told), "", _phases(told), Text(KEY, style="dim")]
    for title, part in (
        ("weeks worth buying, the best first", _buying(told)),
        ("begin no later than", _orders(told)),
        ("records, and the model for the same kind of project", _records(told)),
        ("where the weeks are from", _sources(told) if sources else None),
    ):
        if part is not None:
            parts += ["", Text(title, style="bold"), Padding(part, (0, 0, 0, 2))]
    more = "" if sources else " --sources says where each figure is from."
    return Group(*parts, "", Text(told["notice"] + more, style="dim"))


def gates(told: Json, sources: bool = False) -> RenderableType:
    """Every gate: what was measured, what it must be, what became of it."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("gate", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("must be")
    for gate in told["gates"]:
        mark, style = OUTCOMES[gate["outcome"]]
        table.add_row(Text(f"{mark} {gate['order']} {gate['gate']}", style))
        for check in gate["checks"]:
            mark, style = OUTCOMES[check["outcome"]]
            value = _reading(check["value"], check["unit"])
            must = "" if check["threshold"] is None else _must(check)
            table.add_row(Text(f"    {mark} {check['measure']}", style), value or "none", must)
    failed = next((gate for gate in told["gates"] if gate["outcome"] == "failed"), None)
    heading = Text("accepted: every gate has passed", style="bold green")
    if failed is not None:
        after = sum(gate["outcome"] == "not reached" for gate in told["gates"])
        behind = f", {after} gates behind it are not reached" if after else ""
        said = f"not accepted: {failed['gate']} has not passed"
        heading = Text.assemble((said, "bold red"), behind)
    parts: list[RenderableType] = [heading, "", table]
    checks = [check for gate in told["gates"] for check in gate["checks"]]
    whys = {
        check["measure"]: check["why"]
        for check in checks
        if check["outcome"] == "failed" and check["why"]
    }
    cited = {check["measure"]: _cited(check) for check in checks}
    for title, lines in (
        ("why it has not passed", whys),
        ("where the thresholds are from", cited if sources else {}),
    ):
        if lines:
            parts += ["", Text(title, style="bold"), Padding(_list(lines), (0, 0, 0, 2))]
    return Group(*parts)


def _title(told: Json, layer: Layer) -> str:
    token = told["first_token"]
    if told["start"]:
        said = f"First token {token['p50_on']}"
        ranged = f", {token['p10_on']} to {token['p90_on']}"
    else:
        said = f"First token in week {token['p50']:.0f}"
        ranged = f", {token['p10']:.0f} to {token['p90']:.0f}"
    whole = f"{said}{ranged} (median, P10 to P90)"
    return next(
        (
            one
            for one in (whole, f"{said}{ranged}", said)
            if layer.width(one, 1.1) <= WIDTH - LEFT - RIGHT
        ),
        said,
    )


def _bar(phase: Json, y: float, x: Any) -> str:
    start, finish = phase["start"]["p50"], phase["finish"]["p50"]
    _, ink, _ = _heat(phase["criticality"])
    weeks = phase["weeks"]
    said = (
        f"{phase['name']}: {weeks['low']:g} to {weeks['high']:g} weeks, likely "
        f"{weeks['likely']:g} ({weeks['basis']}; {weeks['source']}, {weeks['as_of']}). "
        f"{_from_to(phase)}. Critical in {phase['criticality']:.0%} of draws, "
        f"slack {phase['slack_weeks_mean']:.1f} weeks in the mean."
    )
    slack = phase["slack_weeks_mean"]
    middle = y + BAR / 2
    low, high = x(phase["finish"]["p10"]), x(phase["finish"]["p90"])
    parts = [
        f'<rect class="slack" x="{x(finish):.1f}" y="{y}" width="{x(slack) - LEFT:.1f}" '
        f'height="{BAR}" fill="{ink}"/>'
        if slack > 0.05
        else "",
        f'<rect x="{x(start):.1f}" y="{y}" width="{max(x(finish) - x(start), 2):.1f}" '
        f'height="{BAR}" rx="3" fill="{ink}"/>',
        f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {y + 4}v{BAR - 8}'
        f'M{high:.1f} {y + 4}v{BAR - 8}" fill="none"/>',
    ]
    return f"<g><title>{escape(said)}</title>{''.join(parts)}</g>"


def _from_to(phase: Json) -> str:
    """Median start and finish, as days where they are known."""
    start, finish = phase["start"], phase["finish"]
    if "p50_on" in start:
        return f"{start['p50_on']} to {finish['p50_on']}"
    return f"Week {start['p50']:.1f} to {finish['p50']:.1f}"


def _label(phase: Json, y: float, layer: Layer, whole: bool) -> str:
    """Name on the left; on the right when, and how often it is critical."""
    right = f"{phase['criticality']:.0%}"
    if whole:
        right = f"{_from_to(phase)}, critical {right}"
    return text(LEFT, y, phase["name"], "over") + text(WIDTH - RIGHT, y, right, "soft end over")


def _roomy(phases: Sequence[Json], layer: Layer) -> bool:
    """Whether every phase has room for its days beside its name."""
    words = max(len(phase["name"]) + len(_from_to(phase)) for phase in phases)
    return layer.width("a" * (words + len(", critical 100%  "))) <= WIDTH - LEFT - RIGHT


def _ticks(most: float, start: date | None) -> list[tuple[float, str]]:
    """Weeks of the grid with their words: years where days are known, else weeks."""
    if start is None:
        return [(at, f"week {at:g}") for at in drawing.steps(0, most, 8) if at <= most]
    end = start + timedelta(weeks=most)
    years = [date(year, 1, 1) for year in range(start.year, end.year + 1)]
    if len(years) < 3:
        years = [date(day.year, month, 1) for day in years for month in (1, 4, 7, 10)]
    said = [
        ((day - start).days / 7, f"{day:%Y-%m}" if day.month > 1 else str(day.year))
        for day in years
        if start <= day <= end
    ]
    return said or [(0.0, start.isoformat())]


def _heat(share: float) -> tuple[float, str, str]:
    return next(step for step in HEAT if share >= step[0])


def _columns(layer: Layer) -> int:
    longest = max(layer.width(words) for _, _, words in HEAT) + 3 * layer.font
    return max(int((WIDTH - LEFT - RIGHT) // longest), 1)


def _key(y: float, layer: Layer) -> str:
    columns, size, parts = _columns(layer), 0.8 * layer.font, []
    for number, (_, ink, words) in enumerate(HEAT):
        row, column = divmod(number, columns)
        left = LEFT + column * (WIDTH - LEFT - RIGHT) / columns
        base = y + row * 1.4 * layer.font + layer.font
        parts.append(
            f'<rect x="{left:.1f}" y="{base - size:.1f}" width="{size:.1f}" '
            f'height="{size:.1f}" rx="2" fill="{ink}"/>{text(left + 1.5 * size, base, words)}'
        )
    return "".join(parts)


def _heading(told: Json) -> list[RenderableType]:
    token = told["first_token"]
    said = Text.assemble(
        (f"first token in {token['p50']:.0f} weeks", "bold"),
        f", P10 {token['p10']:.0f}, P90 {token['p90']:.0f}",
    )
    if told["start"]:
        days = f"{token['p50_on']} ({token['p10_on']} to {token['p90_on']}) from {told['start']}"
        said = Text.assemble(said, "\n", (days, "bold"))
    power = f"{told['power']} power"
    if told["power"] == "grid":
        power = f"grid ({told['grid'] or 'as the place has it'})"
    where = f" in {told['place']}" if told["place"] else ""
    kind = [
        told["building"] + where,
        power,
        "licence needed" if told["licence"] else "no licence needed",
    ]
    kind += [f"racks in {told['waves']} waves" if told["waves"] > 1 else "racks in one wave"]
    kind += [f"{told['draws']:,} draws, seed {told['seed']}"]
    path = " → ".join(told["critical_path"])
    lines: list[RenderableType] = [
        said,
        Text(", ".join(kind), style="dim"),
        Text.assemble((f"critical path, likely {told['likely_weeks']:.0f} weeks: ", "dim"), path),
    ]
    if money := told["money_per_week"]:
        ranged = "" if money["low"] == money["high"] else f" ({_range(money)})"
        worth = f"a week is worth {_money(money['value'], money['currency'])}{ranged}"
        said_by = f": {money['of']} ({money['basis']})"
        lines.append(Text.assemble((worth, "bold"), said_by))
    return lines


def _phases(told: Json) -> Table:
    """A phase a line; money where it is known, else weeks of the first token."""
    money = told["money_per_week"]
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("phase", min_width=14)
    table.add_column("weeks", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("done", justify="right", no_wrap=True)
    for name in ("critical", "week late", "week less"):
        table.add_column(name, justify="right", no_wrap=True)
    for phase in told["phases"]:
        weeks, share = phase["weeks"], phase["criticality"]
        low, likely, high = (f"{weeks[name]:.3g}" for name in ("low", "likely", "high"))
        done = phase["finish"].get("p50_on") or f"week {phase['finish']['p50']:.0f}"
        late, less = (
            (_money(phase[name]["value"], money["currency"], short=True) if money else f"{w:.2f} w")
            for name, w in (
                ("cost_of_delay", phase["slip_weeks"]),
                ("break_even_price", phase["gain_weeks"]),
            )
        )
        style = "red" if share >= 0.75 else "yellow" if share >= 0.25 else ""
        table.add_row(
            Text(phase["name"]),
            low if low == high else f"{low}-{likely}-{high}",
            MARKS.get(weeks["basis"], ""),
            done,
            Text(f"{share:.0%}", style),
            late,
            less,
        )
    return table


def _buying(told: Json) -> Table | None:
    """Phases by what a week less of them gains."""
    by_id = {phase["id"]: phase for phase in told["phases"]}
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name in told["worth_buying"][:WORTH]:
        phase = by_id[name]
        said = f"{7 * phase['gain_weeks']:.1f} days earlier"
        price = phase["break_even_price"]
        worth = f"worth up to {_money(price['value'], price['currency'])}" if price else ""
        table.add_row(name, said, worth)
    return table if told["worth_buying"] else None


def _orders(told: Json) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for phase in told["phases"]:
        if phase["id"] in ORDERS:
            day = phase["start_by_on"] or f"week {phase['start_by_weeks']:.0f}"
            if phase["criticality"] > AT_ONCE:
                day = f"as soon as it can: critical in {phase['criticality']:.0%} of draws"
            table.add_row(phase["name"], day)
    note = "later than that moves the first token in more than 10 % of draws"
    return Group(table, Text(note, style="dim"))


def _records(told: Json) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("record")
    table.add_column("weeks", justify="right", no_wrap=True)
    table.add_column("model, P10 to P90", justify="right", no_wrap=True)
    for record in told["records"]:
        low, high = record["low"], record["high"]
        weeks = "unknown" if record["weeks"] is None else f"{record['weeks']:g}"
        weeks = weeks if low is None else f"{low:g}-{high:g}"
        spans = record["modelled_weeks"]
        table.add_row(Text(record["name"]), weeks, f"{spans['p10']:.0f} to {spans['p90']:.0f}")
    return table


def _sources(told: Json) -> Table:
    rows: Sequence[Json] = told["phases"]
    lines = [(phase["id"], phase["weeks"]) for phase in rows]
    lines += [(record["id"], record) for record in told["records"]]
    lines += [(part["id"], part) for part in told["parts_of_commissioning"]]
    if told["money_per_week"]:
        lines.append(("a week", told["money_per_week"]))
    return _list({name: _cited(of) for name, of in lines})


def _cited(of: Json) -> str:
    return "; ".join(filter(None, (of[word] for word in CITED)))


def _list(lines: Mapping[str, str]) -> Table:
    """A name and what is said of it, a line each."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, said in lines.items():
        table.add_row(name, Text(said))
    return table


def _must(check: Json) -> str:
    sign = {">=": "≥", "<=": "≤"}.get(check["comparator"], "=")
    said = f"{sign} {_reading(check['threshold'], check['unit'])}"
    share = check["share_of_expected"]
    return said if share in (None, 1) else f"{said} ({100 * share:g} % of the model's)"


def _reading(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit in ("s", "B/s"):
        return f"{value / 3600:.3g} h" if unit == "s" and value >= 7200 else show(value, unit)
    if unit == "1":
        return f"{100 * value:.3g} %"
    return f"{value:,.0f}"


def _money(value: float, currency: str, short: bool = False) -> str:
    for size, word in ((1e9, "bn"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {word}" + ("" if short else f" {currency}")
    return f"{value:.3g}" + ("" if short else f" {currency}")


def _range(money: Json) -> str:
    return f"{_money(money['low'], '', True)} to {_money(money['high'], '', True)}"
