"""Why a design is as it is, as parts of its report: law over time, layouts, reasons, places.

W, USD and gCO2e as the design has them; each figure with its note.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from html import escape

from gigafactory.console import timeline
from gigafactory.console.plan_charts import plain, shortened
from gigafactory.console.plan_notes import OPEN_UP_TO, Html, cell, folded, rule_of, table
from gigafactory.console.plan_page import Page
from gigafactory.plan.designed import Designed, Lawful, Place, Speed
from gigafactory.units import show, show_duration

BANDS = 6
"""So many rows of the law stand open; the others are folded."""
LETTERS = 58
"""Of a row's label, which must fit the width of a phone."""
SEARCHED = "the search over layouts of the performance model, within the limits of the demand"
FIGURES = {
    "powered": "day of power",
    "pue": "PUE",
    "wue": "litres of water a kWh of IT, mean of the year",
    "energy_price": "price of electricity",
    "carbon": "carbon of electricity",
}
Stretches = tuple[Lawful, ...]


@dataclass(frozen=True)
class Alike:
    """Systems at sites of which the law says the same, all the time."""

    systems: tuple[str, ...]
    sites: tuple[str, ...]
    stretches: Stretches
    """Of the first of them, standing for all."""

    @property
    def label(self) -> str:
        """What fits beside a band."""
        systems, sites = _few(self.systems, 32), _few(self.sites, 22)
        return shortened(f"{systems} in {sites}", LETTERS)


def law(of: Page) -> str:
    """Bands of what the law says from quarter to quarter, and the same as a table."""
    made = of.made
    groups = alike(made)
    if not groups:
        return "<p>No system was asked about.</p>"
    first = min(one.first for one in made.law)
    last = max(one.end for one in made.law)
    drawn = [_bands(of, groups[:BANDS], first, last)]
    if rest := groups[BANDS:]:
        drawn.append(folded(f"{len(rest)} further rows", _bands(of, rest, first, last)))
    rows = []
    for group in groups:
        for one in group.stretches:
            rule = "" if not one.rule else of.notes.figure(one.rule, *rule_of(one.rule))
            rows.append(
                [
                    ", ".join(group.systems),
                    ", ".join(group.sites),
                    str(one.first),
                    str(one.end),
                    _may(one.may_stand),
                    timeline.words(one.outcome),
                    rule,
                ]
            )
    head = ["systems", "sites", "from", "until", "may be bought", "the law says", "strictest rule"]
    listed = table(head, rows, prose=[0, 1, 5])
    said = (
        "For the ultimate owner that the blueprint names. Systems and sites of which the same is "
        "said stand in one row. Rules change without notice: not legal advice."
    )
    return (
        f'<p class="soft">{said}</p>{"".join(drawn)}'
        f"{folded(f'Every row with its rules ({len(rows)})', listed, len(rows) <= OPEN_UP_TO)}"
    )


