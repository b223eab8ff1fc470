"""A blueprint as Kubernetes manifests: each site a cluster with a factory of its own.

`part` gives a site its part of the blueprint, `cluster` makes the factory that runs it, `queues`
what Kueue needs to hold tenants to their quotas beside it, `manifest` what all of them are of.
docs/kubernetes.md says what must be there before, and what is assumed.
Sources: KubeRay v1.7 (`ray.io/v1`), Kueue v0.19 (`kueue.x-k8s.io/v1beta2`), Kubernetes v1.34.
"""

from gigafactory.works.kubernetes.cluster import IMAGE, factory
from gigafactory.works.kubernetes.manifest import written
from gigafactory.works.kubernetes.part import own_blueprint
from gigafactory.works.kubernetes.queues import queues

__all__ = ["IMAGE", "factory", "own_blueprint", "queues", "written"]
