"""A lived day beside the one that the twin lived freely: where they part, and why. Times in s.

In: a day of a ledger. Out: the order of starts, the time of each job and of the whole day, each
difference in parts that add up and in words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gigafactory.twin.free import Life, live, lives
from gigafactory.twin.replay import Day
from gigafactory.units import show_duration

NOTED_S = 0.05
"""A difference below it is not worth a word: the works looks at the world every 0.1 s."""
PARTS = ("ran", "retried", "stood", "queued")
"""Of the time between submission and end: the last attempt, those before it, the wait for jobs
that it needs, the wait for chips."""
SWAPS = 10
"""Pairs of jobs in another order that are named; more are counted."""


@dataclass(frozen=True)
class Beside:
    """A job in both days. Differences are twin less lived, and add up to that of the JCT."""

    job: str
    lived: str
    twin: str
    """Its outcome."""
    lived_jct_s: float | None
    twin_jct_s: float | None
    lived_ran_s: float | None
    twin_ran_s: float | None
    ran_longer_s: float
    retried_longer_s: float
    stood_longer_s: float
    """For jobs that it needs."""
    queued_longer_s: float
    """For chips, and for the works to begin."""
    why: list[str]


@dataclass(frozen=True)
class Compared:
    """Two days, held against each other."""

    durations: str
    """`quoted` or `lived`."""
    jobs: list[Beside]
    ended_in_both: int
    tau: float | None
    """Kendall's tau-b of the order of starts; None where there is no order."""
    swapped: list[str]
    swaps: int
    lived_mean_jct_s: float | None
    twin_mean_jct_s: float | None
    mean_jct_error: float | None
    lived_makespan_s: float | None
    twin_makespan_s: float | None
    makespan_error: float | None


def compare(day: Day, lived: bool = False) -> Compared:
    """Live the day anew, and tell where it parts from the lived one."""
    then, now = lives(day.events), lives(live(day, lived))
    jobs = [_beside(then, now, job, lived) for job in then]
    both = [job for job in jobs if job.lived_jct_s is not None and job.twin_jct_s is not None]
    started = [job for job in then if then[job].attempts and now[job].attempts]
    then_s, now_s = ([day[job].attempts[0].decided_s for job in started] for day in (then, now))
    swaps = [
        f"{a} before {b}, the twin after it" if x < 0 else f"{b} before {a}, the twin after it"
        for i, a in enumerate(started)
        for k, b in enumerate(started[:i])
        if (x := then_s[i] - then_s[k]) * (now_s[i] - now_s[k]) < 0
    ]
    jct_s = [_mean([getattr(job, f"{which}_jct_s") for job in both]) for which in ("lived", "twin")]
    span_s = [_makespan(day, both) for day in (then, now)]
    return Compared(
        durations="lived" if lived else "quoted",
        jobs=jobs,
        ended_in_both=len(both),
        tau=tau_b(then_s, now_s),
        swapped=swaps[:SWAPS],
        swaps=len(swaps),
        lived_mean_jct_s=jct_s[0],
        twin_mean_jct_s=jct_s[1],
        mean_jct_error=_error(*jct_s),
        lived_makespan_s=span_s[0],
        twin_makespan_s=span_s[1],
        makespan_error=_error(*span_s),
    )


