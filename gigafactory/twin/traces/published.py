"""A trace against what was published of the cluster that it should be of. Units: s, GPU-s.

Source: stack/data/traces.csv, with the papers and repositories of every row.
"""

import math
from dataclasses import dataclass

from gigafactory.faults import Fault, Refused, nearest
from gigafactory.stack import facts
from gigafactory.twin.traces.trace import SYNTHETIC, Trace, summary

SAME = 0.01
"""Within so much in every figure a copy agrees; published shares have three digits."""
SHARES = ("completed", "cancelled", "failed")
NOT_ALIKE = {
    "PAI": {
        "gpus_mean": "published: of one instance of a task, in fractions",
        "gpus_median": "published: of one instance of a task, in fractions",
        "gpus_max": "published: of one instance of a task",
    }
}
"""Figures of which the published ones count something else."""


@dataclass(frozen=True)
class Difference:
    """One figure, published and here; their ratio is 1 where they agree."""

    quantity: str
    published: float
    here: float
    ratio: float | None
    """None where the published figure is 0 and this is not."""
    note: str = ""


def names() -> list[str]:
    """Clusters of which a summary was published."""
    return [name for name, rows in facts.by_subject("traces").items() if "run_time_mean" in rows]


def known(name: str) -> str:
    """The name as it is published, whatever its case. Raises `Refused`."""
    for one in names():
        if one.lower() == name.lower():
            return one
    near = nearest(name, names())
    hint = near if near.startswith("did you mean") else "take one of them"
    why = f"known: {', '.join(names())}"
    raise Refused(Fault(f"no published summary of {name!r}", "NAME", why, hint))


def published(name: str) -> dict[str, float]:
    """The summary of a cluster, as far as it is known, with shares made from its GPU times."""
    rows = facts.by_subject("traces")[known(name)]
    told = {key: fact.value for key, fact in rows.items() if fact.value is not None}
    times_s = [told.pop(f"{word}_gpu_time", None) for word in SHARES]
    if None not in times_s:
        told["gpu_time"] = sum(value for value in times_s if value is not None)
        for word, value in zip(SHARES, times_s, strict=True):
            told[f"{word}_gpu_time_share"] = (value or 0.0) / told["gpu_time"]
    return told


def against(trace: Trace, name: str) -> list[Difference]:
    """Every figure that is both published and known here; jobs are those with GPUs."""
    theirs, ours = published(name), summary(trace)
    notes = NOT_ALIKE.get(known(name), {})
    found = []
    for quantity, here in ours.items():
        if quantity in theirs and here is not None:
            there = theirs[quantity]
            ratio = here / there if there else (1.0 if here == there else None)
            found.append(Difference(quantity, there, here, ratio, notes.get(quantity, "")))
    return found


def verdict(trace: Trace, name: str, found: list[Difference]) -> str:
    """Whether the trace is that of the cluster, in words."""
    if trace.form == SYNTHETIC:
        return f"Made up after the published summary of {name}; it is not that trace. Modelled."
    off = sorted((one for one in found if not one.note and _off(one) > SAME), key=_off)
    if not off:
        known = f"in the {len(found)} figures that both know"
        return f"It agrees with the published summary of {name} within {SAME:.0%} {known}."
    ratios = {one.quantity: one.ratio for one in found}
    size = f"it has {ratios['jobs']:.0%} of its jobs"
    if "gpu_time" in ratios:
        size += f" and {ratios['gpu_time']:.0%} of its GPU-hours"
    words = ", ".join(_words(one) for one in reversed(off[-3:]))
    return f"This is not the published trace of {name}: {size}. Furthest off: {words}."


def _off(one: Difference) -> float:
    return math.inf if one.ratio is None else abs(one.ratio - 1)


def _words(one: Difference) -> str:
    times = f"× {one.ratio:.2f}" if one.ratio is not None else f"{one.here:.3g} instead of 0"
    return f"{one.quantity.replace('_', ' ')} {times}"
