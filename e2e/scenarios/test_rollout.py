"""Rollouts on a real cluster: a good revision takes over unnoticed, a bad one is caught and named."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from e2e.kit.load import Load
from e2e.kit.model_deployment import ModelDeployment, start_deadline
from e2e.kit.models import classifier, fragile, slow, unknown_operator
from e2e.kit.operator import Operator
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]

GOOD = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
SAME = classifier(np.eye(4, dtype=np.float32), np.full(4, 1e-4, np.float32))
REVERSED = classifier(np.eye(4, dtype=np.float32)[::-1].copy(), np.zeros(4, np.float32))
ROW = {"x": np.array([[9, 1, 1, 1]], np.float32)}
STEPS: dict[str, Any] = {"steps": [{"weight": 50, "hold": "5s"}], "analysis": {"warmup": "1s"}}


def started(deployment: New, push: Push, name: str, **spec: Any) -> tuple[ModelDeployment, str]:
    """Serve a good first revision; gives its name."""
    model = deployment(name)
    model.apply({"model": {"uri": push(name, "1", model__onnx=GOOD)}, "rollout": STEPS, **spec})
    return model, model.wait_ready()["status"]["stable"]["revision"]


def canary_tells(model: ModelDeployment, field: str) -> None:
    """Wait until status names something of the canary."""
    eventually(lambda: (model.read()["status"].get("canary") or {}).get(field), f"canary.{field}", 60)


def test_a_good_canary_is_promoted_without_a_failed_request(deployment: New, push: Push) -> None:
    model, first = started(deployment, push, "good")
    with Load(model, ROW, rate=40) as load:
        eventually(lambda: load.sent > 40, "load runs", 30)
        model.apply({"model": {"uri": push("good", "2", model__onnx=SAME)}, "rollout": STEPS})
        eventually(
            lambda: model.read()["status"].get("canary", {}).get("weight"), "the canary gets weight", 60
        )
        evidence = model.read()["status"]["canary"]
        assert evidence["steps"] == 1
        eventually(lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "it is promoted", 180)
    assert load.failures == []


def test_a_canary_that_fails_is_aborted_and_the_spec_is_not_touched(deployment: New, push: Push) -> None:
    model, first = started(deployment, push, "failing")
    spec = {
        "model": {"uri": push("failing", "2", model__onnx=fragile(5))},
        "rollout": STEPS | {"preflight": {"samples": 0}},
    }
    with Load(model, ROW, rate=40) as load:
        eventually(lambda: load.sent > 40, "load runs", 30)
        model.apply(spec)
        stalled = model.wait_for("Stalled", "True", "RolloutAborted", 120)
        assert "evidence" in stalled["message"], stalled
        eventually(lambda: load.in_a_row >= 80, "nothing is sent to the canary any more", 30)
    # What the canary itself could not answer, and nothing else.
    assert {f[:3] for f in load.failures} <= {"400", "500"}, load.failures[:3]
    assert model.condition("Ready")["status"] == "True"
    obj = model.read()
    assert obj["status"]["stable"]["revision"] == first
    assert obj["spec"]["model"] == spec["model"]
    failed = [r for r in obj["status"]["revisions"] if r["phase"] == "Failed"]
    assert failed
    assert failed[0]["reason"]


def test_wrong_answers_are_caught_before_any_weight(deployment: New, push: Push) -> None:
    model, first = started(deployment, push, "wrong")
    with Load(model, ROW, rate=10) as load:
        eventually(lambda: load.sent > 10, "load runs", 30)
        strict = STEPS | {"preflight": {"maxDisagreement": 0.05}}
        model.apply({"model": {"uri": push("wrong", "2", model__onnx=REVERSED)}, "rollout": strict})
        stalled = model.wait_for("Stalled", "True", "RolloutAborted", 90)
    assert "answers to requests from recent traffic differ" in stalled["message"]
    assert load.failures == []
    assert model.read()["status"]["stable"]["revision"] == first


def test_a_slow_revision_is_caught_by_the_latency_objective(deployment: New, push: Push) -> None:
    model, _ = started(deployment, push, "slow", serving={"latencyObjective": "40ms"})
    model.apply(
        {
            "model": {"uri": push("slow", "2", model__onnx=slow(1500))},
            "rollout": STEPS,
            "serving": {"latencyObjective": "40ms"},
        }
    )
    stalled = model.wait_for("Stalled", "True", "RolloutAborted", 120)
    assert "latencyObjective" in stalled["message"], stalled


def test_a_revision_that_crashes_never_gets_a_request(deployment: New, push: Push) -> None:
    model, first = started(deployment, push, "crashing")
    impatient = STEPS | {"progressDeadline": start_deadline(20)}
    with Load(model, ROW, rate=20) as load:
        eventually(lambda: load.sent > 20, "load runs", 30)
        model.apply(
            {"model": {"uri": push("crashing", "2", model__onnx=unknown_operator())}, "rollout": impatient}
        )
        stalled = model.wait_for("Stalled", "True", "RolloutAborted", 120)
    assert "progressDeadline" in stalled["message"] or "restarted" in stalled["message"], stalled
    assert "Imaginary" in stalled["message"], "the server's own words"
    assert load.failures == []
    assert model.read()["status"]["stable"]["revision"] == first


def test_a_gate_waits_for_a_person(deployment: New, push: Push) -> None:
    gated: dict[str, Any] = {
        "steps": [{"weight": 50, "pause": {"reason": "look at it"}}],
        "analysis": {"warmup": "1s"},
    }
    model, first = started(deployment, push, "gated")
    with Load(model, ROW, rate=40):
        model.apply({"model": {"uri": push("gated", "2", model__onnx=SAME)}, "rollout": gated})
        model.wait_for("Stalled", "True", "WaitingForPromotion", 120)
        model.kube("annotate", "modeldeployment/gated", "-n", model.namespace, "longshore.dev/promote=1")
        eventually(lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "it is promoted", 180)
    assert "longshore.dev/promote" not in model.read()["metadata"].get("annotations", {})


def test_the_operator_killed_during_a_rollout_comes_to_the_same_end(
    deployment: New, push: Push, operator: Operator
) -> None:
    model, first = started(deployment, push, "killed")
    with Load(model, ROW, rate=40) as load:
        model.apply({"model": {"uri": push("killed", "2", model__onnx=SAME)}, "rollout": STEPS})
        for field in ("revision", "weight"):
            canary_tells(model, field)
            operator.end(9)
            operator.start()
        eventually(lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "it is promoted", 180)
    assert load.failures == []
