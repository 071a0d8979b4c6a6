"""Compact convolutions: far fewer products, and after training the answers are as good."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques import coupling
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, TargetFacts
from longshore_optimizer.techniques.compact_convolution import Form, dense, fits, grouped, replaced
from longshore_optimizer.techniques.prepare import infer
from longshore_optimizer.techniques.registry import TECHNIQUES, propose
from longshore_optimizer.techniques.torch_graph import TorchGraph, answers
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import cnn, mlp, save
from tests.optimizer.technique_bench import accuracy, digits_folder, outputs, work

COMPACT = TechniqueName.COMPACT_CONVOLUTION


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("compact"))


def built(folder: Path, out: Path, model: Path | None = None, **parameters: Any) -> Path:
    job = work(model or folder / "prepared" / "model.onnx", out, folder / "calibration.npz", **parameters)
    TECHNIQUES[COMPACT].apply(replace(job, training=folder / "training.npz"))
    onnx.checker.check_model(onnx.load(job.out), full_check=True)
    return job.out


def products(path: Path) -> float:
    return coupling.products(infer(onnx.load(path)))


@pytest.mark.parametrize(
    ("form", "number", "share", "gained"), [("separable", 1, 0.3, 0.1), ("grouped", 4, 0.4, 0.05)]
)
def test_a_student_of_compact_convolutions_answers_as_well(
    folder: Path, tmp_path: Path, form: str, number: int, share: float, gained: float
) -> None:
    original, evaluation = folder / "prepared" / "model.onnx", folder / "evaluation.npz"
    untrained = built(folder, tmp_path / "untrained", form=form, number=number, epochs=0)
    trained = built(folder, tmp_path / "trained", form=form, number=number, epochs=8)
    assert products(trained) < share * products(original)
    assert trained.stat().st_size < 0.5 * original.stat().st_size
    assert accuracy(trained, evaluation) >= accuracy(original, evaluation) - 0.03
    assert accuracy(trained, evaluation) > accuracy(untrained, evaluation) + gained


def chain(path: Path, *, channels: int = 32) -> Path:
    """Two convolutions one behind the other, with random weights."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (channels, 16, 3, 3), "w2": (channels, channels, 3, 3)}
    weights = [
        numpy_helper.from_array((rng.standard_normal(s) / 12).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4, name="first"),
            helper.make_node("Relu", ["a"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w2"], ["y"], pads=[1] * 4, name="second"),
        ],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        weights,
    )
    save(path, graph)
    return path


def test_channels_are_shuffled_between_groups_so_that_all_inputs_reach_all_outputs(tmp_path: Path) -> None:
    model = onnx.load(chain(tmp_path / "model.onnx"))
    student = replaced(model, dict.fromkeys(dense(model), Form("grouped", 4)), {})
    onnx.save(student, tmp_path / "student.onnx")
    assert [n.op_type for n in student.graph.node] == ["Conv", "Relu", "Gather", "Conv"]
    base = np.random.default_rng(0).random((1, 16, 6, 9)).astype(np.float32)
    # One input of each of the four groups: without the shuffle it would reach a quarter of the outputs.
    for channel in (0, 5, 10, 15):
        changed = base.copy()
        changed[:, channel] += 1
        first, second = (outputs(tmp_path / "student.onnx", {"x": x}) for x in (base, changed))
        assert (np.abs(first - second).max(axis=(0, 2, 3)) > 0).all()
    with torch.no_grad():
        (given,) = TorchGraph(student, answers(student.graph))({"x": torch.from_numpy(base)}, ["y"])
    np.testing.assert_allclose(
        given.numpy(), outputs(tmp_path / "student.onnx", {"x": base}), rtol=1e-4, atol=1e-5
    )


def test_with_as_many_kernels_as_places_a_separable_convolution_is_the_same(tmp_path: Path) -> None:
    model = onnx.load(chain(tmp_path / "model.onnx"))
    student = replaced(model, {"second": Form("separable", 9)}, {})
    onnx.save(student, tmp_path / "student.onnx")
    x = {"x": np.random.default_rng(0).random((2, 16, 7, 7)).astype(np.float32)}
    np.testing.assert_allclose(
        outputs(tmp_path / "student.onnx", x), outputs(tmp_path / "model.onnx", x), rtol=1e-3, atol=1e-4
    )
    weight = dense(model)["second"]
    assert not fits(weight, Form("separable", 9))
    assert fits(weight, Form("separable", 2))


def test_groups_make_up_for_channels_that_repeat_what_they_see() -> None:
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((4, 500))
    # Each of the four groups sees all there is to see.
    x = np.tile(basis, (4, 1)) + 1e-3 * rng.standard_normal((16, 500))
    weight = rng.standard_normal((16, 16, 1, 1)).astype(np.float32)
    thin = grouped(weight, 4, np.arange(16), x @ x.T / 500)
    exact = weight[:, :, 0, 0] @ x
    given = np.concatenate([thin[4 * g : 4 * g + 4, :, 0, 0] @ x[4 * g : 4 * g + 4] for g in range(4)])
    assert np.mean((given - exact) ** 2) < 0.01 * np.mean(exact**2)


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    _, skipped = propose([COMPACT], facts, TargetFacts(calibration=True))
    assert dict(skipped)[COMPACT] == "it needs training data: add optimize.training"
    _, skipped = propose([COMPACT], replace(facts, operators={"Gemm": 2}), TargetFacts(training=True))
    assert dict(skipped)[COMPACT] == "the model has no convolution"
    narrow = cnn(tmp_path / "narrow.onnx", channels=8, size=8)
    x = np.zeros((4, 3, 8, 8), np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    job = work(narrow, tmp_path / "out", tmp_path / "data.npz", form="separable", number=1)
    with pytest.raises(NotApplicableError, match="no dense convolution with a kernel over 1 and at least 16"):
        TECHNIQUES[COMPACT].apply(replace(job, training=tmp_path / "data.npz"))
    assert dense(onnx.load(mlp(tmp_path / "mlp.onnx"))) == {}
