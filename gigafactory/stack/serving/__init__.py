"""How fast a model serves on chips: steps, load, memory, search. Modelled.

The door. `deployment` is a worker, `steps` one step of it, `load` a service in its steady state,
`frontier` the layouts worth having, `rows` the reading of published tests, `intervals` how far all
of it may be off, `constants` the fitted numbers.
"""

from gigafactory.stack.serving.constants import ENGINES
from gigafactory.stack.serving.deployment import (
    Deployment,
    ImpossibleLayout,
    Memory,
    describe,
    memory,
)
from gigafactory.stack.serving.frontier import Frontier, Option, search
from gigafactory.stack.serving.intervals import interval
from gigafactory.stack.serving.load import Load, Serving, serve, serve_disaggregated
from gigafactory.stack.serving.rows import (
    INPUTS,
    PRECISIONS,
    Request,
    UnreadableRow,
    from_row,
    predict,
)
from gigafactory.stack.serving.steps import Step, decode_step, prefill_step

__all__ = [
    "ENGINES",
    "INPUTS",
    "PRECISIONS",
    "Deployment",
    "Frontier",
    "ImpossibleLayout",
    "Load",
    "Memory",
    "Option",
    "Request",
    "Serving",
    "Step",
    "UnreadableRow",
    "decode_step",
    "describe",
    "from_row",
    "interval",
    "memory",
    "predict",
    "prefill_step",
    "search",
    "serve",
    "serve_disaggregated",
]
