"""The cluster on this machine, from programs built here."""

from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import host, images, loader, node, registry_image, teardown
from e2e.cluster.build import built_programs_of_node, programs_of_node
from e2e.cluster.components import components
from e2e.cluster.errors import ClusterError
from e2e.cluster.lock import exclusive
from e2e.cluster.network import NODE_IP, REGISTRY_PORT
from e2e.cluster.paths import NodePaths
from e2e.cluster.processes import running
from e2e.cluster.target import Environment, Part, Registry, Say

_LOCK_SECONDS = 600


class LocalCluster:
    """One node made of processes of this host."""

    def __init__(self, paths: NodePaths) -> None:
        """`paths` are the node's folders."""
        self._paths = paths

    def up(self, say: Say) -> Path:
        """Start the node, or what of it does not run."""
        return node.up(self._paths, say)

    def down(self, say: Say) -> None:
        """End the node and remove all of it; the cache stays."""
        if not host.is_root():
            if teardown.exists(self._paths):
                raise ClusterError("ending the node needs root.\n  next step: `sudo make cluster-down`")
            return
        programs = built_programs_of_node()
        with exclusive(node.LOCK, what="ending the local cluster", seconds=_LOCK_SECONDS, say=say):
            teardown.down(self._paths, programs / "kube-proxy" if programs else None)

    def status(self) -> list[Part]:
        """Every component: whether it runs and answers."""
        programs = built_programs_of_node()
        if programs is None or not self._paths.pki.is_dir():
            return [Part("cluster", False, "not started: `make cluster`")]
        parts = []
        for component in components(self._paths, programs):
            record = running(self._paths.pids / f"{component.name}.json")
            if record is None:
                log = self._paths.logs / f"{component.name}.log"
                parts.append(Part(component.name, False, f"not running; its log is {log}"))
            elif not component.ready():
                parts.append(Part(component.name, False, f"pid {record.identity.pid}, does not answer"))
            else:
                parts.append(Part(component.name, True, f"pid {record.identity.pid}"))
        return parts

    def load_images(self, names: Sequence[str], say: Say, *, refresh: bool) -> None:
        """Build what changed, and import what the node does not have."""
        built = images.build(names, say, refresh=refresh)
        socket = self._paths.containerd_socket
        if not socket.exists():
            raise ClusterError("the images are built, but no node runs.\n  next step: `make cluster`")
        for image in built:
            if not loader.load(image, programs_of_node(say), socket, say):
                say(f"{image.name} is loaded already")
        if not names:
            registry_image.load(programs_of_node(say), socket, say)

    def environment(self) -> Environment:
        """The administrator's kubeconfig, the built programs and the node's registry."""
        registry = Registry(
            nodes=f"localhost:{REGISTRY_PORT}",
            pods=f"{NODE_IP}:{REGISTRY_PORT}",
            host=f"localhost:{REGISTRY_PORT}",
        )
        return Environment(self._paths.kubeconfig, built_programs_of_node(), registry)
