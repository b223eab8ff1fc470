"""The API: shut unless a route says for whom, deaf to strangers, durable when it answers."""

import asyncio
import json
import os
import time
from collections import Counter
from contextlib import ExitStack

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gigafactory.ledger.store import Ledger, LedgerFailure, read
from gigafactory.works.api import guard as guards
from gigafactory.works.api import quotes
from gigafactory.works.api.guard import ANYONE, BURST, Guard, Guarded
from gigafactory.works.history import History
from gigafactory.works.house import ROLES, Grant
from tests.served import OFFER, WAITS, Served, until
from tests.test_works import plan

SCOPES = ("infer", "read", "submit", "manage", "operate")
FAULT = {"what", "where", "why", "remedy"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("home")) as served:
        with served.client() as factory:
            factory.submit("held", {"tenant": "lab", **OFFER})
            factory.submit("secret", {"tenant": "lab", **OFFER})
        served.running("held")
        until(lambda: served.works.factory.status("secret") == "done")
        output = served.attempt("secret") / "output"
        output.mkdir()
        (output / "notes.txt").write_text("0123456789")
        (served.attempt("held") / "log.txt").write_text("first line\n")
        yield served


@pytest.fixture
def lab(served):
    with served.http("lab") as http:
        yield http


@pytest.fixture
def rival(served):
    with served.http("rival", "admin") as http:
        yield http


def faults(reply, status):
    """The faults of a refusal, each in its four parts."""
    assert reply.status_code == status, reply.text
    found = reply.json()["errors"]
    assert found
    assert all(set(fault) == FAULT and all(fault.values()) for fault in found), found
    return found


def asked_of(served):
    """Every route with what it declares."""
    return [(route, route.endpoint.asked) for route in served.app.router.routes]


def filled(path):
    """A path with the names of what is lab's."""
    mine = {"job": "secret", "tenant": "lab", "user": "lab-member", "node": "home/this-machine-1"}
    for name, value in mine.items():
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    return path.replace("{path:path}", "notes.txt").replace("{path}", "notes.txt")


# Who may come in.


def test_every_route_is_behind_the_guard_and_declares_who_may_use_it(served):
    routes = served.app.router.routes
    assert len(routes) > 25
    for route in routes:
        assert isinstance(route, Guarded), route
        assert route.endpoint.asked.scope in (*SCOPES, ANYONE)
    anyones = {asked.path for _, asked in asked_of(served) if asked.scope == ANYONE}
    assert anyones == {"/healthz", "/login", "/logout", "/api/openapi.json"}


def test_a_route_that_declares_nothing_cannot_be_reached(served, lab):
    async def forgotten(request):
        return PlainTextResponse("in")

    app = served.api.app([])
    app.router.routes.append(Guarded("/forgotten", forgotten))
    key = served.keys["lab", "operator"]
    request = httpx.Request("GET", "http://x/forgotten", headers={"Authorization": f"Bearer {key}"})

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            return await http.send(request)

    assert "who may use it" in faults(asyncio.run(ask()), 403)[0]["why"]


def test_a_page_is_for_whoever_may_read(served):
    async def page(request):
        return PlainTextResponse(request.state.grant.user)

    (shown,) = (r for r in served.api.app([Route("/", page)]).router.routes if r.path == "/")
    assert shown.endpoint.asked.scope == "read"


def test_without_a_key_nothing_is_told(served):
    with served.http() as nobody:
        for _, asked in asked_of(served):
            if asked.scope != ANYONE:
                faults(nobody.request(asked.method, filled(asked.path)), 401)
        assert nobody.get("/healthz").json() == {"ok": True}
        wrong = {"Authorization": "Bearer gf-wrong"}
        assert "not known" in faults(nobody.get("/api/jobs", headers=wrong), 401)[0]["what"]
        basic = {"Authorization": f"Basic {served.keys['lab', 'operator']}"}
        faults(nobody.get("/api/jobs", headers=basic), 401)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_good_for_one_scope_opens_the_routes_of_that_scope_and_no_other(served, scope):
    class House:
        def who(self, token):
            return Grant("ann", "lab", frozenset([scope]), "id")

    guard = Guard(House())
    for _, asked in asked_of(served):
        http = {"type": "http", "method": asked.method, "path": asked.path, "query_string": b""}
        request = Request({**http, "headers": [(b"authorization", b"Bearer key")]})
        if asked.scope in (scope, ANYONE):
            guard.admit(request, asked)
        else:
            with pytest.raises(guards.Denied) as denied:
                guard.admit(request, asked)
            assert denied.value.status == 403


