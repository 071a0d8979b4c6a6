"""The chart installed on a real API server, and the operator at work with the rights that it gives."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import apiserver as api_server_process
from e2e.cluster.apiserver import ApiServer
from e2e.cluster.errors import ClusterError
from e2e.cluster.wait import wait_for
from tests.chart.rendered import CHART, Helm, Object
from tests.kube import MODELS, Kube, model, models_path

pytestmark = pytest.mark.apiserver

NAMESPACE = "longshore-system"
ROUTES = {"httproutes": "HTTPRoute", "grpcroutes": "GRPCRoute"}
GATEWAY_API = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.gateway.networking.k8s.io
  annotations: {{api-approved.kubernetes.io: "https://github.com/kubernetes-sigs/gateway-api/pull/2997"}}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {{kind: {kind}, listKind: {kind}List, plural: {plural}, singular: {singular}}}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server of this file's own, which also aggregates roles."""
    controllers = ["clusterrole-aggregation-controller"]
    with api_server_process.start(tmp_path_factory.mktemp("install"), controllers=controllers) as running:
        yield running


@pytest.fixture(scope="module")
def kube(server: ApiServer) -> Iterator[Kube]:
    with Kube(server) as client:
        for plural, kind in ROUTES.items():
            client.install(GATEWAY_API.format(plural=plural, kind=kind, singular=kind.lower()))
        for namespace in (NAMESPACE, "team-a", "team-b"):
            client.namespace(namespace)
        for plural in ROUTES:
            served(client, f"/apis/gateway.networking.k8s.io/v1/{plural}")
        yield client


def served(kube: Kube, path: str) -> None:
    """Wait until a kind that was just defined can be listed."""
    wait_for(
        path, lambda: kube.call("GET", path).status == 200, seconds=30, next_step="look at the API server"
    )


@contextmanager
def installed(
    helm: Helm, server: ApiServer, values: dict[str, Any], name: str = "longshore"
) -> Iterator[str]:
    """The chart as a release, while the context lasts; gives what helm says."""
    options = ("-n", NAMESPACE, "--kubeconfig", str(server.kubeconfig))
    file = str(helm.values(values))
    said = helm("upgrade", "--install", name, str(CHART), "-f", file, *options, seconds=120)
    try:
        with Kube(server) as client:
            served(client, MODELS + "/modeldeployments")
        yield said
    finally:
        helm("uninstall", name, *options, "--wait", seconds=120)


