"""Places at the door: pages, tables, maps and answers to tables of cases; refusals."""

import csv
import json
import math
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import typer
import typer.testing
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gigafactory import places
from gigafactory.console import drawing, site_plots, timeline, worldmap
from gigafactory.console import sites as console_sites
from gigafactory.stack import sites as catalog
from gigafactory.stack.facts import BASES
from gigafactory.stack.sites import answers, grid, pue_cases

runner = typer.testing.CliRunner()
app = typer.Typer()
places.mount(app)

SVG = "{http://www.w3.org/2000/svg}"
HEADER = "pue_id,operator,site,iso2,lat,lon,year,pue,cooling_type," + ",".join(places.CLIMATE)
CASES = (
    'A1,x,Tokyo,JP,35.7,139.7,2024,1.27,"free air, evaporative assist",14.8,26.3,11.7,23.0',
    "A2,x,Lulea,SE,65.6,22.1,2024,,outside air,2.1,15.4,0.4,11.9",
    "A3,x,nowhere,,,,2024,1.45,chillers,,,,",
)


def run(*words, code=0):
    result = runner.invoke(app, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result


def ask(*words):
    return json.loads(run(*words, "--json").stdout)


def refusal(*words):
    (fault,) = json.loads(run(*words, "--json", code=2).stdout)["errors"]
    assert all(fault[part] for part in ("what", "where", "why", "remedy"))
    return fault


@pytest.fixture
def cases(tmp_path):
    def write(*lines, header=HEADER):
        path = tmp_path / "cases.csv"
        path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
        return path

    return write


def records(told):
    """Every part of an answer that carries a value or a curve."""
    if isinstance(told, dict):
        if {"value", "by_month", "by_season"} & set(told) and "year" not in told:
            yield told
        else:
            for part in told.values():
                yield from records(part)
    elif isinstance(told, list):
        for part in told:
            yield from records(part)


def test_every_figure_of_a_place_has_basis_source_and_date():
    told = ask("site", "milan")
    found = list(records(told))
    assert len(found) > 20
    for record in found:
        assert record["basis"] in (*BASES, "modelled"), record
        assert record["source"], record
        assert record["as_of"] or record["basis"] == "unknown", record
        assert "proxy" in record
    for bulb in ("dry_bulb", "wet_bulb", "relative_humidity"):
        assert told["climate"][bulb]["source"]
        assert told["climate"][bulb]["as_of"]


def test_the_page_of_a_place_says_what_it_gives_and_what_that_is_worth():
    page = run("site", "cn-beijing").stdout
    for words in ("Beijing", "electricity price", "modelled", "published", "stand-in: China"):
        assert words in page
    for design in answers.DESIGNS:
        assert design in page
    assert "https://" not in page
    with_sources = run("site", "cn-beijing", "--sources").stdout
    assert "https://" in with_sources
    assert len(with_sources) > 1.5 * len(page)


def test_the_hours_of_a_place_average_to_its_annual_figure():
    told = ask("site", "frankfurt")
    for key in ("carbon", "electricity_price"):
        seasons = told["hours"][key]["by_season"]
        assert [len(day) for day in seasons.values()] == [24] * 4
        days = dict(zip(answers.SEASONS, (90, 92, 92, 91), strict=True))
        mean = sum(days[name] * sum(day) / 24 for name, day in seasons.items()) / 365
        assert math.isclose(mean, told["figures"][key]["value"], rel_tol=0.01)


def test_the_day_is_told_by_the_local_clock():
    """Solar power empties the midday of Spain, whatever the clock in Greenwich says."""
    by_hour = ask("site", "madrid")["hours"]["carbon"]["by_hour"]
    assert by_hour.index(min(by_hour)) in range(11, 18)
    (site,) = [one for one in catalog.sites() if one.id == "madrid"]
    assert math.isclose(sum(by_hour) / 24, grid.carbon_g_per_kwh([site]).mean(), rel_tol=1e-3)


def test_hours_under_a_flat_price_are_said_to_be_alike():
    flat = next(one for one in catalog.sites() if np.ptp(grid.price_usd_per_kwh([one])) == 0)
    assert ask("site", flat.id)["hours"]["electricity_price"]["least_hour"] is None
    assert "alike in all hours" in run("site", flat.id).stdout


def test_overhead_grows_with_the_heat_outside():
    told = ask("site", "milan", "--cooling", "air")
    assert told["pue"]["air"]["by_month"][6] > told["pue"]["air"]["by_month"][0] >= 1
    assert told["figures"]["pue"] == told["pue"]["air"]["year"]
    liquid = ask("site", "milan", "--cooling", "immersion")
    assert liquid["figures"]["pue"]["value"] < told["figures"]["pue"]["value"]
    year = told["figures"]["pue"]
    assert 1 <= year["low"] < year["value"] < year["high"]


def test_neighbours_are_in_the_order_of_their_round_trip():
    trips = [one["round_trip"] for one in ask("site", "tokyo")["nearest"]]
    assert len(trips) == answers.NEAREST
    values = [trip["value"] for trip in trips]
    assert values == sorted(values)
    assert all(0 < trip["low"] <= trip["value"] <= trip["high"] for trip in trips)


def test_all_places_and_data_centers_are_counted():
    told = ask("sites")
    assert len(told["sites"]) == 58
    assert told["sum"] == {
        "places": 58,
        "regions": 29,
        "data_centers_sourced": 76,
        "data_centers_assumed": 15,
        "data_centers": 91,
    }
    said = " ".join(run("sites").stdout.split())
    assert "76 data centers with a source + 15 assumed = 91" in said
    for row in told["sites"]:
        for figure in records(row):
            assert figure["basis"] in (*BASES, "modelled")
            assert figure["source"]


@pytest.mark.parametrize("word", [word for word in answers.SORTS if word != "name"])
def test_the_least_comes_first_and_the_unknown_last(word):
    rows = ask("sites", "--sort", word)["sites"]
    values = [row["figures"][answers.SORTS[word]]["value"] for row in rows]
    known = [value for value in values if value is not None]
    assert known == sorted(known)
    assert values[: len(known)] == known


def test_a_table_can_be_of_one_kind_and_in_the_order_of_names():
    rows = ask("sites", "--kind", "ai-site")["sites"]
    assert len(rows) == 21
    shown = [row["id"] for row in rows]
    assert shown == sorted(shown)


def test_sources_of_all_places_are_one_option_away():
    assert "https://" not in run("sites").stdout
    said = run("sites", "--kind", "ai-site", "--sources").stdout
    assert "https://" in said
    assert "2026" in said


@pytest.mark.parametrize(
    ("words", "what", "remedy"),
    [
        (("site", "shanhai"), "no place 'shanhai'", "did you mean shanghai"),
        (("site", "Atlantis"), "no place 'Atlantis'", "`gigafactory sites` lists them"),
        (("site", "milan", "--cooling", "imersion"), "no cooling 'imersion'", "immersion"),
        (("site", "milan", "--plot", "year.png"), "year.png is no file to draw into", "year.svg"),
        (("sites", "--sort", "carbn"), "no sort 'carbn'", "did you mean carbon?"),
        (("sites", "--kind", "ai"), "no kind 'ai'", "take one of them"),
        (("site", "milan", "--cooling", "sea-water"), "no cooling 'sea-water'", "chilled-water"),
        (("sites", "--plot", "map.pdf"), "map.pdf is no file to draw into", "map.svg"),
    ],
)
def test_what_is_not_known_is_refused_with_what_would_do(words, what, remedy):
    fault = refusal(*words)
    assert fault["what"] == what
    assert remedy in fault["remedy"]


@pytest.mark.parametrize("words", [("sites", "--kind", "xx"), ("site", "milan", "--cooling", "")])
def test_the_known_words_are_said_once(words):
    fault = refusal(*words)
    assert fault["why"].startswith("known: ")
    assert "known" not in fault["remedy"]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize("words", [("site", "ulanqab"), ("site", "milan"), ("sites",)])
def test_no_figure_is_cut_however_narrow_the_terminal(words, columns):
    told = ask(*words)
    page = console_sites.place(told) if words[0] == "site" else console_sites.compare(told)
    console = Console(width=columns, force_terminal=False)
    with console.capture() as shown:
        console.print(page)
    assert "…" not in shown.get()
    if columns == 40 and words == ("sites",):
        assert "left out" in shown.get()


def test_a_narrow_table_keeps_what_it_is_sorted_by():
    console = Console(width=40, force_terminal=False)
    with console.capture() as shown:
        console.print(console_sites.compare(ask("sites", "--sort", "time-to-power")))
    assert "wait" in shown.get().splitlines()[0]


def test_a_published_round_trip_stands_beside_the_modelled_one():
    trips = {one["id"]: one for one in ask("site", "milan")["nearest"]}
    stated = trips["frankfurt"]["round_trip_published"]
    assert (stated["value"], stated["basis"]) == (0.014, "published")
    assert trips["frankfurt"]["round_trip"]["basis"] == "modelled"
    assert trips["verviers"]["round_trip_published"] is None
    assert "14 ms published" in run("site", "milan").stdout


def test_data_centers_are_not_sourced_where_there_are_none():
    assert "data centers" not in run("site", "milan", "--sources").stdout
    assert "data centers" in run("site", "frankfurt", "--sources").stdout


def test_colours_of_coolings_do_not_follow_the_one_asked_for():
    told = ask("site", "milan", "--cooling", "immersion")
    assert list(told["pue"]) == list(told["wue"]) == list(answers.DESIGNS)
    assert list(ask("site", "milan", "--cooling", "dry")["pue"]) == [*answers.DESIGNS, "dry"]


def test_entries_of_one_city_are_told_apart():
    rows = ask("sites")["sites"]
    labels = site_plots.labels(rows)
    assert len(set(labels.values())) == len(rows)
    assert (labels["dubai"], labels["dubai-announced"]) == ("Dubai", "Dubai (plan)")


def test_a_flat_line_looks_flat_and_a_stand_in_says_why_to_the_pointer(tmp_path):
    assert site_plots._span([0.048, 0.048]) == pytest.approx((0.024, 0.072))
    assert site_plots._span([0.0, 0.0]) == (0.0, 1.0)
    assert site_plots._span([1.0, 1.1]) == (1.0, 1.1)
    plot = tmp_path / "milan.svg"
    run("site", "milan", "--plot", plot)
    drawn = plot.read_text(encoding="utf-8")
    assert ">stand-in: AT</text>" in drawn
    assert "<title>AT: no hourly price was found" in drawn


def test_a_bad_sort_names_all_that_are_known():
    assert all(word in refusal("sites", "--sort", "x")["why"] for word in answers.SORTS)


def test_the_map_shows_every_place_on_every_width(tmp_path):
    plot = tmp_path / "map.svg"
    told = json.loads(run("sites", "--sort", "carbon", "--plot", plot, "--json").stdout)
    root = ElementTree.fromstring(plot.read_text(encoding="utf-8"))
    layers = [group for group in root.iter(f"{SVG}g") if group.get("class")]
    assert [layer.get("class") for layer in layers] == [layer.name for layer in drawing.LAYERS]
    for layer in layers:
        said = [title.text for title in layer.iter(f"{SVG}title")]
        assert len(said) == 58
        for row in told["sites"]:
            assert any(words.startswith(f"{row['name']}: ") for words in said), row["name"]
        assert all("(" in words and ";" in words for words in said)  # Each with basis and source.


def test_the_page_needs_nothing_but_itself(tmp_path):
    plot = tmp_path / "sites.html"
    run("sites", "--sort", "price", "--plot", plot)
    page = plot.read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    for outside in ("<script", "<link", "src=", "@import", "url(http"):
        assert outside not in page


def test_the_year_of_a_place_is_drawn(tmp_path):
    plot = tmp_path / "milan.svg"
    run("site", "milan", "--plot", plot)
    root = ElementTree.fromstring(plot.read_text(encoding="utf-8"))
    curves = list(root.iter(f"{SVG}polyline"))
    # Two days of four seasons, two bulbs, humidity, PUE and water of three coolings; thrice.
    assert len(curves) == 3 * (2 * 4 + 2 + 1 + 2 * 3)


@given(st.floats(-1e4, 1e4), st.floats(0, 1e4), st.integers(2, 9))
def test_the_steps_of_a_scale_hold_all_values(low, span, most):
    bounds = drawing.steps(low, low + span, most)
    slack = 1e-6 * max(bounds[1] - bounds[0], 1e-9)
    assert bounds[0] <= low + slack
    assert bounds[-1] >= low + span - slack
    assert 2 <= len(bounds) <= most + 1
    assert bounds == sorted(set(bounds))


def test_steps_are_round():
    assert drawing.steps(0.04, 0.4, 8) == [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]
    assert drawing.steps(2, 696, 8) == [0, 100, 200, 300, 400, 500, 600, 700]


@pytest.mark.parametrize(
    ("latitude", "longitude", "x", "y"),
    [
        (0, worldmap.CENTRE_DEG, 0, 0),
        (0, worldmap.CENTRE_DEG + 90, 0.25, 0),
        (90, worldmap.CENTRE_DEG, 0, 1.3523 / (2 * math.pi * 0.8487)),
        (45, worldmap.CENTRE_DEG + 180, -0.8962 / 2, 0.5571 * 1.3523 / (2 * math.pi * 0.8487)),
        (-30, worldmap.CENTRE_DEG - 36, -0.96 / 10, -0.372 * 1.3523 / (2 * math.pi * 0.8487)),
    ],
)
def test_places_lie_where_robinson_put_them(latitude, longitude, x, y):
    found = worldmap.project(latitude, longitude)
    assert found == pytest.approx((x, y), abs=1e-9)


def test_circles_make_room_for_each_other_and_stay_near_home():
    points = [worldmap.Point(f"p{number}", 31.2, 121.5, number) for number in range(9)]
    points.append(worldmap.Point("far", -33, -70, 3))
    view = worldmap.frame([(point.latitude, point.longitude) for point in points])
    true = np.array([view.xy(point.latitude, point.longitude) for point in points])
    spots = worldmap.apart(true, np.full(10, 8.0))
    gaps = [
        math.dist(spots[one], spots[other]) for one in range(10) for other in range(one + 1, 10)
    ]
    assert min(gaps) > 16  # Two radii.
    assert math.dist(spots[9], true[9]) < 1  # Nobody pushes the one that stands alone.
    assert max(math.dist(spot, home) for spot, home in zip(spots, true, strict=True)) < 80


def test_land_is_drawn_without_lines_across_the_map():
    for ring in worldmap.coasts():
        for (one, _), (other, _) in zip(ring, ring[1:] + ring[:1], strict=True):
            assert abs(one - other) < 30
            assert -168.5 <= one < 191.5


def test_what_is_no_own_figure_is_hollow_and_the_unknown_is_grey():
    points = [
        worldmap.Point("own", 0, 0, 1.0),
        worldmap.Point("stand-in", 10, 40, 2.0, own=False),
        worldmap.Point("unknown <&>", 20, 80, None),
    ]
    root = ElementTree.fromstring(worldmap.svg(points, "title", "unit"))
    circles = [
        circle for circle in root.iter(f"{SVG}circle") if circle.find(f"{SVG}title") is not None
    ]
    kinds = {circle[0].text: circle.get("class") for circle in circles}
    assert kinds == {"own": "point", "stand-in": "hollow", "unknown <&>": "point"}


ROWS = [
    (
        "United States",
        [
            (date(2022, 1, 1), date(2022, 10, 7), "no_licence_required", "", ""),
            (date(2022, 10, 7), date(2023, 11, 17), "licence_required", "US-1", "first & rule"),
            (date(2023, 11, 17), None, "presumption_of_denial", "US-2", "second"),
        ],
    ),
    ("China", [(None, None, "unknown", "", "")]),
]


def test_a_timeline_writes_its_words_and_covers_its_span():
    drawn = timeline.svg(ROWS, date(2022, 1, 1), "2025-01-01", "H100 <to> China")
    root = ElementTree.fromstring(drawn)
    bands = list(root.iter(f"{SVG}rect"))
    wide = next(group for group in root.iter(f"{SVG}g") if group.get("class") == "wide")
    ours = [band for band in wide.iter(f"{SVG}rect") if band.get("class") == "band"]
    assert len(ours) == 4
    assert len(bands) > len(ours)
    whole = drawing.WIDTH - timeline.LEFT - timeline.RIGHT
    assert sum(float(band.get("width")) for band in ours[:3]) == pytest.approx(whole, abs=0.3)
    words = [text.text for text in wide.iter(f"{SVG}text")]
    for said in ("licence required", "presumption of denial", "US-2", "2023", "2024", "unknown"):
        assert said in words
    said = ours[1].find(f"{SVG}title").text
    assert "from 2022-10-07 to 2023-11-16" in said
    assert "first & rule" in said


def test_every_outcome_can_be_told_apart_and_read():
    for ground, ink in timeline.OUTCOMES.values():
        light, dark = sorted((_luminance(ground), _luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2, AA.
    assert len({ground for ground, _ in timeline.OUTCOMES.values()}) == len(timeline.OUTCOMES)


def test_a_timeline_in_the_terminal_names_each_stretch_and_its_rule():
    console = Console(width=100, record=True, force_terminal=False)
    with console.capture() as shown:
        console.print(timeline.bands(ROWS, date(2022, 1, 1), date(2025, 1, 1)))
    said = shown.get()
    assert "2022-10-07 to 2023-11-16" in said
    assert "US-1 first & rule" in said
    bar = said.splitlines()[1]
    assert "licence required" in bar
    assert len(bar) == timeline.COLUMNS


def test_a_stretch_outside_the_span_is_not_drawn():
    root = ElementTree.fromstring(timeline.svg(ROWS, date(2024, 1, 1), date(2025, 1, 1), "t"))
    wide = next(group for group in root.iter(f"{SVG}g") if group.get("class") == "wide")
    ours = [band for band in wide.iter(f"{SVG}rect") if band.get("class") == "band"]
    assert len(ours) == 2


def test_a_table_of_cases_is_answered_row_by_row(cases, tmp_path):
    out = tmp_path / "answers.csv"
    told = ask("pue", "--cases", cases(*CASES), "--out", out)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pue_id"] for row in rows] == ["A1", "A2", "A3"]
    assert list(rows[0]) == ["pue_id", "pue", "low", "high"]
    for row in rows:
        assert 1 <= float(row["low"]) <= float(row["pue"]) <= float(row["high"]) < 2.5
    assert float(rows[1]["pue"]) < float(rows[0]["pue"])  # Lulea is colder than Tokyo.
    assert told["rows"] == 3
    assert told["errors"]["rows"] == 2
    errors = sorted((abs(float(rows[0]["pue"]) - 1.27), abs(float(rows[2]["pue"]) - 1.45)))
    assert told["errors"]["worst"] == pytest.approx(errors[1], abs=1e-9)
    assert told["errors"]["mean"] == pytest.approx(sum(errors) / 2, abs=1e-9)


def test_json_holds_the_predictions_and_what_stood_in(cases, tmp_path):
    lines = (*CASES, "A4,x,Milan,IT,45.5,9.2,2024,,a secret,,,,")
    out = tmp_path / "answers.csv"
    told = ask("pue", "--cases", cases(*lines), "--out", out)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pue"] for row in rows] == [str(answer["pue"]) for answer in told["answers"]]
    assert set(told["answers"][0]) == set(pue_cases.COLUMNS)
    assert [answer["design_stated"] for answer in told["answers"]] == [True, True, True, False]
    assert "Milan" in told["answers"][3]["climate"]
    assert told["designs"] == {"air": 3, "chilled-water": 1}
    assert (told["design_not_stated"], told["climate_not_stated"]) == (1, 2)
    said = " ".join(run("pue", "--cases", cases(*lines), "--out", out).stdout.split())
    assert "cooling read as: 3 air, 1 chilled-water" in said
    assert "no known word of cooling in 1 of them: taken as air" in said
    assert "2 rows lack a climate" in said


def test_a_bad_row_after_long_ones_is_named_with_the_line_of_the_file(cases, tmp_path):
    long = 'A1,x,"Tokyo\nEast",JP,35.7,139.7,2024,1.27,air,14.8,26.3,11.7,23.0'
    blank = CASES[1].replace("A2", " ")
    fault = refusal("pue", "--cases", cases(long, "", blank), "--out", tmp_path / "o.csv")
    assert fault["where"].endswith(":5, pue_id")
    assert fault["what"] == "line 5 cannot be read"
    assert "blank cell" not in fault["remedy"]


def test_drawings_can_be_read_by_others_and_errors_name_the_file_asked_for(tmp_path, monkeypatch):
    plot = tmp_path / "milan.svg"
    run("site", "milan", "--plot", plot)
    plain = tmp_path / "plain"
    plain.touch()
    assert plot.stat().st_mode == plain.stat().st_mode

    def full(path, *_, **__):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    assert refusal("site", "milan", "--plot", plot)["where"] == str(plot)


def test_answers_in_the_table_change_no_prediction(cases, tmp_path):
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    said = run("pue", "--cases", cases(*CASES), "--out", first).stdout
    assert "PUE of 3 rows" in " ".join(said.split())
    assert "median" in said
    blank = [line.replace(",1.27,", ",,").replace(",1.45,", ",,") for line in CASES]
    said = run("pue", "--cases", cases(*blank), "--out", second).stdout
    assert "no answers to compare with" in " ".join(said.split())
    assert first.read_bytes() == second.read_bytes()


def test_rows_that_are_unfit_to_judge_are_set_aside(cases, tmp_path):
    lines = [f"{line},{fit}" for line, fit in zip(CASES, (0, 1, 1), strict=True)]
    header = f"{HEADER},{places.FIT}"
    told = ask("pue", "--cases", cases(*lines, header=header), "--out", tmp_path / "o.csv")
    assert told["errors"]["rows"] == 1
    assert told["errors"]["set_aside"] == 1


def test_a_table_without_its_columns_names_them_and_writes_nothing(cases, tmp_path):
    out = tmp_path / "answers.csv"
    fault = refusal("pue", "--cases", cases("A1,1.2", header="pue_id,pue"), "--out", out)
    assert "cooling_type" in fault["why"]
    assert "wb_hottest_month_c" in fault["why"]
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "where", "why"),
    [
        (CASES[0].replace("14.8", "warm"), ":3, t_mean_c", "'warm' is no number"),
        (CASES[2].replace(",,,,2024", ",,95,0,2024"), ":3, lat", "95 is not within -90 to 90"),
        (CASES[0].replace("1.27", "0.9"), ":3, pue", "'0.9' is no PUE"),
        (CASES[0].replace("A1", " "), ":3, pue_id", "is blank"),
        (CASES[0].replace("A1", "A2"), ":3, pue_id", "lines 2 and 3"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_nothing_is_written(cases, tmp_path, line, where, why):
    out = tmp_path / "answers.csv"
    out.write_text("kept\n", encoding="utf-8")
    fault = refusal("pue", "--cases", cases(CASES[1], line), "--out", out)
    assert fault["where"].endswith(where)
    assert why in fault["why"]
    assert out.read_text(encoding="utf-8") == "kept\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "cases.csv"]


def test_answers_never_take_the_place_of_the_table(cases):
    path = cases(*CASES)
    before = path.read_bytes()
    assert refusal("pue", "--cases", path, "--out", path)["where"] == "--out"
    assert path.read_bytes() == before


def test_a_file_that_is_not_there_is_refused(tmp_path):
    fault = refusal("pue", "--cases", tmp_path / "none.csv", "--out", tmp_path / "o.csv")
    assert "none.csv" in fault["where"]
    fault = refusal("site", "milan", "--plot", tmp_path / "none" / "milan.svg")
    assert "none" in fault["where"]


def _luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
