"""A deployment under load: first token, pace, throughput, power. Modelled.

Closed loop: `concurrency` clients, each with one request in flight. In the steady state every
cycle of T seconds admits each request once, so T = new tokens x decode step + all prompts of the
cycle; prompts steal their time from everybody's decoding (chunked prefill, inflight batching).
A test starts with all clients at once, which the mean time to first token shows. Offline: as many
requests as the memory holds. s, B, W, J.
Sources: work conservation; waiting in a closed queue, Schweitzer's approximation of mean value
analysis (1979); waiting before one server, Pollaczek and Khinchine. Constants: `data/serving.csv`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigafactory.stack import fabric
from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Model
from gigafactory.stack.serving import constants
from gigafactory.stack.serving.deployment import (
    CACHE_BYTES,
    Deployment,
    Memory,
    Number,
    memory,
)
from gigafactory.stack.serving.steps import Decoding, Prompts, Step, decode_step, prompt_step

ROUNDS = 4
"""Of the fixed point between the batch, the step and the prompts that come in during it."""
MIXING = ("vllm", "trtllm")
"""Engines that take prompts in and decode in one batch."""
BUSY_PREFILL, BUSY_DECODE = 0.95, 0.60
"""Power between idle and busy in prefill and in decode. Assumed: arithmetic is what draws it."""
PACE_SPREAD = 0.06
"""Standard deviation of a request's own pace over the mean. Assumed."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of a service. Each may be an array."""

    prompt_tokens: Number
    new_tokens: Number
    concurrency: Number | None = None
    """Requests in flight over all workers; None: offline, as many as fit."""


@dataclass(frozen=True)
class Serving:
    """How a deployment serves a load; numbers, or arrays where the load has them."""

    ttft_s: Number
    """Mean time to first token, waiting included."""
    tpot_s: Number
    """Mean time per output token after the first, prompts of others included."""
    output_tokens_per_s: Number
    """Of all workers."""
    output_tokens_per_s_per_chip: Number
    requests_per_s: Number
    batch: Number
    """Sequences in hand, over all decoding workers."""
    fits: Any
    reason: str
    """Why it does not fit, or what bounds the batch."""
    power_w_per_chip: Number
    joules_per_token: Number
    """Of chips alone, per output token."""
    parts: Mapping[str, Number]
    """Seconds of a mean request: wait, prefill, terms of its decode steps, prompts of others."""
    base_ttft_s: Number
    """The part of `ttft_s` that every request has; the rest is waiting."""
    chips: int

    def ttft_percentile(self, share: float) -> Number:
        """Modelled: an exponential wait with the modelled mean, after what every request has."""
        wait = np.maximum(self.ttft_s - self.base_ttft_s, 0.0)
        return self.base_ttft_s - wait * np.log(1 - share)

    def tpot_percentile(self, share: float) -> Number:
        """Assumed: lognormal about the mean, `PACE_SPREAD` wide."""
        quantile = {0.5: 0.0, 0.9: 1.2816, 0.99: 2.3263}[share]
        return self.tpot_s * np.exp(PACE_SPREAD * quantile - PACE_SPREAD**2 / 2)


