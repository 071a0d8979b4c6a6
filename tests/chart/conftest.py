"""The fixture of the chart's tests."""

import sys

import pytest

from e2e.cluster.build import ensure
from e2e.cluster.programs import HELM
from tests.chart.rendered import Helm


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm, built from source once."""
    programs = ensure((HELM,), say=lambda line: print(line, file=sys.stderr))
    return Helm(programs / "helm", tmp_path_factory.mktemp("helm"))
