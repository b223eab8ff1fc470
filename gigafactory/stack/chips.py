"""Chips and the systems they come in: achievable rates, memory, fabric, power.

Achievable, not peak: FLOP/s of large matrix products, B/s of a large copy, bus bandwidth of a
large all-reduce. On a CPU a chip is one core. FLOP/s, B, B/s, W.
Sources: each fact's own, in `data/chips.csv` and `data/systems.csv`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gigafactory.stack import facts

THIS_MACHINE = "this-machine"
CPU_CORE = "cpu-core"
DTYPES = ("float32", "bfloat16")


class UnknownChip(LookupError):
    """No such chip or system; `near` holds the valid names most like it."""

    def __init__(self, name: str, known: list[str]):
        self.name = name
        self.near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
        super().__init__(f"no chip or system {name!r}; nearest: {', '.join(self.near)}")


@dataclass(frozen=True)
class Chip:
    """One accelerator, or one core. What is unknown is None."""

    name: str
    kind: str
    """`gpu` or `cpu`."""
    flop_per_s: Mapping[str, float]
    """Dtype -> FLOP/s of large matrix products."""
    memory_bytes: float
    memory_bytes_per_s: float
    fabric_bytes_per_s: float
    """Bus bandwidth of a large all-reduce among `fabric_chips` chips."""
    fabric_chips: int
    network_bytes_per_s: float | None
    """Line rate of the network that is this chip's share, for what lies beyond the fabric."""
    idle_w: float
    busy_w: float
    basis: str
    """`measured` here, `published`, or `modelled`; single facts have their own in the data."""
    sources: tuple[str, ...]
    family: str | None = None
    vendor_country: str | None = None
    tpp: float | None = None
    """Total processing performance, TFLOP/s (or TOP/s) times bit length, as 3A090 counts it."""
    performance_density: float | None = None
    interconnect_bytes_per_s: float | None = None
    """Peak of the chip's links, both directions added, as export rules count it."""
    peak_memory_bytes_per_s: float | None = None
    peak_flop_per_s: float | None = None
    """Peak in bfloat16 as published: what MFU is a share of."""


@dataclass(frozen=True)
class System:
    """A node: some chips of one kind, and what it draws beside them."""

    name: str
    chip: Chip
    chips_per_node: int
    node_overhead_w: float


def names() -> list[str]:
    """The systems that `system` knows."""
    return sorted(facts.by_subject("systems"))


def system(name: str, measured: Mapping[str, Any] | None = None) -> System:
    """The system called `name`; `measured` is the snapshot that calibration wrote, if any.

    Without a snapshot `this-machine` is a generic CPU of two cores, basis `modelled`.
    """
    if name == THIS_MACHINE and measured is not None:
        return _measured_system(measured)
    systems = facts.by_subject("systems")
    if name not in systems:
        raise UnknownChip(name, list(systems))
    of = systems[name]
    return System(
        name,
        chip(of["chip"].text),
        int(_number(of, "chips_per_node")),
        _number(of, "node_overhead"),
    )


def chip(name: str) -> Chip:
    """The chip called `name` in `data/chips.csv`."""
    known = facts.by_subject("chips")
    if name not in known:
        raise UnknownChip(name, list(known))
    of = known[name]
    network = of.get("network_bandwidth")
    return Chip(
        name=name,
        kind=of["kind"].text,
        flop_per_s={dtype: _number(of, f"matmul_{dtype}") for dtype in DTYPES},
        memory_bytes=_number(of, "memory"),
        memory_bytes_per_s=_number(of, "memory_bandwidth"),
        fabric_bytes_per_s=_number(of, "fabric_bandwidth"),
        fabric_chips=int(_number(of, "fabric_chips")),
        network_bytes_per_s=network.value if network else None,
        idle_w=_number(of, "idle_power"),
        busy_w=_number(of, "busy_power"),
        basis="modelled" if of["kind"].text == "cpu" else "published",
        sources=tuple(dict.fromkeys(fact.source for fact in of.values())),
        **_published(of),
    )


def _measured_system(measured: Mapping[str, Any]) -> System:
    """This machine from its snapshot; what cannot be measured is taken from the catalog."""
    catalog = facts.by_subject("chips")
    name = next(
        (name for name, of in catalog.items() if _text(of, "torch_name") == measured["model"]),
        CPU_CORE if measured["kind"] == "cpu" else measured["model"],
    )
    alike = catalog.get(name, {})
    stand_in = facts.by_subject("systems")[THIS_MACHINE]
    return System(
        name=THIS_MACHINE,
        chip=Chip(
            name=name,
            kind=measured["kind"],
            flop_per_s=dict(measured["flop_per_s"]),
            memory_bytes=measured["memory_bytes_per_chip"],
            memory_bytes_per_s=measured["memory_bytes_per_s"],
            fabric_bytes_per_s=_number(alike or stand_in, "fabric_bandwidth"),
            fabric_chips=measured["chips"],
            network_bytes_per_s=None,
            idle_w=measured["idle_w"],
            busy_w=measured["busy_w"],
            basis="measured",
            sources=(f"{measured['model']}, calibrated {measured['when']}",),
            **_published(alike),
        ),
        chips_per_node=measured["chips"],
        node_overhead_w=measured["node_overhead_w"],
    )


def _published(of: Mapping[str, facts.Fact]) -> dict[str, Any]:
    """What MFU and export rules ask of a chip; None where the catalog does not say."""
    numbers = {
        "tpp": "tpp",
        "performance_density": "performance_density",
        "interconnect_bytes_per_s": "peak_interconnect",
        "peak_memory_bytes_per_s": "peak_memory_bandwidth",
        "peak_flop_per_s": "peak_bfloat16",
    }
    return {
        "family": _text(of, "family"),
        "vendor_country": _text(of, "vendor_country"),
        **{field: of[row].value if row in of else None for field, row in numbers.items()},
    }


def _number(of: Mapping[str, facts.Fact], quantity: str) -> float:
    value = of[quantity].value
    assert value is not None, f"{of[quantity].subject} has no {quantity}"
    return value


def _text(of: Mapping[str, facts.Fact], quantity: str) -> str | None:
    return of[quantity].text if quantity in of else None
