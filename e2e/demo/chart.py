"""The operator, installed by its Helm chart as a user does it."""

import hashlib
from collections.abc import Sequence

from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.target import Say
from e2e.demo.tools import Tools

RELEASE, NAMESPACE = "longshore", "longshore-system"
REGISTRY = f"{RELEASE}-registry"
"""Service of the registry that the chart runs."""

_INSTALL_SECONDS = 180


def install(tools: Tools, say: Say, namespace: str = NAMESPACE, options: Sequence[str] = ()) -> None:
    """Install or upgrade the chart, with more options of helm, and wait until the operator answers.

    Raises:
        ClusterError: it did not within three minutes; with its pods.
    """
    code = hashlib.sha256()
    for path in sorted((REPOSITORY / "operator" / "src").rglob("*.py")):
        code.update(path.read_bytes())
    chosen = [
        *("-n", namespace, "--create-namespace", "--take-ownership"),
        # The tag of a local image stays the same when its content changes: this starts new pods then.
        *("--set-string", f"operator.podAnnotations.code={code.hexdigest()[:16]}"),
        *("--wait", "--timeout", f"{_INSTALL_SECONDS}s"),
        *options,
    ]
    chart = str(REPOSITORY / "charts" / "longshore")
    try:
        tools.helm("upgrade", "--install", RELEASE, chart, *chosen, seconds=_INSTALL_SECONDS + 30)
    except ClusterError as error:
        pods = tools.kubectl("get", "pods", "-n", namespace)
        raise ClusterError(
            f"{error}\n{pods}  next step: `kubectl -n {namespace} describe pods`, "
            f"`kubectl -n {namespace} logs deployment/{RELEASE}`"
        ) from None
    say(f"release {RELEASE} in namespace {namespace}")
