"""How requests are divided between revisions: what stands, and the objects that shall stand."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from longshore.api import Spec
from longshore.plan.mirror import mirrored
from longshore.plan.outcome import Deletion
from longshore.plan.rollout.model import Targets, TrafficMode, TrafficView
from longshore.plan.route import ROUTE_KINDS, Routed
from longshore.plan.state import Observed
from longshore.resources.names import CANARY, REVISION, STABLE, WEIGHT, WEIGHTED_AT, side_service
from longshore.resources.route_rules import Division, canary_weight, divides, previews
from longshore.resources.service import service

SETTLE = 2.0
"""Seconds after a change of weights before they count as in force.

A gateway's status runs ahead of its data plane; with Traefik's defaults by up to 1.85 s.
"""


def look_at_traffic(observed: Observed, routed: Routed) -> TrafficView:
    """Tell how requests are divided now."""
    notes, selector = _service_notes(observed)
    promoted = notes.get(STABLE)
    side = _service_notes(observed, side_service(observed.owner, "canary"))[1]
    if not routed.kinds:
        copied, uncopied = mirrored(observed, promoted, side.get(REVISION))
        return TrafficView(
            mode=TrafficMode.SERVICE,
            weight=_number(notes.get(WEIGHT)),
            stable=promoted,
            canary=notes.get(CANARY),
            mirrored=copied,
            preview=side.get(REVISION),
            unmirrored=uncopied,
        )
    selected = promoted if selector.get(REVISION) == promoted else selector.get(REVISION) or promoted
    copied, uncopied = mirrored(observed, selected, side.get(REVISION))
    routes = _routes(observed, routed)
    weights = {canary_weight(observed.owner, route) for route in routes}
    return TrafficView(
        mode=TrafficMode.GATEWAY,
        # Of two routes that differ the canary may still get the larger share.
        weight=max(weights, default=0),
        confirmed=not routes
        or (len(weights) == 1 and routed.accepted and all(_settled(observed, route) for route in routes)),
        problem=routed.problem.message if routed.problem else None,
        stable=selected,
        canary=side.get(REVISION),
        mirrored=copied,
        unmirrored=uncopied,
        preview=side.get(REVISION) if routes and all(map(previews, routes)) else None,
    )


def traffic_objects(
    observed: Observed, spec: Spec, routed: Routed, seen: TrafficView, targets: Targets, first: str
) -> tuple[Mapping[str, Any], ...]:
    """Build the Services and the routes.

    Args:
        observed: the cluster.
        spec: what is wanted.
        routed: what is known of the routes.
        seen: how requests are divided.
        targets: what the rollout wants.
        first: the revision that the Service selects while none was promoted.
    """
    owner = observed.owner
    stable = targets.stable or seen.stable
    notes = {STABLE: stable} if stable else {}
    if not routed.kinds:
        asked = targets.canary or (seen.canary if targets.weight else None)
        selected: str | None = stable or first
        if asked:
            notes |= {CANARY: asked, WEIGHT: str(targets.weight)}
        if asked and targets.weight:
            selected = asked if targets.weight == 100 else None
        # Copies of requests need a way to the canary alone, as a preview does.
        beside = targets.preview or targets.mirror
        shown = (service(owner, beside, side_service(owner, "canary")),) if beside else ()
        return (service(owner, selected, notes=notes), *shown)
    assert spec.route is not None  # no route has kinds without it
    canary = targets.preview or targets.canary or seen.canary or stable or first
    routes = []
    for kind in routed.kinds:
        live = observed.live.get((kind.kind, owner.name))
        division = Division(
            targets.weight,
            _rfc3339(observed.now),
            preview=targets.preview is not None,
            affinity=spec.rollout.affinity,
        )
        routes.append(kind.build(owner, spec.route, _dated(observed, live, division), live))
    return (
        service(owner, stable or first, notes=notes),
        service(owner, stable or first, side_service(owner, "stable")),
        service(owner, canary, side_service(owner, "canary")),
        *routes,
    )


def unwanted_objects(observed: Observed, routed: Routed, targets: Targets) -> tuple[Deletion, ...]:
    """Give the objects of routes and of a preview that are no longer asked for."""
    places = [(kind.kind, observed.owner.name) for kind in ROUTE_KINDS if kind not in routed.kinds]
    if not routed.kinds:
        sides = ("stable",) if targets.preview or targets.mirror else ("stable", "canary")
        places += [("Service", side_service(observed.owner, side)) for side in sides]
    found = [(place, observed.live.get(place)) for place in places]
    return tuple(
        Deletion(place[0], place[1], obj["metadata"]["uid"])
        for place, obj in found
        if obj is not None and not obj["metadata"].get("deletionTimestamp")
    )


def _routes(observed: Observed, routed: Routed) -> list[Mapping[str, Any]]:
    standing = (observed.live.get((kind.kind, observed.owner.name)) for kind in routed.kinds)
    return [route for route in standing if route is not None]


def _dated(observed: Observed, live: Mapping[str, Any] | None, division: Division) -> Division:
    """Keep the moment from which a route divides as it shall while nothing changes."""
    if live is None or not divides(observed.owner, live, division):
        return division
    return replace(division, since=live["metadata"].get("annotations", {}).get(WEIGHTED_AT, division.since))


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
    """Give a moment to the millisecond: whole seconds would end the wait for a gateway too soon."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
