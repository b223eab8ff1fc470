"""A typical year of weather hour by hour, made from monthly means. Modelled.

In: the normals of `data/climate.csv` (monthly mean dry bulb and relative humidity) and
`data/climate_design.csv` (mean daily maximum of the hottest month; dry bulb and wet bulb that are
passed in 0.4 % of the hours). Out: dry bulb and wet bulb in degrees Celsius, relative humidity
0-1, pressure in Pa.

The year is a smooth curve through the months, plus a day (coldest before sunrise, warmest about
14:00 by the sun; its swing grows with the sun and the dryness of the month), plus weather: each
day remembers something of the day before, and the spread of days is the one with which 0.4 % of
the hours are hotter than the design dry bulb. The vapour in the air follows the day's mean, so
relative humidity falls in the afternoon; pressure is that of the standard atmosphere. Every
month (UTC) has the mean of the normals: dry bulb exactly, relative humidity nearly.
Constants, with what they were fitted to: `data/climate_model.csv`.

What it leaves out: neighbours have weather of their own (no heat wave covers two places), no
month is warmer than its normal, and no climate warms.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack import facts
from gigafactory.stack.sites import air, hours
from gigafactory.stack.sites.places import Site

Floats = air.Floats
Singles = NDArray[np.float32]

DAY = np.array(
    [
        *(-0.51, -0.59, -0.67, -0.73, -0.78, -0.81, -0.77, -0.57, -0.26, 0.11, 0.43, 0.69),
        *(0.87, 0.98, 1.00, 0.95, 0.81, 0.57, 0.30, 0.07, -0.10, -0.22, -0.32, -0.43),
    ]
)
"""Dry bulb less its daily mean by hour of solar time, in units of the highest. Derived: mean of
24 places x 12 months of hourly weather (sources as in `data/climate_model.csv`)."""
DESIGN_HOURS = 35
"""0.4 % of the hours pass a design figure."""
NOTHING = np.zeros(12)
SWING_LEAST_K, DRIEST = 0.5, 0.03
WIDER = (0.1, 4.0)
"""By how much the spread of summer days may differ from the usual one to meet the design."""
FOLLOWS_MOVED = 2.0
"""How far the share of warmth that vapour follows may be moved."""


@dataclass(frozen=True)
class Climate:
    """Normals of one place. What the sources do not say is None."""

    place: str
    latitude: float
    longitude: float
    dry_bulb_c: Floats
    """(12,)"""
    relative_humidity: Floats
    """(12,)"""
    wet_bulb_published_c: Floats
    """(12,), of the monthly means: a check of the model, which makes no use of it."""
    daily_max_c: float | None
    """Mean daily maximum of the hottest month."""
    design_dry_bulb_c: float | None
    design_wet_bulb_c: float | None
    """Passed in 0.4 % of the hours."""
    basis: str
    source: str


@dataclass(frozen=True)
class Weather:
    """Arrays of float32, one row a site, 8,760 hours UTC."""

    dry_bulb_c: Singles
    relative_humidity: Singles
    wet_bulb_c: Singles
    pressure_pa: Singles


def weather(sites: Sequence[Site], seed: int = 0) -> Weather:
    """A typical year at each of these sites. The same place and seed give the same year."""
    rows = np.empty((4, len(sites), hours.HOURS), np.float32)
    done: dict[int, int] = {}
    for index, site in enumerate(sites):
        same = done.setdefault(id(site), index)
        if same < index:
            rows[:, index] = rows[:, same]
        else:
            dry_bulb_c, humidity, wet_bulb_c, pressure_pa = _year(site, seed)
            rows[:3, index] = dry_bulb_c, humidity, wet_bulb_c
            rows[3, index] = pressure_pa
    return Weather(*rows)


def climate_of(site: Site) -> Climate:
    """The normals of the site, or of the nearest place that has some (`place` says which)."""
    known = climates()
    if site.climate in known:
        return known[site.climate]
    return min(known.values(), key=lambda one: _apart(one, site))


@cache
def climates() -> dict[str, Climate]:
    """Place -> its normals."""
    curves: dict[str, dict[str, dict[str, str]]] = {}
    for row in facts.rows("climate"):
        curves.setdefault(row["place"], {})[row["quantity"]] = row
    design = facts.by_subject("climate_design")
    return {place: _climate(place, curves[place], design[place]) for place in curves}


def _climate(
    place: str, curves: dict[str, dict[str, str]], design: dict[str, facts.Fact]
) -> Climate:
    monthly = {
        quantity: np.array([float(row[f"m{month:02}"]) for month in range(1, 13)])
        for quantity, row in curves.items()
    }
    latitude, longitude = design["latitude"].value, design["longitude"].value
    assert latitude is not None
    assert longitude is not None
    return Climate(
        place=place,
        latitude=latitude,
        longitude=longitude,
        dry_bulb_c=monthly["dry_bulb"],
        relative_humidity=monthly["relative_humidity"] / 100,
        wet_bulb_published_c=monthly["wet_bulb_published"],
        daily_max_c=design["daily_max_hottest_month"].value,
        design_dry_bulb_c=design["design_dry_bulb"].value,
        design_wet_bulb_c=design["design_wet_bulb"].value,
        basis=curves["dry_bulb"]["basis"],
        source=curves["dry_bulb"]["source"],
    )


def _year(site: Site, seed: int) -> tuple[Floats, Floats, Floats, float]:
    """(dry bulb, relative humidity, wet bulb, pressure) of one site."""
    climate = climate_of(site)
    pressure_pa = air.standard_pressure_pa(site.elevation_m)
    solar_h = np.arange(hours.HOURS) + climate.longitude / 15
    warm, moist = _days(climate.place, seed, solar_h)
    dry_bulb_c = _dry_bulb(climate, _usual(climate, solar_h), warm)
    humidity = _humidity(climate, dry_bulb_c, moist, pressure_pa)
    return dry_bulb_c, humidity, air.wet_bulb_c(dry_bulb_c, humidity, pressure_pa), pressure_pa


def _usual(climate: Climate, solar_h: Floats) -> Floats:
    """Dry bulb of a day without weather: the year's curve and the day's swing."""
    hottest = int(climate.dry_bulb_c.argmax())
    summer_k = _constant("swing", "usual")
    if climate.daily_max_c is not None:
        summer_k = max(climate.daily_max_c - climate.dry_bulb_c.max(), SWING_LEAST_K)
    dry = 1 - np.minimum(climate.relative_humidity, 0.95)
    sun = _sun(climate.latitude)
    swing_k = summer_k * (
        (sun / sun[hottest]) ** _constant("swing", "sun_power")
        * (dry / dry[hottest]) ** _constant("swing", "dryness_power")
    )
    day = np.interp(solar_h % 24, np.arange(25), np.append(DAY, DAY[0]))
    return _kept(smooth(swing_k) * day, climate.dry_bulb_c)


def _dry_bulb(climate: Climate, usual_c: Floats, warm: Floats) -> Floats:
    """Usual days and weather, the summer's as wide as the design dry bulb asks, by bisection."""
    cooler_k = climate.dry_bulb_c.max() - climate.dry_bulb_c
    spread_k = np.exp(
        _constant("spread", "usual")
        + _constant("spread", "cold_per_k") * cooler_k
        + _constant("spread", "per_degree") * abs(climate.latitude)
    )
    summer = np.exp(-cooler_k / _constant("spread", "summer_k"))
    winters_c = usual_c + _kept(smooth(spread_k * (1 - summer)) * warm, NOTHING)
    summers_k = _kept(smooth(spread_k * summer) * warm, NOTHING)
    design_c = climate.design_dry_bulb_c
    if design_c is None:
        return winters_c + summers_k
    low, high = WIDER
    near = winters_c + high * np.maximum(summers_k, 0) > design_c
    for _ in range(12):
        wider = (low + high) / 2
        hotter = np.count_nonzero(winters_c[near] + wider * summers_k[near] > design_c)
        low, high = (low, wider) if hotter > DESIGN_HOURS else (wider, high)
    return winters_c + low * summers_k


