"""Budgets over time: what tenants may use in calendar windows, kept in memory to the unit.

Windows are hours, days, weeks (from Monday), months, quarters and years of UTC. Money in integer
micro-units, J, gCO2e, tokens. `settled + reserved` never passes a limit through `reserve`; what
jobs use is known only when it was used, so `spend` may pass one, and then nothing more starts.

A sum belongs to its window, not to the order of calls: a clock that is set back finds the
window that it left, with all that was spent in it. For one thread, as the gateway is.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import floor, nextafter
from pathlib import Path
from typing import Any

from gigafactory.blueprint.schema import Budget
from gigafactory.ledger.store import OFTEN, is_url, select

PIECE = {"money": "money_micro", "energy": "energy_j", "carbon": "carbon_g"}
ENDS = ("JobDone", "JobFailed", "JobLost", "JobStopped")
WINDOWS_KEPT = 40  # of one length: days of more than a month, should a clock be set back so far


@dataclass(frozen=True)
class Spent:
    """The first budget that stands in the way, and when its next window begins."""

    budget: Budget
    resets_unix_s: float


@dataclass(frozen=True)
class Left:
    """Where a budget stands in its window now, in the unit of its limit."""

    budget: Budget
    spent: float
    reserved: float
    resets_unix_s: float


class Hold:
    """An upper bound that is reserved for a request, until it is settled or released."""

    __slots__ = ("money_micro", "of", "tokens")

    def __init__(self, of: "_Account", money_micro: int, tokens: int):
        self.of: _Account | None = of
        self.money_micro, self.tokens = money_micro, tokens


class Budgets:
    """The budgets of all tenants."""

    def __init__(self, clock_unix: Callable[[], float]):
        self._clock = clock_unix
        self._accounts: dict[str, _Account] = {}

    def set(self, tenant: str, budgets: Iterable[Budget]) -> None:
        """Other budgets from now on. What was spent in windows that were kept before stays.

        A window that is new has yet to hear of it: `refill`.
        """
        self._account(tenant).set(tuple(budgets))

    def spend(
        self,
        tenant: str,
        unix_s: float,
        *,
        money_micro: int = 0,
        energy_j: float = 0.0,
        carbon_g: float = 0.0,
        tokens: int = 0,
    ) -> None:
        """Count what was used at a moment, in the window of that moment, whatever the limits."""
        used = {"money": money_micro, "energy": energy_j, "carbon": carbon_g, "tokens": tokens}
        for window in self._account(tenant).windows:
            window.at(unix_s).spent += used[window.of]

    def charge(self, tenant: str, charges: Iterable[Mapping[str, Any]]) -> None:
        """Count the charges of an attempt, spread over the windows that it ran in."""
        for piece in charges:
            since, until = piece["from_unix_s"], piece["until_unix_s"]
            for window in self._account(tenant).windows:
                used = piece[PIECE[window.of]] if window.of in PIECE else 0
                counted = 0
                for end in _ends(window.per, since, until):
                    share = (end - since) / (until - since) if end < until else 1
                    upto = round(used * share) if window.of == "money" else used * share
                    # Just before its end: the end itself is in the next window.
                    window.at(max(since, nextafter(end, since))).spent += upto - counted
                    counted = upto

    def reserve(self, tenant: str, *, money_micro: int = 0, tokens: int = 0) -> Hold | Spent:
        """Reserve an upper bound, or say which budget has not so much left."""
        account = self._accounts.get(tenant) or self._account(tenant)
        now = self._clock()
        for window in account.windows:
            if not window.began <= now < window.ends:
                window.at(now)
            used = window.spent + window.running
            if window.of == "money":
                spent_out = used + account.money_micro + money_micro > window.limit
            elif window.of == "tokens":
                spent_out = used + account.tokens + tokens > window.limit
            else:  # nobody knows before what a request draws
                spent_out = used >= window.limit
            if spent_out:
                return Spent(window.budget, window.ends)
        account.money_micro += money_micro
        account.tokens += tokens
        return Hold(account, money_micro, tokens)

    def settle(self, hold: Hold, money_micro: int, tokens: int) -> None:
        """Count what a reserved request came to. A hold ends once; a second end changes nothing."""
        if (account := hold.of) is None:
            return
        self.release(hold)
        now = self._clock()
        for window in account.windows:
            if not window.began <= now < window.ends:
                window.at(now)
            if window.of == "money":
                window.spent += money_micro
            elif window.of == "tokens":
                window.spent += tokens

    def release(self, hold: Hold) -> None:
        """Give back what was reserved: nothing came of it."""
        if (account := hold.of) is not None:
            account.money_micro -= hold.money_micro
            account.tokens -= hold.tokens
            hold.of = None

    def run(self, tenant: str, so_far: "Budgets | None") -> None:
        """What the tenant's running attempts have used so far, as if they ended now; or nothing."""
        now = self._clock()
        theirs = so_far._account(tenant).windows if so_far else []
        used = {(window.of, window.per): window.at(now).spent for window in theirs}
        for window in self._account(tenant).windows:
            window.at(now).running = used.get((window.of, window.per), 0)

    def left(self, tenant: str) -> list[Left]:
        """Where each budget stands, with what runs counted as spent."""
        account, now = self._account(tenant), self._clock()
        reserved = {"money": account.money_micro / 1e6, "tokens": float(account.tokens)}
        return [
            Left(w.budget, (w.spent + w.running) / w.unit, reserved.get(w.of, 0.0), w.ends)
            for w in (window.at(now) for window in account.windows)
        ]

    def spent_out(self, tenant: str) -> Spent | None:
        """The first budget of which nothing is left: no job may start until its window ends."""
        now = self._clock()
        for window in self._account(tenant).windows:
            if window.at(now).spent + window.running >= window.limit:
                return Spent(window.budget, window.ends)
        return None

    def fresh(self) -> "Budgets":
        """The same budgets with nothing spent."""
        fresh = Budgets(self._clock)
        for tenant, account in self._accounts.items():
            fresh.set(tenant, (window.budget for window in account.windows))
        return fresh

    def lengths(self) -> frozenset[str]:
        """Of all windows."""
        return frozenset(w.per for account in self._accounts.values() for w in account.windows)

    def raise_to(self, other: "Budgets") -> None:
        """Count what `other` has counted and this has not: of each window the larger sum."""
        for tenant, account in self._accounts.items():
            for mine, theirs in zip(account.windows, other._account(tenant).windows, strict=True):
                sums, counted = mine.all(), theirs.all()
                for began, spent in counted.items():
                    sums[began] = max(spent, sums.get(began, 0))
                mine.forget(sums)

    def _account(self, tenant: str) -> "_Account":
        return self._accounts.setdefault(tenant, _Account())


