"""Judge a model and hold it against its gate: what is served later must pass here first.

A gate is thresholds by metric, `{"tool_calls_exact": ">= 0.5"}`. It closes on doubt: a metric
that nobody measured, a threshold that cannot be read, no threshold at all, all mean no.
"""

import math
import operator
import re
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from gigafactory.jobs import weights
from gigafactory.jobs.context import Context

SUITES = ("bits_per_byte", "tool_calls", "detection", "closed_loop", "falsification")
COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}

SAMPLES = 6
"""How many answers the result shows, half of them failures where there are any."""


def run(context: Context) -> dict[str, Any]:
    """Measure the suite's metrics on the model of the job `of`, and give the verdict."""
    work = context.work
    cpu_s = time.process_time()
    context.phase("work")
    judged = context.inputs[work["of"]] / "model"
    match work["suite"]:
        case "bits_per_byte":
            measured = bits_per_byte(context, judged)
        case "tool_calls":
            measured = tool_calls(context, judged)
        case "detection" | "closed_loop" | "falsification" as suite:
            measured = import_module(f"gigafactory.jobs.{suite}").evaluate(context)
        case suite:
            raise ValueError(f"no suite is called {suite!r}: say one of {', '.join(SUITES)}")
    verdicts = [
        verdict(metric, threshold, measured["metrics"])
        for metric, threshold in work.get("gate", {}).items()
    ]
    return {
        **measured,
        "passed": bool(verdicts) and all(verdict["passed"] for verdict in verdicts),
        "verdicts": verdicts,
        "cpu_s": time.process_time() - cpu_s,
    }


def verdict(metric: str, threshold: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Whether the metric keeps to the threshold, and why not where that is in doubt."""
    value = metrics.get(metric)
    judgement = {"metric": metric, "value": value, "threshold": threshold, "passed": False}
    sign, bound_text = re.findall(r"^\s*(>=|<=|>|<|)(.*)", str(threshold))[0]
    try:
        compare, bound = COMPARISONS[sign], float(bound_text)
    except (KeyError, ValueError):
        return {**judgement, "reason": "the threshold is not one of >=, <=, >, < and a number"}
    if not isinstance(value, int | float):
        return {**judgement, "reason": f"not measured; there are {', '.join(sorted(metrics))}"}
    if not math.isfinite(value) or not math.isfinite(bound):
        return {**judgement, "reason": "not a finite number"}
    return {**judgement, "passed": bool(compare(value, bound))}


def reporter(context: Context) -> Any:
    """A `report` that also stops the evaluation where the factory wants that."""

    def report(**figures: Any) -> None:
        context.report(**figures)
        context.check()

    return report


def bits_per_byte(context: Context, judged: Path) -> dict[str, Any]:
    """Compression of held-out text."""
    from gigafactory.jobs import bits_per_byte as suite

    measured = suite.evaluate(judged, context.cache, context.chips, reporter(context))
    metrics = {name: measured[name] for name in measured.keys() - {"samples", "tokens", "cpu_s"}}
    return {
        "metrics": metrics,
        "samples": measured.get("samples", []),
        "tokens": measured.get("tokens", 0),
    }


def tool_calls(context: Context, judged: Path) -> dict[str, Any]:
    """Exact tool calls of the tuned model, and of its base with an introduction."""
    from gigafactory.jobs import tool_calls as suite

    examples, seed = context.work["examples"], context.work.get("seed", 0)
    report = reporter(context)
    after = suite.evaluate(judged, examples, seed, context.chips, report)
    metrics = interval("tool_calls_exact", after)
    tokens = after["tokens"]
    if context.model is not None:
        base = weights.folder(context.model["weights"], context.cache)
        before = suite.evaluate(base, examples, seed, context.chips, report, introduced=True)
        tokens += before["tokens"]
        metrics |= interval("tool_calls_exact_before", before)
    shown = sorted(after["answers"], key=lambda answer: answer["exact"])
    return {
        "metrics": {**metrics, "examples": examples},
        "samples": shown[: SAMPLES // 2] + shown[-(SAMPLES // 2) :],
        "tokens": tokens,
    }


def interval(metric: str, measured: dict[str, Any]) -> dict[str, float]:
    """The share of exact answers and its interval, under the name of the metric."""
    return {
        metric: measured["exact"],
        f"{metric}_low": measured["exact_low"],
        f"{metric}_high": measured["exact_high"],
    }
