"""What the candidates of fewer bits are made of: their tensors, as any reader of ONNX files sees them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques.base import ModelFacts, TargetFacts
from longshore_optimizer.techniques.registry import TECHNIQUES
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.optimizer.conftest import cnn, save
from tests.optimizer.technique_bench import REDUCED, applied, outputs

LAYERS = ("Conv", "Gemm", "MatMul")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cnn(tmp_path_factory.mktemp("source") / "model.onnx")


def images(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random((32, 3, 32, 32), dtype=np.float32)


def built(technique: TechniqueName, name: str, source: Path, folder: Path) -> Path:
    """The candidate of this name with the parameters that it is offered with."""
    offered = TECHNIQUES[technique].space(
        ModelFacts(17, {"Conv": 3, "Gemm": 1}, source.stat().st_size, (), ()),
        TargetFacts(vnni=not REDUCED, calibration=True),
    )
    proposal = next(p for p in offered if p.name == name)
    np.savez(folder / "data.npz", x=images(seed=1))
    return applied(technique, source, folder, folder / "data.npz", **proposal.parameters)


def error(source: Path, path: Path) -> float:
    exact, given = (outputs(p, {"x": images(seed=2)}) for p in (source, path))
    return float(np.linalg.norm(given - exact) / np.linalg.norm(exact))


class Tensors:
    """A model's nodes and constants by the names of their outputs."""

    def __init__(self, path: Path) -> None:
        self.graph = onnx.load(path).graph
        self.constants = {t.name: t for t in self.graph.initializer}
        self.makers = {output: node for node in self.graph.node for output in node.output}

    @property
    def layers(self) -> list[NodeProto]:
        return [n for n in self.graph.node if n.op_type in LAYERS]

    def kinds(self, least: int) -> set[int]:
        """Types of the constants with at least so many elements."""
        return {t.data_type for t in self.graph.initializer if np.prod(t.dims) >= least}


def test_static_int8_is_qdq_of_uint8_activations_and_int8_weights_per_channel(
    source: Path, tmp_path: Path
) -> None:
    path = built(TechniqueName.STATIC_INT8, "static-int8", source, tmp_path)
    found = Tensors(path)
    layers = found.layers
    assert [n.op_type for n in layers].count("Conv") == 3
    assert len(layers) == 4, "in QDQ form the operators stay those of float32"
    for layer in layers:
        activation, weight = (found.makers[name] for name in layer.input[:2])

        assert activation.op_type == "DequantizeLinear"
        quantizer = found.makers[activation.input[0]]
        assert quantizer.op_type == "QuantizeLinear"
        for node in (activation, quantizer):
            zero_point = found.constants[node.input[2]]
            assert (zero_point.data_type, list(zero_point.dims)) == (TensorProto.UINT8, [])

        assert weight.op_type == "DequantizeLinear"
        stored = found.constants[weight.input[0]]
        assert stored.data_type == TensorProto.INT8
        (axis,) = (a.i for a in weight.attribute if a.name == "axis")
        scales = numpy_helper.to_array(found.constants[weight.input[1]])
        assert scales.shape == (stored.dims[axis],), "one scale for each channel"
        assert len(np.unique(scales)) > 1
        assert stored.dims[axis] == (10 if layer.op_type != "Conv" else stored.dims[0])
    assert 0 < error(source, path) < 0.1


def test_float16_stores_and_computes_in_half_precision(source: Path, tmp_path: Path) -> None:
    path = built(TechniqueName.FLOAT16, "float16", source, tmp_path)
    found = Tensors(path)
    assert found.kinds(least=16) == {TensorProto.FLOAT16}
    for layer in found.layers:
        weight = found.constants[layer.input[1]]
        assert weight.data_type == TensorProto.FLOAT16, "nothing is cast up before the layer"
    ends = [*found.graph.input, *found.graph.output]
    assert {v.type.tensor_type.elem_type for v in ends} == {TensorProto.FLOAT}, "callers see no difference"
    casts = [n for n in found.graph.node if n.op_type == "Cast"]
    assert {a.i for n in casts for a in n.attribute if a.name == "to"} == {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
    }
    assert path.stat().st_size < 0.6 * source.stat().st_size
    assert 0 < error(source, path) < 0.01


def test_float16_weights_are_stored_in_halves_and_cast_up_where_they_are_used(
    source: Path, tmp_path: Path
) -> None:
    path = built(TechniqueName.FLOAT16, "float16-weights", source, tmp_path)
    found = Tensors(path)
    assert found.kinds(least=256) == {TensorProto.FLOAT16}
    cast = [found.makers[n.input[1]] for n in found.layers if n.input[1] in found.makers]
    assert cast
    for node in cast:
        assert node.op_type == "Cast"
        assert [a.i for a in node.attribute if a.name == "to"] == [TensorProto.FLOAT]
        assert found.constants[node.input[0]].data_type == TensorProto.FLOAT16
    assert path.stat().st_size < 0.6 * source.stat().st_size
    assert 0 < error(source, path) < 0.01


def branches(path: Path) -> Path:
    """x -> y, one of two layers by the sign of x's sum; the branches call their weights alike."""

    def branch(seed: int) -> onnx.GraphProto:
        weight = np.random.default_rng(seed).standard_normal((16, 16)).astype(np.float32)
        value = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
        node = helper.make_node("MatMul", ["x", "w"], ["z"])
        return helper.make_graph(
            [node], f"branch-{seed}", [], [value], [numpy_helper.from_array(weight, "w")]
        )

    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"]),
            helper.make_node("If", ["positive"], ["y"], then_branch=branch(0), else_branch=branch(1)),
        ],
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(np.zeros((), np.float32), "zero")],
    )
    save(path, graph)
    return path


def test_branches_that_call_their_weights_alike_compute_in_half_precision(tmp_path: Path) -> None:
    source = branches(tmp_path / "model.onnx")
    path = applied(TechniqueName.FLOAT16, source, tmp_path, arithmetic="float16")
    for sign in (-1, 1):
        feeds = {"x": sign * np.random.default_rng(2).random((4, 16), dtype=np.float32)}
        exact, given = (outputs(model, feeds) for model in (source, path))
        assert np.abs(given - exact).max() < 0.01 * np.abs(exact).max()
        assert not np.array_equal(given, exact)
