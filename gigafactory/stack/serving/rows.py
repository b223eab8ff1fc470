"""A row of a table of published measurements -> what it asks of the model.

Reads inputs only: what names the model, chip, engine, precision, layout and load of a test, never
an answer, a note or a source. Blanks are filled as a competent user would, and said.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gigafactory.stack import chips, models
from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Model
from gigafactory.stack.serving.deployment import Deployment, memory
from gigafactory.stack.serving.load import (
    Load,
    Serving,
    prompt_rate,
    serve,
    serve_disaggregated,
)
from gigafactory.stack.serving.steps import decode_step

INPUTS = (
    "id",
    "model",
    "model_key",
    "gpu",
    "n_gpus",
    "engine",
    "engine_version",
    "precision",
    "isl",
    "osl",
    "concurrency",
    "batch",
    "tp",
    "pp",
    "ep",
    "dp_attention",
    "moe_tp",
    "disaggregated",
    "prefill_workers",
    "prefill_gpus_per_worker",
    "prefill_tp",
    "prefill_ep",
    "prefill_dp",
    "prefill_batch",
    "decode_workers",
    "decode_gpus_per_worker",
    "decode_tp",
    "decode_ep",
    "decode_dp",
    "decode_batch",
    "scenario",
    "year",
    "measured_metric",
)
"""Columns that may be read: what was set, never what was measured."""
PRECISIONS = {
    "bf16": "bf16",
    "fp16": "bf16",
    "float16": "bf16",
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "w8a8": "fp8",
    "int8": "int8",
    "int4": "int4",
    "int8_wo": "int8",
    "w8a16": "int8",
    "mxfp8": "fp8",
    "float8": "fp8",
    "w4a16": "int4",
    "int4_wo": "int4",
    "awq": "int4",
    "w4a8": "fp4",
    "w4a8_mxfp4_fp8": "fp4",
    "float4": "fp4",
    "fp4": "fp4",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
}
# Mean lengths of the datasets of MLPerf Inference, for rows that do not give them.
# Source: mlcommons/inference, language/*/README.md; recalled where that gives none.
DATASET_TOKENS = {
    "llama2-70b": (294, 294),
    "llama3.1-8b": (778, 128),
    "llama3.1-405b": (9428, 684),
    "mixtral-8x7b": (190, 145),
    "deepseek-v3": (800, 3880),
}
# Chips whose GPU is that of another.
ALIKE = {"GH200 144GB": "H200"}
# Drafted tokens of models that are served with their own draft layer where prefill is apart.
DRAFTS = {"deepseek-v3": 1}
# For pace: so many decode workers, of so many sequences each at most, on so few prefill workers.
FEW_WORKERS, CROWD, FEW_PREFILL = 4, 192.0, 3.0
# Beyond this mean time to first token, another prefill worker is set up.
PATIENCE_S = 6.0
# Offline tests run until memory is full: benchmark drivers admit this many sequences at most.
OFFLINE_BATCH = 2048
# The engine whose plans are compiled ahead.
COMPILED = "trtllm-0"


class UnreadableRow(ValueError):
    """A row that does not say what is needed, or says what is not known."""

    def __init__(self, column: str, value: str, known: str):
        self.column, self.value = column, value
        super().__init__(f"{column} = {value!r} is not known; known: {known}")


@dataclass(frozen=True)
class Request:
    """What a row asks: one kind of worker, or one for prefill and one for decode."""

    model: Model
    chip: Chip
    load: Load
    deployment: Deployment
    workers: int
    prefill: Deployment | None
    """Set where prefill has workers of its own; `deployment` then decodes."""
    prefill_workers: int
    chosen: tuple[str, ...]
    """What the row left open and what was taken, in words."""

    @property
    def kind(self) -> str:
        """`agg`, `disagg` or `offline`, as intervals are kept."""
        if self.prefill is not None:
            return "disagg"
        return "offline" if self.load.concurrency is None else "agg"


def from_row(row: Mapping[str, str]) -> Request:
    """The request of a row of `serving.csv`.

    Raises `UnreadableRow`, `UnknownModel` or `UnknownChip`, naming what is not known.
    """
    chosen: list[str] = []
    model = models.read(row.get("model_key") or row["model"])
    chip = _chip(row["gpu"], chosen)
    precision = row.get("precision", "").lower()
    if precision not in PRECISIONS:
        raise UnreadableRow("precision", precision, ", ".join(PRECISIONS))
    engine = engine_of(row.get("engine", ""), row.get("engine_version", ""))
    if engine == COMPILED:
        model = _without_windows(model)
    load = _load(row, model, chosen)
    blank = Deployment(precision=PRECISIONS[precision], engine=engine)
    total = _count(row, "n_gpus")
    if row.get("disaggregated", "").lower() in ("yes", "true", "1"):
        return _disaggregated(row, model, chip, load, blank, total, chosen)
    if load.concurrency is None:
        blank = replace(blank, max_batch=OFFLINE_BATCH)
    if _count(row, "tp") is not None:
        deployment = _aggregated(row, blank, model, chip, load, chosen)
        if any("read as" in words for words in chosen):
            total = deployment.chips
    else:
        deployment = _fastest(model, chip, blank, load, total or 1, chosen)
    workers = max(1, (total or deployment.chips) // deployment.chips)
    return Request(model, chip, load, deployment, workers, None, 0, tuple(chosen))


def predict(request: Request) -> Serving:
    """The serving model's answer to a request."""
    if request.prefill is None:
        return serve(request.model, request.chip, request.deployment, request.load, request.workers)
    return serve_disaggregated(
        request.model,
        request.chip,
        request.prefill,
        request.prefill_workers,
        request.deployment,
        request.workers,
        request.load,
    )


