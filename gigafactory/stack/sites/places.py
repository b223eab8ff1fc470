"""The catalogue of places: where each one is, and what electricity, grid and water give there.

58 places: the 29 open regions of Alibaba Cloud, 8 announced ones, 21 places of AI; and the
countries they lie in. USD/kWh, gCO2e/kWh, W, months, degrees (north and east positive), m;
water stress is the WRI Aqueduct score, 0 (low) to 5 (extremely high).
A figure that a place lacks is taken from a stand-in, which `Figure.proxy` names. The figure of
the whole country keeps its basis; any farther stand-in is `assumed`.
Sources: each fact's own, in `data/sites.csv` and `data/places.csv`.
"""

import difflib
import re
import statistics
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from gigafactory.stack import facts, money

KINDS = ("alibaba-region", "alibaba-announced", "ai-site")
"""Of the catalogue, in the order in which a name that several places share is looked up."""
COUNTRY = "country"
OPERATOR, WORLD = "ALIBABA", "WORLD"
CURRENCY = "USD"
STAND_IN = re.compile(r"proxy: ([^;]+)")


class UnknownPlace(LookupError):
    """No such place; `near` holds the valid names most like it."""

    def __init__(self, name: str, known: Iterable[str], otherwise: Iterable[str] = ()):
        self.name = name
        spelt = {key(one): one for one in known}
        near = difflib.get_close_matches(key(name), spelt, n=3, cutoff=0.7)
        self.near = [spelt[one] for one in near] or sorted(otherwise or spelt.values())
        super().__init__(f"no place {name!r}; nearest: {', '.join(self.near)}")


@dataclass(frozen=True)
class Figure:
    """One quantity of one place. `value` is None where even a stand-in makes no sense."""

    value: float | None
    low: float | None
    high: float | None
    unit: str
    basis: str
    source: str
    as_of: str
    proxy: str = ""
    """What stands in for the place, in a few words; empty where the figure is its own."""


@dataclass(frozen=True)
class Site:
    """One place of the catalogue, or a country with the position of a place that stands in."""

    id: str
    name: str
    kind: str
    """One of `KINDS`, or `country`."""
    region_id: str
    """What Alibaba Cloud calls it (`eu-central-1`); empty elsewhere."""
    city: str
    country: str
    """ISO 3166-1 alpha-2."""
    country_name: str
    state: str
    latitude: float
    longitude: float
    elevation_m: float
    timezone: str
    """IANA."""
    grid_zone: str
    """Zone of `data/grid.csv` with the hourly shape of carbon; empty if none."""
    price_zone: str
    """The same for the price."""
    climate: str
    """Subject in `data/climate.csv`."""
    figures: Mapping[str, Figure] = field(hash=False)
    """`latitude`, `longitude`, `elevation` (with their sources), and the keys of `CHAINS`."""
    status: str
    note: str
    source: str
    """Of the entry as such: its name, region, city, status."""


@dataclass(frozen=True)
class Place:
    """One country. `basis` and `sources` are by figure, keyed by the names of the fields."""

    name: str
    iso2: str
    electricity_price: tuple[float, str]
    """(amount, currency) per kWh."""
    carbon_g_per_kwh: float
    pue: float
    """Annual mean: power of the whole site over power of its machines."""
    basis: Mapping[str, str]
    sources: Mapping[str, str]


def site(name: str) -> Site:
    """The place of that id, region id, name, city or alias, else the country. `UnknownPlace`."""
    found = _index().get(key(name))
    if found is None:
        raise UnknownPlace(name, _index(spelt=True).values(), _catalogue())
    return _country_site(found) if found in names() else _catalogue()[found]


def sites(kind: str | None = None) -> list[Site]:
    """The 58 places of the catalogue, or those of one kind; `country` gives the countries."""
    if kind == COUNTRY:
        return [_country_site(code) for code in names()]
    assert kind is None or kind in KINDS, kind
    return [one for one in _catalogue().values() if kind in (None, one.kind)]


def data_centers() -> list[Site]:
    """The data centers of the open regions, one entry each: sourced ones and assumed ones."""
    return [
        one
        for one in sites("alibaba-region")
        for _ in range(
            int(one.figures["data_centers"].value or 0)
            + int(one.figures["data_centers_assumed"].value or 0)
        )
    ]


def names() -> list[str]:
    """Codes of the countries known."""
    return sorted(
        code
        for code, of in facts.by_subject("places").items()
        if "country" in of and len(code) == 2
    )


