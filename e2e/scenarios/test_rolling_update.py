"""Pods of one revision are replaced, as a node's drain or a restart does it, while clients ask."""

from collections.abc import Callable

import numpy as np
import pytest

from e2e.kit.grpc_load import GrpcLoad
from e2e.kit.kube import Kube
from e2e.kit.load import Load
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import classifier
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster


def test_a_rolling_update_of_a_models_pods_fails_no_request_of_either_protocol(
    deployment: Callable[[str], ModelDeployment], push: Callable[..., str], kube: Kube
) -> None:
    model = deployment("rolling")
    onnx = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    model.apply({"model": {"uri": push("rolling", "1", model__onnx=onnx)}, "serving": {"replicas": 2}})
    revision = model.wait_ready()["status"]["stable"]["revision"]
    selector = f"longshore.dev/revision={revision}"

    def pods() -> set[str]:
        return {pod["metadata"]["uid"] for pod in kube.list("pods", model.namespace, selector)}

    before = pods()
    assert len(before) == 2
    row = {"x": np.eye(4, dtype=np.float32)[:1]}
    with Load(model, row, rate=40) as rest, GrpcLoad(model, row) as grpc:
        eventually(lambda: rest.sent > 80 and grpc.sent > 40, "load runs", 30)
        for name in {d["metadata"]["name"] for d in kube.list("deployments", model.namespace, selector)}:
            kube("rollout", "restart", f"deployment/{name}", "-n", model.namespace)
            kube("rollout", "status", f"deployment/{name}", "-n", model.namespace, seconds=120)
        eventually(lambda: len(pods()) == 2 and not pods() & before, "every pod was replaced", 90)
        sent = rest.sent, grpc.sent
        eventually(lambda: rest.sent > sent[0] + 80 and grpc.sent > sent[1] + 40, "load goes on", 30)
    assert rest.failures == []
    assert grpc.failures == []
    assert model.read()["status"]["stable"]["revision"] == revision
