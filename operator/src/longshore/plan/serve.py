"""The stage Available: which revisions have pods, and which gets how many of the requests.

The rollout decides (`longshore.plan.rollout`); this file feeds it with what is observed and turns what it
wants into objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from longshore.api import Spec
from longshore.api.serving import RuntimeName
from longshore.api.status import Side
from longshore.plan.analyse import analyse, dump
from longshore.plan.analysis.judge import Judgement
from longshore.plan.artifact import Artifact
from longshore.plan.diagnose import pods_problem, restart_problem, unschedulable_again
from longshore.plan.mirror import Mirroring, can_mirror, mirroring
from longshore.plan.outcome import Deletion, Done, Notice, Problem, Waiting
from longshore.plan.rollout import (
    Decision,
    Phase,
    RevisionView,
    RolloutState,
    Seen,
    TrafficMode,
    commands_of,
    dump_state,
    load_state,
    policy_of,
    step,
)
from longshore.plan.rollout.actions import Preview, SelectStable
from longshore.plan.rollout.targets import stage_weight
from longshore.plan.route import Routed, look_at_route
from longshore.plan.scale import ScaleStage
from longshore.plan.state import Analysed, DeploymentView, Observed
from longshore.plan.traffic import look_at_traffic, traffic_objects, unwanted_objects
from longshore.resources.deployment import Provenance, deployment, pod_template
from longshore.resources.model_source import ModelSource, image_volume
from longshore.resources.names import side_service
from longshore.resources.networkpolicy import serving_policy
from longshore.resources.poddisruptionbudget import pod_disruption_budget
from longshore.resources.route_rules import PREVIEW_HEADER
from longshore.resources.serviceaccount import service_account
from longshore.runtimes.registry import operator_ports, runtime_of

PERSIST = 5.0
"""Seconds between writes of a rollout's clocks and evidence; a crash loses at most this much of them."""


@dataclass(frozen=True)
class ServeStage:
    """What shall stand, and what is known of who answers."""

    outcome: Done[str] | Waiting | Problem
    routed: Done[str] | Waiting | Problem | None = None
    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()
    notices: tuple[Notice, ...] = ()
    rests_on: tuple[tuple[str, str], ...] = ()
    stable: Side | None = None
    canary: Side | None = None
    again: float | None = None
    state: RolloutState | None = None
    rollout: Mapping[str, Any] | None = None
    answered: tuple[str, ...] = ()
    analysed: Analysed | None = None
    listen: bool = False
    preflight: str | None = None
    mirroring: Mirroring | None = None


def decide(
    observed: Observed, spec: Spec, target: str, artifact: Artifact | None, load: ScaleStage
) -> ServeStage:
    """Decide what serves.

    Args:
        observed: the cluster.
        spec: what is wanted.
        target: the revision of the spec.
        artifact: what the target loads; None while that is not known: what answers goes on.
        load: how many pods the present load needs.
    """
    state = rollout_state(observed)
    routed = look_at_route(observed, spec)
    traffic = look_at_traffic(observed, routed)
    judged, judgement = _judgement(observed, spec, state)
    seen = Seen(
        now=observed.now,
        desired=target if artifact is not None else None,
        load_replicas=load.replicas,
        revisions={d.revision: _view(observed, d) for d in observed.deployments if not d.deleting},
        traffic=traffic,
        known=frozenset(d.revision for d in observed.deployments if d.template is not None),
        commands=tuple(c for c in commands_of(observed.annotations) if artifact or c.order != "retry"),
        preflight=observed.preflight,
        judgement=judgement,
        judged=judged.revision if judged else None,
    )
    policy = policy_of(spec.rollout, can_mirror(spec))
    decision = step(policy, state, seen)
    apply, delete = _objects(observed, spec, target, artifact, decision, routed, seen)
    moves = [a for a in decision.actions if isinstance(a, SelectStable) and traffic.stable is not None]
    remembered = judged if judged is not None and judged.revision == decision.targets.analyse else None
    return ServeStage(
        outcome=_outcome(observed, decision),
        routed=_route_outcome(routed),
        apply=apply,
        delete=delete,
        notices=(*_notices(decision), *_previewed(observed, routed, decision)),
        rests_on=_rests_on(observed, moves),
        stable=_stable_side(observed, decision, seen, target),
        canary=_canary_side(observed, spec, decision, seen, judgement),
        again=_again(observed, decision),
        state=decision.state,
        rollout=_persisted(observed, state, decision, remembered),
        answered=tuple(a.command.annotation for a in decision.answers),
        analysed=remembered,
        listen=decision.targets.analyse is not None,
        preflight=decision.targets.preflight,
        mirroring=mirroring(observed, spec, decision.targets, stage_weight(policy, decision.state)),
    )


