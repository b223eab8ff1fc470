"""Chips and the systems they come in: achievable rates, memory, fabric, network, power.

Achievable, not peak, where not named so: FLOP/s of large matrix products, B/s of a large copy,
bus bandwidth of a large all-reduce. On a CPU a chip is one core. FLOP/s, B, B/s, W.
Sources: each fact's own, in `data/chips.csv` and `data/systems.csv`.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from typing import Any

from gigafactory.stack import facts

THIS_MACHINE = "this-machine"
CPU_CORE = "cpu-core"
DTYPES = ("float32", "bfloat16")
"""What calibration measures."""
RATES = (*DTYPES, "float8", "float4")
"""What a chip may have an achievable rate in; float32 runs as TF32 where tensor cores can."""


class UnknownChip(LookupError):
    """No such chip or system; `near` holds the valid names most like it."""

    def __init__(self, name: str, known: list[str]):
        self.name = name
        spelt = {one.lower(): one for one in known}
        near = difflib.get_close_matches(name.lower(), spelt, n=3, cutoff=0.4)
        self.near = [spelt[one] for one in near] or sorted(known)
        super().__init__(f"no chip or system {name!r}; nearest: {', '.join(self.near)}")


class UnknownFigure(LookupError):
    """The catalog does not know this quantity of this chip, and somebody needs it."""

    def __init__(self, chip: str, quantity: str):
        self.chip, self.quantity = chip, quantity
        super().__init__(f"{quantity} of {chip} is not known")


@dataclass(frozen=True, repr=False)
class Chip:
    """One accelerator, or one core. What is unknown is None, or raises if read (`Needed`)."""

    name: str
    kind: str
    """`gpu`, which stands for any accelerator, or `cpu`."""
    flop_per_s: Mapping[str, float]
    """Dtype -> achievable FLOP/s of large matrix products; unknown dtypes are left out."""
    memory_bytes: float
    memory_bytes_per_s: float
    fabric_bytes_per_s: float
    """Bus bandwidth of a large all-reduce among `fabric_chips` chips."""
    fabric_chips: int
    """Chips of one fabric domain (8 on a board, 72 in an NVL72 rack), which need no network."""
    network_bytes_per_s: float | None
    """One direction of the network that is this chip's share, for what lies beyond the fabric."""
    idle_w: float
    busy_w: float
    basis: str
    """`measured` here, `published`, or `modelled`; single facts have their own in the data."""
    sources: tuple[str, ...]
    family: str | None = None
    """What export rules call it."""
    architecture: str | None = None
    """Ampere, Hopper, Blackwell, Ada, CDNA3, TPU, ..., `other`, or `cpu`."""
    aliases: tuple[str, ...] = ()
    vendor: str | None = None
    released: date | None = None
    """First day on which it was sold, or is to be; None if unknown or never."""
    vendor_country: str | None = None
    datacenter: bool | None = None
    """Whether it is marketed for data centres, which some export rules ask."""
    tpp: float | None = None
    """Total processing performance, TFLOP/s (or TOP/s) times bit length, as 3A090 counts it."""
    performance_density: float | None = None
    interconnect_bytes_per_s: float | None = None
    """Peak of the chip's links, both directions added, as export rules count it."""
    link_bytes_per_s: float | None = None
    """Peak of the chip's links, one direction: half of that."""
    fabric: str | None = None
    """Name of its links in `data/fabrics.csv`: NVLink4, NVL72, PCIe5, InfinityFabric, ..."""
    peak_memory_bytes_per_s: float | None = None
    peak_flop_per_s: float | None = None
    """Peak in bfloat16 as published: what MFU is a share of."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """Dtype -> published dense FLOP/s (or OP/s of int8)."""
    launch_s: float | None = None
    """Seconds that the smallest operation takes, where this machine was measured thoroughly."""

    def __repr__(self) -> str:
        return f"Chip({self.name!r})"

    def rate(self, dtype: str) -> float:
        """Achievable FLOP/s in `dtype`; raises `UnknownFigure` where there is none."""
        if dtype not in self.flop_per_s:
            raise UnknownFigure(self.name, f"matmul rate in {dtype}")
        return self.flop_per_s[dtype]


class Needed:
    """Makes a field of `Chip` raise `UnknownFigure` when it is read and not known.

    So callers calculate with numbers, and chips of which only some figures are known (what an
    export rule asks of them, say) can be read all the same.
    """

    def __init__(self, name: str):
        self._name = name

    def __get__(self, chip: Any, owner: type) -> Any:
        figure = self if chip is None else vars(chip)[self._name]
        if figure is None:
            raise UnknownFigure(chip.name, self._name)
        return figure

    def __set__(self, chip: Any, figure: float | None) -> None:
        vars(chip)[self._name] = figure


for _field in (
    "memory_bytes",
    "memory_bytes_per_s",
    "fabric_bytes_per_s",
    "fabric_chips",
    "idle_w",
    "busy_w",
):
    setattr(Chip, _field, Needed(_field))


@dataclass(frozen=True)
class System:
    """A node: some chips of one kind, and what it draws beside them."""

    name: str
    chip: Chip
    chips_per_node: int
    node_overhead_w: float
    aliases: tuple[str, ...] = ()


def names() -> list[str]:
    """The systems that `system` knows."""
    return sorted(facts.by_subject("systems"))


def chip_names() -> list[str]:
    """The chips that `chip` knows."""
    return sorted(facts.by_subject("chips"))


def system(name: str, measured: Mapping[str, Any] | None = None) -> System:
    """The system of this name or alias; `measured` is the snapshot of calibration, if any.

    Without a snapshot `this-machine` is a generic CPU of two cores, basis `modelled`.
    """
    if name == THIS_MACHINE and measured is not None:
        return _measured_system(measured)
    return _system(_found("systems", name))


def chip(name: str) -> Chip:
    """The chip of this name or alias in `data/chips.csv`, as freely spelt as people do.

    Capitals, signs, makers, `SXM5` and the GB after a memory do not matter: `A100-SXM4-80GB`.
    """
    return _chip(_found("chips", name))


def node_of(one: Chip | str) -> System:
    """The system that this chip usually comes in: the first in `data/systems.csv`."""
    name = chip(one).name if isinstance(one, str) else one.name
    for system_name, of in facts.by_subject("systems").items():
        if of["chip"].text == name:
            return _system(system_name)
    raise UnknownFigure(name, "usual system")


def changed(one: Chip, **fields: Any) -> Chip:
    """The same chip with other `fields`; what is unknown of it goes along, unread."""
    return Chip(**{**vars(one), **fields})


def needed(one: Chip, quantity: str) -> float:
    """Figure `quantity` (a field) of this chip; raises `UnknownFigure` where it is None."""
    figure: float | None = getattr(one, quantity)
    if figure is None:
        raise UnknownFigure(one.name, quantity)
    return figure


def _found(table: str, name: str) -> str:
    spelt = _spelt(table)
    known = spelt.get(name.lower()) or _spelt(table, _squeezed).get(_squeezed(name))
    if known is None:
        raise UnknownChip(name, list(facts.by_subject(table)) + _all_aliases(table))
    return known


@cache
def _spelt(table: str, spelling: Callable[[str], str] = str.lower) -> dict[str, str]:
    """Name or alias as spelt -> name. A name goes before an alias."""
    subjects = facts.by_subject(table)
    spelt = {spelling(alias): name for name, of in subjects.items() for alias in _aliases(of)}
    return spelt | {spelling(name): name for name in subjects}


def _squeezed(name: str) -> str:
    """What is left of a name without makers, sockets, units and signs."""
    bare = re.sub(r"nvidia|amd|instinct|google|huawei|sxm\d?|(?<=\d)\s?gb\b", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", bare)


def _all_aliases(table: str) -> list[str]:
    return [alias for of in facts.by_subject(table).values() for alias in _aliases(of)]


@cache
def _system(name: str) -> System:
    of = facts.by_subject("systems")[name]
    its_chip = _chip(of["chip"].text)
    if "fabric_chips" in of:  # Some chips come in domains of several sizes.
        its_chip = replace(its_chip, fabric_chips=int(_number(of, "fabric_chips")))
    count = int(_number(of, "chips_per_node"))
    return System(name, its_chip, count, _number(of, "node_overhead"), _aliases(of))


@cache
def _chip(name: str) -> Chip:
    of = facts.by_subject("chips")[name]
    domain = _known(of, "fabric_chips")
    may_be_unknown: dict[str, Any] = {
        "memory_bytes": _known(of, "memory"),
        "memory_bytes_per_s": _known(of, "memory_bandwidth"),
        "fabric_bytes_per_s": _known(of, "fabric_bandwidth"),
        "fabric_chips": None if domain is None else int(domain),
        "idle_w": _known(of, "idle_power"),
        "busy_w": _known(of, "busy_power"),
    }
    return Chip(
        name=name,
        kind=of["kind"].text,
        flop_per_s=_by_dtype(of, "matmul", RATES),
        network_bytes_per_s=_known(of, "network_bandwidth"),
        basis="modelled" if of["kind"].text == "cpu" else "published",
        sources=tuple(dict.fromkeys(fact.source for fact in of.values())),
        **may_be_unknown,
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
    published = _published(alike)
    if measured["kind"] == "gpu" and published["fabric"] is None:
        published["fabric"] = "PCIe4"
    stand_in = facts.by_subject("systems")[THIS_MACHINE]
    return System(
        name=THIS_MACHINE,
        chip=Chip(
            name=name,
            kind=measured["kind"],
            flop_per_s=dict(measured["flop_per_s"]),
            memory_bytes=measured["memory_bytes_per_chip"],
            memory_bytes_per_s=measured["memory_bytes_per_s"],
            fabric_bytes_per_s=measured.get("fabric_bytes_per_s")
            or _number(alike or stand_in, "fabric_bandwidth"),
            fabric_chips=measured["chips"],
            network_bytes_per_s=None,
            idle_w=measured["idle_w"],
            busy_w=measured["busy_w"],
            basis="measured",
            sources=(f"{measured['model']}, calibrated {measured['when']}",),
            launch_s=measured.get("launch_s"),
            **published,
        ),
        chips_per_node=measured["chips"],
        node_overhead_w=measured["node_overhead_w"],
    )


def _published(of: Mapping[str, facts.Fact]) -> dict[str, Any]:
    """What MFU and export rules ask of a chip, and its links; None where the catalog is silent."""
    numbers = {
        "tpp": "tpp",
        "performance_density": "performance_density",
        "interconnect_bytes_per_s": "peak_interconnect",
        "peak_memory_bytes_per_s": "peak_memory_bandwidth",
        "peak_flop_per_s": "peak_bfloat16",
    }
    both_directions = _known(of, "peak_interconnect")
    datacenter = _text(of, "datacenter")
    texts = ("family", "architecture", "vendor", "vendor_country", "fabric")
    return {
        **{field: _text(of, field) for field in texts},
        **{field: _known(of, row) for field, row in numbers.items()},
        "aliases": _aliases(of),
        "released": _first_day(_text(of, "release") or ""),
        "datacenter": None if datacenter is None else datacenter == "yes",
        "link_bytes_per_s": None if both_directions is None else both_directions / 2,
        "peaks": _by_dtype(of, "peak", (*RATES, "int8")),
    }


def _first_day(text: str) -> date | None:
    """`2024-11-18`, `2024-03`, `2026-H2`, `2026-Q4` or `2024` as the first day it can mean."""
    found = re.match(r"(\d{4})(?:-(?:(\d\d)(?:-(\d\d))?|Q([1-4])|H([12])))?", text)
    if found is None:
        return None
    year, month, day, quarter, half = (int(part) if part else None for part in found.groups())
    assert year
    first = month or (quarter and 3 * quarter - 2) or (half and 6 * half - 5) or 1
    return date(year, first, day or 1)


def _by_dtype(
    of: Mapping[str, facts.Fact], quantity: str, dtypes: tuple[str, ...]
) -> dict[str, float]:
    rates = {dtype: _known(of, f"{quantity}_{dtype}") for dtype in dtypes}
    return {dtype: rate for dtype, rate in rates.items() if rate is not None}


def _aliases(of: Mapping[str, facts.Fact]) -> tuple[str, ...]:
    return tuple((_text(of, "aliases") or "").split("|")) if _text(of, "aliases") else ()


def _known(of: Mapping[str, facts.Fact], quantity: str) -> float | None:
    return of[quantity].value if quantity in of else None


def _number(of: Mapping[str, facts.Fact], quantity: str) -> float:
    value = of[quantity].value
    assert value is not None, f"{of[quantity].subject} has no {quantity}"
    return value


def _text(of: Mapping[str, facts.Fact], quantity: str) -> str | None:
    return (of[quantity].text or None) if quantity in of else None
