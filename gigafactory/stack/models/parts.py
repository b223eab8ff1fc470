"""Mixers and feed-forwards from their dimensions: every matrix, bias and norm counted.

Elements kept for the backward pass are those of kernels that do not store attention scores
(Dao 2022, arXiv:2205.14135) and of one chunk's state in 128 tokens for recurrent mixers.
Sources: MLA in DeepSeek-V2, arXiv:2405.04434; gated delta net in Yang et al. 2024,
arXiv:2412.06464; Mamba 2 in Dao and Gu 2024, arXiv:2405.21060; all as `transformers` builds them.
"""

from gigafactory.stack.models.records import FeedForward, Mixer

STATE_CHUNK = 128  # Tokens between two states that a chunked scan keeps.

NO_MIXER = Mixer("none", 0, 0, 0, 0, None, (), 0, 0, 0)
NO_FEED_FORWARD = FeedForward(width=0, gated=False)


def attention(
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    window: int | None = None,
    chunked: bool = False,
    input_bias: bool = False,
    output_bias: bool = False,
    norm_parameters: int = 0,
    sinks: bool = False,
    output_gate: bool = False,
    fused: bool = False,
) -> Mixer:
    """Attention with grouped keys: plain at `kv_heads == heads`, multi-query at 1."""
    queries, keys = heads * head_dim, kv_heads * head_dim
    asked = queries * (2 if output_gate else 1)
    inputs = (asked + 2 * keys,) if fused else (asked, keys, keys)
    projections = (*((hidden, outputs) for outputs in inputs), (queries, hidden))
    biases = input_bias * sum(inputs) + output_bias * hidden
    kept = sum(inputs) + queries * (2 if output_gate else 1)
    if norm_parameters:
        kept += queries + keys  # A norm keeps its input besides what it hands on.
    return Mixer(
        kind="attention",
        heads=heads,
        kv_heads=kv_heads,
        qk_dim=head_dim,
        v_dim=head_dim,
        window=window,
        projections=projections,
        parameters=_weights(projections) + biases + norm_parameters + sinks * heads,
        cache_elements=2 * keys,
        state_elements=0,
        kept_elements=kept,
        chunked=chunked,
    )


def latent_attention(
    hidden: int,
    heads: int,
    *,
    kv_lora: int,
    q_lora: int | None,
    nope: int,
    rope: int,
    v_dim: int,
    bias: bool = False,
    index_heads: int = 0,
    index_dim: int = 0,
    index_topk: int = 0,
) -> Mixer:
    """MLA: keys and values through a narrow latent, which is all that is cached.

    With `index_topk` it attends to the entries that an indexer chose (DeepSeek sparse attention);
    a layer that only follows the choice of another has no indexer heads of its own.
    """
    qk_dim = nope + rope
    queries = (
        ((hidden, q_lora), (q_lora, heads * qk_dim)) if q_lora else ((hidden, heads * qk_dim),)
    )
    keys = ((hidden, kv_lora + rope), (kv_lora, heads * (nope + v_dim)))
    indexer: tuple[tuple[int, int], ...] = ()
    if index_heads:
        indexer = (
            (q_lora or hidden, index_heads * index_dim),
            (hidden, index_dim),
            (hidden, index_heads),
        )
    projections = (*queries, *keys, *indexer, (heads * v_dim, hidden))
    norms = (q_lora or 0) + kv_lora + (2 * index_dim if index_heads else 0)
    biases = bias * ((q_lora or 0) + kv_lora + rope + hidden)
    # Latents before and after their norms; queries, and keys that each carry the rotary part.
    kept = 2 * (q_lora or 0) + 2 * kv_lora + rope + heads * (2 * qk_dim + 2 * v_dim)
    return Mixer(
        kind="mla",
        heads=heads,
        kv_heads=heads,
        qk_dim=qk_dim,
        v_dim=v_dim,
        window=None,
        projections=projections,
        parameters=_weights(projections) + norms + biases,
        cache_elements=kv_lora + rope + (index_dim if index_heads else 0),
        state_elements=0,
        kept_elements=kept,
        latent=kv_lora,
        rotary=rope,
        selected=index_topk,
        indexer=index_heads * index_dim,
    )


