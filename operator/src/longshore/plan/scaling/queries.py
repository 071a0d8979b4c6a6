"""What Prometheus is asked for scaling: the spec's own PromQL, and GPU utilization from NVIDIA's exporter."""

from dataclasses import dataclass

from longshore.api import Spec
from longshore.api.scaling import Engine, Signal

GPU_METRIC = "DCGM_FI_DEV_GPU_UTIL"
"""Percent of time that a GPU was busy (NVIDIA dcgm-exporter, default counters)."""


@dataclass(frozen=True, order=True)
class MetricQuery:
    """A PromQL query; `index` is the position of its metric in `scaling.metrics`."""

    index: int
    address: str
    query: str


def queries_of(
    spec: Spec, namespace: str, deployment: str, prometheus: str | None, pods_tell: bool
) -> tuple[MetricQuery, ...]:
    """Give what to ask; nothing where another engine asks by itself.

    Args:
        spec: the ModelDeployment's.
        namespace: where its pods are.
        deployment: name of the Deployment whose pods serve.
        prometheus: address of the installation's Prometheus; None: there is none.
        pods_tell: pods report GPU utilization themselves.
    """
    if spec.scaling.engine is not Engine.BUILTIN:
        return ()
    found = []
    for index, metric in enumerate(spec.scaling.metrics):
        if metric.type is Signal.PROMETHEUS and metric.query and metric.server_address:
            found.append(MetricQuery(index, metric.server_address, metric.query))
        elif metric.type is Signal.GPU and prometheus is not None and not pods_tell:
            found.append(MetricQuery(index, prometheus, gpu_query(namespace, deployment)))
    return tuple(found)


def gpu_query(namespace: str, deployment: str) -> str:
    """Give the mean GPU utilization of a Deployment's pods, in percent, as PromQL.

    The exporter's labels for the pod are renamed by a Prometheus that does not honor them, because they
    collide with those of the exporter's own pod (Prometheus, `honor_labels`).
    """
    pods = f"{deployment.replace('.', '[.]')}-.+"
    plain = f'{GPU_METRIC}{{namespace="{namespace}",pod=~"{pods}"}}'
    renamed = f'{GPU_METRIC}{{exported_namespace="{namespace}",exported_pod=~"{pods}"}}'
    return f"avg({plain} or {renamed})"
