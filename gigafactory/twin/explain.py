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
from gigafactory.twin.held import AT_EASE_S, Held, end_of, held
from gigafactory.twin.run import Lived
from gigafactory.twin.scenario import Scenario
from gigafactory.units import show_duration

REASONS_TOLD = 3
"""In the sentence; the table has them all."""
STOPS_TOLD = 3
STREAMS_TOLD = 10
SPELLS_NOTED = 1000
"""So often the loop notes a change of the watched job's reason; what comes later it does not."""


def row(scenario: Scenario, job: str) -> int:
    """The job's row. Raises `Refused` with names that are near."""
    if job not in scenario.job_names:
        why = f"{len(scenario.job_names):,} jobs come in this course"
        near = nearest(job, _alike(scenario.job_names, job))
        hint = f"{near} Jobs are {_named(scenario.job_names)}"
        if near.startswith("known: "):
            hint = f"jobs are {_named(scenario.job_names)}"
        raise Refused(Fault(f"there is no job {job!r}", "--explain", why, hint))
    return scenario.job_names.index(job)


def story(scenario: Scenario, lived: Lived, job: str) -> dict[str, Any]:
    """Job, waited_s, and when it came, started (None: never) and was stopped; why, and a text.

    `spells` of {from_s, to_s, why} by time, like ones that touch in one; `reasons` of {why, for_s},
    the longest first; `stops` of {from_s, to_s, why}, attempts that did not end well.
    """
    j, until_s = row(scenario, job), end_of(scenario)
    attempts = held(scenario, lived)
    seen = lived.spells
    ends_s = np.append(seen["at_s"][1:], until_s)[: len(seen)]
    if len(seen) == SPELLS_NOTED:
        ends_s[-1] = seen["at_s"][-1]  # What came after it was not noted.
    parts: list[tuple[float, float, str]] = []
    for spell, end_s in zip(seen, ends_s, strict=True):
        if spell["why"] >= 0 and end_s > spell["at_s"]:
            words = _why(scenario, lived, attempts, j, spell)
            parts.append((float(spell["at_s"]), float(end_s), words))
    spells = _merged(parts)
    waited_s = sum(to_s - from_s for from_s, to_s, _ in spells)
    started_s = float(lived.starts_s[j])
    story = {
        "job": job,
        "came_s": float(lived.life["submit_s"][j]),
        "waited_s": waited_s,
        "started_s": started_s if np.isfinite(started_s) else None,
        "spells": [{"from_s": from_s, "to_s": to_s, "why": why} for from_s, to_s, why in spells],
        "reasons": [{"why": why, "for_s": for_s} for why, for_s in _summed(spells)],
        "stops": _stops(scenario, lived, j),
    }
    return story | {"text": "".join(_text(story))}


def _reason(why: str) -> str:
    """Without who is next and who holds what."""
    return why.partition(" (")[0].partition(";")[0]