def compressed_attention(
    hidden: int,
    heads: int,
    head_dim: int,
    *,
    window: int,
    q_lora: int,
    o_lora: int,
    o_groups: int,
    compression: int,
    index_heads: int = 0,
    index_dim: int = 0,
    index_topk: int = 0,
) -> Mixer:
    """DeepSeek-V4: one shared key that is its own value, a window, and compressed entries.

    `compression` 0 is the window alone. One with `index_topk` compresses overlapping pairs and
    chooses among them; one without attends to all its entries.
    """
    queries = heads * head_dim
    narrow = o_groups * o_lora
    before = ((hidden, q_lora), (q_lora, queries), (hidden, head_dim))
    after = ((queries // o_groups, narrow), (narrow, hidden))
    compressor: tuple[tuple[int, int], ...] = ()
    extra = q_lora + head_dim + heads  # norms of queries and keys, and the sinks
    if compression:
        overlap = 2 if index_topk else 1
        compressor += ((hidden, overlap * head_dim),) * 2
        extra += compression * overlap * head_dim + head_dim
    if index_topk:
        compressor += ((hidden, 2 * index_dim),) * 2
        compressor += ((q_lora, index_heads * index_dim), (hidden, index_heads))
        extra += compression * 2 * index_dim + index_dim
    projections = (*before, *compressor, *after)
    entry = head_dim + (index_dim if index_topk else 0)
    return Mixer(
        kind="attention",
        heads=heads,
        kv_heads=1,
        qk_dim=head_dim,
        v_dim=head_dim,
        window=None if compression else window,
        projections=projections,
        parameters=_weights(projections) + extra,
        cache_elements=entry // compression if compression else head_dim,
        state_elements=window * head_dim if compression else 0,
        kept_elements=2 * q_lora
        + 2 * head_dim
        + 3 * queries
        + narrow
        + sum(outputs for _, outputs in compressor),
        selected=index_topk,
        indexer=index_heads * index_dim,
        compression=compression or 1,
        local=window if compression else 0,
    )


def delta_net(
    hidden: int,
    key_heads: int,
    value_heads: int,
    key_dim: int,
    value_dim: int,
    kernel: int,
    fused: bool,
) -> Mixer:
    """A gated delta net. `fused`: gates come out of two matrices (Qwen3-Next), not of four."""
    keys, values = key_heads * key_dim, value_heads * value_dim
    convolved = 2 * keys + values
    inputs = (
        (convolved + values, 2 * value_heads)
        if fused
        else (convolved, values, value_heads, value_heads)
    )
    projections = (*((hidden, outputs) for outputs in inputs), (values, hidden))
    state = value_heads * key_dim * value_dim
    return Mixer(
        kind="linear",
        heads=value_heads,
        kv_heads=key_heads,
        qk_dim=key_dim,
        v_dim=value_dim,
        window=None,
        projections=projections,
        # Beside the matrices: convolution, decay and its bias for each head, the gated norm.
        parameters=_weights(projections) + convolved * kernel + 2 * value_heads + value_dim,
        cache_elements=0,
        state_elements=state + convolved * (kernel - 1),
        kept_elements=sum(inputs) + convolved + 2 * values + state // STATE_CHUNK,
    )


def state_space(
    hidden: int,
    heads: int,
    head_dim: int,
    groups: int,
    state: int,
    kernel: int,
    *,
    bias: bool = False,
    convolution_bias: bool = True,
) -> Mixer:
    """Mamba 2: a state of `state` numbers for each of `heads` x `head_dim` channels."""
    inner = heads * head_dim
    convolved = inner + 2 * groups * state
    inputs = inner + convolved + heads
    projections = ((hidden, inputs), (inner, hidden))
    extra = convolved * (kernel + convolution_bias) + 3 * heads + inner + bias * (inputs + hidden)
    return Mixer(
        kind="ssm",
        heads=heads,
        kv_heads=groups,
        qk_dim=state,
        v_dim=head_dim,
        window=None,
        projections=projections,
        parameters=_weights(projections) + extra,
        cache_elements=0,
        state_elements=inner * state + convolved * (kernel - 1),
        kept_elements=inputs + convolved + 2 * inner + inner * state // STATE_CHUNK,
    )


def dense(hidden: int, width: int, *, gated: bool = True, bias: bool = False) -> FeedForward:
    """Gate (if gated), up and down."""
    return FeedForward(width=width, gated=gated, parameters=_expert(hidden, width, gated, bias))


def mixture(
    hidden: int,
    width: int,
    experts: int,
    experts_per_token: int,
    *,
    gated: bool = True,
    bias: bool = False,
    router_bias: bool = False,
    shared_width: int = 0,
    shared_gate: bool = False,
    latent: int = 0,
) -> FeedForward:
    """Experts, the router that chooses among them, and one shared expert of the summed width."""
    expert = _expert(latent or hidden, width, gated, bias)
    shared = _expert(hidden, shared_width, gated, False) if shared_width else 0
    router = experts * (hidden + router_bias)
    return FeedForward(
        width=width,
        gated=gated,
        experts=experts,
        experts_per_token=experts_per_token,
        shared_width=shared_width,
        parameters=experts * expert + router + shared + shared_gate * hidden + 2 * hidden * latent,
        expert_parameters=expert,
        latent=latent,
    )


def _expert(hidden: int, width: int, gated: bool, bias: bool) -> int:
    inputs = 2 * width if gated else width
    return hidden * inputs + width * hidden + bias * (inputs + hidden)


def _weights(projections: tuple[tuple[int, int], ...]) -> int:
    return sum(inputs * outputs for inputs, outputs in projections)
