"""Warm copies: loaded pods of the revision that answers, for the first requests after a sleep."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from longshore.plan.diagnose import refused_pods, starting_problem, unschedulable_again
from longshore.plan.outcome import Deletion, Problem
from longshore.plan.state import Observed
from longshore.resources.names import COMPONENT, WARM
from longshore.resources.warm import warm_deployment, warm_name


@dataclass(frozen=True)
class WarmStage:
    """Warm copies that shall stand, those that shall not, and what keeps one from being loaded."""

    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()
    problem: Problem | None = None
    ready: bool = False
    """A copy is loaded."""
    again: float | None = None


def decide(observed: Observed, stable: str | None, copies: int | None) -> WarmStage:
    """Decide which warm copies stand.

    Args:
        observed: the cluster.
        stable: the revision that answers; only it has warm copies.
        copies: how many are wanted; None: as many as stand.
    """
    kept = warm_name(observed.owner, stable) if stable is not None and copies != 0 else None
    gone = tuple(Deletion("Deployment", name, uid) for name, uid in _standing(observed) if name != kept)
    source = observed.deployment(stable) if stable is not None and copies else None
    if source is None or source.deleting or source.template is None or not copies:
        return WarmStage(delete=gone)
    wanted = warm_deployment(observed.owner, source.revision, source.template, copies)
    pods = observed.warm_of(source.revision)
    conditions = observed.live.get(("Deployment", wanted["metadata"]["name"]), {}).get("status", {})
    problem = starting_problem(pods, observed.now) or refused_pods(
        ((c["type"], c["status"], c.get("message", "")) for c in conditions.get("conditions", ())),
        source.revision,
    )
    if problem is not None:
        problem = replace(problem, message=f"a warm copy does not start: {problem.message}")
    return WarmStage(
        apply=(wanted,),
        delete=gone,
        problem=problem,
        ready=any(pod.ready for pod in pods),
        again=unschedulable_again(pods, observed.now),
    )


def standing(observed: Observed) -> int:
    """Give how many warm copies there are, starting ones among them."""
    return sum(obj.get("spec", {}).get("replicas", 1) for obj in _deployments(observed))


def _standing(observed: Observed) -> list[tuple[str, str]]:
    """Give name and uid of the Deployments of warm copies."""
    return [(obj["metadata"]["name"], obj["metadata"]["uid"]) for obj in _deployments(observed)]


def _deployments(observed: Observed) -> list[Mapping[str, Any]]:
    return [
        obj
        for (kind, _), obj in observed.live.items()
        if kind == "Deployment"
        and obj["metadata"].get("labels", {}).get(COMPONENT) == WARM
        and not obj["metadata"].get("deletionTimestamp")
    ]
