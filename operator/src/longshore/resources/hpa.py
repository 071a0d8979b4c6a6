"""The HorizontalPodAutoscaler (autoscaling/v2) of a model, from the same `scaling` block as the planner.

Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/
"""

from dataclasses import dataclass
from typing import Any

from longshore.api import GROUP, KIND, VERSION
from longshore.api.base import seconds
from longshore.api.scaling import Scaling, ScalingMetric, Signal
from longshore.resources.names import Owner

DEFAULT_CPU_PERCENT = 80
"""What an HPA without metrics aims at, as the API server's own default does."""

POD_METRICS = {
    Signal.CONCURRENCY: "longshore_requests_in_flight",
    Signal.REQUESTS_PER_SECOND: "longshore_requests_per_second",
    Signal.PENDING: "nv_inference_pending_request_count",
    Signal.GPU: "DCGM_FI_DEV_GPU_UTIL",
}
"""Names under which a metrics adapter (custom.metrics.k8s.io) is asked for a signal of the pods."""


@dataclass(frozen=True)
class ScaleTarget:
    """The object whose scale subresource an autoscaler writes."""

    api_version: str
    kind: str
    name: str

    def reference(self) -> dict[str, str]:
        """Give it as `scaleTargetRef`."""
        return {"apiVersion": self.api_version, "kind": self.kind, "name": self.name}


@dataclass(frozen=True)
class Rendered:
    """An object, and what of the `scaling` block it cannot say, each with what to do about it."""

    object: dict[str, Any]
    unexpressed: tuple[str, ...]


def own_target(owner: Owner) -> ScaleTarget:
    """Give the ModelDeployment itself: its scale subresource divides pods over revisions."""
    return ScaleTarget(f"{GROUP}/{VERSION}", KIND, owner.name)


def horizontal_pod_autoscaler(owner: Owner, scaling: Scaling, target: ScaleTarget | None = None) -> Rendered:
    """Build the HPA.

    Args:
        owner: the ModelDeployment.
        scaling: its block.
        target: what is scaled; absent: the ModelDeployment's scale subresource.
    """
    missing = list(never_expressed(scaling, "an HPA"))
    if scaling.min == 0:
        missing.append("scaling.min 0: an HPA keeps at least 1; use engine Builtin or KEDA")
    metrics: list[dict[str, Any]] = []
    for index, metric in enumerate(scaling.metrics):
        rendered, problem = _metric(metric)
        if rendered is not None:
            metrics.append(rendered)
        if problem:
            missing.append(f"scaling.metrics[{index}] {metric.type}: {problem}")
    if not metrics:
        metrics.append(_resource("cpu", DEFAULT_CPU_PERCENT))
        missing.append(f"no metric is left: CPU at {DEFAULT_CPU_PERCENT} % is used")
    return Rendered(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": owner.metadata(owner.name),
            "spec": {
                "scaleTargetRef": (target or own_target(owner)).reference(),
                "minReplicas": max(scaling.min, 1),
                "maxReplicas": max(scaling.ceiling, scaling.min, 1),
                "metrics": metrics,
                "behavior": behavior(scaling),
            },
        },
        tuple(missing),
    )


def behavior(scaling: Scaling) -> dict[str, Any]:
    """Build the pace: as the planner, up at once, down after two stable windows and by a fifth at a time."""
    window = min(int(2 * seconds(scaling.stable_window)), 3600)
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": 15},
                {"type": "Pods", "value": 4, "periodSeconds": 15},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": window,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Percent", "value": 20, "periodSeconds": 15},
                {"type": "Pods", "value": 1, "periodSeconds": 15},
            ],
        },
    }


def never_expressed(scaling: Scaling, engine: str) -> tuple[str, ...]:
    """Name what neither an HPA nor KEDA has a word for."""
    given = scaling.model_fields_set
    checks = (
        (bool(scaling.forecast), "scaling.forecast", "only the Builtin engine looks ahead"),
        (scaling.budget is not None, "scaling.budget", "only the Builtin engine divides a budget"),
        (scaling.warm > 0, "scaling.warm", "only the Builtin engine keeps warm pods"),
        ("panic_window" in given, "scaling.panicWindow", "it has one window"),
    )
    return tuple(f"{path}: {engine} cannot express it, {why}" for is_set, path, why in checks if is_set) + (
        (f"scaling.schedules: {engine} cannot express it; use engine Builtin or KEDA",)
        if scaling.schedules and engine == "an HPA"
        else ()
    )


def _metric(metric: ScalingMetric) -> tuple[dict[str, Any] | None, str]:
    if metric.type is Signal.CPU:
        return _resource("cpu", max(1, round(metric.target or DEFAULT_CPU_PERCENT))), ""
    if metric.type in POD_METRICS:
        name = POD_METRICS[metric.type]
        rendered = {
            "type": "Pods",
            "pods": {
                "metric": {"name": name},
                "target": {"type": "AverageValue", "averageValue": quantity_of(metric.target or 1.0)},
            },
        }
        return rendered, f"needs a metrics adapter that serves {name} of pods (custom.metrics.k8s.io)"
    if metric.type is Signal.PROMETHEUS:
        return None, "an HPA cannot query a Prometheus; use engine KEDA, or a metrics adapter of your own"
    return None, "an HPA adds pods in proportion to a metric, and a latency has none; use engine Builtin"


def _resource(name: str, percent: int) -> dict[str, Any]:
    return {
        "type": "Resource",
        "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": percent}},
    }


def quantity_of(value: float) -> str:
    """Write a number as a Kubernetes quantity, to a thousandth."""
    if value == int(value):
        return str(int(value))
    return f"{max(1, round(value * 1000))}m"