@pytest.mark.parametrize("role", ["viewer", "member", "admin"])
def test_a_role_opens_what_its_scopes_say(served, role):
    with served.http("lab", role) as http:
        for _, asked in asked_of(served):
            if asked.scope != ANYONE and asked.scope not in ROLES[role]:
                reply = http.request(asked.method, filled(asked.path), content=b"{}")
                assert f"`{asked.scope}`" in faults(reply, 403)[0]["why"]
        assert http.get("/api/jobs").status_code == 200


def test_a_revoked_key_is_nobody_s_at_once(served, lab):
    made = lab.post("/api/keys", json={"user": "ann", "role": "viewer"}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    with served.http() as ann:
        assert ann.get("/api/me", headers=headers).json()["scopes"] == ["read"]
        assert lab.delete(f"/api/keys/{made['made']['id']}").json()["revoked_unix_s"] > 0
        faults(ann.get("/api/me", headers=headers), 401)


def test_a_key_that_asks_too_often_is_told_to_wait():
    now = [0.0]

    class House:
        def who(self, token):
            return Grant("ann", "lab", frozenset(["read"]), token)

    guard = Guard(House(), lambda: now[0])
    asked = guards.Asked("GET", "/api/jobs", "read")

    def ask(key):
        http = {"type": "http", "method": "GET", "path": "/api/jobs", "query_string": b""}
        guard.admit(Request({**http, "headers": [(b"authorization", b"Bearer " + key)]}), asked)

    for _ in range(int(BURST)):
        ask(b"one")
    with pytest.raises(guards.Denied) as denied:
        ask(b"one")
    assert (denied.value.status, denied.value.headers) == (429, {"Retry-After": "1"})
    ask(b"another")
    now[0] += 1.0
    ask(b"one")


def test_a_key_has_only_so_many_streams_open():
    guard = Guard(None)
    ann, bob = (Grant(name, "lab", frozenset(["read"]), name) for name in ("ann", "bob"))
    with ExitStack() as open_:
        for _ in range(guards.STREAMS_MAX):
            open_.enter_context(guard.streaming(ann, "/watch"))
        with pytest.raises(guards.Denied) as denied, guard.streaming(ann, "/watch"):
            pass
        assert denied.value.status == 429
        with guard.streaming(bob, "/watch"):
            pass
    with guard.streaming(ann, "/watch"):
        pass


# A browser.


def test_a_key_in_the_address_becomes_a_cookie_that_no_script_and_no_other_site_has(served):
    async def page(request):
        return PlainTextResponse(request.state.grant.user)

    app = served.api.app([Route("/", page), Route("/api/view", page)])

    async def story():
        key = served.keys["lab", "operator"]
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://mill") as browser:
            html = {"Accept": "text/html"}
            refused = await browser.get("/", headers=html)
            assert refused.status_code == 401
            assert "password" in refused.text
            assert (await browser.get("/?key=gf-wrong")).status_code == 401
            assert (await browser.get(f"/api/jobs?key={key}")).status_code == 401
            assert (await browser.get(f"/api/view?key={key}")).status_code == 401
            moved = await browser.get(f"/?key={key}")
            assert (moved.status_code, moved.headers["location"]) == (303, "/")
            said = moved.headers["set-cookie"].lower()
            assert "httponly" in said
            assert "samesite=strict" in said
            assert (await browser.get("/")).text == "local"

            change = {"url": "/api/jobs/held/cancel", "method": "POST"}
            for headers in ({}, {"Origin": "http://evil"}, {"Sec-Fetch-Site": "cross-site"},
                            {"Sec-Fetch-Site": "same-site"}):  # fmt: skip
                denied = await browser.request(**change, headers=headers)
                assert "not ours" in faults(denied, 403)[0]["what"], headers
            quote = {"name": "new", "work": {"tenant": "lab", **OFFER}}
            for headers in ({"Origin": "http://mill"}, {"Sec-Fetch-Site": "same-origin"}):
                assert (
                    await browser.post("/api/jobs/quote", json=quote, headers=headers)
                ).status_code == 200
            ours = {"Sec-Fetch-Site": "same-origin"}
            left = await browser.post("/logout", headers=ours)
            browser.cookies.clear()
            assert "max-age=0" in left.headers["set-cookie"].lower()
            entered = await browser.post("/login", data={"key": key}, headers=ours)
            assert entered.status_code == 303
            assert (await browser.post("/login", data={"key": key})).status_code == 401
            wrong = await browser.post("/login", data={"key": "gf-wrong"}, headers=ours)
            assert wrong.status_code == 401

    asyncio.run(story())


# Two tenants.


def test_what_is_another_tenant_s_is_not_there(served, rival):
    """Every route with a name in its path, as the OpenAPI has them, asked with lab's names."""
    whole = rival.get("/api/openapi.json").json()
    with served.client() as operator:
        known = operator.keys()
    key = next(k["id"] for k in known if k["user"] == "lab-member")
    bodies = {"tenant": {"keep_prompts": True}, "user": {"role": "viewer", "tenant": "lab"}}
    tried = 0
    for path, methods in whole["paths"].items():
        if "{" not in path:
            continue
        for method in methods:
            name = path.partition("{")[2].partition("}")[0]
            url = filled(path).replace("{key}", key)
            reply = rival.request(method, url, json=bodies.get(name))
            assert reply.status_code in (403, 404), (method, url, reply.text)
            faults(reply, reply.status_code)
            tried += 1
    assert tried >= 10
    for path in ("/api/budgets", "/api/bill"):
        faults(rival.get(path, params={"tenant": "lab"}), 404)
    assert rival.get("/api/jobs", params={"tenant": "lab"}).json()["jobs"] == []
    new = {"user": "spy", "tenant": "lab", "role": "viewer"}
    faults(rival.post("/api/keys", json=new), 404)


def test_a_name_that_is_another_s_and_one_that_is_nobody_s_are_answered_alike(rival):
    for path in ("/api/jobs/{}", "/api/jobs/{}/logs", "/api/jobs/{}/artifacts", "/api/tenants/{}"):
        theirs, nobodys = "lab" if "tenants" in path else "secret", "nobody"
        told = [rival.get(path.format(name)).text.replace(name, "X") for name in (theirs, nobodys)]
        assert told[0] == told[1]


def test_no_list_tells_a_tenant_of_another(served, rival):
    until(lambda: served.works.factory.status("rivals") == "done")
    whole = rival.get("/api/openapi.json").json()
    for path, methods in whole["paths"].items():
        if "get" in methods and "{" not in path and path.startswith("/api/"):
            reply = rival.get(path)
            assert reply.status_code in (200, 403)
            assert "secret" not in reply.text
            assert '"lab"' not in reply.text
    events = rival.get("/api/events").json()
    assert {row["subject"] for row in events["events"]} == {"rivals"}
    assert events["next"] > 0


def test_a_job_stands_on_jobs_of_its_own_tenant_only(rival):
    work = {"kind": "evaluate", "suite": "bits_per_byte"}
    for offer in ({**work, "of": "secret"}, {**work, "of": "train"}):
        found = faults(rival.post("/api/jobs", json={"name": "spy", "work": offer}), 422)
        assert "does not exist" in found[0]["what"]
        assert "known: rivals" in found[0]["remedy"]
    found = faults(
        rival.post(
            "/api/jobs", json={"name": "spy", "work": {**work, "of": "rivals", "tenant": "lab"}}
        ),
        422,
    )
    assert "tenant 'lab' does not exist" in found[0]["what"]


def test_a_name_that_is_nearly_one_s_own_is_answered_with_it(lab, rival):
    def hint(http, path):
        return faults(http.get(path), 404)[0]["remedy"]

    assert hint(lab, "/api/jobs/secrt") == "did you mean secret?"
    assert hint(lab, "/api/tenants/rivl") == "did you mean rival?"
    assert hint(lab, "/api/jobs/nothing-like-it") == "look for the name again"
    assert hint(rival, "/api/jobs/secrt") == "look for the name again"
    assert hint(rival, "/api/jobs/rivls") == "did you mean rivals?"
    drained = lab.post("/api/nodes/home/this-machine-2/drain")
    assert faults(drained, 404)[0]["remedy"] == "did you mean home/this-machine-1?"


# Jobs.


def test_who_submits_or_cancels_is_in_the_audit(served, lab, rival):
    lab.post("/api/jobs", json={"name": "acted", "work": WAITS})
    jobs = [{"name": name, "work": WAITS} for name in ("acted-1", "acted-2", "acted")]
    lab.post("/api/jobs/batch", json={"jobs": jobs})
    lab.post("/api/jobs/acted/cancel")
    faults(rival.post("/api/jobs/acted/cancel"), 404)
    acts = [row.body for row in read(served.home.ledger, kinds=["Acted"])][-3:]
    assert [(act["did"], act["about"]) for act in acts] == [
        ("job.submit", "acted"), ("job.submit", "2 jobs"), ("job.cancel", "acted")
    ]  # fmt: skip
    assert acts[1]["said"] == {"run": "mill-1", "names": ["acted-1", "acted-2"]}
    assert all(act["by"].startswith("lab/local:") for act in acts)
    whole = lab.get("/api/jobs/acted").json()
    assert whole["status"] == "cancelled"
    until(lambda: lab.get("/api/jobs/acted").json()["cancelled_by"] == acts[2]["by"])
    assert lab.get("/api/audit", params={"verify": True}).json()["fault"] is None


def test_what_was_accepted_is_told_so_though_the_audit_cannot_be_written(served, lab, monkeypatch):
    async def fails(*_):
        raise LedgerFailure("full")

    monkeypatch.setattr(served.works.house, "act", fails)
    assert lab.post("/api/jobs", json={"name": "unaudited", "work": WAITS}).status_code == 200
    assert lab.get("/api/jobs/unaudited").status_code == 200


def test_a_job_waits_for_a_budget_in_words(lab, served, monkeypatch):
    lab.post("/api/jobs", json={"name": "broke", "work": WAITS})
    monkeypatch.setattr(served.works, "why", lambda job: f"{job} has no money")
    assert lab.get("/api/jobs/broke").json()["why"] == "broke has no money"
    rows = lab.get("/api/jobs", params={"tenant": "lab"}).json()["jobs"]
    assert "broke has no money" in {row["why"] for row in rows}


def test_a_job_is_in_the_ledger_when_it_is_accepted(served, lab):
    answer = lab.post("/api/jobs", json={"name": "one", "work": OFFER})
    assert answer.status_code == 200
    rows = [row for row in read(served.home.ledger, kinds=["JobSubmitted"]) if row.subject == "one"]
    assert len(rows) == 1
    assert rows[0].body["tenant"] == "lab"
    assert answer.json()["quote"] == {**rows[0].body["quote"]}
    again = faults(lab.post("/api/jobs", json={"name": "one", "work": OFFER}), 422)
    assert "exists already" in again[0]["what"]


def test_an_answer_does_not_wait_for_the_network_s_timers(lab):
    """With Nagle's algorithm on, the second packet of each answer waits 40 ms for an ACK."""
    quick = 0
    for _ in range(500):  # the first few are quick all the same, and a busy machine is slow
        began_s = time.monotonic()
        lab.get("/healthz")
        quick += time.monotonic() - began_s < 0.035
        if quick > 5:
            return
    raise AssertionError(f"{quick} of 500 answers did not wait")


def test_a_quote_accepts_nothing(served, lab):
    quote = lab.post("/api/jobs/quote", json={"name": "maybe", "work": OFFER}).json()["quote"]
    assert quote["duration_s"]["value"] > 0
    faults(lab.get("/api/jobs/maybe"), 404)


def test_of_a_batch_each_job_stands_for_itself(served, lab):
    jobs = [
        {"name": "b1", "work": {**OFFER, "seed": 1}},
        {"name": "b1", "work": OFFER},
        {"name": "b2", "work": {**OFFER, "after": "b1"}},
        {"name": "b3", "work": {**OFFER, "after": "b9"}},
        {"name": "one-more", "work": {"kind": "dance"}},
        {"name": "train", "work": OFFER},
        "nonsense",
        {"name": ["b4"], "work": OFFER},
    ]
    told = lab.post("/api/jobs/batch", json={"jobs": jobs}).json()
    assert [one["accepted"] for one in told["jobs"]] == [True, False, True] + [False] * 5
    assert (told["accepted"], told["refused"]) == (2, 6)
    assert told["jobs"][0]["duration_s"] > 0
    for one in told["jobs"]:
        assert one["accepted"] or all(set(fault) == FAULT for fault in one["errors"])
    assert "exists already" in told["jobs"][1]["errors"][0]["what"]
    assert "'b9' does not exist" in told["jobs"][3]["errors"][0]["what"]
    assert lab.get("/api/jobs/b2").json()["spec"]["work"]["after"] == ["b1"]
    faults(lab.post("/api/jobs/batch", json={"jobs": {}}), 422)
    faults(lab.post("/api/jobs/batch", content=b"[1"), 422)


def test_jobs_that_are_alike_are_priced_once_until_something_new_is_measured(
    served, lab, monkeypatch
):
    priced = []
    plan_one = quotes.plan.submit

    def counting(*asked):
        priced.append(asked[1])
        return plan_one(*asked)

    monkeypatch.setattr(quotes.plan, "submit", counting)
    jobs = [{"name": f"alike-{n}", "work": {**WAITS, "seed": n, "examples": 7}} for n in range(200)]
    assert lab.post("/api/jobs/batch", json={"jobs": jobs}).json()["accepted"] == 200
    assert len(priced) == 1
    other = {"name": "other", "work": {**OFFER, "examples": 8}}
    lab.post("/api/jobs/quote", json=other)
    assert priced[1:] == ["other"]


def test_a_quote_from_memory_is_the_quote_that_is_planned_anew(served, lab):
    work = {**OFFER, "examples": 9}
    first = lab.post("/api/jobs/quote", json={"name": "q1", "work": work}).json()
    second = lab.post(
        "/api/jobs/quote", json={"name": "q2", "work": {**work, "priority": 3}}
    ).json()
    assert second["spec"]["name"] == second["quote"]["job"] == "q2"
    assert second["spec"]["work"]["priority"] == 3
    second["spec"]["work"]["priority"] = 0
    text = json.dumps(second).replace('"q2"', '"q1"')
    assert json.loads(text) == first


def test_jobs_are_listed_page_by_page_and_by_status(lab):
    whole = lab.get("/api/jobs").json()
    assert whole["cursor"] is None
    names, cursor = [], 0
    while cursor is not None:
        page = lab.get("/api/jobs", params={"cursor": cursor, "limit": 7}).json()
        names += [job["name"] for job in page["jobs"]]
        cursor = page["cursor"]
    assert names[: len(whole["jobs"])] == [job["name"] for job in whole["jobs"]]
    held = lab.get("/api/jobs", params={"status": "running"}).json()["jobs"]
    assert [job["name"] for job in held] == ["held"]
    theirs = lab.get("/api/jobs", params={"tenant": "rival"}).json()["jobs"]
    assert [job["name"] for job in theirs] == ["rivals"]


def test_a_job_tells_all_that_is_known_of_it(lab):
    job = until(lambda: (it := lab.get("/api/jobs/secret").json())["ended_unix_s"] and it)
    assert (job["status"], job["passed"], job["attempts"]) == ("done", True, 1)
    assert job["submitted_unix_s"] <= job["started_unix_s"] <= job["ended_unix_s"]
    assert job["used"]["chip_s"] > 0
    assert job["nodes"] == {"home/this-machine-1": 1}
    assert job["results"]["tokens"] == 1000


def test_a_long_poll_answers_when_there_is_more_to_tell(served, lab):
    lab.post("/api/jobs", json={"name": "held-poll", "work": OFFER})
    served.running("held-poll")
    seq = until(lambda: (it := lab.get("/api/jobs/held-poll").json())["started_unix_s"] and it)[
        "seq"
    ]
    began_s = time.monotonic()
    (served.attempt("held-poll") / "stop").touch()
    more = lab.get("/api/jobs/held-poll", params={"after": seq}).json()
    assert more["seq"] > seq
    assert time.monotonic() - began_s < 10
    lab.post("/api/jobs/held-poll/cancel")


def test_a_job_is_watched_to_its_end(served, lab):
    lab.post("/api/jobs", json={"name": "held-watch", "work": OFFER})
    names, statuses = [], []
    with lab.stream("GET", "/api/jobs/held-watch/watch") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                names.append(value)
            if field == "data":
                statuses.append(json.loads(value)["status"])
                if statuses[-1] == "running":
                    with served.http("lab") as other:
                        assert other.post("/api/jobs/held-watch/cancel").status_code == 200
    assert names[-1] == "end"
    assert statuses[-1] == "cancelled"
    assert "running" in statuses


def test_a_job_that_ended_cannot_be_cancelled(lab):
    found = faults(lab.post("/api/jobs/secret/cancel"), 422)
    assert found[0]["why"] == "it is done"


def test_logs_are_read_from_where_one_was_and_followed_to_the_end(served, lab):
    lab.post("/api/jobs", json={"name": "held-log", "work": OFFER})
    log = served.running("held-log") / "log.txt"
    log.write_bytes(b"eins\n")
    piece = lab.get("/api/jobs/held-log/logs").json()
    assert piece == {"text": "eins\n", "offset": 5, "ended": False}
    with log.open("ab") as file:
        file.write(b"zwei\n")
    assert lab.get("/api/jobs/held-log/logs", params={"offset": 5}).json()["text"] == "zwei\n"
    with lab.stream("GET", "/api/jobs/held-log/logs", params={"follow": True}) as reply:
        heard = ""
        for text in reply.iter_text():
            heard += text
            if heard.endswith("zwei\n"):
                with served.http("lab") as other:
                    other.post("/api/jobs/held-log/cancel")
    assert heard.startswith("eins\nzwei\n")


def test_a_log_that_is_a_link_is_not_read(served, lab, tmp_path):
    (tmp_path / "theirs").write_text("a secret")
    lab.post("/api/jobs", json={"name": "held-link", "work": OFFER})
    (served.running("held-link") / "log.txt").symlink_to(tmp_path / "theirs")
    assert lab.get("/api/jobs/held-link/logs").json()["text"] == ""
    lab.post("/api/jobs/held-link/cancel")


def test_artifacts_are_listed_and_fetched_whole_or_by_range(lab):
    found = lab.get("/api/jobs/secret/artifacts").json()
    assert found["committed"]
    assert [(file["path"], file["bytes"]) for file in found["files"]] == [("notes.txt", 10)]
    url = "/api/jobs/secret/artifacts/notes.txt"
    assert lab.get(url).text == "0123456789"
    for asked, text in {"2-4": "234", "7-": "789", "-3": "789", "0-99": "0123456789"}.items():
        part = lab.get(url, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.text) == (206, text)
        assert part.headers["content-range"].endswith("/10")
    for odd in ("lines=1-2", "bytes=1-2,4-5", "bytes=5-2", "bytes=-", "bytes=x"):
        assert lab.get(url, headers={"Range": odd}).status_code == 200
    faults(lab.get(url, headers={"Range": "bytes=10-"}), 416)


def test_a_long_list_of_artifacts_comes_in_pages(served, lab):
    more = served.attempt("secret") / "output" / "second.txt"
    more.write_text("")
    try:
        first = lab.get("/api/jobs/secret/artifacts", params={"limit": 1}).json()
        assert ([file["path"] for file in first["files"]], first["cursor"]) == (["notes.txt"], 1)
        rest = lab.get("/api/jobs/secret/artifacts", params={"cursor": 1, "limit": 1}).json()
        assert ([file["path"] for file in rest["files"]], rest["cursor"]) == (["second.txt"], None)
    finally:
        more.unlink()


def test_no_path_leads_out_of_a_job_s_output(served, lab, tmp_path):
    output = served.attempt("secret") / "output"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "key").write_text("a secret")
    (output / "link").symlink_to(tmp_path / "theirs" / "key")
    (output / "folder").symlink_to(tmp_path / "theirs")
    os.mkfifo(output / "pipe")
    try:
        for path in (
            "link", "folder/key", "folder", "pipe", "../attempt.json", "%2e%2e/result.json",
            "..%2fresult.json", "%2fetc%2fpasswd", "/etc/passwd", "a/%2e%2e/notes.txt", "%2e", "",
            "notes.txt/", "notes.txt%00", "nothing", "%5c..%5cx",
        ):  # fmt: skip
            reply = lab.get(f"/api/jobs/secret/artifacts/{path}")
            assert reply.status_code == 404, path
            assert "secret\n" not in reply.text
        listed = lab.get("/api/jobs/secret/artifacts").json()["files"]
        assert [file["path"] for file in listed] == ["notes.txt"]
        (output.parent / "aside").mkdir()
        output.rename(output.parent / "real")
        output.symlink_to(tmp_path / "theirs")
        assert lab.get("/api/jobs/secret/artifacts").json()["files"] == []
        faults(lab.get("/api/jobs/secret/artifacts/key"), 404)
    finally:
        if output.is_symlink():
            output.unlink()
            (output.parent / "real").rename(output)
        for name in ("link", "folder", "pipe"):
            (output / name).unlink()


