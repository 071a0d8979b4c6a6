"""What the chart renders, and that a real API server takes it."""

import json
from typing import Any

import pytest
import yaml
from longshore.resources.names import MANAGED_BY, MANAGER

from e2e.cluster.apiserver import ApiServer
from e2e.cluster.errors import ClusterError
from tests.chart.rendered import CHART, ROOT, Helm, Object, environment, find, names

REGISTRY = "longshore-registry.longshore-system.svc:5000"
BOTH = ("longshore", "longshore-activator")
NODE_PORT: dict[str, Any] = {"registry": {"nodePort": 30500}}
PLAIN: dict[str, Any] = {}
EVERYTHING: dict[str, Any] = {
    "image": {
        "registry": "registry.example/ml",
        "tag": "1.2.3",
        "pullSecrets": ["pull"],
        "pullPolicy": "Always",
    },
    "images": {"server": "registry.example/other/server@sha256:" + "0" * 64},
    "watchNamespaces": ["team-a", "team-b"],
    "store": {"uri": "oci://registry.example/artifacts", "secretName": "artifacts"},
    "nodeRegistries": [{"host": "registry.example"}, {"host": "10.0.0.1:5000", "nodeHost": "localhost:5000"}],
    "plainHttpRegistries": ["10.0.0.1:5000"],
    "registry": {
        "persistence": {"mode": "always", "size": "5Gi", "storageClassName": "fast"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "disk", "operator": "Exists"}],
    },
    "operator": {
        "replicas": 3,
        "verbose": True,
        "jsonLogs": False,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "longshore"}},
                        },
                    }
                ]
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"note": "yes"},
        "podLabels": {"team": "platform"},
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    },
    "activator": {"enabled": True, "replicas": 3},
    "packSmallModels": True,
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    "serviceAccount": {"annotations": {"cloud.example/role": "longshore"}},
    "monitoring": {
        "serviceMonitor": True,
        "podMonitor": True,
        "prometheus": "http://prometheus:9090",
        "labels": {"release": "prometheus"},
    },
    "tests": {"modelUri": "oci://registry.example/models/tiny:1"},
}
LEAN: dict[str, Any] = {
    "store": {"uri": "s3://bucket/artifacts"},
    "registry": {"enabled": False},
    "rbac": {"create": False, "aggregate": False},
    "serviceAccount": {"create": False, "name": "own"},
    "crds": {"install": False},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "tests": {"enabled": False},
}
SETS = {"plain": PLAIN, "everything": EVERYTHING, "lean": LEAN}


def test_lint_finds_nothing(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.apiserver
@pytest.mark.parametrize("name", SETS)
def test_the_api_server_takes_every_object(helm: Helm, apiserver: ApiServer, name: str) -> None:
    spaces = ["longshore-system", "team-a", "team-b"]
    for namespace in spaces:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    known = [o for o in helm.render(SETS[name]) if not o["apiVersion"].startswith("monitoring.coreos.com/")]
    assert known
    said = apiserver.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(known)
    )
    assert len(said.splitlines()) == len(known)


@pytest.mark.apiserver
@pytest.mark.parametrize("name", SETS)
def test_every_pod_is_allowed_under_restricted_pod_security(
    helm: Helm, apiserver: ApiServer, name: str
) -> None:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    pods = []
    for obj in helm.render(SETS[name]):
        spec = obj["spec"] if obj["kind"] == "Pod" else obj.get("spec", {}).get("template", {}).get("spec")
        if spec and obj["kind"] != "CustomResourceDefinition":
            metadata = {"name": obj["metadata"]["name"], "namespace": "restricted"}
            # The priority class of the real cluster is bound to its own namespace.
            spec = {k: v for k, v in spec.items() if k != "priorityClassName"}
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    assert pods
    apiserver.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(pods))


@pytest.mark.parametrize("name", SETS)
def test_a_busy_pod_is_not_taken_for_a_dead_one(helm: Helm, name: str) -> None:
    probes = {}
    for obj in helm.render(SETS[name]):
        template = obj["spec"].get("template", {}) if obj["kind"] == "Deployment" else {}
        for container in template.get("spec", {}).get("containers", []):
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                if kind in container:
                    probes[f"{obj['metadata']['name']} {kind}"] = container[kind]
    assert len(probes) >= 3
    assert {probe["timeoutSeconds"] for probe in probes.values()} == {5}, probes
    patience = [p["timeoutSeconds"] * p["failureThreshold"] for n, p in probes.items() if "liveness" in n]
    assert min(patience) >= 30


