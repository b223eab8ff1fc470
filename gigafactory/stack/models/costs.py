"""What a model costs: FLOP of a pass, bytes of weights, of the KV cache and of activations.

FLOPs are matrix products only, 2 for a multiplication and its addition, exact for causal masks,
windows, chunks and sparse choices. Recurrent mixers count their recurrence (a delta net reads,
corrects and reads its state: 6 a number of it; Mamba 2 writes and reads: 4); kernels that work in
chunks do somewhat more. MLA with a cache takes the cheaper of unfolding the cached latents and
folding them into the queries (DeepSeek-V2, arXiv:2405.04434, 2.1.2).
Sources: Kaplan et al. 2020, arXiv:2001.08361; Narayanan et al. 2021, arXiv:2104.04473; activations:
Korthikanti et al. 2022, arXiv:2205.05198. Published model TFLOP/s of Qwen3-235B-A22B and
Qwen3-30B-A3B (Megatron-Bridge) are met within 1 %.
"""

from dataclasses import dataclass
from typing import Literal

from gigafactory.stack.models.records import FeedForward, Layers, Mixer, Model

Recompute = Literal["none", "selective", "full"]

# Bits an element takes, with the scales that it shares with its group.
BITS = {
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "fp8": 8,
    "int8": 8,
    "mxfp4": 4.25,  # a scale of 8 bits for 32
    "nvfp4": 4.5,  # of 8 bits for 16
    "int4": 4.5,  # of 16 bits for 32
}
STATE_ITEM_BYTES = 4  # Recurrent states are kept in float32: `mamba_ssm_cache_dtype` of Nemotron 3.


def flops_per_token(model: Model, sequence: int) -> float:
    """FLOPs to train on one token of a causal sequence: forward and backward, no recomputation.

    The backward pass multiplies twice as much: by the weights and by the activations.
    """
    return 3 * forward_flops_per_token(model, sequence)


def forward_flops_per_token(model: Model, sequence: int) -> float:
    """FLOPs of the forward pass for one token, mean over a causal sequence."""
    return forward_flops(model, sequence) / sequence


def forward_flops(
    model: Model, sequence: int, *, context: int = 0, logits: int | None = None, mtp: bool = False
) -> float:
    """FLOPs of a forward pass over `sequence` new tokens of one sequence, `context` being cached.

    `logits` is for how many of them the output embedding is multiplied (1 when a prompt is read,
    all by default). With `mtp` the layers of multi-token prediction and their logits are added.
    """
    blocks = (*model.blocks, *(model.mtp if mtp else ()))
    ahead = max((one.count for one in model.mtp), default=0) if mtp else 0
    scored = (1 + ahead) * (sequence if logits is None else logits)
    inner = sum(
        block.count * layer_flops(block, model.hidden, sequence, context=context)
        for block in blocks
    )
    return inner + 2 * scored * model.hidden * model.vocabulary


def layer_flops(layer: Layers, hidden: int, tokens: int, *, context: int = 0) -> float:
    """FLOPs of the forward pass of `tokens` through one of these layers."""
    return (
        mixer_flops(layer.mixer, tokens, context=context)
        + feed_forward_flops(layer.feed_forward, hidden, tokens)
        + 2 * tokens * layer.entry_parameters
    )


def mixer_flops(mixer: Mixer, tokens: int, *, context: int = 0) -> float:
    """Projections, and what mixes: attention to all entries, or the recurrence."""
    return 2 * tokens * mixer.weights + attention_flops(mixer, tokens, context=context)


def attention_flops(mixer: Mixer, tokens: int, *, context: int = 0) -> float:
    """Scores and weighted values of attention, the choice of an indexer, or the recurrence."""
    if mixer.kind in ("linear", "ssm"):
        state = mixer.heads * mixer.qk_dim * mixer.v_dim
        return (6 if mixer.kind == "linear" else 4) * tokens * state
    if mixer.kind == "none":
        return 0
    pairs = attended(mixer, context + tokens) - attended(mixer, context)
    flops = 2 * pairs * mixer.heads * (mixer.qk_dim + mixer.v_dim)
    if mixer.latent and context:
        nope = mixer.qk_dim - mixer.rotary
        unfold = 2 * context * mixer.latent * mixer.heads * (nope + mixer.v_dim)
        folded = 2 * pairs * mixer.heads * (2 * mixer.latent + mixer.rotary)
        flops = min(flops + unfold, folded)
    if mixer.indexer:
        judged = _shared(context + tokens, mixer.compression) - _shared(context, mixer.compression)
        flops += 2 * judged * mixer.indexer
    return flops


def feed_forward_flops(feed_forward: FeedForward, hidden: int, tokens: int) -> float:
    """Of dense layer, or of router, chosen and shared experts."""
    return 2 * tokens * feed_forward_weights(feed_forward, hidden)


def feed_forward_weights(feed_forward: FeedForward, hidden: int) -> int:
    """Elements of the matrices that one token is multiplied with."""
    matrices = 3 if feed_forward.gated else 2
    if not feed_forward.experts:
        return matrices * hidden * feed_forward.width
    inner = feed_forward.latent or hidden
    return (
        feed_forward.experts_per_token * matrices * inner * feed_forward.width
        + matrices * hidden * feed_forward.shared_width
        + hidden * feed_forward.experts
        + 2 * hidden * feed_forward.latent
    )


