"""May a chip stand there: published cases, boundaries, mutations, properties, and the command."""

import csv
import json
import re
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gigafactory.cli import app
from gigafactory.faults import Refused
from gigafactory.stack import chips, law
from gigafactory.stack.law import Question, cases
from gigafactory.stack.law import rules as book
from gigafactory.stack.law.condition import FIELDS, NUMBER, TRUTH, BadCondition, Condition
from gigafactory.stack.law.stacks import stack

HERE = Path(__file__).parent
H100 = chips.chip("H100 SXM")
H200 = chips.chip("H200 SXM")
H20 = chips.chip("H20")
ASCEND = chips.chip("Ascend 910C")
A800_OF_ANOTHER = chips.changed(chips.chip("A800"), vendor="AMD")
DAY = timedelta(days=1)
SUMMER = date(2026, 6, 15)
unhurried = settings(deadline=None, max_examples=200)
COUNTRIES = st.sampled_from(sorted(book.countries()))
DAYS = st.dates(law.READ_FROM, date(2028, 1, 1))


def table(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["law", *map(str, words)])
    return result.exit_code, result.output


def asked_json(*words: object) -> dict:
    code, output = run(*words, "--json")
    assert code == 0, output
    return json.loads(output)


def answered(case: dict[str, str]) -> dict[str, str]:
    (ruling,) = cases.answer([case], None, "cases.csv")
    return cases.written(case["case_id"], ruling)


# What the sources say


@pytest.mark.parametrize("case", table("law_cases.csv"), ids=lambda case: case["case_id"])
def test_a_published_case_comes_out_as_published(case):
    said = answered(case)
    assert (said["us"], said["cn"]) == (case["expected_us"], case["expected_cn"])


@pytest.mark.parametrize(
    ("chip", "to", "owner", "on", "outcome", "may_stand"),
    [
        # A Chinese firm's daughter abroad is China (BIS guidance of 2026-05-31), in the US not.
        (H100, "FR", "CN", SUMMER, "presumption_of_denial", False),
        (H100, "US", "CN", SUMMER, "no_licence_required", True),
        # China's own hand, stricter than the US by then.
        (H200, "CN", "CN", date(2026, 5, 15), "withheld", False),
        # General Prohibition 10 warns at home and forbids abroad.
        (ASCEND, "CN", "CN", SUMMER, "prohibited_risk", True),
        (ASCEND, "FR", "CN", SUMMER, "prohibited_risk", False),
        (ASCEND, "CN", "FR", SUMMER, "prohibited_risk", False),
        # The UAE left D:4 on 2026-07-10, the requirement stayed.
        (H100, "AE", "AE", date(2026, 7, 9), "licence_required", False),
        (H100, "AE", "AE", date(2026, 7, 10), "licence_required", False),
        (H100, "AE", "CN", date(2026, 8, 1), "presumption_of_denial", False),
        (H20, "AE", "AE", date(2026, 8, 1), "no_licence_required", True),
        # Nvidia was told three weeks before everybody else.
        (chips.chip("A800"), "CN", "CN", date(2023, 11, 1), "presumption_of_denial", False),
        (A800_OF_ANOTHER, "CN", "CN", date(2023, 11, 1), "no_licence_required", True),
        # A chip at home crosses no border; abroad it does.
        (ASCEND, "CN", "CN", date(2024, 6, 1), "no_licence_required", True),
        (ASCEND, "RU", "CN", date(2024, 6, 1), "presumption_of_denial", False),
        # Embargoes hold for any chip; A100 and H100 had a letter of their own on Russia.
        (chips.chip("L20"), "KP", "KP", SUMMER, "presumption_of_denial", False),
        (chips.chip("RTX 4090"), "RU", "RU", SUMMER, "presumption_of_denial", False),
        (H100, "RU", "RU", date(2022, 9, 15), "licence_required", False),
        (H100, "RU", "RU", date(2022, 2, 23), "no_licence_required", True),
        # Puerto Rico is American soil.
        (H100, "PR", "CN", SUMMER, "no_licence_required", True),
    ],
)
def test_the_law_says_what_the_day_said(chip, to, owner, on, outcome, may_stand):
    ruling = law.judge(Question(chip, to, owner, on))
    assert (ruling.outcome, ruling.may_stand) == (outcome, may_stand)


