"""Rendered manifests: what the published schemas take, and what a cluster would do with them."""

import copy
import functools
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import typer.testing
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gigafactory import cli
from gigafactory import plan as planning
from gigafactory.blueprint import load
from gigafactory.blueprint.load import parse
from gigafactory.stack import chips
from gigafactory.works import executor
from gigafactory.works.driver import GRACE_S
from gigafactory.works.kubernetes import cluster, part
from gigafactory.works.kubernetes.manifest import CHIPS_OF_A_MACHINE, DEVICES

SHIPPED = ["laptop", "tiny", "h100-8", "campus", "llama3-405b"]
SCHEMAS = Path(__file__).parent / "data" / "kubernetes-schemas.json.gz"
TWO_SITES = ["sites.lyon={country: FR, power: 40 kW, systems: {h200-8: 2}}"]
runner = typer.testing.CliRunner()


@functools.cache  # That it is the same every time has a test of its own.
def render(blueprint, *words, code=0):
    result = runner.invoke(cli.app, ["render", "kubernetes", blueprint, *words])
    assert result.exit_code == code, result.output
    return result.stdout


def sites(blueprint, *words):
    return json.loads(render(blueprint, *words, "--json"))["sites"]


def refusal(blueprint, *changes):
    words = [word for change in changes for word in ("--set", change)]
    (fault,) = json.loads(render(blueprint, *words, "--json", code=2))["errors"]
    assert set(fault) == {"what", "where", "why", "remedy"}
    assert all(fault.values())
    return fault


def manifests(blueprint, *words):
    return [
        m for parts in sites(blueprint, *words).values() for part in parts.values() for m in part
    ]


def one(among, kind, name=None):
    (found,) = (m for m in among if m["kind"] == kind and name in (None, m["metadata"]["name"]))
    return found


