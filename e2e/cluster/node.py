"""Bringing up the node: prepare, start each component, wait until a pod could run."""

import datetime
import http.client
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from e2e.cluster import before, cgroups, config, credentials, host, network, teardown
from e2e.cluster.build import programs_of_node
from e2e.cluster.command import run
from e2e.cluster.components import API_PORT, Component, client_context, components, require_free
from e2e.cluster.config import NODE, SANDBOX_IMAGE
from e2e.cluster.errors import ClusterError
from e2e.cluster.files import write_atomically
from e2e.cluster.kubectl import kubectl
from e2e.cluster.lock import exclusive
from e2e.cluster.paths import NodePaths, cache_root
from e2e.cluster.processes import running, start, stop
from e2e.cluster.sandbox import sandbox_archive
from e2e.cluster.wait import wait_for

Say = Callable[[str], None]

LOCK = Path("/run/lock/longshore-cluster.lock")
_LOCK_SECONDS = 600
_READY_SECONDS = 90
_NEXT_STEP = "read the whole log; `make cluster-down` and `make cluster` begin anew"


def up(paths: NodePaths, say: Say) -> Path:
    """Start the node, or what of it does not run, and return the administrator's kubeconfig.

    Raises ClusterError that names what is missing, taken or not ready.
    """
    if not host.is_root():
        raise ClusterError(
            "starting a node on this machine needs root.\n"
            "  next step: `sudo make cluster`, or install docker and kind and use CLUSTER=kind"
        )
    host.require((*host.BUILD, *host.NODE), say)
    binaries = programs_of_node(say)
    sandbox = sandbox_archive(cache_root())
    with exclusive(LOCK, what="starting or ending the local cluster", seconds=_LOCK_SECONDS, say=say):
        begun = time.monotonic()
        parts = components(paths, binaries)
        for line in teardown.recover(paths, {part.name for part in parts}):
            say(line)
        _prepare(paths, binaries)
        started = _start_all(paths, binaries, parts, sandbox)
        if started:
            say(f"started {', '.join(started)} in {time.monotonic() - begun:.1f} s")
        else:
            say("the cluster runs already")
    return paths.kubeconfig


def _prepare(paths: NodePaths, binaries: Path) -> None:
    for folder in (paths.root, paths.logs, paths.pids, paths.config, paths.run, paths.root / "registry"):
        folder.mkdir(parents=True, exist_ok=True)
    before.record(paths.root / "before.json")
    bridged = network.sees_bridged_packets()
    network.ensure()
    cgroups.create(paths.cgroup)
    credentials.ensure(paths)
    texts = {
        "containerd.toml": config.containerd(paths, binaries),
        "cni/10-longshore.conflist": config.cni(paths),
        "registry.yaml": config.registry(paths),
        "kubelet.yaml": config.kubelet(paths),
        "kube-proxy.yaml": config.kube_proxy(paths, sees_bridged_packets=bridged),
        "Corefile": config.corefile(paths, _resolver()),
        "resolv.conf": "",
    }
    texts |= {f"registries/{name}/hosts.toml": config.registry_host() for name in config.REGISTRY_NAMES}
    for name, text in texts.items():
        write_atomically(paths.config / name, text)


def _resolver() -> str:
    try:
        return Path("/etc/resolv.conf").read_text()
    except OSError:
        return ""


def _start_all(paths: NodePaths, binaries: Path, parts: tuple[Component, ...], sandbox: Path) -> list[str]:
    by_name = {part.name: part for part in parts}
    begun = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    started: list[str] = []

    def launch(*names: str) -> None:
        started.extend(name for name in names if _ensure_running(by_name[name], paths, binaries))

    def ready(*names: str) -> None:
        for name in names:
            _wait_ready(by_name[name], paths)

    launch("etcd", "containerd", "registry")
    ready("etcd")
    launch("kube-apiserver")
    ready("containerd", "registry")
    _import_sandbox(paths, binaries, sandbox)
    ready("kube-apiserver")
    launch("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns")
    if started:
        apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
        kubectl(binaries, paths.kubeconfig, *apply, stdin=config.dns_objects())
    ready("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns")
    since = begun if "kubelet" in started else None
    wait_for(
        f"node {NODE}",
        lambda: _node_ready(paths, since),
        seconds=_READY_SECONDS,
        log=paths.logs / "kubelet.log",
        next_step=_NEXT_STEP,
        interval=0.2,
    )
    return started


def _ensure_running(part: Component, paths: NodePaths, binaries: Path) -> bool:
    """Start a component unless it runs as it should; whether it was started."""
    pid_file = paths.pids / f"{part.name}.json"
    fingerprint = part.fingerprint()
    record = running(pid_file)
    if record and record.fingerprint == fingerprint:
        return False
    if record:
        stop([record.identity], grace=10)
    for address, port in part.ports:
        require_free(address, port, part.name)
    start(
        part.command,
        folder=paths.root,
        log=paths.logs / f"{part.name}.log",
        pid_file=pid_file,
        mark=str(paths.root),
        fingerprint=fingerprint,
        environment=_environment(binaries),
    )
    return True


def _environment(binaries: Path) -> dict[str, str]:
    """PATH with our programs first, and no proxy between the components of one host."""
    direct = [
        "localhost",
        "127.0.0.1",
        ".svc",
        ".cluster.local",
        network.CLUSTER_RANGE,
        network.SERVICE_RANGE,
    ]
    inherited = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    exceptions = ",".join([*filter(None, inherited.split(",")), *direct])
    path = f"{binaries}{os.pathsep}{host.search_path()}"
    return {"PATH": path, "NO_PROXY": exceptions, "no_proxy": exceptions}


def _wait_ready(part: Component, paths: NodePaths) -> None:
    pid_file = paths.pids / f"{part.name}.json"
    wait_for(
        part.name,
        part.ready,
        seconds=_READY_SECONDS,
        log=paths.logs / f"{part.name}.log",
        alive=lambda: running(pid_file) is not None,
        next_step=_NEXT_STEP,
    )


def _import_sandbox(paths: NodePaths, binaries: Path, archive: Path) -> None:
    ctr: list[str | Path] = [binaries / "ctr", "--address", paths.containerd_socket, "--namespace", "k8s.io"]
    if SANDBOX_IMAGE not in run([*ctr, "images", "list", "--quiet"]).splitlines():
        run([*ctr, "images", "import", archive])


def _node_ready(paths: NodePaths, since: datetime.datetime | None) -> bool:
    """Whether the node says it is ready, and said so after `since` (a kubelet now dead may have before)."""
    connection = http.client.HTTPSConnection("127.0.0.1", API_PORT, timeout=5, context=client_context(paths))
    try:
        connection.request("GET", f"/api/v1/nodes/{NODE}")
        answer = connection.getresponse()
        content = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    for condition in content.get("status", {}).get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] == "True":
            heard = datetime.datetime.fromisoformat(condition["lastHeartbeatTime"])
            return since is None or heard >= since
    return False
