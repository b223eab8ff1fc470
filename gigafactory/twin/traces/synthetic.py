"""Traces made up after the published summary of a cluster. Modelled.

Run times: log-normal through the published mean and median, cut at the published longest. GPUs:
powers of two through mean, median and largest, the share of single GPUs assumed where the mean
leaves it open. Large jobs run longer by as much as the published GPU time asks for. Arrivals: a
day and a week like those of Venus. Draws are stratified, one in each n-th of a distribution, so
that a short trace has the published mean, too. Not modelled: users, virtual clusters, bursts,
waiting, and outcomes that depend on length.
Units: s, GPUs.
"""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigafactory.faults import Fault, Refused
from gigafactory.stack import facts
from gigafactory.twin.traces.published import SHARES, published
from gigafactory.twin.traces.trace import SYNTHETIC, Trace
from gigafactory.units import DAY_S

NORMAL = NormalDist()
Floats = NDArray[np.floating[Any]]


def like(name: str, jobs: int, days: float, seed: int) -> Trace:
    """`jobs` jobs over `days` days after the published summary of `name`. Modelled.

    The same arguments give the same trace.
    """
    if jobs < 1 or not 0 < days < math.inf:
        why = "there must be at least one job and some time"
        raise Refused(Fault(f"{jobs} jobs in {days:g} days", "--jobs", why, "ask for more"))
    told = published(name)
    if told["gpus_mean"] < 1:
        why = f"its jobs take {told['gpus_mean']:g} of a GPU on average; only whole ones are made"
        raise Refused(Fault(f"nothing can be made like {name}", "--like", why, "take Helios"))
    random = np.random.default_rng(seed)
    longest_s = told.get("run_time_max") or published("Helios")["run_time_max"]
    deviate = np.array([NORMAL.inv_cdf(share) for share in _strata(jobs, random)])
    sigma = _sigma(told["run_time_mean"], told["run_time_median"], longest_s)
    duration_s: Any = np.minimum(told["run_time_median"] * np.exp(sigma * deviate), longest_s)
    gpus = _gpus(told, jobs, random)
    if "gpu_time" in told:
        gpus = _coupled(gpus, duration_s, deviate, told["gpu_time"] / told["jobs"], random)
    outcome = np.zeros(jobs, np.int8)
    if "completed_share" in told:
        edges = np.cumsum([told[f"{word}_share"] for word in SHARES])
        drawn = np.searchsorted(edges / edges[-1], _strata(jobs, random))
        outcome = (1 + np.minimum(drawn, 2)).astype(np.int8)
    return Trace(
        SYNTHETIC,
        np.arange(jobs),
        _arrivals_s(jobs, days * DAY_S, random),
        duration_s,
        gpus.astype(np.int32),
        np.zeros(jobs, np.int32),
        ("",),
        np.full(jobs, np.nan),
        outcome,
    )


def _strata(count: int, random: np.random.Generator) -> Floats:
    """One draw from each n-th of the unit interval, shuffled; neither 0 nor 1."""
    drawn = (np.arange(count) + random.uniform(1e-9, 1 - 1e-9, count)) / count
    return random.permutation(drawn)


def _sigma(mean_s: float, median_s: float, longest_s: float) -> float:
    """Width of the log-normal whose mean, cut at the longest, is the published one."""

    def cut_mean_s(sigma: float) -> float:
        at = math.log(longest_s / median_s) / sigma
        below = median_s * math.exp(sigma**2 / 2) * NORMAL.cdf(at - sigma)
        return below + longest_s * NORMAL.cdf(-at)

    return _solve(cut_mean_s, mean_s, 1e-3, 10.0)


def _gpus(told: dict[str, float], jobs: int, random: np.random.Generator) -> Floats:
    """Powers of two with the published mean and median: many single GPUs, the rest geometric."""
    largest = told.get("gpus_max") or min(told["gpus"], published("Helios")["gpus_max"])
    sizes = 2.0 ** np.arange(int(math.log2(largest)) + 1)
    single = facts.by_subject("traces")["model"]["single_gpu_share"].value
    assert single is not None
    assert told["gpus_median"] == 1, "the published clusters have a median of one GPU"

    def shares(ratio: float) -> Floats:
        weights = ratio ** np.arange(len(sizes))
        weights /= weights.sum()
        if weights[0] < single:  # Else the median would leave one GPU.
            rest = ratio ** np.arange(len(sizes) - 1)
            weights = np.concatenate([[single], (1 - single) * rest / rest.sum()])
        return weights

    ratio = _solve(lambda ratio: float(shares(ratio) @ sizes), told["gpus_mean"], 1e-6, 4.0)
    edges = np.cumsum(shares(ratio))
    return sizes[np.minimum(np.searchsorted(edges, _strata(jobs, random)), len(sizes) - 1)]


def _coupled(
    gpus: Floats,
    duration_s: Floats,
    deviate: Floats,
    gpu_s: float,
    random: np.random.Generator,
) -> Floats:
    """The same GPU counts, dealt so that the mean job has the published GPU-seconds.

    A Gaussian copula: ranks of a mix of the run time's deviate and chance.
    """
    chance, ordered = random.standard_normal(len(gpus)), np.sort(gpus)

    def dealt(rank: float) -> Floats:
        mixed = rank * deviate + math.sqrt(1 - rank**2) * chance
        out = np.empty_like(ordered)
        out[np.argsort(mixed, kind="stable")] = ordered
        return out

    rank = _solve(lambda rank: float((dealt(rank) * duration_s).mean()), gpu_s, -0.999, 0.999, 16)
    return dealt(rank)


def _arrivals_s(jobs: int, length_s: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Times of submission, sorted; the rate swings over the day and falls at the weekend.

    Second 0 is a Monday's midnight.
    """
    day = facts.by_subject("traces")["Venus"]
    swing, peak_s, weekend = (
        day[key].value or 0.0 for key in ("daily_swing", "daily_peak", "weekend_rate")
    )
    edges_s = np.linspace(0, length_s, max(2, math.ceil(length_s / 600)) + 1)
    middle_s = (edges_s[1:] + edges_s[:-1]) / 2
    rate = 1 + swing * np.cos(2 * np.pi * (middle_s - peak_s) / DAY_S)
    rate[(middle_s // DAY_S).astype(int) % 7 >= 5] *= weekend
    sums = np.concatenate([[0], np.cumsum(rate)])
    drawn = np.sort(random.uniform(size=jobs))
    return np.interp(drawn, sums / sums[-1], edges_s)


def _solve(rises: Any, wanted: float, low: float, high: float, steps: int = 60) -> float:
    """Where a rising function has a value; an end of the range if it never does."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < wanted else (low, middle)
    return (low + high) / 2
