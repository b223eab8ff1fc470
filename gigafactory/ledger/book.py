"""Questions to a ledger: jobs, bills, curves, predicted against measured. SQL, by DuckDB.

The lived ledger (SQLite) and the simulated one (Parquet) have the same columns, so the same
queries answer for both. Money is in integer micro-units of the run's currency.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from gigafactory.factory import events
from gigafactory.factory.events import Event
from gigafactory.ledger import bills
from gigafactory.ledger.store import select

COLUMNS = pa.schema(
    [
        ("seq", pa.int64()),
        ("run", pa.string()),
        ("kind", pa.string()),
        ("subject", pa.string()),
        ("at_s", pa.float64()),
        ("unix_s", pa.float64()),
        ("body", pa.string()),
    ]
)

AT_ONCE = 20_000  # rows in memory while they are read
HAPPENED = """
create temp table happened (seq bigint, run varchar, kind varchar, subject varchar,
    at_s double, unix_s double, body json)
"""
TABLES = """
create temp table opened as select run, at_s, body->'$.plan' as plan, body->>'$.clock' as clock,
    (body->>'$.opened_unix_s')::double as opened_unix_s
    from happened where kind = 'RunOpened';

create temp table places as select run, p->>'$.pool' as pool,
    (p->>'$.price_chip_s')::double as price_chip_s,
    (p->>'$.carbon_g_per_j')::double as carbon_g_per_j
    from (select run, unnest(cast(plan->'$.places' as json[])) as p from opened);

create temp table submitted as select seq, run, subject as job, at_s, body->>'$.tenant' as tenant,
    body->>'$.kind' as kind, (body->>'$.chips')::int as chips, body->'$.quote' as quote,
    (body->>'$.service')::boolean as service
    from happened where kind = 'JobSubmitted';

create temp table started as select run, subject as job, (body->>'$.attempt')::int as attempt, at_s,
    body->>'$.pool' as pool
    from happened where kind = 'JobStarted';

create temp table ended as select seq, run, subject as job, at_s,
    (body->>'$.attempt')::int as attempt,
    lower(replace(kind, 'Job', '')) as outcome, body->'$.used' as used,
    coalesce((body->>'$.used.chip_s')::double, 0) as chip_s,
    coalesce((body->>'$.used.energy_j')::double, 0) as energy_j,
    list_sum(cast(body->'$.used.charges[*].carbon_g' as double[])) as charged_g,
    list_sum(cast(body->'$.used.charges[*].money_micro' as bigint[])) as charged_micro,
    body->'$.results' as results, (body->>'$.passed')::boolean as passed, body->'$.error' as error
    from happened where kind in ('JobDone', 'JobFailed', 'JobLost', 'JobStopped')
    qualify row_number() over (partition by run, job, attempt order by seq) = 1;

create temp table attempts as select started.*, ended.at_s as ended_s, outcome, chip_s, energy_j,
    coalesce(charged_g, energy_j * carbon_g_per_j) as carbon_g,
    coalesce(charged_micro, cast(round(chip_s * price_chip_s * 1e6) as bigint)) as money_micro
    from started left join ended using (run, job, attempt) left join places using (run, pool);

create temp table ready as select run, subject as job, min(at_s) as at_s
    from happened where kind = 'JobReported' and (body->>'$.figures.ready') = 'true' group by all;

create temp table reserved as select run, subject as request, at_s, body->>'$.tenant' as tenant,
    body->>'$.job' as job, body->>'$.model' as model
    from happened where kind = 'RequestReserved';

create temp table answered as select * from happened
    where kind in ('RequestSettled', 'RequestDisputed')
    qualify row_number() over (partition by run, subject order by seq) = 1;

create temp table settled as select run, subject as request, at_s, body->>'$.tenant' as tenant,
    body->>'$.job' as job, (body->>'$.prompt_tokens')::bigint as prompt_tokens,
    (body->>'$.completion_tokens')::bigint as completion_tokens,
    (body->>'$.ttft_s')::double as ttft_s, (body->>'$.duration_s')::double as duration_s,
    body->>'$.outcome' as outcome, (body->>'$.money_micro')::bigint as money_micro
    from answered where kind = 'RequestSettled';
"""

JOBS = """
with usage as (
    select run, job, count(*) as attempts, min(at_s) as started_s, max(ended_s) as ended_s,
        sum(chip_s) as chip_s, sum(energy_j) as energy_j, sum(carbon_g) as carbon_g,
        sum(money_micro) as money_micro, bool_or(outcome is null) as runs
    from attempts group by all),
last as (select run, job, arg_max(outcome, seq) as outcome, arg_max(results, seq) as results,
    arg_max(passed, seq) as passed, arg_max(error, seq) as error from ended group by all),
