"""The whole decision: Observed -> Plan. Each stage is one file; this page only chains them."""

from collections.abc import Mapping
from dataclasses import replace

from longshore.api import Spec, Status
from longshore.api.parse import SpecError, parse_spec, unknown_fields
from longshore.api.scaling import Engine
from longshore.api.status import Optimization, Revision
from longshore.plan import analyse as analysis_stage
from longshore.plan import artifact as artifact_stage
from longshore.plan import autoscaler as autoscaler_stage
from longshore.plan import engine as engine_stage
from longshore.plan import measure as measure_stage
from longshore.plan import scale as scale_stage
from longshore.plan import serve as serve_stage
from longshore.plan import warm as warm_stage
from longshore.plan import zero as zero_stage
from longshore.plan.artifact import Artifact
from longshore.plan.deletion import finalizers, plan_deletion
from longshore.plan.outcome import Done, Facts, Notice, Plan, Problem, Waiting
from longshore.plan.revision import revision_of
from longshore.plan.scaling.schedule import unreadable
from longshore.plan.state import Exercise, Observed
from longshore.plan.supported import unsupported_fields
from longshore.resources.names import RETRY
from longshore.resources.service import url
from longshore.resources.serviceaccount import service_account
from longshore.runtimes.registry import runtime_of

REVISIONS_KEPT = 24
"""Entries of `status.revisions`; the CRD bounds the list."""


_FORECAST = "; forecast: "


def make_plan(observed: Observed) -> Plan:
    """Decide what shall stand for one ModelDeployment. Total and deterministic."""
    if observed.deleted is not None:
        return plan_deletion(observed)
    try:
        spec = parse_spec(observed.spec)
    except SpecError as error:
        return _keep_serving(observed, Problem("InvalidSpec", f"the spec cannot be understood: {error}"))
    runtime = runtime_of(spec.serving.runtime)
    if runtime is not None and (why := runtime.refuses(spec.serving)):
        return _keep_serving(observed, Problem("RuntimeRefuses", why))
    engine = engine_stage.decide(observed, spec)
    revision = revision_of(spec, engine.gpu.name if engine.gpu else "")
    optimized = artifact_stage.decide(observed, spec, revision, engine)
    artifact = optimized.outcome.value if isinstance(optimized.outcome, Done) else None
    runtimes = measure_stage.decide(observed, spec, revision, artifact)
    spec, artifact = _on_runtime(spec, artifact, runtimes)
    autoscaler = autoscaler_stage.decide(observed, spec)
    state = serve_stage.rollout_state(observed)
    stable = state.stable if state else None
    load = scale_stage.decide(observed, spec, stable)
    zero = zero_stage.decide(observed, spec, stable, load.replicas, load.warm)
    load = replace(load, replicas=zero.replicas)
    warm = warm_stage.decide(observed, stable, zero.warm)
    serving = serve_stage.decide(observed, spec, revision, artifact, load)
    judged = serving.analysed.revision if serving.analysed else None
    exercised = analysis_stage.exercise(observed, spec, serving.state, serving.analysed)
    facts = _facts(
        observed, spec, revision, optimized.outcome, runtimes, serving, load, autoscaler, zero, warm
    )
    return Plan(
        apply=(
            *_needed_by_job(observed, optimized),
            *optimized.apply,
            *runtimes.apply,
            *zero.apply,
            *serving.apply,
            *autoscaler.apply,
            *warm.apply,
        ),
        delete=(
            *optimized.delete,
            *serving.delete,
            *autoscaler.delete,
            *zero.delete,
            *warm.delete,
            *runtimes.delete,
        ),
        facts=facts,
        notices=(*serving.notices, *_exercised(observed, exercised), *_scaled(observed, load)),
        requeue_after=_soonest(
            _again(optimized.outcome),
            serving.again,
            _again(serving.outcome),
            zero.again,
            warm.again,
            runtimes.again,
            _again(serving.routed),
        ),
        rests_on=serving.rests_on,
        finalizers=finalizers(observed, starts_job=bool(optimized.apply)),
        answered=(*_answered_retry(observed, artifact), *serving.answered),
        analysed=serving.analysed,
        scaled=load.scaled,
        activation=zero.activation,
        listen=serving.listen or load.listens,
        queries=scale_stage.queries(observed, spec, load, stable),
        exercise=exercised,
        predictions=analysis_stage.compares_predictions(spec, judged),
        questions=analysis_stage.ask(observed, spec, serving.state, judged),
        preflight=serving.preflight,
        mirroring=serving.mirroring,
        measurement=runtimes.measurement,
        looks_at_nodes=engine.looks,
    )


def _on_runtime(
    spec: Spec, artifact: Artifact | None, runtimes: measure_stage.RuntimeStage
) -> tuple[Spec, Artifact | None]:
    """Give the spec with the runtime that was chosen; until one is, nothing new is served."""
    if not isinstance(runtimes.outcome, Done):
        return spec, None
    if spec.serving.runtime is runtimes.outcome.value:
        return spec, artifact
    serving = spec.serving.model_copy(update={"runtime": runtimes.outcome.value})
    return spec.model_copy(update={"serving": serving}), artifact


