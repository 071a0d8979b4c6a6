"""The Deployment of warm copies: loaded pods of a revision that no Service selects."""

from collections.abc import Mapping
from typing import Any

from longshore.api.base import millicores
from longshore.resources.names import COMPONENT, NAME, REVISION, WARM, Owner, deployment_name

WARM_MILLICORES = 50
"""CPU that a warm copy requests at most: it computes nothing until the first request. Its limit stays."""


def warm_name(owner: Owner, revision: str) -> str:
    """Name the Deployment of a revision's warm copies; no revision is called `warm`, so no other has it."""
    return f"{deployment_name(owner, revision)}-{WARM}"


def warm_deployment(owner: Owner, revision: str, template: Mapping[str, Any], copies: int) -> dict[str, Any]:
    """Build the Deployment of warm copies.

    Args:
        owner: the ModelDeployment.
        revision: the revision that answers.
        template: its pod template, as its own Deployment has it.
        copies: pods to keep.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": owner.metadata(warm_name(owner, revision), WARM, revision),
        "spec": {
            "replicas": copies,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": 600,
            # A second copy beside the first would take its memory twice.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {NAME: owner.name, COMPONENT: WARM, REVISION: revision}},
            "template": _warm_template(template),
        },
    }


def _warm_template(template: Mapping[str, Any]) -> dict[str, Any]:
    metadata, spec = template["metadata"], template["spec"]
    server, *others = spec["containers"]
    return {
        **template,
        "metadata": {**metadata, "labels": {**metadata["labels"], COMPONENT: WARM}},
        "spec": {**spec, "containers": [{**server, "resources": _resources(server["resources"])}, *others]},
    }


def _resources(given: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Ask for less CPU and as much of everything else: memory and devices are held while it waits."""
    requests, limits = given.get("requests", {}), given.get("limits", {})
    cpu = requests.get("cpu") or limits.get("cpu") or f"{WARM_MILLICORES}m"
    least = str(cpu) if millicores(str(cpu)) <= WARM_MILLICORES else f"{WARM_MILLICORES}m"
    return {**given, "requests": {**requests, "cpu": least}}
