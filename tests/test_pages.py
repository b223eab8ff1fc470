"""The live pages, in a real browser: what a user does there is done, and nobody sees another's."""

import asyncio
import csv
import json
import re
import time

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import Select, WebDriverWait

from gigafactory.ledger.store import read
from gigafactory.works import recent
from tests.served import OFFER, until
from tests.shown import Shown
from tests.test_works import say

MONTH = time.strftime("%Y-%m", time.gmtime())
PAGES = (
    "/", "/queue", "/jobs", "/jobs/held", "/jobs/chat", "/jobs/later", "/submit", "/tenants",
    "/tenants/lab", "/bills", f"/bills/lab/{MONTH}", "/gateway", "/audit",
)  # fmt: skip
HOSTILE = '</pre><img src="https://example.com/spy"><script>document.title = "mine"</script>'
# What an axe would look at: names of controls, headings, ids, and the contrast of every text.
PLAIN = """
const faults = [];
const say = (what, node) => faults.push(`${what}: ${node.outerHTML.slice(0, 120)}`);
if (!document.documentElement.lang) faults.push("no language");
if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
if (new Set(ids).size < ids.length) faults.push(`one id twice: ${ids}`);
for (const node of document.querySelectorAll("[aria-labelledby]"))
  if (!document.getElementById(node.getAttribute("aria-labelledby"))) say("no such label", node);
for (const node of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
  if (!node.labels.length) say("no label", node);
for (const node of document.querySelectorAll("button, a, svg[role]"))
  if (!(node.textContent.trim() || node.getAttribute("aria-label"))) say("no name", node);
for (const node of document.querySelectorAll("th")) if (!node.scope) say("no scope", node);
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = color.map((c) => linear(c / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const color = rgb(getComputedStyle(node).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
for (const node of document.querySelectorAll("body *")) {
  if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
  if (!node.checkVisibility() || node.closest("svg")) continue;
  const ink = light(rgb(getComputedStyle(node).color));
  const [one, other] = [ink, light(ground(node))].sort((a, b) => b - a);
  if ((one + 0.05) / (other + 0.05) < 4.5) say("faint", node);
}
return faults;
"""
WIDE = """
const { clientWidth, scrollWidth } = document.documentElement;
return scrollWidth > clientWidth ? `${scrollWidth} > ${clientWidth}` : "";
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    with Shown(tmp_path_factory.mktemp("home")) as shown:
        with shown.client() as factory:
            until(lambda: shown.works.endpoints)
            factory.submit("held", {"tenant": "lab", **OFFER})
            factory.submit("later", {"tenant": "lab", **OFFER, "after": "held"})
        folder = shown.running("held")
        (folder / "log.txt").write_text("first line\n")
        (folder / "output").mkdir()
        (folder / "output" / "notes.txt").write_text("0123456789")
        for step in range(1, 9):
            said = {"phase": "work", "step": step, "steps": 16, "tokens": step, "loss": 8 / step}
            say(folder, **said)
            until(lambda step=step: shown.works.progress["held"].get("step") == step)
        for _ in range(3):
            assert chat(shown).status_code == 200
        yield shown


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
                     "--no-first-run", "--disable-background-networking", "--disable-sync",
                     "--disable-component-update"):  # fmt: skip
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


@pytest.fixture
def browser(shown, chrome):
    """A browser that came in with the operator's key, and stays without an error."""
    enter(chrome, shown, "lab", "operator")
    chrome.get_log("browser")
    yield Browser(chrome, shown.url)
    assert [line["message"] for line in chrome.get_log("browser")] == []


