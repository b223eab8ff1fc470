"""Tables of published runs as questions, and a line of prediction for each metric they name.

In: rows with the columns of published training or serving tables; only what was set is read,
never what was measured. Out: lines `id,metric,predicted,low,high,fits,reason`, each row's own
in the row's units. A row that cannot be predicted says why; none is dropped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gigafactory.stack import chips, models, serving, training
from gigafactory.stack.training import rows

Suite = Literal["training", "serving"]
COLUMNS = ("id", "metric", "predicted", "low", "high", "fits", "reason")


@dataclass(frozen=True)
class Line:
    """A prediction with its 80 % interval; None where there is none, and why."""

    id: str
    metric: str
    predicted: float | None
    low: float | None
    high: float | None
    fits: bool | None
    """Whether it fits in memory; None where not even that can be told."""
    reason: str

    def cells(self) -> list[str]:
        """As `COLUMNS` of a CSV file."""
        numbers = [
            "" if number is None else f"{number:.6g}"
            for number in (self.predicted, self.low, self.high)
        ]
        fits = "" if self.fits is None else str(self.fits).lower()
        return [self.id, self.metric, *numbers, fits, self.reason]


class MissingColumns(ValueError):
    """The table is not one of these; `missing` are the columns it lacks."""

    def __init__(self, missing: Sequence[str]):
        self.missing = list(missing)
        super().__init__(f"columns are missing: {', '.join(missing)}")


def predict(
    suite: Suite, table: Sequence[Mapping[str, str]], done: Callable[[int], None] = lambda _: None
) -> list[Line]:
    """Predict all rows; `done` hears how many, as they are. Raises `MissingColumns`."""
    lengths = "seq_len" if suite == "training" else "isl"
    needed = ("id", "gpu", "n_gpus", "measured_metric", lengths)
    missing = [name for name in needed if table and name not in table[0]]
    if missing:
        raise MissingColumns(missing)
    answer = _training if suite == "training" else _serving
    known = rows.INPUTS if suite == "training" else serving.INPUTS
    lines: list[Line] = []
    for number, row in enumerate(table, 1):
        asked = {name: row.get(name) or "" for name in known}
        try:
            lines += answer(asked)
        except (ArithmeticError, LookupError, ValueError) as error:
            # One odd cell must not lose a table of thousands.
            why = f"cannot be modelled: {error or type(error).__name__}"
            lines += _without(asked["id"], asked["measured_metric"].split("+"), None, why)
        done(number)
    return lines


def _training(row: Mapping[str, str]) -> Iterator[Line]:
    metrics = row["measured_metric"].split("+")
    try:
        asked = rows.question(row)
    except rows.Unanswerable as error:
        yield from _without(row["id"], metrics, None, str(error))
        return
    step = training.step(asked.job, asked.chip, asked.layout)
    fits = bool(step.fits(asked.chip))
    notes = [f"chosen: {', '.join(asked.chosen)}"] if asked.chosen else []
    if not fits:
        has, needs = training.usable_bytes(asked.chip) / 1e9, float(step.memory_bytes) / 1e9
        notes.insert(0, f"needs {needs:.0f} GB of {has:.0f} GB")
    low, high = training.interval(asked.job, asked.chip)
    for metric in metrics:
        try:
            value = rows.answer(asked, metric, step)
        except rows.Unanswerable as error:
            yield from _without(row["id"], [metric], fits, str(error))
            continue
        yield Line(row["id"], metric, value, value * low, value * high, fits, "; ".join(notes))


def _serving(row: Mapping[str, str]) -> Iterator[Line]:
    metrics = row["measured_metric"].split("+")
    try:
        asked = serving.from_row(row)
    except (serving.UnreadableRow, models.UnknownModel, chips.UnknownChip) as error:
        yield from _without(row["id"], metrics, None, str(error))
        return
    served = serving.predict(asked)
    fits = bool(served.fits)
    notes = [f"chosen: {', '.join(asked.chosen)}"] if asked.chosen else []
    if not fits:
        notes.insert(0, served.reason)
    for metric in metrics:
        try:
            kind, value = _figure(metric, asked, served)
        except KeyError:
            known = "ttft_ms, tpot_ms, output_tokens_per_s_total and _per_node"
            why = f"{metric} is not predicted; predicted: {known}"
            yield from _without(row["id"], [metric], fits, why)
            continue
        low, high = serving.interval(asked, kind)
        yield Line(row["id"], metric, value, value * low, value * high, fits, "; ".join(notes))


def _figure(metric: str, asked: serving.Request, served: serving.Serving) -> tuple[str, float]:
    """What an interval is kept for, and the figure in the unit of the metric's name."""
    per_node = asked.chip.fabric_chips / served.chips
    kind, value = {
        "ttft_ms": ("ttft", served.ttft_s * 1e3),
        "tpot_ms": ("tpot", served.tpot_s * 1e3),
        "output_tokens_per_s_total": ("throughput", served.output_tokens_per_s),
        "output_tokens_per_s_per_node": ("throughput", served.output_tokens_per_s * per_node),
        "input_tokens_per_s_per_node": (
            "throughput",
            served.requests_per_s * asked.load.prompt_tokens * per_node,
        ),
    }[metric]
    return kind, float(value)


def _without(row_id: str, metrics: Sequence[str], fits: bool | None, why: str) -> Iterator[Line]:
    for metric in metrics:
        yield Line(row_id, metric, None, None, None, fits, why)
