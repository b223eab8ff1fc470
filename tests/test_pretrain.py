"""What `pretrain` promises: the same mathematics as transformers, the same bits after a crash."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from gigafactory.jobs import bits_per_byte, corpus, moe, muon, pretrain
from gigafactory.jobs.context import STOP, Context, StopJob

CONFIG = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "tie_word_embeddings": True,
    "router_aux_loss_coef": 0.01,
    "initializer_range": 0.1,
    "max_position_embeddings": 256,
}
WORK = {
    "name": "small",
    "kind": "pretrain",
    "data": "stdlib",
    "tokens": 8 * 256,
    "sequence": 32,
    "batch_tokens": 256,
    "learning_rate": 1e-2,
    "seed": 0,
    "checkpoint_steps": 3,
    "precision": "float32",
}
SOURCES = {
    "alpha/__init__.py": "def first():\n    return 1\n" * 40,
    "alpha/parts.py": "class Part:\n    '''ü, a part.'''\n    size = 2\n" * 40,
    "beta.py": "import alpha\n\nprint(alpha.first())\n" * 60,
    "_pybeta.py": "for n in range(10):\n    print(n * n)\n" * 60,
    "gamma.py": "while True:\n    break\nelse:\n    pass\n" * 9,
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of five files, so that making the corpus takes no time."""
    folder = write_library(tmp_path / "library")
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(folder))
    monkeypatch.setattr(corpus, "HELD_OUT_SHARE_MAX", 0.2)
    return folder


def write_library(folder):
    for file, text in SOURCES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, "utf-8")
    return folder


def alone(folder, **work):
    return Context.alone(folder, WORK | work, model={"name": "small", "config": CONFIG})


def progress(context):
    lines = (context.folder / "progress.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_no_held_out_file_has_a_sibling_in_training():
    size_bytes = {file: path.stat().st_size for file, path in corpus.sources().items()}
    families = corpus.held_out_families(size_bytes)
    held_out = [file for file in size_bytes if corpus.family(file) in families]
    tops = {file.split("/")[0] for file in held_out}
    assert tops.isdisjoint(file.split("/")[0] for file in size_bytes.keys() - set(held_out))
    assert 0.08 <= sum(map(size_bytes.get, held_out)) / sum(size_bytes.values()) <= 0.10
    assert corpus.family("_pydecimal.py") == corpus.family("decimal.py")


def test_the_corpus_gives_each_byte_back_and_is_made_once(library, tmp_path):
    made = corpus.corpus(tmp_path / "cache", 512)
    before = made.tokenizer.stat().st_mtime_ns
    assert corpus.corpus(tmp_path / "cache", 512) == made
    assert made.tokenizer.stat().st_mtime_ns == before
    text = pretrain.tokenizer(made, Qwen3MoeConfig(**CONFIG)).decode(made.tokens)
    assert text.replace(corpus.END, "").encode() == made.training_text
    assert made.held_out_files == [SOURCES["gamma.py"]]


def test_an_epoch_deals_each_token_at_most_once():
    tokens = np.arange(1000, dtype=np.uint16)
    steps = [corpus.batch(tokens, s, sequences=3, sequence=32, seed=0) for s in range(9)]
    seen = np.concatenate(steps)[:, :-1].ravel()
    assert len(set(seen)) == len(seen)


def test_the_lean_forward_has_the_loss_and_the_gradients_of_transformers():
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**CONFIG))
    rows = torch.randint(512, (4, 65))
    lean = moe.lean(copy.deepcopy(model))
    loss, _, _ = lean(rows[:, :-1], rows[:, 1:])
    loss.backward()
    targets = rows[:, 1:].contiguous()
    reference = model(input_ids=rows[:, :-1], labels=targets, shift_labels=targets).loss
    reference.backward()
    assert abs(loss.item() - reference.item()) < 1e-4
    ours = dict(lean.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-5, rtol=1e-3)


def test_balancing_asks_nothing_of_a_rank_but_of_the_whole_batch():
    # Two ranks, one domain each, one expert each: unbalanced alone, balanced together.
    probability = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    counts = torch.tensor([[[8.0, 0.0]], [[0.0, 8.0]]])
    per_rank = moe.balancing_loss(moe.global_load(counts[0]), probability[0])
    load = counts.sum(0) / counts.sum()
    over_all = sum(moe.balancing_loss(load, p) for p in probability) / 2
    reference = 2 * sum(f * p for f, p in zip(load[0], probability.mean(0)[0], strict=True))
    assert per_rank == 2
    assert over_all == reference == 1


