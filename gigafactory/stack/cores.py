"""Training, scoring and generating on the cores of one machine. Modelled.

A roofline with a share of the achievable rate that real kernels reach, a fixed cost for each
layer, FSDP's traffic and AdamW's. Cores of one job form one group, over which states and weights
are sharded: one rank a core, or fewer ranks of several cores that share their memory. s, B, W,
FLOP.
Constants: `data/performance.csv`, measured. Activations: Korthikanti et al. 2022,
arXiv:2205.05198. FSDP traffic: Rajbhandari et al. 2020, arXiv:1910.02054.
"""

import math
from typing import Literal

from gigafactory.stack import facts, models
from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Model
from gigafactory.stack.takes import Generation, Scoring, TrainingStep, UnknownPrecision

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
# Master weight, gradient and AdamW's two moments, in float32.
STATE_BYTES = 16
# AdamW reads weight, gradient and moments, and writes all but the gradient.
UPDATE_TRAFFIC_BYTES = 28
# Bytes an activation element stands for in one layer in 16 bit, attention scores not kept.
ACTIVATION_BYTES = 34


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
    overhead_s = 3 * microbatches * model.layers * _constant("layer_overhead")
    compute_s = tokens * flops / rate + overhead_s

    # Weights are gathered forward and backward; gradients of what is learned are scattered.
    item = ITEM_BYTES[precision]
    traffic_bytes = item * (2 * microbatches * model.parameters + learned)
    exposed = _constant("exposed_communication")
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
        power_w_per_chip=_power_w(chip),
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
    overhead_s = passes * model.layers * _constant("layer_overhead")
    item = ITEM_BYTES[precision]
    batch = min(tokens, batch_tokens)
    # Eight rows of a layer at once, and the logits, in float32 too.
    per_token_bytes = 8 * item * model.hidden + (item + 4) * model.vocabulary
    memory_bytes = item * model.parameters + batch * per_token_bytes
    return Scoring(compute_s, overhead_s, memory_bytes / chips, _power_w(chip))


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
    step_overhead_s = model.layers * _constant("layer_overhead")
    step_overhead_s += _constant("engine_overhead")

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
    return Generation(prefill_s, decode_s, step_s, memory_bytes / chips, _power_w(chip))


def time_range(chip: Chip, precision: str) -> tuple[float, float]:
    """Factors on modelled seconds between which the true ones should lie.

    From the range of the training efficiency, by far the least certain of the constants.
    """
    fact = facts.by_subject("performance")["cpu"][f"training_efficiency_{precision}"]
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
    """Seconds to gather or scatter `payload_bytes` among `ranks` of one machine, as a ring."""
    return payload_bytes * (ranks - 1) / ranks / chip.fabric_bytes_per_s


def _parameters_read(model: Model, batch: int) -> float:
    """Parameters that a decode step reads: of the experts only those that some token chose."""
    resting = model.parameters_decoder - model.parameters_active
    if resting == 0:
        return model.parameters_multiplied
    chosen = model.experts_per_token / model.experts  # of all experts, by one token
    hit = 1 - (1 - chosen) ** batch  # by at least one, if each chooses evenly
    return model.parameters_multiplied + resting * (hit - chosen) / (1 - chosen)


def _rate(chip: Chip, precision: str, use: str) -> float:
    """FLOP/s that real kernels reach, of the chip's large matrix products."""
    if precision not in chip.flop_per_s:
        raise UnknownPrecision(precision, chip)
    return chip.flop_per_s[precision] * _constant(f"{use}_efficiency_{precision}")


def _moe_share(model: Model, chip: Chip) -> float:
    return _constant("moe_share") if model.experts else 1.0


def _power_w(chip: Chip) -> float:
    """Mean draw: a core is what works the overhead off, too."""
    return chip.idle_w + (chip.busy_w - chip.idle_w) * _constant("power_load")


def _constant(quantity: str) -> float:
    value = facts.by_subject("performance")["cpu"][quantity].value
    assert value is not None, f"cpu has no {quantity}"
    return value
