"""How one phase follows another, one small move at a time."""

from dataclasses import replace

from longshore.api.rollout import Strategy
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.analysis.words import duration
from longshore.plan.rollout.model import Ending, FailedRevision, Phase, RolloutState, Seen
from longshore.plan.rollout.policy import Policy
from longshore.plan.rollout.targets import needed
from longshore.plan.rollout.waiting import stage_waits

DRAIN = 5.0
"""Seconds between a promotion and the end of the old pods: kube-proxy needs up to one to move connections."""

MOST_FAILED = 10
"""Failed revisions that are remembered."""

_LONGEST_WHY = 900


def next_state(policy: Policy, state: RolloutState, seen: Seen) -> RolloutState:
    """Give the state one move further, or the same state when nothing moves."""
    state = _unpinned(state, seen)
    if state.phase in (Phase.IDLE, Phase.ABORTED):
        return _rest(state, seen)
    if state.phase is Phase.ABORTING:
        return _aborting(policy, state, seen)
    if state.phase is Phase.BAKING:
        return _baking(policy, state, seen)
    if state.canary is not None and seen.traffic.stable == state.canary and state.canary != state.stable:
        return _promoted(policy, state)
    given_up = _given_up(policy, state, seen)
    if given_up is not None:
        return given_up
    if state.phase is Phase.STARTING:
        return _starting(policy, state, seen)
    if state.phase is Phase.PREFLIGHT:
        return _preflight(policy, state, seen)
    return _stepping(policy, state, seen) if state.phase is Phase.STEPPING else state


def goal_of(state: RolloutState, seen: Seen) -> str | None:
    """Give the revision that shall serve: a rollback's, else the spec's; None while it is not known."""
    return state.pinned if state.pinned is not None else seen.desired


def enter(state: RolloutState, phase: Phase) -> RolloutState:
    """Begin a phase, its clocks at zero."""
    return replace(state, phase=phase, held=0.0, waited=0.0)


def begin(state: RolloutState, revision: str) -> RolloutState:
    """Begin to try a revision."""
    return replace(
        enter(state, Phase.STARTING),
        canary=revision,
        previous=None,
        step=0,
        paused=False,
        ending=None,
        why="",
    )


def give_up(state: RolloutState, ending: Ending, why: str) -> RolloutState:
    """Take everything back to the stable revision; while baking, to the one that was stable before."""
    if state.phase is Phase.BAKING:
        state = replace(state, canary=state.stable, stable=state.previous, previous=None)
    why = why if len(why) <= _LONGEST_WHY else why[: _LONGEST_WHY - 1] + "…"
    forced = state.forced and ending is not Ending.FAILED
    return replace(
        enter(state, Phase.ABORTING), ending=ending, why=why, paused=False, full=False, forced=forced
    )


def advance(policy: Policy, state: RolloutState) -> RolloutState:
    """Go to the next stage, or to promotion after the last one."""
    if state.step + 1 < len(policy.stages):
        return replace(state, step=state.step + 1, held=0.0, waited=0.0)
    return enter(state, Phase.PROMOTING)


def _unpinned(state: RolloutState, seen: Seen) -> RolloutState:
    """End a rollback's hold on the goal when the spec asks for something new."""
    if state.pinned is None or seen.desired is None or seen.desired == state.pinned_against:
        return state
    return replace(state, pinned=None, pinned_against=None, forced=False)


def _rest(state: RolloutState, seen: Seen) -> RolloutState:
    goal = goal_of(state, seen)
    if goal is None:
        return state
    if state.stable is None:
        return begin(state, goal)
    if goal == state.stable:
        return replace(state, phase=Phase.IDLE, why="", full=False, forced=False)
    failure = state.failure_of(goal)
    if failure is not None:
        return replace(state, phase=Phase.ABORTED, why=failure.why)
    if seen.traffic.weight > 0 or not seen.traffic.confirmed:
        return replace(state, phase=Phase.IDLE)
    return begin(state, goal)


def _given_up(policy: Policy, state: RolloutState, seen: Seen) -> RolloutState | None:
    """Whether the new revision is no longer wanted, or has shown that it is bad."""
    goal = goal_of(state, seen)
    if state.stable is None:
        # Nothing serves yet, so there is nothing to go back to: only a new spec changes what is started.
        return begin(state, goal) if goal is not None and goal != state.canary else None
    if goal is not None and goal != state.canary:
        if goal == state.stable:
            return give_up(state, Ending.RETURNED, f"{goal} is wanted again")
        return give_up(state, Ending.SUPERSEDED, f"{goal} replaces {state.canary}")
    crashed = _crashed(policy, state.canary, state.stable, seen)
    if crashed:
        return give_up(state, Ending.FAILED, crashed)
    late = _late(policy, state, seen)
    if late:
        return give_up(state, Ending.FAILED, late)
    judgement = seen.verdict_on(state.canary)
    judged = state.phase in (Phase.STEPPING, Phase.PROMOTING) and not (state.full or state.forced)
    if judged and judgement is not None and judgement.verdict is Verdict.FAIL:
        return give_up(state, Ending.FAILED, judgement.text)
    return None


