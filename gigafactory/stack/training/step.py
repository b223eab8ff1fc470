"""How long a training step takes, in which parts, and in how much memory. Modelled.

A roofline for each kind of work in a layer, the traffic of each kind of parallelism and what of
it no computation hides, the bubble of the pipeline, the optimizer. Every field of a `Layout` may
be a number or an array: arrays broadcast, so that a search evaluates its whole grid by the very
code that explains one point. s, B, FLOP, W.
Sources: pipeline and its bubble, Narayanan et al. 2021, arXiv:2104.04473; sequence parallelism,
recomputation and activations, Korthikanti et al. 2022, arXiv:2205.05198; ZeRO, Rajbhandari et
al. 2020, arXiv:1910.02054; attention that keeps no scores, Dao et al. 2022, arXiv:2205.14135.
Constants: `data/training.csv`, by architecture of chip, fitted by `benchmarks/fit_training.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from gigafactory.stack import facts
from gigafactory.stack.chips import Chip
from gigafactory.stack.training import memory as held
from gigafactory.stack.training import traffic, work
from gigafactory.stack.training.flops import model_flops
from gigafactory.stack.training.job import FEED_FORWARD, FULL, NONE, SELECTIVE, Job, Layout, Number
from gigafactory.stack.training.rank import Rank


@dataclass(frozen=True)
class Step:
    """One optimizer step. Its seconds add up to `step_s`; its bytes to `memory_bytes`."""

    linear_s: Number
    """Matrix products of projections, dense and shared feed-forwards, and the vocabulary."""
    attention_s: Number
    experts_s: Number
    elementwise_s: Number
    """Norms, activations, casts, routing: bound by memory bandwidth."""
    launch_s: Number
    """Kernels too small to hide their launch."""
    recompute_s: Number
    tensor_s: Number
    """Exposed communication, here and below, by the parallelism that causes it."""
    expert_s: Number
    context_s: Number
    pipeline_s: Number
    data_s: Number
    bubble_s: Number
    optimizer_s: Number
    offload_s: Number
    jitter_s: Number
    """Waiting for the slowest of many."""
    weights_bytes: Number
    gradients_bytes: Number
    states_bytes: Number
    activations_bytes: Number
    reserved_bytes: Number
    """What the framework, its collectives and fragmentation take."""
    microbatches: Number
    model_flops: float
    """Of the whole step, recomputation not counted, attention as the causal half."""

    @property
    def step_s(self) -> Number:
        """The sum of the terms."""
        return sum(getattr(self, name) for name in PARTS)

    @property
    def memory_bytes(self) -> Number:
        """Peak on the fullest rank."""
        return sum(getattr(self, name) for name in MEMORY)

    def fits(self, chip: Chip) -> Number:
        """Whether the fullest rank's bytes are there."""
        return self.memory_bytes <= usable_bytes(chip)

    def mfu(self, chip: Chip, chips: Number, dtype: str = "bfloat16") -> Number:
        """Model FLOP/s over the chips' dense peak in `dtype`."""
        return self.model_flops / self.step_s / chips / chip.peaks[dtype]


PARTS = tuple(name for name in Step.__dataclass_fields__ if name.endswith("_s"))
MEMORY = tuple(name for name in Step.__dataclass_fields__ if name.endswith("_bytes"))


@cache
def constants(architecture: str) -> Mapping[str, float]:
    """The fitted constants of an architecture of chips; those of `other` where it has none."""
    table = facts.by_subject("training")
    own = table.get(architecture, {})
    known = {**table["other"], **own}
    return {quantity: fact.value for quantity, fact in known.items() if fact.value is not None}


def step(job: Job, chip: Chip, layout: Layout, fitted: Mapping[str, float] | None = None) -> Step:
    """One step of `job` on chips like `chip`, laid out as `layout`."""
    at = Rank(job, chip, layout, fitted or constants(chip.architecture or "other"))
    seconds, held_bytes = _whole(at), held.memory(at)
    steady = sum(seconds.values())
    seconds["pipeline_s"] = traffic.pipeline_s(at)
    seconds["bubble_s"] = steady * (at.pipeline - 1) / at.virtual / at.microbatches
    seconds["data_s"] = traffic.data_s(at, steady / at.microbatches)
    seconds["optimizer_s"] = work.optimizer_s(at)
    seconds["offload_s"] = traffic.offload_s(at, held_bytes["activations_bytes"], steady)
    doublings = np.log2(np.maximum(at.tensor * at.pipeline * at.context * at.data, 1.0))
    seconds["jitter_s"] = sum(seconds.values()) * at.c["jitter"] * doublings
    return Step(
        **seconds,
        **held_bytes,
        microbatches=at.microbatches,
        model_flops=model_flops(job),
    )


