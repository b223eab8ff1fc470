"""A client for engines: HTTP/1.1 to a few addresses of our own, connections kept.

Not httpx or aiohttp, for what they cost. Measured by `benchmarks/gateway.py --clients` on one
core of an AMD EPYC, a whole answer of 400 bytes over kept connections: httpx 901 us of CPU a
request, aiohttp 105 us, this 18 us. An engine is plain HTTP on a network that is ours; there
are no redirects, proxies, cookies or encodings to follow, and none are.
"""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

import httptools

CONNECT_S_MAX = 5.0
SILENT_S_MAX = 600.0  # an engine that says nothing for so long is taken for dead
KEEP_IDLE_S = 3.0  # uvicorn closes an idle connection after 5 s; we must be first
KEEP_MAX = 256  # idle connections to one address


class EngineLost(ConnectionError):
    """The engine cannot be reached, or the connection broke; `heard` says if it had begun."""

    def __init__(self, why: str, heard: bool):
        super().__init__(why)
        self.heard = heard


class Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self, done: Callable[["Connection"], None], lost: Callable[["Connection"], None]):
        self._done_with, self._lost_with = done, lost
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self.address: tuple[str, int]
        self.fresh = True
        self.idle_since_s = 0.0
        self.heard_s = 0.0
        self.closed = False
        self.busy = False
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.done = False
        self._begun = False
        self._wants_all = False
        self._abandoned = False
        self._keep = False
        self._why = "the connection closed"
        self._pieces: list[bytes] = []

    def ask(self, head: bytes, body: bytes) -> None:
        """Send a request."""
        self._reset()
        self.busy = True
        self.heard_s = time.monotonic()
        self._transport.write(head + body)

    async def begun(self) -> None:
        """Return when the engine has begun to answer: its status is known."""
        while not self._begun:
            await self._news()

    async def piece(self) -> bytes | None:
        """What came since of the body; None at its end."""
        while not self._pieces:
            if self.done:
                return None
            await self._news()
        pieces = self._pieces
        self._pieces = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def whole(self) -> bytes:
        """The body, when it is there."""
        self._wants_all = True
        while not self.done:
            await self._news()
        return b"".join(self._pieces)

    def leave(self) -> None:
        """No more is wanted of this answer; what still comes of it is passed over."""
        if self.closed:
            return
        if self.done:
            self._end()
        else:
            self._abandoned = True

    def cut(self, why: str) -> None:
        """Close at once."""
        self._why = why
        self._transport.abort()

    async def _news(self) -> None:
        if self.closed:
            raise EngineLost(self._why, self._begun)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self) -> None:
        self.busy = False
        self._pieces = []
        if self._keep and not self.closed:
            self.fresh = False
            self.idle_since_s = time.monotonic()
            self._done_with(self)
        else:
            self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self.heard_s = time.monotonic()
        if not self.busy:  # An engine that speaks unasked is not in step with us.
            return self.cut("the engine spoke unasked")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            return self.cut(f"the engine speaks no HTTP: {type(error).__name__}")
        if not self._abandoned and (self.done or not self._wants_all):
            self._wake()

    def eof_received(self) -> None:
        """The other side says no more; closes the connection."""

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self.closed = True
        self._lost_with(self)
        self._wake()

    # What the parser calls.

    def on_headers_complete(self) -> None:
        """The status is known."""
        self.status = self._parser.get_status_code()
        self._begun = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self._abandoned:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self.status == 100:
            self._begun = False
            return
        self._keep = self._parser.should_keep_alive()
        self.done = True
        if self._abandoned:
            self._end()


class Engines:
    """Connections to engines, kept by address."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._open: set[Connection] = set()

    async def ask(self, url: str, path: str, key: str, request: str, body: bytes) -> Connection:
        """Ask an engine; returns when it begins to answer, or raises `EngineLost`.

        `key` is what it wants to hear as a bearer token, if anything. Where a kept connection
        turns out to be closed, a new one is made.
        """
        address, prefix = parts(url, path, key)
        head = b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            prefix, request.encode(), len(body)
        )  # fmt: skip
        while True:
            connection = self._kept(address) or await self._connect(address)
            connection.ask(head, body)
            try:
                await connection.begun()
                return connection
            except EngineLost:
                if connection.fresh:
                    raise
            except BaseException:
                connection.leave()
                raise

    def watch(self) -> None:
        """Give up engines that are silent for too long, and connections idle for as long."""
        now_s = time.monotonic()
        for connection in tuple(self._open):
            if connection.busy and now_s - connection.heard_s > SILENT_S_MAX:
                connection.cut(f"no word for {SILENT_S_MAX:g} s")
            elif not connection.busy and now_s - connection.idle_since_s > KEEP_IDLE_S:
                self._forget(connection)
                connection.cut("idle")

    def close(self) -> None:
        """Close every connection."""
        for connection in tuple(self._open):
            connection.cut("the gateway closes")

    def _kept(self, address: tuple[str, int]) -> Connection | None:
        kept = self._idle.get(address)
        while kept:
            connection = kept.pop()
            if not connection.closed and time.monotonic() - connection.idle_since_s < KEEP_IDLE_S:
                return connection
            if not connection.closed:
                connection.cut("idle")
        return None

    async def _connect(self, address: tuple[str, int]) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._keep, self._forget), *address
                )
        except (OSError, TimeoutError) as error:
            raise EngineLost(f"no connection: {type(error).__name__}", heard=False) from error
        connection.address = address
        self._open.add(connection)
        return connection

    def _keep(self, connection: Connection) -> None:
        kept = self._idle.setdefault(connection.address, [])
        if len(kept) < KEEP_MAX:
            kept.append(connection)
        else:
            connection.cut("enough are kept")

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        kept = self._idle.get(getattr(connection, "address", ("", 0)))
        if kept and connection in kept:
            kept.remove(connection)


@lru_cache(maxsize=1024)
def parts(url: str, path: str, key: str) -> tuple[tuple[str, int], bytes]:
    """Where to connect, and the head of a request but for its length."""
    split = urlsplit(url)
    assert split.scheme == "http", "engines are plain HTTP"
    assert split.hostname, url
    address = split.hostname, split.port or 80
    head = (
        f"POST {split.path.rstrip('/')}{path} HTTP/1.1\r\nhost: {split.netloc}\r\n"
        "content-type: application/json\r\naccept-encoding: identity\r\n"
    )
    if key:
        head += f"authorization: Bearer {key}\r\n"
    return address, head.encode()
