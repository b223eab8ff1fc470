"""Why one job waited, in words: each spell with what would have had to change. Modelled.

The loop watches one job (`live(..., watched=row(...))`) and notes its reason whenever that
changes. s.
"""

import difflib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gigafactory.factory import state as st
from gigafactory.faults import Fault, Refused, nearest
from gigafactory.twin.held import Held, end_of, held
from gigafactory.twin.run import Lived
from gigafactory.twin.scenario import Scenario
from gigafactory.units import show_duration

REASONS_TOLD = 3
"""In the sentence; the table has them all."""
SPELLS_NOTED = 1000
"""So often the loop notes a change of the watched job's reason; what comes later it does not."""


def row(scenario: Scenario, job: str) -> int:
    """The job's row. Raises `Refused` with names that are near."""
    if job not in scenario.job_names:
        why = f"{len(scenario.job_names):,} jobs come in this course"
        hint = nearest(job, _alike(scenario.job_names, job))
        raise Refused(Fault(f"there is no job {job!r}", "--explain", why, hint))
    return scenario.job_names.index(job)


def story(scenario: Scenario, lived: Lived, job: str) -> dict[str, Any]:
    """Job, waited_s, started_s (None: never), spells of {from_s, to_s, why}, and a text."""
    j, until_s = row(scenario, job), end_of(scenario)
    attempts = held(scenario, lived)
    seen = lived.spells
    ends_s = np.append(seen["at_s"][1:], until_s)[: len(seen)]
    if len(seen) == SPELLS_NOTED:
        ends_s[-1] = seen["at_s"][-1]  # What came after it was not noted.
    spells: list[tuple[float, float, str]] = []
    for spell, end_s in zip(seen, ends_s, strict=True):
        if spell["why"] < 0 or end_s <= spell["at_s"]:
            continue
        told_s, words = float(spell["at_s"]), _why(scenario, lived, attempts, j, spell)
        if spells and spells[-1][1:] == (told_s, words):
            told_s = spells.pop()[0]
        spells.append((told_s, float(end_s), words))
    waited_s = sum(to_s - from_s for from_s, to_s, _ in spells)
    started_s = float(lived.starts_s[j])
    story = {
        "job": job,
        "waited_s": waited_s,
        "started_s": started_s if np.isfinite(started_s) else None,
        "spells": [{"from_s": from_s, "to_s": to_s, "why": why} for from_s, to_s, why in spells],
    }
    return story | {"text": "".join(_text(story))}


def _why(scenario: Scenario, lived: Lived, attempts: Held, j: int, spell: np.void) -> str:
    words, behind = st.WHY[spell["why"]], int(spell["behind"])
    if spell["why"] in (st.NEXT_UP, st.BEHIND) and behind not in (-1, j):
        return f"{words}; next is {scenario.job_names[behind]}"
    if spell["why"] == st.QUOTA:
        return f"{words}{_lent(scenario, lived, attempts, j, float(spell['at_s']))}"
    return words


def _lent(scenario: Scenario, lived: Lived, attempts: Held, j: int, at_s: float) -> str:
    """What the tenant held at that moment, and who of its cohort had borrowed."""
    runs = (attempts.start_s <= at_s) & (attempts.end_s > at_s)
    used = np.bincount(attempts.tenant[runs], attempts.chips[runs], len(scenario.tenants))
    tenants, mine = lived.state.tenants, int(lived.state.jobs[j]["tenant"])
    cohort, quota = tenants[mine]["cohort"], int(tenants[mine]["quota"])
    said = [f"{scenario.tenants[mine]} held {used[mine]:,.0f} of {quota:,}"]
    for t, name in enumerate(scenario.tenants):
        over = used[t] - tenants[t]["quota"]
        if t != mine and tenants[t]["quota"] >= 0 and tenants[t]["cohort"] == cohort and over > 0:
            said.append(f"{name} had borrowed {over:,.0f}")
    return f" ({', '.join(said)})"


def _text(told: dict[str, Any]) -> Iterator[str]:
    """A sentence: the longest reasons, each with all its spells together."""
    if told["started_s"] is None:
        yield f"{told['job']} never started"
    elif not told["spells"]:
        yield f"{told['job']} did not wait: it started when it came."
        return
    if not told["spells"]:
        yield ": it never came to the queue."
        return
    yield "; it" if told["started_s"] is None else told["job"]
    yield f" waited {show_duration(told['waited_s'])}: "
    lasted_s: dict[str, float] = {}
    words: dict[str, str] = {}
    for spell in told["spells"]:
        key = spell["why"].partition(" (")[0].partition(";")[0]
        lasted_s[key] = lasted_s.get(key, 0.0) + spell["to_s"] - spell["from_s"]
        words.setdefault(key, spell["why"])
    ranked = sorted(lasted_s, key=lambda key: -lasted_s[key])
    parts = [f"{show_duration(lasted_s[key])}, {words[key]}" for key in ranked[:REASONS_TOLD]]
    rest_s = sum(lasted_s[key] for key in ranked[REASONS_TOLD:])
    if rest_s:
        parts.append(f"{show_duration(rest_s)}, other reasons")
    yield "; ".join(parts) + "."


def _alike(names: list[str], job: str) -> list[str]:
    """Names worth showing: this number in streams of a like name, or where a stream begins."""
    stem, _, number = job.rpartition("-")
    begins = {name.rpartition("-")[0]: name for name in reversed(names)}
    known = set(names)
    near = difflib.get_close_matches(stem or number, begins, n=3, cutoff=0.5)
    meant = [f"{one}-{number}" for one in near if f"{one}-{number}" in known]
    return meant or [begins[one] for one in near] or list(begins.values())
