"""Conditions and events: times that mean something, and a person told once of what matters."""

from dataclasses import replace
from typing import Any

import pytest
from longshore.plan.outcome import Done, Facts, Problem, Waiting
from longshore.status import build_status, says_more, transitions

NOW = 1_767_225_600.0
READY = Facts("Ready", "2 of 2 pods answer", True, "Serving", "revision a answers", available=Done("2 of 2"))
STALLED = replace(
    READY, phase="Stalled", message="mend it", stalled=Problem("FetchFailed", "the host is away; mend it")
)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(c for c in status["conditions"] if c["type"] == kind)


def test_ready_and_stalled_stand_side_by_side() -> None:
    status = build_status({}, STALLED, 3, NOW)
    assert condition(status, "Ready")["status"] == "True"
    assert condition(status, "Stalled")["status"] == "True"
    assert condition(status, "Reconciling")["status"] == "False"
    assert status["observedGeneration"] == 3
    assert {c["observedGeneration"] for c in status["conditions"]} == {3}


def test_a_transition_time_changes_with_the_status_only() -> None:
    first = build_status({}, READY, 1, NOW)
    later = build_status(first, replace(READY, ready_message="revision b answers"), 2, NOW + 60)
    assert condition(later, "Ready")["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert condition(later, "Ready")["message"] == "revision b answers"
    stalled = build_status(later, STALLED, 2, NOW + 120)
    assert condition(stalled, "Stalled")["lastTransitionTime"] == "2026-01-01T00:02:00Z"
    assert condition(stalled, "Ready")["lastTransitionTime"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (Done("x"), "True", "Done"),
        (Waiting("Optimizing", "at work"), "Unknown", "Optimizing"),
        (Problem("OutOfMemory", "raise it"), "False", "OutOfMemory"),
    ],
)
def test_each_stage_has_a_condition(outcome: Any, status: str, reason: str) -> None:
    built = build_status({}, replace(READY, optimized=outcome), 1, NOW)
    assert (condition(built, "Optimized")["status"], condition(built, "Optimized")["reason"]) == (
        status,
        reason,
    )


def test_a_stage_that_does_not_apply_has_none() -> None:
    assert "Routed" not in {c["type"] for c in build_status({}, READY, 1, NOW)["conditions"]}


def test_endless_messages_are_cut() -> None:
    problem = Problem("X", "m" * 50_000)
    built = build_status({}, replace(READY, message="m" * 50_000, stalled=problem), 1, NOW)
    assert len(condition(built, "Stalled")["message"]) <= 4096
    assert len(built["message"]) <= 4096


def events(before: dict[str, Any], facts: Facts) -> list[tuple[str, str]]:
    return [(n.type, n.reason) for n in transitions(before, build_status(before, facts, 1, NOW))]


def test_events_tell_of_changes_and_only_of_those() -> None:
    starting = replace(READY, phase="Starting", ready=False, ready_reason="Starting", available=None)
    fresh = build_status({}, starting, 1, NOW)
    ready = build_status(fresh, READY, 1, NOW)
    stalled = build_status(ready, STALLED, 1, NOW)
    assert events({}, starting) == [], "it is no news that something new is not ready"
    assert events(fresh, READY) == [("Normal", "Ready")]
    assert events(ready, READY) == []
    assert events(ready, starting) == [("Warning", "NotReady")]
    assert events(ready, STALLED) == [("Warning", "FetchFailed")]
    assert events(stalled, STALLED) == []
    assert events(stalled, replace(STALLED, stalled=Problem("OutOfMemory", "x"))) == [
        ("Warning", "OutOfMemory")
    ]
    assert events(stalled, READY) == [("Normal", "Recovered")]
    assert events(ready, replace(READY, unsupported=("spec.x (no effect)",))) == [
        ("Warning", "FieldsNotSupported")
    ]


@pytest.mark.parametrize(("stable", "told"), [({}, False), ({"stable": "b"}, True)])
def test_pods_of_a_first_revision_that_starts_are_counted_with_what_comes_of_them(
    stable: dict[str, str], told: bool
) -> None:
    rollout = {"state": {"phase": "Starting", "canary": "a", **stable}}
    before = build_status({}, replace(READY, rollout=rollout), 1, NOW)
    after = build_status(before, replace(READY, rollout=rollout, replicas=1), 1, NOW)
    assert says_more(before, after) is told
    ready = build_status(before, replace(READY, rollout=rollout, replicas=1, phase="Stalled"), 1, NOW)
    assert says_more(before, ready)
