"""Predictions held against published measurements: errors by suite, chip and model.

An error is |predicted / measured - 1|; bias the mean of predicted / measured - 1. Suites weigh
alike, however many rows they have. Scored are rows whose run is fully described, the newest of
each `dedup_group`; the rest is reported apart. The floor is what rows with identical inputs
differ by: no model that sees the inputs alone can be better.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
import numpy.typing as npt

Row = Mapping[str, str]
NOT_INPUTS = ("id", "source", "suite", "tier", "dedup_group", "notes")
RELEASES = ("release", "engine_version", "year")


@dataclass(frozen=True)
class Pair:
    """One predicted metric of one row, beside what was measured."""

    id: str
    metric: str
    predicted: float
    low: float
    high: float
    measured: float
    suite: str
    gpu: str
    model: str
    scored: bool

    @property
    def error(self) -> float:
        """Signed, relative to what was measured."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Errors:
    """Of a group of pairs; fractions, not percent."""

    group: str
    rows: int
    mape: float
    median: float
    p90: float
    bias: float
    coverage: float
    """Share of measurements within the interval."""
    rank: float | None
    """Spearman's correlation; None below five rows or without any order."""


@dataclass(frozen=True)
class Report:
    """All there is to say of one table of predictions."""

    overall: list[Errors]
    """One for each metric and for all; suites weighted equally."""
    by_suite: list[Errors]
    by_gpu: list[Errors]
    by_model: list[Errors]
    apart: list[Errors]
    """Rows not fully described, by suite."""
    floor_median: float | None
    floor_worst: float | None
    """Half the spread of identical inputs, as a factor less one: median group, worst group."""
    floor_groups: int
    asked: int
    """Rows and metrics of the truth that are to be scored."""
    answered: int
    not_scored: int
    """Rows of the truth that are left out: not fully described, of tier C, or older reruns."""
    said_impossible: int
    """Rows that ran and were predicted not to fit."""
    pairs: list[Pair]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, without the pairs."""
        answer = asdict(self)
        del answer["pairs"]
        return answer


def score(predictions: Sequence[Row], truth: Sequence[Row]) -> Report:
    """Join by `id` and metric, and count. Raises ValueError for ids that the truth lacks."""
    measured = {row["id"]: row for row in truth}
    unknown = [row["id"] for row in predictions if row["id"] not in measured]
    if unknown:
        raise ValueError(f"{len(unknown)} predictions have no row of truth, the first {unknown[0]}")
    latest = newest(truth)
    pairs, impossible = [], set()
    for row in predictions:
        true = measured[row["id"]]
        value = answer(true, row["metric"])
        scored = is_scored(true) and true["id"] in latest
        if scored and row["fits"] == "false":
            impossible.add(row["id"])
        if value is None or not row["predicted"]:
            continue
        predicted, low, high = (float(row[name]) for name in ("predicted", "low", "high"))
        if not (0 < predicted < math.inf and 0 <= low <= high < math.inf):
            raise ValueError(f"{row['id']}: {predicted} in {low} to {high} is no prediction")
        pairs.append(
            Pair(
                row["id"],
                row["metric"],
                predicted,
                low,
                high,
                value,
                true["suite"],
                true["gpu"],
                true.get("model_key") or true["model"],
                scored,
            )
        )
    asked = [
        (row["id"], metric)
        for row in truth
        if is_scored(row) and row["id"] in latest
        for metric in row["measured_metric"].split("+")
        if answer(row, metric) is not None
    ]
    good = [pair for pair in pairs if pair.scored]
    spread = _spread(truth)
    metrics = sorted({kind(pair.metric) for pair in good})
    overall = [
        _weighted(metric, [pair for pair in good if kind(pair.metric) == metric])
        for metric in metrics
    ]
    if len(metrics) > 1:
        overall.append(_weighted("all", good))
    return Report(
        overall=overall,
        by_suite=_grouped(good, lambda pair: f"{pair.suite} {kind(pair.metric)}"),
        by_gpu=_grouped(good, lambda pair: f"{pair.gpu} {kind(pair.metric)}"),
        by_model=_grouped(good, lambda pair: f"{pair.model} {kind(pair.metric)}"),
        apart=_grouped(
            [pair for pair in pairs if not pair.scored],
            lambda pair: f"{pair.suite} {kind(pair.metric)}",
        ),
        floor_median=median(spread) if spread else None,
        floor_worst=max(spread, default=None),
        floor_groups=len(spread),
        asked=len(asked),
        answered=len(good),
        not_scored=sum(not (is_scored(row) and row["id"] in latest) for row in truth),
        said_impossible=len(impossible),
        pairs=pairs,
    )


def kind(metric: str) -> str:
    """The group that a metric's errors are told in."""
    if metric in ("ttft_ms", "tpot_ms"):
        return metric.removesuffix("_ms").upper()
    return "step time" if metric == "step_time_s" else "throughput"


