"""What can be wrong with a design: names, countries, days, and sites that stand empty."""

from collections.abc import Iterator, Mapping

from gigafactory.blueprint.design import AnyDemand, Design, ServeDemand, TrainDemand
from gigafactory.blueprint.schema import Blueprint
from gigafactory.faults import nearest
from gigafactory.stack import chips, law, sites

Found = tuple[tuple, str, str, str]
GROUPS = ("EU", "EEA")


def check(blueprint: Blueprint) -> Iterator[Found]:
    """Every fault of the design, or of its absence."""
    for name, site in blueprint.sites.items():
        if site.place is not None:
            try:
                sites.site(site.place)
            except sites.UnknownPlace as error:
                what = f"the catalog knows no place {site.place!r}"
                why = "`gigafactory sites` lists those it knows"
                yield ("sites", name, "place"), what, why, nearest(site.place, error.near)
        if site.systems and site.powered is not None and site.powered > blueprint.start:
            what = f"systems stand at {name!r} before it has power"
            why = f"it is powered from {site.powered}, the blueprint starts on {blueprint.start}"
            yield ("sites", name, "powered"), what, why, "drop `powered`, or the systems"
    if blueprint.design is None:
        yield from _stands(blueprint)
        return
    yield from _systems(blueprint.design)
    for name, demand in blueprint.design.demands.items():
        yield from _demand(blueprint, name, demand)


def _stands(blueprint: Blueprint) -> Iterator[Found]:
    """Without a design there must be something to run, and something that runs it."""
    for name, site in blueprint.sites.items():
        if not site.systems:
            what, why = f"site {name!r} stands empty", "no `design` says what to put there"
            yield ("sites", name), what, why, "add `systems: {h200-8: 1}`, or a `design`"
    if not blueprint.workloads and not blueprint.streams:
        why = "no `design` has demands either"
        yield (), "there are no workloads", why, "see docs/blueprint.md#workloads"


def _systems(design: Design) -> Iterator[Found]:
    for key in ("systems", "licensed"):
        for name in getattr(design, key):
            if name not in chips.names():
                why = "it is not in the catalog"
                yield (
                    ("design", key),
                    f"there is no system {name!r}",
                    why,
                    nearest(name, chips.names()),
                )


def _demand(blueprint: Blueprint, name: str, demand: AnyDemand) -> Iterator[Found]:
    here = ("design", "demands", name)
    used: list[tuple[str, str, Mapping]] = [
        ("tenant", demand.tenant, blueprint.tenants),
        ("model", demand.model, blueprint.models),
    ]
    for key, value, known in used:
        if value not in known:
            what = f"{key} {value!r} does not exist"
            yield (*here, key), what, f"no {key} has that name", nearest(value, known)
    for code in demand.residency:
        if code not in law.countries() and code not in GROUPS:
            why = f"it is no ISO 3166-1 code, nor {' or '.join(GROUPS)}"
            remedy = nearest(code, [*GROUPS, *law.countries()])
            yield (*here, "residency"), f"there is no country {code!r}", why, remedy
    if isinstance(demand, ServeDemand):
        yield from _users(here, demand)
    if isinstance(demand, TrainDemand) and demand.deadline <= (demand.starts or blueprint.start):
        why = f"it starts on {demand.starts or blueprint.start}"
        yield (*here, "deadline"), "the deadline is before the start", why, "move one of them"


def _users(here: tuple, demand: ServeDemand) -> Iterator[Found]:
    if (demand.users is None) != (demand.latency_s is None):
        why = "a round trip has two ends and a limit"
        yield here, "`users` and `latency` go together", why, "give both, or neither"
    if demand.users is not None:
        try:
            sites.site(demand.users)
        except sites.UnknownPlace as error:
            what = f"the catalog knows no place {demand.users!r}"
            why = "`gigafactory sites` lists those it knows"
            yield (*here, "users"), what, why, nearest(demand.users, error.near)
