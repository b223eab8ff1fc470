"""What befalls a factory, as rows of the loop's world: drawn or known before it is played.

Nodes join, fail and come back, are drained for maintenance; caps fall and rise; law opens and
closes pools; replicas are wanted no longer. s; caps in mW above what stands idle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigafactory.blueprint.operations import Maintenance
from gigafactory.blueprint.schema import Blueprint
from gigafactory.factory import state as st
from gigafactory.stack import chips, law
from gigafactory.stack.reliability import Study
from gigafactory.twin import fate, loop
from gigafactory.twin.floor import Pool, rest_w

Rows = NDArray[np.void]
DAY_S = 86_400.0


def rows(kind: int, at_s: ArrayLike, where: ArrayLike, value: ArrayLike = 0) -> Rows:
    """Rows of one kind; `where` is a node, site, pool, or of a cancellation the job."""
    made = np.zeros(np.broadcast(at_s, where, value).size, loop.WORLD)
    made["event"]["kind"], made["event"]["at_s"] = kind, at_s
    made["event"]["job" if kind == st.CANCEL else "where"] = where
    made["event"]["value"] = value
    return made


def in_order(some: Sequence[Rows]) -> Rows:
    """All rows by time; of equal times those that were given first."""
    every = np.concatenate(some)
    return every[np.argsort(every["event"]["at_s"], kind="stable")]


def fates(study: Study, stand: Sequence[Pool], horizon_s: float, seed: int) -> Rows:
    """`fate.FATE` rows of all pools by time, `node` over all of them.

    A study's rates are those of its own nodes: one with more chips fails as much more often. Each
    pool draws for itself, so one more changes nothing at the others.
    """
    drawn = [np.zeros(0, fate.FATE)]
    for pool in stand:
        share = pool.chips_per_node / study.chips_per_node
        classes = tuple(replace(c, per_node_s=c.per_node_s * share) for c in study.classes)
        own = np.random.default_rng([seed, *pool.name.encode()])
        some = fate.draw(replace(study, classes=classes), pool.nodes, horizon_s, own)
        some["node"] += pool.first_node
        drawn.append(some)
    every = np.concatenate(drawn)
    return every[np.argsort(every["at_s"], kind="stable")]


def away(
    study: Study, fated: Rows, upkeep: Maintenance | None, stand: Sequence[Pool], horizon_s: float
) -> Iterator[Rows]:
    """Nodes lost and back, drained and back. What falls on a node that is away does nothing."""
    stops = fated[fated["slow"] == 1.0]
    leaves = np.array([one.node_leaves for one in study.classes], bool)[stops["klass"]]
    noticed_s = stops["at_s"] + stops["detect_s"]
    back_s = noticed_s + np.where(leaves, stops["repair_s"], 0.0)
    lost = rows(st.LOSE_NODE, noticed_s, stops["node"], leaves)
    lost["frozen_s"] = stops["at_s"]
    drains = _drains(upkeep, stand, horizon_s) if upkeep else rows(st.DRAIN, [], [])
    lasts_s = upkeep.lasts_s if upkeep else 0.0
    gone = np.concatenate([lost, drains])
    until_s = np.concatenate([back_s, drains["event"]["at_s"] + lasts_s])
    order = np.argsort(gone["event"]["at_s"], kind="stable")
    gone, until_s = gone[order], until_s[order]
    kept = np.zeros(len(gone), bool)
    back_by: dict[int, float] = {}
    whose, when_s = gone["event"]["where"].tolist(), gone["event"]["at_s"].tolist()
    for row, (node, at_s, until) in enumerate(zip(whose, when_s, until_s.tolist(), strict=True)):
        if at_s >= back_by.get(node, 0.0) and at_s < horizon_s:
            kept[row], back_by[node] = True, until
    yield gone[kept]
    yield rows(st.JOIN, until_s[kept], gone["event"]["where"][kept])


def stragglers(fated: Rows) -> Iterator[Rows]:
    """Nodes that are slow for a while."""
    slow = fated[fated["slow"] < 1.0]
    yield rows(loop.SLOW, slow["at_s"], slow["node"], np.round(slow["slow"] * 1e6))
    yield rows(loop.MEND, slow["at_s"] + slow["detect_s"] + slow["repair_s"], slow["node"])


def capping(caps: Sequence[list[tuple[float, float]]], stand: Sequence[Pool]) -> Iterator[Rows]:
    """What is left at each site for busy chips beyond idle ones."""
    for site, steps in enumerate(caps):
        at_s, machines_w = np.array(steps).T
        yield rows(st.CAP, at_s, site, np.round((machines_w - rest_w(tuple(stand), site)) * 1e3))


def lawful(blueprint: Blueprint, stand: Sequence[Pool], days: float) -> Iterator[tuple[bool, Rows]]:
    """Of each pool, whether it may ever be used, and the days on which law opens or closes it."""
    end = blueprint.start + timedelta(days=max(1, int(np.ceil(days))))
    sites = list(blueprint.sites.values())
    for p, pool in enumerate(stand):
        if pool.system == chips.THIS_MACHINE:  # It stands where it stands.
            yield True, rows(st.OPEN, [], [])
            continue
        country = sites[pool.site].country
        chip = chips.system(pool.system).chip
        question = law.Question(chip, country, blueprint.owner, blueprint.start)
        spells = law.over(question, blueprint.start, end)
        changes, was = [rows(st.OPEN, [], [])], True
        for spell in spells:
            if spell.ruling.may_stand != was:
                was = spell.ruling.may_stand
                at_s = _seconds(blueprint.start, spell.first)
                changes.append(rows(st.OPEN if was else st.CLOSE, [at_s], p))
        yield any(spell.ruling.may_stand for spell in spells), np.concatenate(changes)


def _drains(upkeep: Maintenance, stand: Sequence[Pool], horizon_s: float) -> Rows:
    """Groups of at most `at_once` of a pool's nodes, evenly over the round; what runs moves."""
    drains = []
    for pool in stand:
        size = max(1, int(upkeep.at_once * pool.nodes + 1e-9))
        groups = -(-pool.nodes // size)
        first_s = (np.arange(pool.nodes) // size + 0.5) * (upkeep.every_s / groups)
        rounds_s = np.arange(0.0, horizon_s, upkeep.every_s)
        at_s = (rounds_s[:, None] + first_s).ravel()
        node = np.tile(pool.first_node + np.arange(pool.nodes), len(rounds_s))
        drains.append(rows(st.DRAIN, at_s, node, 1))
    return np.concatenate(drains)


def _seconds(start: date, day: date) -> float:
    return (day - start).days * DAY_S
