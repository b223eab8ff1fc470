"""What a place gives: price of electricity, carbon of the grid, overhead of cooling (PUE).

By country, as ISO 3166-1 alpha-2 code or English name. Money per kWh, gCO2e per kWh. Where a
country has no figure a proxy stands in, and the figure's basis is `assumed`.
Sources: each fact's own, in `data/places.csv`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from gigafactory.stack import facts

PROXY = "WORLD"
CURRENCY = "USD"


class UnknownPlace(LookupError):
    """No such place; `near` holds the valid codes and names most like it."""

    def __init__(self, name: str, known: list[str]):
        self.name = name
        self.near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or sorted(known)
        super().__init__(f"no place {name!r}; nearest: {', '.join(self.near)}")


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


def names() -> list[str]:
    """Codes of the places known."""
    return sorted(code for code in facts.by_subject("places") if code != PROXY)


def place(name: str) -> Place:
    """The country of that code or English name."""
    known = facts.by_subject("places")
    codes = {code.lower(): code for code in names()}
    codes |= {known[code]["country"].text.lower(): code for code in names()}
    if name.lower() not in codes:
        raise UnknownPlace(name, names() + [known[code]["country"].text for code in names()])
    code = codes[name.lower()]
    figures = {
        "electricity_price": _figure(code, "electricity_price"),
        "carbon_g_per_kwh": _figure(code, "carbon"),
        "pue": _figure(code, "pue"),
    }
    return Place(
        name=known[code]["country"].text,
        iso2=code,
        electricity_price=(figures["electricity_price"][0], CURRENCY),
        carbon_g_per_kwh=figures["carbon_g_per_kwh"][0],
        pue=figures["pue"][0],
        basis={field: figure[1] for field, figure in figures.items()},
        sources={field: figure[2] for field, figure in figures.items()},
    )


def _figure(code: str, quantity: str) -> tuple[float, str, str]:
    """(value, basis, source), of the country or, where that is unknown, of the world."""
    known = facts.by_subject("places")
    fact = known[code][quantity]
    if fact.value is not None:
        return fact.value, fact.basis, f"{fact.source} ({fact.as_of})"
    proxy = known[PROXY][quantity]
    assert proxy.value is not None, f"no proxy for {quantity} of {code}"
    return proxy.value, "assumed", f"proxy, {code} unknown: {proxy.source} ({proxy.as_of})"