def _without_windows(model: Model) -> Model:
    """The model as plans compiled ahead run it: all of the cache, unless told otherwise.

    Source: TensorRT-LLM 0.17, docs, `--max_attention_window_size`, off by default.
    """
    blocks = tuple(replace(run, mixer=replace(run.mixer, window=None)) for run in model.blocks)
    return replace(model, blocks=blocks)


def engine_of(engine: str, version: str) -> str:
    """The name of an engine's constants: versions of TensorRT-LLM have their own."""
    name = engine.lower()
    if "sglang" in name:
        return "sglang"
    if name.startswith("vllm"):
        return "vllm"
    if "tensorrt" in name or "trt" in name:
        # Up to 0.2x plans are compiled ahead and run from C++; from 1.0 on PyTorch runs them.
        if "tensorrt" in name or re.match(r"0\.[12]\d", version.removeprefix("v")):
            return COMPILED
        return "trtllm-1.0" if version.removeprefix("v").startswith("1.0") else "trtllm"
    if name in ("deepseek", ""):
        return "sglang" if name else "vllm"
    raise UnreadableRow("engine", engine, "vllm, sglang, trtllm")


def _chip(name: str, chosen: list[str]) -> Chip:
    try:
        return chips.chip(name)
    except chips.UnknownChip:
        if name not in ALIKE:
            raise
        chosen.append(f"{name} taken as {ALIKE[name]}")
        return chips.chip(ALIKE[name])


def _load(row: Mapping[str, str], model: Model, chosen: list[str]) -> Load:
    prompt, new = _number(row, "isl"), _number(row, "osl")
    if prompt is None or new is None:
        mean = DATASET_TOKENS.get(model.name)
        if mean is None:
            raise UnreadableRow("isl", row.get("isl", ""), "tokens of a prompt")
        prompt, new = prompt or mean[0], new or mean[1]
        chosen.append(f"lengths {prompt:.0f} in, {new:.0f} out: mean of the MLPerf dataset")
    concurrency = _number(row, "concurrency")
    if concurrency is None and row.get("disaggregated", "").lower() not in ("yes", "true"):
        batch = _number(row, "batch")
        concurrency = batch
        if batch is not None:
            chosen.append("concurrency: the batch")
    return Load(prompt_tokens=prompt, new_tokens=new, concurrency=concurrency)


def _aggregated(
    row: Mapping[str, str],
    blank: Deployment,
    model: Model,
    chip: Chip,
    load: Load,
    chosen: list[str],
) -> Deployment:
    tp, pp = _count(row, "tp") or 1, _count(row, "pp") or 1
    ep, groups = _count(row, "ep"), _count(row, "dp_attention")
    tensor = _count(row, "moe_tp")
    if load.concurrency is None and ep is None and groups is None and model.experts:
        return _open_experts(model, chip, replace(blank, tp=tp, pp=pp), load, chosen)
    # Some databases multiply the width by the expert ranks, which are of the same chips.
    if ep and groups and ep > 1 and tensor == ep and tp * groups == ep * ep:
        chosen.append(f"tp {tp} x dp {groups} with ep {ep} and moe_tp {ep}: read as {ep} chips")
        tp, groups, tensor = (ep, 1, 1) if groups == 1 else (1, ep, 1)
    groups, ep = groups or 1, ep or 1
    if tp * groups % ep or (tensor and ep * tensor != tp * groups):
        ep, tensor = (ep if tp * groups % ep == 0 else 1), None
        if model.experts:
            chosen.append(f"experts over all {tp * groups} chips, {ep} ways")
    return replace(blank, tp=tp, pp=pp, dp_attention=groups, ep=ep, moe_tp=tensor)


