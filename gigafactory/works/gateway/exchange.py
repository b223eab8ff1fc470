"""One request between its client and its engine: seat, reserve, answer, settle.

One rule: a durable reservation before the engine is asked, one durable settlement before the
last byte. What is settled is the engine's own `usage`, never a count of ours; without it the
settlement is an error and costs nothing. A client that leaves is billed what the engine made
for it, so the engine is read to its end whether or not anybody listens.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from gigafactory.blueprint.schema import Tenant
from gigafactory.failpoint import failpoint
from gigafactory.works.gateway.answer import Answer, Usage
from gigafactory.works.gateway.engine import Connection, EngineLost
from gigafactory.works.gateway.lanes import Seat
from gigafactory.works.gateway.refusal import Headers, Refusal

if TYPE_CHECKING:
    from gigafactory.works.gateway.door import Gateway
    from gigafactory.works.house import Grant
    from gigafactory.works.services import Route

log = logging.getLogger(__name__)

WORDS_MAX = 1000  # letters of an engine's error

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Listener(Protocol):
    """Who is answered."""

    def left(self) -> bool:
        """Whether nobody listens any more."""

    async def start(self, status: int, headers: Headers) -> None:
        """The answer begins."""

    async def tell(self, body: bytes, more: bool) -> None:
        """Some of it, or with `more` false the last."""


class Client:
    """A listener at the other end of an ASGI connection."""

    def __init__(self, receive: Receive, send: Send):
        self._receive, self._send = receive, send
        self._gone = False

    def left(self) -> bool:
        """Whether the client is gone: its request is read, so what comes is its end."""
        if not self._gone:
            # One step of `receive`: it either knows at once or would wait. A task that waits
            # beside every request would cost more than all of the bookkeeping.
            news: Any = self._receive()
            try:
                news.send(None)
            except StopIteration as heard:
                self._gone = heard.value["type"] == "http.disconnect"
            finally:
                news.close()
        return self._gone

    async def leaves(self) -> None:
        """Return when the client is gone."""
        while not self._gone:
            self._gone = (await self._receive())["type"] == "http.disconnect"

    async def start(self, status: int, headers: Headers) -> None:
        """Status line and headers."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def tell(self, body: bytes, more: bool) -> None:
        """A piece of the body."""
        try:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except OSError:
            self._gone = True

    async def refuse(self, refusal: Refusal) -> None:
        """The refusal as a whole answer."""
        await self.answer(refusal.status, refusal.body, refusal.headers())

    async def answer(self, status: int, said: Message, headers: Headers) -> None:
        """A whole answer of our own."""
        body = orjson.dumps(said)
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.tell(body, more=False)


class Caller:
    """A listener in this process, who wants the whole; `keep` makes it durable."""

    def __init__(self, keep: Callable[[bytes], Awaitable[None]] | None = None):
        self._keep = keep
        self.body = b""

    def left(self) -> bool:
        """Never."""
        return False

    async def start(self, status: int, headers: Headers) -> None:
        """It does not ask for these."""

    async def tell(self, body: bytes, more: bool) -> None:
        """Keep it."""
        self.body += body

    async def kept(self, answer: Answer) -> Refusal | None:
        """Have the answer kept; what cannot be is not billed."""
        try:
            if self._keep is not None:
                await self._keep(answer.end)
        except OSError as fault:
            answer.usage = None
            return Refusal(503, f"the answer cannot be kept: {fault}", "not_kept", retry_s=5)
        return None


