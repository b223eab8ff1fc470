"""How probable is a rare failure: cross-entropy finds where it lies, importance sampling counts.

What is random are `d` independent standard normal numbers u; `margin(u)` is below 0 where the
system fails, and falls towards failure. A mixture of Gaussians is moved, level by level, to where
the margin is smallest (cross-entropy method), then drawn from; each failure counts with its
likelihood ratio p(u) / q(u), which makes the estimate unbiased whatever the mixture is. A share of
plain draws is mixed in (defensive sampling), so no failure counts more than 1 / DEFENSIVE.

Blunt and tempered as below, the interval held the truth in 93 to 100 of 100 trials of 10,000
draws where one, two or three half-spaces of 8 dimensions fail with 3e-5 to 7e-5, and had 1,500 to
500 times less variance than as many plain draws; sharper mixtures were better at one half-space
and missed the smallest of three in one trial of four.

Sources: Rubinstein & Kroese 2004, ch. 2; Kurtz & Song 2013 (mixtures),
doi:10.1016/j.strusafe.2013.01.006; Hesterberg 1995 (defensive mixtures),
doi:10.1080/00401706.1995.10484303.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gigafactory.jobs.intervals import Z

DEFENSIVE = 0.1  # share of plain draws
PARTS = 8  # Gaussians in the mixture
ELITE = 0.15  # of a level's draws go on
LEVELS_MAX = 12
LEARNING = 0.4  # of all draws are spent on finding the failures
EM_ROUNDS = 15
COUNTED_MIN = 30  # failures, else their weights say too little of those not seen
BLUNT = 0.6  # added to covariances: a mixture wider than the failures misses none of them
TEMPER = 0.5  # power of the ratios in the fit: far failures count, too

Margin = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Mixture:
    """Gaussians in u: `means` (k, d), `roots` (k, d, d) with covariance root @ root.T, `shares`."""

    means: np.ndarray
    roots: np.ndarray
    shares: np.ndarray

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n, d), a share of them plain."""
        d = self.means.shape[1]
        plain = rng.standard_normal((n, d))
        which = rng.choice(len(self.shares), n, p=self.shares)
        moved = self.means[which] + np.einsum("nij,nj->ni", self.roots[which], plain)
        return np.where(rng.random((n, 1)) < DEFENSIVE, plain, moved)

    def ratio(self, u: np.ndarray) -> np.ndarray:
        """(n,): p(u) / q(u), at most 1 / DEFENSIVE."""
        plain = -0.5 * (u**2).sum(1)
        logs = _logs(u, self.means, self.roots) + np.log(self.shares)
        away = np.logaddexp.reduce(logs, 1) - plain
        return 1.0 / (DEFENSIVE + (1 - DEFENSIVE) * np.exp(np.clip(away, -700, 700)))


@dataclass(frozen=True)
class Estimate:
    """The probability of failure, its 95 % interval, and the failures that were found."""

    probability: float
    error: float
    """Its standard deviation."""
    low: float
    high: float
    scenarios: int
    """All that were tried, those of the search too."""
    counted: int
    """Those after the search."""
    variance_ratio: float
    """Variance of as many plain draws over this one's: what the search was worth."""
    failures: np.ndarray
    """(m, d): u of each failure among the counted draws."""
    weights: np.ndarray
    """(m,): they sum to `probability`."""


def estimate(margin: Margin, d: int, scenarios: int, seed: int) -> Estimate:
    """The probability that `margin` of d standard normal numbers is below 0."""
    rng = np.random.default_rng(seed)
    mixture, used = search(margin, d, int(LEARNING * scenarios), rng)
    n = scenarios - used
    u = mixture.draw(n, rng)
    failed = margin(u) < 0
    weights = np.where(failed, mixture.ratio(u), 0.0) / n
    probability = float(weights.sum())
    error = math.sqrt(max(0.0, float((weights**2).sum()) - probability**2 / n))
    low, high = interval(probability, error, count(weights), n)
    crude = probability * (1 - probability) / scenarios
    return Estimate(
        probability, error, low, high, scenarios, n,
        crude / error**2 if error > 0 else math.nan,
        u[failed], weights[failed],
    )  # fmt: skip


