"""The live pages: drawn on the server from what `board` gathers, each asker seeing their own.

A page asks nothing of any other host, runs no script but `page.js` and no style but
`style.css`; the content security policy has the browser see to that. Everything works without
the script, which only keeps pages fresh and follows logs.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from gigafactory.console import gallery, words
from gigafactory.console.curve import curve
from gigafactory.console.tail import LINES_MAX, told
from gigafactory.faults import Fault, Refused

ASSETS = Path(__file__).parent
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self';"
    " connect-src 'self'; img-src 'self' data:; media-src 'self'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'",
    # Within the factory only, so that a form's origin can be told.
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}
MONTH = re.compile(r"[1-9][0-9]{3}-(0[1-9]|1[0-2])")
EXAMPLE = """\
name: my-judge
kind: evaluate
of: some-model
suite: bits_per_byte
"""
Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a key must be good for, to be read by the guard that these routes are put behind."""

    scope: str


def routes(board: Any) -> list[Route]:
    """The pages; whoever mounts them guards them, and leaves the grant in `request.state`.

    The `board` is that of the works, which this room does not know: each page and each form is a
    method of it, told the grant of whoever asks.
    """
    pages = Pages(board)
    get: list[tuple[str, Any]] = [
        ("/", pages.factory),
        ("/queue", pages.queue),
        ("/jobs", pages.jobs),
        ("/jobs/{job}", pages.job),
        ("/jobs/{job}/media/{path:path}", pages.media),
        ("/gallery", pages.gallery),
        ("/submit", pages.submit),
        ("/tenants", pages.tenants),
        ("/tenants/{tenant}", pages.tenant),
        ("/bills", pages.bills),
        ("/bills/{tenant}/{month}", pages.bill),
        ("/gateway", pages.gateway),
        ("/console/{name}", pages.asset),
    ]
    post: list[tuple[str, str, Any]] = [
        ("/submit", "submit", pages.submit),
        ("/jobs/{job}/cancel", "submit", pages.cancel),
        ("/tenants", "operate", pages.add_tenant),
        ("/tenants/{tenant}", "manage", pages.set_tenant),
        ("/tenants/{tenant}/keys", "manage", pages.make_key),
        ("/tenants/{tenant}/keys/{key}/revoke", "manage", pages.revoke),
        ("/tenants/{tenant}/users", "manage", pages.set_user),
        ("/nodes/{node:path}/drain", "operate", pages.drain),
    ]
    return [
        *(_route(path, "GET", "read", call) for path, call in get),
        _route("/audit", "GET", "operate", pages.audit),
        *(_route(path, "POST", scope, call) for path, scope, call in post),
    ]


def _route(path: str, method: str, scope: str, call: Callable) -> Route:
    async def answer(request: Request) -> Response:
        try:
            response: Response = await call(request)
        except Refused as refused:
            response = call.__self__.refused(request, refused)  # type: ignore[attr-defined]
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    answer.asked = Asked(scope)  # type: ignore[attr-defined]
    return Route(path, answer, methods=[method])


