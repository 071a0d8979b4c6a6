"""The GRPCRoute of a model: all calls of its host names, since the model's name is not in a call's path."""

from collections.abc import Mapping
from typing import Any

from longshore.api.route import Route
from longshore.resources.names import GRPC_PORT, Owner
from longshore.resources.route_rules import Division, parent_key, route_object, rules_of

KIND = "GRPCRoute"


def grpc_route(
    owner: Owner, route: Route, division: Division, live: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Build the GRPCRoute; arguments as of `http_route`. `route.pathPrefix` means nothing to gRPC."""
    spec = {
        "parentRefs": [parent.to_wire() for parent in route.grpc_parent_refs],
        **({"hostnames": list(route.hostnames)} if route.hostnames else {}),
    }
    rules = rules_of(owner, {}, GRPC_PORT, division, live)
    return route_object(owner, KIND, spec, rules, division, live)


def grpc_claims(namespace: str, route: Route) -> frozenset[str]:
    """Give what the route takes for itself: one entry a parent and host name."""
    return frozenset(
        f"{parent_key(parent, namespace)} {host} (gRPC)"
        for parent in route.grpc_parent_refs
        for host in route.hostnames or ("*",)
    )
