"""Conditions, columns and events: facts in, `status` out."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from longshore.api import Status
from longshore.api.status import Condition
from longshore.plan.outcome import Done, Facts, Notice, Problem, Waiting
from longshore.plan.rollout.model import Phase

READY, RECONCILING, STALLED, FIELDS = "Ready", "Reconciling", "Stalled", "FieldsSupported"
SCALED = "Scaled"
"""Its sentence is told whenever it changes: scaling sees to it that it does so seldom."""

_MESSAGE_LIMIT = 2000


def build_status(previous: Mapping[str, Any], facts: Facts, generation: int, now: float) -> dict[str, Any]:
    """Build `status` as the API server shall hold it.

    A condition keeps its transition time while its status stays the same.
    """
    before = {c["type"]: c for c in previous.get("conditions", ())}
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = tuple(
        Condition(
            type=kind,
            status=status,
            reason=reason,
            message=_short(message),
            last_transition_time=(
                before[kind]["lastTransitionTime"]
                if kind in before and before[kind]["status"] == status
                else moment
            ),
            observed_generation=generation,
        )
        for kind, status, reason, message in _conditions(facts)
    )
    return Status(
        observed_generation=generation,
        phase=facts.phase,
        message=_short(facts.message),
        conditions=conditions,
        stable=facts.stable,
        canary=facts.canary,
        revisions=facts.revisions,
        optimization=facts.optimization,
        runtimes=facts.runtimes,
        rollout=dict(facts.rollout) if facts.rollout is not None else None,
        scaling=dict(facts.learned) if facts.learned is not None else None,
        url=facts.url,
        replicas=facts.replicas,
        selector=facts.selector,
    ).to_wire()


def _conditions(facts: Facts) -> Iterable[tuple[str, str, str, str]]:
    yield READY, str(facts.ready), facts.ready_reason, facts.ready_message
    waiting, problem = facts.reconciling, facts.stalled
    if waiting:
        yield RECONCILING, "True", waiting.reason, waiting.message
    else:
        yield RECONCILING, "False", "Settled", "nothing is under way"
    if problem:
        yield STALLED, "True", problem.reason, problem.message
    else:
        yield STALLED, "False", "NoProblem", "nothing is in the way"
    for kind, outcome in (
        ("Optimized", facts.optimized),
        ("Available", facts.available),
        ("Routed", facts.routed),
        (SCALED, facts.scaling),
    ):
        if isinstance(outcome, Done):
            yield kind, "True", "Done", outcome.value
        elif isinstance(outcome, Problem):
            yield kind, "False", outcome.reason, outcome.message
        elif isinstance(outcome, Waiting):
            yield kind, "Unknown", outcome.reason, outcome.message
    if facts.unsupported:
        yield FIELDS, "False", "NotSupported", f"no effect in this version: {'; '.join(facts.unsupported)}"
    else:
        yield FIELDS, "True", "AllSupported", "every field has its effect"


def says_more(previous: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Tell whether a status is worth writing.

    While a rollout runs its sentences change with every look; they are written together with what the
    rollout remembers, every few seconds, and at once when anything but a sentence changes. While the first
    revision starts, the number of its pods is told with what comes of them.
    """
    if status == previous:
        return False
    rollout = status.get("rollout") or {}
    if "phase" not in rollout.get("state", {}) or rollout != previous.get("rollout"):
        return True
    state = rollout["state"]
    first = state["phase"] == Phase.STARTING and not state.get("stable")
    silent = ("message", "replicas") if first else ("message",)
    return _without(silent, status) != _without(silent, previous)


def _without(silent: tuple[str, ...], status: Mapping[str, Any]) -> dict[str, Any]:
    bare = {key: value for key, value in status.items() if key not in silent}
    bare["conditions"] = [
        {k: v for k, v in condition.items() if k not in silent or condition.get("type") == SCALED}
        for condition in status.get("conditions", ())
    ]
    if isinstance(status.get("canary"), Mapping):
        bare["canary"] = {k: v for k, v in status["canary"].items() if k != "evidence"}
    if isinstance(status.get("stable"), Mapping):
        bare["stable"] = {k: v for k, v in status["stable"].items() if k not in silent}
    return bare


def transitions(previous: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Notice, ...]:
    """Give an event for every condition whose change a person wants to hear of."""
    before = {c["type"]: c for c in previous.get("conditions", ())}
    after = {c["type"]: c for c in status.get("conditions", ())}
    notices: list[Notice] = []

    def moved(kind: str, to: str) -> bool:
        is_now = kind in after and after[kind]["status"] == to
        return is_now and (kind not in before or before[kind]["status"] != to)

    if moved(READY, "True"):
        notices.append(Notice("Normal", "Ready", after[READY]["message"]))
    elif READY in before and moved(READY, "False"):
        notices.append(Notice("Warning", "NotReady", after[READY]["message"]))
    stalled = after.get(STALLED, {})
    if stalled.get("status") == "True" and (
        moved(STALLED, "True") or before[STALLED]["reason"] != stalled["reason"]
    ):
        notices.append(Notice("Warning", stalled["reason"], stalled["message"]))
    if STALLED in before and moved(STALLED, "False"):
        notices.append(Notice("Normal", "Recovered", "what was in the way is gone"))
    if moved("Optimized", "True") and "optimization" in status:
        notices.append(Notice("Normal", "Optimized", after["Optimized"]["message"]))
    if FIELDS in after and moved(FIELDS, "False"):
        notices.append(Notice("Warning", "FieldsNotSupported", after[FIELDS]["message"]))
    return tuple(notices)


def _short(text: str) -> str:
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 1] + "…"
