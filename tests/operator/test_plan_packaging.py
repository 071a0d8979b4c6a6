"""`serving.packaging: Image`: a Job puts the model onto the server's image, and pods mount nothing."""

import json
from typing import Any

import pytest
from longshore.settings import NodeRegistry, Settings

from tests.operator.world import SPEC, World

PACKAGED = {**SPEC, "serving": {"packaging": "Image"}}
SETTINGS = Settings(
    store="oci://10.244.0.1:5000/longshore",
    server_image="localhost:5000/longshore/server:1",
    node_registries=(NodeRegistry(host="10.244.0.1:5000", node_host="localhost:5000"),),
)
ARTIFACT = f"oci://10.244.0.1:5000/longshore@sha256:{'b' * 64}"
IMAGE = f"oci://10.244.0.1:5000/longshore@sha256:{'c' * 64}"
GOOD: dict[str, Any] = {
    "outcome": "Succeeded",
    "artifact": ARTIFACT,
    "artifactSha256": "b" * 64,
    "image": IMAGE,
    "chosen": "original",
}


def asked(settings: Settings = SETTINGS) -> World:
    world = World(PACKAGED, settings)
    world.settle()
    return world


def packaged() -> World:
    world = asked()
    world.end_job(GOOD)
    world.settle()
    return world


def pod_of(world: World) -> dict[str, Any]:
    (deployment,) = (o for (kind, _), o in world.objects.items() if kind == "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def test_the_job_is_told_the_servers_image_as_pods_reach_it() -> None:
    """An ONNX model needs no Job otherwise."""
    (job,) = asked().jobs()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    request = json.loads({v["name"]: v["value"] for v in container["env"]}["LONGSHORE_JOB"])
    assert request["serverImage"] == "10.244.0.1:5000/longshore/server:1"
    assert World(SPEC, SETTINGS).plan().apply[0]["kind"] != "Job"


def test_the_pods_mount_nothing() -> None:
    """Any volume, of whatever kind, costs the kubelet's next look for mounts."""
    spec = pod_of(packaged())
    assert "volumes" not in spec
    assert "initContainers" not in spec
    (server,) = spec["containers"]
    assert server["image"] == f"localhost:5000/longshore@sha256:{'c' * 64}"
    assert "volumeMounts" not in server
    assert server["securityContext"]["readOnlyRootFilesystem"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["automountServiceAccountToken"] is False
    assert "/mnt/model" in server["args"]


def test_a_standing_revision_keeps_its_image_without_its_job() -> None:
    world = packaged()
    (job,) = world.jobs()
    world.vanish("Job", job["metadata"]["name"])
    world.vanish("Pod", f"{job['metadata']['name']}-pod")
    world.restart()
    assert world.settle() == []
    assert "volumes" not in pod_of(world)


def test_the_image_is_released_with_the_artifact() -> None:
    world = packaged()
    world.delete_root()
    assert world.plan().release == (ARTIFACT, IMAGE)


def test_another_server_image_makes_another_job() -> None:
    (first,) = asked().names("Job")
    (second,) = asked(
        SETTINGS.model_copy(update={"server_image": "localhost:5000/longshore/server:2"})
    ).names("Job")
    assert first != second


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({**GOOD, "image": None}, "older than the operator"),
        ({**GOOD, "image": f"oci://elsewhere.example/x@sha256:{'c' * 64}"}, "outside of the store"),
    ],
)
def test_no_image_of_somebody_else_is_run(report: dict[str, Any], words: str) -> None:
    world = asked()
    world.end_job(report)
    world.settle()
    assert world.names("Deployment") == []
    stalled = world.condition("Stalled")
    assert stalled["reason"] == "ArtifactRefused"
    assert words in stalled["message"]


@pytest.mark.parametrize("store", ["s3://bucket/models", "oci://elsewhere.example/models"])
def test_a_store_that_nodes_cannot_pull_from_is_told_before_a_job_runs(store: str) -> None:
    world = asked(SETTINGS.model_copy(update={"store": store}))
    assert world.jobs() == []
    stalled = world.condition("Stalled")
    assert stalled["reason"] == "PackagingImpossible"
    assert store in stalled["message"]


def test_triton_is_refused_by_the_kind() -> None:
    world = World({**SPEC, "serving": {"packaging": "Image", "runtime": "Triton"}}, SETTINGS)
    world.settle()
    assert "serving.packaging Image" in world.condition("Stalled")["message"]
