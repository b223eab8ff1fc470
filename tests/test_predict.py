"""Tables in, predictions out, errors told: rows that answer, rows that say why not."""

import csv
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigafactory.console import scatter
from gigafactory.stack import predict, score
from gigafactory.stack.training import rows

# Published runs: NVIDIA NeMo 24.07, docs/source/performance/performance_summary.md; llm-foundry,
# scripts/train/benchmarking/README.md. The last ones are made up to be unanswerable.
TRUTH = """\
id,model,model_key,gpu,n_gpus,precision,tp,pp,cp,dp,vpp,microbatch,recompute,zero_stage,seq_len,global_batch_tokens,task,year,release,measured_metric,measured_value,suite,tier,dedup_group
a,GPT3-175B,gpt3-175b,H100,512,FP8,4,8,1,16,6,2,,,2048,4194304,pretrain,2024,24.07,tokens_per_s_per_gpu,782,nemo,A,a
b,LLAMA2-70B,llama2-70b,H100,64,FP8,4,4,1,4,20,1,,,4096,524288,pretrain,2024,24.07,tokens_per_s_per_gpu,1707,nemo,A,b
c,MPT-7b,mpt-7b,A100-80GB,8,BF16,1,1,,8,,6,none,3,2048,196608,pretrain,2023,2023,tokens_per_s_per_gpu,4641,foundry,A,c
c0,MPT-7b,mpt-7b,A100-80GB,8,BF16,1,1,,8,,6,none,3,2048,196608,pretrain,2022,2022,tokens_per_s_per_gpu,4500,foundry,A,c
d,Llama 2 70B LoRA,llama2-70b,H100,8,,,,,,,,,,,,lora,2024,v4.0,step_time_s,3.88,mlperf,A,d
e,Mystery,mystery-9b,H100,8,BF16,1,1,,8,,1,,,2048,16384,pretrain,2024,,tokens_per_s_per_gpu,1,odd,A,e
f,MPT-7b,mpt-7b,Z80,8,BF16,1,1,,8,,1,,,2048,16384,pretrain,2024,,tokens_per_s_per_gpu,1,odd,A,f
g,MPT-7b,mpt-7b,A100-80GB,8,BF16,1,1,,8,,1,,,2048,16384,pretrain,2024,,time_to_train_s,1,odd,A,g
h,MPT-70b,mpt-70b,A100-40GB,8,BF16,1,1,,8,,1,none,0,2048,16384,pretrain,2023,,tokens_per_s_per_gpu,1,odd,C,h
"""


@pytest.fixture(scope="module")
def truth():
    return list(csv.DictReader(TRUTH.splitlines()))


@pytest.fixture(scope="module")
def lines(truth):
    return {line.id: line for line in predict.predict("training", truth)}


def test_every_row_gets_a_line_and_published_runs_are_met(truth, lines):
    assert set(lines) == {row["id"] for row in truth}
    for name, measured in (("a", 782), ("b", 1707), ("c", 4641)):
        line = lines[name]
        assert line.fits
        assert line.low < line.predicted < line.high
        assert math.isclose(line.predicted, measured, rel_tol=0.15)


def test_a_row_that_cannot_be_predicted_says_why(lines):
    assert lines["e"].predicted is None
    assert "mystery-9b" in lines["e"].reason
    assert "Z80" in lines["f"].reason
    assert "time_to_train_s" in lines["g"].reason
    assert lines["g"].fits


def test_a_model_that_does_not_fit_is_said_not_to(lines):
    assert lines["h"].fits is False
    assert "GB" in lines["h"].reason


def test_a_row_without_layout_is_laid_out_by_the_search(lines):
    assert lines["d"].predicted > 0
    assert "layout by search" in lines["d"].reason


def test_answers_are_never_read(truth, lines):
    blind = [
        {**row, "measured_value": "", "suite": "", "notes": "tp=64", "source": "x"} for row in truth
    ]
    again = {line.id: line for line in predict.predict("training", blind)}
    assert again == lines


