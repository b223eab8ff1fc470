"""What the works remembers of its ledger: the same from a file and from a database, and from the
first look or the hundredth."""

from types import SimpleNamespace

import pytest

from gigafactory.factory import events as ev
from gigafactory.ledger.store import Ledger, read
from gigafactory.works.recent import KEPT, Recent
from tests import postgres

RUN, POOL = "mill-1", "home/this-machine"
WHERE = (POOL, ("n1",), (2,))
USED = {"chip_s": 20.0, "energy_j": 7200.0, "pool": POOL}
CHARGED = {
    **USED,
    "charges": [{"carbon_g": 1.5, "money_micro": 11}, {"carbon_g": 0.5, "money_micro": 4}],
}
ASKED = {"tenant": "lab", "job": "chat", "prompt_tokens": 3, "completion_tokens": 5}
TOOK = {"ttft_s": 0.1, "duration_s": 0.5, "outcome": "complete"}


@pytest.fixture(scope="module")
def server():
    server = postgres.Server()
    yield server
    server.end()


@pytest.fixture(params=["sqlite", *(["postgresql"] if postgres.BINARIES else [])])
def ledger(request, tmp_path):
    is_file = request.param == "sqlite"
    where = tmp_path / "ledger.db" if is_file else request.getfixturevalue("server").database()
    ledger = Ledger(where)
    yield ledger
    ledger.close()


def works(ledger):
    """As much of a works as its memory asks for: a job of lab's, prices, a pool."""
    work = SimpleNamespace(spec=SimpleNamespace(work=SimpleNamespace(tenant="lab")))
    place = SimpleNamespace(carbon_g_per_j=1e-4, price_chip_s=2e-6)
    plan = SimpleNamespace(token_prices={"input": 1e-6, "output": 2e-6}, where=lambda pool: place)
    home = SimpleNamespace(ledger=ledger.where)
    return SimpleNamespace(home=home, run=RUN, plan=plan, planned={"train": work, "chat": work})


def tell(ledger, *happened, run=RUN):
    ledger.append(run, *happened).result()


def a_day(ledger):
    tell(
        ledger,
        ev.JobStarted(1.0, "train", 1, *WHERE),
        ev.JobReported(2.0, "train", 1, {"phase": "work"}),
        ev.JobReported(3.0, "train", 1, {"step": 1, "loss": 8.0, "tokens": 10}),
        ev.JobReported(4.0, "train", 1, {"step": 2, "loss": 7.0, "tokens": 20}),
        ev.JobCheckpointed(4.0, "train", 1, 1),
        ev.JobLost(5.0, "train", 1, "n1: it does not answer", USED),
        ev.RequestSettled(6.0, "r1", **ASKED, **TOOK, money_micro=100),
        ev.RequestSettled(6.0, "r2", **ASKED, **TOOK),
        ev.RequestDisputed(6.0, "r3", "lab", "a crash"),
        ev.JobStarted(7.0, "train", 2, *WHERE, from_step=1),
    )
    tell(ledger, ev.JobStarted(1.0, "train", 1, *WHERE), run="mill-0")


def the_next(ledger):
    tell(
        ledger,
        ev.JobReported(8.0, "train", 2, {"step": 2, "loss": 7.1, "tokens": 20}),
        ev.JobDone(9.0, "train", 2, True, {"tokens": 20}, CHARGED),
        ev.RequestSettled(9.0, "r4", **ASKED, **TOOK, money_micro=100),
    )


def test_a_day_is_remembered_whether_it_was_seen_or_read_of(ledger):
    a_day(ledger)
    seen = Recent(works(ledger))
    seen.freshen()
    assert seen.story("train").attempts.keys() == {1, 2}
    the_next(ledger)
    seen.freshen()
    read_of = Recent(works(ledger))
    read_of.freshen()
    assert list(seen.rows) == list(read_of.rows)
    assert seen.used == read_of.used
    assert seen.story("train") == read_of.story("train")


def test_what_was_used_is_charged_or_priced_and_requests_count_to_the_start(ledger):
    a_day(ledger)
    recent = Recent(works(ledger))
    the_next(ledger)
    recent.freshen()
    recent.freshen()
    used = recent.used["lab"]
    assert (used["chip_s"], used["money_micro"]) == (40.0, round(20 * 2e-6 * 1e6) + 15)
    assert used["carbon_g"] == pytest.approx(7200e-4 + 2.0)
    # The second was settled before there were prices of the day; the gateway counts the fourth.
    assert recent.asked == {
        "lab": {
            "requests": 2,
            "prompt_tokens": 6,
            "completion_tokens": 10,
            "money_micro": 100 + 3 + 2 * 5,
        }
    }
    assert recent.disputed == {"lab": 1}


def test_a_story_has_each_attempt_and_each_step_once(ledger):
    a_day(ledger)
    the_next(ledger)
    story = Recent(works(ledger)).story("train")
    assert [(one["step"], one["loss"]) for one in story.curve] == [(1, 8.0), (2, 7.1)]
    first, second = story.attempts[1], story.attempts[2]
    assert (first["outcome"], first["checkpoint"]) == ("lost", 1)
    assert first["why"] == "n1: it does not answer"
    assert (second["outcome"], second["from_step"], second["nodes"]) == ("done", 1, {"n1": 2})


def test_of_a_long_ledger_the_newest_is_remembered_and_no_progress(ledger):
    reports = [ev.JobReported(1.0 * s, "train", 1, {"step": s, "loss": 1.0}) for s in range(900)]
    tell(ledger, ev.JobStarted(0.0, "train", 1, *WHERE), *reports)
    tell(ledger, *(ev.NodeDrained(float(n), "n1") for n in range(KEPT + 50)))
    recent = Recent(works(ledger))
    recent.freshen()
    assert len(recent.rows) == KEPT
    newest = [row for row in read(ledger.where) if row.kind != "JobReported"][-KEPT:]
    assert list(recent.rows) == newest
    assert len(recent.story("train").curve) == 900
