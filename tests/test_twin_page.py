"""Promises of the page of a simulated course: what it shows is what was played, at any moment."""

import io
import json
import re
import shutil
from base64 import b64decode, b64encode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gigafactory.console import twin
from gigafactory.console.twin_page import packed_curve, packed_frames, page

HOUR_S, CHIPS = 3600.0, 8
TENANTS = ("bank", "lab", "hospital", "town")
HOSTILE = '</script><img src="https://example.com/spy">'
ANSWERS = (
    ("jobs", "mean time to completion", "jct_mean_s", "s", 12_400.0, "low"),
    ("jobs", "mean wait", "queue_mean_s", "s", 2_460.0, "low"),
    ("jobs", "deadlines kept", "deadlines", "share", 0.973, "high"),
    ("machines", "utilisation", "utilisation", "share", 0.812, "high"),
    ("machines", "effective time (ETTR)", "ettr", "share", 0.931, "high"),
    ("machines", "failures", "failures", "1", 212.0, "low"),
    ("energy", "energy at the meter", "energy_kwh", "kWh", 812_000.0, "low"),
    ("energy", "PUE", "pue", "1", 1.117, "low"),
    ("energy", "carbon", "carbon_kg", "kg", 231_000.0, "low"),
    ("money", "cost", "cost", "EUR", 1_430_000.0, "low"),
    ("money", "cost of tokens", "cost_token", "EUR/Mtoken", 0.41, "low"),
    ("service", "answers in time", "slo", "share", 0.996, "high"),
    ("service", "time to first token, P95", "ttft_p95_s", "s", 1.31, "low"),
)


def answers(factor=1.0, spread=0.04):
    return [
        {
            "group": group,
            "name": name,
            "key": key,
            "unit": unit,
            "value": min(value * factor, 1.0) if unit == "share" else value * factor,
            "low": value * factor * (1 - spread),
            "high": value * factor * (1 + spread),
            "better": better,
            "basis": "modelled",
        }
        for group, name, key, unit, value, better in ANSWERS
    ]


