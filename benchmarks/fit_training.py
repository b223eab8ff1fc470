"""Fit the constants of the training model on published runs, and say how well they carry over.

    python benchmarks/fit_training.py TRAINING.csv              fit, write data/training.csv
    python benchmarks/fit_training.py TRAINING.csv --left-out   also without each suite, generation

The table has the columns of `gigafactory predict training`, and answers. For each architecture
of chips the twelve quantities in `FITTED` are free; all else is shared and stays where physics
or practice puts it. The fit minimises log errors (robustly, suites weighing alike) together with
departures from priors, so that what the rows do not tell stays where the prior has it. Widths of
the 80 % intervals come from errors on suites that the fit had seen and on those it had not.
"""

import argparse
import csv
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from gigafactory.stack import chips, facts, models, score, training
from gigafactory.stack.training import Job, Layout, rows
from gigafactory.stack.training.rows import Question

TABLE = facts.FOLDER / "training.csv"
FITTED: dict[str, tuple[float, float, str]] = {
    "matmul_bfloat16": (0.85, 0.15, "share of the best-shape rate in long runs"),
    "matmul_float8": (0.75, 0.20, "the same in FP8"),
    "matmul_float4": (0.65, 0.25, "the same in FP4"),
    "attention": (0.65, 0.20, "share of the bfloat16 matmul rate, heads of 128, kernels of 2025"),
    "attention_yearly": (0.85, 0.10, "factor on it for each year before mid 2025"),
    "elementwise": (1.10, 0.30, "bytes moved over bytes counted"),
    "cast": (1.00, 0.50, "the same of casts to 8 and 4 bit"),
    "grouped": (0.75, 0.30, "rate of grouped matrix products over single ones"),
    "expert_exposed": (0.70, 0.40, "share of all-to-all that nothing hides"),
    "experts_host_s": (3.2e-3, 0.30, "host time to launch one layer of experts, one pass"),
    "tensor_exposed": (0.35, 0.40, "share of tensor-parallel traffic that nothing hides"),
    "data_exposed": (0.30, 0.60, "cost of hidden data-parallel traffic, as a share of its time"),
}
"""Quantity -> prior, standard deviation of its logarithm, meaning."""
SHARED: dict[str, tuple[float, str, str]] = {
    "matmul_float32": (0.80, "assumed", "as matmul_bfloat16"),
    "tile_m": (64, "assumed", "half a tile of 128 rows is lost on average"),
    "tile_n": (64, "assumed", "half a tile of 128 columns"),
    "tile_k": (200, "assumed", "depth at which a tile's prologue and epilogue cost as much as it"),
    "narrow_heads": (0.40, "estimate", "exponent of head width below 128 in attention's rate"),
    "score_bytes": (14, "derived", "fp16 scores and dropout, forward: arXiv:2205.05198, section 4"),
    "eager": (1.40, "estimate", "FSDP runs of 2023: norms and activations one kernel each"),
    "permute_bytes": (14, "derived", "bytes a routed element is moved, there and back"),
    "imbalance": (1.10, "estimate", "tokens of the fullest expert rank over the mean"),
    "experts_yearly": (1.08, "estimate", "factor on experts' costs for each year before mid 2026"),
    "graphs": (0.60, "estimate", "host time left with CUDA graphs"),
    "launch_s": (6e-6, "estimate", "host time of one kernel in PyTorch"),
    "head_imbalance": (0.70, "assumed", "share of the vocabulary's work that makes stages uneven"),
    "recompute": (0.96, "estimate", "a repeated forward pass over the first"),
    "context_exposed": (0.30, "assumed", "share of context-parallel traffic that nothing hides"),
    "send_exposed": (0.30, "assumed", "share of pipeline traffic not hidden under interleaving"),
    "step_s": (0.015, "assumed", "a step's gradient norm, logging and next batch"),
    "jitter": (0.004, "estimate", "waiting for the slowest: share for each doubling of chips"),
    "reserved_bytes": (2e9, "estimate", "CUDA context, NCCL buffers, fragmentation"),
    "host_bytes_per_s": (50e9, "published", "PCIe 5.0 x16, 55 GB/s measured: nvbandwidth"),
}
LOADS = {
    # Share of the way from idle to full power: modelled, not fitted.
    "linear": (0.95, "matrix products run into the power limit: Acme, arXiv:2403.07648, figure 7"),
    "experts": (0.85, "smaller matrix products"),
    "recompute": (0.90, "a forward pass again"),
    "attention": (0.80, "matrix products between exponentials"),
    "elementwise": (0.60, "memory streams: DGEMM against Triad, arXiv:2604.11391"),
    "optimizer": (0.60, "memory streams"),
    "waiting": (0.30, "communication, bubble and launches: clocks stay up"),
}
UNITS = {"launch_s": "s", "step_s": "s", "experts_host_s": "s", "reserved_bytes": "B"}
PRIOR = {name: value for name, (value, *_) in (FITTED | SHARED).items()}
CEILINGS = (
    # GPU, precision, TFLOP/s a GPU, date; Llama 3.1 405B, 8,192 tokens. The layout is our guess.
    ("B200", "FP8", 1676, 2025.9),
    ("GB200", "FP8", 2144, 2026.1),
    ("GB300", "NVFP4", 3653, 2026.25),
)
"""Published without layout: best training rates of Megatron-Bridge, docs/performance-summary."""
Constants = Mapping[str, float]