def _humidity(climate: Climate, dry_bulb_c: Floats, moist: Floats, pressure_pa: float) -> Floats:
    """Relative humidity: the vapour of the day over what the air of the hour could hold.

    How far vapour follows warmth, by day, is moved until the design wet bulb is met (counted by
    the heat of the air, which rises and falls with its wet bulb), by bisection.
    """
    mean_c, mean_rh = climate.dry_bulb_c, climate.relative_humidity

    def by_month(quantity: str) -> Floats:
        per_k = _constant("vapour", f"{quantity}_per_k")
        per_rh = _constant("vapour", f"{quantity}_per_rh")
        return np.asarray(_constant("vapour", quantity) + per_k * mean_c + per_rh * mean_rh)

    curve_c = smooth(mean_c)
    warmer_k = _day_means(dry_bulb_c) - curve_c
    usual_c = curve_c + smooth(by_month("follows")) * warmer_k
    full_pa = air.saturation_pa(dry_bulb_c)
    own = np.exp(smooth(np.exp(by_month("own_spread"))) * moist) / full_pa

    def followed(moved: float) -> Floats:
        held = own * air.saturation_pa(usual_c + moved * warmer_k)
        share = mean_rh.copy()
        for _ in range(4):  # Until months keep their means though no air holds more than all.
            humidity = np.clip(smooth(share) * held, DRIEST, 1.0)
            share *= mean_rh / hours.month_means(humidity)
        return humidity

    design_c = climate.design_wet_bulb_c
    if design_c is None:
        return followed(0.0)
    design_heat = air.heat_j_per_kg(design_c, air.saturation_pa(design_c), pressure_pa)
    low, high = -FOLLOWS_MOVED, FOLLOWS_MOVED
    for _ in range(6):
        moved = (low + high) / 2
        heat = air.heat_j_per_kg(dry_bulb_c, followed(moved) * full_pa, pressure_pa)
        muggier = np.count_nonzero(heat > design_heat)
        low, high = (low, moved) if muggier > DESIGN_HOURS else (moved, high)
    return followed((low + high) / 2)