def test_a_reexport_has_no_way_through_the_rule_of_2026():
    here = Question(H200, "CN", "CN", date(2026, 2, 10))
    assert law.judge(here).by["US"].outcome == "case_by_case"
    assert law.judge(replace(here, route="reexport")).by["US"].outcome == "presumption_of_denial"
    assert law.judge(replace(here, route=None)).by["US"].outcome == "unknown"


def test_a_licence_on_a_name_is_for_that_name_and_up_to_its_cap():
    gulf = Question(chips.chip("GB300"), "AE", "AE", SUMMER, buyer="g42", gpus=35_000)
    assert law.judge(gulf).by["US"].outcome == "allowed_with_conditions"
    assert law.judge(replace(gulf, gpus=35_001)).by["US"].outcome == "licence_required"
    assert law.judge(replace(gulf, buyer="Somebody")).by["US"].outcome == "licence_required"
    unsaid = law.judge(replace(gulf, gpus=None)).by["US"]
    assert (unsaid.outcome, unsaid.missing) == ("unknown", ("n_gpus",))
    # Nor does a licensed name carry a Chinese parent, or one kingdom's licence another's.
    assert law.judge(replace(gulf, owner="CN")).by["US"].outcome == "presumption_of_denial"
    assert law.judge(replace(gulf, buyer="Humain")).by["US"].outcome == "licence_required"


def test_fees_and_caps_are_numbers():
    terms = dict(law.judge(Question(H200, "CN", "CN", date(2026, 2, 10))).terms)
    assert terms["US-2026-01-H200"].fraction == 0.5
    assert terms["US-2026-01-H200"].of == "volume"
    assert (terms["US-2026-01-S232"].fraction, terms["US-2026-01-S232"].of) == (0.25, "value")
    terms = dict(law.judge(Question(H20, "CN", "CN", date(2025, 8, 28))).terms)
    assert terms["US-2025-07-H20-RESUME"].fraction == 0.15
    assert terms["US-2025-07-H20-RESUME"].of == "revenue"
    gulf = Question(chips.chip("GB300"), "AE", "AE", SUMMER, buyer="G42", gpus=1)
    assert dict(law.judge(gulf).terms)["US-2025-11-GULF"].count == 35_000
    at_home = law.judge(Question(H200, "US", "US", date(2026, 2, 10)))
    assert at_home.terms == ()


def test_europe_asks_reports_and_not_licences():
    paris = Question(H100, "FR", "FR", SUMMER, given={"it_power_kw": 500, "training_flop": 1e25})
    ruling = law.judge(paris)
    assert ruling.by["EU"].outcome == "no_restriction"
    assert {duty.rule.id: duty.due for duty in ruling.duties} == {"EU-EED-12": True}
    unsaid = {duty.rule.id: duty.missing for duty in law.judge(replace(paris, given={})).duties}
    assert unsaid == {"EU-AIACT-51": ("training_flop",), "EU-EED-12": ("it_power_kw",)}
    abroad = Question(H100, "VN", "FR", SUMMER, given={"personal_data": True, "data_origin": "FR"})
    assert [duty.rule.id for duty in law.judge(abroad).duties] == ["EU-GDPR-V"]
    near = replace(abroad, destination="JP")  # adequate
    assert law.judge(near).duties == ()


