"""A row of a table of training runs as a question to the model, and the answer as its metric.

Only what was set is read (`INPUTS`), never what was measured. What a row leaves open is chosen
as a competent user would choose it, and said.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gigafactory.stack import chips, models, training
from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Model
from gigafactory.stack.training import Job, Layout, Step, search

INPUTS = (
    *("id", "model", "model_key", "total_params", "active_params", "layers", "hidden", "ffn"),
    *("heads", "kv_heads", "experts", "topk", "vocab", "seq_len", "global_batch_tokens", "gpu"),
    *("n_gpus", "precision", "tp", "pp", "cp", "ep", "dp", "vpp", "microbatch", "recompute"),
    *("zero_stage", "task", "year", "release", "measured_metric"),
)
PACKED_EXAMPLE_TOKENS = 512
"""Instruction examples are short: SQuAD, with which NeMo times finetuning, has a few hundred."""
PLAIN = {"offload_optimizer": 0, "offload_activations": 0, "zero": 1, "context": 1}
"""What a layout that nobody tells most likely has."""
METRICS = ("tokens_per_s_per_gpu", "tflops_per_gpu", "step_time_s")
EIGHT_BIT_SINCE = 2024
INTERLEAVED_SINCE = 2024
IDLE_MOST = 0.25
CAUSAL_COUNT_SINCE = 2025
"""From then on published TFLOP/s count attention as the causal half; before, as the square."""


class Unanswerable(ValueError):
    """The row cannot be predicted; the message says why."""


@dataclass(frozen=True)
class Question:
    """One training run: what, on what, how."""

    job: Job
    chip: Chip
    chips: int
    layout: Layout
    chosen: tuple[str, ...]
    """Words on what the row left open."""


def question(row: Mapping[str, str]) -> Question:
    """The run that a row describes. Raises `Unanswerable`, naming what is missing."""
    chosen: list[str] = []
    year = _year(row)
    model = _model(row)
    chip = _chip(row)
    count = _needed(row, "n_gpus")
    precision = _precision(row, chip, year, chosen)
    if training.PRECISIONS[precision] not in chip.flop_per_s:
        raise Unanswerable(f"{chip.name} has no known rate in {precision}")
    sequence = _whole(row, "seq_len")
    if sequence is None:
        sequence = 8192 if year >= 2024 else 2048
        chosen.append(f"sequences of {sequence}")
    task = row.get("task") or "pretrain"
    if task not in training.TASKS:
        raise Unanswerable(f"task {task!r} is not modelled; known: {', '.join(training.TASKS)}")

    split = {name: _whole(row, name) for name in ("tp", "pp", "cp", "ep", "dp", "vpp")}
    if split["tp"] is None or split["pp"] is None:
        return _searched(row, model, chip, count, precision, sequence, task, year, chosen)
    context = split["cp"] or 1
    used = split["tp"] * split["pp"] * context
    data = split["dp"] or count / used
    if data < 1 or count % used:
        raise Unanswerable(f"{count} chips do not divide by tp*pp*cp = {used}")
    expert = split["ep"] or 1
    if model.experts and split["ep"] is None:
        expert = _experts_apart(model, count // split["pp"])
        chosen.append(f"expert parallelism of {expert}")
    zero = _zero(row, chosen)
    microbatch = _whole(row, "microbatch")
    batch_tokens = _whole(row, "global_batch_tokens")
    if batch_tokens is None:
        at_once = (microbatch or 1) * (2 * split["pp"] if split["pp"] > 1 else 1)
        batch_tokens = int(data * at_once * sequence)
        chosen.append(f"{batch_tokens // sequence} sequences a step")
    batch = max(round(batch_tokens / sequence), 1)
    examples = None
    if task != "pretrain" and row.get("seq_len"):
        examples = min(PACKED_EXAMPLE_TOKENS, sequence)
        chosen.append(f"examples of {examples} tokens, packed")
    job = Job(model, sequence, batch, precision, task, year=year, example_tokens=examples)
    layout = Layout(
        data=data,
        tensor=split["tp"],
        pipeline=split["pp"],
        context=context,
        expert=min(expert, max(model.experts, 1)),
        virtual=split["vpp"] or 1,
        microbatch=microbatch or 1,
        zero=zero,
        sequence_parallel=split["tp"] > 1 and year >= 2022,
    )
    if not split["vpp"] and (chunks := _chunks(job, layout)) > 1:
        layout = replace(layout, virtual=chunks)
        chosen.append(f"{chunks} chunks a stage")
    return Question(job, chip, count, *_fill(row, job, chip, layout, microbatch, chosen))


def answer(question: Question, metric: str, step: Step) -> float:
    """The step's figure under the name of a metric."""
    job, chips_used = question.job, question.chips
    seconds = float(step.step_s)
    if metric == "step_time_s":
        return seconds
    tokens_per_s = job.batch * job.sequence / seconds / chips_used
    if metric == "tokens_per_s_per_gpu":
        return tokens_per_s
    if metric == "tflops_per_gpu":
        return tokens_per_s * counted_flops_per_token(question) / 1e12
    raise Unanswerable(f"{metric} is not predicted; predicted: {', '.join(METRICS)}")


