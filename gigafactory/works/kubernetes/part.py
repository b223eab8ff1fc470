"""A site's part of a blueprint: what stands and runs there, and its share of what tenants may have.

Each site is a factory of its own, and what cannot be divided so is refused.
"""

from collections.abc import Mapping
from typing import Any

from gigafactory.blueprint.schema import Blueprint
from gigafactory.blueprint.streams import TraceStream
from gigafactory.faults import Fault, Refused
from gigafactory.plan import Plan
from gigafactory.works.kubernetes.manifest import dumped, plain


def own_blueprint(tree: Any, blueprint: Blueprint, plan: Plan, site: str) -> str:
    """The blueprint of one site: that site alone, and the jobs and streams that run there.

    `tree` is the file as read, changes applied; it stays as it is.
    """
    own = plain(tree)
    own.pop("design", None)
    own["sites"] = {site: own["sites"][site]}
    at = {job.spec.name: job.quote.pool.split("/")[0] for job in plan.jobs}
    faults = [
        Fault(
            f"{job.spec.name!r} would run at {at[job.spec.name]} and waits for {other!r} at {of}",
            f"workloads.{job.spec.name}",
            "each site is a cluster with a factory of its own, which knows its own jobs",
            f"give both the same site: `sites: {of}`",
        )
        for job in plan.jobs
        for other in job.spec.after
        if (of := at[other]) != at[job.spec.name]
    ]
    reached = {name: _reached(name, blueprint, at) for name in blueprint.routes}
    faults += [
        Fault(
            f"route {name!r} leads to services at {' and '.join(sorted(its))}",
            f"routes.{name}",
            "a gateway sends requests to replicas of its own cluster",
            "write a route for each site",
        )
        for name, its in reached.items()
        if len(its) > 1
    ]
    kept = {
        "routes": {name for name, its in reached.items() if its == {site}},
        "workloads": {name for name, its in at.items() if its == site},
        "streams": {
            name
            for name, stream in blueprint.streams.items()
            if site in stream.allowed(blueprint.sites, blueprint.start)
            and not isinstance(stream, TraceStream)  # Its file is not in the cluster.
        },
    }
    if not kept["workloads"] and not kept["streams"]:
        faults.append(
            Fault(
                f"nothing would run at {site}",
                f"sites.{site}",
                "no workload is planned there and no stream may come",
                "leave the site out, or let a workload run there: `sites: " + site + "`",
            )
        )
    if len(blueprint.sites) > 1:
        faults += _share_tenants(own["tenants"], blueprint, plan, site)
    for part, names in kept.items():
        own[part] = {name: of for name, of in own.get(part, {}).items() if name in names}
        for of in own[part].values():
            of.pop("sites", None)
    for name, source in blueprint.models.items():
        if isinstance(source.config, dict):  # It was read from a file that stays behind.
            own["models"][name]["config"] = source.config
        if source.weights and source.weights.startswith("/"):
            faults.append(
                Fault(
                    f"the weights of {name!r} lie on this machine",
                    f"models.{name}.weights",
                    f"{source.weights} is not in the cluster",
                    "put them in the image as a package, and name that",
                )
            )
    oidc = blueprint.access.oidc
    if oidc is not None and not oidc.jwks.startswith("https:"):
        why, hint = f"{oidc.jwks} is not in the cluster", "name the https address of the key set"
        faults.append(Fault("the key set is a file", "access.oidc.jwks", why, hint))
    if faults:
        raise Refused(*faults)
    return dumped(own)


def _reached(name: str, blueprint: Blueprint, at: Mapping[str, str]) -> set[str]:
    """Sites of all services that a route, or a service, may send a request to."""
    if name not in blueprint.routes:
        return {at[name]}
    route = blueprint.routes[name]
    return {
        site for of in (*route.weights, *route.fallback) for site in _reached(of, blueprint, at)
    }


def _share_tenants(own: Any, blueprint: Blueprint, plan: Plan, site: str) -> list[Fault]:
    """Leave a site its share of what tenants may have in all; what cannot be shared is a fault."""
    faults = []
    here = [where.pool for where in plan.places if where.site == site]
    quotas, _ = quotas_of(blueprint, plan)
    for tenant, said in blueprint.tenants.items():
        if said.quota is not None:
            own[tenant]["quota"] = sum(quotas[tenant][pool] for pool in here)
        if said.borrow is not None:
            shares = split(said.borrow, sizes_of(plan))
            own[tenant]["borrow"] = sum(shares[pool] for pool in here)
        where = f"tenants.{tenant}"
        if said.quota is not None and not own[tenant]["quota"]:
            why = "quotas are shared among the sites by their chips, and no share may be none"
            hint = "raise it, or write a blueprint for each site"
            faults.append(Fault(f"its {said.quota} chips leave none for {site}", where, why, hint))
        if said.budgets:
            why = "each site is a factory of its own, and none knows what the others spent"
            hint = "write a blueprint for each site, with its part of the budget"
            faults.append(Fault(f"{tenant} has one budget for all sites", where, why, hint))
    return faults


def quotas_of(blueprint: Blueprint, plan: Plan) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Chips by tenant and pool, and those that no quota claims, by pool.

    A tenant after the other takes its part of what is left, so no pool is promised twice.
    """
    left = sizes_of(plan)
    quotas = {}
    for tenant, said in blueprint.tenants.items():
        quotas[tenant] = split(said.quota or 0, left)
        left = {pool: count - quotas[tenant][pool] for pool, count in left.items()}
    return quotas, left


def sizes_of(plan: Plan) -> dict[str, int]:
    """Chips by pool."""
    return {where.pool: where.chips for where in plan.places}


def split(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Chips by pool, in proportion to its size; the sum is the total, to the chip."""
    whole = sum(sizes.values()) or 1
    shares = {pool: total * size // whole for pool, size in sizes.items()}
    by_rest = sorted(sizes, key=lambda pool: -(total * sizes[pool] % whole))
    for pool in by_rest[: total - sum(shares.values())]:
        shares[pool] += 1
    return shares
