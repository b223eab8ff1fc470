"""PUE and WUE of published sites, each a row of text: what design, what climate, how sure.

In: rows with the columns `pue_id`, `operator`, `site`, `iso2`, `lat`, `lon`,
`cooling_type`, `t_mean_c`, `t_hottest_month_c`, `wb_mean_c`, `wb_hottest_month_c` (degrees
Celsius); an answer in the row is never read. Out: PUE with its 80 % interval, and WUE. Modelled.
The design follows from the words of `cooling_type`, the hours from the four climate columns;
where these are blank, from the catalogued place nearest to `lat` and `lon`, those of the country
`iso2`, or all.
Sources: `cooling.py`; the interval is that of published sites left out of the fit
(`benchmarks/pue.py`), by design.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack import facts
from gigafactory.stack.sites import cooling, places, weather

CLIMATE = ("t_mean_c", "t_hottest_month_c", "wb_mean_c", "wb_hottest_month_c")
READ = ("operator", "site", "iso2", "lat", "lon", "cooling_type", *CLIMATE)
"""Columns that an answer depends on, beside the row's name."""
COLUMNS = (
    *("pue_id", "pue", "low", "high", "wue_l_kwh"),
    *("design", "design_stated", "climate", "climate_stated"),
)
NAMING = ("operator", "site", "iso2", "cooling_type")
"""Columns of which one must say something, lest the row ask for nothing."""
# What `cooling_type` says -> design; the first that matches counts.
WORDS = (
    ("colocation", "colocation"),
    (r"leased|\bmixed\b", "mixed"),
    (r"sea ?water|fjord|\blake\b|\briver\b|ground ?water|aquifer", "sea-water"),
    ("immers", "immersion"),
    (r"water[- ]block|to[- ]chip|cold[- ]?plate|\bdlc\b|warm[- ]water", "direct-to-chip"),
    (r"rear[- ]door|\brdhx\b", "chilled-water"),
    ("liquid", "direct-to-chip"),
    (r"(free|outside|fresh)[- ]air|adiabatic|direct evaporative", "air"),
    (r"chill.*(free cooling|dry cool)|(free cooling|dry cool).*chill", "dry"),
    (r"chilled[- ]water|water[- ]cooled chill", "chilled-water"),
    ("tower|evaporative", "evaporative"),
    (r"chill|\bcrac\b|\bdx\b", "chilled-water"),
    (r"dry[- ]cool|free cooling|closed[- ]loop|waterless", "dry"),
    (r"\bair\b", "air"),
)
NONE_OF = re.compile(
    r"\b(?:no|non|not|nor|neither|never|without|instead of|rather than|avoid(?:s|ing)?)[- ]"
    r"(?!only\b|just\b|stated|disclosed|known|published|specified|given|said|reported)"
    r"\w+.*?(?=[,;:.()/+]|\b(?:and|but|with|only|using|when|plus|except|nor|other than)\b|$)"
    r"|\b(?:chiller|tower|compressor|evaporation)-?(?:less|free)\b"
)
"""Words that name what is not there, as far as the next stop or turn of the sentence."""
NO_WATER = re.compile(r"evaporat|tower|adiabatic|\bwater\b")
UNSTATED = "air"
"""What most large operators build when they do not say."""
NEAR_KM, EARTH_KM = 300.0, 6371.0
"""Further away, the nearest catalogued place says little more of a climate than any."""


class BadCase(ValueError):
    """A row that cannot be read; says which, which column, and why."""

    def __init__(self, row: str, column: str, why: str):
        self.row, self.column, self.why = row, column, why
        super().__init__(f"{row}, {column}: {why}")


