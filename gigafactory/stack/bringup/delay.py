"""What a week of each phase is worth: how far it moves the first token, at what price. Modelled.

A week more of a phase moves the first token only as far as it exceeds the slack; a week less only
until another path is the longest. Both are means over the same draws. A week's price breaks even
where it equals what the factory earns in the time that it gains. Weeks; money per week as given.
"""

from dataclasses import dataclass

import numpy as np

from gigafactory.stack.bringup.schedule import Array, Distribution, makespan

WEEK = 1.0


@dataclass(frozen=True)
class Worth:
    """By phase: the first token's weeks for one week of that phase, a mean over the draws."""

    slip: Array
    """Later, for a week more."""
    gain: Array
    """Earlier, for a week less. A phase shorter than a week is counted per week taken out."""

    length: Array
    """Mean weeks of the phase itself."""

    def ranked(self) -> list[int]:
        """Phases from the most gain to the least; of equals the longest, easiest to shorten."""
        return [int(number) for number in np.lexsort((-self.length, -self.gain.round(3)))]


def worth(of: Distribution, weeks: float = WEEK) -> Worth:
    """What the first week of each phase moves; with `weeks`, the mean over the first so many."""
    before = of.schedule.makespan
    slip, gain = np.zeros(len(of.network.phases)), np.zeros(len(of.network.phases))
    for number in range(len(slip)):
        changed = of.durations_weeks.copy()
        taken = np.minimum(changed[:, number], weeks)
        changed[:, number] += weeks
        slip[number] = max((makespan(of.network, changed) - before).mean(), 0.0) / weeks
        if taken.any():
            changed[:, number] = of.durations_weeks[:, number] - taken
            gained = (before - makespan(of.network, changed)).mean()
            gain[number] = max(gained, 0.0) / taken.mean()
    return Worth(slip, gain, of.durations_weeks.mean(axis=0))
