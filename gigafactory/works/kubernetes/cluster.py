"""The factory of one site: a RayCluster with the works at its head, and what it needs around it.

For every system a group with one worker a node. A worker offers the Ray resource `gf:NODE` under
the name that the plan gives its node, so the works' scheduler alone says what runs where.
"""

from collections.abc import Mapping
from typing import Any

from gigafactory import __version__
from gigafactory.blueprint.schema import Blueprint
from gigafactory.plan import Plan
from gigafactory.plan.quote import Where
from gigafactory.works.executor import HEALTH, NODE, OBJECT_STORE_BYTES, RAY_ENVIRONMENT
from gigafactory.works.kubernetes.manifest import (
    RESTRICTED,
    SYSTEM,
    Manifest,
    amounts_of,
    manifest_of,
    space_of,
    spec_of,
    tolerations_of,
)

IMAGE = f"gigafactory:{__version__}"
RAY_VERSION = "2.60.0"
"""Of the image: KubeRay asks the version how to talk to it."""
CLUSTER, PORT, USER = "works", 8642, 1000
HOME, CONFIG = "/var/lib/gigafactory", "/etc/gigafactory"
STORE = "1Ti"
"""Assumed, of checkpoints, logs and caches of a site."""
LEDGER_PORT = 5432
LEAVE_S = 90
"""A pod has this long to reach its checkpoints and leave."""
HEAD = {"cpu": "4", "memory": "16Gi"}
OF_RAY = {"object-store-memory": f"{OBJECT_STORE_BYTES}"}
OF_WORKS = {"ray.io/cluster": CLUSTER}
OF_HEAD = OF_WORKS | {"ray.io/node-type": "head"}


