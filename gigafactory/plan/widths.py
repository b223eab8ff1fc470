"""Speed and power of a stream's jobs at each number of chips, on one system. Modelled.

A training run goes as fast as its best layout; a batch run as fast as it has chips; a service is
one replica within its limits of TTFT and TPOT. What failures cost is not in it: the twin plays
them. tokens/s or chip-s/s, W.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from gigafactory.blueprint.design import AnyDemand, ServeDemand, TrainDemand
from gigafactory.blueprint.schema import Blueprint
from gigafactory.blueprint.streams import AnyStream, ServeStream, TrainStream
from gigafactory.plan import rates
from gigafactory.plan.rates import Cannot
from gigafactory.stack import chips, performance, serving, training
from gigafactory.stack.chips import System, UnknownFigure
from gigafactory.stack.takes import UnknownPrecision
from gigafactory.stack.training import Job, search


@dataclass(frozen=True)
class Width:
    """So many chips: what they do together, and what each draws at it."""

    chips: int
    rate: float
    """Of work a second: tokens of a run or a service, chip-seconds of a batch."""
    power_w: float
    """Mean draw of one chip while the job runs; the node around it and the site come on top."""


def widths(
    blueprint: Blueprint, wanted: AnyStream | AnyDemand, system: System
) -> tuple[Width, ...] | Cannot:
    """The widths of a stream's jobs, or of a design's demand, on a system, narrowest first.

    Those of an elastic run are `elastic` doubled until what was asked for. A width at which the
    model does not fit is left out. A trace has one width of one chip, to be multiplied: how wide
    its jobs are, its file says.
    """
    if isinstance(wanted, TrainStream | TrainDemand):
        config = json.dumps(blueprint.models[wanted.model].config, sort_keys=True)
        shape = (wanted.sequence, wanted.batch_tokens, wanted.precision)
        if isinstance(wanted, TrainStream):
            counts = tuple(sorted(set(_counts(wanted.chips, wanted.elastic))))
        else:
            rate = rates.train(
                wanted, rates.read(json.loads(config)), system, _days(blueprint, wanted)
            )
            if isinstance(rate, Cannot):
                return rate
            counts = (rate.nodes * system.chips_per_node,)
        if system.chip.kind == "cpu":
            return _on_cores(config, system, counts, *shape)
        return _laid_out(config, system.name, counts, *shape)
    if isinstance(wanted, ServeStream | ServeDemand):
        config = json.dumps(blueprint.models[wanted.model].config, sort_keys=True)
        limits = (wanted.prompt, wanted.answer, wanted.ttft_s, wanted.tpot_s)
        if system.chip.kind == "cpu":
            return Cannot("services under load are not modelled on CPU cores")
        return _replica(config, system.name, *limits)
    idle_w, busy_w = system.chip.idle_w, system.chip.busy_w
    power_w = idle_w + (busy_w - idle_w) * wanted.busy
    counts = (1,) if wanted.kind == "trace" else tuple(sorted(wanted.chips))
    return tuple(Width(count, float(count), power_w) for count in counts)


def _counts(asked: Iterable[int], elastic: int | None) -> Iterator[int]:
    """What is asked for, and on the way there the doublings of what it may shrink to."""
    for count in asked:
        yield count
        width = elastic or count
        while width < count:
            yield width
            width *= 2


def _days(blueprint: Blueprint, demand: TrainDemand) -> float:
    return (demand.deadline - (demand.starts or blueprint.start)).days


@cache
def _laid_out(
    config: str,
    system_name: str,
    counts: tuple[int, ...],
    sequence: int,
    batch_tokens: int,
    precision: str,
) -> tuple[Width, ...] | Cannot:
    """Training at each count by the layout that the search finds best."""
    chip = chips.system(system_name).chip
    job = Job(rates.read(json.loads(config)), sequence, max(1, batch_tokens // sequence), precision)
    found: list[Width] = []
    missing = ""
    for count in counts:
        try:
            best = search.best(job, chip, count)
        except search.NothingFits as error:
            missing = str(error.what)
            continue
        except (UnknownFigure, training.BadLayout) as error:
            return Cannot(str(error))
        found.append(Width(count, best.tokens_per_s, float(training.power_w(best.step, chip))))
    return tuple(found) or Cannot(missing)


def _on_cores(
    config: str,
    system: System,
    counts: tuple[int, ...],
    sequence: int,
    batch_tokens: int,
    precision: str,
) -> tuple[Width, ...] | Cannot:
    """Training on the cores of a machine, which has a model of its own."""
    model, dtype = rates.read(json.loads(config)), training.PRECISIONS[precision]
    found = []
    for count in counts:
        try:
            step = performance.train(model, system.chip, count, sequence, batch_tokens, dtype)
        except (UnknownPrecision, UnknownFigure) as error:
            return Cannot(str(error))
        found.append(Width(count, batch_tokens / step.step_s, step.power_w_per_chip))
    return tuple(found)


@cache
def _replica(
    config: str, system_name: str, prompt: int, answer: int, ttft_s: float, tpot_s: float
) -> tuple[Width, ...] | Cannot:
    """One replica, as the planner would lay it out: the fewest nodes that keep the limits."""
    model, system = rates.read(json.loads(config)), chips.system(system_name)
    limits: dict[str, Any] = {"ttft_s": ttft_s, "tpot_s": tpot_s}
    asked = ServeDemand.model_construct(prompt=prompt, answer=answer, **limits)
    rate = rates.serve(asked, model, system)
    if isinstance(rate, Cannot):
        return rate
    # Its layout once more, for the power that a rate does not tell.
    count = rate.nodes * system.chips_per_node
    served = next(name for dtype, name in rates.SERVED.items() if dtype in system.chip.flop_per_s)
    load = serving.Load(prompt_tokens=prompt, new_tokens=answer)
    base = serving.Deployment(precision=served)
    best = serving.search(model, system.chip, count, load, base=base, **limits).options[-1]
    return (Width(count, best.tokens_per_s_per_chip * count, float(best.serving.power_w_per_chip)),)