def predict_cases(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """An answer for each row, as `COLUMNS`. Raises `BadCase` for the first unreadable row."""
    return [_predict(row, number) for number, row in enumerate(rows, 1)]


def design_of(cooling_type: str) -> str:
    """The design that the words of an operator name; `UNSTATED` where they name none."""
    return named(cooling_type) or UNSTATED


def named(cooling_type: str) -> str | None:
    """The design that the words of an operator name; None where they name none."""

    def left(none: re.Match[str]) -> str:
        return " waterless " if NO_WATER.search(none[0]) else " "

    said = NONE_OF.sub(left, cooling_type.lower())
    return next((design for words, design in WORDS if re.search(words, said)), None)


def hours(
    t_mean_c: float, t_hottest_month_c: float, wb_mean_c: float, wb_hottest_month_c: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(Dry bulb, wet bulb) of 288 moments that stand for a year: month x 3 hours x weather.

    One harmonic for the year, one for the day, and three kinds of days (cold, mean, warm) that
    have the mean and the standard deviation of a normal distribution.
    """
    of = cooling.constants()
    year = np.cos(np.arange(12) * 2 * np.pi / 12)[:, None, None]
    day = np.cos(np.arange(8) * 2 * np.pi / 8)[None, :, None]
    kind = math.sqrt(1.5) * np.array([-1.0, 0.0, 1.0])[None, None, :]
    season_k = t_hottest_month_c - t_mean_c
    swing_k = of["case-climate", "daily_swing"]
    spread_k = of["case-climate", "spread"] + of["case-climate", "seasonal_spread"] * season_k
    dry = t_mean_c + season_k * year + swing_k * day + spread_k * kind
    wet = (
        wb_mean_c
        + (wb_hottest_month_c - wb_mean_c) * year
        + of["case-climate", "wet_swing"] * swing_k * day
        + of["case-climate", "wet_spread"] * spread_k * kind
    )
    return dry.ravel(), np.minimum(wet, dry).ravel()


def _predict(row: Mapping[str, str], number: int) -> dict[str, Any]:
    name = _text(row, "pue_id")
    if not name:
        raise BadCase(f"row {number}", "pue_id", "is blank; an answer needs a name")
    stated = named(_text(row, "cooling_type"))
    design = stated or UNSTATED
    climate, position = _climate(row, name), _position(row, name)
    if climate is not None:
        source = "the row's own"
        dry, wet = (moments[None, :] for moments in hours(*climate))
    else:
        source, found = _stand_in(row, name, position)
        dry, wet = _weather(tuple(found))
    pues, wues = cooling.annual(dry, wet, design)
    below, above = interval(design)
    # Where several places stand in for one, their own spread counts, too.
    low, high = np.quantile(pues, [0.1, 0.9])
    return {
        "pue_id": name,
        "pue": round(float(pues.mean()), 4),
        "low": round(max(float(low) + below, 1.0), 4),
        "high": round(float(high) + above, 4),
        "wue_l_kwh": round(float(wues.mean()), 3),
        "design": design,
        "design_stated": stated is not None,
        "climate": source,
        "climate_stated": climate is not None,
    }


def interval(design: str) -> tuple[float, float]:
    """What to add to a PUE for the ends of its 80 % interval; wide where no site judges it."""
    known = facts.by_subject("cooling")
    subject = design if "pue_error" in known.get(design, {}) else "unjudged"
    error = known[subject]["pue_error"]
    assert error.low is not None, f"no interval of {subject}"
    assert error.high is not None, f"no interval of {subject}"
    return error.low, error.high


def _climate(row: Mapping[str, str], name: str) -> tuple[float, ...] | None:
    """The four climate columns; None unless all four are filled."""
    t_mean, t_hottest, wb_mean, wb_hottest = (_number(row, name, one, -60, 60) for one in CLIMATE)
    if t_mean is None or t_hottest is None or wb_mean is None or wb_hottest is None:
        return None
    for column, value, bound, why in (
        ("t_hottest_month_c", t_hottest, t_mean, "the hottest month is colder than the year"),
        ("wb_hottest_month_c", wb_hottest, wb_mean, "the hottest month is colder than the year"),
        ("wb_mean_c", t_mean, wb_mean, "wet bulb is above dry bulb"),
        ("wb_hottest_month_c", t_hottest, wb_hottest, "wet bulb is above dry bulb"),
    ):
        if value < bound:
            raise BadCase(name, column, f"{why}: {value:g} < {bound:g}")
    return t_mean, t_hottest, wb_mean, wb_hottest


def _position(row: Mapping[str, str], name: str) -> tuple[float, float] | None:
    latitude = _number(row, name, "lat", -90, 90)
    longitude = _number(row, name, "lon", -180, 180)
    if latitude is None and longitude is None:
        return None
    if latitude is None or longitude is None:
        blank = "lat" if latitude is None else "lon"
        raise BadCase(name, blank, "is blank; a position needs both lat and lon")
    return latitude, longitude


def _stand_in(
    row: Mapping[str, str], name: str, position: tuple[float, float] | None
) -> tuple[str, list[str]]:
    """What to call the climate, and the catalogued places whose weather stands in for it."""
    catalogued = [site for site in places.sites() if site.kind != "country"]
    if position is not None:
        away_km = [_away_km(position, (site.latitude, site.longitude)) for site in catalogued]
        nearest = int(np.argmin(away_km))
        if away_km[nearest] <= NEAR_KM:
            site = catalogued[nearest]
            return f"nearest catalogued: {site.name}, {away_km[nearest]:.0f} km", [site.id]
    country = _text(row, "iso2").upper()
    there = [site.id for site in catalogued if site.country == country]
    if there:
        return f"catalogued places in {country}: {len(there)}", there
    if not any(_text(row, column) for column in NAMING):
        raise BadCase(name, CLIMATE[0], "is blank, and the row names no place, operator or cooling")
    return f"all catalogued places: {len(catalogued)}", [site.id for site in catalogued]


@cache
def _weather(ids: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    seen = weather.weather([places.site(name) for name in ids])
    return seen.dry_bulb_c, seen.wet_bulb_c


def _away_km(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Great circle between two (latitude, longitude), by the chord on a sphere."""
    return 2 * EARTH_KM * math.asin(min(math.dist(_point(*here), _point(*there)) / 2, 1))


def _point(latitude: float, longitude: float) -> tuple[float, float, float]:
    up, round_ = math.radians(latitude), math.radians(longitude)
    return math.cos(up) * math.cos(round_), math.cos(up) * math.sin(round_), math.sin(up)


def _text(row: Mapping[str, str], column: str) -> str:
    return (row.get(column) or "").strip()


def _number(
    row: Mapping[str, str], name: str, column: str, low: float, high: float
) -> float | None:
    text = _text(row, column)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise BadCase(name, column, f"{text!r} is no number") from None
    if not low <= value <= high:  # also catches what is not a number at all
        raise BadCase(name, column, f"{text} is not within {low:g} to {high:g}")
    return value
