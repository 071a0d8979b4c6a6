"""The first apply, and what status says of specs that are only half good."""

from typing import Any

import pytest
from longshore.settings import NodeRegistry, Settings

from tests.operator.world import SPEC, START, World


def test_first_apply_makes_exactly_these_objects_in_this_order() -> None:
    plan = World().plan()
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in plan.apply] == [
        ("ServiceAccount", "digits"),
        ("NetworkPolicy", "digits"),
        ("PodDisruptionBudget", "digits"),
        ("Deployment", "digits-88a47de644"),
        ("Service", "digits"),
    ]
    assert plan.delete == ()
    assert plan.finalizers is None, "nothing stands outside of the namespace"


def test_every_child_is_owned_labelled_and_in_the_same_namespace() -> None:
    world = World()
    for obj in world.plan().apply:
        metadata = obj["metadata"]
        assert metadata["namespace"] == "team"
        assert [r["uid"] for r in metadata["ownerReferences"]] == [world.root["metadata"]["uid"]]
        assert metadata["labels"]["longshore.dev/name"] == "digits"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "longshore"


def test_it_becomes_ready_and_then_rests() -> None:
    world = World()
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    assert world.status["phase"] == "Ready"
    assert world.status["url"] == "http://digits.team.svc/v2/models/digits"
    assert world.status["replicas"] == 1
    assert world.status["observedGeneration"] == 1
    assert world.told() == ["Ready"]
    for _ in range(3):
        world.now += 600
        assert world.settle() == []


def test_it_is_not_ready_before_a_pod_answers() -> None:
    world = World()
    world.broken = {"88a47de644"}
    world.settle()
    assert world.condition("Ready")["status"] == "False"
    assert world.condition("Reconciling")["status"] == "True"
    assert world.status["phase"] == "WaitingForPods"
    assert world.settle() == []


def test_a_first_revision_that_never_gets_ready_is_replaced_by_the_fixed_spec() -> None:
    world = World()
    world.broken = {"88a47de644"}
    world.settle()
    world.edit(model={"uri": "https://models.example/fixed.onnx"})
    world.settle()
    assert world.condition("Ready")["status"] == "True"
    fixed = world.selected()
    assert fixed not in (None, "88a47de644")
    assert world.replicas()["88a47de644"] == 0
    assert world.status["stable"]["revision"] == fixed


def test_mended_settings_of_the_operator_reach_a_first_revision_that_never_answered() -> None:
    def host() -> str:
        (name,) = world.names("Deployment")
        pods = world.objects["Deployment", name]["spec"]["template"]["spec"]
        image = next(v["image"] for v in pods["volumes"] if v["name"] == "model")
        return str(image["reference"].partition("/")[0])

    wrong, right = (
        Settings(node_registries=(NodeRegistry(host="registry.example", node_host=node),))
        for node in ("typo:5000", "localhost:5000")
    )
    spec = {"model": {"uri": "oci://registry.example/models/digits:1", "sha256": "a" * 64}}
    world = World(spec, wrong)
    (name,) = (o["metadata"]["name"] for o in world.plan().apply if o["kind"] == "Deployment")
    world.broken = {name.removeprefix("digits-")}
    world.settle()
    assert host() == "typo:5000"
    world.settings = right
    world.restart()
    world.settle()
    assert host() == "localhost:5000"
    assert len(world.names("Deployment")) == 1
    world.broken = set()
    world.settle()
    world.settings = wrong
    world.restart()
    world.settle()
    assert host() == "localhost:5000", "what answers keeps the template it was built with"


@pytest.mark.parametrize(
    ("serving", "scaling", "pods"),
    [
        ({}, {}, 1),
        ({"replicas": 3}, {}, 3),
        ({}, {"min": 2}, 2),
        ({"replicas": 2}, {"min": 5}, 2),
    ],
)
def test_number_of_pods(serving: dict[str, Any], scaling: dict[str, Any], pods: int) -> None:
    world = World({**SPEC, "serving": serving, "scaling": scaling})
    world.settle()
    assert list(world.replicas().values()) == [pods]
    assert world.status["replicas"] == pods


def test_replicas_zero_and_back() -> None:
    world = World({**SPEC, "serving": {"replicas": 1}})
    world.settle()
    world.edit(serving={"replicas": 0})
    world.settle()
    assert list(world.replicas().values()) == [0]
    assert world.condition("Ready")["status"] == "False"
    assert world.condition("Stalled")["status"] == "False"
    assert world.settle() == []
    world.edit(serving={"replicas": 2})
    world.settle()
    assert list(world.replicas().values()) == [2]
    assert world.condition("Ready")["status"] == "True"
    assert len(world.names("Deployment")) == 1, "scaling makes no new revision"


