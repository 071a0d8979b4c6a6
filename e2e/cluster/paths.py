"""Where the tool keeps things: the cache (survives everything) and the state of a running node."""

import os
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parent / "modules"
REPOSITORY = Path(__file__).parents[2]


def cache_root() -> Path:
    """The project's cache folder: `$XDG_CACHE_HOME/longshore`, by default `~/.cache/longshore`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "longshore"


@dataclass(frozen=True)
class NodePaths:
    """What one node calls its own on this host.

    `root` holds state and logs, `run` (on a tmpfs) sockets and mounts; all pods run below the control group
    `cgroup`, and `bridge` is their network link.
    """

    root: Path = Path("/var/lib/longshore-cluster")
    run: Path = Path("/run/longshore-cluster")
    cgroup: str = "longshore"
    bridge: str = "longshore0"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def config(self) -> Path:
        """Configuration files of the components, kubeconfigs included."""
        return self.root / "config"

    @property
    def logs(self) -> Path:
        """One log file a component."""
        return self.root / "logs"

    @property
    def pids(self) -> Path:
        """One pid file a component."""
        return self.root / "pids"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "admin.conf"

    @property
    def containerd_socket(self) -> Path:
        """The socket of the container runtime."""
        return self.run / "containerd.sock"

    @property
    def kubelet(self) -> Path:
        """The kubelet's root folder: pods' volumes are mounted below it."""
        return self.root / "kubelet"
