"""`optimize.parallelism`: the pods of an Indexed Job search side by side, by way of the artifact store."""

import json
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from e2e.kit.https import FileServer
from e2e.kit.kube import Kube
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import digits

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]


def test_two_pods_share_a_search_and_what_the_leader_chose_is_served(
    deployment: New, files: FileServer, kube: Kube
) -> None:
    data = digits()
    model = deployment("shared")
    model.apply(
        {
            "model": {
                "uri": files.put("digits.onnx", data.model),
                "credentials": {"secretName": "files"},
            },
            "optimize": {
                "techniques": ["Float16", "DynamicInt8", "StaticInt8"],
                "calibration": {"uri": files.put("calibration.npz", data.calibration)},
                "evaluation": {"uri": files.put("evaluation.npz", data.evaluation), "maxDrop": 0.02},
                "parallelism": 2,
                "resources": {
                    "requests": {"cpu": "100m", "memory": "256Mi"},
                    "limits": {"cpu": "1", "memory": "2Gi"},
                },
            },
        }
    )
    status = model.wait_ready(300, fail_on_stalled=True)["status"]
    optimization = status["optimization"]
    table = {c["name"] for c in optimization["candidates"]}
    assert optimization["chosen"] in table
    (job,) = kube.list("jobs", model.namespace)
    assert job["spec"]["completionMode"] == "Indexed"
    pods = kube.list("pods", model.namespace, "app.kubernetes.io/component=optimizer")
    tried = {}
    for pod in pods:
        index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        log = kube("logs", pod["metadata"]["name"], "-n", model.namespace)
        lines = [json.loads(line) for line in log.splitlines() if '"Candidates"' in line]
        tried[index] = {line.get("message") for line in lines} & table
    assert tried.keys() == {"0", "1"}
    assert tried["0"]
    assert tried["1"]
    assert not tried["0"] & tried["1"], "nothing is tried twice"
    answered = model.infer({"x": data.images[:64]})["probabilities"]
    session = onnxruntime.InferenceSession(data.model, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": data.images[:64]})[0]
    assert np.mean(answered.argmax(1) == expected.argmax(1)) >= 0.95