cancelled as (select distinct run, subject as job from happened where kind = 'JobCancelled')
select submitted.job as name, submitted.kind, tenant, chips, service,
    coalesce(attempts, 0) as attempts, submitted.at_s as submitted_s, started_s, ended_s,
    case when last.outcome = 'done' then 'done'
         when cancelled.job is not null then 'cancelled'
         when attempts is null then 'waiting'
         when usage.runs then 'running'
         else last.outcome end as state,
    coalesce(usage.chip_s, 0) as chip_s, coalesce(energy_j, 0) / 3.6e6 as energy_kwh,
    coalesce(carbon_g, 0) as carbon_g, coalesce(money_micro, 0)::bigint as money_micro,
    ready.at_s - started_s as ready_s, results, passed, error, quote
from submitted left join usage using (run, job) left join last using (run, job)
    left join cancelled using (run, job) left join ready using (run, job)
where submitted.run = $run order by submitted.seq
"""

BILL = """
with prices as (select run, coalesce((plan->>'$.token_prices.input')::double, 0) as input,
        coalesce((plan->>'$.token_prices.output')::double, 0) as output from opened),
jobs as (select run, tenant, sum(chip_s) as chip_s, sum(energy_j) / 3.6e6 as energy_kwh,
        sum(carbon_g) as carbon_g, sum(money_micro)::bigint as chips_micro
    from attempts join submitted using (run, job) group by all),
requests as (select run, tenant, count(*) as requests, sum(prompt_tokens)::bigint as input_tokens,
        sum(completion_tokens)::bigint as output_tokens,
        sum(coalesce(money_micro,
            cast(round((prompt_tokens * input + completion_tokens * output) * 1e6) as bigint)))
            as tokens_micro
    from settled join prices using (run) group by all),
disputes as (select run, body->>'$.tenant' as tenant, count(*) as disputed
    from answered where kind = 'RequestDisputed' group by all)
select tenant, coalesce(chip_s, 0) as chip_s, coalesce(energy_kwh, 0) as energy_kwh,
    coalesce(carbon_g, 0) as carbon_g, coalesce(requests, 0) as requests,
    coalesce(input_tokens, 0) as input_tokens, coalesce(output_tokens, 0) as output_tokens,
    coalesce(disputed, 0) as disputed, coalesce(chips_micro, 0)::bigint as chips_micro,
    coalesce(tokens_micro, 0)::bigint as tokens_micro,
    (coalesce(chips_micro, 0) + coalesce(tokens_micro, 0))::bigint as total_micro
from jobs full join requests using (run, tenant) full join disputes using (run, tenant)
where run = $run order by tenant
"""

CURVES = """
select subject as job, at_s, (body->>'$.figures.step')::bigint as step,
    (body->>'$.figures.tokens')::double as tokens, (body->>'$.figures.loss')::double as loss
from happened where run = $run and kind = 'JobReported'
    and (body->>'$.figures.step') is not null order by seq
