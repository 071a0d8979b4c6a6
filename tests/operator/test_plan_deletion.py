"""Deletion: the store is tidied, what others use stays, and nothing holds the object for ever."""

from typing import Any

from longshore.plan.state import Observed
from longshore.resources.kinds import MODEL_DEPLOYMENT

from tests.operator.world import SPEC, World

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
