"""Fixtures for the tests of every folder."""

import os
from pathlib import Path

import pytest

# ONNX Runtime sends telemetry unless told otherwise before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Processes of the tests share few cores: threads that spin while they wait for each other took most of them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

pytest_plugins = ["e2e.cluster.fixtures"]

ROOT = Path(__file__).parent
OF_THE_CLUSTER = (ROOT / "tests" / "cluster_tool", ROOT / "e2e" / "scenarios")
"""Where `make test` looks for tests of the cluster: to import all other tests takes each process long."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that take the cluster down unless they were asked for by their mark.

    Raises:
        pytest.UsageError: a test of the cluster lies where `make test` does not look for it.
    """
    for item in items:
        if item.get_closest_marker("cluster") and not any(
            item.path.is_relative_to(p) for p in OF_THE_CLUSTER
        ):
            raise pytest.UsageError(
                f"{item.nodeid} needs the cluster, but `make test` looks for such tests in "
                f"{' and '.join(str(p.relative_to(ROOT)) for p in OF_THE_CLUSTER)} only: move it there"
            )
    if "node" in str(config.getoption("markexpr")).split():
        return
    for item in items:
        if item.get_closest_marker("node"):
            item.add_marker(pytest.mark.skip(reason="takes the local cluster down: run with -m node"))
