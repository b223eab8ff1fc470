"""What each hour of a run brings at each site: carbon, price, PUE, water. Modelled.

In: a blueprint and a seed for the weather. Out: gCO2e and money per J at the meter, W at the meter
per W of machines, L per J of machines; an hour holds from its start to the next.
A site is its `place`, or else its country, in `stack.sites`. What the blueprint states goes
before the catalogue: a PUE holds in all hours; carbon and price become the mean over the year
under the catalogue's curve, so that carbon scales with it, while of the price only what the
wholesale market moves is moved (see `stack.sites.grid`). Water stays that of the cooling.

Days are taken from the common year by their calendar date in UTC, whichever year it is, so years
are alike and 29 February is 28 February again.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.blueprint.schema import Blueprint, Site
from gigafactory.plan.quote import exchange
from gigafactory.stack import money, sites
from gigafactory.stack.sites.hours import HOURS, MONTH_STARTS
from gigafactory.stack.sites.year import year

Floats = NDArray[np.float64]
HOUR_S = 3600.0
J_PER_KWH = 3.6e6
FEBRUARY, LAST_OF_FEBRUARY = 1, 27
"""Counted from 0."""


@dataclass(frozen=True)
class Hours:
    """Arrays (sites, hours): a row a site in the blueprint's order, hour 0 at the start."""

    start_unix_s: float
    carbon_g_per_j: Floats
    """Per J at the meter, life cycle."""
    price_per_j: Floats
    """In the blueprint's currency, per J at the meter."""
    pue: Floats
    wue_l_per_j: Floats
    """Per J of the machines."""


def hours(blueprint: Blueprint, hours_count: int, seed: int) -> Hours:
    """So many hours from midnight UTC of the blueprint's first day."""
    assert hours_count > 0
    start = np.datetime64(blueprint.start)
    column = _of_common_year(start, hours_count)
    rates = exchange(blueprint)
    rows = []
    for site in blueprint.sites.values():
        of = year([_as_stated(site, blueprint.currency, rates)], site.cooling, seed)
        pue = of.pue[0] if site.pue is None else np.full(HOURS, site.pue)
        rows.append((of.carbon_g_per_kwh[0], of.price_usd_per_kwh[0], pue, of.wue_l_per_kwh[0]))
    carbon, price_usd, pue, wue = np.array(rows, np.float64).swapaxes(0, 1)[:, :, column]
    return Hours(
        start_unix_s=float(start.astype("M8[s]").astype(np.int64)),
        carbon_g_per_j=carbon / J_PER_KWH,
        price_per_j=price_usd * (rates["USD"] / J_PER_KWH),
        pue=pue,
        wue_l_per_j=wue / J_PER_KWH,
    )


def cumulative(rate_per_hour: Floats) -> Floats:
    """Integral over seconds from the start to each full hour, of a rate that an hour holds.

    (..., hours) becomes (..., hours + 1). With W that an attempt draws, the integral of
    `carbon_g_per_j * pue` between its start and its end gives its grams; likewise the rest.
    """
    first = np.zeros((*rate_per_hour.shape[:-1], 1))
    return np.concatenate((first, np.cumsum(rate_per_hour * HOUR_S, axis=-1)), axis=-1)


def between(cumulative: Floats, t0_s: Any, t1_s: Any, site: Any = None) -> Floats:
    """The integral from each `t0_s` to its `t1_s`, seconds since the start.

    `site` is the row of each; without it, the answer is for all rows.
    """
    return _until(cumulative, t1_s, site) - _until(cumulative, t0_s, site)


def _until(cumulative: Floats, at_s: Any, site: Any) -> Floats:
    at_h = np.asarray(at_s, np.float64) / HOUR_S
    count = cumulative.shape[-1] - 1
    assert np.all((at_h >= 0) & (at_h <= count)), "a time lies outside the hours"
    hour = np.minimum(at_h.astype(np.int64), count - 1)
    row = ... if site is None else site
    before, after = cumulative[row, hour], cumulative[row, hour + 1]
    return np.asarray(before + (at_h - hour) * (after - before))


def _of_common_year(start: np.datetime64, hours_count: int) -> NDArray[np.int64]:
    """Hour of the common year of each hour from the start."""
    hour = np.arange(hours_count)
    days = start + hour // 24
    months = days.astype("M8[M]")
    month = months.astype(np.int64) % 12
    day = (days - months.astype("M8[D]")).astype(np.int64)
    day = np.where(month == FEBRUARY, np.minimum(day, LAST_OF_FEBRUARY), day)
    return np.asarray(MONTH_STARTS[month] + day * 24 + hour % 24)


def _as_stated(site: Site, currency: str, rates: dict[str, float]) -> sites.Site:
    """The site of the catalogue, its annual figures replaced by those that the blueprint has."""
    at = sites.site(site.place or site.country)
    figures = dict(at.figures)
    if site.carbon_g_per_j is not None:
        stated = site.carbon_g_per_j * J_PER_KWH
        figures["carbon"] = replace(figures["carbon"], value=stated)
    if site.energy_price is not None:
        price, of = site.energy_price.amount, site.energy_price.currency
        usd = money.convert(price, of, currency, rates) / rates["USD"] * J_PER_KWH
        figures["electricity_price"] = replace(figures["electricity_price"], value=usd)
    return replace(at, figures=figures)
