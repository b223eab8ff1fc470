"""Models as numbers: counts against `transformers`, FLOPs and bytes against published ones."""

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.stack import facts, models

SMALL = models.read("smollm2-135m")
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 320,
}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 32}
MOE = QWEN3 | {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
MLA = LLAMA | {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
}
GPT = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 320}
CONFIGS = sorted(path.stem for path in models.CONFIGS.glob("*.json"))
# What transformers 5.23 does not build: InternLM 1, whose code came with its checkpoint.
NOT_BUILT = {"internlm-7b"}
# Its name there is another: Kimi K2 is a DeepSeek-V3 of other numbers.
BUILT_AS = {"kimi_k2": "deepseek_v3"}
unhurried = settings(deadline=None, max_examples=60)


# Parameters


def toys():
    """Small configs that turn each switch."""
    yield "llama", LLAMA
    yield "llama tied", LLAMA | {"tie_word_embeddings": True}
    yield "llama biased", LLAMA | {"attention_bias": True, "mlp_bias": True}
    yield "mistral", LLAMA | {"model_type": "mistral", "sliding_window": None}
    yield "mistral windowed", LLAMA | {"model_type": "mistral", "sliding_window": 8}
    yield "mixtral", MOE | {"model_type": "mixtral", "num_local_experts": 4}
    yield "qwen2", LLAMA | {"model_type": "qwen2"}
    yield (
        "qwen2_moe",
        MOE | {"model_type": "qwen2_moe", "head_dim": 16, "shared_expert_intermediate_size": 80},
    )
    yield "qwen3", QWEN3
    yield "qwen3 biased", QWEN3 | {"attention_bias": True}
    yield "qwen3 windowed", QWEN3 | {"use_sliding_window": True, "sliding_window": 8}
    yield "qwen3_moe", MOE
    yield "qwen3_moe every second", MOE | {"decoder_sparse_step": 2}
    yield "qwen3_moe dense first", MOE | {"mlp_only_layers": [0]}
    yield "deepseek_v3", MLA
    yield "deepseek_v3 plain queries", MLA | {"q_lora_rank": None}
    yield "deepseek_v3 biased", MLA | {"attention_bias": True}
    yield "deepseek_v2", MLA | {"model_type": "deepseek_v2"}
    glm = MLA | {"model_type": "glm4_moe", "head_dim": 16, "use_qk_norm": True}
    yield "glm4_moe", glm
    yield "glm4_moe biased", glm | {"attention_bias": True, "use_qk_norm": False}
    yield (
        "glm_moe_dsa sharing",
        MLA
        | {"model_type": "glm_moe_dsa", "index_n_heads": 4, "index_head_dim": 16}
        | {"index_topk": 8, "index_topk_freq": 2},
    )
    yield (
        "deepseek_v32",
        MLA
        | {"model_type": "deepseek_v32", "index_n_heads": 4, "index_head_dim": 16}
        | {"index_topk": 8},
    )
    yield (
        "qwen3_5_text",
        QWEN3
        | {"model_type": "qwen3_5_text", "linear_num_key_heads": 2, "linear_num_value_heads": 4}
        | {"linear_key_head_dim": 16, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4}
        | {"full_attention_interval": 3},
    )
    yield "gpt_oss", MOE | {"model_type": "gpt_oss", "num_local_experts": 4, "sliding_window": 8}
    yield (
        "llama4_text",
        MOE
        | {"model_type": "llama4_text", "num_local_experts": 4, "intermediate_size_mlp": 96}
        | {"interleave_moe_layer_step": 2, "attention_chunk_size": 8},
    )
    yield (
        "gemma3_text",
        QWEN3
        | {"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh"}
        | {"sliding_window": 8, "tie_word_embeddings": True},
    )
    yield "nemotron", LLAMA | {"model_type": "nemotron", "hidden_act": "relu2"}
    yield "gpt2", GPT | {"model_type": "gpt2"}
    yield "gpt_bigcode", GPT | {"model_type": "gpt_bigcode"}
    yield "gpt_neox", LLAMA | {"model_type": "gpt_neox", "hidden_act": "gelu"}


