"""The pods that sample requests go to, and where each of them gives those that were recorded."""

from longshore.api.serving import RuntimeName
from longshore.plan.state import AskedPod, Observed
from longshore.runtimes.registry import samples_port


def ready_pods(observed: Observed, revision: str) -> tuple[AskedPod, ...]:
    """Give the ready serving pods of a revision, in the order of their names."""
    standing = observed.deployment(revision)
    runtime = (standing.provenance.runtime if standing else None) or RuntimeName.ONNX_RUNTIME
    port = samples_port(runtime)
    pods = sorted(observed.pods_of(revision), key=lambda pod: pod.name)
    return tuple(AskedPod(pod.ip, port) for pod in pods if pod.ready and not pod.deleting and pod.ip)
