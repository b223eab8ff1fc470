"""The works' address: the API for people and programs, behind one guard. See docs/api.md.

Wiring: `api = Api(works, blueprint)`, then `serve(split(api.app(pages), gateway), socket)`;
set `api.ending` before the server is told to exit, so that what streams comes to its end.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gigafactory.blueprint.schema import Blueprint, NewJob
from gigafactory.faults import Fault, Refused
from gigafactory.ledger.store import LedgerFailure
from gigafactory.works.api.door import Door, admitted, form
from gigafactory.works.api.firm import Firm
from gigafactory.works.api.guard import (
    ANYONE,
    COOKIE,
    Asked,
    Denied,
    Guard,
    Guarded,
    GuardedCall,
    route,
)  # fmt: skip
from gigafactory.works.api.jobs import Jobs
from gigafactory.works.api.outputs import Outputs
from gigafactory.works.api.plant import Figures, Plant
from gigafactory.works.api.quotes import Quoter
from gigafactory.works.api.server import bind, serve, split, url_of
from gigafactory.works.api.told import Told

if TYPE_CHECKING:
    from gigafactory.works.driver import Works

__all__ = ["ANYONE", "Api", "bind", "route", "serve", "split", "url_of"]

REFERENCE = "#/components/schemas/{model}"


class Api:
    """What all routes share, and the application that they make."""

    def __init__(self, works: "Works", blueprint: Blueprint):
        from prometheus_client import CollectorRegistry

        self.works, self.blueprint = works, blueprint
        self.ending = False
        self.quoter, self.told = Quoter(works, blueprint), Told(works)
        own = CollectorRegistry(auto_describe=False)
        own.register(Figures(self))
        self.registries: list[CollectorRegistry] = [own]
        """What `/metrics` tells; the gateway's may be added."""
        self._app: FastAPI | None = None
        self._openapi: dict[str, Any] = {}

    def app(self, pages: Iterable[Route] = ()) -> FastAPI:
        """The application. A page without a declared scope is for whoever may read."""
        app = FastAPI(
            title="gigafactory",
            summary="An open AI factory: jobs, tenants, budgets, bills.",
            openapi_url=None,  # Ours is guarded like the rest; the usual page loads from afar.
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            # Where OpenTelemetry is installed (Ray brings it) FastAPI would trace by itself.
            telemetry={"tracing": False, "metrics": False, "logs": False},
            exception_handlers={
                Refused: _refused,
                LedgerFailure: _unwritten,
                RequestValidationError: _invalid,
                HTTPException: _http,
                Exception: _broken,
            },
        )
        app.state.guard = Guard(self.works.house)
        for room in (Jobs(self), Outputs(self), Firm(self), Plant(self), Door(self)):
            for name in dir(type(room)):
                asked: Asked | None = getattr(getattr(type(room), name), "asked", None)
                if asked is not None:
                    self._add(app, asked, getattr(room, name))
        for page in pages:
            app.router.routes.append(_guarded(page))
        self._app = app
        return app

    def openapi(self) -> dict[str, Any]:
        """The API as OpenAPI; made when it is first asked for, since it takes half a second."""
        if not self._openapi and self._app is not None:
            self._openapi = self._described(self._app)
        return self._openapi

    def _add(self, app: FastAPI, asked: Asked, call: Any) -> None:
        more = dict(asked.more or {})
        more["openapi_extra"] = {
            **more.get("openapi_extra", {}),
            "x-scope": asked.scope,
            "security": [] if asked.scope == ANYONE else [{"key": []}, {"cookie": []}],
        }
        faults = {"description": "Refused: what, where, why, remedy", "model": _Faults}
        more["responses"] = {**more.get("responses", {}), "4XX": faults, "5XX": faults}
        app.router.add_api_route(
            asked.path, call, methods=[asked.method], route_class_override=GuardedCall, **more
        )

    def _described(self, app: FastAPI) -> dict[str, Any]:
        """The schema, with jobs as the blueprint has them, and where a key is put."""
        whole = app.openapi()
        parts = whole.setdefault("components", {})
        job = NewJob.model_json_schema(ref_template=REFERENCE)
        schemas = parts.setdefault("schemas", {})
        schemas |= {**job.pop("$defs"), "NewJob": job}
        parts["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
        }
        return whole


class _Fault(BaseModel):
    what: str
    where: str
    why: str
    remedy: str


class _Faults(BaseModel):
    errors: list[_Fault]


def _guarded(page: Route) -> Guarded:
    """A page of the console behind the guard; it is for whoever may read, unless it says more."""
    call = page.endpoint

    async def show(request: Request) -> Response:
        if request.url.path == "/" and (key := request.query_params.get("key")):
            return admitted(request, key)
        shown: Response = await call(request)
        return shown

    said: Asked | None = getattr(call, "asked", None)
    scope = said.scope if said else "read"
    show.asked = Asked("GET", page.path, scope, streams=True, page=True)  # type: ignore[attr-defined]
    return Guarded(page.path, show, methods=sorted(page.methods or ()))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    status = error.status if isinstance(error, Denied) else 422
    if status == 401 and "text/html" in request.headers.get("accept", ""):
        return form()
    headers = error.headers if isinstance(error, Denied) else None
    return _faults(status, *error.faults, headers=headers)


async def _http(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself: an unknown path or method, a body that is too large."""
    assert isinstance(error, HTTPException)
    what = HTTPStatus(error.status_code).phrase.lower()
    why = {404: "there is no such route", 405: "the route takes another method"}
    why_ = why.get(error.status_code, str(error.detail))
    where = f"{request.method} {request.url.path}"
    fault = Fault(what, where, why_, "see docs/api.md, or GET /api/openapi.json")
    return _faults(error.status_code, fault, headers=dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = []
    for one in error.errors():
        kind, *place = map(str, one["loc"])
        where = ".".join([kind, *place])
        what = f"{place[-1] if place else kind!r} cannot be read"
        hint = "write it as 2026-11" if place == ["month"] else "see GET /api/openapi.json"
        faults.append(Fault(what, where, one["msg"], hint))
    return _faults(422, *faults)


async def _unwritten(request: Request, error: Exception) -> Response:
    why = "nothing of it was accepted"
    fault = Fault("the ledger cannot be written", "the ledger", why, "try again in a moment")
    return _faults(503, fault, headers={"Retry-After": "5"})


async def _broken(request: Request, error: Exception) -> Response:
    """Our mistake: the terminal of the works has the whole of it."""
    why = f"{type(error).__name__}, a mistake of ours"
    return _faults(500, Fault("this went wrong", request.url.path, why, "see the works' terminal"))


def _faults(status: int, *faults: Fault, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(Refused(*faults).to_json())
    return Response(body, status, headers, "application/json")
