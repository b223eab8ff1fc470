"""What a job of ours takes on some chips, of whatever kind: what quotes are made from. Modelled.

Cores of one machine have a model of their own (`cores`); accelerators are asked of `training` and
`serving`, laid out as our jobs lie: sharded over all their ranks (FSDP) to train, tensor parallel
to answer. Worlds and what learns from them are `physical`. s, B, W.
"""

from dataclasses import replace
from typing import Literal

from gigafactory.stack import cores, facts, serving, training
from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Model
from gigafactory.stack.physical import (
    Takes,
    answer,
    falsify,
    imitate,
    judge_detector,
    judge_policy,
    learn_detector,
    practise,
    rollout,
    synthesize,
)
from gigafactory.stack.serving.load import BUSY_DECODE
from gigafactory.stack.takes import Generation, Scoring, TrainingStep, UnknownPrecision
from gigafactory.stack.training import Job, Layout

__all__ = [
    "Generation",
    "Scoring",
    "Takes",
    "TrainingStep",
    "UnknownPrecision",
    "answer",
    "falsify",
    "gang_start_s",
    "generate",
    "imitate",
    "judge_detector",
    "judge_policy",
    "learn_detector",
    "load_s",
    "practise",
    "rollout",
    "score",
    "synthesize",
    "time_range",
    "train",
]
NAMES = {"float32": "FP32", "bfloat16": "BF16"}
COMPUTE = ("linear_s", "attention_s", "experts_s", "elementwise_s")


def train(
    model: Model,
    chip: Chip,
    chips: int,
    sequence: int,
    batch_tokens: int,
    precision: str,
    trainable: Literal["all", "lora"] = "all",
    rank: int = 16,
    ranks: int | None = None,
) -> TrainingStep:
    """A step over `batch_tokens` in sequences of `sequence`, all parameters or LoRA of `rank`.

    `ranks` is how many processes share the work, one a chip by default; the threads of one
    process send each other nothing. Raises `UnknownPrecision`.
    """
    if chip.kind == "cpu":
        return cores.train(
            model, chip, chips, sequence, batch_tokens, precision, trainable, rank, ranks
        )
    task = "pretrain" if trainable == "all" else "lora"
    job = Job(model, sequence, 1, _precision(chip, precision), task, rank, example_tokens=sequence)
    share = batch_tokens / sequence / chips
    job = replace(job, batch=share * chips)
    layout = _sharded(job, chip, chips, share)
    step = training.step(job, chip, layout)
    exposed = ("tensor_s", "expert_s", "context_s", "pipeline_s", "data_s", "bubble_s", "offload_s")
    communication_s = sum(float(getattr(step, part)) for part in exposed)
    seconds, optimizer_s = float(step.step_s), float(step.optimizer_s)
    return TrainingStep(
        compute_s=seconds - communication_s - optimizer_s,
        communication_s=communication_s,
        optimizer_s=optimizer_s,
        microbatch_tokens=max(1, round(layout.microbatch * sequence)),
        memory_bytes_per_chip=float(step.memory_bytes),
        mfu=float(step.mfu(chip, chips)),
        power_w_per_chip=float(training.power_w(step, chip)),
    )


def score(
    model: Model,
    chip: Chip,
    chips: int,
    sequence: int,
    tokens: int,
    precision: str = "bfloat16",
    batch_tokens: int = 8192,
) -> Scoring:
    """Forward passes over `tokens` in sequences of `sequence`, `batch_tokens` at a time."""
    if chip.kind == "cpu":
        return cores.score(model, chip, chips, sequence, tokens, precision, batch_tokens)
    batch, passes = min(tokens, batch_tokens), max(tokens / batch_tokens, 1.0)
    job = Job(model, sequence, batch / sequence, _precision(chip, precision))
    at_once = batch / sequence / chips
    step = training.step(job, chip, Layout(data=chips, microbatch=at_once))
    # A forward pass is a third of a step, whose backward pass has two products for each.
    compute_s = sum(float(getattr(step, part)) for part in COMPUTE) / 3 * passes
    overhead_s = float(step.launch_s) / 3 * passes
    memory_bytes = float(step.weights_bytes) + batch * (16 * model.hidden + 6 * model.vocabulary)
    return Scoring(compute_s, overhead_s, memory_bytes / chips, float(training.power_w(step, chip)))


def generate(
    model: Model,
    chip: Chip,
    chips: int,
    prompt_tokens: int,
    new_tokens: int,
    batch: int = 1,
    precision: str = "bfloat16",
) -> Generation:
    """`batch` prompts of equal length answered together, each with `new_tokens`."""
    if chip.kind == "cpu":
        return cores.generate(model, chip, chips, prompt_tokens, new_tokens, batch, precision)
    _precision(chip, precision)
    worker = serving.Deployment(tp=chips, precision="bf16")
    # A step in the middle stands for all: the cache grows linearly.
    context = prompt_tokens + new_tokens / 2
    prefill_s = float(serving.prefill_step(model, chip, worker, batch * prompt_tokens).seconds)
    step_s = float(serving.decode_step(model, chip, worker, batch, context).seconds)
    room = serving.memory(model, chip, worker)
    longest = prompt_tokens + new_tokens
    cache_bytes = sum(item * min(longest, window) for window, item in room.cache_bytes_per_token)
    return Generation(
        prefill_s=prefill_s,
        decode_s=max(new_tokens - 1, 0) * step_s,
        step_s=step_s,
        memory_bytes_per_chip=room.weight_bytes
        + batch * (cache_bytes + room.state_bytes_per_sequence),
        power_w_per_chip=chip.idle_w + (chip.busy_w - chip.idle_w) * BUSY_DECODE,
    )


def load_s(size_bytes: float) -> float:
    """Seconds to start a process and read a model of `size_bytes` from disk into it."""
    return _host("process_start") + size_bytes / _host("read_safetensors")


def gang_start_s() -> float:
    """Seconds until all ranks of a gang run, beyond the start of one process."""
    return _host("gang_start")


def time_range(chip: Chip, precision: str) -> tuple[float, float]:
    """Factors on modelled seconds between which the true ones should lie."""
    if chip.kind == "cpu":
        return cores.time_range(chip, precision)
    width = training.constants("other")["interval_dense"]
    return 1 / width, width


def _sharded(job: Job, chip: Chip, chips: int, share: float) -> Layout:
    """FSDP over `chips`: as many sequences at once as fit, recomputing where not even one does."""
    for recompute in (training.NONE, training.FULL):
        layout = Layout(data=chips, zero=3, microbatch=1.0, recompute=recompute)
        one = training.step(job, chip, layout)
        room_bytes = chip.memory_bytes - float(one.memory_bytes - one.activations_bytes)
        at_once = room_bytes / float(one.activations_bytes)
        if at_once >= 1 or recompute == training.FULL:
            break
    return replace(layout, microbatch=max(min(at_once, share), min(1.0, share)))


def _precision(chip: Chip, dtype: str) -> str:
    if dtype not in NAMES or dtype not in chip.flop_per_s:
        raise UnknownPrecision(dtype, chip)
    return NAMES[dtype]


def _host(quantity: str) -> float:
    value = facts.by_subject("performance")["host"][quantity].value
    assert value is not None, f"the host has no {quantity}"
    return value
