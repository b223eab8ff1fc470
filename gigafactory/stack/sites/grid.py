"""Carbon and price of electricity by hour: a measured shape under the site's own annual figure.

Out: life-cycle gCO2e/kWh and USD/kWh, sites x 8,760 hours UTC. The shape is a zone's mean by
season and hour of the local civil clock (`data/grid.csv`); the mean over the year is the site's
own. A site whose zone has no curve takes the one that `data/grid_proxies.csv` names for its zone,
country, or the world, or its country's only one; `shape` says which.

Carbon scales: hour = annual figure x zone's hour / zone's mean. A price does not, since most of
a delivered price is networks, levies and margin that no hour moves: there the zone's wholesale
hour less its mean is added, in full, or as far as a price below the wholesale mean or a negative
hour lets it stay above zero. So the buyer's energy is assumed to be settled by the hour. A
time-of-use tariff, which is an index, scales; that it leaves fixed charges out is neglected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack import facts, money
from gigafactory.stack.sites import hours
from gigafactory.stack.sites.places import Site

FLAT = "flat"
METRICS = {
    "carbon": ("carbon_lca",),
    "price": ("price_day_ahead_or_spot", "price_day_ahead", "tariff_index_flat_equals_1"),
}
INDEX = "ratio"
"""Unit of a tariff that is given as an index and not as money."""
# Month 1-12 -> the seasons that hold then, the more special one last.
SEASONS = {
    "ALL": range(1, 13),
    "DJF": (12, 1, 2),
    "MAM": (3, 4, 5),
    "JJA": (6, 7, 8),
    "SON": (9, 10, 11),
    "JAS": (7, 8, 9),
}


@dataclass(frozen=True)
class Shape:
    """Where the hours of a figure come from."""

    zone: str
    """In `data/grid.csv`; empty where all hours are alike."""
    metric: str
    unit: str
    basis: str
    """Of the curve, or `assumed` where it stands in for another."""
    source: str
    as_of: str
    years: str
    proxy: str
    """Why this curve stands in; empty where it is the site's own zone's."""
    notes: str


def carbon_g_per_kwh(sites: Sequence[Site]) -> NDArray[np.float32]:
    """Life-cycle carbon, (sites, 8760). The annual mean is each site's own figure."""
    return _rows(sites, "carbon", "carbon")


def price_usd_per_kwh(sites: Sequence[Site]) -> NDArray[np.float32]:
    """Price, (sites, 8760), never below zero. The annual mean is each site's own figure."""
    return _rows(sites, "price", "electricity_price")


def shape(site: Site, figure: str) -> Shape:
    """The curve that `carbon` or `price` of this site follows, and why."""
    own = site.grid_zone if figure == "carbon" else site.price_zone
    return _shape(own, site.grid_zone, site.country, figure)


@cache
def _shape(own: str, grid_zone: str, country: str, figure: str) -> Shape:
    curves = _curves(figure)
    if own in curves:
        return _said(curves[own], "")
    named = {row["place"]: row for row in facts.rows("grid_proxies") if row["quantity"] == figure}
    at_home = [zone for zone, rows in curves.items() if rows[0]["country"] == country]
    whole = country if country in curves else at_home[0] if len(at_home) == 1 else None
    row = named.get(grid_zone) or named.get(country)
    if row is None and whole is not None:
        return _said(curves[whole], f"{whole}: the curve that there is of the country")
    row = row or named["WORLD"]
    if row["value"] != FLAT:
        return _said(curves[row["value"]], f"{row['value']}: {row['source']}")
    return Shape(
        zone="",
        metric=METRICS[figure][0],
        unit="",
        basis=row["basis"],
        source=row["source"],
        as_of=row["as_of"],
        years="",
        proxy=f"{FLAT}: {row['source']}",
        notes="",
    )


def _said(rows: tuple[dict[str, str], ...], proxy: str) -> Shape:
    row = rows[0]
    return Shape(
        zone=row["zone"],
        metric=row["metric"],
        unit=row["unit"],
        basis="assumed" if proxy else row["basis"],
        source=row["source"],
        as_of=row["as_of"],
        years=row["years"],
        proxy=proxy,
        notes=row["notes"],
    )


def _rows(sites: Sequence[Site], figure: str, annual: str) -> NDArray[np.float32]:
    rows = np.empty((len(sites), hours.HOURS), np.float32)
    done: dict[int, int] = {}
    for index, site in enumerate(sites):
        same = done.setdefault(id(site), index)
        if same < index:
            rows[index] = rows[same]
            continue
        mean = site.figures[annual].value
        assert mean is not None, f"{site.id} has no {annual}"
        rows[index] = _hourly(shape(site, figure), site.timezone, mean)
    return rows


def _hourly(of: Shape, timezone: str, mean: float) -> NDArray[np.float64]:
    """The figure in each hour, given its annual mean."""
    if not of.zone:
        return np.full(hours.HOURS, mean)
    hourly, average, lowest = _curve(of.zone, of.metric, timezone)
    if of.metric in METRICS["carbon"] or of.unit == INDEX:
        return mean * (hourly / average)
    passed = min(1.0, mean / max(average, average - lowest))
    return mean + passed * (hourly - average)


@cache
def _curve(zone: str, metric: str, timezone: str) -> tuple[NDArray[np.float64], float, float]:
    """(each hour's value on that clock, their mean, their least); wholesale prices in USD/kWh."""
    months = np.full((12, 24), np.nan)
    figure = "carbon" if metric in METRICS["carbon"] else "price"
    rows = {row["season"]: row for row in _curves(figure)[zone]}
    for season, of_year in SEASONS.items():
        if season in rows:
            day = [float(rows[season][f"h{hour:02}"]) for hour in range(24)]
            months[[month - 1 for month in of_year]] = day
    assert not np.isnan(months).any(), f"{zone} lacks a season of {metric}"
    money_, _, per = rows["ALL"]["unit"].partition("/")
    if per == "MWh":
        months *= money.rates()[money_] / 1000
    hour, month = hours.local_hours(timezone)
    hourly = months[month, hour]
    hourly.flags.writeable = False
    return hourly, float(hourly.mean()), float(hourly.min())


@cache
def _curves(figure: str) -> dict[str, tuple[dict[str, str], ...]]:
    """Zone -> its rows of this figure. Curves that their notes call suspect are no shapes."""
    curves: dict[str, tuple[dict[str, str], ...]] = {}
    for row in facts.rows("grid"):
        if row["metric"] in METRICS[figure] and not row["notes"].startswith("suspect"):
            curves[row["zone"]] = (*curves.get(row["zone"], ()), row)
    return curves
