"""Which cluster is meant: the one that CLUSTER names, else kind where it works, else the local node."""

import os

from e2e.cluster import kind
from e2e.cluster.current import CurrentCluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.kind import KindCluster
from e2e.cluster.local import LocalCluster
from e2e.cluster.paths import NodePaths
from e2e.cluster.target import Target

VARIABLE = "CLUSTER"


def chosen() -> Target:
    """The cluster to work on. Raises ClusterError for a name that is not one.

    The user's current context is used only when CLUSTER says so, whatever KUBECONFIG holds.
    """
    name = os.environ.get(VARIABLE, "").strip()
    match name:
        case "local":
            return LocalCluster(NodePaths())
        case "kind":
            return KindCluster()
        case "current":
            return CurrentCluster()
        case "":
            return KindCluster() if kind.available() else LocalCluster(NodePaths())
        case _:
            raise ClusterError(
                f"CLUSTER={name} is no kind of cluster.\n  next step: use local, kind or current"
            )
