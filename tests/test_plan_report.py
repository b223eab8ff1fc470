"""The report of a plan: whole, self-contained, every figure with its note, the same to the byte."""

import re
from datetime import date, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from gigafactory.console import plan_charts, plan_grounds, plan_page, plan_report
from gigafactory.console.plan_charts import Series
from gigafactory.plan.designed import Designed, Lawful, Month, Place, Purchase, Speed, Use
from gigafactory.stack import chips
from gigafactory.stack.bringup import Options, answers
from gigafactory.stack.money import answers as money_answers
from gigafactory.stack.money import cash
from gigafactory.stack.money.figures import inputs

QUARTERS = [date(2027 + n // 4, 1 + n % 4 * 3, 1) for n in range(12)]
VOID = {"meta", "link", "br", "img", "input", "hr"}
SYSTEMS = ("gb300-nvl72", "b200-8", "h200-8")
CHIPS = {"gb300-nvl72": 72, "b200-8": 8, "h200-8": 8}
WATTS = {"gb300-nvl72": 147840.0, "b200-8": 13420.0, "h200-8": 10000.0}


class Reader(HTMLParser):
    """Elements, ids, links and texts of a page; fails where elements do not nest."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.links, self.loads, self.rows = [], [], [], [], []
        self.foreign = set()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if "id" in named and "svg" not in self.open:
            self.ids.append(named["id"])
        if tag == "a":
            self.links.append(named["href"])
        self.loads += [named[name] for name in ("src", "href") if tag != "a" and name in named]
        self.foreign |= {name for name in named if name.startswith("on")}
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("script", "style") and "tr" in self.open:
            self.rows[-1][-1] += text


def place(site, at="milan", **more):
    return Place(
        **{
            "site": site,
            "place": at,
            "country": "IT",
            "count": 1,
            "power_w": 50e6,
            "powered": date(2027, 10, 1),
            "pue": 1.09,
            "pue_hot": 1.13,
            "wue_l_per_kwh": 0.2,
            "energy_price_per_kwh": 0.18,
            "carbon_g_per_kwh": 268.0,
            "basis": {"pue": "modelled", "wue": "modelled", "carbon": "derived"},
            "sources": {"pue": "weather of the place", "carbon": f"grid of {site}, 2024"},
            **more,
        }
    )


def purchase(site, system, quarter, nodes):
    return Purchase(
        site=site,
        system=system,
        quarter=quarter,
        day=QUARTERS[quarter],
        stands=QUARTERS[min(quarter + 4, 11)],
        nodes=nodes,
        chips=nodes * CHIPS.get(system, 8),
        price=nodes * 3.8e6,
        power_w=nodes * WATTS.get(system, 1e4),
    )


def designed(sites=("milan",), bought=("gb300-nvl72", "b200-8"), **more):
    purchases = [
        purchase(site, system, quarter, 3 + quarter + number)
        for number, site in enumerate(sites)
        for system in bought
        for quarter in (0, 2, 5)
    ]
    return Designed(
        **{
            "name": "a plan",
            "currency": "EUR",
            "blueprint_hash": "b" * 64,
            "catalog_hash": "c" * 64,
            "objective": "cost",
            "start": QUARTERS[0],
            "quarters": QUARTERS,
            "purchases": purchases,
            "uses": [
                Use(demand=demand, site=site, system=bought[0], quarter=quarter, nodes=2.5)
                for demand in ("chat", "train")
                for site in sites
                for quarter in range(4, 12)
            ],
            "speeds": [
                Speed(
                    demand=demand,
                    system=system,
                    tokens_per_s_per_node=None if system == "h200-8" else 1e5,
                    tokens_per_s_per_chip=None if system == "h200-8" else 1e3,
                    nodes=None if system == "h200-8" else 2,
                    layout="" if system == "h200-8" else "tp8 pp2",
                    mfu=0.41 if demand == "train" else None,
                    tpot_s=None if demand == "train" else 0.02,
                    ttft_s=None if demand == "train" else 1.2,
                    why_not="does not fit" if system == "h200-8" else "",
                )
                for demand in ("chat", "train")
                for system in SYSTEMS
            ],
            "places": [place(site) for site in sites],
            "law": [
                Lawful(
                    site=site,
                    system=system,
                    first=first,
                    end=end,
                    may_stand=outcome == "no_licence_required",
                    outcome=outcome,
                    rule=rule,
                )
                for site in sites
                for system in SYSTEMS
                for first, end, outcome, rule in (
                    (QUARTERS[0], QUARTERS[6], "no_licence_required", ""),
                    (QUARTERS[6], date(2030, 1, 1), "case_by_case", "US-2026-01-H200"),
                )
            ],
            "cash": [
                Month(
                    day=date(2027 + n // 12, n % 12 + 1, 1),
                    machines=1e6,
                    facility=5e5,
                    upkeep=1e4,
                    energy=2e5,
                    revenue=0.0,
                )
                for n in range(36)
            ],
            "parts": {"capex": 2e8, "facility": 1e8, "energy": 2e7, "residual": -6e7},
            "cost": 2.6e8,
            "spent": sum(one.price for one in purchases) + 1e8,
            "carbon_kg": 2.9e7,
            "energy_kwh": 1.1e8,
            "water_l": 2e7,
            "tokens": 4.6e14,
            "first_token": QUARTERS[4],
            "objective_value": 2.6e8,
            "bound": 2.59e8,
            "gap": 0.004,
            "binding": [("power of milan: 50 MW", "one more MW is worth 78.3 k")],
            "reasons": {"h200-8": "a node costs 317 k and is worth 206 k"},
            **more,
        }
    )


MANY = tuple(f"site-{number}" for number in range(29))


@pytest.fixture(scope="module")
def bringup():
    return {"milan": answers.bringup(Options(), 0, 200, QUARTERS[0], None, "milan")}


def test_the_page_is_well_formed_and_loads_nothing(bringup):
    page = plan_report.page(designed(), bringup)
    read = Reader(page)
    assert all(load.startswith("data:") for load in read.loads)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)
    assert "default-src 'none'" in page
    assert "{{" not in page


def test_its_drawings_are_well_formed(bringup):
    page = plan_report.page(designed(), bringup)
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) >= 10
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_the_same_design_gives_the_same_bytes(bringup):
    made = designed(("milan", "paris"))
    again = Designed.model_validate_json(made.model_dump_json())
    assert plan_report.page(made, bringup) == plan_report.page(again, bringup)


def test_every_purchase_and_every_site_appears():
    sites = ("milan", "paris", "idle")
    made = designed(sites[:2], places=[place(site) for site in sites])
    rows = Reader(plan_report.page(made)).rows
    for one in made.purchases:
        line = [one.site, one.system, str(one.day), str(one.stands), f"{one.nodes:,}"]
        line += [f"{one.chips:,}", f"{one.price / 1e6:,.2f}"]
        assert any(
            len(row) == 8
            and all(told.startswith(cell) for told, cell in zip(row, line, strict=False))
            for row in rows
        ), line
    for one in made.places:
        assert any(row[0] == one.site and row[2:3] == [one.country] for row in rows)


def test_every_number_of_the_bill_has_a_note_and_every_note_is_there():
    page = plan_report.page(designed())
    read = Reader(page)
    bill = page[page.index('id="what-to-buy"') : page.index('id="by-quarter"')]
    cells = re.findall(r'<td class="?number"?>(.*?)</td>', bill)
    assert len(cells) > 20
    assert all(re.search(r'href="#n\d+"', cell) for cell in cells)
    notes = {link[1:] for link in read.links if re.fullmatch(r"#n\d+", link)}
    assert notes <= set(read.ids)
    assert len(set(read.ids)) == len(read.ids)
    assert {link[1:] for link in read.links} <= set(read.ids)


def test_notes_are_numbered_in_the_order_of_the_page():
    page = plan_report.page(designed())
    first_seen = list(dict.fromkeys(map(int, re.findall(r'href="#n(\d+)"', page))))
    assert first_seen == list(range(1, len(first_seen) + 1))


def test_a_price_says_its_source_and_its_basis():
    rows = Reader(plan_report.page(designed())).rows
    (note,) = (row for row in rows if len(row) == 4 and row[1].startswith("price of b200-8"))
    assert note[2] == "estimate"
    assert "USD" in note[3]
    assert "the server around" in note[3]


def test_a_figure_of_a_place_says_where_it_is_from():
    page = plan_report.page(designed())
    rows = Reader(page).rows
    carbon = [row for row in rows if row[1:2] == ["carbon of electricity, milan"]]
    assert [row[2:] for row in carbon] == [["derived", "grid of milan, 2024"]]


def test_names_are_escaped():
    evil = '<img src=x onerror=alert(1)>"&'
    made = designed(
        (evil,),
        (evil,),
        name=evil,
        binding=[(evil, evil)],
        reasons={evil: evil},
        places=[place(evil, "milan", basis={"pue": evil}, sources={"pue": evil})],
    )
    page = plan_report.page(made)
    read = Reader(page)
    assert "<img" not in page
    assert not read.foreign
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_a_place_that_the_catalog_has_not_is_left_off_the_map_with_a_word():
    page = plan_report.page(designed(places=[place("milan", "atlantis-on-sea")]))
    assert "Not on the map, as the catalog has no such place: milan." in page


def test_a_plan_of_many_sites_folds_and_stays_small():
    page = plan_report.page(designed(MANY, places=[place(site) for site in MANY]))
    Reader(page)
    assert len(page.encode()) < 1_000_000
    assert "23 more sites" in page
    assert "Every purchase (174)" in page


def test_a_plan_that_buys_nothing_is_a_page_too():
    made = designed(purchases=[], uses=[], spent=0.0, first_token=None, law=[], reasons={})
    page = plan_report.page(made.model_copy(update={"binding": [], "parts": {}, "speeds": []}))
    Reader(page)
    assert "Nothing is to be bought" in page
    assert "Nothing runs." in page


def test_a_bring_up_later_than_the_plan_is_said(bringup):
    late = plan_report.page(designed(), bringup)
    assert "is later than the quarter from 2028-01-01" in late
    assert "Critical path" in late
    far = plan_report.page(designed(first_token=date(2040, 1, 1)), bringup)
    assert "is later than the quarter" not in far


def test_without_a_bring_up_the_page_says_that_it_is_left_out():
    page = plan_report.page(designed())
    assert "Left out: no bring-up was asked" in page


def test_the_cash_of_a_project_is_drawn_where_it_is_given():
    system = chips.system("b200-8")
    project = cash.Project(system, 10, date(2028, 1, 1))
    told = money_answers.invest(project, inputs(system), "EUR", draws=50)
    page = plan_report.page(designed(), None, told)
    Reader(page)
    assert "Cash by month" in page
    assert "gigafactory invest" not in page


def test_systems_and_sites_of_one_law_stand_in_one_row():
    groups = plan_grounds.alike(designed(("milan", "paris")))
    assert [(group.systems, group.sites) for group in groups] == [
        (("b200-8", "gb300-nvl72", "h200-8"), ("milan", "paris"))
    ]
    assert len(groups[0].stretches) == 2


def test_one_system_ruled_otherwise_has_a_row_of_its_own():
    made = designed()
    other = [
        one.model_copy(update={"outcome": "prohibited", "may_stand": False})
        if one.system == "h200-8"
        else one
        for one in made.law
    ]
    groups = plan_grounds.alike(made.model_copy(update={"law": other}))
    assert [group.systems for group in groups] == [("b200-8", "gb300-nvl72"), ("h200-8",)]


def test_energy_by_site_adds_up_to_the_whole():
    made = designed()
    of_site = 16 * 2.5 * WATTS["gb300-nvl72"] * 365.25 * 6 / 1e3 * 1.09
    page = plan_report.page(made.model_copy(update={"energy_kwh": of_site}))
    assert "what stood already" not in page
    page = plan_report.page(made.model_copy(update={"energy_kwh": 2 * of_site}))
    assert "what stood already" in page


def test_columns_stack_to_the_scale_and_the_limit_is_drawn():
    days = QUARTERS[:2]
    series = [Series("a", 0, [10e6, 0]), Series("b", 1, [30e6, 0])]
    drawn = ElementTree.fromstring(plan_charts.columns("power", "W", days, series, [0, 50e6]))
    bars = drawn.findall("rect")
    heights = [float(bar.get("height")) for bar in bars]
    assert len(bars) == 2
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)
    assert float(bars[0].get("y")) == pytest.approx(float(bars[1].get("y")) + heights[1], abs=0.2)
    assert any(path.get("class") == "limit" for path in drawn.findall("path"))
    assert "30 MW" in bars[1].find("title").text


def test_no_number_on_an_axis_is_written_with_an_exponent():
    for most in (3, 450, 5.4e4, 9.9e4, 7.3e5, 2e9):
        for unit in ("chips", "EUR", "W"):
            series = [Series("a", 0, [most])]
            drawn = plan_charts.columns("orders", unit, QUARTERS[:1], series)
            assert not re.search(r">[^<]*e\+\d", drawn), (most, unit)


def test_a_curve_starts_at_nothing_and_has_a_place_for_every_month():
    points = [(QUARTERS[0] + timedelta(days=31 * n), -1e6 * n) for n in range(12)]
    drawn = ElementTree.fromstring(plan_charts.curve("cash", "EUR", points))
    assert len(drawn.findall("rect")) == 12
    assert len(drawn.find("polyline").get("points").split()) == 13


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [(5e7, "W", "50 MW"), (1.234e9, "EUR", "1.234 B EUR"), (900, "nodes", "900 nodes")],
)
def test_values_have_the_prefix_that_suits(value, unit, said):
    assert plan_charts.scale(value, unit).say(value) == said


def test_styles_of_a_drawing_stay_in_it():
    style = (
        "svg { fill: red } .wide, .a { x: y } @media (max-width: 9px) { .wide { display: none }}"
    )
    inside = plan_page.scoped(style, ".drawn")
    assert ".drawn svg {" in inside
    assert ".drawn .wide, .drawn .a {" in inside
    assert re.search(r"@media \(max-width: 9px\) \{\s*\.drawn \.wide \{", inside)