def place(name: str) -> Place:
    """The country of that code or English name. `UnknownPlace`."""
    known = {key(word): code for code in names() for word in _country_words(code)}
    if key(name) not in known:
        raise UnknownPlace(name, [*names(), *(text("places", code, "country") for code in names())])
    country = _country_site(known[key(name)])
    figures = {
        "electricity_price": country.figures["electricity_price"],
        "carbon_g_per_kwh": country.figures["carbon"],
        "pue": country.figures["pue"],
    }
    return Place(
        name=country.name,
        iso2=country.country,
        electricity_price=(_known(figures["electricity_price"]), CURRENCY),
        carbon_g_per_kwh=_known(figures["carbon_g_per_kwh"]),
        pue=_known(figures["pue"]),
        basis={name: figure.basis for name, figure in figures.items()},
        sources={
            name: f"{f'proxy, {figure.proxy}: ' if figure.proxy else ''}"
            f"{figure.source} ({figure.as_of})"
            for name, figure in figures.items()
        },
    )


def key(name: str) -> str:
    """A name without case, accents and punctuation: `São Paulo` and `sao-paulo` are one."""
    plain = unicodedata.normalize("NFKD", name.replace("'", "").replace("’", ""))
    return re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode().lower()).strip("-")


def text(table: str, subject: str, quantity: str) -> str:
    """The value of that row of `data/TABLE.csv` as it stands; empty if there is none."""
    fact = _fact(table, subject, quantity)
    return fact.text if fact else ""


@dataclass(frozen=True)
class _At:
    """For whom a figure is looked up: a place of the catalogue, or (`site` empty) a country."""

    site: str
    country: str
    grid_zone: str
    price_zone: str


def _own(at: _At, quantity: str) -> Figure | None:
    return _stated("sites", at.site, quantity)


def _country(at: _At, quantity: str) -> Figure | None:
    figure = _stated("places", at.country, quantity)
    if figure is None or figure.proxy or not at.site:
        return figure
    return _stand_in(figure, f"{text('places', at.country, 'country')} as a whole", figure.basis)


def _part_of_world(at: _At, quantity: str) -> Figure | None:
    part = text("places", at.country, "part_of_world")
    figure = _stated("places", part, quantity)
    return figure and _stand_in(figure, f"typical of {part.replace('-', ' ').title()}")


def _world(at: _At, quantity: str) -> Figure | None:
    figure = _stated("places", WORLD, quantity)
    return figure and _stand_in(figure, "mean of the world")


def _whole_country(at: _At, quantity: str) -> Figure | None:
    """The country's figure, unless its row says that one part of it stands for all."""
    figure = _country(at, quantity)
    stated = _stated("places", at.country, quantity)
    return None if stated and stated.proxy else figure


def _own_zone_carbon(at: _At, quantity: str) -> Figure | None:
    """Life-cycle mean of the grid zone that the place lies in.

    It goes before a figure of the place's own: those that are published count direct emissions
    alone, or do not say, and could not be compared with the life-cycle ones of countries.
    """
    return _zone_mean(at.grid_zone) if at.site else None


def _zone_carbon(at: _At, quantity: str) -> Figure | None:
    """The same for a country: the zone is the whole of it, or stands in for it."""
    figure = _zone_mean(at.grid_zone)
    if figure is None or at.grid_zone == at.country:
        return figure
    return _stand_in(figure, f"grid zone {at.grid_zone}")


def _zone_mean(zone: str) -> Figure | None:
    mean = _zone_means("carbon_lca").get(zone)
    if mean is None:
        return None
    source = f"mean of the hours of grid zone {zone}, life cycle: {mean[1]}"
    return Figure(mean[0], None, None, "gCO2e/kWh", "derived", source, mean[2])


def _wholesale(at: _At, quantity: str) -> Figure | None:
    """The day-ahead mean of the zone, times what a delivered kWh costs over a wholesale one."""
    mean = _wholesale_prices().get(at.price_zone)
    if mean is None:
        return None
    low, median, high = _delivered_over_wholesale()
    source = (
        f"modelled: day-ahead mean of {at.price_zone} ({mean[1]}) times {median:.2f}, the median "
        f"of delivered over wholesale price in {len(_price_ratios())} zones that have both"
    )
    return Figure(
        value=mean[0] * median,
        low=mean[0] * low,
        high=mean[0] * high,
        unit=f"{CURRENCY}/kWh",
        basis="assumed",
        source=source,
        as_of=mean[2],
        proxy=f"day-ahead price of {at.price_zone} x {median:.2f}",
    )


