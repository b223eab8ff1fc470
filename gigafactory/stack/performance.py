"""How long, how much memory, how much power: training, scoring and generating. Modelled.

A roofline with a share of the achievable rate that real kernels reach, a fixed cost for each
layer, FSDP's traffic and AdamW's. Chips of one job form one group, over which states and weights
are sharded: one rank a chip, or fewer ranks of several cores that share their memory. s, B, W,
FLOP.
Constants: `data/performance.csv`, by kind of chip. Activations: Korthikanti et al. 2022,
arXiv:2205.05198. FSDP traffic: Rajbhandari et al. 2020, arXiv:1910.02054.
"""

import math
from dataclasses import dataclass
from typing import Literal

from gigafactory.stack import facts, models
from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Model

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
# Master weight, gradient and AdamW's two moments, in float32.
STATE_BYTES = 16
# AdamW reads weight, gradient and moments, and writes all but the gradient.
UPDATE_TRAFFIC_BYTES = 28
# Bytes an activation element stands for in one layer in 16 bit, attention scores not kept.
ACTIVATION_BYTES = 34


class UnknownPrecision(LookupError):
    """The chip has no known rate in this dtype."""

    def __init__(self, precision: str, chip: Chip):
        self.precision, self.known = precision, sorted(chip.flop_per_s)
        super().__init__(
            f"{chip.name} has no rate in {precision!r}; known: {', '.join(self.known)}"
        )


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step of the whole group; its seconds are `step_s`."""

    compute_s: float
    communication_s: float
    """What no computation hides."""
    optimizer_s: float
    microbatch_tokens: int
    """Tokens a chip takes at once: its share of the batch, or less where memory is short."""
    memory_bytes_per_chip: float
    mfu: float
    """FLOPs done over those at the published bfloat16 peak (at the measured rate on a CPU)."""
    power_w_per_chip: float

    @property
    def step_s(self) -> float:
        """The sum of the terms."""
        return self.compute_s + self.communication_s + self.optimizer_s


@dataclass(frozen=True)
class Scoring:
    """The likelihood of given tokens: forward passes."""

    compute_s: float
    overhead_s: float
    memory_bytes_per_chip: float
    power_w_per_chip: float

    @property
    def total_s(self) -> float:
        """The sum of the terms."""
        return self.compute_s + self.overhead_s


@dataclass(frozen=True)
class Generation:
    """A batch of prompts answered together."""

    prefill_s: float
    """Until the first token of each."""
    decode_s: float
    """For the tokens after the first."""
    step_s: float
    """One decode step in the middle of the answer: seconds a token for each prompt."""
    memory_bytes_per_chip: float
    power_w_per_chip: float

    @property
    def total_s(self) -> float:
        """The sum of the terms."""
        return self.prefill_s + self.decode_s


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
    process send each other nothing.
    """
    ranks = ranks or chips
    learned = model.parameters if trainable == "all" else models.adapter_parameters(model, rank)
    tokens = batch_tokens / chips
    microbatch, memory_bytes = _training_memory(
        model, chip, chips, ranks, sequence, tokens, precision, learned
    )
    microbatches = math.ceil(tokens / microbatch)

    flops = models.flops_per_token(model, sequence)
    if trainable == "lora":  # The gradients of frozen weights are not computed: 4 N, not 6 N.
        flops -= 2 * model.parameters_multiplied
    rate = _rate(chip, precision, "training") * _moe_share(model, chip)
    overhead_s = 3 * microbatches * model.layers * _constant(chip.kind, "layer_overhead")
    compute_s = tokens * flops / rate + overhead_s

    # Weights are gathered forward and backward; gradients of what is learned are scattered.
    item = ITEM_BYTES[precision]
    traffic_bytes = item * (2 * microbatches * model.parameters + learned)
    exposed = _constant(chip.kind, "exposed_communication")
    communication_s = exposed * _collective_s(traffic_bytes, chip, ranks)
    optimizer_s = UPDATE_TRAFFIC_BYTES * learned / chips / chip.memory_bytes_per_s

    step_s = compute_s + communication_s + optimizer_s
    peak = chip.peak_flop_per_s or chip.flop_per_s[precision]
    return TrainingStep(
        compute_s=compute_s,
        communication_s=communication_s,
        optimizer_s=optimizer_s,
        microbatch_tokens=microbatch,
        memory_bytes_per_chip=memory_bytes,
        mfu=tokens * flops / step_s / peak,
        power_w_per_chip=_power_w(chip, step_s, overhead_s + communication_s),
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
    flops = models.forward_flops_per_token(model, sequence)
    rate = _rate(chip, precision, "forward") * _moe_share(model, chip)
    compute_s = tokens * flops / rate / chips
    passes = math.ceil(tokens / batch_tokens)
    overhead_s = passes * model.layers * _constant(chip.kind, "layer_overhead")
    item = ITEM_BYTES[precision]
    batch = min(tokens, batch_tokens)
    # Eight rows of a layer at once, and the logits, in float32 too.
    per_token_bytes = 8 * item * model.hidden + (item + 4) * model.vocabulary
    memory_bytes = item * model.parameters + batch * per_token_bytes
    power_w = _power_w(chip, compute_s + overhead_s, overhead_s)
    return Scoring(compute_s, overhead_s, memory_bytes / chips, power_w)


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
    item = ITEM_BYTES[precision]
    rate = _rate(chip, precision, "forward") * _moe_share(model, chip) * chips
    step_overhead_s = model.layers * _constant(chip.kind, "layer_overhead")
    step_overhead_s += _constant(chip.kind, "engine_overhead")

    prompt_flops = models.forward_flops_per_token(model, prompt_tokens)
    prefill_s = step_overhead_s + batch * prompt_tokens * prompt_flops / rate

    # A step in the middle stands for all: the cache grows linearly.
    context = prompt_tokens + new_tokens / 2
    cache_bytes = batch * context * models.kv_bytes_per_token(model, item)
    read_bytes = item * _parameters_read(model, batch) + cache_bytes
    # A new token sees all of its context, where training's causal half is an average.
    step_flops = batch * models.forward_flops_per_token(model, round(2 * context))
    step_s = step_overhead_s + max(read_bytes / chips / chip.memory_bytes_per_s, step_flops / rate)
    memory_bytes = item * model.parameters + cache_bytes * (1 + new_tokens / (2 * context))
    decode_s = max(new_tokens - 1, 0) * step_s
    power_w = _power_w(chip, step_s, step_overhead_s)
    return Generation(prefill_s, decode_s, step_s, memory_bytes / chips, power_w)


def load_s(size_bytes: float) -> float:
    """Seconds to start a process and read a model of `size_bytes` from disk into it."""
    return _constant("host", "process_start") + size_bytes / _constant("host", "read_safetensors")


def gang_start_s() -> float:
    """Seconds until all ranks of a gang run, beyond the start of one process."""
    return _constant("host", "gang_start")


def time_range(chip: Chip, precision: str) -> tuple[float, float]:
    """Factors on modelled seconds between which the true ones should lie.

    From the range of the training efficiency, by far the least certain of the constants.
    """
    fact = facts.by_subject("performance")[chip.kind][f"training_efficiency_{precision}"]
    assert fact.value
    assert fact.low
    assert fact.high
    return fact.value / fact.high, fact.value / fact.low


def _training_memory(
    model: Model,
    chip: Chip,
    chips: int,
    ranks: int,
    sequence: int,
    tokens: float,
    precision: str,
    learned: int,
) -> tuple[int, float]:
    """(tokens at once, bytes a chip): as many tokens as fit, at least one sequence."""
    item = ITEM_BYTES[precision]
    frozen = 0 if learned == model.parameters else model.parameters
    held_bytes = (STATE_BYTES * learned + item * frozen) / chips
    if ranks > 1:  # The layer at work and the one fetched ahead are whole.
        held_bytes += 2 * item * model.parameters / model.layers
    per_token_bytes = item / 2 * ACTIVATION_BYTES * model.layers * model.hidden
    per_token_bytes += (item + 8) * model.vocabulary  # logits, in float32 too, and their gradient
    room = (chip.memory_bytes - held_bytes) / per_token_bytes
    microbatch = max(1, round(min(tokens, max(room // sequence, 1) * sequence)))
    return microbatch, held_bytes + microbatch * per_token_bytes


def _collective_s(payload_bytes: float, chip: Chip, ranks: int) -> float:
    """Seconds to gather or scatter `payload_bytes` among `ranks`, rings over both networks.

    Beyond one fabric domain each byte that enters it crosses the network once, and every chip
    of the domain carries its share (4 nodes of 8 B200 with 50 GB/s each: 382 GB/s measured).
    """
    bandwidth = chip.fabric_bytes_per_s
    if ranks > chip.fabric_chips:
        if chip.network_bytes_per_s is None:
            return math.inf
        bandwidth = min(bandwidth, chip.network_bytes_per_s * chip.fabric_chips)
    return payload_bytes * (ranks - 1) / ranks / bandwidth


def _parameters_read(model: Model, batch: int) -> float:
    """Parameters that a decode step reads: of the experts only those that some token chose."""
    resting = model.parameters - model.parameters_active
    if resting == 0:
        return model.parameters_multiplied
    chosen = model.experts_per_token / model.experts  # of all experts, by one token
    hit = 1 - (1 - chosen) ** batch  # by at least one, if each chooses evenly
    return model.parameters_multiplied + resting * (hit - chosen) / (1 - chosen)


def _rate(chip: Chip, precision: str, use: str) -> float:
    """FLOP/s that real kernels reach, of the chip's large matrix products."""
    if precision not in chip.flop_per_s:
        raise UnknownPrecision(precision, chip)
    return chip.flop_per_s[precision] * _constant(chip.kind, f"{use}_efficiency_{precision}")


def _moe_share(model: Model, chip: Chip) -> float:
    return _constant(chip.kind, "moe_share") if model.experts else 1.0


def _power_w(chip: Chip, total_s: float, overhead_s: float) -> float:
    """Mean draw: a GPU rests in the overhead, a core is what works it off."""
    busy = 1.0 if chip.kind == "cpu" else 1 - overhead_s / total_s
    return chip.idle_w + (chip.busy_w - chip.idle_w) * busy * _constant(chip.kind, "power_load")


def _constant(kind: str, quantity: str) -> float:
    value = facts.by_subject("performance")[kind][quantity].value
    assert value is not None, f"{kind} has no {quantity}"
    return value
