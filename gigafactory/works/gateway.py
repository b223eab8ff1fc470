"""The door for clients: OpenAI's protocol in front, engines behind, every request in the ledger.

One rule: a durable reservation before the first byte of an answer, one durable settlement
before its last. What is settled is the engine's own `usage`, never a count of ours. A client
that leaves is billed what the engine made for it, so the gateway reads the engine to its end
whether or not anybody listens.

Measured (`benchmarks/gateway.py`): a request of 32 tokens, every other one streamed, over 32
connections costs 2.7 CPU-ms and two commits of the ledger; most of it is a write a token.
"""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gigafactory.factory.events import Event, RequestDisputed, RequestReserved, RequestSettled
from gigafactory.ledger import store
from gigafactory.works.ask import CHAT, TEXT, Ask, Endpoint, Refusal, parse, understand
from gigafactory.works.keys import Keys

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 1 << 20
STALL_S_MAX = 60.0  # a client that takes no byte for so long has left
DRAIN_S_MAX = 10.0  # for answers under way, when the gateway closes
TIMEOUT = httpx.Timeout(connect=5.0, read=600.0, write=30.0, pool=None)
KEEP_IDLE_S = 3.0  # uvicorn closes an idle connection after 5 s; we must be first

MODEL_NAME = re.compile(rb'"model":\s*"[^"\\]*"')  # in text a quote is escaped: no false match
USAGE = re.compile(rb'"usage":\s*\{')


class Gateway:
    """The routes, and what they share: one pool of connections, the ledger, the keys."""

    def __init__(
        self,
        ledger: store.Ledger,
        run: str,
        clock: Callable[[], float],
        endpoints: Callable[[], Mapping[str, Endpoint]],
        keys: Keys,
    ):
        self.run = run
        self.clock = clock
        self._ledger = ledger
        self._endpoints = endpoints
        self._keys = keys
        self._under_way: set[asyncio.Task] = set()
        self._idle: list[httpx.AsyncClient] = []

    def routes(self) -> list[Route]:
        """To be mounted in a Starlette application."""
        return [
            Route("/v1/models", self._models, methods=["GET"]),
            Route(CHAT, partial(self._complete, CHAT), methods=["POST"]),
            Route(TEXT, partial(self._complete, TEXT), methods=["POST"]),
        ]

    async def aclose(self) -> None:
        """Let answers under way end; what does not is disputed at the next start."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=DRAIN_S_MAX)
            for exchange in late:
                exchange.cancel()
        while self._idle:
            await self._idle.pop().aclose()

    @contextmanager
    def connection(self) -> Iterator[httpx.AsyncClient]:
        """A connection to an engine, kept for the next request.

        A client each, for httpx's pool of n looks at n² connections a request (measured: at 32
        connections that is half of all CPU time).
        """
        client = self._idle.pop() if self._idle else engine_client()
        try:
            yield client
        finally:
            self._idle.append(client)

    async def append(self, event: Event) -> None:
        """Return when the event is durable."""
        try:
            # Shielded: a cancelled future would take the ledger's writer by surprise.
            await asyncio.shield(asyncio.wrap_future(self._ledger.append(self.run, event)))
        except store.LedgerFailure as failure:
            raise Refusal(503, f"the ledger cannot be written: {failure}", "ledger") from failure

    async def finish(self, exchange: "Exchange") -> None:
        """Carry an exchange to its settlement, also where the server gives up on its client."""
        talk = asyncio.create_task(exchange.talk())
        self._under_way.add(talk)
        talk.add_done_callback(self._under_way.discard)
        await asyncio.shield(talk)

    async def _models(self, request: Request) -> Response:
        try:
            self._tenant(request)
        except Refusal as refusal:
            return refusal.response()
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": at.job, "ready": bool(at.url)}
            for name, at in self._endpoints().items()
        ]
        return JSONResponse({"object": "list", "data": models})

    async def _complete(self, path: str, request: Request) -> "Response | Exchange":
        try:
            tenant = self._tenant(request)
            said = parse(await read(request))
            name, endpoint = self._endpoint(said.get("model"))
            ask = understand(path, said, endpoint)
            exchange = Exchange(self, uuid.uuid4().hex, tenant, name, endpoint, ask)
            await exchange.reserve()
        except Refusal as refusal:
            return refusal.response()
        return exchange

    def _tenant(self, request: Request) -> str:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        tenant = self._keys.tenant_of(key.strip()) if scheme.lower() == "bearer" else None
        if tenant is None:
            raise Refusal(401, "this key is not known here", "invalid_api_key")
        return tenant

    def _endpoint(self, name: Any) -> tuple[str, Endpoint]:
        endpoints = self._endpoints()
        if not isinstance(name, str) or name not in endpoints:
            known = ", ".join(sorted(endpoints)) or "none yet"
            raise Refusal(404, f"no model {name!r}; served: {known}", "model_not_found", "model")
        if endpoints[name].url is None:
            raise Refusal(503, f"{name} is not ready yet", "model_not_ready", "model")
        return name, endpoints[name]


def engine_client() -> httpx.AsyncClient:
    """A client for engines, which are plain HTTP on this machine."""
    return httpx.AsyncClient(
        timeout=TIMEOUT,
        limits=httpx.Limits(keepalive_expiry=KEEP_IDLE_S),
        headers={"accept-encoding": "identity", "content-type": "application/json"},
        trust_env=False,  # no http_proxy stands between us and this machine
        verify=False,
    )


async def read(request: Request) -> bytes:
    """The body, unless it is too large."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise Refusal(413, f"a request has at most {BODY_BYTES_MAX} bytes", "too_large")
    except ClientDisconnect as gone:
        raise Refusal(400, "the client left before its request was whole") from gone
    return bytes(body)


