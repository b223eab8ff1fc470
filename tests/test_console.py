"""Promises of the console: it shows every job, says why one failed, and asks no other host."""

import io
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gigafactory.blueprint import load
from gigafactory.blueprint.schema import Budget
from gigafactory.console import terminal, words
from gigafactory.console.curve import curve
from gigafactory.console.live import ASSETS, HEADERS, routes
from gigafactory.console.report import report
from gigafactory.console.view import view
from gigafactory.factory import events as ev
from gigafactory.faults import Fault, Refused
from gigafactory.ledger.book import Book, write_parquet
from gigafactory.ledger.store import Ledger
from gigafactory.plan import make
from gigafactory.twin import simulate

JOBS = ("code-model", "tool-caller", "judge-code", "judge-tools", "assistant")
LIVED, SIMULATED = "laptop-1", "laptop-simulated"
HOSTILE = '{{plotly}}</script><img src="https://example.com/spy">'
USED = {"chip_s": 20.0, "energy_j": 120.0, "energy_basis": "modelled", "phases": {"work": 9.0}}
WHERE = ("home/this-machine", ("home/this-machine-1",), (2,))


@pytest.fixture(scope="module")
def plan():
    return make(load("laptop"))


@pytest.fixture(scope="module")
def simulated(plan, tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "day.parquet"
    write_parquet(path, SIMULATED, simulate(plan, SIMULATED), 0.0)
    return Book.open(path)


@pytest.fixture
def lived(plan, tmp_path):
    """Writes the plan and what then happened into a ledger, and opens it."""

    def live(*happened):
        plan_json = plan.model_dump(mode="json")
        opened = ev.RunOpened(0.0, LIVED, "wall", 1.8e9, "", plan_json)
        submitted = [ev.JobSubmitted(0.0, **job.submission()) for job in plan.jobs]
        ledger = Ledger(tmp_path / "ledger.db")
        ledger.append(LIVED, opened, *submitted, *happened).result()
        ledger.close()
        return Book.open(tmp_path / "ledger.db")

    return live


def trained(job, *losses, attempt=1, start_s=1.0):
    """A start, and one report a second."""
    yield ev.JobStarted(start_s, job, attempt, *WHERE)
    for step, loss in enumerate(losses, start=1):
        figures = {"phase": "work", "step": step, "steps": 4, "tokens": 100 * step, "loss": loss}
        yield ev.JobReported(start_s + step, job, attempt, figures)


def failed(job, times):
    for attempt in range(1, times + 1):
        yield ev.JobStarted(20.0 * attempt, job, attempt, *WHERE)
        error = {"what": "the loss is nan", "where": "log.txt", "why": "nan", "remedy": "go slower"}
        yield ev.JobFailed(20.0 * attempt + 10, job, attempt, error, USED)


def job(shown, name):
    return next(job for job in shown["jobs"] if job["name"] == name)


def test_a_simulated_run_shows_every_job_and_says_that_it_is_simulated(simulated):
    shown = view(simulated, SIMULATED)
    assert tuple(job["name"] for job in shown["jobs"]) == JOBS
    assert shown["simulated"]
    assert shown["notes"][0].startswith("Simulated")
    assert {job["energy_basis"] for job in shown["jobs"]} == {"modelled"}
    assert json.loads(json.dumps(shown)) == shown


def test_a_job_without_retries_left_is_failed_and_what_stands_on_it_blocked(lived):
    shown = view(lived(*failed("tool-caller", times=4)), LIVED)
    assert job(shown, "tool-caller")["status"] == "failed"
    assert job(shown, "tool-caller")["reason"] == "the loss is nan"
    assert job(shown, "judge-tools")["status"] == "blocked"
    assert job(shown, "judge-tools")["reason"] == "tool-caller, on which it stands, failed"
    assert job(shown, "assistant")["status"] == "blocked"
    assert job(shown, "code-model")["status"] == "waiting"


def test_a_job_with_retries_left_blocks_nobody(lived):
    shown = view(lived(*failed("tool-caller", times=1)), LIVED)
    assert job(shown, "judge-tools")["status"] == "waiting"


def test_a_gate_that_was_missed_is_told_with_what_was_wanted(lived):
    verdict = {"metric": "exact", "value": 0.3, "threshold": ">= 0.5", "passed": False}
    done = (
        ev.JobStarted(1.0, "tool-caller", 1, *WHERE),
        ev.JobDone(2.0, "tool-caller", 1, True, {}, USED),
        ev.JobStarted(3.0, "judge-tools", 1, *WHERE),
        ev.JobDone(4.0, "judge-tools", 1, False, {"verdicts": [verdict]}, USED),
    )
    shown = view(lived(*done), LIVED)
    reason = "did not pass its gate: exact 0.3, wanted >= 0.5"
    assert job(shown, "judge-tools")["reason"] == reason
    assert job(shown, "assistant")["reason"] == "judge-tools did not pass its gate"


def test_what_the_works_says_now_goes_before_the_ledger(lived):
    book = lived(*trained("code-model", 8.0, 7.0))
    live = {"code-model": {"status": "stopping", "progress": {"step": 3, "loss": 6.5}}}
    shown = job(view(book, LIVED, live), "code-model")
    assert shown["status"] == "stopping"
    assert shown["progress"] | {"step": 3, "loss": 6.5, "share": 0.75} == shown["progress"]


def test_steps_done_again_after_a_loss_are_drawn_once(lived):
    book = lived(
        *trained("code-model", 8.0, 7.0, 6.0),
        ev.JobLost(9.0, "code-model", 1, "the executor died", USED),
        *trained("code-model", 8.0, 7.1, attempt=2, start_s=10.0),
    )
    curve = view(book, LIVED)["curves"]["code-model"]
    assert [(point["step"], point["loss"]) for point in curve] == [(1, 8.0), (2, 7.1)]


def test_a_training_that_diverged_is_shown_and_is_still_json(lived):
    done = ev.JobDone(9.0, "code-model", 1, True, {"loss_last": float("nan")}, USED)
    shown = view(lived(*trained("code-model", 8.0, float("nan")), done), LIVED)
    assert [point["loss"] for point in shown["curves"]["code-model"]] == [8.0, None]
    assert job(shown, "code-model")["results"] == {"loss_last": "nan"}
    json.dumps(shown, allow_nan=False)


def test_a_run_that_is_not_there_is_refused_with_the_nearest_name(simulated):
    with pytest.raises(Refused) as refused:
        view(simulated, "laptop-simulate")
    assert SIMULATED in refused.value.faults[0].remedy


def test_the_live_pages_name_no_other_host_and_their_policy_allows_none():
    texts = [path.read_text() for path in (ASSETS / "templates").iterdir()]
    texts += [(ASSETS / name).read_text() for name in ("page.js", "style.css")]
    assert len(texts) > 12
    for text in texts:
        assert not re.search(r"https?://|@import|\burl\(|\son\w+=|\sstyle=|<style|<script>", text)
    assert "default-src 'none'" in HEADERS["content-security-policy"]
    assert "unsafe" not in HEADERS["content-security-policy"]


class Nobody:
    """A board that refuses everything."""

    def __getattr__(self, name):
        async def refuse(*_, **__):
            raise Refused(Fault("<b>no</b>", name, "nothing is here", "go away"))

        return refuse


def test_what_is_refused_is_said_in_four_parts_and_never_as_markup():
    class Grant:
        tenant, user, scopes = "lab", "<i>ann", frozenset({"read"})

    async def granted(scope, receive, send):
        scope["state"] = {"grant": Grant()}
        await app(scope, receive, send)

    app = Starlette(routes=routes(Nobody()))
    shown = TestClient(granted).get("/queue")
    assert shown.status_code == 422
    for said in ("&lt;b&gt;no&lt;/b&gt;", "nothing is here", "hint: go away", "&lt;i&gt;ann"):
        assert said in shown.text
    assert "Audit" not in shown.text
    assert shown.headers["content-security-policy"] == HEADERS["content-security-policy"]


def test_every_form_and_every_page_for_few_says_what_a_key_must_be_good_for():
    scopes = {(r.path, *r.methods - {"HEAD"}): r.endpoint.asked.scope for r in routes(Nobody())}
    assert {scope for (_, method), scope in scopes.items() if method == "POST"} == {
        "submit", "manage", "operate"
    }  # fmt: skip
    assert scopes["/audit", "GET"] == "operate"
    assert scopes["/tenants/{tenant}/keys", "POST"] == "manage"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0000139, "0.0000139"), (1234567, "1,234,567"), (2.5, "2.5"),
        (999.96, "1,000"), (float("nan"), "nan"), (-0.5, "-0.5"), (None, "–"),
    ],
)  # fmt: skip
def test_a_number_is_written_with_few_digits_and_without_an_exponent(value, text):
    assert words.digits(value) == text


