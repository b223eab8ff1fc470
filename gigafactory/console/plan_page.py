"""What the sections of the report of a plan share: the page, its notes, plots set into cards."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from gigafactory.console import plan_charts
from gigafactory.console.plan_charts import Series
from gigafactory.console.plan_notes import Html, Notes, folded
from gigafactory.plan.designed import Designed, Purchase

CARDS = 6
"""So many plots of a kind stand open; the others are folded."""


@dataclass
class Page:
    """What all sections share: the design, its notes, a colour a system, styles of drawings."""

    made: Designed
    notes: Notes = field(default_factory=Notes)
    styles: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bought: dict[str, float] = defaultdict(float)
        for one in self.made.purchases:
            bought[one.system] += one.price
        standing = dict.fromkeys(use.system for use in self.made.uses)
        ranked = sorted(bought, key=lambda name: (-bought[name], name))
        names = [*ranked, *(name for name in standing if name not in bought)]
        self.inks = {name: number for number, name in enumerate(names)}
        self.places = {one.site: one for one in self.made.places}

    def money(self, amount: float) -> str:
        """An amount with its currency, four digits."""
        return plan_charts.scale(amount, self.made.currency).say(amount)

    def chosen(self, shown: str, what: str, more: str = "") -> Html:
        """A figure that the optimiser gave."""
        made = self.made
        said = f"the optimiser's answer to the blueprint, proven within {made.gap:.2%} of the best"
        return self.notes.figure(shown, what, made.basis, said + more)

    def drawn(self, svg: str, kind: str) -> Html:
        """A drawing of its own file set into the page, its styles kept from all else."""
        head, _, rest = svg.partition("<style>")
        style, _, body = rest.partition("</style>")
        self.styles[kind] = scoped(style, f".drawn.{kind}")
        return Html(f'<div class="drawn {kind}">{head}{body}</div>')


def scoped(style: str, scope: str) -> str:
    """Rules that hold within `scope` only: a drawing's style would else reach the whole page."""

    def within(found: re.Match[str]) -> str:
        selectors = found[1].strip()
        if selectors.startswith("@"):
            return f"{selectors} {{"
        return ", ".join(f"{scope} {one.strip()}" for one in selectors.split(",")) + " {"

    return re.sub(r"([^{}]+)\{", within, style)


def by_attribute(of: Page, what: str) -> dict[str, list[Purchase]]:
    """Purchases by site or system, the dearest first."""
    found: dict[str, list[Purchase]] = defaultdict(list)
    for one in of.made.purchases:
        found[getattr(one, what)].append(one)
    return dict(sorted(found.items(), key=lambda one: (-sum(p.price for p in one[1]), one[0])))


def standing(of: Page, site: str | None = None) -> dict[str, list[float]]:
    """System -> IT power of bought nodes that stand, by quarter; at one site or all."""
    found: dict[str, list[float]] = {}
    for one in of.made.purchases:
        if site in (None, one.site):
            by = found.setdefault(one.system, [0.0] * len(of.made.quarters))
            for number, day in enumerate(of.made.quarters):
                by[number] += one.power_w if day >= one.stands else 0.0
    return found


def columns(
    of: Page,
    title: str,
    unit: str,
    by: Mapping[str, Sequence[float]],
    mark: Html,
    limit: Sequence[float] | None = None,
) -> str:
    """A card of columns, a colour a system."""
    ranked = sorted(by, key=of.inks.__getitem__)
    series = [Series(system, of.inks[system], by[system]) for system in ranked]
    return plot(of.made, title, unit, series, mark, limit)


def plot(
    made: Designed,
    title: str,
    unit: str,
    series: Sequence[Series],
    mark: Html,
    limit: Sequence[float] | None = None,
) -> str:
    """A card of columns, a colour a series."""
    shown = plan_charts.unit_of(unit, series, limit)
    drawn = plan_charts.columns(title, unit, made.quarters, series, limit)
    return drawn_figure(title, Html(f" <small>{escape(shown)}</small>{mark}"), drawn)


def drawn_figure(title: str, mark: Html, drawn: str) -> str:
    """A drawing with its title."""
    return f"<figure><figcaption>{escape(title)}{mark}</figcaption>{drawn}</figure>"


def cards(plots: Sequence[str], what: str) -> str:
    """The first stand open, the others are folded."""
    if len(plots) <= CARDS + 2:
        return f'<div class="cards">{"".join(plots)}</div>'
    shown = f'<div class="cards">{"".join(plots[:CARDS])}</div>'
    rest = f'<div class="cards">{"".join(plots[CARDS:])}</div>'
    return shown + folded(f"{len(plots) - CARDS} more {what}", rest)


def legend(of: Page, limit: str = "") -> str:
    """The colour of each system, and of a limit."""
    line = f'<li class="cap">{escape(limit)}</li>' if limit else ""
    return swatches(of.inks.items(), line)


def swatches(inks: Iterable[tuple[str, int]], more: str = "") -> str:
    """Names with their colours."""
    items = "".join(
        f'<li style="--ink-of: var(--s{min(ink, plan_charts.INKS)})">{escape(name)}</li>'
        for name, ink in inks
    )
    return f'<ul class="legend">{items}{more}</ul>'


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a row, the first few of many."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "nowhere"