class _Account:
    """One tenant: its windows, and what is reserved now, which outlives every window."""

    __slots__ = ("money_micro", "tokens", "windows")

    def __init__(self) -> None:
        self.windows: list[_Window] = []
        self.money_micro = 0
        self.tokens = 0

    def set(self, budgets: tuple[Budget, ...]) -> None:
        kept = {(window.of, window.per): window.all() for window in self.windows}
        self.windows = [_Window(of, kept.get((of.of, of.per), {})) for of in budgets]


class _Window:
    """A budget in one of its windows; `sums` holds what was spent in others, by their begin."""

    __slots__ = (
        "began", "budget", "ends", "limit", "of", "per", "running", "spent", "sums", "unit",
    )  # fmt: skip

    def __init__(self, budget: Budget, sums: dict[float, float]):
        self.budget, self.of, self.per = budget, budget.of, budget.per
        self.unit = 1e6 if budget.of == "money" else 1.0
        self.limit = floor(budget.limit * 1e6) if budget.of == "money" else budget.limit
        self.forget(sums)

    def forget(self, sums: dict[float, float]) -> None:
        """Be in no window yet, with these sums."""
        self.sums = dict(sums)
        self.began = self.ends = 0.0
        self.spent: float = 0
        self.running: float = 0

    def at(self, unix_s: float) -> "_Window":
        """Turn to the window of a moment."""
        if not self.began <= unix_s < self.ends:
            self.sums, self.running = self.all(), 0
            self.began, self.ends = bounds(self.per, unix_s)
            self.spent = self.sums.pop(self.began, 0)
            while len(self.sums) >= WINDOWS_KEPT:
                del self.sums[min(self.sums)]
        return self

    def all(self) -> dict[float, float]:
        """What was spent in each window, by its begin."""
        return {**self.sums, self.began: self.spent} if self.ends else self.sums


