"""How fast models train on chips: steps, memory, search, goodput. Modelled.

The door. `job` is the question, `step` the answer, in parts that `work`, `traffic` and `memory`
compute for one `rank`; `search` finds layouts, `rows` reads published runs, `goodput` counts what
failures leave, `flops` what a model needs.
"""

from gigafactory.stack.training.flops import flops_per_token, model_flops
from gigafactory.stack.training.job import (
    FEED_FORWARD,
    FULL,
    NONE,
    PRECISIONS,
    RECOMPUTE,
    SELECTIVE,
    TASKS,
    BadLayout,
    Job,
    Layout,
    Number,
    check,
)
from gigafactory.stack.training.step import (
    MEMORY,
    PARTS,
    Step,
    constants,
    interval,
    memory,
    power_w,
    step,
    usable_bytes,
)

__all__ = [
    "FEED_FORWARD",
    "FULL",
    "MEMORY",
    "NONE",
    "PARTS",
    "PRECISIONS",
    "RECOMPUTE",
    "SELECTIVE",
    "TASKS",
    "BadLayout",
    "Job",
    "Layout",
    "Number",
    "Step",
    "check",
    "constants",
    "flops_per_token",
    "interval",
    "memory",
    "model_flops",
    "power_w",
    "step",
    "usable_bytes",
]
