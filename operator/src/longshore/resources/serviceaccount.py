"""The ServiceAccount of a model's pods: an identity that may do nothing."""

from typing import Any

from longshore.resources.names import Owner


def service_account(owner: Owner) -> dict[str, Any]:
    """Build the ServiceAccount; no token is mounted anywhere."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": owner.metadata(owner.name),
        "automountServiceAccountToken": False,
    }
