"""Seconds that a rank computes: matrix products, attention, what streams through memory.

Of one layer and one microbatch, forward, unless a function says otherwise. s, B, FLOP.
Sources: attention that keeps no scores, Dao et al. 2022, arXiv:2205.14135; scores that are
written, Korthikanti et al. 2022, arXiv:2205.05198.
"""

import numpy as np

from gigafactory.stack.models import FeedForward, Layers, Mixer
from gigafactory.stack.training.flops import attention_per_token
from gigafactory.stack.training.job import Number
from gigafactory.stack.training.rank import Rank

NATIVE_ATTENTION = 2023.5
"""PyTorch's own stack (FSDP) stayed with the kernel of then, FlashAttention-2."""
CHUNKED = 1.4
"""Kernels cut a recurrence into chunks, and do that much more arithmetic than it has."""


def matmul_s(at: Rank, m: Number, k: Number, n: Number, dtype: str) -> Number:
    """Seconds of (m, k) times (k, n): arithmetic that saturates with size, or traffic."""
    c = at.c
    full = m / (m + c["tile_m"]) * k / (k + c["tile_k"]) * n / (n + c["tile_n"])
    rate = at.chip.flop_per_s[dtype] * c[f"matmul_{dtype}"] * full
    item = {"float4": 0.6, "float8": 1.0, "bfloat16": 2.0, "float32": 4.0}[dtype]
    traffic = item * (m * k + k * n) + 2.0 * m * n
    return np.maximum(2 * m * k * n / rate, traffic / at.bandwidth)


def linear_s(at: Rank, layers: Layers) -> Number:
    """Projections of the mixer, the dense and the shared feed-forward."""
    seconds: Number = 0.0
    last = len(layers.mixer.projections) - 1
    for index, (inputs, outputs) in enumerate(layers.mixer.projections):
        if index == last:
            seconds = seconds + matmul_s(at, at.tokens, inputs / at.tensor, outputs, at.job.dtype)
        else:
            seconds = seconds + matmul_s(at, at.tokens, inputs, outputs / at.tensor, at.job.dtype)
    forward = layers.feed_forward
    width = forward.shared_width if forward.experts else forward.width
    if width:
        seconds = seconds + feed_forward_s(at, width / at.tensor, forward.gated)
    return seconds


def feed_forward_s(at: Rank, width: Number, gated: bool) -> Number:
    """A dense feed-forward of which this rank has `width`."""
    hidden, up = at.model.hidden, 2 if gated else 1
    return matmul_s(at, at.tokens, hidden, up * width, at.job.dtype) + matmul_s(
        at, at.tokens, width, hidden, at.job.dtype
    )


def attention_s(at: Rank, mixer: Mixer) -> Number:
    """Scores and values; where scores are written to memory, their traffic too."""
    if mixer.kind == "none":
        return 0.0
    tokens = at.tokens / at.tensor
    flops = tokens * attention_per_token(mixer, at.job.attended)
    if mixer.kind in ("linear", "ssm"):
        flops = CHUNKED * flops
    peak = at.chip.flop_per_s["bfloat16"]
    if at.job.flash or mixer.kind not in ("attention", "mla"):
        narrow = min(1.0, mixer.qk_dim / 128) ** at.c["narrow_heads"]
        own = np.where(at.zero >= 3, min(at.job.year, NATIVE_ATTENTION), at.job.year)
        share = at.c["attention"] * at.c["attention_yearly"] ** np.maximum(2025.5 - own, 0.0)
        return flops / (peak * share * narrow)
    # The whole square, masked after. Scores are written, read and written by the softmax,
    # then by dropout, and read: half precision.
    rate = peak * at.c["matmul_bfloat16"] * mixer.qk_dim / (mixer.qk_dim + at.c["tile_k"])
    traffic = tokens * mixer.heads * at.job.sequence * at.c["score_bytes"]
    return 2 * flops / rate + traffic / at.bandwidth


def selective_s(at: Rank, attention: Number, elementwise: Number) -> Number:
    """Attention where its scores were written, else norms and activations."""
    return 0.35 * elementwise if at.job.flash else attention


