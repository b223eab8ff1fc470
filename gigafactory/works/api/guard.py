"""Who may come in: the one door in front of every route, shut unless the route says for whom.

A route is made with `@route(METHOD, PATH, SCOPE)` and cannot be reached without a scope. A key
comes as `Authorization: Bearer`, or in a cookie that a browser sends from our own pages only.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gigafactory.faults import Fault, Refused, nearest

if TYPE_CHECKING:
    from gigafactory.works.house import Grant, House

ANYONE = "anyone"
COOKIE = "gigafactory-key"
BODY_BYTES_MAX = 1 << 20
ANSWER_S_MAX = 60.0  # for a route that does not stream
PER_S, BURST = 500.0, 2000.0  # requests of one key, generous: a thousand jobs fit in one request
KEYS_MAX = 10_000  # buckets that are remembered
STREAMS_MAX = 100  # that one key may have open
HINT_LETTERS_MAX = 100  # of a name that is not known: to compare longer ones takes long
SAFE = ("GET", "HEAD")

Call = TypeVar("Call", bound=Callable[..., Any])


class Denied(Refused):
    """A refusal that HTTP has a number for."""

    def __init__(self, status: int, fault: Fault, headers: dict[str, str] | None = None):
        super().__init__(fault)
        self.status, self.headers = status, headers


@dataclass(frozen=True)
class Asked:
    """What a route says of itself: how it is asked, and what a key must be good for."""

    method: str
    path: str
    scope: str
    streams: bool = False
    page: bool = False
    """For a browser, that may bring the key in the address once: `/?key=`."""
    more: dict[str, Any] | None = None


def route(
    method: str, path: str, scope: str, streams: bool = False, **more: Any
) -> Callable[[Call], Call]:
    """Declare a route; `more` goes to FastAPI. One that streams may take as long as it likes."""

    def declare(call: Call) -> Call:
        call.asked = Asked(method, path, scope, streams, more=more)  # type: ignore[attr-defined]
        return call

    return declare


class Guarded(Route):
    """A route behind the guard; without a declared scope it lets nobody in."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or raise, then answer."""
        if self.methods and scope["method"] not in self.methods:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.methods))})
        asked: Asked | None = getattr(self.endpoint, "asked", None)
        guard: Guard = scope["app"].state.guard
        grant = guard.admit(Request(scope), asked)
        scope.setdefault("state", {})["grant"] = grant
        assert asked is not None
        counted = _Counted(receive)
        limit_s = None if asked.streams else ANSWER_S_MAX
        try:
            with guard.streaming(grant if asked.streams else None, self.path):
                async with asyncio.timeout(limit_s):
                    await super().handle(scope, counted, send)
        except TimeoutError:
            fault = Fault(
                "the answer takes too long",
                self.path,
                f"it was not there after {ANSWER_S_MAX:.0f} s",
                "ask for less at once, or try again",
            )
            raise Denied(504, fault) from None


class GuardedCall(Guarded, APIRoute):
    """The same for a typed route of FastAPI."""


class Guard:
    """Knows keys, and how often each asked."""

    def __init__(self, house: "House", clock: Callable[[], float] = time.monotonic):
        self._house, self._clock = house, clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._streams: Counter[str] = Counter()

    @contextmanager
    def streaming(self, grant: "Grant | None", where: str) -> Iterator[None]:
        """Count an answer that goes on, while it does."""
        if grant is None:
            yield
            return
        if self._streams[grant.key] >= STREAMS_MAX:
            why, hint = f"a key may have {STREAMS_MAX}", "end one before the next"
            fault = Fault("too many answers are under way", where, why, hint)
            raise Denied(429, fault, {"Retry-After": "1"})
        self._streams[grant.key] += 1
        try:
            yield
        finally:
            self._streams[grant.key] -= 1
            if not self._streams[grant.key]:
                del self._streams[grant.key]

    def admit(self, request: Request, asked: Asked | None) -> "Grant | None":
        """Whoever asks, or `Denied`."""
        where = f"{request.method} {request.url.path}"
        if asked is None:
            why = "it does not say who may use it"
            raise Denied(403, Fault("this route is shut", where, why, "use another"))
        if asked.scope == ANYONE:
            return None
        token, from_cookie = token_of(request)
        if asked.page and request.url.path == "/" and "key" in request.query_params:
            token = request.query_params["key"]
        grant = self._house.who(token) if token else None
        if grant is None:
            fault = Fault(
                "this key is not known here" if token else "no key",
                where,
                "it was revoked, it ran out, or it never was one"
                if token
                else "this factory answers only those who have a key",
                "send `Authorization: Bearer KEY`; `gigafactory keys make` makes one",
            )
            raise Denied(401, fault, {"WWW-Authenticate": "Bearer"})
        self._limit(grant.key, where)
        if from_cookie and request.method not in SAFE and not same_origin(request):
            why = "a browser sent it from a page that is not this factory's"
            raise Denied(403, Fault("this request is not ours", where, why, "use our own page"))
        if asked.scope not in grant.scopes:
            may = ", ".join(sorted(grant.scopes)) or "nothing"
            fault = Fault(
                "this key may not do that",
                where,
                f"it takes `{asked.scope}`, the key of {grant.user} is good for {may}",
                "ask who made the key for one that may",
            )
            raise Denied(403, fault)
        return grant

    def _limit(self, key: str, where: str) -> None:
        """A token bucket for each key."""
        now_s = self._clock()
        left, at_s = self._buckets.pop(key, (BURST, now_s))
        left = min(BURST, left + (now_s - at_s) * PER_S)
        self._buckets[key] = (max(left - 1, 0.0), now_s)
        if len(self._buckets) > KEYS_MAX:  # The one that asked longest ago is full again.
            del self._buckets[next(iter(self._buckets))]
        if left < 1:
            why = f"a key may ask {PER_S:.0f} times a second"
            hint = "wait a second; `POST /api/jobs/batch` takes a thousand jobs at once"
            raise Denied(429, Fault("too many requests", where, why, hint), {"Retry-After": "1"})


async def _grant(request: Request) -> "Grant":
    return request.state.grant


Who = Annotated[Any, Depends(_grant)]
"""The grant of whoever asks, as a parameter of a route."""


def token_of(request: Request) -> tuple[str, bool]:
    """The key that came with a request, and whether a browser sent it by itself."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:
        return (token.strip() if scheme.lower() == "bearer" else ""), False
    return request.cookies.get(COOKIE, ""), True


def same_origin(request: Request) -> bool:
    """Whether a page of ours sent it: by `Sec-Fetch-Site`, else by `Origin`; neither is no."""
    if site := request.headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")


class _Counted:
    """A request's body, up to the limit."""

    def __init__(self, receive: Receive):
        self._receive, self._bytes = receive, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > BODY_BYTES_MAX:
            raise HTTPException(413, f"the limit is {BODY_BYTES_MAX} bytes")
        return message


def nothing(kind: str, name: str, known: Iterable[str] = ()) -> Denied:
    """What is not there, or is another tenant's: one answer for both, which names no other.

    The hint is one of those `known`, which are theirs to see.
    """
    why, hint = "none of that name is yours", nearest(name[:HINT_LETTERS_MAX], known)
    if not hint.startswith("did you mean"):  # A list of all may be long.
        hint = "look for the name again"
    return Denied(404, Fault(f"there is no {kind} {name!r}", name, why, hint))