class Run:
    """A measured run: the question, the answer, and how much it weighs."""

    def __init__(self, suite: str, metric: str, measured: float, question: Question):
        self.suite, self.metric, self.measured, self.question = suite, metric, measured, question
        self.architecture = question.chip.architecture

    def error(self, constants: Constants) -> float:
        """ln of predicted over measured speed: above 0 where the model is too fast."""
        of = self.question
        step = training.step(of.job, of.chip, of.layout, constants)
        error = math.log(rows.answer(of, self.metric, step) / self.measured)
        return -error if self.metric == "step_time_s" else error

    @property
    def family(self) -> str:
        """What its interval is told for: experts are less certain than dense layers."""
        return "experts" if self.question.job.model.experts else "dense"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("truth", type=Path)
    parser.add_argument("--left-out", action="store_true", help="print errors of runs left out")
    args = parser.parse_args()
    runs = read(args.truth)
    fitted = fit(runs)
    seen, errors = [(run, run.error(fitted[run.architecture])) for run in runs], left_out(runs)
    write(fitted, runs, intervals([*seen, *errors]))
    print(table("fitted on all", seen))
    if args.left_out:
        print(table("suite left out", errors))
        print(table("generation left out", other_generations(runs, fitted)))
    return 0


def read(path: Path) -> list[Run]:
    """The runs that are scored, and the ceilings."""
    truth = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    newest = score.newest(truth)
    runs = []
    for row in truth:
        if row["id"] in newest and score.is_scored(row):
            measured = score.answer(row, row["measured_metric"])
            assert measured is not None
            runs.append(Run(row["suite"], row["measured_metric"], measured, rows.question(row)))
    return runs + [_ceiling(*ceiling) for ceiling in CEILINGS]


def fit(runs: Sequence[Run]) -> dict[str, Constants]:
    """Constants of each architecture that has runs, and of any other."""
    weights = _weights(runs)
    fitted: dict[str, Constants] = {}
    for architecture in sorted({run.architecture for run in runs}):
        own = [run for run in runs if run.architecture == architecture]
        fitted[architecture] = _fit_one(own, [weights[run.suite] for run in own])
    return fitted


def left_out(runs: Sequence[Run]) -> list[tuple[Run, float]]:
    """Each suite's errors under constants fitted without it (MLPerf's rounds are one suite)."""
    errors = []
    for suite in sorted({_name(run.suite) for run in runs}):
        rest = [run for run in runs if _name(run.suite) != suite]
        held = [run for run in runs if _name(run.suite) == suite]
        needed = {run.architecture for run in held}
        fitted = fit([run for run in rest if run.architecture in needed])
        errors += [(run, run.error(fitted.get(run.architecture, PRIOR))) for run in held]
    return errors


def other_generations(
    runs: Sequence[Run], fitted: Mapping[str, Constants]
) -> list[tuple[Run, float]]:
    """Each generation's errors under the mean of the others' constants."""
    return [
        (run, run.error(_mean([fitted[name] for name in fitted if name != run.architecture])))
        for run in runs
    ]


def intervals(errors: Iterable[tuple[Run, float]]) -> dict[str, float]:
    """For each family the factor that 80 % of errors stay within.

    Half of them are of suites that the fit had seen, half of suites left out, as the runs are
    that a user will ask about. Suites weigh by the root of their size.
    """
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, error in errors:
        groups[run.family][_name(run.suite)].append(abs(error))
    widths = {}
    for family, suites in groups.items():
        sizes = np.concatenate([suites[suite] for suite in sorted(suites)])
        weights = np.concatenate(
            [np.full(len(suites[suite]), len(suites[suite]) ** -0.5) for suite in sorted(suites)]
        )
        order = np.argsort(sizes)
        reached = np.cumsum(weights[order]) / weights.sum()
        widths[family] = float(np.exp(sizes[order][np.searchsorted(reached, 0.8)]))
    return widths


