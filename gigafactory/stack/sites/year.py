"""All that changes by the hour at a site, in one call: what planners and the twin calculate with.

Arrays of float32, one row a site, one column an hour UTC of a common year. Modelled: see `grid`
(measured shapes under annual figures), `weather` (from monthly means), `cooling` (a plant).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack.sites import cooling, grid
from gigafactory.stack.sites.places import Site
from gigafactory.stack.sites.weather import weather

Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Year:
    """One row a site, in the order asked for."""

    carbon_g_per_kwh: Singles
    """Life cycle, of the grid."""
    price_usd_per_kwh: Singles
    dry_bulb_c: Singles
    wet_bulb_c: Singles
    pue: Singles
    """Power of the whole site over power of its machines."""
    wue_l_per_kwh: Singles
    """Water drawn per kWh of the machines."""


def year(sites: Sequence[Site], design: str = "air", seed: int = 0) -> Year:
    """The year at each site, cooled by `design` (a name in `cooling.COOLINGS`).

    Sites given more than once are calculated once. Same sites and seed, same year.
    """
    once = {id(site): site for site in sites}
    places = list(once.values())
    outside = weather(places, seed)
    of_places = Year(
        carbon_g_per_kwh=grid.carbon_g_per_kwh(places),
        price_usd_per_kwh=grid.price_usd_per_kwh(places),
        dry_bulb_c=outside.dry_bulb_c,
        wet_bulb_c=outside.wet_bulb_c,
        pue=_single(cooling.pue(outside.dry_bulb_c, outside.wet_bulb_c, design)),
        wue_l_per_kwh=_single(
            cooling.wue_l_per_kwh(outside.dry_bulb_c, outside.wet_bulb_c, design)
        ),
    )
    if len(places) == len(sites):
        return of_places
    row_of = {key: row for row, key in enumerate(once)}
    rows = [row_of[id(site)] for site in sites]
    return Year(*(getattr(of_places, field.name)[rows] for field in fields(Year)))


def _single(array: NDArray[np.floating]) -> Singles:
    return np.asarray(array, np.float32)
