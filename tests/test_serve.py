"""Promises of the serve job, kept with the real engines and a model of a few hundred KB.

vLLM is held to the same promises where `$GIGAFACTORY_VLLM_PYTHON` names a Python that has it.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from gigafactory.jobs import engines, serve
from gigafactory.jobs.context import PROGRESS, STOP, Context
from gigafactory.jobs.weights import ModelRefused

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} Call one as <tool_call>JSON</tool_call>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
JOB = """
import sys
from pathlib import Path
from gigafactory.jobs import serve
from gigafactory.jobs.context import Context, StopJob

work = {"name": "chat", "kind": "serve", "of": "tiny", "engine": sys.argv[3]}
work["context_tokens"] = 512.0
try:
    serve.run(Context.alone(Path(sys.argv[1]), work, inputs={"tiny": Path(sys.argv[2])}))
except StopJob:
    print("stopped when asked")
"""
START_S_MAX = {"transformers": 180, "vllm": 300}
ENGINES = ["transformers"] + ["vllm"] * (engines.VLLM_PYTHON in os.environ)


def make_model(folder):
    """A Qwen3-MoE with random weights that speaks ASCII, and a tokenizer of single bytes."""
    bytes_alone = Tokenizer(models.BPE())
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    alphabet, marks = pre_tokenizers.ByteLevel.alphabet(), ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=marks, vocab_size=258)
    bytes_alone.train_from_iterator([""], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_alone, eos_token=marks[1])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=258, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=32, max_position_embeddings=512, eos_token_id=1,
        initializer_range=0.2,  # far apart, so that rounding does not choose the next token
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    words = [tokenizer.decode([token]) for token in range(2, 258)]
    silent = [2 + i for i, word in enumerate(words) if not (word.isascii() and word.isprintable())]
    model.lm_head.weight.data[[0, *silent]] = 0.0
    model.lm_head.weight.data[1] *= 1.3  # some answers end by themselves
    model.save_pretrained(folder)


class Job:
    """A serve job in a process of its own, as the factory has it."""

    def __init__(self, folder, inputs, engine="transformers"):
        self.attempt, self.engine = folder / "attempt-1", engine
        command = [sys.executable, "-c", JOB, str(folder), str(inputs), engine]
        # Not the usual address, so that nothing here takes it for granted.
        environment = os.environ | {"OMP_NUM_THREADS": "1", serve.HOST: "127.0.0.2"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def ready(self):
        """What the job reports once it is ready, and its engine's process."""
        end_s = time.monotonic() + START_S_MAX[self.engine]
        while time.monotonic() < end_s and self.process.poll() is None:
            for figures in self.reports():
                if figures.get("ready"):
                    return figures, psutil.Process(self.process.pid).children()[0]
            time.sleep(0.1)
        raise AssertionError((self.attempt / serve.LOG).read_text())

    def reports(self):
        try:
            lines = (self.attempt / PROGRESS).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def model(inputs):
    """The reference: the same weights under plain `generate`, and their tokenizer."""
    folder = inputs / "model"
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=ENGINES)
def served(request, tmp_path_factory, inputs):
    """The job with an engine that answers, stopped in the end as the factory stops it."""
    job = Job(tmp_path_factory.mktemp("job"), inputs, request.param)
    figures, engine = job.ready()
    yield job, figures
    (job.attempt / STOP).touch()
    said, _ = job.process.communicate(timeout=serve.GRACE_S + 60)
    assert said == "stopped when asked\n"
    assert not engine.is_running()


@pytest.fixture
def client(served):
    _, figures = served
    key = Path(figures["key_file"]).read_text()
    with openai.OpenAI(base_url=f"{figures['endpoint']}/v1", api_key=key, max_retries=0) as client:
        yield client


def reference(model, ids, max_tokens):
    """Text and usage of the most likely answer."""
    weights, tokenizer = model
    asked = torch.tensor([ids])
    ids_out = weights.generate(asked, max_new_tokens=max_tokens, do_sample=False)[0, len(ids) :]
    text = tokenizer.decode(ids_out, skip_special_tokens=True)
    return text, (len(ids), len(ids_out), len(ids) + len(ids_out))


