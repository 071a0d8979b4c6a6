"""The control group under which all of the node's pods run, so that they can be found and ended together.

With cgroup v1 there is one such folder in each hierarchy, with v2 a single one.
"""

import contextlib
import errno
import os
import time
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import Identity, identify, stop

_ROOT = Path("/sys/fs/cgroup")
# What kubelet asks a cgroup v2 parent to delegate, where the kernel has it.
_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "hugetlb")


def _hierarchies() -> list[Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    # Links such as cpuacct -> cpu,cpuacct name a hierarchy twice.
    return sorted(path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink())


def folders(name: str) -> list[Path]:
    """The group's folder in each hierarchy that has it."""
    if not _ROOT.is_dir():
        return []
    return [folder for hierarchy in _hierarchies() if (folder := hierarchy / name).is_dir()]


def create(name: str) -> None:
    """Make the group in every hierarchy. Raises ClusterError when the kernel refuses."""
    for hierarchy in _hierarchies():
        try:
            (hierarchy / name).mkdir(exist_ok=True)
            if hierarchy == _ROOT:
                delegate(hierarchy)
                delegate(hierarchy / name)
            elif (hierarchy / "cpuset.cpus").exists():
                _inherit_cpuset(hierarchy, name)
        except OSError as error:
            raise ClusterError(
                f"cannot make the control group {hierarchy / name}: {error.strerror}.\n"
                "  next step: run as root of the machine; a container needs a writable /sys/fs/cgroup"
            ) from None


def delegate(group: Path) -> None:
    """Give a v2 group's controllers to the groups below it; raises OSError.

    Inside a container the top group is not the kernel's own root: it may not both hold processes and give
    controllers away (cgroup-v2.rst, "No Internal Process Constraint"), so they move one level down.
    """
    offered = set((group / "cgroup.controllers").read_text().split()) & set(_CONTROLLERS)
    wanted = " ".join(f"+{controller}" for controller in sorted(offered))
    if not wanted:
        return
    try:
        (group / "cgroup.subtree_control").write_text(wanted)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        leaf = group / "init"
        leaf.mkdir(exist_ok=True)
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
        (group / "cgroup.subtree_control").write_text(wanted)


def _inherit_cpuset(hierarchy: Path, group: str) -> None:
    # A new v1 cpuset group is empty and takes no process until it has CPUs and memory nodes.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (hierarchy / group / name).read_text().strip():
            (hierarchy / group / name).write_text((hierarchy / name).read_text())


def processes(name: str) -> list[Identity]:
    """Every running process in the group or below it."""
    pids: set[int] = set()
    for folder in folders(name):
        for path, _, _ in os.walk(folder):
            try:
                pids.update(int(line) for line in Path(path, "cgroup.procs").read_text().split())
            except OSError:
                continue  # the group is gone
    return [identity for pid in sorted(pids) if (identity := identify(pid))]


def end_processes(name: str) -> list[Identity]:
    """Kill every process of the group; returns those that could not be ended."""
    left: list[Identity] = []
    for _ in range(5):  # a process may fork while the others are being killed
        left = processes(name)
        if not left:
            break
        stop(left, grace=0)
    return left


def remove(name: str) -> list[Path]:
    """Remove the group and those below it; returns what stays because something still runs in it."""
    deadline = time.monotonic() + 5
    while True:
        for folder in folders(name):
            for path, _, _ in os.walk(folder, topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    continue
        left = folders(name)
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(0.05)
