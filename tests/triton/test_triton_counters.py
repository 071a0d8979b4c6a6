"""What a rollout reads from Triton's metrics: the server's faults count as errors, a client's do not."""

import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as httpclient
from longshore.plan.telemetry import parse_metrics
from longshore.runtimes.triton import RUNTIME
from onnx import TensorProto, helper

from tests.server import models
from tests.triton.harness import Triton


def ask(server: Triton, index: int, columns: int = 1) -> None:
    value = httpclient.InferInput("at", [1, columns], "INT64")
    value.set_data_from_numpy(np.full((1, columns), index, np.int64))
    with httpclient.InferenceServerClient(server.address) as client:
        client.infer(server.name, [value])


def read(server: Triton) -> dict[str, float]:
    with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
        return parse_metrics(response.read().decode(), RUNTIME.metrics)


def read_when_counted(server: Triton, executions: float) -> dict[str, float]:
    """Read once all is counted: Triton answers first and counts then, an execution last."""
    deadline = time.monotonic() + 20
    while (reading := read(server)).get("executions", 0.0) < executions or reading["pending"]:
        assert time.monotonic() < deadline, reading
        time.sleep(0.02)
    return reading


def test_faults_are_told_from_mistakes(tmp_path: Path) -> None:
    model = models.save(
        tmp_path / "artifact",
        [helper.make_node("Gather", ["table", "at"], ["y"], axis=0)],
        [("at", TensorProto.INT64, ["N", 1])],
        [("y", TensorProto.FLOAT, ["N", 1])],
        {"table": np.arange(4, dtype=np.float32)},
    )
    with Triton(model, tmp_path, slow_us=1) as server:
        before = read(server)
        ask(server, 2)
        for _ in range(2):
            with pytest.raises(httpclient.InferenceServerException, match=r"out of data bounds|indices"):
                ask(server, 9)
        with pytest.raises(httpclient.InferenceServerException):
            ask(server, 1, columns=3)
        after = read_when_counted(server, before.get("executions", 0.0) + 3)
        grown = {name: after[name] - before.get(name, 0.0) for name in after}
        assert grown["errors"] == 2
        assert grown["requests"] == 3
        assert grown["rows"] == 3
        assert grown["executions"] == 3
        assert grown["request_seconds"] > 0
        assert after["pending"] == 0
        deadline = time.monotonic() + 20
        while not read(server).get("slow"):
            assert time.monotonic() < deadline
            ask(server, 1)
        assert 0 < read(server)["compute_seconds"] < 20
