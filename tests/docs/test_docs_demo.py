"""The demo's own decisions: when a model counts as ready, and what it says when it does not get there."""

import io
from typing import Any

import pytest
from rich.console import Console

from e2e.cluster.errors import ClusterError
from e2e.demo import watch


class Told:
    """Stands in for kubectl: gives one ModelDeployment after the other, the last one for ever."""

    def __init__(self, *objects: dict[str, Any] | None) -> None:
        self._objects = list(objects)

    def get(self, *_: str) -> dict[str, Any] | None:
        return self._objects.pop(0) if len(self._objects) > 1 else self._objects[0]


def deployment(generation: int, observed: int, message: str, **conditions: str) -> dict[str, Any]:
    listed = [{"type": kind, "status": status} for kind, status in conditions.items()]
    status = {
        "observedGeneration": observed,
        "phase": "Acting",
        "message": message,
        "conditions": listed,
        "optimization": {
            "metric": "Accuracy",
            "candidates": [
                {"name": "static-int8", "verdict": "Chosen", "drop": 0.0, "dropUpper": 0.004, "p50Ms": 0.1},
                {"name": "float16", "verdict": "Refused", "reason": "loses [too] much"},
            ],
        },
    }
    return {"metadata": {"generation": generation}, "status": status}


SETTLED = {"Ready": "True", "Reconciling": "False", "Stalled": "False"}


def follow(told: Told, seconds: float = 30) -> tuple[dict[str, Any], str]:
    output = io.StringIO()
    console = Console(file=output, width=200)
    return watch.until_ready(told, "digits", "default", console, seconds), output.getvalue()  # type: ignore[arg-type]


def test_what_an_older_spec_left_does_not_count_as_ready() -> None:
    old = deployment(2, 1, "the old revision answers", **SETTLED)
    rolling = deployment(2, 2, "rolling out", Ready="True", Reconciling="True", Stalled="False")
    status, shown = follow(Told(None, old, rolling, deployment(2, 2, "answers", **SETTLED)))
    assert status["message"] == "answers"
    assert [words in shown for words in ("not looked at yet", "rolling out", "answers")] == [True] * 3


def test_a_model_that_never_gets_ready_ends_with_its_own_words_and_the_next_step() -> None:
    stalled = deployment(1, 1, "no node takes the pod", Ready="False", Reconciling="False", Stalled="True")
    with pytest.raises(ClusterError, match=r"it says: Acting: no node takes the pod\n  next step: `kubectl"):
        follow(Told(stalled), seconds=0.5)


def test_every_candidate_is_shown_with_its_reason() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(watch.measured(deployment(1, 1, "answers", **SETTLED)["status"]))
    shown = console.export_text()
    assert "static-int8" in shown
    assert "+0.0040" in shown
    assert "float16: loses [too] much" in shown
