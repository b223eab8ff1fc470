"""The search of layouts: every claim that its pruning rests on, and that it changes nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gigafactory.stack import chips, facts, models, training
from gigafactory.stack.training import Job, Layout, search
from gigafactory.stack.training.search import NothingFits

A100, H100 = chips.chip("A100-80 SXM"), chips.chip("H100 SXM")
GPT3 = Job(models.read("gpt3-175b"), 2048, 3072)
LLAMA = models.read("llama2-70b")
CHIPS = [A100, H100] + [chips.chip(name) for name in ("GB200", "MI300X", "TPU v5p", "H100 NVL")]
SHIPPED = ("qwen3-0.6b", "qwen3-30b-a3b", "nemotron3-nano", "deepseek-v3", "qwen3-next-80b-a3b")
LESS = 1 + 1e-12
"""What rounding may add to a bound."""


@st.composite
def invented(draw):
    heads = draw(st.sampled_from([1, 4, 6, 16]))
    hidden = heads * draw(st.sampled_from([16, 64, 128]))
    experts = draw(st.sampled_from([0, 0, 4, 12]))
    return models.of_shape(
        "invented",
        layers=draw(st.integers(1, 40)),
        hidden=hidden,
        ffn=hidden * draw(st.integers(1, 4)),
        heads=heads,
        kv_heads=draw(st.sampled_from([1, heads])),
        vocabulary=draw(st.sampled_from([1000, 128000])),
        experts=experts,
        experts_per_token=min(experts, 2),
        gated=draw(st.booleans()),
        tied=draw(st.booleans()),
    )


@st.composite
def jobs(draw):
    model = draw(st.one_of(invented(), st.sampled_from(SHIPPED).map(models.read)))
    return Job(
        model,
        sequence=draw(st.sampled_from([6, 512, 4096])),
        batch=draw(st.integers(1, 24)),
        precision=draw(st.sampled_from(["BF16", "FP8"])),
        task=draw(st.sampled_from(training.TASKS)),
        year=draw(st.sampled_from([2021.5, 2023.5, 2024.5, 2026.5])),
    )


to_64 = st.sampled_from([4, 8, 12, 16, 24, 32, 48, 64]) | st.integers(1, 64)


@st.composite
def spaces(draw, counts=to_64):
    """A job, a chip that has its precision, and how many."""
    job, chip = draw(jobs()), draw(st.sampled_from(CHIPS))
    assume(training.PRECISIONS[job.precision] in chip.flop_per_s)
    return job, chip, draw(counts)


objectives = st.sampled_from(sorted(search.OBJECTIVES))
unhurried = settings(deadline=None, max_examples=50)


def answer(function, *args, **options):
    """What a search says, less what it cost to find."""
    try:
        found = function(*args, **options)
    except NothingFits as error:
        return str(error)
    return replace(found, evaluated=0, fitting=None)


def grid(job, chip, count, objective="time"):
    """The value, and the memory, at every mode of every shape: axes of modes, then shapes."""
    space = search._Space(job, chip, count, objective, None, None)
    assume(space.shapes > 0)
    table = space.table[:, :: math.ceil(space.shapes / 300)]
    step = space.steps(table, search.MODES)
    full = (*map(len, search.MODES.values()), table.shape[1])
    value = space.value(step, chip, search._used(table))
    return np.broadcast_to(value, full), np.broadcast_to(step.memory_bytes, full)


def at(values, axis, chosen):
    """The part of a grid where the mode of `axis` is one of those `chosen`."""
    name = list(search.MODES)[axis]
    return values.take([search.MODES[name].index(value) for value in chosen[name]], axis)


# The claims


@pytest.mark.parametrize("axis", range(len(search.MODES)), ids=list(search.MODES))
@settings(deadline=None, max_examples=15)
@given(space=spaces(st.sampled_from([1, 4, 12, 16])), objective=objectives)
def test_no_mode_is_below_the_fastest_of_its_axis(axis, space, objective):
    value, _ = grid(*space, objective)
    fastest = at(value, axis, search.FASTEST).min(axis, keepdims=True)
    if "offload" in list(search.MODES)[axis]:
        assert np.all(fastest <= value * LESS)
    else:  # Where nothing is offloaded: what is slower may hide more of that.
        kept = np.s_[..., 0, 0, :]
        assert np.all(fastest[kept] <= value[kept] * LESS)


@pytest.mark.parametrize("axis", range(len(search.MODES)), ids=list(search.MODES))
@settings(deadline=None, max_examples=15)
@given(space=spaces(st.sampled_from([1, 4, 12, 16])))
def test_no_mode_is_smaller_than_the_most_frugal_of_its_axis(axis, space):
    _, memory = grid(*space)
    frugal = at(memory, axis, search.FRUGAL).min(axis, keepdims=True)
    assert np.all(frugal <= memory * LESS)


@unhurried
@given(spaces(), objectives)
def test_bounds_are_below_every_mode_of_their_shape(space, objective):
    everywhere = search._Space(*space, objective, math.inf, None)
    assume(0 < everywhere.shapes < 2000)
    bound, small = everywhere.bounds()
    step = everywhere.steps(everywhere.table, search.MODES)
    value = everywhere.value(step, space[1], search._used(everywhere.table))
    assert np.all(bound <= value * LESS)
    assert np.all(small <= step.memory_bytes * LESS)


def test_constants_are_such_that_the_fast_modes_are_fast():
    for architecture in {*facts.by_subject("training"), "unheard of"}:
        c = training.constants(architecture)
        assert 0 <= c["tensor_exposed"] <= 1
        assert 0 <= c["data_exposed"] <= 1
        assert c["recompute"] >= 0
        assert c["eager"] >= 1
        assert c["load_waiting"] == min(value for name, value in c.items() if "load_" in name)


# The search


@settings(deadline=None, max_examples=100)
@given(spaces(), objectives, st.sampled_from([None, None, 3e9, 8e9, 20e9, 60e9]))
def test_best_returns_what_exhaustive_returns(space, objective, memory_bytes):
    assume(search.size(space[0], space[2]) < 1_000_000)
    options = {"objective": objective, "memory_bytes": memory_bytes}
    assert answer(search.best, *space, **options) == answer(search.exhaustive, *space, **options)


@unhurried
@given(
    spaces(st.lists(st.integers(1, 24), min_size=1, max_size=3)),
    objectives,
    st.fixed_dictionaries(
        {},
        optional={
            "recompute": st.sampled_from(search.MODES["recompute"]),
            "zero": st.sampled_from(search.MODES["zero"]),
            "sequence_parallel": st.booleans(),
            "offload_activations": st.booleans(),
            "offload_optimizer": st.booleans(),
            "pipeline": st.sampled_from([1, 2]),
        },
    ),
)
def test_best_returns_what_exhaustive_returns_of_several_counts_and_fixed_fields(
    space, objective, fixed
):
    options = {"objective": objective, "fixed": fixed}
    assume(sum(search.size(space[0], count) for count in space[2]) < 1_000_000)
    assert answer(search.best, *space, **options) == answer(search.exhaustive, *space, **options)


def test_exhaustive_returns_what_a_loop_over_points_returns():
    job = Job(models.read("qwen3-0.6b"), 4096, 12)
    fixed = {"sequence_parallel": True, "data_overlap": True, "offload_optimizer": False}
    fixed |= {"tensor_overlap": True, "microbatch": 1}
    space = search._Space(job, H100, 4, "time", 14e9, fixed)
    by_shape = {}
    for row in range(space.shapes):
        layouts = [space.layout(row, mode) for mode in range(space.modes_count)]
        steps = [training.step(job, H100, layout) for layout in layouts]
        fitting = [float(step.step_s) for step in steps if step.memory_bytes <= 14e9]
        if fitting:
            by_shape[row] = min(fitting)
    first, second = sorted(by_shape.values())[:2]
    found = search.exhaustive(job, H100, 4, memory_bytes=14e9, fixed=fixed)
    assert float(found.step.step_s) == pytest.approx(first, rel=1e-12)
    assert float(found.runner_up_step.step_s) == pytest.approx(second, rel=1e-12)
    assert found.step.memory_bytes <= 14e9


def test_gpt3_on_4096_a100_is_found_without_looking_everywhere():
    found = search.best(GPT3, A100, 4096)
    assert found.chips == 4096
    assert found.points > 8_000_000
    assert found.evaluated < found.points / 50
    assert found.step.memory_bytes <= training.usable_bytes(A100)
    assert 4 < found.step.step_s < 16
    assert answer(search.exhaustive, GPT3, A100, 4096) == answer(search.best, GPT3, A100, 4096)


@given(spaces())
@unhurried
def test_every_shape_uses_the_chips_and_splits_evenly(space):
    job, _, count = space
    for tensor, pipeline, context, expert, data, microbatch, virtual in search.shapes(job, count).T:
        assert tensor * pipeline * context * data == count
        assert (count // pipeline) % expert == 0
        assert max(job.model.experts, 1) % expert == 0
        assert all(layers.mixer.heads % tensor == 0 for layers in job.model.blocks)
        assert context == 1 or job.sequence % (2 * context) == 0
        share = math.ceil(job.batch / data)
        assert share % microbatch == 0
        assert virtual == 1 or share / microbatch % pipeline == 0
        assert math.ceil(job.model.layers / pipeline) % virtual == 0
        if job.batch % data == 0 and job.model.layers % pipeline == 0:
            layout = Layout(data, tensor, pipeline, context, expert, virtual, microbatch)
            training.check(job, count, layout)


@pytest.mark.parametrize("count", [8, 24, 100, 1000, 1024])
def test_lora_of_70b_finds_room_on_any_number_of_chips(count):
    found = search.best(Job(LLAMA, 8192, 1000, task="lora"), H100, count)
    assert found.chips == count
    assert found.step.fits(H100)


def test_ranks_that_do_not_divide_the_batch_wait_for_the_fullest():
    job = Job(models.read("qwen3-0.6b"), 4096, 100)
    odd = search.best(job, H100, 7)
    even = search.best(replace(job, batch=105), H100, 7)
    assert odd.batch == 105
    assert even.batch == 105
    assert odd.layout == even.layout
    assert float(odd.step.step_s) == float(even.step.step_s)
    assert odd.tokens_per_s == pytest.approx(even.tokens_per_s * 100 / 105)
    assert odd.step.model_flops == training.model_flops(job)


def test_126_layers_lie_on_16_stages():
    job = Job(models.read("llama3.1-405b"), 8192, 2048)
    assert 16 in search.shapes(job, 16384)[search.SHAPE.index("pipeline")]


def test_time_takes_all_chips_and_cost_takes_few():
    counts = (512, 1024, 4096)
    fast = search.best(GPT3, A100, counts)
    cheap = search.best(GPT3, A100, counts, objective="cost")
    frugal = search.best(GPT3, A100, counts, objective="energy")
    assert fast.chips == 4096
    assert cheap.chips < 4096
    assert frugal.chips < 4096


# What it says


def test_nothing_fits_says_what_is_needed_and_what_would_help():
    with pytest.raises(NothingFits, match="16 chips would do") as raised:
        search.best(GPT3, H100, 8)
    assert raised.value.need_bytes > training.usable_bytes(H100)
    assert "most of it weights" in str(raised.value)
    assert search.best(GPT3, H100, 16).step.fits(H100)


def test_nothing_fits_blames_what_was_fixed():
    fixed = {"zero": 0, "offload_optimizer": False}
    with pytest.raises(NothingFits, match="8 chips would do, with zero, offload_optimizer left"):
        search.best(Job(LLAMA, 4096, 8), H100, 8, fixed=fixed)


def test_a_count_that_nothing_divides_over_is_refused():
    with pytest.raises(NothingFits, match="cannot be laid out on 97 H100 SXM"):
        search.best(Job(LLAMA, 4096, 8), H100, 97)


def test_why_names_the_parts_that_the_runner_up_is_slower_in():
    found = search.best(GPT3, A100, 4096)
    slower = {
        part: float(getattr(found.runner_up_step, part) - getattr(found.step, part))
        for part in training.PARTS
    }
    largest = max(slower, key=lambda part: slower[part])
    assert f"{largest.removesuffix('_s')} +" in found.why()
    assert search.describe(found.runner_up) in found.why()


def test_a_layout_is_described_in_words_that_the_door_takes():
    assert search.describe(Layout()) == "mb=1"
    layout = Layout(data=4, tensor=8, expert=2, recompute=3, offload_optimizer=True)
    assert search.describe(layout) == ("tp=8,ep=2,dp=4,recompute=full,offload=optimizer")


# The front


@settings(deadline=None, max_examples=25)
@given(spaces(st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True)))
def test_the_front_is_what_no_point_dominates(space):
    job, chip, counts = space
    everywhere = search._Space(job, chip, counts, "time", None, None)
    assume(0 < everywhere.points < 300_000)
    points = everywhere.fitting_points(np.arange(everywhere.shapes))
    if not len(points):
        with pytest.raises(NothingFits):
            search.pareto(job, chip, counts)
        return
    front = search.pareto(job, chip, counts)
    figures = np.array([(point.step_s, point.memory_bytes, point.chips) for point in front])
    for one in figures:
        others = figures[np.any(figures != one, axis=1)]
        assert not np.any(np.all(others <= one, axis=1))
    behind = np.zeros(len(points), dtype=bool)
    for one in figures:
        behind |= np.all(one <= points[:, :3] * (1 + 1e-8), axis=1)
    assert behind.all()
    for point in front[:3]:
        step = training.step(job, chip, point.layout)
        assert float(step.step_s) == pytest.approx(point.step_s)
        assert float(step.memory_bytes) == pytest.approx(point.memory_bytes)
