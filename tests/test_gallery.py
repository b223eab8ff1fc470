"""What jobs made is shown to who may see it: pictures, films, certificates, measures, failures."""

import json
import math
import re
import shutil
import time
from html import unescape
from io import StringIO

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from selenium.webdriver.support.ui import WebDriverWait

from gigafactory.console import gallery, terminal
from gigafactory.jobs import closed_loop, synthesize
from gigafactory.jobs.context import RESULT, Context
from gigafactory.jobs.video import Writer
from gigafactory.works import board, exhibits
from tests import shown as stage
from tests import test_pages as pages
from tests import test_works
from tests.served import until
from tests.shown import Shown

chrome = pages.chrome
WORK = """\
  frames: {kind: synthesize, tenant: lab, world: cell, frames: 2, formats: [coco]}
  parts: {kind: synthesize, tenant: rival, world: cell, frames: 2, formats: [coco]}
  drives: {kind: rollout, tenant: lab, world: street, policy: expert, episodes: 4}
  driver: {kind: pretrain, learns: policy, tenant: lab, of: [drives], steps: 10}
  judge-driver: {kind: evaluate, tenant: lab, suite: closed_loop, of: driver, world: street}
  break-driver: {kind: evaluate, tenant: lab, suite: falsification, of: driver, world: street,
                 examples: 4000, gate: {failure_probability_high: "<= 1e-4"}}
worlds:
  cell: {scene: factory}
  street: {scene: road}
"""
FILMING = {"kind": "rollout", "tenant": "lab", "world": "street", "policy": "expert",
           "episodes": 9}  # fmt: skip
HOSTILE = "</dd><script>document.title = 'mine'</script>"


def rows(succeeded):
    return [{"seed": n, "success": ok, "collision": not ok, "steps": 9, "drawn": {}}
            for n, ok in enumerate(succeeded)]  # fmt: skip


RESULTS = {
    "judge-driver": {
        "metrics": closed_loop.metrics(
            {
                "learned": rows([True] * 6 + [False] * 2),
                "expert": rows([True] * 8),
                "random": rows([False] * 8),
            }
        ),
        "samples": [{"layout": 6, "seed": 6, "outcome": "collision", "steps": 9,
                     "video": "failures/layout-00006.mp4"}],
        "passed": False,
        "verdicts": [{"metric": "success_low", "value": 0.409, "threshold": ">= 0.5",
                      "passed": False}],
    },
    "break-driver": {
        "metrics": {
            "failure_probability": 1.23e-5, "failure_probability_low": 8e-6,
            "failure_probability_high": 1.9e-5, "expert_failure_probability": 4e-6,
            "failures": 2, "avoidable_failures": 1, "unavoidable_failures": 1,
        },
        "samples": [
            {"kind": "cut_in", "avoidable": True, "why": "hit a vehicle", "when_s": 3.25,
             "scenario": "scenarios/000-cut_in.json", "xosc": "scenarios/000-cut_in.xosc",
             "video": "scenarios/000-cut_in.mp4"},
            {"kind": "merge", "avoidable": False, "why": HOSTILE, "when_s": 4.0,
             "scenario": "scenarios/001-merge.json", "xosc": "scenarios/001-merge.xosc"},
        ],
        "passed": True,
        "verdicts": [{"metric": "failure_probability_high", "value": 1.9e-5,
                      "threshold": "<= 1e-4", "passed": True}],
    },
}  # fmt: skip
FILES = {
    "drives": ["video/episode-000000.mp4", "summary.json", "video/page.html", "video/drawn.svg"],
    "judge-driver": ["failures/layout-00006.mp4", "pictures/frame-00003.png"],
    "break-driver": ["scenarios/000-cut_in.mp4", "scenarios/000-cut_in.xosc",
                     "scenarios/000-cut_in.json", "scenarios/001-merge.xosc",
                     "scenarios/001-merge.json", "scenarios/road.xodr"],
}  # fmt: skip


def film(path):
    """Two seconds of a square that moves."""
    with Writer(path, 64, 48, 10) as writer:
        for step in range(20):
            picture = np.full((48, 64, 3), 200, np.uint8)
            picture[10:20, step * 2 : step * 2 + 10] = (200, 30, 30)
            writer.add(picture)