def _crashed(policy: Policy, revision: str | None, against: str | None, seen: Seen) -> str:
    view = seen.pods(revision)
    leaks = view.out_of_memory and not seen.pods(against).out_of_memory
    if leaks and view.restarts >= policy.most_out_of_memory:
        return (
            f"containers of {revision} used more memory than their limit (OOMKilled) and restarted "
            f"{view.restarts} times, those of {against} did not: mend the model, or raise "
            "serving.resources.limits.memory"
        )
    if view.restarts < policy.most_restarts:
        return ""
    problem = f": {view.problem}" if view.problem else ""
    return f"containers of {revision} restarted {view.restarts} times{problem}"


def _late(policy: Policy, state: RolloutState, seen: Seen) -> str:
    if state.waited < policy.progress_deadline or state.paused:
        return ""
    view, need = seen.pods(state.canary), needed(policy, state, seen)
    if view.ready < need and not (view.ready and state.phase is Phase.STEPPING and seen.traffic.problem):
        problem = f": {view.problem}" if view.problem else "; look at its pods' events and logs"
        return (
            f"{view.ready} of {need} pods of {state.canary} were ready after "
            f"{duration(policy.progress_deadline)} (progressDeadline){problem}"
        )
    under_way = seen.preflight is None or seen.preflight.verdict is Verdict.INCONCLUSIVE
    if state.phase is Phase.PREFLIGHT and under_way:
        return f"the preflight was not through after {duration(policy.progress_deadline)} (progressDeadline)"
    return ""


def _starting(policy: Policy, state: RolloutState, seen: Seen) -> RolloutState:
    if state.paused or seen.pods(state.canary).ready < needed(policy, state, seen):
        return state
    if state.stable is None or state.forced:
        return enter(state, Phase.PROMOTING)
    return enter(state, Phase.PREFLIGHT) if policy.preflight else _through_preflight(policy, state)


def _preflight(policy: Policy, state: RolloutState, seen: Seen) -> RolloutState:
    found = seen.preflight
    if not policy.preflight or state.forced:
        return _through_preflight(policy, state)
    if found is None or found.revision != state.canary or state.paused:
        return state
    if found.verdict is Verdict.FAIL:
        return give_up(state, Ending.FAILED, f"preflight: {found.text}")
    if found.verdict in (Verdict.PASS, Verdict.NO_DATA):
        return _through_preflight(policy, state)
    return state


def _through_preflight(policy: Policy, state: RolloutState) -> RolloutState:
    straight = not policy.stages or state.full or state.forced
    return enter(replace(state, step=0), Phase.PROMOTING if straight else Phase.STEPPING)


def _stepping(policy: Policy, state: RolloutState, seen: Seen) -> RolloutState:
    stage = policy.stage(state.step)
    if stage is None or ((state.full or state.forced) and not state.paused):
        return enter(state, Phase.PROMOTING)
    return advance(policy, state) if stage_waits(policy, state, seen, stage) is None else state


def _promoted(policy: Policy, state: RolloutState) -> RolloutState:
    """The Service has moved: roles change, and the old revision stays ready until the bake is over."""
    first = state.stable is None or policy.strategy is Strategy.RECREATE
    return replace(
        enter(state, Phase.IDLE if first else Phase.BAKING),
        stable=state.canary,
        previous=None if first else state.stable,
        canary=None,
        step=0,
        paused=False,
        why="",
        failed=tuple(failed for failed in state.failed if failed.revision != state.canary),
    )


def _baking(policy: Policy, state: RolloutState, seen: Seen) -> RolloutState:
    goal = goal_of(state, seen)
    back = state.previous is not None and seen.pods(state.previous).ready > 0
    if back and goal == state.previous:
        return give_up(state, Ending.RETURNED, f"{goal} is wanted again")
    judgement = seen.verdict_on(state.stable)
    judged = judgement is not None and not (state.full or state.forced)
    failed = judgement.text if judged and judgement and judgement.verdict is Verdict.FAIL else ""
    failed = failed or _crashed(policy, state.stable, state.previous, seen)
    if back and failed:
        return give_up(state, Ending.FAILED, f"after promotion: {failed}")
    done = state.held >= max(policy.bake, DRAIN)
    hurried = goal not in (None, state.stable) and state.held >= DRAIN
    return replace(enter(state, Phase.IDLE), previous=None) if done or hurried else state


def _aborting(policy: Policy, state: RolloutState, seen: Seen) -> RolloutState:
    traffic, canary = seen.traffic, seen.pods(state.canary)
    if traffic.weight or not traffic.confirmed or traffic.stable != state.stable or canary.wanted:
        return state
    if policy.strategy is Strategy.RECREATE and not seen.pods(state.stable).ready:
        return state
    ended = replace(enter(state, Phase.IDLE), canary=None, step=0, ending=None)
    if state.ending is not Ending.FAILED or state.canary is None:
        return replace(ended, why="")
    failed = (
        FailedRevision(state.canary, state.why),
        *(earlier for earlier in state.failed if earlier.revision != state.canary),
    )
    # A rollback that failed leaves the revision that serves: the spec's was rolled away from on purpose.
    pinned = state.stable if state.pinned == state.canary else state.pinned
    return replace(ended, phase=Phase.ABORTED, failed=failed[:MOST_FAILED], pinned=pinned)
