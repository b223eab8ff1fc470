"""Hybrids: layers that keep a state of fixed size, and every few one with attention.

Counts equal those of `transformers`.
"""

from dataclasses import replace

from gigafactory.stack.models import parts
from gigafactory.stack.models.config import Config
from gigafactory.stack.models.grouped import (
    FULL,
    LAYER_TYPES,
    LINEAR,
    Decoder,
    entered,
    feed_forwards,
    mtp_layers,
)
from gigafactory.stack.models.records import Layers, UnknownModel


def delta_hybrid(config: Config) -> Decoder:
    """Qwen3-Next and Qwen3.5: gated delta nets, every fourth layer attention with a gate."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    step = config.count("full_attention_interval", 4)
    types = config.words("layer_types", LAYER_TYPES, layers) or [
        LINEAR if (layer + 1) % step else FULL for layer in range(layers)
    ]
    head_dim = config.count("head_dim", 256)
    bias = config.flag("attention_bias")
    full = parts.attention(
        hidden,
        config.count("num_attention_heads"),
        config.count("num_key_value_heads"),
        head_dim,
        input_bias=bias,
        output_bias=bias,
        norm_parameters=2 * head_dim,
        output_gate=True,
    )
    linear = parts.delta_net(
        hidden,
        config.count("linear_num_key_heads"),
        config.count("linear_num_value_heads"),
        config.count("linear_key_head_dim"),
        config.count("linear_value_head_dim"),
        config.count("linear_conv_kernel_dim"),
        fused=config.get("model_type") == "qwen3_next",
    )
    stack = [
        Layers(1, linear if one == LINEAR else full, forward, 2 * hidden)
        for one, forward in zip(types, feed_forwards(config, layers), strict=True)
    ]
    return Decoder(
        hidden=hidden,
        vocabulary=config.count("vocab_size"),
        tied=config.flag("tie_word_embeddings"),
        layers=stack,
        mtp=mtp_layers(config, replace(stack[-1], mixer=full), hidden),
        other_parameters=hidden,
    )


BLOCK_TYPES = {
    "M": "ssm",
    "mamba": "ssm",
    "linear_attention": "ssm",
    "*": "attention",
    "attention": "attention",
    "full_attention": "attention",
    "E": "moe",
    "moe": "moe",
    "-": "mlp",
    "mlp": "mlp",
}


def mamba_hybrid(config: Config) -> Decoder:
    """Nemotron-H: a layer is Mamba 2, attention, feed-forward or experts, each with one norm."""
    hidden, depth = config.count("hidden_size"), config.some("num_nextn_predict_layers")
    types = config.words("layers_block_type", BLOCK_TYPES)
    types = types or config.words("hybrid_override_pattern", BLOCK_TYPES)
    if not types:
        raise UnknownModel("hybrid_override_pattern", None, "a letter for each layer: M, *, E or -")
    ahead = config.words("mtp_layers_block_type", BLOCK_TYPES)
    ahead = ahead or config.words("mtp_hybrid_override_pattern", BLOCK_TYPES)
    ahead = (ahead or ["attention", "moe"]) if depth else []
    layer = {one: _hybrid_layer(config, hidden, one) for one in {*types, *ahead}}
    return Decoder(
        hidden=hidden,
        vocabulary=config.count("vocab_size"),
        tied=config.flag("tie_word_embeddings"),
        layers=[layer[one] for one in types],
        mtp=tuple(
            replace(entered(layer[one], hidden) if not place else layer[one], count=depth)
            for place, one in enumerate(ahead)
        ),
        other_parameters=hidden,
    )


def _hybrid_layer(config: Config, hidden: int, kind: str) -> Layers:
    mixer, forward = parts.NO_MIXER, parts.NO_FEED_FORWARD
    bias = config.flag("mlp_bias")
    match kind:
        case "ssm":
            mixer = parts.state_space(
                hidden,
                config.count("mamba_num_heads"),
                config.count("mamba_head_dim"),
                config.count("n_groups"),
                config.count("ssm_state_size"),
                config.count("conv_kernel"),
                bias=config.flag("use_bias"),
                convolution_bias=config.flag("use_conv_bias", True),
            )
        case "attention":
            heads = config.count("num_attention_heads")
            mixer = parts.attention(
                hidden,
                heads,
                config.count("num_key_value_heads", heads),
                config.count("head_dim", hidden // heads),
                window=config.some("sliding_window") or None,
            )
        case "mlp":
            forward = parts.dense(hidden, config.count("intermediate_size"), gated=False, bias=bias)
        case "moe":
            forward = parts.mixture(
                hidden,
                config.count("moe_intermediate_size"),
                config.count("n_routed_experts"),
                config.count("num_experts_per_tok"),
                gated=False,
                shared_width=config.some("moe_shared_expert_intermediate_size"),
                latent=config.some("moe_latent_size"),
            )
    return Layers(1, mixer, forward, hidden)