def tau_b(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's rank correlation with ties (Kendall 1945, doi:10.1093/biomet/33.3.239)."""
    x, y = np.asarray(a), np.asarray(b)
    agree = untied_x = untied_y = 0.0
    for i in range(len(x)):
        to_x, to_y = np.sign(x[:i] - x[i]), np.sign(y[:i] - y[i])
        agree += float(to_x @ to_y)
        untied_x += float(np.abs(to_x).sum())
        untied_y += float(np.abs(to_y).sum())
    return agree / (untied_x * untied_y) ** 0.5 if untied_x and untied_y else None


def _beside(then: Mapping[str, Life], now: Mapping[str, Life], job: str, lived: bool) -> Beside:
    mine, twins = then[job], now[job]
    parts = [_parts(day, job) for day in (then, now)]
    jct_s = [sum(one.values()) if one else None for one in parts]
    longer = {name: parts[1][name] - parts[0][name] if all(parts) else 0.0 for name in PARTS}
    return Beside(
        job=job,
        lived=mine.outcome,
        twin=twins.outcome,
        lived_jct_s=jct_s[0],
        twin_jct_s=jct_s[1],
        lived_ran_s=parts[0].get("ran"),
        twin_ran_s=parts[1].get("ran"),
        **{f"{name}_longer_s": seconds for name, seconds in longer.items()},
        why=_why(then, now, job, longer, lived),
    )


def _parts(day: Mapping[str, Life], job: str) -> dict[str, float]:
    """The time from submission to end, in parts; empty where the job did not end."""
    life = day[job]
    if life.last is None or life.ended_s is None:
        return {}
    submitted_s = life.submitted.at_s
    needs = (*life.submitted.after, *life.submitted.through)
    free_s = max([submitted_s, *(day[need].ended_s or 0.0 for need in needs)])
    earlier = life.attempts[: life.attempts.index(life.last)]
    ran_s = life.ended_s - life.last.started_s
    retried_s = sum((one.ended_s or one.started_s) - one.started_s for one in earlier)
    queued_s = life.ended_s - free_s - ran_s - retried_s
    return dict(zip(PARTS, (ran_s, retried_s, free_s - submitted_s, queued_s), strict=True))


def _why(
    then: Mapping[str, Life], now: Mapping[str, Life], job: str, longer: Mapping[str, float],
    lived: bool,
) -> list[str]:  # fmt: skip
    """Every difference in words, the greatest first."""
    mine, twins = then[job], now[job]
    if mine.outcome != twins.outcome:
        cause = next((f" ({one.why})" for one in reversed(mine.attempts) if one.why), "")
        return [f"{mine.outcome} in the lived day{cause}, {twins.outcome} in the twin's"]
    if mine.last is None or twins.last is None:
        return []
    known = "given" if lived else f"{mine.submitted.quote['duration_s']['basis']} quote"
    ran = [show_duration(_parts(day, job)["ran"]) for day in (then, now)]
    earlier = [
        f"{one.outcome} after {show_duration((one.ended_s or one.started_s) - one.started_s)}"
        for one in mine.attempts[: mine.attempts.index(mine.last)]
    ]
    causes = [mine.last.cause, twins.last.cause]
    till = causes[0] if causes[0] == causes[1] else f"{causes[0]}, in the twin till {causes[1]}"
    words = {
        "ran": f"it ran {ran[0]}, the twin had it run {ran[1]} ({known})",
        "retried": f"earlier attempts were {' and '.join(earlier) or 'in the twin only'}",
        "stood": f"it needs {_last_need(then, job)}, which ended at another time",
        "queued": f"it waited for chips till {till}",
    }
    return [
        f"{longer[name]:+.1f} s: {words[name]}"
        for name in sorted(words, key=lambda name: -abs(longer[name]))
        if abs(longer[name]) >= NOTED_S
    ]


def _last_need(day: Mapping[str, Life], job: str) -> str:
    submitted = day[job].submitted
    needs = (*submitted.after, *submitted.through)
    return max(needs, key=lambda need: day[need].ended_s or 0.0, default="nothing")


def _makespan(day: Mapping[str, Life], both: Sequence[Beside]) -> float | None:
    """From the first submission to the last end of a job that ended in both days."""
    ends_s = [end_s for job in both if (end_s := day[job.job].ended_s) is not None]
    first_s = min((life.submitted.at_s for life in day.values()), default=0.0)
    return max(ends_s) - first_s if ends_s else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _error(lived: float | None, twin: float | None) -> float | None:
    return twin / lived - 1 if lived and twin is not None else None
