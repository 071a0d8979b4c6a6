"""The stage Available: which revisions have pods, which one gets the requests, and when it changes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from longshore.api import Spec
from longshore.api.base import seconds
from longshore.api.serving import RuntimeName
from longshore.api.status import Side
from longshore.plan.artifact import Artifact
from longshore.plan.diagnose import pod_problem, unschedulable_again
from longshore.plan.outcome import Deletion, Done, Notice, Problem, Waiting
from longshore.plan.state import DeploymentView, Observed
from longshore.resources.deployment import Provenance, deployment, pod_template
from longshore.resources.model_source import ModelSource, image_volume
from longshore.resources.names import RETRY
from longshore.resources.networkpolicy import serving_policy
from longshore.resources.poddisruptionbudget import pod_disruption_budget
from longshore.resources.service import service
from longshore.resources.serviceaccount import service_account
from longshore.runtimes.base import Runtime
from longshore.runtimes.registry import runtime_of

DRAIN = 5.0
"""Seconds between a promotion and the end of the old pods: kube-proxy needs one to move new connections."""

_MEMORY_FIELD = "serving.resources.limits.memory"


@dataclass(frozen=True)
class ServeStage:
    """What shall stand, and what is known of who answers."""

    outcome: Done[str] | Waiting | Problem
    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()
    notices: tuple[Notice, ...] = ()
    rests_on: tuple[tuple[str, str], ...] = ()
    stable: Side | None = None
    canary: Side | None = None
    again: float | None = None


def wanted_replicas(spec: Spec) -> int:
    """Give the number of pods that the spec asks for."""
    if spec.serving.replicas is not None:
        return spec.serving.replicas
    return max(spec.scaling.min, 1)


def decide(
    observed: Observed, spec: Spec | None, target: str | None, artifact: Artifact | None
) -> ServeStage:
    """Decide what serves.

    Args:
        observed: the cluster.
        spec: what is wanted; None when the spec cannot be understood: what serves goes on as it is.
        target: the revision of the spec.
        artifact: what the target loads; None while that is not known: only the stable revision is kept.
    """
    stable = _stable(observed)
    if spec is None or target is None or artifact is None:
        return _keep(observed, spec, stable)
    standing = observed.deployment(target)
    if stable is None or stable == target:
        return _only(observed, spec, target, artifact, standing)
    if standing is not None and standing.provenance.failed and not _retried(observed, standing):
        return _given_up(observed, spec, stable, standing)
    return _change_over(observed, spec, stable, target, artifact, standing)


def _stable(observed: Observed) -> str | None:
    """Give the revision that has the requests: the one the Service selects, if it ever answered."""
    if observed.service is None or observed.service.revision is None:
        return None
    if observed.service.promoted_at is None or observed.deployment(observed.service.revision) is None:
        return None
    return observed.service.revision


def _keep(observed: Observed, spec: Spec | None, stable: str | None) -> ServeStage:
    """Keep what answers; scaling still counts, for it makes no new revision."""
    standing = observed.deployment(stable) if stable else None
    if standing is None or stable is None:
        return ServeStage(Waiting("NothingServes", "nothing serves yet"))
    apply = (
        (_standing_deployment(observed, standing, wanted_replicas(spec), standing.provenance.failed),)
        if spec is not None and standing.template is not None
        else ()
    )
    return ServeStage(
        _availability(observed, standing),
        apply=apply,
        stable=_side(observed, standing, 100, standing.replicas if spec is None else wanted_replicas(spec)),
    )


def _only(
    observed: Observed, spec: Spec, target: str, artifact: Artifact, standing: DeploymentView | None
) -> ServeStage:
    """The target has all requests already, or is the first revision."""
    replicas = wanted_replicas(spec)
    ready = standing is not None and standing.ready > 0
    promoted_at = observed.service.promoted_at if observed.service else None
    selected = observed.service.revision if observed.service else None
    notices: tuple[Notice, ...] = ()
    if ready and (promoted_at is None or selected != target):
        promoted_at = observed.now
    elif selected != target:
        promoted_at = None
    again, retire, delete = _retire(observed, spec, {target}, promoted_at)
    objects = (
        *_common(observed, spec, artifact.source),
        _deployment(observed, spec, target, artifact, replicas),
        service(observed.owner, target, rfc3339(promoted_at)),
        *retire,
    )
    side = (
        _side(observed, standing, 100, replicas)
        if standing
        else Side(revision=target, weight=100, replicas=replicas)
    )
    outcome: Done[str] | Waiting | Problem
    outcome = (
        _availability(observed, standing) if standing else Waiting("Starting", "the pods are being made")
    )
    return ServeStage(
        outcome,
        apply=objects,
        delete=delete,
        notices=notices,
        stable=side,
        again=_soonest(again, unschedulable_again(observed.pods_of(target), observed.now)),
    )


def _change_over(
    observed: Observed,
    spec: Spec,
    stable: str,
    target: str,
    artifact: Artifact,
    standing: DeploymentView | None,
) -> ServeStage:
    """The target starts beside the stable revision, and gets the requests once all its pods answer."""
    replicas = wanted_replicas(spec)
    old = observed.deployment(stable)
    assert old is not None  # _stable() found it
    keep_old = _standing_deployment(observed, old, max(replicas, min(old.replicas, 1)), None)
    problem = _pods_problem(observed, target)
    deadline = seconds(spec.rollout.progress_deadline)
    if standing is not None and standing.settled and standing.ready >= max(replicas, 1):
        return ServeStage(
            Waiting("Promoting", f"revision {target} answers and gets the requests", 0.0),
            apply=(
                *_common(observed, spec, artifact.source),
                keep_old,
                _deployment(observed, spec, target, artifact, replicas),
                service(observed.owner, target, rfc3339(observed.now)),
            ),
            notices=(Notice("Normal", "Promoted", f"revision {target} took over from {stable}"),),
            rests_on=(("Deployment", standing.name), ("Service", observed.owner.name)),
            stable=_side(observed, standing, 100, replicas),
            again=DRAIN,
        )
    started = standing.created if standing is not None else observed.now
    left = min(started + deadline - observed.now, deadline)
    if standing is not None and left <= 0:
        why = (
            problem.message if problem else f"its pods were not ready within {spec.rollout.progress_deadline}"
        )
        return ServeStage(
            Problem("RevisionFailed", _failed_message(target, stable, why)),
            apply=(keep_old, _deployment(observed, spec, target, artifact, 0, failed=why[:1024])),
            notices=(Notice("Warning", "RevisionFailed", _failed_message(target, stable, why)),),
            stable=_side(observed, old, 100, replicas),
        )
    outcome: Waiting | Problem = problem or Waiting(
        "Starting", f"revision {target} is starting; {stable} answers meanwhile"
    )
    again, retire, delete = _retire(observed, spec, {target, stable}, None)
    return ServeStage(
        outcome,
        apply=(
            *_common(observed, spec, artifact.source),
            keep_old,
            _deployment(observed, spec, target, artifact, max(replicas, 1)),
            *retire,
        ),
        delete=delete,
        stable=_side(observed, old, 100, replicas),
        canary=_side(observed, standing, 0, replicas)
        if standing
        else Side(revision=target, weight=0, replicas=replicas),
        again=_soonest(left, again, unschedulable_again(observed.pods_of(target), observed.now)),
    )


def _given_up(observed: Observed, spec: Spec, stable: str, standing: DeploymentView) -> ServeStage:
    """The target failed before; it stays at zero pods until the spec changes or a retry is asked for."""
    old = observed.deployment(stable)
    assert old is not None  # _stable() found it
    replicas = wanted_replicas(spec)
    return ServeStage(
        Problem(
            "RevisionFailed", _failed_message(standing.revision, stable, standing.provenance.failed or "")
        ),
        apply=(
            _standing_deployment(observed, old, replicas, None),
            _standing_deployment(observed, standing, 0, standing.provenance.failed),
        ),
        stable=_side(observed, old, 100, replicas),
    )


def _common(observed: Observed, spec: Spec, source: ModelSource) -> tuple[Mapping[str, Any], ...]:
    fetches = image_volume(source, observed.settings) is None
    return (
        service_account(observed.owner),
        serving_policy(observed.owner, fetches),
        pod_disruption_budget(observed.owner),
    )


def _runtime(spec: Spec) -> Runtime:
    runtime = runtime_of(spec.serving.runtime) or runtime_of(RuntimeName.ONNX_RUNTIME)
    assert runtime is not None  # the default runtime is always there
    return runtime


def _deployment(
    observed: Observed,
    spec: Spec,
    revision: str,
    artifact: Artifact,
    replicas: int,
    failed: str | None = None,
) -> Mapping[str, Any]:
    standing = observed.deployment(revision)
    if standing is not None and standing.template is not None:
        return _standing_deployment(observed, standing, replicas, failed)
    template = pod_template(
        observed.owner, revision, artifact.source, spec.serving, _runtime(spec), observed.settings
    )
    provenance = Provenance(
        model=spec.model.uri,
        artifact=artifact.source.artifact,
        chosen=artifact.chosen,
        failed=failed,
        retry=observed.annotations.get(RETRY),
    )
    return deployment(observed.owner, revision, template, replicas, provenance)


def _standing_deployment(
    observed: Observed, standing: DeploymentView, replicas: int, failed: str | None
) -> Mapping[str, Any]:
    """Give a Deployment as it was first built, with another number of pods."""
    assert standing.template is not None  # callers checked
    was_retried = standing.provenance.failed and not failed
    provenance = replace(
        standing.provenance,
        failed=failed,
        retry=observed.annotations.get(RETRY) if was_retried else standing.provenance.retry,
    )
    return deployment(observed.owner, standing.revision, standing.template, replicas, provenance)


def _retire(
    observed: Observed, spec: Spec, living: set[str], promoted_at: float | None
) -> tuple[float | None, tuple[Mapping[str, Any], ...], tuple[Deletion, ...]]:
    """Scale what is neither stable nor new to zero once connections had time to leave; forget the oldest."""
    old = sorted(
        (d for d in observed.deployments if d.revision not in living and not d.deleting),
        key=lambda d: (d.created, d.revision),
        reverse=True,
    )
    wait = 0.0
    if promoted_at is not None:
        wait = min(promoted_at + DRAIN - observed.now, DRAIN)
    kept, forgotten = old[: spec.rollout.revision_history], old[spec.rollout.revision_history :]
    apply = tuple(
        _standing_deployment(observed, d, 0 if wait <= 0 else d.replicas, d.provenance.failed)
        for d in kept
        if d.template is not None
    )
    delete = tuple(Deletion("Deployment", d.name, d.uid) for d in forgotten if wait <= 0 or d.replicas == 0)
    return (wait if wait > 0 and any(d.replicas for d in old) else None), apply, delete


def _availability(observed: Observed, standing: DeploymentView) -> Done[str] | Waiting | Problem:
    if standing.ready > 0:
        return Done(f"{standing.ready} of {standing.replicas} pods answer")
    if standing.replicas == 0:
        return Waiting("ScaledToZero", "no pod is wanted")
    return _pods_problem(observed, standing.revision) or Waiting(
        "Starting", f"revision {standing.revision} is starting"
    )


def _pods_problem(observed: Observed, revision: str) -> Problem | None:
    pods = [pod for pod in observed.pods_of(revision) if not pod.deleting and not pod.ready]
    problems = [pod_problem(pod, observed.now, _MEMORY_FIELD) for pod in sorted(pods, key=lambda p: p.name)]
    found = next((p for p in problems if p is not None), None)
    if found is not None:
        return found
    standing = observed.deployment(revision)
    for kind, status, _, message in standing.conditions if standing else ():
        if kind == "ReplicaFailure" and status == "True":
            return Problem("PodRefused", f"the cluster refuses the pods of revision {revision}: {message}")
    return None


def _side(observed: Observed, standing: DeploymentView, weight: int, replicas: int) -> Side:
    return Side(revision=standing.revision, weight=weight, replicas=replicas, ready_replicas=standing.ready)


def _retried(observed: Observed, standing: DeploymentView) -> bool:
    return observed.annotations.get(RETRY) != standing.provenance.retry


def _failed_message(target: str, stable: str, why: str) -> str:
    return (
        f"revision {target} was given up: {why}; {stable} goes on answering; "
        "change the spec, or set the annotation longshore.dev/retry to try once more"
    )


def rfc3339(moment: float | None) -> str | None:
    """Give a moment (seconds since the epoch) as RFC 3339 in UTC."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _soonest(*moments: float | None) -> float | None:
    return min((m for m in moments if m is not None), default=None)
