"""From one revision to the next: no gap, no lie, and a way back."""

from typing import Any

import pytest
from longshore.api.parse import parse_spec
from longshore.plan.revision import revision_of

from tests.operator.world import SPEC, World

SECOND: dict[str, Any] = {"uri": "https://models.example/second.onnx"}
FIRST = revision_of(parse_spec(SPEC))
NEXT = revision_of(parse_spec({**SPEC, "model": SECOND}))


def serving(spec: Any = SPEC) -> World:
    world = World(spec)
    world.settle()
    return world


def test_a_new_revision_starts_beside_the_old_one_and_takes_over_once_it_answers() -> None:
    world = serving({**SPEC, "serving": {"replicas": 2}})
    world.broken = {NEXT}
    world.edit(model=SECOND)
    world.reconcile()
    world.work()
    world.reconcile()
    assert world.replicas()[FIRST] == 2
    assert world.replicas()[NEXT] >= 1
    assert world.selected() == FIRST
    assert world.condition("Ready")["status"] == "True"
    assert world.status["stable"]["revision"] == FIRST
    assert world.status["canary"]["revision"] == NEXT
    assert world.status["canary"]["weight"] == 0
    world.broken = set()
    world.settle()
    assert world.selected() == NEXT
    assert world.replicas() == {FIRST: 0, NEXT: 2}
    assert world.status["stable"]["revision"] == NEXT
    assert "canary" not in world.status
    assert "RolloutPromoted" in world.told()


def test_the_service_moves_only_when_every_pod_of_the_new_revision_answers() -> None:
    world = serving({**SPEC, "serving": {"replicas": 3}})
    world.edit(model=SECOND)
    for _ in range(60):
        world.reconcile()
        if world.selected() == NEXT:
            ready = [
                o
                for (k, _), o in world.objects.items()
                if k == "Pod" and o["metadata"]["labels"]["longshore.dev/revision"] == NEXT
            ]
            assert len(ready) == 3
            return
        world.work()
        world.now += 1
    raise AssertionError("never promoted")


def test_the_old_pods_stay_until_connections_had_time_to_leave() -> None:
    world = serving()
    world.edit(model=SECOND)
    promoted_at = None
    for _ in range(100):
        world.reconcile()
        world.work()
        if promoted_at is None and world.selected() == NEXT:
            promoted_at = world.now
        if promoted_at is not None and world.replicas()[FIRST] == 0:
            assert world.now - promoted_at >= 5
            return
        world.now += 0.5
    raise AssertionError("the old pods never went")


def test_what_was_promoted_is_read_live_first() -> None:
    world = serving()
    world.edit(model=SECOND)
    for _ in range(60):
        plan = world.plan()
        if plan.rests_on:
            assert set(plan.rests_on) == {("Service", "digits"), ("Deployment", f"digits-{NEXT}")}
            return
        world.reconcile()
        world.work()
        world.now += 1
    raise AssertionError("never promoted")


def test_a_revision_that_never_gets_ready_is_given_up_and_the_stable_one_stays_ready() -> None:
    world = serving({**SPEC, "rollout": {"progressDeadline": "2m"}})
    world.broken = {NEXT}
    world.edit(model=SECOND)
    began = world.now
    while world.replicas().get(NEXT, 1) > 0 or world.now - began < 1:
        world.reconcile()
        world.work()
        assert world.condition("Ready")["status"] == "True"
        assert world.selected() == FIRST
        world.now += 2
        assert world.now - began < 200, "never given up"
    assert 115 <= world.now - began <= 130
    world.settle()
    assert world.replicas() == {FIRST: 1, NEXT: 0}
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled")["status"] == "True"
    assert "progressDeadline" in world.condition("Stalled")["message"]
    failed = next(r for r in world.status["revisions"] if r["name"] == NEXT)
    assert failed["phase"] == "Failed"
    assert "were ready after" in failed["reason"]
    world.now += 3600
    assert world.settle() == [], "it is not tried again by itself"


def test_a_given_up_revision_is_tried_again_when_asked_to() -> None:
    world = serving({**SPEC, "rollout": {"progressDeadline": "30s"}})
    world.broken = {NEXT}
    world.edit(model=SECOND)
    for _ in range(30):
        world.reconcile()
        world.work()
        world.now += 2
    world.settle()
    assert world.replicas()[NEXT] == 0
    world.broken = set()
    world.annotate(longshore_dev_retry="please")
    world.settle()
    assert world.selected() == NEXT
    assert "longshore.dev/retry" not in world.root["metadata"].get("annotations", {})


def test_a_given_up_revision_leaves_when_the_spec_changes() -> None:
    world = serving({**SPEC, "rollout": {"progressDeadline": "30s"}})
    world.broken = {NEXT}
    world.edit(model=SECOND)
    for _ in range(30):
        world.reconcile()
        world.work()
        world.now += 2
    world.edit(model={"uri": "https://models.example/third.onnx"})
    world.settle()
    assert world.selected() not in (FIRST, NEXT)
    assert world.condition("Stalled")["status"] == "False"