# The rest of the house.


def test_tenants_are_changed_as_the_blueprint_writes_them(served, lab, rival):
    assert set(lab.get("/api/tenants").json()["tenants"]) >= {"lab", "rival"}
    assert set(rival.get("/api/tenants").json()["tenants"]) == {"rival"}
    changed = lab.patch("/api/tenants/rival", json={"requests_per_minute": 60})
    assert changed.json()["requests_per_minute"] == 60
    assert rival.get("/api/tenants/rival").json()["requests_per_minute"] == 60
    faults(rival.patch("/api/tenants/rival", json={"weight": 9}), 422)
    assert rival.patch("/api/tenants/rival", json={"keep_prompts": True}).json()["keep_prompts"]
    assert (
        "unknown key" in faults(lab.patch("/api/tenants/rival", json={"quotta": 1}), 422)[0]["what"]
    )


def test_a_granted_key_reaches_no_further_than_its_granter(rival):
    new = {"user": "ann", "role": "operator"}
    assert "more than you are" in faults(rival.post("/api/keys", json=new), 422)[0]["what"]
    made = rival.post("/api/keys", json={"user": "ann", "role": "viewer"}).json()
    assert made["made"]["tenant"] == "rival"
    assert "sha256" not in json.dumps(made)
    rival.put("/api/users/ann", json={"role": "none"})
    assert {"name": "ann", "tenant": "rival", "role": "none"} in rival.get("/api/users").json()[
        "users"
    ]


