"""Batch normalization put back for training: it changes no answer, helps to learn, and is folded at last."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from longshore_optimizer.techniques import normalization, training
from longshore_optimizer.techniques.lesson import Lesson
from longshore_optimizer.techniques.torch_graph import TorchGraph, answers

from tests.optimizer.technique_bench import accuracy, digits_folder, outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("normalization"))


def images(folder: Path) -> np.ndarray:
    with np.load(folder / "evaluation.npz") as held:
        return np.asarray(held["x"])


def test_it_changes_no_answer_before_it_is_trained(folder: Path) -> None:
    model = onnx.load(folder / "prepared" / "model.onnx")
    x = torch.from_numpy(images(folder))
    target = answers(model.graph)
    plain, graph = TorchGraph(model, target), TorchGraph(model, target).eval()
    graph.normalize({"x": x[:64]})
    assert len(graph.normalizations) == 3, "one for each convolution with a bias"
    with torch.no_grad():
        torch.testing.assert_close(graph({"x": x}, [target]), plain({"x": x}, [target]), rtol=1e-4, atol=1e-4)


def test_what_is_written_answers_as_the_network_in_training_did(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "prepared" / "model.onnx")
    x = torch.from_numpy(images(folder))
    target = answers(model.graph)
    graph = TorchGraph(model, target)
    graph.normalize({"x": x[:64]})
    before = [value.clone() for value in graph.normalizations.buffers()]
    optimizer = torch.optim.Adam(graph.parameters(), lr=0.01)
    for start in range(64, 320, 64):
        (given,) = graph({"x": x[start : start + 64] * 2 + 1}, [target])
        optimizer.zero_grad()
        given.square().mean().backward()
        optimizer.step()
    assert all((a != b).any() for a, b in zip(before, graph.normalizations.buffers(), strict=True))
    written = onnx.ModelProto()
    written.CopyFrom(model)
    graph.eval().write(written)
    onnx.save(written, tmp_path / "written.onnx")
    assert [n.op_type for n in written.graph.node] == [n.op_type for n in model.graph.node]
    with torch.no_grad():
        (expected,) = graph({"x": x}, [target])
    np.testing.assert_allclose(
        outputs(tmp_path / "written.onnx", {"x": images(folder)}), expected.numpy(), rtol=1e-3, atol=1e-3
    )


def test_a_few_samples_are_normalized_by_what_is_known() -> None:
    layer = normalization.Normalization(torch.randn(64, 3, 4, 4)).train()
    one = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(layer(one), one, rtol=1e-4, atol=1e-4)
    known = layer.mean.clone()
    layer(torch.randn(64, 3, 4, 4) + 5)
    assert (layer.mean > known).all()


def test_a_weight_that_two_convolutions_share_and_a_missing_bias_are_left_alone() -> None:
    graph = onnx.parser.parse_graph(
        """
        g (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y)
        <float[4, 4, 1, 1] w, float[4, 4, 1, 1] v, float[4, 4, 1, 1] u, float[4] a, float[4] b, float[4] c> {
            p = Conv(x, w, a)
            q = Conv(p, w, b)
            r = Conv(q, v)
            y = Conv(r, u, c)
        }
        """
    )
    found = normalization.places(graph.node, {"w", "v", "u", "a", "b", "c"})
    assert [node.output[0] for node in found] == ["y"]
    assert normalization.places(graph.node, {"w", "v", "u"}) == []


def test_classes_are_learned_from_scratch_in_fewer_passes_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = onnx.load(folder / "prepared" / "model.onnx")
    student = onnx.ModelProto()
    student.CopyFrom(teacher)
    rng = np.random.default_rng(0)
    for tensor in student.graph.initializer:
        if len(tensor.dims) > 1:
            values = rng.standard_normal(tensor.dims).astype(np.float32) * 0.02
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    samples = training.load(folder / "prepared" / "model.onnx", folder / "training.npz")
    scores = []
    for count in (0, 1):
        if not count:
            monkeypatch.setattr(normalization, "places", lambda *_: [])
        trained = training.train(student, teacher, samples, Lesson(epochs=8))
        monkeypatch.undo()
        onnx.save(trained, tmp_path / f"{count}.onnx")
        scores.append(accuracy(tmp_path / f"{count}.onnx", folder / "evaluation.npz"))
    assert scores[1] > scores[0] + 0.3


def test_answers_without_classes_are_learned_without_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder / "prepared" / "model.onnx"
    np.savez(tmp_path / "unlabelled.npz", x=images(folder))
    used: list[object] = []
    monkeypatch.setattr(TorchGraph, "normalize", lambda *arguments: used.append(arguments))
    for data in (tmp_path / "unlabelled.npz", folder / "training.npz"):
        samples = training.load(model, data)
        training.train(onnx.load(model), onnx.load(model), samples, Lesson(epochs=1))
        assert bool(used) == (samples.classes is not None)
