"""What a person asks for by one-shot annotations: done once, answered, never done twice after a crash."""

from dataclasses import replace

from longshore.plan.rollout.commands import Command, Order
from longshore.plan.rollout.model import Answer, Ending, Phase, RolloutState, Seen
from longshore.plan.rollout.phases import advance, enter, give_up, goal_of
from longshore.plan.rollout.policy import Policy

Obeyed = tuple[RolloutState, str]
"""The next state and what was done; a refusal raises `Refused`."""


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """The order cannot be followed; the text says why and what can be done."""


def obey(policy: Policy, state: RolloutState, seen: Seen) -> tuple[RolloutState, tuple[Answer, ...]]:
    """Follow the most cautious new order and refuse the others.

    An order is new unless its annotation was there, with the same value, when it was answered: if the
    operator is killed before it can remove the annotation, nothing is done a second time.
    """
    answers: list[Answer] = []
    done: Command | None = None
    for command in seen.commands:
        if command.token in state.handled:
            answers.append(Answer(command, True, ""))
            continue
        if done is not None:
            answers.append(
                Answer(command, False, f"{command.order} refused: {done.order} was asked at the same time")
            )
            continue
        done = command
        try:
            state, text = _ORDERS[command.order](policy, state, seen, command)
            answers.append(Answer(command, True, f"{command.order}: {text}"))
        except Refused as refusal:
            answers.append(Answer(command, False, f"{command.order} refused: {refusal}"))
    said = [answer.text for answer in answers if answer.text]
    state = replace(state, handled=tuple(command.token for command in seen.commands))
    return (replace(state, answer="; ".join(said)) if said else state), tuple(answers)


def _abort(_: Policy, state: RolloutState, __: Seen, ___: Command) -> Obeyed:
    if state.phase is Phase.BAKING and state.previous is not None:
        return give_up(state, Ending.FAILED, "aborted by a person"), f"going back to {state.previous}"
    if state.phase.tries and state.stable is not None:
        return give_up(state, Ending.FAILED, "aborted by a person"), f"going back to {state.stable}"
    raise Refused("no rollout is under way; to go back to an earlier revision ask for rollback")


def _pause(_: Policy, state: RolloutState, __: Seen, ___: Command) -> Obeyed:
    if not state.phase.tries or state.stable is None:
        raise Refused("no rollout is under way")
    return replace(state, paused=True), "it stays at this step, analysis goes on"


def _resume(_: Policy, state: RolloutState, __: Seen, ___: Command) -> Obeyed:
    if not state.paused:
        raise Refused("it is not paused; a gate is opened by promote")
    return replace(state, paused=False, waited=0.0), "it goes on"


def _promote(policy: Policy, state: RolloutState, _: Seen, __: Command) -> Obeyed:
    if state.phase is Phase.BAKING:
        return replace(enter(state, Phase.IDLE), previous=None), "the bake is over"
    if state.phase is not Phase.STEPPING:
        raise Refused("it is at no step" + _hint(state))
    return replace(advance(policy, state), paused=False), f"step {state.step + 1} is over"


def _promote_full(_: Policy, state: RolloutState, __: Seen, ___: Command) -> Obeyed:
    if not state.phase.tries or state.stable is None:
        raise Refused("no rollout is under way" + _hint(state))
    return (
        replace(state, full=True, paused=False),
        f"the steps and the analysis that are left are skipped; {state.canary} is promoted once it is ready",
    )


def _retry(_: Policy, state: RolloutState, seen: Seen, __: Command) -> Obeyed:
    goal = goal_of(state, seen)
    if goal is None or state.failure_of(goal) is None or state.phase not in (Phase.IDLE, Phase.ABORTED):
        raise Refused("the wanted revision has not failed, or is being tried")
    return (
        replace(state, failed=tuple(f for f in state.failed if f.revision != goal)),
        f"{goal} is tried once more",
    )


def _rollback(_: Policy, state: RolloutState, seen: Seen, command: Command) -> Obeyed:
    revision = command.revision or ""
    if revision not in seen.known:
        known = ", ".join(sorted(seen.known)[:20]) or "none"
        raise Refused(f"revision {revision!r} is not kept; there are: {known}")
    if revision == state.canary and state.phase is not Phase.ABORTING:
        raise Refused(f"{revision} is being tried already")
    if revision == state.stable and state.phase in (Phase.IDLE, Phase.ABORTED):
        raise Refused(f"{revision} gets all requests already")
    if state.failure_of(revision) and not command.force:
        raise Refused(f"{revision} failed before; with force it is taken all the same")
    return (
        replace(
            state,
            pinned=revision,
            pinned_against=seen.desired,
            forced=command.force,
            failed=tuple(f for f in state.failed if f.revision != revision),
        ),
        f"going to {revision}" + (" without preflight, steps and analysis" if command.force else ""),
    )


def _hint(state: RolloutState) -> str:
    if state.phase is Phase.ABORTED:
        return "; ask for retry to try the revision again"
    return ""


_ORDERS = {
    Order.ABORT: _abort,
    Order.PAUSE: _pause,
    Order.ROLLBACK: _rollback,
    Order.RETRY: _retry,
    Order.RESUME: _resume,
    Order.PROMOTE: _promote,
    Order.PROMOTE_FULL: _promote_full,
}
