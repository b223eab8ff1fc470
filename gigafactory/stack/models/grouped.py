"""Llama and those after it, and what other families share with them: experts among the layers.

Counts equal those of `transformers`; what it does not build (multi-token prediction) is as in the
published checkpoint.
"""

from dataclasses import dataclass, replace

from gigafactory.stack.models import parts
from gigafactory.stack.models.config import Config
from gigafactory.stack.models.records import FeedForward, Layers, Mixer, UnknownModel

FULL, SLIDING, CHUNKED, LINEAR = "full", "sliding", "chunked", "linear"
LAYER_TYPES = {
    "full_attention": FULL,
    "sliding_attention": SLIDING,
    "chunked_attention": CHUNKED,
    "linear_attention": LINEAR,
}
GATED = ("silu", "swish", "swiglu")
GEMMA3 = ("gemma3_text",)
# Those with a norm on each head of queries and keys.
NORMED = (
    "qwen3",
    "qwen3_moe",
    "qwen3_vl_text",
    "qwen3_vl_moe_text",
    "qwen3_omni_moe_text",
    *GEMMA3,
)


@dataclass(frozen=True)
class Decoder:
    """The layers of a config and what stands outside of them."""

    hidden: int
    vocabulary: int
    tied: bool
    layers: list[Layers]
    mtp: tuple[Layers, ...] = ()
    positions: int = 0
    other_parameters: int = 0


