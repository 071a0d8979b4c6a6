"""The cluster that the command line talks to: the kubeconfig's context, as kubectl does."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from longshore.cluster import Cluster

_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


async def connected(work: "Callable[[Cluster], Awaitable[None]]") -> None:
    """Run `work` with a connection and close it."""
    from longshore.cluster import Cluster

    async with await Cluster.connect() as cluster:
        await work(cluster)


def namespace_of(given: str | None) -> str:
    """Give the namespace: as given, else the context's, else the pod's own, else `default`."""
    if given:
        return given
    paths = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    for path in [Path(p) for p in paths if p] or [Path.home() / ".kube" / "config"]:
        try:
            config = yaml.safe_load(path.read_text()) or {}
        except (OSError, yaml.YAMLError):
            continue
        current = config.get("current-context")
        for context in config.get("contexts") or ():
            if context.get("name") == current and (context.get("context") or {}).get("namespace"):
                return str(context["context"]["namespace"])
    try:
        return _IN_CLUSTER.read_text().strip()
    except OSError:
        return "default"
