"""Techniques that train: what pruning costs is learned back, from labels and from the original's answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from longshore.api.optimize import Optimize, TechniqueName
from longshore.artifact.manifest import Verdict
from longshore_optimizer import pipeline
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request, settings_of
from longshore_optimizer.techniques import training
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, TargetFacts, lacks_training
from longshore_optimizer.techniques.foreign_teacher import ForeignTeacher
from longshore_optimizer.techniques.iterative_pruning import shares
from longshore_optimizer.techniques.lesson import Lesson, rate
from longshore_optimizer.techniques.prepare import prepare
from longshore_optimizer.techniques.registry import TECHNIQUES, propose
from longshore_optimizer.techniques.torch_graph import TorchGraph, answers
from onnx import TensorProto, helper, numpy_helper

from tests.optimizer.conftest import mlp, save
from tests.optimizer.technique_bench import REDUCED, accuracy, digits_folder, outputs, work
from tests.realmodels import rapidocr_model

PRUNING, DISTILLATION = TechniqueName.STRUCTURED_PRUNING, TechniqueName.DISTILLATION


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("training"))


def trained(technique: TechniqueName, folder: Path, out: Path, **parameters: Any) -> Path:
    model = folder / "prepared" / "model.onnx"
    job = work(model, out, folder / "calibration.npz", **parameters)
    TECHNIQUES[technique].apply(replace(job, training=folder / "training.npz"))
    onnx.checker.check_model(onnx.load(job.out))
    return job.out


def test_a_network_that_lost_most_of_its_products_learns_its_answers_back(
    folder: Path, tmp_path: Path
) -> None:
    original, evaluation = folder / "model.onnx", folder / "evaluation.npz"
    plain = trained(PRUNING, folder, tmp_path / "plain", criterion="norm", share=0.8)
    tuned = trained(PRUNING, folder, tmp_path / "tuned", criterion="taylor", share=0.8, rounds=2, epochs=12)
    assert tuned.stat().st_size < 0.4 * original.stat().st_size
    assert accuracy(tuned, evaluation) >= accuracy(original, evaluation) - 0.01
    assert accuracy(tuned, evaluation) > accuracy(plain, evaluation) + 0.01


def test_a_student_in_eight_bits_is_eight_times_smaller_and_as_good(folder: Path, tmp_path: Path) -> None:
    original, evaluation = folder / "model.onnx", folder / "evaluation.npz"
    student = trained(
        DISTILLATION,
        folder,
        tmp_path,
        share=0.9,
        relation="response",
        epochs=4,
        int8=True,
        reduceRange=REDUCED,
    )
    assert student.stat().st_size * 8 < original.stat().st_size
    assert accuracy(student, evaluation) >= accuracy(original, evaluation) - 0.005


def test_training_data_of_a_request_reaches_the_techniques(folder: Path, tmp_path: Path) -> None:
    request = Request(
        model=folder / "model.onnx",
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        calibration=folder / "calibration.npz",
        evaluation=folder / "evaluation.npz",
        training=folder / "training.npz",
        max_drop=0.05,
        techniques=(DISTILLATION,),
        trials=1,
        epochs=5,
        seconds=240.0,
    )
    manifest = pipeline.optimize(request, Reporter())
    row = next(c for c in manifest.candidates if c.name == "distilled-shallow-75-int8")
    assert row.verdict in (Verdict.CHOSEN, Verdict.KEPT), row.reason
    assert row.drop_upper is not None
    assert row.drop_upper <= 0.05


def relearned(folder: Path, out: Path, relation: str) -> list[float]:
    """Squared errors of a disturbed network before and after the undisturbed one taught it."""
    model = folder / "prepared" / "model.onnx"
    with np.load(folder / "training.npz") as loaded:
        np.savez(out / "unlabelled.npz", x=loaded["x"])
    teacher = onnx.load(model)
    student = onnx.ModelProto()
    student.CopyFrom(teacher)
    rng = np.random.default_rng(0)
    for tensor in student.graph.initializer:
        if tensor.name in ("w1", "w2", "w3", "wf"):
            values = numpy_helper.to_array(tensor)
            noise = rng.standard_normal(values.shape) * 0.3 * values.std()
            tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), tensor.name))
    samples = training.load(model, out / "unlabelled.npz")
    assert samples.classes is None
    lesson = Lesson(epochs=3, relation=relation)
    onnx.save(student, out / "before.onnx")
    onnx.save(training.train(student, teacher, samples, lesson), out / "after.onnx")
    with np.load(folder / "evaluation.npz") as loaded:
        feeds = {"x": loaded["x"]}
    exact = outputs(model, feeds)
    return [float(np.mean((outputs(out / f"{n}.onnx", feeds) - exact) ** 2)) for n in ("before", "after")]


@pytest.mark.parametrize("relation", ["response", "feature", "relation"])
def test_without_labels_the_original_alone_teaches(folder: Path, tmp_path: Path, relation: str) -> None:
    before, after = relearned(folder, tmp_path, relation)
    assert after < 0.3 * before


def test_what_is_learned_in_16_bits_is_as_good(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = []
    for flags in ((), ("amx_bf16",)):
        monkeypatch.setattr(training.cpu, "cpu_flags", lambda flags=flags: flags)
        out = tmp_path / f"{len(flags)}"
        out.mkdir()
        errors.append(relearned(folder, out, "response")[1])
    assert errors[0] != errors[1], "one was learned in 16 bits"
    assert errors[1] < 1.2 * errors[0]


@pytest.mark.parametrize("pads", [[1, 2, 1, 2], [0, 1, 2, 3]])
def test_padding_is_that_of_onnx(tmp_path: Path, pads: list[int]) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 3, 3, 5)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, strides=[1, 2])
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "padded",
        [helper.make_tensor_value_info("x", floats, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", floats, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    save(path := tmp_path / "model.onnx", graph)
    x = rng.standard_normal((2, 3, 12, 12)).astype(np.float32)
    with torch.no_grad():
        (given,) = TorchGraph(onnx.load(path), "y")({"x": torch.from_numpy(x)}, ["y"])
    np.testing.assert_allclose(given.numpy(), outputs(path, {"x": x}), rtol=1e-4, atol=1e-5)


def test_weights_that_train_worse_are_not_kept(folder: Path) -> None:
    teacher = onnx.load(folder / "prepared" / "model.onnx")
    samples = training.load(folder / "prepared" / "model.onnx", folder / "training.npz")
    spoiled = training.train(teacher, teacher, samples, Lesson(epochs=1, rate=10.0, alpha=0.0))
    for before, after in zip(teacher.graph.initializer, spoiled.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))


@pytest.mark.parametrize(
    ("name", "shape"), [("PP-OCRv6_det_small.onnx", (2, 3, 64, 64)), ("digits-cnn", (5, 1, 8, 8))]
)
def test_graphs_answer_alike_where_they_are_trained(
    folder: Path, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    path = folder / "model.onnx" if name == "digits-cnn" else rapidocr_model(name)
    job = work(path, tmp_path, None)
    prepare(job)
    model = onnx.load(job.out)
    # Up to the last tensor that only known operators lead to.
    for node in reversed(model.graph.node):
        try:
            graph = TorchGraph(model, node.output[0])
        except NotApplicableError:
            continue
        if any(n.op_type == "Conv" for n in model.graph.node):
            break
    target = node.output[0]
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=target))
    onnx.save(model, tmp_path / "part.onnx")
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    with torch.no_grad():
        (given,) = graph({"x": torch.from_numpy(x)}, [target])
    expected = outputs(tmp_path / "part.onnx", {"x": x})
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


def test_a_teacher_with_another_output_shape_is_refused(tmp_path: Path) -> None:
    teacher, student = (onnx.load(mlp(tmp_path / f"{n}.onnx", outputs=n)) for n in (4, 6))
    x = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    samples = training.load(tmp_path / "4.onnx", tmp_path / "data.npz")
    with pytest.raises(NotApplicableError, match=r"answers in the shape \(4,\), the student in \(6,\)"):
        training.train(student, teacher, samples, Lesson())


def test_another_model_teaches_what_the_original_does_not_know(folder: Path, tmp_path: Path) -> None:
    teacher, evaluation = onnx.load(folder / "model.onnx"), folder / "evaluation.npz"
    original = onnx.load(folder / "prepared" / "model.onnx")
    rng = np.random.default_rng(0)
    for tensor in original.graph.initializer:
        if tensor.name == "wf":
            values = numpy_helper.to_array(tensor)
            spoiled = values + rng.standard_normal(values.shape).astype(np.float32) * 2 * values.std()
            tensor.CopyFrom(numpy_helper.from_array(spoiled, tensor.name))
    onnx.save(original, tmp_path / "original.onnx")
    # The teacher calls its input by another name and answers with probabilities.
    teacher.graph.input[0].name = "pixels"
    teacher.graph.node.insert(0, helper.make_node("Identity", ["pixels"], ["x"]))
    last = teacher.graph.output[0].name
    teacher.graph.node.append(helper.make_node("Softmax", [last], ["probabilities"]))
    teacher.graph.output[0].name = "probabilities"
    onnx.save(teacher, tmp_path / "teacher.onnx")
    with np.load(folder / "training.npz") as loaded:
        np.savez(tmp_path / "unlabelled.npz", x=loaded["x"])
    job = work(
        tmp_path / "original.onnx",
        tmp_path / "student",
        folder / "calibration.npz",
        share=0.5,
        relation="feature",
        epochs=8,
    )
    job = replace(job, training=tmp_path / "unlabelled.npz", teacher=tmp_path / "teacher.onnx")
    TECHNIQUES[DISTILLATION].apply(job)
    before = accuracy(tmp_path / "original.onnx", evaluation)
    assert accuracy(job.out, evaluation) > before + 0.1
    assert accuracy(job.out, evaluation) > accuracy(folder / "model.onnx", evaluation) - 0.05


def test_a_teacher_with_other_inputs_is_refused(folder: Path, tmp_path: Path) -> None:
    teacher = ForeignTeacher(mlp(tmp_path / "mlp.onnx"), tmp_path, 1)
    with pytest.raises(NotApplicableError, match="the teacher takes an input 'x', the model takes a, b"):
        teacher({"a": torch.zeros(2, 16), "b": torch.zeros(2, 16)}, [teacher.target])
    with pytest.raises(NotApplicableError, match="fails on the training data"):
        teacher({"x": torch.zeros(2, 17)}, [teacher.target])


def test_a_teacher_that_cannot_be_used_ends_the_run_before_it_costs_time(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "teacher.onnx").write_text("not a model")
    request = Request(
        model=folder / "model.onnx",
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        training=folder / "training.npz",
        teacher=tmp_path / "teacher.onnx",
    )
    with pytest.raises(Problem, match=r"the teacher cannot be used: teacher\.onnx is no model") as caught:
        pipeline.optimize(request, Reporter())
    assert caught.value.reason is Reason.UNKNOWN_FORMAT
    assert not request.out.exists()


def test_operators_that_cannot_be_trained_are_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", ["x", "x"], ["y"])],
        "odd",
        [value("x", TensorProto.FLOAT, [1, 4, 4])],
        [value("y", TensorProto.FLOAT, None)],
    )
    save(tmp_path / "model.onnx", graph)
    with pytest.raises(NotApplicableError, match="NonMaxSuppression"):
        TorchGraph(onnx.load(tmp_path / "model.onnx"), "y")


def test_answers_are_taken_before_a_softmax(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["y"]),
            helper.make_node("ArgMax", ["y"], ["label"]),
        ],
        "softmax",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("label", TensorProto.INT64, None), value("y", TensorProto.FLOAT, None)],
    )
    assert answers(graph) == "logits"


def test_the_most_passes_over_the_data_are_those_of_the_spec(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize = Optimize.model_validate({"training": {"uri": "https://data.example/t.npz", "epochs": 3}})
    epochs = settings_of(optimize)["epochs"]
    assert epochs == 3
    passes: list[int] = []
    exact = training.train

    def counted(*arguments: Any, **options: Any) -> onnx.ModelProto:
        passes.append(arguments[3].epochs)
        return exact(*arguments[:3], replace(arguments[3], epochs=0), **options)

    monkeypatch.setattr(training, "train", counted)
    model = folder / "prepared" / "model.onnx"
    for technique, parameters in (
        (DISTILLATION, {"share": 0.5, "relation": "response"}),
        (PRUNING, {"criterion": "taylor", "share": 0.5}),
    ):
        job = work(model, tmp_path / technique, folder / "calibration.npz", **parameters)
        TECHNIQUES[technique].apply(replace(job, training=folder / "training.npz", epochs=epochs))
        assert 0 < sum(passes) <= 3
        passes.clear()


def test_schedules() -> None:
    assert shares(0.6, 4, "constant") == [0.6]
    assert shares(0.6, 3, "polynomial") == pytest.approx([0.6 * 19 / 27, 0.6 * 26 / 27, 0.6])


def test_without_training_data_it_is_said_what_is_missing() -> None:
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    _, skipped = propose([DISTILLATION], facts, TargetFacts(calibration=True))
    assert dict(skipped)[DISTILLATION] == "it needs training data: add optimize.training"
    assert lacks_training(TargetFacts(training=True)) is None
    proposals, _ = propose([DISTILLATION, PRUNING], facts, TargetFacts(calibration=True, training=True))
    names = [p.name for p in proposals]
    assert "distilled-50-int8" in names
    assert "structured-trained-55-polynomial" in names


def test_a_student_is_trained_once_for_both_forms_and_meets_the_limit_on_the_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    exact = training.train

    def counted(*arguments: Any, **options: Any) -> onnx.ModelProto:
        calls.append(arguments)
        return exact(*arguments, **options)

    monkeypatch.setattr(training, "train", counted)
    limit = (folder / "model.onnx").stat().st_size // 9
    facts = ModelFacts(17, {"Conv": 3, "Gemm": 1}, 4 * 9 * limit, (), ())
    forms = TECHNIQUES[DISTILLATION].space(
        facts, TargetFacts(calibration=True, training=True, size_limit=limit)
    )
    first = next(form for form in forms if form.name == "distilled-50-int8-to-size")
    parameters = first.parameters | {"epochs": 1}
    eight = trained(DISTILLATION, folder, tmp_path / "eight", **parameters)
    assert eight.stat().st_size <= limit
    job = work(
        folder / "prepared" / "model.onnx", tmp_path / "float", folder / "calibration.npz", **parameters
    )
    del job.parameters["int8"]
    job = replace(job, scratch=tmp_path / "eight", training=folder / "training.npz")
    TECHNIQUES[DISTILLATION].apply(job)
    assert len(calls) == 1
    assert job.out.stat().st_size > eight.stat().st_size


def test_a_limit_that_no_pruning_meets_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match=r"stays over limits\.size"):
        trained(DISTILLATION, folder, tmp_path, share=0.5, relation="response", sizeLimit=500, epochs=1)


def test_the_learning_rate_has_come_down_when_the_time_is_up() -> None:
    lesson = Lesson(rate=0.01)
    rates = [rate(lesson, progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0, 3.0)]
    assert rates[0] == 0.01
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == rates[-2] == pytest.approx(0.0)
