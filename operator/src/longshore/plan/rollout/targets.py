"""What shall stand, from the state and what is seen. The order of safety lives here:

capacity before weight, weight only to pods that are ready, weight away before pods go.
"""

from dataclasses import replace

from longshore.api.rollout import Strategy
from longshore.plan.rollout.capacity import replicas_for
from longshore.plan.rollout.model import Phase, RolloutState, Seen, Targets
from longshore.plan.rollout.policy import Policy, Stage

ABORT_GRACE = 30.0
"""Seconds for which an abort may wait for the stable revision's capacity; then weight goes back anyway."""

ENOUGH = 0.8
"""Share of full capacity from which the stable revision takes the full weight at once."""

WHOLE = Stage(weight=100, judged=False)
"""What promotion needs: capacity for everything."""


def targets_of(policy: Policy, state: RolloutState, seen: Seen) -> Targets:
    """Give what shall stand at this moment."""
    if state.phase in (Phase.IDLE, Phase.ABORTED):
        targets = _resting(state, seen)
    elif state.phase is Phase.ABORTING:
        targets = _aborting(policy, state, seen)
    elif state.phase is Phase.BAKING:
        targets = _baking(state, seen)
    else:
        targets = _trying(policy, state, seen)
    return _keeping_what_answers(targets, seen)


def needed(policy: Policy, state: RolloutState, seen: Seen) -> int:
    """Give the pods that the new revision needs for where the rollout stands."""
    stage = policy.stage(state.step)
    if state.stable is None:
        return 1
    if state.phase is Phase.PROMOTING or stage is None or state.full or state.forced:
        stage = WHOLE
    return replicas_for(stage, seen.full, seen.traffic.mode)


def stage_weight(policy: Policy, state: RolloutState) -> int:
    """Give the weight of the present stage; 0 outside of one."""
    stage = policy.stage(state.step)
    return stage.weight if stage is not None and state.phase is Phase.STEPPING else 0


def stable_can_carry(state: RolloutState, seen: Seen) -> bool:
    """Whether the stable revision may take the full weight now."""
    return seen.pods(state.stable).ready >= ENOUGH * seen.full or state.waited >= ABORT_GRACE


def _resting(state: RolloutState, seen: Seen) -> Targets:
    replicas = {state.stable: seen.load_replicas} if state.stable is not None else {}
    return Targets(replicas=replicas, weight=0, stable=state.stable)


def _trying(policy: Policy, state: RolloutState, seen: Seen) -> Targets:
    canary = state.canary or ""
    need = needed(policy, state, seen)
    stage = policy.stage(state.step) if state.phase is Phase.STEPPING else None
    whole = seen.pods(canary).ready >= need and state.phase is Phase.PROMOTING
    free = seen.traffic.weight == 0 and seen.traffic.confirmed
    return Targets(
        replicas=_trying_replicas(policy, state, seen, need),
        weight=_weight(policy, state, seen, need),
        stable=canary if whole else state.stable,
        canary=canary if free or seen.traffic.canary == canary else None,
        mirror=canary if stage is not None and stage.mirror and seen.pods(canary).ready else None,
        preview=canary if stage is not None and stage.preview and seen.pods(canary).ready else None,
        preflight=canary if state.phase is Phase.PREFLIGHT else None,
        analyse=canary if state.phase in (Phase.STEPPING, Phase.PROMOTING) and state.stable else None,
    )


def _trying_replicas(policy: Policy, state: RolloutState, seen: Seen, need: int) -> dict[str, int]:
    canary = state.canary or ""
    if state.stable is None:
        return {canary: seen.full}
    if policy.strategy is not Strategy.RECREATE:
        return {state.stable: seen.full, canary: need}
    old = seen.pods(state.stable)
    # A pod that is going away still holds its memory.
    gone = old.wanted == 0 and old.ready == 0 and old.present == 0
    return {state.stable: 0, canary: need if gone else 0}


def _weight(policy: Policy, state: RolloutState, seen: Seen, need: int) -> int:
    """Weight that may stand now: the stage's once its pods are ready, none while none is."""
    ready = seen.pods(state.canary).ready
    now = seen.traffic.weight
    if ready == 0 or seen.traffic.canary != state.canary or policy.strategy is Strategy.RECREATE:
        return 0
    if state.phase is Phase.PROMOTING:
        return now
    wanted = stage_weight(policy, state)
    return wanted if ready >= need or wanted <= now else now


def _baking(state: RolloutState, seen: Seen) -> Targets:
    replicas = {state.stable or "": seen.full}
    if state.previous is not None:
        replicas[state.previous] = seen.full
    return Targets(replicas=replicas, weight=0, stable=state.stable, analyse=state.stable)


def _aborting(policy: Policy, state: RolloutState, seen: Seen) -> Targets:
    canary = state.canary or ""
    ready = seen.pods(state.stable).ready
    carries = stable_can_carry(state, seen)
    weight = 0
    if not carries and seen.pods(canary).ready:
        weight = min(seen.traffic.weight, 100 - 100 * ready // seen.full)
    back = seen.traffic.weight == 0 and seen.traffic.confirmed and seen.traffic.stable == state.stable
    replicas = {canary: 0 if back else seen.pods(canary).wanted}
    selector = state.stable
    if policy.strategy is Strategy.RECREATE:
        replicas[canary] = 0
        tried = seen.pods(canary)
        if tried.wanted or tried.ready or tried.present:
            replicas[state.stable or ""] = seen.pods(state.stable).wanted
        else:
            replicas[state.stable or ""] = seen.full
    elif state.stable is not None:
        replicas[state.stable] = seen.full
        if seen.traffic.stable == canary and not (carries and ready):
            selector = canary
    return Targets(replicas=replicas, weight=weight, stable=selector)


def _keeping_what_answers(targets: Targets, seen: Seen) -> Targets:
    """Keep the pods of every revision that may still get requests, whatever the state believes.

    The state in status may be older than the route, or lost; pods that answer are only removed once traffic
    is seen to have left them.
    """
    answering = {seen.traffic.stable}
    if seen.traffic.weight > 0 or not seen.traffic.confirmed:
        answering.add(seen.traffic.canary)
    kept = {
        revision: view.wanted
        for revision, view in seen.revisions.items()
        if revision in answering and revision not in targets.replicas and view.wanted
    }
    return replace(targets, replicas={**targets.replicas, **kept}) if kept else targets
