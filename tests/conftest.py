"""What tests of every part share: a real API server, and the real cluster."""

from collections.abc import Iterator

import pytest

from e2e.cluster import apiserver as api_server_process
from e2e.cluster.apiserver import ApiServer


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real etcd and kube-apiserver, nothing else; one a test process. Use a namespace of your own."""
    with api_server_process.start(tmp_path_factory.mktemp("apiserver")) as server:
        yield server
