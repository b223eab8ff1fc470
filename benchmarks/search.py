"""The search of training layouts: points a CPU second, and what pruning leaves to do.

    OMP_NUM_THREADS=1 python benchmarks/search.py [--json] [--rounds 5]

GPT-3 175B, 3,072 sequences of 2,048 tokens, BF16, on 4,096 A100 of 80 GB. Every point's time and
memory are computed (`exhaustive`), then as much as proves the same answer (`best`). CPU time of
the process counts, the median of the rounds stands, and a warm-up that reads the tables does not.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

from gigafactory.stack import chips, models
from gigafactory.stack.training import Job, search
from gigafactory.stack.training.search import Found

CALCULON_PER_CPU_S = 225.0
"""Quoted, not measured here: the peer Calculon on a quiet machine, over 9.67 M configurations."""
COUNT = 4096


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    job, chip = Job(models.read("gpt3-175b"), 2048, 3072), chips.chip("A100-80 SXM")
    search.best(job, chip, 8 * 8)
    whole, whole_s = timed(lambda: search.exhaustive(job, chip, COUNT), options.rounds)
    pruned, pruned_s = timed(lambda: search.best(job, chip, COUNT), options.rounds)
    rate = whole.points / whole_s
    report = {
        "points": whole.points,
        "fitting": whole.fitting,
        "exhaustive_cpu_s": round(whole_s, 4),
        "exhaustive_points_per_cpu_s": round(rate),
        "pruned_cpu_s": round(pruned_s, 4),
        "pruned_points": pruned.evaluated,
        "same_optimum": pruned.layout == whole.layout,
        "same_runner_up": pruned.runner_up == whole.runner_up,
        "calculon_points_per_cpu_s_quoted": CALCULON_PER_CPU_S,
        "ratio_to_calculon": round(rate / CALCULON_PER_CPU_S),
        "layout": search.describe(pruned.layout),
        "step_s": round(float(pruned.step.step_s), 4),
        "why": pruned.why(),
    }
    print(json.dumps(report) if options.json else said(report))


def timed(work: Callable[[], Found], rounds: int) -> tuple[Found, float]:
    """What it finds, and the median of its CPU seconds."""
    taken_s = []
    for _ in range(rounds):
        start_s = time.process_time()
        found = work()
        taken_s.append(time.process_time() - start_s)
    return found, statistics.median(taken_s)


def said(report: dict) -> str:
    """The report in words."""
    same = ["no", "yes"][report["same_optimum"] and report["same_runner_up"]]
    return (
        f"space        {report['points']:,} points, {report['fitting']:,} fit\n"
        f"exhaustive   {report['exhaustive_points_per_cpu_s']:,} points/CPU-s,"
        f" {report['exhaustive_cpu_s']:.3f} CPU-s\n"
        f"with pruning {report['pruned_cpu_s']:.3f} CPU-s, {report['pruned_points']:,} points\n"
        f"same optimum and runner-up: {same}\n"
        f"Calculon     {CALCULON_PER_CPU_S:.0f} points/CPU-s (quoted): ratio"
        f" {report['ratio_to_calculon']:,}\n"
        f"optimum      {report['layout']}: {report['step_s']:.4g} s a step\n"
        f"runner-up    {report['why']}"
    )


if __name__ == "__main__":
    main()
