"""Promises of the serve job, kept with the real engine and a model of a few hundred KB."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import openai
import psutil
import pytest
import torch
import uvicorn
from starlette.applications import Starlette
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from gigafactory.jobs import serve
from gigafactory.jobs.context import PROGRESS, STOP, Context
from gigafactory.jobs.weights import ModelRefused
from gigafactory.ledger import store
from gigafactory.works.gateway import Endpoint, Gateway
from gigafactory.works.keys import Keys

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
JOB = """
import sys
from pathlib import Path
from gigafactory.jobs import serve
from gigafactory.jobs.context import Context, StopJob

work = {"name": "chat", "kind": "serve", "of": "tiny", "context_tokens": 256}
try:
    serve.run(Context.alone(Path(sys.argv[1]), work, inputs={"tiny": Path(sys.argv[2])}))
except StopJob:
    print("stopped when asked")
"""
START_S_MAX = 50


def make_model(folder):
    """A Qwen3-MoE with random weights, and a tokenizer of single bytes."""
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
        num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=32, max_position_embeddings=512, eos_token_id=1,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(folder)


class Job:
    """A serve job in a process of its own, as the factory has it."""

    def __init__(self, folder, inputs):
        self.attempt = folder / "attempt-1"
        command = [sys.executable, "-c", JOB, str(folder), str(inputs)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def ready(self):
        """What the job reports once it is ready, and its engine's process."""
        end_s = time.monotonic() + START_S_MAX
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


@contextmanager
def gateway(home, figures):
    """A gateway before the job that reported `figures`."""
    ledger, keys = store.Ledger(home / "ledger.sqlite"), Keys(home)
    of = {name: figures[name] for name in ("context_tokens", "cache_tokens")}
    endpoints = {"chat": Endpoint("chat", figures["endpoint"], figures["model"], **of)}
    door = Gateway(ledger, "run-1", time.monotonic, lambda: endpoints, keys)
    app = Starlette(routes=door.routes())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    with openai.OpenAI(base_url=url, api_key=keys.create("mill"), max_retries=0) as client:
        yield client, ledger.path
    server.should_exit = True
    thread.join()
    ledger.close()


def test_openais_client_is_served_by_a_real_engine_and_billed_its_usage(tmp_path, inputs):
    job = Job(tmp_path / "job", inputs)
    figures, engine = job.ready()
    assert [report["phase"] for report in job.reports() if "phase" in report] == ["load", "work"]
    assert (figures["context_tokens"], figures["cache_tokens"]) == (256, 8 * 256)
    hello = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    with gateway(tmp_path, figures) as (client, ledger):
        whole = client.chat.completions.create(**hello)
        *chunks, last = client.chat.completions.create(
            **hello, stream=True, stream_options={"include_usage": True}
        )
        text = client.completions.create(model="chat", prompt="hello", max_tokens=4)
        *_, closing = client.completions.create(
            model="chat", prompt="hello", max_tokens=4, stream=True
        )
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.completions.create(model="chat", prompt="hello", max_tokens=257)
        rows = [row for row in store.read(ledger) if row.kind == "RequestSettled"]
    assert whole.usage.completion_tokens == last.usage.completion_tokens == 8
    assert chunks[-1].choices[0].finish_reason == closing.choices[0].finish_reason == "length"
    assert text.usage.prompt_tokens == 5
    assert [row.subject for row in rows] == [whole.id, last.id, text.id, closing.id]
    assert [row.body["completion_tokens"] for row in rows] == [8, 8, 4, 4]
    assert {row.body["outcome"] for row in rows} == {"complete"}

    (job.attempt / STOP).touch()
    said, _ = job.process.communicate(timeout=serve.GRACE_S + 5)
    assert said == "stopped when asked\n"
    assert not engine.is_running()


def test_kill_9_of_the_job_leaves_no_orphan_engine(tmp_path, inputs):
    job = Job(tmp_path / "job", inputs)
    _, engine = job.ready()
    os.kill(job.process.pid, signal.SIGKILL)
    job.process.communicate()
    engine.wait(timeout=5)


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
