"""The ledger in PostgreSQL: for a factory that outgrows one machine.

One connection writes, and holds an advisory lock of the database as long as it lives: a second
writer is refused. The server frees the lock only after the session and its last transaction
have ended, so whoever gets it sees how that ended.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, LiteralString, cast

from gigafactory.faults import Fault, Refused
from gigafactory.ledger.store import (
    COLUMNS,
    LAST,
    NEWEST,
    OFTEN,
    SCHEMA,
    LedgerFailure,
    Numbered,
    shown,
)

if TYPE_CHECKING:
    import psycopg

LOCK = int.from_bytes(b"ledger", "big")
LOCK_MS = 1000  # for the lock of a process that was killed just now
# A machine that vanished without a word is noticed by both sides within about 10 s.
VANISHED = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
OPTIONS = " ".join(
    [
        "-c synchronous_commit=on",
        f"-c lock_timeout={LOCK_MS}",
        *(f"-c tcp_{name}={value}" for name, value in VANISHED.items()),
    ]
)
HOLDER = f"""
select pid, backend_start, application_name, client_addr from pg_locks
join pg_stat_activity using (pid) where locktype = 'advisory' and granted
    and database = (select oid from pg_database where datname = current_database())
    and (classid::bigint << 32) + objid::bigint = {LOCK} and objsubid = 1
"""


class Postgres:
    """A database whose one table is the ledger."""

    def __init__(self, url: str):
        self._url = url
        self._session: tuple | None = None  # process and start of the server's end of it
        self._connection: psycopg.Connection | None = None

    def open(self) -> Numbered | None:
        """Connect, become the only writer, make the table; the newest row."""
        psycopg = _psycopg()
        self.close()
        try:
            given = psycopg.conninfo.conninfo_to_dict(self._url)
            self._connection = connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=2,
                tcp_user_timeout=10_000,
                application_name=f"gigafactory {socket.gethostname()} {os.getpid()}",
                options=f"{given.get('options') or ''} {OPTIONS}",
                **VANISHED,
            )
            try:
                connection.execute("select pg_advisory_lock(%s)", [LOCK])
            except psycopg.errors.LockNotAvailable:
                raise LedgerFailure(self._held(connection)) from None
            self._session = connection.execute(
                "select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()"
            ).fetchone()
            schema = SCHEMA.format(
                integer="bigint", real="double precision", strict="", OFTEN=OFTEN
            )
            connection.execute(cast(LiteralString, schema))
            return self.newest()
        except psycopg.Error as error:
            self.close()
            raise LedgerFailure(f"{shown(self._url)}: {str(error).strip()}") from error
        except LedgerFailure:
            self.close()
            raise

    def _held(self, connection: "psycopg.Connection") -> str:
        """Who holds the lock, in words; an end of our own that the server still keeps is ended."""
        holder = connection.execute(HOLDER).fetchone()
        if holder is None:
            return f"{shown(self._url)}: another writer let go of it just now"
        pid, start, name, address = holder
        if (pid, start) == self._session:
            connection.execute("select pg_terminate_backend(%s)", [pid])
            return f"{shown(self._url)}: the server still ends the lost connection"
        return (
            f"{shown(self._url)}: another writer holds it: {name!r} from "
            f"{address or 'the same machine'}, since {start or 'unknown'} (server process {pid})"
        )

    def insert(self, rows: list[Numbered]) -> None:
        """Begin a transaction and put rows in it."""
        assert self._connection is not None
        self._connection.execute("begin")
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"copy events ({COLUMNS}) from stdin") as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def commit(self) -> None:
        """End the transaction, durably."""
        assert self._connection is not None
        self._connection.execute("commit")

    def undo(self) -> None:
        """Give the transaction up; raises where the connection is gone."""
        assert self._connection is not None
        self._connection.execute("rollback")

    def newest(self, until: int = LAST) -> Numbered | None:
        """The newest row, or of those up to a number; raises where the connection is gone."""
        assert self._connection is not None
        query = cast(LiteralString, NEWEST.format(until))
        return cast(Numbered | None, self._connection.execute(query).fetchone())

    def close(self) -> None:
        """Let go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def select(url: str, query: str, values: Sequence[Any]) -> Iterator[tuple]:
    """Rows of a query as they come: the server keeps those that were not asked for yet."""
    psycopg = _psycopg()
    try:
        with psycopg.connect(url, connect_timeout=2, **VANISHED) as connection:
            connection.read_only = True
            found = connection.execute("select to_regclass('events')").fetchone()
            if found == (None,):
                return  # no writer has opened it yet
            with connection.cursor(name="ledger") as cursor:
                cursor.itersize = 1000
                yield from cursor.execute(cast(LiteralString, query), values)
    except psycopg.Error as error:
        raise LedgerFailure(f"{shown(url)}: {str(error).strip()}") from error


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError:
        raise Refused(
            Fault(
                "the driver of PostgreSQL is not installed",
                "GIGAFACTORY_LEDGER",
                "the ledger is to lie in PostgreSQL, and there is no module psycopg",
                "pip install 'gigafactory[postgres]'",
            )
        ) from None
    return psycopg
