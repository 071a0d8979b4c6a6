"""The HTTPRoute of a model."""

from typing import Any

from longshore.api.route import Route
from longshore.resources.names import SERVICE_PORT, Owner


def http_route(owner: Owner, route: Route) -> dict[str, Any]:
    """Build the HTTPRoute that leads to the model's Service."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": owner.metadata(owner.name),
        "spec": {
            "parentRefs": [parent.to_wire() for parent in route.parent_refs],
            **({"hostnames": list(route.hostnames)} if route.hostnames else {}),
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": route.path_prefix}}],
                    "backendRefs": [
                        {
                            "group": "",
                            "kind": "Service",
                            "name": owner.name,
                            "port": SERVICE_PORT,
                            "weight": 100,
                        }
                    ],
                }
            ],
        },
    }


def claims(namespace: str, route: Route) -> frozenset[str]:
    """Give what the route takes for itself: one entry a parent, host name and path."""
    hosts = route.hostnames or ("*",)
    return frozenset(
        f"{p.namespace or namespace}/{p.kind}/{p.name}/{p.section_name or '*'}/{p.port or '*'} "
        f"{host}{route.path_prefix}"
        for p in route.parent_refs
        for host in hosts
    )