def counted_flops_per_token(question: Question) -> float:
    """FLOPs of a token as publications of the time count them.

    Until 2021 Megatron counted the recomputed forward pass as well (arXiv:2104.04473, eq. 3).
    """
    job = question.job
    causal = 0.5 if job.year >= CAUSAL_COUNT_SINCE else 1.0
    flops = training.flops_per_token(job, causal)
    full = question.layout.recompute == training.FULL
    return flops * 4 / 3 if full and job.year < 2022 else flops


def _searched(
    row: Mapping[str, str],
    model: Model,
    chip: Chip,
    count: int,
    precision: str,
    sequence: int,
    task: str,
    year: float,
    chosen: list[str],
) -> Question:
    """The run in the fastest layout that fits, for a row that gives none."""
    tokens = _whole(row, "global_batch_tokens")
    batch = max(round(tokens / sequence), 1) if tokens else count
    if not tokens:
        chosen.append(f"{batch} sequences a step")
    job = Job(model, sequence, batch, precision, task, year=year)
    try:
        layout = search.best(job, chip, count, fixed=PLAIN).layout
    except search.NothingFits as error:
        raise Unanswerable(str(error)) from None
    chosen.append(f"layout by search: {search.describe(layout)}")
    return Question(job, chip, count, layout, tuple(chosen))


def _fill(
    row: Mapping[str, str],
    job: Job,
    chip: Chip,
    layout: Layout,
    microbatch: int | None,
    chosen: list[str],
) -> tuple[Layout, tuple[str, ...]]:
    """Micro-batch and recomputation where the row leaves them open: the fastest that fits."""
    recompute = _recompute(row)
    share = job.batch / layout.data
    sizes = [microbatch] if microbatch else [n for n in (1, 2, 4, 8, 16) if n <= max(share, 1)]
    modes = range(len(training.RECOMPUTE)) if recompute is None else [recompute]
    best, best_key = layout, None
    for size in sizes:
        for mode in modes:
            tried = replace(layout, microbatch=size, recompute=mode)
            step = training.step(job, chip, tried)
            over = max(float(step.memory_bytes) / training.usable_bytes(chip) - 1, 0.0)
            key = (over, float(step.step_s))
            if best_key is None or key < best_key:
                best, best_key = tried, key
    if microbatch is None:
        chosen.append(f"micro-batch of {best.microbatch}")
    if recompute is None:
        chosen.append(f"recompute {training.RECOMPUTE[best.recompute]}")
    return best, tuple(chosen)


def _model(row: Mapping[str, str]) -> Model:
    """The row's own architecture, else its `model_key`, else its name."""
    shape = {
        name: _whole(row, name, least=0)
        for name in ("layers", "hidden", "ffn", "heads", "kv_heads", "experts", "topk", "vocab")
    }
    key = row.get("model_key") or ""
    try:
        known = models.read(key)
    except models.UnknownModel:
        known = None
    if known and all(
        shape[name] in (None, getattr(known, name)) for name in ("layers", "hidden", "heads")
    ):
        return known
    if shape["layers"] and shape["hidden"]:
        return _of_columns(key or row.get("model") or "unnamed", shape, known)
    name = row.get("model") or ""
    try:
        return models.read(re.sub(r"[\s_]+", "-", name.lower().split("/")[-1]))
    except models.UnknownModel:
        raise Unanswerable(f"no architecture is known of {key or name!r}") from None


