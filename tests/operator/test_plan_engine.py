"""`serving.triton.accelerator: TensorRT`: a Job builds the engine on the kind of node that serves."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from longshore.settings import Settings

from tests.operator.world import SPEC, World

SETTINGS = Settings(
    tensorrt_image="registry.example/longshore/tensorrt:1", store="oci://registry.example/store"
)
SERVING: dict[str, Any] = {
    "runtime": "Triton",
    "triton": {"accelerator": "TensorRT"},
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
    "podTemplate": {"nodeSelector": {"pool": "gpu"}, "runtimeClassName": "nvidia"},
}
ENGINE = {**SPEC, "serving": SERVING}
A10_550 = {
    "pool": "gpu",
    "nvidia.com/gpu.product": "NVIDIA-A10G",
    "nvidia.com/cuda.driver-version.full": "550.54.15",
}
A10_560 = {**A10_550, "nvidia.com/cuda.driver-version.full": "560.35.03"}
ELSEWHERE = {"pool": "other", "nvidia.com/gpu.product": "NVIDIA-H100", "nvidia.com/cuda.driver.major": "570"}
DIGEST = "b" * 64
GOOD = {"outcome": "Succeeded", "artifact": f"oci://registry.example/store@sha256:{DIGEST}"}


def asked(
    *nodes: Mapping[str, str], spec: Mapping[str, Any] = ENGINE, settings: Settings = SETTINGS
) -> World:
    world = World(spec, settings)
    world.senses.gpu_nodes = nodes
    world.settle()
    return world


def served(*nodes: Mapping[str, str]) -> World:
    world = asked(*nodes)
    world.end_job(GOOD)
    world.settle()
    return world


def pod_of_job(world: World) -> dict[str, Any]:
    spec: dict[str, Any] = world.jobs()[-1]["spec"]["template"]["spec"]
    return spec


def request_of(world: World) -> dict[str, Any]:
    environment = {v["name"]: v["value"] for v in pod_of_job(world)["containers"][0]["env"]}
    found: dict[str, Any] = json.loads(environment["LONGSHORE_JOB"])
    return found


def test_the_job_runs_on_a_node_with_the_gpu_that_will_serve() -> None:
    world = asked(A10_550, ELSEWHERE)
    pod = pod_of_job(world)
    assert pod["nodeSelector"] == A10_550
    assert pod["runtimeClassName"] == "nvidia"
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/longshore/tensorrt:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "NVIDIA-A10G" in request_of(world)["target"]["gpu"]


def test_a_slice_is_built_on_a_slice_of_its_kind() -> None:
    serving = {**SERVING, "resources": {"limits": {"nvidia.com/mig-1g.5gb": "1"}}}
    limits = pod_of_job(asked(A10_550, spec={**SPEC, "serving": serving}))["containers"][0]["resources"][
        "limits"
    ]
    assert limits["nvidia.com/mig-1g.5gb"] == "1"
    assert "nvidia.com/gpu" not in limits


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (ENGINE, SETTINGS.model_copy(update={"tensorrt_image": None})),
        ({**SPEC, "serving": {**SERVING, "triton": {}}}, SETTINGS),
    ],
    ids=["no image that builds", "no accelerator"],
)
def test_without_an_image_or_the_accelerator_nothing_is_built_ahead(
    spec: Mapping[str, Any], settings: Settings
) -> None:
    world = World(spec, settings)
    world.settle()
    assert world.jobs() == []
    assert len(world.names("Deployment")) == 1


def test_it_is_not_built_before_the_nodes_are_known() -> None:
    world = World(ENGINE, SETTINGS)
    world.settle()
    assert world.jobs() == []
    assert "GPUs of the nodes" in world.condition("Reconciling")["message"]
    world.senses.gpu_nodes = (A10_550,)
    world.settle()
    assert len(world.jobs()) == 1


def test_where_no_node_is_known_the_scheduler_finds_one() -> None:
    pod = pod_of_job(asked())
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_another_driver_on_most_nodes_makes_one_new_revision_and_one_new_engine() -> None:
    """Drivers are upgraded node by node: what stands is kept until it is the smaller part."""
    world = served(A10_550, A10_550, A10_550)
    (before,) = world.replicas()
    for nodes in ((A10_560, A10_550, A10_550), (A10_550, A10_550), (A10_560, A10_550)):
        world.senses.gpu_nodes = nodes
        assert world.settle() == [], nodes
    world.senses.gpu_nodes = (A10_560, A10_560, A10_550)
    world.settle()
    assert pod_of_job(world)["nodeSelector"] == A10_560
    assert world.selected() == before, "what serves goes on"
    world.end_job(GOOD)
    world.settle()
    assert world.selected() not in (None, before)
    world.senses.gpu_nodes = (A10_560, A10_560, A10_560)
    assert world.settle() == []


def test_nodes_that_an_autoscaler_removed_and_a_restart_change_nothing() -> None:
    world = served(A10_550)
    world.senses.gpu_nodes = ()
    assert world.settle() == []
    world.restart()
    assert world.senses.gpu_nodes is None
    assert world.settle() == []


def test_a_restart_ends_no_build_that_is_under_way() -> None:
    """The nodes are not known yet then, so what the present engine was built for counts for a moment."""
    world = served(A10_550)
    world.senses.gpu_nodes = (A10_560,)
    world.settle()
    building = world.names("Job")
    assert len(building) == 1
    assert pod_of_job(world)["nodeSelector"] == A10_560
    world.restart()
    world.settle()
    assert world.names("Job") == building
    world.senses.gpu_nodes = (A10_560,)
    assert not [w for w in world.settle() if "Job" in w]


def test_what_stands_without_an_engine_gets_none_where_nodes_have_no_labels() -> None:
    """It would be built and never served, as nothing else tells its revision from the one that stands."""
    world = World(ENGINE, SETTINGS.model_copy(update={"tensorrt_image": None}))
    world.settle()
    world.settings = SETTINGS
    world.restart()
    world.senses.gpu_nodes = ()
    world.settle()
    assert world.jobs() == []
    assert world.condition("Ready")["status"] == "True"


def test_another_tensorrt_builds_anew_only_for_what_is_new() -> None:
    """Pods that serve keep the image, and so the TensorRT, that their engine was built for."""
    world = served(A10_550)
    (job,) = world.names("Job")
    world.settings = SETTINGS.model_copy(update={"tensorrt_image": "registry.example/longshore/tensorrt:2"})
    world.restart()
    world.senses.gpu_nodes = (A10_550,)
    world.settle()
    assert len(world.replicas()) == 1
    (fresh,) = asked(A10_550, settings=world.settings).names("Job")
    assert fresh != job


def test_the_gpu_is_no_part_of_other_revisions() -> None:
    plain = World(SPEC, SETTINGS)
    plain.settle()
    other = World(SPEC, SETTINGS)
    other.senses.gpu_nodes = (A10_550,)
    other.settle()
    assert plain.replicas() == other.replicas()
