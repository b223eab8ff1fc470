"""A gateway with all that stands around it, for its tests: an engine that does what the story
needs, doors, prices, and replicas that the story moves about."""

import asyncio
import json
import math
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route

from gigafactory.blueprint.schema import Tenant
from gigafactory.ledger import store
from gigafactory.works.budgets import Budgets
from gigafactory.works.gateway import Gateway
from gigafactory.works.house import Grant
from gigafactory.works.services import Replica
from gigafactory.works.services import Route as ServiceRoute

RUN = "run-1"
HELLO = [{"role": "user", "content": "hello"}]
INPUT, OUTPUT = 3, 5  # micro-units a token


class Engine:
    """Speaks as `transformers serve` does: usage in the chunk that ends, and no `[DONE]`."""

    def __init__(self):
        self.words = 3
        self.pause_s = 0.0
        self.free = math.inf  # so many are answered before the story lets go of the others
        self.dies_after = None
        self.fault = None
        self.asked = []
        self.deltas = None
        self.counts_on = False  # usage so far in every chunk, as vLLM's continuous_usage_stats
        paths = ("chat/completions", "completions", "embeddings")
        self.app = Starlette(
            routes=[Route(f"/v1/{path}", self.complete, methods=["POST"]) for path in paths]
        )

    def usage(self, words=None):
        words = self.words if words is None else words
        return {"prompt_tokens": 7, "completion_tokens": words, "total_tokens": 7 + words}

    async def complete(self, request):
        body = await request.json()
        self.asked.append(body)
        number = len(self.asked)
        if self.fault is not None:
            return JSONResponse({"error": "no"}, self.fault)
        answer = {"id": request.headers["x-request-id"], "created": 1, "model": "model@main"}
        if request.url.path.endswith("embeddings"):
            embedded = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
            usage = {"prompt_tokens": 7, "total_tokens": 7}
            return JSONResponse(answer | {"object": "list", "data": [embedded], "usage": usage})
        if body.get("stream"):
            return StreamingResponse(self.stream(answer, number), media_type="text/event-stream")
        await self.pause(number)
        said = {"message": {"role": "assistant", "content": "la " * self.words}, "text": "la "}
        for delta in self.deltas or ():
            said["message"] |= delta
        choice = {"index": 0, "finish_reason": "stop", **said}
        return JSONResponse(answer | {"object": "x", "choices": [choice], "usage": self.usage()})

    async def pause(self, number):
        await asyncio.sleep(self.pause_s)
        async with asyncio.timeout(60):  # a story that fails does not hang
            while number > self.free:
                await asyncio.sleep(0.005)

    async def stream(self, answer, number):
        def chunk(delta, **more):
            choice = {"index": 0, "delta": delta, "text": delta.get("content", "")}
            return f"data: {json.dumps(answer | {'choices': [choice], **more})}\n\n"

        yield chunk({"role": "assistant"})
        for word in range(self.words):
            if word == self.dies_after:
                raise ConnectionAbortedError("an engine that dies in the middle")
            await self.pause(number)
            if self.deltas is None:
                told = {"usage": self.usage(word + 1)} if self.counts_on else {}
                yield chunk({"content": 'la "usage":{"model":"model@main"} '}, **told)
        for delta in self.deltas or ():
            yield chunk(delta)
        yield chunk({}, usage=self.usage())
        if self.counts_on:
            yield f"data: {json.dumps(answer | {'choices': [], 'usage': self.usage()})}\n\n"
            yield "data: [DONE]\n\n"


class Services:
    """Replicas by the name of their model, in the order in which they are tried."""

    def __init__(self):
        self.routes = {}
        self.wanted = []
        self.under_way = Counter()
        self.lost = []

    def names(self):
        return list(self.routes)

    def route(self, name):
        return self.routes.get(name)

    def ready(self, name):
        return bool(self.routes[name].ready)

    def demand(self, name, queued):
        self.wanted.append((name, queued))

    def used(self, job, under_way=0):
        self.under_way[job] += under_way

    def failed(self, job):
        self.lost.append(job)

    def serve(self, name, *replicas, waking=False):
        self.routes[name] = ServiceRoute(name, list(replicas), True, waking)


