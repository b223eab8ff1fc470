"""The ledger: durable before it is true, read the same whether lived or simulated."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.blueprint import load
from gigafactory.factory import events as ev
from gigafactory.ledger.book import Book, write_parquet
from gigafactory.ledger.store import Ledger, LedgerFailure, read, select
from gigafactory.plan import make
from gigafactory.twin import simulate
from gigafactory.works.home import Home
from tests import postgres

SAID = "x" * 60


@pytest.fixture(scope="module")
def day():
    return simulate(make(load("laptop")), "day")


@pytest.fixture(scope="module")
def server():
    server = postgres.Server()
    yield server
    server.end()


@pytest.fixture(params=["sqlite", *(["postgresql"] if postgres.BINARIES else [])])
def where(request, tmp_path):
    """Where a new ledger lies: a file, and where PostgreSQL is installed a database as well."""
    if request.param == "sqlite":
        return tmp_path / "new" / "ledger.db"
    return request.getfixturevalue("server").database()


@pytest.fixture
def ledger(where):
    ledger = Ledger(where)
    yield ledger
    ledger.close()


def column(subject, kind="Ticked", run="r", unix_s=1.8e9, body="{}"):
    return run, kind, subject, 0.0, unix_s, body


class Told:
    """Hears of many puts how each ended; `wait` until as many have."""

    def __init__(self):
        self.failures, self.heard = {}, threading.Condition()

    def of(self, name):
        def told(failure):
            with self.heard:
                assert name not in self.failures, "told twice"
                self.failures[name] = failure
                self.heard.notify()

        return told

    def wait(self, count, timeout_s=60):
        with self.heard:
            assert self.heard.wait_for(lambda: len(self.failures) >= count, timeout_s)
        return self.failures


def put(ledger, *rows):
    """Put rows and wait: None, or the failure."""
    told = Told()
    ledger.put(list(rows), told.of("it"))
    return told.wait(1)["it"]


def test_an_event_comes_back_as_it_went_in(day, where, ledger):
    ledger.append("day", *day).result()
    assert [row.event() for row in read(where)] == day


@given(st.sampled_from(sorted(ev.KINDS)), st.floats(0, 1e6))
def test_every_kind_of_event_survives_its_row(kind, at_s):
    from dataclasses import MISSING, fields

    fill = {str: "x", int: 3, float: 0.5, bool: True, ev.Json: {"a": [1]}}
    values = {}
    for name in fields(ev.KINDS[kind]):
        if name.default is MISSING and name.default_factory is MISSING and name.name != "at_s":
            values[name.name] = fill.get(name.type, ("x",))
    event = ev.KINDS[kind](at_s=at_s, **values)
    assert ev.from_row(*(p for i, p in enumerate(ev.to_row(event)) if i != 1)) == event


@pytest.mark.parametrize("odd", ["\0", "'; drop table events; --", "a\tb\\N\n", "é漢😀", "%s ?"])
def test_text_of_any_kind_lies_in_the_ledger_as_it_was(where, ledger, odd):
    event = ev.JobFailed(1.5, "job", 1, {"what": odd}, {"loss": 0.1})
    ledger.append(odd.replace("\0", ""), event).result()
    (row,) = read(where, run=odd.replace("\0", ""))
    assert row.event() == event


def test_rows_that_wait_share_a_commit_and_keep_their_order(where, ledger):
    futures = [ledger.append("r", ev.Ticked(float(n))) for n in range(2000)]
    assert [future.result() for future in futures] == list(range(1, 2001))
    assert [row.at_s for row in read(where)] == [float(n) for n in range(2000)]


def test_a_ledger_goes_on_counting_where_it_ended(where):
    for n in range(3):
        ledger = Ledger(where)
        assert ledger.append("r", ev.Ticked(0.0), ev.Ticked(1.0)).result() == 2 * n + 2
        ledger.close()
    assert [row.seq for row in read(where)] == [1, 2, 3, 4, 5, 6]


def test_of_many_writers_at_once_each_row_is_there_once_and_in_its_own_order(where, ledger):
    told = Told()

    def produce(run):
        for n in range(200):
            ledger.put([column(f"{n}"), column(f"{n}+", run=run)], told.of((run, n)))

    threads = [threading.Thread(target=produce, args=(f"run-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    assert set(told.wait(1600).values()) == {None}
    rows = list(read(where))
    assert [row.seq for row in rows] == list(range(1, 3201))
    for n in range(8):
        assert [r.subject for r in rows if r.run == f"run-{n}"] == [f"{n}+" for n in range(200)]


def test_a_row_that_cannot_be_stored_fails_alone(where, ledger):
    told = Told()
    for name in ("a", "bad", "c"):
        subject = "\ud800" if name == "bad" else name
        ledger.put([column(name + "1"), column(subject)], told.of(name))
    failures = told.wait(3)
    assert (failures["a"], failures["c"]) == (None, None)
    assert isinstance(failures["bad"], LedgerFailure)
    assert put(ledger, ("too", "short")) is not None
    assert put(ledger, column("d")) is None
    assert [row.subject for row in read(where)] == ["a1", "a", "c1", "c", "d"]
    assert [row.seq for row in read(where)] == [1, 2, 3, 4, 5]


def test_who_fails_when_told_harms_nobody_else(where, ledger):
    ledger.put([column("a")], lambda failure: 1 / 0)
    assert put(ledger, column("b")) is None
    assert [row.subject for row in read(where)] == ["a", "b"]


def test_a_closed_ledger_takes_nothing(where):
    ledger = Ledger(where)
    ledger.close()
    assert "closed" in str(put(ledger, column("a")))
    assert list(read(where)) == []


def test_what_is_asked_of_a_ledger_is_what_comes(where, ledger):
    for n in range(30):
        kind = ("RequestReserved", "JobDone", "Acted")[n % 3]
        assert put(ledger, column(str(n), kind, run=f"run-{n % 2}")) is None

    def subjects(**asked):
        return [int(row.subject) for row in read(where, **asked)]

    assert subjects() == list(range(30))
    assert subjects(after=27) == [27, 28, 29]
    assert subjects(run="run-1") == list(range(1, 30, 2))
    assert subjects(kinds=["JobDone", "Acted"]) == [n for n in range(30) if n % 3]
    assert subjects(run="run-0", after=10, kinds=["JobDone"]) == [10, 16, 22, 28]
    assert subjects(kinds=["RequestReserved", "Acted"], after=24) == [24, 26, 27, 29]
    counted = "select kind, count(*) from events where seq > ? and kind like '%e%' group by kind"
    assert sorted(select(where, counted, [10])) == [
        ("Acted", 7), ("JobDone", 7), ("RequestReserved", 6)
    ]  # fmt: skip


def test_a_long_ledger_is_read_without_holding_it(where, ledger):
    for _ in range(20):
        futures = [column(SAID, body=f'{{"a":"{SAID * 65}"}}') for _ in range(1000)]
        assert put(ledger, *futures) is None
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    peak_bytes, rows = 0, 0
    for rows, _ in enumerate(read(where), start=1):
        if rows % 1000 == 0:
            peak_bytes = max(peak_bytes, process.memory_info().rss - before_bytes)
    assert rows == 20_000
    assert peak_bytes < 30e6  # all of it is 80 MB


def test_time_in_the_ledger_never_runs_backwards_unless_the_clock_was_wrong(where):
    ledger = Ledger(where)
    clock_s = [1000.0, 1060.0, 1010.0, 1059.0, 1061.0]
    assert put(ledger, *(column("", unix_s=unix_s) for unix_s in clock_s)) is None
    ledger.close()
    ledger = Ledger(where)  # a restart does not forget
    for unix_s in (1030.0, 1e9, 1e9 - 3600.0, 2000.0, 1999.0):
        assert put(ledger, column("", unix_s=unix_s)) is None
    ledger.close()
    assert [row.unix_s for row in read(where)] == [
        1000.0, 1060.0, 1060.0, 1060.0, 1061.0, 1061.0, 1e9, 1e9, 2000.0, 2000.0
    ]  # fmt: skip


WRITER = """
import sys
from gigafactory.ledger.store import Ledger
from gigafactory.factory.events import Ticked
ledger = Ledger(sys.argv[1])
n = 0
while True:
    ledger.append('r', Ticked(float(n))).result()
    n += 1
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(where):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(where)], stdout=subprocess.PIPE, text=True
    )
    acknowledged = 0
    deadline = time.monotonic() + 20
    while acknowledged < 50 and time.monotonic() < deadline:
        acknowledged = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    writer.wait()
    ledger = Ledger(where)  # the dead hold nothing
    kept = len(list(read(where)))
    assert kept in (acknowledged, acknowledged + 1)
    assert ledger.append("r", ev.Ticked(0.0)).result() == kept + 1
    ledger.close()


