"""What the console shows and does: gathered from the running works, for each asker their own.

All from memory and from `recent`, but bills, which count the whole ledger and are made when
somebody looks. What is done here passes the same doors as the API. s, J, gCO2e; money in
micro-units, limits of budgets in SI with money in units of the currency; times are Unix's.
"""

import asyncio
import json
import os
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gigafactory.blueprint.schema import Serve
from gigafactory.factory import state as st
from gigafactory.faults import Fault, Refused
from gigafactory.ledger.store import COLUMNS, HOUSE, OFTEN, select
from gigafactory.plan import acts
from gigafactory.works import billing, exhibits, forms
from gigafactory.works.api import files
from gigafactory.works.api.guard import nothing
from gigafactory.works.api.quotes import exists
from gigafactory.works.api.stream import OfJobs
from gigafactory.works.counted import Counted
from gigafactory.works.recent import Recent, charged

if TYPE_CHECKING:
    from starlette.responses import Response

    from gigafactory.plan import PlannedJob
    from gigafactory.works.api import Api
    from gigafactory.works.gateway import Gateway
    from gigafactory.works.house import Grant

FRESH_S = 0.9  # what the ledger told is shared by all who ask within this time
JOBS_MAX, OF_TENANT_MAX, PAGE = 40, 25, 100
LOG_BYTES_MAX = 64_000
FILES_MAX = 200
NODES_MAX = 60
EXHIBITS_PAGE, LOOKED_MAX = 12, 500
ACTS_MAX = 200
BILLS_FRESH_S = 5.0
RATE_S = 60.0  # over which requests a second are counted
WAKING = ("queued", "starting", "running")
LOST = ("paused", "failed")
FIGURES = (
    "phase", "step", "steps", "tokens", "loss", "tokens_per_s", "ready",
    "frames", "episodes", "scenarios", "examples",
)  # fmt: skip
Json = dict[str, Any]