class Rates:
    """One price for all days."""

    def request(self, unix_s, prompt_tokens, completion_tokens):
        return INPUT * prompt_tokens + OUTPUT * completion_tokens

    def request_max(self, unix_s, tokens_max, completion_max):
        return INPUT * (tokens_max - completion_max) + OUTPUT * completion_max


@dataclass
class Doors:
    """Tenants, and who has which key."""

    tenants: dict = field(default_factory=lambda: {"mill": Tenant(), "bank": Tenant()})
    grants: dict = field(
        default_factory=lambda: {
            "gf-mill": Grant("ann", "mill", frozenset({"infer"}), "k1"),
            "gf-bank": Grant("bob", "bank", frozenset({"infer"}), "k2"),
            "gf-reader": Grant("rob", "mill", frozenset({"read"}), "k3"),
        }
    )

    def who(self, token):
        return self.grants.get(token)


LACKS = {"embeddings", "response_format", "sampling", "stop", "n", "logprobs", "tool_choice"}


def replica(url, job="job-chat", lacks=LACKS, context=512, cache=8192, engine="transformers"):
    lacks = () if engine == "vllm" else lacks
    return Replica(job, url, "model", context, cache, engine, frozenset(lacks))


class House:
    """A gateway and its engine, listening on this machine."""

    key = "gf-mill"

    def __init__(self, home, ledger=None):
        self.home = home
        self.path = home / "ledger.sqlite"
        self.ledger = ledger or store.Ledger(self.path)
        self.engine, self.services, self.doors = Engine(), Services(), Doors()
        self.budgets = Budgets(time.time)
        self.gateway = Gateway(
            self.ledger, RUN, lambda: 5.0, self.services, self.doors, self.budgets, Rates(),
            home / "prompts",
        )  # fmt: skip

    def client(self, **more):
        import openai  # here, for it takes a second, and not all who come need it

        return openai.OpenAI(
            base_url=f"{self.url}/v1", **({"api_key": self.key, "max_retries": 0} | more)
        )

    def post(self, body, path="/v1/chat/completions", key=None):
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.post(self.url + path, content=json.dumps(body), headers=headers, timeout=30)

    def chat(self, key=None, **more):
        return self.post({"model": "chat", "messages": HELLO} | more, key=key)

    def rows(self, count, wait_s=60.0):
        """The requests' rows once there are `count`, which a settlement may take a moment for."""
        end_s = time.monotonic() + wait_s
        while len(rows := list(store.read(self.path, RUN))) < count and time.monotonic() < end_s:
            time.sleep(0.02)
        assert len(rows) == count
        return rows


@contextmanager
def listening(app, **more):
    config = uvicorn.Config(app, port=0, log_level="critical", **more)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def open_house(home, ledger=None):
    """A house whose gateway is mounted in an app beside others, as the works has it."""
    house = House(home, ledger)

    @asynccontextmanager
    async def lifespan(app):
        yield
        await house.gateway.aclose()

    async def elsewhere(request):
        return JSONResponse({"here": "the console"})

    app = Starlette(
        routes=[Route("/", elsewhere), Mount("/", app=Whole(house.gateway))], lifespan=lifespan
    )
    with listening(house.engine.app) as house.engine_url, listening(app) as house.url:
        house.services.serve("chat", replica(house.engine_url))
        yield house
    if ledger is None:
        house.ledger.close()


class Whole:
    """An app, for a mount that would else take a class's instance for an endpoint."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


def until(happens, wait_s=60.0):
    end_s = time.monotonic() + wait_s
    while not happens():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def within_one(window_s, story_s=30.0):
    """Wait where a budget's window is about to end, so that the story lies in one."""
    left_s = window_s - time.time() % window_s
    if left_s < story_s:
        time.sleep(left_s)