def keep(observed: Observed) -> ServeStage:
    """Say who answers while the spec cannot be understood: nothing changes."""
    state = rollout_state(observed) or RolloutState()
    standing = observed.deployment(state.stable) if state.stable else None
    if standing is None:
        return ServeStage(Waiting("NothingServes", "nothing serves yet"))
    side = Side(
        revision=standing.revision, weight=100, replicas=standing.replicas, ready_replicas=standing.ready
    )
    return ServeStage(_availability(observed, standing.revision), stable=side)


def rollout_state(observed: Observed) -> RolloutState | None:
    """Read what the last plan left in status; None at first."""
    raw = observed.status.get("rollout", {}).get("state")
    return load_state(raw) if raw is not None else None


def _judgement(
    observed: Observed, spec: Spec, state: RolloutState | None
) -> tuple[Analysed | None, Judgement | None]:
    """Judge the revision that is tried, against the one that answers."""
    if state is None:
        return None, None
    if state.phase in (Phase.STEPPING, Phase.PROMOTING) and state.canary and state.stable:
        return analyse(observed, spec, state.canary, state.stable)
    if state.phase is Phase.BAKING and state.stable and state.previous:
        return analyse(observed, spec, state.stable, state.previous)
    return None, None


def _view(observed: Observed, standing: DeploymentView) -> RevisionView:
    pods = [pod for pod in observed.pods_of(standing.revision) if not pod.deleting]
    problem = pods_problem(observed, standing.revision) or restart_problem(pods)
    return RevisionView(
        revision=standing.revision,
        wanted=standing.replicas,
        ready=sum(pod.ready for pod in pods) if pods else standing.ready,
        restarts=sum(pod.restarts for pod in pods),
        problem=problem.message if problem else "",
        present=len(observed.pods_of(standing.revision)),
        out_of_memory=sum(pod.out_of_memory for pod in pods),
    )


def _objects(
    observed: Observed,
    spec: Spec,
    target: str,
    artifact: Artifact | None,
    decision: Decision,
    routed: Routed,
    seen: Seen,
) -> tuple[tuple[Mapping[str, Any], ...], tuple[Deletion, ...]]:
    """Build what shall stand, capacity first, then traffic, then what takes capacity away."""
    wanted = dict(decision.targets.replicas)
    more: list[Mapping[str, Any]] = []
    fewer: list[Mapping[str, Any]] = []
    left_alone = False
    for standing in observed.deployments:
        if standing.deleting or standing.template is None:
            continue
        replicas = wanted.pop(standing.revision, 0)
        if replicas > 0 and observed.autoscaler_of(standing.revision) is not None:
            left_alone = True  # somebody else's autoscaler writes its number, and nothing else of it changes
            continue
        # What has never answered has nothing to lose: mended settings of the operator reach it.
        untried = decision.state.stable is None and standing.revision == target and not standing.ready
        obj = (
            _new_deployment(observed, spec, target, artifact, replicas)
            if untried and artifact is not None
            else _standing_deployment(observed, standing, replicas)
        )
        (more if replicas >= standing.replicas else fewer).append(obj)
    if artifact is not None and wanted.get(target):
        more.append(_new_deployment(observed, spec, target, artifact, wanted[target]))
    first = decision.state.canary or decision.state.stable
    traffic: tuple[Mapping[str, Any], ...] = ()
    if first is not None:
        traffic = traffic_objects(observed, spec, routed, seen.traffic, decision.targets, first)
    common: tuple[Mapping[str, Any], ...] = ()
    if more or fewer or left_alone:
        common = _common(observed, spec, artifact, mirrors=decision.targets.mirror is not None)
    forgotten = _forgotten(observed, spec, decision)
    gone = {deletion.name for deletion in forgotten}
    fewer = [obj for obj in fewer if obj["metadata"]["name"] not in gone]
    return (*common, *more, *traffic, *fewer), (
        *forgotten,
        *unwanted_objects(observed, routed, decision.targets),
    )