def bounds(per: str, unix_s: float) -> tuple[float, float]:
    """Begin and end of the calendar window, UTC, that a moment is in."""
    at = datetime.fromtimestamp(floor(unix_s), UTC).replace(minute=0, second=0)
    if per == "hour":
        return at.timestamp(), at.timestamp() + 3600
    day = at.replace(hour=0)
    if per in ("day", "week"):
        first = day - timedelta(days=day.weekday() if per == "week" else 0)
        return first.timestamp(), first.timestamp() + (7 if per == "week" else 1) * 86400
    months = {"month": 1, "quarter": 3, "year": 12}[per]
    first = day.replace(month=day.month - (day.month - 1) % months, day=1)
    years, month = divmod(first.month - 1 + months, 12)
    return first.timestamp(), first.replace(year=first.year + years, month=month + 1).timestamp()


def refill(budgets: Budgets, where: Path | str, now_unix_s: float) -> None:
    """Count what the ledger says was used in the windows of now, by all runs.

    For the start, and after `set` gave a tenant another window. What is counted already and not
    yet in the ledger stays. Requests settled before they had a price count as tokens alone.
    """
    fresh = budgets.fresh()
    began = [bounds(per, now_unix_s)[0] for per in fresh.lengths()]
    if not began:
        return
    tenants = dict(_tenants(where))
    in_json = "body::json" if is_url(where) else "body"
    hour = "floor(unix_s / 3600)" if is_url(where) else "cast(unix_s / 3600 as integer)"
    sums = ", ".join(
        f"sum(cast({in_json}->>'{name}' as bigint))"
        for name in ("prompt_tokens", "completion_tokens", "money_micro")
    )
    # By the hour, of which every window is made: one pass for all of them.
    requests = f"""select {in_json}->>'tenant', {hour}, {sums} from events
        where kind = 'RequestSettled' and unix_s >= ? group by 1, 2"""
    for tenant, at_h, prompt, completion, micro in select(where, requests, [min(began)]):
        fresh.spend(
            tenant,
            float(at_h) * 3600,
            money_micro=int(micro or 0),
            tokens=int(prompt or 0) + int(completion or 0),
        )
    ends = f"""select run, subject, body from events
        where kind in ('{"', '".join(ENDS)}') and {OFTEN} and unix_s >= ?"""
    for run, job, body in select(where, ends, [min(began)]):
        if charges := json.loads(body).get("used", {}).get("charges"):
            fresh.charge(tenants[run, job], charges)
    budgets.raise_to(fresh)


def _tenants(where: Path | str) -> Iterator[tuple[tuple[str, str], str]]:
    """Whose each job is, by run and job."""
    in_json = "body::json" if is_url(where) else "body"
    query = f"""select run, subject, {in_json}->>'tenant' from events
        where kind = 'JobSubmitted' and {OFTEN}"""
    for run, job, tenant in select(where, query):
        yield (run, job), tenant


def _ends(per: str, since: float, until: float) -> Iterator[float]:
    """Where the windows end that a time lies in, at last `until`; not more than are kept."""
    ends = [until]
    while len(ends) < WINDOWS_KEPT:
        before = bounds(per, nextafter(ends[-1], since))[0]
        if before <= since:
            break
        ends.append(before)
    return reversed(ends)
