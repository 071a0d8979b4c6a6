"""From `spec.rollout` to the stages that every strategy is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from longshore.api.base import seconds
from longshore.api.rollout import Rollout, SignalType, Strategy
from longshore.api.rollout import Step as ApiStep

MOST_RESTARTS = 3
"""Container restarts of the new revision that end its rollout: three crashes are no accident."""

MOST_OUT_OF_MEMORY = 2
"""Restarts that end a rollout where memory ran out: one request may be too large, two in a row are a leak."""


@dataclass(frozen=True)
class Stage:
    """One stage on the way to promotion.

    Attributes:
        weight: percent of requests to the new revision, 0 to 100.
        hold: seconds at least; None: until the evidence suffices.
        gate: what a person is asked before it goes on; None: no gate.
        mirror: the new revision gets copies of requests, of all of them where it has no weight.
        preview: the new revision has its preview route.
        judged: evidence is gathered here, so the last such stage must Pass.
    """

    weight: int
    hold: float | None = None
    gate: str | None = None
    mirror: bool = False
    preview: bool = False
    judged: bool = True


@dataclass(frozen=True)
class Policy:
    """How a new revision takes over.

    Attributes:
        strategy: how.
        stages: on the way to promotion; empty: straight to it.
        preflight: sample requests must be answered before any weight.
        progress_deadline: seconds until a new revision that does not get ready is given up.
        bake: seconds for which the old revision stays ready after promotion.
        most_restarts: container restarts of the new revision that give it up.
        most_out_of_memory: the same, where they ran out of memory and those of the stable revision do not.
    """

    strategy: Strategy = Strategy.CANARY
    stages: tuple[Stage, ...] = ()
    preflight: bool = True
    progress_deadline: float = 600.0
    bake: float = 0.0
    most_restarts: int = MOST_RESTARTS
    most_out_of_memory: int = MOST_OUT_OF_MEMORY

    def stage(self, index: int) -> Stage | None:
        """Give a stage; None past the last one (a spec may have lost stages during a rollout)."""
        return self.stages[index] if 0 <= index < len(self.stages) else None


def policy_of(rollout: Rollout, compares: bool = True) -> Policy:
    """Read the policy from the spec; `compares`: a signal that needs copies of requests can have them."""
    return Policy(
        strategy=rollout.strategy,
        stages=_STAGES[rollout.strategy](rollout, compares),
        preflight=rollout.preflight.samples > 0,
        progress_deadline=seconds(rollout.progress_deadline),
        bake=seconds(rollout.analysis.bake),
    )


def step_problems(steps: tuple[ApiStep, ...]) -> tuple[str, ...]:
    """Name what is wrong with the steps, a sentence each; the API server refuses most of it already."""
    found = []
    for index, (before, step) in enumerate(pairwise(steps), start=1):
        if step.weight <= before.weight:
            found.append(
                f"rollout.steps[{index}].weight is {step.weight} after {before.weight}: "
                "give each step a weight above the one before"
            )
    for index, step in enumerate(steps):
        if not 0 <= step.weight <= 100:
            found.append(f"rollout.steps[{index}].weight is {step.weight}: a share is 0 to 100 percent")
    return tuple(found)


def _canary(rollout: Rollout, can_compare: bool) -> tuple[Stage, ...]:
    asked = any(signal.type is SignalType.AGREEMENT for signal in rollout.analysis.signals)
    compares = asked and can_compare
    return tuple(
        Stage(
            weight=min(100, max(0, step.weight)),
            hold=seconds(step.hold) if step.hold is not None else (0.0 if step.pause else None),
            gate=(step.pause.reason or "a person must promote it") if step.pause else None,
            # At 100 % nobody is left whose requests could be copied.
            mirror=compares and step.weight < 100,
            judged=step.weight > 0 or compares,
        )
        for step in rollout.steps
    )


def _blue_green(rollout: Rollout, _: bool) -> tuple[Stage, ...]:
    """Give the one stage of a preview: no weight, and as long or as guarded as its step says."""
    step = rollout.steps[0] if rollout.steps else ApiStep(weight=0)
    return (
        Stage(
            weight=0,
            hold=seconds(step.hold) if step.hold is not None else 0.0,
            gate=(step.pause.reason or "a person must promote it") if step.pause else None,
            preview=True,
            judged=False,
        ),
    )


_STAGES: dict[Strategy, Callable[[Rollout, bool], tuple[Stage, ...]]] = {
    Strategy.CANARY: _canary,
    Strategy.BLUE_GREEN: _blue_green,
    Strategy.SHADOW: lambda *_: (Stage(weight=0, mirror=True),),
    Strategy.RECREATE: lambda *_: (),
}
