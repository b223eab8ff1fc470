"""What manifests are of: names, machines and their chips, and YAML that every reader reads alike.

CPU cores, GiB.
"""

import io
import re
from collections.abc import Iterable, MutableMapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from gigafactory.blueprint.schema import Blueprint
from gigafactory.faults import Fault, Refused
from gigafactory.plan.quote import Where
from gigafactory.stack import chips

Manifest = dict[str, Any]

SYSTEM = "gigafactory/system"
"""Label of the machines of a system, set by whoever runs the cluster."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
CHIPS_OF_A_MACHINE = 16
"""The most chips that stand in one machine; more are a rack, and no pod holds a rack."""
# Assumed, of each chip's share of its machine: what servers of eight leave to spare.
PER_CHIP = {"gpu": {"cpu": 8, "memory": 64}, "cpu": {"cpu": 1, "memory": 2}}
DEVICES = {
    "NVIDIA": "nvidia.com/gpu",
    "AMD": "amd.com/gpu",
    "Google": "google.com/tpu",
    "AWS": "aws.amazon.com/neuron",
    "Intel": "habana.ai/gaudi",
    "Huawei": "huawei.com/Ascend910",
}
"""Resource under which the maker's device plugin offers its chips."""


def manifest_of(kind: str, name: str, body: Manifest, **metadata: Any) -> Manifest:
    """A manifest of `VERSION/KIND` under this name."""
    version, _, its_kind = kind.rpartition("/")
    labels = {"app.kubernetes.io/managed-by": "gigafactory", **metadata.pop("labels", {})}
    head = {"name": name, **metadata, "labels": labels}
    return {"apiVersion": version, "kind": its_kind, "metadata": head, **body}


def spec_of(**fields: Any) -> Manifest:
    """What most manifests have beside their names."""
    return {"spec": fields}


def space_of(blueprint: Blueprint, site: str) -> str:
    """The namespace of a site's factory."""
    if (count := blueprint.sites[site].count) > 1:
        why = "each data center is a cluster with a factory of its own"
        hint = "write each as a site under its own name, `count` left out"
        raise Refused(Fault(f"{site} is {count} data centers", f"sites.{site}.count", why, hint))
    return name_of(f"{blueprint.name}-{site}", f"sites.{site}")


def name_of(name: str, where: str) -> str:
    """A name as Kubernetes takes it."""
    spelt = name.replace("_", "-")
    if len(spelt) > 63 or not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", spelt):
        why = "Kubernetes takes 63 letters, digits and `-`, the last no `-`"
        raise Refused(Fault(f"{spelt!r} can be no name there", where, why, "choose another name"))
    return spelt


def all_differ(manifests: Iterable[Manifest], where: str) -> None:
    """Refuse two names that Kubernetes would take for one: `a_b` and `a-b`."""
    seen = set()
    for manifest in manifests:
        name = (manifest["kind"], manifest["metadata"]["name"])
        if name in seen:
            why = "Kubernetes has no `_`, which becomes `-`"
            raise Refused(Fault(f"{name[1]!r} is there twice", where, why, "rename one of them"))
        seen.add(name)


def amounts_of(where: Where, count: int) -> dict[str, str]:
    """What so many chips with their shares of the machine are, as resources."""
    device = _device(where)
    per = PER_CHIP["gpu" if device else "cpu"]
    amounts = {"cpu": f"{count * per['cpu']}", "memory": f"{count * per['memory']}Gi"}
    return amounts | ({device: f"{count}"} if device else {})


def tolerations_of(where: Where) -> list[Manifest]:
    """Machines with devices are often tainted by them."""
    device = _device(where)
    return [{"key": device, "operator": "Exists", "effect": "NoSchedule"}] if device else []


def _device(where: Where) -> str | None:
    """The resource of its chips, or None for cores. Refuses what no pod can hold."""
    chip = chips.system(where.system).chip
    if chip.kind == "cpu":
        return None
    place = f"sites.{where.site}.systems.{where.system}"
    if chip.vendor not in DEVICES:
        why = f"it is not known under which resource Kubernetes offers chips of {chip.vendor}"
        known = ", ".join(DEVICES)
        raise Refused(Fault(f"no pod can ask for {chip.name}", place, why, f"known: {known}"))
    if where.chips_per_node > CHIPS_OF_A_MACHINE:
        what = f"a node of {where.system} is {where.chips_per_node} chips in many machines"
        why = "a pod stands on one machine, and a worker is a pod"
        hint = "choose a system whose node is one machine, such as b200-8"
        raise Refused(Fault(what, place, why, hint))
    return DEVICES[chip.vendor]


def written(manifests: Iterable[Manifest]) -> str:
    """Manifests as one YAML file, read alike by readers of YAML 1.1 and 1.2."""
    return "".join(f"---\n{dumped(_quoted(manifest))}" for manifest in manifests)


def plain(tree: Any) -> Any:
    """A YAML tree without its comments and places."""
    text = io.StringIO()
    YAML().dump(tree, text)
    return YAML(typ="safe", pure=True).load(text.getvalue())


def dumped(value: Any) -> str:
    """A value as YAML, in its own order and without anchors."""
    writer, text = YAML(), io.StringIO()
    writer.width = 4096
    writer.representer.ignore_aliases = lambda *_: True
    writer.dump(value, text)
    return text.getvalue()


def _quoted(value: Any) -> Any:
    """Strings in quotes where a reader of YAML 1.1 could take them for something else."""
    if isinstance(value, MutableMapping):
        return {_quoted(key): _quoted(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_quoted(of) for of in value]
    if not isinstance(value, str):
        return value
    if "\n" in value:
        return LiteralScalarString(value)
    bare = re.fullmatch(r"[A-Za-z/][A-Za-z0-9/._-]*", value)
    word = re.fullmatch(r"y|n|yes|no|on|off|true|false|null", value, re.IGNORECASE)
    return value if bare and not word else DoubleQuotedScalarString(value)