def _needed_by_job(
    observed: Observed, optimized: artifact_stage.ArtifactStage
) -> tuple[Mapping[str, object], ...]:
    """The Job's pod runs under the model's ServiceAccount, which may not stand yet."""
    return (service_account(observed.owner),) if optimized.apply else ()


def _exercised(observed: Observed, wanted: Exercise | None) -> tuple[Notice, ...]:
    """Give an event where sample requests begin: they are nobody's, and they count."""
    if wanted is None or not wanted.thin or observed.exercising:
        return ()
    told = f"traffic is too thin to decide: {wanted.rate:g} sample requests a second go to each revision"
    return (Notice("Normal", "SyntheticLoad", told),)


def _scaled(observed: Observed, load: scale_stage.ScaleStage) -> tuple[Notice, ...]:
    """Give an event for a change of the number of pods."""
    before = observed.scaled.reason if observed.scaled else ""
    return (Notice("Normal", "Scaled", load.reason),) if load.reason not in ("", before) else ()


def _scaling(observed: Observed, load: scale_stage.ScaleStage) -> Done[str] | Waiting | Problem | None:
    """Say why there are as many pods as there are; the sentence changes only when the number does."""
    if load.scaled is None:
        return None
    if load.limited:
        return Problem("BudgetSpent", load.limited)
    if load.problem:
        return Waiting("Held", f"the number of pods is not lowered: {load.problem}")
    told = [
        c for c in observed.status.get("conditions", ()) if c["type"] == "Scaled" and c["status"] == "True"
    ]
    standing = told[0]["message"] if told else "the number of pods follows the load"
    # As status remembers it: told anew with what was learned, not with each look.
    forecast = (scale_stage.memory(observed, load) or {}).get("forecast", "") if load.scaled.forecast else ""
    sentence = load.reason or standing.partition(_FORECAST)[0]
    return Done(f"{sentence}; {forecast}" if forecast else sentence)


def _answered_retry(observed: Observed, artifact: Artifact | None) -> tuple[str, ...]:
    """A retry of the Job is answered once a Job carries it."""
    wish = observed.annotations.get(RETRY)
    taken = artifact is None and wish is not None and any(job.retry == wish for job in observed.jobs)
    return (RETRY,) if taken else ()


def _keep_serving(observed: Observed, problem: Problem) -> Plan:
    serving = serve_stage.keep(observed)
    previous = Status.model_validate(observed.status)
    return Plan(
        facts=Facts(
            phase="Stalled",
            message=problem.message,
            ready=isinstance(serving.outcome, Done),
            ready_reason="Serving" if isinstance(serving.outcome, Done) else "NothingServes",
            ready_message=_text(serving.outcome),
            stalled=problem,
            available=serving.outcome,
            stable=serving.stable,
            revisions=previous.revisions,
            optimization=previous.optimization,
            runtimes=previous.runtimes,
            url=url(observed.owner) if serving.stable else None,
            replicas=_replicas(observed),
            selector=_selector(observed),
            rollout=observed.status.get("rollout"),
            learned=observed.status.get("scaling"),
        )
    )


def _facts(
    observed: Observed,
    spec: Spec,
    revision: str,
    optimized: Done[Artifact] | Waiting | Problem,
    runtimes: measure_stage.RuntimeStage,
    serving: serve_stage.ServeStage,
    load: scale_stage.ScaleStage,
    autoscaler: autoscaler_stage.AutoscalerStage,
    zero: zero_stage.ZeroStage,
    warm: warm_stage.WarmStage,
) -> Facts:
    outcomes = (optimized, runtimes.outcome, serving.outcome, serving.routed, autoscaler.outcome)
    stalled = next((o for o in outcomes if isinstance(o, Problem)), None)
    waiting = next((o for o in outcomes if isinstance(o, Waiting)), None)
    answers = serving.stable is not None and serving.stable.ready_replicas > 0
    # Held requests are answered too, once a pod is there.
    ready = answers or zero.holds
    if waiting is not None and waiting.reason in ("ScaledToZero", "NothingServes"):
        waiting = waiting if waiting.reason == "NothingServes" and not stalled else None
    phase, message = _phase(ready, serving, stalled, waiting)
    if zero.holds and not answers and phase == "Ready":
        first = "is answered by a warm copy and starts a pod" if warm.ready else "starts one"
        phase, message = "Idle", f"no pod runs; the first request {first}"
    artifact = optimized.value if isinstance(optimized, Done) else None
    return Facts(
        phase=phase,
        message=message,
        ready=ready,
        ready_reason="Serving"
        if ready
        else (stalled.reason if stalled else waiting.reason if waiting else "Idle"),
        ready_message=_ready_message(answers, zero.holds, warm.ready, serving, message),
        reconciling=None if stalled else waiting,
        stalled=stalled,
        optimized=_stage(optimized),
        available=serving.outcome,
        routed=serving.routed,
        scaling=scale_stage.obstacle(observed, spec, _stable(serving))
        or autoscaler.outcome
        or warm.problem
        or _scaling(observed, load),
        unsupported=(
            *unsupported_fields(spec),
            *_cannot_sleep(observed, spec),
            *(f"spec.{field}" for field in _unreadable_schedules(spec)),
            *(f"spec.{field}" for field in autoscaler.unexpressed),
            *(f"{f} (unknown to this version)" for f in unknown_fields(observed.spec)),
        ),
        stable=serving.stable,
        canary=serving.canary,
        revisions=_revisions(observed, spec, revision, artifact, serving, stalled),
        optimization=_optimization(observed, artifact, revision),
        runtimes=runtimes.table,
        url=url(observed.owner),
        replicas=_replicas(observed),
        selector=_selector(observed),
        rollout=serving.rollout,
        learned=scale_stage.memory(observed, load),
    )