class Pages:
    """The answers to the routes."""

    def __init__(self, board: Any):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self._board = board
        self._assets = {
            "style.css": ("text/css", (ASSETS / "style.css").read_bytes()),
            "page.js": ("text/javascript", (ASSETS / "page.js").read_bytes()),
        }
        self._templates = templates = Environment(
            loader=FileSystemLoader(ASSETS / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        for name in ("duration", "digits", "scaled", "money", "percent", "when", "plain",
                     "budget", "budget_line", "counted", "highlights", "level",
                     "verdict"):  # fmt: skip
            templates.filters[name] = getattr(words, name)
        templates.filters["figure"] = gallery.figure
        templates.globals.update(
            count=words.count,
            signs=words.SIGNS,
            told=told,
            version={
                name: hashlib.sha256(body).hexdigest()[:12]
                for name, (_, body) in self._assets.items()
            },
        )

    # Pages.

    async def factory(self, request: Request) -> Response:
        """What there is now."""
        who = request.state.grant
        shown = await self._board.factory(who)
        shown["ledger"] = shown["ledger"][-LINES_MAX:][::-1]
        return self._page(request, "factory.html", **shown)

    async def queue(self, request: Request) -> Response:
        """What runs, what waits, and why."""
        return self._page(request, "queue.html", **await self._board.queue(request.state.grant))

    async def jobs(self, request: Request) -> Response:
        """All jobs, a page at a time."""
        shown = await self._board.jobs(request.state.grant, _before(request))
        return self._page(request, "jobs.html", **shown)

    async def job(self, request: Request) -> Response:
        """One job."""
        shown = await self._board.job(request.state.grant, request.path_params["job"])
        drawn = curve(shown["name"], shown.pop("curve"))
        shown["exhibit"] = exhibit = gallery.exhibit(shown.pop("exhibits"))
        again = exhibit["drawn"] if exhibit else ()
        said = words.highlights(shown["results"])
        shown["chips_said"] = {name: value for name, value in said.items() if name not in again}
        return self._page(request, "job.html", job=shown, drawn=drawn)

    async def gallery(self, request: Request) -> Response:
        """What jobs made, for the eye."""
        shown = await self._board.gallery(request.state.grant, _before(request))
        jobs = [one for job in shown["jobs"] if (one := gallery.exhibit(job))]
        return self._page(request, "gallery.html", jobs=jobs, older=shown["older"])

    async def media(self, request: Request) -> Response:
        """A picture or a film; kept by the browser, for this key alone."""
        job, path = request.path_params["job"], request.path_params["path"]
        ranges = request.headers.get("range", "")
        response: Response = self._board.media(request.state.grant, job, path, ranges)
        response.headers["cache-control"] = "private, max-age=3600"
        response.headers["vary"] = "cookie, authorization"
        return response

    async def submit(self, request: Request) -> Response:
        """A job as YAML: its price, and then its acceptance."""
        form = await _form(request)
        text, quoted = form.get("job", ""), None
        faults: tuple[Fault, ...] = ()
        try:
            if form.get("do") == "accept":
                return _see(f"/jobs/{await self._board.submit(request.state.grant, text)}")
            if text:
                quoted = await self._board.quote(request.state.grant, text)
        except Refused as refused:
            faults = refused.faults
        return self._page(
            request,
            "submit.html",
            status=422 if faults else 200,
            text=text or EXAMPLE,
            quoted=quoted,
            faults=faults,
        )

    async def tenants(self, request: Request) -> Response:
        """Who shares the factory."""
        return self._page(request, "tenants.html", **await self._board.tenants(request.state.grant))

    async def tenant(self, request: Request) -> Response:
        """One tenant: limits, budgets, keys."""
        shown = await self._board.tenant(request.state.grant, request.path_params["tenant"])
        return self._page(request, "tenant.html", tenant=shown)

    async def bills(self, request: Request) -> Response:
        """The bills of a month."""
        month = _month(request.query_params.get("month") or time.strftime("%Y-%m", time.gmtime()))
        bills = await self._board.bills(request.state.grant, month)
        return self._page(request, "bills.html", month=month, bills=bills, months=_around(month))

    async def bill(self, request: Request) -> Response:
        """One bill, to be printed."""
        tenant, month = request.path_params["tenant"], _month(request.path_params["month"])
        await self._board.tenant(request.state.grant, tenant)  # Whether one may know of it at all.
        found = await self._board.bills(request.state.grant, month)
        bills = [bill for bill in found if bill["tenant"] == tenant]
        return self._page(request, "bill.html", tenant=tenant, month=month, bills=bills)

    async def gateway(self, request: Request) -> Response:
        """Services and requests."""
        return self._page(request, "gateway.html", **self._board.gateway(request.state.grant))

    async def audit(self, request: Request) -> Response:
        """Who did what."""
        verify = "verify" in request.query_params
        shown = await self._board.audit(request.state.grant, verify)
        return self._page(request, "audit.html", **shown)

    async def asset(self, request: Request) -> Response:
        """Style and script; the address changes with the content."""
        name = request.path_params["name"]
        if name not in self._assets:
            raise Refused(Fault(f"there is no {name!r}", request.url.path, "no file", "look again"))
        kind, body = self._assets[name]
        return Response(body, media_type=kind, headers={"cache-control": "private, max-age=86400"})

    # Forms.

    async def cancel(self, request: Request) -> Response:
        """Cancel a job."""
        job = request.path_params["job"]
        await self._board.cancel(request.state.grant, job)
        return _see(f"/jobs/{job}")

    async def add_tenant(self, request: Request) -> Response:
        """A new tenant, without limits."""
        name = (await _form(request)).get("name", "").strip()
        await self._board.set_tenant(request.state.grant, name, {})
        return _see(f"/tenants/{name}")

    async def set_tenant(self, request: Request) -> Response:
        """Other limits."""
        tenant = request.path_params["tenant"]
        await self._board.set_tenant(request.state.grant, tenant, await _form(request))
        return _see(f"/tenants/{tenant}")

    async def make_key(self, request: Request) -> Response:
        """A key, shown this once: so the answer is a page and no redirect."""
        tenant, form = request.path_params["tenant"], await _form(request)
        user, role = form.get("user", "").strip(), form.get("role", "")
        days = form.get("days", "")
        key, made = await self._board.make_key(request.state.grant, tenant, user, role, days)
        return self._page(request, "key.html", key=key, made=made)

    async def revoke(self, request: Request) -> Response:
        """A key opens nothing any more."""
        tenant = request.path_params["tenant"]
        await self._board.revoke(request.state.grant, tenant, request.path_params["key"])
        return _see(f"/tenants/{tenant}")

    async def set_user(self, request: Request) -> Response:
        """What a user is."""
        tenant, form = request.path_params["tenant"], await _form(request)
        user, role = form.get("user", "").strip(), form.get("role", "")
        await self._board.set_user(request.state.grant, tenant, user, role)
        return _see(f"/tenants/{tenant}")

    async def drain(self, request: Request) -> Response:
        """A machine takes no more work."""
        await self._board.drain(request.state.grant, request.path_params["node"])
        return _see("/queue")

    def refused(self, request: Request, refused: Refused) -> Response:
        """What went wrong, in its four parts."""
        status = getattr(refused, "status", 422)
        title = "There is no such thing here" if status == 404 else "This was not done"
        response = self._page(
            request, "refused.html", status=status, faults=refused.faults, title=title
        )
        response.headers.update(getattr(refused, "headers", None) or {})
        return response

    def _page(self, request: Request, template: str, status: int = 200, **shown: Any) -> Response:
        whole = self._templates.get_template(template).render(
            who=request.state.grant, path=request.url.path, origin=str(request.base_url), **shown
        )
        return HTMLResponse(whole, status)


def _before(request: Request) -> int | None:
    """The number of a job before which those to be shown came."""
    text = request.query_params.get("before", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _month(text: str) -> str:
    if not MONTH.fullmatch(text):
        fault = Fault(
            f"{text[:20]!r} is no month", "month", "it has another form", "write it as 2026-11"
        )
        raise Refused(fault)
    return text


def _around(month: str) -> tuple[str, str]:
    """The months before and after."""
    year, number = map(int, month.split("-"))
    before, after = year * 12 + number - 2, year * 12 + number
    return tuple(f"{at // 12:04}-{at % 12 + 1:02}" for at in (before, after))  # type: ignore[return-value]


def _see(path: str) -> Response:
    """After a form is done, look at what became of it."""
    return RedirectResponse(path, 303)


async def _form(request: Request) -> dict[str, str]:
    """What a form says; nothing where none was sent."""
    if request.method != "POST":
        return {}
    said = parse_qs((await request.body()).decode(errors="replace"), keep_blank_values=True)
    return {name: values[0].replace("\r\n", "\n") for name, values in said.items()}