def answer(row: Row, metric: str) -> float | None:
    """What was measured under the name of `metric`; None where it was not."""
    text = row.get(metric) if "+" in row["measured_metric"] else row.get("measured_value")
    return float(text) if text and float(text) > 0 else None


def is_scored(row: Row) -> bool:
    """The run is fully described, and its metric is not out of the model's reach."""
    if row.get("tier") == "C" or row["measured_metric"] == "time_to_train_s":
        return False
    if "isl" not in row:
        needed = ("gpu", "n_gpus", "tp", "pp", "seq_len", "global_batch_tokens")
        return all(row.get(name) for name in needed)
    if not all(row.get(name) for name in ("gpu", "n_gpus", "isl", "osl")):
        return False
    split = row.get("tp") or (row.get("prefill_tp") and row.get("decode_tp"))
    offline = (row.get("scenario") or "").startswith("offline max throughput")
    return bool(split and (row.get("concurrency") or row.get("batch") or offline))


def newest(truth: Iterable[Row]) -> set[str]:
    """Ids of the newest row of each dedup group."""
    groups: dict[str, Row] = {}
    for row in truth:
        group = row.get("dedup_group") or row["id"]
        if group not in groups or _age(row) >= _age(groups[group]):
            groups[group] = row
    return {row["id"] for row in groups.values()}


def _age(row: Row) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(int(number) for number in re.findall(r"\d+", row.get(field) or ""))
        for field in ("release", "year")
    )


def _spread(truth: Iterable[Row]) -> list[float]:
    """For each group of identical inputs: half the range of what was measured, as a factor - 1."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in truth:
        if not is_scored(row):
            continue
        inputs = tuple(
            row[name]
            for name in row
            if name not in NOT_INPUTS
            and name not in RELEASES
            and "measured_value" not in name
            and "measured_metric_2" not in name
            and not re.search(r"_ms$|per_s|^mem_gb$", name)
        )
        metric = row["measured_metric"].split("+")[-1]
        value = answer(row, metric)
        if value is not None:
            groups[inputs].append(value)
    return [(max(values) / min(values)) ** 0.5 - 1 for values in groups.values() if len(values) > 1]


def _grouped(pairs: Iterable[Pair], of: Callable[[Pair], str]) -> list[Errors]:
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[of(pair)].append(pair)
    return [_errors(name, groups[name]) for name in sorted(groups)]


def _errors(name: str, pairs: Sequence[Pair]) -> Errors:
    sizes = [abs(pair.error) for pair in pairs]
    return Errors(
        name,
        len(pairs),
        fmean(sizes),
        median(sizes),
        float(np.quantile(sizes, 0.9)),
        fmean(pair.error for pair in pairs),
        fmean(pair.low <= pair.measured <= pair.high for pair in pairs),
        _spearman([pair.predicted for pair in pairs], [pair.measured for pair in pairs]),
    )


def _weighted(name: str, pairs: Sequence[Pair]) -> Errors:
    """Errors with each suite weighing one."""
    suites: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        suites[pair.suite].append(pair)
    each = [_errors(suite, suites[suite]) for suite in sorted(suites)]
    sizes = np.concatenate(
        [[abs(pair.error) for pair in suites[suite]] for suite in sorted(suites)]
    )
    weights = np.concatenate(
        [np.full(len(suites[suite]), 1 / len(suites[suite])) for suite in sorted(suites)]
    )
    order = np.argsort(sizes)
    reached = np.cumsum(weights[order]) / weights.sum()

    def quantile(share: float) -> float:
        return float(sizes[order][min(int(np.searchsorted(reached, share)), len(sizes) - 1)])

    return Errors(
        name,
        len(pairs),
        fmean(errors.mape for errors in each),
        quantile(0.5),
        quantile(0.9),
        fmean(errors.bias for errors in each),
        fmean(errors.coverage for errors in each),
        _spearman([pair.predicted for pair in pairs], [pair.measured for pair in pairs]),
    )


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(first) < 5 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Ranks; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
