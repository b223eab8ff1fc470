"""The ledger in PostgreSQL: the server may die, the line may break, another may come.

What both stores promise is in test_ledger.py. Without PostgreSQL these tests are not collected.
"""

import os
import random
import threading
import time

import pytest

from gigafactory.factory import events as ev
from gigafactory.ledger import store
from gigafactory.ledger.store import Ledger, LedgerFailure, read
from tests.postgres import BINARIES, Server
from tests.test_ledger import Told, column, put

__test__ = BINARIES is not None


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.end()


@pytest.fixture
def url(server):
    return server.database()


@pytest.fixture
def ledger(url):
    ledger = Ledger(url)
    yield ledger
    ledger.close()


def subjects(url):
    return [row.subject for row in read(url)]


def session(server, url):
    """The server's process that holds the ledger's lock."""
    ((pid,),) = server.ask("select pid from pg_locks where locktype = 'advisory'", url)
    return pid


def gone_for(server, seconds):
    """Kill the server now and start it again later, from another thread."""
    server.kill()
    again = threading.Timer(seconds, server.start)
    again.start()
    return again


def test_a_second_writer_is_refused_and_told_who_writes(url, ledger):
    with pytest.raises(
        LedgerFailure, match=f"another writer holds it: 'gigafactory .* {os.getpid()}'"
    ):
        Ledger(url)
    assert put(ledger, column("a")) is None
    ledger.close()
    second = Ledger(url)
    assert put(second, column("b")) is None
    second.close()
    assert subjects(url) == ["a", "b"]


def test_a_server_that_is_not_there_is_said_without_the_password(tmp_path):
    for use in (Ledger, lambda url: list(read(url))):
        with pytest.raises(LedgerFailure, match=r"^postgresql://db\.invalid/x: ") as failure:
            use("postgresql://ann:secret@db.invalid/x")
        assert "secret" not in str(failure.value)


def test_a_commit_waits_for_the_disk_whatever_the_server_is_set_to(server, url):
    server.ask(
        "alter database " + url.split("/")[3].split("?")[0] + " set synchronous_commit = off"
    )
    ledger = Ledger(url)
    shown = ledger._store._connection.execute("show synchronous_commit").fetchone()
    ledger.close()
    assert shown == ("on",)


def test_a_server_killed_between_commits_is_waited_for(server, url, ledger, monkeypatch):
    monkeypatch.setattr(store, "WAIT_S", 60.0)  # a busy machine starts it slowly
    told = Told()
    assert put(ledger, column("before")) is None
    again = gone_for(server, 0.5)
    for n in range(50):
        ledger.put([column(f"{n}")], told.of(n))
    assert set(told.wait(50).values()) == {None}
    again.join()
    assert ledger.append("r", ev.Ticked(0.0)).result() == 52
    assert subjects(url) == ["before", *map(str, range(50)), ""]


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_without_an_answer_is_neither_lost_nor_done_twice(
    server, url, ledger, monkeypatch, committed
):
    """The server dies right after or right before it commits; the writer cannot tell which."""
    commit = ledger._store.commit

    def cut():
        monkeypatch.setattr(ledger._store, "commit", commit)
        if committed:
            commit()
        server.kill()
        threading.Timer(0.3, server.start).start()
        raise OSError("the line was cut")

    assert put(ledger, column("before")) is None
    monkeypatch.setattr(store, "WAIT_S", 60.0)
    monkeypatch.setattr(ledger._store, "commit", cut)
    told = Told()
    ledger.put([column("a"), column("b")], told.of("a"))
    ledger.put([column("c")], told.of("c"))
    assert told.wait(2) == {"a": None, "c": None}
    assert subjects(url) == ["before", "a", "b", "c"]
    assert [row.seq for row in read(url)] == [1, 2, 3, 4]


