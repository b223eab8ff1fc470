"""What a place gives: power, price, carbon, climate, water, distance, by the hour of a year.

`places` is the catalogue and is always here; the rest is arrays (site x hour of year) and loads
with its module. `weather` and `year` are modules that hold a function of their own name.

from gigafactory.stack import sites
sites.site("milan").figures["carbon"].value      # gCO2e/kWh
sites.round_trip_s(sites.site("milan"), sites.site("tokyo")).value
"""

from importlib import import_module
from typing import Any

from gigafactory.stack.sites.places import (
    Figure,
    Place,
    Site,
    UnknownPlace,
    data_centers,
    names,
    place,
    site,
    sites,
)

# Name -> the module that has it: numpy and the tables of hours load when somebody asks.
LATER = {
    "local_hours": "hours",
    "carbon_g_per_kwh": "grid",
    "price_usd_per_kwh": "grid",
    "shape": "grid",
    "Weather": "weather",
    "COOLINGS": "cooling",
    "pue": "cooling",
    "wue_l_per_kwh": "cooling",
    "distance_m": "network",
    "round_trip_s": "network",
    "Year": "year",
}

__all__ = [
    "Figure",
    "Place",
    "Site",
    "UnknownPlace",
    "data_centers",
    "names",
    "place",
    "site",
    "sites",
]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{LATER[name]}"), name)
