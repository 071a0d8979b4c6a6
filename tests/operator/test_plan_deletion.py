"""Deletion: the store is tidied, what others use stays, and nothing holds the object for ever."""

import json
from typing import Any

import pytest
from longshore.plan.deletion import PATIENCE
from longshore.plan.state import Observed
from longshore.resources.kinds import MODEL_DEPLOYMENT
from longshore.store import Kept

from tests.operator.world import SPEC, KilledError, World

ARTIFACT = f"oci://localhost:5000/longshore@sha256:{'b' * 64}"
GOOD: dict[str, Any] = {
    "outcome": "Succeeded",
    "artifact": ARTIFACT,
    "artifactSha256": "b" * 64,
    "chosen": "x",
}


def optimized() -> World:
    world = World({**SPEC, "optimize": {}})
    world.settle()
    world.end_job(GOOD)
    world.settle()
    return world


def test_without_anything_outside_there_is_no_finalizer() -> None:
    world = World()
    world.settle()
    assert "finalizers" not in world.root["metadata"]
    world.delete_root()
    assert world.objects == {}
    assert world.reconcile() is None


def test_the_artifact_is_released_before_the_finalizer_goes() -> None:
    world = optimized()
    world.delete_root()
    plan = world.plan()
    assert plan.release == (ARTIFACT,)
    assert plan.finalizers == ()
    assert plan.apply == ()
    assert plan.facts is None
    assert world.settle() == [f"release {ARTIFACT}", "merge ModelDeployment/digits"]
    assert world.objects == {}


def test_killed_between_any_two_writes_of_a_deletion_nothing_is_left() -> None:
    undisturbed = optimized()
    undisturbed.edit(model={"uri": "https://models.example/other.onnx"})
    undisturbed.settle()
    undisturbed.delete_root()
    writes = undisturbed.settle()
    assert [write.split()[0] for write in writes] == ["delete", "release", "merge"]
    for number in range(len(writes)):
        world = optimized()
        world.edit(model={"uri": "https://models.example/other.onnx"})
        world.settle()
        world.delete_root()
        world.kill_at = len(world.writes) + number
        with pytest.raises(KilledError):
            world.settle()
        if world.objects:
            world.kill_at = None
            world.restart()
            world.settle()
        assert world.objects == {}
        assert f"release {ARTIFACT}" in world.writes


def at_work() -> World:
    """A Job whose pod does not end for being asked to."""
    world = World({**SPEC, "optimize": {}})
    world.settle()
    world.node_is_lost = True
    set_pod(world, phase="Running")
    world.settle()
    return world


def set_pod(world: World, name: str = "", **status: Any) -> str:
    name = name or world.jobs()[-1]["metadata"]["name"]
    labels = {
        "app.kubernetes.io/managed-by": "longshore",
        "app.kubernetes.io/instance": "digits",
        "longshore.dev/name": "digits",
        "batch.kubernetes.io/job-name": name,
    }
    world.pod(f"{name}-pod", labels, status=status)
    return name


def test_a_job_at_work_ends_before_the_finalizer_goes() -> None:
    world = at_work()
    name = set_pod(world, phase="Running")
    world.delete_root()
    assert world.settle(patience=30) == [f"delete Job/{name}"]
    assert world.root["metadata"]["finalizers"] == ["longshore.dev/artifacts"]
    # It stored its artifact just before it ended.
    last = {"exitCode": 0, "reason": "Completed", "message": json.dumps(GOOD)}
    containers = [{"name": "optimizer", "state": {"terminated": last}}]
    set_pod(world, name, phase="Succeeded", containerStatuses=containers)
    assert world.settle() == [f"release {ARTIFACT}", "merge ModelDeployment/digits"]
    assert world.objects == {}


def test_a_pod_that_never_ends_holds_a_deletion_for_a_bounded_time() -> None:
    world = at_work()
    world.delete_root()
    world.settle(patience=30)
    assert world.root["metadata"]["finalizers"] == ["longshore.dev/artifacts"]
    world.now += PATIENCE
    world.settle()
    assert world.objects == {}


def test_a_registry_that_is_away_is_asked_again_before_the_finalizer_goes() -> None:
    world = optimized()
    world.shelf.kept = (Kept(ARTIFACT, "its registry does not answer", away=True),)
    world.delete_root()
    for _ in range(3):
        before, again = len(world.writes), world.reconcile()
        assert world.writes[before:] == [f"release {ARTIFACT}"]
        assert again == 5
        world.now += again
    world.shelf.kept = ()
    assert world.settle() == [f"release {ARTIFACT}", "merge ModelDeployment/digits"]
    assert world.objects == {}
    assert "ArtifactLeft" not in {event["reason"] for event in world.events}


def test_what_stays_in_the_store_is_told_and_holds_nobody_up() -> None:
    for kept, wait in ((Kept(ARTIFACT, "HTTP 405"), 0.0), (Kept(ARTIFACT, "HTTP 503", away=True), PATIENCE)):
        world = optimized()
        world.shelf.kept = (kept,)
        world.delete_root()
        world.now += wait
        world.settle()
        assert world.objects == {}
        (told,) = (event for event in world.events if event["reason"] == "ArtifactLeft")
        assert ARTIFACT in told["message"]
        assert kept.cause in told["message"]


def test_an_artifact_that_another_model_uses_stays() -> None:
    world = optimized()
    other = {
        "apiVersion": MODEL_DEPLOYMENT.api_version,
        "kind": MODEL_DEPLOYMENT.kind,
        "metadata": {"name": "copy", "namespace": "team", "uid": "u", "resourceVersion": "9999"},
        "spec": dict(SPEC),
        "status": {"revisions": [{"name": "r", "artifact": ARTIFACT}]},
    }
    world.delete_root()
    world.hear()
    world.index.put(other)
    found = _observed(world)
    assert found.shared_artifacts == {ARTIFACT}
    from longshore.plan.pipeline import make_plan

    assert make_plan(found).release == ()
    assert make_plan(found).finalizers == ()


def _observed(world: World) -> Observed:
    from longshore.observe import observe

    found = observe(world.index, ("team", "digits"), world.settings, world.now)
    assert found is not None
    return found


def test_foreign_finalizers_are_kept() -> None:
    world = optimized()
    world.root["metadata"]["finalizers"].append("example.com/hold")
    world._touch(world.root)
    world.settle()
    assert world.root["metadata"]["finalizers"] == ["longshore.dev/artifacts", "example.com/hold"]
    world.delete_root()
    assert world.plan().finalizers == ("example.com/hold",)


def test_a_model_that_is_going_away_is_not_reconciled() -> None:
    world = optimized()
    world.root["metadata"]["finalizers"] = ["example.com/hold"]
    world.delete_root()
    world.vanish("Service", "digits")
    assert world.settle() == []


def test_a_finished_job_whose_artifact_was_not_served_yet_is_released_too() -> None:
    world = World({**SPEC, "optimize": {}})
    world.settle()
    assert world.root["metadata"]["finalizers"] == ["longshore.dev/artifacts"]
    world.end_job(GOOD)
    world.delete_root()
    assert world.plan().release == (ARTIFACT,)


def test_the_finalizer_goes_when_nothing_outside_is_left() -> None:
    world = World({**SPEC, "optimize": {}})
    world.settle()
    world.edit(optimize=None)
    world.settle()
    assert world.root["metadata"]["finalizers"] == []
