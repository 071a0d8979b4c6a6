"""Killed between any two writes of a rollout through a gateway: one end, and never a weight into nothing."""

from typing import Any

import pytest
from longshore.api.parse import parse_spec
from longshore.plan.revision import revision_of

from tests.operator.world import SPEC, KilledError, World

OTHER = {"uri": "https://models.example/other.onnx"}
GATEWAY: dict[str, Any] = {
    **SPEC,
    "serving": {"replicas": 4},
    "route": {
        "parentRefs": [{"name": "gateway", "sectionName": "http"}],
        "grpcParentRefs": [{"name": "gateway", "sectionName": "grpc"}],
    },
}
GATES: dict[str, Any] = {
    "steps": [{"weight": 25, "pause": {}}, {"weight": 50, "pause": {}}],
    "preflight": {"samples": 0},
    "affinity": {"header": "X-User"},
}
PREVIEW: dict[str, Any] = {
    "strategy": "BlueGreen",
    "steps": [{"weight": 0, "pause": {}}],
    "preflight": {"samples": 0},
}
FIRST = revision_of(parse_spec(GATEWAY))
END = {"good": "Idle", "bad": "Aborted"}


def ready(world: World, service: str) -> bool:
    """Tell whether a pod answers behind a Service."""
    selector = world.objects["Service", service]["spec"]["selector"]
    return any(
        world._is_ready(obj) and selector.items() <= obj["metadata"]["labels"].items()
        for (kind, _), obj in world.objects.items()
        if kind == "Pod"
    )


def check(world: World) -> None:
    """Assert what must hold at every moment."""
    for kind in ("HTTPRoute", "GRPCRoute"):
        route = world.objects.get((kind, "digits"))
        for rule in route["spec"]["rules"] if route else ():
            weights = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
            if rule["name"] == "longshore":
                assert sum(weights.values()) == 100
            for service, weight in weights.items():
                assert not weight or ready(world, service), f"{kind}: {weight} to {service}, which is empty"


def phase(world: World) -> str:
    found: str = world.status.get("rollout", {}).get("state", {}).get("phase", "Idle")
    return found


def begin(rollout: dict[str, Any]) -> World:
    """A world in which a first revision serves through a gateway."""
    world = World({**GATEWAY, "rollout": rollout})
    world.gateway_api, world.accepts = True, {"HTTPRoute", "GRPCRoute"}
    world.settle()
    world.edit(model=OTHER)
    return world


def live(world: World, nature: str) -> None:
    """Open each gate, or abort at the last one; until it has ended."""
    for _ in range(300):
        again = world.reconcile()
        check(world)
        world.work()
        check(world)
        waits = {world.condition(kind).get("reason") for kind in ("Stalled", "Reconciling")}
        if waits & {"WaitingForPromotion", "NoData"}:
            step = (world.status.get("canary") or {}).get("step")
            last = step == len(world.root["spec"]["rollout"]["steps"])
            order = "abort" if nature == "bad" and last else "promote"
            world.annotate(**{f"longshore_dev_{order}": f"{step}"})
        moved = world.selected() not in (None, FIRST)
        over = phase(world) == END[nature] and moved is (nature == "good")
        if over and again is None:
            return
        world.now += min(again, 2.0) if again else 1.0
    raise AssertionError(f"it does not end: {phase(world)}, {world.condition('Stalled')}")


@pytest.mark.parametrize(
    ("nature", "rollout"),
    [("good", GATES), ("bad", GATES), ("good", PREVIEW)],
    ids=["promoted", "aborted", "previewed"],
)
def test_killed_at_any_write_of_a_rollout_it_ends_the_same_and_routes_lead_to_pods(
    nature: str, rollout: dict[str, Any]
) -> None:
    undisturbed = begin(rollout)
    first = len(undisturbed.writes)
    live(undisturbed, nature)
    wanted, total = plain(undisturbed), len(undisturbed.writes)
    assert total - first > 12
    for number in range(first, total):
        world = begin(rollout)
        world.kill_at = number
        try:
            live(world, nature)
        except KilledError:
            check(world)
            world.kill_at = None
            world.restart()
            live(world, nature)
        assert plain(world) == wanted, f"killed before write {number}"


def plain(world: World) -> dict[str, Any]:
    """Give the end without times."""
    found = world.end_state()
    for obj in found.values():
        obj["metadata"]["annotations"].pop("longshore.dev/weighted-at", None)
    return found