def test_the_chart_carries_the_generated_definition(helm: Helm) -> None:
    """A template and not crds/, so that an upgrade of the release upgrades the definition."""
    generated = (ROOT / "crds/longshore.dev_modeldeployments.yaml").read_text()
    assert (CHART / "files/longshore.dev_modeldeployments.yaml").read_text() == generated, (
        "run `make generate`"
    )
    rendered = find(helm.render(), "CustomResourceDefinition", "modeldeployments.longshore.dev")
    assert rendered["spec"] == yaml.safe_load(generated)["spec"]
    assert rendered["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_definition_can_go_with_the_release(helm: Helm) -> None:
    rendered = find(
        helm.render({"crds": {"keep": False}}), "CustomResourceDefinition", "modeldeployments.longshore.dev"
    )
    assert "helm.sh/resource-policy" not in rendered["metadata"].get("annotations", {})


def test_by_default_artifacts_go_to_the_registry_in_the_cluster(helm: Helm) -> None:
    objects = helm.render()
    settings = environment(find(objects, "Deployment", "longshore"))
    service = find(objects, "Service", "longshore-registry")
    assert settings["LONGSHORE_STORE"] == f"oci://{REGISTRY}/longshore"
    assert settings["LONGSHORE_STORE_PLAIN_HTTP"] == "true"
    assert settings["LONGSHORE_PLAIN_HTTP_REGISTRIES"] == REGISTRY
    assert service["spec"]["type"] == "ClusterIP", "nobody outside of the cluster reaches it"
    assert "LONGSHORE_NODE_REGISTRIES" not in settings, "init containers fetch, which works everywhere"


def test_operator_and_activators_share_one_token(helm: Helm) -> None:
    def secrets(objects: list[Object]) -> set[str]:
        pods = [find(objects, "Deployment", n)["spec"]["template"]["spec"] for n in BOTH]
        return {v["secret"]["secretName"] for pod in pods for v in pod["volumes"] if "secret" in v}

    assert "longshore-activator" not in names(helm.render(), "Deployment")
    objects = helm.render({"activator": {"enabled": True}})
    assert secrets(objects) == {"longshore-activator"} == set(names(objects, "Secret"))
    objects = helm.render({"activator": {"enabled": True, "existingSecret": "mine"}})
    assert secrets(objects) == {"mine"}
    assert names(objects, "Secret") == []


def test_only_pods_of_longshore_reach_the_registry(helm: Helm) -> None:
    objects = helm.render()
    policy = find(objects, "NetworkPolicy", "longshore-registry")["spec"]
    labels = find(objects, "Deployment", "longshore-registry")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    others, own = policy["ingress"][0]["from"]
    assert others["podSelector"]["matchLabels"] == {MANAGED_BY: MANAGER}
    for kind, name in (("Deployment", "longshore"), ("Pod", "longshore-test")):
        found = find(objects, kind, name)
        pod = found if kind == "Pod" else found["spec"]["template"]
        assert own["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert "longshore-registry" not in names(helm.render(NODE_PORT), "NetworkPolicy"), "nodes must reach it"


def test_nodes_may_pull_from_the_registry_in_the_cluster(helm: Helm) -> None:
    objects = helm.render({"registry": {"nodePort": 30500}})
    settings = environment(find(objects, "Deployment", "longshore"))
    service = find(objects, "Service", "longshore-registry")
    assert settings["LONGSHORE_NODE_REGISTRIES"] == f"{REGISTRY}=localhost:30500"
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["ports"][0]["nodePort"] == 30500


@pytest.mark.parametrize(
    ("values", "version", "expected"),
    [
        ({}, "1.36.0", None),
        (NODE_PORT, "1.34.9", None),
        (NODE_PORT, "1.35.0", f"{REGISTRY}=localhost:30500"),
        (NODE_PORT, "1.35.2-gke.100", f"{REGISTRY}=localhost:30500"),
        (NODE_PORT | {"imageVolumes": "always"}, "1.33.0", f"{REGISTRY}=localhost:30500"),
        (NODE_PORT | {"imageVolumes": "never"}, "1.36.0", None),
        (
            {
                "nodeRegistries": [{"host": "a.example"}, {"host": "b:5000", "nodeHost": "localhost:5000"}],
            },
            "1.36.0",
            "a.example=a.example b:5000=localhost:5000",
        ),
    ],
)
def test_nodes_mount_models_only_where_they_can(
    helm: Helm, values: dict[str, Any], version: str, expected: str | None
) -> None:
    settings = environment(find(helm.render(values, version=version), "Deployment", "longshore"))
    assert settings.get("LONGSHORE_NODE_REGISTRIES") == expected


def test_a_store_of_ones_own_replaces_the_registry(helm: Helm) -> None:
    values = {"store": {"uri": "oci://registry.example/artifacts"}, "registry": {"enabled": False}}
    objects = helm.render(values)
    settings = environment(find(objects, "Deployment", "longshore"))
    assert settings["LONGSHORE_STORE"] == "oci://registry.example/artifacts"
    assert settings["LONGSHORE_STORE_PLAIN_HTTP"] == "false"
    assert not [o for o in objects if "registry" in o["metadata"]["name"]]


def test_no_store_at_all_is_refused_with_the_next_step(helm: Helm) -> None:
    with pytest.raises(ClusterError, match=r"set store.uri .* or registry.enabled=true"):
        helm.render({"registry": {"enabled": False}})


def test_without_a_cluster_to_look_at_the_registry_gets_a_claim(helm: Helm) -> None:
    assert names(helm.render(), "PersistentVolumeClaim") == ["longshore-registry"]
    assert names(helm.render({"registry": {"persistence": {"mode": "never"}}}), "PersistentVolumeClaim") == []
    own = {"registry": {"persistence": {"existingClaim": "mine"}}}
    objects = helm.render(own)
    volumes = find(objects, "Deployment", "longshore-registry")["spec"]["template"]["spec"]["volumes"]
    assert names(objects, "PersistentVolumeClaim") == []
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}} in volumes


