"""kubectl, always with the kubeconfig that was given and never with the user's own."""

from pathlib import Path

from e2e.cluster.command import run


def kubectl(
    binaries: Path, kubeconfig: Path, *arguments: str | Path, stdin: str | None = None, seconds: float = 60
) -> str:
    """Run kubectl and return what it prints; raises ClusterError with its own message when it fails."""
    return run([binaries / "kubectl", f"--kubeconfig={kubeconfig}", *arguments], stdin=stdin, seconds=seconds)