def _common(
    observed: Observed, spec: Spec, artifact: Artifact | None, mirrors: bool
) -> tuple[Mapping[str, Any], ...]:
    sources = [d.provenance for d in observed.deployments]
    fetches = any(
        image_volume(
            ModelSource(spec.model.model_copy(update={"uri": p.model}), p.artifact), observed.settings
        )
        is None
        for p in sources
    )
    if artifact is not None:
        fetches = fetches or image_volume(artifact.source, observed.settings) is None
    return (
        service_account(observed.owner),
        serving_policy(observed.owner, operator_ports(), fetches, mirrors),
        pod_disruption_budget(observed.owner),
    )


def _new_deployment(
    observed: Observed, spec: Spec, revision: str, artifact: Artifact, replicas: int
) -> Mapping[str, Any]:
    runtime = runtime_of(spec.serving.runtime) or runtime_of(RuntimeName.ONNX_RUNTIME)
    assert runtime is not None  # the default runtime is always there
    template = pod_template(
        observed.owner, revision, artifact.source, spec.serving, runtime, observed.settings
    )
    provenance = Provenance(
        model=spec.model.uri,
        artifact=artifact.source.artifact,
        image=artifact.source.image,
        chosen=artifact.chosen,
        runtime=runtime.name,
        gpu=artifact.gpu.name if artifact.gpu else None,
    )
    return deployment(observed.owner, revision, template, replicas, provenance)


def _standing_deployment(observed: Observed, standing: DeploymentView, replicas: int) -> Mapping[str, Any]:
    """Give a Deployment as it was first built, with another number of pods."""
    assert standing.template is not None  # callers checked
    return deployment(observed.owner, standing.revision, standing.template, replicas, standing.provenance)


def _forgotten(observed: Observed, spec: Spec, decision: Decision) -> tuple[Deletion, ...]:
    """Give the Deployments beyond the history, the oldest, once their pods are gone."""
    state = decision.state
    living = {state.stable, state.canary, state.previous, *decision.targets.replicas}
    old = sorted(
        (d for d in observed.deployments if d.revision not in living and not d.deleting),
        key=lambda d: (d.created, d.revision),
        reverse=True,
    )
    return tuple(
        Deletion("Deployment", d.name, d.uid)
        for d in old[spec.rollout.revision_history :]
        if d.replicas == 0 and d.current == 0
    )


def _notices(decision: Decision) -> tuple[Notice, ...]:
    """Give the events of a rollout; the start of the first revision is none."""
    return tuple(
        Notice("Warning" if told.warning else "Normal", told.reason, told.message)
        for told in decision.events
        if decision.state.stable is not None or told.warning
    )


def _previewed(observed: Observed, routed: Routed, decision: Decision) -> tuple[Notice, ...]:
    """Say where a revision can be tried that gets no requests yet."""
    shown = next((a.revision for a in decision.actions if isinstance(a, Preview)), None)
    if shown is None:
        return ()
    where = f"http://{side_service(observed.owner, 'canary')}.{observed.owner.namespace}.svc"
    if routed.kinds:
        where += f", and through the gateway with the header {PREVIEW_HEADER}: true"
    return (Notice("Normal", "RolloutPreview", f"{shown} can be tried at {where}"),)


def _rests_on(observed: Observed, moves: list[SelectStable]) -> tuple[tuple[str, str], ...]:
    """A promotion rests on the Deployment and the Service as they are, not as they were heard of."""
    places = [("Service", observed.owner.name)] if moves else []
    for move in moves:
        standing = observed.deployment(move.revision)
        if standing is not None:
            places.append(("Deployment", standing.name))
    return tuple(places)