def grouped_query(config: Config) -> Decoder:
    """Llama and those after it: RMS norms, rotary positions, grouped keys, gated feed-forward."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    forwards = feed_forwards(config, layers)
    mixers = [_attention(config, window) for window in _windows(config, layers)]
    norms = (4 if config.get("model_type") in GEMMA3 else 2) * hidden
    stack = [
        Layers(1, mixer, forward, norms) for mixer, forward in zip(mixers, forwards, strict=True)
    ]
    return Decoder(
        hidden=hidden,
        vocabulary=config.count("vocab_size"),
        tied=config.flag("tie_word_embeddings", config.get("model_type") in GEMMA3),
        layers=stack,
        mtp=mtp_layers(config, stack[-1], hidden),
        other_parameters=hidden,
    )


def _attention(config: Config, window: tuple[int | None, bool]) -> Mixer:
    kind = config.get("model_type")
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", heads)
    head_dim = config.count("head_dim", max(hidden // heads, 1))
    bias = config.flag("attention_bias", kind == "gpt_oss")
    input_bias, output_bias, norms = bias, bias, 0
    if kind in ("qwen2", "qwen2_moe"):  # A bias on queries, keys and values, never on the output.
        input_bias, output_bias = config.flag("qkv_bias", True), False
    if kind == "internlm":
        input_bias = output_bias = config.flag("bias", True)
    if kind == "glm4_moe":
        output_bias = False
    if kind in NORMED or (kind == "glm4_moe" and config.flag("use_qk_norm")):
        norms = 2 * head_dim
    if kind == "minimax_m2" and config.flag("use_qk_norm", True):
        norms = (heads + kv_heads) * head_dim
    return parts.attention(
        hidden,
        heads,
        kv_heads,
        head_dim,
        window=window[0],
        chunked=window[1],
        input_bias=input_bias,
        output_bias=output_bias,
        norm_parameters=norms,
        sinks=kind == "gpt_oss",
    )


def _windows(config: Config, layers: int) -> list[tuple[int | None, bool]]:
    """(tokens seen, whether chunked) of each layer."""
    types = config.words("layer_types", LAYER_TYPES, layers) or _layer_types(config, layers)
    return [
        (config.count("sliding_window"), False)
        if one == SLIDING
        else (config.count("attention_chunk_size"), True)
        if one == CHUNKED
        else (None, False)
        for one in types
    ]


def _layer_types(config: Config, layers: int) -> list[str]:
    """What each family does where the config has no `layer_types`."""
    kind = config.get("model_type")
    if kind == "gpt_oss":
        return [FULL if layer % 2 else SLIDING for layer in range(layers)]
    if kind in GEMMA3:
        step = config.count("sliding_window_pattern", 6)
        return [SLIDING if (layer + 1) % step else FULL for layer in range(layers)]
    if kind == "llama4_text":
        step = config.count("no_rope_layer_interval", 4)
        if config.get("no_rope_layers"):
            return config.words("no_rope_layers", {0: FULL, 1: CHUNKED}, layers) or []
        return [CHUNKED if (layer + 1) % step else FULL for layer in range(layers)]
    if kind in ("mistral", "mixtral"):
        return [SLIDING if config.get("sliding_window") else FULL] * layers
    if config.flag("use_sliding_window"):
        first = 0 if kind == "qwen3_moe" else config.some("max_window_layers")
        return [SLIDING if layer >= first else FULL for layer in range(layers)]
    return [FULL] * layers


def feed_forwards(config: Config, layers: int) -> list[FeedForward]:
    """Of each layer, by the fields with which each family spreads its experts."""
    kind, hidden = config.get("model_type"), config.count("hidden_size")
    gelu = ("gelu_pytorch_tanh",) if kind in GEMMA3 else ()
    act = "hidden_activation" if kind in GEMMA3 else "hidden_act"
    config.choice(act, (*GATED, *gelu), (*gelu, GATED[0])[0])
    sparse = _sparse_layers(config, layers)
    plain, spread = parts.NO_FEED_FORWARD, parts.NO_FEED_FORWARD
    if not all(sparse):
        width = "intermediate_size_mlp" if kind == "llama4_text" else "intermediate_size"
        plain = parts.dense(hidden, config.count(width), bias=config.flag("mlp_bias"))
    if any(sparse):
        spread = mixture(config, hidden)
    return [spread if one else plain for one in sparse]


EXPERTS_IN = {  # model_type -> the field with the number of experts
    "qwen2_moe": "num_experts",
    "qwen3_moe": "num_experts",
    "qwen3_vl_moe_text": "num_experts",
    "qwen3_omni_moe_text": "num_experts",
    "qwen3_next": "num_experts",
    "qwen3_5_moe_text": "num_experts",
    "mixtral": "num_local_experts",
    "gpt_oss": "num_local_experts",
    "minimax_m2": "num_local_experts",
    "llama4_text": "num_local_experts",
    "glm4_moe": "n_routed_experts",
    "glm_moe_dsa": "n_routed_experts",
    "deepseek_v32": "n_routed_experts",
    "deepseek_v2": "n_routed_experts",
    "deepseek_v3": "n_routed_experts",
    "deepseek_v4": "n_routed_experts",
    "kimi_k2": "n_routed_experts",
}


def _sparse_layers(config: Config, layers: int) -> list[bool]:
    kind = config.get("model_type")
    if kind not in EXPERTS_IN:
        return [False] * layers
    if EXPERTS_IN[kind] == "n_routed_experts":
        if config.get("n_routed_experts") is None:
            return [False] * layers
        first, step = config.some("first_k_dense_replace"), config.count("moe_layer_freq", 1)
        return [layer >= first and layer % step == 0 for layer in range(layers)]
    if kind == "llama4_text":
        step = config.count("interleave_moe_layer_step", 1)
        chosen = config.get("moe_layers", range(step - 1, layers, step))
        return [layer in chosen for layer in range(layers)]
    step, dense = config.count("decoder_sparse_step", 1), config.get("mlp_only_layers", [])
    return [(layer + 1) % step == 0 and layer not in dense for layer in range(layers)]


def mixture(config: Config, hidden: int) -> FeedForward:
    """A layer's experts, with the shared ones of the families that have them."""
    kind = config.get("model_type")
    # Where experts are "local" the plain field is their width.
    local = EXPERTS_IN[kind] == "num_local_experts"
    width = config.count("intermediate_size" if local else "moe_intermediate_size")
    shared = config.some("shared_expert_intermediate_size")
    if EXPERTS_IN[kind] == "n_routed_experts":
        shared = config.some("n_shared_experts") * width
    if kind == "llama4_text":  # One shared expert as wide as the others.
        shared = width
    # transformers 5 saves some configs with the one name for all.
    experts = config.count(EXPERTS_IN[kind], config.get("num_local_experts"))
    chosen = config.count("num_experts_per_tok")
    if chosen > experts:
        raise UnknownModel("num_experts_per_tok", chosen, f"1 to {experts}, the number of experts")
    return parts.mixture(
        hidden,
        width,
        experts,
        chosen,
        bias=kind == "gpt_oss",
        router_bias=kind == "gpt_oss",
        shared_width=shared,
        shared_gate=bool(shared) and kind.startswith("qwen"),
    )


def mtp_layers(config: Config, last: Layers, hidden: int) -> tuple[Layers, ...]:
    """Multi-token prediction: layers like the last one, behind an entry of their own."""
    depth = config.some("num_nextn_predict_layers") or config.some("mtp_num_hidden_layers")
    if config.flag("use_mtp"):
        depth = config.some("num_mtp_modules") * config.count("mtp_transformer_layers", 1)
    return (replace(entered(last, hidden), count=depth),) if depth else ()


def entered(layer: Layers, hidden: int) -> Layers:
    """The layer as DeepSeek-V3 enters and leaves it in multi-token prediction: norms of state and
    next token, a projection of both, and a norm before the shared head."""
    norms = layer.norm_parameters + 3 * hidden
    return replace(layer, norm_parameters=norms, entry_parameters=2 * hidden**2)
