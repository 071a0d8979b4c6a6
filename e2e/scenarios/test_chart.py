"""The Helm chart as a user installs it: the operator in a pod, `helm test`, the demo's model, and its end."""

import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml
from rich.console import Console

from e2e.cluster.errors import ClusterError
from e2e.cluster.image_inputs import TAG
from e2e.demo import chart, digits, watch
from e2e.demo.tools import Tools
from e2e.kit.kube import Kube, Object
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster

_OWNER = "meta.helm.sh/release-namespace"


@dataclass(frozen=True)
class Release:
    """The installed chart: its namespace, and the only one in which its operator works."""

    tools: Tools
    namespace: str
    models: str


@pytest.fixture(scope="module")
def release(kube: Kube, definition: str) -> Iterator[Release]:
    """The chart, installed as the demo does it but for one namespace; uninstalled, nothing of it may be left.

    Other scenarios run at the same time: their ModelDeployments must outlive the release.
    """
    name = f"e2e-chart-{uuid.uuid4().hex[:8]}"
    tools = Tools(str(kube.kubectl_path), str(kube.kubectl_path.with_name("helm")), kube.kubeconfig)
    made = Release(tools, name, f"{name}-models")
    for namespace in (made.namespace, made.models):
        kube("create", "namespace", namespace)
        kube("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    before = definition_of_models(kube, definition)
    try:
        try:
            chosen = f"watchNamespaces={{{made.models}}},tests.timeoutSeconds=120"
            chart.install(tools, print, name, ["--set", chosen])
            yield made
        finally:
            kube("delete", "modeldeployments", "--all", "-n", made.models, "--timeout=60s", seconds=90)
            tools.helm("uninstall", chart.RELEASE, "-n", name, "--ignore-not-found", "--wait", seconds=180)
        after = definition_of_models(kube, definition).get("metadata", {})
        assert after.get("uid") == before["metadata"]["uid"], "all ModelDeployments went with it"
        assert "deletionTimestamp" not in after, "all ModelDeployments go with it"

        def nothing_left() -> bool:
            # The pod of `helm test` stays, for who wants to read what it said.
            left = objects_of(kube, made) - {f"Pod/{chart.RELEASE}-test"}
            assert left == {f"CustomResourceDefinition/{definition}"}, left
            return True

        eventually(nothing_left, "everything but the definition is gone with the release", 60)
    finally:
        kube("delete", "namespace", made.namespace, made.models, "--wait=false")
        give_back(kube, definition, before)


def definition_of_models(kube: Kube, name: str) -> Object:
    return kube.get("customresourcedefinition", name, "default") or {}


def give_back(kube: Kube, definition: str, before: Object) -> None:
    """Let the definition belong to whom it belonged: who installs the chart later meets no stranger."""
    after = definition_of_models(kube, definition)["metadata"]
    patch = {
        field: {key: before["metadata"].get(field, {}).get(key) for key in after.get(field, {})}
        for field in ("annotations", "labels")
    }
    kube("patch", "crd", definition, "--type=merge", "-p", json.dumps({"metadata": patch}))


def objects_of(kube: Kube, release: Release) -> set[str]:
    """Everything in the cluster that bears the release's label, whatever its kind."""
    kinds = kube("api-resources", "--verbs=list", "-o", "name").split()
    label = f"app.kubernetes.io/instance={chart.RELEASE}"
    found = kube("get", ",".join(kinds), "--all-namespaces", "-l", label, "-o", "json")
    namespaces = {release.namespace, release.models}
    return {
        f"{item['kind']}/{item['metadata']['name']}"
        for item in json.loads(found)["items"]
        if item["metadata"].get("namespace") in namespaces
        or item["metadata"].get("annotations", {}).get(_OWNER) == release.namespace
    }


def test_helm_test_serves_a_model_by_the_operator_in_its_pod(kube: Kube, release: Release) -> None:
    try:
        said = release.tools.helm("test", chart.RELEASE, "-n", release.namespace, "--logs", seconds=300)
    except ClusterError as error:
        # The state of a container that failed holds the end of its log.
        told = kube("get", "pods", "-n", release.namespace, "-o", "jsonpath={.items[*].status}")
        raise AssertionError(f"{error}\n{told}") from None
    assert "answered [2" in said, said
    assert "this cluster serves models" in said, said
    assert kube.get("modeldeployment", "check-longshore", release.models) is None
    (pod,) = kube.list("pods", release.namespace, "app.kubernetes.io/component=operator")
    (state,) = pod["status"]["containerStatuses"]
    assert state["ready"], state
    assert state["restartCount"] == 0, state
    assert state["image"] == f"localhost/longshore/operator:{TAG}"
    log = kube("logs", pod["metadata"]["name"], "-n", release.namespace)
    assert f"{release.models}/check-longshore" in log
    assert "orbidden" not in log, log


def test_the_model_of_the_demo_is_optimized_and_answers(kube: Kube, release: Release) -> None:
    folder = digits.train()
    digits.push_all(release.tools, folder, chart.REGISTRY, release.namespace)
    theirs, ours = (f"{chart.REGISTRY}.{namespace}.svc" for namespace in (chart.NAMESPACE, release.namespace))
    assert theirs in digits.MANIFEST.read_text()
    model = yaml.safe_load(digits.MANIFEST.read_text().replace(theirs, ours))
    model["metadata"]["namespace"] = release.models
    model["spec"]["optimize"]["budget"]["trials"] = 2  # The demo tries all there are, which takes a minute.
    kube.apply(model)
    console = Console(width=200, file=io.StringIO(), record=True)
    status = watch.until_ready(release.tools, digits.NAME, release.models, console, 300)
    console.print(watch.measured(status))
    shown = console.export_text()
    assert "Optimizing: Job digits-optimize-" in shown
    assert f"{status['optimization']['chosen']} " in shown
    answers = digits.ask(release.tools, folder, 200, release.models)
    assert answers.asked == 200
    assert answers.right >= 180, answers