class Board(OfJobs):
    """One works with its API and gateway; used from its event loop."""

    def __init__(self, api: "Api", gateway: "Gateway | None" = None):
        super().__init__(api)
        self._told, self._quoter = api.told, api.quoter
        self._house, self._gateway = api.works.house, gateway
        self._recent = Recent(api.works)
        self._read_s = float("-inf")
        self._reading, self._counting = asyncio.Lock(), asyncio.Lock()
        self._bills: list[Json] = []
        self._counted_s = float("-inf")
        self._verified: Json | None = None
        self._of: defaultdict[str, list[int]] = defaultdict(list)
        self._listed = 0
        self._rates: deque[tuple[float, dict[str, float]]] = deque()

    # What is shown.

    async def factory(self, who: "Grant") -> Json:
        """What there is now: jobs, the first answer, what was used, what happened last."""
        works = self._works
        await self._freshen()
        rows = self._rows(who)
        names = works.factory.jobs()
        chosen = self._foremost(rows, JOBS_MAX)
        first = self._recent.first
        if first is not None and not self._may_see(who, first):
            first = None
        acted = works.plan.first_acts if first is None else acts(first.body["job"], works.planned)
        asked = self.gateway(who)
        return {
            "run": works.run,
            "opened_unix_s": works.opened_unix_s,
            "now_s": works.clock(),
            "now_unix_s": time.time(),
            "currency": works.plan.currency,
            "predicted_s": works.plan.time_to_first_token_s,
            "first": first.body if first is not None else None,
            "first_acts": acted,
            "jobs": [await self._job(names[j]) for j in chosen],
            "counts": self._counts(rows),
            "used": self._used(who, asked["tenants"]),
            "gateway": asked,
            "machine": works.plan.measured.machine,
            "plan": works.plan.name,
            "hashes": {
                of: getattr(works.plan, f"{of}_hash") for of in ("blueprint", "catalog", "measured")
            },
            "ledger": [row for row in self._recent.rows if self._may_see(who, row)],
            "trouble": works.sequence.trouble if "operate" in who.scopes else "",
        }

    async def queue(self, who: "Grant") -> Json:
        """What runs and what waits, by tenant, and the chips that there are."""
        works, table = self._works, self._works.factory.state
        names = works.factory.jobs()
        groups = []
        for tenant in self._seen(who):
            rows = self._rows_of(tenant)
            status = table.jobs["status"][rows]
            live = rows[~np.isin(status, st.ENDED)]
            holds = np.isin(table.jobs["status"][live], st.HOLDS_CHIPS)
            shown = [*live[holds][:OF_TENANT_MAX], *live[~holds][:OF_TENANT_MAX]]
            groups.append(
                {
                    "tenant": tenant,
                    "quota": self._house.tenants[tenant].quota,
                    "held": int(table.jobs["width"][live[holds]].sum()),
                    "counts": self._counts(rows),
                    "jobs": [self._line(names[j]) for j in shown],
                    "more": len(live) - len(shown),
                    "spent_out": self._spent_out(tenant),
                }
            )
        states = await self._told.nodes()
        aside = {}
        for node in works.plan.nodes():
            state = states.get(node, "absent")
            if state == "up" and not works.factory.takes_work(node):
                state = "given up"
            if state != "up":
                aside[node] = state
        return {
            "tenants": groups,
            "pools": list(self._pools()),
            "nodes": dict(list(aside.items())[:NODES_MAX]),
            "nodes_more": max(0, len(aside) - NODES_MAX),
            "up": [node for node in works.plan.nodes() if node not in aside][:NODES_MAX],
        }

    async def jobs(self, who: "Grant", before: int | None = None) -> Json:
        """The newest jobs that one may see, newest first, or those before a number."""
        rows = self._rows(who)
        if before is not None:
            rows = rows[rows < before]
        shown, names = rows[-PAGE:][::-1], self._works.factory.jobs()
        older = int(shown[-1]) if len(rows) > PAGE else None
        return {"jobs": [await self._job(names[j]) for j in shown], "older": older}

    async def job(self, who: "Grant", name: str) -> Json:
        """One job with all that is known of it."""
        self.own(name, who)
        works, planned = self._works, self._works.planned[name]
        await self._freshen()
        async with self._reading:
            story = await asyncio.to_thread(self._recent.story, name)
        attempts = [
            {"number": number, **one, "sums": charged(works, one["used"])}
            for number, one in sorted(story.attempts.items())
        ]
        folder = self._attempt(name)
        text, offset = await asyncio.to_thread(_end_of_log, folder)
        listed = await asyncio.to_thread(_listed, folder / "output")
        told = await self._job(name)
        return {
            **told,
            "now_s": works.clock(),
            "currency": works.plan.currency,
            "spec": planned.spec.work.model_dump(mode="json", exclude_defaults=True),
            "model": planned.spec.model.name if planned.spec.model else None,
            "quoted": planned.quote.model_dump(mode="json"),
            "made": _made(told, planned.quote.unit),
            "acts": acts(name, works.planned),
            "tried": attempts,
            "curve": list(story.curve),
            "ready_s": story.ready_s,
            "log": text,
            "log_offset": offset,
            "files": listed[:FILES_MAX],
            "files_more": len(listed) > FILES_MAX,
            "exhibits": await self._exhibits(name),
            "may_cancel": who.may("submit", planned.spec.work.tenant) and not self.is_over(name),
        }

    async def gallery(self, who: "Grant", before: int | None = None) -> Json:
        """The newest jobs that left something to look at, or those before a number."""
        rows = self._rows(who)
        if before is not None:
            rows = rows[rows < before]
        found: list[Json] = []
        names, looked = self._works.factory.jobs(), 0
        for j in rows[::-1][:LOOKED_MAX]:
            if len(found) == EXHIBITS_PAGE:
                break
            looked += 1
            one = await self._exhibits(names[j])
            if one["files"] or one["certificate"] or (one["results"] or {}).get("metrics"):
                found.append(one)
        older = int(rows[-looked]) if looked < len(rows) else None
        return {"jobs": found, "older": older}

    def media(self, who: "Grant", name: str, path: str, ranges: str) -> "Response":
        """A picture or a film of a job, or a range of it, for a browser to show."""
        self.own(name, who)
        kind = exhibits.MEDIA.get(Path(path).suffix)
        if kind is None:
            raise nothing("picture or film", path)
        return files.sent(self._attempt(name) / "output", path, ranges, kind, "inline")

    async def tenants(self, who: "Grant") -> Json:
        """The tenants that one may see."""
        return {
            "tenants": [self._tenant(name) for name in self._seen(who)],
            "currency": self._works.plan.currency,
        }

    async def tenant(self, who: "Grant", name: str) -> Json:
        """One tenant, with users and keys for who manages them."""
        self._must_see(who, name)
        manages = who.may("manage", name)
        keys = [asdict(key) for key in self._house.keys.values() if key.tenant == name]
        users = [asdict(user) for user in self._house.users.values() if user.tenant == name]
        return {
            **self._tenant(name),
            "currency": self._works.plan.currency,
            "manages": manages,
            "operates": "operate" in who.scopes,
            "keys": sorted(keys, key=lambda key: -key["made_unix_s"]) if manages else [],
            "users": users if manages else [],
            "now_unix_s": time.time(),
        }

    async def bills(self, who: "Grant", month: str) -> list[Json]:
        """The bills of a month; who used nothing has none."""
        async with self._counting:  # Each takes a core for a while: one after another.
            if time.monotonic() - self._counted_s > BILLS_FRESH_S:
                self._bills = await billing.months(self._works.home.ledger)
                self._counted_s = time.monotonic()
        return [b for b in self._bills if b["month"] == month and who.may("read", b["tenant"])]

    def gateway(self, who: "Grant") -> Json:
        """Services and their replicas, and what was asked of them since the works started."""
        works = self._works
        told = Counted(self._gateway.metrics.registry if self._gateway else None)
        services: dict[str, Json] = {}
        for job, planned in list(works.planned.items()) if self._gateway else []:
            work = planned.spec.work
            if not isinstance(work, Serve) or not who.may("read", work.tenant):
                continue
            name = job.partition(".")[0]  # A further replica is a job of its own, `NAME.2`.
            service = services.setdefault(
                name,
                {
                    "name": name,
                    "tenant": work.tenant,
                    "acts": acts(job, works.planned),
                    "min": work.replicas_min,
                    "max": work.replicas_max,
                    "replicas": [],
                    "queued": int(told.one("gigafactory_queued", model=name)),
                    "ttft_s": told.quantiles("gigafactory_ttft_seconds", name),
                    "duration_s": told.quantiles("gigafactory_request_seconds", name),
                },
            )
            if stands := self._replica(job):
                why = self.why(job) if stands in ("waiting", "blocked") else ""
                service["replicas"].append({"job": job, "stands": stands, "why": why})
        asked = [row for row in told.asked() if who.may("read", row["tenant"])]
        per_s = self._per_s(told.settled())
        tenants = {tenant: told.of(tenant) for tenant in self._seen(who)}
        whole = "operate" in who.scopes
        return {
            "here": self._gateway is not None,
            "services": list(services.values()),
            "asked": asked,
            "tenants": tenants,
            "per_s": None if per_s is None else sum(per_s.get(t, 0.0) for t in tenants),
            "per_s_of": per_s or {},
            "under_way": int(told.one("gigafactory_under_way")) if whole else None,
            "shed": told.refused() if whole else None,
            "disputed": sum(self._recent.disputed.get(t, 0) for t in tenants),
            "currency": works.plan.currency,
        }

    async def audit(self, who: "Grant", verify: bool = False) -> Json:
        """Who did what, newest first; whether the chain of it holds, as of when that was asked."""
        if "operate" not in who.scopes:
            raise nothing("page", "audit")
        if verify:
            fault = await asyncio.to_thread(self._house.verify)
            self._verified = {
                "acts": self._house.head.acts,
                "unix_s": time.time(),
                "fault": fault and asdict(fault),
            }
        head = self._house.head
        acts = await asyncio.to_thread(self._acts)
        return {"acts": acts, "total": head.acts, "digest": head.digest, "verified": self._verified}

    # What is done.

    async def quote(self, who: "Grant", text: str) -> Json:
        """What a job, written as YAML, would take; nothing is accepted."""
        planned = await self._planned(who, text)
        return planned.model_dump(mode="json") | {"currency": self._works.plan.currency}

    async def submit(self, who: "Grant", text: str) -> str:
        """Accept a job at the price it is quoted; its name. It is in the ledger when this ends."""
        planned = await self._planned(who, text)
        if not await self._works.submit(planned, str(who)):
            raise Refused(exists(planned.spec.name))
        await self.record(who, "job.submit", planned.spec.name, tenant=planned.spec.work.tenant)
        return planned.spec.name

    async def cancel(self, who: "Grant", job: str) -> None:
        """Cancel a job; what it has done so far is billed."""
        self.own(job, who, "submit")
        if not await self._works.cancel(job, str(who)):
            why = f"it is {self._works.factory.status(job)}"
            raise Refused(Fault(f"{job!r} cannot be cancelled", job, why, "nothing to do"))
        await self.record(who, "job.cancel", job)

    async def make_key(
        self, who: "Grant", tenant: str, user: str, role: str, days: str
    ) -> tuple[str, Json]:
        """A new key, to be shown this once."""
        self._must_see(who, tenant, "manage")
        expires = time.time() + 86400 * forms.number("days", days) if days.strip() else None
        key, made = await self._house.make_key(who, tenant, user, role, expires)
        return key, asdict(made)

    async def revoke(self, who: "Grant", tenant: str, key: str) -> None:
        """From now on the key opens nothing."""
        known = self._house.keys.get(key)
        if known is None or known.tenant != tenant or not who.may("manage", tenant):
            raise nothing("key", key)
        await self._house.revoke(who, key)

    async def set_user(self, who: "Grant", tenant: str, user: str, role: str) -> None:
        """Say what a user is: their keys and tokens reach no further."""
        self._must_see(who, tenant, "manage")
        await self._house.set_user(who, user, tenant, role)

    async def set_tenant(self, who: "Grant", tenant: str, said: dict[str, str]) -> None:
        """Change what a form says of a tenant: numbers, and budgets, one a line."""
        if not who.may("manage", tenant):
            raise nothing("tenant", tenant)
        changes: Json = {}
        for name in ("weight", "quota", "borrow", "requests_per_minute", "tokens_per_minute"):
            if name in said:
                value = said[name].strip()
                changes[name] = forms.number(name, value) if value else None
        if changes.get("weight", 0) is None:
            changes["weight"] = 1.0
        if "budgets" in said:
            changes["budgets"] = [
                forms.budget(line) for line in said["budgets"].split("\n") if line.strip()
            ]
        if "prompts" in said:
            changes["keep_prompts"] = said["prompts"] == "keep"
        await self._works.set_tenant(who, tenant, changes)

    async def drain(self, who: "Grant", node: str) -> None:
        """Have a machine take no more work."""
        if "operate" not in who.scopes or node not in self._works.plan.nodes():
            raise nothing("node", node)
        await self._works.drain(node, who)

    # Parts.

    async def _freshen(self) -> None:
        async with self._reading:
            if time.monotonic() - self._read_s > FRESH_S:
                await asyncio.to_thread(self._recent.freshen)
                self._read_s = time.monotonic()

    def _seen(self, who: "Grant", scope: str = "read") -> list[str]:
        return [name for name in self._house.tenants if who.may(scope, name)]

    def _must_see(self, who: "Grant", tenant: str, scope: str = "read") -> None:
        if tenant not in self._house.tenants or not who.may(scope, tenant):
            raise nothing("tenant", tenant)

    def _sees(self, who: "Grant", job: str) -> bool:
        planned = self._works.planned.get(job)
        return planned is not None and who.may("read", planned.spec.work.tenant)

    def _may_see(self, who: "Grant", row: Any) -> bool:
        """Whether a row of the ledger is theirs; nobody's is for operators."""
        if row.kind.startswith("Job") or row.kind == "FirstToken":
            return self._sees(who, row.body.get("job", row.subject))
        return who.may("read", row.body.get("tenant") or "")

    def _rows(self, who: "Grant") -> np.ndarray:
        """Rows of the core's table of the jobs that one may see, in the order they came."""
        of = self._by_tenant()
        if "operate" in who.scopes:
            return np.arange(self._listed)
        mine = (rows for tenant, rows in of.items() if who.may("read", tenant))
        return np.sort(np.fromiter(chain.from_iterable(mine), np.int64))

    def _rows_of(self, tenant: str) -> np.ndarray:
        return np.array(self._by_tenant().get(tenant, ()), np.int64)

    def _by_tenant(self) -> dict[str, list[int]]:
        """Rows of each tenant's jobs; each look adds those that came since."""
        names = self._works.factory.jobs()
        for j in range(self._listed, len(names)):
            self._of[self._works.planned[names[j]].spec.work.tenant].append(j)
        self._listed = len(names)
        return self._of

    def _foremost(self, rows: np.ndarray, most: int) -> np.ndarray:
        """Those that hold chips, then those that wait, then the newest of the rest; in order."""
        status = self._works.factory.state.jobs["status"][rows]
        holds = np.isin(status, st.HOLDS_CHIPS)
        over = np.isin(status, st.ENDED)
        ranked = np.concatenate([rows[holds], rows[~holds & ~over], rows[over][::-1]])
        return np.sort(ranked[:most])

    def _counts(self, rows: np.ndarray) -> dict[str, int]:
        status = self._works.factory.state.jobs["status"][rows]
        counts = np.bincount(status, minlength=len(st.STATUS))
        return {name: int(n) for name, n in zip(st.STATUS, counts, strict=True) if n}

    def _line(self, name: str) -> Json:
        """Where a job stands, from memory."""
        works = self._works
        work, told = works.planned[name].spec.work, works.progress.get(name, {})
        return {
            "name": name,
            "tenant": work.tenant,
            "kind": work.kind,
            "chips": work.chips,
            "priority": work.priority,
            "status": works.factory.status(name),
            "why": self.why(name),
            "attempts": works.factory.attempt(name),
            "progress": {key: told.get(key) for key in FIGURES},
            "duration_s": works.planned[name].quote.duration_s.model_dump(),
        }

    async def _job(self, name: str) -> Json:
        """The same with what the ledger told of it."""
        told = await self._told.of(name)
        line = {**self._line(name), **told}
        return line | {"why": line["why"] or self._reason(line)}

    def _attempt(self, name: str) -> Path:
        works = self._works
        return works.home.attempt(works.run, name, works.factory.attempt(name))

    async def _exhibits(self, name: str) -> Json:
        """What a job left to look at, and what must be known to read it."""
        work = self._works.planned[name].spec.work
        folder = self._attempt(name)
        told = await self._told.of(name)
        return {
            "name": name,
            "tenant": work.tenant,
            "kind": work.kind,
            "status": self._works.factory.status(name),
            **{key: getattr(work, key, None) for key in ("world", "suite", "of", "against")},
            "results": told["results"],
            "passed": told["passed"],
            **await asyncio.to_thread(exhibits.exhibits, folder / "output", work.kind),
        }

    def _reason(self, line: Json) -> str:
        """Why it did not end well, in words."""
        if line["status"] == "done" and line["passed"] is False:
            return _missed(line["results"] or {})
        if line["error"] and line["status"] != "done":
            return str(line["error"].get("what"))
        return ""

    def _used(self, who: "Grant", asked: dict[str, Json]) -> list[Json]:
        """What each tenant used in this run: attempts that ended, and requests settled."""
        rows = []
        for tenant, now in asked.items():
            used, before = self._recent.used.get(tenant, {}), self._recent.asked.get(tenant, {})
            tokens = sum(
                part.get(name, 0)
                for part in (before, now)
                for name in ("prompt_tokens", "completion_tokens")
            )
            money_micro = sum(part.get("money_micro", 0) for part in (used, before, now))
            if used or tokens:
                row = {"tenant": tenant, "tokens": int(tokens), "money_micro": int(money_micro)}
                rows.append(row | {k: used.get(k, 0.0) for k in ("chip_s", "energy_j", "carbon_g")})
        return rows

    def _pools(self) -> Iterator[Json]:
        """Chips of each pool, held and free, on nodes that are up."""
        table = self._works.factory.state
        nodes = table.nodes[: table.counts[st.NODES]]
        for p, where in enumerate(self._works.plan.places):
            here = nodes[(nodes["pool"] == p) & nodes["up"]]
            chips, idle = int(here["chips"].sum()), int(here["free"].sum())
            takes = here[~here["drained"] & ~here["lemon"]]
            yield {
                "pool": where.pool,
                "site": where.site,
                "system": where.system,
                "nodes": where.nodes,
                "up": len(here),
                "drained": len(here) - len(takes),
                "chips": chips,
                "held": chips - idle,
                "free": int(takes["free"].sum()),
                "open": bool(table.pools[p]["open"]),
            }

    def _tenant(self, name: str) -> Json:
        tenant, table = self._house.tenants[name], self._works.factory.state
        rows = self._rows_of(name)
        status = table.jobs["status"][rows]
        holds = np.isin(status, st.HOLDS_CHIPS)
        return {
            "name": name,
            "limits": tenant.model_dump(mode="json"),
            "held": int(table.jobs["width"][rows[holds]].sum()),
            "running": int(holds.sum()),
            "waiting": int((~holds & ~np.isin(status, st.ENDED)).sum()),
            "budgets": [
                {
                    **left.budget.model_dump(mode="json"),
                    "spent": left.spent,
                    "reserved": left.reserved,
                    "resets_unix_s": left.resets_unix_s,
                }
                for left in self._works.budgets.left(name)
            ],
            "spent_out": self._spent_out(name),
        }

    def _spent_out(self, tenant: str) -> Json | None:
        spent = self._works.budgets.spent_out(tenant)
        return (
            None
            if spent is None
            else {
                "of": spent.budget.of,
                "per": spent.budget.per,
                "resets_unix_s": spent.resets_unix_s,
            }
        )

    def _replica(self, job: str) -> str:
        """`ready`, `waiting`, `waking`, `blocked`, `lost` or `leaving`; empty for one let go."""
        try:
            status = self._works.factory.status(job)
        except KeyError:
            return ""
        if status == "running" and job in self._works.endpoints:
            return "ready"
        if status in ("waiting", "blocked"):
            return status
        if status in WAKING:
            return "waking"
        return "lost" if status in LOST else "leaving" if status == "stopping" else ""

    def _per_s(self, settled: dict[str, float]) -> dict[str, float] | None:
        """Requests a second of each tenant, over the looks of the last minute."""
        now = time.monotonic()
        while self._rates and now - self._rates[0][0] > RATE_S:
            self._rates.popleft()
        if not self._rates or now - self._rates[-1][0] > 1.0:
            self._rates.append((now, settled))
        since, before = self._rates[0]
        if now - since < 1.0:
            return None
        return {t: (count - before.get(t, 0.0)) / (now - since) for t, count in settled.items()}

    def _acts(self) -> list[Json]:
        query = f"""select {COLUMNS} from events where kind = 'Acted' and run = ? and {OFTEN}
            order by seq desc limit {ACTS_MAX}"""
        acts = []
        for seq, _, _, _, at_s, _, body in select(self._works.home.ledger, query, [HOUSE]):
            said = json.loads(body)
            said["said"].pop("sha256", None)
            acts.append({"seq": seq, "at_unix_s": at_s, **said})
        return acts

    async def _planned(self, who: "Grant", text: str) -> "PlannedJob":
        name, work = forms.offer(text, who.tenant)
        await self._quoter.freshen()
        seen = self._quoter.seen_by(lambda tenant: who.may("submit", tenant))
        return self._quoter.planned(seen, name, work)


