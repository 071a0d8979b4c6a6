"""How requests are divided between revisions: what stands, and the objects that shall stand."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from longshore.api import Spec
from longshore.plan.outcome import Deletion, Problem
from longshore.plan.rollout.model import Targets, TrafficMode, TrafficView
from longshore.plan.state import Observed
from longshore.resources.httproute import canary_weight, claims, http_route
from longshore.resources.names import CANARY, REVISION, STABLE, WEIGHT, WEIGHTED_AT, side_service
from longshore.resources.service import service

SETTLE = 2.0
"""Seconds after a change of weights before they count as in force.

A gateway's status runs ahead of its data plane; with Traefik's defaults by up to 1.85 s.
"""

LOOK_OUTSIDE = 15.0
"""Seconds between looks at what no event of this ModelDeployment tells: another's route, a missing API."""

_SIDES = ("stable", "canary")


@dataclass(frozen=True)
class Routed:
    """What is known of the route. `problem` keeps weights from being set; `message` is for status."""

    wanted: bool
    accepted: bool = False
    problem: Problem | None = None
    message: str = ""


def look_at_route(observed: Observed, spec: Spec) -> Routed:
    """Tell whether there is a route, and whether a gateway accepts it."""
    if spec.route is None or not spec.route.parent_refs:
        return Routed(False)
    if "HTTPRoute" not in observed.installed:
        return Routed(
            False,
            problem=Problem(
                "GatewayApiMissing",
                "spec.route needs the Gateway API (gateway.networking.k8s.io/v1) and a gateway: install both",
                again=LOOK_OUTSIDE,
            ),
        )
    conflict = _conflict(observed, spec)
    if conflict is not None:
        return Routed(False, problem=conflict)
    return _accepted(observed.live.get(("HTTPRoute", observed.owner.name)))


def look_at_traffic(observed: Observed, routed: Routed) -> TrafficView:
    """Tell how requests are divided now."""
    notes, selector = _service_notes(observed)
    promoted = notes.get(STABLE)
    if not routed.wanted:
        return TrafficView(
            mode=TrafficMode.SERVICE,
            weight=_number(notes.get(WEIGHT)),
            stable=promoted,
            canary=notes.get(CANARY),
        )
    route = observed.live.get(("HTTPRoute", observed.owner.name))
    side = _service_notes(observed, side_service(observed.owner, "canary"))[1]
    return TrafficView(
        mode=TrafficMode.GATEWAY,
        weight=canary_weight(observed.owner, route),
        confirmed=route is None or (routed.accepted and _settled(observed, route)),
        problem=routed.problem.message if routed.problem else None,
        stable=promoted if selector.get(REVISION) == promoted else selector.get(REVISION) or promoted,
        canary=side.get(REVISION),
    )


def traffic_objects(
    observed: Observed, spec: Spec, routed: Routed, seen: TrafficView, targets: Targets, first: str
) -> tuple[Mapping[str, Any], ...]:
    """Build the Services and the route.

    Args:
        observed: the cluster.
        spec: what is wanted.
        routed: what is known of the route.
        seen: how requests are divided.
        targets: what the rollout wants.
        first: the revision that the Service selects while none was promoted.
    """
    owner = observed.owner
    stable = targets.stable or seen.stable
    notes = {STABLE: stable} if stable else {}
    if not routed.wanted:
        asked = targets.canary or (seen.canary if targets.weight else None)
        selected: str | None = stable or first
        if asked:
            notes |= {CANARY: asked, WEIGHT: str(targets.weight)}
        if asked and targets.weight:
            selected = asked if targets.weight == 100 else None
        return (service(owner, selected, notes=notes),)
    assert spec.route is not None  # routed.wanted says so
    live = observed.live.get(("HTTPRoute", owner.name))
    moment = _rfc3339(observed.now)
    if live is not None and canary_weight(owner, live) == targets.weight:
        moment = live["metadata"].get("annotations", {}).get(WEIGHTED_AT, moment)
    canary = targets.canary or seen.canary or stable or first
    return (
        service(owner, stable or first, notes=notes),
        service(owner, stable or first, side_service(owner, "stable")),
        service(owner, canary, side_service(owner, "canary")),
        http_route(owner, spec.route, targets.weight, moment, live),
    )


def unwanted_objects(observed: Observed, routed: Routed) -> tuple[Deletion, ...]:
    """Give the objects of a route that is no longer asked for."""
    if routed.wanted:
        return ()
    places = [("HTTPRoute", observed.owner.name)]
    places += [("Service", side_service(observed.owner, side)) for side in _SIDES]
    found = [(place, observed.live.get(place)) for place in places]
    return tuple(
        Deletion(place[0], place[1], obj["metadata"]["uid"])
        for place, obj in found
        if obj is not None and not obj["metadata"].get("deletionTimestamp")
    )


def _conflict(observed: Observed, spec: Spec) -> Problem | None:
    assert spec.route is not None  # the caller looked
    mine = claims(observed.owner.namespace, spec.route)
    myself = (observed.created, observed.owner.namespace, observed.owner.name)
    for other in sorted(observed.other_routes, key=lambda c: (c.created, c.namespace, c.name)):
        both = sorted(mine & other.keys)
        if both and (other.created, other.namespace, other.name) < myself:
            return Problem(
                "RouteConflict",
                f"ModelDeployment {other.namespace}/{other.name} has this route already ({both[0]}): "
                "change route.hostnames or route.pathPrefix of one of them",
                again=LOOK_OUTSIDE,
            )
    return None


def _accepted(route: Mapping[str, Any] | None) -> Routed:
    if route is None:
        return Routed(True, message="the route is being made")
    generation = route["metadata"].get("generation", 0)
    for parent in route.get("status", {}).get("parents", ()):
        name = parent.get("parentRef", {}).get("name", "")
        for condition in parent.get("conditions", ()):
            if condition.get("type") != "Accepted" or condition.get("observedGeneration", 0) < generation:
                continue
            if condition.get("status") == "True":
                return Routed(True, accepted=True, message=f"gateway {name} accepted the route")
            said = condition.get("message") or condition.get("reason")
            return Routed(
                True, problem=Problem("RouteRefused", f"gateway {name} refuses the route: {said}; mend route")
            )
    return Routed(True, message="no gateway has accepted the route yet; check that route.parentRefs exist")


def _settled(observed: Observed, route: Mapping[str, Any]) -> bool:
    text = route["metadata"].get("annotations", {}).get(WEIGHTED_AT)
    if text is None:
        return True
    try:
        changed = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return True
    # A clock that jumped back must not leave a weight unconfirmed for ever.
    return not 0 <= observed.now - changed < SETTLE


def _service_notes(
    observed: Observed, name: str | None = None
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    live = observed.live.get(("Service", name or observed.owner.name))
    if live is None:
        return {}, {}
    return live["metadata"].get("annotations", {}), live.get("spec", {}).get("selector", {})


def _number(text: str | None) -> int:
    return min(100, int(text)) if text and text.isdigit() else 0


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
