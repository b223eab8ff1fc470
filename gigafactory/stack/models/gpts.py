"""The GPT line: layer norms, a feed-forward without gate, and field names of each house.

Counts equal those of `transformers`.
"""

from dataclasses import dataclass

from gigafactory.stack.models import parts
from gigafactory.stack.models.config import Config
from gigafactory.stack.models.grouped import Decoder
from gigafactory.stack.models.records import Layers


def gpt(config: Config) -> Decoder:
    """The GPT line: layer norms, a feed-forward without gate; fields named by each house."""
    kind = config.get("model_type")
    names = GPT_FIELDS[kind]
    hidden, heads = config.count(names.hidden), config.count(names.heads)
    layers = config.count(names.layers)
    width = config.some(names.width) or config.count("expansion_ratio", 4) * hidden
    kv_heads = config.count("num_key_value_heads", heads) if kind == "nemotron" else heads
    if kind == "gpt_bigcode" and config.flag("multi_query", True):
        kv_heads = 1
    bias = config.flag("attention_bias", names.bias)
    norm = hidden if kind == "mpt" else 2 * hidden  # MPT's norms have no bias.
    layer = Layers(
        layers,
        parts.attention(
            hidden,
            heads,
            kv_heads,
            config.count("head_dim", hidden // heads),
            input_bias=bias,
            output_bias=bias,
            fused=kind != "nemotron",
        ),
        parts.dense(hidden, width, gated=False, bias=config.flag("mlp_bias", names.bias)),
        2 * norm,
    )
    return Decoder(
        hidden=hidden,
        vocabulary=config.count("vocab_size"),
        tied=config.flag("tie_word_embeddings", names.tied),
        layers=[layer],
        positions=config.count(names.positions) if names.positions else 0,
        # BLOOM has one more norm, on the embedding.
        other_parameters=norm * (2 if kind == "bloom" else 1),
    )


@dataclass(frozen=True)
class GptFields:
    """What a house of the GPT line calls its dimensions, and its defaults."""

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    width: str = "intermediate_size"
    positions: str = ""
    bias: bool = True
    tied: bool = True


GPT_FIELDS = {
    "gpt2": GptFields("n_embd", "n_layer", "n_head", "n_inner", "n_positions"),
    "gpt_bigcode": GptFields("n_embd", "n_layer", "n_head", "n_inner", "n_positions"),
    "gpt_neox": GptFields(tied=False),
    "bloom": GptFields("hidden_size", "n_layer", "n_head", "ffn_hidden_size"),
    "mpt": GptFields("d_model", "n_layers", "n_heads", "ffn_hidden_size", bias=False),
    "nemotron": GptFields(bias=False, tied=False),
}