def attended(mixer: Mixer, tokens: int) -> int:
    """Pairs of a query and an entry it attends to, in a causal sequence of `tokens`."""
    if mixer.chunked and mixer.window:
        chunks, rest = divmod(tokens, mixer.window)
        return chunks * _within(mixer.window, None) + _within(rest, None)
    if mixer.compression > 1:
        compressed = _shared(tokens, mixer.compression, mixer.selected or None)
        return compressed + _within(tokens, mixer.local)
    return _within(tokens, mixer.window or mixer.selected or None)


def _within(tokens: int, most: int | None) -> int:
    """Sum over n = 1 ... tokens of min(n, most)."""
    rising = tokens if most is None else min(tokens, most)
    return rising * (rising + 1) // 2 + (tokens - rising) * rising


def _shared(tokens: int, share: int, most: int | None = None) -> int:
    """Sum over n = 1 ... tokens of min(n // share, most)."""
    rising = tokens if most is None else min(tokens, share * most)
    whole, rest = divmod(rising, share)
    return share * whole * (whole - 1) // 2 + whole * (rest + 1) + (tokens - rising) * (most or 0)


def kv_bytes_per_token(model: Model, item_bytes: float = 2) -> float:
    """Bytes that one token leaves in the cache of all layers, while its window lasts."""
    return _whole(item_bytes * sum(one.count * one.mixer.cache_elements for one in model.blocks))


def kv_bytes(
    model: Model,
    context: int,
    item_bytes: float = 2,
    *,
    state_item_bytes: float = STATE_ITEM_BYTES,
) -> float:
    """Bytes of one sequence's cache at `context` tokens: windows end it, states are added."""
    return _whole(
        sum(
            block.count * mixer_cache_bytes(block.mixer, context, item_bytes, state_item_bytes)
            for block in model.blocks
        )
    )


def mixer_cache_bytes(
    mixer: Mixer,
    context: int,
    item_bytes: float = 2,
    state_item_bytes: float = STATE_ITEM_BYTES,
) -> float:
    """Of one layer."""
    tokens = min(context, mixer.window) if mixer.window else context
    recurrent = mixer.kind in ("linear", "ssm")
    state = mixer.state_elements * (state_item_bytes if recurrent else item_bytes)
    if mixer.local:  # A window that fills, not a state that is there from the start.
        state = state * min(context, mixer.local) / mixer.local
    return mixer.cache_elements * tokens * item_bytes + state


def weight_bytes(model: Model, dtype: str | None = None, expert_dtype: str | None = None) -> float:
    """Bytes of all weights as published, or in other dtypes.

    Embeddings, norms and towers stay in 16 bit where the linear layers are packed more tightly.
    """
    bits = BITS[dtype or model.weight_dtype]
    expert_bits = BITS[expert_dtype or dtype or model.expert_dtype]
    norms = sum(block.count * block.norm_parameters for block in model.blocks)
    plain = model.parameters_embedding + model.other_parameters + norms
    plain += model.parameters - model.parameters_decoder
    experts = model.parameters_experts
    rest = model.parameters - plain - experts
    return (plain * max(bits, 16) + rest * bits + experts * expert_bits) / 8


@dataclass(frozen=True)
class Kept:
    """Elements that one token leaves for the backward pass of one layer, by what divides them."""

    residual: int
    """As wide as the hidden state, in and out of norms: divided by sequence parallelism alone."""
    mixer: int
    """Divided by tensor parallelism."""
    feed_forward: int
    """Dense layer or shared experts: divided by tensor parallelism."""
    routed: int
    """Of all experts that the token meets, with its copies sent to them: divided as experts are.

    Router scores, in float32, are counted here as two elements each.
    """

    @property
    def elements(self) -> int:
        """All of them."""
        return self.residual + self.mixer + self.feed_forward + self.routed


def kept(layer: Layers, hidden: int) -> Kept:
    """What flash attention and fused gates keep: inputs of norms, products and activations."""
    forward = layer.feed_forward
    halves = (layer.mixer.kind != "none") + (forward.width > 0)
    wide = 3 if forward.gated else 2  # gate, up and their product; or before and after
    routed, plain = 0, wide * forward.width
    if forward.experts:
        inner = forward.latent or hidden
        copies = forward.experts_per_token * (2 * inner + wide * forward.width)
        routed = copies + 2 * forward.experts + 2 * forward.latent
        plain = wide * forward.shared_width
    streams = layer.streams if layer.streams > 1 else 0  # They are kept besides what they mix to.
    return Kept(halves * (2 + streams) * hidden, layer.mixer.kept_elements, plain, routed)


def activation_bytes_per_token(
    layer: Layers,
    hidden: int,
    recompute: Recompute = "none",
    *,
    item_bytes: float = 2,
    dropout: bool = False,
) -> float:
    """Bytes that one token leaves for the backward pass of one layer.

    Without scores, which flash attention does not keep: recomputing attention ("selective") has
    nothing left to save. "full" keeps the layer's input alone. A GPT layer comes to 34 hidden
    bytes with `dropout`, whose masks take one byte, as in the source; to 32 without.
    """
    if recompute == "full":
        return item_bytes * layer.streams * hidden
    halves = (layer.mixer.kind != "none") + (layer.feed_forward.width > 0)
    return item_bytes * kept(layer, hidden).elements + dropout * halves * hidden


def adapter_parameters(model: Model, rank: int) -> int:
    """Parameters of LoRA adapters of `rank` on all linear layers but the output embedding."""
    return rank * model.projections


def _whole(value: float) -> float:
    """An int where the bytes of an item are whole."""
    return int(value) if value == int(value) else value
