"""The tables that export rules are read with: countries, groups, notices, stacks, law fields."""

import re
from collections import Counter
from datetime import date
from itertools import pairwise

import pytest

from gigafactory.stack import chips, facts

ISO = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")
GROUPS = {"D5", "D1D4", "MO", "TIER1", "EU", "EEA", "ADEQUACY"}


def members(group: str, on: str) -> set[str]:
    """Who is in `group` on a day."""
    return {
        row["country"]
        for row in facts.rows("law_groups")
        if row["group"] == group and row["from_date"] <= on < (row["to_date"] or "9999")
    }


def real(day: str) -> bool:
    """Whether `day` is a year, a month or a day of the calendar."""
    return bool(ISO.fullmatch(day)) and bool(date.fromisoformat((day + "-01-01")[:10]))


def test_every_name_and_alias_means_one_country():
    rows = facts.rows("countries")
    assert len(rows) == 249
    assert all(re.fullmatch("[A-Z]{2}", row["code"]) for row in rows)
    spelt = [
        name.lower()
        for row in rows
        for name in (row["code"], row["name"], *row["aliases"].split("|"))
    ]
    assert [name for name, times in Counter(spelt).items() if times > 1] == []
    assert "" not in spelt


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Macao", "MO"),
        ("Macau", "MO"),
        ("UAE", "AE"),
        ("Korea", "KR"),
        ("South Korea", "KR"),
        ("North Korea", "KP"),
        ("Taiwan", "TW"),
        ("Turkey", "TR"),
        ("Türkiye", "TR"),
        ("Russia", "RU"),
        ("Iran", "IR"),
        ("Viet Nam", "VN"),
        ("Vietnam", "VN"),
        ("UK", "GB"),
        ("USA", "US"),
        ("Burma", "MM"),
        ("DRC", "CD"),
        ("Czech Republic", "CZ"),
        ("Ivory Coast", "CI"),
        ("Hong Kong", "HK"),
    ],
)
def test_a_country_is_found_by_its_usual_names(name, code):
    found = [
        row["code"]
        for row in facts.rows("countries")
        if name in (row["name"], *row["aliases"].split("|"))
    ]
    assert found == [code]


def test_every_member_is_a_country_and_every_membership_is_sourced():
    codes = {row["code"] for row in facts.rows("countries")}
    rows = facts.rows("law_groups")
    assert {row["group"] for row in rows} == GROUPS
    for row in rows:
        assert row["country"] in codes, row
        assert row["basis"] in ("published", "recalled"), row
        assert row["source"], row
        assert real(row["as_of"]), row
        for day in (row["from_date"], row["to_date"]):
            assert day == "" or date.fromisoformat(day), row


def test_memberships_of_one_country_in_one_group_follow_each_other():
    spans: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in facts.rows("law_groups"):
        end = row["to_date"] or "9999"
        assert row["from_date"] < end, row
        spans.setdefault((row["group"], row["country"]), []).append((row["from_date"], end))
    for who, its in spans.items():
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(its))), who


@pytest.mark.parametrize(
    "on", ["2022-08-26", "2023-11-17", "2024-06-01", "2026-01-15", "2026-11-01"]
)
def test_no_country_is_in_two_groups_that_exclude_each_other(on):
    d5, d1d4, macau = members("D5", on), members("D1D4", on), members("MO", on)
    assert macau == {"MO"}
    assert not d5 & d1d4
    assert not (d5 | d1d4) & macau
    assert not members("TIER1", on) & (d5 | d1d4 | macau | {"US"})
    assert not members("EEA", on) & members("ADEQUACY", on)


@pytest.mark.parametrize(
    ("country", "day_before", "group_before", "day", "group"),
    [
        ("AE", "2026-07-09", "D1D4", "2026-07-10", None),
        ("KH", "2025-11-06", "D5", "2025-11-07", "D1D4"),
        ("NI", "2024-03-14", None, "2024-03-15", "D5"),
    ],
)
def test_a_country_changes_groups_on_the_day_of_its_rule(
    country, day_before, group_before, day, group
):
    for on, expected in ((day_before, group_before), (day, group)):
        found = [one for one in ("D5", "D1D4") if country in members(one, on)]
        assert found == ([expected] if expected else []), on