def _stable(serving: serve_stage.ServeStage) -> str | None:
    return serving.stable.revision if serving.stable else None


def _unreadable_schedules(spec: Spec) -> tuple[str, ...]:
    return unreadable(spec.scaling.schedules) if spec.scaling.engine is Engine.BUILTIN else ()


def _cannot_sleep(observed: Observed, spec: Spec) -> tuple[str, ...]:
    """A model that may go to zero stays at one pod where nobody would notice the next client."""
    if spec.scaling.min > 0 or observed.settings.activator_token or spec.scaling.engine is not Engine.BUILTIN:
        return ()
    return ("spec.scaling.min (no activator is installed: one pod is kept; enable activator in the chart)",)


def _ready_message(
    answers: bool, holds: bool, warm: bool, serving: serve_stage.ServeStage, otherwise: str
) -> str:
    if answers and serving.stable:
        return f"revision {serving.stable.revision} answers"
    if holds and warm:
        return "a warm copy answers through the activators until a pod does"
    return "the activators hold requests until a pod answers" if holds else otherwise


def _phase(
    ready: bool, serving: serve_stage.ServeStage, stalled: Problem | None, waiting: Waiting | None
) -> tuple[str, str]:
    if stalled:
        return "Stalled", stalled.message
    if waiting:
        return waiting.reason, waiting.message
    if ready:
        return "Ready", _text(serving.outcome)
    return "Idle", _text(serving.outcome)


def _stage(optimized: Done[Artifact] | Waiting | Problem) -> Done[str] | Waiting | Problem:
    if not isinstance(optimized, Done):
        return optimized
    chosen = optimized.value.chosen
    return Done(f"candidate {chosen} is served" if chosen else "the model is served as it is")


def _revisions(
    observed: Observed,
    spec: Spec,
    target: str,
    artifact: Artifact | None,
    serving: serve_stage.ServeStage,
    stalled: Problem | None,
) -> tuple[Revision, ...]:
    """List the revisions that stand, the newest first, and what is known of each."""
    entries: list[Revision] = []
    stable = serving.stable.revision if serving.stable else None
    canary = serving.canary.revision if serving.canary else None
    if observed.deployment(target) is None:
        entries.append(
            Revision(
                name=target,
                model=spec.model.uri,
                artifact=artifact.source.artifact if artifact else None,
                digest=artifact.digest if artifact else None,
                chosen=artifact.chosen if artifact else None,
                phase="Failed" if stalled else "Pending",
                reason=stalled.message[:1024] if stalled else "",
            )
        )
    for d in sorted(observed.deployments, key=lambda d: (d.created, d.revision), reverse=True):
        if d.deleting:
            continue
        failure = serving.state.failure_of(d.revision) if serving.state else None
        if failure is not None:
            phase = "Failed"
        elif d.revision == stable:
            phase = "Stable"
        elif d.revision in (canary, target):
            phase = "Canary"
        else:
            phase = "Retired"
        entries.append(
            Revision(
                name=d.revision,
                model=d.provenance.model,
                artifact=d.provenance.artifact,
                digest=(d.provenance.artifact or "").rpartition("@sha256:")[2] or None,
                image=_image(d.template),
                chosen=d.provenance.chosen,
                phase=phase,
                reason=failure.why[:1024] if failure is not None else "",
                created=serve_stage.rfc3339(d.created),
            )
        )
    return tuple(entries[:REVISIONS_KEPT])


def _optimization(observed: Observed, artifact: Artifact | None, revision: str) -> Optimization | None:
    if artifact is not None:
        return artifact.optimization
    raw = observed.status.get("optimization")
    return Optimization.model_validate(raw) if raw else None


def _image(template: Mapping[str, object] | None) -> str | None:
    if template is None:
        return None
    spec = template["spec"]
    assert isinstance(spec, Mapping)
    image = spec["containers"][0]["image"]
    return str(image)


def _replicas(observed: Observed) -> int:
    return sum(d.current for d in observed.deployments)


def _selector(observed: Observed) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(observed.owner.selector().items()))


def _text(outcome: Done[str] | Waiting | Problem) -> str:
    return outcome.value if isinstance(outcome, Done) else outcome.message


def _again(outcome: Done[Artifact] | Done[str] | Waiting | Problem | None) -> float | None:
    return None if outcome is None or isinstance(outcome, Done) else outcome.again


def _soonest(*moments: float | None) -> float | None:
    return min((m for m in moments if m is not None), default=None)
