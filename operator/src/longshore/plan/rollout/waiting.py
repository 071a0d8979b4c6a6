"""What a rollout waits for, in words; and whether anything keeps a stage from going on."""

from dataclasses import dataclass

from longshore.plan.analysis.verdict import Verdict
from longshore.plan.analysis.words import duration
from longshore.plan.rollout.model import Phase, RolloutState, Seen
from longshore.plan.rollout.policy import Policy, Stage
from longshore.plan.rollout.targets import needed, stage_weight


@dataclass(frozen=True)
class Waiting:
    """Why it does not go on.

    Attributes:
        reason: one word for programs and events.
        message: a sentence for a person.
        stuck: nothing but a person or a change outside will help; belongs into condition Stalled.
        seconds: when it ends by itself, if that is known.
    """

    reason: str
    message: str
    stuck: bool = False
    seconds: float | None = None


def in_force(policy: Policy, state: RolloutState, seen: Seen) -> bool:
    """Whether the present stage is what really stands, so that its time counts."""
    stage = policy.stage(state.step)
    if stage is None or not seen.pods(state.canary).ready:
        return False
    traffic = seen.traffic
    if stage.mirror and traffic.mirrored != state.canary:
        return False
    if stage.preview and traffic.preview != state.canary:
        return False
    return traffic.confirmed and traffic.weight == stage.weight and traffic.problem is None


def stage_waits(policy: Policy, state: RolloutState, seen: Seen, stage: Stage) -> Waiting | None:
    """Say what keeps this stage from going on; None when nothing does."""
    if state.paused:
        return Waiting("Paused", "paused by a person; resume, promote or abort it", stuck=True)
    if seen.traffic.problem is not None:
        return Waiting("RouteNotReady", f"weights cannot be set: {seen.traffic.problem}", stuck=True)
    short = _pods(policy, state, seen)
    if short is not None:
        return short
    if not in_force(policy, state, seen):
        return _route_waits(state, seen, stage)
    return _evidence_waits(policy, state, seen, stage)


def _route_waits(state: RolloutState, seen: Seen, stage: Stage) -> Waiting:
    if stage.mirror and seen.traffic.mirrored != state.canary:
        if seen.traffic.unmirrored:
            text = f"requests cannot be copied to {state.canary}: {seen.traffic.unmirrored}"
            return Waiting("NotMirrored", text, stuck=True)
        return Waiting("WaitingForRoute", f"waiting until pods of {state.stable} send copies of requests")
    stands = "the preview is in force" if stage.preview else f"weight {stage.weight} % is in force"
    return Waiting("WaitingForRoute", f"waiting until {stands}")


def waiting_of(policy: Policy, state: RolloutState, seen: Seen) -> Waiting | None:
    """Say what the rollout waits for; None when it rests and all is well."""
    phase = state.phase
    if phase is Phase.IDLE:
        return None
    if phase is Phase.ABORTED:
        return Waiting("RolloutAborted", state.why, stuck=True)
    if phase is Phase.ABORTING:
        return _aborting_waits(state, seen)
    if phase is Phase.BAKING:
        left = max(0.0, policy.bake - state.held)
        return Waiting(
            "Baking", f"promoted; the revision before is kept ready for {duration(left)}", seconds=left
        )
    if state.paused:
        return Waiting("Paused", "paused by a person; resume, promote or abort it", stuck=True)
    if phase is Phase.STEPPING:
        stage = policy.stage(state.step)
        return stage_waits(policy, state, seen, stage) if stage is not None else None
    if phase is Phase.PREFLIGHT:
        return _preflight_waits(state, seen)
    return _pods(policy, state, seen) or Waiting("WaitingForRoute", "waiting until the Service has moved")


def _pods(policy: Policy, state: RolloutState, seen: Seen) -> Waiting | None:
    need, view = needed(policy, state, seen), seen.pods(state.canary)
    weight = stage_weight(policy, state)
    if view.ready >= need or (
        view.ready and state.phase is Phase.STEPPING and seen.traffic.weight == weight > 0
    ):
        return None
    problem = f": {view.problem}" if view.problem else ""
    left = max(0.0, policy.progress_deadline - state.waited)
    return Waiting(
        "WaitingForPods",
        f"{view.ready} of {need} pods of {state.canary} are ready, given up in {duration(left)}{problem}"
        if state.stable is not None
        else f"the first revision {state.canary} is not ready yet{problem}",
    )


def _evidence_waits(policy: Policy, state: RolloutState, seen: Seen, stage: Stage) -> Waiting | None:
    judgement = seen.verdict_on(state.canary)
    if stage.judged:
        if judgement is None or judgement.verdict is Verdict.NO_DATA:
            text = judgement.text if judgement else "nothing was measured yet"
            overdue = judgement is not None and judgement.overdue
            return Waiting("NoData", f"held, there is no data: {text}", stuck=overdue)
        if judgement.verdict is Verdict.ERROR:
            return Waiting(
                "AnalysisError", f"held, a signal cannot be read: {judgement.text}", judgement.overdue
            )
    if stage.gate is not None:
        return Waiting("WaitingForPromotion", f"gate: {stage.gate}", stuck=True)
    if stage.hold is not None and state.held < stage.hold:
        left = stage.hold - state.held
        return Waiting("Holding", f"holding {stage.weight} % for {duration(left)} more", seconds=left)
    if not stage.judged or judgement is None:
        return None
    last = not any(later.judged for later in policy.stages[state.step + 1 :])
    if (last or stage.hold is None) and judgement.verdict is not Verdict.PASS:
        return Waiting("WaitingForEvidence", judgement.text)
    if judgement.suspicious and judgement.verdict is not Verdict.PASS:
        return Waiting("Suspicious", f"no more weight while this may be worse: {judgement.text}")
    return None


def _preflight_waits(state: RolloutState, seen: Seen) -> Waiting:
    found = seen.preflight
    if found is not None and found.revision == state.canary and found.verdict is Verdict.ERROR:
        return Waiting("PreflightError", f"held, the preflight cannot be done: {found.text}", stuck=True)
    return Waiting("Preflight", "sample requests are sent to the new revision")


def _aborting_waits(state: RolloutState, seen: Seen) -> Waiting:
    traffic = seen.traffic
    if traffic.problem is not None:
        return Waiting(
            "RouteNotReady",
            f"weights cannot be taken back, so no pod is removed: {traffic.problem}",
            stuck=True,
        )
    if traffic.weight or not traffic.confirmed or traffic.stable != state.stable:
        return Waiting("TakingWeightBack", f"all requests go back to {state.stable}: {state.why}")
    return Waiting("ScalingDown", f"pods of {state.canary} are removed: {state.why}")