def test_budgets_tell_what_is_spent_held_and_left(served, lab):
    served.works.budgets.spend("lab", time.time(), money_micro=25_000_000)
    (row,) = lab.get("/api/budgets", params={"tenant": "lab"}).json()["budgets"]
    assert row["budget"]["limit"] == 100
    assert row["spent"] >= 25
    assert row["left"] == pytest.approx(100 - row["spent"] - row["reserved"])
    assert row["resets_unix_s"] > time.time()


def test_a_bill_is_a_month_of_a_tenant_as_json_and_csv(lab, rival):
    until(lambda: lab.get("/api/jobs/secret").json()["ended_unix_s"])
    until(lambda: {b["tenant"] for b in lab.get("/api/bill").json()["bills"]} == {"lab", "rival"})
    (bill,) = rival.get("/api/bill").json()["bills"]
    assert bill["tenant"] == "rival"
    assert [item["name"] for item in bill["items"]] == ["rivals"]
    assert bill["total_micro"] == sum(item["money_micro"] for item in bill["items"])
    text = rival.get("/api/bill", params={"form": "csv"}).text
    assert text.startswith("month,tenant,")
    assert text.count("\n") == 1 + len(bill["items"])
    assert lab.get("/api/bill", params={"month": "2001-01"}).json()["bills"] == []
    wrong = faults(lab.get("/api/bill", params={"month": "2026-13"}), 422)
    assert wrong[0]["remedy"] == "write it as 2026-11"


