"""What the ledger told of the jobs and nodes of this run, kept up to date. SI, micro-units.

A look reads only the rows since the last one, and at most a few a second whoever asks.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gigafactory.ledger.store import Row, read

if TYPE_CHECKING:
    from gigafactory.works.driver import Works

FRESH_S = 0.2
ENDS = ("JobDone", "JobFailed", "JobLost", "JobStopped")
JOBS = ("JobSubmitted", "JobStarted", "JobReported", "JobCheckpointed", "JobCancelled", *ENDS)
NODES = {"NodeJoined": "up", "NodeDrained": "drained", "NodeLost": "lost"}
UNTOLD: dict[str, Any] = {
    "seq": 0,
    "submitted_unix_s": None,
    "started_unix_s": None,
    "ended_unix_s": None,
    "nodes": {},
    "used": {"chip_s": 0.0, "energy_j": 0.0, "carbon_g": 0.0, "money_micro": 0},
    "results": None,
    "passed": None,
    "error": None,
    "cancelled_by": None,
}


class Told:
    """The rows of jobs, folded."""

    def __init__(self, works: "Works"):
        self._works = works
        self._jobs: dict[str, dict[str, Any]] = {}
        self._nodes: dict[str, str] = {}
        self._pools: dict[str, str] = {}
        self._after = 0
        self._read_s = float("-inf")
        self._lock = asyncio.Lock()

    async def of(self, job: str, fresh: bool = False) -> dict[str, Any]:
        """What is known of a job; `seq` grows with every row about it. `fresh`: up to now."""
        await self._freshen(fresh)
        return self._jobs.get(job, UNTOLD)

    async def nodes(self, fresh: bool = False) -> dict[str, str]:
        """What was last said of each node: `up`, `drained` or `lost`."""
        await self._freshen(fresh)
        return self._nodes

    async def _freshen(self, now: bool = False) -> None:
        async with self._lock:
            if now or time.monotonic() - self._read_s > FRESH_S:
                await asyncio.to_thread(self._read)
                self._read_s = time.monotonic()

    def _read(self) -> None:
        works = self._works
        for row in read(works.home.ledger, works.run, self._after, (*JOBS, *NODES)):
            self._after = row.seq
            if row.kind in NODES:
                self._nodes[row.subject] = NODES[row.kind]
                continue
            # A new dict for each row: whoever holds the old one is not surprised.
            self._jobs[row.subject] = self._told(row) | {"seq": row.seq}

    def _told(self, row: Row) -> dict[str, Any]:
        told, body = self._jobs.get(row.subject, UNTOLD), row.body
        if row.kind == "JobSubmitted":
            return told | {"submitted_unix_s": row.unix_s}
        if row.kind == "JobStarted":
            self._pools[row.subject] = body["pool"]
            nodes = dict(zip(body["nodes"], body["chips"], strict=True))
            first_s = told["started_unix_s"] or row.unix_s
            return told | {"started_unix_s": first_s, "nodes": nodes}
        if row.kind == "JobCancelled":
            return told | {"cancelled_by": body["by"]}
        if row.kind not in ENDS:
            return told
        said = {key: body[key] for key in ("results", "passed", "error") if key in body}
        used = self._used(body["used"], row.subject)
        summed = {key: told["used"][key] + used[key] for key in used}
        return told | said | {"ended_unix_s": row.unix_s, "used": summed}

    def _used(self, used: Mapping[str, Any], job: str) -> dict[str, Any]:
        """What an attempt used; an old ledger has no charges, and the plan's prices hold."""
        whole = {key: used.get(key, 0.0) for key in ("chip_s", "energy_j")}
        charges = used.get("charges")
        if charges is not None or not used:
            charges = charges or ()
            return whole | {k: sum(c[k] for c in charges) for k in ("carbon_g", "money_micro")}
        where = self._works.plan.where(self._pools[job])
        return whole | {
            "carbon_g": whole["energy_j"] * where.carbon_g_per_j,
            "money_micro": round(whole["chip_s"] * where.price_chip_s * 1e6),
        }
