"""What a killed run leaves is ended and removed; what belongs to others is not touched.

On folders, a control group and a bridge of the test's own, beside whatever cluster runs on this host.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import cgroups, mounts, processes, teardown
from e2e.cluster.paths import NodePaths
from e2e.cluster.processes import Identity

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and control groups need root")

COMPONENTS = {"kubelet", "containerd", "etcd", "kube-scheduler"}


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[NodePaths]:
    name = f"longshore-test-{os.getpid()}"
    node = NodePaths(tmp_path / "state", tmp_path / "run", cgroup=name, bridge=f"lst{os.getpid()}")
    for folder in (node.root, node.run, node.pids, node.kubelet, tmp_path / "bin"):
        folder.mkdir(parents=True)
    yield node
    processes.stop(processes.marked(str(node.root)), grace=0)
    cgroups.end_processes(name)
    mounts.detach_inside(tmp_path)
    cgroups.remove(name)


def start(paths: NodePaths, program: str, *, recorded: bool = True, mark: str = "") -> Identity:
    """A process that only sleeps, under the name of a program."""
    executable = paths.root.parent / "bin" / program
    if not executable.exists():
        executable.symlink_to("/bin/sleep")
    pid_file = paths.pids / f"{program}.json"
    identity = processes.start(
        [str(executable), "600"],
        folder=paths.root,
        log=paths.root / "log",
        pid_file=pid_file,
        mark=mark or str(paths.root),
    )
    while processes.program_of(identity) != program:  # until env has become the program
        assert processes.is_running(identity)
    if not recorded:
        pid_file.unlink()
    return identity


def start_pod(paths: NodePaths) -> subprocess.Popen[bytes]:
    """A process in the node's control group, as a container's is: without the node's mark."""
    cgroups.create(paths.cgroup)
    process = subprocess.Popen(["sleep", "600"])
    for folder in cgroups.folders(paths.cgroup):
        pod = folder / "kubepods" / "pod1"
        pod.mkdir(parents=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            for each in (pod.parent, pod):
                if (each / file).exists():
                    (each / file).write_text((folder / file).read_text())
        (pod / "cgroup.procs").write_text(str(process.pid))
    return process


def mount_tmpfs(point: Path) -> Path:
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(point)], check=True)
    return point


def test_pods_and_mounts_of_a_killed_run_are_cleared(paths: NodePaths, tmp_path: Path) -> None:
    start(paths, "etcd")
    shim = start(paths, "containerd-shim-runc-v2", recorded=False)
    mount_tmpfs(paths.kubelet / "pods/1/volumes/a b")
    mount_tmpfs(paths.run / "containerd/rootfs")
    mount_tmpfs(paths.run / "containerd/rootfs/inner")
    foreign = mount_tmpfs(tmp_path / "of somebody else")
    data = paths.root / "etcd" / "data"
    data.parent.mkdir()
    data.write_text("objects")
    with start_pod(paths) as pod, subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            done = teardown.recover(paths, COMPONENTS)
            assert done == ["cleared the pods, mounts and links of a run that ended without cleaning up"]
            pod.wait(timeout=10)
            assert bystander.poll() is None
        finally:
            bystander.kill()
    assert not processes.is_running(shim)
    assert mounts.inside(tmp_path) == [foreign]
    assert not paths.run.exists()
    assert cgroups.folders(paths.cgroup) == []
    assert data.read_text() == "objects"
    assert set(teardown.recorded(paths)) == {"etcd"}


def test_a_component_whose_pid_file_was_never_written_is_ended(paths: NodePaths) -> None:
    orphan = start(paths, "kube-scheduler", recorded=False)
    other = start(paths, "another-program", recorded=False)
    of_another_node = start(paths, "etcd", recorded=False, mark=f"{paths.root}-2")
    try:
        assert "ended 1 components without a pid file" in teardown.recover(paths, COMPONENTS)
        assert not processes.is_running(orphan)
        assert processes.is_running(other)
        assert processes.is_running(of_another_node)
    finally:
        processes.stop([of_another_node], grace=0)


def test_pods_live_on_while_kubelet_and_containerd_do(paths: NodePaths, tmp_path: Path) -> None:
    for name in ("kubelet", "containerd", "etcd"):
        start(paths, name)
    dead = start(paths, "kube-scheduler")
    processes.stop([dead], grace=0)
    volume = mount_tmpfs(paths.kubelet / "volume")
    with start_pod(paths) as pod:
        try:
            assert teardown.recover(paths, COMPONENTS) == []
            assert pod.poll() is None
        finally:
            pod.kill()
    assert mounts.inside(tmp_path) == [volume]
    assert not (paths.pids / "kube-scheduler.json").exists()
    assert set(teardown.recorded(paths)) == {"kubelet", "containerd", "etcd"}


def test_files_of_the_host_behind_a_mount_are_not_removed(paths: NodePaths, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    inside = paths.run / "containerd" / "host-path"
    inside.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(precious), str(inside)], check=True)
    teardown.recover(paths, COMPONENTS)
    assert not paths.run.exists()
    assert (precious / "file").read_text() == "precious"


def test_a_folder_that_is_a_mount_point_is_emptied_and_what_it_covers_is_kept(
    paths: NodePaths, tmp_path: Path
) -> None:
    (paths.run / "covered").write_text("precious")
    mount_tmpfs(paths.run)
    (paths.run / "containerd" / "deep").mkdir(parents=True)
    (paths.run / "containerd.sock").write_text("")
    mount_tmpfs(paths.run / "containerd" / "rootfs")
    teardown.recover(paths, COMPONENTS)
    assert mounts.inside(tmp_path) == [paths.run]
    assert list(paths.run.iterdir()) == []
    left = teardown.leftovers(NodePaths(tmp_path / "none", paths.run, paths.cgroup, paths.bridge))
    assert [line for line in left if str(tmp_path) in line] == []
    mounts.detach(paths.run)
    assert (paths.run / "covered").read_text() == "precious"


def test_nothing_left_is_nothing_to_do(paths: NodePaths) -> None:
    paths.run.rmdir()
    assert teardown.recover(paths, COMPONENTS) == []
    assert teardown.recover(paths, COMPONENTS) == []


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup v2 group that has a controller to give away."""
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        control = root / "cgroup.subtree_control"
        if control.exists() and control.read_text().strip():
            folder = root / f"longshore-test-{os.getpid()}"
            folder.mkdir()
            yield folder
            (folder / "init").rmdir()
            folder.rmdir()
            return
    pytest.skip("no cgroup v2 here that gives a controller away")


def test_a_full_group_makes_room_before_it_gives_its_controllers_away(group: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            (group / "cgroup.procs").write_text(str(process.pid))
            cgroups.delegate(group)
            cgroups.delegate(group)
            given = set((group / "cgroup.subtree_control").read_text().split())
            offered = set((group / "cgroup.controllers").read_text().split())
            assert given == offered & {"cpu", "cpuset", "memory", "pids", "hugetlb"}
            assert (group / "init/cgroup.procs").read_text().split() == [str(process.pid)]
        finally:
            process.kill()
