"""Jobs over HTTP: quote, submit one or thousands, list, look, watch, cancel.

Times are Unix seconds, bytes are bytes, money is in micro-units of the blueprint's currency.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gigafactory.blueprint.schema import JobSpec
from gigafactory.faults import Fault, Refused
from gigafactory.plan import PlannedJob, Quote
from gigafactory.works.api.guard import Who, route
from gigafactory.works.api.quotes import exists
from gigafactory.works.api.stream import LOOK_S, OVER, OfJobs, long_enough

if TYPE_CHECKING:
    from gigafactory.works.api import Api
    from gigafactory.works.house import Grant

PAGE_MAX = 1000
SCAN_MAX = 20_000  # jobs looked at for one page, so that nobody's question holds up the rest
TURN = 50  # jobs of a batch that are planned before others have their turn

Status = Literal[
    "waiting", "queued", "starting", "running", "stopping", "paused",
    "done", "failed", "cancelled", "blocked",
]  # fmt: skip


class Verdict(BaseModel):
    """One threshold of a gate, and what was measured."""

    metric: str
    threshold: str
    value: Any
    """A number, or what was found in its place."""
    passed: bool
    reason: str | None = None


class JobRow(BaseModel):
    """Where a job stands now."""

    name: str
    tenant: str
    kind: str
    chips: int
    priority: int
    status: Status
    why: str
    """What it waits for, or why it will never start."""
    attempts: int
    progress: dict[str, Any]
    passed: bool | None
    """Whether it is done and, where it has a gate, has passed it."""
    verdicts: list[Verdict]
    """Of a gate: each threshold beside what was measured."""


class Used(BaseModel):
    """What all attempts that ended used; energy and carbon are modelled where no meter is."""

    chip_s: float
    energy_j: float
    carbon_g: float
    money_micro: int


class JobWhole(JobRow):
    """A job with all that is known of it."""

    seq: int
    """Of the ledger's last row about it; give it as `after` to wait for the next."""
    submitted_unix_s: float | None
    started_unix_s: float | None
    ended_unix_s: float | None
    nodes: dict[str, int]
    """Chips on each node of the newest attempt."""
    used: Used
    results: dict[str, Any] | None
    error: dict[str, Any] | None
    cancelled_by: str | None
    """TENANT/USER:KEY, or `services` for a replica that nobody asked."""
    spec: JobSpec
    quote: Quote
    currency: str


class Priced(PlannedJob):
    """A job as it is planned, with the currency of its quote."""

    currency: str


class Page(BaseModel):
    """Some of the jobs, in the order they came; ask again with `cursor` until it is null."""

    jobs: list[JobRow]
    cursor: int | None


class Answered(BaseModel):
    """What became of one job of a batch."""

    name: str
    accepted: bool
    duration_s: float | None = None
    money: float | None = None
    errors: list[dict[str, str]] | None = None


class Batch(BaseModel):
    """Each job for itself: some may be accepted where others were refused."""

    accepted: int
    refused: int
    jobs: list[Answered]


class Cancelled(BaseModel):
    """Where a job stands after it was cancelled."""

    job: str
    status: Status


OFFER = {"$ref": "#/components/schemas/NewJob"}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


OFFERS = {
    "type": "object",
    "required": ["jobs"],
    "properties": {"jobs": {"type": "array", "items": OFFER}},
}


