"""The performance model at the door: answers, and refusals that name what would do."""

import csv
import json

import pytest
import typer.testing

from gigafactory import cli

runner = typer.testing.CliRunner()
TRAIN = ("estimate", "train", "llama3-70b", "--on", "H100", "--chips", "64", "--batch", "128")
SERVE = ("estimate", "serve", "qwen3-235b-a22b", "--on", "H200", "--prompt", "4000")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GIGAFACTORY_HOME", str(tmp_path / "home"))


def run(*words, code=0):
    result = runner.invoke(cli.app, list(words))
    assert result.exit_code == code, result.output
    return result


def ask(*words):
    return json.loads(run(*words, "--json").stdout)


def refusal(*words):
    (fault,) = json.loads(run(*words, "--json", code=2).stdout)["errors"]
    assert all(fault[part] for part in ("what", "where", "why", "remedy"))
    return fault


def test_a_step_is_told_in_parts_that_add_up():
    told = ask(*TRAIN, "--precision", "FP8", "--layout", "tp=4,pp=8,vpp=5", "--tokens", "15T")
    assert abs(sum(told["parts_s"].values()) / told["step_s"]["value"] - 1) < 1e-9
    assert told["fits"]
    assert told["step_s"]["low"] < told["step_s"]["value"] < told["step_s"]["high"]
    assert told["layout"]["data"] == 2
    assert 0.25 < told["mfu"]["value"] < 0.5  # of the FP8 peak
    days = told["run"]["duration_s"]["value"] / 86400
    assert 1000 < days < 3000  # 15e12 tokens of a 70B on 64 chips at 1,600 tokens/s each


def test_a_layout_that_is_not_given_is_searched():
    told = ask(*TRAIN)
    assert told["layout_by"] == "search"
    best = ask("search", "training", *TRAIN[2:])
    assert best["layout"] == told["layout"]
    assert best["why"]
    assert best["front"][0]["chips"] == 64
    slower = ask(*TRAIN, "--layout", "tp=8,pp=8")
    assert slower["step_s"]["value"] > told["step_s"]["value"]


@pytest.mark.parametrize("model", ["llama3-70b", "qwen3-235b-a22b"])
def test_a_layout_that_was_found_can_be_asked_for(model):
    words = (model, "--on", "H100", "--chips", "64", "--batch", "128")
    best = ask("search", "training", *words)
    again = ask("estimate", "train", *words, "--layout", best["layout_text"])
    assert again["step_s"] == best["step_s"]


def test_a_batch_that_nothing_divides_is_padded_and_said_so():
    told = ask("estimate", "train", "llama3-8b", "--chips", "7", "--batch", "256")
    assert told["batch_with_padding"] > 256
    assert "--batch" in run("estimate", "train", "llama3-8b", "--chips", "7").output


def test_a_memory_limit_never_gives_more_than_the_chip_has():
    asked = ("search", "training", "llama3-8b", "--memory")
    assert ask(*asked, "640 GB")["fits"]
    assert ask(*asked, "40 GB")["memory_bytes"] <= 40e9


def test_utilisation_is_of_the_peak_of_the_precision():
    words = ("estimate", "train", "llama3-70b", "--on", "B200", "--chips", "64", "--precision")
    assert ask(*words, "NVFP4")["mfu"]["value"] < 1
    assert ask(*words, "NVFP4")["mfu_of_peak"] == "float4"


def test_one_request_waits_for_nobody():
    words = ("estimate", "serve", "llama3.1-8b", "--chips", "1", "--prompt", "100000")
    told = ask(*words, "--concurrency", "1")
    assert told["ttft_p99_s"] < 1.2 * told["ttft_s"]["value"]


def test_what_an_engine_can_do_shows_in_its_figures():
    words = (*SERVE, "--concurrency", "64")
    plain = ask(*words)
    cached = ask(*words, "--prefix-hit", "0.9")
    assert cached["ttft_s"]["value"] < 0.7 * plain["ttft_s"]["value"]
    drafted = ask(*words, "--drafts", "2", "--acceptance", "0.8")
    assert drafted["tpot_s"]["value"] < 0.9 * plain["tpot_s"]["value"]
    pools = ("--chips", "16", "--prefill", "tp=4", "--prefill-workers", "2", "--layout", "tp=8")
    apart = ask(*words, *pools)
    assert apart["layout_text"].startswith("prefill 2 × ")
    assert apart["chips"] == 16
    assert apart["tpot_s"]["value"] < plain["tpot_s"]["value"]  # no prompts of others
    assert "left" in refusal(*words, "--prefill", "tp=8")["what"]