def _day_means(dry_bulb_c: Floats) -> Floats:
    """Mean of the 24 hours around each hour; the year closes on itself."""
    summed = np.cumsum(np.concatenate((dry_bulb_c[-12:], dry_bulb_c, dry_bulb_c[:12])))
    return (summed[24:] - summed[:-24]) / 24


def _days(place: str, seed: int, solar_h: Floats) -> tuple[Floats, Floats]:
    """Two standard normal series, of warmth and of moisture, from noon to noon by the sun."""
    chance = np.random.default_rng((seed, zlib.crc32(place.encode())))
    memory = _constant("spread", "memory") ** np.arange(20)
    drawn = chance.standard_normal((2, 367 + len(memory) - 1)) / math.sqrt(memory @ memory)
    noon = np.arange(-1, 366) * 24 + 12
    warm, moist = (np.interp(solar_h, noon, np.convolve(one, memory, "valid")) for one in drawn)
    return warm, moist


def smooth(monthly: Floats) -> Floats:
    """The smooth hourly curve with these means in the months."""
    return np.asarray(_curves() @ monthly)


def _kept(hourly: Floats, monthly: Floats) -> Floats:
    """`hourly` moved smoothly until its months have these means."""
    return hourly + smooth(monthly - hours.month_means(hourly))


@cache
def _curves() -> Floats:
    """(8760, 12): column m is the smoothest wave with mean 1 in month m and 0 in the others."""
    turn = 2 * np.pi * (np.arange(hours.HOURS) + 0.5) / hours.HOURS
    waves = [np.ones(hours.HOURS)]
    waves += [wave(k * turn) for k in range(1, 6) for wave in (np.cos, np.sin)]
    waves += [np.sin(6 * turn)]
    basis = np.array(waves)
    return np.asarray(np.linalg.solve(hours.month_means(basis), basis).T)


def _sun(latitude: float) -> Floats:
    """Sun above the air by month, relative; never quite none, since polar nights have warm days."""
    middle = np.cumsum(hours.DAYS_OF_MONTHS) - np.array(hours.DAYS_OF_MONTHS) / 2
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + middle) / 365)
    north = math.radians(latitude)
    half_day = np.arccos(np.clip(-math.tan(north) * np.tan(declination), -1, 1))
    high = np.sin(north) * np.sin(declination) * half_day
    return np.maximum(high + np.cos(north) * np.cos(declination) * np.sin(half_day), 0.02)


def _apart(climate: Climate, site: Site) -> float:
    """Of two places, the farther one has more; 1 less the cosine of the angle between them."""
    north, there = math.radians(climate.latitude), math.radians(site.latitude)
    east = math.radians(climate.longitude - site.longitude)
    cosine = math.cos(north) * math.cos(there) * math.cos(east)
    return 1 - math.sin(north) * math.sin(there) - cosine


def _constant(part: str, quantity: str) -> float:
    value = facts.by_subject("climate_model")[part][quantity].value
    assert value is not None
    return value