def _outcome(observed: Observed, decision: Decision) -> Done[str] | Waiting | Problem:
    state, waiting = decision.state, decision.waiting
    tried = state.canary if state.phase.tries else None
    problem = pods_problem(observed, tried) if tried else None
    if problem is not None:
        return problem
    if waiting is not None and waiting.stuck:
        return Problem(waiting.reason, waiting.message)
    if waiting is not None:
        return Waiting(waiting.reason, waiting.message)
    if state.stable is None:
        return Waiting("NothingServes", "nothing serves yet")
    return _availability(observed, state.stable)


def _availability(observed: Observed, revision: str) -> Done[str] | Waiting | Problem:
    standing = observed.deployment(revision)
    ready = sum(pod.ready for pod in observed.pods_of(revision))
    if standing is None:
        return Waiting("Starting", f"revision {revision} is starting")
    if ready:
        return Done(f"{ready} of {standing.replicas} pods answer")
    if standing.replicas == 0:
        return Waiting("ScaledToZero", "no pod is wanted")
    return pods_problem(observed, revision) or Waiting("Starting", f"revision {revision} is starting")


def _route_outcome(routed: Routed) -> Done[str] | Waiting | Problem | None:
    if routed.problem is not None:
        return routed.problem
    if not routed.kinds:
        return None
    return Done(routed.message) if routed.accepted else Waiting("RouteNotAccepted", routed.message)


def _stable_side(observed: Observed, decision: Decision, seen: Seen, target: str) -> Side | None:
    state = decision.state
    revision = state.stable or state.canary
    if revision is None:
        return None
    weight = 100 if state.stable is None else 100 - decision.effective_weight
    return Side(
        revision=revision,
        weight=weight,
        replicas=decision.targets.replicas.get(revision, seen.pods(revision).wanted),
        ready_replicas=seen.pods(revision).ready,
    )


def _canary_side(
    observed: Observed, spec: Spec, decision: Decision, seen: Seen, judgement: Judgement | None
) -> Side | None:
    state = decision.state
    if state.canary is None or state.stable is None:
        return None
    stages = len(policy_of(spec.rollout, can_mirror(spec)).stages)
    evidence = judgement.text if judgement is not None else None
    asked = seen.traffic.weight
    if seen.traffic.mode is TrafficMode.SERVICE and asked not in (0, decision.effective_weight):
        told = f"asked {asked} %, {decision.effective_weight} % by the number of pods"
        evidence = f"{told}; {evidence}" if evidence else told
    return Side(
        revision=state.canary,
        weight=decision.effective_weight,
        replicas=decision.targets.replicas.get(state.canary, 0),
        ready_replicas=seen.pods(state.canary).ready,
        step=min(state.step + 1, stages) if stages else None,
        steps=stages or None,
        evidence=evidence[:1024] if evidence else None,
    )


def _again(observed: Observed, decision: Decision) -> float | None:
    state = decision.state
    # The first revision has no deadline: it is looked at when something changes.
    next_in = decision.next_in if state.stable is not None or state.phase is not Phase.STARTING else None
    pods = tuple(pod for pod in observed.pods if pod.job is None)
    moments = (next_in, unschedulable_again(pods, observed.now))
    return min((m for m in moments if m is not None), default=None)


def _persisted(
    observed: Observed, before: RolloutState | None, decision: Decision, analysed: Analysed | None
) -> Mapping[str, Any] | None:
    """Give what status shall remember; the old text while only clocks moved, so that rest writes nothing."""
    after = decision.state
    stored: Mapping[str, Any] | None = observed.status.get("rollout")
    rests = after.stable is None or after.phase in (Phase.IDLE, Phase.ABORTED)
    if stored is not None and before is not None and _without_clocks(before) == _without_clocks(after):
        recent = before.clock is not None and 0 <= observed.now - before.clock < PERSIST
        if rests or recent:
            return stored
    fresh: dict[str, Any] = {"state": dump_state(after)}
    if analysed is not None:
        fresh["analysis"] = dump(analysed)
    return fresh


def _without_clocks(state: RolloutState) -> RolloutState:
    return replace(state, clock=None, held=0.0, waited=0.0)


def rfc3339(moment: float | None) -> str | None:
    """Give a moment (seconds since the epoch) as RFC 3339 in UTC."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