def counted(usage):
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def test_the_job_reports_what_its_engine_is_and_never_its_key(served):
    job, figures = served
    assert [report["phase"] for report in job.reports() if "phase" in report] == ["load", "work"]
    assert (figures["context_tokens"], figures["cache_tokens"]) == (512, 8 * 512)
    assert figures["engine"] == job.engine
    assert figures["endpoint"].startswith("http://127.0.0.2:")
    file = Path(figures["key_file"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text()) > 40
    assert file.read_text() not in (job.attempt / PROGRESS).read_text()


@pytest.mark.parametrize("prompt", ["hello", "a", "the quick brown fox jumps over it. " * 4])
def test_every_engine_says_and_counts_what_plain_generate_does(served, client, model, prompt):
    tokenizer = model[1]
    text, usage = reference(model, tokenizer(prompt)["input_ids"], 24)
    asked = {"model": "model", "max_tokens": 24, "temperature": 0}
    whole = client.completions.create(prompt=prompt, **asked)
    assert (whole.choices[0].text, counted(whole.usage)) == (text, usage)
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.completions.create(prompt=prompt, **asked, **streamed))
    said = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert (said, counted(chunks[-1].usage)) == (text, usage)
    assert sum(chunk.usage is not None for chunk in chunks) == 1

    messages = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    text, usage = reference(model, ids, 24)
    whole = client.chat.completions.create(messages=messages, **asked)
    assert (whole.choices[0].message.content, counted(whole.usage)) == (text, usage)
    chunks = list(client.chat.completions.create(messages=messages, **asked, **streamed))
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert (said, counted(chunks[-1].usage)) == (text, usage)

    answer = client.responses.create(
        model="model", input=prompt, max_output_tokens=24, temperature=0, stream=False
    )
    counts = (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens)
    assert (answer.output_text, counts) == (text, usage)


def test_answers_asked_for_together_are_those_asked_for_alone(client, model):
    prompts = [f"{n} bottles" for n in range(6)]

    def ask(prompt):
        asked = {"model": "model", "max_tokens": 24, "temperature": 0}
        return client.completions.create(prompt=prompt, **asked).choices[0].text

    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(ask, prompts))
    alone = [reference(model, model[1](prompt)["input_ids"], 24)[0] for prompt in prompts]
    assert together == alone


def test_an_answer_that_ends_by_itself_counts_its_end_as_a_token(client, model):
    ends = "6?"
    text, usage = reference(model, model[1](ends)["input_ids"], 24)
    answer = client.completions.create(model="model", prompt=ends, max_tokens=24, temperature=0)
    assert (answer.choices[0].text, counted(answer.usage)) == (text, usage)
    assert usage[1] < 24
    assert answer.choices[0].finish_reason == "stop"


