"""The Deployment of a measuring pod: the model on one runtime, selected by no Service."""

from collections.abc import Mapping
from typing import Any

from longshore.resources.names import (
    COMPONENT,
    MEASURE,
    NAME,
    REVISION,
    RUNTIME,
    Owner,
    deployment_name,
)

_NODE = "kubernetes.io/hostname"


def measure_name(owner: Owner, revision: str, runtime: str) -> str:
    """Name the Deployment that measures a revision on a runtime."""
    return f"{deployment_name(owner, revision)}-{runtime.lower()}"


def measure_deployment(
    owner: Owner, revision: str, runtime: str, template: Mapping[str, Any]
) -> dict[str, Any]:
    """Build the Deployment of one measuring pod.

    Args:
        owner: the ModelDeployment.
        revision: whose runtime is to be chosen.
        runtime: that the pod runs.
        template: pod template of the revision on that runtime.
    """
    metadata, spec = template["metadata"], template["spec"]
    labels = {**metadata["labels"], COMPONENT: MEASURE, RUNTIME: runtime}
    named = owner.metadata(measure_name(owner, revision, runtime), MEASURE, revision)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**named, "labels": {**named["labels"], RUNTIME: runtime}},
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "Recreate"},
            "selector": {
                "matchLabels": {NAME: owner.name, COMPONENT: MEASURE, REVISION: revision, RUNTIME: runtime}
            },
            "template": {
                "metadata": {**metadata, "labels": labels},
                "spec": {**spec, "affinity": spec.get("affinity") or _together(owner, revision)},
            },
        },
    }


def _together(owner: Owner, revision: str) -> dict[str, Any]:
    """Prefer one node for both: nodes of different hardware would be compared otherwise."""
    labels = {NAME: owner.name, COMPONENT: MEASURE, REVISION: revision}
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": _NODE}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