@pytest.mark.parametrize(
    ("cell", "value"),
    [("tp", "0"), ("n_gpus", "abc"), ("seq_len", "nan"), ("microbatch", "-1"), ("pp", "1e999")],
)
def test_an_odd_cell_is_told_and_costs_no_other_row(truth, cell, value):
    odd = [truth[0] | {cell: value}, truth[1]]
    first, second = predict.predict("training", odd)
    assert first.predicted is None
    assert cell in first.reason
    assert second.predicted


@pytest.mark.parametrize("value", ["-5", "nan", "inf"])
def test_a_prediction_that_is_none_is_not_scored(truth, lines, value):
    cells = _cells(lines)
    cells[0] = cells[0] | {"predicted": value}
    with pytest.raises(ValueError, match="no prediction"):
        score.score(cells, truth)


def test_a_table_that_lacks_columns_is_refused_by_name():
    with pytest.raises(predict.MissingColumns, match="gpu"):
        predict.predict("training", [{"id": "1", "n_gpus": "1", "measured_metric": "x"}])


def _cells(lines):
    return [dict(zip(predict.COLUMNS, line.cells(), strict=True)) for line in lines.values()]


def test_scores_count_the_newest_fully_described_rows_only(truth, lines):
    report = score.score(_cells(lines), truth)
    assert {pair.id for pair in report.pairs if pair.scored} == {"a", "b", "c"}
    assert report.answered == 3
    assert report.asked == 5  # e and f are described, and were not answered
    (whole,) = report.overall
    each = [abs(lines[name].predicted / value - 1) for name, value in (("a", 782), ("b", 1707))]
    foundry = abs(lines["c"].predicted / 4641 - 1)
    assert math.isclose(whole.mape, (sum(each) / 2 + foundry) / 2, rel_tol=1e-4)


def test_the_floor_is_half_the_spread_of_identical_inputs(truth, lines):
    report = score.score(_cells(lines), truth)
    assert report.floor_groups == 1
    assert math.isclose(report.floor_median, math.sqrt(4641 / 4500) - 1)


def test_predictions_of_another_table_are_refused(truth):
    with pytest.raises(ValueError, match="no row of truth"):
        score.score([dict.fromkeys(predict.COLUMNS, "zzz")], truth)


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0.2, 5)), min_size=1, max_size=30))
def test_perfect_predictions_have_no_error_and_others_have_theirs(runs):
    truth = [
        {
            "id": str(n),
            "gpu": "H100",
            "n_gpus": "1",
            "tp": "1",
            "pp": "1",
            "seq_len": "1",
            "global_batch_tokens": "1",
            "model": "m",
            "measured_metric": "tokens_per_s_per_gpu",
            "measured_value": repr(value),
            "suite": "s",
        }
        for n, (value, _) in enumerate(runs)
    ]

    def told(factor):
        return [
            dict(
                zip(
                    predict.COLUMNS,
                    [
                        str(n),
                        "tokens_per_s_per_gpu",
                        repr(value * factor(off)),
                        repr(value),
                        repr(value),
                        "true",
                        "",
                    ],
                    strict=True,
                )
            )
            for n, (value, off) in enumerate(runs)
        ]

    assert score.score(told(lambda _: 1.0), truth).overall[0].mape == 0
    off = score.score(told(lambda by: by), truth).overall[0]
    assert math.isclose(off.mape, sum(abs(by - 1) for _, by in runs) / len(runs), abs_tol=1e-9)
    assert off.coverage == 1.0  # the interval here is the measured value itself


def test_counted_flops_follow_the_habit_of_their_year(truth):
    row = next(row for row in truth if row["id"] == "a")
    asked = rows.question(row | {"recompute": "full"})
    early = rows.question(
        row | {"recompute": "full", "year": "2021", "release": "", "precision": "BF16"}
    )
    assert rows.counted_flops_per_token(early) > 1.3 * rows.counted_flops_per_token(asked)


def test_the_plot_holds_every_pair(truth, lines):
    report = score.score(_cells(lines), truth)
    drawn = scatter.svg(report.pairs)
    assert drawn.count("<circle") == len(report.pairs)
    assert "<svg" in drawn
    assert "a: " in drawn