def test_bare_memory_is_judged_by_its_own_rule():
    ruling = law.judge(Question(stack("HBM3e stack"), "CN", "CN", SUMMER))
    assert ruling.by["US"].rule_id == "US-2024-12-HBM"
    assert law.judge(Question(stack("HBM3e"), "MY", "MY", SUMMER)).may_stand
    assert law.judge(Question(stack("HBM3e"), "MY", "CN", SUMMER)).outcome != "no_restriction"
    bare = replace(stack("HBM3e"), bandwidth_density=None)
    unknown = law.judge(Question(bare, "CN", "CN", SUMMER))
    assert unknown.by["US"].missing == ("hbm_bw_density",)
    old = law.judge(Question(stack("HBM2"), "CN", "CN", SUMMER))
    assert old.by["US"].rule_id == "US-2024-12-HBM-EXCEPTION"
    assert law.fastest(Question(stack("HBM3e"), "CN", "CN", SUMMER))[0].name == "HBM2"


def test_no_rule_speaks_of_a_cpu_core():
    assert law.judge(Question(chips.chip("cpu-core"), "CN", None, SUMMER)).may_stand


# Every limit and every day of the rules is held by a row of the table of boundaries


BOUNDARIES = table("law_boundaries.csv")
NEVER_IN_FORCE = {"US-2025-01-DIFFUSION"}  # it was to begin two days after it was given up
LITERAL = re.compile(r"(?<![\w.'])\d+(?:\.\d+)?(?:e\d+)?(?![\w'])")


def told(asked: str) -> dict[str, object]:
    """`tpp=4800; dc=True` as the facts of a condition."""
    facts: dict[str, object] = {}
    for pair in asked.split("; "):
        name, value = pair.split("=")
        kind = FIELDS.get(name)
        facts[name] = {"True": True, "False": False}[value] if kind == TRUTH else value
        if kind == NUMBER:
            facts[name] = float(value)
    return facts


def holds(rule: book.Rule, row: dict[str, str]) -> bool:
    on = date.fromisoformat(row["on"])
    facts = told(row["asked"])
    facts |= {"dest": facts["destination"], "adequacy": book.group_on("ADEQUACY", on)}
    return book.applies(rule, facts, on) == (row["applies"] == "yes")


def of_rule(rule: book.Rule) -> list[dict[str, str]]:
    return [row for row in BOUNDARIES if row["rule_id"] == rule.id]


def mutants(rule: book.Rule):
    """The rule with one day or one limit moved by as little as matters."""
    for side in ("first", "end"):
        day = getattr(rule, side)
        if day != book.LAST_DAY:
            step = 1 if rule.first < rule.end else 4
            for days in (-step, step):
                yield f"{side} {days:+}", replace(rule, **{side: day + days * DAY})
    for found in LITERAL.finditer(rule.condition.text):
        least = 1 if found[0] == "35000" else float(found[0]) * 1e-3
        for move in (-least, least):
            text = rule.condition.text
            moved = f"{text[: found.start()]}{float(found[0]) + move!r}{text[found.end() :]}"
            yield f"{found[0]} {move:+}", replace(rule, condition=Condition(moved))


@pytest.mark.parametrize("rule", book.shipped(), ids=lambda rule: rule.id)
def test_a_rule_holds_at_its_boundaries(rule):
    rows = of_rule(rule)
    assert rows, f"add rows for {rule.id} to tests/law_boundaries.csv"
    for row in rows:
        assert holds(rule, row), row


@pytest.mark.parametrize("rule", book.shipped(), ids=lambda rule: rule.id)
def test_a_moved_day_or_limit_breaks_a_row(rule):
    for name, mutant in mutants(rule):
        if rule.id in NEVER_IN_FORCE and mutant.first >= mutant.end:
            continue
        assert not all(holds(mutant, row) for row in of_rule(rule)), f"nothing holds {name}"


def test_the_rule_that_was_given_up_reaches_nobody():
    for on in (date(2025, 5, 12), date(2025, 5, 15), SUMMER):
        assert law.judge(Question(H100, "IN", "IN", on)).may_stand


# Properties


