"""Quantities as people write them, to and from SI numbers.

`50 MW`, `36 T tokens`, `3.35 TB/s`, `0.12 EUR/kWh`, `45 gCO2e/kWh`, `6 min`, `989 TFLOP/s`.
SI inside: s, W, J, B, FLOP, m, token, gCO2e (grams, as the field counts), and money in the
currency that the text names.
"""

import math
import re
from typing import Any, NamedTuple

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

PREFIXES = {
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "B": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
}
BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
DAY_S = 86_400.0

# unit -> (dimension, value in SI, takes prefixes)
UNITS: dict[str, tuple[str, float, bool]] = {
    "s": ("s", 1.0, False),
    "ms": ("s", 1e-3, False),
    "us": ("s", 1e-6, False),
    "min": ("s", 60.0, False),
    "h": ("s", 3600.0, False),
    "d": ("s", DAY_S, False),
    "day": ("s", DAY_S, False),
    "days": ("s", DAY_S, False),
    "week": ("s", 7 * DAY_S, False),
    "weeks": ("s", 7 * DAY_S, False),
    "yr": ("s", 365.25 * DAY_S, False),
    "W": ("W", 1.0, True),
    "J": ("J", 1.0, True),
    "Wh": ("J", 3600.0, True),
    "B": ("B", 1.0, True),
    "FLOP": ("FLOP", 1.0, True),
    "FLOPS": ("FLOP/s", 1.0, True),
    "m": ("m", 1.0, False),
    "km": ("m", 1e3, False),
    "token": ("token", 1.0, True),
    "tokens": ("token", 1.0, True),
    "gCO2e": ("gCO2e", 1.0, True),
    "gCO2": ("gCO2e", 1.0, True),
    "chip": ("chip", 1.0, False),
    "chips": ("chip", 1.0, False),
    "chip-h": ("chip*s", 3600.0, False),
    "GPU-h": ("chip*s", 3600.0, False),
}
CURRENCIES = ("EUR", "USD", "CNY", "GBP", "CHF", "JPY")
EXAMPLES = {
    "W": "50 MW",
    "W/s": "10 MW/min",
    "J": "12 kWh",
    "s": "90 s",
    "B": "80 GB",
    "token": "36 T tokens",
    "token/s": "400 k tokens/s",
    "B/s": "3.35 TB/s",
    "FLOP/s": "989 TFLOP/s",
    "gCO2e/J": "45 gCO2e/kWh",
    "money/J": "0.12 EUR/kWh",
    "money/chip*s": "2.95 USD/GPU-h",
    "money/token": "0.40 EUR/M tokens",
    "money": "1.5 M EUR",
}
NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")


class NotAQuantity(ValueError):
    """The text is no quantity of the unit asked for; the message says what would be."""


class Money(NamedTuple):
    """An amount of money per SI unit of `per` ("" for plain money)."""

    amount: float
    currency: str
    per: str = ""


def parse(text: Any, unit: str) -> float:
    """SI value of `text`, which must have the dimension of `unit`.

    A bare number is taken only where the dimension is countable (tokens, chips), since 50 of
    what, for power, is a guess. Raises `NotAQuantity`.
    """
    value, dimension, scale, currency = _read(text)
    if dimension == "" and unit in ("token", "chip", ""):
        return value * scale
    if dimension != unit or currency:
        raise NotAQuantity(_expected(text, unit))
    return value * scale


def parse_money(text: Any, per: str = "") -> Money:
    """Money, plain or per SI unit of `per` (`J`, `chip*s`, `token`). Raises `NotAQuantity`."""
    value, dimension, scale, currency = _read(text)
    wanted = f"money/{per}" if per else "money"
    if currency is None or dimension != wanted:
        raise NotAQuantity(_expected(text, wanted))
    return Money(value * scale, currency, per)


