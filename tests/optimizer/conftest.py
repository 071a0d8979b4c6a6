"""Shared models and data: the digits example trained once, and small graphs built by hand."""

import functools
import http.server
import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from longshore_optimizer import candidates
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]


def load_example(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def judged_however_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge every candidate: models of microseconds take many times that on a busy machine."""
    monkeypatch.setattr(candidates, "_TOO_SLOW", float("inf"))
    monkeypatch.setattr(candidates, "_HOPELESS", float("inf"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the digits example: shared, so read only."""
    out = tmp_path_factory.mktemp("digits")
    accuracy = load_example("examples/digits/train.py").train(out)
    assert accuracy > 0.96
    return out


def mlp(
    path: Path,
    *,
    inputs: int = 16,
    hidden: int = 64,
    outputs: int = 4,
    opset: int = 17,
    batch: int | str = "batch",
    seed: int = 0,
    ir_version: int = 8,
) -> Path:
    """A two-layer perceptron with random weights."""
    rng = np.random.default_rng(seed)
    w1 = numpy_helper.from_array(rng.standard_normal((inputs, hidden)).astype(np.float32) / 4, "w1")
    b1 = numpy_helper.from_array(rng.standard_normal(hidden).astype(np.float32), "b1")
    w2 = numpy_helper.from_array(rng.standard_normal((hidden, outputs)).astype(np.float32) / 8, "w2")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h0"], name="first"),
            helper.make_node("Add", ["h0", "b1"], ["h1"], name="bias"),
            helper.make_node("Relu", ["h1"], ["h2"], name="relu"),
            helper.make_node("MatMul", ["h2", "w2"], ["y"], name="second"),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
        [w1, b1, w2],
    )
    save(path, graph, opset=opset, ir_version=ir_version)
    return path


def cnn(path: Path, *, opset: int = 17, channels: int = 32, size: int = 32, seed: int = 0) -> Path:
    """Three convolutions, pooling and a linear layer on (batch, 3, size, size) images."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        scale = (2 / np.prod(shape[1:])) ** 0.5
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    nodes, weights, last, depth = [], [], "x", 3
    for number in range(3):
        weights += [weight(f"w{number}", channels, depth, 3, 3), weight(f"b{number}", channels)]
        nodes += [
            helper.make_node(
                "Conv",
                [last, f"w{number}", f"b{number}"],
                [f"c{number}"],
                pads=[1, 1, 1, 1],
                name=f"conv{number}",
            ),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"),
        ]
        last, depth = f"r{number}", channels
    weights.append(weight("wf", 10, channels))
    weights.append(weight("bf", 10))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "wf", "bf"], ["y"], transB=1, name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    save(path, graph, opset=opset)
    return path


def save(path: Path, graph: onnx.GraphProto, *, opset: int = 17, ir_version: int = 8, **domains: int) -> None:
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in domains.items())]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def labelled(path: Path, model: Path, feeds: dict[str, np.ndarray[Any, Any]]) -> Path:
    """Write data whose labels are the model's own answers, so that the original scores 1."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    scores = session.run(None, feeds)[0]
    np.savez(path, labels=np.argmax(scores, axis=-1), **feeds)
    return path


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves files quietly; `before` may answer instead."""

    before: Callable[["Files"], bool] | None = None

    def do_GET(self) -> None:
        if self.before is None or not type(self).before(self):
            super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve a directory on the loopback address; gives its base URL."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(directory: Path, before: Callable[[Files], bool] | None = None) -> str:
        handler = type("Handler", (Files,), {"before": staticmethod(before) if before else None})
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(handler, directory=str(directory))
        )
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
