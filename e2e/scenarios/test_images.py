"""Images of the cluster: loaded by hand, or pulled from its registry."""

from collections.abc import Callable, Sequence

import pytest

from e2e.cluster.image_inputs import TAG
from e2e.kit import images
from e2e.kit.kube import Kube, Object
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.operator import REGISTRY_FROM_NODE
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster


OPTIMIZER_BYTES = 400_000_000
"""What the image of Jobs may take on a node, without the frameworks of its variants."""


def pod_of(
    namespace: str, name: str, image: str, command: Sequence[str] = ("longshore-server", "--help")
) -> Object:
    """A pod that does one thing and ends, as the namespace's pod security wants it."""
    container = {
        "name": "server",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
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
        await_end(kube, namespace, name)


def await_end(kube: Kube, namespace: str, name: str) -> None:
    def ended() -> bool:
        pod = kube.get("pod", name, namespace) or {}
        assert pod["status"]["phase"] == "Succeeded", pod["status"]
        return True

    eventually(ended, f"{name} ends", 60)


def test_the_image_of_jobs_is_small(deployment: Callable[[str], ModelDeployment], kube: Kube) -> None:
    namespace = deployment("size").namespace
    # Some folders are not for this user: they are counted as empty.
    count = [
        "sh",
        "-c",
        "du --one-file-system --apparent-size --block-size=1 --summarize / 2>/dev/null || true",
    ]
    kube.apply(pod_of(namespace, "size", f"localhost/longshore/optimizer:{TAG}", count))
    await_end(kube, namespace, "size")
    used = int(kube("logs", "size", "--namespace", namespace).split()[0])
    assert used < OPTIMIZER_BYTES
