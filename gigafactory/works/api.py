"""The works' address: JSON API, gateway and console in one server on the loopback.

Every route but `/v1/*`, which OpenAI's protocol guards, wants the key of this home: as
`Authorization: Bearer`, or as `?key=` where a browser opens a page.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import uvicorn
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gigafactory import plan
from gigafactory.blueprint import Blueprint
from gigafactory.blueprint.schema import AnyWorkload
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.works.driver import Works
from gigafactory.works.keys import Keys

HOST = "127.0.0.1"
LOG_BYTES_MAX = 200_000
Snapshot = Callable[[], Awaitable[dict[str, Any]]]


class Api:
    """Submit, list, read, cancel: what the command line asks of a running works."""

    def __init__(self, works: Works, blueprint: Blueprint, snapshot: Snapshot):
        self.works, self.blueprint, self._snapshot = works, blueprint, snapshot

    def routes(self) -> list[Route]:
        """To be mounted in a Starlette application."""
        return [
            Route("/api/jobs", self.jobs, methods=["GET"]),
            Route("/api/jobs", self.submit, methods=["POST"]),
            Route("/api/jobs/{name}/cancel", self.cancel, methods=["POST"]),
            Route("/api/jobs/{name}/log", self.log, methods=["GET"]),
        ]

    async def jobs(self, request: Request) -> Response:
        """Every job, as the console sees it."""
        return JSONResponse({"jobs": (await self._snapshot())["jobs"]})

    async def submit(self, request: Request) -> Response:
        """Quote a workload and, unless `quote_only`, accept it: `{name, work, quote_only}`."""
        body = await request.json()
        planned = self._planned(str(body.get("name", "")), body.get("work"))
        if not body.get("quote_only"):
            await self.works.submit(planned)
        return JSONResponse(planned.model_dump(mode="json"))

    async def cancel(self, request: Request) -> Response:
        """Cancel a job; what it has done so far is billed."""
        name = self._known(request)
        if not await self.works.cancel(name, by="local"):
            status = self.works.factory.status(name)
            raise Refused(
                Fault(f"{name!r} cannot be cancelled", name, f"it is {status}", "nothing to do")
            )
        return JSONResponse({"job": name, "status": self.works.factory.status(name)})

    async def log(self, request: Request) -> Response:
        """What the newest attempt printed, from `offset`: `{text, offset, ended}`."""
        name = self._known(request)
        number = self.works.factory.attempt(name)
        file = self.works.home.attempt(self.works.run, name, number) / "log.txt"
        offset = int(request.query_params.get("offset", 0))
        text = b""
        if file.exists():
            with open(file, "rb") as log:
                log.seek(offset)
                text = log.read(LOG_BYTES_MAX)
        return JSONResponse(
            {
                "text": text.decode(errors="replace"),
                "offset": offset + len(text),
                "ended": name not in self.works.factory.running(),
            }
        )

    def _known(self, request: Request) -> str:
        name = request.path_params["name"]
        jobs = self.works.factory.jobs()
        if name not in jobs:
            raise Refused(
                Fault(f"there is no job {name!r}", name, "none was submitted", nearest(name, jobs))
            )
        return name

    def _planned(self, name: str, work: Any) -> plan.PlannedJob:
        if name in self.works.factory.jobs():
            raise Refused(
                Fault(f"{name!r} exists already", "name", "names are for ever", "choose another")
            )
        try:
            workload = TypeAdapter(AnyWorkload).validate_python(work)
        except ValidationError as error:
            raise Refused(
                *(
                    Fault(
                        f"{name!r} is no job",
                        ".".join(map(str, e["loc"])),
                        e["msg"],
                        "`gigafactory schema blueprint` prints what a workload takes",
                    )
                    for e in error.errors()
                )
            ) from None
        known = self.works.factory.jobs()
        for before in (*workload.needs, *workload.after, *workload.through):
            if before not in known:
                raise Refused(
                    Fault(
                        f"{name!r} stands on {before!r}",
                        "work",
                        "which does not exist",
                        nearest(before, known),
                    )
                )
        return plan.submit(self.blueprint, name, workload, self.works.plan.measured)


class Guard:
    """Lets through whoever has a key of this home; `/v1/*` has a guard of its own."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and not scope["path"].startswith("/v1/"):
            request = Request(scope)
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            key = bearer or request.query_params.get("key", "")
            if self.keys.tenant_of(key) is None:
                fault = Fault(
                    "no key",
                    scope["path"],
                    "this factory answers only those who have a key",
                    "open the address that `gigafactory up` printed; the key lies in its home",
                )
                await JSONResponse(Refused(fault).to_json(), 401)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def bind(port: int) -> socket.socket:
    """A listening socket on the loopback, before anything else is begun."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        raise Refused(
            Fault(
                f"port {port} cannot be used",
                f"{HOST}:{port}",
                error.strerror or str(error),
                "choose another with --port, or 0 for any that is free",
            )
        ) from None
    return listening


class Server(uvicorn.Server):
    """Uvicorn, with signals left to the works."""

    def capture_signals(self) -> Any:
        """Catch none."""
        return nullcontext()


def serve(routes: list[Route], keys: Keys, listening: socket.socket) -> tuple[Server, asyncio.Task]:
    """Start answering on the socket; the task ends when `server.should_exit` is set."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse(error.to_json(), 422)

    app = Guard(Starlette(routes=routes, exception_handlers={Refused: refused}), keys)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    server = Server(config)
    return server, asyncio.create_task(server.serve(sockets=[listening]))
