"""The layouts worth having: tokens/s a user against tokens/s a chip, on so many chips. Modelled.

Every way to lay the model over workers of a power of two of chips, every batch, prompts on the
same chips or on chips of their own; what misses the limits or the memory is dropped, and of the
rest those stay that nothing beats in both. s, B.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Model
from gigafactory.stack.serving import constants
from gigafactory.stack.serving.deployment import Deployment, describe, memory
from gigafactory.stack.serving.load import (
    Load,
    Serving,
    prompt_rate,
    serve,
    serve_disaggregated,
)
from gigafactory.stack.serving.steps import decode_step

BATCHES = 2.0 ** np.arange(0, 11)
"""Sequences of one attention group that are tried."""
SHORTLIST = 4
"""Prefill layouts that are tried with every decode layout."""
HEADROOM = 0.85
"""Share of the prefill workers' rate that is planned on: beyond, prompts queue."""


@dataclass(frozen=True)
class Option:
    """One way to serve, and what comes of it."""

    decode: Deployment
    workers: int
    prefill: Deployment | None
    prefill_workers: int
    concurrency: float
    serving: Serving

    @property
    def tokens_per_s_per_user(self) -> float:
        """What one client sees."""
        return 1 / float(self.serving.tpot_s)

    @property
    def tokens_per_s_per_chip(self) -> float:
        """Output tokens."""
        return float(self.serving.output_tokens_per_s_per_chip)

    def __str__(self) -> str:
        layout = f"{self.workers} x {describe(self.decode)}"
        if self.prefill is not None:
            layout = f"prefill {self.prefill_workers} x {describe(self.prefill)}, decode {layout}"
        return f"{layout}, {self.concurrency:.0f} in flight"


@dataclass(frozen=True)
class Frontier:
    """Options that nothing beats in both, fastest for one user first."""

    options: tuple[Option, ...]
    lost: tuple[str, ...]
    """For each, the best layout of another kind that it beat, and by what."""
    considered: int


def search(
    model: Model,
    chip: Chip,
    chips: int,
    load: Load,
    *,
    ttft_s: float = np.inf,
    tpot_s: float = np.inf,
    base: Deployment | None = None,
) -> Frontier:
    """The frontier of `model` on `chips` chips within the limits; `load` gives the lengths.

    `base` holds what is not searched: precision, engine, chunk, drafts.
    """
    base = base or Deployment()
    found = list(_aggregated(model, chip, chips, load, base))
    found += _disaggregated(model, chip, chips, load, base, ttft_s, tpot_s)
    kept = [
        one
        for one in found
        if one.serving.fits and one.serving.ttft_s <= ttft_s and one.serving.tpot_s <= tpot_s
    ]
    kept.sort(key=lambda one: (-one.tokens_per_s_per_user, -one.tokens_per_s_per_chip))
    best: list[Option] = []
    for one in kept:
        if not best or one.tokens_per_s_per_chip > best[-1].tokens_per_s_per_chip:
            best.append(one)
    return Frontier(tuple(best), tuple(_why(one, kept) for one in best), len(found))


def layouts(model: Model, chip: Chip, chips: int, base: Deployment) -> Iterator[Deployment]:
    """Workers of up to `chips` chips, a power of two, whose weights fit."""
    width = 1
    while width <= chips:
        for tp in (1, 2, 4, 8, 16, 32):
            groups = width // tp
            if tp > min(width, chip.fabric_chips) or model.heads % tp:
                continue
            if groups > 1 and not model.experts:
                continue  # Copies of a dense model are workers of their own.
            for ep in {1, width} if model.experts else {1}:
                one = replace(base, tp=tp, dp_attention=groups, ep=min(ep, model.experts or 1))
                if one.ep == 1 and width > 8 and model.experts:
                    continue  # An expert split over more than a board is all latency.
                if memory(model, chip, one, one.chunk_tokens).fits:
                    yield one
        width *= 2


def _aggregated(
    model: Model, chip: Chip, chips: int, load: Load, base: Deployment
) -> Iterator[Option]:
    for one in layouts(model, chip, chips, base):
        workers = chips // one.chips
        concurrency = BATCHES * one.dp_attention * workers
        asked = Load(
            prompt_tokens=load.prompt_tokens, new_tokens=load.new_tokens, concurrency=concurrency
        )
        answer = serve(model, chip, one, asked, workers)
        # More clients than the memory holds only wait.
        held = answer.batch >= concurrency * 0.999
        for index in map(int, np.flatnonzero(held & answer.fits)):
            yield Option(one, workers, None, 0, float(concurrency[index]), _at(answer, index))


