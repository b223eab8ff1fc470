"""How well a language model predicts text it never saw, in bits a byte, and against whom.

Bits a byte does not depend on the tokenizer, so a model may stand beside compressors:
- a byte 5-gram with interpolated Kneser-Ney smoothing (Kneser and Ney 1995; Chen and Goodman
  1999), given the text that the model read in its training, once; and another one, given the
  whole training split, which is more where the model read less than an epoch;
- gzip and xz at level 9, of the held-out text alone.

All get the same held-out files (`corpus`), byte for byte. The model reads them as tokens, an
`END` before each file, in windows as long as its training's that overlap by half: each token
counts once, and but for the first window's is predicted from at least half a window. Ends of
files are not text: they cost no one anything.
"""

import gzip
import json
import lzma
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen3MoeForCausalLM

from gigafactory.jobs.corpus import END, TRAINING, corpus, text_read
from gigafactory.jobs.moe import IGNORED, lean

ORDER = 5
"""Bytes of an n-gram: four are known, the fifth is predicted."""
WINDOWS_AT_ONCE = 8


def evaluate(
    model_dir: Path, cache: Path, threads: int, report: Callable[..., None]
) -> dict[str, Any]:
    """Bits per byte of the model and of the others on the held-out text."""
    torch.set_num_threads(threads)
    config = json.loads((Path(model_dir) / "config.json").read_text("utf-8"))
    text = corpus(cache, config["vocab_size"])
    held_out = "".join(text.held_out_files).encode()
    training = Path(model_dir) / TRAINING
    read = json.loads(training.read_text("utf-8"))
    model, tokens = model_bits(model_dir, text.held_out_files, read["sequence"], report)
    bits = {
        "bits_per_byte": model,
        "bits_per_byte_5gram": ngram_bits(text_read(text, **read), held_out),
        "bits_per_byte_5gram_whole": ngram_bits(text.training_text, held_out),
        "bits_per_byte_gzip": 8 * len(gzip.compress(held_out, 9)),
        "bits_per_byte_xz": 8 * len(lzma.compress(held_out, preset=9)),
    }
    figures = {name: total / len(held_out) for name, total in bits.items()}
    better = 1 - figures["bits_per_byte"] / figures["bits_per_byte_5gram"]
    return figures | {"better_than_5gram": better, "bytes": len(held_out), "tokens": tokens}


@torch.no_grad()
def model_bits(
    model_dir: Path, files: list[str], window: int, report: Callable[..., None]
) -> tuple[float, int]:
    """Bits the model needs for all files, in bfloat16, seeing `window` tokens at once.

    Also how many tokens it read for that, overlaps counted.
    """
    tokenizer = Tokenizer.from_file(str(Path(model_dir) / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    ids = np.concatenate([[end, *e.ids] for e in tokenizer.encode_batch(files)])
    model = lean(Qwen3MoeForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)).eval()
    half = window // 2
    starts = range(0, max(1, len(ids) - 1 - half), half)
    ids = np.append(ids, [end] * (starts[-1] + window + 1 - len(ids)))
    nats = 0.0
    for first in range(0, len(starts), WINDOWS_AT_ONCE):
        group = starts[first : first + WINDOWS_AT_ONCE]
        rows = torch.from_numpy(np.stack([ids[s : s + window + 1] for s in group]))
        targets = rows[:, 1:].clone()
        targets[targets == end] = IGNORED
        targets[1 if first == 0 else 0 :, :half] = IGNORED  # But for the first window.
        loss, _, _ = model(rows[:, :-1], targets)
        nats += loss.item() * (targets != IGNORED).sum().item()
        report(bytes_share=(first + len(group)) / len(starts))
    return nats / math.log(2), len(starts) * window


def ngram_bits(training: bytes, text: bytes, order: int = ORDER) -> float:
    """Bits an interpolated Kneser-Ney n-gram of bytes needs for `text`.

    p(w|h) = (max(c(hw) - d, 0) + d n(h) p(w|h')) / c(h): c counts at the highest order, and
    below it counts how many bytes precede; n(h) is how many bytes follow h; h' lacks h's
    first byte; d = n1 / (n1 + 2 n2) from the n-grams counted once and twice.
    """
    # The bytes' last `order` as one number, the newest in the lowest bits.
    seen, asked = (_grams(t, order) for t in (training, text))
    probability = np.full(len(asked), 1 / 256)
    grams, counts = np.unique(seen, return_counts=True)
    levels = [(grams, counts)]
    for length in range(order - 1, 0, -1):
        # An n-gram of lower order counts once for each longer n-gram that ends in it.
        grams, counts = np.unique(grams & _mask(length), return_counts=True)
        levels.append((grams, counts))
    for length, (grams, counts) in enumerate(reversed(levels), 1):
        histories, first = np.unique(grams >> 8, return_index=True)
        follow = np.diff(np.append(first, len(grams)))
        totals = np.add.reduceat(counts, first)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        discount = once / (once + 2 * twice) if once else 0.0
        gram = asked & _mask(length)
        count = _found(grams, counts, gram)
        total = _found(histories, totals, gram >> 8)
        kept = (
            np.maximum(count - discount, 0)
            + discount * _found(histories, follow, gram >> 8) * probability
        )
        probability = np.where(total > 0, kept / np.maximum(total, 1), probability)
    return float(-np.log2(probability).sum())


def _grams(text: bytes, order: int) -> np.ndarray:
    """For each byte, it and the `order - 1` before it (zeros at the start) as one uint64."""
    padded = np.frombuffer(b"\0" * (order - 1) + text, np.uint8)
    grams = np.zeros(len(text), np.uint64)
    for back in range(order):
        start = order - 1 - back
        grams |= padded[start : start + len(text)].astype(np.uint64) << np.uint64(8 * back)
    return grams


def _mask(length: int) -> np.uint64:
    """Selects the newest `length` bytes."""
    return np.uint64((1 << 8 * length) - 1)


def _found(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each key asked for, 0 where it is not among the sorted `keys`."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)
