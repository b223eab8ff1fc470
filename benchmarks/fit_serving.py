"""Fit the constants of the serving model to published measurements, and say how well they do.

    python benchmarks/fit_serving.py TRUTH.csv             tables of errors, in sample and left out
    python benchmarks/fit_serving.py TRUTH.csv --write     and rewrite data/serving.csv
    python benchmarks/fit_serving.py TRUTH.csv --priors    write the priors, unfitted

Maximum a posteriori: the log of every answer against its prediction with a robust loss, and every
constant against what physics and kernel measurements say of it beforehand. Architectures and
engines share a mean, so that what few rows speak of is drawn towards what many do. Families of
rows weigh as the square root of their number. One thread, deterministic.
"""

import argparse
import csv
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import least_squares

from gigafactory.stack import chips, models, score
from gigafactory.stack.serving import constants, rows
from gigafactory.stack.serving.load import Load, serve, serve_disaggregated

TARGET = Path(__file__).parent.parent / "gigafactory" / "stack" / "data" / "serving.csv"
AS_OF = "2026-11"

# quantity -> (prior, standard deviation of its log, unit in the file, factor to SI)
SILICON = {
    "weight_bandwidth": (0.87, 0.08, "1", 1),
    "cache_bandwidth": (0.85, 0.15, "1", 1),
    "matmul_bfloat16": (0.85, 0.12, "1", 1),
    "matmul_float8": (0.78, 0.12, "1", 1),
    "matmul_float4": (0.70, 0.15, "1", 1),
    "experts": (0.80, 0.20, "1", 1),
    "expert_bandwidth": (1.0, 0.10, "1", 1),
    "prefill_attention": (0.80, 0.15, "1", 1),
    "kernel_s": (2.5, 0.25, "us", 1e-6),
    "collective": (1.2, 0.20, "1", 1),
}
ENGINE = {
    "step_s": (0.3, 0.8, "ms", 1e-3),
    "request_s": (3.0, 0.8, "us", 1e-6),
    "kernels": (1.5, 0.30, "1", 1),
    "prefill": (1.2, 0.20, "1", 1),
    "launch_s": (20.0, 0.8, "us", 1e-6),
    "first_token_s": (30.0, 0.6, "ms", 1e-3),
}
COMMON = {
    "first_wave": (0.12, 0.40, "1", 1),
    "company": (0.2, 0.8, "1", 1),
    "routing": (0.90, 0.10, "1", 1),
    "imbalance": (0.35, 0.40, "1", 1),
    "offline": (0.90, 0.05, "1", 1),
    "handover_s": (100.0, 1.0, "ms", 1e-3),
    "disaggregated_wait": (1.0, 0.5, "1", 1),
    "balance_steps": (15.0, 0.6, "1", 1),
    "pipeline": (0.05, 0.8, "1", 1),
}
# TensorRT-LLM before 1.0 runs compiled plans from C++: little is left of the host's share.
BY_ENGINE = {
    ("vllm", "first_token_s"): 20.0,
    ("trtllm", "first_token_s"): 25.0,
    ("trtllm-1.0", "first_token_s"): 40.0,
    ("trtllm-0", "first_token_s"): 20.0,
    ("sglang", "first_token_s"): 60.0,
    ("trtllm-0", "step_s"): 0.1,
    ("trtllm-0", "request_s"): 1.0,
    ("trtllm-0", "kernels"): 1.1,
    ("trtllm-0", "prefill"): 1.05,
}
# Kernels alone say that these differ by architecture.
BY_ARCHITECTURE = {("Hopper", "cache_bandwidth"): 0.80, ("Blackwell", "cache_bandwidth"): 1.0}
ARCHITECTURES = ("Hopper", "Blackwell")
UNMEASURED = ("Ampere", "Ada", "CDNA3")
ENGINES = ("vllm", "sglang", "trtllm", "trtllm-1.0", "trtllm-0")
SPREAD_ARCHITECTURE, SPREAD_ENGINE = 0.12, 0.60
"""Standard deviation of the log of one architecture's (engine's) constant about their mean."""
NOISE = {"tpot": 0.10, "ttft": 0.30, "throughput": 0.12}
COLUMNS = (
    "architecture_or_engine",
    "quantity",
    "value",
    "low",
    "high",
    "unit",
    "basis",
    "source",
    "as_of",
)
KINDS = ("agg", "disagg", "offline")
DEAF = 2.0
"""Deviations beyond which an error moves the fit less and less."""
WIDE = {
    ("interval", f"{kind}_{metric}_{end}"): factor
    for kind in KINDS
    for metric in (("throughput",) if kind == "offline" else ("ttft", "tpot"))
    for end, factor in (("low", 0.5), ("high", 2.0))
}
"""Intervals before any fit."""


