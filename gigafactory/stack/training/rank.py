"""One rank of a laid-out job: what the parts of its step have in common, computed once."""

from collections.abc import Mapping

import numpy as np

from gigafactory.stack.chips import Chip
from gigafactory.stack.training.job import Job, Layout, Number

MATURE = 2026.5
"""Experts' costs are of software of then."""


class Rank:
    """A job on its chips, as the fullest of its ranks sees it; fields of the layout as arrays."""

    def __init__(self, job: Job, chip: Chip, layout: Layout, c: Mapping[str, float]):
        self.job, self.model, self.chip, self.c = job, job.model, chip, c
        self.layout = layout
        self.tensor = np.asarray(layout.tensor, float)
        self.pipeline = np.asarray(layout.pipeline, float)
        self.context = np.asarray(layout.context, float)
        self.expert = np.asarray(layout.expert, float)
        self.data = np.asarray(layout.data, float)
        self.virtual = np.asarray(layout.virtual, float)
        self.microbatch = np.asarray(layout.microbatch, float)
        self.recompute = np.asarray(layout.recompute)
        self.zero = np.asarray(layout.zero)
        # The fullest data rank says how long a step takes; 1e-9 forgives a division's rounding.
        self.microbatches = np.maximum(
            np.ceil(job.batch / (self.data * self.microbatch) - 1e-9), 1.0
        )
        self.tokens = self.microbatch * job.sequence / self.context
        # What is not matrix products is spread over the tensor group, or done by each of it.
        self.spread = np.where(layout.sequence_parallel, self.tensor, 1.0)
        self.bandwidth = chip.memory_bytes_per_s

    def parameters(self) -> tuple[Number, Number]:
        """(parameters of this rank outside the experts, in its experts)."""
        model = self.model
        inside = outside = 0.0
        for layers in model.blocks:
            forward = layers.feed_forward
            experts = forward.experts * forward.expert_parameters
            inside += layers.count * experts
            outside += layers.count * (
                layers.mixer.parameters + forward.parameters - experts + layers.norm_parameters
            )
        embedding = (
            model.vocabulary * model.hidden * np.where(self.pipeline > 1, 1.0, 2.0 - model.tied)
        )
        return (
            outside / self.pipeline / self.tensor + embedding / self.tensor,
            inside / self.pipeline / self.expert,
        )

    def learned(self) -> float:
        """Share of the parameters that is trained."""
        if not self.job.frozen:
            return 1.0
        return self.job.lora_rank * self.model.projections / self.model.parameters

    @property
    def data_ranks(self) -> Number:
        """Ranks that hold the same weights outside the experts."""
        return self.data * self.context

    @property
    def expert_ranks(self) -> Number:
        """Ranks that hold the same experts."""
        return np.maximum(self.tensor * self.context * self.data / self.expert, 1.0)

    @property
    def domain(self) -> Number:
        """Data ranks that share a fabric domain, each with its tensor group."""
        return np.maximum(self.chip.fabric_chips / self.tensor, 1)

    def young(self) -> float:
        """How much slower experts ran when the software for them was younger."""
        return self.c["experts_yearly"] ** max(MATURE - self.job.year, 0.0)