def test_a_stopped_job_resumes_to_the_very_weights_of_one_left_in_peace(library, tmp_path):
    peace = pretrain.run(alone(tmp_path / "peace"))
    disturbed = alone(tmp_path / "disturbed")
    report = Context.report

    def stop_at_five(context, **figures):
        report(context, **figures)
        if figures.get("step") == 5:
            (context.folder / STOP).touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "REPORT_S", 0)
        patch.setattr(Context, "report", stop_at_five)
        with pytest.raises(StopJob):
            pretrain.run(disturbed)
    (disturbed.folder / STOP).unlink()
    (disturbed.checkpoints / "step-000007.tmp").mkdir()  # As a kill would leave it.
    resumed = pretrain.run(disturbed)
    assert [line["checkpoint"] for line in progress(disturbed) if "checkpoint" in line] == [3, 5, 6]
    assert sorted(p.name for p in disturbed.checkpoints.iterdir()) == ["step-000005", "step-000006"]
    assert resumed["weights_sha256"] == peace["weights_sha256"]
    assert resumed["loss_first"] == peace["loss_first"]
    assert resumed["tokens"] == WORK["tokens"]


def one_rank(rank, world, folder, library):
    """A rank of a gang, as the engine would start it."""
    torch.set_num_threads(1)
    corpus.sysconfig.get_path = lambda name: str(library)
    corpus.HELD_OUT_SHARE_MAX = 0.2
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    whole = alone(folder)
    model = {"name": "small", "config": CONFIG}
    context = Context(
        work=WORK | {"tokens": 6 * 256},
        folder=whole.folder,
        checkpoints=whole.checkpoints,
        cache=whole.cache,
        model=model,
        rank=rank,
        world=world,
    )
    results = pretrain.run(context)
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_ranks_train_as_one_and_one_takes_over_their_checkpoint(library, tmp_path):
    folder = tmp_path / "gang"
    folder.mkdir()
    multiprocessing.spawn(one_rank, args=(2, folder, library), nprocs=2)
    gang = json.loads((folder / "results.json").read_text())
    one = pretrain.run(alone(tmp_path / "one", tokens=6 * 256))
    assert gang["loss_first"] == pytest.approx(one["loss_first"], abs=1e-4)
    assert gang["loss_last"] == pytest.approx(one["loss_last"], abs=1e-3)
    assert gang["parameters"] == one["parameters"]
    (folder / "attempt-1" / "output").rename(folder / "earlier")
    longer = pretrain.run(alone(folder, tokens=6 * 256))  # From the gang's step 3.
    assert longer["loss_last"] == pytest.approx(one["loss_last"], abs=1e-3)


def test_the_output_is_a_folder_that_transformers_opens_and_a_judge_reads(library, tmp_path):
    context = alone(tmp_path)
    results = pretrain.run(context)
    folder = context.output / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == results["parameters"]
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "import"}], tokenize=False)
    answer = model.generate(**tokenizer(asked, return_tensors="pt"), max_new_tokens=3)
    assert tokenizer.decode(answer[0]).startswith("import")
    judged = bits_per_byte.evaluate(folder, context.cache, 1, lambda **figures: None)
    assert judged["bytes"] == len(SOURCES["gamma.py"])
    assert 0 < judged["bits_per_byte"] < 16
    pickles = {".bin", ".pt", ".pkl"}
    assert not [path for path in Path(folder).iterdir() if path.suffix in pickles]


def test_muon_moves_every_direction_of_a_weight_by_the_same_amount_or_so():
    torch.manual_seed(0)
    stacked = torch.randn(3, 64, 16) @ torch.diag(torch.logspace(-0.5, 0.5, 16))
    update = muon.orthogonal(stacked, split=2).reshape(6, 32, 16)
    strengths = torch.linalg.svdvals(update.float()) / (muon.ADAM_UPDATE_RMS * 32**0.5)
    assert strengths.min() > 0.4
    assert strengths.max() < 1.4


def test_the_ngram_is_a_distribution_and_forgets_nothing():
    training = b"abcabcabd" * 50
    asked = [b"zabc" + bytes([byte]) for byte in range(256)]
    before = bits_per_byte.ngram_bits(training, b"zabc")
    chances = [2 ** (before - bits_per_byte.ngram_bits(training, text)) for text in asked]
    assert sum(chances) == pytest.approx(1)
    assert int(np.argmax(chances)) == ord("a")
