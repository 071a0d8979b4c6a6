"""BlueGreen shows a preview before it switches; Recreate never has two copies; a leak is named."""

from typing import Any

import pytest

from tests.operator.world import SPEC, World

OTHER = {"uri": "https://models.example/other.onnx"}
ROUTE: dict[str, Any] = {
    "parentRefs": [{"name": "gateway", "sectionName": "http"}],
    "grpcParentRefs": [{"name": "gateway", "sectionName": "grpc"}],
    "pathPrefix": "/m",
}
GATED: dict[str, Any] = {"strategy": "BlueGreen", "steps": [{"weight": 0, "pause": {"reason": "try it"}}]}
NOW: dict[str, Any] = {"strategy": "BlueGreen"}
RECREATE: dict[str, Any] = {"strategy": "Recreate"}


def go(world: World, ticks: int = 40) -> None:
    """Let a rollout run that waits for somebody: its clocks are written now and then, so it never rests."""
    for _ in range(ticks):
        again = world.reconcile()
        world.work()
        world.now += min(again, 2.0) if again else 1.0


def serving(rollout: dict[str, Any], route: dict[str, Any] | None = None) -> tuple[World, str]:
    """A world in which a first revision serves; gives its name."""
    spec = {**SPEC, "rollout": rollout, "serving": {"replicas": 3}}
    world = World({**spec, "route": route} if route else spec)
    if route:
        world.gateway_api, world.accepts = True, {"HTTPRoute", "GRPCRoute"}
    world.settle()
    first = world.selected()
    assert first is not None
    return world, first


def selects(world: World, service: str) -> str | None:
    """Give the revision that a Service leads to."""
    obj = world.objects.get(("Service", service))
    return obj["spec"]["selector"].get("longshore.dev/revision") if obj else None


def test_a_preview_without_a_gateway_is_a_service_of_its_own_until_it_is_promoted() -> None:
    world, first = serving(GATED)
    assert selects(world, "digits-canary") is None
    world.edit(model=OTHER)
    go(world)
    second = selects(world, "digits-canary")
    assert second not in (None, first)
    assert world.selected() == first, "clients stay where they are"
    assert world.replicas() == {first: 3, second: 3}, "all pods are there before the switch"
    assert world.condition("Stalled")["reason"] == "WaitingForPromotion"
    assert "try it" in world.condition("Stalled")["message"]
    told = [event["message"] for event in world.events if event["reason"] == "RolloutPreview"]
    assert f"{second} can be tried at http://digits-canary.team.svc" in told
    world.annotate(longshore_dev_promote="now")
    world.settle()
    assert world.selected() == second
    assert world.names("Service") == ["digits"]
    assert world.replicas() == {first: 0, second: 3}
    assert world.condition("Ready")["status"] == "True"


def test_a_preview_through_a_gateway_is_asked_for_by_a_header() -> None:
    world, first = serving(GATED, ROUTE)
    world.edit(model=OTHER)
    go(world)
    second = selects(world, "digits-canary")
    assert second not in (None, first)
    for kind in ("HTTPRoute", "GRPCRoute"):
        rules = {rule["name"]: rule for rule in world.objects[kind, "digits"]["spec"]["rules"]}
        assert [b["weight"] for b in rules["longshore"]["backendRefs"]] == [100, 0]
        preview = rules["longshore-preview"]
        assert [b["name"] for b in preview["backendRefs"]] == ["digits-canary"]
        assert preview["matches"][0]["headers"] == [
            {"type": "Exact", "name": "Longshore-Preview", "value": "true"}
        ]
    http = world.objects["HTTPRoute", "digits"]["spec"]["rules"][1]
    assert http["matches"][0]["path"] == {"type": "PathPrefix", "value": "/m"}
    assert world.condition("Stalled")["reason"] == "WaitingForPromotion"
    world.annotate(longshore_dev_promote="now")
    world.settle()
    assert world.selected() == selects(world, "digits-stable") == second
    for kind in ("HTTPRoute", "GRPCRoute"):
        assert [r["name"] for r in world.objects[kind, "digits"]["spec"]["rules"]] == ["longshore"]


@pytest.mark.parametrize("route", [None, ROUTE])
def test_an_aborted_preview_is_taken_away_and_no_client_saw_it(route: dict[str, Any] | None) -> None:
    world, first = serving(GATED, route)
    world.edit(model=OTHER)
    go(world)
    world.annotate(longshore_dev_abort="now")
    world.settle()
    assert world.selected() == first
    assert world.replicas()[first] == 3
    assert sum(world.replicas().values()) == 3
    if route:
        assert len(world.objects["HTTPRoute", "digits"]["spec"]["rules"]) == 1
    else:
        assert world.names("Service") == ["digits"]
    assert world.condition("Stalled")["reason"] == "RolloutAborted"
    assert world.condition("Ready")["status"] == "True"


