import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigafactory import units


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("50 MW", "W", 50e6),
        ("50MW", "W", 50e6),
        ("62 MW", "W", 62e6),
        ("36 T tokens", "token", 36e12),
        ("600 k tokens", "token", 600e3),
        (4096, "token", 4096),
        ("3.35 TB/s", "B/s", 3.35e12),
        ("80 GB", "B", 80e9),
        ("24 GiB", "B", 24 * 2**30),
        ("989 TFLOP/s", "FLOP/s", 989e12),
        ("45 gCO2e/kWh", "gCO2e/J", 45 / 3.6e6),
        ("90 s", "s", 90),
        ("6 min", "s", 360),
        ("2 weeks", "s", 14 * 86400),
    ],
)
def test_a_quantity_reads_as_people_write_it(text, unit, value):
    assert units.parse(text, unit) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "per", "money"),
    [
        ("0.12 EUR/kWh", "J", (0.12 / 3.6e6, "EUR")),
        ("2.95 USD/GPU-h", "chip*s", (2.95 / 3600, "USD")),
        ("0.40 EUR/M tokens", "token", (0.40e-6, "EUR")),
        ("1.5 M EUR", "", (1.5e6, "EUR")),
    ],
)
def test_a_price_keeps_its_currency(text, per, money):
    read = units.parse_money(text, per)
    assert (read.amount, read.currency) == (pytest.approx(money[0]), money[1])


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("5 MB", "W"),
        (50, "W"),
        ("many W", "W"),
        ("3 parsecs", "W"),
        ("4 EUR", "W"),
        (True, "token"),
    ],
)
def test_a_quantity_of_the_wrong_kind_is_refused_with_an_example(text, unit):
    with pytest.raises(units.NotAQuantity) as refused:
        units.parse(text, unit)
    assert "50 MW" in str(refused.value) or "number" in str(refused.value) or "unit" in str(
        refused.value
    ) or "quantity" in str(refused.value)  # fmt: skip


@given(st.floats(1e-2, 1e17), st.sampled_from(["W", "B", "B/s", "FLOP/s"]))
def test_what_is_shown_reads_back_within_its_three_digits(value, unit):
    assert units.parse(units.show(value, unit), unit) == pytest.approx(value, rel=6e-3)