def _of_columns(name: str, shape: Mapping[str, int | None], like: Model | None) -> Model:
    """The architecture that a row gives; what it leaves blank is as in `like`, or as in GPT-3."""
    layers, hidden = shape["layers"] or 0, shape["hidden"] or 0
    wide = hidden == like.hidden if like else False
    ffn = shape["ffn"] or 4 * hidden
    return models.of_shape(
        name,
        layers=layers,
        hidden=hidden,
        ffn=ffn,
        heads=shape["heads"] or (like.heads if like and wide else max(hidden // 128, 1)),
        kv_heads=shape["kv_heads"],
        vocabulary=shape["vocab"] or (like.vocabulary if like else 51200),
        experts=shape["experts"] or 0,
        experts_per_token=shape["topk"] or 0,
        gated=ffn != 4 * hidden,
        tied=like.tied if like else True,
    )


def _chip(row: Mapping[str, str]) -> Chip:
    try:
        return chips.chip(row.get("gpu") or "")
    except chips.UnknownChip as error:
        raise Unanswerable(str(error)) from None


def _precision(row: Mapping[str, str], chip: Chip, year: float, chosen: list[str]) -> str:
    name = (row.get("precision") or "").upper().replace("-CS", "").replace("FP8-MX", "MXFP8")
    if not name:
        eight = year >= EIGHT_BIT_SINCE and "float8" in chip.flop_per_s
        chosen.append("FP8" if eight else "BF16")
        return chosen[-1]
    if name not in training.PRECISIONS:
        raise Unanswerable(
            f"precision {name} is not known; known: {', '.join(training.PRECISIONS)}"
        )
    return name


def _year(row: Mapping[str, str]) -> float:
    """The software's date: its release where that is a year and month (`26.06`), else the year."""
    release = re.fullmatch(r"(2\d)\.(\d\d)(\.\d+)?", row.get("release") or "")
    if release:
        return 2000 + int(release[1]) + (int(release[2]) - 0.5) / 12
    return (_whole(row, "year") or 2026) + 0.5


def _chunks(job: Job, layout: Layout) -> int:
    """Interleaving where a row does not tell it.

    Tables of finetuning never do, and their recipes are those of pretraining: as fine as layers
    allow, up to ten. Since interleaving is usual (2024), a pipeline that would idle for a quarter
    of its work has as few chunks as bring it below that: more cost memory and traffic.
    """
    if layout.pipeline == 1:
        return 1
    each = max(round(job.model.layers / layout.pipeline), 1)
    counts = [n for n in range(1, 11) if each % n == 0]
    if job.task != "pretrain":
        return counts[-1]
    if job.year < INTERLEAVED_SINCE or layout.zero >= 3:
        return 1
    idle = (layout.pipeline - 1) * layout.data * layout.microbatch / job.batch
    return next((n for n in counts if idle / n <= IDLE_MOST), counts[-1])


def _experts_apart(model: Model, ranks: int) -> int:
    """As many ranks as experts divide over, at most 8 (one node)."""
    return max(n for n in (1, 2, 4, 8) if model.experts % n == 0 and ranks % n == 0)


def _recompute(row: Mapping[str, str]) -> int | None:
    said = (row.get("recompute") or "").lower()
    if said.startswith("selective") and "moe" in said.split():
        return training.FEED_FORWARD
    for index, name in enumerate(training.RECOMPUTE):
        if said.startswith(name):
            return index
    return None


def _zero(row: Mapping[str, str], chosen: list[str]) -> int:
    said = re.match(r"\d", row.get("zero_stage") or "")
    if said:
        return int(said.group())
    chosen.append("ZeRO 1")  # Never slower than none, and smaller.
    return 1


def _whole(row: Mapping[str, str], field: str, least: int = 1) -> int | None:
    """The number in a cell; None where it is blank. Raises `Unanswerable` for anything else."""
    text = (row.get(field) or "").strip().replace(",", "")
    if not text:
        return None
    if not re.fullmatch(r"\d{1,18}(\.\d*)?(e\+?\d)?", text) or float(text) < least:
        raise Unanswerable(f"{field} = {text!r} is not a number of at least {least}")
    return int(float(text))


def _needed(row: Mapping[str, str], field: str) -> int:
    value = _whole(row, field)
    if not value:
        raise Unanswerable(f"{field} is missing")
    return value