def interval(probability: float, error: float, counted: float, n: int) -> tuple[float, float]:
    """95 %: normal in the logarithm, since a probability is not below 0.

    `counted` failures (those that all but a few others outweigh are not many) must be enough for
    that; else the search may have missed where most lie, and the plain draws alone say what is
    possible: no more than leaves them without a failure in one case of twenty.
    """
    possible = 1 - 0.05 ** (1 / max(1.0, DEFENSIVE * n))
    if counted == 0:
        return 0.0, possible
    spread = Z * error / probability
    high = probability * math.exp(spread)
    if counted < COUNTED_MIN:
        high = max(high, possible)
    return probability * math.exp(-spread), min(1.0, high)


def count(weights: np.ndarray) -> float:
    """How many equal weights would tell as much (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0


def search(margin: Margin, d: int, budget: int, rng: np.random.Generator) -> tuple[Mixture, int]:
    """A mixture that lies where failures do, and how many scenarios it took to find it."""
    each = max(200, budget // LEVELS_MAX)
    mixture = Mixture(np.zeros((1, d)), np.eye(d)[None], np.ones(1))
    used = 0
    fallen: list[tuple[np.ndarray, np.ndarray]] = []
    while used + each <= max(budget, each):
        u = mixture.draw(each, rng)
        used += each
        margins, ratios = margin(u), mixture.ratio(u)
        level = max(0.0, float(np.quantile(margins, ELITE)))
        if level == 0.0:
            # The failures of all levels that reached them: more of them, better mixtures.
            failed = margins < 0
            fallen.append((u[failed], ratios[failed]))
            points = np.concatenate([points for points, _ in fallen])
            counts = np.concatenate([ratios for _, ratios in fallen])
        else:
            points, counts = u[margins <= level], ratios[margins <= level]
        mixture = fit(points, counts, rng)
    return mixture, used


def fit(u: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> Mixture:
    """The likeliest mixture for weighted points (expectation-maximisation)."""
    n, d = u.shape
    parts = max(1, min(PARTS, n // (4 * d)))
    weights = weights**TEMPER / (weights**TEMPER).sum()
    means = u[_spread(u, parts, rng)]
    roots = np.repeat(np.eye(d)[None], parts, 0)
    shares = np.full(parts, 1 / parts)
    for _ in range(EM_ROUNDS):
        logs = _logs(u, means, roots) + np.log(shares)
        belongs = np.exp(logs - np.logaddexp.reduce(logs, 1)[:, None]) * weights[:, None]
        shares = np.maximum(belongs.sum(0), 1e-6)
        means = belongs.T @ u / shares[:, None]
        for part in range(parts):
            away = u - means[part]
            covariance = (belongs[:, part, None] * away).T @ away / shares[part]
            roots[part] = np.linalg.cholesky(covariance + BLUNT * np.eye(d))
        shares = shares / shares.sum()
    return Mixture(means, roots, shares)


def _spread(u: np.ndarray, parts: int, rng: np.random.Generator) -> list[int]:
    """Points far from each other to begin with (k-means++)."""
    chosen = [int(rng.integers(len(u)))]
    while len(chosen) < parts:
        away = ((u[:, None] - u[chosen]) ** 2).sum(2).min(1)
        chosen.append(int(rng.choice(len(u), p=away / away.sum())) if away.any() else 0)
    return chosen


def _logs(u: np.ndarray, means: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """(n, k): log density of each Gaussian, less the constant that all densities share."""
    out = np.empty((len(u), len(means)))
    for part, (mean, root) in enumerate(zip(means, roots, strict=True)):
        scaled = np.linalg.solve(root, (u - mean).T)
        out[:, part] = -0.5 * (scaled**2).sum(0) - np.log(np.diag(root)).sum()
    return out
