"""What tests of every part share: a client of the real API server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from e2e.cluster.apiserver import ApiServer
from tests.kube import Kube

# A machine that does other work beside them makes no test wrong.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

CRDS = Path(__file__).parents[1] / "crds"


@pytest.fixture(scope="session")
def kube(apiserver: ApiServer) -> Iterator[Kube]:
    """A client of the API server, on which the kind ModelDeployment is installed."""
    with Kube(apiserver) as client:
        client.install((CRDS / "longshore.dev_modeldeployments.yaml").read_text())
        yield client
