"""Techniques that buy bytes: shared and pruned weights, at the size that the file really has."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore.api.optimize import Goal, TechniqueName
from longshore_optimizer.data import TensorSpec
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, TargetFacts
from longshore_optimizer.techniques.registry import propose
from longshore_optimizer.techniques.unstructured_pruning import keep_largest, prune_small, relative_gaps
from longshore_optimizer.techniques.weight_sharing import cluster
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import mlp, save
from tests.optimizer.technique_bench import REDUCED, accuracy, applied, outputs

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("clusters", "smaller", "lost"), [(256, 3.7, 0.002), (64, 4.6, 0.003), (16, 6.8, 0.01)]
)
def test_shared_weights_cost_a_byte_or_less(
    digits: Path, tmp_path: Path, clusters: int, smaller: float, lost: float
) -> None:
    model, data = digits / "digits.onnx", digits / "evaluation.npz"
    shared = applied(TechniqueName.WEIGHT_SHARING, model, tmp_path, clusters=clusters)
    assert shared.stat().st_size * smaller < model.stat().st_size
    assert accuracy(shared, data) >= accuracy(model, data) - lost


@pytest.mark.parametrize(("clusters", "smaller", "error"), [(16, 4.0, 0.15), (64, 3.0, 0.04)])
def test_recurrent_weights_are_shared_too(
    tmp_path: Path, clusters: int, smaller: float, error: float
) -> None:
    # The number of weights is no multiple of what shares a byte.
    size, width = 47, 15
    weights = {
        "w": RNG.standard_normal((1, 4 * size, width)).astype(np.float32) / 4,
        "r": RNG.standard_normal((1, 4 * size, size)).astype(np.float32) / 7,
    }
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y", "h", "c"], hidden_size=size, name="lstm")],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, "n", width])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, "n", size])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(tmp_path / "model.onnx", graph)
    shared = applied(TechniqueName.WEIGHT_SHARING, tmp_path / "model.onnx", tmp_path, clusters=clusters)
    assert shared.stat().st_size * smaller < (tmp_path / "model.onnx").stat().st_size
    x = RNG.standard_normal((5, 20, width)).astype(np.float32)
    exact, given = (outputs(p, {"x": x}) for p in (tmp_path / "model.onnx", shared))
    assert np.linalg.norm(given - exact) < error * np.linalg.norm(exact)


def test_clusters_fit_better_than_even_steps() -> None:
    values = RNG.standard_normal(20_000).astype(np.float32)
    centres, codes = cluster(values, 16)
    assert len(np.unique(codes)) == 16
    # The best 16-level quantizer of a normal distribution has a mean squared error of 0.009501 (Max 1960).
    assert float(np.mean((centres[codes] - values) ** 2)) < 1.05 * 0.009501


def test_the_share_that_was_asked_for_is_pruned_and_the_file_shrinks_by_it(
    digits: Path, tmp_path: Path
) -> None:
    model, data = digits / "digits.onnx", digits / "evaluation.npz"
    pruned = applied(TechniqueName.UNSTRUCTURED_PRUNING, model, tmp_path, sparsity=0.7)
    # A gap of a byte and a value of two bytes for each of the 30 % that are left.
    assert pruned.stat().st_size < 0.27 * model.stat().st_size
    assert accuracy(pruned, data) >= accuracy(model, data) - 0.02
    dense = onnx.load(model)
    names = prune_small(dense, 0.7)
    tensors = [numpy_helper.to_array(i) for i in dense.graph.initializer if i.name in names]
    zeros = sum(int(np.sum(t == 0)) for t in tensors) / sum(t.size for t in tensors)
    assert zeros == pytest.approx(0.7, abs=0.001)


def test_two_of_four_keeps_the_larger_half_along_the_inputs(digits: Path, tmp_path: Path) -> None:
    values = np.array([[1, -5, 2, 3], [0.1, 0.2, -0.3, 0]], np.float32)
    np.testing.assert_array_equal(
        keep_largest(values, 1, 2, 4), np.array([[0, -5, 0, 3], [0, 0.2, -0.3, 0]], np.float32)
    )
    model, data = digits / "digits.onnx", digits / "evaluation.npz"
    pruned = applied(TechniqueName.UNSTRUCTURED_PRUNING, model, tmp_path, keep=2, of=4, dense=True)
    weights = [numpy_helper.to_array(i) for i in onnx.load(pruned).graph.initializer if len(i.dims) == 2]
    # MatMul holds the inputs on axis 0.
    for weight in (w for w in weights if w.size >= 1024):
        assert (np.count_nonzero(weight.reshape(-1, 4, weight.shape[1]), axis=1) <= 2).all()
    assert accuracy(pruned, data) >= accuracy(model, data) - 0.02


@pytest.mark.parametrize("places", [[], [0], [255], [256, 257], [0, 1, 5000, 5001], [700]])
def test_gaps_restore_every_place(places: list[int]) -> None:
    values = np.zeros(6000, np.float32)
    values[places] = np.arange(1, len(places) + 1)
    gaps, kept = relative_gaps(values)
    restored = np.zeros(6000, np.float32)
    restored[np.cumsum(gaps.astype(np.int64))] = kept
    np.testing.assert_array_equal(restored, values)


def test_small_models_are_left_alone(tmp_path: Path) -> None:
    model = mlp(tmp_path / "model.onnx", inputs=4, hidden=8)
    with pytest.raises(NotApplicableError):
        applied(TechniqueName.WEIGHT_SHARING, model, tmp_path, clusters=16)
    with pytest.raises(NotApplicableError):
        applied(TechniqueName.UNSTRUCTURED_PRUNING, model, tmp_path, sparsity=0.5)


def test_what_only_saves_bytes_is_tried_last_unless_bytes_are_the_goal() -> None:
    tensors = (TensorSpec("x", "float32", (None, 8)),)
    facts = ModelFacts(17, {"MatMul": 4}, 1 << 20, tensors, tensors)
    for goal in Goal:
        proposals, _ = propose([TechniqueName.AUTO], facts, TargetFacts(calibration=True, goal=goal))
        flags = [p.size_only for p in proposals]
        assert (flags == sorted(flags)) == (goal is not Goal.SIZE)


def test_embeddings_of_half_a_byte_beside_products_of_a_byte(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    table = draw.standard_normal((2000, 64)).astype(np.float32) * draw.uniform(0.2, 2, (2000, 1))
    weights = {"table": table.astype(np.float32), "w": draw.standard_normal((64, 64)).astype(np.float32) / 8}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "i"], ["g"], name="g"),
            helper.make_node("MatMul", ["g", "w"], ["y"], name="m"),
        ],
        "lookup",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    save(tmp_path / "model.onnx", graph)
    settings = {"operators": ["MatMul"], "perChannel": True, "reduceRange": REDUCED, "tableClusters": 16}
    small = applied(TechniqueName.DYNAMIC_INT8, tmp_path / "model.onnx", tmp_path, **settings)
    assert small.stat().st_size * 6.5 < (tmp_path / "model.onnx").stat().st_size
    feeds = {"i": np.arange(500)}
    exact, given = (outputs(p, feeds) for p in (tmp_path / "model.onnx", small))
    cosine = np.sum(exact * given, -1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(given, axis=-1)
    assert np.median(cosine) > 0.99
    assert cosine.min() > 0.95