def _median(at: _At, quantity: str) -> Figure | None:
    """The median over the countries of the catalogue that have a figure of their own."""
    stated = [_stated("places", code, quantity) for code in names()]
    known = [of for of in stated if of and of.value is not None and not of.proxy]
    values = [_known(figure) for figure in known]
    return Figure(
        value=statistics.median(values),
        low=min(values),
        high=max(values),
        unit=known[0].unit,
        basis="assumed",
        source=f"median of the {len(values)} countries with a figure of their own: "
        + ", ".join(code for code, of in zip(names(), stated, strict=True) if of in known),
        as_of=max(figure.as_of for figure in known),
        proxy="median of the catalogued countries",
    )


def _count(at: _At, quantity: str) -> Figure | None:
    """Data centers of a country: the sum over its regions. Of a place that is no region: none."""
    if _stated("sites", at.site, quantity):
        return None  # A region without a published count is unknown, not none.
    inside = [
        _stated("sites", subject, quantity)
        for subject in _subjects()
        if not at.site and text("sites", subject, "country") == at.country
    ]
    total = float(sum(figure.value or 0 for figure in inside if figure))
    source = "sum over the open regions of Alibaba Cloud in data/sites.csv"
    if at.site:
        source = "no open region of Alibaba Cloud in data/sites.csv"
    return Figure(total, None, None, "1", "derived", source, "2026-11")


def _unstated(at: _At, quantity: str) -> Figure | None:
    source = f"no {quantity} is stated for a whole country"
    return Figure(None, None, None, "W", "unknown", source, "2026-11")


Step = Callable[[_At, str], Figure | None]
# Where each figure is looked for, nearest first.
CHAINS: Mapping[str, tuple[Step, ...]] = {
    "electricity_price": (_own, _country, _wholesale, _part_of_world, _median),
    "carbon": (_own_zone_carbon, _whole_country, _zone_carbon, _own, _country, _world),
    "water_stress": (_own, _country),
    "time_to_power": (_own, _country, _part_of_world),
    "power": (_own, _unstated),
    "data_centers": (_own, _count),
    "data_centers_assumed": (_own, _count),
    "pue": (_own, _country, _world),
}


def _figures(at: _At) -> dict[str, Figure]:
    return {quantity: _figure(at, quantity) for quantity in CHAINS}


def _figure(at: _At, quantity: str) -> Figure:
    unknown = None
    for step in CHAINS[quantity]:
        figure = step(at, quantity)
        if figure and figure.value is not None:
            return figure
        unknown = unknown or figure  # The nearest one says best why.
    assert unknown, f"no row says even that {quantity} of {at} is unknown"
    return unknown


@cache
def _catalogue() -> dict[str, Site]:
    return {subject: _site(subject) for subject in _subjects()}


def _site(subject: str) -> Site:
    def word(quantity: str) -> str:
        return text("sites", subject, quantity)

    entry = facts.by_subject("sites")[subject]["name"]
    where = {of: _position(subject, of) for of in ("latitude", "longitude", "elevation")}
    at = _At(subject, word("country"), word("grid_zone"), word("price_zone"))
    return Site(
        id=subject,
        name=word("name"),
        kind=word("kind"),
        region_id=word("region_id"),
        city=word("city"),
        country=at.country,
        country_name=text("places", at.country, "country"),
        state=word("state"),
        latitude=_known(where["latitude"]),
        longitude=_known(where["longitude"]),
        elevation_m=_known(where["elevation"]),
        timezone=word("timezone"),
        grid_zone=at.grid_zone,
        price_zone=at.price_zone,
        climate=word("climate"),
        figures={**where, **_figures(at)},
        status=word("status"),
        note=word("note"),
        source=f"{entry.source} ({entry.as_of})",
    )


@cache
def _country_site(code: str) -> Site:
    """The country as a place: its own figures, at the position of a place that stands in."""
    at_home = _catalogue()[text("places", code, "stand_in")]
    where = {
        of: _stand_in(at_home.figures[of], at_home.id)
        for of in ("latitude", "longitude", "elevation")
    }
    entry = facts.by_subject("places")[code]["country"]
    name = text("places", code, "country")
    return Site(
        id=code.lower(),
        name=name,
        kind=COUNTRY,
        region_id="",
        city="",
        country=code,
        country_name=name,
        state="",
        latitude=at_home.latitude,
        longitude=at_home.longitude,
        elevation_m=at_home.elevation_m,
        timezone=at_home.timezone,
        grid_zone=at_home.grid_zone,
        price_zone=at_home.price_zone,
        climate=at_home.climate,
        figures={**where, **_figures(_At("", code, at_home.grid_zone, at_home.price_zone))},
        status=COUNTRY,
        note=f"position, climate and zones are those of {at_home.id}, which stands in",
        source=f"{entry.source} ({entry.as_of})",
    )