def _merged(parts: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Spells of one reason that touch as one, with the details of the longest."""
    merged: list[list[tuple[float, float, str]]] = []
    for part in parts:
        last = merged[-1][-1] if merged else None
        if last and last[1] == part[0] and _reason(last[2]) == _reason(part[2]):
            merged[-1].append(part)
        else:
            merged.append([part])
    spells = []
    for like in merged:
        why = max(like, key=lambda part: part[1] - part[0])[2]
        if len({words for _, _, words in like}) > 1:
            details = why.removeprefix(_reason(why)).strip(" ();")
            why = _reason(why) + (f" (the longest while {details})" if details else "")
        spells.append((like[0][0], like[-1][1], why))
    return spells


def _summed(spells: list[tuple[float, float, str]]) -> list[tuple[str, float]]:
    """Seconds of each reason, the longest first."""
    lasted_s: dict[str, float] = {}
    for from_s, to_s, why in spells:
        lasted_s[_reason(why)] = lasted_s.get(_reason(why), 0.0) + to_s - from_s
    return sorted(lasted_s.items(), key=lambda one: -one[1])


def _stops(scenario: Scenario, lived: Lived, j: int) -> list[dict[str, Any]]:
    """The job's attempts that were cut short, and by what."""
    log, world = lived.log[lived.log["job"] == j], scenario.scene.world["event"]
    unwanted_s = world["at_s"][(world["kind"] == st.CANCEL) & (world["job"] == j)].min(
        initial=np.inf
    )
    pressed_s = world["at_s"][np.isin(world["kind"], (st.CAP, st.DRAIN, st.CLOSE))]
    stops = []
    for n, one in enumerate(log):
        from_s, to_s = float(one["started_s"]), float(one["ended_s"])
        if one["outcome"] == st.LOSE_NODE:
            why = "was lost with a node that failed"
        elif one["outcome"] != st.STOPPED or unwanted_s <= to_s:
            continue
        elif any(
            after["width"] > one["width"] and after["started_s"] <= to_s + AT_EASE_S
            for after in log[n + 1 : n + 2]
        ):
            why = "was stopped to go on with more chips"
        elif np.any((pressed_s > from_s) & (pressed_s <= to_s)):
            why = "was stopped (preempted, or for a cap, a drain or a closing)"
        else:
            why = "was preempted"
        stops.append({"from_s": from_s, "to_s": to_s, "why": why})
    return stops


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
    """When it started and what stopped it; then the longest reasons, each with all its spells."""
    stops = told["stops"]
    if told["started_s"] is None:
        yield f"{told['job']} never started"
    elif not told["spells"]:
        yield f"{told['job']} did not wait: it started when it came"
        yield f", {_stopped(stops)}, and went on at once." if stops else "."
        return
    if not told["spells"]:
        yield ": it never came to the queue."
        return
    if stops:
        after_s = told["started_s"] - told["came_s"]
        after = f"{show_duration(after_s)} after it came" if after_s > AT_EASE_S else "at once"
        yield f"{told['job']} started {after}, {_stopped(stops)}; it waited "
        yield f"{show_duration(told['waited_s'])} in all: "
    else:
        yield "; it" if told["started_s"] is None else told["job"]
        yield f" waited {show_duration(told['waited_s'])}: "
    words: dict[str, str] = {}
    for spell in told["spells"]:
        words.setdefault(_reason(spell["why"]), spell["why"])
    first, rest = told["reasons"][:REASONS_TOLD], told["reasons"][REASONS_TOLD:]
    parts = [f"{show_duration(one['for_s'])}, {words[one['why']]}" for one in first]
    if rest:
        parts.append(f"{show_duration(sum(one['for_s'] for one in rest))}, other reasons")
    yield "; ".join(parts) + "."


def _stopped(stops: list[dict[str, Any]]) -> str:
    """The first stops one by one, the others counted."""
    told = [f"{one['why']} after {show_duration(one['to_s'] - one['from_s'])}" for one in stops]
    if len(told) > STOPS_TOLD:
        told = [*told[:STOPS_TOLD], f"{len(told) - STOPS_TOLD:,} more such stops"]
    return ", then ".join(told)


def _named(names: list[str]) -> str:
    """`research-1 to research-198, ...`: how each stream names its jobs."""
    numbers: dict[str, list[int]] = {}
    for name in names:
        stem, _, number = name.rpartition("-")
        if stem and number.isdecimal():
            numbers.setdefault(f"{stem}-", []).append(int(number))
        else:
            numbers.setdefault(name, [])
    said = [
        f"{stem}{min(those)} to {stem}{max(those)}" if len(those) > 1
        else f"{stem}{those[0] if those else ''}"
        for stem, those in numbers.items()
    ]  # fmt: skip
    more = [f"{len(said) - STREAMS_TOLD:,} more"] if len(said) > STREAMS_TOLD else []
    return ", ".join([*said[:STREAMS_TOLD], *more])


def _alike(names: list[str], job: str) -> list[str]:
    """Names worth showing: this number in streams of a like name, or where a stream begins."""
    stem, _, number = job.rpartition("-")
    begins = {name.rpartition("-")[0]: name for name in reversed(names)}
    known = set(names)
    near = difflib.get_close_matches(stem or number, begins, n=3, cutoff=0.5)
    meant = [f"{one}-{number}" for one in near if f"{one}-{number}" in known]
    return meant or [begins[one] for one in near] or list(begins.values())
