"""When to checkpoint, and what is left of the time. Modelled: failures are exponential.

`write_s` is how long training stops for a checkpoint, `mtbf_s` the mean time between failures of
the whole job, `restart_s` from a failure to work again; it may fail, too. All in s.
Sources: Young 1974, doi:10.1145/361147.361115; Daly 2006, doi:10.1016/j.future.2004.11.016.
"""

import math

from gigafactory.stack.training.goodput import daly_interval_s as daly_s

__all__ = ["best_interval_s", "daly_s", "ettr", "young_s"]


def young_s(write_s: float, mtbf_s: float) -> float:
    """Work between checkpoints, to first order."""
    return math.sqrt(2 * write_s * mtbf_s)


def best_interval_s(write_s: float, mtbf_s: float) -> float:
    """Work between checkpoints that takes the least time: the exact optimum of `ettr`.

    The restart is no part of it: it multiplies the time by the same factor at every interval.
    """
    if mtbf_s == math.inf:
        return math.inf
    ratio = write_s / mtbf_s
    low, high = 0.0, 1.0  # In units of the MTBF; where the slope of the time changes its sign.
    while (middle := (low + high) / 2) not in (low, high):
        if -middle > math.expm1(-middle - ratio):
            low = middle
        else:
            high = middle
    return middle * mtbf_s


def ettr(
    interval_s: float, write_s: float, mtbf_s: float, restart_s: float, silent_s: float = 0.0
) -> float:
    """Effective training time ratio: work over the time that it takes.

    `silent_s` is what a failure undoes behind the last checkpoint, in the mean of all failures.
    """
    if mtbf_s == math.inf:
        return 1.0 if interval_s == math.inf else interval_s / (interval_s + write_s)
    exponent = (interval_s + write_s) / mtbf_s
    if exponent + restart_s / mtbf_s > 700:
        return 0.0
    # Daly's equation 12: time of one segment, over the work in it.
    time = mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1(exponent) / interval_s
    return max(1 - silent_s / mtbf_s, 0.0) / time
