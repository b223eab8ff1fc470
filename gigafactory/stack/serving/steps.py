"""Time of one step of an engine, for any layers on any chips. Modelled.

A roofline for each part of each layer, what its kernels take to start, and the collectives
between them. Arrays broadcast: a search evaluates its whole grid by the code that explains one
point. s, B, FLOP.
Sources: roofline, Williams et al. 2009, doi:10.1145/1498765.1498785; tensor parallelism, Shoeybi
et al. 2019, arXiv:1909.08053; absorbed attention over a latent cache, DeepSeek-V2,
arXiv:2405.04434. Constants: `data/serving.csv`.
"""

from dataclasses import dataclass

import numpy as np

from gigafactory.stack import fabric
from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Layers, Mixer, Model
from gigafactory.stack.serving import constants
from gigafactory.stack.serving.deployment import (
    ACTIVATION_BYTES,
    CACHE_BYTES,
    STATE_BYTES,
    WEIGHT_BYTES,
    Deployment,
    Number,
    weight_bytes,
    weight_precision,
)

RATE = {"bf16": "bfloat16", "fp8": "float8", "fp4": "float4", "int8": "float8", "int4": "bfloat16"}
"""Precision -> dtype of the products; four-bit integers are widened first."""
INDEX_KEY = 128
"""Elements of the key that an indexer of sparse attention keeps for each entry."""
NORM_BYTES = 16.0
"""Traffic of two norms and residual sums of a layer, for each element of the hidden state."""
QUANTISE_BYTES = {"bf16": 0.0, "fp8": 8.0, "fp4": 3.0, "int8": 8.0, "int4": 0.0}
"""Traffic of rounding an input of a product to the product's precision, for each element."""
PERMUTE_BYTES = {"bf16": 9.0, "fp8": 14.0, "fp4": 5.0, "int8": 14.0, "int4": 9.0}
"""Traffic of sorting tokens by expert and back, and of rounding them, for each element."""
TILE_ROWS = 100.0
NARROW = 300.0
"""Width of an expert, on one chip, at which its arithmetic takes twice as long for its size."""
BALANCED = 8
"""Expert ranks beyond which copies of busy experts keep the load from getting more uneven."""
SHORT_PROMPT = 400.0
"""Tokens at which prefill attention reaches half of its rate."""
# Source of these: kernel measurements in aiconfigurator-core 0.12.0 (Apache-2.0), TensorRT-LLM,
# vLLM and SGLang on A100 to GB200; medians of the engines.
SHARPNESS = 4.0
"""Of the roofline's knee: time = (arithmetic^n + traffic^n)^(1/n)."""

# Kernels that a lean implementation launches, at least; engines launch `Engine.kernels` as many.
KERNELS = {"attention": 6, "mla": 10, "linear": 12, "ssm": 8, "none": 0}
KERNELS_DENSE, KERNELS_EXPERTS, KERNELS_SHARED, KERNELS_INDEXER = 4, 8, 2, 12
# Over a prompt, recurrences are cut into chunks, by a dozen kernels in Triton, each of which takes
# as long to launch from Python as several others.
KERNELS_PROMPT = KERNELS | {"linear": 45, "ssm": 30}


@dataclass(frozen=True)
class Step:
    """Seconds of one step of a worker, by what they are spent on. The terms add up."""

    attention: Number
    """Reading the cache, scores, states."""
    linear: Number
    """Projections, dense feed-forward, shared experts, vocabulary, and what lies between."""
    experts: Number
    communication: Number
    overhead: Number
    """Start of kernels, scheduling, sampling."""

    @property
    def seconds(self) -> Number:
        """All of it."""
        return self.attention + self.linear + self.experts + self.communication + self.overhead


@dataclass(frozen=True)
class Decoding:
    """Sequences of a worker that take one token more."""

    batch: Number
    context: Number

    def sequences(self, deployment: Deployment) -> Number:
        """Of one attention group, in the step of one pipeline stage."""
        return np.maximum(self.batch / (deployment.dp_attention * deployment.pp), 1.0)


@dataclass(frozen=True)
class Prompts:
    """Prompts that a worker takes in in one step."""

    count: Number
    tokens: Number
    """Of each, in this step."""
    cached: Number
    """Of each, before this step."""
    groups: Number
    """Attention groups that they are spread over."""