def serve(
    model: Model, chip: Chip, deployment: Deployment, load: Load, workers: int = 1
) -> Serving:
    """`workers` equal workers that take prompts in and decode on the same chips."""
    engine, common = constants.engine(deployment.engine), constants.common()
    room = memory(model, chip, deployment, deployment.chunk_tokens)
    prompt, new = np.asarray(load.prompt_tokens, float), np.asarray(load.new_tokens, float)
    slots = _slots(room, deployment, prompt + new)
    offline = load.concurrency is None
    asked = slots if offline else np.asarray(load.concurrency, float) / workers
    reason = _reason(room, deployment, slots, asked)
    # What does not fit is answered as if it did, and said not to.
    fits, slots = room.fits & (slots >= 1), np.where(slots < 1, np.maximum(asked, 1.0), slots)
    batch = np.maximum(np.minimum(asked, slots), 1.0)
    fresh, cached = prompt * (1 - deployment.prefix_hit), prompt * deployment.prefix_hit
    pace = deployment.tokens_per_step
    steps = np.maximum(new - 1, 1.0) / pace

    mixed = deployment.engine.split("-")[0] in MIXING
    held = common.balance_steps if _balances(deployment) else 0.0
    room_for = deployment.dp_attention * _prompts_at_once(deployment, fresh)
    # Requests of like length that came together leave together, and their successors come so.
    company = 1 + common.company * (np.minimum(batch, room_for) - 1)
    decoding, arrivals = batch, company
    for _ in range(ROUNDS):
        running = Decoding(decoding, prompt + new / 2)
        step = decode_step(model, chip, deployment, running.batch, running.context)
        step_s = step.seconds
        beside = running if mixed else None
        each, whole = _prompt_s(model, chip, deployment, fresh, cached, arrivals, beside, step_s)
        others = np.maximum(batch - arrivals, 0.0) * each
        own = step_s * (0.5 + held) + whole
        cycle = steps * step_s + others + own
        decoding = np.maximum(batch * (1 - own / cycle), 1.0)
        # While one step runs, these many prompts come in for the next.
        come = batch / cycle * (step_s * (1 + held) + each * arrivals)
        arrivals = np.clip(come, company, room_for)
    tpot = step_s / pace + others / np.maximum(new - 1, 1.0)
    busy = np.minimum((batch - 1) * each / cycle, 0.95)  # A prompt waits for others only.
    wait = each / 2 * busy / (1 - busy)
    wave = common.first_wave * (batch - 1) / 2 * each
    queue = np.maximum(asked - batch, 0.0) / batch * cycle
    base = engine.first_token_s + own
    ttft = base + wait + wave + queue
    if offline:
        rate = workers * batch / (steps * step_s + batch * each) * common.offline
    else:
        rate = workers * asked / (ttft + tpot * np.maximum(new - 1, 0.0))
    share = np.clip(batch * each / cycle, 0.0, 1.0)
    chips = workers * deployment.chips
    return _serving(
        ttft,
        tpot,
        rate,
        new,
        workers * batch,
        chips,
        chip,
        fits,
        reason,
        share * BUSY_PREFILL + (1 - share) * BUSY_DECODE,
        {
            "wait": ttft - base + engine.first_token_s,
            "prefill": own,
            "prompts of others": others,
            **{name: part * steps for name, part in _terms(step).items()},
        },
        base,
    )


def serve_disaggregated(
    model: Model,
    chip: Chip,
    prefill: Deployment,
    prefill_workers: int,
    decode: Deployment,
    decode_workers: int,
    load: Load,
) -> Serving:
    """Prompts on workers of their own, from where the cache is sent to those that decode."""
    engine, common = constants.engine(decode.engine), constants.common()
    room = memory(model, chip, decode)
    prompt, new = np.asarray(load.prompt_tokens, float), np.asarray(load.new_tokens, float)
    slots = decode_workers * _slots(room, decode, prompt + new)
    asked = slots if load.concurrency is None else np.asarray(load.concurrency, float)
    fits = room.fits & memory(model, chip, prefill, prefill.chunk_tokens).fits & (slots >= 1)
    reason = _reason(room, decode, slots / decode_workers, asked / decode_workers)
    slots = np.where(slots < 1, np.maximum(asked, 1.0), slots)
    fresh, cached = prompt * (1 - prefill.prefix_hit), prompt * prefill.prefix_hit
    steps = np.maximum(new - 1, 1.0) / decode.tokens_per_step

    _, alone = _prompt_s(model, chip, prefill, fresh, cached, 1.0, None, 0.0)
    full = prefill.dp_attention * _prompts_at_once(prefill, fresh)
    transfer = _transfer_s(model, chip, decode, prompt)
    decoding, arrivals = np.minimum(asked, slots), np.ones_like(asked + fresh)
    for _ in range(2 * ROUNDS):
        step = decode_step(model, chip, decode, decoding / decode_workers, prompt + new / 2)
        away = steps * step.seconds + engine.first_token_s + common.handover_s + transfer
        each, _ = _prompt_s(model, chip, prefill, fresh, cached, arrivals, None, 0.0)
        service = each / prefill_workers
        # Schweitzer: customers that wait are those that one more would find.
        gap = away - service * asked
        stay = (np.sqrt(gap**2 + 4 * service * away) - gap) / 2
        cycle = away + stay
        waiting = np.clip(asked / cycle * stay / prefill_workers, 1.0, None)
        arrivals = np.sqrt(arrivals * np.clip(waiting, 1.0, full))
        decoding = np.clip(asked * steps * step.seconds / cycle, 1.0, slots)
    wait = np.maximum(stay - service, 0.0) * common.disaggregated_wait
    base = engine.first_token_s + common.handover_s + transfer + alone + step.seconds
    wave = common.first_wave * (asked / prefill_workers - 1).clip(0.0) / 2 * each
    queue = np.maximum(asked - slots, 0.0) / slots * steps * step.seconds
    ttft = base + wait + wave + queue
    tpot = step.seconds / decode.tokens_per_step
    rate = asked / (ttft + tpot * np.maximum(new - 1, 0.0))
    first = prefill_workers * prefill.chips
    chips = first + decode_workers * decode.chips
    share = np.clip(rate * service, 0.0, 1.0)
    return _serving(
        ttft,
        tpot,
        rate,
        new,
        decoding,
        chips,
        chip,
        fits,
        reason,
        (share * BUSY_PREFILL * first + BUSY_DECODE * (chips - first)) / chips,
        {
            "wait": ttft - alone - step.seconds,
            "prefill": alone + step.seconds,
            **{name: part * steps for name, part in _terms(step).items()},
        },
        base,
    )


