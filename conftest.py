"""Fixtures for the tests of every folder."""

import os

import pytest

# ONNX Runtime sends telemetry unless told otherwise before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

pytest_plugins = ["e2e.cluster.fixtures"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that take the cluster down unless they were asked for by their mark."""
    if "node" in str(config.getoption("markexpr")).split():
        return
    for item in items:
        if item.get_closest_marker("node"):
            item.add_marker(pytest.mark.skip(reason="takes the local cluster down: run with -m node"))
