"""What a schema cannot see of services and routes: names, shares, circles of fallbacks."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from gigafactory.blueprint.schema import Blueprint, Serve
from gigafactory.faults import nearest

Found = tuple[tuple, str, str, str]


def check(blueprint: Blueprint) -> Iterator[Found]:
    """Every fault in how services are reached."""
    services = [name for name, work in blueprint.workloads.items() if isinstance(work, Serve)]
    for name, route in blueprint.routes.items():
        here = ("routes", name)
        if name in blueprint.workloads:
            yield (
                here,
                f"{name!r} is a route and a workload",
                "a request for that name could mean either",
                "rename the route",
            )
        for service in route.weights:
            if service not in services:
                yield (
                    (*here, "weights", service),
                    f"there is no service {service!r}",
                    "a route shares its requests among workloads of kind serve",
                    nearest(service, services),
                )
        if not any(route.weights.values()):
            yield (
                (*here, "weights"),
                f"the weights of {name!r} sum to 0",
                "no service gets a share of its requests",
                "give one of them a weight above 0",
            )
        for other in route.fallback:
            if other not in services and other not in blueprint.routes:
                yield (
                    (*here, "fallback"),
                    f"there is no service or route {other!r}",
                    "nothing of that name answers requests",
                    nearest(other, [*services, *blueprint.routes]),
                )
    yield from _circles(blueprint)


def check_replicas(name: str, work: Serve) -> Iterator[Found]:
    """Every fault in how one service is scaled."""
    if work.replicas_min > work.replicas_max:
        yield (
            ("workloads", name, "replicas_min"),
            f"{name!r} would have at least {work.replicas_min} replicas",
            f"it may have {work.replicas_max} at most",
            f"set `replicas_max: {work.replicas_min}`",
        )


def _circles(blueprint: Blueprint) -> Iterator[Found]:
    graph = {
        name: [other for other in route.fallback if other in blueprint.routes]
        for name, route in blueprint.routes.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
        yield (
            ("routes", circle[0], "fallback"),
            "routes fall back on each other in a circle",
            " → ".join(reversed(circle)),
            f"drop {circle[0]!r} of {circle[1]!r}'s fallback",
        )