def test_the_groups_are_complete_after_the_summer_of_2026():
    def spelt(group: str) -> str:
        return " ".join(sorted(members(group, "2026-08-01")))

    assert spelt("D5") == "AF BY CD CF CN CU ER ET HK HT IQ IR KP LB LY MM NI RU SD SO SS SY VE ZW"
    assert spelt("D1D4") == "AM AZ BH EG GE JO KG KH KW KZ LA MD MN OM PK QA SA TJ TM UZ VN YE"
    assert spelt("TIER1") == "AU BE CA DE DK ES FI FR GB IE IT JP KR NL NO NZ SE TW"
    assert spelt("EU").count(" ") == 26
    assert members("EEA", "2026-08-01") - members("EU", "2026-08-01") == {"IS", "LI", "NO"}
    assert spelt("ADEQUACY") == "AD AR BR CA CH FO GB GG IL IM JE JP KR NZ UY"


@pytest.mark.parametrize(
    ("country", "groups"),
    [
        ("CN", {"D5"}),
        ("HK", {"D5"}),
        ("MO", {"MO"}),
        ("VN", {"D1D4"}),
        ("SA", {"D1D4"}),
        ("FR", {"TIER1", "EU", "EEA"}),
        ("NO", {"TIER1", "EEA"}),
        ("GB", {"TIER1", "ADEQUACY"}),
        ("IL", {"ADEQUACY"}),
        ("CY", {"EU", "EEA"}),
        ("IN", set()),
        ("MY", set()),
        ("SG", set()),
        ("US", set()),
    ],
)
def test_a_country_is_in_these_groups_and_no_others(country, groups):
    assert {group for group in GROUPS if country in members(group, "2026-06-15")} == groups


def test_every_notice_is_dated_sourced_and_of_known_countries():
    rows = facts.rows("law_notices")
    known = {row["code"] for row in facts.rows("countries")} | GROUPS | {"WORLD", ""}
    assert [row["date"] for row in rows] == sorted(row["date"] for row in rows)
    assert len({(row["date"], row["title"]) for row in rows}) == len(rows) > 20
    for row in rows:
        assert real(row["date"]), row
        assert row["government"] in ("US", "CN", "EU"), row
        assert row["confidence"] in ("high", "medium", "low"), row
        assert all(row[column] for column in ("authority", "title", "effect", "source_title")), row
        assert row["source_url"] == "" or row["source_url"].startswith("http"), row
        assert set(row["scope"].split("+")) <= known, row


def test_a_notice_of_a_bill_says_that_it_is_no_law():
    bills = [row for row in facts.rows("law_notices") if re.search(r"\b[Aa]cts?\b", row["title"])]
    assert len(bills) >= 5
    for row in bills:
        assert re.search(r"[Nn]ot (law|enacted)|[Ww]ould|none is law|outside", row["effect"]), row


