"""The append-only store: a SQLite file or a PostgreSQL database, one writer, many commits in one.

What is written is durable when its writer is told so: SQLite as WAL with full sync, PostgreSQL
with synchronous commit. Rows that arrive while the disk is busy share the next transaction
(group commit). What could not be written fails and is not in the ledger, now or later.

The writer counts the rows itself, so the newest row of the ledger says all: after a lost
connection, whether the last transaction was in; and whether another has written since.

Times: `at_s` in s since the run was opened, `unix_s` in s since 1970, which never runs
backwards: while the clock of the machine stands up to `SET_BACK_S` behind the newest row, rows
bear that row's time. A clock set back further was wrong before, and is believed.
"""

import json
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from gigafactory.factory import events
from gigafactory.factory.events import Event
from gigafactory.failpoint import failpoint

HOUSE = "house"  # the run of what outlives runs; its `at_s` is Unix time
COLUMNS = "seq, run, kind, subject, at_s, unix_s, body"
OFTEN = "kind not in ('RequestReserved', 'RequestSettled')"  # the rest are few, and have an index
SCHEMA = """
create table if not exists events (
    seq {integer} primary key,
    run text not null,
    kind text not null,
    subject text not null,
    at_s {real} not null,
    unix_s {real} not null,
    body text not null
){strict};
create index if not exists events_kind on events (kind, run) where {OFTEN};
"""
TABLES = "select name from sqlite_master where name = 'events'"
NEWEST = f"select {COLUMNS} from events where seq <= {{}} order by seq desc limit 1"
LAST = 2**63 - 1
GROUP_MAX = 512  # rows in one commit; beyond it a commit takes longer than it saves
WAIT_S = 5.0  # what was put is tried for so long while a server is gone, then it fails
PAUSE_S = (0.02, 0.5)  # between two attempts to reach it: the first, doubled up to the last
SET_BACK_S = 3600.0  # also what the clocks of two machines may differ by when one takes over

Columns = tuple[str, str, str, float, float, str]
"""`run, kind, subject, at_s, unix_s, body` (JSON text) of a row that has no number yet."""
Numbered = tuple[int, str, str, str, float, float, str]


class LedgerFailure(OSError):
    """The ledger cannot be written; nothing that was accepted is lost."""


class Row(NamedTuple):
    """An event as it lies in the ledger."""

    seq: int
    run: str
    kind: str
    subject: str
    at_s: float
    unix_s: float
    body: dict

    def event(self) -> Event:
        """The event that the row holds."""
        return events.from_row(self.kind, self.at_s, self.body)


class Store(Protocol):
    """What the writer asks of a database, over one connection."""

    def open(self) -> Numbered | None:
        """Connect, become the only writer, make the table; the newest row. `LedgerFailure`."""

    def insert(self, rows: list[Numbered]) -> None:
        """Begin a transaction and put rows in it; if this raises they are not in."""

    def commit(self) -> None:
        """End the transaction; when this returns it is durable."""

    def undo(self) -> None:
        """Give the transaction up; raises where the connection is gone."""

    def newest(self, until: int = LAST) -> Numbered | None:
        """The newest row, or of those up to a number; raises where the connection is gone."""

    def close(self) -> None:
        """Let go."""


class _Put(NamedTuple):
    rows: list[Columns]
    tell: Callable[[LedgerFailure | None, int], Any]
    since_s: float  # on the monotonic clock


