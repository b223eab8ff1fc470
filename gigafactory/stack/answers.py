"""What the performance model says of one question, as plain numbers: the JSON of the door.

Seconds, bytes, watts and joules; modelled figures with the interval that 80 % of measured ones
should lie in.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

from gigafactory.stack import cores, serving, training
from gigafactory.stack.chips import Chip
from gigafactory.stack.models import Model
from gigafactory.stack.training import Job, Layout, search
from gigafactory.stack.training.goodput import goodput

Json = dict[str, Any]


def train(
    job: Job, chip: Chip, chips: int, layout: Layout | None = None, tokens: float | None = None
) -> Json:
    """A step, laid out as asked or as the search finds best, and a run of `tokens`."""
    if chip.kind == "cpu":
        return _question(job, chip, chips) | _on_cores(job, chip, chips)
    found = None if layout else search.best(job, chip, chips)
    at = layout or (found.layout if found else Layout())
    told = _question(job, chip, chips) | _step(job, chip, chips, at)
    told["layout_by"] = "asked" if layout else "search"
    if found:
        told["batch_with_padding"] = found.batch
    lost = goodput(job.model, chips)
    told["goodput"] = {
        "share": lost.share,
        "mtbf_s": lost.mtbf_s,
        "checkpoint_s": lost.checkpoint_s,
        "checkpoint_interval_s": lost.interval_s,
        "checkpoint_share": lost.checkpoint_share,
        "lost_share": lost.lost_share,
        "restart_share": lost.restart_share,
    }
    if tokens:
        low, high = training.interval(job, chip)
        seconds = tokens / told["tokens_per_s"]["value"] / lost.share
        told["run"] = {
            "tokens": tokens,
            "duration_s": _ranged(seconds, low, high),
            "energy_kwh": told["power_w_per_chip"] * chips * seconds / 3.6e6,
        }
    return told


def best_train(
    job: Job,
    chip: Chip,
    counts: Sequence[int],
    objective: str = "time",
    memory_bytes: float | None = None,
) -> Json:
    """The best layout that fits, the next shape, and the front over time, chips and memory."""
    limit_bytes = min(memory_bytes or math.inf, training.usable_bytes(chip))
    found = search.best(job, chip, counts, objective=objective, memory_bytes=limit_bytes)
    front = search.pareto(job, chip, counts, memory_bytes=limit_bytes)
    told = _question(job, chip, found.chips) | _step(job, chip, found.chips, found.layout)
    told["batch_with_padding"] = found.batch
    told["objective"] = objective
    told["points"] = found.points
    told["evaluated"] = found.evaluated
    told["runner_up"] = (
        _step(job, chip, search.chips_used(found.runner_up), found.runner_up)
        if found.runner_up is not None
        else None
    )
    told["why"] = found.why()
    told["front"] = [
        {
            "chips": point.chips,
            "step_s": point.step_s,
            "memory_bytes": point.memory_bytes,
            "layout_text": search.describe(point.layout),
        }
        for point in front
    ]
    return told


def serve(
    model: Model,
    chip: Chip,
    chips: int,
    load: serving.Load,
    worker: serving.Deployment,
    prefill: serving.Deployment | None = None,
    prefill_workers: int = 0,
) -> Json:
    """A service of as many workers as `chips` hold, under a load.

    With `prefill`, so many workers of that kind take the prompts in, and the rest decodes.
    """
    apart = prefill_workers * prefill.chips if prefill else 0
    workers = (chips - apart) // worker.chips
    asked = serving.Request(model, chip, load, worker, workers, prefill, prefill_workers, ())
    served = serving.predict(asked)
    pools = f"prefill {prefill_workers} × {serving.describe(prefill)}, decode " if prefill else ""
    room = serving.memory(model, chip, worker)
    return _served(served, asked) | {
        **_model(model),
        "chip": chip.name,
        "chips": apart + workers * worker.chips,
        "chips_idle": chips - apart - workers * worker.chips,
        "prompt_tokens": load.prompt_tokens,
        "new_tokens": load.new_tokens,
        "concurrency": load.concurrency,
        "precision": worker.precision,
        "engine": worker.engine,
        "workers": workers,
        "layout_text": f"{pools}{workers} × {serving.describe(worker)}",
        "weight_bytes_per_chip": room.weight_bytes,
        "cache_bytes_per_chip": max(room.free_bytes, 0.0),
        "sequences_that_fit": float(
            workers * worker.dp_attention * room.sequences(load.prompt_tokens + load.new_tokens)
        ),
    }


def best_serve(
    model: Model,
    chip: Chip,
    chips: int,
    load: serving.Load,
    base: serving.Deployment,
    ttft_s: float = math.inf,
    tpot_s: float = math.inf,
) -> Json:
    """The front over tokens/s for one user and tokens/s for one chip, and what each beat."""
    front = serving.search(model, chip, chips, load, ttft_s=ttft_s, tpot_s=tpot_s, base=base)
    return {
        **_model(model),
        "chip": chip.name,
        "chips": chips,
        "prompt_tokens": load.prompt_tokens,
        "new_tokens": load.new_tokens,
        "precision": base.precision,
        "engine": base.engine,
        "considered": front.considered,
        "front": [
            {
                "tokens_per_s_per_user": option.tokens_per_s_per_user,
                "tokens_per_s_per_chip": option.tokens_per_s_per_chip,
                "ttft_s": float(option.serving.ttft_s),
                "tpot_s": float(option.serving.tpot_s),
                "concurrency": option.concurrency,
                "joules_per_token": float(option.serving.joules_per_token),
                "layout_text": str(option),
                "why": why,
            }
            for option, why in zip(front.options, front.lost, strict=True)
        ],
    }


def _served(served: serving.Serving, asked: serving.Request) -> Json:
    def ranged(value: Any, metric: str) -> Json:
        return _ranged(float(value), *serving.interval(asked, metric))

    return {
        "ttft_s": ranged(served.ttft_s, "ttft"),
        "ttft_p90_s": float(served.ttft_percentile(0.9)),
        "ttft_p99_s": float(served.ttft_percentile(0.99)),
        "tpot_s": ranged(served.tpot_s, "tpot"),
        "tpot_p90_s": float(served.tpot_percentile(0.9)),
        "tpot_p99_s": float(served.tpot_percentile(0.99)),
        "output_tokens_per_s": ranged(served.output_tokens_per_s, "throughput"),
        "output_tokens_per_s_per_chip": ranged(served.output_tokens_per_s_per_chip, "throughput"),
        "requests_per_s": float(served.requests_per_s),
        "batch": float(served.batch),
        "fits": bool(served.fits),
        "reason": served.reason,
        "power_w_per_chip": float(served.power_w_per_chip),
        "joules_per_token": float(served.joules_per_token),
        "parts_s": {name: float(seconds) for name, seconds in served.parts.items()},
    }


def _model(model: Model) -> Json:
    return {
        "model": model.name,
        "parameters": model.parameters,
        "parameters_active": model.parameters_active,
        "assumptions": list(model.assumptions),
    }


def _question(job: Job, chip: Chip, chips: int) -> Json:
    return {
        **_model(job.model),
        "chip": chip.name,
        "chips": chips,
        "sequence": job.sequence,
        "batch": job.batch,
        "precision": job.precision,
        "task": job.task,
    }


def _step(job: Job, chip: Chip, chips: int, layout: Layout) -> Json:
    step = training.step(job, chip, layout)
    seconds = float(step.step_s)
    low, high = training.interval(job, chip)
    peak = job.dtype if job.dtype in chip.peaks else "bfloat16"
    power_w = float(training.power_w(step, chip))
    tokens = job.batch * job.sequence
    return {
        "layout": {name: _plain(getattr(layout, name)) for name in layout.__dataclass_fields__},
        "layout_text": search.describe(layout),
        "step_s": _ranged(seconds, low, high),
        "tokens_per_s": _ranged(tokens / seconds, low, high),
        "tokens_per_s_per_chip": _ranged(tokens / seconds / chips, low, high),
        "mfu": _ranged(float(step.mfu(chip, chips, peak)), low, high),
        "mfu_of_peak": peak,
        "parts_s": {part: float(getattr(step, part)) for part in training.PARTS},
        "memory_bytes": float(step.memory_bytes),
        "memory_parts_bytes": {part: float(getattr(step, part)) for part in training.MEMORY},
        "usable_bytes": training.usable_bytes(chip),
        "fits": bool(step.fits(chip)),
        "microbatches": float(step.microbatches),
        "power_w_per_chip": power_w,
        "joules_per_token": power_w * chips * seconds / tokens,
    }


def _on_cores(job: Job, chip: Chip, chips: int) -> Json:
    """The same of the cores of one machine, which have a model of their own."""
    dtype, tokens = training.PRECISIONS[job.precision], round(job.batch * job.sequence)
    learned: Literal["all", "lora"] = "lora" if job.task == "lora" else "all"
    step = cores.train(job.model, chip, chips, job.sequence, tokens, dtype, learned)
    low, high = cores.time_range(chip, dtype)
    return {
        "layout_by": "chip",
        "layout_text": f"{chips} ranks, FSDP",
        "step_s": _ranged(step.step_s, low, high),
        "tokens_per_s": _ranged(tokens / step.step_s, 1 / high, 1 / low),
        "tokens_per_s_per_chip": _ranged(tokens / step.step_s / chips, 1 / high, 1 / low),
        "mfu": _ranged(step.mfu, 1 / high, 1 / low),
        "mfu_of_peak": "measured rate",
        "parts_s": {
            "compute_s": step.compute_s,
            "data_s": step.communication_s,
            "optimizer_s": step.optimizer_s,
        },
        "memory_bytes": step.memory_bytes_per_chip,
        "memory_parts_bytes": {"all_bytes": step.memory_bytes_per_chip},
        "usable_bytes": chip.memory_bytes,
        "fits": step.memory_bytes_per_chip <= chip.memory_bytes,
        "power_w_per_chip": step.power_w_per_chip,
        "joules_per_token": step.power_w_per_chip * chips * step.step_s / tokens,
    }


def _ranged(value: float, low: float, high: float) -> Json:
    return {"value": value, "low": value * low, "high": value * high}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool) else int(value)
