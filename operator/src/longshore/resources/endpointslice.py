"""The EndpointSlice that leads a model's Service to the activators, beside the Service's own."""

from typing import Any

from longshore.resources.names import ENTERED_AT, MANAGER, Owner

SLICE_SUFFIX = "-activator"


def activator_slice(
    owner: Owner, addresses: tuple[str, ...], http: int, grpc: int, entered_at: str
) -> dict[str, Any]:
    """Build the slice.

    The endpoint controller leaves alone what names another manager (Kubernetes: "EndpointSlices").

    Args:
        owner: the ModelDeployment.
        addresses: IPs of the activators' pods, all of one family.
        http: port on which the activators hold HTTP connections of this model.
        grpc: the same for gRPC.
        entered_at: when the activators were put in, RFC 3339.
    """
    metadata = owner.metadata(slice_name(owner))
    metadata["labels"] |= {
        "kubernetes.io/service-name": owner.name,
        "endpointslice.kubernetes.io/managed-by": MANAGER,
    }
    metadata["annotations"] = {ENTERED_AT: entered_at}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv6" if any(":" in address for address in addresses) else "IPv4",
        "ports": [
            {"name": "http", "port": http, "protocol": "TCP", "appProtocol": "http"},
            {"name": "grpc", "port": grpc, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
        ],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": True, "serving": True, "terminating": False}}
            for address in addresses
        ],
    }


def slice_name(owner: Owner) -> str:
    """Name the activators' slice of a model."""
    return owner.name + SLICE_SUFFIX