@unhurried
@given(st.floats(0, 40_000), st.floats(0, 40_000), st.sampled_from(["CN", "RU", "AE", "FR"]), DAYS)
def test_a_stronger_chip_is_never_more_lawful(tpp, more, to, on):
    """By US rules, on the same die. Not by those on bandwidth: the letter of 2025-04 asks a
    licence of chips too weak for 3A090.a, which since 2026 are reviewed case by case."""

    def strictness(figure):
        slow = {"interconnect_bytes_per_s": 400e9, "family": "X"}
        chip = chips.changed(H100, tpp=figure, performance_density=figure / 814, **slow)
        return law.judge(Question(chip, to, to, on)).by["US"].strictness

    assert strictness(tpp) <= strictness(tpp + more)


@unhurried
@given(COUNTRIES, st.none() | COUNTRIES, st.sampled_from(chips.chip_names()), DAYS, DAYS)
def test_intervals_tile_the_calendar(to, owner, name, one, other):
    first, end = min(one, other), max(one, other) + DAY
    intervals = law.over(Question(chips.chip(name), to, owner, first), first, end)
    assert (intervals[0].first, intervals[-1].end) == (first, end)
    for before, after in pairwise(intervals):
        assert before.end == after.first
        assert before.ruling != after.ruling
    for interval in intervals:
        for on in (interval.first, interval.end - DAY):
            assert law.judge(Question(chips.chip(name), to, owner, on)) == interval.ruling


FIGURES = ("tpp", "performance_density", "datacenter", "family", "vendor_country")
FORGOTTEN = st.sets(st.sampled_from(FIGURES))


@unhurried
@given(
    COUNTRIES,
    COUNTRIES,
    DAYS,
    st.sampled_from(chips.chip_names()),
    st.sets(st.sampled_from(FIGURES)),
)
def test_what_is_forgotten_is_never_freer(to, owner, on, name, forgotten):
    chip = chips.chip(name)
    whole = law.judge(Question(chip, to, owner, on))
    blind = chips.changed(chip, **dict.fromkeys(forgotten))
    for government, said in law.judge(Question(blind, to, owner, on)).by.items():
        assert said.outcome in ("unknown", whole.by[government].outcome)
        assert (said.outcome == "unknown") == bool(said.missing)


@unhurried
@given(COUNTRIES, DAYS, st.sampled_from(chips.chip_names()))
def test_an_unknown_owner_makes_it_unknown_or_does_not_matter(to, on, name):
    said = law.judge(Question(chips.chip(name), to, None, on)).by["US"]
    if said.outcome != "unknown":
        owners = ("FR", "CN") if to != "CN" else ("CN",)
        every = {law.judge(Question(chips.chip(name), to, one, on)).by["US"] for one in owners}
        assert every == {said}


@unhurried
@given(COUNTRIES, COUNTRIES, DAYS, st.sampled_from(chips.chip_names()))
def test_a_way_out_is_one(to, owner, on, name):
    question = Question(chips.chip(name), to, owner, on)
    for way in law.ways(question):
        assert way.ruling.may_stand
        assert not law.judge(question).may_stand
        if way.lowered_by is not None:
            assert 0 <= way.lowered_by <= 1


@unhurried
@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_refused(text):
    try:
        condition = Condition(text)
    except BadCondition:
        return
    assert condition.holds({}) in (True, False, None)


FACTS = {"tpp": 5000.0, "dc": True, "family": "H20", "pd": None, "state_funded": None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tpp>=4800 and dc", True),
        ("4000<tpp<5000", False),
        ("tpp>=4800 and pd>=5.92", None),
        ("tpp<4800 and pd>=5.92", False),
        ("tpp>=4800 or pd>=5.92", True),
        ("not (pd>=5.92)", None),
        ("not state_funded and tpp==5000", None),
        ("family in ('H20','MI308')", True),
        ("family not in ('H20',)", False),
        ("family!='H20' or dc==False", False),
        ("tpp > -1", True),
    ],
)
def test_three_values(text, said):
    assert Condition(text).holds(FACTS) is said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tppp>=1", "unknown field 'tppp'"),
        ("__import__('os').system('x')", "neither true nor false"),
        ("tpp.real>=1", "no field"),
        ("tpp>=4800 and", "invalid syntax"),
        ("tpp>='x'", "cannot be compared"),
        ("family in 'H20'", "cannot be compared"),
        ("tpp+1>2", "no field"),
        ("lambda: True", "neither true nor false"),
        ("(" * 500, "at character"),
        ("tpp>=1 and " * 400 + "dc", "longer than"),
        ("", "invalid syntax"),
        ("\0", "null byte"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text, why):
    with pytest.raises(BadCondition, match=re.escape(why)):
        Condition(text)


