"""Intervals around shares that were counted: how far the truth may lie from what was seen.

Sources: Wilson 1927, doi:10.1080/01621459.1927.10502953; Tango 1998,
doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B.
"""

import math

Z = 1.959963984540054
"""Of a normal distribution, 95 % lie within so many standard deviations."""


def wilson(hits: int, trials: int, z: float = Z) -> tuple[float, float]:
    """Ends of the share that `hits` of `trials` speaks of; of nothing, it says nothing."""
    if trials == 0:
        return 0.0, 1.0
    share = hits / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    whole = 1 + z * z / trials
    # At the ends the formula is exact and its rounding is not.
    low = 0.0 if hits == 0 else (middle - half) / whole
    high = 1.0 if hits == trials else (middle + half) / whole
    return low, high


def paired(first_only: int, second_only: int, trials: int, z: float = Z) -> tuple[float, float]:
    """Ends of the first's share minus the second's, where both had the same `trials`.

    Only the trials that one passed and the other did not tell them apart. Tango's score interval:
    of those for pairs it keeps its promise best where the two seldom differ, and it keeps a width
    where they never do (Wald's has none there, Newcombe's little). It is the set of differences
    that a score test would not reject, so its ends are where the test's statistic is z.
    """
    if trials == 0:
        return -1.0, 1.0
    seen = (first_only - second_only) / trials
    low = _end(first_only, second_only, trials, z, -1.0, seen)
    return low, -_end(second_only, first_only, trials, z, -1.0, -seen)


def _end(first: int, second: int, trials: int, z: float, low: float, high: float) -> float:
    """The difference below `high`, which was seen, at which the score reaches `z`: halving."""
    for _ in range(60):
        middle = (low + high) / 2
        if _score(first, second, trials, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(first: int, second: int, trials: int, difference: float) -> float:
    """How many standard deviations the seen difference lies above a supposed one."""
    # The likeliest share of "the second alone", given the difference: root of a parabola.
    b = (2 * trials - first + second) * difference - first - second
    c = -second * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 8 * trials * c, 0.0)) - b) / (4 * trials)
    variance = trials * (2 * share + difference * (1 - difference))
    above = first - second - trials * difference
    if variance <= 0:
        return math.copysign(math.inf, above) if above else 0.0
    return above / math.sqrt(variance)
