"""What the places say when asked, as plain numbers: the JSON of the door.

USD/kWh, gCO2e/kWh, W, months, s, m, degrees Celsius, L/kWh; hours are those of the local civil
clock, months the local calendar's. Every figure says its basis, source and date. `modelled` is
what comes out of the models of hours, weather, cooling and distance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack import facts
from gigafactory.stack.sites import cooling, grid, hours, network, places, pue_cases, weather
from gigafactory.stack.sites.places import Figure, Site

Json = dict[str, Any]

DESIGNS = ("air", "direct-to-chip", "immersion")
"""What planners choose from, and what every page shows."""
ANYWHERE = tuple(name for name in cooling.COOLINGS if name != "sea-water")
"""Designs that a place can be asked for: not every one lies by the sea or a cold lake."""
SEASONS = ("DJF", "MAM", "JJA", "SON")
SEASON_OF_MONTH = np.array([0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0])
METRICS = {"electricity_price": ("price", "USD/kWh"), "carbon": ("carbon", "gCO2e/kWh")}
DESIGN_DAYS = ("design_dry_bulb", "design_wet_bulb", "daily_max_hottest_month")
ENTRY = (
    *("id", "name", "kind", "region_id", "city", "country", "country_name", "state"),
    *("latitude", "longitude", "elevation_m", "timezone", "status", "note", "source"),
)
NEAREST = 5
SAME_CITY_M = 25_000.0
"""Places nearer than that are one place to a packet."""
# What `sort` knows -> the figure that it looks at.
SORTS = {
    "carbon": "carbon",
    "price": "electricity_price",
    "pue": "pue",
    "wue": "wue",
    "water": "water_stress",
    "time-to-power": "time_to_power",
    "name": "",
}


def place(site: Site, design: str = "air") -> Json:
    """All that is known of one place: figures, hours, climate, overhead by cooling, distances."""
    seen = weather.weather([site])
    designs = dict.fromkeys((*DESIGNS, design))
    overhead = {name: _overhead(site, seen, name) for name in designs}
    pue = {name: of[0] for name, of in overhead.items()}
    wue = {name: of[1] for name, of in overhead.items()}
    figures = {name: asdict(figure) for name, figure in site.figures.items() if name != "pue"}
    figures |= {"pue": pue[design]["year"], "wue": wue[design]["year"]}
    if "pue" in site.figures:
        figures["pue_published"] = asdict(site.figures["pue"])
    return _entry(site) | {
        "cooling": design,
        "figures": figures,
        "hours": {name: _hours(site, *of) for name, of in METRICS.items()},
        "climate": _climate(site, seen),
        "pue": pue,
        "wue": wue,
        "nearest": _nearest(site),
    }


def compare(found: Sequence[Site], design: str = "air", sort: str = "name") -> Json:
    """A row for each place, ordered by a figure (unknown ones last), and the sum of all."""
    seen = weather.weather(found)
    overhead = {
        name: cooling.annual(seen.dry_bulb_c, seen.wet_bulb_c, name)
        for name in dict.fromkeys((*DESIGNS, design))
    }
    rows = []
    for number, site in enumerate(found):
        figures = {name: asdict(figure) for name, figure in site.figures.items() if name != "pue"}
        by_design = {
            f"{key}_by_cooling": {
                name: asdict(_modelled(site, key, name, of[which][number]))
                for name, of in overhead.items()
            }
            for key, which in (("pue", 0), ("wue", 1))
        }
        figures |= {key: by_design[f"{key}_by_cooling"][design] for key in ("pue", "wue")}
        rows.append(_entry(site) | {"figures": figures} | by_design)
    return {
        "sort": sort,
        "cooling": design,
        "sites": sorted(rows, key=lambda row: _rank(row, sort)),
        "sum": _sum(),
    }


def _entry(site: Site) -> Json:
    """Where and what a place is."""
    return {name: getattr(site, name) for name in ENTRY}


def _hours(site: Site, metric: str, unit: str) -> Json:
    """The day of each season, by local hour, and its best and worst hours."""
    of = {"price": grid.price_usd_per_kwh, "carbon": grid.carbon_g_per_kwh}
    hourly = of[metric]([site])[0].astype(float)
    hour, month = hours.local_hours(site.timezone)
    season = SEASON_OF_MONTH[month]
    day = _means(hourly, hour, 24)
    year = _means(hourly, season, 4)
    flat = bool(np.ptp(hourly) < 1e-4 * abs(hourly.mean()))
    shape = grid.shape(site, metric)
    return {
        "unit": unit,
        "by_season": {
            name: _means(hourly[season == number], hour[season == number], 24).tolist()
            for number, name in enumerate(SEASONS)
        },
        "by_hour": day.tolist(),
        # None where all hours are alike, as under a tariff.
        "least_hour": None if flat else int(day.argmin()),
        "most_hour": None if flat else int(day.argmax()),
        "least_season": None if flat else SEASONS[int(year.argmin())],
        "most_season": None if flat else SEASONS[int(year.argmax())],
        "basis": "modelled",
        "source": f"shape ({shape.basis}): {shape.source}",
        "as_of": shape.years or shape.as_of,
        "proxy": shape.proxy,
    }


def _climate(site: Site, seen: weather.Weather) -> Json:
    """Monthly means of the modelled hours, and the design day of the normals' sources."""
    told: Json = {}
    for name, unit, hourly in (
        ("dry_bulb", "degC", seen.dry_bulb_c[0]),
        ("wet_bulb", "degC", seen.wet_bulb_c[0]),
        ("relative_humidity", "%", seen.relative_humidity[0] * 100),
    ):
        months = _by_month(site, hourly)
        told[name] = {"by_month": months, "year": float(hourly.mean()), "unit": unit}
        told[name] |= _origin(site, name if name != "wet_bulb" else "dry_bulb")
    stated = _rows("climate_design", site.climate)
    for name in DESIGN_DAYS:
        row = stated.get(name)
        if row is not None:
            said = {key: row[key] for key in ("unit", "basis", "source", "as_of")}
            numbers = {
                key: float(row[key]) if row[key] else None for key in ("value", "low", "high")
            }
            told[name] = numbers | said | {"proxy": _climate_proxy(site)}
    return told


