"""The serving engines: how each is started, and what it can not do.

An engine is a child process, on 127.0.0.1 unless told otherwise, that speaks OpenAI's protocol,
answers 200 to `/health` while it is well, and wants a key (`engine_child`). What it `lacks` is
told in the words of that protocol, found by reading and by trying transformers 5.23 and vLLM 0.32;
docs/serving.md has the table. What drives or looks rather than writes, a policy or a detector,
has an engine of its own, `act_child`, which answers `/v1/act` and lacks all else.
"""

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gigafactory.jobs.context import JobRefused
from gigafactory.jobs.whole import writing

MODEL = "model"
"""What a model is called in requests to its engine, whichever that is."""

CHILD = Path(__file__).with_name("engine_child.py")
ACT = "/v1/act"
EXAMPLE = "example.json"
"""Beside a model that acts: a request that it can answer."""
ROWS_MAX = 4096
"""Observations in one request."""
ACTS = ("policy", "detector")
"""What a model's config says of itself, as `gigafactory`, where it does not write."""
VLLM_PYTHON = "GIGAFACTORY_VLLM_PYTHON"
"""Names an interpreter that has vLLM, where ours has not."""

SEATS = 8  # full contexts that the KV cache holds
PAGE_TOKENS = 256  # of the KV cache; transformers' default
BATCH_TOKENS = 512  # in one forward pass; the attention mask grows with it
GIB = 1 << 30
KV_BYTES = 4  # of one number in the KV cache, at most
TOOL_CALL = "<tool_call>"  # how Hermes and Qwen write a call, the one form that both engines read
TOOL_TYPES = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next")
"""Architectures of which `transformers serve` reads calls without being told how."""


class EngineRefused(JobRefused):
    """An engine that was asked for and cannot be had."""


@dataclass(frozen=True)
class Asked:
    """What is to be served, and on what."""

    model: Path
    context_tokens: int
    chips: int
    gpu: bool
    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True)
class Way:
    """How an engine is started. `lacks` are the things of OpenAI's protocol that it has not."""

    engine: str
    command: list[str]
    environment: dict[str, str]
    cache_tokens: int
    lacks: frozenset[str]
    warm_up: tuple[str, dict[str, Any]] = (
        "/v1/completions",
        {"model": MODEL, "prompt": "Hello", "max_tokens": 1},
    )
    """The first request, so that the first client waits for nothing that is made once."""


def way(wanted: str, asked: Asked) -> Way:
    """The way of the engine that is `wanted`: "transformers", "vllm" or "auto".

    `auto` is vLLM where there are a GPU and vLLM, else transformers; what acts has its own.
    """
    if acts(asked.model):
        return acting(asked)
    if wanted == "auto":
        wanted = "vllm" if asked.gpu and vllm_python() else "transformers"
    return WAYS[wanted](asked)


