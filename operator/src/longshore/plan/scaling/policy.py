"""From the kind's `scaling` block to a `Policy`."""

from longshore.api import Spec
from longshore.api.base import quantity, seconds
from longshore.api.scaling import ScalingMetric, Signal
from longshore.plan.scaling.inputs import Policy, Target

DEFAULT_UTILIZATION = 0.7
"""Without metrics and without a latency objective, pods are kept this busy at most."""

DEFAULT_CPU = "250m"
"""CPU request of a serving pod whose spec names none."""


def policy_of(spec: Spec) -> Policy:
    """Read what a spec asks for."""
    scaling = spec.scaling
    objective = spec.serving.latency_objective
    if scaling.metrics:
        targets = tuple(_target(metric) for metric in scaling.metrics)
    elif objective is not None and seconds(objective) > 0:
        targets = (Target(Signal.LATENCY, seconds=seconds(objective)),)
    else:
        targets = ()
    forecast = scaling.forecast
    stable = min(max(seconds(scaling.stable_window), 10.0), 3600.0)
    return Policy(
        min=scaling.min,
        max=max(scaling.ceiling, scaling.min),
        targets=targets,
        stable_window=stable,
        panic_window=min(max(seconds(scaling.panic_window), 2.0), stable),
        idle_after=max(seconds(scaling.idle_after), 1.0),
        schedules=scaling.schedules,
        forecast_period=None if forecast is None else min(max(seconds(forecast.period), 3600.0), 8 * 86400.0),
        forecast_ahead=None
        if forecast is None or forecast.ahead is None
        else min(seconds(forecast.ahead), 86400.0),
        max_batch=spec.serving.batching.max_size,
        counted_objective=None if objective is None else seconds(objective),
        cores=_cores(spec),
        utilization=0.8 if targets else DEFAULT_UTILIZATION,
    )


def _target(metric: ScalingMetric) -> Target:
    return Target(
        signal=metric.type,
        value=metric.target or 0.0,
        seconds=0.0 if metric.duration is None else max(seconds(metric.duration), 1e-6),
        percentile=metric.percentile,
    )


def _cores(spec: Spec) -> float:
    """Give the CPU that a pod requests; as an HPA does, a Cpu target is a percentage of it."""
    resources = spec.serving.resources
    text = resources.requests.get("cpu") or resources.limits.get("cpu") or DEFAULT_CPU
    return max(float(quantity(text)), 0.001)