def closed(schema):
    """The schema, strict: a field that it does not name is a fault, and so is a null."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: closed(part) for key, part in schema.items()}
    if strict.pop("x-kubernetes-int-or-string", False):
        strict.pop("type", None)
    if isinstance(strict.get("type"), list):
        strict["type"] = [kind for kind in strict["type"] if kind != "null"]
    if isinstance(strict.get("properties"), dict) and not strict.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        strict.setdefault("additionalProperties", False)
    return strict


@functools.cache
def published():
    """Kind -> its checker; `PodSpec` too."""
    kept = json.loads(gzip.decompress(SCHEMAS.read_bytes()))
    shared = closed(kept["$defs"])
    meta = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    schemas = {kind: shared[name] for kind, name in kept["kinds"].items()}
    schemas["PodSpec"] = shared["io.k8s.api.core.v1.PodSpec"]
    for kind, schema in kept["custom"].items():
        schemas[kind] = closed(schema)
        schemas[kind]["properties"]["metadata"] = meta
    return {
        kind: jsonschema.Draft202012Validator({**schema, "$defs": shared})
        for kind, schema in schemas.items()
    }


def faults(manifest):
    """What an API server that knows the published schemas would not take."""
    checker = published()[f"{manifest['apiVersion']}/{manifest['kind']}"]
    found = [f"{error.json_path}: {error.message}" for error in checker.iter_errors(manifest)]
    for pod in pods(manifest):
        found += [f"pod{e.json_path}: {e.message}" for e in published()["PodSpec"].iter_errors(pod)]
    return found


def pods(manifest):
    if manifest["kind"] != "RayCluster":
        return []
    spec = manifest["spec"]
    groups = [spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", ())]
    return [group["template"]["spec"] for group in groups if "template" in group]


@pytest.mark.parametrize("blueprint", SHIPPED)
def test_the_published_schemas_take_every_manifest(blueprint):
    rendered = manifests(blueprint)
    assert {"RayCluster", "ClusterQueue", "NetworkPolicy"} <= {m["kind"] for m in rendered}
    assert [fault for manifest in rendered for fault in faults(manifest)] == []


def test_a_manifest_of_each_version_that_is_rendered_was_published():
    """Which release the schemas are of is told where they lie."""
    kept = json.loads(gzip.decompress(SCHEMAS.read_bytes()))
    assert "v1.7.0, commit " in kept["sources"]["ray.io/v1"]
    assert "v0.19.2, commit " in kept["sources"]["kueue.x-k8s.io/v1beta2"]
    assert "Apache-2.0" in kept["about"]


WRONG = {
    "a field that is misspelt": ("RayCluster", "spec.workerGroupSpecs.0.replica", 1),
    "a field that is of the pod's": (
        "RayCluster",
        "spec.headGroupSpec.template.spec.containers.0.nodeSelector",
        {"a": "b"},
    ),
    "a number where text is": ("RayCluster", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
    "a way in that Ray has not": ("RayCluster", "spec.authOptions.mode", "password"),
    "what only a pod's own schema sees": (
        "RayCluster",
        "spec.workerGroupSpecs.0.template.spec.tolerations.0.until",
        "later",
    ),
    "a field of the version before": ("ClusterQueue", "spec.cohort", "campus"),
    "a quantity that is none": (
        "ClusterQueue",
        "spec.resourceGroups.0.flavors.0.resources.0.nominalQuota",
        "many",
    ),
    "a name that is none": ("LocalQueue", "spec.clusterQueue", "Campus_Bank"),
    "a rule without a direction": ("NetworkPolicy", "spec.ingres", []),
    "an access that is no list": ("PersistentVolumeClaim", "spec.accessModes", "ReadWriteMany"),
    "a port that is text": ("Service", "spec.ports.0.port", "http"),
    "a label that is no text": ("Namespace", "metadata.labels", {"count": 1}),
    "something of nobody's": ("ConfigMap", "files", {}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_schemas_catch(wrong):
    kind, path, value = WRONG[wrong]
    manifest = copy.deepcopy(next(m for m in manifests("campus") if m["kind"] == kind))
    assert faults(manifest) == []
    node = manifest
    *above, last = path.split(".")
    for key in above:
        node = node[int(key) if key.isdigit() else key]
    node[last] = value
    assert faults(manifest)


def test_a_manifest_without_what_it_needs_is_caught():
    cluster = one(manifests("h100-8"), "RayCluster")
    del cluster["spec"]["headGroupSpec"]
    assert "headGroupSpec" in faults(cluster)[0]


def test_the_same_blueprint_gives_the_same_bytes(tmp_path):
    """In another process too, whatever order its sets have and whatever its home measured."""
    render("campus", "-o", str(tmp_path / "here"))
    words = ["render", "kubernetes", "campus", "-o", str(tmp_path / "there")]
    subprocess.run(
        [sys.executable, "-m", "gigafactory.cli", *words],
        env={**os.environ, "PYTHONHASHSEED": "7", "GIGAFACTORY_HOME": str(tmp_path / "home")},
        check=True,
        capture_output=True,
    )
    here, there = (
        {str(file.relative_to(tmp_path / side)): file.read_bytes() for file in found}
        for side in ("here", "there")
        for found in [sorted((tmp_path / side).rglob("*.yaml"))]
    )
    assert here == there
    assert sorted(here) == [
        f"{site}/{part}.yaml" for site in ("lulea", "milan") for part in ("factory", "queues")
    ]


def test_a_reader_of_yaml_1_1_reads_what_was_meant():
    """`on` and `no` are names here and truths there; kubectl reads the old way."""
    words = ["--set", "tenants.on={}", "--set", "tenants.no={weight: 0.5}"]
    read = list(yaml.safe_load_all(render("h100-8", *words)))
    assert read == manifests("h100-8", *words)
    assert {"on", "no"} <= {m["metadata"]["name"] for m in read}
    assert len({m["metadata"]["name"] for m in read if m["kind"] == "ClusterQueue"}) == 4


@pytest.mark.parametrize("blueprint", SHIPPED)
def test_a_site_is_told_its_own_part_of_the_blueprint_and_plans_it_alike(blueprint):
    whole = planning.make(load(blueprint))
    seen = {}
    for site, parts in sites(blueprint).items():
        text = one(parts["factory"], "ConfigMap")["data"]["blueprint.yaml"]
        own = planning.make(parse(text, Path("own.yaml")))
        assert list(own.sites) == [site]
        assert own.tenants == whole.tenants
        seen |= own.nodes()
        here = [job for job in whole.jobs if job.quote.pool.startswith(f"{site}/")]
        assert [job.quote for job in own.jobs] == [job.quote for job in here]
    assert seen == whole.nodes()


def test_two_sites_are_two_factories_each_with_its_own_jobs():
    away = ["tool-caller", "judge-tools", "assistant"]
    changes = [*TWO_SITES, *(f"workloads.{name}.sites=lyon" for name in away)]
    changes += [f"workloads.{name}.sites=paris" for name in ("code-model", "judge-code")]
    rendered = sites("h100-8", *(word for change in changes for word in ("--set", change)))
    own = {
        site: yaml.safe_load(one(parts["factory"], "ConfigMap")["data"]["blueprint.yaml"])
        for site, parts in rendered.items()
    }
    assert sorted(own["lyon"]["workloads"]) == sorted(away)
    assert sorted(own["paris"]["workloads"]) == ["code-model", "judge-code"]
    cluster = one(rendered["lyon"]["factory"], "RayCluster")
    assert [(g["groupName"], g["replicas"]) for g in cluster["spec"]["workerGroupSpecs"]] == [
        ("h200-8", 2)
    ]


def as_kuberay_starts(group, replica, folder):
    """What `ray` is told: KubeRay's shell, a `ray` that writes down its words."""
    (folder / "ray").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/words\n')
    (folder / "ray").chmod(0o755)
    container = group["template"]["spec"]["containers"][0]
    flags = " ".join(f" --{key}={of} " for key, of in sorted(group["rayStartParams"].items()))
    line = f" {' '.join(container['args'])}  && ulimit -n 64; ray start {flags}"
    subprocess.run(
        ["/bin/bash", "-c", "--", line],
        env={"PATH": f"{folder}:{os.environ['PATH']}", "GIGAFACTORY_REPLICA": str(replica)},
        check=True,
    )
    return (folder / "words").read_text().splitlines()


