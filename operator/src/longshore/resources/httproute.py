"""The HTTPRoute of a model: one rule is Longshore's, everything else in it is kept as it is found."""

from collections.abc import Mapping, Sequence
from typing import Any

from longshore.api.route import Route
from longshore.resources.names import SERVICE_PORT, WEIGHTED_AT, Owner, side_service

RULE = "longshore"
"""Name of the rule that Longshore writes."""


def http_route(
    owner: Owner, route: Route, weight: int, weighted_at: str, live: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Build the HTTPRoute.

    `rules` is an atomic list, so foreign rules are taken over from what is live; a resourceVersion makes the
    write fail if somebody changed them meanwhile.

    Args:
        owner: the ModelDeployment.
        route: `spec.route`.
        weight: percent of requests to the canary; the stable revision gets the rest.
        weighted_at: when the weight last changed, RFC 3339.
        live: the route as it stands.
    """
    metadata = owner.metadata(owner.name)
    metadata["annotations"] = {WEIGHTED_AT: weighted_at}
    standing = _rules(live)
    mine = next((rule for rule in standing if is_own(owner, rule)), {})
    rule = {
        **mine,
        "name": RULE,
        "matches": [{"path": {"type": "PathPrefix", "value": route.path_prefix}}],
        "backendRefs": [
            _backend(side_service(owner, "stable"), 100 - weight),
            _backend(side_service(owner, "canary"), weight),
        ],
    }
    rules = [rule if is_own(owner, known) else dict(known) for known in standing]
    if len(rules) > 1 and live is not None:
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata,
        "spec": {
            "parentRefs": [parent.to_wire() for parent in route.parent_refs],
            **({"hostnames": list(route.hostnames)} if route.hostnames else {}),
            "rules": rules if mine else [*rules, rule],
        },
    }


def is_own(owner: Owner, rule: Mapping[str, Any]) -> bool:
    """Tell whether a rule is Longshore's: by its name, or by where it leads where names are not kept."""
    if rule.get("name"):
        return bool(rule["name"] == RULE)
    return any(b.get("name") == side_service(owner, "stable") for b in rule.get("backendRefs", ()))


def canary_weight(owner: Owner, live: Mapping[str, Any] | None) -> int:
    """Read the percent of requests that the route gives to the canary."""
    mine = next((rule for rule in _rules(live) if is_own(owner, rule)), None)
    if mine is None:
        return 0
    weights = {b.get("name"): int(b.get("weight", 1)) for b in mine.get("backendRefs", ())}
    total = sum(weights.values())
    return round(100 * weights.get(side_service(owner, "canary"), 0) / total) if total else 0


def claims(namespace: str, route: Route) -> frozenset[str]:
    """Give what the route takes for itself: one entry a parent, host name and path."""
    hosts = route.hostnames or ("*",)
    return frozenset(
        f"{p.namespace or namespace}/{p.kind}/{p.name}/{p.section_name or '*'}/{p.port or '*'} "
        f"{host}{route.path_prefix}"
        for p in route.parent_refs
        for host in hosts
    )


def _rules(live: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return live.get("spec", {}).get("rules", ()) if live is not None else ()


def _backend(name: str, weight: int) -> dict[str, Any]:
    return {"group": "", "kind": "Service", "name": name, "port": SERVICE_PORT, "weight": weight}
