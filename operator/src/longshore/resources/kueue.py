"""Labels of Kueue's that a ModelDeployment passes on to its optimize Job: its queue, and how urgent it is.

Source: Kueue, "Run A Kubernetes Job" and "Workload Priority Class". Pods that serve or are measured take no
part: they belong to Deployments, and what waits for them has deadlines.
"""

from collections.abc import Mapping

QUEUE_NAME = "kueue.x-k8s.io/queue-name"
"""Label: the LocalQueue of the same namespace."""
PRIORITY_CLASS = "kueue.x-k8s.io/priority-class"
"""Label: the WorkloadPriorityClass."""


def queue_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Give those of a ModelDeployment's labels that its Job shall have, too; an empty one says nothing."""
    return {name: labels[name] for name in (QUEUE_NAME, PRIORITY_CLASS) if labels.get(name)}
