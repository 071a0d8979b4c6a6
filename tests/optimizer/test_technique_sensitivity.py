"""Which layers 8 bits harm: found by what the model answers, and left as they are first."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore_optimizer.measure.session import open_session
from longshore_optimizer.techniques import calibration, coupling, sensitivity, static_int8
from longshore_optimizer.techniques.prepare import infer
from longshore_optimizer.techniques.sensitivity import Harm
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import save
from tests.optimizer.technique_bench import BASE

RNG = np.random.default_rng(0)


@pytest.fixture
def network(tmp_path: Path) -> tuple[Path, Path]:
    """Two convolutions and a product; one channel before the second is a hundred times the others."""
    first = RNG.standard_normal((8, 3, 3, 3)).astype(np.float32)
    first[0] *= 100
    second = RNG.standard_normal((8, 8, 3, 3)).astype(np.float32)
    second[:, 0] /= 1000
    weights = {"w1": first, "w2": second, "w3": RNG.standard_normal((512, 5)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4, name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1] * 4, name="second"),
        helper.make_node("Flatten", ["c"], ["d"], name="flat"),
        helper.make_node("Gemm", ["d", "w3"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(tmp_path / "model.onnx", graph)
    np.savez(tmp_path / "data.npz", x=RNG.standard_normal((16, 3, 8, 8)).astype(np.float32))
    return tmp_path / "model.onnx", tmp_path / "data.npz"


@pytest.mark.parametrize("seconds", [40.0, 0.0])
def test_the_layer_that_reads_outliers_is_found(
    network: tuple[Path, Path], tmp_path: Path, seconds: float
) -> None:
    model, data = network
    ranges = calibration.ranges(calibration.observe(model, data, tmp_path, 1), "minmax")
    found = sensitivity.harms(model, data, {"x": (-4.0, 4.0), **ranges}, tmp_path / "harm.json", 1, seconds)
    assert set(found) == {"first", "second", "head"}
    assert sensitivity.worst(found, 0.5) == ["second"]
    assert found["first"].products == 64 * 8 * 27
    assert found["head"].products == 512 * 5
    again = sensitivity.harms(model, data, {}, tmp_path / "harm.json", 1, seconds)
    assert again == found


def test_left_as_it_is_the_model_answers_better(network: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = network
    ranges = calibration.ranges(calibration.observe(model, data, tmp_path, 1), "minmax")
    with np.load(data) as loaded:
        x = loaded["x"]

    def error(excluded: list[str]) -> float:
        settings = BASE | {"operators": "heavy"}
        quantized = static_int8.quantize(onnx.load(model), ranges, settings, excluded)
        onnx.save(quantized, tmp_path / "quantized.onnx")
        given, exact = (
            open_session(p, 1).run(None, {"x": x})[0] for p in (tmp_path / "quantized.onnx", model)
        )
        return float(np.sum((given - exact) ** 2) / np.sum(exact**2))

    excluded = sensitivity.with_makers(onnx.load(model).graph, ["second"])
    assert excluded == ["second", "first"]
    assert error(excluded) < 0.2 * error([])


def test_of_equal_harm_the_layer_that_costs_least_to_leave_out_goes_first() -> None:
    found = {"large": Harm(1.0, 1e6), "small": Harm(1.0, 1e3), "harmless": Harm(0.01, 10.0)}
    assert sensitivity.worst(found, 0.3) == ["small"]
    assert sensitivity.worst(found, 0.9) == ["small", "harmless", "large"]
    assert sensitivity.worst(found, 0.0) == ["small"]


def test_products_are_counted_in_eight_bits_as_in_float(network: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = network
    ranges = calibration.ranges(calibration.observe(model, data, tmp_path, 1), "minmax")
    quantized = static_int8.quantize(onnx.load(model), ranges, BASE, [])
    assert coupling.products(infer(quantized)) == coupling.products(infer(onnx.load(model)))
