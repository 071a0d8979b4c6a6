"""pytest fixtures that every part's tests share: a real API server, and the real cluster."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster import apiserver as api_server_process
from e2e.cluster.apiserver import ApiServer
from e2e.cluster.choose import chosen
from e2e.cluster.clients import programs_of_client
from e2e.cluster.kubectl import kubectl
from e2e.cluster.target import Registry

KUBECONFIG_VARIABLE = "LONGSHORE_E2E_KUBECONFIG"
"""Names the kubeconfig of a running cluster, made for tests, that the `cluster` fixture uses as it is."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster. `binaries` holds kubectl and helm; `registry` is None where it has none of ours."""

    kubeconfig: Path
    binaries: Path
    registry: Registry | None

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, seconds: float = 60) -> str:
        """Run kubectl as the administrator and return what it prints; raises ClusterError with its words."""
        return kubectl(self.binaries, self.kubeconfig, *arguments, stdin=stdin, seconds=seconds)


def running_cluster() -> Cluster:
    """The cluster that LONGSHORE_E2E_KUBECONFIG names, else the one of `make cluster`, started if need be.

    It is left running.
    """

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if given := os.environ.get(KUBECONFIG_VARIABLE):
        return Cluster(Path(given), programs_of_client(say), None)
    target = chosen()
    kubeconfig = target.up(say)
    return Cluster(kubeconfig, programs_of_client(say), target.environment().registry)


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real etcd and kube-apiserver, nothing else; one a test process. Use a namespace of your own."""
    with api_server_process.start(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The real cluster; left running. Use a namespace of your own and delete it."""
    return running_cluster()
