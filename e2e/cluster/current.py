"""The cluster of the user's current kubectl context: used when named, never created or removed."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError
from e2e.cluster.target import Environment, Part, Say


class CurrentCluster:
    """Whatever `kubectl config current-context` names."""

    def up(self, say: Say) -> Path:
        """Make sure that the API server answers; nothing is started."""
        context = _kubectl("config", "current-context").strip()
        _kubectl("--request-timeout=20s", "get", "--raw", "/readyz")
        say(f"using the cluster of the current context, {context}")
        return _kubeconfig()

    def down(self, say: Say) -> None:
        """Leave it alone."""
        say("CLUSTER=current names a cluster that is not ours: it is left as it is")

    def status(self) -> list[Part]:
        """Whether the API server answers."""
        try:
            context = _kubectl("config", "current-context").strip()
            _kubectl("--request-timeout=20s", "get", "--raw", "/readyz")
        except ClusterError as error:
            return [Part("current context", False, str(error))]
        return [Part("current context", True, context)]

    def load_images(self, names: Sequence[str], say: Say, *, refresh: bool) -> None:
        """Refused: only the user knows which registry this cluster pulls from."""
        raise ClusterError(
            "images cannot be loaded into the cluster of the current context.\n"
            "  next step: build them with `docker build -f images/NAME/Dockerfile .`, push them to a "
            "registry that it pulls from, and name that in the chart's values"
        )

    def environment(self) -> Environment:
        """The user's own kubeconfig."""
        return Environment(_kubeconfig(), None, None)


def _kubeconfig() -> Path:
    given = os.environ.get("KUBECONFIG", "")
    if os.pathsep in given:
        raise ClusterError(
            "KUBECONFIG names several files.\n"
            "  next step: `kubectl config view --flatten --minify > one.conf`, and name that in KUBECONFIG"
        )
    return Path(given) if given else Path.home() / ".kube" / "config"


def _kubectl(*arguments: str) -> str:
    if shutil.which("kubectl") is None:
        raise ClusterError(
            "CLUSTER=current needs kubectl on PATH.\n"
            "  next step: install it, or use the one that `make cluster-build` builds"
        )
    return run(["kubectl", f"--kubeconfig={_kubeconfig()}", *arguments], seconds=40)
