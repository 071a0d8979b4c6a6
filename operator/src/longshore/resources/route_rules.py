"""The rules of a route that are Longshore's; every other rule of the same route is kept as it is found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longshore.api.rollout import Affinity
from longshore.api.route import ParentReference
from longshore.resources.affinity import sides_of
from longshore.resources.names import WEIGHTED_AT, Owner, side_service

RULE = "longshore"
"""Name of the rule that Longshore writes, and the beginning of the names of those beside it."""

PREVIEW_HEADER = "Longshore-Preview"
"""Header that, with the value `true`, leads to a revision that is only previewed."""

_PREVIEW = f"{RULE}-preview"
_PINS = (f"{RULE}-canary", f"{RULE}-stable")

GATEWAY_API = "gateway.networking.k8s.io/v1"


@dataclass(frozen=True)
class Division:
    """How requests are divided.

    Attributes:
        weight: percent of requests to the canary; the stable revision gets the rest.
        since: when that last changed, RFC 3339.
        preview: requests with the header `Longshore-Preview: true` go to the canary.
        affinity: header or cookie whose values belong to one side each, while both have weight.
    """

    weight: int
    since: str
    preview: bool = False
    affinity: Affinity | None = None

    @property
    def names(self) -> frozenset[str]:
        """Give the names of the rules that this needs."""
        pinned = self.affinity is not None and 0 < self.weight < 100
        return frozenset({RULE, *([_PREVIEW] if self.preview else []), *(_PINS if pinned else [])})


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
    # What others added to Longshore's rule, filters above all, holds for its requests wherever they go.
    added = {k: v for k, v in _main(owner, live).items() if k not in ("name", "matches", "backendRefs")}

    def rule(name: str, matches: Sequence[Mapping[str, Any]], **weights: int) -> dict[str, Any]:
        to = [_backend(side_service(owner, side), port, weight) for side, weight in weights.items()]
        return {**added, "name": name, **({"matches": list(matches)} if matches else {}), "backendRefs": to}

    own = [rule(RULE, [match] if match else [], stable=100 - division.weight, canary=division.weight)]

    def by_header(kind: str, name: str, value: str) -> list[dict[str, Any]]:
        return [{**match, "headers": [{"type": kind, "name": name, "value": value}]}]

    if division.preview:
        own.append(rule(_PREVIEW, by_header("Exact", PREVIEW_HEADER, "true"), canary=1))
    if division.affinity is not None and 0 < division.weight < 100:
        sides = sides_of(division.affinity, division.weight, f"{owner.namespace}/{owner.name}")
        own += [
            rule(_PINS[0], by_header("RegularExpression", sides.header, sides.canary), canary=1),
            rule(_PINS[1], by_header("RegularExpression", sides.header, sides.stable), stable=1),
        ]
    mine = [index for index, known in enumerate(standing) if is_own(owner, known)]
    place = mine[0] if mine else len(standing)
    foreign = [dict(known) for known in standing if not is_own(owner, known)]
    return [*foreign[:place], *own, *foreign[place:]]


def is_own(owner: Owner, rule: Mapping[str, Any]) -> bool:
    """Tell whether a rule is Longshore's: by its name, or by where it leads where names are not kept."""
    if rule.get("name"):
        return rule["name"] in (RULE, _PREVIEW, *_PINS)
    sides = {side_service(owner, side) for side in ("stable", "canary")}
    return any(backend.get("name") in sides for backend in rule.get("backendRefs", ()))


def previews(live: Mapping[str, Any] | None) -> bool:
    """Tell whether a route leads to the preview."""
    return any(rule.get("name") == _PREVIEW for rule in _rules(live))


def divides(owner: Owner, live: Mapping[str, Any], division: Division) -> bool:
    """Tell whether a route divides requests as is wanted."""
    names = {rule.get("name") or RULE for rule in _rules(live) if is_own(owner, rule)}
    return names == division.names and canary_weight(owner, live) == division.weight


def canary_weight(owner: Owner, live: Mapping[str, Any] | None) -> int:
    """Read the percent of requests that a route gives to the canary."""
    backends = _main(owner, live).get("backendRefs", ())
    weights = {b.get("name"): int(b.get("weight", 1)) for b in backends}
    total = sum(weights.values())
    return round(100 * weights.get(side_service(owner, "canary"), 0) / total) if total else 0


def parent_key(parent: ParentReference, namespace: str) -> str:
    """Name a listener as it is compared: two routes with the same one meet there."""
    place = f"{parent.namespace or namespace}/{parent.kind}/{parent.name}"
    return f"{place}/{parent.section_name or '*'}/{parent.port or '*'}"


def _main(owner: Owner, live: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Find the rule that weighs: the first of its name or that leads to stable; empty where there is none."""
    stable = side_service(owner, "stable")
    for rule in _rules(live):
        leads = any(backend.get("name") == stable for backend in rule.get("backendRefs", ()))
        if rule.get("name") == RULE or (not rule.get("name") and leads):
            return rule
    return {}


def _rules(live: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    return live.get("spec", {}).get("rules", ()) if live is not None else ()


def _backend(name: str, port: int, weight: int) -> dict[str, Any]:
    return {"group": "", "kind": "Service", "name": name, "port": port, "weight": weight}
