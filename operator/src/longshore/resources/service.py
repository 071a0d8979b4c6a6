"""The Services of a model: one for clients inside the cluster, and one a side where a route weighs them."""

from typing import Any

from longshore.resources.names import GRPC_PORT, HTTP_PORT, PROMOTED_AT, SERVICE_PORT, Owner


def service(owner: Owner, revision: str, promoted_at: str | None, name: str | None = None) -> dict[str, Any]:
    """Build a Service that selects one revision; promotion moves the selector and restarts nothing."""
    metadata = owner.metadata(name or owner.name)
    if promoted_at:
        metadata["annotations"] = {PROMOTED_AT: promoted_at}
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
