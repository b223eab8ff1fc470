"""What can be wrong with streams and operations: names, sums, and jobs that could never start."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time
from itertools import pairwise
from pathlib import Path

from gigafactory.blueprint.schema import Blueprint, Site
from gigafactory.blueprint.streams import AnyStream, ServeStream, Spread, TraceStream, TrainStream
from gigafactory.faults import nearest
from gigafactory.stack import chips, law
from gigafactory.units import show, show_duration

Found = tuple[tuple, str, str, str]
GROUPS = ("EU", "EEA")


def check(blueprint: Blueprint, folder: Path) -> Iterator[Found]:
    """Every fault of streams, tenants' shares, sites' feeds and operations."""
    for name, stream in blueprint.streams.items():
        yield from _names(blueprint, name, stream, folder)
        yield from _shape(blueprint, name, stream)
    yield from _quotas(blueprint)
    for name, site in blueprint.sites.items():
        yield from _curtailments(blueprint, name, site)
        yield from _racks(name, site)
    yield from _operations(blueprint)


def _names(blueprint: Blueprint, name: str, stream: AnyStream, folder: Path) -> Iterator[Found]:
    used: list[tuple[str, str, Mapping]] = [("tenant", stream.tenant, blueprint.tenants)]
    used += [("sites", site, blueprint.sites) for site in stream.sites or ()]
    if isinstance(stream, TrainStream | ServeStream):
        used.append(("model", stream.model, blueprint.models))
    for key, value, known in used:
        if value not in known:
            what, why = f"{key} {value!r} does not exist", f"no {key} has that name"
            yield ("streams", name, key), what, why, nearest(value, known)
    for code in stream.residency:
        if code not in law.countries() and code not in GROUPS:
            why = f"it is no ISO 3166-1 code, nor {' or '.join(GROUPS)}"
            remedy = nearest(code, [*GROUPS, *law.countries()])
            yield ("streams", name, "residency"), f"there is no country {code!r}", why, remedy
    if isinstance(stream, TraceStream) and not (folder / stream.file).is_file():
        what, why = f"there is no file {stream.file!r}", "a path is taken from the blueprint"
        yield ("streams", name, "file"), what, why, "give a path from there, or a whole one"


def _shape(blueprint: Blueprint, name: str, stream: AnyStream) -> Iterator[Found]:
    here = ("streams", name)
    allowed = stream.allowed(blueprint.sites, blueprint.start)
    if not allowed and all(site in blueprint.sites for site in stream.sites or ()):
        why = f"of its sites none lies in {', '.join(stream.residency)}"
        yield (*here, "residency"), f"{name!r} may run nowhere", why, "allow a country or a site"
    if isinstance(stream, ServeStream | TraceStream):
        return
    if (stream.per_day is None) == (stream.at_s is None):
        what = f"{name!r} does not say when its jobs come"
        why = "a stream has either `per_day` or `at`"
        yield here, what, why, "`per_day: 20` for many, `at: 0 d` for one"
    least, needed = min(stream.chips), max(stream.chips)
    if isinstance(stream, TrainStream) and stream.elastic is not None:
        needed = stream.elastic
        if stream.elastic > least:
            what = f"{name!r} cannot shrink to {stream.elastic} chips"
            why = f"some of its jobs ask for {least}"
            yield (*here, "elastic"), what, why, f"shrink to {least} at most"
    total = sum(stream.chips.values())
    if abs(total - 1) > 1e-6:
        what = f"the chances of {name!r} add up to {total:g}"
        yield (*here, "chips"), what, "every job has some width", "make them add up to 1"
    key, spread = ("tokens", stream.tokens) if stream.kind == "train" else ("hours", stream.run_s)
    yield from _spread((*here, key), spread)
    yield from _room(blueprint, name, stream, allowed)
    most = _may_use(blueprint, stream.tenant)
    if most is not None and needed > most:
        what = f"{name!r} needs {needed} chips, which {stream.tenant} may never use"
        why = f"its quota and what it may borrow are {most}"
        yield (*here, "chips"), what, why, "raise `quota` or `borrow`, or ask for less"


def _spread(place: tuple, spread: Spread) -> Iterator[Found]:
    if spread.p90 < spread.median:
        why = "nine of ten lie below p90, half below the median"
        yield (*place, "p90"), "p90 lies below the median", why, "exchange them"


def _room(
    blueprint: Blueprint, name: str, stream: AnyStream, allowed: list[str]
) -> Iterator[Found]:
    """A gang lives within one pool. What a design buys, and this machine, the file cannot know."""
    pools = [pool for site in allowed for pool in _pools(blueprint.sites[site])]
    if blueprint.design is not None or not pools or None in pools:
        return
    largest = max(size for size in pools if size is not None)
    widest = max(getattr(stream, "chips", (0,)))
    if widest > largest:
        what = f"{name!r} asks for {widest} chips and no site has them"
        why = f"the largest pool it may run on has {largest}"
        yield ("streams", name, "chips"), what, why, f"ask for {largest} at most, or add nodes"


def _pools(site: Site) -> Iterator[int | None]:
    """Chips of each pool; None for this machine, and for a system that nobody knows."""
    for name, nodes in site.systems.items():
        known = name in chips.names() and name != chips.THIS_MACHINE
        yield chips.system(name).chips_per_node * nodes if known else None


def _may_use(blueprint: Blueprint, tenant: str) -> int | None:
    """Chips that a tenant can ever hold: its quota and what others lend it; None: no limit."""
    one = blueprint.tenants.get(tenant)
    if one is None or one.quota is None:
        return None
    if one.cohort is None:
        return one.quota
    lent = 0
    for name, other in blueprint.tenants.items():
        if name != tenant and other.cohort == one.cohort:
            if other.quota is None:
                return None if one.borrow is None else one.quota + one.borrow
            lent += other.quota
    return one.quota + (lent if one.borrow is None else min(lent, one.borrow))


def _quotas(blueprint: Blueprint) -> Iterator[Found]:
    for name, tenant in blueprint.tenants.items():
        here = ("tenants", name, "borrow")
        if tenant.borrow is not None and tenant.quota is None:
            why = "without a quota it may use all that is free"
            yield here, f"{name!r} borrows beyond a quota that it has not", why, "add `quota`"
        if tenant.borrow is not None and tenant.cohort is None:
            why = "tenants lend within their cohort"
            yield here, f"{name!r} has nobody to borrow from", why, "add `cohort`, drop `borrow`"
        others = {
            one.cohort for key, one in blueprint.tenants.items() if key != name and one.cohort
        }
        if tenant.cohort is not None and tenant.cohort not in others:
            what = f"{name!r} is alone in cohort {tenant.cohort!r}"
            remedy = nearest(tenant.cohort, others) if others else "give another tenant this cohort"
            yield ("tenants", name, "cohort"), what, "nobody there lends or borrows", remedy
    pools = [
        size and size * site.count for site in blueprint.sites.values() for size in _pools(site)
    ]
    owed = sum(tenant.quota or 0 for tenant in blueprint.tenants.values())
    if blueprint.design is None and pools and None not in pools:
        stand = sum(size or 0 for size in pools)
        if owed > stand:
            what, why = f"the quotas add up to {owed} chips", f"{stand} stand at the sites"
            yield ("tenants",), what, why, "lower quotas, or add nodes"


def _curtailments(blueprint: Blueprint, name: str, site: Site) -> Iterator[Found]:
    opening = datetime.combine(blueprint.start, time(), UTC)
    order = sorted(range(len(site.grid.curtail)), key=lambda n: site.grid.curtail[n].at)
    for index in order:
        one = site.grid.curtail[index]
        here = ("sites", name, "grid", "curtail", index)
        if one.at < opening:
            what = f"{name} is curtailed on {one.at:%Y-%m-%d %H:%M} UTC"
            why = f"the blueprint starts on {blueprint.start}"
            yield (*here, "at"), what, why, "drop it, or start earlier"
        if one.lasts_s > 7 * 86400:
            what = f"a curtailment of {name} lasts {show_duration(one.lasts_s)}"
            why = "what holds for over a week is a smaller connection"
            yield (*here, "lasts"), what, why, "lower the site's `power`"
    for before, after in pairwise(order):
        first, second = site.grid.curtail[before], site.grid.curtail[after]
        if (second.at - first.at).total_seconds() < first.lasts_s:
            what = f"two curtailments of {name} overlap"
            why = f"the one of {first.at:%Y-%m-%d %H:%M} UTC lasts {show_duration(first.lasts_s)}"
            place = ("sites", name, "grid", "curtail", after, "at")
            yield place, what, why, "make them one, or move one"


def _racks(name: str, site: Site) -> Iterator[Found]:
    """A rack must carry one busy node at least, else nothing ever starts there."""
    if site.racks is None or site.racks.power_w is None:
        return
    for system_name in site.systems:
        if system_name not in chips.names() or system_name == chips.THIS_MACHINE:
            continue
        system = chips.system(system_name)
        node_w = system.chip.busy_w * system.chips_per_node + system.node_overhead_w
        if node_w > site.racks.power_w:
            what = f"a rack of {name} cannot carry one node of {system_name}"
            why = f"it has {show(site.racks.power_w, 'W')}, a busy node draws {show(node_w, 'W')}"
            remedy = f"raise it to {show(node_w * site.racks.nodes, 'W')} for all nodes of a rack"
            yield ("sites", name, "racks", "power"), what, why, remedy


def _operations(blueprint: Blueprint) -> Iterator[Found]:
    stated = blueprint.operations
    here = ("operations", "maintenance")
    if (upkeep := stated.maintenance) is not None:
        round_s = upkeep.lasts_s / upkeep.at_once
        if round_s > upkeep.every_s:
            what = f"a round of maintenance takes {show_duration(round_s)}"
            why = f"{upkeep.at_once:.3g} of the nodes at once, {show_duration(upkeep.lasts_s)} each"
            remedy = f"a round every {show_duration(round_s)} at most, or more nodes at once"
            yield (*here, "every"), what, why, remedy
    for name, site in blueprint.sites.items():
        for system, nodes in site.systems.items():
            if stated.spares and stated.spares >= nodes:
                what = f"all {nodes} nodes of {name}/{system} are spares"
                why = "`spares` holds for each pool"
                yield ("operations", "spares"), what, why, f"keep {nodes - 1} at most"
