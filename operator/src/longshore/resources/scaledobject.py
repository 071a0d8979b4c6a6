"""The KEDA ScaledObject of a model, from the same `scaling` block as the planner.

Source: https://keda.sh/docs/latest/reference/scaledobject-spec/ and its prometheus, cpu and cron scalers.
"""

from typing import Any

from longshore.api.base import seconds
from longshore.api.scaling import Scaling, ScalingMetric, Schedule, Signal
from longshore.resources.hpa import (
    DEFAULT_CPU_PERCENT,
    Rendered,
    ScaleTarget,
    behavior,
    never_expressed,
    own_target,
)
from longshore.resources.names import NAME, Owner

POLLING_SECONDS = 10
_QUERIES = {
    Signal.CONCURRENCY: "sum(longshore_requests_in_flight{{{selector}}})",
    Signal.REQUESTS_PER_SECOND: "sum(rate(longshore_requests_total{{{selector}}}[1m]))",
    Signal.PENDING: "sum(nv_inference_pending_request_count{{{selector}}})",
    Signal.GPU: "sum(DCGM_FI_DEV_GPU_UTIL{{{selector}}})",
}


def scaled_object(
    owner: Owner, scaling: Scaling, prometheus: str | None, target: ScaleTarget | None = None
) -> Rendered:
    """Build the ScaledObject.

    Args:
        owner: the ModelDeployment.
        scaling: its block.
        prometheus: address of the Prometheus that scrapes the pods, for signals that are not CPU.
        target: what is scaled; absent: the ModelDeployment's scale subresource.
    """
    missing = list(never_expressed(scaling, "KEDA"))
    triggers: list[dict[str, Any]] = []
    for index, metric in enumerate(scaling.metrics):
        trigger, problem = _trigger(owner, metric, prometheus)
        if trigger is not None:
            triggers.append(trigger)
        if problem:
            missing.append(f"scaling.metrics[{index}] {metric.type}: {problem}")
    for index, schedule in enumerate(scaling.schedules):
        trigger, problem = _cron(schedule)
        if trigger is not None:
            triggers.append(trigger)
        else:
            missing.append(f"scaling.schedules[{index}]: {problem}")
    if not any(trigger["type"] != "cron" for trigger in triggers):
        triggers.append(_cpu(DEFAULT_CPU_PERCENT))
        missing.append(f"no metric is left: CPU at {DEFAULT_CPU_PERCENT} % is used")
    minimum = scaling.min
    if minimum == 0 and all(trigger["type"] in ("cpu", "cron") for trigger in triggers):
        minimum = 1
        missing.append(
            "scaling.min 0: KEDA cannot wake a model by CPU; add a RequestsPerSecond or Prometheus metric"
        )
    elif minimum == 0:
        missing.append(
            "scaling.min 0: while KEDA polls, every "
            f"{POLLING_SECONDS} s, a client waits in the activator, and without an answer of Prometheus none "
            "is woken; engine Builtin wakes at once"
        )
    return Rendered(
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": owner.metadata(owner.name),
            "spec": {
                "scaleTargetRef": (target or own_target(owner)).reference(),
                "minReplicaCount": minimum,
                "maxReplicaCount": max(scaling.ceiling, scaling.min, 1),
                "pollingInterval": POLLING_SECONDS,
                "cooldownPeriod": int(min(seconds(scaling.idle_after), 86400)),
                # No `fallback`: it would put a constant in the place of a number that is not known, where a
                # trigger that fails leaves all as it is; and KEDA refuses one beside triggers of CPU alone.
                "advanced": {
                    "restoreToOriginalReplicaCount": False,
                    "horizontalPodAutoscalerConfig": {"behavior": behavior(scaling)},
                },
                "triggers": triggers,
            },
        },
        tuple(missing),
    )


def _trigger(
    owner: Owner, metric: ScalingMetric, prometheus: str | None
) -> tuple[dict[str, Any] | None, str]:
    if metric.type is Signal.CPU:
        return _cpu(max(1, round(metric.target or DEFAULT_CPU_PERCENT))), ""
    if metric.type is Signal.PROMETHEUS:
        return _prometheus(metric.server_address or "", metric.query or "", metric.target or 1.0), ""
    if metric.type in _QUERIES:
        if prometheus is None:
            return None, "KEDA reads it from a Prometheus, and the operator has no address of one: set it"
        label = NAME.replace(".", "_").replace("/", "_").replace("-", "_")
        selector = f'namespace="{owner.namespace}",{label}="{owner.name}"'
        query = _QUERIES[metric.type].format(selector=selector)
        return _prometheus(prometheus, query, metric.target or 1.0), ""
    return None, "KEDA adds pods in proportion to a metric, and a latency has none; use engine Builtin"


def _prometheus(address: str, query: str, threshold: float) -> dict[str, Any]:
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": address,
            "query": query,
            # KEDA makes an HPA of it, which knows thousandths.
            "threshold": f"{max(threshold, 0.001):.15g}",
            # An empty answer is an error, which holds, not a zero, which would scale down.
            "ignoreNullValues": "false",
        },
    }


def _cpu(percent: int) -> dict[str, Any]:
    return {"type": "cpu", "metricType": "Utilization", "metadata": {"value": str(percent)}}


def _cron(schedule: Schedule) -> tuple[dict[str, Any] | None, str]:
    """Give a cron trigger; KEDA wants the end as a cron line too, which only a plain start has."""
    fields = schedule.start.split()
    length = seconds(schedule.duration)
    plain = len(fields) == 5 and fields[0].isdigit() and fields[1].isdigit()
    if not plain or length % 60 or length <= 0:
        return None, "KEDA needs a start at one minute and hour and a whole number of minutes"
    end = int(fields[0]) + int(fields[1]) * 60 + int(length // 60)
    if end >= 24 * 60:
        return None, "KEDA cannot end it on another day; split it at midnight"
    return (
        {
            "type": "cron",
            "metadata": {
                "timezone": schedule.time_zone,
                "start": schedule.start,
                "end": " ".join([str(end % 60), str(end // 60), *fields[2:]]),
                "desiredReplicas": str(schedule.min),
            },
        },
        "",
    )
