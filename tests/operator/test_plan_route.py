"""The route: kept out of another's way, told when it cannot be, looked at again when no event will tell."""

import re
from dataclasses import replace
from typing import Any

import pytest
from longshore.api import Route
from longshore.plan.outcome import Plan
from longshore.plan.pipeline import make_plan
from longshore.plan.route import claims
from longshore.plan.state import RouteClaim

from tests.operator.world import SPEC, START, World

GRPC: dict[str, Any] = {"grpcParentRefs": [{"name": "gateway", "sectionName": "grpc"}]}
ROUTE: dict[str, Any] = {"parentRefs": [{"name": "gateway"}], "hostnames": ["m.example"], "pathPrefix": "/m"}


def planned(other: dict[str, Any] | None, created: float = START - 60, gateway: bool = True) -> Plan:
    world = World({**SPEC, "route": ROUTE})
    world.gateway_api = gateway
    world.settle()
    claim = (
        RouteClaim("team", "older", created, claims("team", Route.model_validate(other))) if other else None
    )
    observed = replace(
        world.observed(),
        other_routes=(claim,) if claim else (),
        installed=frozenset({"HTTPRoute", "GRPCRoute"} if gateway else ()),
    )
    return make_plan(observed)


def kinds(plan: Plan) -> set[str]:
    return {obj["kind"] for obj in plan.apply}


def test_a_free_route_is_made() -> None:
    assert "HTTPRoute" in kinds(planned(None))


def test_the_younger_of_two_that_want_one_route_is_told_and_serves_without_it() -> None:
    plan = planned(ROUTE)
    assert plan.facts is not None
    assert plan.facts.stalled is not None
    assert plan.facts.stalled.reason == "RouteConflict"
    assert "ModelDeployment team/older has this route already" in plan.facts.stalled.message
    assert "change route.hostnames or route.pathPrefix" in plan.facts.stalled.message
    assert plan.facts.ready
    assert "HTTPRoute" not in kinds(plan)
    assert {deletion.kind for deletion in plan.delete} >= {"HTTPRoute"}, "what was its own goes"
    assert plan.requeue_after is not None, "no event tells when the other one is gone"
    assert plan.requeue_after <= 60


def test_the_older_one_keeps_its_route() -> None:
    plan = planned(ROUTE, created=START + 60)
    assert "HTTPRoute" in kinds(plan)
    assert plan.facts is not None
    assert plan.facts.stalled is None


@pytest.mark.parametrize(
    "other",
    [
        {**ROUTE, "hostnames": ["other.example"]},
        {**ROUTE, "pathPrefix": "/other"},
        {**ROUTE, "parentRefs": [{"name": "another"}]},
        {**ROUTE, "parentRefs": [{"name": "gateway", "sectionName": "https"}]},
    ],
)
def test_another_route_is_no_conflict(other: dict[str, Any]) -> None:
    assert "HTTPRoute" in kinds(planned(other))


def test_without_the_gateway_api_it_says_so_and_looks_again() -> None:
    plan = planned(None, gateway=False)
    assert plan.facts is not None
    assert plan.facts.stalled is not None
    assert plan.facts.stalled.reason == "GatewayApiMissing"
    assert plan.facts.ready
    assert plan.requeue_after is not None


def test_a_route_that_is_no_longer_wanted_goes() -> None:
    world = World({**SPEC, "route": ROUTE})
    world.gateway_api = True
    world.settle()
    assert world.names("HTTPRoute") == ["digits"]
    assert world.names("Service") == ["digits", "digits-canary", "digits-stable"]
    world.edit(route=None)
    world.settle()
    assert world.names("HTTPRoute") == []
    assert world.names("Service") == ["digits"]
    assert world.condition("Ready")["status"] == "True"


STEPPED: dict[str, Any] = {
    "steps": [{"weight": 20, "pause": {}}, {"weight": 50, "pause": {}}],
    "preflight": {"samples": 0},
}


def weights(world: World, kind: str) -> dict[str, int]:
    """Give where Longshore's rule leads, and how much of the requests goes there."""
    rules = world.objects[kind, "digits"]["spec"]["rules"]
    mine = next(rule for rule in rules if rule["name"] == "longshore")
    return {backend["name"]: backend["weight"] for backend in mine["backendRefs"]}


def go(world: World, ticks: int = 40) -> None:
    """Let a rollout run that waits for a person: its clocks are written now and then, so it never rests."""
    for _ in range(ticks):
        again = world.reconcile()
        world.work()
        world.now += min(again, 2.0) if again else 1.0


