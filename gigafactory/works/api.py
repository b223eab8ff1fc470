"""The works' address: JSON API, gateway and console in one server on the loopback.

Every route but `/v1/*`, which OpenAI's protocol guards, wants the key of this home: as
`Authorization: Bearer`, or as `?key=` where a browser opens a page.
"""

import asyncio
import hmac
import socket
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gigafactory import plan
from gigafactory.blueprint import Blueprint
from gigafactory.blueprint.load import grow
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.works import history
from gigafactory.works.driver import Works

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
        try:
            body = dict(await request.json())
        except (ValueError, TypeError):
            raise Refused(
                Fault("this is no job", "body", "it is no JSON object", "send {name, work}")
            ) from None
        planned = self._planned(str(body.get("name", "")), body.get("work"))
        if not body.get("quote_only") and not await self.works.submit(planned):
            raise Refused(_exists(planned.spec.name))
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
        asked = request.query_params.get("offset", "0")
        offset = int(asked) if asked.isdigit() else 0
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
        """The job planned, as if the blueprint had it: nothing passes here that fails there."""
        if name in self.works.factory.jobs():
            raise Refused(_exists(name))
        known = {job: planned.spec.work for job, planned in self.works.planned.items()}
        grown = grow(self.blueprint, known, name, work)
        home = self.works.home
        measured = history.measured(home.path, home.ledger)  # what jobs took up to now
        return plan.submit(grown, name, grown.workloads[name], measured)


def _exists(name: str) -> Fault:
    return Fault(f"{name!r} exists already", "name", "names are for ever", "choose another")


class Guard:
    """Lets through whoever has this home's own key; `/v1/*` has a guard of its own."""

    def __init__(self, app: ASGIApp, key: str):
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and not scope["path"].startswith("/v1/"):
            request = Request(scope)
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            key = bearer or request.query_params.get("key", "")
            if not hmac.compare_digest(key.encode(), self.key.encode()):
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


def serve(routes: list[Route], key: str, listening: socket.socket) -> tuple[Server, asyncio.Task]:
    """Start answering on the socket; the task ends when `server.should_exit` is set."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse(error.to_json(), 422)

    app = Guard(Starlette(routes=routes, exception_handlers={Refused: refused}), key)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    server = Server(config)
    return server, asyncio.create_task(server.serve(sockets=[listening]))