def lay(output, names):
    """Files as jobs leave them."""
    for name in names:
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".mp4":
            film(path)
        elif path.suffix == ".png":
            Image.new("RGB", (32, 24), (90, 120, 60)).save(path)
        else:
            path.write_text(HOSTILE)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A works whose jobs leave what such jobs leave; that of `synthesize` is made by itself."""
    work = {"name": "frames", "world": {"name": "cell", "scene": "factory"}, "frames": 2,
            "formats": ["coco"], "width": 64, "height": 64, "cameras": 1, "clip": 1, "fps": 10.0,
            "randomise": True, "layouts": "train", "seed": 0}  # fmt: skip
    context = Context.alone(tmp_path_factory.mktemp("made"), work)
    results = RESULTS | {"frames": synthesize.run(context)}

    def write_result(folder, outcome):
        job, output = folder.parent.name, folder / "output"
        if job in ("frames", "parts"):
            shutil.copytree(context.output, output)
        lay(output, FILES.get(job, ()))
        said = {"tokens": 0, "passed": True} | results.get(job, {})
        (folder / RESULT).write_text(json.dumps({"outcome": outcome, "results": said}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "CHAT", stage.CHAT + WORK)
        patch.setattr(test_works, "write_result", write_result)
        with Shown(tmp_path_factory.mktemp("home")) as shown:
            works = shown.works
            wanted = ("parts", "frames", "judge-driver", "break-driver")
            until(lambda: all(works.factory.status(job) == "done" for job in wanted))
            yield shown


def read(shown, path, tenant="lab", role="viewer", **headers):
    with shown.http(tenant, role) as http:
        return http.get(path, headers=headers)


def plain(html):
    """What a page says, without its marks."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


def test_the_gallery_shows_what_each_kind_of_job_made_without_a_script(shown):
    page = read(shown, "/gallery").text
    text = plain(page)
    for said in (
        "synthesize in cell", "0 label errors in 2\xa0frames".replace("\xa0", " "), "scene 0",
        "parameters covered", "to the bit", "CPU-s",
        "rollout in street", "episode 0",
        "closed loop of driver in street", "driver 0.75 (0.409 – 0.929)", "expert 1", "random 0",
        "layout 6: collision after 9 steps",
        "falsification of driver in street", "1.2 × 10⁻⁵ (8 × 10⁻⁶ – 1.9 × 10⁻⁵)",
        "expert 4 × 10⁻⁶", "✓ passed failure_probability_high 1.9 × 10⁻⁵, wanted <= 1e-4",
        "000-cut_in avoidable", "cut in · hit a vehicle · when 3.25 s", "001-merge unavoidable",
    ):  # fmt: skip
        assert said in text, said
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 2
    assert all(re.search(r'alt="[^"]+"', image) for image in images)
    assert page.count("<video controls") == 3
    assert 'href="/api/jobs/break-driver/artifacts/scenarios/road.xodr" download' in page
    assert "<style" not in page
    assert ' style="' not in page


def test_how_a_gate_judged_is_told_wherever_its_job_is(shown):
    broken, judged = "passed, failure_probability_high 1.9e-05, wanted <= 1e-4", "success_low 0.409"
    for path in ("/", "/jobs"):
        said = plain(read(shown, path).text)
        assert "✕ gate not passed" in said
        assert f"did not pass its gate: {judged}, wanted >= 0.5" in said
        assert "✓ gate passed" in said
        assert broken in said
    with shown.http("lab", "viewer") as http:
        rows = {job["name"]: job for job in http.get("/api/jobs").json()["jobs"]}
    assert rows["judge-driver"]["passed"] is False
    assert rows["judge-driver"]["verdicts"] == RESULTS["judge-driver"]["verdicts"]
    assert rows["break-driver"]["passed"] is True
    assert rows["frames"]["verdicts"] == []
    told = terminal_of(rows.values())
    assert f"did not pass, {judged}, wanted >= 0.5" in told
    assert broken in told


def terminal_of(jobs):
    console = Console(width=200, file=StringIO())
    console.print(terminal.jobs(jobs))
    return console.file.getvalue()


def test_what_a_job_is_counted_in_is_quoted_beside_what_it_made(shown):
    assert re.search(r"frames 2 2 energy", plain(read(shown, "/jobs/frames").text))
    assert re.search(r"examples 4,000 – energy", plain(read(shown, "/jobs/break-driver").text))
    assert "tokens 0" not in plain(read(shown, "/jobs/drives").text)