@cache
def _index(spelt: bool = False) -> dict[str, str]:
    """Key of a name -> id of a place or code of a country (or, `spelt`, the name as written)."""
    index: dict[str, str] = {}
    for name, found in _spellings():
        index.setdefault(key(name), name if spelt else found)
    return index


def _spellings() -> Iterable[tuple[str, str]]:
    """(name, what it means), the meaning that wins first."""
    places = sorted(_catalogue().values(), key=lambda one: KINDS.index(one.kind))
    yield from ((one.id, one.id) for one in places)
    for word in ("region_id", "name", "city"):
        yield from ((getattr(one, word), one.id) for one in places if getattr(one, word))
    yield from ((word, code) for code in names() for word in _country_words(code))
    yield from ((word, one.id) for one in places for word in _aliases("sites", one.id))


def _country_words(code: str) -> list[str]:
    return [code, text("places", code, "country"), *_aliases("places", code)]


def _aliases(table: str, subject: str) -> list[str]:
    return [word.strip() for word in text(table, subject, "aliases").split(";") if word.strip()]


@cache
def _price_ratios() -> dict[str, float]:
    """Price zone -> delivered price over the day-ahead mean, where a source gives both.

    An estimate is none: it was made from a wholesale price itself.
    """
    ratios: dict[str, float] = {}
    for subject in _subjects():
        zone = text("sites", subject, "price_zone")
        code = text("sites", subject, "country")
        stated = _stated("sites", subject, "electricity_price") or _stated(
            "places", code, "electricity_price"
        )
        if stated is None or stated.proxy or stated.basis == "estimate":
            continue
        if zone in _wholesale_prices() and stated.value:
            ratios.setdefault(zone, stated.value / _wholesale_prices()[zone][0])
    return ratios


def _delivered_over_wholesale() -> tuple[float, float, float]:
    """(lowest, median, highest) of `_price_ratios`."""
    ratios = sorted(_price_ratios().values())
    return ratios[0], statistics.median(ratios), ratios[-1]


@cache
def _wholesale_prices() -> dict[str, tuple[float, str, str]]:
    """Zone -> (mean of the day-ahead or spot price in USD/kWh, source, years)."""
    return {
        **_zone_means("price_day_ahead"),
        **_zone_means("price_day_ahead_or_spot"),
    }


@cache
def _zone_means(metric: str) -> dict[str, tuple[float, str, str]]:
    """Zone -> (annual mean of the curves in `data/grid.csv`, source, years); money in USD/kWh."""
    means: dict[str, tuple[float, str, str]] = {}
    for row in facts.rows("grid"):
        suspect = row["notes"].startswith("suspect")  # BR-SP repeats most of its hours
        if row["metric"] != metric or row["season"] != "ALL" or suspect:
            continue
        mean = statistics.fmean(float(row[f"h{hour:02d}"]) for hour in range(24))
        above, _, below = row["unit"].partition("/")
        if below == "MWh":
            mean *= money.rates()[above] / 1000
        means[row["zone"]] = (mean, f"{row['source']} ({row['as_of']})", row["years"])
    return means


def _position(subject: str, quantity: str) -> Figure:
    figure = _stated("sites", subject, quantity)
    assert figure, f"{subject} has no {quantity}"
    return figure


def _stand_in(figure: Figure, proxy: str, basis: str = "assumed") -> Figure:
    return replace(figure, proxy=proxy, basis="unknown" if figure.value is None else basis)


def _stated(table: str, subject: str, quantity: str) -> Figure | None:
    """What the row says, if there is one; `proxy: NAME; ...` in its source names a stand-in."""
    fact = _fact(table, subject, quantity)
    if fact is None:
        return None
    proxy = STAND_IN.match(fact.source)
    return Figure(
        value=fact.value,
        low=fact.low,
        high=fact.high,
        unit=fact.unit,
        basis=fact.basis,
        source=fact.source,
        as_of=fact.as_of,
        proxy=proxy[1] if proxy else "",
    )


def _fact(table: str, subject: str, quantity: str) -> facts.Fact | None:
    return facts.by_subject(table).get(subject, {}).get(quantity)


def _subjects() -> list[str]:
    return [subject for subject in facts.by_subject("sites") if subject != OPERATOR]


def _known(figure: Figure) -> float:
    assert figure.value is not None, figure
    return figure.value