@pytest.mark.parametrize(("place", "kept"), [("before_commit", 2), ("after_commit", 3)])
def test_a_death_beside_a_commit_leaves_all_of_it_or_nothing(where, place, kept):
    died = subprocess.run(
        [sys.executable, "-c", WRITER, str(where)],
        env={**os.environ, "GIGAFACTORY_FAILPOINT": f"ledger.{place}:3"},
        capture_output=True,
        text=True,
    )
    assert died.returncode == -signal.SIGKILL
    assert died.stdout.split() == ["1", "2"]
    assert [row.at_s for row in read(where)] == [float(n) for n in range(kept)]


def test_a_ledger_on_a_full_disk_says_so_and_keeps_what_it_had(tmp_path):
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from gigafactory.factory.events import JobCancelled, Ticked\n"
        "from gigafactory.ledger.store import Ledger, LedgerFailure\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "ledger.append('r', Ticked(0.0)).result()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))\n"
        "large = [JobCancelled(1.0, 'x' * 9000, 'ann')] * 50\n"
        "futures = [ledger.append('r', *large) for _ in range(5)]\n"
        "for future in futures:\n"
        "    print('said:', future.exception())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "assert ledger.append('r', Ticked(2.0)).result() == 2\n"
        "ledger.close()\n"
    )
    path = tmp_path / "ledger.db"
    said = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.count(f"said: {path}: ") == 5
    assert [(row.seq, row.at_s) for row in read(path)] == [(1, 0.0), (2, 2.0)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_disk_that_fills_and_empties_loses_only_what_it_said(puts):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.db")
        ledger, told = Ledger(path), Told()
        connection = ledger._store._connection
        for n, (full, rows) in enumerate(puts):
            pages = connection.execute("pragma page_count").fetchone()[0]
            connection.execute(f"pragma max_page_count = {pages if full else 1 << 30}")
            ledger.put([column(f"{n}", body=f'"{SAID * 20}"')] * rows, told.of(f"{n}"))
            told.wait(n + 1)
        ledger.close()
        failed = {name for name, failure in told.failures.items() if failure}
        kept = [row.subject for row in read(path)]
        assert kept == [f"{n}" for n, (_, k) in enumerate(puts) for _ in range(k)
                        if f"{n}" not in failed]  # fmt: skip
        assert failed <= {f"{n}" for n, (full, _) in enumerate(puts) if full}


def test_of_two_who_write_one_file_only_the_later_goes_on(tmp_path):
    old, new = Ledger(tmp_path / "ledger.db"), Ledger(tmp_path / "ledger.db")
    assert put(new, column("new")) is None
    for _ in range(2):
        assert "another has written" in str(put(old, column("old")))
    assert put(new, column("newer")) is None
    assert [row.subject for row in read(tmp_path / "ledger.db")] == ["new", "newer"]
    old.close()
    new.close()


def test_a_home_keeps_its_ledger_in_a_file_or_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("GIGAFACTORY_LEDGER", raising=False)
    assert Home(tmp_path).ledger == tmp_path / "ledger.db"
    monkeypatch.setenv("GIGAFACTORY_LEDGER", "postgresql://factory@db/ledger")
    assert Home(tmp_path).ledger == "postgresql://factory@db/ledger"


def test_the_same_questions_have_the_same_answers_lived_and_simulated(day, tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.append("day", *day).result()
    ledger.close()
    write_parquet(tmp_path / "day.parquet", "day", day, 0.0)
    lived, simulated = Book.open(tmp_path / "ledger.db"), Book.open(tmp_path / "day.parquet")
    for question in (Book.jobs, Book.bill, Book.curves, Book.attempts, Book.predicted_measured):
        answers = question(lived, "day")
        assert answers
        assert answers == question(simulated, "day")


def test_what_tenants_pay_is_what_devices_gave(day, tmp_path):
    write_parquet(tmp_path / "day.parquet", "day", day, 0.0)
    book = Book.open(tmp_path / "day.parquet")
    attempts = [a for a in book.attempts("day") if a["outcome"]]
    bill = book.bill("day")
    assert sum(t["chip_s"] for t in bill) == pytest.approx(sum(a["chip_s"] for a in attempts))
    assert sum(t["chips_micro"] for t in bill) == sum(a["money_micro"] for a in attempts)
    for attempt in attempts:
        held_s = attempt["ended_s"] - attempt["at_s"]
        chips = next(j["chips"] for j in book.jobs("day") if j["name"] == attempt["job"])
        assert attempt["chip_s"] == pytest.approx(held_s * chips, abs=1e-4)


def test_tokens_are_billed_once_at_their_price_and_disputes_at_nothing(tmp_path):
    plan = make(load("laptop"))
    opened = simulate(plan, "r")[0]
    happened = [
        opened,
        ev.RequestReserved(1.0, "a", "warehouse", "assistant", "assistant", 64),
        ev.RequestReserved(1.0, "b", "warehouse", "assistant", "assistant", 64),
        ev.RequestSettled(
            2.0, "a", "warehouse", "assistant", 1_000_000, 500_000, 0.1, 1.0, "complete"
        ),
        ev.RequestDisputed(3.0, "b", "warehouse", "crash"),
    ]  # fmt: skip
    write_parquet(tmp_path / "r.parquet", "r", happened, 0.0)
    (row,) = Book.open(tmp_path / "r.parquet").bill("r")
    assert row["tokens_micro"] == 300_000  # 1 M at 0.10 and 0.5 M at 0.40 EUR/M
    assert (row["requests"], row["disputed"]) == (1, 1)


def test_a_ledger_that_is_not_there_is_empty(where, tmp_path):
    assert list(read(where)) == []
    assert Book.open(Path(tmp_path / "none.db")).runs() == []
