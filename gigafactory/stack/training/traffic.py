"""Seconds of communication that no computation hides, by the parallelism that causes it.

Sources: tensor parallelism, Shoeybi et al. 2019, arXiv:1909.08053; ZeRO, Rajbhandari et al. 2020,
arXiv:1910.02054. Collectives: `stack.fabric`. s, B.
"""

from typing import Literal

import numpy as np

from gigafactory.stack import fabric
from gigafactory.stack.models import FeedForward, Mixer
from gigafactory.stack.training.job import Number
from gigafactory.stack.training.rank import Rank


def tensor_s(at: Rank) -> Number:
    """Two all-reduces a layer, or as many pairs of gather and scatter."""
    payload = 2.0 * at.tokens * at.model.hidden
    seconds = 2 * fabric.all_reduce_s(at.chip, payload, at.tensor)
    overlap = np.where(at.layout.tensor_overlap, at.job.fused, False)
    share = np.where(overlap, at.c["tensor_exposed"], 1.0)
    return np.where(at.tensor > 1, seconds * share, 0.0)


def expert_s(at: Rank, forward: FeedForward) -> Number:
    """Tokens sent to their experts and back."""
    if not forward.experts:
        return 0.0
    width = forward.latent or at.model.hidden
    copies: Number = forward.experts_per_token
    algorithm: Literal["nccl", "custom"] = "nccl"
    if at.job.dispatched:  # One copy for each rank that wants the token.
        algorithm = "custom"
        copies = at.expert * (1 - (1 - 1 / at.expert) ** forward.experts_per_token)
    routed = at.tokens / at.tensor * copies * width
    seconds = sum(
        fabric.all_to_all_s(at.chip, item * routed, at.expert, algorithm=algorithm)
        for item in (1.0 if at.job.low else 2.0, 2.0)
    )
    return np.where(at.expert > 1, seconds * at.c["expert_exposed"] * at.young(), 0.0)


def context_s(at: Rank, mixer: Mixer) -> Number:
    """Keys and values passed around the ring, beside the attention they are for."""
    if mixer.kind not in ("attention", "mla"):
        return 0.0
    size = mixer.kv_heads * (mixer.qk_dim + mixer.v_dim) / np.minimum(at.tensor, mixer.kv_heads)
    payload = 2.0 * at.tokens * at.context * size
    seconds = fabric.all_gather_s(at.chip, payload, at.context, per_node=at.domain)
    return np.where(at.context > 1, seconds * at.c["context_exposed"], 0.0)


def pipeline_s(at: Rank) -> Number:
    """Activations handed to the next stage, forward and back."""
    payload = 2.0 * at.tokens * at.model.hidden / at.spread
    # Stages are outermost: two of them share a domain only where both fit.
    each = at.tensor * at.context * at.data
    seconds = fabric.send_s(at.chip, payload, 2, per_node=at.chip.fabric_chips // each)
    hops = 2 * at.virtual * at.microbatches + 2 * (at.pipeline - 1)
    exposed = np.where(at.virtual > 1, at.c["send_exposed"], 1.0)
    return np.where(at.pipeline > 1, hops * seconds * exposed, 0.0)


def data_s(at: Rank, pass_s: Number) -> Number:
    """Gradients reduced and weights gathered, less what the passes hide."""
    dense, sparse = at.parameters()
    learned = at.learned()
    ranks = at.data_ranks

    def collectives(item: float) -> Number:
        return fabric.all_gather_s(
            at.chip, item * dense, ranks, per_node=at.domain
        ) + fabric.all_gather_s(at.chip, item * sparse, at.expert_ranks)

    weight_item = 1.0 if at.job.low and at.job.fused else 2.0
    gather, scatter = collectives(weight_item), collectives(2.0) * learned
    # Under a pipeline, weights stay gathered from the first microbatch to the last.
    sharded = (at.zero >= 3) & (at.pipeline == 1)
    overlap = np.where(at.layout.data_overlap, float(at.job.overlaps), 0.0)
    share = at.c["data_exposed"]

    def exposed(seconds: Number, window: Number) -> Number:
        hidden = np.minimum(seconds, window) * overlap
        return seconds - hidden * (1 - share)

    third = pass_s / 3
    each = exposed(gather, third) + exposed(gather + scatter, 2 * third)
    once = exposed(gather * learned, third) + exposed(scatter, 2 * third)
    return np.where(ranks * at.expert > 1, np.where(sharded, at.microbatches * each, once), 0.0)


def offload_s(at: Rank, kept_bytes: Number, steady_s: Number) -> Number:
    """Traffic to the host's memory that the step does not hide."""
    host = at.c["host_bytes_per_s"]
    dense, sparse = at.parameters()
    moved = (
        np.where(at.layout.offload_optimizer, 24.0, 0.0)
        * (dense + sparse)
        / np.maximum(at.data, 1.0)
    )
    # A tenth stayed on the chip; the rest goes out and comes back for each microbatch.
    kept = kept_bytes * 9.0 * 2 * at.microbatches / at.pipeline
    moved = moved + np.where(at.layout.offload_activations, kept, 0.0)
    # What is hidden still takes its share of the memory's bandwidth.
    return np.maximum(moved / host - 0.8 * steady_s, 0.0) + 0.02 * moved / host