def rolling(route: dict[str, Any], accepts: set[str]) -> World:
    """A world in which a second revision was just asked for."""
    world = World({**SPEC, "route": route, "rollout": STEPPED})
    world.gateway_api, world.accepts = True, accepts
    go(world)
    world.edit(model={"uri": "https://models.example/other.onnx"})
    go(world)
    return world


def test_both_kinds_of_route_get_the_same_weights() -> None:
    world = rolling({**ROUTE, **GRPC}, {"HTTPRoute", "GRPCRoute"})
    assert world.condition("Routed")["status"] == "True"
    for kind in ("HTTPRoute", "GRPCRoute"):
        assert weights(world, kind) == {"digits-stable": 80, "digits-canary": 20}
    ports = [
        backend["port"]
        for kind in ("HTTPRoute", "GRPCRoute")
        for backend in world.objects[kind, "digits"]["spec"]["rules"][0]["backendRefs"]
    ]
    assert ports == [80, 80, 8081, 8081]
    world.annotate(longshore_dev_abort="now")
    go(world)
    for kind in ("HTTPRoute", "GRPCRoute"):
        assert weights(world, kind) == {"digits-stable": 100, "digits-canary": 0}


def test_a_route_for_grpc_alone_is_enough() -> None:
    world = rolling(GRPC, {"GRPCRoute"})
    assert world.names("HTTPRoute") == []
    assert weights(world, "GRPCRoute") == {"digits-stable": 80, "digits-canary": 20}


def test_a_weight_counts_only_when_both_routes_are_accepted() -> None:
    world = rolling({**ROUTE, **GRPC}, {"HTTPRoute"})
    stalled = world.condition("Stalled")
    assert stalled["reason"] == "RouteRefused"
    assert "refuses the GRPCRoute: no listener allows this kind" in stalled["message"]
    assert world.condition("Ready")["status"] == "True"
    assert world.status["rollout"]["state"].get("canary") is None, "what is new is not begun"
    world.accepts = {"HTTPRoute", "GRPCRoute"}
    go(world)
    assert (
        weights(world, "HTTPRoute")
        == weights(world, "GRPCRoute")
        == {
            "digits-stable": 80,
            "digits-canary": 20,
        }
    )


def test_an_answer_to_an_earlier_spec_accepts_nothing() -> None:
    world = rolling(ROUTE, {"HTTPRoute"})
    world.accepts = None
    world.annotate(longshore_dev_promote="now")
    go(world)
    route = world.objects["HTTPRoute", "digits"]
    assert weights(world, "HTTPRoute") == {"digits-stable": 50, "digits-canary": 50}
    standing = route["status"]["parents"][0]["conditions"][0]
    assert standing["observedGeneration"] < route["metadata"]["generation"]
    assert world.condition("Reconciling")["reason"] == "WaitingForRoute"


def test_a_backend_that_the_gateway_does_not_find_is_told_and_no_weight_counts() -> None:
    world = rolling(ROUTE, {"HTTPRoute"})
    world.accepts = None
    route = world.objects["HTTPRoute", "digits"]
    route["status"]["parents"][0]["conditions"].append(
        {
            "type": "ResolvedRefs",
            "status": "False",
            "reason": "BackendNotFound",
            "message": "service digits-canary not found",
            "observedGeneration": route["metadata"]["generation"],
        }
    )
    world._touch(route)
    go(world)
    assert "service digits-canary not found" in world.condition("Routed")["message"]
    assert world.condition("Routed")["status"] != "True"


def test_of_two_routes_that_differ_the_larger_share_counts_until_both_are_mended() -> None:
    world = rolling({**ROUTE, **GRPC}, {"HTTPRoute", "GRPCRoute"})
    grpc = world.objects["GRPCRoute", "digits"]
    for backend, weight in zip(grpc["spec"]["rules"][0]["backendRefs"], (10, 90), strict=True):
        backend["weight"] = weight
    grpc["metadata"]["generation"] += 1
    world._touch(grpc)
    world.annotate(longshore_dev_abort="now")
    go(world)
    for kind in ("HTTPRoute", "GRPCRoute"):
        assert weights(world, kind) == {"digits-stable": 100, "digits-canary": 0}


