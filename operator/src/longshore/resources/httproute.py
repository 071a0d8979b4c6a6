"""The HTTPRoute of a model."""

from collections.abc import Mapping
from typing import Any

from longshore.api.route import Route
from longshore.resources.names import SERVICE_PORT, Owner
from longshore.resources.route_rules import Division, parent_key, route_object, rules_of

KIND = "HTTPRoute"


def http_route(
    owner: Owner, route: Route, division: Division, live: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Build the HTTPRoute.

    Args:
        owner: the ModelDeployment.
        route: `spec.route`.
        division: how requests are divided.
        live: the route as it stands.
    """
    match = {"path": {"type": "PathPrefix", "value": route.path_prefix}}
    spec = {
        "parentRefs": [parent.to_wire() for parent in route.parent_refs],
        **({"hostnames": list(route.hostnames)} if route.hostnames else {}),
    }
    rules = rules_of(owner, match, SERVICE_PORT, division, live)
    return route_object(owner, KIND, spec, rules, division, live)


def http_claims(namespace: str, route: Route) -> frozenset[str]:
    """Give what the route takes for itself: one entry a parent, host name and path."""
    return frozenset(
        f"{parent_key(parent, namespace)} {host}{route.path_prefix}"
        for parent in route.parent_refs
        for host in route.hostnames or ("*",)
    )
