"""The Job's pod is taken away: by its deadline, or with its node."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.kit.https import FileServer
from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import digits
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
CREDENTIALS = {"secretName": "files"}
OPTIMIZER = "app.kubernetes.io/component=optimizer"
GHOST = "longshore-ghost"


def optimized(files: FileServer, **pod_template: Any) -> dict[str, Any]:
    data = digits()
    return {
        "model": {"uri": files.put("digits.onnx", data.model), "credentials": CREDENTIALS},
        "optimize": {"evaluation": {"uri": files.put("evaluation.npz", data.evaluation)}},
        **({"serving": {"podTemplate": pod_template}} if pod_template else {}),
    }


def test_a_job_that_takes_too_long_is_told_and_more_time_recovers(
    deployment: New, files: FileServer, kube: Kube
) -> None:
    model = deployment("slow")
    spec = optimized(files)
    # Data that do not come keep the Job at work: this one could end before a deadline is seen.
    with files.holding("evaluation.npz"):
        model.apply(spec)
        pod = eventually(lambda: kube.list("pods", model.namespace, OPTIMIZER), "the Job's pod", 60, 0.05)[0]
        # A deadline may be brought forward: nobody waits for the real one here.
        patch = '{"spec": {"activeDeadlineSeconds": 1}}'
        kube("patch", "pod", pod["metadata"]["name"], "-n", model.namespace, "--type=merge", "-p", patch)
        stalled = model.wait_for("Stalled", "True")
    assert stalled["reason"] == "DeadlineExceeded", stalled
    assert "budget.time" in stalled["message"]
    model.apply({**spec, "optimize": {**spec["optimize"], "budget": {"time": "40m"}}})
    model.wait_ready(180)


@pytest.fixture
def ghost(kube: Kube) -> Iterator[str]:
    """A node without a kubelet, which takes only who tolerates it; gives the label that leads there."""
    label = "longshore.test/ghost"
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": GHOST, "labels": {label: "true"}},
            "spec": {"taints": [{"key": label, "value": "true", "effect": "NoSchedule"}]},
        }
    )
    status = (
        '{"status": {"allocatable": {"cpu": "64", "memory": "64Gi", "pods": "110"}, '
        '"conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}]}}'
    )
    kube("patch", "node", GHOST, "--subresource=status", "--type=merge", "-p", status)
    real = [name for name in kube("get", "nodes", "-o", "name").split() if name != f"node/{GHOST}"]
    try:
        yield label
    finally:
        kube("delete", "node", GHOST, "--ignore-not-found")
        for name in real:
            kube("label", name, f"{label}-")


def test_a_job_whose_node_is_gone_goes_on_elsewhere(
    deployment: New, files: FileServer, kube: Kube, ghost: str
) -> None:
    tolerations = [
        {"key": ghost, "operator": "Exists"},
        # Without a kubelet the node is soon found out; its pods are to wait for its end here.
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
    ]
    model = deployment("haunted")
    model.apply(optimized(files, nodeSelector={ghost: "true"}, tolerations=tolerations))

    def bound() -> set[str]:
        pods = kube.list("pods", model.namespace, OPTIMIZER)
        return {pod["metadata"]["uid"] for pod in pods if pod["spec"].get("nodeName") == GHOST}

    first = eventually(bound, "the Job's pod is on the node", 60)
    real = next(name for name in kube("get", "nodes", "-o", "name").split() if name != f"node/{GHOST}")
    kube("delete", "node", GHOST)
    kube("label", real, f"{ghost}=true")
    model.wait_ready(240, fail_on_stalled=True)
    jobs = kube.list("jobs", model.namespace)
    assert len(jobs) == 1
    assert jobs[0]["status"]["succeeded"] == 1
    assert jobs[0]["metadata"]["labels"]["longshore.dev/name"] == "haunted"
    assert not first & {pod["metadata"]["uid"] for pod in kube.list("pods", model.namespace, OPTIMIZER)}
    assert model.infer({"x": digits().images[:2]})["probabilities"].shape == (2, 10)
