"""Models as numbers: parameters, FLOPs and bytes from a Hugging Face `config.json`.

In: a config. Out: counts, FLOP, B. Exact for the counts, which equal those of `transformers`;
the FLOPs are matrix products only.
Sources: Kaplan et al. 2020, arXiv:2001.08361 (6 N a token); attention as in Narayanan et al. 2021,
arXiv:2104.04473, halved for the causal mask. Published model TFLOP/s of Qwen3-235B-A22B and
Qwen3-30B-A3B (Megatron-Bridge) are met within 1 %.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).with_name("data") / "configs"
TYPES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe")


class UnknownModel(ValueError):
    """A config that cannot be read: which field, its value, and what is known."""

    def __init__(self, field: str, value: Any, known: str):
        self.field, self.value, self.known = field, value, known
        super().__init__(f"{field} = {value!r} is not known; known: {known}")


@dataclass(frozen=True)
class Model:
    """A decoder: attention with grouped keys, then one or several gated feed-forwards."""

    name: str
    parameters: int
    parameters_active: int
    """Those that a token meets, both embeddings included, as model names count (30B-A3B)."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    experts: int
    """0 in a dense model."""
    experts_per_token: int
    tied: bool
    """Input and output embedding are one matrix."""
    projections: int
    """Sum of inputs + outputs over all linear layers but the output embedding (for LoRA)."""

    @property
    def parameters_multiplied(self) -> int:
        """Active parameters less the input embedding, which is looked up, not multiplied."""
        lookup = 0 if self.tied else self.vocabulary * self.hidden
        return self.parameters_active - lookup


def shipped() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def read(source: str | Path | Mapping[str, Any]) -> Model:
    """The model of a config: a mapping, a path to it or its folder, or a shipped name.

    Raises `UnknownModel` for an architecture that is not understood, rather than guess.
    """
    if isinstance(source, Mapping):
        return _model(source, str(source.get("_name_or_path") or source.get("model_type")))
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
    shipped_path = CONFIGS / f"{source}.json"
    if not path.is_file() and shipped_path.is_file():
        path = shipped_path
    if not path.is_file():
        near = difflib.get_close_matches(str(source), shipped(), n=3, cutoff=0.4)
        raise UnknownModel("model", str(source), ", ".join(near or shipped()) + ", or a path")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnknownModel("model", str(path), f"a file of JSON ({error})") from error
    return _model(config, path.parent.name if path.name == "config.json" else path.stem)


def flops_per_token(model: Model, sequence: int) -> float:
    """FLOPs to train on one token of a causal sequence: forward and backward.

    6 for each parameter that is multiplied; attention sees half the sequence on average.
    """
    attention = 6 * model.layers * model.heads * model.head_dim * sequence
    return 6 * model.parameters_multiplied + attention


def forward_flops_per_token(model: Model, sequence: int) -> float:
    """FLOPs of the forward pass alone, a third of training's."""
    return flops_per_token(model, sequence) / 3


def kv_bytes_per_token(model: Model, item_bytes: int = 2) -> int:
    """Bytes of keys and values that one token leaves in the cache."""
    return 2 * model.layers * model.kv_heads * model.head_dim * item_bytes


def adapter_parameters(model: Model, rank: int) -> int:
    """Parameters of LoRA adapters of `rank` on all linear layers but the output embedding."""
    return rank * model.projections


def _model(config: Mapping[str, Any], name: str) -> Model:
    kind = config.get("model_type")
    if kind not in TYPES:
        raise UnknownModel("model_type", kind, ", ".join(TYPES))
    _refuse_what_changes_the_count(config)
    hidden = _count(config, "hidden_size")
    heads = _count(config, "num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    layers = _count(config, "num_hidden_layers")
    vocabulary = _count(config, "vocab_size")
    tied = bool(config.get("tie_word_embeddings", False))

    bias = bool(config.get("attention_bias", False))
    queries, keys = heads * head_dim, kv_heads * head_dim
    attention = hidden * (queries + 2 * keys) + queries * hidden
    if bias or kind == "qwen2":  # Qwen2 has a bias on queries, keys and values, always.
        attention += queries + 2 * keys
    if bias and kind != "qwen2":
        attention += hidden
    if kind.startswith("qwen3"):
        attention += 2 * head_dim  # norms of queries and keys

    dense = _feed_forward(hidden, config.get("intermediate_size") or 0, config)
    sparse_layers = _sparse_layers(config, layers) if kind == "qwen3_moe" else 0
    experts = _count(config, "num_experts") if sparse_layers else 0
    chosen = _count(config, "num_experts_per_tok") if sparse_layers else 0
    width = _count(config, "moe_intermediate_size") if sparse_layers else 0
    expert, router = _feed_forward(hidden, width, config), hidden * experts
    if sparse_layers < layers:
        _count(config, "intermediate_size")

    norms = 2 * hidden
    outside = vocabulary * hidden * (1 if tied else 2) + hidden
    common = layers * (attention + norms) + (layers - sparse_layers) * dense + outside
    return Model(
        name=name,
        parameters=common + sparse_layers * (experts * expert + router),
        parameters_active=common + sparse_layers * (chosen * expert + router),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        experts=experts,
        experts_per_token=chosen,
        tied=tied,
        projections=layers * (4 * hidden + 2 * queries + 2 * keys)
        + (layers - sparse_layers) * 3 * (hidden + (config.get("intermediate_size") or 0))
        + sparse_layers * experts * 3 * (hidden + width),
    )


def _feed_forward(hidden: int, width: int, config: Mapping[str, Any]) -> int:
    """Parameters of gate, up and down."""
    bias = 2 * width + hidden if config.get("mlp_bias") else 0
    return 3 * hidden * width + bias


def _sparse_layers(config: Mapping[str, Any], layers: int) -> int:
    """How many layers have experts, by the two fields that Qwen3-MoE decides it with."""
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
    return sum((layer + 1) % step == 0 and layer not in dense for layer in range(layers))


def _refuse_what_changes_the_count(config: Mapping[str, Any]) -> None:
    """Fields that these types may carry and that are not modelled here."""
    if config.get("use_sliding_window") or (
        config["model_type"] == "mistral" and config.get("sliding_window")
    ):
        raise UnknownModel("sliding_window", config.get("sliding_window"), "full attention (null)")
    if config.get("hidden_act", "silu") != "silu":
        raise UnknownModel("hidden_act", config["hidden_act"], "silu (gated feed-forward)")


def _count(config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or value <= 0:
        raise UnknownModel(field, value, "a whole number above 0")
    return value
