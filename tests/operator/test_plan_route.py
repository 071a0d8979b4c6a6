"""The route: kept out of another's way, told when it cannot be, looked at again when no event will tell."""

from dataclasses import replace
from typing import Any

import pytest
from longshore.api import Route
from longshore.plan.outcome import Plan
from longshore.plan.pipeline import make_plan
from longshore.plan.state import RouteClaim
from longshore.resources.httproute import claims

from tests.operator.world import SPEC, START, World

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
        installed=frozenset({"HTTPRoute"} if gateway else ()),
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
