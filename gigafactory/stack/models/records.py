"""What a model is, in numbers: mixers, feed-forwards, runs of equal layers, towers beside them.

Counts of parameters and of elements, no bytes: what an element weighs is the reader's dtype.
All of it is frozen and hashable, so that a costly answer can be cached by the model it is of.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any


class UnknownModel(ValueError):
    """A config that cannot be read: which field, its value, and what is known."""

    def __init__(self, field: str, value: Any, known: str):
        self.field, self.value, self.known = field, value, known
        super().__init__(f"{field} = {value!r} is not known; known: {known}")


@dataclass(frozen=True)
class Mixer:
    """What mixes tokens in a layer. A layer without one has `kind` "none" and zeros."""

    kind: str
    """attention, mla, linear (gated delta net), ssm (Mamba 2) or none."""
    heads: int
    """Of queries; of values in a linear mixer; of the state in an SSM."""
    kv_heads: int
    """Of keys and values; of keys in a linear mixer; groups of B and C in an SSM."""
    qk_dim: int
    """Per head. In MLA with the rotary part; in an SSM the size of the state."""
    v_dim: int
    window: int | None
    """Sliding window, or chunk where `chunked`, in tokens; None is all of them."""
    projections: tuple[tuple[int, int], ...]
    """(inputs, outputs) of every linear layer in order, the output projection last.

    Their products are the weights; a grouped projection is given by the inputs of one group.
    """
    parameters: int
    """All, with biases and the norms inside the mixer."""
    cache_elements: int
    """What one token leaves in the KV cache, in elements; 0 where there is only a state."""
    state_elements: int
    """Kept per sequence whatever its length: recurrent state and convolution.

    0 for attention, but for the window beside DeepSeek-V4's compressed entries, once it is full.
    """
    kept_elements: int = 0
    """What one token leaves for the backward pass between input and output projection."""
    chunked: bool = False
    """Attention ends at the chunk's edge (Llama 4) rather than slide."""
    latent: int = 0
    """MLA: rank of the cached keys and values."""
    rotary: int = 0
    """MLA: size of the rotary key that all heads share."""
    selected: int = 0
    """Sparse attention: entries that a query attends to at most; 0 is all of them."""
    indexer: int = 0
    """Multiplications with which an indexer judges one entry for one query (heads x size)."""
    compression: int = 1
    """Tokens that share one entry of the cache (DeepSeek-V4)."""
    local: int = 0
    """Last tokens that are attended to besides the compressed ones (DeepSeek-V4)."""

    @cached_property
    def weights(self) -> int:
        """Elements of the matrices that each token is multiplied with."""
        return sum(inputs * outputs for inputs, outputs in self.projections)


@dataclass(frozen=True)
class FeedForward:
    """One wide hidden layer, or experts of which each token meets a few."""

    width: int
    """Of the dense layer, or of one expert; 0 where the layer has no feed-forward."""
    gated: bool
    experts: int = 0
    experts_per_token: int = 0
    shared_width: int = 0
    """Sum of the widths of the experts that every token meets."""
    parameters: int = 0
    """All: experts, router, shared experts, biases."""
    expert_parameters: int = 0
    """Of one expert; 0 in a dense layer."""
    latent: int = 0
    """Experts work on this width rather than the hidden one (Nemotron 3); 0 is the hidden one."""

    @property
    def parameters_active(self) -> int:
        """Those that one token meets."""
        return self.parameters - (self.experts - self.experts_per_token) * self.expert_parameters


@dataclass(frozen=True)
class Layers:
    """`count` equal layers; they need not be neighbours."""

    count: int
    mixer: Mixer
    feed_forward: FeedForward
    norm_parameters: int
    """Of one layer; in DeepSeek-V4 with the hyper-connections."""
    entry_parameters: int = 0
    """Multi-token prediction: the projection that joins state and next token."""
    streams: int = 1
    """Residual streams side by side (hyper-connections of DeepSeek-V4)."""

    @property
    def parameters_each(self) -> int:
        """Of one of these layers."""
        inner = self.mixer.parameters + self.feed_forward.parameters
        return inner + self.norm_parameters + self.entry_parameters

    @property
    def parameters_active_each(self) -> int:
        """Of one of these layers, those that one token meets."""
        resting = self.feed_forward.parameters - self.feed_forward.parameters_active
        return self.parameters_each - resting


@dataclass(frozen=True)
class Encoder:
    """A tower beside the decoder. Its projector into the decoder is counted with it."""

    name: str
    layers: int
    hidden: int
    parameters: int
    kind: str
    """vision, audio, talker or vocoder."""


