"""What exporters say in roundabout ways is said in plain operators, where the answers stay the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore_optimizer.measure.session import open_session
from longshore_optimizer.techniques import coupling
from longshore_optimizer.techniques.detours import straighten
from longshore_optimizer.techniques.prepare import infer, prepare
from longshore_optimizer.techniques.torch_graph import TorchGraph, answers
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import save
from tests.optimizer.technique_bench import work

RNG = np.random.default_rng(0)


def exported(path: Path, stride: int = 16) -> Path:
    """A convolution and a dense layer; between them a mean and a view as torch.onnx writes them."""
    constants: dict[str, np.ndarray] = {
        "w": RNG.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "head": RNG.standard_normal((16, 4)).astype(np.float32),
        "axes": np.array([2, 3]),
        "all": np.array([-1]),
        "start": np.array(0),
        "step": np.array(1),
        "stride": np.array(stride),
        "columns": np.array([1, 2, 3]),
        "numbers": np.arange(16).reshape(1, 16, 1, 1),
        "rows": np.array([-1, 16]),
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], end=1),
        helper.make_node("Squeeze", ["sizes"], ["batch"]),
        helper.make_node("Range", ["start", "batch", "step"], ["counted"]),
        helper.make_node("Mul", ["counted", "stride"], ["firsts"]),
        helper.make_node("Unsqueeze", ["firsts", "columns"], ["column"]),
        helper.make_node("Add", ["column", "numbers"], ["places"]),
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ReduceMean", ["b", "axes"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "all"], ["line"]),
        helper.make_node("Gather", ["line", "places"], ["strided"]),
        helper.make_node("Reshape", ["strided", "rows"], ["view"]),
        helper.make_node("Gemm", ["view", "head"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    save(path, graph, opset=20)
    return path


def test_behind_global_pooling_channels_are_followed_and_trained(tmp_path: Path) -> None:
    path = exported(tmp_path / "model.onnx")
    assert not coupling.trace(infer(onnx.load(path))).groups
    prepare(work(path, tmp_path / "prepared", None))
    model = onnx.load(tmp_path / "prepared" / "model.onnx")
    assert [n.op_type for n in model.graph.node] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert [g.size for g in coupling.trace(model).groups] == [16]
    TorchGraph(model, answers(model.graph))
    x = RNG.standard_normal((5, 3, 8, 8)).astype(np.float32)
    first, second = (
        open_session(p, 1).run(None, {"x": x})[0] for p in (path, tmp_path / "prepared" / "model.onnx")
    )
    assert first == pytest.approx(second, abs=1e-5)


def test_a_gather_that_reads_in_another_order_stays(tmp_path: Path) -> None:
    model = onnx.load(exported(tmp_path / "model.onnx", stride=0))
    assert straighten(model) is model