def test_what_others_wrote_in_a_route_is_kept_through_a_rollout() -> None:
    world = rolling({**ROUTE, **GRPC}, {"HTTPRoute", "GRPCRoute"})
    header = {
        "type": "RequestHeaderModifier",
        "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]},
    }
    foreign = {"name": "theirs", "backendRefs": [{"name": "other", "port": 1, "weight": 1}]}
    for kind in ("HTTPRoute", "GRPCRoute"):
        route = world.objects[kind, "digits"]
        route["spec"]["rules"][0]["filters"] = [header]
        route["spec"]["rules"].insert(0, foreign)
        route["metadata"]["annotations"]["team.example/note"] = "ours"
        route["metadata"]["generation"] += 1
        world._touch(route)
    world.annotate(longshore_dev_promote_full="now")
    go(world)
    for kind in ("HTTPRoute", "GRPCRoute"):
        route = world.objects[kind, "digits"]
        assert route["spec"]["rules"][0] == foreign
        assert route["spec"]["rules"][1]["filters"] == [header]
        assert route["metadata"]["annotations"]["team.example/note"] == "ours"


def test_affinity_divides_by_the_values_of_a_header_while_both_sides_have_weight() -> None:
    world = World(
        {**SPEC, "route": {**ROUTE, **GRPC}, "rollout": {**STEPPED, "affinity": {"header": "X-User"}}}
    )
    world.gateway_api, world.accepts = True, {"HTTPRoute", "GRPCRoute"}
    world.settle()
    assert len(world.objects["HTTPRoute", "digits"]["spec"]["rules"]) == 1, "nothing is divided"
    world.edit(model={"uri": "https://models.example/other.onnx"})
    go(world)
    for kind in ("HTTPRoute", "GRPCRoute"):
        rules = {rule["name"]: rule for rule in world.objects[kind, "digits"]["spec"]["rules"]}
        assert weights(world, kind) == {"digits-stable": 80, "digits-canary": 20}, "who has no such header"
        for side in ("stable", "canary"):
            pinned = rules[f"longshore-{side}"]
            assert [b["name"] for b in pinned["backendRefs"]] == [f"digits-{side}"]
            (header,) = pinned["matches"][0]["headers"]
            assert (header["type"], header["name"]) == ("RegularExpression", "X-User")
    pattern = {name: rule["matches"][0]["headers"][0]["value"] for name, rule in rules.items() if "-" in name}
    people = [str(number) for number in range(100)]
    first = {p for p in people if re.search(pattern["longshore-canary"], p)}
    assert len(first) == 20
    assert "spec.rollout.affinity" not in world.condition("FieldsSupported")["message"]
    world.annotate(longshore_dev_promote="now")
    go(world)
    rules = {rule["name"]: rule for rule in world.objects["HTTPRoute", "digits"]["spec"]["rules"]}
    pattern = rules["longshore-canary"]["matches"][0]["headers"][0]["value"]
    second = {p for p in people if re.search(pattern, p)}
    assert len(second) == 50
    assert first < second, "who had the new revision keeps it"
    world.annotate(longshore_dev_abort="now")
    go(world)
    assert [rule["name"] for rule in world.objects["HTTPRoute", "digits"]["spec"]["rules"]] == ["longshore"]


def test_affinity_without_a_route_is_told_as_unsupported() -> None:
    world = World({**SPEC, "rollout": {"affinity": {"cookie": "session"}}})
    world.settle()
    told = world.condition("FieldsSupported")
    assert told["status"] == "False"
    assert "spec.rollout.affinity" in told["message"]
    assert "add a route" in told["message"]


def test_two_that_want_all_grpc_calls_of_one_listener_are_a_conflict() -> None:
    assert claims("team", Route.model_validate(GRPC)) & claims("team", Route.model_validate(GRPC))
    other = {**GRPC, "hostnames": ["other.example"]}
    assert not claims("team", Route.model_validate(GRPC)) & claims("team", Route.model_validate(other))
    assert not claims("team", Route.model_validate(GRPC)) & claims("team", Route.model_validate(ROUTE))


def test_a_cluster_without_grpc_routes_says_so_and_keeps_the_other() -> None:
    world = World({**SPEC, "route": {**ROUTE, **GRPC}})
    go(world)
    observed = replace(world.observed(), installed=frozenset({"HTTPRoute"}))
    plan = make_plan(observed)
    assert plan.facts is not None
    assert plan.facts.stalled is not None
    assert plan.facts.stalled.reason == "GatewayApiMissing"
    assert "needs GRPCRoute" in plan.facts.stalled.message
    assert "HTTPRoute" in kinds(plan)
    assert "GRPCRoute" not in kinds(plan)
