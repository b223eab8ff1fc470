"""The plant over HTTP: nodes, services, what happened, figures for Prometheus, signs of life."""

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import Query
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from gigafactory.blueprint.schema import Serve
from gigafactory.factory import state as st
from gigafactory.ledger.store import Row, read
from gigafactory.works.api.guard import ANYONE, Who, nothing, route
from gigafactory.works.api.stream import LOOK_S, Streams

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from gigafactory.works.api import Api
    from gigafactory.works.house import Grant

EVENTS_MAX = 1000
SCAN_MAX = 5000  # rows looked at for one answer
JSON = "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Node(BaseModel):
    """A machine, and those of its jobs that one may see."""

    name: str
    pool: str
    chips: int
    used: int
    state: Literal["up", "drained", "lost", "given up"]
    jobs: list[str]


class Nodes(BaseModel):
    """All machines of the run."""

    nodes: list[Node]


class Drain(BaseModel):
    """With `now` what runs there stops at its next checkpoint and moves; else it ends first."""

    now: bool = False
    undo: bool = False
    """Have it take work again, instead."""


class Service(BaseModel):
    """A name that the gateway answers for."""

    name: str
    tenant: str
    replicas: list[str]
    """Jobs that hold chips for it."""
    ready: int
    """Those of them that answer."""


class Services(BaseModel):
    """Services that one may see."""

    services: list[Service]


class Happened(BaseModel):
    """A row of the ledger."""

    seq: int
    kind: str
    subject: str
    at_s: float
    unix_s: float
    body: dict[str, Any]


class Events(BaseModel):
    """Rows in order; ask again with `after` = `next`."""

    events: list[Happened]
    next: int


class Health(BaseModel):
    """A sign of life."""

    ok: Literal[True]


