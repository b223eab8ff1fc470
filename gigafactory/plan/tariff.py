"""What use costs on its day: money and carbon of an attempt by piece, money of a request.

Time is Unix seconds, days and months are UTC's. Money is in integer micro-units of the plan's
currency. Everything is worked out in integers and exact fractions, so that the pieces of an
attempt sum to the whole and the price of more is never less.
"""

from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, date, datetime
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import floor
from typing import Any, Generic, TypeVar

from gigafactory.plan.plan import Plan

FINE = 10**15
"""Parts of a micro-unit in which token prices are held: exact sums, and no price lost."""

Value = TypeVar("Value")


class Rates:
    """The price book and the carbon factors of a plan, by date."""

    _price: "dict[str, _Steps[Fraction]]"
    _carbon: "dict[str, _Steps[Fraction]]"
    _tokens: "_Steps[tuple[int, int]]"

    @classmethod
    def of(cls, plan: Plan) -> "Rates":
        """The rates that a plan carries."""
        rates = cls()
        rates._price = {w.pool: _exactly(w.price_chip_s, w.price_changes) for w in plan.places}
        rates._carbon = {w.pool: _exactly(w.carbon_g_per_j, w.carbon_changes) for w in plan.places}
        changes = [(day, _fine(prices)) for day, prices in plan.token_price_changes]
        rates._tokens = _Steps(_fine(plan.token_prices), changes)
        return rates

    def attempt(
        self, pool: str, chip_s: float, energy_j: float, began_unix_s: float, ended_unix_s: float
    ) -> list[dict[str, Any]]:
        """What an attempt costs: a piece for each month, price and carbon factor in force.

        Chip-seconds and joules are spread evenly over its time. Each sum, rounded where it is
        cut and not piece by piece, is that of the whole.
        """
        price, carbon = self._price[pool], self._carbon[pool]
        ended_unix_s = max(began_unix_s, ended_unix_s)  # a clock was set back: all at its begin
        cuts = {*_month_starts(began_unix_s, ended_unix_s), *price.since, *carbon.since}
        inner = sorted(cut for cut in cuts if began_unix_s < cut < ended_unix_s)
        bounds = [began_unix_s, *inner, ended_unix_s]
        chip_us, energy_mj = round(chip_s * 1e6), round(energy_j * 1e3)
        micro, micro_g = Fraction(0), Fraction(0)
        pieces = []
        done = (0, 0, 0, 0)
        for since, until in pairwise(bounds):
            chips, joules = chip_us, energy_mj
            if until < ended_unix_s:
                share = Fraction(until - began_unix_s) / Fraction(ended_unix_s - began_unix_s)
                chips, joules = _nearest(chip_us * share), _nearest(energy_mj * share)
            micro += (chips - done[0]) * price.at(since)
            micro_g += (joules - done[1]) * carbon.at(since) * 1000
            sums = (chips, joules, _nearest(micro), _nearest(micro_g))
            piece = [now - before for now, before in zip(sums, done, strict=True)]
            done = sums
            pieces.append(
                {
                    "from_unix_s": since,
                    "until_unix_s": until,
                    "month": _day(since).strftime("%Y-%m"),
                    "chip_s": piece[0] / 1e6,
                    "energy_j": piece[1] / 1e3,
                    "carbon_g": piece[3] / 1e6,
                    "money_micro": piece[2],
                }
            )
        return pieces

    def request(self, unix_s: float, prompt_tokens: int, completion_tokens: int) -> int:
        """Micro-units for a request at the prices of a moment."""
        prompt, completion = self._tokens.at(unix_s)
        return (prompt_tokens * prompt + completion_tokens * completion + FINE // 2) // FINE

    def request_max(self, unix_s: float, tokens_max: int, completion_max: int) -> int:
        """The most that a request of `tokens_max` in all, `completion_max` of them new, costs."""
        prompt, completion = self._tokens.at(unix_s)
        new = min(completion_max, tokens_max) if completion > prompt else 0
        return self.request(unix_s, tokens_max - new, new)


class _Steps(Generic[Value]):
    """A value that holds from the start, and others from their days on."""

    def __init__(self, first: Value, changes: Iterable[tuple[str, Value]]):
        ordered = sorted(changes, key=lambda change: change[0])
        self.since = [_unix_s(date.fromisoformat(day)) for day, _ in ordered]
        self._values = [first, *(value for _, value in ordered)]

    def at(self, unix_s: float) -> Value:
        return self._values[bisect_right(self.since, unix_s)]


def _exactly(first: float, changes: Iterable[tuple[str, float]]) -> "_Steps[Fraction]":
    return _Steps(Fraction(first), [(day, Fraction(value)) for day, value in changes])


def _fine(prices: dict[str, float]) -> tuple[int, int]:
    """Prices of an input and an output token in parts of a micro-unit."""
    prompt, completion = (
        _nearest(Fraction(prices.get(name, 0.0)) * 10**6 * FINE) for name in ("input", "output")
    )
    return prompt, completion


def _month_starts(began_unix_s: float, ended_unix_s: float) -> list[float]:
    """Every first of a month from the one that `began_unix_s` lies in to `ended_unix_s`."""
    first, last = _day(began_unix_s), _day(ended_unix_s)
    months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    return [_unix_s(date(month // 12, month % 12 + 1, 1)) for month in months]


def _day(unix_s: float) -> date:
    # Whole seconds: `fromtimestamp` rounds up to the microsecond, over the end of a month.
    return datetime.fromtimestamp(floor(unix_s), UTC).date()


@lru_cache(1024)
def _unix_s(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _nearest(value: Fraction) -> int:
    """The nearest integer, halves up: unlike halves to even, never less for more."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
