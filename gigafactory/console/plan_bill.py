"""What a plan buys and what runs on it, as parts of its report: bill, quarters, sites, demands.

Money in the design's currency, W.
"""

from collections import defaultdict
from collections.abc import Sequence
from html import escape

from gigafactory.console.plan_charts import Series
from gigafactory.console.plan_notes import (
    OPEN_UP_TO,
    Html,
    chips_of,
    folded,
    power_of,
    price_of,
    table,
)
from gigafactory.console.plan_page import (
    Page,
    by_attribute,
    cards,
    columns,
    legend,
    listed,
    plot,
    standing,
)
from gigafactory.plan.designed import Place, Purchase
from gigafactory.units import show


def bill(of: Page) -> str:
    """What is bought by system, by site, and every purchase."""
    made = of.made
    if not made.purchases:
        return "<p>Nothing is to be bought: what stands already does what is asked.</p>"
    rows = [
        [
            one.site,
            one.system,
            str(one.day),
            of.notes.figure(
                str(one.stands),
                "day on which what was ordered stands",
                "modelled",
                "36 to 52 weeks from order to delivery, in whole quarters; data/bringup.csv, B11",
            ),
            *_figures(of, [one]),
        ]
        for one in made.purchases
    ]
    head = ["site", "system", "ordered", "stands", *_bill_head(of)]
    numbers = range(4, len(head))
    whole = table(head, rows, numbers, foot=["all", "", "", "", *_sums(of, made.purchases)])
    title = f"Every purchase ({len(rows)})"
    buildings = made.spent - sum(one.price for one in made.purchases)
    said = of.notes.figure(
        of.money(buildings),
        "buildings: what is spent less the price of the nodes",
        "derived",
        "shell, power, cooling and commissioning at each site's price per W of IT power; "
        "data/economics.csv",
    )
    return (
        "<h3>By system</h3>"
        + _summed(of, "system")
        + f"<p>Beside the nodes: {said} for shell, power and cooling, so that "
        f"{escape(of.money(made.spent))} are spent in all.</p>"
        + "<h3>By site</h3>"
        + folded(f"Every site ({len(by_attribute(of, 'site'))})", _summed(of, "site"), True)
        + folded(title, whole, len(rows) <= OPEN_UP_TO)
    )


def _bill_head(of: Page) -> list[str]:
    return ["nodes", "chips", f"M {of.made.currency}", "IT power"]


def _figures(of: Page, bought: Sequence[Purchase]) -> list[Html]:
    """Nodes, chips, money and power of purchases of one system."""
    system = bought[0].system
    return [
        of.chosen(f"{sum(one.nodes for one in bought):,}", "nodes bought"),
        of.notes.figure(f"{sum(one.chips for one in bought):,}", *chips_of(system)),
        of.notes.figure(f"{sum(one.price for one in bought) / 1e6:,.2f}", *price_of(system)),
        of.notes.figure(show(sum(one.power_w for one in bought), "W"), *power_of(system)),
    ]


def _sums(of: Page, bought: Sequence[Purchase]) -> list[Html]:
    """The same of several systems: sums of what bears notes of its own."""
    shown = {
        "nodes": f"{sum(one.nodes for one in bought):,}",
        "chips": f"{sum(one.chips for one in bought):,}",
        "prices of nodes": f"{sum(one.price for one in bought) / 1e6:,.2f}",
        "IT power": show(sum(one.power_w for one in bought), "W"),
    }
    source = "the lines of the bill, each with its own note"
    return [
        of.notes.figure(value, f"sum of {name}", "derived", source) for name, value in shown.items()
    ]