def shipped():
    """The config of each name that has one, as transformers is to read it."""
    for name in CONFIGS:
        reason = "transformers 5.23 has no such type"
        marks = [pytest.mark.skip(reason)] if name in NOT_BUILT else []
        yield pytest.param(models.shipped_config(name), id=name, marks=marks)


def build(config):
    """The model of `transformers`, without memory for its weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind = BUILT_AS.get(config["model_type"], config["model_type"])
    fields = {key: value for key, value in config.items() if key != "model_type"}
    fields.pop("quantization_config", None)  # The count is that of the weights before packing.
    typed = transformers.AutoConfig.for_model(kind, **fields)
    if kind == "qwen3_omni_moe":
        make = transformers.Qwen3OmniMoeForConditionalGeneration
    elif hasattr(typed, "vision_config"):
        make = transformers.AutoModelForImageTextToText.from_config
    else:
        make = transformers.AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return make(typed)


@pytest.mark.parametrize("config", [pytest.param(one, id=name) for name, one in toys()])
def test_parameters_of_every_switch_equal_those_that_transformers_counts(config):
    assert models.read(config).parameters == build(config).num_parameters()


@pytest.mark.parametrize("config", shipped())
def test_parameters_of_every_config_equal_those_that_transformers_counts(config):
    assert models.read(config).parameters == build(config).num_parameters()


@pytest.mark.parametrize(
    ("name", "parameters", "active", "within"),
    [
        ("qwen3-30b-a3b", 30.53e9, 3.35e9, 0.002),
        ("qwen3-235b-a22b", 235.1e9, 22.2e9, 0.002),
        ("qwen3-coder-480b-a35b", 480e9, 35e9, 0.02),
        ("qwen3-next-80b-a3b", 80e9, 3.9e9, 0.01),  # model card: 80B in all, 3B activated
        ("qwen3.5-397b-a17b", 397e9, 17e9, 0.03),
        ("deepseek-v3", 671e9, 37e9, 0.02),
        ("kimi-k2", 1.03e12, 32e9, 0.03),
        ("glm-5", 744e9, 40e9, 0.05),
        ("llama4-scout", 109e9, 17e9, 0.02),
        ("llama4-maverick", 402e9, 17e9, 0.02),
        ("mixtral-8x7b", 46.7e9, 12.9e9, 0.002),
        ("minimax-m2.5", 230e9, 10e9, 0.11),
        ("nemotron3-nano", 31.6e9, 3.6e9, 0.01),  # arXiv:2512.20848, with embeddings
        ("smollm2-135m", 134_515_008, 134_515_008, 0),
        ("gpt3-175b", 175e9, 175e9, 0.003),
        ("palm-540b", 540.35e9, 540.35e9, 1e-4),
        ("megatron-1000b", 1008e9, 1008e9, 1e-4),
        ("nemotron-340b", 341e9, 341e9, 0.001),
    ],
)
def test_parameters_are_those_the_world_knows(name, parameters, active, within):
    model = models.read(name)
    assert model.parameters == pytest.approx(parameters, rel=within)
    assert model.parameters_active == pytest.approx(active, rel=within)


def test_gpt_oss_counts_its_active_parameters_without_the_input_embedding():
    # Model card, arXiv:2508.10925, table 1: 116.83 B and 5.13 B, 20.91 B and 3.61 B.
    large, small = models.read("gpt-oss-120b"), models.read("gpt-oss-20b")
    assert large.parameters == pytest.approx(116.83e9, rel=1e-4)
    assert large.parameters_multiplied == pytest.approx(5.13e9, rel=1e-3)
    assert small.parameters == pytest.approx(20.91e9, rel=1e-3)
    assert small.parameters_multiplied == pytest.approx(3.61e9, rel=1e-3)


def test_multi_token_prediction_is_counted_apart():
    # README_WEIGHTS.md of DeepSeek-V3: 11.5 B of its own.
    model = models.read("deepseek-v3")
    assert model.parameters_mtp == pytest.approx(11.5e9, rel=0.02)
    assert model.layers == 61 == sum(block.count for block in model.blocks)
    assert [block.count for block in model.blocks] == [3, 58]
    assert models.read("kimi-k2").mtp == ()


def test_the_published_formula_of_gpt_is_met():
    # Narayanan et al. 2021, equation 2: 12 l h^2 (1 + 13 / 12 h + (V + s) / 12 l h).
    for name in ("megatron-7.5b", "megatron-145b", "megatron-22b", "turing-530b"):
        model = models.read(name)
        layers, hidden = model.layers, model.hidden
        formula = 12 * layers * hidden**2 + 13 * layers * hidden + (51200 + 2048) * hidden
        assert model.parameters - formula == 2 * hidden  # the last norm


def test_a_tower_is_no_part_of_what_a_token_meets():
    omni = models.read("qwen3-omni-30b-a3b")
    assert {tower.kind for tower in omni.encoders} == {"audio", "vision", "talker", "vocoder"}
    assert omni.parameters == omni.parameters_decoder + sum(e.parameters for e in omni.encoders)
    assert omni.parameters_active == pytest.approx(3.35e9, rel=0.01)


def test_hybrids_keep_their_layers_apart():
    nemotron, qwen = models.read("nemotron3-super"), models.read("qwen3.5-397b-a17b")
    kinds = {block.mixer.kind: block.count for block in nemotron.blocks}
    assert kinds == {"ssm": 40, "none": 40, "attention": 8}
    assert [(block.count, block.mixer.kind) for block in qwen.blocks] == [
        (45, "linear"),
        (15, "attention"),
    ]
    assert (qwen.heads, qwen.kv_heads, qwen.head_dim) == (32, 2, 256)


@pytest.mark.parametrize("name", models.shipped())
def test_the_parts_of_a_model_add_up(name):
    model = models.read(name)
    for block in (*model.blocks, *model.mtp):
        mixer, forward = block.mixer, block.feed_forward
        weights = sum(inputs * outputs for inputs, outputs in mixer.projections)
        assert weights <= mixer.parameters <= weights * 1.01
        if mixer.kind != "none":
            assert mixer.projections[-1][1] == model.hidden
        assert (mixer.cache_elements == 0) == (mixer.kind in ("linear", "ssm", "none"))
        assert forward.parameters >= forward.experts * forward.expert_parameters
        assert models.feed_forward_weights(forward, model.hidden) <= forward.parameters_active
    assert model.parameters_active <= model.parameters_decoder <= model.parameters
    assert hash(model) == hash(models.read(name))


# FLOPs


@pytest.mark.parametrize(
    ("name", "gflop_per_token"), [("qwen3-30b-a3b", 23.00), ("qwen3-235b-a22b", 148.0)]
)
def test_flops_are_those_of_published_runs(name, gflop_per_token):
    # TFLOP/s over tokens/s of Megatron-Bridge 26.08 at 4096 tokens, medians of its rows.
    flops = models.flops_per_token(models.read(name), 4096)
    assert flops == pytest.approx(gflop_per_token * 1e9, rel=0.007)


def test_flops_of_gpt_are_those_of_the_published_formula():
    # Narayanan et al. 2021, without recomputation: 72 B s l h^2 (1 + s / 6h + V / 12lh), which
    # takes attention as if there were no causal mask; with it the second term halves.
    model, sequence = models.read("megatron-145b"), 2048
    layers, hidden, vocabulary = model.layers, model.hidden, model.vocabulary
    attention = (sequence + 1) / (12 * hidden)
    formula = 72 * layers * hidden**2 * (1 + attention + vocabulary / (12 * layers * hidden))
    assert models.flops_per_token(model, sequence) == pytest.approx(formula, rel=1e-9)


def mixers():
    """One of each kind that attends."""
    for name in ("llama3.1-8b", "mistral-7b", "gpt-oss-20b", "llama4-scout", "glm-5"):
        yield from (block.mixer for block in models.read(name).blocks)
    for block in models.read("deepseek-v4-flash").blocks:
        yield block.mixer


def entries(mixer, tokens):
    """What the query after `tokens` - 1 others attends to, said once more in plain words."""
    if mixer.chunked:
        return (tokens - 1) % mixer.window + 1
    if mixer.compression > 1:
        return min(tokens // mixer.compression, mixer.selected or tokens) + min(tokens, mixer.local)
    return min(tokens, mixer.window or tokens, mixer.selected or tokens)


@pytest.mark.parametrize("mixer", mixers())
def test_attended_pairs_are_those_counted_one_by_one(mixer):
    total = 0
    for tokens in range(1, 20_000):
        total += entries(mixer, tokens)
        if tokens % 1_777 == 0 or tokens < 10:
            assert models.attended(mixer, tokens) == total


@unhurried
@given(
    st.sampled_from(["llama3.1-8b", "gpt-oss-20b", "nemotron3-nano", "qwen3-next-80b-a3b"]),
    st.integers(1, 20_000),
    st.integers(1, 20_000),
)
def test_a_prompt_costs_the_same_in_one_piece_or_two(name, first, second):
    model = models.read(name)
    whole = models.forward_flops(model, first + second)
    parts = models.forward_flops(model, first)
    parts += models.forward_flops(model, second, context=first)
    assert parts == pytest.approx(whole, rel=1e-12)


def test_a_decode_step_of_mla_folds_its_latents():
    model = models.read("deepseek-v3")
    layer, context = model.blocks[-1].mixer, 4096
    flops = models.attention_flops(layer, 1, context=context)
    assert flops == 2 * (context + 1) * 128 * (2 * 512 + 64)
    # A long piece of a prompt unfolds them: cheaper than 1088 a pair and head.
    assert models.attention_flops(layer, 8192, context=1) < 0.3 * 128 * 8192**2 * 1088


def test_logits_of_one_position_save_the_others():
    model = models.read("llama3.1-8b")
    saved = models.forward_flops(model, 100) - models.forward_flops(model, 100, logits=1)
    assert saved == 2 * 99 * model.hidden * model.vocabulary


def test_multi_token_prediction_costs_a_layer_an_entry_and_logits():
    model = models.read("deepseek-v3")
    more = models.forward_flops(model, 64, mtp=True) - models.forward_flops(model, 64)
    layer = models.layer_flops(model.mtp[0], model.hidden, 64)
    assert more == layer + 2 * 64 * model.hidden * model.vocabulary
    assert layer - models.layer_flops(model.blocks[1], model.hidden, 64) == 4 * 64 * 7168**2


# Bytes


@pytest.mark.parametrize(
    ("name", "cache_bytes"),
    [
        ("smollm2-135m", 2 * 30 * 3 * 64 * 2),
        ("deepseek-v3", 61 * (512 + 64) * 2),  # 70,272 B: DeepSeek-V3, arXiv:2505.09343, table 1
        ("llama3.1-405b", 516_096),  # the same table: 516 kB
        ("qwen3-235b-a22b", 94 * 2 * 4 * 128 * 2),
        ("glm-5", 78 * (512 + 64 + 128) * 2),
        ("nemotron3-nano", 6 * 2 * 2 * 128 * 2),
        ("qwen3.5-397b-a17b", 15 * 2 * 2 * 256 * 2),
    ],
)
def test_the_cache_of_a_token_is_what_all_layers_keep_of_it(name, cache_bytes):
    assert models.kv_bytes_per_token(models.read(name), 2) == cache_bytes


def test_windows_end_the_cache_and_states_are_added():
    oss = models.read("gpt-oss-20b")  # every second layer sees 128 tokens
    assert models.kv_bytes(oss, 100) == 100 * models.kv_bytes_per_token(oss)
    half = models.kv_bytes_per_token(oss) // 2
    assert models.kv_bytes(oss, 10_000) == (10_000 + 128) * half
    flash = models.read("deepseek-v4-flash")  # windows of 128 beside the compressed entries
    assert models.kv_bytes(flash, 0) == 0
    a_token = models.kv_bytes_per_token(flash) - 2 * 2 * 512
    assert models.kv_bytes(flash, 1000) == 1000 * a_token + 43 * 128 * 512 * 2
    nano = models.read("nemotron3-nano")
    state = 64 * 64 * 128 + (64 * 64 + 2 * 8 * 128) * 3
    assert models.kv_bytes(nano, 0) == 23 * state * 4
    assert models.kv_bytes(nano, 10) - models.kv_bytes(nano, 0) == 10 * 6144


@pytest.mark.parametrize(
    ("name", "linear", "experts", "gigabytes"),
    [
        ("llama3.1-8b", "bfloat16", "bfloat16", 16.06),
        ("deepseek-v3", "fp8", "fp8", 673),  # 688.6 GB on Hugging Face with 11.5e9 of prediction
        ("gpt-oss-120b", "bfloat16", "mxfp4", 65.3),  # 60.8 GiB: arXiv:2508.10925, table 1
        ("gpt-oss-20b", "bfloat16", "mxfp4", 13.76),  # 12.8 GiB
        ("kimi-k2.5", "bfloat16", "int4", 595),
        ("deepseek-v4-flash", "fp8", "mxfp4", 157),
    ],
)
def test_weights_weigh_what_their_dtypes_say(name, linear, experts, gigabytes):
    model = models.read(name)
    assert (model.weight_dtype, model.expert_dtype) == (linear, experts)
    assert models.weight_bytes(model) == pytest.approx(gigabytes * 1e9, rel=0.02)
    assert models.weight_bytes(model, "bfloat16") == 2 * model.parameters


def test_activations_of_a_gpt_layer_are_those_of_the_paper():
    # Korthikanti et al. 2022, arXiv:2205.05198, equation 1 without its scores: 34 h a token.
    model = models.read("megatron-22b")
    (layer,) = model.blocks
    bytes_each = models.activation_bytes_per_token
    assert bytes_each(layer, model.hidden, dropout=True) == 34 * model.hidden
    assert bytes_each(layer, model.hidden) == 32 * model.hidden
    assert bytes_each(layer, model.hidden, "selective") == 32 * model.hidden
    assert bytes_each(layer, model.hidden, "full") == 2 * model.hidden


def test_activations_of_a_gated_layer_with_experts_are_counted_by_their_divisor():
    model = models.read("qwen3-30b-a3b")
    kept = models.kept(model.blocks[0], model.hidden)
    assert kept.residual == 4 * 2048
    # Queries and keys twice for their norms, values, and the attention's output.
    assert kept.mixer == 2 * (4096 + 512) + 512 + 4096
    assert kept.feed_forward == 0
    assert kept.routed == 8 * (2 * 2048 + 3 * 768) + 2 * 128


# LoRA


def test_adapters_are_those_that_peft_adds():
    # peft 0.17, r=16, all-linear, on SmolLM2-135M.
    assert models.adapter_parameters(SMALL, 16) == 4_884_480


# Sources


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model_type": "mamba"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "sliding_window"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["full", "full", "full"]}, "layer_types"),
        ({"quantization_config": {"quant_method": "magic"}}, "quant_method"),
        ({"model_type": "qwen3_moe"}, "moe_intermediate_size"),
        ({"model_type": "deepseek_v3"}, "kv_lora_rank"),
        ({"model_type": "nemotron_h"}, "hybrid_override_pattern"),
        ({"model_type": "llama4"}, "text_config"),
    ],
)
def test_what_is_not_understood_is_refused_by_field(change, field):
    with pytest.raises(models.UnknownModel) as error:
        models.read(LLAMA | change)
    assert error.value.field == field
    assert error.value.known


odd = st.none() | st.booleans() | st.integers(-2, 4) | st.sampled_from(["", "x", (), {}, [3], 0.5])


@unhurried
@given(st.sampled_from([LLAMA, MOE, MLA]), st.data())
def test_an_odd_value_is_read_or_refused_never_a_crash(config, data):
    field = data.draw(st.sampled_from([*config, "layer_types", "quantization_config", "head_dim"]))
    try:
        model = models.read(config | {field: data.draw(odd)})
    except models.UnknownModel:
        return
    assert 0 < model.parameters_active <= model.parameters


def test_a_misspelt_type_is_told_its_neighbours():
    with pytest.raises(models.UnknownModel, match="qwen3_moe"):
        models.read(LLAMA | {"model_type": "qwen3moe"})


def test_a_model_is_read_by_name_by_file_and_by_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    by_file, by_folder = models.read(tmp_path / "config.json"), models.read(str(tmp_path))
    assert by_file == by_folder
    with pytest.raises(models.UnknownModel, match="smollm2-135m"):
        models.read("smollm-135m")


def test_an_alias_is_its_model_under_another_name():
    third, base = models.read("llama3.3-70b"), models.read("llama3.1-70b")
    assert third.name == "llama3.3-70b"
    assert replace(third, name=base.name) == base
    assert models.shipped_config("llama3-8b") == models.shipped_config("llama3.1-8b")
    with pytest.raises(models.UnknownModel, match=r"llama3\.1-8b"):
        models.shipped_config("llama3.1-9b")


def test_what_is_assumed_says_so():
    assumed = models.read("qwen3-max")
    assert 1e12 < assumed.parameters < 1.1e12
    assert assumed.assumptions
    assert not models.read("qwen3-32b").assumptions


def test_every_shipped_file_and_shape_names_its_source():
    older = {"qwen3-235b-a22b", "qwen3-30b-a3b", "qwen3-moe-10m", "qwen3-moe-tiny", "smollm2-135m"}
    for name in CONFIGS:
        fields = json.loads((models.CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
        assert name in older or fields["_source"], name
    with open(models.CONFIGS.parent / "shapes.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert row["source"], row
            assert row["as_of"], row
            assert row["basis"] in facts.BASES, row


# Shapes

widths = st.integers(1, 64).map(lambda n: 64 * n)
few = st.integers(1, 12)


@unhurried
@given(layers=few, hidden=widths, ffn=widths, heads=few, vocabulary=widths, gated=st.booleans())
def test_a_shape_is_its_matrices_and_little_more(layers, hidden, ffn, heads, vocabulary, gated):
    shape = {"layers": layers, "hidden": hidden, "ffn": ffn, "heads": heads, "head_dim": 64}
    model = models.of_shape("shape", **shape, vocabulary=vocabulary, gated=gated)
    matrices = layers * (4 * hidden * heads * 64 + (3 if gated else 2) * hidden * ffn)
    matrices += 2 * vocabulary * hidden
    norms = (1 if gated else 2) * hidden * (2 * layers + 1)
    assert model.parameters == model.parameters_active == matrices + norms
    assert model.parameters_multiplied == model.parameters - vocabulary * hidden
    flops = models.forward_flops(model, 1)
    assert flops == 2 * (matrices - vocabulary * hidden) + 4 * layers * heads * 64


@unhurried
@given(layers=st.integers(2, 12), hidden=widths, experts=st.integers(2, 64), data=st.data())
def test_experts_change_what_is_kept_not_what_is_met(layers, hidden, experts, data):
    chosen = data.draw(st.integers(1, experts))
    dense_first = data.draw(st.integers(0, layers))

    def shape(number):
        return models.of_shape(
            "shape",
            layers=layers,
            hidden=hidden,
            ffn=4 * hidden,
            heads=hidden // 64,
            vocabulary=1024,
            experts=number,
            experts_per_token=chosen,
            expert_ffn=128,
            shared_experts=1,
            dense_first=dense_first,
        )

    few_experts, more = shape(experts), shape(experts + 8)
    sparse = layers - dense_first
    assert more.parameters_active - few_experts.parameters_active == sparse * 8 * hidden
    assert more.parameters - few_experts.parameters == sparse * 8 * hidden * (3 * 128 + 1)
    assert few_experts.layers == layers
    assert few_experts.experts == (experts if sparse else 0)


@unhurried
@given(heads=few, kv_lora=widths, q_lora=st.none() | widths)
def test_a_latent_cache_does_not_grow_with_heads(heads, kv_lora, q_lora):
    shape = {"layers": 2, "hidden": 512, "ffn": 1024, "head_dim": 128, "vocabulary": 1024}
    model = models.of_shape("shape", **shape, heads=heads, kv_lora=kv_lora, q_lora=q_lora)
    assert models.kv_bytes_per_token(model) == 2 * 2 * (kv_lora + 64)
    assert models.kv_bytes(model, 1000) == 1000 * models.kv_bytes_per_token(model)


@unhurried
@given(st.sampled_from(models.shipped()), st.integers(0, 100_000), st.integers(1, 100_000))
def test_a_longer_context_never_needs_less(name, context, more):
    model = models.read(name)
    assert models.kv_bytes(model, context) <= models.kv_bytes(model, context + more)
    step, later = (models.forward_flops(model, 1, context=n) for n in (context, context + more))
    # Chunked attention starts afresh at the edge of a chunk; nothing else forgets.
    assert step <= later or any(block.mixer.chunked for block in model.blocks)