def test_the_audit_is_read_and_verified_by_operators(lab):
    lab.post("/api/keys", json={"user": "bob", "role": "viewer"})
    whole = lab.get("/api/audit", params={"verify": True}).json()
    assert whole["fault"] is None
    assert whole["acts"] == len(whole["audit"])
    assert whole["digest"] == whole["audit"][-1]["digest"]
    assert whole["audit"][-1]["did"] == "key.make"
    first = lab.get("/api/audit", params={"limit": 2}).json()
    rest = lab.get("/api/audit", params={"after": first["next"]}).json()
    assert first["audit"] + rest["audit"] == whole["audit"]


def test_nodes_tell_what_runs_there_to_those_whose_it_is(served, lab, rival):
    (node,) = lab.get("/api/nodes").json()["nodes"]
    assert (node["name"], node["state"]) == ("home/this-machine-1", "up")
    assert "held" in node["jobs"]
    (same,) = rival.get("/api/nodes").json()["nodes"]
    assert same["jobs"] == []
    assert same["used"] >= 1
    faults(lab.post("/api/nodes/nowhere/drain"), 404)


def test_a_drained_node_takes_work_again_when_that_is_undone(served, lab):
    where = "/api/nodes/home/this-machine-1/drain"
    assert lab.post(where).json()["state"] == "drained"
    assert not served.works.factory.takes_work("home/this-machine-1")
    assert lab.post(where, json={"undo": True}).json()["state"] == "up"
    assert served.works.factory.takes_work("home/this-machine-1")
    faults(lab.post("/api/nodes/nowhere/drain", json={"undo": True}), 404)