def course(sites=2, nodes=32, days=6, frames=48, seed=1, **changed):
    """A course whose curves are the sums of its nodes: each holds one tenant's job for some hours,
    is lost now and then, and is down for six hours after."""
    rng = np.random.default_rng(seed)
    names = ["milan", "paris", "oslo", "madrid"][:sites]
    names += [f"site {number}" for number in range(4, sites)]
    hours, total = days * 24, sites * nodes
    state = np.zeros((hours, total), np.uint8)
    share = np.zeros((hours, total), np.uint8)
    failures = []
    for node in range(total):
        hour = 0
        while hour < hours:
            lasts = int(rng.exponential(16)) + 1
            tenant = int(rng.choice(5, p=(0.15, 0.35, 0.25, 0.15, 0.1)))
            span = slice(hour, hour + lasts)
            state[span, node], share[span, node] = tenant, rng.integers(30, 101) if tenant else 0
            hour += lasts
            if tenant and rng.random() < 0.08 and hour < hours:
                lost_s = float(rng.integers(60, 3600))
                failures.append(
                    {"at_s": hour * HOUR_S, "node": node, "class": "GPU memory", "lost_s": lost_s}
                )
                state[hour : hour + 6, node], share[hour : hour + 6, node] = 254, 0
                hour += 6
    if hours > 60:
        state[40:46, : nodes // 8], share[40:46, : nodes // 8] = 253, 0
        state[20:60, nodes - 1] = 252
        state[:30, -max(2, nodes // 8) :], share[:30, -max(2, nodes // 8) :] = 255, 0
    held = {
        name: (CHIPS * np.where(state == number, share, 0).sum(axis=1) / 100).tolist()
        for number, name in enumerate(TENANTS, start=1)
    }
    clock = np.arange(hours) % 24
    at_site = {name: slice(n * nodes, (n + 1) * nodes) for n, name in enumerate(names)}
    pue = {name: 1.08 + 0.06 * np.sin((clock - 9) / 24 * 2 * np.pi) + 0.01 * n
           for n, name in enumerate(names)}  # fmt: skip
    meter = {
        name: (600.0 * CHIPS * (0.3 + share[:, span] / 100 * 0.7)).sum(axis=1) * pue[name]
        for name, span in at_site.items()
    }
    cap = {name: np.full(hours, 600.0 * CHIPS * nodes * 1.1) for name in names}
    cap[names[0]][65:68] *= 0.75
    waiting = 20 + 15 * np.sin(np.arange(hours) / 9) + rng.integers(0, 6, hours)
    shown = np.linspace(0, hours - 1, frames).astype(int)
    each = [int(np.sum((state == number) * CHIPS)) for number in range(1, len(TENANTS) + 1)]
    made = {
        "name": "campus",
        "policy": "fair",
        "start": "2027-01-13",
        "days": float(days),
        "seeds": 20,
        "seed": 3,
        "jobs": 9_812,
        "replicas": 1,
        "events": 61_204,
        "currency": "EUR",
        "answers": answers(),
        "tenants": [
            {"name": name, "weight": 1 + (number == 0), "quota": None if number else 256,
             "jobs": 800 * (number + 1), "chip_hours": float(each[number]),
             "queue_mean_s": 900.0 * (number + 1), "energy_kwh": 0.7 * each[number],
             "carbon_kg": 0.2 * each[number], "cost": 2.4 * each[number],
             "goodput": 0.93 - 0.01 * number}
            for number, name in enumerate(TENANTS)
        ],
        "pools": [
            {"name": f"{name}/H100", "site": name, "system": "H100 SXM node", "nodes": nodes,
             "chips_per_node": CHIPS, "racks": [node // 4 for node in range(nodes)],
             "first_node": number * nodes}
            for number, name in enumerate(names)
        ],
        "sites": names,
        "frames": {
            "at_s": (shown * HOUR_S).tolist(),
            "node": base64(state[shown]),
            "busy": base64(share[shown]),
        },
        "series": {
            "at_s": (np.arange(hours) * HOUR_S).tolist(),
            "waiting": waiting.tolist(),
            "waiting_chips": (waiting * 14).tolist(),
            "running": ((state > 0) & (state < 200)).sum(axis=1).tolist(),
            "busy": held,
            "chips": (CHIPS * (state < 253).sum(axis=1)).tolist(),
            "power_w": {name: curve.tolist() for name, curve in meter.items()},
            "cap_w": {name: curve.tolist() for name, curve in cap.items()},
            "pue": {name: curve.tolist() for name, curve in pue.items()},
            "carbon_g_per_kwh": {
                name: (280 + 40 * n + 90 * np.cos(clock / 24 * 2 * np.pi)).tolist()
                for n, name in enumerate(names)
            },
            "battery_j": {names[0]: np.where((clock > 3) & (clock < 9), 1e10, 2.88e10).tolist()},
        },
        "failures": failures[:2000],
        "curtailments": [
            {"site": names[0], "at_s": 65 * HOUR_S, "lasts_s": 3 * HOUR_S, "cut": 0.25}
        ],
        "missed": [{"what": "lab/sweep-14 ended 3 h after its deadline"}],
        "sources": ["failures: a study of two large clusters, recalled"],
    }  # fmt: skip
    return made | changed


def base64(array):
    return b64encode(np.ascontiguousarray(array, np.uint8).tobytes()).decode()


def film(text):
    return json.loads(re.search(r'id="played">(.*?)</script>', text, re.S)[1])


def unpacked(packed, frames, nodes):
    seen = np.frombuffer(b64decode(packed["bytes"]), np.uint8)
    if packed["runs"]:
        seen = np.repeat(seen[::2], seen[1::2].astype(int) + 1)
    return seen.reshape(nodes, frames).T


def printed(renderable):
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium that wants no motion, so that nothing plays by itself."""
    webdriver = pytest.importorskip("selenium.webdriver")
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("no browser here")
    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for word in ("headless=new", "no-sandbox", "disable-gpu", f"user-data-dir={profile}",
                 "window-size=1400,1000", "force-prefers-reduced-motion"):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a course in the browser; whatever the script complained of fails the test."""

    def open_(played, compared=None):
        path = tmp_path / "day.html"
        path.write_text(page(played, compared), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    yield open_
    assert browser.get_log("browser") == []


def text(browser, selector):
    script = "return document.querySelector(arguments[0]).textContent"
    return browser.execute_script(script, selector)


def slide(browser, at_s):
    browser.execute_script(
        "const one = document.getElementById('time'); one.value = arguments[0];"
        "one.dispatchEvent(new Event('input'))",
        at_s,
    )


def legend(browser, title):
    """The figures at the cursor of one chart, by their names."""
    script = """
      const one = [...document.querySelectorAll(".plotted")]
        .find((each) => each.querySelector("h4").firstChild.textContent === arguments[0]);
      return Object.fromEntries([...one.querySelectorAll("li")]
        .map((li) => [li.firstChild.textContent.trim(), li.querySelector("b").textContent]))"""
    return browser.execute_script(script, title)


def pixels(browser):
    return browser.execute_script("return document.getElementById('floor').toDataURL()")


def test_every_figure_is_shown_with_its_interval_and_all_is_said_to_be_modelled():
    played = course()
    shown = page(played)
    for one in played["answers"]:
        assert f"<dt>{one['name']}</dt><dd>{twin.said(one['value'], one['unit'])}" in shown
        assert twin.interval(one) in shown
    assert "modelled throughout" in shown
    assert "over the seeds" in shown


def test_one_seed_has_no_interval_and_says_so():
    alone = [one | {"low": one["value"], "high": one["value"]} for one in answers()]
    shown = page(course(seeds=1, answers=alone))
    assert "one seed, so no intervals" in shown
    assert shown.count("<small></small>") == len(ANSWERS)


def test_a_course_is_told_in_words_that_fit_one_and_many():
    line = "policy fair, 9,812 jobs and 1 replica, 61,204 events of seed 3, 20 seeds"
    assert twin.course(course()) == f"6 days from 2027-01-13, {line}"
    small = course(days=1, frames=1, seeds=1, jobs=1, replicas=0, events=1)
    small |= {"seeds": 1}
    assert twin.course(small) == "1 day from 2027-01-13, policy fair, 1 job, 1 event, 1 seed"
    assert "Of seed 3." in page(course())
    assert "Of seed 3." not in page(small)


def test_courses_are_called_by_their_names_or_else_by_their_policies():
    ours = {"name": "campus", "policy": "fair"}
    assert twin.labels(ours, {"name": "tiny", "policy": "fifo"}) == ("campus", "tiny")
    assert twin.labels(ours, {"name": "campus", "policy": "fifo"}) == ("fair", "fifo")
    assert twin.labels(ours, dict(ours)) == ("this", "other")


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [(-0.0, "share", "0.0%"), (-1e-6, "share", "0%"), (-0.0, "1", "0"), (-0.05, "share", "-5.0%")],
)
def test_no_zero_has_a_sign(value, unit, told):
    assert twin.said(value, unit) == told


def test_a_tiny_change_is_told_without_a_sign():
    jct, kept = answers()[0], answers()[2]
    near = {"value": jct["value"] * (1 + 1e-6)}
    assert twin.against(jct, jct | near, 20)[0] == "0%"
    assert twin.against(jct | near, jct, 20)[0] == "0%"
    assert twin.against(kept | {"value": 0.97299}, kept, 20)[0] == "0 points"
    assert twin.against(kept | {"value": 0.972}, kept, 20)[0] == "-0.1 points"


def test_courses_differ_only_where_their_intervals_part():
    ours, theirs = course(), course(policy="fifo", answers=answers(1.5))
    near = course(policy="fifo", answers=answers(1.01))
    by_key = {one["key"]: one for one in theirs["answers"]}
    jct, slo = ours["answers"][0], ours["answers"][-2]
    assert twin.against(jct, by_key["jct_mean_s"], 20) == ("-33.3%", "better")
    assert twin.against(by_key["jct_mean_s"], jct, 20) == ("+50.0%", "worse")
    assert twin.against(jct, near["answers"][0], 20) == ("-1.0%", "intervals overlap")
    assert twin.against(jct, by_key["jct_mean_s"], 1) == ("-33.3%", "one seed: no telling")
    assert twin.against(slo | {"value": 0.9}, slo, 20)[0] == "-9.6 points"
    assert twin.against(jct | {"better": ""}, by_key["jct_mean_s"], 20)[1] == "differs"
    assert twin.against(jct, None, 20) == ("–", "")
    shown = page(ours, theirs)
    assert '<span class="yes">better</span>' in shown
    assert re.search(r"<th>fair</th><th>fifo</th>", shown)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from((1, 255)))
def test_packed_frames_are_the_frames(frames, nodes, seed, most):
    rows = np.random.default_rng(seed).integers(0, most, (frames, nodes), np.uint8, endpoint=True)
    packed = packed_frames(base64(rows), frames, nodes)
    assert np.array_equal(unpacked(packed, frames, nodes), rows)
    assert len(packed["bytes"]) <= len(base64(rows))


def test_a_long_quiet_stretch_is_a_few_bytes():
    packed = packed_frames(base64(np.full((120, 12_500), 7)), 120, 12_500)
    assert len(packed["bytes"]) < 16_000
    assert np.all(unpacked(packed, 120, 12_500) == 7)


def test_a_packed_curve_is_the_curve_to_a_65000th_and_keeps_its_holes():
    curve = [*np.random.default_rng(3).uniform(-5.0, 900.0, 500), None]
    packed = packed_curve(curve)
    codes = np.frombuffer(b64decode(packed["steps"]), "<u2")
    again = packed["low"] + codes[:-1] / 65534 * (packed["high"] - packed["low"])
    assert np.allclose(again, curve[:-1], atol=905 / 65534)
    assert codes[-1] == 65535
    assert packed_curve([4.0, 4.0]) == {"low": 4.0, "high": 4.0, "steps": ""}


def test_even_noise_of_12500_nodes_in_120_frames_stays_below_6_mb():
    rng = np.random.default_rng(5)
    large = course(sites=91, nodes=1, days=42, frames=2)
    for number, pool in enumerate(large["pools"]):
        pool |= {"nodes": 137, "racks": [n // 4 for n in range(137)], "first_node": 137 * number}
    frames, nodes = 120, 91 * 137
    noise = {
        "at_s": [42 * 86_400 / frames * number for number in range(frames)],
        "node": base64(rng.integers(0, 256, (frames, nodes))),
        "busy": base64(rng.integers(0, 101, (frames, nodes))),
    }
    assert len(page(large | {"frames": noise})) < 6e6


def test_the_total_of_all_sites_weighs_pue_and_carbon_by_energy():
    played = course()
    power, pue = (np.array(list(played["series"][name].values())) for name in ("power_w", "pue"))
    total = film(page(played))["by_site"]["all sites"]
    assert total["power"]["high"] == pytest.approx(power.sum(axis=0).max())
    assert total["pue"]["high"] == pytest.approx((power.sum(0) / (power / pue).sum(0)).max())
    assert list(film(page(course(sites=1)))["by_site"]) == ["milan"]


def test_the_page_asks_no_other_host_and_a_hostile_name_stays_text():
    played = course()
    played["tenants"][1]["name"] = HOSTILE
    played["series"]["busy"][HOSTILE] = played["series"]["busy"].pop("lab")
    played["missed"] = [{"what": HOSTILE}]
    shown = page(played | {"name": HOSTILE})
    assert HOSTILE not in shown
    assert film(shown)["tenants"][1][0] == HOSTILE
    assert set(re.findall(r"\bhttps?://[^\s\"'`<]+", shown)) <= {
        "http://www.w3.org/2000/svg",
        "https://example.com/spy&quot;&gt;",
        "https://example.com/spy\\",
    }
    assert not re.search(
        r"@import|\burl\(|<script[^>]* src=|<img|<link[^>]* href=\"(?!data:)", shown
    )


def test_the_same_course_gives_the_same_bytes():
    assert page(course()) == page(course())


def test_the_browser_sees_every_node_of_every_frame_as_it_was_played(opened):
    played = course(sites=3, nodes=24, frames=20)
    browser = opened(played)
    for packed, name in (("node", "node"), ("busy", "busy")):
        seen = browser.execute_script(f"return Array.from({name})")
        rows = np.frombuffer(b64decode(played["frames"][packed]), np.uint8).reshape(20, 72)
        assert np.array_equal(np.reshape(seen, (72, 20)).T, rows)
    spots = np.reshape(browser.execute_script("return Array.from(hall.at)"), (72, 2))
    cell = browser.execute_script("return hall.cell")
    assert len({(x, y) for x, y in spots}) == 72
    apart = np.abs(spots[:, None] - spots[None]).max(axis=2) + np.eye(72) * 1e6
    assert apart.min() >= cell


def test_the_slider_moves_floor_cursors_figures_and_failures_together(opened):
    played = course()
    browser = opened(played)
    series, at = played["series"], 67
    first = pixels(browser)
    slide(browser, at * HOUR_S)
    assert text(browser, "#clock") == "day 3, Fri 15 Jan, 19:00"
    queue = legend(browser, "Queue")
    assert queue["waiting"] == str(round(series["waiting"][at]))
    assert queue["running"] == str(series["running"][at])
    held = legend(browser, "Chips busy")
    assert {name: int(held[name]) for name in TENANTS} == {
        name: pytest.approx(series["busy"][name][at], abs=0.51) for name in TENANTS
    }
    power_w = sum(curve[at] for curve in series["power_w"].values())
    assert legend(browser, "Power, all sites")["meter"] == f"{power_w / 1e3:.3g} kW"
    capped = 600 * CHIPS * 32 * 1.1 * 0.75 / 1e3
    assert legend(browser, "Power, milan")["cap"] == f"{capped:.3g} kW"
    assert float(legend(browser, "PUE")["paris"]) == pytest.approx(
        series["pue"]["paris"][at], abs=6e-4
    )
    gone = sum(one["at_s"] <= at * HOUR_S for one in played["failures"])
    assert text(browser, "#failed").startswith(f"{gone} of {len(played['failures'])} listed")
    number = max(i for i, s in enumerate(played["frames"]["at_s"]) if s <= at * HOUR_S)
    frame = np.frombuffer(b64decode(played["frames"]["node"]), np.uint8).reshape(-1, 64)[number]
    counts = browser.execute_script(
        "return [...stateItems].map(([state, item]) => [state, Number(item.textContent)])"
    )
    assert dict(counts) == {state: int(np.sum(frame == state)) for state, _ in counts}
    assert sum(count for _, count in counts) == 64
    assert pixels(browser) != first
    cursors = browser.execute_script(
        "return [...document.querySelectorAll('.plotted .now')].map((one) => one.getAttribute('d'))"
    )
    assert len({re.split("[MV ]", one)[1] for one in cursors[:3]}) == 1


def test_nothing_moves_by_itself_where_motion_is_not_wanted_and_play_plays(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser = opened(course())
    moment = "return [now_s, playing]"
    assert browser.execute_script(moment) == [0, False]
    button = browser.find_element(By.ID, "play")
    button.click()
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(moment)[0] > HOUR_S)
    assert button.text == "Pause"
    assert text(browser, "#clock") != "day 1, Wed 13 Jan, 00:00"
    button.click()
    stopped_s, playing = browser.execute_script(moment)
    assert not playing
    assert button.text == "Play"
    assert browser.execute_script(moment)[0] == stopped_s


def test_keys_go_by_a_frame_a_day_and_to_the_ends(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser = opened(course(days=6, frames=48))
    body = browser.find_element(By.TAG_NAME, "body")
    for keys, at_s in (
        (Keys.ARROW_RIGHT, 6 * 86_400 / 48),
        (Keys.SHIFT + Keys.ARROW_RIGHT, 6 * 86_400 / 48 + 86_400),
        (Keys.END, 6 * 86_400),
        (Keys.ARROW_LEFT, 6 * 86_400 * 47 / 48),
        (Keys.HOME, 0),
    ):
        body.send_keys(keys)
        assert browser.execute_script("return now_s") == at_s


def test_a_node_that_is_pointed_at_is_told(opened):
    played = course()
    browser = opened(played)
    slide(browser, 44 * HOUR_S)
    browser.execute_script(
        "const box = floor.getBoundingClientRect();"
        "floor.dispatchEvent(new PointerEvent('pointermove', {"
        "clientX: box.left + hall.at[0] + hall.cell / 2,"
        "clientY: box.top + hall.at[1] + hall.cell / 2}))"
    )
    told = text(browser, "#pointed")
    assert told == "milan, milan/H100, rack 1, node 1 (H100 SXM node): drained or in maintenance"


def test_among_many_sites_one_is_chosen_and_stands_beside_the_total(opened):
    played = course(sites=6, nodes=8, days=3, frames=12)
    browser = opened(played)
    assert not browser.execute_script("return document.getElementById('choice').hidden")
    browser.execute_script(
        "const one = document.getElementById('site'); one.value = 'oslo';"
        "one.dispatchEvent(new Event('change'))"
    )
    watts = played["series"]["power_w"]["oslo"][0]
    assert legend(browser, "Power, oslo")["meter"] == f"{watts / 1e3:.3g} kW"
    assert list(legend(browser, "PUE")) == ["all sites", "oslo"]


def test_a_quiet_day_of_one_site_with_holes_is_shown_and_holes_are_said_to_be_unknown(opened):
    played = course(sites=1, nodes=40, days=1, frames=1, failures=[], curtailments=[], missed=[])
    played["pools"][0]["racks"] = [0] * 40
    played["series"] |= {"cap_w": {}, "battery_j": {}}
    played["series"]["pue"]["milan"][5] = None
    played["answers"][0] |= {"value": None, "low": None, "high": None}
    browser = opened(played)
    slide(browser, 5 * HOUR_S)
    assert legend(browser, "PUE") == {"milan": "–"}
    assert list(legend(browser, "Power, milan")) == ["meter"]
    assert text(browser, "#failed") == "None in this course."
    assert "mean time to completion–" in text(browser, ".groups")
    assert "Nothing." in text(browser, "#missed")
    spots = browser.execute_script("return Array.from(hall.at)")
    assert len(set(zip(spots[::2], spots[1::2], strict=True))) == 40


def test_the_terminal_tells_answers_tenants_and_why_a_job_waited():
    played = course()
    shown = printed(twin.answers(played, course(policy="fifo", answers=answers(1.5))))
    assert re.search(r"mean wait +41 min 0 s .*1 h 2 min .*-33.3% +better", shown)
    assert "modelled throughout" in shown
    assert re.search(r"utilisation +81.2% +78.0% to 84.4%", printed(twin.answers(played)))
    assert re.search(r"bank +2 +256 +800 ", printed(twin.tenants(played)))
    story = {
        "job": "lab/sweep-14",
        "waited_s": 5_400.0,
        "spells": [
            {"from_s": 3_600.0, "to_s": 7_200.0, "why": "its tenant had used up its quota"},
            {"from_s": 7_200.0, "to_s": 9_000.0, "why": "no 4 nodes of one block were free"},
        ],
        "text": "It waited for its own tenant twice as long as for machines.",
    }
    told = printed(twin.explained(story))
    assert "lab/sweep-14 waited 1 h 30 min" in told
    first, second = (line for line in told.splitlines() if "█" in line)
    assert first.count("█") == 2 * second.count("█")
    assert "quota" in first
    assert "after" in told
    assert second.split()[:2] == ["1", "h"]
