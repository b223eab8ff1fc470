"""The real thing: `up --once`, killed twice, ends as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest

from gigafactory.blueprint import load
from gigafactory.jobs.context import Context
from gigafactory.ledger.book import Book
from gigafactory.ledger.store import HOUSE, read
from gigafactory.plan.plan import resolve
from gigafactory.works.home import Home

UP = [sys.executable, "-m", "gigafactory.cli", "up", "tiny", "--port", "0", "--once", "--json"]
WAIT_S_MAX = 240


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home whose factory was killed twice while it came up, and then came up."""
    home = Home(tmp_path_factory.mktemp("home"))
    environment = {**os.environ, "GIGAFACTORY_HOME": str(home.path)}

    def up():
        return subprocess.Popen(
            UP, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    works = up()
    await_row(home, works, "JobCheckpointed")
    works.send_signal(signal.SIGKILL)
    works.communicate()

    works = up()
    await_row(home, works, "JobDone")
    executor = next(
        child
        for child in psutil.Process(works.pid).children()
        if "gigafactory.works.executor" in child.cmdline()
    )
    executor.kill()
    out, err = works.communicate(timeout=WAIT_S_MAX)
    assert works.returncode == 0, err[-3000:]
    return home, json.loads(out)


def await_row(home, works, kind):
    """Return when the ledger has a row of the kind."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not any(read(home.ledger, kinds=[kind])):
        assert works.poll() is None, works.stderr.read()[-3000:]
        assert time.monotonic() < deadline, f"no {kind} came"
        time.sleep(0.05)


def test_the_weights_are_those_of_an_undisturbed_run(home, tmp_path):
    from gigafactory.jobs import pretrain

    home, summary = home
    blueprint = load("tiny")
    spec = resolve(blueprint, "code-model", blueprint.workloads["code-model"])
    context = Context.alone(
        tmp_path,
        {"name": spec.name, **spec.work.model_dump(mode="json")},
        model=spec.model.model_dump(),
    )
    alone = pretrain.run(context)
    (job,) = (job for job in summary["jobs"] if job["name"] == "code-model")
    assert job["attempts"] >= 2
    assert job["results"]["weights_sha256"] == alone["weights_sha256"]


def test_no_job_was_committed_twice_and_there_is_one_ledger(home):
    home, _summary = home
    rows = list(read(home.ledger))
    assert {row.run for row in rows} == {"tiny-1", HOUSE}
    assert Counter(row.subject for row in rows if row.kind == "JobDone") == {
        "code-model": 1,
        "judge-code": 1,
    }
    assert sum(row.kind == "JobLost" for row in rows) >= 1


def test_the_first_token_came_and_its_request_was_settled_once(home):
    home, summary = home
    assert summary["time_to_first_token_s"] > 0
    book = Book.open(home.ledger)
    assert len(book.requests("tiny-1")) == 1
    assert book.first_token("tiny-1")["job"] == "coder"
    assert book.bill("tiny-1")[0]["output_tokens"] > 0


def test_every_job_is_predicted_and_measured(home):
    _, summary = home
    assert [job["name"] for job in summary["jobs"]] == ["code-model", "judge-code", "coder"]
    for job in summary["jobs"]:
        assert job["predicted_s"] > 0
        assert job["measured_s"] > 0


def test_a_running_factory_takes_jobs_tells_their_logs_and_stops_when_asked(
    home, tmp_path, request
):
    home, _ = home
    environment = {**os.environ, "GIGAFACTORY_HOME": str(home.path)}

    def ask(*words):
        ran = subprocess.run(
            [sys.executable, "-m", "gigafactory.cli", *words, "--json"],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        return ran.returncode, json.loads(ran.stdout)

    works = subprocess.Popen(
        UP[:-2],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    request.addfinalizer(works.kill)
    deadline = time.monotonic() + WAIT_S_MAX
    while home.address() is None or len(attempts(home, "coder")) < 2:
        assert works.poll() is None, works.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    file = tmp_path / "more.yaml"
    file.write_text(
        "{name: more, kind: evaluate, tenant: lab, of: code-model, suite: bits_per_byte}"
    )
    assert ask("submit", str(file), "--quote")[1]["quote"]["duration_s"]["value"] > 0
    assert ask("submit", str(file))[0] == 0
    code, refused = ask("submit", str(file))
    assert code == 2
    assert "exists already" in refused["errors"][0]["what"]
    while {job["name"]: job["status"] for job in ask("jobs")[1]["jobs"]}["more"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert "text" in ask("logs", "more")[1]
    assert ask("cancel", "more")[1]["errors"][0]["why"] == "it is done"
    url = home.address()["url"]
    assert httpx.get(f"{url}/api/jobs").status_code == 401
    key = (home.path / "key").read_text().strip()
    with httpx.Client(follow_redirects=True) as browser:
        page = browser.get(f"{url}/?key={key}")
        assert "code-model" in page.text
        assert key not in str(page.url)
        assert "gigafactory_requests" in browser.get(f"{url}/metrics").text
    works.send_signal(signal.SIGINT)
    out, _ = works.communicate(timeout=WAIT_S_MAX)
    assert works.returncode == 0, out[-3000:]
    done = Counter(row.subject for row in read(home.ledger, kinds=["JobDone"]))
    assert done == {"code-model": 1, "judge-code": 1, "more": 1}


def attempts(home, job):
    """Numbers of the job's attempts that started."""
    rows = read(home.ledger, kinds=["JobStarted"])
    return [row.body["attempt"] for row in rows if row.subject == job]


def test_nothing_of_the_factory_outlives_it(home):
    home, _ = home
    deadline = time.monotonic() + 60
    while left := [p.pid for p in psutil.process_iter() if mentions(p, str(home.path))]:
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.2)


def mentions(process, word):
    try:
        return any(word in part for part in process.cmdline()) or (
            process.environ().get("GIGAFACTORY_HOME") == word
        )
    except psutil.Error:
        return False


def test_the_report_of_the_day_can_be_written(home):
    home, _ = home
    environment = {**os.environ, "GIGAFACTORY_HOME": str(home.path)}
    page = home.path / "day.html"
    subprocess.run(
        [sys.executable, "-m", "gigafactory.cli", "report", "-o", str(page)],
        env=environment,
        check=True,
        capture_output=True,
    )
    assert "code-model" in Path(page).read_text()
