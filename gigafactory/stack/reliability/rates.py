"""Published studies of failures: classes with rate, detection and repair. 1/s, s.

A rate is per node and second of running. Where a study has counts, its rate has a 95 % interval
(Garwood 1936); where it has none, the interval is unknown. How a class is detected and repaired
is assumed, row by row, and says so. Data: `data/failures.csv`, whose rows have two subjects, study
and class, and are read here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from gigafactory.faults import Fault, Refused, nearest
from gigafactory.stack import facts

SI = {"1": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
SI["1/(1000 node-d)"] = 1 / (1000 * SI["d"])
NO_FAILURES = "none"
STRAGGLER = "straggler"
TAIL = 0.025
"""Probability beyond either end of an interval."""


@dataclass(frozen=True)
class FailureClass:
    """One way to fail. Rate and its source are the study's; how it is handled is assumed."""

    name: str
    per_node_s: float
    node_leaves: bool
    """Whether the node goes to repair; else the job starts again where it was."""
    detect_s: float
    repair_s: float
    """How long the node is away; of a straggler, how long it is slow."""
    silent: bool
    """Found so late that checkpoints of the last `detect_s` are wrong, too."""
    slow: float
    """Speed that is left: 1 for what stops a job, less for what only slows it."""
    count: int | None
    basis: str
    source: str
    handling: str
    """The kind in `failures.csv` whose assumed detection and repair are taken."""


@dataclass(frozen=True)
class Study:
    """What one cluster went through; `exposure_node_s` and counts where they are known."""

    name: str
    classes: tuple[FailureClass, ...]
    exposure_node_s: float | None = None
    planned: int = 0
    """Interruptions that were planned, in the same exposure."""
    chips_per_node: int = 8

    @property
    def stopping(self) -> tuple[FailureClass, ...]:
        """The classes that stop a job."""
        return tuple(one for one in self.classes if one.slow == 1)

    @property
    def rate_per_node_s(self) -> float:
        """Failures that stop a job."""
        return sum(one.per_node_s for one in self.stopping)

    @property
    def count(self) -> int | None:
        """Failures that were counted, if they were."""
        counts = [one.count for one in self.stopping if one.count is not None]
        return sum(counts) if counts else None

    @property
    def rate_interval_per_node_s(self) -> tuple[float, float] | None:
        """95 % of the rate, from the count; None where nothing was counted."""
        if self.count is None or self.exposure_node_s is None:
            return None
        low, high = count_interval(self.count)
        return low / self.exposure_node_s, high / self.exposure_node_s

    @property
    def detect_s(self) -> float:
        """Mean time until a failure that is not silent is seen."""
        loud = [one for one in self.stopping if not one.silent]
        rate = sum(one.per_node_s for one in loud)
        return sum(one.per_node_s * one.detect_s for one in loud) / rate if rate else 0.0

    @property
    def silent_s(self) -> float:
        """Work that silent corruption undoes, in the mean of all failures."""
        rate = self.rate_per_node_s
        lost = sum(one.per_node_s * one.detect_s for one in self.stopping if one.silent)
        return lost / rate if rate else 0.0

    @property
    def relaunch_s(self) -> float:
        """What is left of a job's restart after detection: `restart_s` holds both."""
        return max(restart_s() - self.detect_s, 0.0)


@dataclass(frozen=True)
class Published:
    """A published mean time to failure, beside what a node's rate of the same cluster gives."""

    chips: int
    published_s: float
    ours_s: float
    implied_per_node_s: float
    """The rate per node that would give the published time."""
    kind: str
    """`observed` by jobs of that size, or `projected` by the study's own model."""
    basis: str
    study: str
    source: str


@cache
def study(name: str) -> Study:
    """The study of that name; `none` has no failures. Raises `Refused`."""
    if name not in studies():
        what, hint = f"no study of failures {name!r}", nearest(name, studies())
        raise Refused(Fault(what, "STUDY", "it is none of those in the catalog", hint))
    if name == NO_FAILURES:
        return Study(name, ())
    found = _table()[name]
    window = found.get("all", {})
    exposure_node_s = None
    if window:
        exposure_node_s = _value(window["chips"]) / Study.chips_per_node * _value(window["window"])
    own = [_class(key, found[key], exposure_node_s) for key in found if key != "all"]
    slow = _table()["kind"][STRAGGLER]
    straggler = _handled(
        STRAGGLER, _value(slow["rate"]), None, slow["rate"]["basis"], slow["rate"]["source"]
    )
    planned = int(_value(window["planned"])) if window else 0
    return Study(name, (*own, straggler), exposure_node_s, planned)


def studies() -> tuple[str, ...]:
    """Names that `study` knows."""
    apart = ("kind", "draw", "rsc-jobs")
    return (*(name for name in _table() if name not in apart), NO_FAILURES)


def mttf_s(of: Study, chips: float) -> float:
    """Mean time between failures of a job on `chips`: its nodes stand in series."""
    rate = of.rate_per_node_s * chips / of.chips_per_node
    return 1 / rate if rate else math.inf


