"""One run as JSON: all that the page, the report and the terminal show of it.

Everything here is a query to the book, or what the works says beside it: where a job stands
this second is not in the ledger. SI inside, money in micro-units of the run's currency.
"""

import math
from collections.abc import Mapping
from typing import Any

from gigafactory.console.tail import tail
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.ledger.book import Book

POINTS_MAX = 120  # of a curve; a screen shows no more
WORD_LETTERS_MAX = 40  # a text in the results that is longer is a digest, no highlight
ENDED_ILL = {"failed": "failed", "cancelled": "was cancelled", "blocked": "is blocked"}
SAID_ELSEWHERE = {
    "tokens", "steps", "cpu_s", "wall_s", "energy_kwh", "carbon_g", "passed", "modelled",
}  # fmt: skip

OPENED = """
select clock, opened_unix_s, plan, (select max(at_s) from happened where run = $run) as at_s,
    (select min(at_s) from ready where run = $run) as ready_s
from opened where run = $run
"""

JOBS_SAID = """
select subject as job,
    arg_max(body->>'$.figures.phase', seq) as phase,
    arg_max((body->>'$.figures.step')::bigint, seq) as step,
    arg_max((body->>'$.figures.steps')::bigint, seq) as steps,
    arg_max((body->>'$.figures.tokens')::bigint, seq) as tokens,
    arg_max((body->>'$.figures.loss')::double, seq) as loss,
    any_value(body->'$.after') filter (kind = 'JobSubmitted') as after,
    any_value(body->'$.through') filter (kind = 'JobSubmitted') as through,
    any_value((body->>'$.retries')::int) filter (kind = 'JobSubmitted') as retries,
    count(*) filter (kind = 'JobFailed') as failures,
    arg_max(body->>'$.used.energy_basis', seq) as energy_basis
from happened where run = $run and kind like 'Job%' group by all
"""

REQUESTS = """
select count(*) as settled, count(*) filter (outcome = 'error') as errors,
    coalesce(sum(prompt_tokens), 0)::bigint as input_tokens,
    coalesce(sum(completion_tokens), 0)::bigint as output_tokens,
    median(ttft_s) filter (outcome <> 'error') as ttft_s_median,
    quantile_cont(ttft_s, 0.95) filter (outcome <> 'error') as ttft_s_p95,
    median(duration_s) filter (outcome <> 'error') as duration_s_median
from settled where run = $run
"""

Json = dict[str, Any]


def view(book: Book, run: str, live: Mapping[str, Mapping] | None = None) -> Json:
    """Everything to be shown of `run`, ready for JSON.

    `live` is the works' word on each job, `{"status": ..., "progress": {...}}`; without it
    the jobs stand where the ledger left them.
    """
    opened = _opened(book, run)
    plan = opened["plan"]
    compared = book.predicted_measured(run)
    bill = book.bill(run)
    simulated = opened["clock"] == "virtual"
    shown = {
        "run": run,
        "clock": opened["clock"],
        "simulated": simulated,
        "opened_unix_s": opened["opened_unix_s"],
        "at_s": opened["at_s"],
        "currency": plan["currency"],
        "blueprint": plan["name"],
        "hashes": {of: plan[f"{of}_hash"] for of in ("blueprint", "catalog", "measured")},
        "machine": plan["measured"]["machine"],
        "jobs": _jobs(book, run, plan, live or {}, compared),
        "attempts": book.attempts(run),
        "curves": _curves(book, run),
        "bill": bill,
        "requests": _requests(book, run, bill),
        "first_token": _first_token(book, run, plan) | {"ready_s": opened["ready_s"]},
        "predicted_measured": compared,
        "ledger": tail(book, run),
        "notes": _notes(simulated, plan["currency"]),
    }
    return _finite(shown)


def _opened(book: Book, run: str) -> Json:
    found = book.ask(OPENED, run=run)
    if not found:
        known = [row["run"] for row in book.ask("select run from opened")]
        raise Refused(
            Fault(f"there is no run {run!r}", "the ledger", "none was opened", nearest(run, known))
        )
    return found[0]


