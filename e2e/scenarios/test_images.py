"""Images of the cluster: loaded by hand, or pulled from its registry."""

from collections.abc import Callable
from typing import Any

import pytest

from e2e.cluster.image_inputs import TAG
from e2e.kit import images
from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.operator import REGISTRY_FROM_NODE
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster


def pod_of(namespace: str, name: str, image: str) -> dict[str, Any]:
    """A pod that prints a usage and ends, as the namespace's pod security wants it."""
    container = {
        "name": "server",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["longshore-server", "--help"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"restartPolicy": "Never", "securityContext": security, "containers": [container]},
    }


def test_an_image_that_was_loaded_runs_also_after_it_was_pulled_under_another_name(
    deployment: Callable[[str], ModelDeployment], kube: Kube
) -> None:
    namespace = deployment("images").namespace
    pulled = f"{REGISTRY_FROM_NODE}/{images.push(REGISTRY_FROM_NODE, 'server')}"
    for name, image in (("pulled", pulled), ("loaded", f"localhost/longshore/server:{TAG}")):
        kube.apply(pod_of(namespace, name, image))

        def ended(name: str = name) -> bool:
            pod = kube.get("pod", name, namespace) or {}
            assert pod["status"]["phase"] == "Succeeded", pod["status"]
            return True

        eventually(ended, f"{name} ends", 60)
