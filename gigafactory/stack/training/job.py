"""What is trained and how it lies on its chips: the question that a step answers.

A job's year says what the software of its time could do: which kernels keep scores on the chip,
which traffic is hidden, what runs without its host.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from gigafactory.stack.models import Model

Number = Any
"""A float, or an array of floats that broadcasts with the others."""

RECOMPUTE = ("none", "selective", "feed-forward", "full")
"""Selective: attention where its scores are written, else norms and activations."""
NONE, SELECTIVE, FEED_FORWARD, FULL = range(4)
TASKS = ("pretrain", "sft", "lora")
PRECISIONS = {
    "FP32": "float32",
    "BF16": "bfloat16",
    "FP16": "bfloat16",  # the same rate on every chip of the catalog
    "FP8": "float8",
    "MXFP8": "float8",
    "NVFP4": "float4",
}
"""Precision of training -> dtype of its large matrix products."""


@dataclass(frozen=True)
class Job:
    """What is trained: sequences of `sequence` tokens, `batch` of them in a step.

    A fraction of a sequence is meant where a job of ours counts its step in tokens.
    """

    model: Model
    sequence: int
    batch: float
    precision: str = "BF16"
    task: str = "pretrain"
    lora_rank: int = 16
    year: float = 2026.5
    """Of the software, with its month as a fraction: what its kernels can do."""
    example_tokens: int | None = None
    """Mean length of the examples packed into a sequence; None: one fills it."""

    @property
    def dtype(self) -> str:
        """Of its large matrix products."""
        return PRECISIONS[self.precision]

    @property
    def low(self) -> bool:
        """Products in 8 or 4 bit, to which their inputs are cast."""
        return self.dtype in ("float8", "float4")

    @property
    def frozen(self) -> bool:
        """Only adapters are trained."""
        return self.task == "lora"

    @property
    def flash(self) -> bool:
        """Attention keeps its scores on the chip (FlashAttention was everywhere by 2023)."""
        return self.year >= 2023

    @property
    def overlaps(self) -> bool:
        """Gradients are reduced during the backward pass, not after the last one."""
        return self.year >= 2022

    @property
    def fused(self) -> bool:
        """Tensor-parallel traffic is hidden, weights are gathered in 8 bit, gradients kept in 16.

        Megatron's and NeMo's overlap of user buffers, and their distributed optimizer, of 2024.
        """
        return self.year >= 2024

    @property
    def compiled(self) -> bool:
        """PyTorch's own (FSDP) stack fuses norms and activations; before, one kernel for each."""
        return self.year >= 2024

    @property
    def dispatched(self) -> bool:
        """Dispatchers such as DeepEP send a token to each rank once."""
        return self.year >= 2025

    @property
    def graphs(self) -> bool:
        """Megatron runs layers of experts as CUDA graphs, without their host (spring of 2026)."""
        return self.year >= 2026.4

    @property
    def attended(self) -> int:
        """Tokens among which attention is computed."""
        return min(self.example_tokens or self.sequence, self.sequence)


@dataclass(frozen=True)
class Layout:
    """How a step lies on its chips; each field a number or an array.

    Chips used: tensor * pipeline * context * data. Experts lie within data * context * tensor.
    """

    data: Number = 1
    tensor: Number = 1
    pipeline: Number = 1
    context: Number = 1
    expert: Number = 1
    virtual: Number = 1
    """Chunks of layers on each pipeline stage (interleaving)."""
    microbatch: Number = 1
    """Sequences at once."""
    recompute: Number = 0
    """Index into `RECOMPUTE`."""
    zero: Number = 1
    """0 nothing, 1 optimizer, 2 gradients too, 3 weights too are sharded over data."""
    sequence_parallel: Number = True
    tensor_overlap: Number = True
    data_overlap: Number = True
    offload_optimizer: Number = False
    offload_activations: Number = False


class BadLayout(ValueError):
    """A layout that does not divide: which field, its value, why, and values that would do."""

    def __init__(self, field: str, value: Any, why: str, valid: Iterable[int]):
        self.field, self.value, self.why = field, value, why
        self.valid = sorted(valid, key=lambda good: (abs(good - value), good))[:4]
        super().__init__(f"{field} = {value}: {why}")


def check(job: Job, chips: int, layout: Layout) -> None:
    """Raise `BadLayout` where the numbers of a layout do not divide `job` or `chips`."""
    heads = max(layers.mixer.heads for layers in job.model.blocks)
    per_stage = -(-job.model.layers // layout.pipeline) if layout.pipeline else 0
    used = layout.tensor * layout.pipeline * layout.context
    rest = layout.tensor * layout.context * layout.data
    share = layout.data * layout.microbatch
    rules = (
        ("tp", layout.tensor, heads, f"{heads} attention heads"),
        ("cp", layout.context, job.sequence, f"{job.sequence} tokens of a sequence"),
        ("vpp", layout.virtual, per_stage, f"{per_stage} layers of a stage"),
        ("ep", layout.expert, max(job.model.experts, 1), f"{job.model.experts} experts"),
        ("ep", layout.expert, rest, f"the {rest} ranks of a stage"),
        ("mb", layout.microbatch, job.batch, f"{job.batch} sequences of a step"),
    )
    if not 1 <= layout.pipeline <= job.model.layers:
        why = f"the model has {job.model.layers} layers"
        raise BadLayout("pp", layout.pipeline, why, divisors(job.model.layers))
    for field, value, whole, of in rules:
        if value < 1 or whole % value:
            raise BadLayout(field, value, f"does not divide {of}", divisors(int(whole)))
    if used * layout.data != chips:
        why = f"tp*pp*cp*dp is {used * layout.data}, not the {chips} chips"
        raise BadLayout("dp", layout.data, why, [chips // used] if chips % used == 0 else [])
    if job.batch % share:
        why = f"dp*mb = {share} does not divide {job.batch} sequences of a step"
        raise BadLayout("dp", layout.data, why, divisors(int(job.batch // layout.microbatch)))
    if layout.zero not in range(4):
        raise BadLayout("zero", layout.zero, "ZeRO has stages 0 to 3", range(4))


@cache
def divisors(number: int) -> list[int]:
    """Of a whole number, in order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})