def test_going_back_reuses_the_deployment_and_needs_no_job() -> None:
    world = World({**SPEC, "optimize": {}})
    world.settle()
    artifact = f"oci://localhost:5000/longshore@sha256:{'b' * 64}"
    good = {"outcome": "Succeeded", "artifact": artifact, "artifactSha256": "b" * 64, "chosen": "int8"}
    world.end_job(good)
    world.settle()
    first, uid = (
        world.selected(),
        world.objects["Deployment", f"digits-{world.selected()}"]["metadata"]["uid"],
    )
    world.edit(serving={"batching": {"maxSize": 4}}, optimize={"seed": 3})
    world.settle()
    world.end_job({**good, "artifact": artifact.replace("b", "c"), "artifactSha256": "c" * 64})
    world.settle()
    assert world.selected() != first
    jobs_before = [w for w in world.writes if w.startswith("apply Job")]
    world.edit(serving=None, optimize={})
    world.settle()
    assert world.selected() == first
    assert world.objects["Deployment", f"digits-{first}"]["metadata"]["uid"] == uid
    assert [w for w in world.writes if w.startswith("apply Job")] == jobs_before


@pytest.mark.parametrize("history", [0, 1, 3])
def test_old_revisions_are_kept_as_the_history_says(history: int) -> None:
    world = serving({**SPEC, "rollout": {"revisionHistory": history}})
    for number in range(5):
        world.edit(model={"uri": f"https://models.example/{number}.onnx"})
        world.settle()
        world.now += 60
    assert len(world.names("Deployment")) == 1 + history
    assert sum(world.replicas().values()) == 1
    assert world.selected() in world.replicas()
    assert len(world.status["revisions"]) == 1 + history


def test_a_new_spec_in_the_middle_of_a_change_wins() -> None:
    world = serving()
    world.broken = {NEXT}
    world.edit(model=SECOND)
    for _ in range(3):
        world.reconcile()
        world.work()
    world.edit(model={"uri": "https://models.example/third.onnx"})
    world.settle()
    third = world.selected()
    assert third not in (FIRST, NEXT)
    assert world.replicas() == {FIRST: 0, NEXT: 0, third: 1}


def test_a_clock_that_jumps_back_an_hour_ends_in_the_same_place() -> None:
    world = serving()
    world.edit(model=SECOND)
    for turn in range(80):
        world.reconcile()
        world.work()
        world.now += -3600 if turn == 6 else 2
    world.settle()
    assert world.selected() == NEXT
    assert world.replicas() == {FIRST: 0, NEXT: 1}


def test_upgrading_the_operator_restarts_no_pod() -> None:
    world = serving({**SPEC, "optimize": None} | {"serving": {"replicas": 2}})
    name = f"digits-{world.selected()}"
    before = world.objects["Deployment", name]["spec"]["template"]
    world.settings = world.settings.model_copy(
        update={
            "server_image": "registry.example/server:v2",
            "optimizer_image": "registry.example/optimizer:v2",
            "image_pull_secrets": ("more",),
        }
    )
    world.restart()
    world.settle()
    assert world.objects["Deployment", name]["spec"]["template"] == before
    assert len(world.names("Deployment")) == 1
    world.edit(model=SECOND)
    world.settle()
    new = world.objects["Deployment", f"digits-{world.selected()}"]["spec"]["template"]["spec"]
    assert new["containers"][0]["image"] == "registry.example/server:v2", "a new revision takes the new image"


@pytest.mark.parametrize("part", ["scaling", "rollout"])
def test_what_is_no_revision_restarts_nothing(part: str) -> None:
    world = serving()
    change = {"scaling": {"min": 2}, "rollout": {"progressDeadline": "3m"}}[part]
    world.edit(**{part: change})
    world.settle()
    assert world.names("Deployment") == [f"digits-{FIRST}"]
    assert world.told() == ["Ready"]


def test_drift_in_what_longshore_owns_is_repaired_and_foreign_fields_are_kept() -> None:
    world = serving()
    deployment = world.objects["Deployment", f"digits-{FIRST}"]
    deployment["spec"]["replicas"] = 7
    deployment["metadata"]["annotations"]["example.com/owner"] = "team"
    deployment["spec"]["template"]["spec"]["hostname"] = "kept"
    world._touch(deployment)
    world.settle()
    deployment = world.objects["Deployment", f"digits-{FIRST}"]
    assert deployment["spec"]["replicas"] == 1
    assert deployment["metadata"]["annotations"]["example.com/owner"] == "team"
    assert deployment["spec"]["template"]["spec"]["hostname"] == "kept"


@pytest.mark.parametrize(
    "kind", ["ServiceAccount", "NetworkPolicy", "PodDisruptionBudget", "Deployment", "Service"]
)
def test_a_child_that_was_deleted_comes_back(kind: str) -> None:
    world = serving()
    (name,) = world.names(kind)
    world.vanish(kind, name)
    world.settle()
    assert world.names(kind) == [name]
    assert world.selected() == FIRST
    assert world.condition("Ready")["status"] == "True"


def test_a_template_annotation_that_was_removed_or_broken_harms_nobody() -> None:
    for text in (None, "{", "[]", "null"):
        world = serving()
        notes = world.objects["Deployment", f"digits-{FIRST}"]["metadata"]["annotations"]
        if text is None:
            del notes["longshore.dev/template"]
        else:
            notes["longshore.dev/template"] = text
        world._touch(world.objects["Deployment", f"digits-{FIRST}"])
        world.restart()
        world.settle()
        assert world.condition("Ready")["status"] == "True", text
        assert world.settle() == []
        world.edit(serving={"replicas": 2})
        world.settle()
        assert world.replicas()[FIRST] == 2, text