# The command


def test_one_delivery_in_words_and_as_json():
    words = ("H100", "--to", "FR", "--owner", "CN", "--on", "2026-06-15")
    code, output = run(*words)
    assert code == 0
    assert "US-2023-10-3A090a-D5" in output
    assert "not legal advice" in output
    assert "2026-10-09" in output
    assert "https://" not in output
    assert "https://" in run(*words, "--sources")[1]
    told = asked_json(*words)
    assert told["may_stand"] is False
    assert told["by"]["US"]["source"].startswith("https://")
    assert told["fastest_datacenter"]["chip"] != "H100 SXM"


def test_the_one_field_that_would_do_and_by_how_much():
    told = asked_json("A100", "--to", "FR", "--owner", "CN", "--on", "2026-06-15")
    ways = {way["field"]: way for way in told["ways"]}
    assert (ways["tpp"]["becomes"], ways["tpp"]["below"]) == (4800, True)
    assert ways["tpp"]["lowered_by"] == pytest.approx(1 - 4800 / 4992)
    assert ways["owner"]["becomes"] == "FR"
    # The letter of 2025-04 still asks a licence of a slower H100: its links are as fast as H20's.
    told = asked_json("H100", "--to", "FR", "--owner", "CN", "--on", "2026-06-15")
    assert "tpp" not in {way["field"] for way in told["ways"]}


def test_the_fastest_lawful_chip_is_the_fastest():
    question = Question(H100, "CN", "CN", SUMMER)
    best, ruling = law.fastest(question, datacenter=True)
    assert ruling.is_free
    for name in chips.chip_names():
        other = chips.chip(name)
        if other.kind != "cpu" and other.datacenter and other.peak_flop_per_s:
            faster = other.peak_flop_per_s > best.peak_flop_per_s
            assert not (faster and law.judge(replace(question, chip=other)).is_free), name


def test_nothing_is_recommended_that_is_not_sold_yet_or_is_a_risk():
    early = Question(H100, "FR", "FR", date(2022, 2, 1))
    best, _ = law.fastest(early)
    assert best.released <= date(2022, 2, 1)
    risky = Question(ASCEND, "CN", "FR", SUMMER)
    assert all(way.ruling.outcome != "prohibited_risk" for way in law.ways(risky))
    assert law.fastest(replace(risky, owner="CN"))[1].outcome != "prohibited_risk"


def test_all_chips_of_a_place():
    told = asked_json("--to", "CN", "--owner", "CN", "--on", "2026-06-15")
    rows = {row["chip"]: row for row in told["chips"]}
    assert len(rows) == len(chips.chip_names()) - 1  # a core of a CPU is no accelerator
    assert rows["H20"]["may_stand"] is True
    assert rows["B200"]["may_stand"] is False
    assert rows["RTX Pro 6000D"]["by"]["US"]["missing"]
    code, output = run("--to", "CN", "--on", "2026-06-15")
    assert code == 0
    assert "presumption of" in output


def test_a_timeline_and_its_picture(tmp_path):
    picture = tmp_path / "h20.svg"
    words = ("H20", "--to", "CN", "--owner", "CN", "--over", "2022-2026", "--plot", picture)
    told = asked_json(*words)
    assert told["intervals"][0]["from"] == "2022-01-01"
    assert told["intervals"][-1]["to"] == "2027-01-01"
    starts = [row["from"] for row in told["intervals"]]
    assert "2025-04-09" in starts
    assert "2025-07-14" in starts
    assert picture.read_text().startswith("<svg")
    assert "allowed with conditions" in run(*words)[1]


