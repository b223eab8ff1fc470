"""How a browser comes in: it shows a key once, and from then on a cookie that no script reads."""

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gigafactory.faults import Fault
from gigafactory.works.api.guard import ANYONE, COOKIE, Denied, Who, route, same_origin

if TYPE_CHECKING:
    from gigafactory.works.api import Api

PRIVATE = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}
FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><title>gigafactory</title>
<meta name="viewport" content="width=device-width">
<style>body{font:16px/1.5 system-ui;max-width:26rem;margin:20vh auto;padding:0 1rem}
input,button{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.3rem 0}</style>
<h1>gigafactory</h1><form method="post" action="/login">
<label>Your key <input name="key" type="password" autocomplete="current-password" required
autofocus></label><button>Come in</button></form>
<p>The key of this machine's own user lies in the factory's home; others are made with
<code>gigafactory keys make</code>.</p></html>"""


class Me(BaseModel):
    """Who asks, and what their key is good for."""

    user: str
    tenant: str
    scopes: list[str]
    key: str
    """The key's id, which is no secret."""
    expires_unix_s: float | None


class Door:
    """The routes."""

    def __init__(self, api: "Api"):
        self._house = api.works.house

    @route("POST", "/login", ANYONE, include_in_schema=False)
    async def login(self, request: Request) -> Response:
        """Take a key from our form, and leave it in a cookie."""
        said = parse_qs((await request.body()).decode(errors="replace"))
        token = said.get("key", [""])[0].strip()
        if not same_origin(request) or self._house.who(token) is None:
            why = "it was revoked, it ran out, or it never was one"
            fault = Fault("this key is not known here", "/login", why, "try another")
            raise Denied(401, fault)
        return admitted(request, token)

    @route("POST", "/logout", ANYONE, include_in_schema=False)
    async def logout(self, request: Request) -> Response:
        """Forget the key."""
        response = RedirectResponse("/", 303, PRIVATE)
        if same_origin(request):
            response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    @route("GET", "/api/me", "read", response_model=Me)
    async def me(self, who: Who) -> dict[str, Any]:
        """Who asks."""
        return {
            "user": who.user,
            "tenant": who.tenant,
            "scopes": sorted(who.scopes),
            "key": who.key,
            "expires_unix_s": who.expires_unix_s,
        }


def admitted(request: Request, token: str) -> Response:
    """To the first page, with the key in a cookie and no more in the address."""
    response = RedirectResponse("/", 303, PRIVATE)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
    return response


def form() -> Response:
    """What a browser without a key is shown."""
    return HTMLResponse(FORM, 401, PRIVATE)