def test_the_certificate_and_the_scenarios_can_be_fetched_from_the_page(shown):
    page = read(shown, "/jobs/frames").text
    (href,) = re.findall(r'href="([^"]*certificate\.json)" download', page)
    assert read(shown, href).json()["label_errors"] == 0
    page = read(shown, "/jobs/break-driver").text
    assert "falsification.replay" in page
    assert read(shown, re.findall(r'href="([^"]*\.xosc)"', page)[0]).status_code == 200


def test_what_a_job_says_is_never_run(shown):
    page = read(shown, "/gallery").text
    assert HOSTILE not in page
    assert unescape(page).count(HOSTILE) == 1


def test_the_page_of_a_job_shows_the_same(shown):
    assert "000-cut_in avoidable" in plain(read(shown, "/jobs/break-driver").text)
    assert "0 label errors" in plain(read(shown, "/jobs/frames").text)
    assert "gallery-title" not in read(shown, "/jobs/train").text


def test_a_film_is_served_as_what_it_is_and_in_ranges(shown):
    address = "/jobs/drives/media/video/episode-000000.mp4"
    whole = read(shown, address)
    assert whole.status_code == 200
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in whole.headers["content-security-policy"]
    assert "cookie" in whole.headers["vary"]
    part = read(shown, address, Range="bytes=4-11")
    assert part.status_code == 206
    assert part.content == whole.content[4:12]
    assert part.headers["content-range"] == f"bytes 4-11/{len(whole.content)}"
    beyond = read(shown, address, Range="bytes=99999999-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (
        416, f"bytes */{len(whole.content)}"
    )  # fmt: skip
    picture = read(shown, "/jobs/judge-driver/media/pictures/frame-00003.png")
    assert picture.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "path",
    ["video/page.html", "video/drawn.svg", "summary.json", "../result.json", "video/none.mp4"],
)
def test_what_could_act_in_a_browser_or_lies_elsewhere_is_not_served(shown, path):
    assert read(shown, f"/jobs/drives/media/{path.replace('..', '%2e%2e')}").status_code == 404


def test_no_link_is_followed(shown, tmp_path):
    lay(tmp_path, ["secret.png"])
    (tmp_path / "certificate.json").write_text('{"seed": "secret"}')
    output = tmp_path / "output"
    (output / "preview").mkdir(parents=True)
    (output / "preview" / "here.png").symlink_to(tmp_path / "secret.png")
    (output / "video").symlink_to(tmp_path)
    (output / "certificate.json").symlink_to(tmp_path / "certificate.json")
    assert exhibits.exhibits(output, "synthesize") == {"files": [], "certificate": None}
    theirs = shown.attempt("drives") / "output" / "video" / "link.mp4"
    theirs.symlink_to(shown.home.path / "key")
    try:
        assert read(shown, "/jobs/drives/media/video/link.mp4").status_code == 404
    finally:
        theirs.unlink()


def test_a_certificate_that_is_no_json_is_none(tmp_path):
    for text in ("{", "[" * 100_000, "[1]", "\xff"):
        (tmp_path / "certificate.json").write_text(text)
        assert exhibits.exhibits(tmp_path, "synthesize")["certificate"] is None


def test_everybody_sees_the_own_tenants_jobs_alone(shown):
    picture = "media/preview/000000.png"
    theirs = read(shown, "/gallery", "rival").text
    assert "of-parts" in theirs
    assert not re.search(r"of-frames|jobs/frames|drives|driver", theirs)
    assert read(shown, f"/jobs/parts/{picture}", "rival").status_code == 200
    assert read(shown, f"/jobs/frames/{picture}", "rival").status_code == 404
    assert read(shown, f"/jobs/parts/{picture}").status_code == 404
    assert "of-parts" not in read(shown, "/gallery").text
    whole = read(shown, "/gallery", role="operator").text
    assert "of-parts" in whole
    assert "of-frames" in whole
    with shown.http() as stranger:
        assert stranger.get("/gallery").status_code == 401
        assert stranger.get(f"/jobs/frames/{picture}").status_code == 401


def test_older_jobs_are_a_page_further(shown, monkeypatch):
    monkeypatch.setattr(board, "EXHIBITS_PAGE", 1)
    seen, path = [], "/gallery"
    while path:
        page = read(shown, path).text
        seen += re.findall(r'id="of-([\w-]+)"', page)
        older = re.search(r'href="(/gallery\?before=\d+)"', page)
        path = older and older[1]
    assert sorted(seen) == ["break-driver", "drives", "frames", "judge-driver"]


