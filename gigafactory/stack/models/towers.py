"""Towers beside a decoder: vision, audio, talker, vocoder; parameters counted exactly.

Each family's nesting is here too: under which key its decoder's config lies, and which towers
come with it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from gigafactory.stack.models.config import Config
from gigafactory.stack.models.grouped import Decoder, grouped_query
from gigafactory.stack.models.records import Encoder


def qwen_vision(config: Config) -> Encoder:
    """Qwen3-VL's tower: a ViT, a merger of patches, and mergers out of its depth."""
    hidden, depth = config.count("hidden_size"), config.count("depth")
    patch = config.count("patch_size") ** 2 * config.count("temporal_patch_size", 2)
    merged = hidden * config.count("spatial_merge_size", 2) ** 2
    out = config.count("out_hidden_size")
    merger = linear(merged, merged) + linear(merged, out)
    deep = len(config.get("deepstack_visual_indexes", ()))
    parameters = (
        linear(config.count("in_channels", 3) * patch, hidden)
        + config.count("num_position_embeddings") * hidden
        + depth * _vit_layer(hidden, config.count("intermediate_size"))
        + merger
        + 2 * hidden
        + deep * (merger + 2 * merged)
    )
    return Encoder("vision", depth, hidden, parameters, "vision")


def kimi_vision(config: Config, text: Config) -> Encoder:
    """MoonViT of Kimi K2.5 and its projector."""
    hidden = config.count(_either(config, "hidden_size", "vt_hidden_size"))
    depth = config.count(_either(config, "num_hidden_layers", "vt_num_hidden_layers"))
    width = config.count(_either(config, "intermediate_size", "vt_intermediate_size"))
    height = config.count(_either(config, "pos_emb_height", "init_pos_emb_height"))
    across = config.count(_either(config, "pos_emb_width", "init_pos_emb_width"))
    rows, columns = config.get("merge_kernel_size", (2, 2))
    merged = hidden * rows * columns
    parameters = (
        linear(3 * config.count("patch_size") ** 2, hidden)
        + height * across * hidden
        + depth * _vit_layer(hidden, width)
        + 2 * hidden
        + 2 * hidden  # the projector's norm
        + linear(merged, merged)
        + linear(merged, text.count("hidden_size"))
    )
    return Encoder("vision", depth, hidden, parameters, "vision")


