"""A request's rows in the ledger, and what a crash left of them.

Rows of one turn of the event loop go to the ledger together, and while a commit is under way
the next ones gather: a commit costs one wake-up, however many wait for it. Those who were told
of a commit soon have their next row, so the next commit waits for them, `GATHER_S` at most:
else requests fall into two groups that wait for each other's commits (measured at 8 connections:
every other commit was of one row). The bodies are those
of `factory.events.to_row`, without the record in between.
"""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import orjson

from gigafactory.factory.events import RequestDisputed
from gigafactory.ledger import store
from gigafactory.works.gateway.refusal import Refusal

Waiter = asyncio.Future[None]
GATHER_S = 0.001  # a commit takes longer
IDS = 256  # of 16 random bytes each, in one call of the system


class Rows:
    """The rows of one run."""

    def __init__(self, ledger: store.Ledger, run: str, clock: Callable[[], float]):
        self._ledger, self._run, self._clock = ledger, run, clock
        self._rows: list[tuple] = []
        self._waiters: list[Waiter] = []
        self._busy = False
        self._expected = 0  # rows that the next commit waits for, while it waits
        self._late: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    def reserved(
        self,
        request: str,
        tenant: str,
        job: str,
        model: str,
        tokens_max: int,
        money_micro_max: int,
        key: str,
    ) -> Waiter:
        """Put down a reservation; done when it is durable."""
        body = {
            "job": job, "key": key, "model": model, "money_micro_max": money_micro_max,
            "request": request, "tenant": tenant, "tokens_max": tokens_max,
        }  # fmt: skip
        return self._put("RequestReserved", request, body)

    def settled(
        self,
        request: str,
        tenant: str,
        job: str,
        prompt_tokens: int,
        completion_tokens: int,
        ttft_s: float,
        duration_s: float,
        outcome: str,
        money_micro: int,
    ) -> Waiter:
        """Put down a settlement; done when it is durable."""
        body = {
            "completion_tokens": completion_tokens, "duration_s": duration_s, "job": job,
            "money_micro": money_micro, "outcome": outcome, "prompt_tokens": prompt_tokens,
            "request": request, "tenant": tenant, "ttft_s": ttft_s,
        }  # fmt: skip
        return self._put("RequestSettled", request, body)

    async def flush(self) -> None:
        """Return when all that was put down is written, or cannot be."""
        while self._busy:
            await asyncio.sleep(0.01)

    def _put(self, kind: str, request: str, body: dict) -> Waiter:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        text = orjson.dumps(body).decode()
        self._rows.append((self._run, kind, request, self._clock(), time.time(), text))
        self._waiters.append(waiter)
        if not self._busy:
            self._busy, self._loop = True, loop
            loop.call_soon(self._hand_over)
        elif self._late is not None and len(self._rows) >= self._expected:
            self._late.cancel()
            self._late = None
            loop.call_soon(self._hand_over)
        return waiter

    def _hand_over(self) -> None:
        rows, self._rows = self._rows, []
        waiters, self._waiters = self._waiters, []
        self._ledger.put(rows, partial(self._written, waiters))

    def _written(self, waiters: list[Waiter], error: store.LedgerFailure | None) -> None:
        """The ledger's writer says so, from its thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, waiters, error)

    def _tell(self, waiters: list[Waiter], error: store.LedgerFailure | None) -> None:
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(
                    Refusal(503, f"the ledger cannot be written: {error}", "ledger", retry_s=5)
                )
        self._expected = len(self._rows) + len(waiters)
        if self._expected > 1:
            self._late = self._loop.call_later(GATHER_S, self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        self._late = None
        if self._rows:
            self._hand_over()
        else:
            self._busy = False


class Ids:
    """Identities of requests: 128 random bits in hexadecimal."""

    def __init__(self) -> None:
        self._left: list[str] = []

    def __call__(self) -> str:
        """One that was never given before."""
        if not self._left:
            digits = os.urandom(16 * IDS).hex()
            self._left = [digits[at : at + 32] for at in range(0, len(digits), 32)]
        return self._left.pop()


def disputes(ledger: Path | str, run: str, after: int = 0) -> list[RequestDisputed]:
    """A record for each reservation that a crash left unsettled, dated as the reservation.

    All up to row `after` is known to be settled or disputed. The works appends them when it
    opens, before the first request: each is billed 0, and counted. Dated so because nothing is
    known of the request from there on.
    """
    unsettled: dict[str, store.Row] = {}
    kinds = ("RequestReserved", "RequestSettled", "RequestDisputed")
    for row in store.read(ledger, run=run, after=after, kinds=kinds):
        if row.kind == "RequestReserved":
            unsettled[row.subject] = row
        else:
            unsettled.pop(row.subject, None)
    reason = "the works ended between reservation and settlement"
    return [
        RequestDisputed(row.at_s, request, row.body["tenant"], reason)
        for request, row in unsettled.items()
    ]
