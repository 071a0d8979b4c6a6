"""Ending a node: its processes, pods, mounts, links and rules, and what a killed run left of them."""

import contextlib
import json
import shutil
from pathlib import Path

from e2e.cluster import before, cgroups, mounts, network
from e2e.cluster.command import run
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import NodePaths
from e2e.cluster.processes import Identity, marked, program_of, running, stop

_GRACE_SECONDS = 5
_POD_PROGRAMS = ("kubelet", "containerd")
# containerd's shims listen here whatever its state folder is.
_SHIM_SOCKETS = Path("/run/containerd/s")


def recorded(paths: NodePaths) -> dict[str, Identity]:
    """The node's components that run and have a pid file, by name."""
    found = {}
    for pid_file in paths.pids.glob("*.json"):
        if record := running(pid_file):
            found[pid_file.stem] = record.identity
    return found


def exists(paths: NodePaths) -> bool:
    """Whether there is anything of this node: state, sockets or processes."""
    return paths.root.exists() or paths.run.exists() or bool(marked(str(paths.root)))


def recover(paths: NodePaths, component_names: set[str]) -> list[str]:
    """Make what a killed run left fit to start on; returns what was done, in words.

    Components whose pid file was never written are ended. While both kubelet and containerd run, pods are
    left alone; once one of them is dead, pods and all that belongs to them end, to be made anew by kubelet
    from what etcd holds.
    """
    done = []
    alive = recorded(paths)
    known = set(alive.values())
    orphans = [
        process
        for process in marked(str(paths.root))
        if process not in known and program_of(process) in component_names
    ]
    if orphans:
        _stop_all(orphans)
        done.append(f"ended {len(orphans)} components without a pid file")
    if not all(name in alive for name in _POD_PROGRAMS):
        had_state = _has_content(paths.run)
        _stop_all([alive[name] for name in _POD_PROGRAMS if name in alive], _GRACE_SECONDS)
        _end_pods(paths, keep=set(recorded(paths).values()))
        _remove_run_folder(paths)
        if had_state:
            done.append("cleared the pods, mounts and links of a run that ended without cleaning up")
    for pid_file in paths.pids.glob("*.json"):
        if not running(pid_file):
            pid_file.unlink(missing_ok=True)
    return done


def down(paths: NodePaths, kube_proxy: Path | None) -> None:
    """End the node and remove everything of it; nothing to do is no error.

    `kube_proxy` is the program that removes its own rules, where it has been built. Raises ClusterError that
    lists what could not be removed.
    """
    had_node = exists(paths)
    alive = recorded(paths)
    if "kubelet" in alive:  # first, or it would start again what ends
        _stop_all([alive["kubelet"]])
    _end_pods(paths, keep=set(recorded(paths).values()))
    _stop_all([*recorded(paths).values(), *marked(str(paths.root))])
    _remove_run_folder(paths)
    network.remove()
    if had_node:
        if kube_proxy and kube_proxy.exists():
            with contextlib.suppress(ClusterError):  # what it leaves is removed next
                run([kube_proxy, "--cleanup"])
        network.remove_kubernetes_chains()
        before.restore(paths.root / "before.json")
        _remove_tree(paths.root)
    if left := leftovers(paths, kubernetes_rules=had_node):
        listed = "\n".join(f"    {line}" for line in left)
        raise ClusterError(
            f"the node is down, but this is left:\n{listed}\n  next step: end or remove it by hand"
        )


def leftovers(paths: NodePaths, *, kubernetes_rules: bool = True) -> list[str]:
    """Everything of a node that is still there, in words; empty once it is down.

    Without `kubernetes_rules`, rules that another Kubernetes on this host may have made are not counted.
    """
    left = [f"process {each.pid} ({program_of(each)})" for each in marked(str(paths.root))]
    left += [f"process {each.pid} ({program_of(each)}) of a pod" for each in cgroups.processes(paths.cgroup)]
    left += [f"mount {point}" for point in mounts.inside(paths.root, paths.run)]
    left += [f"folder {folder}" for folder in (paths.root, paths.run) if _has_content(folder)]
    left += [f"control group {folder}" for folder in cgroups.folders(paths.cgroup)]
    if network.link_exists(paths.bridge):
        left.append(f"link {paths.bridge}")
    left += [
        f"packet filter rule {rule}"
        for rule in network.rules_left()
        if kubernetes_rules or network.is_own_rule(rule)
    ]
    return left


def _has_content(folder: Path) -> bool:
    return folder.exists() and not (folder.is_mount() and not any(folder.iterdir()))


def _stop_all(processes: list[Identity], grace: float = 0) -> None:
    if left := stop(processes, grace=grace):
        names = ", ".join(f"{program_of(each)} ({each.pid})" for each in left)
        raise ClusterError(
            f"{names} did not end, not even by SIGKILL.\n"
            "  next step: look for a hung disk or mount in `dmesg`"
        )


def _end_pods(paths: NodePaths, keep: set[Identity]) -> None:
    """End the pods' processes and their shims, then detach their mounts; `keep` are components."""
    cgroups.end_processes(paths.cgroup)
    shims = [each for each in marked(str(paths.root)) if each not in keep and _is_of_a_pod(each)]
    _stop_all(shims)
    cgroups.end_processes(paths.cgroup)
    _remove_shim_sockets(paths)
    mounts.detach_inside(paths.kubelet, paths.run)
    network.remove_pod_links(paths.bridge)
    cgroups.remove(paths.cgroup)


def _is_of_a_pod(process: Identity) -> bool:
    return program_of(process).startswith(("containerd-shim", "runc"))


def _remove_shim_sockets(paths: NodePaths) -> None:
    for bootstrap in (paths.run / "containerd").glob("*/*/*/bootstrap.json"):
        try:
            socket = Path(str(json.loads(bootstrap.read_text())["address"]).removeprefix("unix://"))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if socket.parent == _SHIM_SOCKETS:
            socket.unlink(missing_ok=True)


def _remove_run_folder(paths: NodePaths) -> None:
    _remove_tree(paths.run)


def _remove_tree(folder: Path) -> None:
    """Remove a folder, but never through a mount: below it could lie files of the host.

    A folder that is a mount point itself is only emptied: what lies under that mount is not the node's.
    """
    mounts.detach_inside(folder)
    if stuck := mounts.inside(folder):
        raise ClusterError(
            f"{stuck[0]} is still mounted, so {folder} is not removed.\n"
            f"  next step: see who uses it with `fuser -vm {stuck[0]}`, end that, and run again"
        )
    if not folder.is_mount():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
