"""Which job goes first: a policy fills the score column, lowest first, inf for not now.

A policy is one function over the columns of the jobs that wait or run. `rules` says what goes
with a policy beside its scores. Anybody's own function will do: `Factory(policy=mine)`,
`gigafactory simulate --policy my_policies.py:mine`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]
LAST = 1e18
"""A score behind all others that still may start; inf may not."""


@dataclass(frozen=True)
class Asked:
    """What a policy may look at: one entry a job, and what the hours bring."""

    now_s: float
    chips: NDArray[np.int32]
    priority: NDArray[np.int32]
    submitted_s: Column
    whole_s: Column
    """Expected from start to end where the job runs best; inf where nobody knows."""
    left_s: Column
    """The same from its last checkpoint."""
    deadline_s: Column
    """inf without one."""
    flop_per_j: Column
    """Useful work for energy where it runs best; 0 where nobody knows."""
    carbon_ahead: Column
    """gCO2e/J by the hour, from this one on, where the cleanest of the sites stands; or empty."""


Policy = Callable[[Asked], Column]


def fifo(asked: Asked) -> Column:
    """First come, first served."""
    return np.zeros(len(asked.chips))


def sjf(asked: Asked) -> Column:
    """The shortest job first; those of unknown length last."""
    return asked.whole_s.clip(max=LAST)


def srtf(asked: Asked) -> Column:
    """The shortest remaining time first, taking chips from those with longer to go."""
    return asked.left_s.clip(max=LAST)


def deadline(asked: Asked) -> Column:
    """The earliest deadline first."""
    return asked.deadline_s.clip(max=LAST)


def carbon(asked: Asked) -> Column:
    """Wait for the cleanest hours that the deadline leaves; a job without one waits for none."""
    scores = np.zeros(len(asked.chips))
    ahead = asked.carbon_ahead
    if len(ahead) < 2:
        return scores
    running = np.minimum.accumulate(ahead)
    known = np.isfinite(asked.deadline_s) & np.isfinite(asked.left_s)
    slack_s = np.where(known, asked.deadline_s, 0) - asked.now_s
    slack_s -= 1.25 * np.where(known, asked.left_s, 0)
    hours = np.where(known, slack_s / 3600, 0).clip(0, len(ahead) - 1)
    cleaner = running[hours.astype(int)] < 0.9 * ahead[0]
    scores[cleaner & (hours >= 1)] = np.inf
    return scores


def goodput_per_watt(asked: Asked) -> Column:
    """The most useful work for the energy first."""
    return -asked.flop_per_j


POLICIES: dict[str, Policy] = {
    "fifo": fifo,
    "fair": fifo,
    "sjf": sjf,
    "srtf": srtf,
    "deadline": deadline,
    "carbon": carbon,
    "goodput-per-watt": goodput_per_watt,
}
RULES: dict[str, dict[str, bool]] = {"fair": {"fair": True}, "srtf": {"preempts": True}}
"""What goes with a policy: shares over time between tenants; stopping a job for a better one."""
EVERY_S = {"srtf": 600.0, "carbon": 3600.0}
"""How often scores are filled anew; the others' never change while a job waits."""
