"""One apply: a model goes in, an optimized endpoint comes out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest

from e2e.kit.https import FileServer
from e2e.kit.kube import Kube
from e2e.kit.load import Load
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import classifier, digits
from e2e.kit.wait import eventually
from tests.realmodels import rapidocr_model

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]


def test_a_model_is_optimized_and_served_with_right_answers(
    deployment: New, files: FileServer, kube: Kube
) -> None:
    data = digits()
    model = deployment("digits")
    credentials = {"secretName": "files"}
    spec: dict[str, Any] = {
        "model": {"uri": files.put("digits.onnx", data.model), "credentials": credentials},
        "optimize": {
            "calibration": {"uri": files.put("calibration.npz", data.calibration)},
            "evaluation": {"uri": files.put("evaluation.npz", data.evaluation), "maxDrop": 0.02},
        },
    }
    model.apply(spec)
    obj = model.wait_ready(300, fail_on_stalled=True)
    assert model.condition("Optimized")["status"] == "True"
    table = {c["name"]: c for c in obj["status"]["optimization"]["candidates"]}
    assert "original" in table
    assert len(table) >= 3
    assert all(c["reason"] for c in table.values())
    assert obj["status"]["optimization"]["chosen"] in table
    answered = model.infer({"x": data.images[:64]})["probabilities"]
    expected = onnxruntime.InferenceSession(data.model, providers=["CPUExecutionProvider"]).run(
        None, {"x": data.images[:64]}
    )[0]
    assert np.mean(answered.argmax(1) == expected.argmax(1)) >= 0.95
    pods = kube.list("pods", model.namespace, "app.kubernetes.io/component=server")
    assert any("image" in v for v in pods[0]["spec"]["volumes"]), "the artifact is an image volume"
    # Another revision of the same artifact is asked rows of the user's data before it takes over.
    first = obj["status"]["stable"]["revision"]
    spec["serving"] = {"batching": {"maxDelay": "1ms"}}
    spec["rollout"] = {"preflight": {"samples": 16, "maxDisagreement": 0.0}}
    model.apply(spec)
    eventually(lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "it takes over", 120)
    told = [
        event["message"]
        for event in kube.list("events", model.namespace)
        if event["involvedObject"]["name"] == model.name and event["reason"] == "RolloutExamined"
    ]
    assert len(told) == 1
    assert "0 of 16 answers to requests from the evaluation data differ, 0 failed" in told[0]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("PP-OCRv6_rec_small.onnx", (1, 3, 48, 320)), ("ch_ppocr_mobile_v2.0_cls_mobile.onnx", (1, 3, 48, 192))],
)
def test_a_real_graph_answers_as_onnx_runtime_does(
    deployment: New, push: Push, name: str, shape: tuple[int, ...]
) -> None:
    path = rapidocr_model(name)
    model = deployment("ocr")
    model.apply({"model": {"uri": push(f"ocr/{shape[3]}", model__onnx=path.read_bytes())}})
    model.wait_ready(180, fail_on_stalled=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).random(shape, dtype=np.float32)
    feed = {session.get_inputs()[0].name: pixels}
    answered = model.infer(feed, 60)
    for output, expected in zip(session.get_outputs(), session.run(None, feed), strict=True):
        np.testing.assert_allclose(answered[output.name], expected, atol=1e-5)


def test_a_new_revision_takes_over_under_load_without_a_failed_request(deployment: New, push: Push) -> None:
    model = deployment("steady")
    ones = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    other = classifier(np.eye(4, dtype=np.float32)[::-1].copy(), np.zeros(4, np.float32))
    model.apply({"model": {"uri": push("steady", "1", model__onnx=ones)}})
    first = model.wait_ready()["status"]["stable"]["revision"]
    row = np.eye(4, dtype=np.float32)[:1]
    with Load(model, {"x": row}, rate=40) as load:
        eventually(lambda: load.sent > 80, "load runs", 30)
        model.apply({"model": {"uri": push("steady", "2", model__onnx=other)}})
        eventually(
            lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "the new revision serves", 90
        )
        old_pods = f"longshore.dev/revision={first}"
        eventually(
            lambda: not model.kube.list("pods", model.namespace, old_pods), "the old pods are gone", 90
        )
        after = load.sent
        eventually(lambda: load.sent > after + 80, "load goes on", 30)
    assert load.failures == []
    assert model.infer({"x": row})["probabilities"].argmax() == 3


def test_returning_to_an_old_revision_needs_no_new_job_and_no_new_deployment(
    deployment: New, push: Push, kube: Kube
) -> None:
    model = deployment("back")
    uris = [
        push("back", str(i), model__onnx=classifier(np.eye(4, dtype=np.float32) * i, np.zeros(4, np.float32)))
        for i in (1, 2)
    ]
    model.apply({"model": {"uri": uris[0]}})
    first = model.wait_ready()["status"]["stable"]["revision"]
    model.apply({"model": {"uri": uris[1]}})
    eventually(lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "revision 2 serves", 90)
    known = {d["metadata"]["uid"] for d in kube.list("deployments", model.namespace)}
    model.apply({"model": {"uri": uris[0]}})
    eventually(
        lambda: model.wait_ready()["status"]["stable"]["revision"] == first, "revision 1 serves again", 90
    )
    assert {d["metadata"]["uid"] for d in kube.list("deployments", model.namespace)} == known


def test_scaling_restarts_nothing_and_kubectl_scale_works(deployment: New, push: Push, kube: Kube) -> None:
    model = deployment("scaled")
    uri = push("scaled", model__onnx=classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32)))
    model.apply({"model": {"uri": uri}})
    model.wait_ready()
    pods = {p["metadata"]["uid"] for p in kube.list("pods", model.namespace)}
    kube("scale", "modeldeployment/scaled", "-n", model.namespace, "--replicas=2")
    eventually(lambda: model.read()["status"]["stable"]["readyReplicas"] == 2, "two pods answer", 60)
    assert pods < {p["metadata"]["uid"] for p in kube.list("pods", model.namespace)}
    assert model.read()["status"]["replicas"] == 2