def decode_step(
    model: Model, chip: Chip, deployment: Deployment, batch: Number, context: Number
) -> Step:
    """One token more (or a draft checked) for `batch` sequences of `context` tokens, in a graph."""
    engine, silicon = constants.engine(deployment.engine), constants.silicon(chip.architecture)
    decoding = Decoding(np.asarray(batch, float), np.asarray(context, float))
    parts = _pass(model, chip, deployment, None, decoding)
    overhead = _kernels(model, KERNELS) * engine.kernels * silicon.kernel_s + engine.step_s
    overhead = overhead + engine.request_s * decoding.sequences(deployment)
    if deployment.speculative_tokens:
        # A draft layer before each drafted token, of as many as the model has in its stead.
        drafts = 1 + deployment.speculative_tokens / model.layers
        parts, overhead = {name: part * drafts for name, part in parts.items()}, overhead * drafts
    return Step(**parts, overhead=overhead + _bubbles(deployment, parts, overhead))


def prefill_step(
    model: Model, chip: Chip, deployment: Deployment, tokens: Number, context: Number = 0.0
) -> Step:
    """`tokens` of one prompt, after `context` tokens of it that are in the cache.

    Kernels are launched one by one, while others compute; attention groups beside the one that
    holds the prompt are idle.
    """
    tokens = np.asarray(tokens, float)
    return prompt_step(model, chip, deployment, Prompts(1.0, tokens, context, 1.0))


def prompt_step(
    model: Model,
    chip: Chip,
    deployment: Deployment,
    prompts: "Prompts",
    decoding: "Decoding | None" = None,
) -> Step:
    """Prompts taken in, and one token more for those sequences that decode beside them."""
    engine = constants.engine(deployment.engine)
    parts = _pass(model, chip, deployment, prompts, decoding)
    parts = {name: part * engine.prefill for name, part in parts.items()}
    launches = _kernels(model, KERNELS_PROMPT) * engine.kernels * engine.launch_s
    working = sum(parts.values())
    # Launches run ahead of the kernels: only where they are slower do they show.
    overhead = _knee(working, launches) - working + engine.step_s
    if decoding is not None:
        overhead = overhead + engine.request_s * decoding.sequences(deployment)
    return Step(**parts, overhead=overhead + _bubbles(deployment, parts, overhead))


def _bubbles(deployment: Deployment, parts: dict[str, Number], overhead: Number) -> Number:
    """Stages of a pipeline wait for the slowest."""
    share = constants.common().pipeline * (deployment.pp - 1)
    return share * (sum(parts.values()) + overhead)


def _pass(
    model: Model,
    chip: Chip,
    deployment: Deployment,
    prompts: Prompts | None,
    decoding: Decoding | None,
) -> dict[str, Number]:
    """All layers once, for prompts, for sequences that decode, or for both in one batch."""
    rank = worker = scored = attention = np.zeros(())
    if decoding is not None:
        checked = 1 + deployment.speculative_tokens
        sequences = decoding.sequences(deployment)
        rank = scored = sequences * checked
        worker = np.maximum(decoding.batch / deployment.pp, 1.0) * checked
        attention = attention + sum(
            run.count * _decode_attention_s(run, chip, deployment, sequences, decoding.context)
            for run in model.blocks
        )
    if prompts is not None:
        taken = prompts.count * prompts.tokens
        here = taken / prompts.groups
        rank, worker = rank + here, worker + taken
        # Only the last token of a prompt meets the vocabulary.
        scored = scored + prompts.count / prompts.groups
        attention = attention + sum(
            run.count * _prefill_attention_s(run, chip, deployment, here, prompts)
            for run in model.blocks
        )
    linear = sum(
        run.count * _linear_s(run, model, chip, deployment, rank) for run in model.blocks
    ) + _product_s(
        model.vocabulary * model.hidden / deployment.tp,
        scored,
        model.vocabulary / deployment.tp,
        chip,
        weight_precision(model, deployment, "vocabulary"),
    )
    experts = 0 * worker + sum(
        run.count * _experts_s(run, model, chip, deployment, worker)
        for run in model.blocks
        if run.feed_forward.experts
    )
    communication = _communication_s(model, chip, deployment, rank, worker)
    if deployment.pp > 1:
        payload = rank * model.hidden * ACTIVATION_BYTES / deployment.tp
        sends = fabric.send_s(chip, payload, deployment.chips)
        communication = communication + (deployment.pp - 1) * sends
    return {
        "attention": attention,
        "linear": linear,
        "experts": experts,
        "communication": communication,
    }


