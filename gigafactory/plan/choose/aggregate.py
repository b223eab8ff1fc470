"""A smaller problem with the same best answer, and its answer dealt back.

Sites alike become one, with room for all: nodes are whole in all of them together. Works that are
served alike become one. A system is cut at a site where another is no dearer, no hungrier, no
slower at any work, as lawful, as soon there and unlimited in number: whatever the first does, the
second does for no more, node for node, so the best cost, carbon, date and tokens per joule stay.

The smaller problem allows a little too much, a node or a training job astride two sites. So its
answer is dealt out to the sites; where that fails, the caller takes the sites apart (`split`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gigafactory.plan.choose.problem import Problem, Site, System, Work


@dataclass(frozen=True)
class Small:
    """The smaller problem and the way back."""

    whole: Problem
    problem: Problem
    members: Mapping[str, tuple[tuple[str, int], ...]]
    """Site of the smaller problem to (site, which of its `count`)."""
    merged: Mapping[str, tuple[Work, ...]]
    """Work of the smaller problem to the works in it."""
    cut: Mapping[tuple[str, str], str]
    """(site, system) to the system that is nowhere worse."""


def small(whole: Problem, split: frozenset[str] = frozenset(), alone: str = "") -> Small:
    """`whole` made small; sites alike to one in `split`, and a work, are kept by themselves."""
    alike: dict[tuple[object, ...], list[Site]] = {}
    for site in whole.sites:
        like = (
            tuple(work.name for work in whole.works if site.name in work.allowed),
            tuple(sorted((name, when) for name, when in site.lawful.items() if any(when))),
            tuple(sorted((name, nodes) for name, nodes in site.installed.items() if nodes)),
            (site.power_w, site.pue, site.energy_price, site.carbon_g_per_j, site.facility_price),
        )
        alike.setdefault(like, []).append(site)
    sites: list[Site] = []
    members: dict[str, tuple[tuple[str, int], ...]] = {}
    for group in alike.values():
        places = tuple((site.name, each) for site in group for each in range(site.count))
        if group[0].name in split:
            for name, each in places:
                sites.append(replace(group[0], name=f"{name}#{each}", count=1))
                members[sites[-1].name] = ((name, each),)
        else:
            sites.append(replace(group[0], count=len(places)))
            members[group[0].name] = places
    kinds: dict[tuple[object, ...], list[Work]] = {}
    for work in whole.works:
        own = work.name if work.kind == "train" or work.name == alone else ""
        rates = tuple(sorted(work.rate.items()))
        key = (own, work.allowed, rates, work.revenue, work.optional)
        kinds.setdefault(key, []).append(work)
    works = []
    for same in kinds.values():
        here = frozenset(site for site, at in members.items() if at[0][0] in same[0].allowed)
        need = tuple(math.fsum(each) for each in zip(*(w.need for w in same), strict=True))
        works.append(replace(same[0], allowed=here, need=need))
    merged = {same[0].name: tuple(same) for same in kinds.values()}
    less = replace(whole, sites=tuple(sites), works=tuple(works))
    cut = _cut(less)
    kept = tuple(
        replace(
            site,
            lawful={
                name: when for name, when in site.lawful.items() if (site.name, name) not in cut
            },
        )
        for site in sites
    )
    return Small(whole, replace(less, sites=kept), members, merged, cut)


def _cut(problem: Problem) -> dict[tuple[str, str], str]:
    """(site, system) to the system that makes it needless there."""
    found: dict[tuple[str, str], str] = {}
    better = {
        (a.name, b.name)
        for a in problem.systems
        for b in problem.systems
        if a is not b and _no_worse(problem, a, b)
    }
    for site in problem.sites:
        for system in problem.systems:
            when = site.lawful.get(system.name)
            # A training job may need what stands already and more of the same.
            if when is None or site.installed.get(system.name):
                continue
            for other in problem.systems:
                also = site.lawful.get(other.name, (False,) * problem.quarters)
                if (
                    (other.name, system.name) in better
                    and (site.name, other.name) not in found
                    and all(b or not a for a, b in zip(when, also, strict=True))
                ):
                    found[site.name, system.name] = other.name
                    break
    return found


def _no_worse(problem: Problem, a: System, b: System) -> bool:
    """A node of `a` does whatever one of `b` does, for no more."""
    return (
        a.supply is None
        and a.lead_quarters == b.lead_quarters
        and a.power_w <= b.power_w
        and all(
            x <= y
            for x, y in zip(a.prices(problem.quarters), b.prices(problem.quarters), strict=True)
        )
        and all(
            work.rate.get(a.name, 0.0) >= work.rate.get(b.name, 0.0)
            and (
                b.name not in work.rate
                or work.gang_nodes.get(a.name, 0) <= work.gang_nodes.get(b.name, 0)
            )
            for work in problem.works
        )
    )