def test_a_server_gone_for_too_long_fails_what_waits_and_serves_what_comes_later(
    server, url, ledger, monkeypatch
):
    monkeypatch.setattr(store, "WAIT_S", 0.5)
    assert put(ledger, column("before")) is None
    server.kill()
    began_s = time.monotonic()
    failure = put(ledger, column("late"))
    assert isinstance(failure, LedgerFailure)
    assert 0.4 < time.monotonic() - began_s < 30
    with pytest.raises(LedgerFailure):
        ledger.append("r", ev.Ticked(0.0)).result()
    server.start()
    assert put(ledger, column("after")) is None
    assert subjects(url) == ["before", "after"]


@pytest.mark.parametrize("committed", [True, False])
def test_what_may_be_in_is_not_called_failed_before_that_is_known(
    server, url, ledger, monkeypatch, committed
):
    commit, commits = ledger._store.commit, threading.Event()

    def cut():
        commits.set()
        monkeypatch.setattr(ledger._store, "commit", commit)
        if committed:
            commit()
        server.kill()
        raise OSError("the line was cut")

    monkeypatch.setattr(store, "WAIT_S", 0.3)
    monkeypatch.setattr(ledger._store, "commit", cut)
    told = Told()
    ledger.put([column("doubtful")], told.of("doubtful"))
    assert commits.wait(60)
    ledger.put([column("late")], told.of("late"))
    assert list(told.wait(1)) == ["late"]
    server.start()
    failures = told.wait(2)
    assert failures["late"] is not None
    kept = ["doubtful"] if failures["doubtful"] is None else []
    assert put(ledger, column("after")) is None
    assert subjects(url) == [*kept, "after"]
    assert kept or not committed


def test_what_was_in_before_another_took_over_is_not_called_failed(
    server, url, ledger, monkeypatch
):
    commit = ledger._store.commit

    def cut():
        commit()
        pid = session(server, url)
        server.ask(f"select pg_terminate_backend({pid})")
        other = Ledger(url)
        assert put(other, column("other")) is None
        other.close()
        raise OSError("the line was cut")

    monkeypatch.setattr(ledger._store, "commit", cut)
    assert put(ledger, column("in")) is None
    assert "another has written" in str(put(ledger, column("late")))
    assert subjects(url) == ["in", "other"]


def test_what_breaks_every_connection_fails_in_the_end(server, url, ledger, monkeypatch):
    insert = ledger._store.insert

    def break_(rows):
        if rows[0][3] == "poison":
            server.ask(f"select pg_terminate_backend({session(server, url)})")
        insert(rows)

    monkeypatch.setattr(store, "WAIT_S", 0.3)
    monkeypatch.setattr(ledger._store, "insert", break_)
    assert put(ledger, column("poison")) is not None
    assert put(ledger, column("good")) is None
    assert subjects(url) == ["good"]


def test_a_ledger_closed_without_its_server_says_what_it_does_not_know(server, url, monkeypatch):
    ledger, told, commits = Ledger(url), Told(), threading.Event()

    def cut():
        commits.set()
        server.kill()
        raise OSError("the line was cut")

    monkeypatch.setattr(store, "WAIT_S", 0.3)
    monkeypatch.setattr(ledger._store, "commit", cut)
    ledger.put([column("doubtful")], told.of("doubtful"))
    assert commits.wait(60)
    ledger.put([column("waits")], told.of("waits"))
    ledger.close()
    failures = told.wait(2)
    server.start()
    assert "before it was known" in str(failures["doubtful"])
    assert "before it was known" not in str(failures["waits"])


