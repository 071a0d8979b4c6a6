"""The stage Routed: how requests reach the model from outside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longshore.api import Spec
from longshore.plan.outcome import Deletion, Done, Problem, Waiting
from longshore.plan.state import Observed
from longshore.resources.httproute import claims, http_route


@dataclass(frozen=True)
class RouteStage:
    """The outcome of the stage, None where no route is asked for."""

    outcome: Done[str] | Waiting | Problem | None = None
    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()


def decide(observed: Observed, spec: Spec) -> RouteStage:
    """Decide on the HTTPRoute."""
    standing = observed.live.get(("HTTPRoute", observed.owner.name))
    if spec.route is None or not spec.route.parent_refs:
        return RouteStage(delete=_deletion(standing))
    if not observed.has_gateway_api:
        return RouteStage(
            Problem(
                "GatewayApiMissing",
                "spec.route needs the Gateway API (gateway.networking.k8s.io/v1) and a gateway: install both",
            )
        )
    mine = claims(observed.owner.namespace, spec.route)
    for other in sorted(observed.other_routes, key=lambda c: (c.created, c.namespace, c.name)):
        older = (other.created, other.namespace, other.name) < (
            observed.created,
            observed.owner.namespace,
            observed.owner.name,
        )
        if older and (both := sorted(mine & other.keys)):
            return RouteStage(
                Problem(
                    "RouteConflict",
                    f"ModelDeployment {other.namespace}/{other.name} has this route already ({both[0]}): "
                    "change route.hostnames or route.pathPrefix of one of them",
                ),
                delete=_deletion(standing),
            )
    return RouteStage(_accepted(standing), apply=(http_route(observed.owner, spec.route),))


def _accepted(standing: Mapping[str, Any] | None) -> Done[str] | Waiting | Problem:
    if standing is None:
        return Waiting("RouteStarting", "the route is being made")
    generation = standing["metadata"].get("generation", 0)
    for parent in standing.get("status", {}).get("parents", ()):
        for condition in parent.get("conditions", ()):
            if condition.get("type") != "Accepted" or condition.get("observedGeneration", 0) < generation:
                continue
            if condition.get("status") == "True":
                return Done("the gateway accepted the route")
            return Problem(
                "RouteRefused",
                f"gateway {parent.get('parentRef', {}).get('name', '')} refuses the route: "
                f"{condition.get('message') or condition.get('reason')}",
            )
    return Waiting("RouteNotAccepted", "no gateway has accepted the route; check that route.parentRefs exist")


def _deletion(standing: Mapping[str, Any] | None) -> tuple[Deletion, ...]:
    if standing is None or standing["metadata"].get("deletionTimestamp"):
        return ()
    return (Deletion("HTTPRoute", standing["metadata"]["name"], standing["metadata"]["uid"]),)