def write(
    fitted: Mapping[str, Constants], runs: Sequence[Run], widths: Mapping[str, float]
) -> None:
    """The table of facts that `stack.training` reads."""
    count = Counter(run.architecture for run in runs)
    when = "2026-11"
    out = [("architecture", "quantity", "value", "low", "high", "unit", "basis", "source", "as_of")]
    for name, (value, basis, source) in SHARED.items():
        out.append(("other", name, f"{value:g}", "", "", UNITS.get(name, "1"), basis, source, when))
    for name, (value, source) in LOADS.items():
        out.append(("other", f"load_{name}", f"{value:g}", "", "", "1", "estimate", source, when))
    for width, value in sorted(widths.items()):
        source = (
            "80 % of errors stay within this factor, half of them on suites left out of the fit"
        )
        out.append(
            ("other", f"interval_{width}", f"{value:.3f}", "", "", "1", "derived", source, when)
        )
    everyone = {**fitted, "other": _mean(list(fitted.values()))}
    for architecture, constants in everyone.items():
        for name, (_, spread, meaning) in FITTED.items():
            value = constants[name]
            told = (
                f"{meaning}; fitted on {count[architecture]} published runs"
                if architecture in fitted
                else f"{meaning}; geometric mean of the fitted architectures"
            )
            low, high = value * math.exp(-spread), value * math.exp(spread)
            figures = (f"{value:.4g}", f"{low:.3g}", f"{high:.3g}", UNITS.get(name, "1"))
            out.append((architecture, name, *figures, "derived", told, when))
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(out)


def table(title: str, errors: Sequence[tuple[Run, float]]) -> str:
    """Errors of predicted speed by suite, and over suites."""
    suites: dict[str, list[float]] = defaultdict(list)
    for run, error in errors:
        suites[run.suite].append(math.exp(error) - 1)
    lines = [f"{title:24}{'runs':>5}{'MAPE':>8}{'P90':>8}{'bias':>8}"]
    for suite in sorted(suites):
        signed = np.array(suites[suite])
        lines.append(
            f"{suite:24}{len(signed):5}{abs(signed).mean():8.1%}"
            f"{np.quantile(abs(signed), 0.9):8.1%}{signed.mean():+8.1%}"
        )
    means = [(abs(np.array(s)).mean(), np.mean(s)) for s in suites.values()]
    mape, bias = np.mean(means, axis=0)
    lines.append(f"{'suites alike':29}{mape:8.1%}{bias:+16.1%}")
    return "\n".join(lines) + "\n"


def _fit_one(runs: Sequence[Run], weights: Sequence[float]) -> Constants:
    names = list(FITTED)
    prior = np.array([FITTED[name][0] for name in names])
    spread = np.array([FITTED[name][1] for name in names])

    def constants(point: np.ndarray) -> Constants:
        return PRIOR | dict(zip(names, prior * np.exp(point * spread), strict=True))

    def residuals(point: np.ndarray) -> np.ndarray:
        now = constants(point)
        errors = np.array(
            [weight * run.error(now) / 0.06 for run, weight in zip(runs, weights, strict=True)]
        )
        robust = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1))
        return np.concatenate([robust, point])

    return constants(least_squares(residuals, np.zeros(len(names)), diff_step=1e-3, max_nfev=25).x)


def _weights(runs: Sequence[Run]) -> dict[str, float]:
    """A suite weighs as eight runs at most."""
    count = Counter(run.suite for run in runs)
    return {suite: min(1.0, (8 / number) ** 0.5) for suite, number in count.items()}


def _mean(constants: Sequence[Constants]) -> Constants:
    return PRIOR | {
        name: math.exp(sum(math.log(each[name]) for each in constants) / len(constants))
        for name in FITTED
    }


def _name(suite: str) -> str:
    return "mlperf-train" if suite.startswith("mlperf-train") else suite


def _ceiling(gpu: str, precision: str, tflops: float, year: float) -> Run:
    model, chip = models.read("llama3.1-405b"), chips.chip(gpu)
    layout = Layout(data=8, tensor=4, pipeline=8, virtual=4)
    job = Job(model, 8192, 1536, precision, year=year)
    return Run("ceilings", "tflops_per_gpu", tflops, Question(job, chip, 256, layout, ()))


if __name__ == "__main__":
    sys.exit(main())