def alike(made: Designed) -> list[Alike]:
    """The law's rows, those alike as one; what is bought first, then what changes or is refused."""
    by_pair: dict[tuple[str, str], list[Lawful]] = defaultdict(list)
    for one in made.law:
        by_pair[one.site, one.system].append(one)
    by_said: dict[tuple, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    standing: dict[tuple, Stretches] = {}
    for (site, system), stretches in by_pair.items():
        stretches.sort(key=lambda one: one.first)
        said = tuple((s.first, s.end, s.may_stand, s.outcome, s.rule) for s in stretches)
        by_said[said][site].append(system)
        standing.setdefault(said, tuple(stretches))
    found = []
    for said, by_site in by_said.items():
        together: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for site, systems in by_site.items():
            together[tuple(sorted(systems))].append(site)
        found += [
            Alike(systems, tuple(sites), standing[said]) for systems, sites in together.items()
        ]
    bought = {(one.site, one.system) for one in made.purchases}

    def rank(one: Alike) -> tuple:
        chosen = any((site, system) in bought for site in one.sites for system in one.systems)
        refused = any(not stretch.may_stand for stretch in one.stretches)
        return not chosen, not refused, -len(one.stretches), one.systems, one.sites

    return sorted(found, key=rank)


def _bands(of: Page, groups: Sequence[Alike], first: date, last: date) -> Html:
    rows = []
    for group in groups:
        whole = f"{', '.join(group.systems)} in {', '.join(group.sites)}"
        bands: list[timeline.Band] = [
            (
                one.first,
                one.end,
                one.outcome,
                one.rule,
                f"{'May' if one.may_stand else 'May not'} be bought: {whole}.",
            )
            for one in group.stretches
        ]
        rows.append((group.label, bands))
    return of.drawn(timeline.svg(rows, first, last, "What the law says"), "law")


def layouts(of: Page) -> str:
    """What runs where and how, then every system for every demand, and why not."""
    made = of.made
    speeds = {(one.demand, one.system): one for one in made.speeds}
    most: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for use in made.uses:
        by_site = most[use.demand, use.system]
        by_site[use.site] = max(by_site.get(use.site, 0.0), use.nodes)
    chosen = []
    for (demand, system), by_site in most.items():
        speed = speeds.get((demand, system))
        shown = _speed(of, speed) if speed else ["–"] * len(SPEED_HEAD)
        at = _few(tuple(by_site), 40)
        peak = of.notes.figure(
            f"{max(by_site.values()):,.1f}",
            "nodes in use at most at one site, mean of a quarter",
            made.basis,
            "the optimiser's answer",
        )
        chosen.append([demand, system, at, peak, *shown])
    head = ["demand", "on", "at", "nodes at most", *SPEED_HEAD]
    numbers = range(3, 10)
    first = table(head, chosen, numbers, prose=[2, 10]) if chosen else "<p>Nothing runs.</p>"
    parts = []
    for demands, each in _same(made).items():
        rows = []
        for one in each:
            taken = [demand for demand in demands if (demand, one.system) in most]
            rows.append([one.system, *_speed(of, one), _why_not(made, one, taken, demands)])
        inside = table(
            ["system", *SPEED_HEAD, "chosen, or why not"], rows, range(1, 7), prose=[7, 8]
        )
        parts.append(f"<h3>{escape(', '.join(demands))}</h3>{inside}")
    every = folded(f"Every system for every demand ({len(made.speeds)})", "".join(parts))
    return f"<h3>As they are to run</h3>{first}{every}"


SPEED_HEAD = ("tokens/s a node", "a chip", "fewest nodes", "MFU", "TPOT", "TTFT", "layout")


def _speed(of: Page, one: Speed) -> list[Html | str]:
    """Rates, nodes, MFU, TPOT, TTFT, layout; dashes where it cannot."""
    kind = "service" if one.mfu is None else "training run"

    def told(value: float | None, shown: str, what: str) -> Html | str:
        if value is None:
            return "–"
        return of.notes.figure(shown, f"{what}, {kind}", "modelled", SEARCHED)

    node, chip = one.tokens_per_s_per_node, one.tokens_per_s_per_chip
    return [
        told(node, f"{node or 0:,.0f}", "tokens/s a node"),
        told(chip, f"{chip or 0:,.0f}", "tokens/s a chip"),
        told(one.nodes, f"{one.nodes or 0:,}", "fewest nodes of the layout"),
        told(one.mfu, f"{one.mfu or 0:.0%}", "model FLOP/s over peak in bfloat16"),
        told(one.tpot_s, show_duration(one.tpot_s or 0), "time per output token"),
        told(one.ttft_s, show_duration(one.ttft_s or 0), "time to first token"),
        one.layout or "–",
    ]


def _same(made: Designed) -> dict[tuple[str, ...], list[Speed]]:
    """Demands of which every system does the same, with what they do."""
    by_demand: dict[str, list[Speed]] = defaultdict(list)
    for one in made.speeds:
        by_demand[one.demand].append(one)
    together: dict[str, list[str]] = defaultdict(list)
    for demand, each in by_demand.items():
        key = repr([one.model_dump(exclude={"demand"}) for one in each])
        together[key].append(demand)
    return {tuple(demands): by_demand[demands[0]] for demands in together.values()}


def _why_not(
    made: Designed, one: Speed, taken: Sequence[str], demands: Sequence[str]
) -> Html | str:
    if one.why_not:
        return Html(f'<span class="no">cannot</span>: {escape(one.why_not)}')
    if taken:
        rest = "" if len(taken) == len(demands) else f" for {', '.join(taken)}"
        return Html(f'<span class="yes">chosen</span>{escape(rest)}')
    why = made.reasons.get(one.system)
    return f"can, not chosen: {why}" if why else "can; others are better for this demand"


def reasons(of: Page) -> str:
    """What holds the plan back with what more of it is worth, then why the others lost."""
    made = of.made
    unit = {
        "cost": made.currency,
        "carbon": "gCO₂e",
        "first-token": "quarters",
        "tokens-per-joule": "tokens/J",
    }.get(made.objective, "")
    mark = of.notes.mark(
        "what a little more of a constraint is worth",
        made.basis,
        "prices of the linear model in which training runs keep their places and nodes may be "
        "split; they hold for a little more",
    )
    parts: list[str] = []
    if made.binding:
        rows = [
            [cell(Html(escape(what))), Html(f"{escape(worth)}{mark}")]
            for what, worth in made.binding
        ]
        listed = table(["what binds", f"a little more, {unit}"], rows, prose=[0, 1])
        parts.append(folded(f"What binds ({len(rows)})", listed, len(rows) <= OPEN_UP_TO))
    else:
        parts.append("<p>Nothing binds: more of anything would not help.</p>")
    if made.reasons:
        together: dict[str, list[str]] = defaultdict(list)
        for name, why in made.reasons.items():
            together[why].append(name)
        told = of.notes.mark(
            "why an alternative was not chosen",
            made.basis,
            "cost and worth of a node at the prices of the plan, in the quarter where it does best",
        )
        rows = [
            [", ".join(names), _kind(of, names), Html(f"{escape(why)}{told}")]
            for why, names in together.items()
        ]
        listed = table(["not chosen", "is a", f"why; amounts in {unit}"], rows, prose=[0, 2])
        parts.append("<h3>Why not the others</h3>" + listed)
    return "".join(parts)


def _kind(of: Page, names: Sequence[str]) -> str:
    kinds = dict.fromkeys("site" if name in of.places else "system" for name in names)
    return ", ".join(f"{kind}s" if len(names) > 1 else kind for kind in kinds)


def places(of: Page) -> str:
    """Every site with every figure."""
    made = of.made
    rows = []
    for one in made.places:
        power = show(one.power_w, "W")
        count = f"{one.count} × {power}" if one.count > 1 else power
        rows.append(
            [
                one.site,
                one.place,
                one.country,
                of.notes.figure(count, "power of the connection", "stated", "the blueprint"),
                figure(of, one, str(one.powered), "powered"),
                figure(of, one, f"{one.pue:.3f}", "pue", "mean of the year"),
                figure(of, one, f"{one.pue_hot:.3f}", "pue", "in the hottest hours"),
                figure(of, one, plain(round(one.wue_l_per_kwh, 4)), "wue"),
                figure(of, one, f"{one.energy_price_per_kwh:.4f}", "energy_price"),
                figure(of, one, f"{one.carbon_g_per_kwh:,.0f}", "carbon"),
            ]
        )
    head = ["site", "place", "in", "connection", "power from", "PUE", "in the heat", "L/kWh"]
    head += [f"{made.currency}/kWh", "gCO₂e/kWh"]
    return table(head, rows, range(3, 10))


def figure(of: Page, place: Place, shown: str, name: str, more: str = "") -> Html:
    """A figure of a place, with the basis and source that the design has for it."""
    what = ", ".join(filter(None, (FIGURES[name], more, place.site)))
    source = place.sources.get(name, "") or f"{place.place}, catalog of places"
    return of.notes.figure(shown, what, place.basis.get(name, "unknown"), source)


def _may(yes: bool) -> Html:
    return Html(f'<span class="{"yes" if yes else "no"}">{"yes" if yes else "no"}</span>')


def _few(names: Sequence[str], letters: int) -> str:
    """As many names as fit, and how many more there are."""
    for count in range(len(names), 1, -1):
        more = f" and {len(names) - count} more" if count < len(names) else ""
        if len(said := ", ".join(names[:count]) + more) <= letters:
            return said
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
