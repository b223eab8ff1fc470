"""Prices over time: rent of a GPU-hour and of tokens, which have fallen and risen.

Rows of `data/prices.csv` hold on their `day`; between two days a price moves by equal ratios.
Beyond the last row it drifts by a yearly rate that the caller has a range for: nobody knows more.
The other chips follow the curve of the H100, the only one that was written down for years; each
from its own price, on its own day. USD; days since 1970.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from gigafactory.stack import facts
from gigafactory.stack.chips import System
from gigafactory.stack.money import currency

Array = NDArray[np.float64]
YEAR_D = 365.25
SERIES = "H100 SXM"


class UnknownSeller(LookupError):
    """No list price of this model's tokens."""

    def __init__(self, name: str):
        self.name, self.known = name, sellers()
        super().__init__(f"no token price of {name!r}")


@dataclass(frozen=True)
class Seller:
    """List price of a million tokens of one model, on a day."""

    name: str
    input_usd: float
    output_usd: float
    source: str
    as_of: str


def sellers() -> list[str]:
    """Models with a list price, in the order of the file."""
    return list(
        dict.fromkeys(row["subject"] for row in facts.rows("prices") if row["kind"] == "input")
    )


def seller(name: str) -> Seller:
    """The latest list price of a model's tokens. Raises `UnknownSeller`."""
    if name not in sellers():
        raise UnknownSeller(name)
    worth = currency.rates()

    def latest(kind: str) -> dict[str, str]:
        of = [row for row in facts.rows("prices") if (row["subject"], row["kind"]) == (name, kind)]
        return max(of, key=lambda row: day(row["day"]))

    def usd(row: dict[str, str]) -> float:
        money = row["unit"].partition("/")[0]
        return currency.convert(float(row["value"]), money, "USD", worth)

    output = latest("output")
    return Seller(name, usd(latest("input")), usd(output), output["source"], output["day"])


def series(kind: str = "on_demand") -> tuple[Array, Array]:
    """(days since 1970, USD/GPU-h) of the H100, in order of time."""
    known = [
        (day(row["day"]), float(row["value"]))
        for row in facts.rows("prices")
        if (row["subject"], row["kind"]) == (SERIES, kind)
    ]
    days, values = zip(*sorted(known), strict=True)
    return np.array(days, np.float64), np.array(values, np.float64)


def rent_shape(days: NDArray[np.float64], as_of: str, drift: float | Array) -> Array:
    """Rent on these days (since 1970) over the rent on the day `as_of`.

    As the H100's did where it is known; from its last row, or from `as_of` if that is later, by
    `drift` a year. `drift` may be a column, one row a future.
    """
    known, values = series()
    last = max(known[-1], day(as_of))
    log = np.interp(np.minimum(days, last), known, np.log(values))
    here = np.interp(day(as_of), known, np.log(values))
    ahead = np.maximum(days - last, 0.0) / YEAR_D
    return np.asarray(np.exp(log - here) * (1 + np.asarray(drift)) ** ahead)


def token_shape(days: NDArray[np.float64], as_of: str, drift: float | Array) -> Array:
    """Token price over that of the day `as_of`: the drift alone, which works backwards, too."""
    return np.asarray((1 + np.asarray(drift)) ** ((days - day(as_of)) / YEAR_D))


def as_of_rent(system: System) -> str:
    """The day of the rent in the catalog."""
    return currency.chip_hour_price(system.chip.name).as_of


def day(text: str) -> float:
    """`2026`, `2026-05` or `2026-05-20` in days since 1970; what is left out is the middle."""
    year, *rest = (int(part) for part in text.split("-"))
    month, number = {0: (7, 1), 1: (*rest, 15), 2: rest}[len(rest)]
    return float((date(year, month, number) - date(1970, 1, 1)).days)