def transformers(asked: Asked) -> Way:
    """`transformers serve`, with continuous batching over a paged KV cache."""
    pages = SEATS * -(-asked.context_tokens // PAGE_TOKENS)
    settings = {
        "force_model": MODEL,  # loaded before the port opens, never unloaded
        "continuous_batching": True,
        "attn_implementation": "sdpa",  # of those that page their cache, the one for a CPU
        "device": "cuda" if asked.gpu else "cpu",
        "dtype": "auto" if asked.gpu else dtype(),
        "cb_num_blocks": pages,
        "cb_max_batch_tokens": BATCH_TOKENS,
        "host": asked.host,
        "port": asked.port,
        "log_level": "error",
    }
    command = [sys.executable, "-P", str(CHILD), "transformers", str(asked.model.parent)]
    lacks = {"embeddings", "response_format", "sampling", "stop", "n", "logprobs", "tool_choice"}
    lacks.add("act")
    if not (hears_tools(asked.model) and config(asked.model).get("model_type") in TOOL_TYPES):
        lacks.add("tools")
    return Way(
        "transformers",
        [*command, json.dumps(settings)],
        threads(asked),
        pages * PAGE_TOKENS,
        frozenset(lacks),
    )


def vllm(asked: Asked) -> Way:
    """`vllm serve`, of this interpreter or of the one that `$GIGAFACTORY_VLLM_PYTHON` names."""
    python = vllm_python()
    if python is None:
        raise EngineRefused(
            "vLLM is not installed",
            "engine: vllm",
            f"this Python cannot import it, and ${VLLM_PYTHON} names no other",
            f"install vllm, or name a Python that has it in ${VLLM_PYTHON}; or `engine: auto`",
        )
    # Its `auto` makes 16 bits of 32, as suits a GPU; elsewhere the weights are taken as stored.
    stored = config(asked.model).get("dtype") or config(asked.model).get("torch_dtype")
    exact = not asked.gpu and "float32" in (stored, dtype())
    arguments = [
        *("--model", str(asked.model), "--served-model-name", MODEL),
        *("--host", asked.host, "--port", str(asked.port)),
        *("--max-model-len", str(asked.context_tokens)),
        *("--dtype", "float32" if exact else "auto"),
        *("--load-format", "safetensors"),  # never a pickle
        "--disable-uvicorn-access-log",
    ]
    lacks = {"act", "embeddings"}  # it has them of models made to embed, which nobody tried here
    if hears_tools(asked.model):
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    else:
        lacks |= {"tools", "tool_choice"}
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"} | threads(asked)
    if asked.gpu:
        arguments += ["--tensor-parallel-size", str(asked.chips)]
    else:
        space = SEATS * asked.context_tokens * kv_bytes_per_token(config(asked.model))
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(-(-space // GIB)),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # cores are shared with other jobs
        }
        arguments += ["--max-num-seqs", str(SEATS), "--enforce-eager"]  # no compiler needed
    command = [python, "-P", str(CHILD), "vllm", *arguments]
    # vLLM itself refuses what is longer than its context; it holds many at a time.
    return Way("vllm", command, environment, SEATS * asked.context_tokens, frozenset(lacks))


def acting(asked: Asked) -> Way:
    """`act_child`, for a policy or a detector. It answers at once, so it holds what may come."""
    command = [sys.executable, "-P", "-m", "gigafactory.jobs.act_child", str(asked.model)]
    command += [asked.host, str(asked.port)]
    lacks = frozenset({"text", "embeddings"})
    example = json.loads((asked.model / EXAMPLE).read_text(encoding="utf-8"))
    most = ROWS_MAX * SEATS
    return Way("act", command, threads(asked), most, lacks, (ACT, example))


WAYS: dict[str, Callable[[Asked], Way]] = {"transformers": transformers, "vllm": vllm}


def vllm_python() -> str | None:
    """The interpreter that has vLLM, or None."""
    return os.environ.get(VLLM_PYTHON) or (
        sys.executable if importlib.util.find_spec("vllm") else None
    )


def gpu() -> bool:
    """Whether this process may use a GPU of NVIDIA's; Ray hides those it did not give."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return Path("/dev/nvidiactl").exists() and not hidden


def threads(asked: Asked) -> dict[str, str]:
    """The environment that both engines share."""
    return {
        "OMP_NUM_THREADS": str(asked.chips),
        "OMP_WAIT_POLICY": "PASSIVE",  # an engine that waits leaves the cores to others
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def leave(
    model: Path, config: dict[str, Any], example: dict[str, Any], tensors: dict[str, np.ndarray]
) -> None:
    """Leave a model that acts where its engine finds it, with a request that it can be asked."""
    from safetensors.numpy import save_file

    with writing(model) as half_done:
        (half_done / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        (half_done / EXAMPLE).write_text(json.dumps(example), "utf-8")
        whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
        save_file(whole, half_done / "model.safetensors")


def acts(model: Path) -> bool:
    """Whether the model says of itself that it does not write."""
    return (model / "config.json").exists() and config(model).get("gigafactory") in ACTS


def config(model: Path) -> dict[str, Any]:
    """The model's `config.json`."""
    return json.loads((model / "config.json").read_text(encoding="utf-8"))


def hears_tools(model: Path) -> bool:
    """Whether the model's chat template shows it tools, and how to call one as engines read it."""
    files = [model / "chat_template.jinja", model / "tokenizer_config.json"]
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.exists())
    return "tools" in text and TOOL_CALL in text


def kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Bytes of keys and values that a token leaves in all layers."""
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return 2 * config["num_hidden_layers"] * kv_heads * head * KV_BYTES


def dtype() -> str:
    """As the weights are stored, where the processor multiplies bfloat16 itself; else float32.

    Measured with SmolLM2-135M, 8 clients: 55 tokens a CPU-s in bfloat16, 42 in float32.
    """
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    return "auto" if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) else "float32"
