"""What will break, when, and for how long: drawn before anything is scheduled. Modelled.

Failures come independently at the rates of a study, so two policies under one seed meet the same
fate. What falls on a node that is idle, away or gone is the scheduler's to ignore. Times in s.

A job stops at `at_s`, and that is known `detect_s` later; of a silent class it goes on until then,
and what it did since `at_s` is thrown away, checkpoints too. Stragglers do not stop it.

Some nodes are lemons, and times scatter log-normally about their means; both are assumed (`draw`
in `stack/data/failures.csv`).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigafactory.stack.reliability.rates import Study, drawn

FATE = np.dtype(
    [
        ("at_s", "f8"),
        ("node", "i4"),
        ("klass", "i2"),  # index into `Study.classes`
        ("detect_s", "f8"),
        ("repair_s", "f8"),  # how long the node is away, or slow
        ("slow", "f8"),  # speed left; below 1 the node stays and its job goes on
    ]
)


def draw(
    study: Study,
    nodes: int,
    horizon_s: float,
    rng: np.random.Generator,
    *,
    join_s: ArrayLike = 0.0,
    lemon_share: float | None = None,
    lemon_factor: float | None = None,
) -> NDArray[np.void]:
    """All failures of `nodes` up to `horizon_s`, by time; none of a node before its `join_s`.

    Lemons draw the failures of others to themselves: their sum is the study's.
    """
    share = drawn("lemon_share") if lemon_share is None else lemon_share
    factor = drawn("lemon_factor") if lemon_factor is None else lemon_factor
    assert 0 <= share <= 1
    assert factor > 0
    join = np.broadcast_to(np.asarray(join_s, dtype=float), (nodes,))
    exposure_s = np.maximum(horizon_s - join, 0.0)
    lemon = rng.random(nodes) < share
    rates = np.array([one.per_node_s for one in study.classes])
    count = int(rng.poisson(rates.sum() * exposure_s.sum()))
    fate = np.zeros(count, FATE)
    if not count:
        return fate

    klass = _pick(rates, rng.random(count))
    which = rng.random(count)
    # A program's fault knows no lemons; what takes or slows a node does.
    on_node = np.array([one.node_leaves or one.slow < 1 for one in study.classes])[klass]
    weights = np.where(lemon, factor, 1.0) * exposure_s
    node = np.where(on_node, _pick(weights, which), _pick(exposure_s, which))
    spread = drawn("spread")
    scatter = np.exp(spread * rng.standard_normal((2, count)) - spread**2 / 2)  # mean 1
    fate["at_s"] = join[node] + rng.random(count) * exposure_s[node]
    fate["node"] = node
    fate["klass"] = klass
    fate["detect_s"] = np.array([one.detect_s for one in study.classes])[klass] * scatter[0]
    fate["repair_s"] = np.array([one.repair_s for one in study.classes])[klass] * scatter[1]
    fate["slow"] = np.array([one.slow for one in study.classes])[klass]
    return fate[np.argsort(fate["at_s"], kind="stable")]


def _pick(weights: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices in proportion to `weights`."""
    edges = np.cumsum(weights)
    return np.searchsorted(edges, uniform * edges[-1], side="right")
