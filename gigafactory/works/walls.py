"""Whether commands of tenants may run here: where there are several tenants, within whole walls.

`gigafactory.jobs.confined` builds them, and says what this machine lacks for it. An attempt looks
again where it runs, since other nodes may have other kernels.
"""

import logging
from typing import TYPE_CHECKING, Any

from gigafactory.faults import Fault
from gigafactory.jobs import confined
from gigafactory.plan import PlannedJob

if TYPE_CHECKING:
    from gigafactory.works.driver import Works

log = logging.getLogger(__name__)


def of_scripts(works: "Works") -> dict[str, Any]:
    """What an attempt of a `script` is told: whether walls must be whole, and the open ports."""
    access = works.plan.blueprint.get("access", {})
    is_open = access.get("scripts") == "open" or len(works.tenants) == 1
    return {"walled": not is_open, "ports": access.get("ports", [])}


def refusal(works: "Works", job: PlannedJob) -> Fault | None:
    """Why a job may not run beside those of other tenants on this machine."""
    if job.spec.kind != "script" or not (lacking := confined.lacks()):
        return None
    lacks = "; ".join(lacking)
    if not of_scripts(works)["walled"]:
        log.warning("%s runs without whole walls: %s", job.spec.name, lacks)
        return None
    return Fault(
        f"{job.spec.name!r} would not be kept from what is other tenants'",
        f"workloads.{job.spec.name}",
        f"this machine does not keep a command in: {lacks}",
        "Linux 6.12 with user namespaces does; where tenants trust each other as operators, "
        "`access: {scripts: open}`",
    )
