"""Bytes on the fullest rank of a job, by what they hold.

Sources: activations, Korthikanti et al. 2022, arXiv:2205.05198; sharding, Rajbhandari et al.
2020, arXiv:1910.02054. B.
"""

import numpy as np

from gigafactory.stack.models import Layers
from gigafactory.stack.training.job import FEED_FORWARD, FULL, NONE, SELECTIVE, Number
from gigafactory.stack.training.rank import Rank


def memory(at: Rank) -> dict[str, Number]:
    """Bytes on the fullest rank, by what they hold."""
    dense, sparse = at.parameters()
    learned = at.learned()
    ranks = at.data_ranks

    def held(item: float, level: int) -> Number:
        cut = at.zero >= level
        return item * (
            dense / np.where(cut, ranks, 1.0) + sparse / np.where(cut, at.expert_ranks, 1.0)
        )

    one_layer = 2.0 * 2 * (dense + sparse) / np.maximum(at.model.layers / at.pipeline, 1)
    weights = held(2.0, 3) + np.where((at.zero >= 3) & (ranks > 1), one_layer, 0.0)
    gradients = held(4.0 if not at.job.fused else 2.0, 2) * learned
    gathered = (at.zero >= 3) & (at.pipeline > 1)
    weights = np.where(gathered, weights + 2.0 * (dense + sparse), weights)
    gradients = np.where(gathered, gradients + 4.0 * (dense + sparse) * learned, gradients)
    # Since then the master copy is the 16 bits that the weight itself lacks.
    states = (
        held(12.0 if not at.job.fused else 10.0, 1)
        * learned
        * np.where(at.layout.offload_optimizer, 0.0, 1.0)
    )
    activations = activations_bytes(at)
    return {
        "weights_bytes": weights,
        "gradients_bytes": gradients,
        "states_bytes": states,
        "activations_bytes": activations * np.where(at.layout.offload_activations, 0.1, 1.0),
        "reserved_bytes": at.c["reserved_bytes"] + 0.0 * weights,
    }


def activations_bytes(at: Rank) -> Number:
    """What the backward pass needs, of all microbatches in flight on the first stage."""
    model = at.model
    full = at.recompute == FULL
    layer = 0.0
    for layers in model.blocks:
        layer = layer + layers.count / model.layers * np.select(
            [at.recompute == SELECTIVE, at.recompute == FEED_FORWARD],
            [layer_bytes(at, layers, SELECTIVE), layer_bytes(at, layers, FEED_FORWARD)],
            layer_bytes(at, layers, NONE),
        )
    border = 2.0 * at.tokens * model.hidden / at.spread
    layers_here = model.layers / at.pipeline
    kept = np.where(full, border, layer)
    flight = np.minimum(at.microbatches, at.pipeline)
    flight = flight + np.where(
        at.virtual > 1, (at.pipeline - 1) / at.virtual * flight / at.pipeline, 0.0
    )
    logits = at.tokens * model.vocabulary / at.tensor * 6.0
    logits = np.where(at.pipeline > 1, 0.0, logits)
    return kept * layers_here * flight + np.where(full, layer, 0.0) + logits


def layer_bytes(at: Rank, layers: Layers, recompute: int) -> Number:
    """Activations of one layer that are kept, per microbatch (Korthikanti, section 4)."""
    hidden, forward, mixer = at.model.hidden, layers.feed_forward, layers.mixer
    here = at.tokens / at.tensor
    item = 1.0 if at.job.low else 2.0
    inside = sum(outputs for _, outputs in mixer.projections[:-1])
    kept = at.tokens / at.spread * hidden * (2 * item + 4.0)
    values = mixer.heads * mixer.v_dim
    kept = kept + here * (2.0 * inside + (2.0 + at.job.low) * values)
    if not at.job.flash and mixer.kind == "attention" and recompute == NONE:
        kept = kept + here * mixer.heads * at.job.sequence * 5.0
    if recompute == FEED_FORWARD:
        return kept
    up = 2 if forward.gated else 1
    dense = forward.shared_width if forward.experts else forward.width
    again = recompute == SELECTIVE and at.job.flash
    kept = kept + here * dense * (2.0 * up + (0.0 if again else item))
    if forward.experts:
        routed = here * forward.experts_per_token
        width = forward.latent or hidden
        kept = kept + routed * (item * width + (0.0 if again else 2.0 * width))
        kept = kept + routed * forward.width * (2.0 * up + (0.0 if again else item))
    return kept
