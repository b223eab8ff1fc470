"""The append-only store: one SQLite file, one writer thread, many commits in one.

An append is durable when its future is done: WAL with full sync, and rows that arrive while
the disk is busy share the next commit (group commit).
"""

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from gigafactory.factory import events
from gigafactory.factory.events import Event

SCHEMA = """
create table if not exists events (
    seq integer primary key,
    run text not null,
    kind text not null,
    subject text not null,
    at_s real not null,
    unix_s real not null,
    body text not null
) strict;
"""
TABLES = "select name from sqlite_master where name = 'events'"
GROUP_MAX = 512  # rows in one commit; beyond it a commit takes longer than it saves


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


class Ledger:
    """Open for appending; one process at a time holds a ledger open (its `works`)."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        try:
            with _connect(self.path) as connection:
                connection.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise LedgerFailure(f"{self.path}: {error}") from error
        self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._writer.start()

    def append(self, run: str, *happened: Event) -> Future:
        """Queue events of `run`, in order and in one transaction; the future ends when durable.

        Its result is the sequence number of the last row; its exception a `LedgerFailure`.
        """
        future: Future = Future()
        future.set_running_or_notify_cancel()  # what is queued will be written: no cancelling
        rows = []
        for event in happened:
            kind, subject, at_s, body = events.to_row(event)
            text = json.dumps(body, separators=(",", ":"), sort_keys=True)
            rows.append((run, kind, subject, at_s, time.time(), text))
        self._queue.put((rows, future))
        return future

    def close(self) -> None:
        """Write what is queued, then stop."""
        self._queue.put(None)
        self._writer.join()

    def _write(self) -> None:
        connection = _connect(self.path)
        while (first := self._queue.get()) is not None:
            group, ends = [first], False
            while not self._queue.empty() and len(group) < GROUP_MAX:
                if (following := self._queue.get()) is None:
                    ends = True
                    break
                group.append(following)
            self._commit(connection, group)
            if ends:
                break
        connection.close()

    def _commit(self, connection: sqlite3.Connection, group: list) -> None:
        try:
            with connection:
                last = [_insert(connection, rows) for rows, _ in group]
        except Exception as error:  # whatever it is, nobody may wait for ever
            for _, future in group:
                future.set_exception(LedgerFailure(f"{self.path}: {error}"))
            return
        for (_, future), seq in zip(group, last, strict=True):
            future.set_result(seq)


def read(
    path: Path, run: str | None = None, after: int = 0, kinds: Iterable[str] = ()
) -> Iterator[Row]:
    """Rows of a ledger in order, of one run or all, after a sequence number, of some kinds."""
    if not Path(path).exists():
        return
    where = ["seq > ?"]
    values: list[str | int] = [after]
    if run is not None:
        where.append("run = ?")
        values.append(run)
    if kinds := list(kinds):
        where.append(f"kind in ({','.join('?' * len(kinds))})")
        values += kinds
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        if not connection.execute(TABLES).fetchone():
            return  # made, and not yet written to
        query = f"select * from events where {' and '.join(where)} order by seq"
        for seq, run_, kind, subject, at_s, unix_s, body in connection.execute(query, values):
            yield Row(seq, run_, kind, subject, at_s, unix_s, json.loads(body))
    except sqlite3.DatabaseError as error:
        raise LedgerFailure(f"{path}: {error}") from error
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    return connection


def _insert(connection: sqlite3.Connection, rows: list[tuple]) -> int | None:
    sql = "insert into events (run, kind, subject, at_s, unix_s, body) values (?,?,?,?,?,?)"
    for row in rows:
        last = connection.execute(sql, row).lastrowid
    return last
