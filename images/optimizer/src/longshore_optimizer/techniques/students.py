"""Students that were trained: in float32 and 8 bits, trained once for both; taught on where they failed."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from longshore_optimizer.techniques import calibration, onnxfile, static_int8
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work
from longshore_optimizer.techniques.prepare import LEAST_OPSET

_FORM = ("int8", "reduceRange")
"""Parameters that say what becomes of a student after its training."""

_FURTHER = "further"
"""The parameter of a student whose lesson goes on."""

_TRAINING_SHARE = 0.8
"""Share of the time that going on may take; the rest is for quantizing."""

Make = Callable[[Work], onnx.ModelProto]
"""Makes and teaches a student."""


def in_eight_bits_too(student: Proposal, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
    """A student quantized, where the opset allows that, and as it is."""
    if model.opset < LEAST_OPSET:
        return (student,)
    parameters = student.parameters | {"int8": True, "reduceRange": not target.vnni}
    return replace(student, name=f"{student.name}-int8", parameters=parameters), student


def continued(forms: Sequence[Proposal]) -> tuple[Proposal, ...]:
    """Give the same student taught on with the time that is left, for where its first form fails the gate.

    Weights that came near are worth more than those of a student that begins anew.
    """
    return tuple(
        replace(
            form,
            name=f"{form.name}-{_FURTHER}",
            parameters=form.parameters | {_FURTHER: True},
            after=forms[0].name,
        )
        for form in forms
    )


def write(work: Work, make: Make) -> None:
    """Write the student in the form that the parameters ask for; `make` is called once for all forms."""
    student = _student(work, make)
    if work.parameters.get("int8"):
        data = work.calibration or work.training
        assert data is not None
        student = quantized(student, data, work)
    del student.graph.value_info[:]
    onnxfile.save(student, work.out)


def _student(work: Work, make: Make) -> onnx.ModelProto:
    path = _path(work)
    if path.is_file():
        return onnxfile.load(path)
    student = _taught_on(work, make) if work.parameters.get(_FURTHER) else make(work)
    del student.graph.value_info[:]
    onnxfile.save(student, path)
    return student


def _path(work: Work) -> Path:
    """Where a student lies, whatever its form."""
    rest = {k: v for k, v in work.parameters.items() if k not in _FORM}
    material = [str(p) for p in (work.model, work.calibration, work.training, work.teacher, work.student)]
    settings = json.dumps([material, rest, work.seed, work.epochs], sort_keys=True)
    return work.scratch / f"student-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.onnx"


def _taught_on(work: Work, make: Make) -> onnx.ModelProto:
    from longshore_optimizer.techniques import foreign_teacher, training
    from longshore_optimizer.techniques.lesson import Lesson

    if work.training is None:
        raise ValueError("a lesson needs training data")
    started = time.monotonic()
    parameters = {k: v for k, v in work.parameters.items() if k != _FURTHER}
    # A run that goes on after a crash has no student yet: the time is for both lessons then.
    student = _student(replace(work, parameters=parameters, seconds=work.seconds / 2), make)
    lesson = Lesson(
        relation=str(parameters.get("relation", "response")),
        epochs=work.passes(60),
        seconds=_TRAINING_SHARE * (work.seconds - (time.monotonic() - started)),
        # The same samples judge: those that were taught before would flatter the weights of before.
        seed=work.seed,
        threads=work.threads,
    )
    samples = training.load(work.model, work.training)
    foreign = foreign_teacher.of(work)
    return training.train(student, onnxfile.load(work.model), samples, lesson, foreign=foreign)


def quantized(model: onnx.ModelProto, data: Path, work: Work) -> onnx.ModelProto:
    """Give a student in QDQ form."""
    folder = work.scratch / f"{work.out.parent.name}-float"
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnxfile.save(model, path)
    seen = calibration.observe(path, data, folder, work.threads)
    settings = static_int8.BASE | {"reduceRange": bool(work.parameters.get("reduceRange"))}
    return static_int8.quantize(onnxfile.load(path), calibration.ranges(seen, "minmax"), settings, [])