def as_service_account(server: ApiServer, directory: Path) -> Path:
    """Write a kubeconfig that holds a token of the operator's ServiceAccount."""
    token = server.kubectl("create", "token", "longshore", "-n", NAMESPACE).strip()
    config = yaml.safe_load(server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = directory / "operator.conf"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass(frozen=True)
class Operator:
    """A running operator and its log."""

    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def operator_of(kube: Kube, directory: Path) -> Iterator[Operator]:
    """The process that the chart's Deployment would run, with its arguments and variables."""
    deployment = kube.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/longshore")
    assert deployment is not None
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    program, *words = container["command"]
    environment = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    log = directory / "operator.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *words, *container["args"], "--port=0"],
            env={
                **os.environ,
                **environment,
                "HOME": str(directory),
                "POD_NAMESPACE": NAMESPACE,
                "KUBECONFIG": str(as_service_account(kube.server, directory)),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Operator(process, log)
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def converges(kube: Kube, namespace: str, operator: Operator) -> None:
    """Take a model through its life: made, changed, deleted."""

    def eventually(probe: Callable[[], Any], what: str) -> None:
        wait_for(
            what,
            probe,
            seconds=60,
            next_step="read the log above",
            log=operator.log,
            alive=lambda: operator.process.poll() is None,
        )

    served = model("served", namespace=namespace)
    served["spec"]["route"] = {
        "parentRefs": [{"name": "gateway", "sectionName": "http"}],
        "grpcParentRefs": [{"name": "gateway", "sectionName": "grpc"}],
    }
    optimized = model("optimized", namespace=namespace)
    optimized["spec"]["optimize"] = {}
    for obj in (served, optimized):
        kube.apply(models_path(namespace, obj["metadata"]["name"]), obj)

    def children(group: str, plural: str, name: str) -> list[Object]:
        return kube.items(f"/{group}/namespaces/{namespace}/{plural}?labelSelector=longshore.dev/name={name}")

    eventually(lambda: len(children("apis/apps/v1", "deployments", "served")) == 1, "a Deployment")
    eventually(lambda: children("apis/batch/v1", "jobs", "optimized"), "an optimize Job")
    gateway_api = "apis/gateway.networking.k8s.io/v1"
    for plural, kind in ROUTES.items():
        eventually(lambda p=plural: children(gateway_api, p, "served"), kind)  # type: ignore[misc]
    for group, plural in (
        ("api/v1", "services"),
        ("api/v1", "serviceaccounts"),
        ("apis/policy/v1", "poddisruptionbudgets"),
        ("apis/networking.k8s.io/v1", "networkpolicies"),
    ):
        eventually(lambda g=group, p=plural: children(g, p, "served"), plural)  # type: ignore[misc]

    def status(name: str) -> Any:
        return (kube.get(models_path(namespace, name)) or {}).get("status")

    eventually(lambda: status("served"), "a status")
    kube.merge(models_path(namespace, "served"), {"spec": {"route": None, "scaling": {"warm": 1}}})
    for plural, kind in ROUTES.items():
        eventually(lambda p=plural: not children(gateway_api, p, "served"), f"no {kind}")  # type: ignore[misc]

    def events() -> set[str]:
        return {event["reason"] for event in kube.items(f"/api/v1/namespaces/{namespace}/events")}

    eventually(lambda: "FieldsNotSupported" in events(), "an event")
    for name in ("served", "optimized"):
        kube.delete(models_path(namespace, name))
    eventually(lambda: not kube.items(models_path(namespace)), "no ModelDeployment")


def test_the_operator_converges_with_the_rights_of_a_cluster_wide_install(
    helm: Helm, server: ApiServer, kube: Kube, tmp_path: Path
) -> None:
    with installed(helm, server, {}) as said:
        assert "Longshore 0.1.0 works in the whole cluster." in said
        with operator_of(kube, tmp_path) as operator:
            converges(kube, "team-b", operator)
            leases = kube.items(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")
            assert [lease["metadata"]["name"] for lease in leases] == ["longshore"]
    written = operator.log.read_text()
    assert not re.search("(?i)forbidden|permission", written), written
    assert '"level"' in written.splitlines()[-1], "logs are JSON lines"


def test_the_operator_converges_with_the_rights_of_namespaces(
    helm: Helm, server: ApiServer, kube: Kube, tmp_path: Path
) -> None:
    values = {"watchNamespaces": ["team-a"], "nodeRegistries": [{"host": "a:1"}, {"host": "b:2"}]}
    with installed(helm, server, values), operator_of(kube, tmp_path) as operator:
        kube.apply(models_path("team-b", "elsewhere"), model("elsewhere", namespace="team-b"))
        converges(kube, "team-a", operator)
        elsewhere = kube.get(models_path("team-b", "elsewhere"))
        assert elsewhere is not None
        assert "status" not in elsewhere, "it works outside of its namespaces"
        kube.delete(models_path("team-b", "elsewhere"))
    written = operator.log.read_text()
    assert not re.search("(?i)forbidden|permission", written), written


def test_uninstalling_keeps_the_models_and_installing_again_takes_them_up(
    helm: Helm, server: ApiServer, kube: Kube
) -> None:
    with installed(helm, server, {}):
        kube.apply(models_path("team-a", "kept"), model("kept", namespace="team-a"))
    assert kube.get(models_path("team-a", "kept")) is not None
    with installed(helm, server, {}):
        assert kube.get(models_path("team-a", "kept")) is not None
    kube.delete(models_path("team-a", "kept"))


def test_a_cluster_without_storage_classes_gets_no_claim(helm: Helm, server: ApiServer, kube: Kube) -> None:
    def claims() -> list[str]:
        found = kube.items(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims")
        return [claim["metadata"]["name"] for claim in found]

    with installed(helm, server, {}):
        assert claims() == []
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "standard",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "example.com/none",
    }
    kube.apply("/apis/storage.k8s.io/v1/storageclasses/standard", storage_class)
    try:
        with installed(helm, server, {}):
            assert claims() == ["longshore-registry"]
        assert claims() == ["longshore-registry"], "artifacts are gone with the release"
    finally:
        kube.delete("/apis/storage.k8s.io/v1/storageclasses/standard")
        kube.delete(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/longshore-registry")


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("view", ["get", "list", "watch"], ["create", "update", "patch", "delete"]),
        ("edit", ["get", "list", "watch", "create", "update", "patch", "delete"], []),
        ("admin", ["get", "list", "watch", "create", "update", "patch", "delete"], []),
    ],
)
def test_users_of_a_namespace_get_their_rights_from_its_roles(
    helm: Helm, server: ApiServer, kube: Kube, role: str, may: list[str], may_not: list[str]
) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"user-{role}", "namespace": "team-a"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"user-{role}"}],
    }
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/team-a/rolebindings/user-{role}"
    kube.apply(path, binding)

    def can(verb: str, subresource: str = "") -> bool:
        asked = ("modeldeployments.longshore.dev", f"--subresource={subresource}")
        try:
            said = server.kubectl("auth", "can-i", verb, *asked, "-n", "team-a", f"--as=user-{role}")
        except ClusterError:
            return False
        return said.strip().startswith("yes")

    with installed(helm, server, {}):
        wait_for(f"{role} aggregated", lambda: can(may[-1]), seconds=30, next_step="look at the ClusterRole")
        assert [verb for verb in may if not can(verb)] == []
        assert [verb for verb in may_not if can(verb)] == []
        assert can("patch", "scale") == (role != "view")
        assert not can("patch", "status")


def test_a_second_operator_may_stand_beside_the_first(helm: Helm, server: ApiServer, kube: Kube) -> None:
    with installed(helm, server, {"watchNamespaces": ["team-a"]}):
        values = {
            "watchNamespaces": ["team-b"],
            "crds": {"install": False},
            "rbac": {"aggregate": False},
        }
        with installed(helm, server, values, "second"):
            deployments = kube.items(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments")
            assert {"longshore", "second-longshore"} <= {d["metadata"]["name"] for d in deployments}
