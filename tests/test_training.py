"""The training model: terms that add up, arrays that are points, memory that torch would take."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigafactory.stack import chips, models, training
from gigafactory.stack.training import BadLayout, Job, Layout, check, step
from gigafactory.stack.training.goodput import daly_interval_s, goodput
from gigafactory.stack.training.memory import layer_bytes
from gigafactory.stack.training.rank import Rank

H100, A100, GB300 = (chips.chip(name) for name in ("H100", "A100", "GB300"))
DENSE = models.read("llama3-70b")
SPARSE = models.read("qwen3-235b-a22b")
GPT = models.read("gpt3-175b")

powers = st.sampled_from([1, 2, 4, 8])


@st.composite
def places(draw):
    """A job on a chip, in a layout that divides."""
    model = draw(st.sampled_from([DENSE, SPARSE, models.read("deepseek-v3"), GPT]))
    chip = draw(st.sampled_from([H100, A100, GB300]))
    precision = "BF16" if chip is A100 else draw(st.sampled_from(["BF16", "FP8"]))
    layout = Layout(
        data=draw(powers) * 8,
        tensor=draw(powers),
        pipeline=draw(powers),
        context=draw(st.sampled_from([1, 2])),
        expert=draw(powers) if model.experts else 1,
        microbatch=draw(st.sampled_from([1, 2])),
        recompute=draw(st.integers(0, 3)),
        zero=draw(st.integers(0, 3)),
        sequence_parallel=draw(st.booleans()),
    )
    task = draw(st.sampled_from(training.TASKS))
    return (
        Job(model, 4096, 1024, precision, task, year=draw(st.sampled_from([2021, 2026.5]))),
        chip,
        layout,
    )


@given(places())
@settings(max_examples=60, deadline=None)
def test_terms_are_never_negative_and_add_up(place):
    taken = step(*place)
    parts = [float(getattr(taken, part)) for part in training.PARTS]
    held = [float(getattr(taken, part)) for part in training.MEMORY]
    assert all(part >= 0 for part in parts + held)
    assert math.isclose(sum(parts), float(taken.step_s))
    assert math.isclose(sum(held), float(taken.memory_bytes))
    assert math.isfinite(float(taken.step_s))


@given(st.lists(places(), min_size=2, max_size=5))
@settings(max_examples=25, deadline=None)
def test_an_array_of_layouts_is_its_points(found):
    job, chip, _ = found[0]
    layouts = [
        replace(layout, expert=1 if not job.model.experts else layout.expert)
        for *_, layout in found
    ]
    columns = {
        name: np.array([getattr(layout, name) for layout in layouts])
        for name in Layout.__dataclass_fields__
    }
    together = step(job, chip, Layout(**columns))
    alone = [step(job, chip, layout) for layout in layouts]
    np.testing.assert_allclose(together.step_s, [float(one.step_s) for one in alone], rtol=1e-9)
    np.testing.assert_allclose(
        together.memory_bytes, [float(one.memory_bytes) for one in alone], rtol=1e-9
    )


@given(places())
@settings(max_examples=40, deadline=None)
def test_recomputing_more_takes_longer_and_holds_less(place):
    job, chip, layout = place
    steps = [step(job, chip, replace(layout, recompute=mode)) for mode in (0, 2, 3)]
    times = [float(one.step_s) for one in steps]
    held = [float(one.activations_bytes) for one in steps]
    assert times[0] <= times[1] * (1 + 1e-9)
    assert times[1] <= times[2] * (1 + 1e-9)
    if layout.pipeline > 1:  # Alone, the one layer being repeated may be most of it.
        assert held == sorted(held, reverse=True)


@given(places())
@settings(max_examples=40, deadline=None)
def test_sharding_more_never_holds_more(place):
    job, chip, layout = place
    if layout.pipeline > 1:
        layout = replace(layout, pipeline=1)
    held = [float(step(job, chip, replace(layout, zero=stage)).states_bytes) for stage in range(4)]
    assert held == sorted(held, reverse=True)


def test_the_bubble_is_that_of_the_published_formula():
    job, layout = Job(GPT, 2048, 64, "BF16"), Layout(data=1, tensor=8, pipeline=8)
    whole, chunked = step(job, A100, layout), step(job, A100, replace(layout, virtual=4))
    steady = sum(
        float(getattr(whole, part))
        for part in training.PARTS
        if part not in ("bubble_s", "pipeline_s", "data_s", "optimizer_s", "offload_s", "jitter_s")
    )
    assert math.isclose(float(whole.bubble_s) / steady, 7 / 64)  # (p - 1) / m
    assert math.isclose(float(whole.bubble_s) / float(chunked.bubble_s), 4)


def test_model_flops_are_those_that_megatron_counts():
    # Qwen3-235B-A22B, 4,096 tokens: 8,816 tokens/s/GPU are told as 1,306 TFLOP/s.
    job = Job(SPARSE, 4096, 1)
    assert math.isclose(training.model_flops(job) / 4096 * 8816, 1306e12, rel_tol=0.01)
    # GPT-3 175B, 2,048 tokens: 782 tokens/s/GPU are told as 842 TFLOP/s, all scores counted.
    assert math.isclose(
        training.flops_per_token(Job(GPT, 2048, 1), 1.0) * 782, 842e12, rel_tol=0.02
    )


def test_activations_of_a_layer_are_what_torch_saves():
    import torch
    from torch import nn
    from torch.nn import functional

    hidden, heads, tokens = 256, 4, 128
    saved: dict[int, int] = {}

    def pack(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    bf16 = {"dtype": torch.bfloat16}
    norms = [nn.LayerNorm(hidden, **bf16) for _ in range(2)]
    qkv, out = nn.Linear(hidden, 3 * hidden, **bf16), nn.Linear(hidden, hidden, **bf16)
    up, down = nn.Linear(hidden, 4 * hidden, **bf16), nn.Linear(4 * hidden, hidden, **bf16)
    x = torch.randn(1, tokens, hidden, requires_grad=True, **bf16)
    weights = {
        p.untyped_storage()._cdata for m in (*norms, qkv, out, up, down) for p in m.parameters()
    }
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        q, k, v = qkv(norms[0](x)).view(1, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + out(y.transpose(1, 2).reshape(1, tokens, hidden))
        x = x + down(functional.gelu(up(norms[1](x))))
    kept = sum(size for key, size in saved.items() if key not in weights)

    tiny = models.of_shape(
        "tiny", layers=1, hidden=hidden, ffn=4 * hidden, heads=heads, vocabulary=64, gated=False
    )
    job = Job(tiny, tokens, 1)
    rank = Rank(job, H100, Layout(), training.constants("Hopper"))
    modelled = float(layer_bytes(rank, tiny.blocks[0], training.NONE))
    assert math.isclose(modelled, kept, rel_tol=0.05)


def test_published_memory_is_met():
    # torchtitan, December 2024: Llama 3.1 405B on 512 H100 of 96 GB, FSDP 8, TP 8, PP 8 in
    # 1F1B, full recomputation: 75.3 GB at 32,768 tokens (as PyTorch counts: GiB).
    job = Job(models.read("llama3.1-405b"), 32768, 64, "FP8", year=2024.95)
    layout = Layout(data=8, tensor=8, pipeline=8, recompute=training.FULL, zero=3)
    taken = step(job, chips.chip("H100-96GB-HBM2e-500W"), layout)
    assert 0.8 < float(taken.memory_bytes) / (75.3 * 2**30) < 1.2


def test_what_ran_on_a_full_card_fits_and_a_third_more_does_not():
    # llm-foundry's MPT-1B on 128 A100 of 40 GB ran 10 sequences at once, the most that went.
    job = Job(models.read("mpt-1b"), 2048, 1280, "BF16", year=2023.5)
    card = chips.chip("A100-40GB")
    layout = Layout(data=128, microbatch=10, zero=3)
    assert step(job, card, layout).fits(card)
    assert not step(replace(job, batch=1792), card, replace(layout, microbatch=14)).fits(card)


@pytest.mark.parametrize(
    ("wrong", "field", "would_do"),
    [
        ({"tensor": 3}, "tp", 2),
        ({"virtual": 7}, "vpp", 5),
        ({"data": 3}, "dp", 2),
        ({"microbatch": 5}, "mb", 4),
        ({"pipeline": 0}, "pp", 1),
        ({"zero": 4}, "zero", 3),
    ],
)
def test_a_layout_that_does_not_divide_names_the_field_and_what_would(wrong, field, would_do):
    job = Job(DENSE, 4096, 128)
    layout = replace(Layout(data=2, tensor=4, pipeline=8), **wrong)
    with pytest.raises(BadLayout) as caught:
        check(job, 64, layout)
    assert caught.value.field == field
    assert would_do in caught.value.valid


def test_power_lies_between_idle_and_full():
    taken = step(
        Job(DENSE, 8192, 128, "FP8"), H100, Layout(data=2, tensor=4, pipeline=8, virtual=5)
    )
    power = float(training.power_w(taken, H100))
    assert H100.idle_w < power < H100.busy_w


def test_goodput_meets_what_llama_3_reported():
    # 16,384 H100, an interruption each 3.09 h; over 90 % effective (arXiv:2407.21783, 3.3.4).
    lost = goodput(models.read("llama3.1-405b"), 16384)
    assert math.isclose(lost.mtbf_s / 3600, 3.09, rel_tol=0.01)
    assert 0.88 < lost.share < 0.93


@given(st.floats(0.1, 1e3), st.floats(1e3, 1e7))
def test_dalys_interval_is_near_youngs_where_checkpoints_are_cheap(checkpoint_s, mtbf_s):
    interval = daly_interval_s(checkpoint_s, mtbf_s)
    young = math.sqrt(2 * checkpoint_s * mtbf_s)
    assert interval > 0
    if checkpoint_s < mtbf_s / 1000:
        assert math.isclose(interval, young, rel_tol=0.05)
