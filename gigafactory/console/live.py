"""The live page: one HTML file with style and script inside, which polls `/api/view`.

It asks nothing of any other host; the content security policy has the browser see to that.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

ASSETS = Path(__file__).parent
FRESH_S = 0.9  # a snapshot is shared by all who ask within this time
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",  # the address bears the key
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}

Snapshot = Callable[[], Awaitable[dict[str, Any]]]


def routes(snapshot: Snapshot) -> list[Route]:
    """The page and what it polls; whoever mounts them guards them by key."""
    fresh, whole = _Fresh(snapshot), page()

    async def show(request: Request) -> Response:
        return HTMLResponse(whole, headers=HEADERS)

    async def api_view(request: Request) -> Response:
        return JSONResponse(await fresh.get(), headers=HEADERS)

    return [Route("/", show, methods=["GET"]), Route("/api/view", api_view, methods=["GET"])]


def page() -> str:
    """The page, whole: style and script lie in it, so it needs no second request."""
    text = _asset("page.html").replace("/* style */", _asset("style.css"))
    return text.replace("/* script */", _asset("page.js"))


class _Fresh:
    """The newest snapshot, made at most once in `FRESH_S` however many look on."""

    def __init__(self, snapshot: Snapshot):
        self._snapshot = snapshot
        self._lock = asyncio.Lock()
        self._view: dict[str, Any] = {}
        self._made_s = float("-inf")

    async def get(self) -> dict[str, Any]:
        async with self._lock:
            if time.monotonic() - self._made_s > FRESH_S:
                self._view = await self._snapshot()
                self._made_s = time.monotonic()
            return self._view


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
