"""The report of a designed factory: one HTML page that needs nothing else, to be kept and sent on.

A board reads the figures on top, the map, the bill and the plots; an engineer finds behind every
figure the number of a note with its basis and source, and at the end all notes. The page tells
what `plan` chose and adds nothing to it but sums. Modelled. Same design, same bytes.
W, kWh, L, kg of CO2e, money in the design's currency.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gigafactory.console import gantt, plan_bill, plan_grounds, plan_totals, worldmap
from gigafactory.console.plan_notes import table
from gigafactory.console.plan_page import Page, listed, standing
from gigafactory.plan.designed import Designed
from gigafactory.plan.grounds import months_later
from gigafactory.stack import sites
from gigafactory.stack.sites import UnknownPlace
from gigafactory.units import show

ASSETS = Path(__file__).parent
Json = Mapping[str, Any]


def page(
    designed: Designed, bringup: Mapping[str, Json] | None = None, cash: Json | None = None
) -> str:
    """The whole page.

    `bringup` has what `stack.bringup` answers by site, `cash` what `stack.money` answers to
    `invest`; what is not given is left out with a word.
    """
    of = Page(designed)
    parts = list(_sections(of, bringup, cash))
    body = _head(of, [name for name, _ in parts]) + "".join(body for _, body in parts)
    body = of.notes.settled(body)
    filled = {
        "title": escape(designed.name),
        "style": "\n".join([_asset("style.css"), *of.styles.values(), _asset("plan_report.css")]),
        "body": f"{body}{_section('Notes', of.notes.listed())[1]}</main>{_foot(designed)}",
        "script": _asset("plan_report.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: filled[mark[1]], _asset("plan_report.html"))


def _sections(
    of: Page, bringup: Mapping[str, Json] | None, cash: Json | None
) -> Iterable[tuple[str, str]]:
    yield _section("Where", _where(of))
    yield _section("What to buy", plan_bill.bill(of))
    yield _section("By quarter", plan_bill.quarters(of))
    yield _section("What runs on it", plan_bill.uses(of))
    yield _section("Way to the first token", _bringup(of, bringup))
    yield _section("Money", plan_totals.money(of, cash))
    yield _section("Energy, carbon, water", plan_totals.energy(of))
    yield _section("The law over time", plan_grounds.law(of))
    yield _section("Layouts", plan_grounds.layouts(of))
    yield _section("What binds, and why not otherwise", plan_grounds.reasons(of))
    yield _section("Places", plan_grounds.places(of))


def _section(title: str, body: str) -> tuple[str, str]:
    return title, f'<section id="{_slug(title)}"><h2>{escape(title)}</h2>{body}</section>'


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())


def _head(of: Page, titles: Sequence[str]) -> str:
    made = of.made
    names = list(dict.fromkeys(one.site for one in made.purchases))
    kinds = list(dict.fromkeys(one.system for one in made.purchases))
    until = made.first_token
    token = f"the first token comes in the quarter from {until}" if until else "no token comes"
    lead = (
        f"Buy {made.chips:,} chips ({listed(kinds)}) for {listed(names)} and spend "
        f"{of.money(made.spent)}; {token}. No other plan is better by more than {made.gap:.2%}, "
        "as the optimiser proves."
        if made.purchases
        else f"Nothing is to be bought; {token}."
    )
    peak = max((sum(each) for each in zip(*standing(of).values(), strict=True)), default=0.0)
    facts = {
        "chips bought": of.chosen(f"{made.chips:,}", "chips bought in all"),
        "spent": of.chosen(
            of.money(made.spent), "money for nodes and buildings in all quarters, not discounted"
        ),
        "net cost": of.chosen(
            of.money(made.cost), f"all money discounted to {made.start}, worth at the end taken off"
        ),
        "first token": of.chosen(
            str(until or "none"), "first quarter in which a demand runs, by its first day"
        ),
        "IT power at most": of.chosen(show(peak, "W"), "power of all bought nodes that stand"),
        "energy": of.chosen(
            show(made.energy_kwh * 3.6e6, "J"), "energy at the meter, all quarters"
        ),
        "carbon, CO₂e": of.chosen(f"{made.carbon_kg / 1e3:,.0f} t", "carbon of that energy"),
        "water": of.chosen(
            f"{made.water_l / 1e3:,.0f} m³", "water of cooling", "; energy times each site's WUE"
        ),
        "tokens made": of.chosen(show(made.tokens, "tokens"), "tokens served and trained in all"),
        "gap proven": of.notes.figure(
            f"{made.gap:.2%}",
            "share of the objective between the answer and the bound",
            "derived",
            f"HiGHS: answer {made.objective_value:,.6g}, bound {made.bound:,.6g}",
        ),
    }
    told = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    links = "".join(
        f'<a href="#{_slug(title)}">{escape(title)}</a>' for title in [*titles, "Notes"]
    )
    return (
        f'<header><div class="brand"><h1>{escape(made.name)}</h1><p>Plan over '
        f"{len(made.quarters)} quarters from {made.start}, best in {escape(made.objective)}; "
        f'modelled throughout</p><p class="lead">{escape(lead)}</p></div>'
        f'<dl id="facts">{told}</dl></header><nav>{links}</nav><main>'
    )


def _where(of: Page) -> str:
    bought: dict[str, float] = defaultdict(float)
    for one in of.made.purchases:
        bought[one.site] += one.power_w
    most = max(bought.values(), default=0.0)
    points, unknown = [], []
    for place in of.made.places:
        try:
            at = sites.site(place.place)
        except UnknownPlace:
            unknown.append(place.site)
            continue
        power_w = bought.get(place.site, 0.0)
        said = (
            f"{place.site}: {show(power_w, 'W')} of IT power bought, modelled; the connection is "
            f"{show(place.count * place.power_w, 'W')}, stated"
        )
        points.append(
            worldmap.Point(
                name=place.site,
                latitude=at.latitude,
                longitude=at.longitude,
                value=power_w / 1e6 if power_w else None,
                # Areas on the map go from one to seven.
                size=1 + 6 * power_w / most if most else 1,
                said=said,
            )
        )
    svg = worldmap.svg(points, "IT power bought", "MW", "Grey: nothing is bought there.", "{:.3g}")
    svg = svg.replace("larger circle: more data centers", "larger circle: more IT power bought")
    lost = f"Not on the map, as the catalog has no such place: {', '.join(unknown)}."
    rest = f'<p class="soft">{escape(lost)}</p>' if unknown else ""
    return of.drawn(svg, "map") + rest


def _bringup(of: Page, bringup: Mapping[str, Json] | None) -> str:
    if not bringup:
        return (
            '<p class="soft">Left out: no bring-up was asked for these sites; '
            "<code>gigafactory bringup --at PLACE</code> dates one.</p>"
        )
    ordered = [one.site for one in sorted(of.made.purchases, key=lambda one: one.day)]
    first = next((name for name in ordered if name in bringup), next(iter(bringup)))
    told = bringup[first]
    path = " → ".join(told["critical_path"])
    rows = []
    for site, each in bringup.items():
        days = [each["first_token"].get(f"{name}_on") for name in ("p10", "p50", "p90")]
        if not all(days):
            days = [f"week {each['first_token'][name]:.0f}" for name in ("p10", "p50", "p90")]
        what = f"first token at {site}, drawn {each['draws']:,} times"
        source = "phases of data/bringup.csv, each bar of the chart says its own; " + each["notice"]
        figures = [of.notes.figure(day, what, "modelled", source) for day in days]
        rows.append([site, each["building"], each["power"], *figures])
    head = ["site", "building", "power", "first token, P10", "median", "P90"]
    median, planned = told["first_token"].get("p50_on"), of.made.first_token
    late = ""
    if median and planned and median >= str(months_later(planned, 3)):
        late = (
            f'<p class="no">The median of the bring-up, {median}, is later than the quarter from '
            f"{planned} in which the plan has its first token: ask what stands already, or start "
            "earlier.</p>"
        )
    return (
        f"<h3>{escape(first)}</h3>"
        + of.drawn(gantt.svg(told), "gantt")
        + late
        + f"<p>Critical path, likely {told['likely_weeks']:.0f} weeks: {escape(path)}.</p>"
        + table(head, rows)
        + f'<p class="soft">{escape(told["notice"])} The plan itself counts whole quarters from '
        "the order and the day of power; where the two differ, the later one is the safer.</p>"
    )


def _foot(made: Designed) -> str:
    return (
        "<footer><p>Modelled throughout, from sourced figures; not legal advice, and no offer.</p>"
        f"<p>blueprint <code>{escape(made.blueprint_hash)}</code></p>"
        f"<p>catalog <code>{escape(made.catalog_hash)}</code></p>"
        "<p>The same blueprint and catalog give this page to the byte.</p></footer>"
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
