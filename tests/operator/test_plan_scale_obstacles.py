"""What keeps pods from coming: a full cluster, a quota, somebody else's autoscaler. Told, and not fought."""

from typing import Any

import pytest

from tests.operator.world import SPEC, World, rfc3339

WORDS = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available"


def model(**parts: Any) -> World:
    world = World({**SPEC, **parts})
    world.settle()
    return world


def revision(world: World) -> str:
    return world.status["stable"]["revision"]  # type: ignore[no-any-return]


def full(world: World, *pods: str) -> None:
    """Let no node take these pods."""
    for name in pods:
        no_node = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": WORDS,
            "lastTransitionTime": rfc3339(world.now),
        }
        pod = world.objects["Pod", name]
        not_ready = {"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(world.now)}
        pod["status"] = {"phase": "Pending", "conditions": [not_ready, no_node]}
        world._touch(pod)


def reconcile_for(world: World, seconds: float) -> None:
    """Reconcile when the operator wants to, without controllers."""
    end = world.now + seconds
    while world.now < end:
        again = world.reconcile()
        world.now += min(again or seconds, end - world.now) + 0.01


def autoscaler(world: World, kind: str, target: str, name: str = "theirs") -> None:
    world._stored(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name, "namespace": world.namespace},
            "spec": {"scaleTargetRef": {"kind": kind, "name": target}, "maxReplicas": 9},
        }
    )


def scale(world: World, name: str, replicas: int) -> None:
    world.objects["Deployment", name]["spec"]["replicas"] = replicas
    world.objects["Deployment", name]["metadata"]["generation"] += 1
    world._touch(world.objects["Deployment", name])


def test_a_pod_more_that_no_node_takes_is_told_within_half_a_minute_in_the_schedulers_words() -> None:
    world = model(serving={"replicas": 2})
    full(world, f"digits-{revision(world)}-1")
    reconcile_for(world, 29)
    told = world.condition("Scaled")
    assert (told["status"], told["reason"]) == ("False", "Unschedulable")
    assert WORDS in told["message"]
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled")["status"] == "False"
    world.objects.pop(("Pod", f"digits-{revision(world)}-1"))
    world.settle()
    assert world.condition("Scaled").get("reason") != "Unschedulable"


def test_a_quota_that_refuses_pods_is_told_in_its_own_words() -> None:
    world = model(serving={"replicas": 2})
    name = f"digits-{revision(world)}"
    world.vanish("Pod", f"{name}-1")
    words = 'pods "x" is forbidden: exceeded quota: team, requested: cpu=1, used: cpu=4, limited: cpu=4'
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words}
    obj = world.objects["Deployment", name]
    obj["status"] = {**obj["status"], "readyReplicas": 1, "conditions": [refused]}
    world._touch(obj)
    world.reconcile()
    assert "exceeded quota: team" in world.condition("Scaled")["message"]
    assert world.condition("Ready")["status"] == "True"


def test_a_canary_that_no_node_takes_holds_the_rollout_and_loses_nothing() -> None:
    world = model(serving={"replicas": 2})
    stable = revision(world)
    world.edit(model={"uri": "https://models.example/digits-2.onnx"})
    canary = world.plan().facts.revisions[0].name  # type: ignore[union-attr]
    world.broken = {canary}
    world.reconcile()
    world.reconcile()
    world.work()
    pods = [name for name in world.names("Pod") if canary in name]
    assert pods
    full(world, *pods)
    reconcile_for(world, 29)
    assert world.condition("Stalled")["reason"] == "Unschedulable"
    assert WORDS in world.condition("Stalled")["message"]
    assert world.status["stable"] | {"weight": 100, "readyReplicas": 2} == world.status["stable"]
    assert world.status["canary"]["weight"] == 0
    assert revision(world) == stable
    assert world.replicas()[stable] == 2
    assert world.selected() == stable
    world.broken = set()
    for name in pods:
        world.vanish("Pod", name)
    world.work()
    world.settle()
    assert world.condition("Stalled")["status"] == "False"


def test_somebody_elses_autoscaler_is_reported_and_its_number_stands() -> None:
    world = model(scaling={"min": 1, "max": 3})
    name = f"digits-{revision(world)}"
    autoscaler(world, "Deployment", name)
    scale(world, name, 4)
    world.settle()
    told = world.condition("Scaled")
    assert (told["status"], told["reason"]) == ("False", "ForeignAutoscaler")
    assert "theirs" in told["message"]
    assert "ModelDeployment digits" in told["message"]
    for number in (7, 2, 5):
        before = len(world.writes)
        scale(world, name, number)
        world.settle()
        assert world.replicas() == {revision(world): number}
        assert not [w for w in world.writes[before:] if "Deployment/digits-" in w]
    world.vanish("HorizontalPodAutoscaler", "theirs")
    world.settle()
    assert world.condition("Scaled").get("reason") != "ForeignAutoscaler"


def test_a_fixed_number_yields_to_somebody_elses_autoscaler_too() -> None:
    world = model(serving={"replicas": 2})
    name = f"digits-{revision(world)}"
    autoscaler(world, "Deployment", name)
    scale(world, name, 6)
    world.settle()
    assert world.replicas() == {revision(world): 6}
    assert world.condition("Scaled")["reason"] == "ForeignAutoscaler"


def test_a_rollout_goes_on_beside_somebody_elses_autoscaler() -> None:
    world = model(serving={"replicas": 2}, rollout={"strategy": "Recreate"})
    old = revision(world)
    autoscaler(world, "Deployment", f"digits-{old}")
    world.edit(model={"uri": "https://models.example/digits-2.onnx"})
    world.settle()
    assert revision(world) != old
    assert world.replicas()[old] == 0
    assert world.condition("Scaled").get("reason") != "ForeignAutoscaler"


@pytest.mark.parametrize(("engine", "reported"), [("HPA", True), ("Builtin", False)])
def test_two_autoscalers_of_one_modeldeployment_are_reported(engine: str, reported: bool) -> None:
    world = model(scaling={"engine": engine, "min": 1, "max": 3})
    autoscaler(world, "ModelDeployment", "digits")
    world.settle()
    assert (world.condition("Scaled").get("reason") == "ForeignAutoscaler") is reported


def test_autoscalers_of_anything_else_are_nobodys() -> None:
    world = model()
    autoscaler(world, "StatefulSet", "digits-x", "one")
    autoscaler(world, "Deployment", "web", "two")
    autoscaler(world, "Deployment", "shop-web", "three")
    assert world.observed().autoscalers == ()


def test_a_schedule_that_cannot_be_read_is_named_and_the_rest_is_followed() -> None:
    daily = {"start": "0 8 * * *", "duration": "8h", "min": 2}
    moon = {**daily, "timeZone": "Moon/Far_Side"}
    world = model(scaling={"min": 1, "max": 3, "schedules": [daily, {**daily, "start": "61 8 * * *"}, moon]})
    told = world.condition("FieldsSupported")["message"]
    assert "spec.scaling.schedules[1] ('61' is not within 0-59)" in told
    assert "spec.scaling.schedules[2] (time zone 'Moon/Far_Side' is not known here" in told
    assert "schedules[0]" not in told
    assert world.condition("Ready")["status"] == "True"
