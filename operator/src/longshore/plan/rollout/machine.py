"""One decision of a rollout: orders are obeyed, time counts, phases follow each other, targets come out.

`step` is total and deterministic: any state with any observation gives a decision, the same ones the same
decision. Kill whoever applies it between any two writes, and the next decision leads to the same end.
"""

from dataclasses import dataclass, replace

from longshore.plan.analysis.verdict import Verdict
from longshore.plan.rollout.actions import Action, actions_between
from longshore.plan.rollout.capacity import effective_weight
from longshore.plan.rollout.model import Answer, Phase, RolloutState, Seen, Targets
from longshore.plan.rollout.orders import obey
from longshore.plan.rollout.phases import next_state
from longshore.plan.rollout.policy import Policy
from longshore.plan.rollout.targets import needed, targets_of
from longshore.plan.rollout.waiting import Waiting, in_force, waiting_of

LONGEST_TICK = 30.0
"""Seconds that one decision may count: an operator that was down, or a clock that jumped, saw nothing."""

LOOK_SECONDS = 2.0

_MOST_TRANSITIONS = 12


@dataclass(frozen=True)
class Told:
    """An event to record."""

    warning: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Decision:
    """What follows from one observation.

    Attributes:
        state: to be stored in status after the writes.
        targets: what shall stand.
        actions: the writes that lead there, in order.
        answers: one-shot annotations to remove, with what became of them.
        events: transitions to record.
        waiting: what it waits for; None when it rests.
        effective_weight: percent of requests that the canary really gets.
        next_in: seconds until it must be looked at again; None: at the next change.
    """

    state: RolloutState
    targets: Targets
    actions: tuple[Action, ...]
    answers: tuple[Answer, ...]
    events: tuple[Told, ...]
    waiting: Waiting | None
    effective_weight: int
    next_in: float | None


def step(policy: Policy, state: RolloutState | None, seen: Seen) -> Decision:
    """Decide.

    Args:
        policy: how a new revision takes over, as the spec says now.
        state: what the last decision left; None at first or when it was lost.
        seen: what is observed now.
    """
    before = state if state is not None else _recovered(seen)
    counted = _timed(policy, before, seen)
    obeyed, answers = obey(policy, counted, seen)
    events = [Told(not a.accepted, _ANSWERED[a.accepted], a.text) for a in answers if a.text]
    after = obeyed
    for _ in range(_MOST_TRANSITIONS):
        moved = next_state(policy, after, seen)
        if moved == after:
            break
        events.extend((*_examined(after, moved, seen), *_told(policy, after, moved)))
        after = moved
    waiting = waiting_of(policy, after, seen)
    reason = waiting.reason if waiting else ""
    worth_telling = waiting is not None and (waiting.stuck or reason == "NoData")
    if waiting is not None and worth_telling and reason != after.reason and after.phase is not Phase.ABORTED:
        events.append(Told(reason != "WaitingForPromotion", f"Rollout{reason}", waiting.message))
    after = replace(after, reason=reason)
    targets = targets_of(policy, after, seen)
    actions = actions_between(seen, targets)
    return Decision(
        state=after,
        targets=targets,
        actions=actions,
        answers=answers,
        events=tuple(events),
        waiting=waiting,
        effective_weight=effective_weight(
            seen.traffic.mode,
            seen.traffic.weight,
            seen.pods(after.canary).ready,
            seen.pods(after.stable).ready,
        ),
        next_in=_next_in(after, seen, waiting, bool(actions)),
    )


_ANSWERED = {True: "RolloutOrderDone", False: "RolloutOrderRefused"}


def _recovered(seen: Seen) -> RolloutState:
    """Start from what is seen: whatever the stable Service selects and has pods is stable."""
    stable = seen.traffic.stable
    return RolloutState(stable=stable if stable in seen.revisions else None)


def _timed(policy: Policy, state: RolloutState, seen: Seen) -> RolloutState:
    """Count the time since the last decision where it belongs."""
    elapsed = 0.0 if state.clock is None else min(max(0.0, seen.now - state.clock), LONGEST_TICK)
    state = replace(state, clock=seen.now)
    if state.phase is Phase.STEPPING and in_force(policy, state, seen):
        return replace(state, held=state.held + elapsed, waited=0.0)
    if state.phase is Phase.BAKING:
        settled = seen.traffic.weight == 0 and seen.traffic.confirmed
        return replace(state, held=state.held + elapsed) if settled else state
    resting = state.phase in (Phase.IDLE, Phase.ABORTED)
    if resting or state.paused or (state.phase.tries and not _asked_for(policy, state, seen)):
        return state
    return replace(state, waited=state.waited + elapsed)


def _asked_for(policy: Policy, state: RolloutState, seen: Seen) -> bool:
    """Whether its Deployment asks for the pods: before that, no delay is the new revision's."""
    return seen.pods(state.canary).wanted >= needed(policy, state, seen)


def _next_in(state: RolloutState, seen: Seen, waiting: Waiting | None, acting: bool) -> float | None:
    if state.phase in (Phase.IDLE, Phase.ABORTED):
        settled = not acting and seen.traffic.weight == 0 and seen.traffic.confirmed
        return None if settled else LOOK_SECONDS
    if state.phase in (Phase.ABORTING, Phase.PROMOTING):
        return LOOK_SECONDS / 2
    if waiting is not None and waiting.seconds is not None:
        return max(0.1, min(LOOK_SECONDS, waiting.seconds))
    return LOOK_SECONDS


def _examined(before: RolloutState, after: RolloutState, seen: Seen) -> list[Told]:
    """Say what sample requests have shown of a new revision that goes on."""
    if before.phase is not Phase.PREFLIGHT or not after.phase.tries or seen.preflight is None:
        return []
    found = seen.preflight
    return [Told(found.verdict is Verdict.NO_DATA, "RolloutExamined", f"{found.revision}: {found.text}")]


def _told(policy: Policy, before: RolloutState, after: RolloutState) -> list[Told]:
    """Say what a transition means to a person."""
    if after.phase is Phase.STEPPING and (before.phase, before.step) != (after.phase, after.step):
        stage = policy.stage(after.step)
        weight = f", {stage.weight} % of requests" if stage else ""
        weight += ", and copies of others" if stage and stage.mirror else ""
        return [
            Told(
                False, "RolloutStep", f"{after.canary}: step {after.step + 1} of {len(policy.stages)}{weight}"
            )
        ]
    if before.phase is after.phase:
        return []
    sentence = {
        Phase.STARTING: (False, "RolloutStarted", f"{after.canary} is started beside {after.stable}"),
        Phase.PREFLIGHT: (False, "RolloutPreflight", f"{after.canary} is asked sample requests"),
        Phase.PROMOTING: (False, "RolloutPromoting", f"{after.canary} is made ready for all requests"),
        Phase.BAKING: (
            False,
            "RolloutPromoted",
            f"{after.stable} gets all requests, {after.previous} before",
        ),
        Phase.ABORTING: (True, "RolloutAborting", f"requests go back to {after.stable}: {after.why}"),
        Phase.ABORTED: (True, "RolloutAborted", after.why),
        Phase.IDLE: (False, "RolloutEnded", f"{after.stable} gets all requests"),
    }[after.phase]
    return [Told(*sentence)]
