"""What a run's ledger told last, kept up to date: its newest rows, what was used, a job's story.

Rows of requests are millions and are never read here, but once, as sums of those before the
works started; the gateway counts those after. All other rows are found by the ledger's small
index, after the first look only the new ones. s, J, gCO2e; money in micro-units.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigafactory.ledger.store import COLUMNS, OFTEN, Row, is_url, read, select

if TYPE_CHECKING:
    from gigafactory.works.driver import Works

ENDS = ("JobDone", "JobFailed", "JobLost", "JobStopped")
STORY = ("JobStarted", "JobReported", "JobCheckpointed", *ENDS)
TOLD = (
    "RunOpened", "NodeJoined", "NodeLost", "NodeDrained", "SiteCapped", "PoolOpened",
    "TenantChanged", "JobSubmitted", "JobCancelled", "RequestDisputed", "BatchOpened",
    "BatchEnded", "FirstToken", *STORY,
)  # fmt: skip
KEPT = 400  # newest rows, of which everybody sees their own
STORIES_MAX = 64
Json = dict[str, Any]


@dataclass
class Story:
    """One job, from its rows: attempts by number, the points of its curve."""

    after: int = 0
    attempts: dict[int, Json] = field(default_factory=dict)
    curve: list[Json] = field(default_factory=list)
    """`step`, `loss`, `tokens`, `at_s`; what a later attempt did again stands once."""
    ready_s: float | None = None
    """From its first start until it answered, of a service."""

    def hear(self, row: Row) -> None:
        """One more row of the job."""
        self.after, body = row.seq, row.body
        if row.kind == "JobStarted":
            self.attempts[body["attempt"]] = {
                "started_s": row.at_s,
                "started_unix_s": row.unix_s,
                "ended_unix_s": None,
                "ended_s": None,
                "outcome": "running",
                "pool": body["pool"],
                "nodes": dict(zip(body["nodes"], body["chips"], strict=True)),
                "from_step": body["from_step"],
                "checkpoint": 0,
                "why": "",
                "used": {},
            }
        elif (attempt := self.attempts.get(body["attempt"])) is None:
            return
        elif row.kind == "JobReported":
            self._report(row.at_s, body["figures"])
        elif row.kind == "JobCheckpointed":
            attempt["checkpoint"] = body["step"]
        elif attempt["ended_s"] is None:  # what was said of it first stands
            error = body.get("error") or {}
            attempt |= {
                "ended_s": row.at_s,
                "ended_unix_s": row.unix_s,
                "outcome": row.kind.removeprefix("Job").lower(),
                "why": body.get("reason") or error.get("what", ""),
                "remedy": error.get("remedy", ""),
                "used": body["used"],
            }

    def _report(self, at_s: float, figures: Json) -> None:
        if figures.get("ready") and self.ready_s is None:
            self.ready_s = at_s - min(a["started_s"] for a in self.attempts.values())
        if figures.get("step") is not None and figures.get("loss") is not None:
            while self.curve and self.curve[-1]["step"] >= figures["step"]:
                self.curve.pop()
            point = {key: figures.get(key) for key in ("step", "loss", "tokens")}
            self.curve.append({**point, "at_s": at_s})


class Recent:
    """To be used by one thread at a time."""

    def __init__(self, works: "Works"):
        self._works, self._where = works, works.home.ledger
        self._after: int | None = None
        self._before = _last(self._where)
        self.rows: deque[Row] = deque(maxlen=KEPT)
        self.first: Row | None = None
        """The first answer."""
        self.used: dict[str, Json] = {}
        """By tenant: `chip_s`, `energy_j`, `carbon_g`, `money_micro` of attempts that ended."""
        self.asked: dict[str, Json] = {}
        """By tenant: `requests`, `prompt_tokens`, `completion_tokens`, `money_micro` of requests
        that were settled before the works started."""
        self.disputed: dict[str, int] = {}
        self._stories: dict[str, Story] = {}

    def freshen(self) -> None:
        """Read what is new."""
        if self._after is None:
            self._after = self._begin()
        for row in read(self._where, self._works.run, self._after, TOLD):
            self._after = row.seq
            self._keep(row)
            self._count(row)

    def story(self, job: str) -> Story:
        """All that the ledger tells of the attempts of a job."""
        story = self._stories.pop(job, None) or Story()
        self._stories[job] = story
        if len(self._stories) > STORIES_MAX:
            del self._stories[next(iter(self._stories))]
        query = f"""select {COLUMNS} from events where seq > ? and run = ? and subject = ?
            and kind in ('{"', '".join(STORY)}') and {OFTEN} order by seq"""
        for row in self._rows(query, story.after, self._works.run, job):
            story.hear(row)
        return story

    def _begin(self) -> int:
        """The newest rows of each kind and the sums of all, up to the row that is told."""
        run, last = self._works.run, _last(self._where)
        found: list[Row] = []
        for kind in TOLD:
            only = ""
            if kind == "JobReported":
                only = f"and {self._json('body')}->'figures'->>'phase' is not null"
            query = f"""select {COLUMNS} from events where kind = '{kind}' and run = ?
                and {OFTEN} and seq <= ? {only} order by seq desc limit {KEPT}"""
            found += self._rows(query, run, last)
        for row in sorted(found, key=lambda row: row.seq):
            self._keep(row)
        for row in read(self._where, run, kinds=[*ENDS, "RequestDisputed"]):
            if row.seq <= last:
                self._count(row)
        self._ask_before(run)
        return last

    def _ask_before(self, run: str) -> None:
        prices = self._works.plan.token_prices
        body = self._json("body")
        prompt, completion, money = (
            f"cast({body}->>'{name}' as bigint)"
            for name in ("prompt_tokens", "completion_tokens", "money_micro")
        )
        query = f"""select {body}->>'tenant', count(*), sum({prompt}), sum({completion}),
            sum(coalesce({money}, cast(round((? * {prompt} + ? * {completion}) * 1e6) as bigint)))
            from events where kind = 'RequestSettled' and run = ? and seq <= ? group by 1"""
        values = [prices.get("input", 0.0), prices.get("output", 0.0), run, self._before]
        for tenant, *sums in select(self._where, query, values):
            names = ("requests", "prompt_tokens", "completion_tokens", "money_micro")
            self.asked[tenant] = {n: int(v or 0) for n, v in zip(names, sums, strict=True)}

    def _keep(self, row: Row) -> None:
        if row.kind == "FirstToken" and self.first is None:
            self.first = row
        if row.kind != "JobReported" or row.body["figures"].get("phase"):
            self.rows.append(row)

    def _count(self, row: Row) -> None:
        if row.kind == "RequestDisputed":
            tenant = row.body["tenant"]
            self.disputed[tenant] = self.disputed.get(tenant, 0) + 1
        elif row.kind in ENDS and (planned := self._works.planned.get(row.subject)):
            sums = self.used.setdefault(
                planned.spec.work.tenant,
                {"chip_s": 0.0, "energy_j": 0.0, "carbon_g": 0.0, "money_micro": 0},
            )
            for name, value in charged(self._works, row.body["used"]).items():
                sums[name] += value

    def _rows(self, query: str, *values: Any) -> Iterator[Row]:
        for *row, body in select(self._where, query, values):
            yield Row._make([*row, json.loads(body)])

    def _json(self, column: str) -> str:
        return f"{column}::json" if is_url(self._where) else column


def _last(where: Path | str) -> int:
    """Number of the newest row."""
    return next((last or 0 for (last,) in select(where, "select max(seq) from events")), 0)


def charged(works: "Works", used: Json) -> Json:
    """What an attempt used and costs; an old ledger has no charges, and the plan's prices hold."""
    whole: Json = {key: used.get(key) or 0.0 for key in ("chip_s", "energy_j")}
    if (charges := used.get("charges")) is not None:
        return whole | {k: sum(c[k] for c in charges) for k in ("carbon_g", "money_micro")}
    if not used.get("pool"):
        return whole | {"carbon_g": 0.0, "money_micro": 0}
    where = works.plan.where(used["pool"])
    return whole | {
        "carbon_g": whole["energy_j"] * where.carbon_g_per_j,
        "money_micro": round(whole["chip_s"] * where.price_chip_s * 1e6),
    }
