"""kubectl, always with the kubeconfig that was given and never with the user's own."""

import time
from pathlib import Path

from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError


def kubectl(
    binaries: Path, kubeconfig: Path, *arguments: str | Path, stdin: str | None = None, seconds: float = 60
) -> str:
    """Run kubectl and return what it prints; raises ClusterError with its own message when it fails."""
    return run([binaries / "kubectl", f"--kubeconfig={kubeconfig}", *arguments], stdin=stdin, seconds=seconds)


def await_established(binaries: Path, kubeconfig: Path, *definitions: str, seconds: float = 60) -> None:
    """Wait until the API server serves the kinds of these definitions, each as `crd/NAME`.

    kubectl's own wait gives up with an accessor error while a definition has no conditions at all.

    Raises ClusterError when one is not established in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = max(deadline - time.monotonic(), 1)
        try:
            wait = ("wait", "--for=condition=Established", f"--timeout={left:.0f}s")
            kubectl(binaries, kubeconfig, *wait, *definitions, seconds=left + 30)
        except ClusterError as error:
            if "accessor error" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
