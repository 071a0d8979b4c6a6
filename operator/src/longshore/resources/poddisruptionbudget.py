"""The PodDisruptionBudget: a drained node takes one pod at a time."""

from typing import Any

from longshore.resources.names import Owner


def pod_disruption_budget(owner: Owner) -> dict[str, Any]:
    """Build the budget over all serving pods.

    `maxUnavailable: 1` lets a node drain even where one pod serves; a `minAvailable` of 1 would block it.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owner.metadata(owner.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": owner.selector()},
        },
    }