def _open_experts(
    model: Model, chip: Chip, base: Deployment, load: Load, chosen: list[str]
) -> Deployment:
    """Tensor or data parallel attention, experts dealt out or split: the fastest that fits."""
    width = base.tp
    best = None
    for groups in (1, width):
        for ep in (1, width):
            one = replace(base, tp=width // groups, dp_attention=groups, ep=ep)
            answer = serve(model, chip, one, load)
            rank = (bool(answer.fits), answer.output_tokens_per_s)
            if best is None or rank > best[0]:
                best = rank, one
    assert best is not None
    one = best[1]
    chosen.append(f"attention in {one.dp_attention} groups, ep {one.ep}: the fastest that fits")
    return one


def _fastest(
    model: Model, chip: Chip, blank: Deployment, load: Load, total: int, chosen: list[str]
) -> Deployment:
    """No layout given: copies of the width that gives most tokens."""
    best = None
    for width in (1, 2, 4, 8, 16):
        if width > total or total % width:
            continue
        for groups in {1, width} if model.experts else {1}:
            one = replace(
                blank,
                tp=width // groups,
                dp_attention=groups,
                ep=width if model.experts and groups > 1 else 1,
            )
            answer = serve(model, chip, one, load, workers=total // width)
            rank = (bool(answer.fits), answer.output_tokens_per_s)
            if best is None or rank > best[0]:
                best = rank, one
    assert best is not None
    one = best[1]
    chosen.append(
        f"{total // one.chips} x tp {one.tp}, dp {one.dp_attention}, ep {one.ep}: "
        "the fastest that fits"
    )
    return one


def _disaggregated(
    row: Mapping[str, str],
    model: Model,
    chip: Chip,
    load: Load,
    blank: Deployment,
    total: int | None,
    chosen: list[str],
) -> Request:
    deployments = {}
    for side in ("prefill", "decode"):
        width = _count(row, f"{side}_gpus_per_worker") or _count(row, f"{side}_tp") or 1
        ep, groups = _count(row, f"{side}_ep") or 1, _count(row, f"{side}_dp") or 1
        tp = _count(row, f"{side}_tp") or max(1, width // groups)
        if tp * groups != width:
            groups = groups if width % groups == 0 else 1
            tp = width // groups
        ep = ep if width % ep == 0 else 1
        deployments[side] = replace(blank, tp=tp, dp_attention=groups, ep=ep)
    prefill, decode = deployments["prefill"], deployments["decode"]
    first, second = _count(row, "prefill_workers"), _count(row, "decode_workers")
    if load.concurrency is None:
        batch = _number(row, "decode_batch")
        if batch is None:
            raise UnreadableRow("concurrency", "", "requests in flight, or decode_batch")
        load = replace(load, concurrency=batch * (second or 1))
        chosen.append("concurrency: decode batch x decode workers")
    if model.mtp and decode.engine == "trtllm" and model.name in DRAFTS:
        decode = replace(decode, speculative_tokens=DRAFTS[model.name])
        chosen.append(f"{decode.speculative_tokens} token(s) drafted by the model's own layer")
    if first is None or second is None:
        decode, first, second = _pools(model, chip, prefill, decode, load, total)
        apart = f" of {decode.dp_attention} groups" if decode.dp_attention > 1 else ""
        chosen.append(f"{first} prefill and {second} decode workers{apart}, by rule of thumb")
    return Request(model, chip, load, decode, second, prefill, first, tuple(chosen))


def _pools(
    model: Model, chip: Chip, prefill: Deployment, decode: Deployment, load: Load, total: int | None
) -> tuple[Deployment, int, int]:
    """Few clients: several decode workers on one prefill worker. Many: one, in attention groups.

    So published disaggregated deployments are sized: for pace, or for yield.
    """
    assert load.concurrency is not None
    clients, context = float(load.concurrency), float(load.prompt_tokens + load.new_tokens)
    _, rate = prompt_rate(model, chip, prefill, float(load.prompt_tokens))

    def wanted(decode: Deployment, workers: int) -> float:
        pace = float(decode_step(model, chip, decode, clients / workers, context).seconds)
        return clients / (pace / decode.tokens_per_step * float(load.new_tokens)) / rate

    crowd = min(float(memory(model, chip, decode).sequences(context)), CROWD)
    second, first = FEW_WORKERS, wanted(decode, FEW_WORKERS)
    if clients > FEW_WORKERS * crowd or decode.chips > 8 or first > FEW_PREFILL:
        second = 1
        if model.experts:
            width = decode.chips
            decode = replace(decode, tp=1, dp_attention=width, ep=width)
        first = wanted(decode, 1)
    if total:
        second = max(1, min(second, (total - prefill.chips) // decode.chips))
        return decode, max(1, (total - second * decode.chips) // prefill.chips), second
    fewest = max(1, round(first))
    for count in range(fewest, 2 * fewest + 2):
        answer = serve_disaggregated(model, chip, prefill, count, decode, second, load)
        if answer.ttft_s < PATIENCE_S:
            break
    return decode, count, second


def _count(row: Mapping[str, str], column: str) -> int | None:
    number = _number(row, column)
    return None if not number else int(number)


def _number(row: Mapping[str, str], column: str) -> float | None:
    text = row.get(column, "") or ""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise UnreadableRow(column, text, "a number") from None
