"""Every object that is built, against files: a change of what is built is a change that a reviewer sees.

`UPDATE_GOLDEN=1 pytest tests/operator/test_resources_golden.py` writes the files anew.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from longshore.api.parse import parse_spec
from longshore.api.route import ParentReference, Route
from longshore.plan.revision import artifact_key
from longshore.resources.gpu import Gpu
from longshore.resources.grpcroute import grpc_route
from longshore.resources.httproute import http_route
from longshore.resources.job import job_request, optimize_job
from longshore.resources.names import Owner
from longshore.resources.networkpolicy import optimizer_policy
from longshore.resources.route_rules import Division
from longshore.resources.warm import warm_deployment
from longshore.settings import NodeRegistry, Settings

from tests.operator.world import SPEC, World

GOLDEN = Path(__file__).parent / "golden"
OWNER = Owner("team", "digits", "6f1f6f36-0000-4000-8000-000000000000")
SETTINGS = Settings(
    server_image="registry.example/longshore/server:1",
    optimizer_image="registry.example/longshore/optimizer:1",
    store="oci://registry.example/artifacts",
    node_registries=(NodeRegistry(host="registry.example", node_host="localhost:5000"),),
    image_pull_secrets=("pull",),
)
PRIVATE: dict[str, Any] = {
    "model": {
        "uri": "pvc://models/digits/model.onnx",
        "sha256": "a" * 64,
        "credentials": {"secretName": "source"},
    },
    "optimize": {
        "evaluation": {"uri": "https://data.example/evaluation.npz", "maxDrop": 0.02},
        "budget": {"time": "15m"},
    },
    "serving": {
        "replicas": 2,
        "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
        "batching": {"maxSize": 8, "maxDelay": "5ms"},
        "latencyObjective": "100ms",
        "podTemplate": {
            "labels": {"team": "vision"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "env": [{"name": "MORE", "value": "1"}],
        },
    },
}


def job(gpu: Gpu | None = None, **optimize: Any) -> dict[str, Any]:
    spec = parse_spec({**PRIVATE, "optimize": {**PRIVATE["optimize"], **optimize}})
    request = job_request(OWNER, spec.model, spec.optimize, spec.serving, 16, SETTINGS, gpu)
    key = artifact_key(spec.model, spec.optimize, spec.serving, SETTINGS.server_image)
    return optimize_job(OWNER, key, request, spec.serving, SETTINGS, attempt=2, retry="please", gpu=gpu)


def serving(spec: Any) -> list[dict[str, Any]]:
    """Give what stands before anything answers, with a fixed owner."""
    world = World(spec, SETTINGS)
    world.root["metadata"]["uid"] = OWNER.uid
    world._touch(world.root)
    return [dict(obj) for obj in world.plan().apply]


def warm(spec: Any) -> list[dict[str, Any]]:
    """Give the warm copies of what would be served."""
    served = next(obj for obj in serving(spec) if obj["kind"] == "Deployment")
    revision = served["metadata"]["labels"]["longshore.dev/revision"]
    return [warm_deployment(OWNER, revision, served["spec"]["template"], 2)]


GPU = Gpu("nvidia.com/gpu", (("nvidia.com/gpu.product", "NVIDIA-A10G"),))
IMAGE = {"model": {"uri": "oci://registry.example/models/digits:1"}}
FETCHED = {key: PRIVATE[key] for key in ("model", "serving")}

OBJECTS: dict[str, Any] = {
    "optimize-job": lambda: [job(), optimizer_policy(OWNER)],
    "optimize-job-of-four": lambda: [job(parallelism=4)],
    "optimize-job-with-gpu": lambda: [job(GPU)],
    "serving-by-image-volume": lambda: serving(IMAGE),
    "serving-by-init-container": lambda: serving(FETCHED),
    "serving-least": lambda: serving(SPEC),
    "measuring-pods": lambda: serving({**SPEC, "serving": {"runtime": "Auto"}}),
    "warm-copies": lambda: warm(FETCHED),
    "http-route": lambda: [
        http_route(
            OWNER,
            Route(
                parent_refs=(ParentReference(name="gateway", namespace="infra", section_name="https"),),
                hostnames=("digits.example",),
                path_prefix="/digits",
            ),
            Division(20, "2026-01-01T00:00:00Z"),
            None,
        )
    ],
    "grpc-route": lambda: [
        grpc_route(
            OWNER,
            Route(
                grpc_parent_refs=(ParentReference(name="gateway", namespace="infra", section_name="grpc"),),
                hostnames=("digits.example",),
            ),
            Division(20, "2026-01-01T00:00:00Z"),
            None,
        )
    ],
}


@pytest.mark.parametrize("name", OBJECTS)
def test_built_objects_are_as_in_the_file(name: str) -> None:
    text = yaml.safe_dump_all(_plain(OBJECTS[name]()), sort_keys=True, width=110)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"if this is meant: UPDATE_GOLDEN=1 pytest {__file__}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, str) else value


@pytest.mark.parametrize("spec", [IMAGE, FETCHED, SPEC, PRIVATE])
def test_every_pod_runs_restricted_and_without_a_token(spec: Any) -> None:
    built = [*serving(spec), job()]
    pods = [obj["spec"]["template"]["spec"] for obj in built if obj["kind"] in ("Deployment", "Job")]
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        for volume in pod["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": 1})
            assert "hostPath" not in volume
