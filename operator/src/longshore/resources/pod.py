"""What every pod of Longshore has in common: it runs restricted, without a token.

Source of the settings: Kubernetes "Pod Security Standards", level restricted.
"""

from typing import Any

USER = 65532
"""User and group of every container: the `nonroot` of the common minimal images."""

TERMINATION_LOG = "/dev/termination-log"


def security_context() -> dict[str, Any]:
    """Give the pod's security context."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security_context() -> dict[str, Any]:
    """Give a container's security context."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pod_spec(
    service_account: str, containers: list[dict[str, Any]], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    """Give a restricted pod spec; every container gets the security context and a /tmp of its own."""
    return {
        "serviceAccountName": service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security_context(),
        "containers": [harden(c) for c in containers],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}, *volumes],
    }


def harden(container: dict[str, Any]) -> dict[str, Any]:
    """Add to a container what every container has."""
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, *container.get("volumeMounts", [])]  # noqa: S108 (a mount point)
    return {
        **container,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security_context(),
        "volumeMounts": mounts,
    }


def environment(values: dict[str, str]) -> list[dict[str, str]]:
    """Give environment variables as a container's `env`."""
    return [{"name": name, "value": value} for name, value in values.items()]
