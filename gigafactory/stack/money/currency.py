"""Money: conversion at dated rates, integer micro-units, the rent of a chip.

Amounts are floats in a named currency until they are billed; bills are integers of a millionth.
Sources: `data/exchange_rates.csv`, and `rent` in `data/chips.csv`.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal

from gigafactory.stack import facts
from gigafactory.stack.chips import UnknownChip
from gigafactory.stack.facts import Fact


class UnknownCurrency(LookupError):
    """No rate for this currency."""

    def __init__(self, currency: str, known: list[str]):
        self.currency, self.known = currency, sorted(known)
        super().__init__(f"no exchange rate for {currency!r}; known: {', '.join(self.known)}")


def rates() -> dict[str, float]:
    """Currency -> what one unit of it is worth in USD, as dated in the table."""
    return {fact.subject: fact.value for fact in facts.load("exchange_rates") if fact.value}


def convert(
    amount: float,
    from_currency: str,
    to_currency: str,
    rates: Mapping[str, float],
) -> float:
    """`amount` in another currency; `rates` give the worth of one unit of each in any third."""
    for currency in (from_currency, to_currency):
        if currency not in rates and from_currency != to_currency:
            raise UnknownCurrency(currency, list(rates))
    if from_currency == to_currency:
        return amount
    return amount * rates[from_currency] / rates[to_currency]


def micro(amount: float) -> int:
    """`amount` in millionths, halves to even, as its decimal digits read."""
    return int((Decimal(str(amount)) * 1_000_000).to_integral_value(ROUND_HALF_EVEN))


def chip_hour_price(chip_name: str) -> Fact:
    """Rent of one chip for an hour, dated, with its range; of a CPU core, an estimate."""
    known = facts.by_subject("chips")
    if chip_name not in known:
        raise UnknownChip(chip_name, list(known))
    return known[chip_name]["rent"]
