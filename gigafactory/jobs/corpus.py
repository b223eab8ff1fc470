"""Real text that every machine has: the sources of Python's standard library, as tokens.

About 9.5 MB. A file belongs to the top-level package or module that it lies in, and a whole
package is either trained on or held out, so nothing held out has a sibling in training.
Left out: tests (they repeat the code that they test), `encodings`, `pydoc_data` and other
generated tables, and programs that ship beside the library (`idlelib`, `lib2to3`, ...).

In: a cache folder. Out: token ids (uint16), a tokenizer, held-out text (UTF-8 bytes).
"""

import hashlib
import json
import re
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from gigafactory.jobs.whole import once

END = "<|endoftext|>"
"""Stands before each file; id 0; also ends an answer and pads."""

TRAINING = "training.json"
"""File beside a model's weights: which of these tokens it was trained on (`text_read`)."""

LEFT_OUT = {
    "__phello__", "antigravity.py", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3",
    "lib-dynload", "pydoc_data", "site-packages", "test", "this.py", "turtledemo",
}  # fmt: skip
TESTS = {"test", "tests", "idle_test"}
TABLES = {"html/entities.py", "sre_constants.py", "stringprep.py", "keyword.py", "token.py"}

HELD_OUT_SHARE_MIN, HELD_OUT_SHARE_MAX = 0.08, 0.10
HELD_OUT_BYTES_MAX = 256 * 1024

# Words with their leading blank, single digits, punctuation with the line's end, then blanks
# of which the last stays with the next word. As in GPT-4's tokenizer, but digits one by one.
PIECES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Corpus:
    """The text of one Python version, cut by one tokenizer."""

    folder: Path

    @property
    def tokenizer(self) -> Path:
        """A `tokenizers` file."""
        return self.folder / "tokenizer.json"

    @property
    def tokens(self) -> np.ndarray:
        """The training files in a row, each behind an `END`. uint16, on disk."""
        return np.load(self.folder / "tokens.npy", mmap_mode="r")

    @property
    def training_text(self) -> bytes:
        """The training files in a row."""
        return (self.folder / "training.txt").read_bytes()

    @property
    def held_out_files(self) -> list[str]:
        """Held-out files, about `HELD_OUT_BYTES_MAX` of them, in an order that a hash draws."""
        return json.loads((self.folder / "held_out.json").read_text("utf-8"))


def corpus(cache: Path, vocabulary: int) -> Corpus:
    """The corpus from the cache, made first by whoever comes first; the others wait."""
    files = sources()
    sizes = [(str(path), path.stat().st_size) for path in files.values()]
    recipe = Path(__file__).read_bytes()
    key = hashlib.sha256(repr((sys.version, vocabulary, sizes, recipe)).encode()).hexdigest()
    folder = Path(cache) / f"stdlib-{vocabulary}-{key[:16]}"
    return Corpus(once(folder, lambda half_done: _make(half_done, files, vocabulary)))


def sources() -> dict[str, Path]:
    """The library's files by their path in it, as `json/decoder.py`, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    files = {}
    for top in sorted(root.iterdir()):
        if top.name in LEFT_OUT or top.name.startswith(("_sysconfigdata", "config-")):
            continue
        for path in [top] if top.suffix == ".py" else sorted(top.rglob("*.py")):
            inside = path.relative_to(root)
            if TESTS.isdisjoint(inside.parts) and inside.as_posix() not in TABLES:
                files[inside.as_posix()] = path
    return files


def family(file: str) -> str:
    """The top-level package or module of a file; `_pydecimal` is of `decimal`'s family."""
    top = file.split("/")[0].removesuffix(".py")
    return re.sub("^_py(?=_?[a-z])", "", top).strip("_").split("_")[0]


def held_out_families(size_bytes: dict[str, int]) -> set[str]:
    """The families kept from training, 8 to 10 % of all bytes, drawn by their names."""
    total_bytes: Counter[str] = Counter()
    for file, size in size_bytes.items():
        total_bytes[family(file)] += size
    chosen, held_bytes = set(), 0
    for name in sorted(total_bytes, key=_draw):
        share = (held_bytes + total_bytes[name]) / total_bytes.total()
        if share <= HELD_OUT_SHARE_MAX:
            chosen.add(name)
            held_bytes += total_bytes[name]
        if held_bytes >= HELD_OUT_SHARE_MIN * total_bytes.total():
            break
    return chosen


def batch(tokens: np.ndarray, step: int, *, sequences: int, sequence: int, seed: int) -> np.ndarray:
    """The global batch of `step`, (sequences, sequence + 1) int64: a function of the step alone.

    Each epoch cuts the stream anew and deals the pieces in an order drawn from (seed, epoch),
    so no token comes twice before all came once.
    """
    pieces = (len(tokens) - 1) // sequence - 1
    rows = []
    for deal in range(step * sequences, (step + 1) * sequences):
        epoch, card = divmod(deal, pieces)
        shift, order = _shuffled(seed, epoch, pieces, sequence)
        start = shift + order[card] * sequence
        rows.append(tokens[start : start + sequence + 1])
    return np.stack(rows).astype(np.int64)


def text_read(source: Corpus, *, tokens: int, sequence: int, seed: int) -> bytes:
    """The text in the first `tokens` tokens that `batch` deals; after an epoch, all of it."""
    stream = source.tokens
    pieces = (len(stream) - 1) // sequence - 1
    if tokens >= pieces * sequence:
        return source.training_text
    shift, order = _shuffled(seed, 0, pieces, sequence)
    starts = shift + sequence * np.sort(order[: -(-tokens // sequence)])
    ids = np.concatenate([stream[start : start + sequence] for start in starts])
    return Tokenizer.from_file(str(source.tokenizer)).decode(ids.tolist()).encode()


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, pieces: int, sequence: int) -> tuple[int, np.ndarray]:
    """Where the first piece of an epoch starts, and the order of its pieces."""
    generator = np.random.default_rng((seed, epoch))
    return int(generator.integers(sequence)), generator.permutation(pieces)


def _draw(name: str) -> int:
    """A number that only depends on a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])


def _make(folder: Path, files: dict[str, Path], vocabulary: int) -> None:
    """Write what a `Corpus` reads."""
    texts = {file: path.read_bytes().decode("utf-8") for file, path in files.items()}
    families = held_out_families({file: len(text.encode()) for file, text in texts.items()})
    training = [text for file, text in texts.items() if family(file) not in families]
    tokenizer = _trained_tokenizer(training, vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    end = [tokenizer.token_to_id(END)]
    encodings = tokenizer.encode_batch(training)
    tokens = np.concatenate([np.array(end + e.ids, np.uint16) for e in encodings])
    np.save(folder / "tokens.npy", tokens)
    (folder / "training.txt").write_text("".join(training), "utf-8", newline="")
    held_out, length_bytes = [], 0
    for file in sorted(texts, key=_draw):
        if family(file) in families and length_bytes < HELD_OUT_BYTES_MAX:
            held_out.append(texts[file])
            length_bytes += len(texts[file].encode())
    (folder / "held_out.json").write_text(json.dumps(held_out), "utf-8")


def _trained_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Byte-pair encoding over bytes: any text goes in and comes back unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
