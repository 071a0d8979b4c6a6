"""What tests of every part share: a real API server, and the real cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import apiserver as api_server_process
from e2e.cluster.apiserver import ApiServer
from tests.kube import Kube

CRDS = Path(__file__).parents[1] / "crds"


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real etcd and kube-apiserver, nothing else; one a test process. Use a namespace of your own."""
    with api_server_process.start(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture(scope="session")
def kube(apiserver: ApiServer) -> Iterator[Kube]:
    """A client of the API server, on which the kind ModelDeployment is installed."""
    with Kube(apiserver) as client:
        client.install((CRDS / "longshore.dev_modeldeployments.yaml").read_text())
        yield client