def _decode_attention_s(
    run: Layers, chip: Chip, deployment: Deployment, sequences: Number, context: Number
) -> Number:
    """Reading the cache or the state of every sequence."""
    mixer, silicon = run.mixer, constants.silicon(chip.architecture)
    bandwidth = chip.memory_bytes_per_s * silicon.cache_bandwidth
    checked = 1 + deployment.speculative_tokens
    if mixer.kind in ("linear", "ssm", "none"):
        # Read and written for each token.
        state = 2 * mixer.state_elements / deployment.tp * STATE_BYTES
        return sequences * checked * state / bandwidth + 0.0 * context
    attended, item = _attended(mixer, context), CACHE_BYTES[deployment.cache_precision]
    shards = min(deployment.tp, mixer.kv_heads) if mixer.kind == "attention" else 1
    judged = context / mixer.compression
    index = INDEX_KEY * bool(mixer.indexer)
    traffic = sequences * (attended * _entry_elements(mixer) / shards + judged * index) * item
    # Absorbed: every head of a latent cache scores against all of it, and sums over it.
    width = 2 * mixer.latent + mixer.rotary if mixer.latent else mixer.qk_dim + mixer.v_dim
    heads = mixer.heads / deployment.tp
    flops = 2 * sequences * checked * (attended * heads * width + judged * mixer.indexer)
    rate = chip.flop_per_s["bfloat16"] * silicon.prefill_attention
    return _knee(flops / rate, traffic / bandwidth)


def _prefill_attention_s(
    run: Layers, chip: Chip, deployment: Deployment, tokens: Number, prompts: Prompts
) -> Number:
    """Arithmetic of `tokens` queries over what each of them sees."""
    mixer, silicon = run.mixer, constants.silicon(chip.architecture)
    rate = chip.flop_per_s["bfloat16"] * silicon.prefill_attention
    if mixer.kind in ("linear", "ssm", "none"):
        state = mixer.state_elements / deployment.tp
        # Kernels that work in chunks do some twice the arithmetic of the recurrence.
        return 12 * tokens * state / rate + 0.0 * prompts.tokens
    seen = prompts.cached + prompts.tokens / 2
    judged = seen / mixer.compression * mixer.indexer
    heads = mixer.heads / deployment.tp
    width = _attended(mixer, seen) * heads * (mixer.qk_dim + mixer.v_dim)
    # Short prompts fill the chip badly.
    return 2 * tokens * (width + judged) / rate * (1 + SHORT_PROMPT / np.maximum(prompts.tokens, 1))


def _attended(mixer: Mixer, seen: Number) -> Number:
    """Entries that a query after `seen` tokens attends to."""
    if mixer.window and mixer.chunked:
        return np.where(seen < mixer.window, seen, mixer.window / 2)
    if mixer.window:
        return np.minimum(seen, mixer.window)
    most = mixer.selected or np.inf
    return np.minimum(seen / mixer.compression, most) + np.minimum(seen, mixer.local)


def _entry_elements(mixer: Mixer) -> float:
    """Of one entry of the cache, without the key that an indexer judges it by."""
    if mixer.latent:
        return float(mixer.latent + mixer.rotary)
    return mixer.cache_elements * mixer.compression - INDEX_KEY * bool(mixer.indexer)


def _linear_s(
    run: Layers, model: Model, chip: Chip, deployment: Deployment, tokens: Number
) -> Number:
    """Projections, dense feed-forward and shared experts, and what is done between products."""
    mixer, feed, tp = run.mixer, run.feed_forward, deployment.tp
    # (weights, inputs, outputs, part) of products that follow one another.
    products: list[tuple[float, float, float, str]] = []
    if mixer.kind != "none":
        weights = inputs = outputs = 0.0
        shared = mixer.latent > 0 or mixer.compression > 1
        for number, (into, out_of) in enumerate(mixer.projections):
            last = number == len(mixer.projections) - 1
            # What makes a latent that all heads share is on every chip.
            whole = shared and into == model.hidden and not last
            weights += into * out_of / (1 if whole else tp)
            outputs += out_of / (1 if whole else tp)
            inputs += into / tp if last else 0
        products.append((weights, inputs + model.hidden, outputs, "mixer"))
    width = feed.shared_width if feed.experts else feed.width
    if width:
        matrices = 3 if feed.gated else 2
        part = "experts" if feed.experts else "dense"
        weights = matrices * model.hidden * width / tp
        products.append((weights, model.hidden + width / tp, matrices * width / tp, part))
    if feed.latent:  # Experts work on a narrower state, to which and from which all are led.
        ends = (model.hidden + feed.latent) / tp
        products.append((2 * model.hidden * feed.latent / tp, ends, ends, "dense"))
    total, between = 0.0 * tokens, NORM_BYTES * model.hidden
    for weights, inputs, outputs, part in products:
        precision = weight_precision(model, deployment, part)
        total = total + _product_s(weights, tokens, outputs, chip, precision)
        between += QUANTISE_BYTES[precision] * inputs
    return total + tokens * between / chip.memory_bytes_per_s