class Plant(Streams):
    """The routes."""

    def __init__(self, api: "Api"):
        super().__init__(api)
        self._works, self._told = api.works, api.told

    @route("GET", "/api/nodes", "read", response_model=Nodes)
    async def nodes(self, who: Who) -> Response:
        """Machines: whether they take work, and what runs there."""
        return Response(orjson.dumps({"nodes": await self._nodes(who)}), media_type=JSON)

    @route("POST", "/api/nodes/{node:path}/drain", "operate", response_model=Node)
    async def drain(self, node: str, who: Who, how: Drain | None = None) -> Response:
        """Have a machine take no more work, until that is undone or it joins anew."""
        works, how = self._works, how or Drain()
        done = works.undrain(node, who) if how.undo else works.drain(node, who, how.now)
        if not await done:
            raise nothing("node", node, works.plan.nodes())
        found = [row for row in await self._nodes(who, fresh=True) if row["name"] == node]
        return Response(orjson.dumps(found[0]), media_type=JSON)

    @route("GET", "/api/services", "read", response_model=Services)
    async def services(self, who: Who) -> Response:
        """What the gateway answers for, and how many replicas are ready."""
        works = self._works
        running = set(works.factory.running())
        found: dict[str, dict[str, Any]] = {}
        for job, planned in list(works.planned.items()):
            work = planned.spec.work
            if isinstance(work, Serve) and who.may("read", work.tenant):
                name = job.partition(".")[0]  # A further replica is a job of its own, `NAME.2`.
                row = {"name": name, "tenant": work.tenant, "replicas": [], "ready": 0}
                service = found.setdefault(name, row)
                if job in running:
                    service["replicas"].append(job)
                    service["ready"] += job in works.endpoints
        return Response(orjson.dumps({"services": list(found.values())}), media_type=JSON)

    @route("GET", "/api/events", "read", streams=True, response_model=Events,
           responses={200: {"content": {"text/event-stream": {}}}})  # fmt: skip
    async def events_of(
        self,
        who: Who,
        after: Annotated[int, Query(ge=0, lt=1 << 53)] = 0,
        limit: Annotated[int, Query(ge=1, le=EVENTS_MAX)] = EVENTS_MAX,
        follow: Annotated[bool, Query(description="as server-sent events, for ever")] = False,
    ) -> Response:
        """What happened to what is one's own, as it lies in the ledger."""
        if follow:
            return self.events(self._following(who, after))
        found, last = await asyncio.to_thread(self._rows, who, after, limit)
        return Response(orjson.dumps({"events": found, "next": last}), media_type=JSON)

    @route("GET", "/metrics", "operate", response_class=StreamingResponse,
           responses={200: {"content": {"text/plain": {}}}})  # fmt: skip
    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        from prometheus_client import generate_latest

        text = b"".join(generate_latest(registry) for registry in self._api.registries)
        return Response(text, media_type=METRICS)

    @route("GET", "/healthz", ANYONE, response_model=Health)
    async def health(self) -> Response:
        """Whether anybody is here; nothing else."""
        return Response(b'{"ok":true}', media_type=JSON)

    @route("GET", "/api/openapi.json", ANYONE, include_in_schema=False)
    async def openapi(self) -> Response:
        """This API as OpenAPI 3.1."""
        return Response(orjson.dumps(self._api.openapi()), media_type=JSON)

    async def _nodes(self, who: "Grant", fresh: bool = False) -> list[dict[str, Any]]:
        works = self._works
        states = await self._told.nodes(fresh)
        used: dict[str, int] = {}
        jobs: dict[str, list[str]] = {}
        for job in works.factory.running():
            for node, chips in (await self._told.of(job))["nodes"].items():
                used[node] = used.get(node, 0) + chips
                if who.may("read", works.planned[job].spec.work.tenant):
                    jobs.setdefault(node, []).append(job)
        rows = []
        for node, (pool, chips) in works.plan.nodes().items():
            state = states.get(node, "lost")
            if state == "up" and not works.factory.takes_work(node):
                state = "given up"
            rows.append(
                {
                    "name": node,
                    "pool": pool,
                    "chips": chips,
                    "used": used.get(node, 0),
                    "state": state,
                    "jobs": jobs.get(node, []),
                }
            )
        return rows

    async def _following(self, who: "Grant", after: int) -> AsyncIterator[tuple[str, str, bytes]]:
        while not self.ending():
            found, last = await asyncio.to_thread(self._rows, who, after, EVENTS_MAX)
            for row in found:
                yield row["kind"], str(row["seq"]), orjson.dumps(row)
            if last == after:
                await asyncio.sleep(LOOK_S)
            after = last

    def _rows(self, who: "Grant", after: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Rows of this run that are theirs, and the last that was looked at."""
        works = self._works
        found: list[dict[str, Any]] = []
        for row in islice(read(works.home.ledger, works.run, after), SCAN_MAX):
            after = row.seq
            if who.may("read", self._whose(row)):
                found.append({key: getattr(row, key) for key in Happened.model_fields})
                if len(found) == limit:
                    break
        return found, after

    def _whose(self, row: Row) -> str:
        """The tenant whose row it is; nobody's is for operators."""
        if row.kind.startswith("Job"):
            planned = self._works.planned.get(row.subject)
            return planned.spec.work.tenant if planned else ""
        if row.kind.startswith(("Request", "Batch")):
            return str(row.body.get("tenant") or "")
        return ""


class Figures:
    """The state of the factory, as Prometheus collects it: counted when it is asked for."""

    def __init__(self, api: "Api"):
        self._api = api

    def collect(self) -> "list[Metric]":
        """As `prometheus_client` has it."""
        from prometheus_client.core import GaugeMetricFamily

        works = self._api.works
        table = works.factory.state
        status = table.jobs["status"][: table.counts[st.JOBS]]
        jobs = GaugeMetricFamily("gigafactory_jobs", "Jobs by status.", labels=["status"])
        for name, count in zip(
            st.STATUS, np.bincount(status, minlength=len(st.STATUS)), strict=True
        ):
            jobs.add_metric([name], int(count))
        nodes = table.nodes[: table.counts[st.NODES]]
        chips = GaugeMetricFamily(
            "gigafactory_chips", "Chips of nodes that are up.", labels=["use"]
        )
        chips.add_metric(["held"], int((nodes["chips"] - nodes["free"])[nodes["up"]].sum()))
        chips.add_metric(["free"], int(nodes["free"][nodes["up"]].sum()))
        up = GaugeMetricFamily("gigafactory_nodes_up", "Nodes that are up.")
        up.add_metric([], int(nodes["up"].sum()))
        labels = ["tenant", "of", "per", "what"]
        budgets = GaugeMetricFamily(
            "gigafactory_budget", "Budgets in SI, money in units of the currency.", labels=labels
        )
        for tenant in works.house.tenants:
            for left in works.budgets.left(tenant):
                said = [tenant, left.budget.of, left.budget.per]
                figures = {"limit": left.budget.limit, "spent": left.spent, "held": left.reserved}
                for what, value in figures.items():
                    budgets.add_metric([*said, what], value)
        return [jobs, chips, up, budgets]