def _jobs(
    book: Book, run: str, plan: Json, live: Mapping[str, Mapping], compared: list[Json]
) -> list[Json]:
    """Every job, in the order they came, so that each stands after what it waits for."""
    said = {row["job"]: row for row in book.ask(JOBS_SAID, run=run)}
    planned = {job["spec"]["name"]: job for job in plan["jobs"]}
    errors = {row["name"]: row for row in compared}
    jobs: dict[str, Json] = {}
    for row in book.jobs(run):
        name, word = row["name"], live.get(row["name"], {})
        why_blocked = _why_blocked(said[name], jobs)
        status = word.get("status") or ("blocked" if why_blocked else row["state"])
        jobs[name] = _job(row, said[name], planned.get(name, {}), errors.get(name, {})) | {
            "status": status,
            "reason": _reason(row, status, why_blocked),
            "over": _is_over(status, said[name]),
            "progress": _progress(said[name], status, word.get("progress", {})),
        }
    return list(jobs.values())


def _job(row: Json, said: Json, planned: Json, compared: Json) -> Json:
    """What does not change while it runs, and what is known when it ended."""
    quote, reference = row["quote"], planned.get("reference")
    kept = ("name", "kind", "tenant", "chips", "service", "attempts", "started_s", "ended_s")
    used = ("chip_s", "energy_kwh", "carbon_g", "money_micro")
    figures = ("duration_s", "tokens", "energy_kwh", "carbon_g", "money")
    return {
        **{key: row[key] for key in (*kept, *used)},
        "passed": row["passed"],
        "verdict": _verdict(row),
        "verdicts": (row["results"] or {}).get("verdicts") or [],
        "error": row["error"],
        "energy_basis": said["energy_basis"] or "modelled",
        "planned_start_s": planned.get("start_s"),
        "planned_end_s": planned.get("end_s"),
        "quote": {key: quote[key] for key in (*figures, "pool", "reason")},
        "reference": reference
        and {key: reference[key] for key in ("system", "duration_s", "energy_kwh", "money")},
        "measured_s": compared.get("measured_s"),
        "error_s": compared.get("error_s"),
        "results": _highlights(row["results"] or {}),
        "samples": _samples(row["results"] or {}),
    }


def _verdict(row: Json) -> str | None:
    """Of an evaluation: how it ended; a simulated one judges nothing."""
    if row["kind"] != "evaluate" or row["passed"] is None:
        return None
    if (row["results"] or {}).get("modelled"):
        return "assumed to pass"
    return "passed" if row["passed"] else "not passed"


def _why_blocked(said: Json, before: Mapping[str, Json]) -> str | None:
    """Why a job will never start: one that it stands on ended without what it needs."""
    for name in (*said["after"], *said["through"]):
        job = before.get(name)
        if job is None:
            continue
        if job["over"] and job["status"] != "done":
            return f"{name}, on which it stands, {ENDED_ILL[job['status']]}"
        if name in said["through"] and job["status"] == "done" and not job["passed"]:
            return f"{name} did not pass its gate"
    return None


def _is_over(status: str, said: Json) -> bool:
    """Whether it will never run again; a failed job has retries before that."""
    if status == "failed":
        return said["failures"] > said["retries"]
    return status in ("done", "cancelled", "blocked")


def _reason(row: Json, status: str, why_blocked: str | None) -> str | None:
    """What went wrong last, for a job that did not end well."""
    if status == "blocked":
        return why_blocked
    if status == "done" and row["passed"] is False:
        return f"did not pass its gate: {_missed(row['results'] or {})}"
    if row["error"] and status != "done":
        return str(row["error"].get("what"))
    return None


def _missed(results: Json) -> str:
    """The thresholds that were not met, with what was measured."""
    missed = (verdict for verdict in results.get("verdicts") or () if not verdict["passed"])
    return (
        "; ".join(
            f"{verdict['metric']} {_figure(verdict['value'])}, wanted {verdict['threshold']}"
            + (f" ({verdict['reason']})" if verdict.get("reason") else "")
            for verdict in missed
        )
        or "it has no threshold"
    )


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _progress(said: Json, status: str, live: Mapping) -> Json:
    """How far it is: the works' newest figures over those in the ledger."""
    known = {key: said[key] for key in ("phase", "step", "steps", "tokens", "loss")}
    known |= {key: live[key] for key in (*known, "tokens_per_s") if live.get(key) is not None}
    share = known["step"] / known["steps"] if known["step"] and known["steps"] else 0.0
    return known | {"share": 1.0 if status == "done" else min(share, 1.0)}


