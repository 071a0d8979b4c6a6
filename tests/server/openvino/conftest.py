"""These tests need a server whose ONNX Runtime has OpenVINO: `make test-openvino` gives them one."""

import os

collect_ignore_glob = [] if os.environ.get("LONGSHORE_TEST_SERVER_PYTHON") else ["test_*.py"]