def test_services_tell_how_many_replicas_answer(served, lab, rival, monkeypatch):
    service = plan().job("serve")
    works = served.works
    for name in ("coder", "coder.2"):
        monkeypatch.setitem(works.planned, name, service)
        monkeypatch.setitem(works.progress, name, {})
    monkeypatch.setattr(works.factory, "running", lambda: ["coder", "coder.2"])
    monkeypatch.setitem(works.endpoints, "coder.2", {"ready": True})
    (row,) = lab.get("/api/services").json()["services"]
    assert row == {"name": "coder", "tenant": "lab", "replicas": ["coder", "coder.2"], "ready": 1}
    assert rival.get("/api/services").json()["services"] == []


def test_events_come_in_order_and_as_they_happen(served, lab):
    page = lab.get("/api/events", params={"limit": 3}).json()
    assert [row["seq"] for row in page["events"]] == sorted(row["seq"] for row in page["events"])
    more = lab.get("/api/events", params={"after": page["next"], "limit": 3}).json()
    assert more["events"][0]["seq"] > page["events"][-1]["seq"]
    last = page["next"]
    while (page := lab.get("/api/events", params={"after": last}).json())["next"] != last:
        last = page["next"]
    with lab.stream("GET", "/api/events", params={"after": last, "follow": True}) as reply:
        with served.http("lab") as other:
            other.post("/api/jobs", json={"name": "heard", "work": OFFER})
        lines = reply.iter_lines()
        told = [next(lines) for _ in range(3)]
    assert told[0].startswith("id: ")
    assert told[1] == "event: JobSubmitted"
    assert json.loads(told[2].removeprefix("data: "))["subject"] == "heard"


