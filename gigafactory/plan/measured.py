"""What was measured before: this machine as a chip, and what its jobs really took.

A snapshot of it goes into every plan by hash, so a plan can be made again to the byte.
"""

from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict

RECENT = 3  # observations that count: machines and code change, so old ones fade
SPREAD_MIN = 0.15  # half-width of a measured range; two runs of one job differ by that


class Observation(BaseModel):
    """One committed attempt that ran undisturbed from start to end."""

    model_config = ConfigDict(frozen=True)

    shape: str
    """What makes two jobs alike: kind, model, settings, system, chips; not their size."""
    size: float
    """Work in the job: tokens (those it may serve do not count), frames, steps, episodes."""
    overhead_s: float
    """Start, load and save."""
    work_s: float
    tokens: float
    power_w: float
    """Mean draw at the meter while it held its chips."""
    energy_basis: str


class Measured(BaseModel):
    """Snapshot of calibration and history, oldest observation first."""

    machine: dict[str, Any] | None = None
    observations: list[Observation] = []

    def like(self, shape: str) -> "Experience | None":
        """What the recent jobs of this shape took, or None where there was none."""
        alike = [o for o in self.observations if o.shape == shape][-RECENT:]
        if not alike:
            return None
        per_token = [o.work_s / o.size for o in alike if o.size]
        totals = [o.overhead_s + o.work_s for o in alike]
        middle = median(totals)
        return Experience(
            count=len(alike),
            overhead_s=median(o.overhead_s for o in alike),
            s_per_size=median(per_token) if per_token else 0.0,
            tokens_per_size=median(o.tokens / o.size for o in alike if o.size)
            if per_token
            else 0.0,
            power_w=median(o.power_w for o in alike),
            spread=max(SPREAD_MIN, *(abs(t - middle) / middle for t in totals)),
        )


class Experience(BaseModel):
    """The recent observations of one shape, boiled down."""

    count: int
    overhead_s: float
    s_per_size: float
    tokens_per_size: float
    power_w: float
    spread: float
    """Largest relative distance from the median: the range of the next quote."""
