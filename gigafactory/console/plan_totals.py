"""What a plan costs and takes, as parts of its report: money, cash, energy, carbon, water."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from typing import Any

from gigafactory.console import cash_plots, plan_charts, plan_grounds
from gigafactory.console.plan_charts import Series
from gigafactory.console.plan_notes import Html, folded, part_of, table
from gigafactory.console.plan_page import Page, drawn_figure, plot, swatches
from gigafactory.plan.designed import Place
from gigafactory.units import show

Json = Mapping[str, Any]
HOURS = 365.25 * 24 / 4
"""Of a quarter, as the optimiser counts."""
PARTS = {
    "capex": "machines, network, storage",
    "facility": "shell, power, cooling",
    "energy": "energy",
    "upkeep": "maintenance",
    "residual": "worth at the end",
    "revenue": "revenue",
}
SPENT = {
    "machines": "machines, network, storage",
    "facility": "shell, power, cooling",
    "energy": "energy",
    "upkeep": "maintenance",
}


def money(of: Page, cash: Json | None) -> str:
    """Parts of the net cost, what is paid when, and cash in all."""
    made = of.made
    rows = [
        (PARTS.get(name, name), amount, f"{PARTS.get(name, name)}: {of.money(amount)}, modelled")
        for name, amount in made.parts.items()
        if amount
    ]
    mark = of.chosen(
        "", f"parts of the net cost, discounted to {made.start}; what comes in is negative"
    )
    unit = plan_charts.scale(max((abs(row[1]) for row in rows), default=0), made.currency).unit
    parts = plan_charts.bars("parts of the net cost", made.currency, rows)
    paid = of.chosen("", "money of each month, not discounted", "; the bill and the places")
    plots = (
        drawn_figure(f"Parts of the net cost, {unit}", mark, parts),
        plot(made, "Paid by quarter", made.currency, _paid(of), paid),
        _flow(of, paid),
    )
    lines = [
        [
            PARTS.get(name, name),
            of.chosen(f"{amount / 1e6:,.2f}", PARTS.get(name, name), part_of(name)),
        ]
        for name, amount in made.parts.items()
        if amount
    ]
    net = ["net cost", of.chosen(f"{made.cost / 1e6:,.2f}", "sum of the parts")]
    listed = table(["part", f"M {made.currency}, discounted"], lines, [1], foot=net)
    inks = swatches([(words, ink) for ink, words in enumerate(SPENT.values())])
    plotted = (
        f"<h3>Cash by month</h3>{of.drawn(cash_plots.svg(cash), 'cash')}"
        if cash
        else '<p class="soft">Cash by month with rents, NPV and payback: '
        "<code>gigafactory invest</code>.</p>"
    )
    return (
        f'{inks}<div class="cards">{"".join(plots)}</div>'
        f'<div class="cards"><div>{listed}</div></div>{plotted}'
    )


def _paid(of: Page) -> list[Series]:
    """What is paid in each quarter, by kind."""
    made = of.made
    found = []
    for ink, (name, words) in enumerate(SPENT.items()):
        by = [0.0] * len(made.quarters)
        for month in made.cash:
            by[_quarter(made.quarters, month.day)] += getattr(month, name)
        found.append(Series(words, ink, by))
    return found


def _flow(of: Page, mark: Html) -> str:
    """All that came in less all that went out, to the end of each month."""
    total, sums = 0.0, []
    for month in of.made.cash:
        total += month.net
        sums.append((month.day, total))
    unit = plan_charts.scale(max((abs(each) for _, each in sums), default=0), of.made.currency)
    title = "Cash in all, revenue less what is paid"
    drawn = plan_charts.curve(title, of.made.currency, sums)
    return drawn_figure(title, Html(f" <small>{escape(unit.unit)}</small>{mark}"), drawn)


def _quarter(quarters: Sequence[date], day: date) -> int:
    return max(number for number, first in enumerate(quarters) if first <= day)


def energy(of: Page) -> str:
    """Energy, carbon and water by site."""
    made = of.made
    watts = {one.system: one.power_w / one.nodes for one in made.purchases if one.nodes}
    it_kwh: dict[str, float] = defaultdict(float)
    for use in made.uses:
        it_kwh[use.site] += use.nodes * watts.get(use.system, 0.0) * HOURS / 1e3
    rows, energy, carbon = [], [], []
    for site in sorted(it_kwh, key=lambda name: (-it_kwh[name], name)):
        place = of.places[site]
        kwh = it_kwh[site] * place.pue
        kg = kwh * place.carbon_g_per_kwh / 1e3
        water = it_kwh[site] * place.wue_l_per_kwh
        energy.append((site, 1e3 * kwh, ""))
        carbon.append((site, kg / 1e3, ""))
        rows.append(
            [
                site,
                _ground(of, place, show(kwh * 3.6e6, "J"), "energy at the meter", "pue"),
                _ground(of, place, f"{kg / 1e3:,.0f}", "carbon of the energy", "carbon"),
                _ground(of, place, f"{water / 1e3:,.0f}", "water of cooling", "wue"),
                plan_grounds.figure(of, place, f"{place.carbon_g_per_kwh:,.0f}", "carbon"),
            ]
        )
    left_kwh = made.energy_kwh - sum(value for _, value, _ in energy) / 1e3
    if left_kwh > 1e-6 * made.energy_kwh:
        said = "the whole less the sites above, which count bought nodes only"
        kg = made.carbon_kg - sum(value for _, value, _ in carbon) * 1e3
        left = [show(left_kwh * 3.6e6, "J"), f"{kg / 1e3:,.0f}"]
        told = [of.notes.figure(one, "what stood already", "derived", said) for one in left]
        rows.append(["what stood already", *told, "", ""])
    mark = of.chosen("", "nodes in use by site", "; times the power of each, the hours and PUE")
    unit = plan_charts.scale(max((one[1] for one in energy), default=0), "Wh").unit
    plots = (
        drawn_figure(f"Energy at the meter, {unit}", mark, _top(of, "energy", "Wh", energy)),
        drawn_figure("Carbon, t of CO₂e", mark, _top(of, "carbon", "t", carbon)),
    )
    foot = [
        "all",
        of.chosen(show(made.energy_kwh * 3.6e6, "J"), "energy at the meter, all quarters"),
        of.chosen(f"{made.carbon_kg / 1e3:,.0f}", "carbon of that energy"),
        of.chosen(
            f"{made.water_l / 1e3:,.0f}", "water of cooling", "; energy times each site's WUE"
        ),
        "",
    ]
    head = ["site", "energy at the meter", "t CO₂e", "m³ water", "gCO₂e/kWh"]
    listed = folded(f"By site ({len(rows)})", table(head, rows, range(1, 5), foot=foot), True)
    said = '<p class="soft">Of nodes in use, over all quarters; making of chips is not in it.</p>'
    return f'<div class="cards">{"".join(plots)}</div>{said}{listed}'


def _top(of: Page, said: str, unit: str, rows: Sequence[tuple[str, float, str]]) -> str:
    """Bars of the largest sites; the others are one bar."""
    ranked = sorted(rows, key=lambda row: (-row[1], row[0]))
    rest = ranked[7:]
    if len(rest) > 1:
        ranked = [*ranked[:7], (f"{len(rest)} others", sum(row[1] for row in rest), "")]
    return plan_charts.bars(said, unit, ranked)


def _ground(of: Page, place: Place, shown: str, what: str, figure: str) -> Html:
    basis, source = place.basis.get(figure, "unknown"), place.sources.get(figure, "")
    said = f"{figure} is {basis}: {source}" if source else f"{figure} is {basis}"
    return of.notes.figure(shown, f"{what}, {place.site}", "modelled", said)