def test_what_does_not_fit_says_so_first():
    shown = run("estimate", "serve", "deepseek-v3", "--on", "H100", "--chips", "8").output
    assert shown.startswith("does not fit")
    shown = run("estimate", "train", "llama3-70b", "--chips", "64", "--layout", "dp=64").output
    assert shown.startswith("does not fit")


def test_a_front_is_over_all_counts_that_were_asked_for():
    told = ask("search", "training", "llama3-8b", "--chips", "8", "--chips", "16", "--batch", "64")
    assert {point["chips"] for point in told["front"]} == {8, 16}
    cheaper = ask(
        *("search", "training", "llama3-8b", "--chips", "8", "--chips", "512"),
        *("--batch", "64", "--objective", "cost"),
    )
    assert cheaper["chips"] == 8


def test_a_service_is_told_with_its_tail_and_its_memory():
    told = ask(*SERVE, "--concurrency", "64")
    assert 0 < told["tpot_s"]["value"] < told["tpot_p90_s"] < told["tpot_p99_s"] < 1
    assert told["ttft_s"]["value"] > 0
    assert told["fits"]
    assert told["sequences_that_fit"] > 64
    offline = ask(*SERVE)
    assert offline["output_tokens_per_s"]["value"] > told["output_tokens_per_s"]["value"]


def test_the_front_of_a_service_trades_users_for_chips():
    told = ask("search", "serving", "qwen3-235b-a22b", "--on", "H200", "--chips", "16")
    users = [row["tokens_per_s_per_user"] for row in told["front"]]
    chips = [row["tokens_per_s_per_chip"] for row in told["front"]]
    assert users == sorted(users, reverse=True)
    assert chips == sorted(chips)
    assert len(users) > 3


@pytest.mark.parametrize(
    "words",
    [
        (*TRAIN, "--layout", "tp=4,pp=8", "--tokens", "1T"),
        ("search", "training", *TRAIN[2:]),
        (*SERVE, "--concurrency", "8"),
        ("search", "serving", "llama3-8b", "--chips", "4"),
        ("estimate", "train", "qwen3-max", "--on", "GB300", "--chips", "4096", "--batch", "4096"),
        ("estimate", "train", "qwen3-moe-10m", "--on", "this-machine", "--chips", "2"),
    ],
)
def test_every_answer_is_shown_as_a_page(words):
    shown = run(*words).output
    assert "modelled" in shown
    assert "█" in shown or "tokens/s a user" in shown


