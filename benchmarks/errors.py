"""Redraw docs/performance.md: how good the performance model is, by the rows it is judged on.

    python benchmarks/errors.py TRAINING.csv SERVING.csv

Predicts both tables by the door that users have (`gigafactory predict`, `gigafactory score`),
fits once more without each suite, and writes the page and its plots. Seven minutes of one core.
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fit_training

from gigafactory.console import scatter
from gigafactory.stack import predict, score
from gigafactory.stack.score import Errors, Report
from gigafactory.stack.serving import INPUTS
from gigafactory.stack.training import rows

DOCS = Path(__file__).parent.parent / "docs"
HEAD = """\
# How good the performance model is

*Written by `python benchmarks/errors.py TRAINING.csv SERVING.csv`; not by hand.*

`gigafactory estimate`, `search` and `predict`, the planner and the twin ask one model of training
and serving (`gigafactory/stack/training`, `gigafactory/stack/serving`). Everything it says is
modelled; this page holds it against {count} published measurements. An error is
|predicted / measured - 1|; suites weigh alike; scored are runs that are fully described, the
newest of each group of reruns. The constants (at most twelve for an architecture of chips) were
fitted on these rows: the columns *suite left out* tell what rows it has never seen will say.

To judge your own rows: `gigafactory predict training|serving TABLE.csv --out P.csv`, then
`gigafactory score P.csv TABLE.csv --plot errors.svg`. Answers may be blank; these columns are read:

- training: {training}
- serving: {serving}

Peers, as far as measured elsewhere: Calculon is 30 % off on BLOOM and 58 % on H100 runs that it
was not fitted to, a rule of thumb (median MFU by chip and dtype) 43 %; NVIDIA's aiconfigurator
27 % on time per token and 61 % on time to first token of its own measurements. None of them gives
an interval. Speed beside them: `benchmarks/search.py`, `benchmarks/aiconfigurator.py`.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", type=Path)
    parser.add_argument("serving", type=Path)
    args = parser.parse_args()
    training = _report("training", args.training)
    serving = _report("serving", args.serving)
    count = len(training.pairs) + len(serving.pairs)
    columns = {"training": rows.INPUTS, "serving": INPUTS}
    read = {name: ", ".join(f"`{column}`" for column in known) for name, known in columns.items()}
    parts = [HEAD.format(count=f"{count:,}", **read)]
    runs = fit_training.read(args.training)
    unseen = fit_training.left_out(runs)
    parts += ["## Training\n", _section(training, "training")]
    parts += ["\n### Suites and generations left out of the fit\n", "```text"]
    parts.append(fit_training.table("suite left out", unseen))
    everyone = fit_training.fit(runs)
    parts.append(
        fit_training.table("generation left out", fit_training.other_generations(runs, everyone))
        + "```\n"
    )
    parts += ["## Serving\n", _section(serving, "serving")]
    parts += ["\n### Configurations, models, generations and suites left out of the fit\n"]
    parts += ["```text", _left_out(args.serving), "```", LIMITS]
    (DOCS / "performance.md").write_text("\n".join(parts), encoding="utf-8")
    for name, report in (("training", training), ("serving", serving)):
        pairs = [pair for pair in report.pairs if pair.scored]
        drawn = scatter.svg(pairs, f"{name}: predicted over measured, fully described runs")
        (DOCS / f"errors-{name}.svg").write_text(drawn, encoding="utf-8")
    return 0


def _report(suite: predict.Suite, path: Path) -> Report:
    truth = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    lines = predict.predict(suite, truth)
    cells = [dict(zip(predict.COLUMNS, line.cells(), strict=True)) for line in lines]
    return score.score(cells, truth)


def _left_out(path: Path) -> str:
    """The tables that `fit_serving.py` prints, from the first that leaves rows out."""
    script = Path(__file__).with_name("fit_serving.py")
    ran = subprocess.run(
        [sys.executable, str(script), str(path)], capture_output=True, text=True, check=True
    )
    tables = ran.stdout.split("\n\n")
    names = ("configurations left out", "left-one-")
    kept = [table for table in tables if table.startswith(names) and " fold " not in table]
    return "\n\n".join(kept)


def _section(report: Report, name: str) -> str:
    parts = [
        f"![Predicted over measured by size, coloured by suite](errors-{name}.svg)\n",
        _table("all, suites alike", report.overall),
        _table("by suite", report.by_suite),
        _table("by chip", report.by_gpu),
        _table("by model", report.by_model),
        _table("runs not fully described, apart", report.apart),
    ]
    if report.floor_median is not None and report.floor_worst is not None:
        parts.append(
            f"The floor: {report.floor_groups} groups of rows with identical inputs differ by "
            f"±{report.floor_median:.1%} in the median and ±{report.floor_worst:.0%} at worst.\n"
        )
    parts.append(
        f"Answered {report.answered} of {report.asked} scored figures; runs that ran and were "
        f"said not to fit in memory: {report.said_impossible}.\n"
    )
    return "\n".join(parts)


def _table(title: str, groups: Sequence[Errors]) -> str:
    if not groups:
        return ""
    lines = [
        f"| {title} | rows | MAPE | median | P90 | bias | within 80 % interval | rank |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in groups:
        rank = "" if row.rank is None else f"{row.rank:.2f}"
        lines.append(
            f"| {row.group} | {row.rows} | {row.mape:.1%} | {row.median:.1%} | {row.p90:.1%} "
            f"| {row.bias:+.1%} | {row.coverage:.0%} | {rank} |"
        )
    return "\n".join(lines) + "\n"


LIMITS = """
## What is not modelled

- Convergence: time to a given loss is not predicted, only time of a step.
- The release of a container matters more than any input: rows with identical inputs differ by up
  to a third. Only the date is known to the model, and through it kernels, overlap and CUDA graphs.
- Experts are balanced up to one constant; a run with badly balanced experts is slower.
- Networks are those the chip usually comes with; a row does not tell another.
- Power is the mean of parts at assumed shares of full load; no published run fits it.
"""


if __name__ == "__main__":
    sys.exit(main())
