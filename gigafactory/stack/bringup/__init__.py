"""From a field to the first token: how long, what it waits for, what a week is worth. Modelled.

`network` is the phases with their weeks and what each waits for; `schedule` computes start, finish
and slack, for one set of durations or thousands; `delay` tells what a week of each phase moves;
`gates` judges what was measured between the rack and the first invoice. Weeks, USD, SI for gates.
Sources: each row's own, in `data/bringup.csv` and `data/gates.csv`.
"""

from gigafactory.stack.bringup.delay import Worth, worth
from gigafactory.stack.bringup.network import (
    BUILDINGS,
    GRIDS,
    POWERS,
    Network,
    Options,
    Phase,
    UnknownPhase,
    Weeks,
    network,
    time_to_power,
)
from gigafactory.stack.bringup.schedule import (
    PERCENTILES,
    Distribution,
    Schedule,
    distribution,
    draw,
    schedule,
)

__all__ = [
    "BUILDINGS",
    "GRIDS",
    "PERCENTILES",
    "POWERS",
    "Distribution",
    "Network",
    "Options",
    "Phase",
    "Schedule",
    "UnknownPhase",
    "Weeks",
    "Worth",
    "distribution",
    "draw",
    "network",
    "schedule",
    "time_to_power",
    "worth",
]