@dataclass(frozen=True)
class Model:
    """A decoder, and the towers beside it."""

    name: str
    hidden: int
    vocabulary: int
    tied: bool
    """Input and output embedding are one matrix."""
    positions: int
    """Rows of a learned table of positions; 0 where there is none."""
    blocks: tuple[Layers, ...]
    """Runs of equal layers in order of first appearance; equal ones are one block."""
    mtp: tuple[Layers, ...] = ()
    """Multi-token prediction, in neither `layers` nor `parameters`."""
    encoders: tuple[Encoder, ...] = ()
    other_parameters: int = 0
    """Outside layers and embeddings: the last norm, norms of the embedding."""
    weight_dtype: str = "bfloat16"
    """Of the published weights: bfloat16, float16, float32, fp8, mxfp4, nvfp4, int4 or int8."""
    expert_dtype: str = "bfloat16"
    """Of the routed experts, which may be packed more tightly than the rest."""
    assumptions: tuple[str, ...] = ()
    """What of this model is not published, in words."""

    @cached_property
    def parameters_embedding(self) -> int:
        """Of the tables of tokens and positions and of the output embedding."""
        tables = self.vocabulary * (1 if self.tied else 2) + self.positions
        return tables * self.hidden

    @cached_property
    def parameters_decoder(self) -> int:
        """Without the towers, and without multi-token prediction."""
        in_layers = sum(block.count * block.parameters_each for block in self.blocks)
        return in_layers + self.parameters_embedding + self.other_parameters

    @cached_property
    def parameters(self) -> int:
        """As `transformers` counts: decoder and towers, without multi-token prediction."""
        return self.parameters_decoder + sum(tower.parameters for tower in self.encoders)

    @cached_property
    def parameters_mtp(self) -> int:
        """Of multi-token prediction; it shares both embeddings."""
        return sum(block.count * block.parameters_each for block in self.mtp)

    @cached_property
    def parameters_experts(self) -> int:
        """Of all routed experts."""
        return sum(
            block.count * block.feed_forward.experts * block.feed_forward.expert_parameters
            for block in self.blocks
        )

    @cached_property
    def parameters_active(self) -> int:
        """Those of the decoder that a token meets, both embeddings included: the A3B of 30B-A3B."""
        in_layers = sum(block.count * block.parameters_active_each for block in self.blocks)
        return in_layers + self.parameters_embedding + self.other_parameters

    @property
    def parameters_multiplied(self) -> int:
        """Active parameters less the input tables, which are looked up, not multiplied."""
        rows = self.positions + (0 if self.tied else self.vocabulary)
        return self.parameters_active - rows * self.hidden

    @cached_property
    def layers(self) -> int:
        """Of the decoder."""
        return sum(block.count for block in self.blocks)

    @cached_property
    def attention(self) -> Mixer:
        """The commonest mixer with a KV cache; the commonest of all where none has one."""
        cached = [block for block in self.blocks if block.mixer.cache_elements]
        return max(cached or self.blocks, key=lambda block: block.count).mixer

    @cached_property
    def mixture(self) -> FeedForward | None:
        """The commonest feed-forward with experts."""
        sparse = [block for block in self.blocks if block.feed_forward.experts]
        return max(sparse, key=lambda block: block.count).feed_forward if sparse else None

    @property
    def heads(self) -> int:
        """Of the commonest attention."""
        return self.attention.heads

    @property
    def kv_heads(self) -> int:
        """Of the commonest attention."""
        return self.attention.kv_heads

    @property
    def head_dim(self) -> int:
        """Of keys, in the commonest attention."""
        return self.attention.qk_dim

    @property
    def experts(self) -> int:
        """0 in a dense model."""
        return self.mixture.experts if self.mixture else 0

    @property
    def experts_per_token(self) -> int:
        """Without the shared ones."""
        return self.mixture.experts_per_token if self.mixture else 0

    @cached_property
    def projections(self) -> int:
        """Sum of inputs + outputs over all linear layers but the output embedding (for LoRA)."""
        return sum(
            block.count
            * (
                sum(inputs + outputs for inputs, outputs in block.mixer.projections)
                + _ends(block.feed_forward, self.hidden)
            )
            for block in self.blocks
        )


def _ends(feed_forward: FeedForward, hidden: int) -> int:
    """Inputs + outputs of its matrices; the router is no target of LoRA."""
    if not feed_forward.width:
        return 0
    matrices = 3 if feed_forward.gated else 2
    if not feed_forward.experts:
        return matrices * (hidden + feed_forward.width)
    inner = feed_forward.latent or hidden
    shared = feed_forward.shared_width
    return (
        feed_forward.experts * matrices * (inner + feed_forward.width)
        + (matrices * (hidden + shared) if shared else 0)
        + (2 * (hidden + inner) if feed_forward.latent else 0)
    )