def feed_forward_again_s(at: Rank, experts: Number, elementwise: Number) -> Number:
    """The forward pass of the mean layer's feed-forward; half of what streams is its."""
    seconds = experts + 0.5 * elementwise
    for layers in at.model.blocks:
        forward = layers.feed_forward
        width = forward.shared_width if forward.experts else forward.width
        if width:
            share = layers.count / at.model.layers
            seconds = seconds + share * feed_forward_s(at, width / at.tensor, forward.gated)
    return seconds


def experts_s(at: Rank, forward: FeedForward) -> Number:
    """Grouped products of the experts of this rank."""
    if not forward.experts:
        return 0.0
    # Each rank of the tensor group takes its part of the tokens, for whole experts.
    routed = at.tokens / at.tensor * forward.experts_per_token
    local = forward.experts / at.expert
    each = routed / local
    width = forward.latent or at.model.hidden
    up = 2 if forward.gated else 1
    group = local * (
        matmul_s(at, each, width, up * forward.width, at.job.dtype)
        + matmul_s(at, each, forward.width, width, at.job.dtype)
    )
    return group * at.c["imbalance"] / at.c["grouped"] * at.young()


def elementwise_s(at: Rank, layers: Layers) -> Number:
    """Bytes that norms, residuals, rotations, activations, casts and routing move."""
    hidden, forward, mixer = at.model.hidden, layers.feed_forward, layers.mixer
    item = 2.0
    tokens, here = at.tokens, at.tokens / at.tensor
    # Two norms and two residual additions: read and write each.
    moved = tokens / at.spread * hidden * 8 * item
    inside = sum(outputs for _, outputs in mixer.projections[:-1])
    moved = moved + here * inside * 2 * item
    if mixer.kind in ("linear", "ssm"):
        moved = moved + here * inside * 6 * item
    matrices = 3 if forward.gated else 2
    dense = forward.shared_width if forward.experts else forward.width
    moved = moved + here * dense * matrices * item
    if at.job.low:  # Read in 16 bit, write in 8, twice: once transposed for the backward pass.
        cast = tokens * (2 * hidden + (dense + mixer.heads * mixer.v_dim) / at.tensor)
        moved = moved + cast * 4.0 * at.c["cast"]
    if forward.experts:
        routed = here * forward.experts_per_token
        width = forward.latent or hidden
        # Permuted out and back, weighted and summed; activations; router in float32.
        moved = moved + routed * (width * at.c["permute_bytes"] + forward.width * matrices * item)
        moved = moved + here * forward.experts * 16
        if at.job.low:
            moved = moved + routed * (width + forward.width) * 4.0 * at.c["cast"]
    eager = np.where((at.zero >= 3) & (not at.job.compiled), at.c["eager"], 1.0)
    return moved * eager * at.c["elementwise"] / at.bandwidth


def host_s(at: Rank, layers: Layers) -> float:
    """Seconds the host needs to launch one layer and one pass."""
    kernels = 14.0 + 6.0 * at.job.low + 10.0 * (layers.mixer.kind in ("linear", "ssm"))
    seconds = kernels * at.c["launch_s"]
    if layers.feed_forward.experts:
        graphs = at.job.graphs
        host_s = at.c["experts_host_s"] * at.young()
        seconds += host_s * (at.c["graphs"] if graphs else 1.0)
    return seconds


def head_s(at: Rank) -> tuple[Number, Number]:
    """The product with the vocabulary, forward and backward, and the loss over it."""
    rows = at.model.vocabulary / at.tensor
    product = matmul_s(at, at.tokens, at.model.hidden, rows, "bfloat16")
    passes = 2 if at.job.frozen else 3
    traffic = at.tokens * rows * 22.0
    return passes * product, traffic / at.bandwidth


def optimizer_s(at: Rank) -> Number:
    """AdamW reads weight, gradient and moments, and writes all but the gradient."""
    dense, sparse = at.parameters()
    sharded = at.zero >= 1
    held = dense / np.where(sharded, at.data_ranks, 1.0)
    held = held + sparse / np.where(sharded, at.expert_ranks, 1.0)
    return 28.0 * held * at.learned() / at.bandwidth + at.c["step_s"]