class Jobs(OfJobs):
    """The routes."""

    def __init__(self, api: "Api"):
        super().__init__(api)
        self._quoter, self._told = api.quoter, api.told

    @route("POST", "/api/jobs", "submit", response_model=Priced, openapi_extra=_body(OFFER))
    async def submit(self, request: Request, who: Who) -> Response:
        """Accept a job at the price it is quoted; it is in the ledger when this answers."""
        planned = await self._quoted(request, who)
        if not await self._works.submit(planned, str(who)):
            raise Refused(exists(planned.spec.name))
        await self.record(who, "job.submit", planned.spec.name, tenant=planned.spec.work.tenant)
        return self._priced(planned)

    @route("POST", "/api/jobs/quote", "read", response_model=Priced, openapi_extra=_body(OFFER))
    async def quote(self, request: Request, who: Who) -> Response:
        """What a job would take; nothing is accepted."""
        return self._priced(await self._quoted(request, who))

    @route("POST", "/api/jobs/batch", "submit", response_model=Batch, openapi_extra=_body(OFFERS))
    async def batch(self, request: Request, who: Who) -> Response:
        """Accept many jobs in one commit, each for itself; later ones may stand on earlier ones."""
        said = await _said(request)
        offers = said.get("jobs")
        if not isinstance(offers, list) or said.keys() != {"jobs"}:
            raise Refused(
                Fault("this is no batch", "body", "it has no list of jobs", "send {jobs}")
            )
        answers: list[dict[str, Any]] = [{} for _ in offers]
        planned: dict[str, PlannedJob] = {}
        places: list[int] = []
        await self._quoter.freshen()
        seen = self._quoter.seen_by(_sees(who, "submit"), planned)
        for place, offer in enumerate(offers):
            if place % TURN == TURN - 1:
                await asyncio.sleep(0)
            name = str(offer.get("name", "")) if isinstance(offer, dict) else ""
            try:
                job = self._quoter.planned(seen, *_offer(offer, who))
                if name in planned:
                    raise Refused(exists(name))
            except Refused as refused:
                answers[place] = {"name": name, "accepted": False, **refused.to_json()}
                continue
            planned[name] = job
            places.append(place)
        taken = await self._works.submit_many(list(planned.values()), str(who)) if planned else []
        for place, job, is_taken in zip(places, planned.values(), taken, strict=True):
            answer = {"name": job.spec.name, "accepted": is_taken}
            if is_taken:
                answer["duration_s"] = job.quote.duration_s.value
                answer["money"] = job.quote.money.value
            else:
                answer |= Refused(exists(job.spec.name)).to_json()
            answers[place] = answer
        accepted = sum(taken)
        if accepted:
            names = [job["name"] for job in answers if job["accepted"]]
            await self.record(who, "job.submit", f"{accepted} jobs", names=names)
        whole = {"accepted": accepted, "refused": len(offers) - accepted, "jobs": answers}
        return _json(orjson.dumps(whole))

    @route("GET", "/api/jobs", "read", response_model=Page)
    async def jobs(
        self,
        who: Who,
        tenant: str | None = None,
        status: Status | None = None,
        cursor: Annotated[int, Query(ge=0, lt=1 << 53)] = 0,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_MAX,
    ) -> Response:
        """The jobs that one may see, in the order they came."""
        names = self._works.factory.jobs()
        sees = _sees(who, "read")
        found: list[dict[str, Any]] = []
        at = cursor
        for name in islice(names, cursor, cursor + SCAN_MAX):
            if len(found) == limit:
                break
            at += 1
            whose = self._works.planned[name].spec.work.tenant
            if not sees(whose) or tenant not in (None, whose):
                continue
            if status in (None, self._works.factory.status(name)):
                found.append(self._row(name, await self._told.of(name)))
        whole = {"jobs": found, "cursor": at if at < len(names) else None}
        return _json(orjson.dumps(whole, default=str))

    @route("GET", "/api/jobs/{job}", "read", response_model=JobWhole)
    async def job(
        self,
        job: str,
        who: Who,
        after: Annotated[
            int | None, Query(ge=0, lt=1 << 53, description="wait for a row beyond this `seq`")
        ] = None,
    ) -> Response:
        """All that is known of a job; with `after`, when more is, or after half a minute."""
        self.own(job, who)
        told = await self._told.of(job)
        async for _ in long_enough(self):
            if after is None or told["seq"] > after or self.is_over(job):
                break
            told = await self._told.of(job)
        return _json(await self._whole(job))

    @route("GET", "/api/jobs/{job}/watch", "read", streams=True, response_class=StreamingResponse,
           responses={200: {"content": {"text/event-stream": {}}}})  # fmt: skip
    async def watch(self, job: str, who: Who) -> Response:
        """Server-sent events: `status` whenever something changes, then `end` with the whole."""
        self.own(job, who)

        async def told() -> AsyncIterator[tuple[str, str, bytes]]:
            before = None
            while not self.ending():
                row = self._row(job, await self._told.of(job, fresh=self.is_over(job)))
                if row != before:
                    before = row
                    yield "status", "", orjson.dumps(row, default=str)
                if row["status"] in OVER:
                    yield "end", "", await self._whole(job, fresh=True)
                    return
                await asyncio.sleep(LOOK_S)

        return self.events(told())

    @route("POST", "/api/jobs/{job}/cancel", "submit", response_model=Cancelled)
    async def cancel(self, job: str, who: Who) -> Response:
        """Cancel a job; what it has done so far is billed."""
        self.own(job, who, "submit")
        if not await self._works.cancel(job, str(who)):
            why = f"it is {self._works.factory.status(job)}"
            raise Refused(Fault(f"{job!r} cannot be cancelled", job, why, "nothing to do"))
        await self.record(who, "job.cancel", job, tenant=self._works.planned[job].spec.work.tenant)
        return _json(orjson.dumps({"job": job, "status": self._works.factory.status(job)}))

    def _priced(self, planned: PlannedJob) -> Response:
        of = dict(planned)  # Shallow: nothing is validated again.
        priced = Priced.model_construct(**of, currency=self._works.plan.currency)
        return _json(priced.model_dump_json())

    async def _quoted(self, request: Request, who: "Grant") -> PlannedJob:
        name, work = _offer(await _said(request), who)
        await self._quoter.freshen()
        return self._quoter.planned(self._quoter.seen_by(_sees(who, "submit")), name, work)

    def _row(self, job: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """As `JobRow` has it, with what the ledger told."""
        works = self._works
        work = works.planned[job].spec.work
        return {
            "name": job,
            "tenant": work.tenant,
            "kind": work.kind,
            "chips": work.chips,
            "priority": work.priority,
            "status": works.factory.status(job),
            "why": self.why(job),
            "attempts": works.factory.attempt(job),
            "progress": works.progress.get(job, {}),
            "passed": told["passed"],
            "verdicts": (told["results"] or {}).get("verdicts") or [],
        }

    async def _whole(self, job: str, fresh: bool = False) -> bytes:
        """As `JobWhole` has it."""
        planned = self._works.planned[job]
        more = {
            "spec": planned.spec.model_dump(mode="json"),
            "quote": planned.quote.model_dump(mode="json"),
            "currency": self._works.plan.currency,
        }
        told = await self._told.of(job, fresh)
        return orjson.dumps({**self._row(job, told), **told, **more}, default=str)


def _sees(who: "Grant", scope: str) -> Any:
    return lambda tenant: who.may(scope, tenant)


async def _said(request: Request) -> dict[str, Any]:
    """The body, which is a JSON object."""
    try:
        said = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise Refused(Fault("this cannot be read", "body", "it is no JSON object", "send JSON"))
    return said


def _offer(offer: Any, who: "Grant") -> tuple[str, Any]:
    """Name and work of `{name, work}`; who asks is who pays, where nobody is named."""
    right = isinstance(offer, dict) and {"name"} <= offer.keys() <= {"name", "work"}
    if not right or not isinstance(offer["name"], str):
        raise Refused(Fault("this is no job", "body", "it must be {name, work}", "send that"))
    work = offer.get("work")
    if isinstance(work, dict):
        work = {"tenant": who.tenant, **work}
    return offer["name"], work


def _json(text: str | bytes) -> Response:
    return Response(text, media_type="application/json")
