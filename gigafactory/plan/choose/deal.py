"""The answer of the small problem, dealt out to sites and works as they are.

Sites alike are one in the small problem: a whole number of nodes in all of them together, and
training jobs that each fit one of them. Here each node and each job gets its site, so that every
cap holds and every job finds its nodes and its gang where it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gigafactory.plan.choose.aggregate import Small
from gigafactory.plan.choose.linear import Array
from gigafactory.plan.choose.model import Model
from gigafactory.plan.choose.problem import Problem, Site, Work

LEFT = 1e-7
"""Nodes in use below this are rounding."""
NEARLY = 1e-6
Dealt = tuple[
    dict[tuple[str, int, str, int], int],  # (site, which, system, quarter) to nodes
    dict[tuple[str, str, str, int], float],  # (work, site, system, quarter) to nodes in use
]


@dataclass(frozen=True)
class Job:
    """A training job in a class of sites: nodes in use by quarter, and its gang."""

    work: str
    system: str
    used: Array
    gang: int


def deal(less: Small, model: Model, values: Array) -> tuple[Dealt, frozenset[str]]:
    """The answer in the sites and works of the whole problem, and the sites where that fails."""
    bought, used = _nodes(model, values), _used(model, values)
    nodes: dict[tuple[str, int, str, int], int] = {}
    uses: dict[tuple[str, str, str, int], float] = {}
    failed = set()
    works = {work.name: work for work in less.problem.works}
    for site in less.problem.sites:
        here = {system: by for (at, system), by in bought.items() if at == site.name}
        runs = [(works[work], kind, by) for (work, at, kind), by in used.items() if at == site.name]
        jobs = [
            Job(work.name, kind, by, work.gang_nodes.get(kind, 0))
            for work, kind, by in runs
            if work.kind == "train"
        ]
        found = _deal_site(less.problem, site, here, jobs)
        if found is None:
            failed.add(less.members[site.name][0][0])
            continue
        given, place = found
        places = less.members[site.name]
        for (name, each), bought_there in zip(places, given, strict=True):
            for system, by in sorted(bought_there.items()):
                for quarter in np.flatnonzero(by).tolist():
                    nodes[name, each, system, quarter] = int(by[quarter])
        free = _free(less.problem, model, site.name, given, jobs, place)
        for work, kind, by in runs:
            if work.kind == "train":
                shares = np.zeros((len(places), by.size))
                shares[place[work.name]] = 1.0
            else:
                shares = free[kind] / np.maximum(free[kind].sum(axis=0), 1e-300)
            for (name, _), share in zip(places, shares, strict=True):
                _share(less, work, name, kind, by * share, uses)
    order = sorted(uses, key=lambda key: (*key[:3], key[3]))
    return (dict(sorted(nodes.items())), {key: uses[key] for key in order}), frozenset(failed)


def _free(
    problem: Problem,
    model: Model,
    site: str,
    given: list[dict[str, Array]],
    jobs: list[Job],
    place: Mapping[str, int],
) -> dict[str, Array]:
    """System to nodes that jobs leave free at each site alike, by quarter."""
    record = next(each for each in problem.sites if each.name == site)
    free = {}
    for system in problem.systems:
        stands = np.full(
            (len(given), problem.quarters), float(record.installed.get(system.name, 0))
        )
        for at, bought in enumerate(given):
            if system.name in bought:
                late = np.r_[np.zeros(system.lead_quarters), bought[system.name]]
                stands[at] += np.cumsum(late)[: problem.quarters]
        for job in jobs:
            if job.system == system.name:
                stands[place[job.work]] -= job.used
        free[system.name] = np.maximum(stands, 0.0)
    return free


def _share(
    less: Small,
    work: Work,
    site: str,
    system: str,
    nodes: Array,
    uses: dict[tuple[str, str, str, int], float],
) -> None:
    """Nodes in use by each of the works that were made one, in proportion to their needs."""
    alike = less.merged[work.name]
    for quarter in np.flatnonzero(nodes > LEFT).tolist():
        for each in alike:
            share = 1.0
            if len(alike) > 1:
                share = each.need[quarter] / work.need[quarter]
            if share:
                key = (each.name, site, system, quarter)
                uses[key] = uses.get(key, 0.0) + float(nodes[quarter]) * share


def _deal_site(
    problem: Problem,
    site: Site,
    bought: Mapping[str, Array],
    jobs: list[Job],
) -> tuple[list[dict[str, Array]], dict[str, int]] | None:
    """Purchases by quarter of each of the `count` sites alike, and the place of each job.

    None where this way of dealing, the hungriest first to the site with most room, fails; another
    might not.
    """
    quarters, count = problem.quarters, site.count
    systems = {system.name: system for system in problem.systems}
    room_w = np.minimum.accumulate(np.array(site.power_w, float)[::-1])[::-1] / site.pue
    names = sorted(
        {*bought, *(name for name, nodes in site.installed.items() if nodes)},
        key=lambda name: (-systems[name].power_w, name),
    )
    power = np.array([systems[name].power_w for name in names])
    row = {name: at for at, name in enumerate(names)}
    stands = np.array([site.installed.get(name, 0) for name in names], float)
    if count == 1:
        return [dict(bought)], {job.work: 0 for job in jobs}
    place, busy = {}, np.zeros((count, len(names), quarters))
    gangs = np.zeros_like(busy)
    needs = np.zeros_like(busy)
    for job in sorted(
        jobs, key=lambda job: (-job.used.max() * systems[job.system].power_w, job.work)
    ):
        kind = row[job.system]
        options = []
        for at in range(count):
            wanted = np.ceil(busy[at, kind] + job.used - NEARLY)
            gang = np.maximum(gangs[at, kind], np.where(job.used > NEARLY, job.gang, 0))
            wanted = np.maximum.accumulate(np.maximum(wanted, gang))
            then = needs[at].copy()
            then[kind] = wanted
            load_w = power @ np.maximum(then, stands[:, None])
            if (load_w <= room_w * (1 + 1e-9)).all():
                more = float(wanted[-1] - needs[at, kind, -1])
                options.append((more, float(load_w[-1]), at, wanted, gang))
        if not options:
            return None
        _, _, at, wanted, gang = min(options, key=lambda option: option[:3])
        place[job.work] = at
        busy[at, kind] += job.used
        gangs[at, kind], needs[at, kind] = gang, wanted
    has = np.tile(stands, (count, 1))
    given = [{name: np.zeros(quarters, int) for name in bought} for _ in range(count)]
    arrivals = {
        name: np.r_[np.zeros(systems[name].lead_quarters), nodes][:quarters]
        for name, nodes in bought.items()
    }
    for quarter in range(quarters):
        for kind, name in enumerate(names):
            for _ in range(round(arrivals[name][quarter]) if name in bought else 0):
                load_w = has @ power
                lacks = needs[:, kind, quarter] - has[:, kind]
                later = np.maximum(needs[:, kind, -1] - has[:, kind], 0)
                fits = load_w + power[kind] <= room_w[quarter] * (1 + 1e-9)
                if not fits.any():
                    return None
                # Jobs that run now, then jobs to come, then wherever most room is left.
                score = np.where(lacks > 0, 2.0, np.where(later > 0, 1.0, 0.0))
                at = int(np.lexsort((load_w, -score, ~fits))[0])
                has[at, kind] += 1
                given[at][name][quarter - systems[name].lead_quarters] += 1
        if (needs[:, :, quarter] > has).any():
            return None
    return given, place


def _nodes(model: Model, values: Array) -> dict[tuple[str, str], Array]:
    """(site, system) of the small problem to nodes bought by quarter."""
    bought = {}
    for pair, (columns, when) in model.bought.items():
        nodes = np.zeros(model.problem.quarters, int)
        nodes[when] = np.round(values[columns]).astype(int)
        if nodes.any():
            at, kind = model.pairs[pair]
            bought[model.problem.sites[at].name, model.problem.systems[kind].name] = nodes
    return bought


def _used(model: Model, values: Array) -> dict[tuple[str, str, str], Array]:
    """(work, site, system) of the small problem to nodes in use by quarter."""
    used = {}
    for (number, pair), (columns, when) in model.used.items():
        nodes = np.zeros(model.problem.quarters)
        nodes[when] = np.where(values[columns] > LEFT, values[columns], 0.0)
        if nodes.any():
            at, kind = model.pairs[pair]
            work, site = model.problem.works[number].name, model.problem.sites[at].name
            used[work, site, model.problem.systems[kind].name] = nodes
    return used
