"""What an attempt used: chip-seconds and CPU-seconds measured, joules modelled.

Energy is idle draw for the time held, plus the rest of the draw for the CPU-seconds used. The
draws come from calibration, which measures them where the machine tells; the sum is a model
all the same, and marked so.
"""

from typing import Any

from gigafactory.plan.quote import Where


def used(
    where: Where, chips: int, held_s: float, cpu_s: float | None, phases: dict[str, float]
) -> dict[str, Any]:
    """Usage of an attempt that held `chips` chips for `held_s`; `cpu_s` None where unheard.

    Unheard CPU-seconds, and a GPU's, count as all the time held: better than to undercount.
    """
    busy_s = min(held_s * chips if cpu_s is None else cpu_s, held_s * chips)
    energy_j = where.idle_w * held_s * chips + (where.chip_w - where.idle_w) * busy_s
    return {
        "chip_s": round(held_s * chips, 6),
        "cpu_s": None if cpu_s is None else round(cpu_s, 3),
        "energy_j": round(energy_j, 3),
        "energy_basis": "modelled",
        "pool": where.pool,
        "phases": {name: round(seconds, 3) for name, seconds in phases.items()},
    }
