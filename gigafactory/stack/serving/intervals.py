"""How far the model may be off: the interval that holds four fifths of what is measured.

Factors on a prediction, by metric and by kind of row, from the residuals of rows that the fit did
not see: of models left out whole, and of configurations left out in turn. Wider for what is
unlike anything measured.
"""

from gigafactory.stack.serving import constants
from gigafactory.stack.serving.rows import Request

METRICS = ("ttft", "tpot", "throughput")
MEASURED_MIXERS = ("attention", "mla", "linear", "none")
STRANGE_CHIP, STRANGE_MODEL = 1.5, 1.2
"""Widening of the log for what no row of the fit has: an architecture; a mixer, or a model
without experts under a closed loop. Assumed."""


def interval(request: Request, metric: str) -> tuple[float, float]:
    """(low, high) such that 80 % of measurements lie within prediction x low ... high."""
    assert metric in METRICS, metric
    table, kind, swapped = constants.table(), request.kind, False
    if ("interval", f"{kind}_{metric}_low") not in table:
        # Not published of this kind: throughput goes against the time per token, and it against
        # throughput.
        metric = "tpot" if ("interval", f"{kind}_tpot_low") in table else "throughput"
        swapped = True
    low, high = (table["interval", f"{kind}_{metric}_{end}"] for end in ("low", "high"))
    if swapped:
        low, high = 1 / high, 1 / low
    wider = 1.0
    if request.chip.architecture not in measured_architectures():
        wider *= STRANGE_CHIP
    dense = not request.model.experts and kind != "offline"
    if dense or any(run.mixer.kind not in MEASURED_MIXERS for run in request.model.blocks):
        wider *= STRANGE_MODEL
    return low**wider, high**wider


def measured_architectures() -> set[str]:
    """Those whose constants come from measurements, not from the mean of others."""
    return {
        fact.subject
        for fact in constants.facts.load("serving")
        if fact.quantity == "kernel_s" and fact.basis != "assumed"
    }