class Ledger:
    """Open for appending; one at a time holds a ledger open (the `works`)."""

    def __init__(self, where: Path | str):
        self.where = where
        self._name = shown(where)
        self._store = _store(where)
        self._newest = self._store.open()
        self._queue: queue.SimpleQueue[_Put | None] = queue.SimpleQueue()
        self._waiting: deque[_Put] = deque()
        self._closing = False
        self._gone: LedgerFailure | None = None  # why there is no connection now
        self._fenced: LedgerFailure | None = None  # why this writer may write no more
        self._doubt: tuple[int, Numbered] | None = None  # of the commit that got no answer:
        # how many of those that wait were in it, and its last row
        self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._writer.start()

    def append(self, run: str, *happened: Event) -> Future:
        """Queue events of `run`, in order and in one transaction; the future ends when durable.

        Its result is the sequence number of the last row; its exception a `LedgerFailure`.
        """
        future: Future = Future()
        future.set_running_or_notify_cancel()  # what is queued will be written: no cancelling

        def tell(failure: LedgerFailure | None, seq: int) -> None:
            future.set_exception(failure) if failure else future.set_result(seq)

        self._enqueue([columns(run, event) for event in happened], tell)
        return future

    def put(self, rows: list[Columns], told: Callable[[LedgerFailure | None], Any]) -> None:
        """Queue rows for one transaction; the writer's thread calls `told` once it is decided.

        With None when they are durable, with a failure when they are not and never will be.
        `told` must be quick and must not wait: all others wait for it.
        """
        self._enqueue(rows, lambda failure, _: told(failure))

    def close(self) -> None:
        """Write what is queued, then stop."""
        self._queue.put(None)
        self._writer.join()

    def _enqueue(self, rows: list[Columns], tell: Callable) -> None:
        if self._closing:
            tell(LedgerFailure(f"{self._name}: closed"), 0)
        else:
            self._queue.put(_Put(rows, tell, time.monotonic()))

    def _write(self) -> None:
        """The writer's life."""
        pause_s = 0.0
        while self._take():
            if self._fenced:
                self._tell(self._waiting, self._fenced)
                self._waiting.clear()
            elif self._gone:
                time.sleep(pause_s)
                pause_s = min(max(2 * pause_s, PAUSE_S[0]), PAUSE_S[1])
                doubted = self._doubt
                self._reconnect()
                if self._gone or doubted:
                    self._expire()
            else:  # what has waited long while there was no connection is tried at least once
                self._commit(self._group())
                if self._gone:
                    self._expire()
                else:
                    pause_s = 0.0
        self._store.close()

    def _take(self) -> bool:
        """Take in all that is queued; wait where there is nothing. False: closed and all done."""
        while not (self._queue.empty() and (self._waiting or self._closing)):
            if (put := self._queue.get()) is None:
                self._closing = True
            else:
                self._waiting.append(put)
        return bool(self._waiting)

    def _group(self) -> list[_Put]:
        """The oldest of those that wait, as many as one commit takes, at least one."""
        rows = 0
        group: list[_Put] = []
        while self._waiting and (not group or rows + len(self._waiting[0].rows) <= GROUP_MAX):
            group.append(self._waiting.popleft())
            rows += len(group[-1].rows)
        return group

    def _commit(self, group: list[_Put]) -> None:
        """Write a group in one transaction and tell; what lost its connection waits again."""
        rows: list[Numbered] = []
        commits = False
        try:
            if rows := self._number(group):
                self._store.insert(rows)
                failpoint("ledger.before_commit")
                commits = True
                self._store.commit()
                failpoint("ledger.after_commit")
        except Exception as error:  # whatever it is, nobody may wait for ever
            failure = _failure(self._name, error)
            try:
                self._store.undo()
                newest = self._store.newest()
            except Exception:
                self._gone = failure
                self._doubt = (len(group), rows[-1]) if commits else None
                self._waiting.extendleft(reversed(group))
                return
            if newest != self._newest:
                self._fence(newest)
            if len(group) == 1:
                self._tell(group, self._fenced or failure)
                return
            self._waiting.extendleft(reversed(group))
            for _ in group:  # one may have spoilt it for all
                if not (self._gone or self._fenced):
                    self._commit([self._waiting.popleft()])
            return
        self._done(group, rows[-1] if rows else self._newest)

    def _number(self, group: list[_Put]) -> list[Numbered]:
        seq, newest_s = (self._newest[0], self._newest[5]) if self._newest else (0, 0.0)
        rows = []
        for put in group:
            for run, kind, subject, at_s, unix_s, body in put.rows:
                seq += 1
                if unix_s < newest_s <= unix_s + SET_BACK_S:
                    unix_s = newest_s
                newest_s = unix_s
                rows.append((seq, run, kind, subject, at_s, unix_s, body))
        return rows

    def _done(self, group: list[_Put], newest: Numbered | None) -> None:
        seq = self._newest[0] if self._newest else 0
        self._newest = newest
        for put in group:
            seq += len(put.rows)
            self._tell([put], None, seq)

    def _reconnect(self) -> None:
        """Connect again; only who is alone knows how the last transaction ended."""
        try:
            newest = self._store.open()
            if self._doubt:
                puts, last = self._doubt
                if self._store.newest(last[0]) == last:
                    self._done([self._waiting.popleft() for _ in range(puts)], last)
        except Exception as error:
            self._gone = _failure(self._name, error)
            return
        self._gone = self._doubt = None
        if newest != self._newest:
            self._fence(newest)

    def _fence(self, newest: Numbered | None) -> None:
        """Another has written; this writer never does again."""
        self._fenced = LedgerFailure(
            f"{self._name}: another has written to it meanwhile, so this writer must not: its "
            f"newest row is {newest and newest[:4]}, mine was {self._newest and self._newest[:4]}"
        )
        self._store.close()

    def _expire(self) -> None:
        """Fail what has waited too long; but not what may be in, until that is known."""
        before_s = time.monotonic() - WAIT_S
        doubtful = [self._waiting.popleft() for _ in range(self._doubt[0] if self._doubt else 0)]
        failure = self._fenced or self._gone or LedgerFailure(f"{self._name}: lost its connection")
        while self._waiting and self._waiting[0].since_s < before_s:
            self._tell([self._waiting.popleft()], failure)
        if self._closing and doubtful and doubtful[0].since_s < before_s:
            never = f"{self._name}: closed before it was known whether this was written"
            self._tell(doubtful, LedgerFailure(never))
            self._doubt, doubtful = None, []
        self._waiting.extendleft(reversed(doubtful))

    def _tell(self, puts: Iterable[_Put], failure: LedgerFailure | None, seq: int = 0) -> None:
        for put in puts:
            try:
                put.tell(failure, seq)
            except Exception:  # the mistake of one caller; the others still wait
                logging.getLogger(__name__).exception("who was told of the ledger failed")


