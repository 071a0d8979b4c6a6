"""The Services of a model: one for clients inside the cluster, and one a side where a route weighs them."""

from collections.abc import Mapping
from typing import Any

from longshore.resources.names import GRPC_PORT, HTTP_PORT, SERVICE_PORT, Owner


def service(
    owner: Owner, revision: str | None, name: str | None = None, notes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Build a Service; promotion moves its selector and restarts nothing.

    Args:
        owner: the ModelDeployment.
        revision: the revision it selects; None: the pods of all revisions, so that their numbers weigh.
        name: its name; absent: that of the ModelDeployment.
        notes: annotations.
    """
    metadata = owner.metadata(name or owner.name)
    if notes:
        metadata["annotations"] = dict(notes)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "ClusterIP",
            "selector": owner.selector(revision),
            "ports": [
                {
                    "name": "http",
                    "port": SERVICE_PORT,
                    "protocol": "TCP",
                    "targetPort": HTTP_PORT,
                    "appProtocol": "http",
                },
                {
                    "name": "grpc",
                    "port": GRPC_PORT,
                    "protocol": "TCP",
                    "targetPort": GRPC_PORT,
                    "appProtocol": "kubernetes.io/h2c",
                },
            ],
        },
    }


def url(owner: Owner) -> str:
    """Give the address for clients inside the cluster."""
    return f"http://{owner.name}.{owner.namespace}.svc/v2/models/{owner.name}"
