"""The constants of the serving model: one set for each architecture of chip and each engine.

Values: `data/serving.csv`, fitted by `benchmarks/fit_serving.py` on published measurements, with
priors from kernel-level ones. Shares (1) and seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

from gigafactory.stack import facts

DEFAULT_ARCHITECTURE = "Hopper"
DEFAULT_ENGINE = "vllm"
ENGINES = ("vllm", "sglang", "trtllm", "trtllm-1.0", "trtllm-0")
"""Engines that have constants of their own; `trtllm-0` is TensorRT-LLM before 1.0."""


@dataclass(frozen=True)
class Silicon:
    """What kernels of one architecture reach of the chip's achievable rates, and their latency."""

    weight_bandwidth: float
    """Share of the memory bandwidth at which a decode step streams weights."""
    cache_bandwidth: float
    """The same where attention reads the cache."""
    matmul_bfloat16: float
    """Share of the achievable FLOP/s that matrix products reach in their real shapes."""
    matmul_float8: float
    matmul_float4: float
    experts: float
    """Grouped products of experts: share of the achievable FLOP/s."""
    expert_bandwidth: float
    """Share of the memory bandwidth at which they stream weights."""
    prefill_attention: float
    """Share of the achievable bfloat16 FLOP/s."""
    kernel_s: float
    """Start and drain of one kernel within a captured graph."""
    collective: float
    """Time of a collective within a step over that of the same one alone."""


@dataclass(frozen=True)
class Engine:
    """What the software adds."""

    step_s: float
    """Scheduling and sampling of a decode step that no computation hides."""
    request_s: float
    """The same, for each sequence of the step."""
    kernels: float
    """Kernels launched in a layer over those that a lean implementation needs."""
    prefill: float
    """Time of prefill work over that of the kernels."""
    launch_s: float
    """Launch of one kernel from Python, where no graph is captured: prefill."""
    first_token_s: float
    """From the wire to the scheduler and back."""


@dataclass(frozen=True)
class Common:
    """What hangs on neither."""

    first_wave: float
    """Share of a test's requests that arrive together at its start."""
    company: float
    """Of the requests that could be taken in together, the share that comes together."""
    routing: float
    """Distinct experts that a batch of N tokens meets are those of N to this power drawn evenly."""
    imbalance: float
    """The busiest of n expert ranks has n (of 8 at most) to this power times the mean."""
    offline: float
    """Share of the steady rate that a test with a beginning and an end reaches."""
    handover_s: float
    """From the end of prefill to the decode worker, beside the transfer of the cache."""
    disaggregated_wait: float
    """Waiting for a prefill worker over that of a queue with random arrivals."""
    pipeline: float
    """Share of a step that each further pipeline stage adds in bubbles."""
    balance_steps: float
    """Steps that TensorRT-LLM holds prompts back until all attention groups have one."""


Table = dict[tuple[str, str], float]


@cache
def table() -> Table:
    """(subject, quantity) -> value. A fit changes it in place and calls `forget`."""
    return {
        (fact.subject, fact.quantity): fact.value
        for fact in facts.load("serving")
        if fact.value is not None
    }


@cache
def silicon(architecture: str | None) -> Silicon:
    """Of this architecture; of Hopper where none was measured."""
    known = architecture if (architecture, "kernel_s") in table() else DEFAULT_ARCHITECTURE
    assert known is not None
    return Silicon(**_values(known, Silicon))


@cache
def engine(name: str) -> Engine:
    """Of `trtllm-1.0`, else of its family `trtllm`, else of vLLM."""
    family = name.split("-")[0]
    for subject in (name, family, DEFAULT_ENGINE):
        if (subject, "step_s") in table():
            return Engine(**_values(subject, Engine))
    raise AssertionError("data/serving.csv has no constants of vllm")


@cache
def common() -> Common:
    """Of every chip and engine."""
    return Common(**_values("common", Common))


def forget() -> None:
    """Read the table anew: a fit has changed it."""
    for cached in (silicon, engine, common):
        cached.cache_clear()


def _values(subject: str, kind: type) -> Mapping[str, float]:
    return {field.name: table()[subject, field.name] for field in fields(kind)}