def _made(line: Json, unit: str) -> float | None:
    """How much of what it is counted in a job has made, as far as it said."""
    results, progress = line["results"] or {}, line["progress"]
    said = {**progress, "steps": progress.get("step"), **(results.get("metrics") or {}), **results}
    # What is judged is counted in examples: pictures, episodes or scenarios.
    names = ("examples", "episodes", "frames", "scenarios") if unit == "examples" else (unit,)
    return next((said[name] for name in names if said.get(name) is not None), None)


def _missed(results: Json) -> str:
    """The thresholds of a gate that were not met."""
    missed = (one for one in results.get("verdicts") or () if not one["passed"])
    said = "; ".join(
        f"{m['metric']} {m['value']:.4g}, wanted {m['threshold']}"
        if isinstance(m["value"], float)
        else f"{m['metric']} {m['value']}, wanted {m['threshold']}"
        for m in missed
    )
    return f"did not pass its gate: {said or 'it has no threshold'}"


def _end_of_log(folder: Path) -> tuple[str, int]:
    """The end of what an attempt printed, from a whole line on, and where more will follow."""
    try:
        size = os.lstat(folder / "log.txt").st_size
    except OSError:
        return "", 0
    start = max(0, size - LOG_BYTES_MAX)
    text = files.read_from(folder, "log.txt", start, LOG_BYTES_MAX)
    offset = start + len(text)
    if start:
        text = text.partition(b"\n")[2]
    return text.decode(errors="replace"), offset


def _listed(folder: Path) -> list[Json]:
    found = []
    for one in files.listed(folder):
        found.append(one)
        if len(found) > FILES_MAX:
            break
    return found
