"""Kueue's flavors, cohorts and queues, from the tenants' quotas.

They bind pods that tenants start themselves; in the factory its own scheduler holds the quotas.
"""

from collections.abc import Mapping

from gigafactory.blueprint.schema import Blueprint
from gigafactory.plan import Plan
from gigafactory.plan.quote import Where
from gigafactory.works.kubernetes.manifest import (
    RESTRICTED,
    SYSTEM,
    Manifest,
    all_differ,
    amounts_of,
    manifest_of,
    name_of,
    space_of,
    spec_of,
    tolerations_of,
)
from gigafactory.works.kubernetes.part import quotas_of, sizes_of, split


def queues(blueprint: Blueprint, plan: Plan, site: str) -> list[Manifest]:
    """Kueue's flavors, cohorts and queues of one site, from the tenants' quotas.

    A quota counts chips of all sites; each pool gets its share by size. What no quota claims
    lies in a cohort of its own, from which tenants without a quota borrow.
    """
    here = [where for where in plan.places if where.site == site]
    quotas, unclaimed = quotas_of(blueprint, plan)
    of_tenants: list[Manifest] = []
    cohorts: dict[str, Manifest] = {}
    free = name_of(blueprint.name, "name")
    for tenant, said in blueprint.tenants.items():
        queue = name_of(f"{blueprint.name}-{tenant}", f"tenants.{tenant}")
        # Its own: who may start pods in the factory's could read its secrets and its home.
        space = name_of(f"{space_of(blueprint, site)}-{tenant}", f"tenants.{tenant}")
        cohort: str | None = free
        if said.quota is not None:
            cohort = said.cohort and name_of(f"{blueprint.name}-{said.cohort}", f"tenants.{tenant}")
            cohorts |= {cohort: {}} if cohort else {}
        borrow = None if said.borrow is None else split(said.borrow, sizes_of(plan))
        spec = {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
            "fairSharing": {"weight": f"{said.weight:g}"},
            "preemption": {"reclaimWithinCohort": "Any", "withinClusterQueue": "LowerPriority"},
            "resourceGroups": _resource_groups(here, quotas[tenant], borrow),
        } | ({"cohortName": cohort} if cohort else {})
        of_tenants += [
            manifest_of("v1/Namespace", space, {}, labels=RESTRICTED),
            manifest_of("kueue.x-k8s.io/v1beta2/ClusterQueue", queue, {"spec": spec}),
            manifest_of(
                "kueue.x-k8s.io/v1beta2/LocalQueue",
                name_of(tenant, f"tenants.{tenant}"),
                spec_of(clusterQueue=queue),
                namespace=space,
            ),
        ]
    all_differ(of_tenants, "tenants")
    if any(said.quota is None for said in blueprint.tenants.values()):
        cohorts[free] = {"resourceGroups": _resource_groups(here, unclaimed, None)}
    return [
        *(
            manifest_of(
                "kueue.x-k8s.io/v1beta2/ResourceFlavor",
                where.system,
                spec_of(nodeLabels={SYSTEM: where.system}, tolerations=tolerations_of(where)),
            )
            for where in here
        ),
        *(
            manifest_of("kueue.x-k8s.io/v1beta2/Cohort", name, {"spec": spec})
            for name, spec in cohorts.items()
        ),
        *of_tenants,
    ]


def _resource_groups(
    here: list[Where], quota: Mapping[str, int], borrow: Mapping[str, int] | None
) -> list[Manifest]:
    """One group: Kueue wants every resource in one group only, and every flavor to name all."""
    covered = list(dict.fromkeys(name for where in here for name in amounts_of(where, 1)))
    flavors = []
    for where in here:
        nominal = amounts_of(where, quota[where.pool])
        beyond = None if borrow is None else amounts_of(where, borrow[where.pool])
        resources = [
            {"name": name, "nominalQuota": nominal.get(name, "0")}
            | ({} if beyond is None else {"borrowingLimit": beyond.get(name, "0")})
            for name in covered
        ]
        flavors.append({"name": where.system, "resources": resources})
    return [{"coveredResources": covered, "flavors": flavors}] if here else []