def test_the_gallery_is_for_all_eyes_and_its_films_play(shown, chrome):
    pages.enter(chrome, shown, "lab", "operator")
    chrome.get_log("browser")  # A browser asks for an icon wherever it comes in.
    browser = pages.Browser(chrome, shown.url)
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.hosts()
    for path in ("/gallery", "/jobs/frames", "/jobs/break-driver"):
        browser.open(path)
        chrome.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        assert chrome.execute_script(pages.PLAIN) == [], path
        pages.dark(chrome, "dark")
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        try:
            assert chrome.execute_script(pages.WIDE) == "", path
            assert chrome.execute_script(pages.PLAIN) == [], path
        finally:
            chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            pages.dark(chrome, "light")
    browser.open("/gallery")
    ready = """return [...document.querySelectorAll("video")].every((film) =>
        film.readyState >= 2 && film.videoWidth === 64 && film.duration === 2)
        && [...document.querySelectorAll("img")].every((one) => one.loading && one.alt)"""
    WebDriverWait(chrome, 60, 0.1).until(lambda _: chrome.execute_script(ready))
    assert browser.hosts() == {shown.url.removeprefix("http://")}
    assert [line["message"] for line in chrome.get_log("browser")] == []


def test_a_page_that_renews_itself_leaves_a_film_where_it_stands(shown, chrome):
    with shown.client() as factory:
        factory.submit("held-filming", FILMING)
    output = shown.running("held-filming") / "output"
    lay(output, ["video/episode-000000.mp4"])
    pages.enter(chrome, shown, "lab", "operator")
    browser = pages.Browser(chrome, shown.url)
    browser.open("/jobs/held-filming")
    browser.reads("episode 0")
    film = "const film = document.querySelector('video');"
    ready = film + "return film.readyState >= 2 && !film.seeking"
    WebDriverWait(chrome, 60, 0.1).until(lambda _: chrome.execute_script(ready))
    chrome.execute_script(film + "film.mine = true; film.currentTime = 1")
    WebDriverWait(chrome, 60, 0.1).until(lambda _: chrome.execute_script(ready))
    chrome.execute_script(film + "film.loop = film.muted = true; return film.play()")
    lay(output, ["video/episode-000001.mp4"])
    time.sleep(2.5)  # A page renews itself every two seconds.
    assert "episode 1" not in browser.text()
    assert not chrome.execute_script(film + "return film.paused")
    at_s = chrome.execute_script(film + "film.pause(); return film.currentTime")
    browser.reads("episode 1")
    after = chrome.execute_script(film + "return [film.mine, film.currentTime]")
    assert after == [True, at_s]


def test_a_metric_stands_beside_its_interval_and_its_control_arms():
    metrics = {"map50": 0.4, "map50_low": 0.3, "map50_high": 0.5, "map50_against": 0.2,
               "regression_low": 0.1, "frames": 9, "gap_to_expert": -0.1,
               "gap_to_expert_low": -0.2, "gap_to_expert_high": 0.0, "ratio": math.nan}  # fmt: skip
    first, second = gallery.measures(metrics, "eyes", "eyes-old")
    assert [row["who"] for row in first["rows"]] == ["eyes", "eyes-old"]
    assert first["rows"][0]["said"] == "0.4 (0.3 – 0.5)"
    assert first["rows"][0]["bar"] == pytest.approx({"value": 40, "low": 30, "width": 20})
    assert second["rows"][0]["bar"] is None


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.25, "0.25"), (-0.25, "-0.25"), (1e-3, "0.001"), (1.26e-5, "1.3 × 10⁻⁵"),
     (-4e-12, "-4 × 10⁻¹²"), (12_345, "12,345")],
)  # fmt: skip
def test_a_small_number_is_written_with_its_power_of_ten(value, said):
    assert gallery.number(value).replace("\xa0", " ") == said


def test_a_report_holds_a_few_small_pictures(shown):
    output = shown.attempt("frames") / "output"
    kept = exhibits.pictures(output)
    assert list(kept) == ["preview/000000.png"]
    [picture] = gallery.pictures("frames", kept)
    assert picture["src"].startswith("data:image/png;base64,iVBOR")
    assert picture["caption"] == "frames, scene 0"
    assert exhibits.pictures(output, bytes_max=10) == {}
    assert exhibits.pictures(output, most=0) == {}