def stacks() -> dict[str, dict[str, dict[str, str]]]:
    """Stack -> quantity -> row as it stands."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in facts.rows("memory_stacks"):
        assert row["quantity"] not in found.setdefault(row["stack"], {}), row
        found[row["stack"]][row["quantity"]] = row
    return found


def test_the_density_of_a_stack_is_its_bandwidth_over_its_area():
    for of in stacks().values():
        bandwidth, area, density = (of[name] for name in ("bandwidth", "area", "bandwidth_density"))
        assert (bandwidth["unit"], area["unit"], density["unit"]) == ("GB/s", "mm2", "GB/s/mm2")
        assert density["basis"] == "derived"
        for column, under in (("value", "value"), ("low", "high"), ("high", "low")):
            expected = float(bandwidth[column]) / float(area[under])
            assert float(density[column]) == pytest.approx(expected, abs=0.006), density
        assert float(density["low"]) <= float(density["value"]) <= float(density["high"])


def test_every_stack_in_production_is_controlled_and_only_the_oldest_has_an_exception():
    density = {name: float(of["bandwidth_density"]["value"]) for name, of in stacks().items()}
    assert list(density) == ["HBM2", "HBM2e", "HBM3", "HBM3e", "HBM4"]
    assert list(density.values()) == sorted(density.values())
    assert min(float(of["bandwidth_density"]["low"]) for of in stacks().values()) > 2
    assert [name for name, figure in density.items() if figure < 3.3] == ["HBM2"]


def test_every_fact_of_a_stack_is_sourced():
    for fact in facts.load("memory_stacks"):
        assert fact.basis in facts.BASES, fact
        assert fact.source, fact
        assert real(fact.as_of), fact


# What rules ask of the chips that cases name: family, TPP, TPP/mm2, GB/s of links, TB/s of memory.
LAW_FIELDS = """
A100-80 SXM            A100       4992  6.04   600   2.039
A800-80 SXM            A800       4992  6.04   400   2.04
H100 SXM               H100       15832 19.45  900   3.35
H800 SXM               H800       15832 19.45  400   3.36
H200 SXM               H200       15832 19.45  900   4.8
H20                    H20        2368  2.91   900   4.0
L40S                   L40S       5864  9.64   62    0.864
L20                    L20        1912  3.14   62    0.864
L4                     L4         1936  6.59   62    0.3
RTX 4090               RTX4090    5285  8.69   62    1.008
B200                   B200       36000 22.5   1800  7.7
B30A                   B30A       28000 35.0   -     3.85
GB200 NVL72 (per GPU)  GB200      40000 25.0   1800  8.0
GB300 NVL72 (per GPU)  GB300      60000 37.5   1800  8.0
MI308X                 MI308      -     -      -     5.3
MI325X                 MI325X     20919 20.57  896   6.0
RTX Pro 6000D          RTXPRO6000D -    -      -     1.398
Ascend 910B            ASCEND910  6016  -      392   1.6
Ascend 910C            ASCEND910  12800 -      784   3.2
T-Head PPU (Zhenwu 810E) THEADPPU 1899  -      700   2.0
"""


@pytest.mark.parametrize("line", LAW_FIELDS.strip().splitlines())
def test_a_chip_carries_what_rules_ask_and_unknown_stays_unknown(line):
    name, *expected = re.split(r"\s+(?=\S+\s+\S+\s+\S+\s+\S+\s+\S+$)", line)
    family, *figures = expected[0].split()
    tpp, density, links_gb_s, memory_tb_s = (None if f == "-" else float(f) for f in figures)
    chip = chips.chip(name)
    assert (chip.name, chip.family) == (name, family)
    assert (chip.tpp, chip.performance_density) == (tpp, density)
    assert chip.interconnect_bytes_per_s == (links_gb_s and links_gb_s * 1e9)
    assert chip.peak_memory_bytes_per_s == pytest.approx(memory_tb_s * 1e12)


def test_every_accelerator_says_who_makes_it_where_and_for_what():
    for name in chips.chip_names():
        chip = chips.chip(name)
        if chip.kind == "gpu":
            assert all((chip.family, chip.vendor)), name
            assert chip.vendor_country in ("US", "CN"), name
            assert chip.datacenter is (name != "RTX 4090"), name


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("A100 PCIe", "A100-80 PCIe"),
        ("GeForce RTX 4090", "RTX 4090"),
        ("RTX6000D", "RTX Pro 6000D"),
        ("GB200 NVL72", "GB200 NVL72 (per GPU)"),
        ("GB300-NVL72", "GB300 NVL72 (per GPU)"),
        ("AMD Instinct MI308", "MI308X"),
        ("Huawei Ascend 910C", "Ascend 910C"),
        ("T-Head PPU", "T-Head PPU (Zhenwu 810E)"),
        ("MXC500", "MXC500 (OAM)"),
    ],
)
def test_a_chip_of_a_rule_is_found_as_people_spell_it(spelt, name):
    assert chips.chip(spelt).name == name