class Exchange:
    """One request between its client and its engine, from reservation to settlement.

    It is its own ASGI response: Starlette's would stop reading the engine with the client.
    """

    def __init__(
        self, gateway: Gateway, request: str, tenant: str, name: str, endpoint: Endpoint, ask: Ask
    ):
        self.request, self.tenant, self.name, self.ask = request, tenant, name, ask
        self._gateway = gateway
        self._endpoint = endpoint
        self._began_s = time.monotonic()
        self._ttft_s: float | None = None
        self._usage: dict[str, int] | None = None
        self._end = b""
        self._started = False
        self._stalled = False

    async def reserve(self) -> None:
        """Make the reservation durable."""
        job, at_s = self._endpoint.job, self._gateway.clock()
        await self._gateway.append(
            RequestReserved(at_s, self.request, self.tenant, job, self.name, self.ask.tokens_max)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        self._asgi = scope, receive, send
        self._leaving = asyncio.create_task(left(receive))
        try:
            await self._gateway.finish(self)
        finally:
            self._leaving.cancel()

    async def talk(self) -> None:
        """Ask the engine, tell the client, settle, and only then let go of the end."""
        refusal = None
        try:
            await self._ask_engine()
        except Refusal as fault:
            refusal = fault
        except httpx.ConnectError:
            refusal = Refusal(503, f"the engine of {self.name} is away", "engine_away")
        except Exception as fault:  # Whatever an engine does, its request is settled.
            log.warning("request %s: %r", self.request, fault)
            refusal = Refusal(502, f"the engine of {self.name} failed: {fault!r}", "engine_error")
        if self._usage is not None:
            refusal = None  # The engine had said all that it would.
        try:
            await self._settle()
        except Refusal as fault:
            log.error("request %s is not settled: %s", self.request, fault)
            refusal = fault
        if refusal is None:
            await self._tell(self._end, more=False)
        elif self._started:
            await self._tell(event(refusal.body), more=False)
        elif not self._left:
            await refusal.response()(*self._asgi)

    async def _ask_engine(self) -> None:
        """Have the engine answer; the end of it waits in `_end` for the settlement."""
        url = f"{self._endpoint.url}{self.ask.path}"
        headers = {"x-request-id": self.request}  # The engine makes it the id of the answer.
        with self._gateway.connection() as engine:
            async with engine.stream("POST", url, content=self.ask.body, headers=headers) as reply:
                if reply.status_code != 200:
                    raise engine_fault(reply.status_code, await reply.aread())
                await (self._stream(reply) if self.ask.stream else self._whole(reply))
        if self._usage is None:
            raise Refusal(502, f"the engine of {self.name} stopped in the middle", "engine_error")

    async def _whole(self, reply: httpx.Response) -> None:
        body = await reply.aread()
        self._end = self._renamed(body)
        self._usage = counts(json.loads(body)["usage"])

    async def _stream(self, reply: httpx.Response) -> None:
        async for chunks in events(reply):
            said = b"".join(map(self._heard, chunks))
            if said:
                await self._tell(said, more=True)

    def _heard(self, chunk: bytes) -> bytes:
        """What of a chunk goes to the client at once; keeps what waits for the settlement."""
        if self._usage is not None or chunk == b"data: [DONE]":
            return b""  # What follows the usage is the engine's own goodbye.
        if chunk.startswith(b'data: {"error"'):
            raise Refusal(502, chunk.decode(errors="replace"), "engine_error")
        if self._ttft_s is None and speaks(chunk):
            self._ttft_s = time.monotonic() - self._began_s
        chunk = self._renamed(chunk)
        if not USAGE.search(chunk):
            return chunk + b"\n\n"
        self._end = self._last(json.loads(chunk[len(b"data: ") :])) + b"data: [DONE]\n\n"
        return b""

    def _last(self, chunk: dict[str, Any]) -> bytes:
        """The chunk with the usage as OpenAI sends it: apart, and to those who asked for it."""
        usage = chunk.pop("usage")
        self._usage = counts(usage)
        end = event(chunk) if chunk["choices"] else b""
        if self.ask.usage_wanted:
            end += event(chunk | {"choices": [], "usage": usage})
        return end

    def _renamed(self, answer: bytes) -> bytes:
        """The answer under the public name of the model."""
        name = b'"model":' + json.dumps(self.name).encode()
        return MODEL_NAME.sub(lambda _: name, answer, count=1)

    async def _settle(self) -> None:
        duration_s = time.monotonic() - self._began_s
        outcome = "disconnected" if self._left else "complete"
        await self._gateway.append(
            RequestSettled(
                at_s=self._gateway.clock(),
                request=self.request,
                tenant=self.tenant,
                job=self._endpoint.job,
                **(self._usage or {"prompt_tokens": 0, "completion_tokens": 0}),
                ttft_s=duration_s if self._ttft_s is None else self._ttft_s,
                duration_s=duration_s,
                outcome="error" if self._usage is None else outcome,
            )
        )

    @property
    def _left(self) -> bool:
        """Whether the client is gone, or takes no more."""
        return self._stalled or self._leaving.done()

    async def _tell(self, body: bytes, more: bool) -> None:
        if self._left:
            return
        _, _, send = self._asgi
        try:
            async with asyncio.timeout(STALL_S_MAX):
                if not self._started:
                    self._started = True
                    await send(self._start(body, more))
                await send({"type": "http.response.body", "body": body, "more_body": more})
        except (OSError, TimeoutError):
            self._stalled = True

    def _start(self, body: bytes, more: bool) -> dict[str, Any]:
        kind = b"text/event-stream" if self.ask.stream else b"application/json"
        headers = [(b"content-type", kind), (b"x-request-id", self.request.encode())]
        if self.ask.stream:
            headers.append((b"cache-control", b"no-cache"))
        if not more:
            headers.append((b"content-length", str(len(body)).encode()))
        if self.ask.ignored:
            headers.append((b"x-gigafactory-ignored", ", ".join(self.ask.ignored).encode()))
        return {"type": "http.response.start", "status": 200, "headers": headers}


async def left(receive: Receive) -> None:
    """Return when the client is gone: its request is read, so what comes is its end."""
    await receive()


async def events(reply: httpx.Response) -> AsyncIterator[list[bytes]]:
    """The server-sent events of an engine as they came, together where they came together."""
    rest = b""
    async for piece in reply.aiter_raw():
        *whole, rest = (rest + piece).split(b"\n\n")
        yield whole


def event(said: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


def speaks(chunk: bytes) -> bool:
    """Whether a chunk bears a word of the model; the first one only names its role."""
    choices = json.loads(chunk[len(b"data: ") :]).get("choices", [])
    words = ("content", "reasoning_content", "tool_calls", "text")
    return any((choice.get("delta") or choice).get(word) for choice in choices for word in words)


def counts(usage: dict[str, Any]) -> dict[str, int]:
    """The two figures of `usage` that are billed."""
    figures = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    if not all(type(figure) is int and figure >= 0 for figure in figures.values()):
        raise ValueError(f"no usage: {usage}")
    return figures


def engine_fault(status: int, body: bytes) -> Refusal:
    """What an engine's error is to our client: its own fault, or the engine's."""
    said = body.decode(errors="replace")[:1000]
    if status in (400, 413, 422):
        return Refusal(400, f"the engine refuses: {said}", "engine_refused")
    return Refusal(503 if status == 503 else 502, f"the engine failed: {said}", "engine_error")


def disputes(ledger: Path, run: str) -> list[RequestDisputed]:
    """A record for each reservation that a crash left unsettled, dated as the reservation.

    The works appends them when it opens, before the first request: each is billed 0, and
    counted. Dated so because nothing is known of the request from there on.
    """
    unsettled: dict[str, store.Row] = {}
    kinds = ("RequestReserved", "RequestSettled", "RequestDisputed")
    for row in store.read(ledger, run=run, kinds=kinds):
        if row.kind == "RequestReserved":
            unsettled[row.subject] = row
        else:
            unsettled.pop(row.subject, None)
    reason = "the works ended between reservation and settlement"
    return [
        RequestDisputed(row.at_s, request, row.body["tenant"], reason)
        for request, row in unsettled.items()
    ]
