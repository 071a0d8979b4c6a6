"""Triton on a real cluster: beside the default runtime, and in the hands of bad input."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from e2e.kit.kube import Kube
from e2e.kit.load import Load
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import classifier
from e2e.kit.operator import ROOT
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]

MODEL = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
ROW = {"x": np.array([[9, 1, 1, 1]], np.float32)}


@pytest.fixture(scope="module", autouse=True)
def image(environment: dict[str, str]) -> None:
    """Load the image of Triton; it is large, so only who asks for it by name gets it."""
    if not os.environ.get("LONGSHORE_E2E_AS_IT_IS"):
        subprocess.run([sys.executable, "-m", "e2e.cluster", "images", "triton"], cwd=ROOT, check=True)


def triton(**serving: Any) -> dict[str, Any]:
    return {"serving": {"runtime": "Triton", **serving}}


def test_the_runtime_changes_under_load_without_a_failed_request(
    deployment: New, push: Push, kube: Kube
) -> None:
    model = deployment("either")
    spec = {"model": {"uri": push("either", model__onnx=MODEL)}}
    model.apply(spec | {"serving": {"runtime": "OnnxRuntime"}})
    first = model.wait_ready()["status"]["stable"]["revision"]
    with Load(model, ROW, rate=40) as load:
        eventually(lambda: load.sent > 80, "load runs", 30)
        model.apply(spec | triton())
        eventually(lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "Triton serves", 180)
        old = f"longshore.dev/revision={first}"
        eventually(lambda: not kube.list("pods", model.namespace, old), "the old pods are gone", 90)
        after = load.sent
        eventually(lambda: load.sent > after + 80, "load goes on", 30)
    assert load.failures == []
    (pod,) = kube.list("pods", model.namespace, "app.kubernetes.io/component=server")
    assert {p["name"] for p in pod["spec"]["containers"][0]["ports"]} == {
        "http",
        "grpc",
        "metrics",
        "samples",
    }
    assert model.infer(ROW)["probabilities"].argmax() == 0


def test_a_pod_of_triton_ends_within_its_grace_period(deployment: New, push: Push, kube: Kube) -> None:
    model = deployment("calm")
    model.apply({"model": {"uri": push("calm", model__onnx=MODEL)}} | triton())
    model.wait_ready()
    (pod,) = kube.list("pods", model.namespace, "app.kubernetes.io/component=server")
    with Load(model, ROW, rate=40) as load:
        eventually(lambda: load.sent > 40, "load runs", 30)
        kube("delete", "pod", pod["metadata"]["name"], "-n", model.namespace, "--wait=false")
        eventually(
            lambda: kube.get("pod", pod["metadata"]["name"], model.namespace) is None, "the pod is gone", 28
        )


def test_auto_measures_both_runtimes_and_serves_the_better(deployment: New, push: Push, kube: Kube) -> None:
    model = deployment("judged")
    model.apply(
        {"model": {"uri": push("judged", model__onnx=MODEL)}, "serving": {"runtime": "Auto"}},
    )
    found = model.wait_ready(240)["status"]["runtimes"]
    table = {row["name"]: row for row in found["candidates"]}
    assert set(table) == {"OnnxRuntime", "Triton"}
    assert all(row["p95Ms"] > 0 and row["throughput"] > 0 and row["reason"] for row in table.values())
    assert [name for name, row in table.items() if row["verdict"] == "Chosen"] == [found["chosen"]]
    measuring = "app.kubernetes.io/component=measure"
    eventually(lambda: not kube.list("pods", model.namespace, measuring), "the measuring pods are gone", 60)
    (pod,) = kube.list("pods", model.namespace, "app.kubernetes.io/component=server")
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert ("metrics" in ports) == (found["chosen"] == "Triton")
    assert model.infer(ROW)["probabilities"].argmax() == 0


@pytest.mark.parametrize(
    ("config", "reason", "says"),
    [
        ('input { name: "y" data_type: TYPE_FP32 dims: 4 }', "ConfigContradictsModel", "input y is not in"),
        ('backend: "tensorrt"', "BackendMissing", "this image has onnxruntime, python"),
        ("max_batch: 3", "ConfigInvalid", "config.pbtxt"),
    ],
)
def test_a_bad_configuration_is_named_and_a_good_one_recovers(
    deployment: New, push: Push, config: str, reason: str, says: str
) -> None:
    model = deployment("configured")
    repository = f"configured/{reason.lower()}"
    bad = push(repository, "1", **{"1/model__onnx": MODEL, "config__pbtxt": config.encode()})
    model.apply({"model": {"uri": bad, "format": "TritonRepository"}} | triton())
    stalled = model.wait_for("Stalled", "True", reason, 90)
    assert says in stalled["message"]
    good = push(repository, "2", **{"1/model__onnx": MODEL, "config__pbtxt": b"max_batch_size: 8"})
    model.apply({"model": {"uri": good, "format": "TritonRepository"}} | triton())
    model.wait_ready()
    assert model.infer(ROW)["probabilities"].argmax() == 0


def test_a_model_that_cannot_be_loaded_is_told_with_tritons_words(
    deployment: New, push: Push, kube: Kube
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], domain="example.org")],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    odd = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model = deployment("odd")
    model.apply({"model": {"uri": push("odd", model__onnx=odd.SerializeToString())}} | triton())
    stalled = model.wait_for("Stalled", "True", "ModelLoadFailed", 90)
    assert "Frobnicate" in stalled["message"]
    (pod,) = kube.list("pods", model.namespace, "app.kubernetes.io/component=server")
    assert pod["status"]["containerStatuses"][0]["restartCount"] < 10


def test_a_gpu_that_no_node_has_is_told_in_the_schedulers_words(deployment: New, push: Push) -> None:
    model = deployment("gpu")
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    model.apply({"model": {"uri": push("gpu", model__onnx=MODEL)}} | triton(**limits))
    stalled = model.wait_for("Stalled", "True", "Unschedulable", 60)
    assert "Insufficient nvidia.com/gpu" in stalled["message"]


def test_what_triton_cannot_do_is_refused_before_any_pod(deployment: New, push: Push, kube: Kube) -> None:
    model = deployment("refused")
    model.apply(
        {"model": {"uri": push("refused", model__onnx=MODEL)}} | triton(triton={"accelerator": "TensorRT"})
    )
    stalled = model.wait_for("Stalled", "True", "RuntimeRefuses", 60)
    assert "nvidia.com/gpu" in stalled["message"]
    assert not kube.list("pods", model.namespace, "app.kubernetes.io/component=server")