def test_a_table_of_cases_is_answered(tmp_path):
    out = tmp_path / "out.csv"
    code, output = run("--cases", HERE / "law_cases.csv", "--out", out)
    assert code == 0
    assert "33 of 33 as the table expects" in output
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["case_id", "us", "cn", "us_rule", "cn_rule"]
    assert len(rows) == 33


def test_a_chip_without_the_field_a_rule_asks_is_unknown_in_a_table():
    case = dict(table("law_cases.csv")[-1], chip="Nobody's chip", family="", destination="CN")
    assert answered(case)["us"] == "unknown"
    early = answered(dict(case, date="2019-01-01"))
    assert early["us"] == early["cn"] == "unknown"


def test_the_catalog_knows_a_chips_family_better_than_a_table():
    letter = {"destination": "CN", "buyer_hq": "CN", "date": "2022-09-15"}
    case = dict(table("law_cases.csv")[0], chip="H100 SXM", family="h20", **letter)
    assert answered(case)["us"] == "licence_required"
    assert answered(dict(case, chip="Nobody's", family="h100 "))["us"] == "licence_required"


RULE = {
    "rule_id": "X-1",
    "jurisdiction": "US",
    "effective_date": "2026-01-01",
    "dest_scope": "WORLD",
    "priority": "99",
    "condition": "dc and tpp>=1000",
    "outcome": "licence_required",
}


def proposed(tmp_path, **changed: str) -> Path:
    row = {**RULE, **changed}
    path = tmp_path / "rule.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    return path


def test_a_proposal_without_a_day_is_asked_as_if_in_force(tmp_path):
    words = ("H100", "--to", "FR", "--owner", "FR", "--on", "2022-06-15", "--with-rule")
    assert asked_json(*words, proposed(tmp_path))["may_stand"] is True
    told = asked_json(*words, proposed(tmp_path, effective_date=""))
    assert told["by"]["US"]["rule"] == "X-1"