def factory(blueprint: Blueprint, plan: Plan, site: str, text: str, image: str) -> list[Manifest]:
    """The factory of one site; `text` is its blueprint, as `own_blueprint` has it."""
    space = space_of(blueprint, site)
    inside: Manifest = {"namespace": space}
    return [
        manifest_of("v1/Namespace", space, {}, labels=RESTRICTED),
        manifest_of("v1/ConfigMap", "blueprint", {"data": {"blueprint.yaml": text}}, **inside),
        manifest_of(
            "v1/PersistentVolumeClaim",
            "home",
            spec_of(
                accessModes=["ReadWriteMany"],  # Every node writes its attempts' files there.
                resources={"requests": {"storage": STORE}},
            ),
            **inside,
        ),
        *(
            manifest_of("networking.k8s.io/v1/NetworkPolicy", *of, **inside)
            for of in _policies(_asks_elsewhere(blueprint))
        ),
        manifest_of("ray.io/v1/RayCluster", CLUSTER, _ray(plan, site, image), **inside),
        manifest_of(
            "v1/Service",
            "gigafactory",
            spec_of(
                type="ClusterIP",
                selector=OF_HEAD,
                ports=[{"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
            ),
            **inside,
        ),
        manifest_of(
            "policy/v1/PodDisruptionBudget",
            CLUSTER,
            spec_of(minAvailable=1, selector={"matchLabels": OF_HEAD}),
            **inside,
        ),
    ]


def _ray(plan: Plan, site: str, image: str) -> Manifest:
    places = [where for where in plan.places if where.site == site]
    return spec_of(
        rayVersion=RAY_VERSION,
        authOptions={"mode": "token", "secretName": "ray-token"},
        enableInTreeAutoscaling=False,
        headGroupSpec={
            # No job runs beside the works, and nobody outside needs Ray's own pages.
            "rayStartParams": OF_RAY | {"num-cpus": "0", "dashboard-host": "127.0.0.1"},
            "template": {
                "metadata": {"annotations": {"ray.io/overwrite-container-cmd": "true"}},
                "spec": _pod(
                    "head",
                    image,
                    HEAD,
                    env=[
                        {"name": "GIGAFACTORY_HOST", "value": "0.0.0.0"},
                        {
                            "name": "GIGAFACTORY_LEDGER",
                            "valueFrom": {"secretKeyRef": {"name": "ledger", "key": "url"}},
                        },
                    ],
                    command=["/bin/bash", "-c", "--"],
                    args=[
                        "ulimit -n 65536; $KUBERAY_GEN_RAY_START_CMD & "
                        "until ray health-check --address $RAY_ADDRESS >/dev/null 2>&1; "
                        "do sleep 1; done; "
                        f"exec gigafactory up {CONFIG}/blueprint.yaml --port {PORT}"
                    ],
                    ports=[{"name": "http", "containerPort": PORT}],
                ),
            },
        },
        workerGroupSpecs=[_group(where, image) for where in places],
    )


def _group(where: Where, image: str) -> Manifest:
    """One worker a node. KubeRay counts them from 0, the plan from 1."""
    pod = _pod(
        "worker",
        image,
        amounts_of(where, where.chips_per_node),
        env=[
            {
                "name": "GIGAFACTORY_REPLICA",
                "valueFrom": {
                    "fieldRef": {
                        "fieldPath": "metadata.labels['ray.io/worker-group-replica-index']"
                    }
                },
            },
            # Where its engines answer, for the gateway in the head's pod.
            {
                "name": "GIGAFACTORY_ENGINE_HOST",
                "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
            },
        ],
        # KubeRay puts this before its `ray start`, in one shell. No `$(...)`: that is Kubernetes'.
        args=["export GIGAFACTORY_NODE=`expr $GIGAFACTORY_REPLICA + 1`"],
    )
    node = f"{NODE}{where.pool}-'$GIGAFACTORY_NODE'"
    alike = {"matchLabels": OF_WORKS | {"ray.io/group": where.system}}
    return {
        "groupName": where.system,
        "replicas": where.nodes,
        "minReplicas": where.nodes,
        "maxReplicas": where.nodes,
        "rayStartParams": OF_RAY
        # JSON for KubeRay, which reads it, and two quoted strings for the shell.
        | {"resources": f"'{{\"{node}\":{where.chips_per_node}}}'"},
        "template": {
            "spec": pod
            | {
                "nodeSelector": {SYSTEM: where.system},
                "tolerations": tolerations_of(where),
                "affinity": {
                    "podAntiAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": [
                            {"labelSelector": alike, "topologyKey": "kubernetes.io/hostname"}
                        ]
                    }
                },
            }
        },
    }


def _pod(
    name: str, image: str, amounts: Mapping[str, str], env: list[Manifest], **more: Any
) -> Manifest:
    """A pod that may write to its home and to /tmp and do nothing to its machine."""
    known = {
        **RAY_ENVIRONMENT,
        **HEALTH,
        "HOME": "/tmp",
        "GIGAFACTORY_HOME": HOME,
        "HF_HUB_OFFLINE": "1",
        "NUMBA_CACHE_DIR": "/tmp/numba",
        "TOKENIZERS_PARALLELISM": "false",
    }
    mounts = {"home": HOME, "blueprint": CONFIG, "tmp": "/tmp"}
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": LEAVE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": name,
                "image": image,
                **more,
                "env": [
                    *({"name": key, "value": of} for key, of in known.items()),
                    *env,
                ],
                "resources": {"requests": dict(amounts), "limits": dict(amounts)},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": volume, "mountPath": path}
                    | ({"readOnly": True} if volume == "blueprint" else {})
                    for volume, path in mounts.items()
                ],
            }
        ],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": "home"}},
            {"name": "blueprint", "configMap": {"name": "blueprint"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _asks_elsewhere(blueprint: Blueprint) -> list[int]:
    """Ports at which the works asks what is not in the cluster: its ledger, who signs tokens."""
    oidc = blueprint.access.oidc
    return [LEDGER_PORT, *([443] if oidc is not None else [])]


def _policies(asks: list[int]) -> list[tuple[str, Manifest]]:
    """Deny all; then what the factory needs: itself, names, whom it asks, and who asks it."""
    itself = [{"podSelector": {"matchLabels": OF_WORKS}}]
    names = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return [
        ("nothing", spec_of(podSelector={}, policyTypes=["Ingress", "Egress"])),
        (
            "within",  # Ray, gangs and engines choose their ports; no other pod reaches them.
            spec_of(
                podSelector={"matchLabels": OF_WORKS},
                policyTypes=["Ingress", "Egress"],
                ingress=[{"from": itself}],
                egress=[
                    {"to": itself},
                    {
                        "to": [
                            {
                                "namespaceSelector": {
                                    "matchLabels": {"kubernetes.io/metadata.name": "kube-system"}
                                }
                            }
                        ],
                        "ports": names,
                    },
                ],
            ),
        ),
        (
            "door",
            spec_of(
                podSelector={"matchLabels": OF_HEAD},
                policyTypes=["Ingress", "Egress"],
                ingress=[
                    {
                        "from": [{"namespaceSelector": {}}],
                        "ports": [{"port": PORT, "protocol": "TCP"}],
                    }
                ],
                egress=[{"ports": [{"port": port, "protocol": "TCP"} for port in asks]}],
            ),
        ),
    ]
