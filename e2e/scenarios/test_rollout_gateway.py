"""Rollouts through a gateway: weights of an HTTPRoute under load, and whatever goes wrong on the way."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import httpx
import numpy as np
import pytest

from e2e.cluster import addons, choose
from e2e.kit.gateway import Weights, grpc_place, host_of, infer_url, route_to, told_by_a_model
from e2e.kit.grpc_load import GrpcLoad
from e2e.kit.kube import Kube
from e2e.kit.load import Load
from e2e.kit.model_deployment import ModelDeployment, request_body
from e2e.kit.models import classifier, fragile, greedy
from e2e.kit.operator import Operator
from e2e.kit.wait import eventually

pytestmark = pytest.mark.cluster
New = Callable[[str], ModelDeployment]
Push = Callable[..., str]
Likeliest = Callable[..., int]

GOOD = classifier(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
SAME = classifier(np.eye(4, dtype=np.float32), np.full(4, 1e-4, np.float32))
OTHER = classifier(-np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
SMALL = {"x": np.array([[1, 1, 1, 1]], np.float32)}
LARGE = {"x": np.array([[9, 1, 1, 1]], np.float32)}
HUGE = {"x": np.array([[900, 1, 1, 1]], np.float32)}
STEPS: dict[str, Any] = {
    "steps": [{"weight": 20, "hold": "5s"}, {"weight": 50, "hold": "5s"}],
    "analysis": {"warmup": "1s"},
}
GATED: dict[str, Any] = {
    "steps": [{"weight": 20, "pause": {}}],
    "analysis": {"warmup": "1s"},
    "preflight": {"samples": 0},
}


@pytest.fixture(scope="module", autouse=True)
def gateway(environment: dict[str, str]) -> None:
    """Install the Gateway `longshore`; one that is there is left as it is."""
    addons.install_gateway(choose.chosen(), lambda line: None)


def started(
    deployment: New, push: Push, name: str, rollout: dict[str, Any], **spec: Any
) -> tuple[ModelDeployment, str]:
    """Serve a good first revision through the gateway; gives its name."""
    model = deployment(name)
    model.apply(
        {
            "model": {"uri": push(name, "1", model__onnx=GOOD)},
            "rollout": rollout,
            "route": route_to(name),
            **spec,
        }
    )
    model.wait_ready()
    model.wait_for("Routed", "True")
    return model, model.read()["status"]["stable"]["revision"]


def load(kube: Kube, name: str, rate: float = 50.0) -> Load:
    """Send requests through the gateway."""
    url = infer_url(kube, name)
    return Load(ModelDeployment(kube, "", name), SMALL, rate, url, {"Host": host_of(name)})


def promoted(model: ModelDeployment, first: str) -> None:
    eventually(lambda: model.wait_ready()["status"]["stable"]["revision"] != first, "it is promoted", 240)


def change(model: ModelDeployment, push: Push, rollout: dict[str, Any], onnx: bytes, **spec: Any) -> None:
    """Ask for a second revision."""
    name = model.name
    uri = push(name, "2", model__onnx=onnx)
    model.apply({"model": {"uri": uri}, "rollout": rollout, "route": route_to(name), **spec})


def test_a_good_canary_is_promoted_through_the_gateway_without_a_failed_request(
    kube: Kube, deployment: New, push: Push
) -> None:
    model, first = started(deployment, push, "through", STEPS)
    grpc = GrpcLoad(model, SMALL, 20, grpc_place(kube), host_of("through"))
    with load(kube, "through") as running, grpc, Weights(model) as weights:
        eventually(lambda: running.outcomes["200"] > 50, "load runs", 30)
        # A gateway learns of a route a moment after its status says so.
        eventually(lambda: grpc.sent - len(grpc.failures) > 20, "gRPC load runs", 30)
        failed_before, failed_grpc = len(running.failures), len(grpc.failures)
        change(model, push, STEPS, SAME)
        promoted(model, first)
        eventually(lambda: weights.canary == 0, "the route leads to the stable side again", 30)
    assert running.failures[failed_before:] == []
    assert grpc.failures[failed_grpc:] == []
    assert [canary for _, _, canary in weights.seen] == [0, 20, 50, 0]
    assert {stable + canary for _, stable, canary in weights.seen} == {100}


def test_a_canary_that_turns_bad_loses_its_weight_and_no_other_request_fails(
    kube: Kube, deployment: New, push: Push
) -> None:
    model, first = started(deployment, push, "turning", GATED)
    with load(kube, "turning") as running, Weights(model) as weights:
        eventually(lambda: running.outcomes["200"] > 50, "load runs", 30)
        # A gateway learns of a route a moment after its status says so.
        before = len(running.failures)
        change(model, push, GATED, fragile(5))
        model.wait_for("Stalled", "True", "WaitingForPromotion", 120)
        running.ask(LARGE)
        stalled = model.wait_for("Stalled", "True", "RolloutAborted", 60)
        assert weights.canary == 0
        # A gateway learns of a route a moment after its status says so, here too.
        eventually(lambda: running.in_a_row >= 100, "the gateway sends nothing to the canary any more", 30)
    assert "evidence" in stalled["message"]
    failures = running.failures[before:]
    assert failures, "the canary had requests"
    assert [failure for failure in failures if not told_by_a_model(failure)] == []
    assert model.condition("Ready")["status"] == "True"
    assert model.read()["status"]["stable"]["revision"] == first
    assert {stable + canary for _, stable, canary in weights.seen} == {100}


def test_the_operator_killed_at_every_change_of_weight_comes_to_the_same_end(
    kube: Kube, deployment: New, push: Push, operator: Operator
) -> None:
    model, first = started(deployment, push, "mid-weight", STEPS)
    with load(kube, "mid-weight") as running, Weights(model) as weights:
        eventually(lambda: running.outcomes["200"] > 50, "load runs", 30)
        failed_before = len(running.failures)
        change(model, push, STEPS, SAME)
        for weight in (20, 50):
            eventually(lambda w=weight: weights.canary == w, f"weight {weight}", 120, 0.002)  # type: ignore[misc]
            operator.end(9)
            operator.start()
        promoted(model, first)
        eventually(lambda: weights.canary == 0, "the route leads to the stable side again", 30)
    assert running.failures[failed_before:] == []
    # What status does not say yet is begun again, with less weight and never with more.
    assert {canary for _, _, canary in weights.seen} == {0, 20, 50}
    assert weights.canary == 0
    assert {stable + canary for _, stable, canary in weights.seen} == {100}


def test_a_canary_that_runs_out_of_memory_is_caught_by_that_name(
    kube: Kube, deployment: New, push: Push
) -> None:
    limits = {"resources": {"limits": {"memory": "400Mi"}}}
    model, first = started(deployment, push, "greedy", GATED, serving=limits)
    with load(kube, "greedy", 10) as running:
        eventually(lambda: running.outcomes["200"] > 20, "load runs", 30)
        change(model, push, GATED, greedy(), serving=limits)
        model.wait_for("Stalled", "True", "WaitingForPromotion", 120)
        running.ask(HUGE)
        stalled = model.wait_for("Stalled", "True", "RolloutAborted", 180)
    assert "OOMKilled" in stalled["message"], stalled
    assert model.condition("Ready")["status"] == "True"
    assert model.read()["status"]["stable"]["revision"] == first


@pytest.fixture
def likeliest(kube: Kube) -> Iterator[Likeliest]:
    """Ask a model once through the gateway; gives the class that is the likeliest for the first value."""
    data = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [9, 1, 1, 1]}
    address = cache(partial(infer_url, kube))
    with httpx.Client(trust_env=False) as client:

        def ask(name: str, **headers: str) -> int:
            told = {"Host": host_of(name), **headers}
            answer = client.post(address(name), json={"inputs": [data]}, headers=told)
            answer.raise_for_status()
            return int(np.argmax(answer.json()["outputs"][0]["data"]))

        yield ask


def test_a_user_stays_on_one_revision_while_the_weight_rises(
    deployment: New, push: Push, likeliest: Likeliest
) -> None:
    steps = [{"weight": 20, "pause": {}}, {"weight": 50, "pause": {}}]
    sticky = {**GATED, "steps": steps, "affinity": {"header": "X-User"}}
    model, _ = started(deployment, push, "sticky", sticky)
    change(model, push, sticky, OTHER)
    users = [f"{number:02d}" for number in range(100)]

    def on_canary(count: int | None = None) -> set[str] | None:
        found = {user for user in users if likeliest("sticky", **{"X-User": user}) != 0}
        return found if count in (None, len(found)) else None

    with Weights(model) as weights:
        eventually(lambda: weights.canary == 20, "the first weight", 120)
        first = eventually(lambda: on_canary(20), "20 of 100 users", 30)
        assert on_canary() == first
        model.kube("annotate", "modeldeployment/sticky", "-n", model.namespace, "longshore.dev/promote=1")
        eventually(lambda: weights.canary == 50, "the second weight", 120)
        second = eventually(lambda: on_canary(50), "50 of 100 users", 30)
    assert first < second


def test_a_preview_is_reached_by_its_header_alone(deployment: New, push: Push, likeliest: Likeliest) -> None:
    gated = {"strategy": "BlueGreen", "steps": [{"weight": 0, "pause": {}}], "preflight": {"samples": 0}}
    model, first = started(deployment, push, "preview", gated)
    change(model, push, gated, OTHER)
    model.wait_for("Stalled", "True", "WaitingForPromotion", 120)

    assert {likeliest("preview") for _ in range(20)} == {0}
    header = {"Longshore-Preview": "true"}
    eventually(lambda: likeliest("preview", **header) != 0, "the header leads to the preview", 20)
    model.kube("annotate", "modeldeployment/preview", "-n", model.namespace, "longshore.dev/promote=1")
    promoted(model, first)
    eventually(lambda: likeliest("preview") != 0, "everybody gets the new revision", 20)


def test_of_two_models_that_want_one_route_the_first_has_it(kube: Kube, deployment: New, push: Push) -> None:
    started(deployment, push, "first-come", {})
    model = deployment("late-comer")
    spec = {"model": {"uri": push("late-comer", "1", model__onnx=OTHER)}, "route": route_to("first-come")}
    model.apply(spec)
    stalled = model.wait_for("Stalled", "True", "RouteConflict")
    assert "first-come" in stalled["message"]
    assert "route.hostnames" in stalled["message"]
    for name, outcome in (("first-come", 200), ("late-comer", 404)):
        host = {"Host": host_of("first-come")}
        answer = httpx.post(infer_url(kube, name), content=request_body(SMALL), headers=host, timeout=30)
        assert answer.status_code == outcome, answer.text
    model.apply({**spec, "route": route_to("late-comer")})
    model.wait_ready()
    model.wait_for("Routed", "True")
    assert model.condition("Stalled")["status"] == "False"
