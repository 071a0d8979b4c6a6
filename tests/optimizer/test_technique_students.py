"""Students that failed the gate are taught on: from the weights that they have, once for all their forms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from longshore.api.optimize import TechniqueName
from longshore_optimizer.techniques import students, training
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work
from longshore_optimizer.techniques.lesson import Lesson
from longshore_optimizer.techniques.registry import TECHNIQUES
from onnx import numpy_helper

from tests.optimizer.technique_bench import REDUCED, digits_folder, outputs, work


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("students"))


class Maker:
    """Makes a disturbed copy of the original as a student, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Work] = []

    def __call__(self, job: Work) -> onnx.ModelProto:
        self.asked.append(job)
        student = onnx.load(job.model)
        rng = np.random.default_rng(0)
        for tensor in student.graph.initializer:
            if tensor.name in ("w2", "w3", "wf"):
                values = numpy_helper.to_array(tensor)
                noise = rng.standard_normal(values.shape) * 0.5 * values.std()
                tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), tensor.name))
        return student


def wrong(model: Path, folder: Path) -> float:
    """Cross-entropy on the evaluation data."""
    with np.load(folder / "evaluation.npz") as loaded:
        scores, labels = outputs(model, {"x": loaded["x"]}), loaded["labels"]
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


def written(folder: Path, scratch: Path, name: str, maker: Maker, **parameters: object) -> Path:
    job = work(folder / "prepared" / "model.onnx", scratch, folder / "calibration.npz", **parameters)
    job = replace(job, out=scratch / name / "model.onnx", training=folder / "training.npz", seconds=60.0)
    job.out.parent.mkdir()
    students.write(job, maker)
    return job.out


def test_a_student_is_taught_on_from_the_weights_that_it_has(folder: Path, tmp_path: Path) -> None:
    maker = Maker()
    eight = {"int8": True, "reduceRange": REDUCED}
    before = written(folder, tmp_path, "before", maker, epochs=4)
    after = written(folder, tmp_path, "after", maker, epochs=4, further=True)
    small = written(folder, tmp_path, "small", maker, epochs=4, further=True, **eight)
    assert len(maker.asked) == 1, "the student that failed is there"
    assert wrong(after, folder) < 0.5 * wrong(before, folder)
    assert small.stat().st_size < 0.5 * after.stat().st_size
    assert wrong(small, folder) < 0.5 * wrong(before, folder)


def test_a_run_that_goes_on_after_a_crash_makes_the_student_in_half_of_the_time(
    folder: Path, tmp_path: Path
) -> None:
    maker = Maker()
    after = written(folder, tmp_path, "after", maker, epochs=4, further=True)
    assert [job.seconds for job in maker.asked] == [30.0]
    assert "further" not in maker.asked[0].parameters
    again = written(folder, tmp_path, "before", maker, epochs=4)
    assert len(maker.asked) == 1
    assert wrong(after, folder) < 0.5 * wrong(again, folder)


@pytest.mark.parametrize(
    "name",
    [TechniqueName.STRUCTURED_PRUNING, TechniqueName.DISTILLATION, TechniqueName.COMPACT_CONVOLUTION],
)
@pytest.mark.parametrize("opset", [8, 17])
@pytest.mark.parametrize("limit", [None, 1 << 16])
def test_the_first_students_may_be_taught_on_in_each_form_that_they_have(
    name: TechniqueName, opset: int, limit: int | None
) -> None:
    facts = ModelFacts(opset, {"Conv": 3}, 1 << 20, (), ())
    target = TargetFacts(calibration=True, training=True, size_limit=limit)
    space = TECHNIQUES[name].space(facts, target)
    further = [p for p in space if p.parameters.get("further")]
    known = {p.name: p for p in space}
    eight = opset >= 13 and (limit is None or name is TechniqueName.COMPACT_CONVOLUTION)
    forms = 2 if eight else 1
    # A model may have no shallow student: the next one is taught on, too.
    number = 2 if name is TechniqueName.DISTILLATION else 1
    firsts = [p for p in space if p.trains and p.after is None][: forms * number : forms]

    def before(form: Proposal) -> Proposal:
        return known[form.name.removesuffix("-further")]

    assert [before(p) for p in further[::forms]] == firsts
    assert [p.after for p in further] == [p.name for p in firsts for _ in range(forms)]
    assert all(p.trains for p in further)
    assert all(p.parameters == before(p).parameters | {"further": True} for p in further)


def test_the_samples_that_judged_before_judge_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Lesson] = []

    def untaught(student: onnx.ModelProto, *rest: Any, **_: Any) -> onnx.ModelProto:
        asked.append(rest[2])
        return student

    monkeypatch.setattr(training, "train", untaught)
    written(folder, tmp_path, "after", Maker(), further=True)
    # Those that were taught before would flatter the weights that the student comes with.
    assert [lesson.seed for lesson in asked] == [0]


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        (TechniqueName.STRUCTURED_PRUNING, False),
        (TechniqueName.DISTILLATION, True),
        (TechniqueName.COMPACT_CONVOLUTION, False),
    ],
)
def test_another_teacher_goes_on_teaching_in_distillation_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: TechniqueName, foreign: bool
) -> None:
    taught: list[bool] = []

    def untaught(student: onnx.ModelProto, *_: Any, **options: Any) -> onnx.ModelProto:
        taught.append(options.get("foreign") is not None)
        return student

    monkeypatch.setattr(training, "train", untaught)
    facts = ModelFacts(17, {"Conv": 3}, 1 << 20, (), ())
    target = TargetFacts(calibration=True, training=True)
    further = next(p for p in TECHNIQUES[name].space(facts, target) if p.parameters.get("further"))
    parameters = further.parameters | {"int8": False, "schedule": "constant"}
    model = folder / "prepared" / "model.onnx"
    job = work(model, tmp_path, folder / "calibration.npz", **parameters)
    job = replace(job, out=tmp_path / "out" / "model.onnx", training=folder / "training.npz", teacher=model)
    job.out.parent.mkdir()
    TECHNIQUES[name].apply(job)
    assert taught == [foreign, foreign], "in the first lesson and in the one that follows"
