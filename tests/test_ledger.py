"""The ledger: durable before it is true, read the same whether lived or simulated."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigafactory.blueprint import load
from gigafactory.factory import events as ev
from gigafactory.ledger.book import Book, write_parquet
from gigafactory.ledger.store import Ledger, read
from gigafactory.plan import make
from gigafactory.twin import simulate


@pytest.fixture(scope="module")
def day():
    return simulate(make(load("laptop")), "day")


def test_an_event_comes_back_as_it_went_in(day, tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.append("day", *day).result()
    ledger.close()
    assert [row.event() for row in read(tmp_path / "ledger.db")] == day


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


def test_rows_that_wait_share_a_commit_and_keep_their_order(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    futures = [ledger.append("r", ev.Ticked(float(n))) for n in range(2000)]
    assert [future.result() for future in futures] == list(range(1, 2001))
    assert [row.at_s for row in read(tmp_path / "ledger.db")] == [float(n) for n in range(2000)]
    ledger.close()


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from gigafactory.ledger.store import Ledger\n"
        "from gigafactory.factory.events import Ticked\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "n = 0\n"
        "while True:\n"
        "    ledger.append('r', Ticked(float(n))).result()\n"
        "    n += 1\n"
        "    print(n, flush=True)\n"
    )
    path = tmp_path / "ledger.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    acknowledged = 0
    deadline = time.monotonic() + 20
    while acknowledged < 50 and time.monotonic() < deadline:
        acknowledged = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    kept = len(list(read(path)))
    assert kept in (acknowledged, acknowledged + 1)


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
        "try:\n"
        "    ledger.append('r', *[JobCancelled(1.0, 'x' * 9000, 'ann')] * 50).result()\n"
        "except LedgerFailure as failure:\n"
        "    print('said:', failure)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "ledger.append('r', Ticked(2.0)).result()\n"
        "ledger.close()\n"
    )
    path = tmp_path / "ledger.db"
    said = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith(f"said: {path}: ")
    assert [row.at_s for row in read(path)] == [0.0, 2.0]


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


def test_a_ledger_that_is_not_there_is_empty(tmp_path):
    assert list(read(tmp_path / "none.db")) == []
    assert Book.open(Path(tmp_path / "none.db")).runs() == []