@given(
    st.sampled_from(["EUR", "kWh", "kgCO2e", "tokens"]),
    st.floats(0.001, 1e9).map(lambda x: float(f"{x:.12g}")),
    st.sampled_from(["hour", "month", "year"]),
)
def test_a_budget_is_written_as_it_would_be_read(unit, amount, per):
    told = Budget.model_validate({"limit": f"{amount:.12f} {unit}", "per": per})
    limit, _, window = words.budget_line(told.model_dump()).rpartition(" per ")
    again = Budget.model_validate({"limit": limit, "per": window})
    assert (again.of, again.per) == (told.of, told.per)
    assert again.limit == pytest.approx(told.limit, rel=1e-13)


def test_a_curve_of_a_training_that_diverged_ends_where_it_still_was_a_number():
    points = [{"step": step, "loss": loss} for step, loss in ((1, 8.0), (2, 6.0), (3, math.nan))]
    assert "loss of a&lt;b: 8 at step 1, 6 at step 2" in curve("a<b", points)
    assert curve("none", points[2:]) == ""
    assert curve("long", [{"step": s, "loss": 1 / s} for s in range(1, 5000)]).count("L") < 500


def printed(shown):
    console = Console(width=80, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue()


def test_a_bill_fits_a_terminal_and_tells_what_is_disputed():
    row = {"tenant": "laboratory", "chip_s": 4e6, "energy_kwh": 123.4, "carbon_g": 6e3,
           "requests": 12345, "disputed": 0, "input_tokens": 1234567, "output_tokens": 234567,
           "total_micro": 1234500000}  # fmt: skip
    told = printed(terminal.bill([row, row | {"tenant": "b", "disputed": 7}], "EUR"))
    first, second, one, other = told.splitlines()[:4]
    assert first.split()[0] == "tenant" or second.split()[0] == "tenant"
    assert "EUR" in first + second
    assert one.split()[0] == "laboratory"
    assert one.split()[-1] == "1234.500000"
    assert "12345 + 7" in other
    assert "7 disputed" in told
    assert printed(terminal.bill([], "EUR")) == "nobody used anything\n"


def test_a_quote_that_its_owner_expected_is_said_to_be_assumed():
    row = {"name": "own", "kind": "script", "predicted_s": 1.0, "measured_s": 9.0, "error_s": 8.0}
    row |= {"basis": "assumed", "measured_tokens": None, "error_tokens": None, "error_kwh": None}
    told = printed(terminal.compared([row | {"predicted_kwh": 0.0}]))
    assert "its quote was assumed" in " ".join(told.split())


def test_the_report_holds_both_days_whole_and_loads_nothing(lived, simulated, tmp_path):
    first = ev.FirstToken(50.0, "assistant", 50.0, "Where are the lemons?", HOSTILE)
    book = lived(*trained("code-model", 8.0, 7.0), *failed("tool-caller", times=4), first)
    report((book, LIVED), (simulated, SIMULATED), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    ours = text.replace(re.search(r"/\*\*\n\* plotly\.js.*?</script>", text, re.S)[0], "")
    for shown in (*JOBS, LIVED, SIMULATED, "the loss is nan", "on which it stands, failed"):
        assert shown in ours
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', ours, re.S)[1])
    assert [trace["name"] for trace in charts["gantt"]["data"]] == ["lived", "simulated"]
    assert {"compared", "usage", "loss-0"} <= charts.keys()
    assert HOSTILE not in ours
    assert "{{plotly}}&lt;/script&gt;" in ours
    assert not re.search(
        r"<(img|iframe|script)[^>]* src=|<link[^>]* href=\"(?!data:)|@import", ours
    )


def test_a_report_of_one_day_leaves_the_other_out(simulated, tmp_path):
    report(None, (simulated, SIMULATED), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(name in text for name in JOBS)
    assert '<th class="prose">lived</th>' not in text
