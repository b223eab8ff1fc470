"""The plan: every job quoted before it runs, and said why where it cannot."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.blueprint import load
from gigafactory.blueprint.load import parse
from gigafactory.faults import Refused
from gigafactory.plan import Measured, Observation, make
from tests.test_blueprint import GOOD

LAPTOP = make(load("laptop"))


def good(text=GOOD, measured=None):
    return make(parse(text, Path("mill.yaml")), measured)


def test_every_job_has_a_quote_with_a_range_and_a_reference_beside_it():
    for job in LAPTOP.jobs:
        quote = job.quote
        for figure in (quote.duration_s, quote.energy_kwh, quote.carbon_g, quote.money):
            assert 0 < figure.low < figure.value < figure.high
        assert job.reference.system == "h100-8"
        assert quote.reason


def test_the_same_blueprint_gives_the_same_plan_to_the_byte():
    again = make(load("laptop"))
    assert again.model_dump_json() == LAPTOP.model_dump_json()
    assert again.hash == LAPTOP.hash


def test_a_plan_survives_its_json():
    again = type(LAPTOP).model_validate_json(LAPTOP.model_dump_json())
    assert again == LAPTOP


def test_jobs_start_after_what_they_stand_on_and_services_keep_their_chips():
    by_name = {job.spec.name: job for job in LAPTOP.jobs}
    for job in LAPTOP.jobs:
        assert all(by_name[before].end_s <= job.start_s for before in job.spec.after)
    assert LAPTOP.time_to_first_token_s == by_name["assistant"].end_s


def test_a_job_that_fits_nowhere_is_refused_with_every_place_and_its_reason():
    with pytest.raises(Refused) as refused:
        good(GOOD.replace("tokens: 1 k", "chips: 64, tokens: 1 k"))
    (fault,) = refused.value.faults
    assert "train" in fault.what
    assert "home/this-machine: it has 2 chips, 64 are asked for" in fault.why
    assert "at most" in fault.remedy


def test_a_job_that_needs_more_power_than_the_site_has_is_refused():
    with pytest.raises(Refused) as refused:
        good(GOOD.replace("100 W", "1 W"))
    assert "the site has 1 W" in refused.value.faults[0].why
    assert len(refused.value.faults) == 3, "every job is told, not the first"


def test_no_job_is_placed_on_a_chip_that_the_law_of_the_day_forbids_there():
    shanghai = GOOD.replace(
        "home: {country: FR, power: 100 W, systems: {this-machine: 1}}",
        "shanghai: {country: CN, power: 20 kW, systems: {h100-8: 1}}",
    ).replace("2026-11-23", "2024-01-01")
    with pytest.raises(Refused) as refused:
        good(shanghai)
    assert "presumption of denial (US-2023-10-3A090a-D5)" in refused.value.faults[0].why
    assert good(shanghai.replace("2024-01-01", "2022-07-01")).jobs


def test_a_job_goes_where_it_is_fastest_and_the_others_are_named_with_their_reason():
    two = GOOD.replace(
        "  home: {", "  paris: {country: FR, power: 20 kW, systems: {h100-8: 1}}\n  home: {"
    ).replace("tokens: 1 k", "tokens: 100 M")
    train = good(two).jobs[0]
    assert train.quote.pool == "paris/h100-8"
    assert train.pools == ("paris/h100-8", "home/this-machine")
    assert "times as long" in train.rejected[0]


def test_what_was_measured_replaces_what_was_modelled():
    first = good()
    quote = first.jobs[0].quote
    assert quote.duration_s.basis == "modelled"
    seen = Observation(
        shape=quote.shape, size=quote.size, overhead_s=7.0, work_s=13.0, tokens=quote.size,
        power_w=9.0, energy_basis="modelled",
    )  # fmt: skip
    again = good(measured=Measured(observations=[seen])).jobs[0].quote
    assert again.duration_s.basis == "measured"
    assert again.duration_s.value == pytest.approx(20.0)
    assert again.energy_kwh.value == pytest.approx(9.0 * 20 / 3.6e6)
    assert again.energy_kwh.basis == "modelled"
    twice = good(GOOD.replace("1 k tokens", "8 k tokens"), Measured(observations=[seen]))
    assert twice.jobs[0].quote.duration_s.value == pytest.approx(7 + 13 * 2)


def test_the_plan_knows_what_it_was_made_from():
    seen = Measured(machine=None, observations=[])
    assert good(measured=seen).measured_hash == good().measured_hash
    assert good(GOOD.replace("100 W", "101 W")).blueprint_hash != good().blueprint_hash


@settings(max_examples=25, deadline=None)
@given(st.integers(8_192, 10**9), st.floats(1.5, 100))
def test_more_tokens_never_cost_less(tokens, factor):
    text = GOOD.replace("1 k tokens", str(tokens))
    more = GOOD.replace("1 k tokens", str(int(tokens * factor)))
    one, other = good(text).jobs[0].quote, good(more).jobs[0].quote
    assert other.duration_s.value >= one.duration_s.value
    assert other.money.value >= one.money.value