def test_an_engine_lacks_what_it_says_it_lacks_and_has_the_rest(served, client, model):
    _, figures = served
    lacks = set(figures["lacks"])
    asked = {"model": "model", "messages": [{"role": "user", "content": "hello"}]}
    asked |= {"max_tokens": 30, "temperature": 0}
    plain = client.chat.completions.create(**asked).choices[0].message.content

    def has(name, **more):
        return client.chat.completions.create(**asked | more).choices[0]

    yes_or_no = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    yes_or_no["additionalProperties"] = False
    schema = {"type": "json_schema", "json_schema": {"name": "yes", "schema": yes_or_no}}
    found = {
        "stop": has("stop", stop=[plain[5]]).message.content != plain,
        "logprobs": has("logprobs", logprobs=True).logprobs is not None,
        "response_format": "a" in _json(has("response_format", response_format=schema)),
        "sampling": len({has("sampling", temperature=2.0).message.content for _ in range(3)}) > 1,
        "n": len(client.chat.completions.create(**asked | {"n": 2, "temperature": 1}).choices) == 2,
    }
    forced = {"type": "function", "function": {"name": "f"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": yes_or_no}}
    called = has("tool_choice", tools=[tool], tool_choice=forced, max_tokens=80).message.tool_calls
    found["tool_choice"] = bool(called) and called[0].function.name == "f"
    shown = client.chat.completions.create(**asked | {"tools": [tool]}).usage.prompt_tokens
    found["tools"] = shown > client.chat.completions.create(**asked).usage.prompt_tokens
    try:
        client.embeddings.create(model="model", input="hello")
        found["embeddings"] = True
    except openai.NotFoundError:
        found["embeddings"] = False
    base, bearer = str(client.base_url), {"authorization": f"Bearer {client.api_key}"}
    asked_to_act = httpx.post(f"{base}act", json={"observation": [0.0]}, headers=bearer)
    found["act"] = asked_to_act.status_code != 404
    assert {name for name, there in found.items() if not there} == lacks


def _json(choice):
    try:
        return json.loads(choice.message.content)
    except ValueError:
        return {}


def test_nobody_is_answered_without_the_key_and_nothing_but_the_protocol_is_served(served):
    _, figures = served
    key = Path(figures["key_file"]).read_text()
    ask = {"model": "model", "prompt": "hello", "max_tokens": 1}
    with httpx.Client(base_url=figures["endpoint"], trust_env=False, timeout=60) as http:
        for path in ("/v1/completions", "/v1/models", "/health"):
            for said in ({}, {"authorization": "Bearer x"}, {"authorization": key}):
                assert http.request("POST", path, json=ask, headers=said).status_code == 401
        bearer = {"authorization": f"Bearer {key}"}
        assert http.post("/v1/completions", json=ask, headers=bearer).status_code == 200
        closed = (
            "/load_model",
            "/reset",
            "/invocations",
            "/metrics",
            "/docs",
            "/v1/systemone",
            "/",
        )
        for path in (*closed, "/v1/completions/", "//v1/completions", "/v1/audio/transcriptions"):
            assert http.post(path, json=ask, headers=bearer).status_code == 404
        assert http.get("/health", headers=bearer).status_code == 200


def test_an_engine_that_is_asked_for_and_not_there_is_refused_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.delenv(engines.VLLM_PYTHON, raising=False)
    asked = engines.Asked(tmp_path / "model", 256, 1, False, 1)
    with pytest.raises(engines.EngineRefused) as refused:
        engines.way("vllm", asked)
    assert engines.VLLM_PYTHON in refused.value.remedy


def test_auto_is_vllm_where_there_are_a_gpu_and_vllm_and_transformers_elsewhere(
    monkeypatch, inputs
):
    def chosen(gpu, python):
        monkeypatch.setattr(engines, "vllm_python", lambda: python)
        return engines.way("auto", engines.Asked(inputs / "model", 256, 2, gpu, 1))

    assert chosen(False, "/usr/bin/python3").engine == "transformers"
    assert chosen(True, None).engine == "transformers"
    best = chosen(True, "/usr/bin/python3")
    assert best.engine == "vllm"
    assert best.command[0] == "/usr/bin/python3"
    at = best.command.index("--tensor-parallel-size")
    assert best.command[at + 1] == "2", "a chip is a GPU"
    assert not any("key" in word for word in best.command), "a command line is seen by all"


def test_kill_9_of_the_job_leaves_no_orphan_engine(tmp_path, inputs):
    job = Job(tmp_path / "job", inputs)
    _, engine = job.ready()
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.communicate()
    engine.wait(timeout=60)


def test_an_engine_that_dies_fails_the_job_with_the_tail_of_its_log(tmp_path, inputs, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no memory left >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    work = {"name": "chat", "kind": "serve", "of": "tiny"}
    context = Context.alone(tmp_path / "job", work, inputs={"tiny": inputs})
    with pytest.raises(serve.EngineDied, match="ended with 3:\nno memory left"):
        serve.run(context)


def test_a_model_that_holds_a_pickle_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").touch()
    work = {"name": "chat", "kind": "serve", "of": "tiny"}
    context = Context.alone(tmp_path / "job", work, inputs={"tiny": tmp_path})
    with pytest.raises(ModelRefused, match="pickle"):
        serve.run(context)
    assert not (context.folder / serve.LOG).exists()