def test_through_random_kills_of_the_server_nothing_is_lost_and_nothing_is_there_twice(
    server, url, ledger, monkeypatch
):
    monkeypatch.setattr(store, "WAIT_S", 60.0)
    random_, told, stop = random.Random(7), Told(), threading.Event()
    put_count = [0, 0]

    def produce(k):
        while not stop.is_set():
            n = put_count[k]
            ledger.put([column(f"{k}-{n}"), column(f"{k}-{n}+")], told.of(f"{k}-{n}"))
            put_count[k] = n + 1
            time.sleep(0.0005)

    threads = [threading.Thread(target=produce, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for kills in range(3):
        told.wait(100 * (kills + 1))
        time.sleep(random_.uniform(0.05, 0.3))
        server.kill()
        server.start()
    stop.set()
    for thread in threads:
        thread.join()
    failures = told.wait(sum(put_count))
    kept = {name for name, failure in failures.items() if failure is None}
    assert len(kept) > 100
    rows = list(read(url))
    assert [row.seq for row in rows] == list(range(1, 2 * len(kept) + 1))
    for k in range(2):
        assert [row.subject for row in rows if row.subject.startswith(f"{k}-")] == [
            f"{name}{end}"
            for name in (f"{k}-{n}" for n in range(put_count[k]))
            if name in kept
            for end in ("", "+")
        ]


def test_a_session_that_was_ended_is_replaced_where_nobody_came_between(server, url, ledger):
    assert put(ledger, column("a")) is None
    server.ask(f"select pg_terminate_backend({session(server, url)})")
    assert put(ledger, column("b")) is None
    assert subjects(url) == ["a", "b"]


def test_who_lost_the_lock_never_writes_after_another(server, url, ledger, monkeypatch):
    monkeypatch.setattr(store, "WAIT_S", 0.3)
    assert put(ledger, column("old")) is None
    server.ask(f"select pg_terminate_backend({session(server, url)})")
    other = Ledger(url)
    assert "another writer holds it" in str(put(ledger, column("too late")))
    assert put(other, column("new")) is None
    assert "another writer holds it" in str(put(ledger, column("too late")))
    other.close()
    for _ in range(2):
        assert "another has written" in str(put(ledger, column("too late")))
    assert subjects(url) == ["old", "new"]
    third = Ledger(url)  # who is fenced holds nothing
    assert put(third, column("third")) is None
    third.close()


def test_an_end_of_its_own_that_the_server_still_keeps_does_not_shut_a_writer_out(
    server, url, ledger
):
    """As after a cut cable: the writer knows, the server still waits for the old session."""

    class Cut:
        def execute(self, *_):
            raise OSError("no route to host")

        def close(self):
            pass

    assert put(ledger, column("a")) is None
    kept, ledger._store._connection = ledger._store._connection, Cut()
    old = session(server, url)
    assert put(ledger, column("b")) is None
    assert session(server, url) != old
    assert subjects(url) == ["a", "b"]
    kept.close()


def test_a_server_whose_disk_is_full_loses_only_what_it_said(server, url, ledger):
    assert put(ledger, column("a")) is None
    pid = session(server, url)
    # More than a segment of its log, which is as large as it will ever be.
    server.limit(pid, f"{17 << 20}")
    large = f'"{random.Random(3).randbytes(1 << 20).hex()}"'
    assert "large" in str(put(ledger, *[column("large", body=large)] * 10))
    assert put(ledger, column("small")) is None
    server.limit(pid, "unlimited")
    assert session(server, url) == pid
    assert put(ledger, *[column("large", body=large)] * 10) is None
    assert subjects(url) == ["a", "small", *["large"] * 10]


def test_few_rows_among_many_requests_are_found_by_an_index(server, url, ledger):
    requests = [column(f"{n}", "RequestSettled") for n in range(20_000)]
    assert put(ledger, column("it", "JobDone"), *requests, column("last", "JobDone")) is None
    server.ask("analyze events", url)
    assert [row.subject for row in read(url, kinds=["JobDone", "Acted"])] == ["it", "last"]
    used = "select idx_scan from pg_stat_user_indexes where indexrelname = 'events_kind'"
    deadline = time.monotonic() + 60
    while server.ask(used, url) == [(0,)]:  # counted when the reader's session has ended
        assert time.monotonic() < deadline
        time.sleep(0.02)
