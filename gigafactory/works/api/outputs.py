"""What jobs leave, over HTTP: their logs and their files, to be read by their own tenant."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import orjson
from fastapi import Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gigafactory.works.api import files
from gigafactory.works.api.guard import Who, route
from gigafactory.works.api.stream import LOOK_S, OfJobs

LOG_BYTES_MAX = 200_000
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


class Piece(BaseModel):
    """Part of a log; ask again from `offset`."""

    text: str
    offset: int
    ended: bool


class Artifact(BaseModel):
    """A file that a job left."""

    path: str
    bytes: int
    changed_unix_s: float


class Artifacts(BaseModel):
    """What the newest attempt of a job left; `committed` where it is the job's output."""

    attempt: int
    committed: bool
    files: list[Artifact]
    cursor: int | None
    """Where more follow: ask again with it, until it is null."""


class Outputs(OfJobs):
    """The routes."""

    @route("GET", "/api/jobs/{job}/logs", "read", streams=True, response_model=Piece)
    async def logs(
        self,
        job: str,
        who: Who,
        offset: Annotated[int, Query(ge=0, lt=1 << 53)] = 0,
        follow: Annotated[
            bool, Query(description="the text alone, as it comes, to the end")
        ] = False,
    ) -> Response:
        """What the newest attempt printed, from `offset`."""
        self.own(job, who)
        if follow:
            return StreamingResponse(self._followed(job, offset), media_type="text/plain")
        ended = self.is_over(job)  # Before the look: what is printed last is still read.
        text = files.read_from(self._attempt(job), "log.txt", offset, LOG_BYTES_MAX)
        whole = {
            "text": text.decode(errors="replace"),
            "offset": offset + len(text),
            "ended": ended or job not in self._works.factory.running(),
        }
        return Response(orjson.dumps(whole), media_type="application/json")

    @route("GET", "/api/jobs/{job}/artifacts", "read", response_model=Artifacts)
    async def artifacts(
        self,
        job: str,
        who: Who,
        cursor: Annotated[int, Query(ge=0, lt=1 << 53)] = 0,
        limit: Annotated[int, Query(ge=1, le=files.FILES_MAX)] = files.FILES_MAX,
    ) -> Response:
        """The files that the newest attempt left, by name."""
        self.own(job, who)
        some = files.listed(self._attempt(job) / "output", most=limit + 1, cursor=cursor)
        found = await asyncio.to_thread(list, some)
        whole = {
            "attempt": self._works.factory.attempt(job),
            "committed": self._works.factory.status(job) == "done",
            "files": found[:limit],
            "cursor": cursor + limit if len(found) > limit else None,
        }
        return Response(orjson.dumps(whole), media_type="application/json")

    @route("GET", "/api/jobs/{job}/artifacts/{path:path}", "read", streams=True,
           response_class=StreamingResponse,
           responses={code: {"content": BYTES} for code in (200, 206)})  # fmt: skip
    async def artifact(self, job: str, path: str, request: Request, who: Who) -> Response:
        """One of the files, or a range of it."""
        self.own(job, who)
        folder, ranges = self._attempt(job) / "output", request.headers.get("range", "")
        # A page that a job made must not act in the name of who looks at it.
        return files.sent(folder, path, ranges, "application/octet-stream", "attachment")

    async def _followed(self, job: str, offset: int) -> AsyncIterator[bytes]:
        """A log as it grows; an attempt after it begins anew."""
        folder = self._attempt(job)
        while not self.ending():
            over, newest = self.is_over(job), self._attempt(job)
            text = files.read_from(folder, "log.txt", offset, LOG_BYTES_MAX)
            offset += len(text)
            if text:
                yield text
            elif newest != folder:
                folder, offset = newest, 0
            elif over:
                return
            else:
                await asyncio.sleep(LOOK_S)

    def _attempt(self, job: str) -> Path:
        works = self._works
        return works.home.attempt(works.run, job, works.factory.attempt(job))
