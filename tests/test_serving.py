"""The serving model keeps its promises: terms add up, more is never less, memory is counted."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gigafactory.stack import chips, facts, models
from gigafactory.stack.serving import (
    INPUTS,
    Deployment,
    ImpossibleLayout,
    Load,
    UnreadableRow,
    decode_step,
    from_row,
    interval,
    memory,
    predict,
    prefill_step,
    search,
    serve,
    serve_disaggregated,
)

MODELS = ("llama3.1-8b", "qwen3-235b-a22b", "deepseek-v3", "gpt-oss-120b", "qwen3.5-397b-a17b")
CHIPS = ("H100", "H200", "B200", "A100", "L40S", "MI300X")
quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
names = st.sampled_from(MODELS)
chip_names = st.sampled_from(CHIPS)


@st.composite
def deployments(draw):
    tp, groups = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 1, 2, 4]))
    ep = draw(st.sampled_from([1, tp * groups]))
    return Deployment(
        tp=tp,
        dp_attention=groups,
        ep=ep,
        pp=draw(st.sampled_from([1, 1, 2])),
        precision=draw(st.sampled_from(["bf16", "fp8", "fp4"])),
        engine=draw(st.sampled_from(["vllm", "sglang", "trtllm", "trtllm-1.0"])),
        speculative_tokens=draw(st.sampled_from([0, 0, 2])),
    )


@quick
@given(names, chip_names, deployments(), st.integers(1, 512), st.integers(1, 60_000))
def test_the_terms_of_a_step_add_up_and_none_is_negative(name, chip, deployment, batch, context):
    step = decode_step(models.read(name), chips.chip(chip), deployment, batch, context)
    terms = [getattr(step, term) for term in step.__dataclass_fields__]
    assert np.isclose(sum(terms), step.seconds)
    assert min(terms) >= 0
    assert step.seconds > 0


@quick
@given(names, chip_names, deployments(), st.integers(1, 512), st.integers(1, 60_000))
def test_more_sequences_or_more_context_never_make_a_step_faster(
    name, chip, deployment, batch, context
):
    model, chip = models.read(name), chips.chip(chip)
    sizes = batch * np.array([1, 2, 4])
    assert np.all(np.diff(decode_step(model, chip, deployment, sizes, context).seconds) >= -1e-12)
    if not any(run.mixer.chunked for run in model.blocks):  # A new chunk starts empty.
        lengths = context * np.array([1, 2, 4])
        slower = decode_step(model, chip, deployment, batch, lengths).seconds
        assert np.all(np.diff(slower) >= -1e-12)


@quick
@given(names, chip_names, deployments(), st.integers(1, 30_000))
def test_a_longer_prompt_takes_longer(name, chip, deployment, tokens):
    model, chip = models.read(name), chips.chip(chip)
    short, long = (
        float(prefill_step(model, chip, deployment, size).seconds) for size in (tokens, 2 * tokens)
    )
    assert short <= long * 1.0001


@quick
@given(names, chip_names, deployments())
def test_arrays_are_answered_as_their_elements_are(name, chip, deployment):
    model, chip = models.read(name), chips.chip(chip)
    many = serve(
        model,
        chip,
        deployment,
        Load(prompt_tokens=np.array([128, 4000]), new_tokens=500, concurrency=np.array([3, 90])),
    )
    for index, (prompt, clients) in enumerate([(128, 3), (4000, 90)]):
        load = Load(prompt_tokens=prompt, new_tokens=500, concurrency=clients)
        one = serve(model, chip, deployment, load)
        assert np.isclose(one.tpot_s, many.tpot_s[index])
        assert np.isclose(one.ttft_s, many.ttft_s[index])


@quick
@given(names, chip_names, deployments(), st.integers(1, 400))
def test_more_workers_never_serve_fewer_tokens(name, chip, deployment, clients):
    model, chip = models.read(name), chips.chip(chip)
    load = Load(prompt_tokens=1000, new_tokens=500, concurrency=4 * clients)
    rates = [
        serve(model, chip, deployment, load, workers).output_tokens_per_s for workers in (1, 2, 4)
    ]
    assert rates[0] <= rates[1] * 1.001
    assert rates[1] <= rates[2] * 1.001


@quick
@given(names, chip_names, deployments())
def test_memory_is_freed_by_more_chips_and_by_narrower_weights(name, chip, deployment):
    model, chip = models.read(name), chips.chip(chip)
    held = memory(model, chip, deployment)
    wider = memory(model, chip, replace(deployment, tp=deployment.tp * 2))
    assert memory(model, chip, replace(deployment, pp=4)).weight_bytes <= held.weight_bytes
    assert wider.weight_bytes < held.weight_bytes
    by_precision = [
        memory(model, chip, replace(deployment, precision=precision)).weight_bytes
        for precision in ("bf16", "fp8", "fp4")
    ]
    assert by_precision[0] > by_precision[1]
    assert held.sequences(1000) >= held.sequences(2000)


def test_drafts_that_stand_make_one_client_faster():
    model, chip = models.read("deepseek-v3"), chips.chip("H200")
    load = Load(prompt_tokens=1000, new_tokens=1000, concurrency=4)
    plain = Deployment(tp=8, precision="fp8", engine="sglang")
    drafted = replace(plain, speculative_tokens=2, acceptance=0.8)
    slow, fast = serve(model, chip, plain, load), serve(model, chip, drafted, load)
    assert 0.4 < fast.tpot_s / slow.tpot_s < 0.8
    unlucky = serve(model, chip, replace(drafted, acceptance=0.0), load)
    assert unlucky.tpot_s > slow.tpot_s


def test_a_cached_prefix_shortens_the_wait_for_the_first_token():
    model, chip = models.read("llama3.1-8b"), chips.chip("H100")
    load = Load(prompt_tokens=16_000, new_tokens=200, concurrency=8)
    cold = serve(model, chip, Deployment(), load)
    warm = serve(model, chip, Deployment(prefix_hit=0.9), load)
    assert warm.ttft_s < 0.5 * cold.ttft_s
    assert warm.output_tokens_per_s > cold.output_tokens_per_s


def test_a_model_that_does_not_fit_says_by_how_much():
    answer = serve(
        models.read("deepseek-v3"),
        chips.chip("H100"),
        Deployment(tp=8),
        Load(prompt_tokens=1000, new_tokens=100, concurrency=1),
    )
    assert not answer.fits
    assert "GB short" in answer.reason


def test_the_cache_of_a_latent_is_kept_whole_on_every_chip_of_a_group():
    model, chip = models.read("deepseek-v3"), chips.chip("B300")
    alone = memory(model, chip, Deployment(tp=1, dp_attention=8, ep=8))
    shared = memory(model, chip, Deployment(tp=8, ep=8))
    assert alone.cache_bytes_per_token == shared.cache_bytes_per_token
    grouped = models.read("qwen3-235b-a22b")
    split = [
        memory(grouped, chip, Deployment(tp=tp)).cache_bytes_per_token[0][1] for tp in (1, 4, 8)
    ]
    assert split[0] == 4 * split[1]
    assert split[1] == split[2]  # Four heads of keys: eight chips keep each twice.


def test_prompts_on_chips_of_their_own_leave_the_pace_alone():
    model, chip = models.read("qwen3-235b-a22b"), chips.chip("H200")
    one = Deployment(tp=4, ep=4, engine="trtllm")
    load = Load(prompt_tokens=8000, new_tokens=500, concurrency=64)
    together = serve(model, chip, one, load, workers=2)
    apart = serve_disaggregated(model, chip, one, 1, one, 1, load)
    assert apart.chips == together.chips
    assert apart.tpot_s < together.tpot_s
    # A pool of prefill workers that cannot keep up makes requests queue.
    crowded = serve_disaggregated(model, chip, one, 1, one, 4, replace(load, concurrency=2000))
    assert crowded.ttft_s > 5 * apart.ttft_s


ROW = {
    "model_key": "gpt-oss-120b",
    "gpu": "B200",
    "n_gpus": "2",
    "engine": "trtllm",
    "engine_version": "1.2.0rc2.post2",
    "precision": "fp4",
    "isl": "8192",
    "osl": "1024",
    "concurrency": "64",
    "tp": "2",
    "pp": "1",
    "ep": "1",
    "dp_attention": "1",
    "moe_tp": "2",
    "disaggregated": "no",
}


def test_a_row_is_read_and_its_blanks_are_said():
    request = from_row(ROW)
    assert request.kind == "agg"
    assert request.chosen == ()
    # 266 ms and 9.04 ms were published; half and double are far beyond the model's error.
    answer = predict(request)
    assert 0.133 < answer.ttft_s < 0.532
    assert 0.0063 < answer.tpot_s < 0.0127
    open_row = {**ROW, "tp": "", "pp": "", "ep": "", "moe_tp": "", "dp_attention": ""}
    assert "the fastest that fits" in from_row(open_row).chosen[-1]


def test_no_answer_of_a_row_is_read():
    answers = {"ttft_ms": "1", "tpot_ms": "1", "measured_value": "1", "notes": "no", "source": "x"}
    assert from_row({**ROW, **answers}) == from_row(ROW)
    assert from_row({name: ROW.get(name, "") for name in INPUTS}) == from_row(ROW)


@pytest.mark.parametrize(
    ("column", "value"), [("precision", "fp3"), ("engine", "llama.cpp"), ("isl", "many")]
)
def test_a_row_that_is_not_understood_says_which_column(column, value):
    with pytest.raises(UnreadableRow, match=column):
        from_row({**ROW, column: value})


@pytest.mark.parametrize("layout", [{"tp": 8, "ep": 3}, {"tp": 4, "ep": 2, "moe_tp": 4}])
def test_a_layout_that_does_not_multiply_up_is_refused(layout):
    with pytest.raises(ImpossibleLayout, match="ep"):
        Deployment(**layout)


def test_an_unknown_chip_or_model_is_an_error():
    with pytest.raises(chips.UnknownChip):
        from_row({**ROW, "gpu": "Z80"})
    with pytest.raises(models.UnknownModel):
        from_row({**ROW, "model_key": "nobody-9b"})


def test_an_interval_holds_the_prediction_and_is_wider_for_what_was_never_measured():
    known = interval(from_row(ROW), "tpot")
    assert known[0] < 1 < known[1] * 1.2
    strange = interval(from_row({**ROW, "gpu": "MI300X"}), "tpot")
    assert np.log(strange[1] / strange[0]) > np.log(known[1] / known[0])


def test_the_search_returns_a_frontier_within_its_limits():
    frontier = search(
        models.read("qwen3-235b-a22b"),
        chips.chip("H200"),
        16,
        Load(prompt_tokens=4000, new_tokens=1000),
        ttft_s=3.0,
        tpot_s=0.05,
        base=Deployment(precision="fp8", engine="trtllm"),
    )
    users = [one.tokens_per_s_per_user for one in frontier.options]
    yields = [one.tokens_per_s_per_chip for one in frontier.options]
    assert len(users) > 3
    assert users == sorted(users, reverse=True)
    assert yields == sorted(yields)
    assert all(one.serving.tpot_s <= 0.05 and one.serving.ttft_s <= 3 for one in frontier.options)
    assert all(one.serving.chips <= 16 for one in frontier.options)
    assert len(frontier.lost) == len(frontier.options)


def test_every_constant_has_a_basis_a_source_and_a_range():
    for row in facts.rows("serving"):
        assert row["basis"] in facts.BASES
        assert row["source"]
        if row["architecture_or_engine"] != "interval":
            assert float(row["low"]) < float(row["value"]) < float(row["high"])
