"""How a training step may be split over chips, in whole parts: what a search looks at."""

import math
from itertools import product

import numpy as np
import numpy.typing as npt

from gigafactory.stack import training
from gigafactory.stack.models import Model
from gigafactory.stack.training.job import Job, Layout, divisors

Table = npt.NDArray[np.float64]
"""Shapes: a row for each name of `SHAPE`, a column for each shape."""
SHAPE = ("tensor", "pipeline", "context", "expert", "data", "microbatch", "virtual")


def shapes(job: Job, chips: int) -> Table:
    """All splits of `job` over exactly `chips`, data ranks being what the others leave."""
    model = job.model
    heads = math.gcd(*(layers.mixer.heads for layers in model.blocks))
    tensors = [n for n in divisors(chips) if heads % n == 0]
    contexts = [n for n in divisors(chips) if job.sequence % (2 * n) == 0 or n == 1]
    experts = [n for n in divisors(chips) if model.experts % n == 0] if model.experts else [1]
    groups = [np.empty((len(SHAPE), 0))]
    for tensor, pipeline, context in product(tensors, stages(model, chips), contexts):
        data, rest = divmod(chips, tensor * pipeline * context)
        if rest or data > job.batch:
            continue
        share = math.ceil(job.batch / data)
        chunks = divisors(math.ceil(model.layers / pipeline)) if pipeline > 1 else [1]
        apart = [n for n in experts if chips // pipeline % n == 0]
        inner = np.array(list(product(apart, [data], divisors(share), chunks)), float).T
        # Interleaving takes micro-batches in groups as long as the pipeline.
        inner = inner[:, (inner[3] == 1) | (share // inner[2] % pipeline == 0)]
        outer = np.array([[tensor], [pipeline], [context]], float)
        groups.append(np.concatenate([np.broadcast_to(outer, (3, inner.shape[1])), inner]))
    return np.concatenate(groups, axis=1)


def chips_used(layout: Layout) -> int:
    """By a layout."""
    return int(layout.tensor * layout.pipeline * layout.context * layout.data)


def describe(layout: Layout) -> str:
    """A layout in the words that `--layout` takes, defaults left out."""
    letters = {"tensor": "tp", "pipeline": "pp", "context": "cp", "expert": "ep", "data": "dp"}
    letters |= {"virtual": "vpp", "microbatch": "mb"}
    words = [
        f"{letter}={getattr(layout, name):.0f}"
        for name, letter in letters.items()
        if getattr(layout, name) > 1
    ]
    if layout.recompute:
        words.append(f"recompute={training.RECOMPUTE[int(layout.recompute)]}")
    if layout.zero != 1:
        words.append(f"zero={layout.zero:.0f}")
    offloads = [part for part in ("optimizer", "activations") if _offloads(layout, part)]
    if offloads:
        words.append(f"offload={'+'.join(offloads)}")
    if layout.tensor > 1 and not layout.sequence_parallel:
        words.append("sp=0")
    return ",".join(words) or "mb=1"


def _offloads(layout: Layout, part: str) -> bool:
    return bool(getattr(layout, f"offload_{part}"))


def stages(model: Model, chips: int) -> list[int]:
    """Stages that take as many layers each, but for a few that lack at the ends.

    There the embedding, the vocabulary and multi-token prediction take a layer's place: 126
    layers on 16 stages, 61 on 16. `training.step` counts the mean of the stages.
    """
    spare = min(2 + sum(layers.count for layers in model.mtp), model.layers // 16)
    return [n for n in divisors(chips) if n <= model.layers and -model.layers % n <= spare]