def _summed(of: Page, what: str) -> Html:
    groups = by_attribute(of, what)
    rows = []
    for name, bought in groups.items():
        alike = len({one.system for one in bought}) == 1
        other = "system" if what == "site" else "site"
        others = list(dict.fromkeys(getattr(one, other) for one in bought))
        first, last = min(one.day for one in bought), max(one.day for one in bought)
        # Two spans, so that a narrow cell breaks between the days, not within one.
        days = " to ".join(f'<span class="f">{day}</span>' for day in sorted({first, last}))
        figures = _figures(of, bought) if alike else _sums(of, bought)
        rows.append([name, listed(others), Html(days), *figures])
    head = [what, "systems" if what == "site" else "for", "ordered", *_bill_head(of)]
    foot = ["all", "", "", *_sums(of, of.made.purchases)]
    return table(head, rows, range(3, 7), prose=[1], foot=foot)


def quarters(of: Page) -> str:
    """Orders and standing power by quarter, and each site against its connection."""
    made = of.made
    count = len(made.quarters)
    price: dict[str, list[float]] = defaultdict(lambda: [0.0] * count)
    chips: dict[str, list[float]] = defaultdict(lambda: [0.0] * count)
    for one in made.purchases:
        price[one.system][one.quarter] += one.price
        chips[one.system][one.quarter] += one.chips
    plots = [
        columns(of, "Nodes ordered, money", made.currency, price, of.chosen("", "orders")),
        columns(of, "Chips ordered", "chips", chips, of.chosen("", "orders")),
        columns(of, "IT power standing", "W", standing(of), of.chosen("", "power standing")),
    ]
    bought = list(by_attribute(of, "site"))
    by_site = [_connection(of, of.places[name]) for name in bought if name in of.places]
    with_limit = legend(of, "what the connection gives")
    return (
        f'{legend(of)}<div class="cards">{"".join(plots)}</div>'
        f"<h3>Power of each site against its connection</h3>"
        f'<p class="soft">At the meter in the hottest hours: IT power of bought nodes that stand, '
        f"busy or not, times the PUE of those hours.</p>{with_limit}{cards(by_site, 'sites')}"
    )


def _connection(of: Page, place: Place) -> str:
    drawn = {
        system: [place.pue_hot * value for value in by]
        for system, by in standing(of, place.site).items()
    }
    limit = [
        place.count * place.power_w if day >= place.powered else 0.0 for day in of.made.quarters
    ]
    pue = of.notes.mark(
        f"PUE of the hottest hours at {place.site}: {place.pue_hot:.3f}; connection "
        f"{place.count} × {show(place.power_w, 'W')} from {place.powered}",
        place.basis.get("pue", "unknown"),
        f"{place.sources.get('pue', '')}; connection: the blueprint; its day: "
        f"{place.basis.get('powered', 'unknown')}, {place.sources.get('powered', '')}",
    )
    return columns(of, place.site, "W", drawn, pue, limit)


def uses(of: Page) -> str:
    """Nodes in use by each demand over the quarters."""
    made = of.made
    nodes: dict[str, dict[tuple[str, str], list[float]]] = {}
    for use in made.uses:
        by = nodes.setdefault(use.demand, {})
        by.setdefault((use.site, use.system), [0.0] * len(made.quarters))[use.quarter] += use.nodes
    plots = []

    def ranked(one: tuple[tuple[str, str], list[float]]) -> tuple[int, str]:
        (site, system), _ = one
        return of.inks[system], site

    most = {name: max(map(sum, zip(*by.values(), strict=True))) for name, by in nodes.items()}
    for demand in sorted(nodes, key=lambda name: (-most[name], name)):
        series = [
            Series(f"{system} at {site}", of.inks[system], values)
            for (site, system), values in sorted(nodes[demand].items(), key=ranked)
        ]
        mark = of.chosen("", "nodes in use, the mean of each quarter")
        plots.append(plot(made, demand, "nodes", series, mark))
    if not plots:
        return "<p>Nothing runs.</p>"
    said = '<p class="soft">Nodes in use by each demand, the mean over each quarter.</p>'
    return said + legend(of) + cards(plots, "demands")
