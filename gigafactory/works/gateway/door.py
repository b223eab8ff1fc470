"""The way in: an ASGI app of its own, for what lies under `/v1/`.

No framework: between uvicorn and the request's business stand a table of paths, the key and the
limits. It is mounted by path, with nothing around it that reads bodies or cancels tasks.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from gigafactory.blueprint.schema import Tenant
from gigafactory.ledger import store
from gigafactory.works.budgets import Budgets, Hold, Spent
from gigafactory.works.gateway import responses
from gigafactory.works.gateway.answer import Answer
from gigafactory.works.gateway.ask import (
    ACT,
    BOUND,
    CHAT,
    EMBEDDINGS,
    RESPONSES,
    TEXT,
    parse,
    understand,
    understand_act,
)
from gigafactory.works.gateway.engine import Engines
from gigafactory.works.gateway.exchange import (
    Caller,
    Client,
    Exchange,
    Listener,
    Message,
    Receive,
    Send,
)
from gigafactory.works.gateway.lanes import Lanes, not_ready
from gigafactory.works.gateway.limits import Limits
from gigafactory.works.gateway.metrics import Metrics
from gigafactory.works.gateway.refusal import Refusal
from gigafactory.works.gateway.rows import Ids, Rows

if TYPE_CHECKING:
    from gigafactory.plan.tariff import Rates
    from gigafactory.works.gateway.batches import Batches
    from gigafactory.works.house import Grant, House
    from gigafactory.works.services import Route, Services

BODY_BYTES_MAX = 1 << 20
STALL_S_MAX = 60.0  # a client that takes no byte for so long has left
DRAIN_S_MAX = 10.0  # for answers under way, when the gateway closes
WATCH_S = 1.0
OWNER_ONLY = 0o600

ASKED = frozenset({CHAT, TEXT, RESPONSES, EMBEDDINGS})
MODELS = "/v1/models"
POLICIES = re.compile(r"/v1/policies/([^/]+)/act")
Scope = Message


class Gateway:
    """The app, and what its requests share.

    `clock` is the run's: seconds since it was opened. With `prompts`, a folder, tenants may
    have their prompts kept there.
    """

    def __init__(
        self,
        ledger: store.Ledger,
        run: str,
        clock: Callable[[], float],
        services: "Services",
        house: "House",
        budgets: "Budgets",
        rates: "Rates",
        prompts: Path | None = None,
    ):
        self.services, self.house, self.budgets, self.rates = services, house, budgets, rates
        self.prompts = prompts
        self.metrics = Metrics()
        self.rows = Rows(ledger, run, clock)
        self.engines = Engines()
        self.limits = Limits()
        self.lanes = Lanes(services, self.metrics.queued)
        self._ids = Ids()
        self._under_way: set[Exchange] = set()
        self._watching: asyncio.Task | None = None
        self.batches: Batches | None = None  # once these are open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        assert scope["type"] == "http", "the gateway is mounted for HTTP alone"
        client = Client(receive, send)
        try:
            await self._answer(scope, receive, client)
        except Refusal as refusal:
            self.metrics.refused(refusal.status, refusal.body["error"]["code"])
            await client.refuse(refusal)

    async def complete(
        self, grant: "Grant", path: str, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        """Answer a request of this process, whole: limits, ledger and budgets hold as for all."""
        caller = Caller()
        try:
            await self.carry_out(grant, path, body, caller)
        except Refusal as refusal:
            return refusal.status, refusal.body
        return 200, orjson.loads(caller.body)

    async def carry_out(
        self, grant: "Grant", path: str, body: dict[str, Any], caller: Caller, request: str = ""
    ) -> None:
        """The same for a `caller`, under a name of its own; raises `Refusal`."""
        try:
            tenant = self._tenant(grant)
            if path not in ASKED:
                raise Refusal(404, f"there is no {path}", "not_found")
            if body.get("stream"):
                raise Refusal(400, "here an answer comes whole", "invalid_value", "stream")
            self.limits.request(grant.tenant, tenant, time.monotonic())
            await self._exchange(grant, tenant, path, body, caller, request)
        except Refusal as refusal:
            self.metrics.refused(refusal.status, refusal.body["error"]["code"])
            raise

    async def aclose(self) -> None:
        """Let answers under way end; what does not is cut off, and costs nothing."""
        tasks = {exchange.task for exchange in self._under_way if exchange.task is not None}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DRAIN_S_MAX)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.rows.flush()
        if self._watching is not None:
            self._watching.cancel()
        self.engines.close()

    async def _answer(self, scope: Scope, receive: Receive, client: Client) -> None:
        path, method = scope["path"], scope["method"]
        key, length = None, b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, key = value.decode("latin-1").partition(" ")
                key = key.strip() if kind.lower() == "bearer" else None
            elif name == b"content-length":
                length = value
        grant = self.house.who(key) if key else None
        if grant is None:
            raise Refusal(401, "this key is not known here", "invalid_api_key")
        tenant = self._tenant(grant)
        if path in ASKED and method == "POST":
            self.limits.request(grant.tenant, tenant, time.monotonic())
            if len(length) > 9 or (length.isdigit() and int(length) > BODY_BYTES_MAX):
                raise too_large()
            said = parse(await read(receive))
            await self._exchange(grant, tenant, path, said, client)
        elif method == "POST" and (policy := POLICIES.fullmatch(path)):
            self.limits.request(grant.tenant, tenant, time.monotonic())
            if len(length) > 9 or (length.isdigit() and int(length) > BODY_BYTES_MAX):
                raise too_large()
            said = parse(await read(receive)) | {"model": policy[1]}
            await self._exchange(grant, tenant, ACT, said, client)
        elif method == "GET" and (path == MODELS or path.startswith(MODELS + "/")):
            said = self._models(path.removeprefix(MODELS).removeprefix("/"))
            await client.answer(200, said, [(b"content-type", b"application/json")])
        elif self.batches is not None and path.startswith(("/v1/files", "/v1/batches")):
            await self.batches.answer(grant, scope, receive, client)
        elif path in ASKED or path == MODELS or POLICIES.fullmatch(path):
            raise Refusal(405, f"{path} does not answer {method}", "method_not_allowed")
        else:
            raise Refusal(404, f"there is no {path}", "not_found")

    def _tenant(self, grant: "Grant") -> Tenant:
        """Whose request it is, if it may ask at all."""
        tenant = self.house.tenants.get(grant.tenant)
        if tenant is None or not grant.may("infer", grant.tenant):
            raise Refusal(403, "this key may not ask models (scope infer)", "not_allowed")
        return tenant

    async def _exchange(
        self,
        grant: "Grant",
        tenant: Tenant,
        path: str,
        said: Message,
        listener: Listener,
        request: str = "",
    ) -> None:
        route = self._route(said.get("model"))
        request = request or self._ids()
        if path == RESPONSES:
            ask = understand(CHAT, responses.as_chat(said), route.ready)
            answer: Answer = responses.Response(request, route.name, ask, said)
        elif path == ACT:
            ask = understand_act({name: said[name] for name in said if name != "model"})
            answer = Answer(request, route.name, ask)
        else:
            ask = understand(path, said, route.ready)
            answer = Answer(request, route.name, ask)
        exchange = Exchange(self, grant, tenant, route, answer, request, listener)
        self._under_way.add(exchange)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        try:
            await exchange.run(said)
        finally:
            self._under_way.discard(exchange)

    def _route(self, name: Any) -> "Route":
        route = self.services.route(name) if isinstance(name, str) else None
        if route is None or not route.known:
            known = ", ".join(sorted(self.services.names())) or "none yet"
            raise Refusal(404, f"no model {name!r}; served: {known}", "model_not_found", "model")
        if not route.ready and not route.waking:
            raise not_ready(route)
        return route

    def _models(self, name: str) -> Message:
        listed = [
            {
                "id": known,
                "object": "model",
                "created": 0,
                "owned_by": "gigafactory",
                "ready": self.services.ready(known),
            }
            for known in self.services.names()
        ]
        if not name:
            return {"object": "list", "data": listed}
        for model in listed:
            if model["id"] == name:
                return model
        raise Refusal(404, f"no model {name!r}", "model_not_found", "model")

    def hold(self, exchange: Exchange) -> "Hold":
        """Hold what a request may cost against the tenant's budgets, or refuse it."""
        ask, tenant = exchange.ask, exchange.grant.tenant
        held = self.budgets.reserve(tenant, money_micro=exchange.money_max, tokens=ask.tokens_max)
        if isinstance(held, Spent):
            wait_s = held.resets_unix_s - time.time()
            why = self._beyond(exchange, held)
            raise Refusal(429, why, "insufficient_quota", retry_s=wait_s, final=True)
        return held

    def _beyond(self, exchange: Exchange, spent: Spent) -> str:
        """Why a budget does not allow a request: it is spent, or less is left than it may take."""
        ask, tenant, budget = exchange.ask, exchange.grant.tenant, spent.budget
        at = next(left for left in self.budgets.left(tenant) if left.budget is budget)
        whose = f"the budget of {tenant} for this {budget.per} ({budget.of})"
        if at.spent >= budget.limit or budget.of not in ("money", "tokens"):
            return f"{whose} is spent"
        left = max(0.0, budget.limit - at.spent - at.reserved)
        until = datetime.fromtimestamp(spent.resets_unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if budget.of == "tokens":
            may, left_of = f"take {ask.tokens_max:,} tokens", f"{left:,.0f}"
        else:
            may, left_of = f"cost {exchange.money_max / 1e6:,.6f}", f"{left:,.6f}"
        held = "; more is held by requests under way" if at.reserved else ""
        return (
            f"this may {may} ({BOUND}); {left_of} are left until {until} of {whose}{held}:"
            " lower max_tokens, or ask less"
        )

    def keep(self, exchange: Exchange, said: Message) -> None:
        """Write a prompt down, for a tenant who wants that."""
        assert self.prompts is not None, "a folder for prompts, where tenants keep them"
        self.prompts.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self.prompts / f"{exchange.grant.tenant}.jsonl"
        kept = {"unix_s": exchange.unix_s, "request": exchange.request, "asked": said}
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with open(os.open(file, flags, OWNER_ONLY), "ab") as out:
            out.write(orjson.dumps(kept) + b"\n")

    async def _watch(self) -> None:
        """Give up clients that take nothing and engines that say nothing."""
        while True:
            await asyncio.sleep(WATCH_S)
            late_s = time.monotonic() - STALL_S_MAX
            for exchange in tuple(self._under_way):
                if 0 < exchange.sending_s < late_s and exchange.task is not None:
                    exchange.stalled = True
                    exchange.task.cancel()
            self.metrics.under_way.set(len(self._under_way))
            self.engines.watch()


async def read(receive: Receive) -> bytes:
    """The body, unless it is too large."""
    message = await receive()
    body = message.get("body", b"")
    if message.get("more_body"):
        pieces, length = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            pieces.append(message.get("body", b""))
            length += len(pieces[-1])
            if length > BODY_BYTES_MAX:
                raise too_large()
        body = b"".join(pieces)
    if message["type"] == "http.disconnect":
        raise Refusal(499, "the client left before its request was whole", "client_left")
    if len(body) > BODY_BYTES_MAX:
        raise too_large()
    return body


def too_large() -> Refusal:
    """The refusal of a body beyond the limit."""
    return Refusal(413, f"a request has at most {BODY_BYTES_MAX} bytes", "too_large")