@pytest.mark.parametrize("blueprint", ["laptop", "campus"])
def test_a_worker_joins_under_the_name_that_the_plan_gives_its_node(blueprint, tmp_path):
    nodes = planning.make(load(blueprint)).nodes()
    joined = []
    for parts in sites(blueprint).values():
        for group in one(parts["factory"], "RayCluster")["spec"]["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
            (label,) = (
                env["valueFrom"]["fieldRef"]["fieldPath"]
                for env in group["template"]["spec"]["containers"][0]["env"]
                if env["name"] == "GIGAFACTORY_REPLICA"
            )
            assert label == "metadata.labels['ray.io/worker-group-replica-index']"
            # KubeRay reads it too, to add to it: as JSON, once the quotes around are gone.
            assert len(json.loads(group["rayStartParams"]["resources"].strip("'\"` "))) == 1
            for replica in (0, group["replicas"] - 1):
                words = as_kuberay_starts(group, replica, tmp_path)
                (resources,) = (w for w in words if w.startswith("--resources="))
                ((name, amount),) = json.loads(resources.removeprefix("--resources=")).items()
                assert amount == nodes[name.removeprefix(executor.NODE)][1]
                joined.append(name.removeprefix(executor.NODE))
    of_pools: dict[str, list[str]] = {}
    for node, (pool, _) in nodes.items():
        of_pools.setdefault(pool, []).append(node)
    assert set(joined) == {names[at] for names in of_pools.values() for at in (0, -1)}


def test_the_head_waits_for_ray_and_then_is_the_works(tmp_path):
    (tmp_path / "ray").write_text(
        f'#!/bin/sh\necho "ray $1" >> {tmp_path}/said\n'
        f"[ $1 = start ] || [ -e {tmp_path}/up ] || {{ touch {tmp_path}/up; exit 1; }}\n"
    )
    (tmp_path / "gigafactory").write_text(f'#!/bin/sh\necho "$0 $@" >> {tmp_path}/said\n')
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    for name in ("ray", "gigafactory", "sleep"):
        (tmp_path / name).chmod(0o755)
    parts = sites("tiny")["home"]["factory"]
    head = one(parts, "RayCluster")["spec"]["headGroupSpec"]["template"]
    assert head["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    container = head["spec"]["containers"][0]
    subprocess.run(
        [*container["command"], *container["args"]],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "KUBERAY_GEN_RAY_START_CMD": "ray start --head --block",
            "RAY_ADDRESS": "127.0.0.1:6379",
        },
        check=True,
    )
    said = (tmp_path / "said").read_text().splitlines()
    assert sorted(said[:-1]) == ["ray health-check", "ray health-check", "ray start"]
    mount = next(m for m in container["volumeMounts"] if m["name"] == "blueprint")["mountPath"]
    assert said[-1] == f"{tmp_path}/gigafactory up {mount}/blueprint.yaml --port 8642"


@pytest.mark.parametrize("blueprint", SHIPPED)
def test_a_pod_may_do_nothing_to_its_machine(blueprint):
    for pod in (pod for manifest in manifests(blueprint) for pod in pods(manifest)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["terminationGracePeriodSeconds"] > GRACE_S
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_nobody_but_its_door_is_reached_from_outside():
    rendered = sites("h100-8")["paris"]["factory"]
    policies = [m["spec"] for m in rendered if m["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    ways_in = [rule for policy in policies for rule in policy.get("ingress", ())]
    works = {"podSelector": {"matchLabels": {"ray.io/cluster": "works"}}}
    outside = [rule for rule in ways_in if rule["from"] != [works]]
    assert [rule["ports"] for rule in outside] == [[{"port": 8642, "protocol": "TCP"}]]
    service = one(rendered, "Service")["spec"]
    assert service["type"] == "ClusterIP"
    assert service["ports"][0]["targetPort"] == 8642
    assert service["selector"] == cluster.OF_HEAD
    assert one(rendered, "PodDisruptionBudget")["spec"]["minAvailable"] == 1


def test_the_death_of_a_node_is_noticed_as_soon_as_on_one_machine():
    for pod in pods(one(manifests("tiny"), "RayCluster")):
        known = {env["name"]: env.get("value") for env in pod["containers"][0]["env"]}
        assert executor.HEALTH.items() <= known.items()


def test_secrets_are_named_and_never_written():
    rendered = manifests("h100-8")
    assert not any(m["kind"] == "Secret" for m in rendered)
    cluster = one(rendered, "RayCluster")["spec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    head, *workers = pods(one(rendered, "RayCluster"))
    of = {env["name"]: env for env in head["containers"][0]["env"]}
    assert of["GIGAFACTORY_LEDGER"]["valueFrom"] == {
        "secretKeyRef": {"name": "ledger", "key": "url"}
    }
    for worker in workers:  # Only the works writes to the ledger.
        names = {env["name"] for env in worker["containers"][0]["env"]}
        assert "GIGAFACTORY_LEDGER" not in names


def test_each_node_offers_its_chips_under_its_makers_name():
    def offered(system):
        change = f"sites.paris.systems={{{system}: 2}}"
        changes = [change, "owner=US", "sites.paris.country=US", "sites.paris.power=1 MW"]
        parts = sites("h100-8", *(word for change in changes for word in ("--set", change)))
        (group,) = one(parts["paris"]["factory"], "RayCluster")["spec"]["workerGroupSpecs"]
        assert group["replicas"] == 2
        return group["template"]["spec"]["containers"][0]["resources"]["limits"]

    assert offered("h200-8")["nvidia.com/gpu"] == "8"
    assert offered("mi300x-8") == {"cpu": "64", "memory": "512Gi", "amd.com/gpu": "8"}
    (laptop,) = one(manifests("laptop"), "RayCluster")["spec"]["workerGroupSpecs"]
    cores = laptop["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert cores == {"cpu": "2", "memory": "4Gi"}


def test_every_system_of_one_machine_is_known_to_kubernetes():
    makers = {
        of.chip.vendor
        for of in map(chips.system, chips.names())
        if of.chip.kind == "gpu" and of.chips_per_node <= CHIPS_OF_A_MACHINE
    }
    assert makers <= set(DEVICES)


@pytest.mark.parametrize("blueprint", SHIPPED)
def test_the_queues_of_all_sites_together_are_the_quotas(blueprint):
    loaded = load(blueprint)
    total = {tenant: {"nominalQuota": 0, "borrowingLimit": 0} for tenant in loaded.tenants}
    for parts in sites(blueprint).values():
        known = {m["metadata"]["name"] for m in parts["queues"] if m["kind"] == "Cohort"}
        flavors = {m["metadata"]["name"] for m in parts["queues"] if m["kind"] == "ResourceFlavor"}
        for tenant, said in loaded.tenants.items():
            name = one(parts["queues"], "LocalQueue", tenant)["spec"]["clusterQueue"]
            queue = one(parts["queues"], "ClusterQueue", name)["spec"]
            assert queue.get("cohortName", next(iter(known), None)) in known | {None}
            assert "cohortName" in queue or said.quota is not None
            (group,) = queue["resourceGroups"]
            for flavor in group["flavors"]:
                assert flavor["name"] in flavors
                assert [r["name"] for r in flavor["resources"]] == group["coveredResources"]
                counted = flavor["resources"][-1 if len(flavor["resources"]) > 2 else 0]
                for limit in total[tenant]:
                    total[tenant][limit] += int(counted.get(limit, 0))
    for tenant, said in loaded.tenants.items():
        assert total[tenant]["nominalQuota"] == (said.quota or 0)
        assert total[tenant]["borrowingLimit"] == ((said.quota and said.borrow) or 0)


def test_a_tenants_own_pods_are_not_let_near_the_factorys_secrets():
    for site, parts in sites("campus").items():
        spaces = {m["metadata"]["name"] for m in parts["queues"] if m["kind"] == "Namespace"}
        assert one(parts["factory"], "Namespace")["metadata"]["name"] not in spaces
        for tenant in load("campus").tenants:
            space = one(parts["queues"], "LocalQueue", tenant)["metadata"]["namespace"]
            assert space == f"campus-{site}-{tenant}"
            assert space in spaces
            queue = one(parts["queues"], "ClusterQueue", f"campus-{tenant}")["spec"]
            taken_from = queue["namespaceSelector"]["matchLabels"]
            assert taken_from == {"kubernetes.io/metadata.name": space}


def test_tenants_without_a_quota_borrow_what_no_quota_claims():
    """As the factory's own core has it: they take what is free."""
    parts = sites("campus", "--set", "tenants.guest={weight: 1}")
    free = 0
    for site in parts.values():
        cohort = one(site["queues"], "Cohort", "campus")
        (group,) = cohort["spec"]["resourceGroups"]
        free += int(group["flavors"][0]["resources"][-1]["nominalQuota"])
        guest = one(site["queues"], "ClusterQueue", "campus-guest")["spec"]
        assert guest["cohortName"] == "campus"
        (group,) = guest["resourceGroups"]
        assert {r["nominalQuota"] for f in group["flavors"] for r in f["resources"]} <= {"0", "0Gi"}
    whole = sum(where.chips for where in planning.make(load("campus")).places)
    assert free == whole - sum(of.quota or 0 for of in load("campus").tenants.values())


def test_a_tenant_alone_borrows_from_nobody():
    rendered = manifests("h100-8", "--set", "tenants.lab={quota: 4}")
    assert "cohortName" not in one(rendered, "ClusterQueue", "h100-8-lab")["spec"]
    assert one(rendered, "ClusterQueue", "h100-8-warehouse")["spec"]["cohortName"] == "h100-8"


@given(st.lists(st.integers(0, 10**5), min_size=1, max_size=9), st.data())
def test_quotas_are_split_to_the_chip_and_no_pool_is_promised_twice(sizes, data):
    left = {f"p{i}": size for i, size in enumerate(sizes)}
    for _ in range(4):
        whole = sum(left.values())
        total = data.draw(st.integers(0, whole))
        shares = part.split(total, left)
        assert sum(shares.values()) == total
        assert all(0 <= shares[pool] <= left[pool] for pool in left)
        assert all(abs(shares[pool] - total * left[pool] / (whole or 1)) < 1 for pool in left)
        left = {pool: left[pool] - shares[pool] for pool in left}


def test_the_image_has_the_ray_that_kuberay_is_told_of():
    lock = Path(__file__).parents[1] / "requirements.lock"
    (version,) = re.findall(r"^ray==(.+)$", lock.read_text(), re.MULTILINE)
    assert one(manifests("tiny"), "RayCluster")["spec"]["rayVersion"] == version
    named = manifests("tiny", "--image", "registry.example/factory:7")
    images = {c["image"] for pod in pods(one(named, "RayCluster")) for c in pod["containers"]}
    assert images == {"registry.example/factory:7"}


def test_a_design_is_no_factory_yet():
    assert "design" in refusal("milan-50mw")["why"]


def test_a_node_of_many_machines_is_no_pod():
    changes = ["sites.paris.systems={gb200-nvl72: 1}", "sites.paris.power=1 MW"]
    assert "72 chips in many machines" in refusal("h100-8", *changes)["what"]


def test_data_centers_all_alike_are_clusters_apart():
    assert refusal("h100-8", "sites.paris.count=3")["where"] == "sites.paris.count"


def test_a_job_cannot_wait_for_one_of_another_cluster():
    """Nor can a site stand where nothing would run."""
    changes = [*TWO_SITES, *(f"workloads.{n}.sites=paris" for n in ("code-model", "judge-tools"))]
    changes += [f"workloads.{n}.sites=lyon" for n in ("tool-caller", "judge-code", "assistant")]
    words = [word for change in changes for word in ("--set", change)]
    told = json.loads(render("h100-8", *words, "--json", code=2))["errors"]
    assert {fault["where"] for fault in told} == {
        "workloads.judge-code",
        "workloads.judge-tools",
        "workloads.assistant",
    }
    idle = ["sites.lyon={country: FR, power: 40 kW, systems: {h200-8: 2}}"]
    idle += [f"workloads.{name}.sites=paris" for name in load("h100-8").workloads]
    assert refusal("h100-8", *idle)["where"] == "sites.lyon"


def test_what_a_tenant_may_have_in_all_is_shared_among_the_sites_or_told():
    """Each site counts for itself: the whole at each would be twice the whole."""
    shared = dict.fromkeys(load("campus").tenants, 0)
    for parts in sites("campus").values():
        text = one(parts["factory"], "ConfigMap")["data"]["blueprint.yaml"]
        for tenant, said in parse(text, Path("own.yaml")).tenants.items():
            shared[tenant] += said.quota
    assert shared == {name: of.quota for name, of in load("campus").tenants.items()}
    assert (
        "leave none for" in refusal("campus", "tenants.guest={quota: 1}", "tenants.bank={}")["what"]
    )
    small = refusal("campus", "tenants.lab={quota: 20}")
    assert "may never use" in small["what"]
    assert small["where"] == "the part of lulea, streams.research.chips"
    budgets = "tenants.lab.budgets=[{limit: 100 EUR, per: month}]"
    assert "one budget for all sites" in refusal("campus", budgets)["what"]
    assert sites("h100-8", "--set", budgets)  # One site, one budget.


def test_a_route_stays_with_its_services():
    """What another site is asked for is unknown here; what leads to two sites is told."""
    away = [f"workloads.{n}.sites=lyon" for n in ("tool-caller", "judge-tools", "assistant")]
    stay = [f"workloads.{n}.sites=paris" for n in ("code-model", "judge-code")]
    route = "routes.chat={weights: {assistant: 1}}"
    changes = [*TWO_SITES, *away, *stay, route]
    rendered = sites("h100-8", *(word for change in changes for word in ("--set", change)))
    for site, routes in {"paris": {}, "lyon": {"chat": {"weights": {"assistant": 1}}}}.items():
        text = one(rendered[site]["factory"], "ConfigMap")["data"]["blueprint.yaml"]
        assert yaml.safe_load(text)["routes"] == routes
    other = "workloads.other={kind: serve, tenant: lab, of: tuned, through: judged, sites: paris}"
    tuned = "workloads.tuned={kind: finetune, tenant: lab, model: smollm2, steps: 9, sites: paris}"
    judged = "workloads.judged={kind: evaluate, tenant: lab, of: tuned, suite: tool_calls,"
    judged += " sites: paris, gate: {tool_calls_exact: '>= 0.4'}}"
    both = "routes.chat={weights: {assistant: 1}, fallback: other}"
    apart = [*TWO_SITES, *away, *stay, tuned, judged, other, both]
    assert refusal("h100-8", *apart)["where"] == "routes.chat"


def test_two_tenants_whose_names_kubernetes_takes_for_one_are_told():
    assert "twice" in refusal("h100-8", "tenants.a_b={}", "tenants.a-b={}")["what"]
    assert refusal("h100-8", "tenants.a_={}")["where"] == "tenants.a_"


def test_weights_of_this_machine_are_not_in_the_cluster(tmp_path):
    (tmp_path / "w").mkdir()
    fault = refusal("h100-8", f"models.smollm2.weights={tmp_path / 'w'}")
    assert fault["where"] == "models.smollm2.weights"
