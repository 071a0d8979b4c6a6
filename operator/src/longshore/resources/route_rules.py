"""The rules of a route that are Longshore's; every other rule of the same route is kept as it is found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longshore.api.route import ParentReference
from longshore.resources.names import WEIGHTED_AT, Owner, side_service

RULE = "longshore"
"""Name of the rule that Longshore writes."""

GATEWAY_API = "gateway.networking.k8s.io/v1"


@dataclass(frozen=True)
class Division:
    """How requests are divided.

    Attributes:
        weight: percent of requests to the canary; the stable revision gets the rest.
        since: when that last changed, RFC 3339.
    """

    weight: int
    since: str


def route_object(
    owner: Owner,
    kind: str,
    spec: Mapping[str, Any],
    rules: Sequence[Mapping[str, Any]],
    division: Division,
    live: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Build a route around its rules.

    `rules` is an atomic list, so foreign rules are taken over from what is live; a resourceVersion makes the
    write fail if somebody changed them meanwhile.
    """
    metadata = owner.metadata(owner.name)
    metadata["annotations"] = {WEIGHTED_AT: division.since}
    if live is not None and not all(is_own(owner, rule) for rule in rules):
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
    return {
        "apiVersion": GATEWAY_API,
        "kind": kind,
        "metadata": metadata,
        "spec": {**spec, "rules": list(rules)},
    }


def rules_of(
    owner: Owner, match: Mapping[str, Any], port: int, division: Division, live: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Give all rules of a route: Longshore's where they stood, the foreign ones as they stand.

    Args:
        owner: the ModelDeployment.
        match: what Longshore's requests have in common; empty: every request of the route.
        port: port of the Services that the requests go to.
        division: how they are divided.
        live: the route as it stands.
    """
    standing = _rules(live)
    mine = next((rule for rule in standing if is_own(owner, rule)), {})
    rule = {
        **mine,
        "name": RULE,
        **({"matches": [dict(match)]} if match else {}),
        "backendRefs": [
            _backend(side_service(owner, "stable"), port, 100 - division.weight),
            _backend(side_service(owner, "canary"), port, division.weight),
        ],
    }
    rules = [rule if is_own(owner, known) else dict(known) for known in standing]
    return rules if mine else [*rules, rule]


def is_own(owner: Owner, rule: Mapping[str, Any]) -> bool:
    """Tell whether a rule is Longshore's: by its name, or by where it leads where names are not kept."""
    if rule.get("name"):
        return bool(rule["name"] == RULE)
    return any(b.get("name") == side_service(owner, "stable") for b in rule.get("backendRefs", ()))


def canary_weight(owner: Owner, live: Mapping[str, Any] | None) -> int:
    """Read the percent of requests that a route gives to the canary."""
    mine = next((rule for rule in _rules(live) if is_own(owner, rule)), None)
    if mine is None:
        return 0
    weights = {b.get("name"): int(b.get("weight", 1)) for b in mine.get("backendRefs", ())}
    total = sum(weights.values())
    return round(100 * weights.get(side_service(owner, "canary"), 0) / total) if total else 0


def parent_key(parent: ParentReference, namespace: str) -> str:
    """Name a listener as it is compared: two routes with the same one meet there."""
    place = f"{parent.namespace or namespace}/{parent.kind}/{parent.name}"
    return f"{place}/{parent.section_name or '*'}/{parent.port or '*'}"


def _rules(live: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return live.get("spec", {}).get("rules", ()) if live is not None else ()


def _backend(name: str, port: int, weight: int) -> dict[str, Any]:
    return {"group": "", "kind": "Service", "name": name, "port": port, "weight": weight}
