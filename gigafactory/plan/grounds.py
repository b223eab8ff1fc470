"""What a site of a blueprint gives to a design: power by quarter, PUE, price, carbon, who is near.

A named `place` answers from the catalogue, else the country does; what the blueprint states
goes before both. SI; money in the blueprint's currency per J. Modelled where the catalogue is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache

import numpy as np

from gigafactory.blueprint.schema import Blueprint
from gigafactory.plan import halls
from gigafactory.stack import money, sites
from gigafactory.stack.sites import Figure
from gigafactory.stack.sites.year import year

J_PER_KWH = 3.6e6
HOT_SHARE = 0.996
"""The cap holds in all but 0.4 % of the hours, as design temperatures go; then load is shed."""


@dataclass(frozen=True)
class Ground:
    """One site, as a design sees it."""

    name: str
    catalog: sites.Site
    pue: float
    """Mean over the year."""
    pue_hot: float
    """In the hottest hours, for which the connection must do."""
    wue_l_per_kwh: float
    energy_price: float
    """Money per J."""
    carbon_g_per_j: float
    powered: date
    basis: Mapping[str, str]
    sources: Mapping[str, str]


def ground(blueprint: Blueprint, name: str, rates: Mapping[str, float]) -> Ground:
    """What the catalogue and the blueprint say of a site; `rates` into the blueprint's currency."""
    site = blueprint.sites[name]
    at = sites.site(site.place or site.country)
    pue, pue_hot, wue = _cooling(at, site.cooling)
    basis = {"pue": "modelled", "wue": "modelled"}
    sources = {"pue": f"{site.cooling} cooling in the modelled weather of {at.id}"}
    if site.pue is not None:
        pue = pue_hot = site.pue
        basis["pue"], sources["pue"] = "stated", "the blueprint"
    figure = at.figures["electricity_price"]
    price = (figure.value or 0.0) * rates["USD"] / J_PER_KWH
    basis["energy_price"], sources["energy_price"] = figure.basis, _said(figure)
    if site.energy_price is not None:
        stated = site.energy_price
        price = money.convert(stated.amount, stated.currency, blueprint.currency, rates)
        basis["energy_price"], sources["energy_price"] = "stated", "the blueprint"
    figure = at.figures["carbon"]
    carbon = (figure.value or 0.0) / J_PER_KWH
    basis["carbon"], sources["carbon"] = figure.basis, _said(figure)
    if site.carbon_g_per_j is not None:
        carbon, basis["carbon"], sources["carbon"] = site.carbon_g_per_j, "stated", "the blueprint"
    powered, basis["powered"], sources["powered"] = halls.ready(blueprint, name)
    return Ground(name, at, pue, pue_hot, wue, price, carbon, powered, basis, sources)


def near(ground: Ground, users: str, latency_s: float) -> bool:
    """Whether the users' round trip to a site is within their limit (likely value, modelled)."""
    trip_s = sites.round_trip_s(ground.catalog, sites.site(users)).value
    return trip_s is not None and trip_s <= latency_s


def months_later(day: date, months: int) -> date:
    """The same day of the month so many months later; the month's first if it has no such day."""
    year_, month = divmod(day.month - 1 + months, 12)
    try:
        return day.replace(year=day.year + year_, month=month + 1)
    except ValueError:
        return date(day.year + year_, month + 1, 1)


@cache
def _cooling(at: sites.Site, design: str) -> tuple[float, float, float]:
    """(mean PUE, PUE of the hottest hours, mean WUE)."""
    hours = year([at], design)
    hot = float(np.quantile(hours.pue[0], HOT_SHARE))
    return float(hours.pue[0].mean()), hot, float(hours.wue_l_per_kwh[0].mean())


def _said(figure: Figure) -> str:
    stand_in = f"stand-in, {figure.proxy}: " if figure.proxy else ""
    return f"{stand_in}{figure.source} ({figure.as_of})"
