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
    """The folders of one node: `root` holds state and logs, `run` sockets and mounts (a tmpfs)."""

    root: Path = Path("/var/lib/longshore-cluster")
    run: Path = Path("/run/longshore-cluster")

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
