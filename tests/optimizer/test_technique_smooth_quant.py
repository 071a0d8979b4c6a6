"""SmoothQuant on the case it was made for: a few channels of activations are far larger than the others."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques.base import NotApplicableError
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import save
from tests.optimizer.technique_bench import REDUCED, applied, outputs

WIDTH = 64


def outlier_block(path: Path, *, residual: bool = False, largest: float = 60.0) -> Path:
    """LayerNormalization whose scale is large in two channels, before a feed-forward block."""
    rng = np.random.default_rng(0)
    scale = np.ones(WIDTH, np.float32)
    scale[[3, 40]] = largest
    weights = {
        "scale": scale,
        "shift": np.zeros(WIDTH, np.float32),
        "w1": (rng.standard_normal((WIDTH, 128)) / 8).astype(np.float32),
        "w2": (rng.standard_normal((128, WIDTH)) / 11).astype(np.float32),
    }
    # The large channels carry little: that is how such models are trained.
    weights["w1"][[3, 40]] /= 2 * largest
    last = "z" if not residual else "sum"
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"], axis=-1, name="norm"),
        helper.make_node("MatMul", ["n", "w1"], ["h"], name="up"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], [last], name="down"),
    ]
    if residual:
        nodes.append(helper.make_node("Add", ["sum", "n"], ["z"], name="residual"))
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(path, graph)
    return path


def error(model: Path, quantized: Path) -> float:
    x = np.random.default_rng(2).standard_normal((300, WIDTH)).astype(np.float32)
    exact, given = (outputs(p, {"x": x}).astype(np.float64) for p in (model, quantized))
    return float(np.linalg.norm(given - exact) / np.linalg.norm(exact))


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    x = np.random.default_rng(1).standard_normal((100, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=x)
    return tmp_path / "calibration.npz"


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_smoothing_recovers_what_outliers_cost(tmp_path: Path, calibration: Path, kind: str) -> None:
    model = outlier_block(tmp_path / "block.onnx")
    smooth = applied(
        TechniqueName.SMOOTH_QUANT,
        model,
        tmp_path / "smooth",
        calibration,
        alpha=0.5,
        activations=kind,
        reduceRange=REDUCED,
    )
    settings = {"operators": "heavy", "perChannel": True, "reduceRange": REDUCED}
    if kind == "static":
        settings |= {"calibrator": "minmax", "activations": "uint8", "weights": "int8"}
        plain = applied(TechniqueName.STATIC_INT8, model, tmp_path / "plain", calibration, **settings)
    else:
        settings |= {"operators": ["MatMul"]}
        plain = applied(TechniqueName.DYNAMIC_INT8, model, tmp_path / "plain", None, **settings)
    assert error(model, smooth) < 0.4 * error(model, plain)
    assert error(model, smooth) < 0.03
    # The division went into the normalization: not one operator more than without smoothing.
    operators = [n.op_type for n in onnx.load(smooth).graph.node]
    assert operators.count("Mul") <= [n.op_type for n in onnx.load(plain).graph.node].count("Mul")


def test_what_else_reads_the_activation_still_gets_it_unchanged(tmp_path: Path, calibration: Path) -> None:
    model = outlier_block(tmp_path / "block.onnx", residual=True)
    smooth = applied(
        TechniqueName.SMOOTH_QUANT,
        model,
        tmp_path,
        calibration,
        alpha=0.5,
        activations="dynamic",
        reduceRange=REDUCED,
    )
    assert error(model, smooth) < 0.01


def test_without_outliers_there_is_nothing_to_smooth(tmp_path: Path, calibration: Path) -> None:
    model = outlier_block(tmp_path / "block.onnx", largest=1.0)
    for_relu_too = {"alpha": 0.5, "activations": "dynamic", "reduceRange": REDUCED}
    with pytest.raises(NotApplicableError, match="outliers"):
        applied(TechniqueName.SMOOTH_QUANT, model, tmp_path, calibration, **for_relu_too)