def memory(
    job: Job, chip: Chip, layout: Layout, fitted: Mapping[str, float] | None = None
) -> dict[str, Number]:
    """Bytes on the fullest rank, by the names of `MEMORY`: a step's, without its seconds."""
    return held.memory(Rank(job, chip, layout, fitted or constants(chip.architecture or "other")))


def usable_bytes(chip: Chip) -> float:
    """Bytes that a process finds free: a card's GB are GiB, less 1 % that the driver keeps.

    PyTorch finds 79.1 GiB on an H100 of "80 GB" and 139.8 GiB on an H200 of "141 GB".
    """
    return chip.memory_bytes * (2**30 / 1e9) * 0.99


def interval(job: Job, chip: Chip) -> tuple[float, float]:
    """Factors on predicted speed or time between which 80 % of measured ones lay.

    From errors on suites that the fit had seen and on those left out of it; half as wide again
    in the logarithm for architectures of chips without a run of their own.
    """
    width = constants("other")["interval_experts" if job.model.experts else "interval_dense"]
    if "matmul_bfloat16" not in facts.by_subject("training").get(chip.architecture or "other", {}):
        width **= 1.5
    return 1 / width, width


def power_w(step: Step, chip: Chip) -> Number:
    """Mean draw of a chip over the step. Modelled: each part at its own share of full load."""
    load = constants("other")
    busy = sum(
        getattr(step, part) * load.get(f"load_{part.removesuffix('_s')}", load["load_waiting"])
        for part in PARTS
    )
    return chip.idle_w + (chip.busy_w - chip.idle_w) * busy / step.step_s


def _whole(at: Rank) -> dict[str, Number]:
    """Seconds of all microbatches on one stage, by part: what a pipeline without bubble takes."""
    forward, exposed, host_s = _layer(at)
    # The backward pass has two matrix products for each one, or one where weights are frozen, and
    # five of attention for two where kernels keep no scores.
    products = 1.0 if at.job.frozen else 2.0
    back = {
        "linear_s": products,
        "attention_s": 2.5 if at.job.flash else 2.0,
        "experts_s": products,
        "elementwise_s": 2.0,
    }
    full = at.recompute == FULL
    again = at.c["recompute"] * np.select(
        [at.recompute == NONE, at.recompute == SELECTIVE, at.recompute == FEED_FORWARD],
        [
            0.0,
            work.selective_s(at, forward["attention_s"], forward["elementwise_s"]),
            work.feed_forward_again_s(at, forward["experts_s"], forward["elementwise_s"]),
        ],
        sum(forward.values()),
    )
    layer = {part: seconds * (1 + back[part]) for part, seconds in forward.items()}
    layer["recompute_s"] = again
    layer["tensor_s"] = exposed["tensor_s"] * (2.0 + full)
    layer["expert_s"] = exposed["expert_s"] * (2.0 + (at.recompute >= FEED_FORWARD))
    layer["context_s"] = exposed["context_s"] * 3.0
    # Kernels wait for the host where it cannot keep ahead of them.
    layer["launch_s"] = np.maximum(host_s * (3.0 + full) - sum(layer.values()), 0.0)

    here = at.microbatches * at.model.layers / at.pipeline
    whole = {part: here * seconds for part, seconds in layer.items()}
    # The vocabulary's product sits on the last stage, which all others wait for; a well-kept
    # layout gives that stage fewer layers, as far as whole layers allow.
    uneven = np.where(at.pipeline > 1, at.c["head_imbalance"], 1.0)
    head_share = np.where(at.pipeline > 1, uneven + (1 - uneven) / at.pipeline, 1.0)
    product_s, stream_s = work.head_s(at)
    whole["linear_s"] = whole["linear_s"] + at.microbatches * head_share * product_s
    whole["elementwise_s"] = whole["elementwise_s"] + at.microbatches * head_share * stream_s
    return whole


def _layer(at: Rank) -> tuple[dict[str, Number], dict[str, Number], float]:
    """The forward pass of the mean layer, one microbatch: work, exposed traffic, host."""
    forward: dict[str, Number] = dict.fromkeys(
        ("linear_s", "attention_s", "experts_s", "elementwise_s"), 0.0
    )
    exposed: dict[str, Number] = {
        "tensor_s": traffic.tensor_s(at),
        "expert_s": 0.0,
        "context_s": 0.0,
    }
    host_s = 0.0
    for layers in at.model.blocks:
        share = layers.count / at.model.layers
        for terms, part, seconds in (
            (forward, "linear_s", work.linear_s(at, layers)),
            (forward, "attention_s", work.attention_s(at, layers.mixer)),
            (forward, "experts_s", work.experts_s(at, layers.feed_forward)),
            (forward, "elementwise_s", work.elementwise_s(at, layers)),
            (exposed, "expert_s", traffic.expert_s(at, layers.feed_forward)),
            (exposed, "context_s", traffic.context_s(at, layers.mixer)),
        ):
            terms[part] = terms[part] + share * seconds
        host_s += share * work.host_s(at, layers)
    return forward, exposed, host_s
