"""Bytes on the fullest rank of a job, by what they hold.

Sources: activations, Korthikanti et al. 2022, arXiv:2205.05198; sharding, Rajbhandari et al.
2020, arXiv:1910.02054. B.
"""

import numpy as np

from gigafactory.stack import models
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
    """Activations of one layer that are kept, per microbatch.

    What `models.kept` counts; inputs of products in the precision that they are multiplied in,
    the rest in 16 bit. Scores, where they are written: 5 bytes each (Korthikanti, section 4).
    """
    forward, mixer = layers.feed_forward, layers.mixer
    kept = models.kept(layers, at.model.hidden)
    here = at.tokens / at.tensor
    item = 1.0 if at.job.low else 2.0
    size = at.tokens / at.spread * kept.residual * (item + 2.0) / 2  # in and out of norms
    size = size + here * (2.0 * kept.mixer + at.job.low * mixer.heads * mixer.v_dim)
    if not at.job.flash and mixer.kind == "attention" and recompute == NONE:
        size = size + here * mixer.heads * at.job.sequence * 5.0
    if recompute == FEED_FORWARD:
        return size
    # Of gate, up and their product, the product alone is multiplied, and is computed again.
    wide = 3.0 if forward.gated else 2.0
    product = 0.0 if recompute == SELECTIVE and at.job.flash else item
    return size + here * (kept.feed_forward + kept.routed) * (2.0 * (wide - 1) + product) / wide
