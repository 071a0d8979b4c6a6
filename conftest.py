"""Fixtures for the tests of every folder."""

import os

# ONNX Runtime sends telemetry unless told otherwise before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

pytest_plugins = ["e2e.cluster.fixtures"]