def prompt_rate(
    model: Model, chip: Chip, deployment: Deployment, prompt: float
) -> tuple[float, float]:
    """Of a worker for prefill alone: seconds of a lone prompt, and prompts/s when it is full."""
    fresh, cached = prompt * (1 - deployment.prefix_hit), prompt * deployment.prefix_hit
    _, alone = _prompt_s(model, chip, deployment, fresh, cached, 1.0, None, 0.0)
    full, _ = _prompt_s(model, chip, deployment, fresh, cached, np.inf, None, 0.0)
    return float(alone), 1 / float(full)


def _prompt_s(
    model: Model,
    chip: Chip,
    deployment: Deployment,
    fresh: Number,
    cached: Number,
    arrivals: Number,
    beside: Decoding | None,
    step_s: Number,
) -> tuple[Number, Number]:
    """What each of `arrivals` prompts taken in together costs a worker, and until all are in.

    Beside sequences that decode in the same batch, the cost is what comes on top of their step.
    """
    most = deployment.dp_attention * _prompts_at_once(deployment, fresh)
    together = np.clip(arrivals, 1.0, most)
    groups = np.minimum(together, deployment.dp_attention)
    pieces = np.ceil(np.maximum(fresh, 1.0) / deployment.chunk_tokens)
    piece = fresh / pieces
    prompts = Prompts(together, piece, cached + (fresh - piece) / 2, groups)
    whole = pieces * prompt_step(model, chip, deployment, prompts, beside).seconds
    added = whole - pieces * step_s * (beside is not None)
    # The stages of a pipeline work on different prompts.
    return np.maximum(added, 1e-6) / together / deployment.pp, whole


def _prompts_at_once(deployment: Deployment, fresh: Number) -> Number:
    """Prompts that one attention group takes in in one step."""
    return np.maximum(deployment.chunk_tokens / np.maximum(fresh, 1.0), 1.0)


def _balances(deployment: Deployment) -> bool:
    return deployment.dp_attention > 1 and deployment.engine.startswith("trtllm")


def _slots(room: Memory, deployment: Deployment, context: Number) -> Number:
    """Sequences that a worker holds at once."""
    each = np.minimum(room.sequences(context), deployment.max_batch)
    return each * deployment.dp_attention


def _transfer_s(model: Model, chip: Chip, decode: Deployment, prompt: Number) -> Number:
    """Sending the cache of one prompt, all chips of a decode worker at once."""
    item = CACHE_BYTES[decode.cache_precision]
    total = sum(run.count * run.mixer.cache_elements for run in model.blocks) * item * prompt
    return fabric.send_s(chip, total / decode.tp)


def _serving(
    ttft: Number,
    tpot: Number,
    rate: Number,
    new: Number,
    batch: Number,
    chips: int,
    chip: Chip,
    fits: Any,
    reason: str,
    load_share: Number,
    parts: Mapping[str, Number],
    base: Number,
) -> Serving:
    power = chip.idle_w + (chip.busy_w - chip.idle_w) * load_share
    tokens = rate * new
    return Serving(
        ttft_s=_plain(ttft),
        tpot_s=_plain(tpot),
        output_tokens_per_s=_plain(tokens),
        output_tokens_per_s_per_chip=_plain(tokens / chips),
        requests_per_s=_plain(rate),
        batch=_plain(batch),
        fits=_plain(fits),
        reason=reason,
        power_w_per_chip=_plain(power),
        joules_per_token=_plain(power * chips / np.maximum(tokens, 1e-9)),
        parts={name: _plain(part) for name, part in parts.items()},
        base_ttft_s=_plain(base),
        chips=chips,
    )


def _reason(room: Memory, deployment: Deployment, slots: Number, asked: Number) -> str:
    if not room.fits:
        short = -room.free_bytes / 1e9
        return f"weights of {room.weight_bytes / 1e9:.0f} GB a chip leave it {short:.0f} GB short"
    if np.any(slots < 1):
        return "not one sequence of this length fits beside the weights"
    if np.any(slots <= asked):
        most = deployment.max_batch * deployment.dp_attention
        return "batch bounded by the engine" if np.all(slots >= most) else "batch bounded by memory"
    return "batch as asked"


def _terms(step: Step) -> dict[str, Number]:
    return {name: getattr(step, name) for name in Step.__dataclass_fields__}


def _plain(number: Any) -> Any:
    """A float or bool where there is no array."""
    if isinstance(number, np.ndarray | np.generic) and not np.ndim(number):
        return number.item()
    return number
