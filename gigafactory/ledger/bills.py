"""Monthly bills: what each tenant used and owes in a calendar month (UTC), over all runs.

s, J, gCO2e, tokens; money in integer micro-units. An attempt is billed when it ends, by its
`charges`, each in its month; one from before there were charges, in the month in which it
ended, at the prices of its run. A request is billed in the month in which it was settled. What
the ledger first said of an attempt or a request stands, whatever is repeated after it.

Requests are many: they stream through Arrow's JSON reader, 49 bytes of each stay. Of the ways
that were measured (SQLite's own JSON aggregates, DuckDB's, this) it is the fastest.
"""

from collections.abc import Iterable
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from gigafactory.ledger.sheet import SUMS

ENDS = ("JobDone", "JobFailed", "JobLost", "JobStopped")
FEW = ("RunOpened", "JobSubmitted", "JobStarted", *ENDS)
MANY = ("RequestSettled", "RequestDisputed")
SAID = pa.schema(
    [
        ("tenant", pa.string()),
        ("job", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("money_micro", pa.int64()),
    ]
)

SETUP = f"""
create temp table happened (seq bigint, run varchar, kind varchar, subject varchar,
    unix_s double, body json);
insert into happened select seq, run, kind, subject, unix_s, body from few;

create temp table runs as select run, any_value(body->>'$.plan.currency') as currency,
    any_value((body->>'$.plan.token_prices.input')::double) as input,
    any_value((body->>'$.plan.token_prices.output')::double) as output
    from happened where kind = 'RunOpened' group by run;

create temp table places as select run, p->>'$.pool' as pool,
    (p->>'$.price_chip_s')::double as price_chip_s,
    (p->>'$.carbon_g_per_j')::double as carbon_g_per_j
    from (select run, unnest(cast(body->'$.plan.places' as json[])) as p
        from happened where kind = 'RunOpened');

create temp table attempts as
with first as (select *, (body->>'$.attempt')::int as attempt from happened
        where kind in {ENDS}
        qualify row_number() over (partition by run, subject, attempt order by seq) = 1),
    started as (select run, subject, (body->>'$.attempt')::int as attempt,
        any_value(body->>'$.pool') as pool from happened where kind = 'JobStarted' group by all),
    submitted as (select run, subject, arg_min(body->>'$.tenant', seq) as tenant
        from happened where kind = 'JobSubmitted' group by all)
select run, tenant, subject as job, coalesce(body->>'$.used.pool', pool, '') as pool, unix_s,
    coalesce((body->>'$.used.chip_s')::double, 0) as chip_s,
    coalesce((body->>'$.used.energy_j')::double, 0) as energy_j,
    coalesce(body->>'$.used.energy_basis', 'modelled') as basis,
    cast(body->'$.used.charges' as json[]) as charges
from first join submitted using (run, subject) left join started using (run, subject, attempt);

create temp table charged as
select run, tenant, job, pool, basis, c->>'$.month' as month, (c->>'$.chip_s')::double as chip_s,
    (c->>'$.energy_j')::double as energy_j, (c->>'$.carbon_g')::double as carbon_g,
    (c->>'$.money_micro')::bigint as money_micro
from (select *, unnest(charges) as c from attempts)
union all
select run, tenant, job, pool, basis,
    strftime(make_timestamp(floor(unix_s)::bigint * 1000000), '%Y-%m'),
    chip_s, energy_j, coalesce(energy_j * carbon_g_per_j, 0),
    coalesce(cast(round(chip_s * price_chip_s * 1e6) as bigint), 0)
from attempts left join places using (run, pool) where charges is null;

create temp table groups (id ubigint, run varchar, tenant varchar, job varchar, month varchar);
create temp table words (request uhugeint, seq bigint, grouped ubigint, settled boolean,
    input_tokens int, output_tokens int, money_micro bigint);
"""

# Requests are told apart by 128 bits of their names: no two are taken for one.
STREAM = """
create or replace temp table heard as
select seq, run, tenant, coalesce(job, '') as job, subject, kind = 'RequestSettled' as settled,
    strftime(make_timestamp(floor(unix_s)::bigint * 1000000), '%Y-%m') as month, prompt_tokens,
    completion_tokens, money_micro, hash(run, tenant, job, month) as grouped
from batch;
insert into groups select distinct grouped, run, tenant, job, month from heard
    where grouped not in (select id from groups);
insert into words select md5_number(run || ' ' || subject), seq, grouped, settled,
    coalesce(prompt_tokens, 0), coalesce(completion_tokens, 0),
    case when settled then coalesce(money_micro,
        cast(round((prompt_tokens * input + completion_tokens * output) * 1e6) as bigint), 0)
        else 0 end
from heard left join runs using (run);
"""

LINES = """
with first as (select * from words where seq in (select min(seq) from words group by request))
select month, tenant, coalesce(currency, '') as currency, 'job' as what, run, job as name, pool,
    sum(chip_s) as chip_s, coalesce(sum(energy_j) filter (basis = 'measured'), 0) as measured_j,
    coalesce(sum(energy_j) filter (basis <> 'measured'), 0) as modelled_j,
    sum(carbon_g) as carbon_g, 0 as requests, 0 as input_tokens, 0 as output_tokens,
    0 as disputed, sum(money_micro)::bigint as money_micro
from charged left join runs using (run) group by all
union all
select month, tenant, coalesce(currency, ''), 'service', run, job, '', 0, 0, 0, 0,
    count(*) filter (settled), coalesce(sum(input_tokens) filter (settled), 0)::bigint,
    coalesce(sum(output_tokens) filter (settled), 0)::bigint, count(*) filter (not settled),
    sum(money_micro)::bigint
from first join groups on grouped = groups.id left join runs using (run) group by all
order by month, tenant, currency, what, run, name, pool
"""


def months(
    duck: duckdb.DuckDBPyConnection, few: pa.Table, many: Iterable[pa.Table]
) -> list[dict[str, Any]]:
    """Every bill, by month and tenant, from rows of the ledger of the kinds `FEW` and `MANY`.

    `duck` is a connection of its own, closed at the end. A bill has its `items`: a line for
    each job in each pool, and for each service that answered.
    """
    duck.register("few", few)
    duck.execute(SETUP)
    for rows in many:
        duck.register("batch", _heard(rows))
        duck.execute(STREAM)
    cursor = duck.execute(LINES)
    names = [column[0] for column in cursor.description]
    bills: dict[tuple[str, str, str], dict[str, Any]] = {}
    for values in cursor.fetchall():
        line = _line(dict(zip(names, values, strict=True)))
        key = (line.pop("month"), line.pop("tenant"), line.pop("currency"))
        _add(bills.setdefault(key, _empty(*key)), line)
    duck.close()
    return list(bills.values())


def _heard(rows: pa.Table) -> pa.Table:
    """Rows of requests with what their bodies say; a body is JSON of one line."""
    bodies = rows["body"].combine_chunks()
    together = pa.ListArray.from_arrays(pa.array([0, len(bodies)], pa.int32()), bodies)
    lines = pc.binary_join(together, "\n")[0].as_buffer()
    said = pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=lines.size),
        parse_options=pj.ParseOptions(
            explicit_schema=SAID, unexpected_field_behavior="ignore", newlines_in_values=False
        ),
    )
    assert said.num_rows == rows.num_rows, "a row is a line"
    for name in SAID.names:
        rows = rows.append_column(name, said[name])
    return rows.drop_columns(["body"])


def _line(line: dict[str, Any]) -> dict[str, Any]:
    line["chip_h"] = line.pop("chip_s") / 3600
    line["energy_measured_kwh"] = line.pop("measured_j") / 3.6e6
    line["energy_modelled_kwh"] = line.pop("modelled_j") / 3.6e6
    return line


def _empty(month: str, tenant: str, currency: str) -> dict[str, Any]:
    nothing = dict.fromkeys(SUMS, 0)
    money = {"chips_micro": 0, "tokens_micro": 0, "total_micro": 0, "currency": currency}
    return {"month": month, "tenant": tenant, "chip_h": {}, **nothing, **money, "items": []}


def _add(bill: dict[str, Any], line: dict[str, Any]) -> None:
    """A line to its bill: sums over all, chip-hours by pool, money by kind."""
    bill["items"].append(line)
    for name in SUMS:
        bill[name] += line[name]
    if line["what"] == "job":
        bill["chip_h"][line["pool"]] = bill["chip_h"].get(line["pool"], 0.0) + line["chip_h"]
    bill["chips_micro" if line["what"] == "job" else "tokens_micro"] += line["money_micro"]
    bill["total_micro"] += line["money_micro"]
