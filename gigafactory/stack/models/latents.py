"""DeepSeek's attentions: keys and values through a latent (V2, V3 and those like it), or
compressed over several tokens (V4).

Sources: DeepSeek-V3, arXiv:2412.19437; counts equal those of `transformers`.
"""

from dataclasses import replace

from gigafactory.stack.models import parts
from gigafactory.stack.models.config import Config
from gigafactory.stack.models.grouped import Decoder, feed_forwards, mixture, mtp_layers
from gigafactory.stack.models.records import Layers, Mixer


def latent(config: Config) -> Decoder:
    """DeepSeek-V2 and V3, Kimi K2, GLM-5: MLA, experts after some dense layers."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    q_lora = config.some("q_lora_rank") or None
    sparse = config.get("model_type") in ("glm_moe_dsa", "deepseek_v32")

    def mixer(choosing: bool) -> Mixer:
        return parts.latent_attention(
            hidden,
            config.count("num_attention_heads"),
            kv_lora=config.count("kv_lora_rank"),
            q_lora=q_lora,
            nope=config.count("qk_nope_head_dim"),
            rope=config.count("qk_rope_head_dim"),
            v_dim=config.count("v_head_dim"),
            bias=config.flag("attention_bias"),
            index_heads=config.count("index_n_heads") if choosing else 0,
            index_dim=config.count("index_head_dim") if choosing else 0,
            index_topk=config.count("index_topk") if sparse else 0,
        )

    chooses = _choosing(config, layers) if sparse else [False] * layers
    by_choice = {one: mixer(one) for one in set(chooses)}
    stack = [
        Layers(1, by_choice[chooses[layer]], forward, 2 * hidden)
        for layer, forward in enumerate(feed_forwards(config, layers))
    ]
    return Decoder(
        hidden=hidden,
        vocabulary=config.count("vocab_size"),
        tied=config.flag("tie_word_embeddings"),
        layers=stack,
        mtp=mtp_layers(config, stack[-1], hidden),
        other_parameters=hidden,
    )


def _choosing(config: Config, layers: int) -> list[bool]:
    """Which layers have an indexer; the others follow the last one that has."""
    types = config.words("indexer_types", {"full": "full", "shared": "shared"}, layers)
    if types is None:
        step = max(config.some("index_topk_freq", 1), 1)
        offset = config.some("index_skip_topk_offset", 2)
        return [max(layer - offset + 1, 0) % step == 0 for layer in range(layers)]
    return [one == "full" for one in types]


RATIOS = {  # Tokens that share an entry of the cache, as configs say it and as the layer is called.
    0: "0",
    4: "4",
    128: "128",
    "sliding_attention": "0",
    "compressed_sparse_attention": "4",
    "heavily_compressed_attention": "128",
}


def compressed(config: Config) -> Decoder:
    """DeepSeek-V4: attention over compressed entries, several residual streams, all layers MoE."""
    hidden, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    named = config.words("layer_types", RATIOS, layers)
    chosen = named or config.words("compress_ratios", RATIOS, layers)
    if not chosen:
        chosen = ["128"] * min(layers, 2) + ["4" if n % 2 else "128" for n in range(layers - 2)]

    def mixer(ratio: int) -> Mixer:
        choosing = ratio == 4
        return parts.compressed_attention(
            hidden,
            config.count("num_attention_heads"),
            config.count("head_dim"),
            window=config.count("sliding_window"),
            q_lora=config.count("q_lora_rank"),
            o_lora=config.count("o_lora_rank"),
            o_groups=config.count("o_groups"),
            compression=ratio,
            index_heads=config.count("index_n_heads") if choosing else 0,
            index_dim=config.count("index_head_dim") if choosing else 0,
            index_topk=config.count("index_topk") if choosing else 0,
        )

    streams = config.count("hc_mult", 4)
    mixing = (2 + streams) * streams
    connections = 2 * (mixing * streams * hidden + mixing + 3)
    by_ratio = {one: mixer(int(one)) for one in {*chosen, "0"}}
    forward = mixture(config, hidden)
    norms = 2 * hidden + connections
    stack = [Layers(1, by_ratio[one], forward, norms, streams=streams) for one in chosen]
    return Decoder(
        hidden=hidden,
        vocabulary=config.count("vocab_size"),
        tied=config.flag("tie_word_embeddings"),
        layers=stack,
        mtp=mtp_layers(config, replace(stack[-1], mixer=by_ratio["0"]), hidden),
        other_parameters=hidden + streams * streams * hidden + streams + 1,
    )
