"""Fixtures of the scenarios: an operator at work on the real cluster, and a namespace of one's own."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.cluster.kubectl import await_established
from e2e.kit import activators, https, registry
from e2e.kit.https import FileServer
from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.operator import NODE_ADDRESS, REGISTRY_FROM_NODE, REGISTRY_FROM_PODS, ROOT, Operator
from e2e.kit.wait import eventually

OWNED = (
    "deployments,services,jobs,pods,serviceaccounts,poddisruptionbudgets,networkpolicies,"
    "endpointslices,horizontalpodautoscalers"
)
OWNED_WHERE_DEFINED = (
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "scaledobjects.keda.sh",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give scenarios more time than unit tests: the first one may build every image."""
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Bring up the cluster with the images of this checkout; gives what a shell would export.

    LONGSHORE_E2E_AS_IT_IS=1 takes the cluster and its images as they are.
    """
    tool = [sys.executable, "-m", "e2e.cluster"]
    if not os.environ.get("LONGSHORE_E2E_AS_IT_IS"):
        subprocess.run([*tool, "up"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*tool, "images"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        if os.environ.get("RUNTIME") == "Triton":
            subprocess.run([*tool, "images", "triton"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    said = subprocess.run([*tool, "env"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    pairs = (line.removeprefix("export ").partition("=") for line in said.splitlines())
    return {name: value for name, _, value in pairs}


@pytest.fixture(scope="session")
def kube(environment: dict[str, str]) -> Kube:
    """Talk to the cluster."""
    binaries = Path(environment["PATH"].partition(":")[0])
    return Kube(Path(environment["KUBECONFIG"]), binaries / "kubectl")


@pytest.fixture(scope="session")
def own_namespace(kube: Kube, files: FileServer) -> Iterator[str]:
    """A namespace with restricted pod security, for this process of the test run alone."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    certificate = files.certificate.decode()
    kube("create", "namespace", name)
    kube("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    kube("create", "secret", "generic", "files", "-n", name, f"--from-literal=ca.crt={certificate}")
    try:
        yield name
    finally:
        kube("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def activator_token(kube: Kube, own_namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the chart's activators in the namespace; gives the file with their token."""
    return activators.install(kube, own_namespace, tmp_path_factory.mktemp("activator"))


@pytest.fixture(scope="session")
def definition(kube: Kube) -> str:
    """ModelDeployments as this checkout defines them; gives the name of their definition."""
    name = "modeldeployments.longshore.dev"
    kube("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    await_established(kube.kubectl_path.parent, kube.kubeconfig, f"crd/{name}")
    return name


@pytest.fixture(scope="session")
def operator(
    kube: Kube,
    definition: str,
    own_namespace: str,
    activator_token: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Operator]:
    """The operator, out of the cluster; it works in this process's namespace only."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    running = Operator(kube.kubeconfig, own_namespace, log, activator_token)
    running.start()
    try:
        yield running
    finally:
        running.end()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """An HTTPS server that pods can reach."""
    with https.serve(NODE_ADDRESS, tmp_path_factory.mktemp("https")) as server:
        yield server


def owned_kinds(kube: Kube) -> str:
    """Give the kinds that Longshore may have made; those of others only where the cluster knows them."""
    defined = kube("get", "crd", *OWNED_WHERE_DEFINED, "--ignore-not-found", "-o", "name").splitlines()
    return ",".join([OWNED, *(name.rpartition("/")[2] for name in defined)])


@pytest.fixture
def namespace(kube: Kube, own_namespace: str, operator: Operator) -> Iterator[str]:
    """The namespace, empty; at the end of a test nothing that Longshore made may be left in it."""
    try:
        yield own_namespace
        kube("delete", "modeldeployments", "--all", "-n", own_namespace, "--timeout=60s")

        kinds = owned_kinds(kube)

        def nothing_left() -> bool:
            left = kube.list(kinds, own_namespace, "app.kubernetes.io/managed-by=longshore")
            assert not left, [f"{o['kind']}/{o['metadata']['name']}" for o in left]
            return True

        eventually(nothing_left, "everything is gone with the ModelDeployment", 90)
    finally:
        kube("delete", "modeldeployments", "--all", "-n", own_namespace, "--ignore-not-found", "--wait=false")


@pytest.fixture
def deployment(kube: Kube, namespace: str) -> Callable[[str], ModelDeployment]:
    """Make ModelDeployments in the test's namespace."""
    return lambda name: ModelDeployment(kube, namespace, name)


@pytest.fixture(scope="session")
def push() -> Callable[..., str]:
    """Push a model directory to the node's registry; gives the uri for a spec."""

    def push_files(repository: str, tag: str = "1", **contents: bytes) -> str:
        named = {name.replace("__", "."): content for name, content in contents.items()}
        registry.push(REGISTRY_FROM_NODE, repository, tag, named)
        return f"oci://{REGISTRY_FROM_PODS}/{repository}:{tag}"

    return push_files
