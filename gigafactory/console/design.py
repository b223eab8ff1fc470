"""What the command line prints of a designed factory: what to buy, what runs on it, why."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gigafactory.plan.consolidation import Consolidation
from gigafactory.plan.designed import Designed, Place
from gigafactory.plan.risk import Risk
from gigafactory.plan.whatif import Row
from gigafactory.units import show

NUMBERS = ("nodes", "chips", "IT power", "tokens/s a node", "change", "GWh", "t CO2e", "waits")
SUMS = ("if it comes", "if not", "expected", "against the best")
LONG = 20
"""More lines than that of one kind are summed up."""
PARTS = {
    "capex": "machines with network and storage",
    "facility": "shell, power, cooling",
    "energy": "energy",
    "upkeep": "maintenance",
    "residual": "worth at the end",
    "revenue": "revenue",
}


def whole(made: Designed, sources: bool = False) -> RenderableType:
    """The factory in one screen."""
    lines: list[RenderableType] = [_heading(made), "", _purchases(made), "", _demands(made)]
    for title, part in (
        ("first token by bring-up: median, P10 to P90", _opens(made)),
        (f"money, {made.currency}, discounted to {made.start}", _money(made)),
        ("what holds it back", _binding(made)),
        ("why not", _reasons(made)),
        ("the law, where it says no", _law(made)),
        ("places", _places(made.places, made.currency, sources)),
    ):
        if part is not None:
            lines += ["", Text(title, style="bold"), Padding(part, (0, 0, 0, 2))]
    return Group(*lines, "", Text("modelled throughout; not legal advice", style="dim"))


def _heading(made: Designed) -> RenderableType:
    first = f"first token in the quarter of {made.first_token}" if made.first_token else "no token"
    proof = "proven best" if made.gap <= 1e-9 else f"proven within {made.gap:.1%} of the best"
    energy = show(made.energy_kwh * 3.6e6, "J")
    return Group(
        Text.assemble(
            (made.name, "bold cyan"),
            f": {made.chips:,} chips for {_money_of(made.spent)} {made.currency}, {first}",
        ),
        Text(f"objective {made.objective}, {proof}"),
        Text(
            f"{energy} at the meter, {made.carbon_kg / 1e3:,.0f} t CO2e, "
            f"{made.water_l / 1e3:,.0f} m3 of water over {len(made.quarters) / 4:g} years"
        ),
    )


def _opens(made: Designed) -> RenderableType | None:
    """By site, the median day and its range."""
    return _lines(
        [
            Text.assemble((f"{one.site}  ", "bold"), f"{one.p50}, {one.p10} to {one.p90}")
            for one in sorted(made.opens, key=lambda one: one.p50)
        ]
    )


def _purchases(made: Designed) -> RenderableType:
    """Every purchase if they fit a screen, else what each system comes to."""
    if not made.purchases:
        return Text("nothing to buy")
    if len(made.purchases) > LONG:
        return _by_system(made)
    table = _table("order", "stands", "site", "system", "nodes", "chips", made.currency, "IT power")
    note = f"of the machines; with {_money_of(_halls(made))} for their halls all that is spent"
    for one in made.purchases:
        table.add_row(
            _month(one.day),
            _month(one.stands),
            one.site,
            one.system,
            f"{one.nodes:,}",
            f"{one.chips:,}",
            _money_of(one.price),
            show(one.power_w, "W"),
        )
    return Group(table, Text(f"{made.currency} {note}", style="dim"))


def _halls(made: Designed) -> float:
    return made.spent - sum(one.price for one in made.purchases)


def _by_system(made: Designed) -> RenderableType:
    table = _table("system", "sites", "orders", "nodes", "chips", made.currency, "IT power")
    for system in dict.fromkeys(one.system for one in made.purchases):
        bought = [one for one in made.purchases if one.system == system]
        sites = list(dict.fromkeys(one.site for one in bought))
        table.add_row(
            system,
            ", ".join(sites[:3]) + (f" and {len(sites) - 3} more" if len(sites) > 3 else ""),
            f"{_month(bought[0].day)} to {_month(bought[-1].day)}",
            f"{sum(one.nodes for one in bought):,}",
            f"{sum(one.chips for one in bought):,}",
            _money_of(sum(one.price for one in bought)),
            show(sum(one.power_w for one in bought), "W"),
        )
    more = f"{len(made.purchases)} purchases by site and quarter are in --json"
    return Group(table, Text(more, style="dim"))


def _demands(made: Designed) -> RenderableType:
    """Where each demand runs at its most, and how it is laid out there."""
    most: dict[tuple[str, str, str], float] = defaultdict(float)
    for use in made.uses:
        where = (use.demand, use.site, use.system)
        most[where] = max(most[where], use.nodes)
    speeds = {(one.demand, one.system): one for one in made.speeds}
    table = _table("demand", "site", "on", "nodes", "tokens/s a node", "laid out")
    shown = sorted(most.items(), key=lambda one: -one[1])[:LONG]
    for (demand, site, system), nodes in sorted(shown):
        speed = speeds[demand, system]
        table.add_row(
            demand,
            site,
            system,
            f"{nodes:,.1f}",
            f"{speed.tokens_per_s_per_node or 0:,.0f}",
            Text(speed.layout, overflow="fold"),
        )
    return table


def _money(made: Designed) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for part, amount in made.parts.items():
        if amount:
            table.add_row(PARTS[part], Text(_money_of(amount), justify="right"))
    table.add_row(Text("cost", "bold"), Text(_money_of(made.cost), "bold", justify="right"))
    return table


def _binding(made: Designed) -> RenderableType | None:
    return _lines([Text.assemble(words, (f"  {worth}", "dim")) for words, worth in made.binding])


def _reasons(made: Designed) -> RenderableType | None:
    lines = [Text.assemble((f"{what}  ", "bold"), why) for what, why in made.reasons.items()]
    lines += [
        Text.assemble((f"{one.system} for {one.demand}  ", "bold"), one.why_not)
        for one in made.speeds
        if one.why_not
    ]
    return _lines(lines)


def _law(made: Designed) -> RenderableType | None:
    lines = []
    for one in made.law:
        if not one.may_stand:
            outcome = one.outcome.replace("_", " ")
            text = f"{one.system} in {one.site}, {one.first} to {one.end}: {outcome}"
            lines.append(Text.assemble(text, (f"  {one.rule}", "dim")))
    return _lines(lines)


def _lines(lines: list[Text]) -> RenderableType | None:
    """As many as fit a screen; None without any."""
    if len(lines) > LONG:
        rest = Text(f"and {len(lines) - LONG} more: --json has all", "dim")
        lines = [*lines[:LONG], rest]
    return Group(*lines) if lines else None


def _places(places: Iterable[Place], currency: str, sources: bool) -> RenderableType:
    table = _table("site", "place", "power", "from", "PUE", f"{currency}/kWh", "gCO2e/kWh")
    for one in places:
        count = f"{one.count} × " if one.count > 1 else ""
        table.add_row(
            one.site,
            one.place,
            count + show(one.power_w, "W"),
            f"{one.powered} {_mark(one, 'powered')}",
            f"{one.pue:.3f} {_mark(one, 'pue')}",
            f"{one.energy_price_per_kwh:.3f} {_mark(one, 'energy_price')}",
            f"{one.carbon_g_per_kwh:.0f} {_mark(one, 'carbon')}",
        )
    if not sources:
        return table
    said = [
        Text.assemble(
            f"{one.site}, {name.replace('_', ' ')}: ",
            (f"{basis}  ", "dim"),
            (one.sources.get(name, ""), "cyan"),
        )
        for one in places
        for name, basis in one.basis.items()
    ]
    return Group(table, *said)


def _mark(place: Place, figure: str) -> str:
    return place.basis[figure][0]


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        numbers = name in (*NUMBERS, *SUMS)
        fold = name in ("laid out", "what", "before", "after", "sites", "orders", "systems")
        justify: Literal["right", "left"] = "right" if numbers or name.isupper() else "left"
        table.add_column(name, justify=justify, no_wrap=not fold, overflow="fold")
    return table


def _month(day: date) -> str:
    return f"{day:%Y-%m}"


def _money_of(amount: float) -> str:
    size = abs(amount)
    for unit, word in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{amount / unit:,.2f} {word}"
    return f"{amount:,.0f}" if size >= 100 else f"{amount:.3g}"


def consolidation(made: Consolidation) -> RenderableType:
    """The tenants apart, and together."""
    table = _table("tenant", "nodes", "chips", "GWh", "t CO2e", made.currency, "waits")
    for side in (*made.apart, made.together):
        bold = "bold" if side is made.together else ""
        cells = (
            side.tenant,
            f"{side.nodes:,}",
            f"{side.chips:,}",
            f"{side.energy_kwh / 1e6:,.1f}",
            f"{side.carbon_kg / 1e3:,.0f}",
            _money_of(side.cost),
            "-" if side.wait_s is None else f"{side.wait_s * 1e3:.3g} ms",
        )
        table.add_row(*(Text(cell, bold) for cell in cells))
    saved = (
        f"sharing saves {made.chips_saved:,} chips, {made.energy_saved_kwh / 1e6:,.2f} GWh and "
        f"{_money_of(made.cost_saved)} {made.currency}"
    )
    note = "waits: mean for a free slot where it is longest, Erlang; modelled throughout"
    return Group(table, "", Text(saved, style="bold"), Text(note, style="dim"))


def front(points: Sequence[Designed]) -> RenderableType:
    """Cost against carbon, the cleanest first."""
    table = _table("chips", "systems", "sites", points[0].currency, "t CO2e", "GWh")
    for one in points:
        table.add_row(
            f"{one.chips:,}",
            ", ".join(sorted({buy.system for buy in one.purchases})),
            ", ".join(sorted({buy.site for buy in one.purchases})),
            _money_of(one.cost),
            f"{one.carbon_kg / 1e3:,.0f}",
            f"{one.energy_kwh / 1e6:,.1f}",
        )
    words = "cost discounted; each proven to its gap; modelled"
    return Group(table, "", Text(words, style="dim"))


def risk(told: Risk) -> RenderableType:
    """Ways to act while a rule may come, the expected cost of each."""
    table = _table("to act", "what", "if it comes", "if not", "expected", "against the best")
    best = told.best
    for way in told.ways:
        more = way.expected(told.chance) - best.expected(told.chance)
        cells = (way.if_it_comes, way.if_not, way.expected(told.chance))
        bold = "bold" if way is best else ""
        table.add_row(
            Text(way.name, bold),
            way.words,
            *(Text(_money_of(cell), bold) for cell in cells),
            "" if way is best else f"+{_money_of(more)}",
        )
    return Group(
        Text(f"a rule with a chance of {told.chance:.0%}, felt from {told.known}", "bold"),
        Text(f"it stops {', '.join(told.touched)}"),
        "",
        table,
        "",
        Text(
            f"to know today would save {_money_of(told.foreknowledge)} {told.currency}; "
            f"to rent everything would cost {_money_of(told.all_rented)}"
        ),
        Text(
            f"{told.currency}, discounted; what is not bought is rented; modelled, and not legal "
            "advice",
            "dim",
        ),
    )


def whatif(rows: Iterable[Row], changes: Iterable[str]) -> RenderableType:
    """Before and after of one change, layer by layer; what stays the same is left out."""
    table = _table("layer", "what", "before", "after", "change")
    last = ""
    same = 0
    for row in rows:
        if not row.changed:
            same += 1
            continue
        ratio = row.ratio
        change = "" if ratio is None else f"{ratio - 1:+.1%}" if ratio < 10 else f"× {ratio:,.0f}"
        layer = row.layer if row.layer != last else ""
        table.add_row(
            Text(layer, "bold"), row.what, _shown(row.before, row), _shown(row.after, row), change
        )
        last = row.layer
    heading = Text.assemble(("what if ", "bold"), (", ".join(changes), "bold cyan"))
    return Group(heading, "", table, "", Text(f"{same} figures stay as they are; modelled", "dim"))


def _shown(value: float | str | None, row: Row) -> Text:
    if value is None:
        return Text("-", "dim")
    if isinstance(value, str):
        return Text(value or "none", overflow="fold")
    if row.unit in ("W", "J"):
        return Text(show(value, row.unit))
    if row.unit in ("s", "") and abs(value) < 100:
        return Text(f"{value:.4g} {row.unit}".strip())
    return Text(f"{_money_of(value)} {row.unit}".strip())