def test_a_spec_that_cannot_be_understood_keeps_what_serves_and_says_why() -> None:
    world = World()
    world.settle()
    before = {k: v for k, v in world.end_state().items() if not k.startswith("ModelDeployment")}
    world.edit(rollout={"progressDeadline": "soon"}, model={"uri": "https://models.example/2.onnx"})
    world.settle()
    assert {k: v for k, v in world.end_state().items() if not k.startswith("ModelDeployment")} == before
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
    assert "spec.rollout.progressDeadline" in stalled["message"]
    assert world.condition("Ready")["status"] == "True"
    assert world.status["stable"]["revision"] == "88a47de644"
    assert world.settle() == []
    world.edit(rollout=None)
    world.settle()
    assert world.condition("Stalled")["status"] == "False"
    assert "Recovered" in world.told()


def test_a_spec_that_was_never_good_says_so() -> None:
    world = World({"model": {"uri": "https://models.example/m.onnx", "allowPickle": True}})
    world.settle()
    assert world.condition("Stalled")["reason"] == "InvalidSpec"
    assert world.condition("Ready")["status"] == "False"
    assert world.names("Deployment") == []


def test_a_status_that_another_version_wrote_is_no_obstacle() -> None:
    world = World()
    world.settle()
    for broken in (
        {"conditions": [{"type": "Ready", "status": "Maybe"}], "revisions": "none"},
        {"rollout": {"state": {"phase": "Unheard"}}, "optimization": {"chosen": 5}},
        {"rollout": "text", "optimization": [], "conditions": {}, "revisions": [{"artifact": 3}]},
    ):
        world.root["status"] = broken
        world._touch(world.root)
        world.restart()
        world.settle()
        assert world.condition("Ready")["status"] == "True"
        world.root["status"] = broken
        world.edit(scaling={"min": "many"})
        world.settle()
        assert world.condition("Stalled")["reason"] == "InvalidSpec"
        world.edit(scaling=None)
        world.settle()


@pytest.mark.parametrize("optimize", [None, {}], ids=["served as it is", "optimized"])
def test_fields_without_effect_are_named_and_do_not_harm(optimize: Any) -> None:
    signed = {**SPEC["model"], "signature": {"publicKey": {"secretName": "k"}}}
    world = World({"model": signed, "zebra": 1} | ({} if optimize is None else {"optimize": optimize}))
    world.settle()
    if optimize is not None:
        artifact = f"oci://localhost:5000/longshore@sha256:{'b' * 64}"
        world.end_job({"outcome": "Succeeded", "artifact": artifact})
        world.settle()
    fields = world.condition("FieldsSupported")
    assert fields["status"] == "False"
    assert "spec.model.signature (" in fields["message"]
    assert "spec.zebra (unknown to this version)" in fields["message"]
    assert world.condition("Ready")["status"] == "True"
    assert "FieldsNotSupported" in world.told()


def test_an_oci_model_is_mounted_where_nodes_can_pull_it() -> None:
    settings = Settings(node_registries=(NodeRegistry(host="registry.example", node_host="localhost:5000"),))
    spec = {"model": {"uri": "oci://registry.example/models/digits:1", "sha256": "a" * 64}}
    world = World(spec, settings)
    (pods,) = [o["spec"]["template"]["spec"] for o in world.plan().apply if o["kind"] == "Deployment"]
    image = next(v["image"] for v in pods["volumes"] if v["name"] == "model")
    assert image["reference"] == f"localhost:5000/models/digits:1@sha256:{'a' * 64}"
    assert "initContainers" not in pods


def test_unschedulable_is_told_after_a_moment_and_taken_back() -> None:
    world = World()
    world.broken = {"88a47de644"}
    world.settle()
    no_node = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    pod = world.objects["Pod", "digits-88a47de644-0"]
    pod["status"]["conditions"].append(no_node)
    world._touch(pod)
    world.now = START + 2
    again = world.reconcile()
    assert world.condition("Stalled")["status"] == "False", "schedulers need a moment"
    assert again is not None
    assert 7 <= again <= 9
    world.now += again
    world.settle()
    assert world.condition("Stalled")["reason"] == "Unschedulable"
    assert "0/1 nodes are available" in world.condition("Stalled")["message"]
    assert world.settle() == []
    world.broken = set()
    world.settle()
    assert world.condition("Stalled")["status"] == "False"
    assert world.condition("Ready")["status"] == "True"
