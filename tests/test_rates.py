"""The price book: what use costs on its day, to the millionth, however it is cut."""

import math
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigafactory.blueprint.load import parse
from gigafactory.plan import Plan, Rates, make
from tests.test_blueprint import GOOD, faults

PLAIN = GOOD.replace("country: FR, ", "country: FR, pue: 1.1, carbon: 36 gCO2e/kWh, ").replace(
    "tenants:",
    """prices:
  chip_hour: 3.60 EUR/GPU-h
  input: 0.10 EUR/M tokens
  output: 0.40 EUR/M tokens
tenants:""",
)
PRICED = PLAIN.replace(
    "tenants:",
    """  changes:
    - {from: 2027-01-10, chip_hour: 7.20 EUR/GPU-h, output: 0.80 EUR/M tokens}
    - {from: 2026-12-24, input: 0.20 EUR/M tokens}
tenants:""",
).replace("carbon:", "carbon_changes: [{from: 2027-01-05, carbon: 72 gCO2e/kWh}], carbon:")
POOL = "home/this-machine"


def unix(*day):
    return datetime(*day, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def plan():
    return make(parse(PRICED, Path("mill.yaml")))


@pytest.fixture(scope="module")
def plain():
    return Rates.of(make(parse(PLAIN, Path("mill.yaml"))))


def test_the_plan_alone_rates_and_an_old_one_still_does(plan):
    said = plan.model_dump(mode="json")
    again = Rates.of(Plan.model_validate(said))
    charge = (POOL, 7200.0, 3.6e6, unix(2027, 1, 9, 23), unix(2027, 1, 10, 1))
    assert again.attempt(*charge) == Rates.of(plan).attempt(*charge)
    del said["token_price_changes"]
    for place in said["places"]:
        del place["price_changes"], place["carbon_changes"], place["pue"]
    (whole,) = Rates.of(Plan.model_validate(said)).attempt(*charge)
    assert whole["money_micro"] == 7_200_000


def test_an_attempt_is_cut_where_the_month_the_price_or_the_carbon_changes(plan):
    began, ended = unix(2026, 12, 31, 12), unix(2027, 1, 11)
    hours = (ended - began) / 3600
    pieces = Rates.of(plan).attempt(POOL, hours * 3600, hours * 3.6e6, began, ended)
    assert [(p["month"], p["chip_s"] / 3600, p["carbon_g"], p["money_micro"]) for p in pieces] == [
        ("2026-12", 12, pytest.approx(12 * 36), 12 * 3_600_000),
        ("2027-01", 96, pytest.approx(96 * 36), 96 * 3_600_000),
        ("2027-01", 120, pytest.approx(120 * 72), 120 * 3_600_000),
        ("2027-01", 24, pytest.approx(24 * 72), 24 * 7_200_000),
    ]
    assert pieces[0]["until_unix_s"] == pieces[1]["from_unix_s"] == unix(2027, 1, 1)


@pytest.mark.parametrize(
    ("eve", "months"),
    [
        ((2028, 2, 29), ["2028-02", "2028-03"]),
        ((2027, 2, 28), ["2027-02", "2027-03"]),
        ((2100, 2, 28), ["2100-02", "2100-03"]),
        ((2029, 12, 31), ["2029-12", "2030-01"]),
        ((2030, 4, 30), ["2030-04", "2030-05"]),
    ],
)
def test_months_end_when_they_end_in_utc(plain, eve, months):
    noon = unix(*eve, 12)
    pieces = plain.attempt(POOL, 86400.0, 0.0, noon, noon + 86400)
    assert [piece["month"] for piece in pieces] == months
    assert [piece["chip_s"] for piece in pieces] == [43200, 43200]


def test_the_last_instant_of_a_month_belongs_to_it(plain):
    end = unix(2027, 3, 1)
    (piece,) = plain.attempt(POOL, 1.0, 1.0, math.nextafter(end, 0), end)
    assert piece["month"] == "2027-02"
    (piece,) = plain.attempt(POOL, 1.0, 1.0, end, end)
    assert piece["month"] == "2027-03"


def test_a_clock_that_was_set_back_costs_nothing_less(plain):
    (piece,) = plain.attempt(POOL, 3600.0, 10.0, unix(2027, 3, 1), unix(2027, 2, 1))
    assert (piece["month"], piece["money_micro"]) == ("2027-03", 3_600_000)


moments = st.floats(unix(2026, 1, 1), unix(2029, 1, 1))
lengths = st.one_of(st.just(0.0), st.floats(1e-6, 1e8))
amounts = st.floats(0, 1e9)


@given(amounts, amounts, moments, lengths)
def test_pieces_sum_to_the_whole_and_touch(plan, chip_s, energy_j, began, lasts_s):
    pieces = Rates.of(plan).attempt(POOL, chip_s, energy_j, began, began + lasts_s)
    assert sum(round(p["chip_s"] * 1e6) for p in pieces) == round(chip_s * 1e6)
    assert sum(round(p["energy_j"] * 1e3) for p in pieces) == round(energy_j * 1e3)
    assert pieces[0]["from_unix_s"] == began
    assert pieces[-1]["until_unix_s"] == began + lasts_s
    for before, after in pairwise(pieces):
        assert before["until_unix_s"] == after["from_unix_s"]
    for piece in pieces:
        assert min(piece["chip_s"], piece["energy_j"], piece["money_micro"]) >= 0
        assert type(piece["money_micro"]) is int


@given(amounts, amounts, moments, lengths)
def test_cutting_at_months_alone_changes_no_sum(plain, chip_s, energy_j, began, lasts_s):
    pieces = plain.attempt(POOL, chip_s, energy_j, began, began + lasts_s)
    (whole,) = plain.attempt(POOL, chip_s, energy_j, began, began)
    assert sum(p["money_micro"] for p in pieces) == whole["money_micro"]
    assert abs(whole["money_micro"] - chip_s * 1000) <= 1 + 1e-9 * chip_s * 1000
    grams = sum(round(p["carbon_g"] * 1e6) for p in pieces)
    assert grams == round(whole["carbon_g"] * 1e6)


@given(amounts, amounts, moments, lengths)
def test_more_never_costs_less(plan, less_s, more_s, began, lasts_s):
    rates = Rates.of(plan)
    less_s, more_s = sorted((less_s, more_s))
    less, more = (
        sum(p["money_micro"] for p in rates.attempt(POOL, s, 0.0, began, began + lasts_s))
        for s in (less_s, more_s)
    )
    assert less <= more + 4  # each cut rounds chip-seconds to a millionth, at most four prices


counts = st.integers(0, 10**7)


@given(moments, counts, counts, counts, counts)
def test_a_request_costs_at_most_what_was_reserved(plan, at, prompt, new, spare, spare_new):
    rates = Rates.of(plan)
    most = rates.request_max(at, prompt + new + spare, new + spare_new)
    assert rates.request(at, prompt, new) <= most
    assert rates.request(at, prompt, new) <= rates.request(at, prompt + spare, new + spare_new)


def test_tokens_cost_what_they_cost_on_their_day(plan):
    rates = Rates.of(plan)
    million = 10**6
    assert rates.request(unix(2026, 12, 1), million, million) == 500_000
    assert rates.request(unix(2026, 12, 24) - 0.001, million, million) == 500_000
    assert rates.request(unix(2026, 12, 24), million, million) == 600_000
    assert rates.request(unix(2027, 1, 10), million, million) == 1_000_000
    assert rates.request(unix(2026, 12, 1), 4, 0) == 0  # 0.4 of a millionth
    assert rates.request(unix(2026, 12, 1), 5, 0) == 1
    assert rates.request_max(unix(2026, 12, 1), 3 * million, million) == 600_000


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("2026-12-24, input", "2027-01-10, input", ["two changes", "2027-01-10"]),
        ("2026-12-24, input: 0.20 EUR", "2026-12-24, input: 0.20 USD", ["USD", "exchange"]),
        ("2026-12-24, input", "2026-12-24, inptu", ["inptu", "did you mean input"]),
        ("from: 2026-12-24, ", "", ["from", "missing"]),
        ("carbon: 72 gCO2e/kWh}", "carbon: 72}", ["72", "45 gCO2e/kWh"]),
        ("from: 2027-01-05", "from: soon", ["from", "date"]),
    ],
)
def test_a_change_written_wrongly_is_told_with_its_line(old, new, words):
    assert old in PRICED
    fault = faults(PRICED.replace(old, new))[0]
    text = " ".join((fault.what, fault.where, fault.why, fault.remedy))
    assert "mill.yaml:" in fault.where
    assert fault.remedy
    for word in words:
        assert word in text
