"""A student of the user's own learns what the original answers, and takes its place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from longshore.api.optimize import TechniqueName
from longshore.artifact.manifest import Verdict
from longshore_optimizer import pipeline
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from longshore_optimizer.techniques import given_student
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.registry import TECHNIQUES

from tests.optimizer.conftest import mlp
from tests.optimizer.technique_bench import accuracy, digits_cnn, outputs, work

DISTILLATION = TechniqueName.DISTILLATION


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network, its data, and images to learn from; it says itself what they show."""
    out = tmp_path_factory.mktemp("given")
    model, calibration, _ = digits_cnn(out)
    with np.load(calibration) as data:
        images = data["x"]
    rng = np.random.default_rng(1)
    noisy = [images + rng.standard_normal(images.shape).astype(np.float32) * 0.05 for _ in range(12)]
    x = np.concatenate([images, *noisy])
    np.savez(out / "training.npz", x=x, labels=np.argmax(outputs(model, {"x": x}), 1))
    return out


def student(path: Path, *, classes: int = 10, name: str = "pixels") -> Path:
    """A perceptron on 8 x 8 images that has learned nothing; one tensor is called as the original's input."""
    mlp(path, inputs=64, hidden=96, outputs=classes)
    model = onnx.load(path)
    graph = model.graph
    shape = onnx.numpy_helper.from_array(np.array([0, 64], np.int64), "shape")
    graph.initializer.append(shape)
    for node in graph.node:
        for position, given in enumerate(node.input):
            node.input[position] = "flat" if given == "x" else given
        if node.output[0] == "h0":
            node.output[0] = "x"
        for position, given in enumerate(node.input):
            node.input[position] = "x" if given == "h0" else given
    graph.node.insert(0, onnx.helper.make_node("Reshape", [name, "shape"], ["flat"], name="flatten"))
    del graph.input[:]
    graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 1, 8, 8]))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_a_student_takes_the_names_of_the_original(folder: Path, tmp_path: Path) -> None:
    path = student(tmp_path / "student.onnx")
    original = onnx.load(folder / "model.onnx")
    onnx.save(given_student.load(path, original), tmp_path / "renamed.onnx")
    renamed = onnx.load(tmp_path / "renamed.onnx")
    assert [i.name for i in renamed.graph.input] == ["x"]
    assert [o.name for o in renamed.graph.output] == [o.name for o in original.graph.output]
    x = np.random.default_rng(0).random((5, 1, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(
        outputs(tmp_path / "renamed.onnx", {"x": x}), outputs(path, {"pixels": x}), atol=1e-6
    )


def test_what_has_learned_nothing_learns_what_the_original_knows(folder: Path, tmp_path: Path) -> None:
    path = student(tmp_path / "student.onnx")
    job = work(
        folder / "model.onnx",
        tmp_path / "out",
        folder / "calibration.npz",
        given=True,
        relation="response",
        epochs=12,
    )
    TECHNIQUES[DISTILLATION].apply(replace(job, training=folder / "training.npz", student=path))
    evaluation = folder / "evaluation.npz"
    assert accuracy(job.out, evaluation) > 0.8
    assert job.out.stat().st_size < 1.2 * path.stat().st_size


def request(folder: Path, out: Path, path: Path) -> Request:
    return Request(
        model=folder / "model.onnx",
        input_sha256="0" * 64,
        uri=None,
        work=out / "work",
        out=out / "out",
        cores=usable_cores(1),
        calibration=folder / "calibration.npz",
        evaluation=folder / "evaluation.npz",
        training=folder / "training.npz",
        student=path,
        max_drop=0.4,
        techniques=(DISTILLATION,),
        trials=2,
        epochs=12,
        seconds=240.0,
    )


def test_the_student_of_a_request_is_tried_first_in_both_forms(folder: Path, tmp_path: Path) -> None:
    path = student(tmp_path / "student.onnx")
    manifest = pipeline.optimize(request(folder, tmp_path, path), Reporter())
    rows = {c.name: c for c in manifest.candidates}
    for name in ("distilled-given-int8", "distilled-given"):
        assert rows[name].verdict in (Verdict.CHOSEN, Verdict.KEPT), rows[name].reason
    tried = [c.name for c in manifest.candidates if c.verdict is not Verdict.SKIPPED]
    assert tried[0] == "original"
    assert set(tried[1:]) == {"distilled-given-int8", "distilled-given"}


def test_a_student_that_answers_something_else_is_told(folder: Path, tmp_path: Path) -> None:
    path = student(tmp_path / "student.onnx", classes=7)
    manifest = pipeline.optimize(request(folder, tmp_path, path), Reporter())
    (row,) = [c for c in manifest.candidates if c.name == "distilled-given-int8"]
    assert row.verdict is Verdict.SKIPPED
    assert "the teacher answers in the shape (10,), the student in (7,)" in row.reason
    assert manifest.chosen != row.name


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (("a", "b"), ("y",), "the student takes a, b, the model x: give the student the model's names"),
        (("x",), ("y", "z"), "the student answers y, z, the model y"),
    ],
)
def test_other_inputs_or_outputs_are_refused(
    tmp_path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...], message: str
) -> None:
    def tensors(names: tuple[str, ...]) -> list[onnx.ValueInfoProto]:
        return [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 16]) for n in names]

    nodes = [onnx.helper.make_node("Sum", inputs, [name], name=name) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "student", tensors(inputs), tensors(outputs))
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "s.onnx")
    original = onnx.load(mlp(tmp_path / "model.onnx"))
    with pytest.raises(NotApplicableError, match=message):
        given_student.load(tmp_path / "s.onnx", original)


def test_a_student_that_cannot_be_read_ends_the_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "student.onnx").write_text("not a model")
    with pytest.raises(Problem, match=r"the student cannot be used: student\.onnx is no model") as caught:
        pipeline.optimize(request(folder, tmp_path, tmp_path / "student.onnx"), Reporter())
    assert caught.value.reason is Reason.UNKNOWN_FORMAT
    assert not (tmp_path / "out").exists()
