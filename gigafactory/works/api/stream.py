"""What routes share that answer for as long as something goes on: server-sent events, long polls.

They end when the server does, so that it can.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from gigafactory.factory.state import ENDED, STATUS
from gigafactory.ledger.store import LedgerFailure
from gigafactory.works.api.guard import nothing

if TYPE_CHECKING:
    from gigafactory.works.api import Api
    from gigafactory.works.house import Grant

log = logging.getLogger(__name__)

LOOK_S = 0.25
ALIVE_S = 15.0  # a line at least so often, so that no proxy thinks us gone
LONG_S = 30.0
HINTS_MAX = 200  # jobs among which a misspelt name is sought
OVER = tuple(STATUS[status] for status in ENDED)


class Streams:
    """Base of the rooms of routes."""

    def __init__(self, api: "Api"):
        self._api = api

    def ending(self) -> bool:
        """Whether the server ends."""
        return self._api.ending

    def events(self, told: AsyncIterator[tuple[str, str, bytes]]) -> StreamingResponse:
        """Server-sent events of (name, id, one line of JSON); empty names keep the line alive."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_lines(told), 200, headers, "text/event-stream")


class OfJobs(Streams):
    """Base of the routes about one job."""

    def __init__(self, api: "Api"):
        super().__init__(api)
        self._works = api.works

    def own(self, job: str, who: "Grant", scope: str = "read") -> None:
        """Raise where there is no such job, or it is not theirs."""
        try:
            self._works.factory.status(job)  # One that is being written is not there yet.
            theirs = who.may(scope, self._works.planned[job].spec.work.tenant)
        except KeyError:
            theirs = False
        if not theirs:
            raise nothing("job", job, self._seen(who, scope))

    def why(self, job: str) -> str:
        """What a job that does not run waits for, or why it never will, in words."""
        works = self._works
        status = works.factory.status(job)
        why = works.why(job)
        if why or status not in ("waiting", "blocked"):
            return why
        spec = works.planned[job].spec
        known = {before: works.factory.status(before) for before in spec.after}
        missing = [f"{before} ({is_})" for before, is_ in known.items() if is_ != "done"]
        if missing:
            return f"stands on {', '.join(missing)}"
        if status == "waiting":
            return ""
        return f"{' or '.join(spec.work.through) or 'what it stands on'} did not pass its gate"

    async def record(self, who: "Grant", did: str, about: str, **said: Any) -> None:
        """Put on record who did what to jobs.

        It is done by now, and its own row says by whom: if the ledger fails just here, the answer
        is still that it was done.
        """
        try:
            await self._works.house.act(who, did, about, {"run": self._works.run, **said})
        except LedgerFailure:
            log.exception("%s of %s by %s is not in the audit", did, about, who)

    def _seen(self, who: "Grant", scope: str) -> list[str]:
        """The newest of their jobs, as hints."""
        newest = islice(reversed(self._works.planned.items()), HINTS_MAX)
        return [name for name, job in newest if who.may(scope, job.spec.work.tenant)]

    def is_over(self, job: str) -> bool:
        """Whether it will never run again."""
        return self._works.factory.status(job) in OVER


async def _lines(told: AsyncIterator[tuple[str, str, bytes]]) -> AsyncIterator[bytes]:
    upcoming = asyncio.ensure_future(anext(told))
    try:
        while True:
            done, _ = await asyncio.wait({upcoming}, timeout=ALIVE_S)
            if not done:
                yield b":\n\n"
                continue
            try:
                name, number, line = upcoming.result()
            except StopAsyncIteration:
                return
            yield (f"id: {number}\n" if number else "").encode() + b"event: %s\ndata: %s\n\n" % (
                name.encode(),
                line,
            )
            upcoming = asyncio.ensure_future(anext(told))
    finally:
        upcoming.cancel()


async def long_enough(streams: Streams) -> AsyncIterator[None]:
    """Turns of a long poll: a look, a pause, until half a minute is over or the server ends."""
    until_s = time.monotonic() + LONG_S
    while time.monotonic() < until_s and not streams.ending():
        yield
        await asyncio.sleep(LOOK_S)
