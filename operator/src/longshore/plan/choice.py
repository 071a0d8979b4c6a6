"""`runtime: Auto`: which runtime serves, by what sample requests to a pod of each have measured.

The choice is made once for what it depends on and kept in `status.runtimes` and in the annotations of the
revision's Deployment.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.api import Spec
from longshore.api.model import Format
from longshore.api.optimize import Goal
from longshore.api.serving import RuntimeName
from longshore.api.status import MeasuredRuntime, RuntimeComparison

MARGIN = 0.05
"""Share by which another runtime must be better than the default: less than that is noise."""

KEY_LENGTH = 16


@dataclass(frozen=True)
class Speed:
    """What one runtime answered: seconds of one request at a time, and requests a second of several."""

    p50: float
    p95: float
    throughput: float


@dataclass(frozen=True)
class Measured:
    """What sample requests found.

    Attributes:
        revision: whose pods were asked.
        speeds: of the runtimes that answered every request.
        failures: why others did not.
        nothing: why nothing was measured, and would not be if it were tried again.
        error: why nothing could be measured; it is tried again.
    """

    revision: str
    speeds: Mapping[RuntimeName, Speed] = field(default_factory=dict)
    failures: Mapping[RuntimeName, str] = field(default_factory=dict)
    nothing: str = ""
    error: str = ""


def choice_key(spec: Spec, artifact: str | None) -> str:
    """Hash what the choice depends on: the model, its artifact, pods' resources, batching, the goal."""
    serving = spec.serving
    decides = {
        "model": spec.model.model_dump(mode="json", exclude_defaults=True),
        "artifact": artifact,
        "goal": goal_of(spec),
        "serving": serving.model_dump(
            mode="json",
            exclude_defaults=True,
            include={"resources", "batching", "triton", "latency_objective"},
        ),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


def goal_of(spec: Spec) -> Goal:
    """Give what the better runtime is better by."""
    return spec.optimize.goal if spec.optimize is not None else Goal.LATENCY


def unable(runtime: RuntimeName, formats: frozenset[Format], spec: Spec) -> str:
    """Say why a runtime cannot load the model; empty where it can."""
    loads = spec.model.format if spec.model.format is Format.TRITON_REPOSITORY else Format.ONNX
    return "" if loads in formats else f"{runtime} does not load {loads}"


def compare(
    key: str,
    goal: Goal,
    candidates: tuple[RuntimeName, ...],
    speeds: Mapping[RuntimeName, Speed],
    reasons: Mapping[RuntimeName, str],
    unmeasured: str = "",
) -> RuntimeComparison:
    """Choose among the candidates and say why.

    Latency and Size (the artifact is the same) go by p95, Throughput and Cost by requests a second of a pod.
    The first candidate is the default: it is kept unless another is better by `MARGIN`, and where nothing
    was measured.

    Args:
        key: what the choice is kept under.
        goal: `optimize.goal`.
        candidates: in order of preference, at least one.
        speeds: what was measured.
        reasons: why others were not measured, and are not chosen while any other can be.
        unmeasured: why nothing was measured.
    """
    able = [runtime for runtime in candidates if runtime not in reasons] or list(candidates)
    default = next((runtime for runtime in able if runtime in speeds), able[0])
    measured = [runtime for runtime in able if runtime in speeds]
    best = max(measured, key=lambda runtime: _score(goal, speeds[runtime]), default=default)
    margin = 1 + MARGIN
    better = best is not default and _score(goal, speeds[best]) > _score(goal, speeds[default]) * margin
    chosen = best if better else default
    by = "requests a second" if goal in (Goal.THROUGHPUT, Goal.COST) else "p95"
    if chosen in reasons:
        why = f"none can be compared: {reasons[chosen]}"
    elif len(measured) < 2:
        why = unmeasured or "no other can serve this"
    elif better:
        why = f"the better one by {by}"
    else:
        why = f"the default, and no other is better by more than {MARGIN:.0%} by {by}"
    others = {
        runtime: reasons.get(runtime) or unmeasured or f"not the better one by {by}" for runtime in candidates
    }
    said = {**reasons, **others, chosen: why}
    return RuntimeComparison(
        key=key,
        goal=goal.value,
        chosen=chosen.value,
        candidates=tuple(
            _row(name, _verdict(name, chosen, reasons), speeds.get(name), said[name])
            for name in dict.fromkeys((*candidates, *reasons))
        ),
    )


def _verdict(runtime: RuntimeName, chosen: RuntimeName, reasons: Mapping[RuntimeName, str]) -> str:
    return "Chosen" if runtime is chosen else "Refused" if runtime in reasons else "Kept"


def _score(goal: Goal, speed: Speed) -> float:
    if goal in (Goal.THROUGHPUT, Goal.COST):
        return speed.throughput
    return 1 / speed.p95 if speed.p95 > 0 else 0.0


def _row(runtime: RuntimeName, verdict: str, speed: Speed | None, reason: str) -> MeasuredRuntime:
    return MeasuredRuntime(
        name=runtime.value,
        verdict=verdict,
        p50_ms=_milliseconds(speed.p50) if speed else None,
        p95_ms=_milliseconds(speed.p95) if speed else None,
        throughput=round(speed.throughput, 1) if speed else None,
        reason=reason[:1024],
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
