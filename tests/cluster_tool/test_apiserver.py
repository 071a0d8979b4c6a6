"""The API server that fast tests run against."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from e2e.cluster import apiserver as api_server_process
from e2e.cluster.apiserver import ApiServer
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.wait import wait_for

pytestmark = pytest.mark.apiserver

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "one", "namespace": "default"},
    "spec": {"containers": [{"name": "one", "image": "localhost/one:1"}]},
}


def test_it_stores_objects_and_applies_server_side(apiserver: ApiServer) -> None:
    for _ in range(2):
        apiserver.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(POD))
    assert apiserver.kubectl("get", "pod", "one", "-o", "name").strip() == "pod/one"
    apiserver.kubectl("delete", "pod", "one", "--now")


def test_rbac_refuses_a_user_without_a_role(apiserver: ApiServer) -> None:
    stranger = apiserver.kubeconfig_for("stranger", ["visitors"])
    allowed = apiserver.kubectl("auth", "can-i", "--list", f"--kubeconfig={stranger}")
    assert "pods" not in allowed
    with pytest.raises(ClusterError, match="forbidden"):
        apiserver.kubectl("get", "pods", f"--kubeconfig={stranger}")


def test_service_account_tokens_are_issued_and_accepted(apiserver: ApiServer) -> None:
    apiserver.kubectl("create", "serviceaccount", "robot")
    token = apiserver.kubectl("create", "token", "robot").strip()
    who = apiserver.kubectl(
        "auth", "whoami", "--token", token, "--kubeconfig=/dev/null", *_address(apiserver)
    )
    assert "system:serviceaccount:default:robot" in who
    apiserver.kubectl("delete", "serviceaccount", "robot")


def test_two_run_side_by_side_and_leave_nothing(apiserver: ApiServer, tmp_path: Path) -> None:
    with api_server_process.start(tmp_path, controllers=["garbage-collector-controller"]) as other:
        assert other.url != apiserver.url
        owner = json.loads(other.kubectl("create", "configmap", "owner", "-o", "json"))
        owned = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": "owned",
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "name": "owner",
                        "uid": owner["metadata"]["uid"],
                    }
                ],
            },
        }
        other.kubectl("apply", "-f", "-", stdin=json.dumps(owned))
        other.kubectl("delete", "configmap", "owner")
        wait_for(
            "garbage collection",
            lambda: "owned" not in other.kubectl("get", "configmaps", "-o", "name"),
            seconds=30,
            next_step="look at kube-controller-manager.log",
            interval=0.2,
        )
    assert _processes_below(tmp_path) == []


def test_a_killed_test_process_takes_its_server_along(apiserver: ApiServer, tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from e2e.cluster import apiserver
        with apiserver.start(Path(sys.argv[1])):
            print("ready", flush=True)
            time.sleep(600)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(_processes_below(tmp_path)) >= 2
        os.kill(process.pid, signal.SIGKILL)
    wait_for(
        "the end of etcd and kube-apiserver",
        lambda: not _processes_below(tmp_path),
        seconds=10,
        next_step="look at the lifeline in apiserver.py",
    )


def _address(server: ApiServer) -> tuple[str, str]:
    return f"--server={server.url}", f"--certificate-authority={server.certificate_authority}"


def _processes_below(folder: Path) -> list[int]:
    """The running processes whose working folder lies below this one (zombies have none)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = (entry / "cwd").readlink()
            except OSError:
                continue
            if where.is_relative_to(folder):
                found.append(int(entry.name))
    return found