class Exchange:
    """One request on its way."""

    __slots__ = (
        "_began_s",
        "_billed",
        "_listener",
        "_seat",
        "_started",
        "_ttft_s",
        "answer",
        "ask",
        "grant",
        "money",
        "money_max",
        "request",
        "route",
        "sending_s",
        "shop",
        "stalled",
        "task",
        "tenant",
        "unix_s",
    )  # fmt: skip

    def __init__(
        self,
        shop: "Gateway",
        grant: "Grant",
        tenant: Tenant,
        route: "Route",
        answer: Answer,
        request: str,
        listener: Listener,
    ):
        self.shop, self.grant, self.tenant, self.route = shop, grant, tenant, route
        self.answer, self.ask, self.request = answer, answer.ask, request
        self._listener = listener
        self._began_s = time.monotonic()
        self.unix_s = time.time()
        self._seat: Seat | None = None
        self._billed: Usage | None = None
        self.money = 0
        self.money_max = shop.rates.request_max(
            self.unix_s, answer.ask.tokens_max, answer.ask.max_tokens
        )
        self._ttft_s: float | None = None
        self._started = False
        self.stalled = False
        self.sending_s = 0.0  # since when the client takes nothing; 0 while it does
        self.task = asyncio.current_task()

    async def run(self, said: Message) -> None:
        """From the door to the last byte; raises `Refusal` where there is no answer."""
        shop, ask, name = self.shop, self.ask, self.grant.tenant
        shop.limits.tokens(name, self.tenant, ask.tokens_max, self._began_s)
        hold = None
        try:
            hold = shop.hold(self)
            self._seat = await self._seated()
            if self.tenant.keep_prompts:
                shop.keep(self, said)
            refusal = await self._carry(self._seat)
        finally:
            # All this before the last byte: who asks next finds things as they are.
            tokens = sum(self._billed) if self._billed else 0
            if self._seat is not None:
                shop.lanes.leave(self.route.name, self._seat)
            shop.limits.give_back(name, ask.tokens_max - tokens)
            if hold is not None and self._billed:
                shop.budgets.settle(hold, self.money, tokens)
            elif hold is not None:
                shop.budgets.release(hold)
        if refusal is None:
            await self._tell(self.answer.end, more=False)
        elif self._started:
            await self._tell(refusal.event(), more=False)
        else:
            raise refusal

    async def _seated(self) -> Seat:
        """A seat; a client that leaves the queue gives up its place."""
        lanes, client = self.shop.lanes, self._listener
        entering = lanes.enter(self.route, self.grant.tenant, self.tenant.weight, self.ask)
        if not isinstance(client, Client) or not lanes.would_wait(self.route, self.ask):
            return await entering
        seated = asyncio.create_task(entering)
        leaving = asyncio.create_task(client.leaves())
        try:
            await asyncio.wait((seated, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not seated.done():
                raise Refusal(499, "the client left the queue", "client_left")
            return seated.result()
        finally:
            leaving.cancel()
            if not seated.done():
                seated.cancel()

    async def _carry(self, seat: Seat) -> Refusal | None:
        """Reserve, have the engine answer, settle; returns what went wrong."""
        shop, ask = self.shop, self.ask
        failpoint("gateway.before_reserve")
        refusal: Refusal | None = None
        try:
            await shop.rows.reserved(
                self.request, self.grant.tenant, seat.replica.job, self.route.name,
                ask.tokens_max, self.money_max, self.grant.key,
            )  # fmt: skip
            failpoint("gateway.reserved")
            refusal = await self._answered(seat)
            if refusal is None and isinstance(self._listener, Caller):
                # Kept before it is settled: what is billed survives a crash.
                refusal = await self._listener.kept(self.answer)
        except asyncio.CancelledError:
            # The server gives up; what is in the ledger is closed, and costs nothing.
            self._settle(seat, None)
            raise
        usage = self._within(self.answer.usage)
        failpoint("gateway.before_settle")
        try:
            await self._settle(seat, usage)
        except Refusal as fault:
            log.error("request %s is not settled: %s", self.request, fault)
            return fault
        failpoint("gateway.settled")
        self._billed = usage
        return refusal

    async def _answered(self, seat: Seat) -> Refusal | None:
        """Have the engine answer, to its usage; what went wrong where there is none."""
        name = self.route.name
        try:
            await self._ask_engine(seat)
        except Refusal as said:
            refusal = said
        except (EngineLost, ValueError, KeyError, TypeError, AttributeError, IndexError) as fault:
            # Not what it said: an engine's words may hold the prompt.
            log.warning("request %s: %s: %s", self.request, name, type(fault).__name__)
            why = str(fault) if isinstance(fault, EngineLost) else "its answer makes no sense"
            refusal = Refusal(502, f"the engine of {name} failed: {why}", "engine_error")
        else:
            return None
        return None if self.answer.usage is not None else refusal

    async def _ask_engine(self, seat: Seat) -> None:
        """Ask the replica of the seat; those after it, until one begins to answer."""
        name, ask = self.route.name, self.ask
        while True:
            try:
                replica = seat.replica
                connection = await self.shop.engines.ask(
                    replica.url, ask.path, replica.key, self.request, ask.body_for(replica)
                )
            except EngineLost as lost:
                self.shop.services.failed(replica.job)
                if self.shop.lanes.move(seat):
                    continue
                raise Refusal(
                    503, f"the engine of {name} failed: {lost}", "engine_error", retry_s=2
                ) from lost
            try:
                if connection.status == 200:
                    if ask.stream:
                        await self._stream(connection)
                    else:
                        self.answer.whole(await connection.whole())
                    if self.answer.usage is None:
                        raise Refusal(502, f"the engine of {name} failed: no usage", "engine_error")
                    return
                refusal = engine_fault(connection.status, await connection.whole())
            finally:
                connection.leave()
            if refusal.status != 503 or not self.shop.lanes.move(seat):
                raise refusal

    async def _stream(self, connection: Connection) -> None:
        """Pass on whole events as they come, several at once where they came at once."""
        answer, rest = self.answer, b""
        while not answer.done:
            try:
                piece = await connection.piece()
            except EngineLost:
                if not answer.last:
                    raise
                break  # Only its goodbye is lost.
            if piece is None:
                break
            piece = rest + piece if rest else piece
            cut = piece.rfind(b"\n\n") + 2
            if cut == 1:
                rest = piece
                continue
            rest = piece[cut:]
            said = answer.heard(piece[:cut])
            if self._ttft_s is None and answer.spoke:
                self._ttft_s = time.monotonic() - self._began_s
            if said:
                await self._tell(said, more=True)
        answer.ended()

    def _within(self, usage: Usage | None) -> Usage | None:
        """What is billed of a usage: no more than was reserved, whatever the engine says."""
        if usage is None:
            return None
        ask = self.ask
        completion = min(usage.completion_tokens, ask.max_tokens)
        billed = Usage(min(usage.prompt_tokens, ask.tokens_max - completion), completion)
        if billed != usage:
            log.warning("request %s: its engine says %s, of which %s is billed", self.request,
                        usage, billed)  # fmt: skip
        return billed

    def _settle(self, seat: Seat, usage: Usage | None) -> "asyncio.Future[None]":
        """Put down the settlement, once."""
        shop, tenant = self.shop, self.grant.tenant
        duration_s = time.monotonic() - self._began_s
        ttft_s = duration_s if self._ttft_s is None else self._ttft_s
        outcome = "error"
        prompt = completion = 0
        if usage is not None:
            outcome = "disconnected" if self.stalled or self._listener.left() else "complete"
            prompt, completion = usage
            # At the price of the day of the reservation.
            self.money = shop.rates.request(self.unix_s, prompt, completion)
            self.money = min(self.money, self.money_max)
        shop.metrics.settled(
            tenant, self.route.name, outcome, prompt, completion, self.money, ttft_s, duration_s
        )
        return shop.rows.settled(
            self.request, tenant, seat.replica.job, prompt, completion, ttft_s, duration_s,
            outcome, self.money,
        )  # fmt: skip

    async def _tell(self, body: bytes, more: bool) -> None:
        if self.stalled:
            return
        self.sending_s = time.monotonic()
        try:
            if not self._started:
                self._started = True
                await self._listener.start(200, self._headers(body, more))
                failpoint("gateway.first_byte")
            await self._listener.tell(body, more)
        except asyncio.CancelledError:
            if not self.stalled or self.task is None:
                raise
            self.task.uncancel()  # It was us: the client takes nothing any more.
        finally:
            self.sending_s = 0.0

    def _headers(self, body: bytes, more: bool) -> Headers:
        assert self._seat is not None
        kind = b"text/event-stream" if self.ask.stream else b"application/json"
        headers = [(b"content-type", kind), (b"x-request-id", self.request.encode())]
        if self.ask.stream:
            headers.append((b"cache-control", b"no-cache"))
        if not more:
            headers.append((b"content-length", b"%d" % len(body)))
        if ignored := self.ask.ignored_by(self._seat.replica):
            headers.append((b"x-gigafactory-ignored", ", ".join(sorted(ignored)).encode()))
        tenant = self.tenant
        if tenant.requests_per_minute is not None or tenant.tokens_per_minute is not None:
            headers += self.shop.limits.headers(self.grant.tenant, tenant, time.monotonic())
        return headers


def engine_fault(status: int, body: bytes) -> Refusal:
    """What an engine's error is to our client: its own fault, or the engine's."""
    said, param = engine_words(body)
    if status in (400, 413, 422):
        return Refusal(400, f"the engine refuses: {said}", "engine_refused", param)
    if status in (429, 503):
        return Refusal(503, f"the engine failed: {said}", "engine_error", retry_s=2)
    return Refusal(502, f"the engine failed: {said}", "engine_error")


def engine_words(body: bytes) -> tuple[str, str | None]:
    """What an engine's error says, in words, and the parameter it is about, if it tells.

    Engines put it as `{"error": {"message", "param"}}`, `{"error": "..."}`, `{"message": "..."}` or
    `{"detail": "..."}`; what is none of these is passed on as it stands.
    """
    told: Any = None
    with suppress(orjson.JSONDecodeError):
        told = orjson.loads(body)
    if isinstance(told, dict) and "error" in told:
        told = told["error"]
    param = told.get("param") if isinstance(told, dict) else None
    if isinstance(told, dict):
        told = told.get("message", told.get("detail"))
    said = told if isinstance(told, str) else body.decode(errors="replace")
    return said[:WORDS_MAX], param if isinstance(param, str) else None