def test_blue_green_without_a_step_switches_by_itself_with_all_pods_at_once() -> None:
    world, first = serving(NOW)
    world.edit(model=OTHER)
    for _ in range(60):
        world.reconcile()
        world.work()
        if world.selected() != first:
            break
        world.now += 1
    second = world.selected()
    assert world.replicas() == {first: 3, second: 3}, "the old pods are there until the switch is through"
    world.settle()
    assert world.replicas() == {first: 0, second: 3}
    assert "RolloutPreview" in world.told()


def test_recreate_never_has_pods_of_two_revisions() -> None:
    world, first = serving(RECREATE)
    world.edit(model=OTHER)
    for _ in range(80):
        world.reconcile()
        standing = {
            obj["metadata"]["labels"]["longshore.dev/revision"]
            for (kind, _), obj in world.objects.items()
            if kind == "Pod"
        }
        asked = {revision for revision, count in world.replicas().items() if count}
        assert len(standing | asked) <= 1
        world.work()
        world.now += 1
    assert world.selected() != first
    assert world.condition("Ready")["status"] == "True"
    assert world.replicas()[first] == 0


def test_recreate_waits_for_pods_that_are_going_away() -> None:
    world, first = serving(RECREATE)
    leaving = world.pod("digits-draining", world.objects["Pod", f"digits-{first}-0"]["metadata"]["labels"])
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world._touch(leaving)
    world.edit(model=OTHER)
    go(world, 20)
    assert sum(world.replicas().values()) == 0, "its memory is not free yet"
    world.vanish("Pod", "digits-draining")
    go(world, 20)
    assert world.selected() != first
    assert world.condition("Ready")["status"] == "True"


def test_recreate_goes_back_when_the_new_revision_never_answers() -> None:
    world, first = serving({**RECREATE, "progressDeadline": "20s"})
    world.edit(model=OTHER)
    world.reconcile()
    world.broken = {"nothing yet"}
    for _ in range(80):
        again = world.reconcile()
        world.broken = set(world.replicas()) - {first}
        world.work()
        world.now += min(again, 2.0) if again else 1.0
    assert world.replicas()[first] == 3
    assert world.selected() == first
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Stalled")["reason"] == "RolloutAborted"
    assert "progressDeadline" in world.condition("Stalled")["message"]


def stepping() -> tuple[World, str, str]:
    """Give a world where a second revision has half of the traffic, with the names of both."""
    steps = {"steps": [{"weight": 50, "pause": {}}], "preflight": {"samples": 0}}
    world, first = serving(steps)
    world.edit(model=OTHER)
    go(world)
    second = next(revision for revision in world.replicas() if revision != first)
    return world, first, second


def restart(world: World, revision: str, restarts: int, ended: dict[str, Any]) -> None:
    """Let the container of a pod end so, and run again."""
    pod = world.objects["Pod", f"digits-{revision}-0"]
    pod["status"]["containerStatuses"] = [
        {
            "name": "server",
            "restartCount": restarts,
            "state": {"running": {}},
            "lastState": {"terminated": ended},
        }
    ]
    world._touch(pod)


def leak(world: World, revision: str, restarts: int) -> None:
    restart(world, revision, restarts, {"exitCode": 137, "reason": "OOMKilled"})


def test_a_canary_that_crashes_again_and_again_is_aborted_with_its_last_words() -> None:
    world, first, second = stepping()
    restart(world, second, 3, {"exitCode": 1, "reason": "Error", "message": "no operator Imaginary"})
    world.settle()
    stalled = world.condition("Stalled")
    assert stalled["reason"] == "RolloutAborted"
    assert "restarted 3 times: container server" in stalled["message"]
    assert "no operator Imaginary" in stalled["message"]
    assert world.replicas() == {first: 3, second: 0}


def test_a_canary_that_leaks_memory_is_aborted_and_told_by_that_name() -> None:
    world, first, second = stepping()
    leak(world, second, restarts=1)
    go(world)
    assert world.condition("Stalled")["reason"] != "RolloutAborted", "one request may have been too large"
    leak(world, second, restarts=2)
    world.settle()
    stalled = world.condition("Stalled")
    assert stalled["reason"] == "RolloutAborted"
    assert "OOMKilled" in stalled["message"]
    assert "serving.resources.limits.memory" in stalled["message"]
    assert world.replicas() == {first: 3, second: 0}
    assert world.condition("Ready")["status"] == "True"


def test_memory_that_runs_out_on_both_sides_aborts_nobody_at_once() -> None:
    world, first, second = stepping()
    leak(world, first, restarts=2)
    leak(world, second, restarts=2)
    go(world)
    assert world.condition("Stalled")["reason"] != "RolloutAborted"
