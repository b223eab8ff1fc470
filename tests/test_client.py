"""The client and the commands over it: from another machine, with a key, as a person would."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import typer.testing
from rich.console import Console

from gigafactory import cli
from gigafactory.client import Client, Unreachable
from gigafactory.faults import Refused
from gigafactory.show import Screen
from gigafactory.works.services import BY
from tests.served import OFFER, WAITS, Served, until

runner = typer.testing.CliRunner()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Served(tmp_path_factory.mktemp("home")) as served:
        until(lambda: served.works.factory.status("judge") == "done")
        with served.client() as factory:
            factory.submit("held", OFFER)
        yield served


@pytest.fixture
def factory(served):
    with served.client() as factory:
        yield factory


@pytest.fixture
def elsewhere(served, monkeypatch, tmp_path):
    """A person on another machine: an empty home, an address and a key."""
    monkeypatch.setenv("GIGAFACTORY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIGAFACTORY_URL", served.url)
    monkeypatch.setenv("GIGAFACTORY_KEY", served.keys["lab", "operator"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, code=0):
    result = runner.invoke(cli.app, list(words))
    assert result.exit_code == code, result.output
    return result.stdout


def answer(*words, code=0):
    return json.loads(run(*words, "--json", code=code))


def line_of(shown, part):
    """The one line that has it."""
    (line,) = [line for line in shown.splitlines() if part in line]
    return line


def answering(handle):
    return Client("http://mill", "key", transport=httpx.MockTransport(handle))


# The client.


def test_a_job_is_submitted_watched_and_its_files_are_brought(served, factory, tmp_path):
    assert factory.quote("c1", OFFER)["quote"]["duration_s"]["value"] > 0
    assert factory.submit("c1", OFFER)["spec"]["name"] == "c1"
    *_, last = factory.watch("c1")
    assert (last["status"], last["results"]["tokens"]) == ("done", 1000)
    output = served.attempt("c1") / "output"
    (output / "model").mkdir(parents=True)
    (output / "model" / "ä b%.txt").write_text("weights")
    (file,) = factory.artifacts("c1")["files"]
    brought = factory.fetch("c1", file["path"], tmp_path / "here")
    assert brought == (tmp_path / "here" / "model" / "ä b%.txt").resolve()
    assert brought.read_text() == "weights"
    assert [path.name for path in brought.parent.iterdir()] == ["ä b%.txt"]


def test_all_pages_of_artifacts_are_one_list():
    def handle(request):
        at = int(request.url.params.get("cursor", 0))
        files = [{"path": f"{n}.png", "bytes": n, "changed_unix_s": 0} for n in (at, at + 1)]
        page = {"attempt": 1, "committed": True, "files": files}
        return httpx.Response(200, json=page | {"cursor": at + 2 if at < 4 else None})

    with answering(handle) as client:
        found = client.artifacts("frames")
    assert [file["bytes"] for file in found.pop("files")] == [0, 1, 2, 3, 4, 5]
    assert found == {"attempt": 1, "committed": True}


def test_thousands_of_jobs_go_in_as_few_requests_as_hold_them(factory, monkeypatch):
    bodies = []
    send = factory._send
    monkeypatch.setattr(factory, "_send", lambda *of: bodies.append(of) or send(*of))
    work = {**WAITS, "gate": {"bytes": "> 0"}}
    jobs = [{"name": f"many-{n}", "work": work} for n in range(4000)]
    told = factory.submit_many([*jobs, jobs[0]])
    assert [one["accepted"] for one in told] == [True] * 4000 + [False]
    assert 1 < len(bodies) < 5
    assert len(list(factory.jobs(tenant="lab", status="waiting"))) >= 4000


def test_what_the_factory_refuses_is_raised_with_its_faults(factory):
    with pytest.raises(Refused) as refused:
        factory.submit("bad", {"kind": "evaluate", "of": "train", "suite": "dance"})
    (fault,) = refused.value.faults
    assert fault.where.endswith("work.suite")
    with pytest.raises(Refused, match="no job 'nothing'"):
        list(factory.watch("nothing"))


def test_reads_are_tried_again_and_changes_are_not(monkeypatch):
    monkeypatch.setattr("gigafactory.client.PAUSE_S", 0.0)
    asked = []

    def flaky(request):
        asked.append(request.method)
        if len(asked) < 3:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"user": "ann"})

    assert answering(flaky).me() == {"user": "ann"}
    assert asked == ["GET"] * 3
    asked.clear()
    with pytest.raises(Unreachable):
        answering(flaky).cancel("job")
    assert asked == ["POST"]


def test_a_watch_that_is_cut_off_goes_on(monkeypatch):
    class Cut(httpx.SyncByteStream):
        def __iter__(self):
            yield b'event: status\ndata: {"status": "running"}\n\n'
            raise httpx.ReadError("cut")

    answers = [
        httpx.Response(200, stream=Cut()),
        httpx.Response(200, json={}),
        httpx.Response(200, content=b'event: end\ndata: {"status": "done"}\n\n'),
    ]
    told = list(answering(lambda request: answers.pop(0)).watch("job"))
    assert [job["status"] for job in told] == ["running", "done"]


def test_an_answer_that_is_no_factory_s_is_told_as_such():
    with pytest.raises(Refused, match="failed to answer"):
        answering(lambda request: httpx.Response(403, text="<html>")).me()


def test_a_file_is_never_written_outside_the_folder_it_is_brought_to(tmp_path):
    silent = answering(lambda request: httpx.Response(200, content=b"x"))
    for path in ("../evil", "/etc/evil", "a/../../evil"):
        with pytest.raises(Refused, match="not fetched"):
            silent.fetch("job", path, tmp_path / "here")
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_this_home_is_sent_to_no_other_address(monkeypatch, tmp_path):
    monkeypatch.setenv("GIGAFACTORY_HOME", str(tmp_path))
    (tmp_path / "key").write_text("gf-own")
    monkeypatch.delenv("GIGAFACTORY_KEY", raising=False)
    with pytest.raises(Refused, match="no key for http://elsewhere"):
        Client("http://elsewhere")
    (tmp_path / "works.json").write_text(json.dumps({"pid": os.getpid(), "url": "http://here:1"}))
    assert Client()._http.headers["Authorization"] == "Bearer gf-own"
    with pytest.raises(Refused, match="no key for http://elsewhere"):
        Client("http://elsewhere")


def test_the_example_runs_against_a_factory(elsewhere):
    example = Path(__file__).parents[1] / "examples" / "submit_and_watch.py"
    ran = subprocess.run([sys.executable, str(example)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "done" in ran.stdout


# The commands.


def test_jobs_are_submitted_from_files_and_watched(elsewhere):
    (elsewhere / "one.yaml").write_text(json.dumps({"name": "f1", **OFFER}))
    (elsewhere / "two.yaml").write_text(json.dumps({"tenant": "rival", "name": "f2",
        "kind": "evaluate", "of": "rivals", "suite": "bits_per_byte"}))  # fmt: skip
    quoted = run("submit", "one.yaml", "two.yaml", "--quote")
    assert "would take" in quoted
    assert quoted.count(" EUR on home/this-machine") == 2
    told = run("submit", "one.yaml", "--watch")
    assert "f1: accepted" in told
    assert "f1: done" in told
    assert [job["name"] for job in answer("submit", "two.yaml", "three.yaml", code=2)["errors"]
            if "name" in job] == []  # fmt: skip
    assert answer("submit", "two.yaml", "--watch")["status"] == "done"
    again = answer("submit", "one.yaml", "two.yaml", code=2)["errors"]
    assert [fault["what"] for fault in again] == ["'f1' exists already", "'f2' exists already"]
    assert answer("watch", "f1")["results"]["tokens"] == 1000


def test_a_job_that_does_not_end_well_is_exit_code_1(served, elsewhere):
    (elsewhere / "held.yaml").write_text(json.dumps({"name": "held-cli", **OFFER}))
    run("submit", "held.yaml")
    (served.running("held-cli") / "log.txt").write_text("hello\n")
    assert run("logs", "held-cli") == "hello\n"
    assert not answer("logs", "held-cli")["ended"]
    running = [job["name"] for job in answer("jobs", "--status", "running")["jobs"]]
    assert running == ["held", "held-cli"]
    assert "held-cli" in run("nodes")
    assert answer("cancel", "held-cli")["job"] == "held-cli"
    assert "cancelled" in run("watch", "held-cli", code=1)
    assert run("logs", "held-cli", "-f") == "hello\n"


def test_a_replica_that_nobody_asked_is_let_go_and_did_not_fail(served, elsewhere):
    (elsewhere / "held.yaml").write_text(json.dumps({"name": "held-idle", **OFFER}))
    run("submit", "held.yaml")
    served.running("held-idle")
    ended = asyncio.run_coroutine_threadsafe(served.works.cancel_one("held-idle", BY), served.loop)
    assert ended.result(20)
    assert "held-idle: let go, nobody asked" in run("watch", "held-idle")
    shown = Screen(Console())._ended(served.works, "held-idle", "cancelled")
    assert shown.endswith("held-idle: let go, nobody asked")
    assert "✗" not in shown


def test_a_drain_is_undone_from_the_command_line(served, elsewhere):
    node = "home/this-machine-1"
    assert run("drain", node) == f"{node}: drained\n"
    assert run("drain", node, "--undo") == f"{node}: up\n"
    assert served.works.factory.takes_work(node)


def test_what_a_job_left_is_listed_and_brought(served, elsewhere):
    output = served.attempt("judge") / "output"
    output.mkdir()
    assert "only files in its $GIGAFACTORY_OUTPUT are kept" in run("artifacts", "judge")
    (output / "notes.txt").write_text("0123456789")
    assert "notes.txt" in run("artifacts", "judge")
    run("artifacts", "judge", "-o", "here")
    assert (elsewhere / "here" / "notes.txt").read_text() == "0123456789"
    kinds = [row["kind"] for row in answer("events")["events"]]
    assert {"RunOpened", "JobSubmitted", "JobDone"} <= set(kinds)


def test_tenants_users_and_keys_are_kept_from_the_command_line(elsewhere, served, monkeypatch):
    budget = "budgets=[{limit: 5 kWh, per: day}]"
    changed = answer("tenants", "rival", "--set", "quota=2", "--set", budget)["tenants"]["rival"]
    assert changed["quota"] == 2
    assert changed["budgets"][0]["limit"] == 5 * 3.6e6
    assert "1.8e+07 J per day" in run("tenants", "rival")
    for words in (("tenants", "--set", "quota=1"), ("tenants", "nobody"),
                  ("tenants", "lab", "--set", "quota"), ("users", "ann")):  # fmt: skip
        assert answer(*words, code=2)["errors"]
    made = answer("keys", "make", "ann", "--role", "viewer", "--days", "1")
    assert made["key"].startswith("gf-")
    assert answer("users", "ann", "--role", "viewer")["users"][0]["role"] == "viewer"
    assert "ann" in run("users")
    shown = run("keys", "list")
    ends = time.strftime("%Y-%m-%d %H:%M", time.gmtime(made["made"]["expires_unix_s"]))
    assert ends in line_of(shown, made["made"]["id"])
    assert "for ever" in shown
    run("keys", "make", "late", "--days", "1e-6")
    until(lambda: "expired 2" in line_of(run("keys", "list"), " late "))
    monkeypatch.setenv("GIGAFACTORY_KEY", made["key"])
    assert answer("jobs")["jobs"]
    assert "may not" in answer("cancel", "train", code=2)["errors"][0]["what"]
    monkeypatch.setenv("GIGAFACTORY_KEY", served.keys["lab", "operator"])
    run("keys", "revoke", made["made"]["id"])
    monkeypatch.setenv("GIGAFACTORY_KEY", made["key"])
    assert "not known" in answer("jobs", code=2)["errors"][0]["what"]


def test_budgets_bills_and_the_audit_are_told(elsewhere, served):
    (row,) = answer("budgets", "--tenant", "lab")["budgets"]
    assert row["budget"]["limit"] == 100
    assert "100 EUR per month" in run("budgets")
    until(lambda: answer("bill", "--tenant", "lab")["bills"])
    month = answer("bill")["month"]
    told = answer("bill", "--month", month, "--csv", "bill.csv")
    assert {bill["tenant"] for bill in told["bills"]} == {"lab", "rival"}
    assert (elsewhere / "bill.csv").read_text().startswith("month,tenant,")
    heading, *rows = run("bill", "--tenant", "lab").splitlines()[1:]
    assert heading.split()[-1] == "EUR"
    assert rows[0].split()[-1].replace(".", "").isdigit()
    assert max(map(len, (heading, *rows))) <= 80
    assert run("bill", "--month", "2001-01") == "nobody used anything in 2001-01\n"
    wrong = answer("bill", "--month", "11-2026", code=2)["errors"]
    assert wrong[0]["remedy"] == "write it as 2026-11"
    assert answer("bill", "--run", "x", "--month", month, code=2)["errors"]
    whole = answer("audit", "--verify")
    assert whole["fault"] is None
    assert len(whole["audit"]) == whole["acts"]
    assert "; whole" in run("audit", "--verify")


def test_where_no_factory_runs_bills_and_the_audit_are_read_from_the_ledger(served, monkeypatch):
    monkeypatch.setenv("GIGAFACTORY_HOME", str(served.home.path))
    for name in ("GIGAFACTORY_URL", "GIGAFACTORY_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert answer("bill")["run"] == "mill-1"
    month = answer("bill", "--csv", str(served.home.path / "bill.csv"))["month"]
    (bill,) = answer("bill", "--month", month, "--tenant", "rival")["bills"]
    assert bill["items"]
    assert answer("audit", "--verify")["acts"] >= 7
    (held,) = [job for job in answer("jobs", "--tenant", "lab")["jobs"] if job["name"] == "held"]
    assert (held["status"], held["why"]) == ("stopped", "waits for `gigafactory up`")
    assert answer("jobs", "--status", "running")["jobs"] == []
    assert "None" not in run("jobs")
    assert answer("events")["events"][0]["kind"] == "RunOpened"
    assert "no factory runs" in answer("nodes", code=2)["errors"][0]["what"]


def test_an_audit_that_was_changed_is_exit_code_1(served, monkeypatch, tmp_path):
    monkeypatch.setenv("GIGAFACTORY_HOME", str(tmp_path))
    with (
        sqlite3.connect(served.home.ledger) as whole,
        sqlite3.connect(tmp_path / "ledger.db") as copy,
    ):
        whole.backup(copy)
        change = "update events set body = replace(body, 'viewer', 'operator') where kind = 'Acted'"
        copy.execute(change)
    assert "changed" in answer("audit", "--verify", code=1)["fault"]["why"]
    assert "BROKEN" in run("audit", "--verify", code=1)
