"""What failures and checkpoints leave of training time. Modelled, to first order.

A job on many chips is interrupted at the sum of their rates; each time it loses what it did since
the last checkpoint, and the time to find the fault and start again. s, B.
Sources: Daly 2006, doi:10.1016/j.future.2004.11.016 (interval); Llama 3 paper, arXiv:2407.21783,
table 5 (419 interruptions of 16,384 H100 in 54 days). Constants: `data/reliability.csv`.
"""

import math
from dataclasses import dataclass
from functools import cache

from gigafactory.stack import facts
from gigafactory.stack.models import Model

CHECKPOINT_BYTES = 14
"""Per parameter: weights in 16 bit, master weights and two moments in 32."""


@dataclass(frozen=True)
class Goodput:
    """Share of wall time that ends up in the model, and why not more."""

    mtbf_s: float
    """Mean time between interruptions of the whole job."""
    checkpoint_s: float
    """How long training stops for one."""
    interval_s: float
    """Work between two checkpoints: Daly's optimum, or what was asked for."""
    checkpoint_share: float
    lost_share: float
    """Work done again, since the last checkpoint."""
    restart_share: float
    """Detection, replacement, start."""

    @property
    def share(self) -> float:
        """Effective training time over wall time."""
        return max(1 - self.checkpoint_share - self.lost_share - self.restart_share, 0.0)


def goodput(
    model: Model,
    chips: int,
    *,
    interval_s: float | None = None,
    interruptions_per_chip_s: float | None = None,
    write_bytes_per_s_per_chip: float | None = None,
    restart_s: float | None = None,
) -> Goodput:
    """Goodput of training `model` on `chips`; what is not given is as published.

    A checkpoint stops training while each chip copies its part; it goes to storage behind it.
    """
    rate = interruptions_per_chip_s or _constant("interruptions")
    restart_s = _constant("restart") if restart_s is None else restart_s
    write = write_bytes_per_s_per_chip or _constant("checkpoint_write")
    mtbf_s = 1 / (rate * chips)
    stop_s = CHECKPOINT_BYTES * model.parameters / chips / write + _constant("checkpoint_stop")
    work_s = daly_interval_s(stop_s, mtbf_s) if interval_s is None else interval_s
    return Goodput(
        mtbf_s=mtbf_s,
        checkpoint_s=stop_s,
        interval_s=work_s,
        checkpoint_share=stop_s / (work_s + stop_s),
        lost_share=work_s / 2 / mtbf_s,
        restart_share=restart_s / mtbf_s,
    )


def daly_interval_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Work between checkpoints that loses least (Daly's higher order; capped at the MTBF)."""
    if checkpoint_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = checkpoint_s / (2 * mtbf_s)
    young_s = math.sqrt(2 * checkpoint_s * mtbf_s)
    return young_s * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint_s


@cache
def _constant(quantity: str) -> float:
    value = facts.by_subject("reliability")["training"][quantity].value
    assert value is not None
    return value