def _experts_s(
    run: Layers, model: Model, chip: Chip, deployment: Deployment, tokens: Number
) -> Number:
    """Routed experts of the busiest rank; a batch reads those that it meets."""
    feed, common = run.feed_forward, constants.common()
    silicon = constants.silicon(chip.architecture)
    ranks, shared = deployment.ep, deployment.tensor_experts
    chosen = feed.experts_per_token / feed.experts
    met = (1 - (1 - chosen) ** (np.maximum(tokens, 1.0) ** common.routing)) * feed.experts / ranks
    rows = tokens * feed.experts_per_token / ranks * min(ranks, BALANCED) ** common.imbalance
    precision = weight_precision(model, deployment, "experts")
    weights = feed.expert_parameters / shared
    # Tiles add rows to each expert that is met, and fill badly where experts are narrow.
    narrow = 1 + NARROW * shared / feed.width
    flops = 2 * (rows + met * TILE_ROWS) * weights * narrow
    reading_s = met * weights * weight_bytes(model, deployment, "experts") / chip.memory_bytes_per_s
    moved = rows * (feed.latent or model.hidden) * PERMUTE_BYTES[precision]
    return (
        _knee(
            flops / (_rate(chip, precision) * silicon.experts), reading_s / silicon.expert_bandwidth
        )
        + moved / chip.memory_bytes_per_s
    )


def _communication_s(
    model: Model, chip: Chip, deployment: Deployment, rank_tokens: Number, worker_tokens: Number
) -> Number:
    """Collectives of all layers. They are alike from layer to layer, so each is timed once."""
    scale = constants.silicon(chip.architecture).collective
    apart = deployment.dp_attention > 1
    total = 0.0 * (rank_tokens + worker_tokens)
    if deployment.tp > 1:
        reductions = sum(
            run.count
            * (
                (run.mixer.kind != "none")
                + (run.feed_forward.width > 0 and not (apart and run.feed_forward.experts))
            )
            for run in model.blocks
        )
        payload = rank_tokens * model.hidden * ACTIVATION_BYTES
        total = total + reductions * fabric.all_reduce_s(
            chip, payload, deployment.tp, algorithm="custom"
        )
    if apart and model.experts:
        # Tokens go where their experts are: to all, or to the few that they chose.
        ranks, sparse = deployment.stage_chips, model.mixture
        assert sparse is not None
        exchanges = sum(run.count for run in model.blocks if run.feed_forward.experts)
        hidden = (sparse.latent or model.hidden) * ACTIVATION_BYTES
        gathered = worker_tokens * hidden
        exchange = fabric.all_gather_s(chip, gathered, ranks) + fabric.reduce_scatter_s(
            chip, gathered, ranks
        )
        if deployment.ep > 1:
            copies = min(sparse.experts_per_token, deployment.ep)
            sent = worker_tokens / ranks * copies * hidden
            # Out in 8 bits, back in 16.
            exchange = np.minimum(exchange, 1.5 * fabric.all_to_all_s(chip, sent, ranks))
        total = total + exchanges * exchange
    return total * scale


def _product_s(
    weights: float, tokens: Number, outputs: float, chip: Chip, precision: str
) -> Number:
    """`tokens` rows times a matrix of `weights` elements: the slower of arithmetic and traffic."""
    silicon = constants.silicon(chip.architecture)
    arithmetic = 2 * tokens * weights / _rate(chip, precision)
    traffic = weights * WEIGHT_BYTES[precision] + tokens * outputs * ACTIVATION_BYTES
    return _knee(arithmetic, traffic / (chip.memory_bytes_per_s * silicon.weight_bandwidth))


def _rate(chip: Chip, precision: str) -> float:
    """FLOP/s of products; what a chip has no arithmetic for is widened to bfloat16."""
    silicon, dtype = constants.silicon(chip.architecture), RATE[precision]
    if not chip.flop_per_s.get(dtype):
        dtype = "bfloat16"
    return chip.flop_per_s[dtype] * getattr(silicon, f"matmul_{dtype}")


def _kernels(model: Model, of_mixer: dict[str, int]) -> int:
    """Of one pass, at least."""
    return sum(run.count * _kernels_each(run, of_mixer[run.mixer.kind]) for run in model.blocks)


def _kernels_each(run: Layers, mixing: int) -> int:
    feed, mixer = run.feed_forward, run.mixer
    mixing += KERNELS_INDEXER * bool(mixer.indexer)
    if feed.experts:
        return mixing + KERNELS_EXPERTS + KERNELS_SHARED * (feed.shared_width > 0)
    return mixing + KERNELS_DENSE * (feed.width > 0)


def _knee(one: Number, other: Number) -> Number:
    """The slower of two that overlap, rounded where they are alike."""
    high, low = np.maximum(one, other), np.minimum(one, other)
    return high * (1 + (low / np.maximum(high, 1e-30)) ** SHARPNESS) ** (1 / SHARPNESS)