def columns(run: str, event: Event) -> Columns:
    """An event of `run` as `Ledger.put` wants it, as of now."""
    kind, subject, at_s, body = events.to_row(event)
    return run, kind, subject, at_s, time.time(), _json(body)


def read(
    where: Path | str, run: str | None = None, after: int = 0, kinds: Iterable[str] = ()
) -> Iterator[Row]:
    """Rows of a ledger in order, of one run or all, after a sequence number, of some kinds."""
    terms: list[str] = ["seq > ?"]
    values: list[str | int] = [after]
    if run is not None:
        terms.append("run = ?")
        values.append(run)
    if kinds := list(kinds):
        terms.append(f"kind in ({','.join('?' * len(kinds))})")
        values += kinds
        if not {"RequestReserved", "RequestSettled"} & set(kinds):
            terms.append(OFTEN)  # said in words, since the planner cannot see it in values
    query = f"select {COLUMNS} from events where {' and '.join(terms)} order by seq"
    for *row, body in select(where, query, values):
        yield Row._make([*row, json.loads(body)])


def select(where: Path | str, query: str, values: Sequence = ()) -> Iterator[tuple]:
    """Rows of any query over `events`, as they come; `?` stands for a value in both stores.

    A ledger that is not there yet has no rows.
    """
    if is_url(where):
        from gigafactory.ledger import postgres

        yield from postgres.select(str(where), query.replace("%", "%%").replace("?", "%s"), values)
    elif Path(where).exists():
        connection = sqlite3.connect(f"{Path(where).resolve().as_uri()}?mode=ro", uri=True)
        try:
            if connection.execute(
                "select name from sqlite_master where name = 'events'"
            ).fetchone():
                yield from connection.execute(query, values)
        except sqlite3.DatabaseError as error:
            raise LedgerFailure(f"{where}: {error}") from error
        finally:
            connection.close()


def is_url(where: Path | str) -> bool:
    """Whether a ledger lies in PostgreSQL."""
    return str(where).startswith(("postgresql://", "postgres://"))


def shown(where: Path | str) -> str:
    """Where a ledger is, for people: without the password."""
    if not is_url(where):
        return str(where)
    parts = urlsplit(str(where))
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Sqlite:
    """A file, for one machine."""

    def __init__(self, path: Path):
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def open(self) -> Numbered | None:
        """Connect and make the table; the newest row."""
        self.close()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = connection = sqlite3.connect(
                self._path, timeout=30, isolation_level=None, check_same_thread=False
            )
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma synchronous=full")
            connection.executescript(
                SCHEMA.format(integer="integer", real="real", strict=" strict", OFTEN=OFTEN)
            )
            return self.newest()
        except (sqlite3.DatabaseError, OSError) as error:
            self.close()
            raise _failure(str(self._path), error) from error

    def insert(self, rows: list[Numbered]) -> None:
        """Begin a transaction and put rows in it."""
        assert self._connection is not None
        self._connection.execute("begin immediate")
        self._connection.executemany("insert into events values (?,?,?,?,?,?,?)", rows)

    def commit(self) -> None:
        """End the transaction, durably."""
        assert self._connection is not None
        self._connection.execute("commit")

    def undo(self) -> None:
        """Give the transaction up."""
        assert self._connection is not None
        if self._connection.in_transaction:  # a full disk has ended it already
            self._connection.execute("rollback")

    def newest(self, until: int = LAST) -> Numbered | None:
        """The newest row, or of those up to a number."""
        assert self._connection is not None
        return self._connection.execute(NEWEST.format(until)).fetchone()

    def close(self) -> None:
        """Let go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _store(where: Path | str) -> Store:
    if is_url(where):
        from gigafactory.ledger import postgres

        return postgres.Postgres(str(where))
    return Sqlite(Path(where))


def _failure(name: str, error: Exception) -> LedgerFailure:
    if isinstance(error, LedgerFailure):
        return error
    return LedgerFailure(f"{name}: {str(error).strip()}")


def _json(body: dict) -> str:
    return json.dumps(body, separators=(",", ":"), sort_keys=True)
