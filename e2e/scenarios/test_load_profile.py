"""Scaling by a load profile on a real cluster, and the first answer after a sleep from a warm copy."""

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import httpx
import numpy as np
import pytest

from e2e.kit.kube import Kube
from e2e.kit.load import Load
from e2e.kit.model_deployment import ModelDeployment, request_body
from e2e.kit.models import classifier
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]

GOOD = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
ROW = {"x": np.eye(4, dtype=np.float32)[:1]}
SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}}
LOW, HIGH = 2.0, 22.0
"""Requests a second, few enough that the client keeps its rate on a busy machine of two cores."""
OBJECTIVE = 1.0
PROFILE = {
    "min": 1,
    "max": 3,
    "stableWindow": "10s",
    "metrics": [
        {"type": "RequestsPerSecond", "target": 8},
        {"type": "Latency", "duration": f"{OBJECTIVE * 1000:.0f}ms"},
    ],
}
WARM = {"min": 0, "max": 2, "warm": 1, "idleAfter": "10s", "stableWindow": "10s"}
DECISION = re.compile(r"(\d+) -> (\d+): \S.*")


def ready(model: ModelDeployment) -> int:
    """Give the pods that answer."""
    found: int = model.read()["status"]["stable"]["readyReplicas"]
    return found


def has(model: ModelDeployment, pods: int, load: Load) -> bool:
    """Tell whether so many pods answer; fails with what is known if not."""
    found = ready(model)
    why = model.condition("Scaled").get("message")
    assert found == pods, f"{found} pods answer after {load.sent} requests, as of {why!r}"
    return True


def decisions(model: ModelDeployment, kube: Kube) -> list[tuple[int, int]]:
    """Give every change of the number of pods as its event tells it: from, to."""
    events = [
        event
        for event in kube.list("events", model.namespace)
        if event["involvedObject"]["name"] == model.name and event["reason"] == "Scaled"
    ]
    read = []
    for event in sorted(events, key=lambda event: int(event["metadata"]["resourceVersion"])):
        line = DECISION.fullmatch(event["message"])
        assert line, f"one line that says from, to and why: {event['message']!r}"
        read.append((int(line[1]), int(line[2])))
    return read


def test_a_model_follows_a_load_profile_and_no_request_fails(deployment: New, push: Push, kube: Kube) -> None:
    model = deployment("tide")
    spec = {
        "model": {"uri": push("tide", model__onnx=GOOD)},
        "serving": {"latencyObjective": f"{OBJECTIVE * 1000:.0f}ms", "resources": SMALL},
        "scaling": PROFILE,
    }
    model.apply(spec)
    model.wait_ready()
    loads = []
    for rate, pods, seconds in ((LOW, 1, 20), (HIGH, 3, 120), (LOW, 1, 120)):
        with Load(model, ROW, rate=rate) as load:
            loads.append(load)
            eventually(partial(has, model, pods, load), f"{pods} pods at {rate:g} rps", seconds)
            eventually(partial(_sent, load, 5 * rate), f"load of {rate:g} rps", 20)
            if pods > 1:
                assert f"-> {pods}: " in model.condition("Scaled")["message"]
    assert not [failure for load in loads for failure in load.failures]
    steps = decisions(model, kube)
    assert steps[0][0] == steps[-1][1] == 1
    assert max(to for _, to in steps) == 3
    assert all(before[1] == after[0] for before, after in pairwise(steps)), steps


def _sent(load: Load, least: float) -> bool:
    return load.sent >= least


def _in_force(kube: Kube, model: ModelDeployment) -> bool:
    quota = kube.get("resourcequota", "no-more-pods", model.namespace)
    return quota is not None and "pods" in quota.get("status", {}).get("hard", {})


def test_after_a_sleep_a_warm_copy_answers_before_any_pod_can_start(
    deployment: New, push: Push, kube: Kube
) -> None:
    model = deployment("siesta")
    model.apply(
        {
            "model": {"uri": push("siesta", model__onnx=GOOD)},
            "serving": {"resources": SMALL},
            "scaling": WARM,
        }
    )
    model.wait_ready()

    def pods(component: str) -> int:
        chosen = f"longshore.dev/name={model.name},app.kubernetes.io/component={component}"
        return len(kube.list("pods", model.namespace, chosen))

    eventually(lambda: pods("server") == 0 and pods("warm") == 1, "only a warm copy is left", 90)
    eventually(lambda: "warm copy" in model.condition("Ready")["message"], "the copy is ready", 30)
    assert model.read()["status"]["replicas"] == 0
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-more-pods", "namespace": model.namespace},
        "spec": {"hard": {"pods": "0"}},
    }
    url = f"{model.address()}/v2/models/{model.name}/infer"
    kube.apply(quota)
    try:
        eventually(lambda: _in_force(kube, model), "the quota is in force", 20)
        # No pod can be made, so nobody but the copy can have answered.
        answer = httpx.post(url, content=request_body(ROW), timeout=20)
        assert answer.status_code == 200, answer.text
        assert pods("server") == 0
        eventually(lambda: model.read()["status"]["stable"]["replicas"] == 1, "a pod is asked for", 20)
    finally:
        kube("delete", "resourcequota", "no-more-pods", "-n", model.namespace, "--ignore-not-found")
    eventually(lambda: ready(model) == 1, "a pod answers", 60)
    eventually(lambda: pods("warm") == 0, "the copy leaves", 60)
    eventually(
        lambda: kube.get("endpointslice", f"{model.name}-activator", model.namespace) is None,
        "the activators leave",
        30,
    )
    assert httpx.post(url, content=request_body(ROW), timeout=10).status_code == 200