def _highlights(results: Json) -> Json:
    """The results that fit on a line and stand nowhere else; a metric with its interval."""
    flat = _worded(results | (results.get("metrics") or {}))
    short = {
        name: value
        for name, value in flat.items()
        if isinstance(value, bool | int | float)
        or (isinstance(value, str) and len(value) <= WORD_LETTERS_MAX)
    }
    ranges = {
        name: {"value": value, "low": short[f"{name}_low"], "high": short[f"{name}_high"]}
        for name, value in short.items()
        if {f"{name}_low", f"{name}_high"} <= short.keys()
    }
    ends = {f"{name}_{end}" for name in ranges for end in ("low", "high")}
    alone = {name: short[name] for name in short if name not in SAID_ELSEWHERE | ends}
    return ranges | {name: value for name, value in alone.items() if name not in ranges}


def _worded(results: Json) -> Json:
    """The same with `nan` and `inf` as words: a training that diverged should say so."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in results.items()
    }


def _samples(results: Json) -> list[Json]:
    """Answers of a judged model that its evaluation shows."""
    told = ("prompt", "answer", "expected", "exact")
    return [
        {key: sample[key] for key in told}
        for sample in results.get("samples") or ()
        if isinstance(sample, dict) and set(told) <= sample.keys()
    ]


def _curves(book: Book, run: str) -> dict[str, list[Json]]:
    """The curve of each job that has steps, thinned; what a retry did again counts once."""
    curves: dict[str, list[Json]] = {}
    for row in book.curves(run):
        points = curves.setdefault(row["job"], [])
        while points and points[-1]["step"] >= row["step"]:
            points.pop()
        points.append({key: row[key] for key in ("at_s", "step", "tokens", "loss")})
    return {job: _thinned(points) for job, points in curves.items()}


def _thinned(points: list[Json]) -> list[Json]:
    """At most `POINTS_MAX` points, evenly apart, the last one always among them."""
    every = -(-len(points) // POINTS_MAX)
    return points[::-1][::every][::-1]


def _requests(book: Book, run: str, bill: list[Json]) -> Json:
    """The gateway in a line; a disputed request is one that a crash left open, billed 0."""
    [requests] = book.ask(REQUESTS, run=run)
    return requests | {"disputed": sum(row["disputed"] for row in bill)}


def _first_token(book: Book, run: str, plan: Json) -> Json:
    """When the first service was planned to answer, and what it did answer, and when."""
    services = [job["end_s"] for job in plan["jobs"] if job["spec"]["work"]["kind"] == "serve"]
    first = book.first_token(run) or {}
    works = {job["spec"]["name"]: job["spec"]["work"] for job in plan["jobs"]}
    made = works.get(works.get(first.get("job"), {}).get("of"), {})
    return {
        # A policy or a detector answers, but has no tokens.
        "acts": made.get("learns") in ("policy", "detector"),
        "predicted_s": min(services, default=None),
        "measured_s": first.get("time_to_first_token_s"),
        **{key: first.get(key) for key in ("job", "prompt", "answer")},
    }


def _notes(simulated: bool, currency: str) -> list[str]:
    """What of all this is measured, and what is modelled."""
    times = (
        "Simulated: every time, token and joule of this run is drawn from the plan's quotes;"
        " nothing ran."
        if simulated
        else "Measured: times, tokens, losses, chip-seconds and CPU-seconds."
    )
    return [
        times,
        "Modelled: energy, from the time held, the CPU-seconds used and the draw of a chip;"
        " carbon, from energy and the site's grid.",
        f"Exact: money, chip-seconds and tokens at the plan's prices, in millionths of {currency}.",
    ]


def _finite(value: Any) -> Any:
    """The same with None for what is no number, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
