"""What an attempt used: chip-seconds and CPU-seconds measured, joules where the machine tells.

Where it does not, energy is idle draw for the time held, plus the rest of the draw for the
CPU-seconds used: the draws come from calibration, the sum is a model, and marked so. Joules
that were measured (`energy.Shares`) are times the PUE of the site, like the modelled ones.
"""

from typing import Any

from gigafactory.plan.quote import Where
from gigafactory.plan.tariff import Rates


def used(
    where: Where,
    chips: int,
    held_s: float,
    cpu_s: float | None,
    phases: dict[str, float],
    *,
    measured_j: float | None = None,
    rates: Rates | None = None,
    began_unix_s: float = 0.0,
) -> dict[str, Any]:
    """Usage of an attempt that held `chips` chips for `held_s`; `cpu_s` None where unheard.

    Unheard CPU-seconds, and a GPU's, count as all the time held: better than to undercount.
    With `rates` it says what that costs, `charges`, for an attempt that began at `began_unix_s`.
    """
    busy_s = min(held_s * chips if cpu_s is None else cpu_s, held_s * chips)
    energy_j = where.idle_w * held_s * chips + (where.chip_w - where.idle_w) * busy_s
    if measured_j is not None:
        energy_j = measured_j * where.pue
    usage: dict[str, Any] = {
        "chip_s": round(held_s * chips, 6),
        "cpu_s": None if cpu_s is None else round(cpu_s, 3),
        "energy_j": round(energy_j, 3),
        "energy_basis": "modelled" if measured_j is None else "measured",
        "pool": where.pool,
        "phases": {name: round(seconds, 3) for name, seconds in phases.items()},
    }
    if rates:
        ended_unix_s = began_unix_s + held_s
        usage["charges"] = rates.attempt(
            where.pool, held_s * chips, energy_j, began_unix_s, ended_unix_s
        )
    return usage
