"""The stage that names the runtime: the spec's own, or with `runtime: Auto` the better of those measured.

Measuring pods stand in no Service and only until the choice is made; what answers goes on meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from longshore.api import Spec
from longshore.api.serving import RuntimeName
from longshore.api.status import RuntimeComparison
from longshore.plan.artifact import Artifact
from longshore.plan.choice import Speed, choice_key, compare, goal_of, unable
from longshore.plan.diagnose import starting_problem, unschedulable_again
from longshore.plan.outcome import Deletion, Done, Problem, Waiting
from longshore.plan.state import Measurement, Observed, PodView
from longshore.resources.deployment import pod_template
from longshore.resources.measure import measure_deployment
from longshore.resources.model_source import image_volume
from longshore.resources.names import COMPONENT, MEASURE, mirror_key
from longshore.resources.networkpolicy import measure_policy
from longshore.resources.serviceaccount import service_account
from longshore.runtimes.base import Runtime
from longshore.runtimes.registry import operator_ports, runtime_of

PATIENCE = 120.0
"""Seconds for which a pod that has a problem may still get over it: a registry or a node comes back."""

DEADLINE = 900.0
"""Seconds after which the choice is made from what is known: starting and measuring together."""


@dataclass(frozen=True)
class RuntimeStage:
    """Which runtime serves, why, and what stands until that is known."""

    outcome: Done[RuntimeName] | Waiting | Problem
    table: RuntimeComparison | None = None
    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()
    measurement: Measurement | None = None
    """What sample requests shall be sent to."""
    again: float | None = None


def decide(observed: Observed, spec: Spec, revision: str, artifact: Artifact | None) -> RuntimeStage:
    """Name the runtime of a revision.

    Args:
        observed: the cluster.
        spec: what is wanted.
        revision: of the spec.
        artifact: what it loads; None while that is not known.
    """
    asked = spec.serving.runtime
    if asked is not RuntimeName.AUTO:
        return RuntimeStage(Done(asked), delete=_standing(observed))
    key = choice_key(spec, artifact.source.artifact if artifact else None)
    known = _known(observed, key)
    standing = observed.deployment(revision)
    served = standing.provenance.runtime if standing is not None else None
    candidates, reasons = _candidates(spec)
    if served in list(RuntimeName):
        # The Deployment is made before status is written: a crash between the two loses no choice.
        table = known or _again(observed, spec, revision, key, candidates, reasons)
        return RuntimeStage(Done(RuntimeName(served)), table, delete=_standing(observed))
    if known is not None and known.chosen in list(RuntimeName):
        return RuntimeStage(Done(RuntimeName(known.chosen)), known, delete=_standing(observed))
    if not candidates:
        why = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        problem = Problem("RuntimeRefuses", f"no runtime can serve this: {why}")
        return RuntimeStage(problem, delete=_standing(observed))
    if len(candidates) == 1:
        return _chosen(observed, spec, key, candidates, reasons)
    if artifact is None:
        waiting = Waiting("Measuring", "the runtimes are compared once the model is there")
        return RuntimeStage(waiting, delete=_standing(observed))
    return _measure(observed, spec, revision, artifact, key, candidates, reasons)


def _measure(
    observed: Observed,
    spec: Spec,
    revision: str,
    artifact: Artifact,
    key: str,
    candidates: tuple[RuntimeName, ...],
    reasons: dict[RuntimeName, str],
) -> RuntimeStage:
    found = observed.measured if observed.measured and observed.measured.revision == revision else None
    if found is not None and not found.error:
        reasons |= found.failures
        return _chosen(observed, spec, key, candidates, reasons, found.speeds, found.nothing)
    wanted = _wanted(observed, spec, revision, artifact, candidates)
    pods = {name: observed.measuring_of(revision, name) for name in candidates}
    waited = observed.now - _since(observed, wanted)
    out = {name: why for name in candidates if (why := _given_up(observed, pods[name], waited))}
    left = [name for name in candidates if name not in out]
    if len(left) < 2:
        return _chosen(observed, spec, key, candidates, {**reasons, **out})
    addresses = {name: ip for name in left if (ip := _address(pods[name])) is not None}
    if waited >= DEADLINE:
        late = found.error if found is not None else "the measurement did not end in time"
        return _chosen(observed, spec, key, candidates, reasons, unmeasured=f"not measured: {late}")
    ready = len(addresses) == len(left)
    missing = ", ".join(name for name in left if name not in addresses)
    told = (
        f"sample requests go to {' and '.join(left)} in turn"
        if ready
        else f"the pods that measure {missing} are starting"
    )
    problem = starting_problem([pod for name in left for pod in pods[name]], observed.now)
    if problem is not None:
        told = f"{told}: {problem.message}"
    started = tuple(pod for several in pods.values() for pod in several)
    moments = (DEADLINE - waited, PATIENCE - waited, unschedulable_again(started, observed.now))
    again = min(moment for moment in moments if moment is not None and moment > 0)
    return RuntimeStage(
        Waiting("Measuring", told, again),
        apply=wanted,
        delete=_standing(observed, {str(obj["metadata"]["name"]) for obj in wanted}),
        measurement=Measurement(revision, addresses, mirror_key(observed.owner)) if ready else None,
        again=again,
    )


def _chosen(
    observed: Observed,
    spec: Spec,
    key: str,
    candidates: tuple[RuntimeName, ...],
    reasons: Mapping[RuntimeName, str],
    speeds: Mapping[RuntimeName, Speed] = MappingProxyType({}),
    unmeasured: str = "",
) -> RuntimeStage:
    table = compare(key, goal_of(spec), candidates, speeds, reasons, unmeasured)
    return RuntimeStage(Done(RuntimeName(table.chosen)), table, delete=_standing(observed))


def _candidates(spec: Spec) -> tuple[tuple[RuntimeName, ...], dict[RuntimeName, str]]:
    """Give the runtimes that can serve the spec, the default first, and why others cannot."""
    reasons: dict[RuntimeName, str] = {}
    able = []
    for name in RuntimeName:
        runtime = runtime_of(name)
        if runtime is None:
            continue
        why = unable(name, runtime.loads, spec) or runtime.refuses(spec.serving)
        if why:
            reasons[name] = why
        else:
            able.append(name)
    return tuple(able), reasons


def _wanted(
    observed: Observed, spec: Spec, revision: str, artifact: Artifact, candidates: tuple[RuntimeName, ...]
) -> tuple[Mapping[str, Any], ...]:
    fetches = image_volume(artifact.source, observed.settings) is None
    return (
        service_account(observed.owner),
        measure_policy(observed.owner, operator_ports(), fetches),
        *(_deployment(observed, spec, revision, artifact, name) for name in candidates),
    )


def _deployment(
    observed: Observed, spec: Spec, revision: str, artifact: Artifact, name: RuntimeName
) -> Mapping[str, Any]:
    runtime: Runtime | None = runtime_of(name)
    assert runtime is not None  # a candidate is one that there is
    template = pod_template(
        observed.owner, revision, artifact.source, spec.serving, runtime, observed.settings
    )
    return measure_deployment(observed.owner, revision, name, template)


def _since(observed: Observed, wanted: tuple[Mapping[str, Any], ...]) -> float:
    """Give when the first of the measuring Deployments was made; now, while there is none."""
    names = {obj["metadata"]["name"] for obj in wanted if obj["kind"] == "Deployment"}
    made = [moment for name, moment in observed.measuring_since.items() if name in names]
    # A clock that jumped back must not postpone the choice without bound.
    return min([*made, observed.now])


def _given_up(observed: Observed, pods: tuple[PodView, ...], waited: float) -> str:
    """Say why a runtime is not waited for any longer; empty while it is."""
    if _address(pods) is not None:
        return ""
    problem = starting_problem(pods, observed.now)
    # A pod without a node may only wait for the other one's place.
    if problem is not None and waited >= (DEADLINE if problem.reason == "Unschedulable" else PATIENCE):
        return problem.message
    return "its pod was not ready in time" if waited >= DEADLINE else ""


def _address(pods: tuple[PodView, ...]) -> str | None:
    return next((pod.ip for pod in pods if pod.ready and not pod.deleting and pod.ip), None)


def _known(observed: Observed, key: str) -> RuntimeComparison | None:
    """Give what status tells of this very choice."""
    raw = observed.status.get("runtimes")
    table = RuntimeComparison.model_validate(raw) if raw else None
    return table if table is not None and table.key == key else None


def _again(
    observed: Observed,
    spec: Spec,
    revision: str,
    key: str,
    candidates: tuple[RuntimeName, ...],
    reasons: Mapping[RuntimeName, str],
) -> RuntimeComparison | None:
    """Give the table of a choice that was carried out and not yet told, where what it rests on is there."""
    found = observed.measured
    if found is not None and found.revision == revision and not found.error:
        return compare(
            key, goal_of(spec), candidates, found.speeds, {**reasons, **found.failures}, found.nothing
        )
    return compare(key, goal_of(spec), candidates, {}, reasons) if len(candidates) == 1 else None


def _standing(observed: Observed, kept: set[str] | frozenset[str] = frozenset()) -> tuple[Deletion, ...]:
    """Give what stands for measuring and is not wanted."""
    return tuple(
        Deletion(kind, name, obj["metadata"]["uid"])
        for (kind, name), obj in sorted(observed.live.items())
        if obj["metadata"].get("labels", {}).get(COMPONENT) == MEASURE
        and name not in kept
        and not obj["metadata"].get("deletionTimestamp")
    )
