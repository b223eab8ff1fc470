"""Bare memory stacks (HBM), which export rules control by themselves.

Source: each fact's own, in `data/memory_stacks.csv`.
"""

from dataclasses import dataclass
from functools import cache

from gigafactory.stack import facts


@dataclass(frozen=True)
class Stack:
    """A stack of HBM not on a board. GB/s per mm2 as 3A090.c counts it, else SI."""

    name: str
    bandwidth_density: float | None
    """GB/s of the stack per mm2 of its package."""
    bandwidth_bytes_per_s: float | None = None
    vendor_country: str | None = None
    """None: stacks of one kind come from Korea and the US, and no rule read here asks."""
    family: str = "HBM"
    kind: str = "memory"
    vendor: None = None
    datacenter: None = None


def names() -> list[str]:
    """The stacks known."""
    return sorted(facts.by_subject("memory_stacks"))


@cache
def stack(name: str) -> Stack | None:
    """The stack of that name, `HBM3e` or `hbm3e stack`; None if there is none such."""
    wanted = name.lower().removesuffix("stack").strip(" -")
    for known, of in facts.by_subject("memory_stacks").items():
        if known.lower() == wanted:
            return Stack(known, of["bandwidth_density"].value, of["bandwidth"].value)
    return None
