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
        **_restricted(service_account),
        "containers": [harden(c) for c in containers],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}, *volumes],
    }


def bare_pod_spec(service_account: str, containers: list[dict[str, Any]]) -> dict[str, Any]:
    """Give a restricted pod spec without any volume, so without a place to write to.

    A kubelet looks for the volumes of a new pod every 0.3 s, and for none not at all. Source: Kubernetes,
    `podAttachAndMountRetryInterval` in pkg/kubelet/volumemanager/volume_manager.go.
    """
    return {**_restricted(service_account), "containers": [_hardened(c) for c in containers]}


def _restricted(service_account: str) -> dict[str, Any]:
    return {
        "serviceAccountName": service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": security_context(),
    }


def harden(container: dict[str, Any]) -> dict[str, Any]:
    """Add to a container what every container has that may write to a /tmp."""
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, *container.get("volumeMounts", [])]  # noqa: S108 (a mount point)
    return {**_hardened(container), "volumeMounts": mounts}


def _hardened(container: dict[str, Any]) -> dict[str, Any]:
    return {
        **container,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security_context(),
    }


def environment(values: dict[str, str]) -> list[dict[str, str]]:
    """Give environment variables as a container's `env`."""
    return [{"name": name, "value": value} for name, value in values.items()]
