"""A model is judged on held-out instructions, and its gate closes on doubt."""

import math
from types import SimpleNamespace

import pytest

from gigafactory.jobs import evaluate, finetune, tool_calls
from gigafactory.jobs.context import STOP, Context, StopJob
from tests.test_finetune import context, tiny  # noqa: F401, the fixture

WORK = {
    "name": "exam",
    "kind": "evaluate",
    "of": "tuned",
    "suite": "tool_calls",
    "examples": 10,
    "seed": 3,
    "gate": {"tool_calls_exact": ">= 0.5"},
}


@pytest.fixture(scope="module")
def tuned(tiny, tmp_path_factory):  # noqa: F811
    """What a finetuning of the tiny llama leaves."""
    job = context(tmp_path_factory.mktemp("tuned"), tiny, steps=1)
    finetune.run(job)
    return job


def exam(folder, tuned, **work):
    return Context.alone(
        folder, WORK | work, model=tuned.model, inputs={"tuned": tuned.output}, chips=1
    )


def test_a_model_that_learned_nothing_does_not_pass(tuned, tmp_path):
    results = evaluate.run(exam(tmp_path, tuned))
    assert results["passed"] is False
    assert results["verdicts"] == [
        {"metric": "tool_calls_exact", "value": 0.0, "threshold": ">= 0.5", "passed": False}
    ]
    assert results["metrics"].keys() == {
        *("tool_calls_exact", "tool_calls_exact_low", "tool_calls_exact_high"),
        *("tool_calls_exact_before", "tool_calls_exact_before_low"),
        *("tool_calls_exact_before_high", "examples"),
    }
    assert results["samples"][0].keys() == {"prompt", "answer", "expected", "exact"}
    assert results["tokens"] > 0


def test_a_model_that_answers_right_passes(tuned, tmp_path, monkeypatch):
    def knows_it(model_folder, introduced_by, instructions, threads, report):
        asked = tool_calls.warehouse.examples("heldout", WORK["seed"], len(instructions))
        return [example.answer for example in asked], 100

    monkeypatch.setattr(tool_calls, "answers", knows_it)
    results = evaluate.run(exam(tmp_path, tuned))
    assert results["passed"] is True
    assert results["metrics"]["tool_calls_exact"] == 1.0
    assert results["metrics"]["tool_calls_exact_low"] == pytest.approx(0.7225, abs=1e-4)


def test_the_tuned_model_is_asked_bare_and_its_base_with_an_introduction(
    tuned, tmp_path, monkeypatch
):
    asked = []

    def mute(model_folder, introduced_by, instructions, threads, report):
        asked.append("introduced" if introduced_by else "bare")
        return [""] * len(instructions), 0

    monkeypatch.setattr(tool_calls, "answers", mute)
    evaluate.run(exam(tmp_path, tuned))
    assert asked == ["bare", "introduced"]


def test_an_evaluation_stops_when_asked(tuned, tmp_path):
    job = exam(tmp_path, tuned)
    (job.folder / STOP).touch()
    with pytest.raises(StopJob):
        evaluate.run(job)


def test_what_prompts_have_in_common_changes_no_answer(tiny, monkeypatch):  # noqa: F811
    """The shared head goes through the model once; asked whole, the answers are the same."""
    told = tool_calls.introduction(0)[1:3]
    asked = ["Count the tea in bay 3.", "Go!", "Is there any ice at door 8? Check"]
    monkeypatch.setattr(tool_calls, "NEW_TOKENS_MAX", 6)
    together, _ = tool_calls.answers(tiny, told, asked, 1, lambda **figures: None)
    monkeypatch.setattr(tool_calls, "BATCH", 1)
    alone, _ = tool_calls.answers(tiny, told, asked, 1, lambda **figures: None)
    assert together == alone


def test_an_introduction_shows_the_tools_and_solved_examples_but_no_held_out_one():
    told = tool_calls.introduction(0)
    assert [message["role"] for message in told] == ["system", *["user", "assistant"] * 5]
    assert all(tool in told[0]["content"] for tool in tool_calls.warehouse.TOOLS)
    shown = {message["content"] for message in told}
    asked = tool_calls.warehouse.examples("heldout", 0, 200)
    assert not shown & {example.instruction for example in asked}


@pytest.mark.parametrize(
    ("threshold", "passed"),
    [(">= 0.5", True), (">0.5", False), ("<= 0.5", True), ("< 0.5", False), ("<5e-1", False)],
)
def test_a_threshold_is_a_comparison_and_a_number(threshold, passed):
    assert evaluate.verdict("m", threshold, {"m": 0.5}) == {
        "metric": "m",
        "value": 0.5,
        "threshold": threshold,
        "passed": passed,
    }


@pytest.mark.parametrize(
    ("threshold", "metrics", "reason"),
    [
        (">= 0.5", {"other": 1.0}, "not measured"),
        (">= 0.5", {"m": None}, "not measured"),
        ("<= 0.5", {"m": math.nan}, "not a finite number"),
        (">= nan", {"m": 1.0}, "not a finite number"),
        ("= 0.5", {"m": 0.5}, "not one of"),
        (">= much", {"m": 0.5}, "not one of"),
        (0.5, {"m": 0.5}, "not one of"),
    ],
)
def test_a_gate_closes_on_doubt_and_says_why(threshold, metrics, reason):
    verdict = evaluate.verdict("m", threshold, metrics)
    assert verdict["passed"] is False
    assert reason in verdict["reason"]


def test_no_gate_is_no_pass_and_bits_per_byte_is_asked_of_its_own_job(tmp_path, monkeypatch):
    import gigafactory.jobs

    suite = SimpleNamespace(
        evaluate=lambda model, cache, threads, report: {"bits_per_byte": 2.0, "bytes": 10}
    )
    monkeypatch.setattr(gigafactory.jobs, "bits_per_byte", suite, raising=False)
    work = {"name": "exam", "kind": "evaluate", "of": "mill", "suite": "bits_per_byte"}
    inputs = {"mill": tmp_path}
    results = evaluate.run(Context.alone(tmp_path / "a", work, inputs=inputs))
    assert results["metrics"] == {"bits_per_byte": 2.0, "bytes": 10}
    assert results["passed"] is False
    gated = work | {"gate": {"bits_per_byte": "< 2.5"}}
    assert evaluate.run(Context.alone(tmp_path / "b", gated, inputs=inputs))["passed"] is True


def test_an_unknown_suite_is_named(tmp_path):
    work = {"name": "exam", "kind": "evaluate", "of": "mill", "suite": "vibes"}
    with pytest.raises(ValueError, match="vibes"):
        evaluate.run(Context.alone(tmp_path, work, inputs={"mill": tmp_path}))


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 40, 0.0, 0.0876), (40, 40, 0.9124, 1.0), (10, 20, 0.2993, 0.7007)],
)
def test_the_interval_is_wilsons(hits, trials, low, high):
    assert tool_calls.wilson(hits, trials) == pytest.approx((low, high), abs=1e-4)
