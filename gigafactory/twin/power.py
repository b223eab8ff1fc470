"""Power of a site over time: what machines may draw, and what came of what they drew. Modelled.

In: W, J, s since the start of the run, PUE by hour. Out: W and J.
At the meter: what the grid gives, what the site draws, and the battery, which loses nothing here
and lies before the PUE. Machines: what racks take in, so the meter's power over the PUE of the
hour. Losses of conversion up to the racks (transformers, UPS, distribution) are in the PUE, those
behind (rectifiers, power supplies) in the nodes' own power; none is counted a second time here.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gigafactory.twin.hours import HOUR_S, between, cumulative

Floats = NDArray[np.float64]
TOLERANCE = 0.005
"""Caps within this of each other are one, the least; no step of a ramp is a smaller share."""
SHORTEST_S, INSTANT_S = 1.0, 1e-6
"""An almost empty battery is not asked for less than the one; to lack for the other is rounding."""
MINUTE_S = 60.0


class Curtailment(NamedTuple):
    """The grid asks for less: a share of the site's power. Of several at once the deepest holds."""

    at_s: float
    cut: float
    lasts_s: float


class Battery(NamedTuple):
    """Full at the start. It gives and takes up to `power_w`."""

    power_w: float
    energy_j: float


def caps(
    power_w: float,
    curtailments: Sequence[Curtailment],
    battery: Battery | None,
    pue_by_hour: Floats,
    ramp_w_per_s: float | None,
    horizon_s: float,
) -> list[tuple[float, float]]:
    """What machines may draw from each of these seconds on: [(at_s, machines_w), ...].

    Each step holds the least that grid and battery give within it, so machines may draw all of
    it throughout. The battery fills what the grid lacks until it is empty. Before a next
    curtailment that needs it, it is charged again as slowly as there is time, and machines
    leave it that much, lest they find it empty; after the last, it takes what they leave.
    """
    assert 0 < horizon_s <= len(pue_by_hour) * HOUR_S
    edges_s = _edges(power_w, curtailments, ramp_w_per_s, horizon_s)
    given_w = grid_w(power_w, curtailments, ramp_w_per_s, edges_s[:-1], edges_s[1:])
    steps = _backed(edges_s, given_w, power_w, battery or Battery(0.0, 0.0))
    return _merged((at_s, w / float(pue_by_hour[int(at_s // HOUR_S)])) for at_s, w in steps)


def grid_w(
    power_w: float,
    curtailments: Sequence[Curtailment],
    ramp_w_per_s: float | None,
    starts_s: Any,
    ends_s: Any,
) -> Floats:
    """The least that the grid gives at the meter from each start to its end.

    With a ramp, the power falls in time before a curtailment and rises slowly after.
    """
    starts_s, ends_s = np.asarray(starts_s, np.float64), np.asarray(ends_s, np.float64)
    least_w = np.full(starts_s.shape, float(power_w))
    for at_s, cut, lasts_s in curtailments:
        assert 0 <= cut <= 1
        assert lasts_s >= 0
        away_s = np.maximum(np.maximum(at_s - ends_s, starts_s - (at_s + lasts_s)), 0)
        within = (starts_s < at_s + lasts_s) & (ends_s > at_s)
        risen_w = power_w if ramp_w_per_s is None else away_s * ramp_w_per_s
        least_w = np.minimum(least_w, power_w * (1 - cut) + np.where(within, 0.0, risen_w))
    return least_w


def series(
    starts_s: Any,
    ends_s: Any,
    site: Any,
    watts: Any,
    base_w: Any,
    step_s: float,
    horizon_s: float,
) -> Floats:
    """(sites, steps): mean power of the machines in each step, exact also where attempts part it.

    `base_w` is what a site draws at rest, `watts` what an attempt adds to that. Racks may stand
    for sites: then an attempt has a row for each rack. What lies outside the horizon is cut off.
    """
    assert np.all(np.asarray(ends_s) >= starts_s)
    base_w = np.asarray(base_w, np.float64)
    steps = math.ceil(horizon_s / step_s)
    change_w = np.zeros(len(base_w) * (steps + 2))
    row = np.asarray(site, np.int64) * (steps + 2)
    watts = np.asarray(watts, np.float64)
    for at_s, sign in ((starts_s, 1.0), (ends_s, -1.0)):
        at = np.clip(np.asarray(at_s, np.float64) / step_s, 0, steps)
        step = at.astype(np.int64)
        later_w = (at - step) * watts  # What the step misses for coming into it late.
        change_w += sign * np.bincount(row + step, watts - later_w, len(change_w))
        change_w += sign * np.bincount(row + step + 1, later_w, len(change_w))
    return base_w[:, None] + np.cumsum(change_w.reshape(len(base_w), -1), axis=1)[:, :steps]


def meter(machines_w: Floats, pue_by_hour: Floats, step_s: float) -> Floats:
    """The same (..., steps) at the meter: times the mean PUE of each step."""
    edges_s = np.arange(machines_w.shape[-1] + 1) * step_s
    return machines_w * between(cumulative(pue_by_hour), edges_s[:-1], edges_s[1:]) / step_s


def stored(meter_w: Floats, given_w: Floats, battery: Battery, step_s: float) -> Floats:
    """J in the battery of one site at the end of each step, beside what the grid gives.

    It fills what the grid lacks and takes what the site leaves. Where both do not do, the meter
    shows more than was given: that cannot have been, and is the caller's to find.
    """
    power_w, energy_j = battery
    flow_j = (np.clip(given_w - meter_w, -power_w, power_w) * step_s).tolist()
    levels_j = np.full(len(flow_j), float(energy_j))
    done = 0
    for first in np.flatnonzero(meter_w > given_w).tolist():
        step, level_j = max(first, done), energy_j
        # Only while it is not full is there something to reckon.
        while step < len(flow_j) and (level_j < energy_j or flow_j[step] < 0):
            level_j = min(max(level_j + flow_j[step], 0.0), energy_j)
            levels_j[step] = level_j
            step += 1
        done = max(done, step)
    return levels_j


def ramps(series_w: Floats, step_s: float) -> Floats:
    """Largest change from one minute (or longer step) to the next, in W/s, by row."""
    apart = max(1, round(MINUTE_S / step_s))
    if series_w.shape[-1] <= apart:
        return np.zeros(series_w.shape[:-1])
    change_w = np.abs(series_w[..., apart:] - series_w[..., :-apart])
    return np.asarray(change_w.max(axis=-1) / (apart * step_s))


def _edges(
    power_w: float,
    curtailments: Sequence[Curtailment],
    ramp_w_per_s: float | None,
    horizon_s: float,
) -> Floats:
    """Seconds at which something changes: an hour, a curtailment, the next step of a ramp."""
    edges = [np.arange(0.0, horizon_s, HOUR_S), np.array([horizon_s])]
    for at_s, cut, lasts_s in curtailments:
        reach_s = 0.0 if ramp_w_per_s is None else cut * power_w / ramp_w_per_s
        # A ramp is cut into minutes at the finest: each step is an event to a scheduler.
        steps = min(math.ceil(cut / TOLERANCE), math.ceil(reach_s / MINUTE_S))
        away_s = np.linspace(0.0, reach_s, 1 + steps)
        edges += [at_s - away_s, at_s + lasts_s + away_s]
    return np.unique(np.clip(np.concatenate(edges), 0.0, horizon_s))


def _backed(
    edges_s: Floats, given_w: Floats, power_w: float, battery: Battery
) -> Iterator[tuple[float, float]]:
    """(at_s, W at the meter that machines may cause), with what the battery adds and takes."""
    lasts_s = np.diff(edges_s)
    asked_w = np.minimum(power_w - given_w, battery[0])
    lacks = given_w < power_w
    spells = np.split(np.arange(len(lacks)), np.flatnonzero(np.diff(lacks)) + 1)
    ready_j = _ready(spells, lacks, lasts_s, asked_w, battery)
    level_j = battery[1]
    for spell, then_j in zip(spells, ready_j[1:], strict=True):
        if not lacks[spell[0]]:
            all_s = float(lasts_s[spell].sum())
            taken_w = min(max(then_j - level_j, 0.0) / all_s, battery[0], power_w)
            level_j += taken_w * all_s
            yield from ((float(edges_s[n]), power_w - taken_w) for n in spell)
            continue
        for n in spell:
            at_s, grid, more_w = float(edges_s[n]), float(given_w[n]), float(asked_w[n])
            left_j = level_j - more_w * float(lasts_s[n])
            covered = left_j >= -INSTANT_S * more_w
            if covered or level_j > more_w * SHORTEST_S:
                yield at_s, grid + more_w
                at_s += level_j / more_w if more_w else 0.0
            if not covered:
                yield at_s, grid
            level_j = max(left_j, 0.0)


def _ready(
    spells: list[NDArray[np.int64]],
    lacks: NDArray[np.bool_],
    lasts_s: Floats,
    asked_w: Floats,
    battery: Battery,
) -> list[float]:
    """J that must be stored when each spell begins for the battery to do in all later ones."""
    ready_j = [0.0]
    for spell in reversed(spells):
        if lacks[spell[0]]:
            needed_j = ready_j[0] + float(lasts_s[spell] @ asked_w[spell])
            ready_j.insert(0, min(battery[1], needed_j))
        else:
            ready_j.insert(0, max(0.0, ready_j[0] - battery[0] * float(lasts_s[spell].sum())))
    return ready_j


def _merged(steps: Iterator[tuple[float, float]]) -> list[tuple[float, float]]:
    """Neighbours that are within the tolerance of each other become one, the least of them."""
    merged: list[tuple[float, float]] = []
    highest_w = 0.0
    for at_s, watts in steps:
        if merged and max(highest_w, watts) <= min(merged[-1][1], watts) * (1 + TOLERANCE):
            highest_w = max(highest_w, watts)
            merged[-1] = (merged[-1][0], min(merged[-1][1], watts))
        else:
            highest_w = watts
            merged.append((at_s, watts))
    return merged