def _overhead(site: Site, seen: weather.Weather, design: str) -> tuple[Json, Json]:
    """(PUE, WUE) of one design: by month, and the year as a figure."""
    told = []
    for key, of in (("pue", cooling.pue), ("wue", cooling.wue_l_per_kwh)):
        hourly = of(seen.dry_bulb_c, seen.wet_bulb_c, design)[0]
        year = _modelled(site, key, design, float(hourly.mean()))
        told.append({"by_month": _by_month(site, hourly), "year": asdict(year)})
    return told[0], told[1]


def _modelled(site: Site, key: str, design: str, value: float) -> Figure:
    """A year's PUE or WUE with its 80 % interval, where published sites tell one."""
    low, high = pue_cases.interval(design) if key == "pue" else (None, None)
    model = "data/cooling.csv, docs/pue.md"
    origin = _origin(site, "dry_bulb")
    return Figure(
        value=float(value),
        low=None if low is None else max(float(value) + low, 1.0),
        high=None if high is None else float(value) + high,
        unit="1" if key == "pue" else "L/kWh",
        basis="modelled",
        source=f"{design} cooling ({model}) over modelled hours of {origin['source']}",
        as_of=origin["as_of"],
        proxy=origin["proxy"],
    )


def _origin(site: Site, quantity: str) -> Json:
    """Where the monthly means of a place come from; its hours are modelled from them."""
    row = _rows("climate", site.climate)[quantity]
    return {
        "basis": "modelled",
        "source": f"monthly means ({row['basis']}): {row['source']}",
        "as_of": row["as_of"],
        "proxy": _climate_proxy(site),
    }


def _climate_proxy(site: Site) -> str:
    """The place whose climate stands in; another entry of the same city is no stand-in."""
    if site.climate == site.id:
        return ""
    other = next((one for one in places.sites() if one.id == site.climate), None)
    if other is not None and network.distance_m(site, other) < SAME_CITY_M and site.city:
        return ""
    return f"climate of {other.name if other else site.climate}"


def _nearest(site: Site) -> list[Json]:
    """The next places by round trip, one for each city."""
    reached = []
    for other in places.sites():
        distance_m = network.distance_m(site, other)
        if distance_m > SAME_CITY_M:
            reached.append((network.round_trip_s(site, other), distance_m, other))
    reached.sort(key=lambda found: (found[0].value or 0, found[2].id))
    told: dict[str, Json] = {}
    for trip, distance_m, other in reached:
        stated = network.published_round_trip_s(site, other)
        told.setdefault(
            other.city or other.id,
            {
                "id": other.id,
                "name": other.name,
                "distance_m": distance_m,
                "round_trip": asdict(trip),
                "round_trip_published": stated and asdict(stated),
            },
        )
    return list(told.values())[:NEAREST]


def _sum() -> Json:
    """Alibaba Cloud's regions and data centers: those with a source, assumed and stated ones."""
    regions = places.sites("alibaba-region")
    sourced, assumed = (
        sum(int(site.figures[name].value or 0) for site in regions)
        for name in ("data_centers", "data_centers_assumed")
    )
    return {
        "places": len(places.sites()),
        "regions": len(regions),
        "data_centers_sourced": sourced,
        "data_centers_assumed": assumed,
        "data_centers": sourced + assumed,
    }


def _rank(row: Mapping[str, Any], sort: str) -> tuple[bool, Any, str]:
    name = row["name"].lower()
    if not SORTS[sort]:
        return (False, row["id"], name)
    value = row["figures"][SORTS[sort]]["value"]
    return (value is None, 0 if value is None else value, name)


def _by_month(site: Site, hourly: NDArray[Any]) -> list[float]:
    _, month = hours.local_hours(site.timezone)
    means: list[float] = _means(hourly.astype(float), month, 12).tolist()
    return means


def _means(values: NDArray[Any], of: NDArray[Any], count: int) -> NDArray[np.float64]:
    """The mean of the values of each group 0 to `count` - 1."""
    sums = np.bincount(of, weights=values, minlength=count)
    return np.asarray(sums / np.bincount(of, minlength=count))


def _rows(table: str, subject: str) -> dict[str, dict[str, str]]:
    """quantity -> row of `data/TABLE.csv` for one place."""
    return {row["quantity"]: row for row in facts.rows(table) if row["place"] == subject}
