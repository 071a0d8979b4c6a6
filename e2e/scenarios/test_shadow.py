"""Shadow on a real cluster: answers to copies of real requests decide, and no client sees one of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from e2e.kit.load import Load
from e2e.kit.model_deployment import ModelDeployment
from e2e.kit.models import classifier
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]

GOOD = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
SAME = classifier(np.eye(4, dtype=np.float32), np.full(4, 1e-4, np.float32))
REVERSED = classifier(np.eye(4, dtype=np.float32)[::-1].copy(), np.zeros(4, np.float32))
ROW = {"x": np.array([[9, 1, 1, 1]], np.float32)}
SHADOW: dict[str, Any] = {"strategy": "Shadow", "analysis": {"warmup": "1s"}}


def started(deployment: New, push: Push, name: str) -> tuple[ModelDeployment, str]:
    """Serve a good first revision; gives its name."""
    model = deployment(name)
    model.apply({"model": {"uri": push(name, "1", model__onnx=GOOD)}, "rollout": SHADOW})
    return model, model.wait_ready()["status"]["stable"]["revision"]


def evidence(model: ModelDeployment) -> str:
    """What status says of the canary."""
    return (model.read()["status"].get("canary") or {}).get("evidence") or ""


def test_a_revision_that_answers_alike_is_promoted_and_never_had_weight(deployment: New, push: Push) -> None:
    model, first = started(deployment, push, "shadowed")
    with Load(model, ROW, rate=40) as load:
        eventually(lambda: load.sent > 40, "load runs", 30)
        model.apply({"model": {"uri": push("shadowed", "2", model__onnx=SAME)}, "rollout": SHADOW})
        eventually(lambda: "compared answers differ" in evidence(model), "answers are compared", 120)
        assert model.read()["status"]["canary"]["weight"] == 0
        eventually(lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "it is promoted", 240)
    assert load.failures == []


def test_a_revision_that_answers_otherwise_is_given_up_before_any_client_sees_it(
    deployment: New, push: Push
) -> None:
    model, first = started(deployment, push, "shadowed-wrong")
    with Load(model, ROW, rate=40) as load:
        eventually(lambda: load.sent > 40, "load runs", 30)
        model.apply({"model": {"uri": push("shadowed-wrong", "2", model__onnx=REVERSED)}, "rollout": SHADOW})
        stalled = model.wait_for("Stalled", "True", "RolloutAborted", 180)
    assert "compared answers differ" in stalled["message"], stalled
    assert load.failures == []
    assert model.condition("Ready")["status"] == "True"
    assert model.read()["status"]["stable"]["revision"] == first