def expected_failures(of: Study, chips: float, time_s: float) -> tuple[float, float, float]:
    """(mean, low, high) of the failures to come; 95 % of futures lie from low to high.

    Where the study counted, its rate is as uncertain as its count (Jeffreys' prior: a negative
    binomial); else the rate is taken as it is told (Poisson), and the interval is too narrow.
    """
    nodes_s = chips / of.chips_per_node * time_s
    mean = of.rate_per_node_s * nodes_s
    if mean == 0:
        return 0.0, 0.0, 0.0
    if of.count is None or of.exposure_node_s is None:
        shape, more = math.inf, 0.0
    else:
        shape, more = of.count + 0.5, nodes_s / of.exposure_node_s
    reach = 12 * math.sqrt(mean * (1 + more)) + 40 * (1 + more)
    first = max(math.floor(mean - reach), 0)
    counts = np.arange(first, math.ceil(mean + reach) + 1)
    if shape == math.inf:
        steps = np.log(mean / counts[1:])
    else:
        steps = np.log((counts[1:] - 1 + shape) / counts[1:] * (more / (1 + more)))
    logs = np.concatenate(([0.0], np.cumsum(steps)))
    below = np.cumsum(np.exp(logs - logs.max()))
    low, high = np.searchsorted(below / below[-1], (TAIL, 1 - TAIL))
    return mean, float(counts[low]), float(counts[high])


def count_interval(count: int) -> tuple[float, float]:
    """95 % interval of the mean of a Poisson count, by Garwood's exact tails."""
    low = _mean_at(lambda mean: 1 - _at_most(count - 1, mean), TAIL, count) if count else 0.0
    return low, _mean_at(lambda mean: 1 - _at_most(count, mean), 1 - TAIL, count)


def published() -> tuple[Published, ...]:
    """Published MTTF by size of the job, the RSC clusters' and Llama 3's, beside ours."""
    rows = []
    for chips, figures in _table()["rsc-jobs"].items():
        for figure, row in figures.items():
            rows.append(_published(int(chips), figure, row, "rsc-1"))
    window = _table()["llama3"]["all"]
    seen_s = str(_value(window["window"]) / _value(window["unplanned"]))
    told = {**window["unplanned"], "value": seen_s, "unit": "s", "basis": "derived"}
    rows.append(_published(int(_value(window["chips"])), "mttf_observed", told, "llama3"))
    return tuple(rows)


def restart_s() -> float:
    """From a failure to work again, detection included: `data/reliability.csv`."""
    value = facts.by_subject("reliability")["training"]["restart"].value
    assert value is not None
    return value


def drawn(figure: str) -> float:
    """A constant of the drawing of fates: `spread`, `lemon_share`, `lemon_factor`."""
    return _value(_table()["draw"]["all"][figure])


def _published(chips: int, figure: str, row: dict[str, str], name: str) -> Published:
    of, seen_s = study(name), _value(row)
    return Published(
        chips=chips,
        published_s=seen_s,
        ours_s=mttf_s(of, chips),
        implied_per_node_s=of.chips_per_node / (chips * seen_s),
        kind=figure.removeprefix("mttf_"),
        basis=row["basis"],
        study=name,
        source=row["source"],
    )


def _class(
    name: str, figures: dict[str, dict[str, str]], exposure_node_s: float | None
) -> FailureClass:
    kind = figures["kind"]["value"]
    if "rate" in figures:
        row, count, rate = figures["rate"], None, _value(figures["rate"])
    else:
        assert exposure_node_s is not None
        row = figures["count"]
        count = int(_value(row))
        rate = count / exposure_node_s
    return _handled(kind, rate, count, row["basis"], row["source"], name)


def _handled(
    kind: str, per_node_s: float, count: int | None, basis: str, source: str, name: str = ""
) -> FailureClass:
    how = _table()["kind"][kind]
    return FailureClass(
        name=name or kind,
        per_node_s=per_node_s,
        node_leaves="node_leaves" in how and _value(how["node_leaves"]) == 1,
        detect_s=_value(how["detect"]),
        repair_s=_value(how["repair"]),
        silent=kind == "silent",
        slow=_value(how["slow"]) if "slow" in how else 1.0,
        count=count,
        basis=basis,
        source=source,
        handling=kind,
    )


@cache
def _table() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    """Study -> class -> figure -> row."""
    table: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for row in facts.rows("failures"):
        table.setdefault(row["study"], {}).setdefault(row["class"], {})[row["figure"]] = row
    return table


def _value(row: dict[str, str]) -> float:
    return float(row["value"]) * SI[row["unit"]]


def _at_most(count: int, mean: float) -> float:
    """Probability that a Poisson count is at most `count`."""
    logs = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(count + 1)]
    return math.fsum(map(math.exp, logs))


def _mean_at(more_than: Callable[[float], float], wanted: float, count: int) -> float:
    """The mean at which a growing probability is as wanted."""
    low, high = 1e-12, count + 10 * math.sqrt(count + 1) + 10
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if more_than(middle) < wanted else (low, middle)
    return low