@pytest.mark.parametrize(
    ("words", "what", "remedy"),
    [
        (("estimate", "train", "lama3-8b"), "lama3-8b", ""),
        (("estimate", "train", "llama3-8b", "--on", "H1000"), "H1000", "H100"),
        (("estimate", "train", "llama3-8b", "--precision", "FP7"), "FP7", "FP8"),
        (("estimate", "train", "llama3-8b", "--task", "pretrian"), "pretrian", "pretrain"),
        ((*TRAIN, "--layout", "tp=3"), "tp = 3", "tp = 2"),
        ((*TRAIN, "--layout", "tpp=3"), "tpp", "tp"),
        ((*TRAIN, "--layout", "tp=x"), "tp", "tp=1"),
        ((*TRAIN, "--layout", "recompute=ful"), "ful", "full"),
        ((*TRAIN, "--tokens", "1 parsec"), "parsec", "15T"),
        (("search", "training", "qwen3-235b-a22b", "--chips", "1"), "no layout fits", "chips"),
        (("search", "training", "llama3-8b", "--objective", "tme"), "tme", "time"),
        ((*SERVE, "--engine", "vlm"), "vlm", "vllm"),
        ((*SERVE, "--precision", "fp3"), "fp3", "fp4"),
        ((*SERVE, "--layout", "tp=7"), "tp = 7", "tp ="),
        ((*SERVE, "--layout", "tp=16"), "hold no worker", "chips"),
        ((*SERVE, "--layout", "ep=0"), "ep", "ep=1"),
        ((*SERVE, "--layout", "tp=2,ep=8"), "layout", "tp=8,ep=8"),
        ((*SERVE, "--layout", "tp=4,tp=8"), "twice", "one of them"),
        (("estimate", "serve", "llama3-8b", "--on", "A100", "--precision", "fp8"), "fp8", "bf16"),
        (("estimate", "serve", "llama3-8b", "--on", "this-machine"), "cpu", "GPU"),
        (("estimate", "train", "llama3-8b", "--on", "this-machine"), "8 cores", "--chips 2"),
        (("search", "training", "llama3-8b", "--on", "this-machine"), "cpu", "estimate"),
        ((*TRAIN, "--tokens", "-1T"), "range", "15T"),
        ((*TRAIN, "--tokens", "1e400"), "", "15T"),
        ((*TRAIN, "--precision", "MXFP8"), "MXFP8", "FP8"),
        (("search", "training", "llama3-8b", "--memory", "-1 GB"), "range", "64 GB"),
        (("search", "serving", "deepseek-v3", "--on", "H100", "--chips", "4"), "no way", "chips"),
        (("predict", "trainings", "x.csv", "--out", "y.csv"), "trainings", "training"),
        (("predict", "training", "nowhere.csv", "--out", "y.csv"), "file", ""),
    ],
)
def test_what_is_not_known_is_refused_with_what_would_do(words, what, remedy):
    fault = refusal(*words)
    assert what in fault["what"] + fault["where"]
    assert remedy in fault["remedy"]


def test_a_config_of_ones_own_is_read_and_a_broken_one_names_its_field(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_hidden_layers": 8,
        "vocab_size": 32000,
        "intermediate_size": 4096,
    }
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config))
    assert ask("estimate", "train", str(path.parent))["parameters"] > 1e8
    del config["num_hidden_layers"]
    path.write_text(json.dumps(config))
    assert "num_hidden_layers" in refusal("estimate", "train", str(path))["what"]
    path.write_text(json.dumps(config | {"model_type": "lama"}))
    assert "llama" in json.dumps(refusal("estimate", "train", str(path)))


def test_a_table_is_predicted_scored_and_drawn(tmp_path):
    table, out, plot = tmp_path / "runs.csv", tmp_path / "out.csv", tmp_path / "plot.svg"
    columns = "id,model,model_key,gpu,n_gpus,precision,tp,pp,dp,vpp,microbatch,seq_len,"
    columns += "global_batch_tokens,task,year,measured_metric,measured_value,suite"
    run_ = "a,GPT3-175B,gpt3-175b,H100,512,FP8,4,8,16,6,2,2048,4194304,pretrain,2024,"
    table.write_text(f"{columns}\n{run_}tokens_per_s_per_gpu,782,nemo\n")
    told = ask("predict", "training", str(table), "--out", str(out))
    assert told["rows"] == told["lines"] == 1
    (line,) = csv.DictReader(out.open())
    assert line["fits"] == "true"
    assert 600 < float(line["predicted"]) < 1000
    scored = ask("score", str(out), str(table), "--plot", str(plot))
    assert scored["overall"][0]["rows"] == 1
    assert "<svg" in plot.read_text()
    assert "MAPE" in run("score", str(out), str(table)).output


def test_tables_that_are_none_are_refused(tmp_path):
    empty, binary = tmp_path / "empty.csv", tmp_path / "binary.csv"
    empty.write_text("")
    binary.write_bytes(b"\xff\xfe\x00")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    out = str(tmp_path / "out.csv")
    assert "no rows" in refusal("predict", "training", str(empty), "--out", out)["what"]
    assert "CSV" in refusal("predict", "training", str(binary), "--out", out)["what"]
    assert "gpu" in refusal("predict", "training", str(other), "--out", out)["why"]
    served = tmp_path / "served.csv"
    served.write_text("id,gpu,n_gpus,isl,measured_metric\n1,H100,8,100,ttft_ms\n")
    assert "seq_len" in refusal("predict", "training", str(served), "--out", out)["why"]
    assert "the table" in refusal("predict", "serving", str(served), "--out", str(served))["what"]
    refusal("score", str(other), str(other))
