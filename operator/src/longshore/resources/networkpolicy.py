"""NetworkPolicies: who may reach the pods of a model, and whom they may reach."""

from collections.abc import Iterable
from typing import Any

from longshore.resources.names import (
    COMPONENT,
    GRPC_PORT,
    HTTP_PORT,
    MEASURE,
    NAME,
    OPTIMIZER,
    SERVER,
    WARM,
    Owner,
)

_DNS_PORTS = (53, 5353)
"""Of cluster DNS as pods see it; OpenShift's listens on the second."""


def serving_policy(
    owner: Owner, asked: Iterable[int], fetches: bool, mirrors: bool = False
) -> dict[str, Any]:
    """Build the policy of serving pods and warm copies: requests and questions may come in; nothing goes out.

    Args:
        owner: the ModelDeployment.
        asked: ports at which the operator asks pods; two revisions may be of different runtimes.
        fetches: an init container fetches the model, so the pods may reach out.
        mirrors: pods send copies of requests to each other, and ask DNS for the Service between them.
    """
    pods = {
        "podSelector": {
            "matchLabels": {NAME: owner.name},
            "matchExpressions": [{"key": COMPONENT, "operator": "In", "values": [SERVER, WARM]}],
        }
    }
    names = [{"port": port, "protocol": protocol} for port in _DNS_PORTS for protocol in ("UDP", "TCP")]
    copies: list[dict[str, Any]] = [
        {"to": [pods], "ports": [{"port": HTTP_PORT, "protocol": "TCP"}]},
        {"ports": names},
    ]
    egress: list[dict[str, Any]] = [{}] if fetches else copies if mirrors else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(owner.name),
        "spec": {
            **pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": _ports(asked)}],
            **({"egress": egress} if egress else {}),
        },
    }


def measure_policy(owner: Owner, asked: Iterable[int], fetches: bool) -> dict[str, Any]:
    """Build the policy of measuring pods: requests may come in; what fetches the model may reach out."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(f"{owner.name}-measure", MEASURE),
        "spec": {
            "podSelector": {"matchLabels": {NAME: owner.name, COMPONENT: MEASURE}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": _ports(asked)}],
            **({"egress": [{}]} if fetches else {}),
        },
    }


def optimizer_policy(owner: Owner) -> dict[str, Any]:
    """Build the policy of the optimize Job: it may fetch and store; nothing may reach it."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owner.metadata(f"{owner.name}-optimize", OPTIMIZER),
        "spec": {
            "podSelector": {"matchLabels": {NAME: owner.name, COMPONENT: OPTIMIZER}},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{}],
        },
    }


def _ports(asked: Iterable[int]) -> list[dict[str, Any]]:
    return [{"port": port, "protocol": "TCP"} for port in dict.fromkeys((HTTP_PORT, GRPC_PORT, *asked))]