@dataclass
class Measured:
    """One row and its answers: metric -> value, SI."""

    row: dict[str, str]
    request: rows.Request
    answers: dict[str, float]
    scored: bool
    fitted: bool
    """Scored, and nothing of its layout was chosen for it."""

    @property
    def family(self) -> tuple[str, ...]:
        return self.row["suite"], self.row["model_key"], self.row["gpu"], self.request.kind


def read(path: str) -> tuple[list[Measured], list[str]]:
    """Rows that can be read, newest of each dedup group, and words on those that cannot."""
    newest: dict[str, dict[str, str]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = row["dedup_group"] or row["id"]
            if row["tier"] != "C" and (key not in newest or order(row) >= order(newest[key])):
                newest[key] = row
    measured, unread = [], []
    for row in newest.values():
        answers = answers_of(row)
        if not answers:
            unread.append(f"{row['id']}: no answer in tokens/s, ttft, tpot")
            continue
        try:
            request = rows.from_row(row)
        except (rows.UnreadableRow, models.UnknownModel, chips.UnknownChip) as error:
            unread.append(f"{row['id']}: {error}")
            continue
        scored = score.is_scored(row)
        measured.append(Measured(row, request, answers, scored, scored and bool(row["n_gpus"])))
    return measured, unread


def order(row: Mapping[str, str]) -> tuple[str, str]:
    return row["year"], row["engine_version"]


def answers_of(row: Mapping[str, str]) -> dict[str, float]:
    answers = {}
    for metric in row["measured_metric"].split("+"):
        if metric in ("ttft_ms", "tpot_ms") and row[metric]:
            answers[metric[:4]] = float(row[metric]) / 1e3
        elif metric == "output_tokens_per_s_total":
            answers["throughput"] = float(row["measured_value"])
        elif metric == "output_tokens_per_s_per_gpu":
            answers["throughput"] = float(row["measured_value"]) * float(row["n_gpus"])
    return answers


class Batches:
    """Rows of equal deployment, evaluated together."""

    def __init__(self, measured: list[Measured]):
        self.measured = measured
        self.groups: dict[tuple, list[int]] = defaultdict(list)
        for index, one in enumerate(measured):
            r = one.request
            key = (
                r.model.name,
                r.chip.name,
                r.deployment,
                r.workers,
                r.prefill,
                r.prefill_workers,
                r.load.concurrency is None,
            )
            self.groups[key].append(index)

    def predict(self, only: Iterable[int] | None = None) -> dict[str, np.ndarray]:
        size = len(self.measured)
        out = {name: np.full(size, np.nan) for name in ("tpot", "ttft", "throughput")}
        keep = None if only is None else set(only)
        for indices in self.groups.values():
            if keep is not None and not keep.intersection(indices):
                continue
            one = self.measured[indices[0]].request
            loads = [self.measured[i].request.load for i in indices]
            load = Load(
                prompt_tokens=np.array([x.prompt_tokens for x in loads]),
                new_tokens=np.array([x.new_tokens for x in loads]),
                concurrency=None
                if one.load.concurrency is None
                else np.array([x.concurrency for x in loads]),
            )
            if one.prefill is None:
                answer = serve(one.model, one.chip, one.deployment, load, one.workers)
            else:
                answer = serve_disaggregated(
                    one.model,
                    one.chip,
                    one.prefill,
                    one.prefill_workers,
                    one.deployment,
                    one.workers,
                    load,
                )
            out["tpot"][indices] = answer.tpot_s
            out["ttft"][indices] = answer.ttft_s
            out["throughput"][indices] = answer.output_tokens_per_s
        return out


@dataclass(frozen=True)
class Parameter:
    """A free number of the fit: the mean of a quantity, or one subject's departure from it."""

    subject: str
    quantity: str
    prior: float
    spread: float


def parameters() -> list[Parameter]:
    free = []
    for group, quantities in (("silicon", SILICON), ("engine", ENGINE), ("common", COMMON)):
        for quantity, (prior, spread, _, factor) in quantities.items():
            free.append(Parameter(group, quantity, np.log(prior * factor), spread))
    for subject in ARCHITECTURES:
        free += [
            Parameter(
                subject,
                quantity,
                np.log(BY_ARCHITECTURE.get((subject, quantity), mean) / mean),
                SPREAD_ARCHITECTURE,
            )
            for quantity, (mean, *_) in SILICON.items()
        ]
    for subject in ENGINES:
        free += [
            Parameter(
                subject,
                quantity,
                np.log(BY_ENGINE.get((subject, quantity), mean) / mean),
                SPREAD_ENGINE * deviation / 0.8,
            )
            for quantity, (mean, deviation, *_) in ENGINE.items()
        ]
    return free


def spread(values: np.ndarray) -> dict[tuple[str, str], float]:
    """Free numbers -> the table of constants."""
    by = {(p.subject, p.quantity): v for p, v in zip(FREE, values, strict=True)}
    table = {}
    for subject in (*ARCHITECTURES, *UNMEASURED):
        for quantity in SILICON:
            table[subject, quantity] = float(
                np.exp(by["silicon", quantity] + by.get((subject, quantity), 0.0))
            )
    for subject in ENGINES:
        for quantity in ENGINE:
            table[subject, quantity] = float(np.exp(by["engine", quantity] + by[subject, quantity]))
    for quantity in COMMON:
        table["common", quantity] = float(np.exp(by["common", quantity]))
    return table


FREE = parameters()
PRIOR = np.array([p.prior for p in FREE])
WIDTH = np.array([p.spread for p in FREE])


def use(values: np.ndarray) -> None:
    constants.table().update(spread(values))
    constants.forget()


def fit(
    batches: Batches, rows_in: list[int], start: np.ndarray, rounds: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """The free numbers that these rows and the priors make likeliest, and their covariance."""
    families: dict[tuple, int] = defaultdict(int)
    for i in rows_in:
        families[batches.measured[i].family] += 1
    points = [
        (metric, i, np.log(answer), NOISE[metric] * families[batches.measured[i].family] ** 0.25)
        for i in rows_in
        for metric, answer in batches.measured[i].answers.items()
    ]

    rows_at = np.array([i for _, i, _, _ in points])
    which = {m: np.array([metric == m for metric, *_ in points]) for m in NOISE}
    logs = np.array([log for *_, log, _ in points])
    noise = np.array([n for *_, n in points])
    subjects = {
        subject: np.array(
            [
                subject in (generation(batches.measured[i]), engine_subject(batches.measured[i]))
                for i in rows_at
            ]
        )
        for subject in (*ARCHITECTURES, *ENGINES)
    }

    def raw(values: np.ndarray) -> np.ndarray:
        use(values)
        got = batches.predict(rows_in)
        predicted = np.zeros(len(points))
        for metric, mask in which.items():
            predicted[mask] = np.log(got[metric][rows_at[mask]])
        return (predicted - logs) / noise

    def robust(e: np.ndarray) -> np.ndarray:
        # By hand, so that priors stay quadratic: Geman-McClure, deaf to what is far off.
        return e / np.sqrt(1 + e**2 / DEAF**2)

    def residuals(free: np.ndarray) -> np.ndarray:
        return np.concatenate([robust(raw(PRIOR + free * WIDTH)), free])

    def jacobian(free: np.ndarray) -> np.ndarray:
        # A row has one architecture and one engine: one step for a quantity serves all subjects.
        values = PRIOR + free * WIDTH
        here = raw(values)
        slope = (1 + here**2 / DEAF**2) ** -1.5
        out = np.zeros((len(points) + len(FREE), len(FREE)))
        out[len(points) :] = np.eye(len(FREE))
        for mean in [n for n, p in enumerate(FREE) if p.subject in ("silicon", "engine", "common")]:
            moved = values.copy()
            moved[mean] += 1e-3
            change = slope * (raw(moved) - here) / 1e-3
            for n, parameter in enumerate(FREE):
                if n == mean:
                    out[: len(points), n] = change * WIDTH[n]
                elif parameter.quantity == FREE[mean].quantity and parameter.subject in subjects:
                    out[: len(points), n] = change * subjects[parameter.subject] * WIDTH[n]
        return out

    answer = least_squares(
        residuals, (start - PRIOR) / WIDTH, jac=jacobian, method="trf", max_nfev=rounds, ftol=1e-4
    )
    use(PRIOR + answer.x * WIDTH)
    covariance = np.linalg.inv(answer.jac.T @ answer.jac) * np.outer(WIDTH, WIDTH)
    return PRIOR + answer.x * WIDTH, covariance


def errors(batches: Batches, got: Mapping[str, np.ndarray]) -> list[tuple[int, str, float]]:
    """(row, metric, log of predicted over measured)."""
    return [
        (i, metric, float(np.log(got[metric][i] / answer)))
        for i, one in enumerate(batches.measured)
        for metric, answer in one.answers.items()
        if np.isfinite(got[metric][i])
    ]


def line(name: str, logs: list[float]) -> str:
    e = np.array(logs)
    relative = np.abs(np.expm1(e))
    return (
        f"{name:58s} {len(e):5d} {100 * relative.mean():7.1f} {100 * np.median(relative):7.1f} "
        f"{100 * np.percentile(relative, 90):7.1f} {100 * np.expm1(np.median(e)):+7.1f}"
    )


def table(
    title: str,
    batches: Batches,
    found: list[tuple[int, str, float]],
    key: Callable[[Measured], str],
    which: Callable[[Measured], bool] = lambda one: one.scored,
) -> None:
    print(f"\n{title:58s} {'rows':>5} {'MAPE':>7} {'median':>7} {'P90':>7} {'bias':>7}  (%)")
    groups: dict[str, list[float]] = defaultdict(list)
    for i, metric, error in found:
        if which(batches.measured[i]):
            groups[f"{metric:10s} {key(batches.measured[i])}"].append(error)
    for name in sorted(groups):
        print(line(name, groups[name]))


def left_out(
    batches: Batches, scored: list[int], best: np.ndarray, key: Callable[[Measured], str]
) -> list[tuple[int, str, float]]:
    """Errors of each family's rows by constants fitted without them."""
    found = []
    names = sorted({key(batches.measured[i]) for i in scored})
    for name in names:
        inside = [
            i for i in scored if key(batches.measured[i]) != name and batches.measured[i].fitted
        ]
        if not inside:
            continue
        fit(batches, inside, PRIOR, rounds=6)
        got = batches.predict([i for i in scored if key(batches.measured[i]) == name])
        found += [
            e
            for e in errors(batches, got)
            if batches.measured[e[0]].scored and key(batches.measured[e[0]]) == name
        ]
    use(best)
    return found


def kind(one: Measured) -> str:
    return one.request.kind + ("" if one.fitted or not one.scored else ", pools chosen")


def engine_subject(one: Measured) -> str:
    return one.request.deployment.engine


def fold(one: Measured) -> str:
    """One of five, the same for all rows of a configuration."""
    name = "|".join((*one.family, *(one.row[c] for c in ("engine", "tp", "ep", "isl", "osl"))))
    return f"fold {zlib.crc32(name.encode()) % 5}"


def generation(one: Measured) -> str:
    return one.request.chip.architecture or "unknown"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("truth")
    ask.add_argument("--write", action="store_true")
    ask.add_argument("--priors", action="store_true")
    ask.add_argument("--no-left-out", action="store_true")
    asked = ask.parse_args()
    if asked.priors:
        write(PRIOR, np.diag(WIDTH**2), 0, WIDE)
        return
    use(PRIOR)
    measured, unread = read(asked.truth)
    batches = Batches(measured)
    scored = [i for i, one in enumerate(measured) if one.scored]
    fitted = [i for i in scored if measured[i].fitted]
    print(f"{len(measured)} read, {len(scored)} scored, {len(fitted)} fitted, {len(unread)} unread")
    for reason in unread[:10]:
        print("  unread", reason)
    found = errors(batches, batches.predict())
    table("priors alone", batches, found, kind)
    best, _ = fit(batches, fitted, PRIOR)
    # What rows leave open was chosen by the priors: choose again, and fit what comes of it.
    measured, _ = read(asked.truth)
    batches = Batches(measured)
    best, covariance = fit(batches, fitted, best, rounds=4)
    found = errors(batches, batches.predict())
    report(batches, found)
    intervals = {key: value for key, value in constants.table().items() if key[0] == "interval"}
    if not asked.no_left_out:
        left: list[tuple[int, str, float]] = []
        for title, key in (
            ("configurations left out", fold),
            ("left-one-model-out", lambda one: one.row["model_key"]),
            ("left-one-generation-out", generation),
            ("left-one-suite-out", lambda one: one.row["suite"]),
        ):
            out = left_out(batches, scored, best, key)
            table(title, batches, out, lambda one: "")
            table(title, batches, out, kind)
            table(title, batches, out, key)
            left += out if title in ("left-one-model-out", "configurations left out") else []
        intervals = widths(batches, left)
        held(batches, intervals, left)
    if asked.write:
        write(best, covariance, len(fitted), intervals)
    for parameter, value in zip(FREE, best, strict=True):
        print(
            f"{parameter.subject:12s} {parameter.quantity:20s} {np.exp(value):.4g} "
            f"({(value - parameter.prior) / parameter.spread:+.1f} sd)"
        )


def report(batches: Batches, found: list[tuple[int, str, float]]) -> None:
    table("in sample, all", batches, found, lambda one: "")
    table("in sample, by kind", batches, found, kind)
    table("by family", batches, found, lambda one: " ".join(one.family))
    table("by engine", batches, found, lambda one: one.request.deployment.engine)
    table("by chip", batches, found, lambda one: one.row["gpu"])
    table(
        "apart: without layout or lengths",
        batches,
        found,
        lambda one: " ".join(one.family),
        lambda one: not one.scored,
    )


def widths(batches: Batches, found: list[tuple[int, str, float]]) -> dict[tuple[str, str], float]:
    """10th and 90th percentiles of measured over predicted, by kind and metric."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for i, metric, error in found:
        groups[batches.measured[i].request.kind, metric].append(-error)
    out = {}
    for (kind, metric), logs in groups.items():
        out[f"{kind}_{metric}_low"] = float(np.exp(np.percentile(logs, 10)))
        out[f"{kind}_{metric}_high"] = float(np.exp(np.percentile(logs, 90)))
    return {("interval", name): value for name, value in out.items()}


def held(
    batches: Batches,
    intervals: Mapping[tuple[str, str], float],
    found: list[tuple[int, str, float]],
) -> None:
    print("\nrows within the interval")
    counts: dict[str, list[bool]] = defaultdict(list)
    for i, metric, error in found:
        name = f"{batches.measured[i].request.kind}_{metric}"
        low, high = (intervals["interval", f"{name}_{end}"] for end in ("low", "high"))
        counts[name].append(low <= np.exp(-error) <= high)
    for name, inside in sorted(counts.items()):
        low, high = (intervals["interval", f"{name}_{end}"] for end in ("low", "high"))
        print(f"{name:24s} {100 * np.mean(inside):5.1f} %  x {low:.2f} ... {high:.2f}")


def write(
    best: np.ndarray,
    covariance: np.ndarray,
    count: int,
    intervals: Mapping[tuple[str, str], float],
) -> None:
    """`data/serving.csv`: the constants in units that an eye can check, with two deviations."""
    basis = "derived" if count else "estimate"
    source = (
        f"fitted by benchmarks/fit_serving.py on {count} published measurements"
        if count
        else "prior of benchmarks/fit_serving.py: physics and kernel measurements"
    )
    lines = []
    for (subject, quantity), value in {**spread(best), **intervals}.items():
        spec = SILICON.get(quantity) or ENGINE.get(quantity) or COMMON.get(quantity)
        unit, factor = (spec[2], spec[3]) if spec else ("1", 1)
        low = high = ""
        if spec:
            parts = [
                n
                for n, parameter in enumerate(FREE)
                if parameter.quantity == quantity
                and parameter.subject in ("silicon", "engine", "common", subject)
            ]
            variance = covariance[np.ix_(parts, parts)].sum()
            if subject in UNMEASURED:
                variance += SPREAD_ARCHITECTURE**2
            low = f"{value / factor * np.exp(-2 * variance**0.5):.3g}"
            high = f"{value / factor * np.exp(2 * variance**0.5):.3g}"
        unmeasured = subject in UNMEASURED
        lines.append(
            [
                subject,
                quantity,
                f"{value / factor:.4g}",
                low,
                high,
                unit,
                "assumed" if unmeasured else basis,
                "mean of the architectures that were measured" if unmeasured else source,
                AS_OF,
            ]
        )
    with open(TARGET, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        out.writerows(lines)


if __name__ == "__main__":
    main()