def llama4_vision(config: Config, text: Config) -> Encoder:
    """Llama 4's tower with its adapter and projector."""
    hidden, depth = config.count("hidden_size"), config.count("num_hidden_layers")
    patches = (config.count("image_size") // config.count("patch_size")) ** 2 + 1
    width, out = config.count("intermediate_size"), config.count("projector_output_dim")
    parameters = (
        config.count("num_channels", 3) * config.count("patch_size") ** 2 * hidden
        + (1 + patches) * hidden
        + 4 * hidden
        + depth * _vit_layer(hidden, width)
        + width * config.count("projector_input_dim")
        + out * out
        + config.count("vision_output_dim") * text.count("hidden_size")
    )
    return Encoder("vision", depth, hidden, parameters, "vision")


def qwen_audio(config: Config) -> Encoder:
    """Qwen3-Omni's audio tower: three convolutions, then layers as in Whisper."""
    hidden, layers = config.count("d_model"), config.count("encoder_layers")
    channels, mel = config.count("downsample_hidden_size"), config.count("num_mel_bins")
    halved = ((mel + 1) // 2 + 1) // 2 + 1
    parameters = (
        layers * _vit_layer(hidden, config.count("encoder_ffn_dim"))
        + 2 * hidden
        + linear(9, channels)
        + 2 * linear(9 * channels, channels)
        + channels * (halved // 2) * hidden
        + linear(hidden, hidden)
        + linear(hidden, config.count("output_dim"))
    )
    return Encoder("audio", layers, hidden, parameters, "audio")


def qwen_talker(config: Config) -> Encoder:
    """Qwen3-Omni's talker: a small MoE that speaks codes, and a predictor of the codes after."""
    text = Config({"model_type": "qwen3_moe", **_typeless(config.part("text_config"))})
    predictor = Config({"model_type": "qwen3", **_typeless(config.part("code_predictor_config"))})
    talking, predicting = grouped_query(text), grouped_query(predictor)
    hidden, width = text.count("hidden_size"), text.count("intermediate_size")
    resize = linear(config.count("thinker_hidden_size"), width) + linear(width, hidden)
    groups = predictor.count("num_code_groups") - 1
    tables = 2 * groups * predicting.vocabulary * predicting.hidden
    parameters = (
        _stack(talking)
        + 2 * talking.vocabulary * talking.hidden
        + 2 * resize
        + _stack(predicting)
        + tables
    )
    return Encoder("talker", text.count("num_hidden_layers"), hidden, parameters, "talker")


def qwen_vocoder(config: Config) -> Encoder:
    """Qwen3-Omni's code2wav: a small transformer, then convolutions up to the waveform."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    plain = Config({"model_type": "llama", "vocab_size": 1, **_typeless(config)})
    transformer = _stack(grouped_query(plain)) + layers * 2 * hidden  # and layer scales
    codes = config.count("codebook_size") * config.count("num_quantizers") * hidden
    # A block: depth-wise convolution over 7, norm, two linear layers and a scale.
    block = linear(7, hidden) + 2 * hidden + linear(hidden, 4 * hidden) + linear(4 * hidden, hidden)
    raised = sum(
        hidden * hidden * factor + hidden + block + hidden
        for factor in config.get("upsampling_ratios", ())
    )
    inner = config.count("decoder_dim")
    decoder = linear(7 * hidden, inner)
    for rate in config.get("upsample_rates", ()):
        half = inner // 2
        unit = 4 * half + linear(7 * half, half) + linear(half, half)
        decoder += 2 * inner + inner * half * 2 * rate + half + 3 * unit
        inner = half
    decoder += 2 * inner + linear(7 * inner, 1)
    return Encoder("code2wav", layers, hidden, transformer + codes + raised + decoder, "vocoder")


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with a bias."""
    return inputs * outputs + outputs


def _vit_layer(hidden: int, width: int) -> int:
    """Attention and a feed-forward with biases, two layer norms."""
    return 4 * linear(hidden, hidden) + linear(hidden, width) + linear(width, hidden) + 4 * hidden


def _stack(decoder: Decoder) -> int:
    return sum(one.count * one.parameters_each for one in decoder.layers) + decoder.other_parameters


def _typeless(config: Config) -> dict[str, Any]:
    return {key: value for key, value in config.fields.items() if key != "model_type"}


def _either(config: Config, first: str, second: str) -> str:
    return first if config.get(first) is not None else second


def _qwen_vl(config: Config) -> tuple[Config, tuple[Encoder, ...]]:
    return config.part("text_config"), (qwen_vision(config.part("vision_config")),)


def _llama4(config: Config) -> tuple[Config, tuple[Encoder, ...]]:
    text = config.part("text_config")
    return text, (llama4_vision(config.part("vision_config"), text),)


def _kimi(config: Config) -> tuple[Config, tuple[Encoder, ...]]:
    text = config.part("text_config")
    return text, (kimi_vision(config.part("vision_config"), text),)


def _qwen_omni(config: Config) -> tuple[Config, tuple[Encoder, ...]]:
    thinker = config.part("thinker_config")
    towers: tuple[Encoder, ...] = (
        qwen_audio(thinker.part("audio_config")),
        qwen_vision(thinker.part("vision_config")),
    )
    if config.flag("enable_audio_output", True):
        towers += (
            qwen_talker(config.part("talker_config")),
            qwen_vocoder(config.part("code2wav_config")),
        )
    return thinker.part("text_config"), towers


TOWERED: Mapping[str, Callable[[Config], tuple[Config, tuple[Encoder, ...]]]] = {
    "qwen3_vl": _qwen_vl,
    "qwen3_vl_moe": _qwen_vl,
    "qwen3_5": _qwen_vl,
    "qwen3_5_moe": _qwen_vl,
    "qwen3_omni_moe": _qwen_omni,
    "llama4": _llama4,
    "kimi_k25": _kimi,
}
