"""Low rank: exact where weights are of low rank, and by what inputs really do where weights are not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.low_rank_convolution import alternate
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import save
from tests.optimizer.technique_bench import accuracy, applied, digits_cnn, outputs

RNG = np.random.default_rng(0)


def convolution(path: Path, weight: np.ndarray) -> Path:
    """One convolution with bias, strides and uneven padding on (batch, 32, 12, 12)."""
    bias = RNG.standard_normal(len(weight)).astype(np.float32)
    side = weight.shape[2]
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv",
                ["x", "w", "b"],
                ["y"],
                name="conv",
                kernel_shape=[side, side],
                pads=[1, 0, 1, 1],
                strides=[1, 2],
            )
        ],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[1], 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", len(weight), None, None])],
        [numpy_helper.from_array(weight.astype(np.float32), "w"), numpy_helper.from_array(bias, "b")],
    )
    save(path, graph)
    return path


def tucker_weight(outs: int, ins: int, side: int, rank: int) -> np.ndarray:
    core = RNG.standard_normal((rank, rank, side, side))
    return np.einsum(
        "or,rskl,si->oikl", RNG.standard_normal((outs, rank)), core, RNG.standard_normal((rank, ins))
    )


def cp_weight(outs: int, ins: int, side: int, rank: int) -> np.ndarray:
    kernels = RNG.standard_normal((rank, side, side))
    return np.einsum(
        "or,rkl,ri->oikl", RNG.standard_normal((outs, rank)), kernels, RNG.standard_normal((rank, ins))
    )


@pytest.mark.parametrize(
    ("form", "weight", "layers", "size"),
    [
        ("tucker", tucker_weight(64, 32, 3, 5), 3, 0.1),
        ("tucker", tucker_weight(64, 32, 1, 5), 2, 0.35),
        ("cp", cp_weight(64, 32, 3, 12), 3, 0.35),
    ],
)
def test_a_convolution_of_low_rank_becomes_thin_ones_with_the_same_answers(
    tmp_path: Path, form: str, weight: np.ndarray, layers: int, size: float
) -> None:
    model = convolution(tmp_path / "model.onnx", weight)
    thin = applied(TechniqueName.LOW_RANK, model, tmp_path, energy=0.9999, convolutions=form)
    assert [n.op_type for n in onnx.load(thin).graph.node] == ["Conv"] * layers
    assert thin.stat().st_size < size * model.stat().st_size + 1000
    x = RNG.standard_normal((2, 32, 12, 12)).astype(np.float32)
    exact, given = outputs(model, {"x": x}), outputs(thin, {"x": x})
    assert given.shape == exact.shape
    assert np.linalg.norm(given - exact) < 0.015 * np.linalg.norm(exact)


def test_weights_of_full_rank_are_left_alone_without_data(tmp_path: Path) -> None:
    model = convolution(tmp_path / "model.onnx", RNG.standard_normal((64, 32, 3, 3)))
    with pytest.raises(NotApplicableError, match="low rank"):
        applied(TechniqueName.LOW_RANK, model, tmp_path, energy=0.97, convolutions="tucker")


def test_inputs_in_few_directions_make_weights_of_full_rank_thin(tmp_path: Path) -> None:
    model, calibration, evaluation = digits_cnn(tmp_path / "cnn")
    with pytest.raises(NotApplicableError):
        applied(TechniqueName.LOW_RANK, model, tmp_path / "a", energy=0.97, convolutions="tucker")
    thin = applied(
        TechniqueName.LOW_RANK, model, tmp_path / "b", calibration, energy=0.97, convolutions="tucker"
    )
    assert thin.stat().st_size < 0.7 * model.stat().st_size
    assert accuracy(thin, evaluation) >= accuracy(model, evaluation) - 0.005


def test_neurons_of_a_trained_perceptron_answer_in_few_directions(digits: Path, tmp_path: Path) -> None:
    model = digits / "digits.onnx"
    thin = applied(
        TechniqueName.LOW_RANK,
        model,
        tmp_path,
        digits / "calibration.npz",
        energy=0.99,
        convolutions="tucker",
    )
    assert thin.stat().st_size < 0.7 * model.stat().st_size
    evaluation = digits / "evaluation.npz"
    assert accuracy(thin, evaluation) >= accuracy(model, evaluation) - 0.01


def test_alternating_least_squares_finds_a_sum_of_few_products() -> None:
    values = cp_weight(20, 16, 3, 4).reshape(20, 16, 9)
    *_, lost = alternate(values, 6)
    assert lost < 1e-3
    *_, coarse = alternate(values, 2)
    assert coarse > lost