def _disaggregated(
    model: Model,
    chip: Chip,
    chips: int,
    load: Load,
    base: Deployment,
    ttft_s: float,
    tpot_s: float,
) -> list[Option]:
    """Both pools are rated apart, then matched; only the best matches are modelled together."""
    prompt, new = float(load.prompt_tokens), float(load.new_tokens)
    candidates = list(layouts(model, chip, chips // 2, base))
    if not candidates:
        return []
    rated = []
    for one in candidates:
        alone_s, rate = prompt_rate(model, chip, one, prompt)
        if alone_s < ttft_s:
            rated.append((rate / one.chips, rate, one))
    rated.sort(key=lambda each: -each[0])
    shortlist = rated[:SHORTLIST]
    engine = constants.engine(base.engine)
    matches: list[tuple[float, float, Deployment, int, Deployment, int, float]] = []
    for decode in candidates:
        room = memory(model, chip, decode)
        most = min(float(room.sequences(prompt + new)), decode.max_batch) * decode.dp_attention
        batch = BATCHES[BATCHES * decode.dp_attention <= most] * decode.dp_attention
        if not batch.size:
            continue
        step_s = decode_step(model, chip, decode, batch, prompt + new / 2).seconds
        pace = step_s / decode.tokens_per_step
        for _, rate, prefill in shortlist:
            second = np.arange(1, (chips - prefill.chips) // decode.chips + 1)[:, None]
            first = (chips - second * decode.chips) // prefill.chips
            wanted = second * batch / (pace * new + engine.first_token_s)
            got = np.minimum(wanted, first * rate * HEADROOM)
            per_chip = np.where(pace <= tpot_s, got * new / chips, 0.0)
            # One pool size for each batch: that which yields most.
            pick = np.argmax(per_chip, axis=0)
            for column, row in enumerate(pick):
                if per_chip[row, column] > 0:
                    in_flight = got[row, column] * (pace[column] * new + 2 / rate)
                    matches.append(
                        (
                            1 / pace[column],
                            per_chip[row, column],
                            prefill,
                            int(first[row, 0]),
                            decode,
                            int(second[row, 0]),
                            float(in_flight),
                        )
                    )
    matches.sort(key=lambda match: (-match[0], -match[1]))
    options, highest = [], 0.0
    for _, per_chip_, prefill, first_, decode, second_, in_flight in matches:
        if per_chip_ <= 1.01 * highest:
            continue
        highest = per_chip_
        clients = max(in_flight, 1.0)
        asked = Load(prompt_tokens=prompt, new_tokens=new, concurrency=clients)
        answer = serve_disaggregated(model, chip, prefill, first_, decode, second_, asked)
        options.append(Option(decode, second_, prefill, first_, clients, answer))
    return options


def _at(answer: Serving, index: int) -> Serving:
    """One point of an answer over many."""

    def pick(value: object) -> object:
        return value[index].item() if isinstance(value, np.ndarray) and value.ndim else value

    fields = {name: pick(getattr(answer, name)) for name in Serving.__dataclass_fields__}
    fields["parts"] = {name: pick(part) for name, part in answer.parts.items()}
    return Serving(**fields)  # type: ignore[arg-type]


def _why(one: Option, among: list[Option]) -> str:
    """Against the best of the other layouts that are as fast for a user."""
    rivals = [
        other
        for other in among
        if (other.decode, other.prefill) != (one.decode, one.prefill)
        and other.tokens_per_s_per_user >= 0.999 * one.tokens_per_s_per_user
    ]
    if not rivals:
        return "no other layout is as fast for a user"
    rival = max(rivals, key=lambda other: other.tokens_per_s_per_chip)
    less = 1 - rival.tokens_per_s_per_chip / one.tokens_per_s_per_chip
    mine, theirs = _shares(one.serving), _shares(rival.serving)
    most = max(theirs, key=lambda name: theirs[name] - mine.get(name, 0.0))
    return f"{rival}: {100 * less:.0f} % fewer tokens a chip; more of its time goes to {most}"


def _shares(serving: Serving) -> dict[str, float]:
    total = sum(float(part) for part in serving.parts.values())
    return {name: float(part) / total for name, part in serving.parts.items()}