class Browser:
    """What a person does."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, path):
        self.driver.get(self.url + path)
        return self.text()

    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    def at(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def type(self, selector, text):
        self.at(selector).clear()
        self.at(selector).send_keys(text)

    def press(self, words):
        """Press a button and see the page that comes; in one go, for the old one renews itself."""
        before = self.driver.find_element(By.TAG_NAME, "html")
        self.driver.execute_script(
            """[...document.querySelectorAll("main button")].find((button) =>
            [button.textContent, button.ariaLabel].includes(arguments[0])).click()""",
            words,
        )
        WebDriverWait(self.driver, 60).until(staleness_of(before))

    def reads(self, words):
        """Wait until the page says something, without anybody reloading it."""
        WebDriverWait(self.driver, 60, 0.1).until(lambda _: words in self.text(), words)

    def hosts(self):
        """Hosts that were asked since the last look."""
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events
                 if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
        return {url.split("/")[2] for url in asked if url.startswith("http")}


def enter(driver, shown, tenant, role):
    driver.get(shown.url + "/healthz")
    driver.delete_all_cookies()
    driver.get(f"{shown.url}/?key={shown.keys[tenant, role]}")
    assert driver.current_url == shown.url + "/"


def chat(shown, tenant="lab"):
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {shown.keys[tenant, 'member']}"}
    return httpx.post(f"{shown.url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def test_every_page_is_for_all_eyes_by_day_by_night_on_a_phone_and_asks_no_other_host(browser):
    driver = browser.driver
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.hosts()
    for path in PAGES:
        browser.open(path)
        assert driver.execute_script(PLAIN) == [], path
        dark(driver, "dark")
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        try:
            assert driver.execute_script(WIDE) == "", path
            assert driver.execute_script(PLAIN) == [], path
        finally:
            driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            dark(driver, "light")
    assert browser.hosts() == {browser.url.removeprefix("http://")}


def dark(driver, which):
    media = {"features": [{"name": "prefers-color-scheme", "value": which}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def test_the_key_leaves_the_address_and_a_stranger_is_asked_for_one(shown, chrome):
    enter(chrome, shown, "lab", "operator")
    assert "key" not in chrome.current_url
    chrome.find_element(By.CSS_SELECTOR, ".me button").click()
    WebDriverWait(chrome, 60).until(lambda _: "Your key" in chrome.page_source)
    chrome.find_element(By.NAME, "key").send_keys(shown.keys["rival", "viewer"])
    chrome.find_element(By.TAG_NAME, "button").click()
    WebDriverWait(chrome, 60).until(lambda _: "rival/rival-viewer" in chrome.page_source)


def test_the_factory_shows_its_jobs_the_plan_and_the_ledger(browser):
    text = browser.open("/")
    for said in (
        "mill-1",
        "train",
        "step 8 of 16",
        "stands on held (running)",
        "Time to first token",
    ):
        assert said in text
    assert "attempt 1 started on home/this-machine" in text
    assert (
        browser.at("#jobs .bar[aria-label='progress of held']").get_attribute("aria-valuenow")
        == "50"
    )


def test_the_queue_says_why_a_job_waits(browser):
    text = browser.open("/queue")
    assert "stands on held (running)" in text
    assert re.search(r"home/this-machine\s+this-machine\s+1 of 1", text)


def test_a_job_is_quoted_and_then_accepted(browser, shown):
    browser.open("/submit")
    browser.type("#job", "name: mine\nkind: evaluate\nof: train\nsuite: bits_per_byte\n")
    browser.press("Quote")
    assert "QUOTE OF mine" in browser.text()
    assert "mine" not in shown.works.planned
    browser.press("Accept and submit")
    assert browser.driver.current_url == browser.url + "/jobs/mine"
    browser.reads("too few chips are free")
    [row] = [r for r in read(shown.home.ledger, kinds=["JobSubmitted"]) if r.subject == "mine"]
    assert row.body["by"].startswith("lab/local:")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("name: wrong\nkind: evaluate\nof: train\nsuite: [\n", "the file is not YAML"),
        ("name: wrong\nkind: evaluate\nof: nothing\nsuite: bits_per_byte\n", "nothing"),
        ("name: wrong\nkind: evaluate\nx: &x [1]\ny: *x\n", "the job has aliases"),
        ("kind: evaluate\n", "the job has no name"),
    ],
)
def test_a_job_that_cannot_be_is_refused_and_what_was_typed_stays(browser, text, what):
    browser.open("/submit")
    browser.type("#job", text)
    browser.press("Quote")
    assert what in browser.at(".faults").text
    assert "hint:" in browser.at(".faults").text
    assert browser.at("#job").get_attribute("value").strip() == text.strip()
    # The browser itself notes an answer of 422; that much is right.
    assert all("422" in line["message"] for line in browser.driver.get_log("browser"))


def test_a_log_is_followed_and_what_it_says_is_never_run(browser, shown):
    browser.hosts()
    text = browser.open("/jobs/held")
    for said in ("first line", "notes.txt", "loss 8", "step 8 of 16", "counted when it ends"):
        assert said in text
    with open(shown.attempt("held") / "log.txt", "a") as log:
        log.write(f"second line {HOSTILE}\n")
    browser.reads(f"second line {HOSTILE}")
    browser.open("/jobs/held")
    assert HOSTILE in browser.text()
    assert browser.driver.title == "held – gigafactory"
    assert browser.hosts() == {browser.url.removeprefix("http://")}


def test_a_curve_is_drawn_for_eyes_and_for_ears(browser):
    browser.open("/jobs/held")
    said = browser.at(".loss svg").get_attribute("aria-label")
    assert said == "loss of held: 8 at step 1, 1 at step 8"


def test_a_page_keeps_itself_fresh_but_not_under_the_hands_of_who_types(browser, shown):
    browser.open("/queue")
    browser.driver.execute_script("getSelection().removeAllRanges()")
    with shown.client() as factory:
        factory.submit("held-2", {"tenant": "rival", "kind": "pretrain", "model": "tiny",
                                  "tokens": "1 k tokens"})  # fmt: skip
        browser.reads("held-2")
        browser.open("/tenants/rival")
        browser.type("#key-user", "somebody")
        factory.cancel("held-2")
        time.sleep(2.5)
        assert browser.at("#key-user").get_attribute("value") == "somebody"


def test_a_job_is_cancelled_with_a_second_thought(browser, shown):
    with shown.client() as factory:
        factory.submit("doomed", {"tenant": "lab", **OFFER, "after": "held"})
    browser.open("/jobs/doomed")
    browser.at("#cancel summary").click()
    browser.press("Cancel doomed")
    assert "cancelled" in browser.text()
    assert shown.works.factory.status("doomed") == "cancelled"
    assert not browser.driver.find_elements(By.ID, "cancel")


def test_a_key_is_made_shown_once_used_and_revoked(browser, shown):
    browser.open("/tenants/lab")
    browser.type("#key-user", "ann")
    Select(browser.at("#key-role")).select_by_visible_text("viewer")
    browser.type("#key-days", "7")
    browser.press("Make a key")
    key = browser.at(".secret").get_attribute("value")
    headers = {"Authorization": f"Bearer {key}"}
    me = httpx.get(shown.url + "/api/me", headers=headers).json()
    assert (me["user"], me["scopes"]) == ("ann", ["read"])
    assert 6 < (me["expires_unix_s"] - time.time()) / 86400 < 7.1
    assert key not in browser.open("/tenants/lab") + browser.driver.page_source
    browser.press(f"revoke key {me['key']}")
    assert "revoked" in browser.text()
    assert httpx.get(shown.url + "/api/me", headers=headers).status_code == 401
    assert "key.revoke" in browser.open("/audit")


def test_limits_and_budgets_are_changed(browser, shown):
    browser.open("/tenants/rival")
    browser.type("#weight", "2.5")
    browser.type("#rpm", "60")
    browser.type(
        "#budgets", "12.5 EUR per day\n5 kWh per month\n2 kgCO2e per year\n3 M tokens per week"
    )
    browser.press("Change")
    text = browser.text()
    for said in (
        "12.5\u00a0EUR per day",
        "5\u00a0kWh per month",
        "2\u00a0kgCO2e per year",
        "3,000,000\u00a0tokens per week",
    ):
        assert said.replace("\u00a0", " ") in text.replace("\u00a0", " ")
    rival = shown.works.house.tenants["rival"]
    assert (rival.weight, rival.requests_per_minute, len(rival.budgets)) == (2.5, 60, 4)
    assert {left.budget.of for left in shown.works.budgets.left("rival")} == {
        "money", "energy", "carbon", "tokens"
    }  # fmt: skip
    lines = browser.at("#budgets").get_attribute("value")
    browser.press("Change")  # What the form says of itself is what it was told.
    assert browser.at("#budgets").get_attribute("value") == lines
    assert shown.works.house.tenants["rival"].budgets == rival.budgets


def test_a_budget_that_cannot_be_is_refused_in_words(browser, shown):
    before = shown.works.house.tenants["lab"]
    browser.open("/tenants/lab")
    browser.type("#budgets", "a lot per month")
    browser.press("Change")
    assert "a lot" in browser.at(".faults").text
    assert shown.works.house.tenants["lab"] == before
    assert all("422" in line["message"] for line in browser.driver.get_log("browser"))


def test_the_gateway_counts_what_was_asked(browser, shown):
    browser.open("/gateway")
    assert "ready" in browser.at("section[aria-labelledby=services-title] .status").text
    settled = int(browser.at("section[aria-labelledby=asked-title] td.number").text)
    assert settled >= 3
    assert browser.driver.find_elements(By.XPATH, "//td[contains(., 'ms')]")
    assert chat(shown).status_code == 200
    browser.reads(f"lab chat {settled + 1}")


def test_a_bill_is_read_and_its_lines_are_downloaded(browser, shown, tmp_path):
    driver = browser.driver
    browser.open("/bills")
    driver.find_element(By.LINK_TEXT, "lab").click()
    WebDriverWait(driver, 60).until(lambda _: driver.current_url.endswith(f"/bills/lab/{MONTH}"))
    text = browser.text()
    for said in ("train", "home/this-machine", "modelled", "Disputed requests", "EUR"):
        assert said in text
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    driver.find_element(By.LINK_TEXT, "CSV").click()
    file = tmp_path / f"lab-{MONTH}.csv"
    until(lambda: file.exists() and file.stat().st_size)
    rows = list(csv.DictReader(file.open()))
    assert {row["tenant"] for row in rows} == {"lab"}
    total = sum(round(float(row["money"]) * 1e6) for row in rows)
    assert f"{total / 1e6:.6f}" in text
    chats = next(row for row in rows if row["name"] == "chat")
    assert int(chats["requests"]) >= 3


def test_another_tenant_sees_nothing_of_the_first(shown, chrome):
    enter(chrome, shown, "rival", "admin")
    theirs = re.compile(r"\b(held\n|train|judge|later|lab|chat|first line|lab-\w+)\b")
    for path in ("/", "/queue", "/jobs", "/tenants", "/tenants/rival", "/bills", "/gateway"):
        chrome.get(shown.url + path)
        text = chrome.find_element(By.TAG_NAME, "body").text
        assert "rival/rival-admin" in text
        text = re.sub(r"cancelled by lab/local:\w+", "", text)  # theirs, by the operator
        assert not theirs.findall(text), path
    http = httpx.Client(
        base_url=shown.url, cookies={"gigafactory-key": shown.keys["rival", "admin"]}
    )
    own = {"Sec-Fetch-Site": "same-origin"}
    for path in ("/jobs/held", "/jobs/no-such", "/tenants/lab", f"/bills/lab/{MONTH}"):
        assert http.get(path).status_code == 404, path
    key = next(key.id for key in shown.works.house.keys.values() if key.user == "lab-viewer")
    for path, form in (
        ("/jobs/held/cancel", {}),
        ("/tenants/lab", {"budgets": ""}),
        ("/tenants/lab/keys", {"user": "eve", "role": "viewer"}),
        ("/tenants/lab/users", {"user": "eve", "role": "viewer"}),
        (f"/tenants/lab/keys/{key}/revoke", {}),
        (f"/tenants/rival/keys/{key}/revoke", {}),
    ):
        assert http.post(path, data=form, headers=own).status_code == 404, path
    for path in ("/tenants", "/nodes/home/this-machine-1/drain"):
        assert http.post(path, headers=own).status_code == 403, path
    assert http.get("/audit").status_code == 403
    assert shown.works.factory.status("held") == "running"
    chrome.get_log("browser")


def test_an_admin_may_not_raise_the_own_limits(shown):
    http = httpx.Client(base_url=shown.url, cookies={"gigafactory-key": shown.keys["lab", "admin"]})
    own = {"Sec-Fetch-Site": "same-origin"}
    assert http.post("/tenants/lab", data={"quota": "99"}, headers=own).status_code == 422
    assert http.post("/tenants/lab", data={"prompts": "keep"}, headers=own).status_code == 303
    assert shown.works.house.tenants["lab"].keep_prompts
    assert shown.works.house.tenants["lab"].quota is None


def test_a_form_that_another_site_sends_is_refused(shown):
    http = httpx.Client(base_url=shown.url, cookies={"gigafactory-key": shown.keys["lab", "admin"]})
    for headers in ({}, {"Origin": "https://example.com"}, {"Sec-Fetch-Site": "cross-site"}):
        reply = http.post("/jobs/held/cancel", headers=headers)
        assert reply.status_code == 403
    assert shown.works.factory.status("held") == "running"


def test_the_audit_says_who_did_what_and_whether_the_record_holds(browser):
    assert "key.make" in browser.open("/audit")
    browser.press("Verify now")
    assert "verified whole at" in browser.text()
    assert "sha256" not in browser.driver.page_source


def test_no_look_reads_rows_of_requests(shown, monkeypatch):
    asked = []
    real = recent.select

    def noted(where, query, values=()):
        asked.append((query, tuple(values)))
        return real(where, query, values)

    monkeypatch.setattr(recent, "select", noted)
    board = shown.board
    who = shown.works.house.who(shown.keys["lab", "operator"])
    for look in (board.factory(who), board.queue(who), board.tenants(who), board.job(who, "held")):
        asyncio.run_coroutine_threadsafe(look, shown.loop).result(20)
    assert all("RequestSettled" not in query or "not in" in query for query, _ in asked)


def test_a_node_is_drained(browser, shown):
    browser.open("/queue")
    browser.at("#drain summary").click()
    browser.press("drain home/this-machine-1")
    browser.reads("home/this-machine-1 (drained)")
    assert not shown.works.factory.takes_work("home/this-machine-1")
    [act] = [r.body for r in read(shown.home.ledger, kinds=["Acted"]) if "drain" in r.body["did"]]
    assert act["by"].startswith("lab/local:")