def test_prometheus_is_told_what_there_is(served, lab):
    text = lab.get("/metrics").text
    assert 'gigafactory_jobs{status="running"}' in text
    assert "gigafactory_nodes_up 1.0" in text
    assert 'gigafactory_budget{of="money",per="month",tenant="lab",what="limit"} 100.0' in text


def test_everything_that_is_refused_is_refused_in_four_parts(lab):
    faults(lab.get("/api/nothing"), 404)
    faults(lab.put("/api/jobs"), 405)
    faults(lab.get("/api/jobs", params={"limit": "many"}), 422)
    faults(lab.post("/api/jobs", content=b"no json"), 422)
    faults(lab.post("/api/jobs", content=b" " * ((1 << 20) + 1)), 413)
    faults(lab.post("/api/keys", json={"user": "x", "role": "king"}), 422)
    faults(lab.get("/api/jobs/a%00b"), 404)


def test_what_the_ledger_cannot_take_is_not_accepted_and_told_as_such(served, lab, monkeypatch):
    async def full(jobs, by):
        raise LedgerFailure("the disk is full")

    monkeypatch.setattr(served.works, "submit_many", full)
    batch = lab.post("/api/jobs/batch", json={"jobs": [{"name": "lost", "work": WAITS}]})
    assert "ledger" in faults(batch, 503)[0]["what"]
    assert int(batch.headers["retry-after"]) > 0
    faults(lab.get("/api/jobs/lost"), 404)