def test_a_proposed_rule_is_one_row(tmp_path):
    words = ("H100", "--to", "FR", "--owner", "FR", "--on", "2026-06-15")
    assert asked_json(*words)["may_stand"] is True
    told = asked_json(*words, "--with-rule", proposed(tmp_path))
    assert told["by"]["US"]["rule"] == "X-1"
    assert told["may_stand"] is False
    # A known name takes that rule's place; another government gets its own line.
    off = proposed(tmp_path, rule_id="US-2023-10-3A090a-D5", condition="False")
    told = asked_json(
        "H100", "--to", "FR", "--owner", "CN", "--on", "2026-06-15", "--with-rule", off
    )
    assert told["by"]["US"]["rule"] != "US-2023-10-3A090a-D5"
    told = asked_json(*words, "--with-rule", proposed(tmp_path, jurisdiction="JP"))
    assert told["by"]["JP"]["outcome"] == "licence_required"


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"condition": "tppp>=1"}, "condition"),
        ({"condition": "open('x')"}, "condition"),
        ({"condition": "tpp>1e999"}, "condition"),
        ({"condition": ""}, "condition"),
        ({"outcome": "forbidden"}, "outcome"),
        ({"effective_date": "2026-13-01"}, "effective_date"),
        ({"priority": "high"}, "priority"),
        ({"dest_scope": "EUROPE"}, "dest_scope"),
        ({"dest_scope": ""}, "dest_scope"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_rule_is_refused_with_its_cell(tmp_path, changed, where):
    path = proposed(tmp_path, **changed)
    code, output = run("H100", "--to", "FR", "--with-rule", path, "--json")
    assert code == 2
    (error, *_) = json.loads(output)["errors"]
    assert error["where"] == f"{path}:2, {where}"
    with pytest.raises(Refused):
        book.with_rules([{**RULE, **changed}], "x.csv")


def test_all_faults_of_all_rows_are_told_at_once():
    rows = [{**RULE, "outcome": "x", "priority": "y"}, {**RULE, "condition": "z"}]
    with pytest.raises(Refused) as refused:
        book.with_rules(rows, "x.csv")
    assert [fault.where for fault in refused.value.faults] == [
        "x.csv:2, outcome",
        "x.csv:2, priority",
        "x.csv:3, condition",
    ]
    with pytest.raises(Refused, match="stands twice"):
        book.with_rules([RULE, RULE], "x.csv")


@pytest.mark.parametrize(
    ("words", "where", "hint"),
    [
        (("H100", "--to", "Frnce"), "--to", "France"),
        (("H100", "--to", "FR", "--owner", "ZZ"), "--owner", ""),
        (("H100",), "--to", "--to FR"),
        (("H1000X", "--to", "FR"), "CHIP", "H100"),
        (("H100", "--to", "FR", "--on", "2019-01-01"), "--on", "2022-01-01"),
        (("H100", "--to", "FR", "--on", "yesterday"), "--on", "2026-06-15"),
        (("H100", "--to", "FR", "--route", "boat"), "--route", "export"),
        (("H100", "--to", "CN", "--over", "2026-2022"), "--over", "2022-2026"),
        (("--to", "CN", "--over", "2022-2026"), "CHIP", "H100"),
        (("H100", "--to", "FR", "--fact", "powr=3"), "--fact", "it_power_kw"),
        (("H100", "--to", "FR", "--fact", "it_power_kw=lots"), "--fact", "it_power_kw=50000"),
        (("H100", "--to", "FR", "--fact", "it_power_kw=-5"), "--fact", "it_power_kw=50000"),
        (("H100", "--to", "FR", "--fact", "training_flop=nan"), "--fact", "training_flop=50000"),
        (("H100", "--to", "FR", "--fact", "personal_data=maybe"), "--fact", "true"),
        (("H100", "--to", "FR", "--fact", "data_origin=Atlantis"), "--fact", ""),
        (("", "--to", "CN"), "CHIP", ""),
        (("HBM9", "--to", "CN"), "CHIP", "HBM"),
        (("H100", "--to", "FR", "--plot", "x.svg"), "--plot", ""),
        (("H100", "--to", "FR", "--over", "2022-2023", "--plot", "x.png"), "--plot", "svg"),
        (("H100", "--to", "FR", "--over", "2022-2023", "--on", "2022-05-01"), "--over", ""),
        (("H100", "--to", "FR", "--out", "x.csv"), "--out", ""),
        (("H100", "--cases", "x.csv"), "--cases", ""),
        (("H100", "--to", "FR", "--over", "2022-2023", "--plot", "no/x.svg"), "no/x.svg", ""),
        (("--cases", "nowhere.csv"), "nowhere.csv", ""),
    ],
)
def test_what_cannot_be_asked_is_refused(words, where, hint):
    code, output = run(*words, "--json")
    assert code == 2, output
    (error,) = json.loads(output)["errors"]
    assert error["where"] == where
    assert hint in error["remedy"]


def test_a_table_from_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "in.csv"
    text = (HERE / "law_cases.csv").read_text(encoding="utf-8").replace("\n", "\r\n")
    path.write_text("\ufeff" + text, encoding="utf-8", newline="")
    code, output = run("--cases", path)
    assert code == 0
    assert "33 of 33" in output


def test_a_bad_cell_of_a_table_is_refused_and_nothing_is_written(tmp_path):
    good = table("law_cases.csv")[:2]
    rows = [
        dict(good[0], export_kind="export"),
        dict(good[1], destination="Atlantis", n_gpus="-5"),
        dict(good[1], date="soon"),
    ]
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    code, output = run("--cases", path, "--out", out, "--json")
    assert code == 2
    wheres = [error["where"] for error in json.loads(output)["errors"]]
    assert wheres == [f"{path}:3, destination", f"{path}:3, n_gpus", f"{path}:4, date"]
    assert not out.exists()
