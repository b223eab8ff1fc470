"""A worker: how a model is laid over chips, in which precision, and what memory it takes. B."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Layers, Model

Number = Any
"""A float, or an array of floats that broadcasts with the others."""

WEIGHT_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625, "int8": 1.0, "int4": 0.5625}
"""Of one weight; NVFP4 carries a scale of 8 bits for every 16 weights."""
MXFP4_BYTES = 0.53125
"""A scale of 8 bits for every 32."""
CACHE_BYTES = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5625}
ACTIVATION_BYTES = 2.0
STATE_BYTES = 4.0
"""Recurrent states are kept in float32."""
USABLE_MEMORY = 0.92
"""Share of the memory that engines take: vLLM's default is 0.92, TensorRT-LLM's benchmark 0.95."""
RESERVE_BYTES = 2e9
"""Context, graphs and buffers of a collective library."""


class ImpossibleLayout(ValueError):
    """Widths that do not multiply up, or a precision that nobody has."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One worker: how a model is laid over its chips, in which precision, by which engine."""

    tp: int = 1
    """Chips that share each attention head's layer."""
    pp: int = 1
    dp_attention: int = 1
    """Groups of `tp` chips that hold the requests of their own; experts are common to all."""
    ep: int = 1
    """Ranks over which experts are dealt out, of the tp x dp_attention of a stage."""
    moe_tp: int | None = None
    """Chips that share one expert; None: the rest, tp x dp_attention / ep."""
    precision: str = "fp8"
    kv_precision: str | None = None
    """None: fp8 beside weights of 8 bits or fewer, else bf16."""
    engine: str = "vllm"
    """`vllm`, `sglang`, `trtllm`, or one of its versions in `data/serving.csv`."""
    chunk_tokens: int = 8192
    """Prompt tokens that one step takes at most."""
    max_batch: int = 1024
    """Sequences of one attention group at most."""
    prefix_hit: float = 0.0
    """Share of prompt tokens found in the cache."""
    speculative_tokens: int = 0
    acceptance: float = 0.85
    """Chance that a drafted token stands, given that those before it do (DeepSeek-V3: 85-90 %)."""

    def __post_init__(self) -> None:
        for field, known in (("precision", WEIGHT_BYTES), ("kv_precision", CACHE_BYTES)):
            value = getattr(self, field)
            if value is not None and value not in known:
                names = ", ".join(known)
                raise ImpossibleLayout(f"{field} = {value!r} is not known; known: {names}")
        if self.stage_chips % self.ep or self.ep * self.tensor_experts != self.stage_chips:
            raise ImpossibleLayout(
                f"ep {self.ep} x moe_tp {self.tensor_experts} is not the {self.stage_chips} chips "
                f"of tp {self.tp} x dp_attention {self.dp_attention}"
            )

    @property
    def stage_chips(self) -> int:
        """Chips of one pipeline stage."""
        return self.tp * self.dp_attention

    @property
    def chips(self) -> int:
        """Chips of one worker."""
        return self.stage_chips * self.pp

    @property
    def tensor_experts(self) -> int:
        """`moe_tp`, or what is left for it."""
        return self.moe_tp or max(1, self.stage_chips // self.ep)

    @property
    def cache_precision(self) -> str:
        """`kv_precision`, or what goes with the weights."""
        return self.kv_precision or ("bf16" if self.precision == "bf16" else "fp8")

    @property
    def tokens_per_step(self) -> float:
        """Tokens that one decode step yields of one sequence."""
        return sum(self.acceptance**drafted for drafted in range(self.speculative_tokens + 1))


@dataclass(frozen=True)
class Memory:
    """Of the fullest chip of a worker."""

    weight_bytes: float
    cache_bytes_per_token: tuple[tuple[float, float], ...]
    """(window, bytes that one token within it takes on one chip) of layers alike."""
    state_bytes_per_sequence: float
    free_bytes: float
    """For the cache."""

    @property
    def fits(self) -> bool:
        """Weights leave room for a cache."""
        return self.free_bytes > 0

    def sequences(self, context: Number) -> Number:
        """Sequences of this many tokens that one attention group holds."""
        each = self.state_bytes_per_sequence + sum(
            item * np.minimum(context, window) for window, item in self.cache_bytes_per_token
        )
        return max(self.free_bytes, 0.0) / np.maximum(each, 1.0)


def describe(deployment: Deployment) -> str:
    """The layout of a worker in few words: `tp4 dp2 ep8`."""
    words = [f"tp{deployment.tp}"]
    words += [f"dp{deployment.dp_attention}"] if deployment.dp_attention > 1 else []
    words += [f"ep{deployment.ep}"] if deployment.ep > 1 else []
    words += [f"pp{deployment.pp}"] if deployment.pp > 1 else []
    return " ".join(words)


def weight_precision(model: Model, deployment: Deployment, part: str) -> str:
    """Precision of `experts`, `mixer`, `dense` or `vocabulary` under a deployment's name for all.

    Four-bit checkpoints leave the attention of latent caches in bf16, and all but the experts of
    models that are published so; none quantises the vocabulary.
    """
    precision = deployment.precision
    if part == "vocabulary":
        return "bf16"
    if part == "experts" or precision not in ("fp4", "int4"):
        return precision
    if model.expert_dtype in ("mxfp4", "nvfp4", "int4") and model.weight_dtype == "bfloat16":
        return "bf16"
    latent = any(run.mixer.latent for run in model.blocks)
    return "bf16" if part == "mixer" and latent else precision


def weight_bytes(model: Model, deployment: Deployment, part: str) -> float:
    """Of one element of this part."""
    precision = weight_precision(model, deployment, part)
    if precision == "fp4" and part == "experts" and model.expert_dtype == "mxfp4":
        return MXFP4_BYTES
    return WEIGHT_BYTES[precision]


def memory(model: Model, chip: Chip, deployment: Deployment, tokens: Number = 0.0) -> Memory:
    """What weights take of a chip and what they leave; `tokens` of a step need activations."""
    stage = 1 / deployment.pp
    weights = state = 0.0
    cache: dict[float, float] = {}
    item = CACHE_BYTES[deployment.cache_precision]
    for run in model.blocks:
        mixer, feed = run.mixer, run.feed_forward
        routed = feed.experts * feed.expert_parameters
        weights += run.count * (
            mixer.parameters / deployment.tp * weight_bytes(model, deployment, "mixer")
            + (feed.parameters - routed) / deployment.tp * weight_bytes(model, deployment, "dense")
            + routed
            / (deployment.ep * deployment.tensor_experts)
            * weight_bytes(model, deployment, "experts")
        )
        each = run.count * stage * _cache_elements(run, deployment) * item
        window = mixer.window or np.inf
        cache[window] = cache.get(window, 0.0) + each
        state += run.count * mixer.state_elements / deployment.tp * STATE_BYTES
    weights *= stage
    vocabulary = model.vocabulary * model.hidden * (1 if model.tied else 2)
    weights += vocabulary * weight_bytes(model, deployment, "vocabulary") / deployment.tp * stage
    activations = float(np.max(tokens)) * model.hidden * ACTIVATION_BYTES * 8
    free = chip.memory_bytes * USABLE_MEMORY - weights - RESERVE_BYTES - activations
    return Memory(weights, tuple(sorted(cache.items())), state * stage, free)


def _cache_elements(run: Layers, deployment: Deployment) -> float:
    """That one token leaves on one chip: heads are split, a latent is kept whole."""
    mixer = run.mixer
    if mixer.kind != "attention":
        return float(mixer.cache_elements)
    return mixer.cache_elements / min(deployment.tp, mixer.kv_heads)