def show(value: float, unit: str) -> str:
    """`value` of an SI `unit` as people write it, three digits: `50 MW`, `4 min 10 s`."""
    if unit == "s":
        return show_duration(value)
    if unit == "J":
        return show(value / 3600, "Wh")
    size = abs(value)
    for prefix in ("E", "P", "T", "G", "M", "k"):
        if size >= PREFIXES[prefix]:
            space = " " if unit == "tokens" else ""
            return f"{value / PREFIXES[prefix]:.3g} {prefix}{space}{unit}"
    return f"{value:.3g} {unit}"


def show_duration(seconds: float) -> str:
    """A duration in its two largest units."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    if round(seconds) < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    if seconds < 2 * DAY_S:
        return "{} h {} min".format(*divmod(round(seconds / 60), 60))
    return f"{seconds / DAY_S:.1f} days"


class Quantity:
    """Marks a pydantic field: text in people's units to an SI float."""

    def __init__(self, unit: str):
        self.unit = unit

    def read(self, value: Any) -> float:
        """The SI value."""
        return parse(value, self.unit)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        kinds = [{"type": "string"}, {"type": "number"}]
        return {"anyOf": kinds, "examples": [EXAMPLES[self.unit]]}


class Price:
    """Marks a pydantic field: money, plain or per SI unit of `per`."""

    def __init__(self, per: str = ""):
        self.per = per

    def read(self, value: Any) -> Any:
        """The money, in its own currency."""
        money = parse_money(value, self.per)
        if not 0 <= money.amount < math.inf:
            raise NotAQuantity(f"{value!r} is no price; it must not be negative")
        return money

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        return {
            "type": "string",
            "examples": [EXAMPLES[f"money/{self.per}" if self.per else "money"]],
        }


def _read(text: Any) -> tuple[float, str, float, str | None]:
    """(number, dimension, SI scale, currency) of a text or a bare number."""
    if isinstance(text, bool):
        raise NotAQuantity(f"{text!r} is no quantity")
    if isinstance(text, int | float):
        return float(text), "", 1.0, None
    match = NUMBER.match(str(text))
    if not match:
        raise NotAQuantity(f"{text!r} has no number in front")
    number, unit = float(match[1].replace("_", "")), match[2]
    above, _, below = unit.partition("/")
    dimension, scale, currency = _unit(above.strip(), text)
    if below:
        below_dimension, below_scale, _ = _unit(below.strip(), text)
        if below_dimension == "s" and dimension == "J":
            dimension = "W"
        else:
            dimension = f"{dimension}/{below_dimension}"
        scale /= below_scale
    return number, dimension, scale, currency


def _unit(word: str, text: Any) -> tuple[str, float, str | None]:
    prefix, _, rest = word.partition(" ")
    if rest and prefix in PREFIXES:  # "36 T tokens", "1.5 M EUR"
        dimension, scale, currency = _unit(rest, text)
        return dimension, scale * PREFIXES[prefix], currency
    if word in CURRENCIES:
        return "money", 1.0, word
    if word in UNITS:
        dimension, scale, _ = UNITS[word]
        return dimension, scale, None
    for table in (BINARY, PREFIXES):
        for known, factor in table.items():
            base = word[len(known) :]
            if known and word.startswith(known) and base in UNITS and UNITS[base][2]:
                return UNITS[base][0], UNITS[base][1] * factor, None
    if word in PREFIXES:  # "36 T": a bare count
        return "", PREFIXES[word], None
    raise NotAQuantity(f"{text!r}: unit {word!r} is not known")


def _expected(text: Any, unit: str) -> str:
    example = EXAMPLES.get(unit, f"1 {unit}")
    return f"{text!r} is no {_nouns().get(unit, unit)}; write it as {example!r}"


def _nouns() -> dict[str, str]:
    return {
        "W": "power",
        "W/s": "ramp of power",
        "J": "energy",
        "s": "duration",
        "B": "amount of memory",
        "token": "count of tokens",
        "gCO2e/J": "carbon intensity",
        "money/J": "energy price",
        "money/chip*s": "price of chip time",
        "money/token": "token price",
    }