def test_images_come_from_one_place_and_each_can_be_named(helm: Helm) -> None:
    deployment = find(helm.render(EVERYTHING), "Deployment", "longshore")
    settings = environment(deployment)
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example/ml/operator:1.2.3"
    assert settings["LONGSHORE_OPTIMIZER_IMAGE"] == "registry.example/ml/optimizer:1.2.3"
    assert settings["LONGSHORE_SERVER_IMAGE"] == EVERYTHING["images"]["server"]
    assert settings["LONGSHORE_IMAGE_PULL_SECRETS"] == "pull"
    assert settings["LONGSHORE_STORE_SECRET"] == "artifacts"
    assert settings["LONGSHORE_PROMETHEUS"] == "http://prometheus:9090"
    assert settings["LONGSHORE_PACK_SMALL_MODELS"] == "true"
    assert settings["HTTPS_PROXY"] == "http://proxy.example:3128"


def test_namespaced_installs_hold_no_cluster_wide_right(helm: Helm) -> None:
    objects = helm.render({"watchNamespaces": ["team-a", "team-b"], "rbac": {"aggregate": False}})
    assert names(objects, "ClusterRole") == []
    assert names(objects, "ClusterRoleBinding") == []
    places = {o["metadata"]["namespace"] for o in objects if o["kind"] == "RoleBinding"}
    assert places == {"longshore-system", "team-a", "team-b"}
    settings = environment(find(objects, "Deployment", "longshore"))
    assert settings["LONGSHORE_NAMESPACES"] == "team-a team-b"


def test_two_releases_share_no_cluster_wide_name(helm: Helm) -> None:
    def cluster_wide(namespace: str) -> set[tuple[str, str]]:
        objects: list[Object] = helm.render({"crds": {"install": False}}, namespace)
        return {(o["kind"], o["metadata"]["name"]) for o in objects if "namespace" not in o["metadata"]}

    assert cluster_wide("one")
    assert not cluster_wide("one") & cluster_wide("two")


def test_monitors_are_behind_a_switch_and_select_what_exists(helm: Helm) -> None:
    assert names(helm.render(), "ServiceMonitor") == names(helm.render(), "PodMonitor") == []
    objects = helm.render(EVERYTHING)
    service = find(objects, "Service", "longshore")
    monitor = find(objects, "ServiceMonitor", "longshore")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    models = find(objects, "PodMonitor", "longshore-models")
    assert models["spec"]["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}


def test_services_and_budgets_select_the_pods_of_the_chart(helm: Helm) -> None:
    objects = helm.render()
    for name in ("longshore", "longshore-registry"):
        labels = find(objects, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert find(objects, "Service", name)["spec"]["selector"].items() <= labels.items()
    selectors = [find(objects, "Service", n)["spec"]["selector"] for n in ("longshore", "longshore-registry")]
    assert selectors[0] != selectors[1]
    for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        selector = find(objects, kind, "longshore")["spec"][path]["matchLabels"]
        assert selector == selectors[0]


def test_the_probes_ask_what_the_operator_answers(helm: Helm) -> None:
    container = find(helm.render(), "Deployment", "longshore")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "metrics", "containerPort": 9443, "protocol": "TCP"} in container["ports"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
