"""Where a model comes from: a config, a path, a shipped name, or a published shape.

Shipped: `data/configs/NAME.json`, other names of the same config in `data/configs/aliases.csv`,
and shapes of models that never had a config in `data/shapes.csv`.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gigafactory.stack.models import parts
from gigafactory.stack.models.config import Config, nearest, weight_dtypes
from gigafactory.stack.models.families import FAMILIES
from gigafactory.stack.models.records import Encoder, Layers, Model, UnknownModel
from gigafactory.stack.models.towers import TOWERED

FOLDER = Path(__file__).parents[1] / "data"
CONFIGS = FOLDER / "configs"


def shipped() -> list[str]:
    """Names that `read` finds without a path: of configs, of their aliases and of shapes."""
    return sorted({*(path.stem for path in CONFIGS.glob("*.json")), *_aliases(), *_shapes()})


def shipped_config(name: str) -> dict[str, Any]:
    """The shipped `config.json` of a name or alias, without our notes (`_source` and such)."""
    path = CONFIGS / f"{_aliases().get(name, name)}.json"
    if not path.is_file():
        known = sorted({*(one.stem for one in CONFIGS.glob("*.json")), *_aliases()})
        raise UnknownModel("model", name, nearest(name, known))
    fields = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in fields.items() if not key.startswith("_")}


def read(source: str | Path | Mapping[str, Any]) -> Model:
    """The model of a config: a mapping, a path to it or its folder, or a shipped name.

    Raises `UnknownModel` for an architecture that is not understood, rather than guess.
    """
    if isinstance(source, Mapping):
        return _model(source, str(source.get("_name_or_path") or source.get("model_type")))
    path = Path(source)
    if path.exists():
        path = path.resolve()  # A config is called by its folder.
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        if str(source) in shipped():
            return _shipped(str(source))
        raise UnknownModel("model", str(source), f"{nearest(source, shipped())}, or a path")
    return _model(_loaded(path), path.parent.name if path.name == "config.json" else path.stem)


def of_shape(
    name: str,
    *,
    layers: int,
    hidden: int,
    ffn: int,
    heads: int,
    vocabulary: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    experts: int = 0,
    experts_per_token: int = 0,
    expert_ffn: int | None = None,
    shared_experts: int = 0,
    dense_first: int = 0,
    kv_lora: int | None = None,
    q_lora: int | None = None,
    gated: bool = True,
    tied: bool = False,
    positions: int = 0,
) -> Model:
    """The model of a published shape, for those that never had a config.

    With a learned table of `positions` it is of the GPT line: biases everywhere, layer norms.
    With `kv_lora` it has MLA with DeepSeek's rotary part of 64, values as wide as a head.
    """
    biased = positions > 0
    size = head_dim or hidden // heads
    if kv_lora:
        mixer = parts.latent_attention(
            hidden, heads, kv_lora=kv_lora, q_lora=q_lora, nope=size, rope=64, v_dim=size
        )
    else:
        mixer = parts.attention(
            hidden, heads, kv_heads or heads, size, input_bias=biased, output_bias=biased
        )
    norm = hidden * (1 if gated else 2)
    first = dense_first if experts else layers
    stack = []
    if first:
        dense = parts.dense(hidden, ffn, gated=gated, bias=biased)
        stack.append(Layers(first, mixer, dense, 2 * norm))
    if layers > first:
        width = expert_ffn or ffn
        spread = parts.mixture(
            hidden,
            width,
            experts,
            experts_per_token,
            gated=gated,
            bias=biased,
            shared_width=shared_experts * width,
        )
        stack.append(Layers(layers - first, mixer, spread, 2 * norm))
    return Model(
        name=name,
        hidden=hidden,
        vocabulary=vocabulary,
        tied=tied,
        positions=positions,
        blocks=tuple(stack),
        other_parameters=norm,
    )


@cache
def _shipped(name: str) -> Model:
    path = CONFIGS / f"{_aliases().get(name, name)}.json"
    return _model(_loaded(path), name) if path.is_file() else _of_row(_shapes()[name])


@cache
def _aliases() -> dict[str, str]:
    return {row["name"]: row["same_as"] for row in _rows(CONFIGS / "aliases.csv")}


@cache
def _shapes() -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in _rows(FOLDER / "shapes.csv")}


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _of_row(row: Mapping[str, str]) -> Model:
    return of_shape(
        row["name"],
        layers=int(row["layers"]),
        hidden=int(row["hidden"]),
        ffn=int(row["ffn"]),
        heads=int(row["heads"]),
        kv_heads=int(row["kv_heads"]),
        head_dim=int(row["head_dim"]),
        vocabulary=int(row["vocab"]),
        gated=row["gated"] == "yes",
        positions=int(row["positions"]),
        tied=row["tied"] == "yes",
    )


def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnknownModel("model", str(path), f"a file of JSON ({error})") from error
    if not isinstance(fields, Mapping):
        raise UnknownModel("model", str(path), "a JSON object with the fields of a config")
    return fields


def _model(fields: Mapping[str, Any], name: str) -> Model:
    whole = text = Config(fields)
    kind = str(whole.get("model_type"))
    towers: tuple[Encoder, ...] = ()
    if kind in TOWERED:
        text, towers = TOWERED[kind](whole)
    elif kind not in FAMILIES:
        known = nearest(kind, [*FAMILIES, *TOWERED])
        raise UnknownModel("model_type", whole.get("model_type"), known)
    decoder = FAMILIES[text.choice("model_type", [*FAMILIES])](text)
    dtypes = weight_dtypes(whole if whole.get("quantization_config") else text)
    return Model(
        name=name,
        hidden=decoder.hidden,
        vocabulary=decoder.vocabulary,
        tied=whole.flag("tie_word_embeddings", decoder.tied),
        positions=decoder.positions,
        blocks=_merged(decoder.layers),
        mtp=decoder.mtp,
        encoders=towers,
        other_parameters=decoder.other_parameters,
        weight_dtype=dtypes[0],
        expert_dtype=dtypes[1],
        assumptions=tuple(whole.get("_assumptions", ())),
    )


def _merged(layers: list[Layers]) -> tuple[Layers, ...]:
    """Equal layers as one block, in order of first appearance."""
    counts: dict[Layers, int] = {}
    for layer in layers:
        one = replace(layer, count=1)
        counts[one] = counts.get(one, 0) + layer.count
    return tuple(replace(layer, count=count) for layer, count in counts.items())
