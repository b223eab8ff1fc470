"""Seconds of collectives among chips: measured curves inside a fabric, a model beyond it.

Inside one fabric domain (a board, a rack): curves of time over payload and ranks, measured with
NCCL, or with the kernels of serving engines in CUDA graphs (`custom`), held in `data/fabrics.csv`
as bus bandwidth. A fabric without curves borrows those of `NEAREST`, scaled by what its large
all-reduce reaches. Beyond a domain, two stages that mostly hide each other: the fabric inside
each domain, and the network between them, where each byte enters a domain once and all its NICs
work together.

In: payload in B, ranks; numbers or arrays, which broadcast. Out: s. Modelled.
Source: each row's own; bus bandwidth as github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md, has it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from gigafactory.stack import chips, facts
from gigafactory.stack.chips import Chip

Seconds = npt.NDArray[np.float64]
Algorithm = Literal["nccl", "custom"]
# The grid that curves are laid out on: 1 KiB times powers of 4, ranks by powers of 2.
SMALLEST_BYTES = 2.0**10
SIZES = 12
RANKS = 2 ** np.arange(1, 15)
# Fabric without curves -> the one whose shape it borrows.
NEAREST = {
    "PCIe4": "PCIe5",
    "ICI": "NVLink4",
    "NeuronLink": "NVLink4",
    "RoCE": "NVLink4",
    "HCCS": "NVLink4",
}


def all_reduce_s(
    chip: Chip,
    payload_bytes: npt.ArrayLike,
    ranks: npt.ArrayLike,
    *,
    per_node: npt.ArrayLike | None = None,
    algorithm: Algorithm = "nccl",
) -> Seconds:
    """Sum a tensor of `payload_bytes`, which every rank has whole.

    `per_node` is how many of the ranks share a fabric domain; all that fit where it is left out.
    """
    return _collective_s(chip, "all_reduce", algorithm, payload_bytes, ranks, per_node)


def all_gather_s(
    chip: Chip,
    payload_bytes: npt.ArrayLike,
    ranks: npt.ArrayLike,
    *,
    per_node: npt.ArrayLike | None = None,
) -> Seconds:
    """Give every rank the whole tensor of `payload_bytes`, of which each has a share."""
    return _collective_s(chip, "all_gather", "nccl", payload_bytes, ranks, per_node)


def reduce_scatter_s(
    chip: Chip,
    payload_bytes: npt.ArrayLike,
    ranks: npt.ArrayLike,
    *,
    per_node: npt.ArrayLike | None = None,
) -> Seconds:
    """Sum a tensor of `payload_bytes`, which every rank has whole, and leave each a share."""
    return _collective_s(chip, "reduce_scatter", "nccl", payload_bytes, ranks, per_node)


def all_to_all_s(
    chip: Chip,
    payload_bytes: npt.ArrayLike,
    ranks: npt.ArrayLike,
    *,
    per_node: npt.ArrayLike | None = None,
    algorithm: Algorithm = "nccl",
) -> Seconds:
    """Every rank sends `payload_bytes` in equal parts to all, itself among them.

    `custom` is what carries tokens to experts and back: DeepEP, or NVLink kernels of engines.
    """
    payload, ranks, within, domains = _groups(chip, payload_bytes, ranks, per_node)
    inside_s, floor_s = _inside_s(chip, "all_to_all", algorithm, payload * within / ranks, within)
    if domains is None:
        return _busy(inside_s, payload, ranks)
    leaving_bytes = payload * (ranks - within) / ranks
    crossing_s = leaving_bytes / _network_bytes_per_s(chip, "all_to_all")
    steps_s = _step_s() * np.ceil(np.log2(domains))
    return _busy(floor_s + steps_s + np.hypot(inside_s - floor_s, crossing_s), payload, ranks)


def send_s(
    chip: Chip,
    payload_bytes: npt.ArrayLike,
    ranks: npt.ArrayLike = 2,
    *,
    per_node: npt.ArrayLike | None = None,
) -> Seconds:
    """Send a message to the next of `ranks`, while one comes from the rank before.

    It crosses the network where the ranks lie in more than one domain.
    """
    message, ranks, within, domains = _groups(chip, payload_bytes, ranks, per_node)
    pair = np.minimum(within, 2.0)
    # An all-to-all of two sends half of its payload.
    inside_s, _ = _inside_s(chip, "all_to_all", "nccl", 2 * message, pair)
    if domains is None:
        return _busy(inside_s, message, ranks)
    outside_s = _step_s() + message / _network_bytes_per_s(chip, "send")
    return _busy(np.where(domains > 1, outside_s, inside_s), message, ranks)


def _collective_s(
    chip: Chip,
    collective: str,
    algorithm: Algorithm,
    payload_bytes: npt.ArrayLike,
    ranks: npt.ArrayLike,
    per_node: npt.ArrayLike | None,
) -> Seconds:
    payload, ranks, within, domains = _groups(chip, payload_bytes, ranks, per_node)
    inside_s, floor_s = _inside_s(chip, collective, algorithm, payload, within)
    if domains is None:
        return _busy(inside_s, payload, ranks)
    directions = 2 if collective == "all_reduce" else 1  # In a share of each, and out again.
    nics_bytes_per_s = within * _network_bytes_per_s(chip, collective)
    crossing_s = directions * (domains - 1) / domains * payload / nics_bytes_per_s
    steps_s = _step_s() * directions * np.ceil(np.log2(domains))
    return _busy(floor_s + steps_s + np.hypot(inside_s - floor_s, crossing_s), payload, ranks)


def _groups(
    chip: Chip,
    payload_bytes: npt.ArrayLike,
    ranks: npt.ArrayLike,
    per_node: npt.ArrayLike | None,
) -> tuple[Seconds, Seconds, Seconds, Seconds | None]:
    """Payload, ranks, ranks in a domain, domains; None for domains where all is in one."""
    payload = np.asarray(payload_bytes, dtype=np.float64)
    all_ranks = np.asarray(ranks, dtype=np.float64)
    most = chip.fabric_chips if per_node is None else np.asarray(per_node, dtype=np.float64)
    within = np.minimum(all_ranks, np.maximum(most, 1))
    if np.all(within >= all_ranks):
        return payload, all_ranks, within, None
    return payload, all_ranks, within, np.ceil(all_ranks / within)


def _busy(seconds: Seconds, payload: Seconds, ranks: Seconds) -> Seconds:
    """One rank alone, or nothing to send, takes no time."""
    return np.where((ranks > 1) & (payload > 0), seconds, 0.0)[()]


def _inside_s(
    chip: Chip, collective: str, algorithm: Algorithm, payload: Seconds, ranks: Seconds
) -> tuple[Seconds, Seconds]:
    """Seconds inside a domain, and what of it is there for the smallest payload already."""
    curves = _curves(chip.fabric or "", collective, algorithm, chip.name)
    row = np.log2(np.clip(ranks, RANKS[0], RANKS[-1])) - 1
    relative = np.maximum(payload, 1.0) / SMALLEST_BYTES
    column = np.clip(np.log2(relative) / 2, 0, SIZES - 1)
    beyond = np.maximum(relative / 4.0 ** (SIZES - 1), 1.0)  # At the bandwidth of the largest.
    floor_s = np.exp2(np.interp(row, np.arange(len(RANKS)), curves.log2_s[:, 0]))
    seconds = np.exp2(_bilinear(curves.log2_s, row, column)) * beyond
    slower = curves.reference_bytes_per_s / chip.fabric_bytes_per_s
    seconds = floor_s + (seconds - floor_s) * slower
    if algorithm == "custom" and collective == "all_reduce":  # Engines take what is faster.
        nccl_s, _ = _inside_s(chip, collective, "nccl", payload, ranks)
        seconds = np.minimum(seconds, nccl_s)
    alone = ranks <= 1
    return np.where(alone, 0.0, seconds), np.where(alone, 0.0, floor_s)


def _bilinear(table: Seconds, row: Seconds, column: Seconds) -> Seconds:
    """The table between its points. One row, as a search often asks, goes the short way."""
    if row.ndim == 0:
        above = min(int(row), len(table) - 2)
        share = float(row) - above
        line = table[above] * (1 - share) + table[above + 1] * share
        return np.asarray(np.interp(column, np.arange(table.shape[1]), line))
    i = np.minimum(row.astype(np.int64), table.shape[0] - 2)
    j = np.minimum(column.astype(np.int64), table.shape[1] - 2)
    down, right = row - i, column - j
    flat, at = table.ravel(), i * table.shape[1] + j
    upper = flat[at] + (flat[at + 1] - flat[at]) * right
    at = at + table.shape[1]
    lower = flat[at] + (flat[at + 1] - flat[at]) * right
    return np.asarray(upper + (lower - upper) * down)


@dataclass(frozen=True)
class _Curves:
    """Seconds of one collective on one fabric, on the grid."""

    log2_s: Seconds
    """By ranks and payload."""
    reference_bytes_per_s: float
    """Bus bandwidth of a large all-reduce on the chip that was measured, as the catalog has it."""


@cache
def _curves(fabric: str, collective: str, algorithm: str, chip: str) -> _Curves:
    known = _points()
    wanted = (NEAREST.get(fabric, fabric), collective, algorithm)
    if wanted not in known:
        wanted = (wanted[0], collective, "nccl")
    if wanted not in known:
        raise chips.UnknownFigure(chip, f"fabric ({fabric or 'none named'}): {collective} time")
    measured_on, by_ranks = known[wanted]
    lines = {ranks: _line(collective, ranks, points) for ranks, points in by_ranks.items()}
    for ranks in (int(ranks) for ranks in RANKS if ranks not in lines):
        # As many ranks were not measured: the same bus bandwidth, and a tree's steps.
        near = min(by_ranks, key=lambda known: abs(np.log2(known / ranks)))
        floor_s = lines[near][0]
        carried_s = (lines[near] - floor_s) * _share(collective, ranks) / _share(collective, near)
        lines[ranks] = floor_s * np.log2(ranks) / np.log2(near) + carried_s
    table = np.log2([lines[int(ranks)] for ranks in RANKS])
    return _Curves(table, chips.chip(measured_on).fabric_bytes_per_s)


def _line(collective: str, ranks: int, points: dict[float, float]) -> Seconds:
    """Seconds at the sizes of the grid. A smaller payload never takes more: that was a hiccup."""
    sizes = np.array(sorted(points))
    seconds = _share(collective, ranks) * sizes / [points[size] for size in sizes]
    seconds = np.minimum.accumulate(seconds[::-1])[::-1]
    grid = SMALLEST_BYTES * 4.0 ** np.arange(SIZES)
    between = np.exp(np.interp(np.log(grid), np.log(sizes), np.log(seconds)))
    return np.asarray(between * np.maximum(grid / sizes[-1], 1.0))


def _share(collective: str, ranks: int) -> float:
    """Bytes that cross a link for each byte of payload: what bus bandwidth counts."""
    return (2 if collective == "all_reduce" else 1) * (ranks - 1) / ranks


@cache
def _points() -> dict[tuple[str, str, str], tuple[str, dict[int, dict[float, float]]]]:
    """Fabric, collective, algorithm -> chip measured, ranks -> payload -> bus bandwidth in B/s."""
    known: dict[tuple[str, str, str], tuple[str, dict[int, dict[float, float]]]] = {}
    for row in facts.rows("fabrics"):
        if row["unit"] != "GB/s":
            continue
        key = row["fabric"], row["collective"], row["algorithm"]
        by_ranks = known.setdefault(key, (row["chip"], {}))[1]
        by_ranks.setdefault(int(row["ranks"]), {})[float(row["payload"])] = 1e9 * float(
            row["value"]
        )
    return known


def _network_bytes_per_s(chip: Chip, collective: str) -> float:
    """What a chip's share of the network carries of its line rate."""
    return chips.needed(chip, "network_bytes_per_s") * _network(collective)


def _step_s() -> float:
    return 1e-6 * _network("step")


@cache
def _network(constant: str) -> float:
    """Share of line rate by collective, or microseconds of a `step`."""
    return next(
        float(row["value"])
        for row in facts.rows("fabrics")
        if row["fabric"] == "network" and row["collective"] == constant
    )