def test_an_answer_that_does_not_come_is_given_up(served, lab, monkeypatch):
    async def never(*_):
        await asyncio.sleep(60)

    monkeypatch.setattr(guards, "ANSWER_S_MAX", 0.2)
    monkeypatch.setattr(served.api.told, "nodes", never)
    assert "too long" in faults(lab.get("/api/nodes"), 504)[0]["what"]


def test_a_body_in_pieces_is_counted_too(lab):
    def pieces():
        for _ in range(20):
            yield b" " * 65536

    faults(lab.post("/api/jobs/batch", content=pieces()), 413)


def test_history_reads_on_and_knows_the_same_as_one_that_reads_all(served, tmp_path):
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    reading = History(tmp_path, path)
    counts = []
    for row in read(served.home.ledger):
        ledger.append(row.run, row.event()).result()
        if row.kind == "JobDone":
            counts.append(len(reading.measured().observations))
    ledger.close()
    assert reading.measured() == History(tmp_path, path).measured()
    assert counts == sorted(counts)
    assert counts[-1] >= 1


def test_the_api_holds_what_its_openapi_promises(served):
    """Anything that the schema allows, and much that it does not, is answered as it says."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis import checks

    whole = httpx.get(f"{served.url}/api/openapi.json", trust_env=False).json()
    for path in ("/api/events", "/api/jobs/{job}/logs"):  # `follow` has no end
        operation = whole["paths"][path]["get"]
        operation["parameters"] = [p for p in operation["parameters"] if p["name"] != "follow"]
    schema = schemathesis.openapi.from_dict(whole)
    schema.config.update(base_url=served.url)
    headers = {"Authorization": f"Bearer {served.keys['lab', 'operator']}"}
    wanted = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    answered = Counter()
    for found in schema.get_all_operations():

        @settings(
            max_examples=8,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=found.ok().as_strategy())
        def holds(case):
            reply = case.call(headers=headers)
            answered[reply.status_code < 300] += 1
            case.validate_response(reply, checks=wanted)

        holds()
    assert answered[True] > 30
    assert answered[False] > 30
