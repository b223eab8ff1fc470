"""What a node of a system does of a demand: tokens a second, laid out by the search. Modelled.

Tokens/s, W, of one node. A training run is searched at the number of chips that its deadline
asks for; a service on as few chips as hold the model, within its limits of TTFT and TPOT.
"""

import math
from dataclasses import dataclass

from gigafactory.blueprint.design import ServeDemand, TrainDemand
from gigafactory.stack import models, serving, training
from gigafactory.stack.chips import System, UnknownFigure
from gigafactory.stack.models import Model
from gigafactory.stack.training import Job, search
from gigafactory.stack.training.goodput import goodput

FIRST_GUESS_MFU = 0.35
"""Of a run whose layout is not yet known, to find about how many chips it takes."""
HEADROOM = 0.85
"""Share of a service's rate that is planned on, assumed; nearer to all of it requests queue."""
SERVED = {"float8": "fp8", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Rate:
    """What one node does, and how."""

    tokens_per_s: float
    """Per node: of training, tokens that count (failures taken off); of a service, answers."""
    nodes: int
    """The fewest that can do it at all (a service) or that it was laid out on (a run)."""
    layout: str
    mfu: float | None = None
    tpot_s: float | None = None
    ttft_s: float | None = None


@dataclass(frozen=True)
class Cannot:
    """Why a system cannot do a demand."""

    why: str


def train(demand: TrainDemand, model: Model, system: System, days: float) -> Rate | Cannot:
    """A training run within `days`."""
    chip = system.chip
    rate = chip.peak_flop_per_s
    if rate is None:
        return Cannot("its peak rate is not known")
    flop = 6 * model.parameters_active * demand.tokens
    wanted = flop / (days * 86400 * rate * FIRST_GUESS_MFU)
    nodes = max(1, 2 ** round(math.log2(max(wanted / system.chips_per_node, 1))))
    batch = max(1, demand.batch_tokens // demand.sequence)
    job = Job(model, demand.sequence, batch, demand.precision)
    for tries in range(4):  # What does not fit may fit on more.
        count = nodes * 2**tries * system.chips_per_node
        try:
            found = search.best(job, chip, count)
        except search.NothingFits as error:
            missing = str(error.what)
            continue
        except (UnknownFigure, training.BadLayout) as error:
            return Cannot(str(error))
        step_s = float(found.step.step_s)
        share = goodput(model, count).share
        tokens_per_s = job.batch * demand.sequence / step_s * share
        return Rate(
            tokens_per_s=tokens_per_s / (count / system.chips_per_node),
            nodes=count // system.chips_per_node,
            layout=search.describe(found.layout),
            mfu=float(found.step.mfu(chip, count)),
        )
    return Cannot(missing)


def serve(demand: ServeDemand, model: Model, system: System) -> Rate | Cannot:
    """A service at its limits, on the fewest nodes (a power of two) that can keep them."""
    ttft_s, tpot_s = demand.ttft_s, demand.tpot_s
    chip = system.chip
    known = [name for rate, name in SERVED.items() if rate in chip.flop_per_s]
    if not known:
        return Cannot("its rates are not known")
    base = serving.Deployment(precision=known[0])
    load = serving.Load(prompt_tokens=demand.prompt, new_tokens=demand.answer)
    for nodes in (1, 2, 4, 8):
        chips = nodes * system.chips_per_node
        try:
            front = serving.search(
                model, chip, chips, load, ttft_s=ttft_s, tpot_s=tpot_s, base=base
            )
        except UnknownFigure as error:
            return Cannot(str(error))
        if front.options:
            best = front.options[-1]
            return Rate(
                tokens_per_s=best.tokens_per_s_per_chip * system.chips_per_node * HEADROOM,
                nodes=nodes,
                layout=str(best),
                tpot_s=float(best.serving.tpot_s),
                ttft_s=float(best.serving.ttft_s),
            )
    return Cannot(f"no layout on {chips} chips keeps TTFT {ttft_s:g} s and TPOT {tpot_s:g} s")


def read(config: str | dict) -> Model:
    """The model of a blueprint's `config`."""
    return models.read(config)
