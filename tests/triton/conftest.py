"""What the tests of Triton share: the same models on both runtimes."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from onnx import TensorProto

from tests.server import models
from tests.server.harness import Server
from tests.triton.harness import Triton

RUNTIMES = ("OnnxRuntime", "Triton")
KEY = "a-key-that-only-the-operator-knows"
RECORDED = [
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [value] * 16}]}
    for value in (0.5, -0.5)
]


@dataclass(frozen=True)
class Endpoint:
    """A model that is being served."""

    runtime: str
    name: str
    http: str
    grpc: str
    metrics_url: str
    directory: Path
    samples_port: int

    def metrics(self) -> str:
        with urllib.request.urlopen(self.metrics_url, timeout=5) as response:
            return str(response.read().decode())


@pytest.fixture(scope="session", params=RUNTIMES)
def mlp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """x [N, 16] FP32 -> y [N, 8] FP32, with two recorded requests for who knows `KEY`."""
    model = models.mlp(tmp_path_factory.mktemp("matrix") / "mlp")
    (model / "samples.jsonl").write_text("".join(json.dumps(asked) + "\n" for asked in RECORDED))
    yield from _served(request.param, model)


@pytest.fixture(scope="session", params=RUNTIMES)
def strings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """x [N, M] BYTES -> y [N, M] BYTES, the same."""
    yield from _served(
        request.param, models.identity(tmp_path_factory.mktemp("matrix") / "strings", TensorProto.STRING)
    )


def _served(runtime: str, model: Path) -> Iterator[Endpoint]:
    if runtime == "Triton":
        with Triton(model, model.parent, name=model.name, samples_key=KEY) as triton:
            yield Endpoint(
                runtime,
                model.name,
                triton.address,
                triton.grpc_address,
                triton.metrics_url,
                model,
                triton.samples_port,
            )
    else:
        with Server(model, "--mirror-target", "127.0.0.1:9", "--mirror-key", KEY) as server:
            yield Endpoint(
                runtime,
                model.name,
                server.address,
                server.grpc_address,
                f"http://{server.address}/metrics",
                model,
                server.http_port,
            )
