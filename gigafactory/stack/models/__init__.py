"""Models as numbers: parameters, FLOPs and bytes from a Hugging Face `config.json`.

In: a config, a shipped name or a published shape. Out: counts, FLOP, B. Exact for the counts,
which equal those of `transformers`; the FLOPs are matrix products only.
"""

from gigafactory.stack.models.costs import (
    BITS,
    Kept,
    activation_bytes_per_token,
    adapter_parameters,
    attended,
    attention_flops,
    feed_forward_flops,
    feed_forward_weights,
    flops_per_token,
    forward_flops,
    forward_flops_per_token,
    kept,
    kv_bytes,
    kv_bytes_per_token,
    layer_flops,
    mixer_cache_bytes,
    mixer_flops,
    weight_bytes,
)
from gigafactory.stack.models.records import (
    Encoder,
    FeedForward,
    Layers,
    Mixer,
    Model,
    UnknownModel,
)
from gigafactory.stack.models.sources import CONFIGS, of_shape, read, shipped, shipped_config

__all__ = [
    "BITS",
    "CONFIGS",
    "Encoder",
    "FeedForward",
    "Kept",
    "Layers",
    "Mixer",
    "Model",
    "UnknownModel",
    "activation_bytes_per_token",
    "adapter_parameters",
    "attended",
    "attention_flops",
    "feed_forward_flops",
    "feed_forward_weights",
    "flops_per_token",
    "forward_flops",
    "forward_flops_per_token",
    "kept",
    "kv_bytes",
    "kv_bytes_per_token",
    "layer_flops",
    "mixer_cache_bytes",
    "mixer_flops",
    "of_shape",
    "read",
    "shipped",
    "shipped_config",
    "weight_bytes",
]
