"""The routes that shall stand, and whether gateways have taken them as they are now."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longshore.api import Route, Spec
from longshore.api.route import ParentReference
from longshore.plan.outcome import Problem
from longshore.plan.state import Observed
from longshore.resources import grpcroute, httproute
from longshore.resources.names import Owner
from longshore.resources.route_rules import Division

ROUTE_CONFLICT = "RouteConflict"
"""Reason of a model whose route an older one has."""

LOOK_OUTSIDE = 15.0
"""Seconds between looks at what no event of this ModelDeployment tells: another's route, a missing API."""

Build = Callable[[Owner, Route, Division, Mapping[str, Any] | None], dict[str, Any]]


@dataclass(frozen=True)
class RouteKind:
    """What differs between the kinds of routes."""

    kind: str
    parents: Callable[[Route], tuple[ParentReference, ...]]
    build: Build


ROUTE_KINDS = (
    RouteKind(httproute.KIND, lambda route: route.parent_refs, httproute.http_route),
    RouteKind(grpcroute.KIND, lambda route: route.grpc_parent_refs, grpcroute.grpc_route),
)


@dataclass(frozen=True)
class Routed:
    """What is known of the routes.

    Attributes:
        kinds: the routes that shall stand; empty: the Service alone divides requests.
        accepted: every gateway has taken every route as it is written now.
        problem: keeps weights from being set.
        message: a sentence for status.
    """

    kinds: tuple[RouteKind, ...] = ()
    accepted: bool = False
    problem: Problem | None = None
    message: str = ""


def claims(namespace: str, route: Route) -> frozenset[str]:
    """Give what a route takes for itself at its gateways; two that share an entry cannot both have it."""
    return httproute.http_claims(namespace, route) | grpcroute.grpc_claims(namespace, route)


def look_at_route(observed: Observed, spec: Spec) -> Routed:
    """Tell which routes shall stand, and whether gateways accept them."""
    route = spec.route
    if route is None:
        return Routed()
    conflict = _conflict(observed, route)
    if conflict is not None:
        return Routed(problem=conflict)
    wanted = tuple(kind for kind in ROUTE_KINDS if kind.parents(route))
    there = tuple(kind for kind in wanted if kind.kind in observed.installed)
    problem, messages, accepted = None, [], bool(there)
    for kind in there:
        for parent in kind.parents(route):
            found = _look_at_parent(observed, kind, parent)
            accepted = accepted and found.accepted
            problem = problem or found.problem
            messages.append(found)
    missing = [kind.kind for kind in wanted if kind not in there]
    if missing:
        problem = Problem(
            "GatewayApiMissing",
            f"spec.route needs {' and '.join(missing)} of the Gateway API (gateway.networking.k8s.io/v1) and "
            "a gateway: install both",
            again=LOOK_OUTSIDE,
        )
    open_ones = [found.message for found in messages if not found.accepted]
    done = [found.message for found in messages]
    return Routed(there, accepted and not missing, problem, "; ".join(dict.fromkeys(open_ones or done)))


def _conflict(observed: Observed, route: Route) -> Problem | None:
    mine = claims(observed.owner.namespace, route)
    myself = (observed.created, observed.owner.namespace, observed.owner.name)
    for other in sorted(observed.other_routes, key=lambda c: (c.created, c.namespace, c.name)):
        both = sorted(mine & other.keys)
        if both and (other.created, other.namespace, other.name) < myself:
            return Problem(
                ROUTE_CONFLICT,
                f"ModelDeployment {other.namespace}/{other.name} has this route already ({both[0]}): "
                "change route.hostnames or route.pathPrefix of one of them",
                again=LOOK_OUTSIDE,
            )
    return None


def _look_at_parent(observed: Observed, kind: RouteKind, parent: ParentReference) -> Routed:
    route = observed.live.get((kind.kind, observed.owner.name))
    if route is None:
        return Routed(message=f"the {kind.kind} is being made")
    generation = route["metadata"].get("generation", 0)
    told = [
        condition
        for standing in route.get("status", {}).get("parents", ())
        if _is_parent(standing.get("parentRef", {}), parent, observed.owner.namespace)
        for condition in standing.get("conditions", ())
        # What was said of an earlier spec says nothing of this one.
        if condition.get("observedGeneration", 0) >= generation
    ]
    refusal = _first(told, "Accepted", "False")
    if refusal is not None:
        why = f"gateway {parent.name} refuses the {kind.kind}: {_said(refusal)}; mend route"
        return Routed(problem=Problem("RouteRefused", why), message=why)
    unresolved = _first(told, "ResolvedRefs", "False")
    if unresolved is not None:
        return Routed(
            message=f"gateway {parent.name} does not find where the {kind.kind} leads: {_said(unresolved)}"
        )
    if _first(told, "Accepted", "True") is None:
        where = f"check that {parent.kind} {parent.name} exists"
        return Routed(message=f"no gateway has accepted the {kind.kind} yet; {where}")
    return Routed(accepted=True, message=f"gateway {parent.name} accepted the {kind.kind}")


def _is_parent(standing: Mapping[str, Any], wanted: ParentReference, namespace: str) -> bool:
    """Tell whether a gateway speaks of this parent; what it leaves out is taken as the same."""
    expected = {
        "name": wanted.name,
        "namespace": wanted.namespace or namespace,
        "kind": wanted.kind,
        "sectionName": wanted.section_name,
        "port": wanted.port,
    }
    return all(standing.get(key) in (None, value) for key, value in expected.items())


def _first(conditions: Iterable[Mapping[str, Any]], kind: str, status: str) -> Mapping[str, Any] | None:
    return next((c for c in conditions if c.get("type") == kind and c.get("status") == status), None)


def _said(condition: Mapping[str, Any]) -> str:
    return str(condition.get("message") or condition.get("reason") or "no reason is given")