"""

# One engine for all books, since a new one costs 30 ms, and one thread, since threads cost
# more than they save on a few thousand rows. What a book holds is temporary, so its own.
ENGINE = duckdb.connect(config={"threads": 1})


class Book:
    """An opened ledger, at the moment of opening. What a question needs is read when it is put."""

    def __init__(self, where: Path | str, run: str | None = None):
        self._where, self._run = where, run
        self._simulated = Path(where).suffix == ".parquet"
        self._answers: dict[tuple, list[dict[str, Any]]] = {}
        if self._simulated:
            self._last = pq.ParquetFile(where).metadata.num_rows
        else:
            newest = next(iter(select(where, "select max(seq) from events")), None)
            self._last = (newest and newest[0]) or 0

    @classmethod
    def open(cls, where: Path | str, run: str | None = None) -> "Book":
        """A lived ledger (`.db`, or a URL of PostgreSQL), all of it or one run.

        Or a simulated one (`.parquet`).
        """
        return cls(where, run)

    @cached_property
    def _duck(self) -> duckdb.DuckDBPyConnection:
        """All of the book as tables."""
        duck = ENGINE.cursor()
        duck.execute(HAPPENED)
        for rows in self._rows():
            duck.register("rows", rows)
            duck.execute("insert into happened select * from rows")
        duck.execute(TABLES)
        return duck

    def _rows(self, kinds: tuple[str, ...] = ()) -> Iterator[pa.Table]:
        """The rows in order, of some kinds or of all, so many at a time that memory is bounded."""
        if self._simulated:
            said = ds.field("kind").isin(kinds) if kinds else None
            parts = ds.dataset(self._where).to_batches(batch_size=AT_ONCE, filter=said)
            yield from (pa.Table.from_batches([part], COLUMNS) for part in parts if part.num_rows)
            return
        terms: list[str] = ["seq <= ?"]
        values: list[str | int] = [self._last]
        if self._run is not None:
            terms.append("run = ?")
            values.append(self._run)
        if kinds:
            terms.append(f"kind in ({','.join('?' * len(kinds))})")
            values += kinds
        query = f"select {','.join(COLUMNS.names)} from events where {' and '.join(terms)}"
        rows = select(self._where, f"{query} order by seq", values)
        while part := list(islice(rows, AT_ONCE)):
            columns = zip(zip(*part, strict=True), COLUMNS.types, strict=True)
            yield pa.Table.from_arrays([pa.array(*column) for column in columns], schema=COLUMNS)

    def ask(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Rows of a query over `happened` and the tables, as dicts; JSON columns parsed.

        A book stands still, so each question is put once.
        """
        question = (query, *values.items())
        if question not in self._answers:
            self._answers[question] = self._answer(query, values)
        return self._answers[question]

    def _answer(self, query: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        cursor = self._duck.execute(query, values)
        names = [column[0] for column in cursor.description]
        parsed = [str(column[1]) == "JSON" for column in cursor.description]
        return [
            {
                name: json.loads(value) if is_json and value is not None else value
                for name, value, is_json in zip(names, row, parsed, strict=True)
            }
            for row in cursor.fetchall()
        ]

    def runs(self) -> list[dict[str, Any]]:
        """Runs, oldest first: `run`, `clock`, `opened_unix_s`, `plan`."""
        return self.ask("select run, clock, opened_unix_s, plan from opened order by opened_unix_s")

    def jobs(self, run: str) -> list[dict[str, Any]]:
        """Every job of a run: where it stands, what it used, what it was quoted."""
        return self.ask(JOBS, run=run)

    def bill(self, run: str) -> list[dict[str, Any]]:
        """What each tenant used and owes."""
        return self.ask(BILL, run=run)

    def months(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """The bill of each calendar month (UTC) and tenant over all runs, or of one tenant."""
        if ("months",) not in self._answers:
            few = pa.concat_tables([COLUMNS.empty_table(), *self._rows(bills.FEW)])
            self._answers["months",] = bills.months(ENGINE.cursor(), few, self._rows(bills.MANY))
        found = self._answers["months",]
        return [bill for bill in found if tenant in (None, bill["tenant"])]

    def monthly(self, month: str) -> list[dict[str, Any]]:
        """The bills of a month, `2026-11`, by tenant."""
        return [bill for bill in self.months() if bill["month"] == month]

    def curves(self, run: str) -> list[dict[str, Any]]:
        """What jobs reported while they ran: step, tokens, loss over time."""
        return self.ask(CURVES, run=run)

    def attempts(self, run: str) -> list[dict[str, Any]]:
        """Every attempt: start, end, outcome, usage."""
        return self.ask(
            "select * exclude (run) from attempts where run = $run order by at_s, job", run=run
        )

    def requests(self, run: str) -> list[dict[str, Any]]:
        """Settled gateway requests, oldest first."""
        return self.ask(
            "select * exclude (run) from settled where run = $run order by at_s", run=run
        )

    def first_token(self, run: str) -> dict[str, Any] | None:
        """The first answer of the run, and when it came."""
        found = self.ask(
            "select body from happened where run = $run and kind = 'FirstToken'"
            " order by seq limit 1",
            run=run,
        )
        return found[0]["body"] if found else None

    def predicted_measured(self, run: str) -> list[dict[str, Any]]:
        """Each ended job: duration, tokens and kWh, predicted and measured, with the error."""
        return [_compared(job) for job in self.jobs(run) if _has_measure(job)]


def write_parquet(path: Path, run: str, happened: list[Event], unix_s: float) -> None:
    """A simulated ledger: the same rows as the store writes; `unix_s` is when the run opens."""
    rows = [events.to_row(event) for event in happened]
    table = pa.Table.from_pydict(
        {
            "seq": range(1, len(rows) + 1),
            "run": [run] * len(rows),
            "kind": [kind for kind, *_ in rows],
            "subject": [subject for _, subject, *_ in rows],
            "at_s": [at_s for _, _, at_s, _ in rows],
            "unix_s": [unix_s + at_s for _, _, at_s, _ in rows],
            "body": [json.dumps(body, separators=(",", ":"), sort_keys=True) for *_, body in rows],
        },
        schema=COLUMNS,
    )
    pq.write_table(table, path)


def _has_measure(job: dict[str, Any]) -> bool:
    return job["ready_s"] is not None if job["service"] else job["state"] == "done"


def _compared(job: dict[str, Any]) -> dict[str, Any]:
    """Predicted, measured and relative error; of a service, the time until it answered."""
    quote = job["quote"]
    duration_s = job["ready_s"] if job["service"] else job["chip_s"] / job["chips"]
    pairs = {"s": (quote["duration_s"], duration_s)}
    if not job["service"]:
        tokens = (job["results"] or {}).get("tokens")
        pairs["tokens"] = (quote["tokens"], tokens)
        pairs["kwh"] = (quote["energy_kwh"], job["energy_kwh"])
    compared = {
        "name": job["name"],
        "kind": job["kind"],
        "attempts": job["attempts"],
        "basis": quote["duration_s"]["basis"],
    }
    for unit, (predicted, measured) in pairs.items():
        compared[f"predicted_{unit}"] = predicted["value"]
        compared[f"predicted_{unit}_low"] = predicted["low"]
        compared[f"predicted_{unit}_high"] = predicted["high"]
        compared[f"measured_{unit}"] = measured
        known = measured is not None and predicted["value"]
        compared[f"error_{unit}"] = measured / predicted["value"] - 1 if known else None
    return compared
