"""Students that were trained: in float32 and in 8 bits, and trained once for both."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx

from longshore_optimizer.techniques import calibration, onnxfile, static_int8
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work
from longshore_optimizer.techniques.prepare import LEAST_OPSET

_FORM = ("int8", "reduceRange")
"""Parameters that say what becomes of a student after its training."""


def in_eight_bits_too(student: Proposal, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
    """A student quantized, where the opset allows that, and as it is."""
    if model.opset < LEAST_OPSET:
        return (student,)
    parameters = student.parameters | {"int8": True, "reduceRange": not target.vnni}
    return replace(student, name=f"{student.name}-int8", parameters=parameters), student


def write(work: Work, make: Callable[[], onnx.ModelProto]) -> None:
    """Write the student in the form that the parameters ask for; `make` is called once for all forms."""
    rest = {k: v for k, v in work.parameters.items() if k not in _FORM}
    material = [str(p) for p in (work.model, work.calibration, work.training, work.teacher)]
    settings = json.dumps([material, rest, work.seed, work.epochs], sort_keys=True)
    mark = hashlib.sha256(settings.encode()).hexdigest()[:16]
    made = work.scratch / f"student-{mark}.onnx"
    if made.is_file():
        student = onnxfile.load(made)
    else:
        student = make()
        del student.graph.value_info[:]
        onnxfile.save(student, made)
    if work.parameters.get("int8"):
        data = work.calibration or work.training
        assert data is not None
        student = quantized(student, data, work)
    del student.graph.value_info[:]
    onnxfile.save(student, work.out)


def quantized(model: onnx.ModelProto, data: Path, work: Work) -> onnx.ModelProto:
    """Give a student in QDQ form."""
    folder = work.scratch / f"{work.out.parent.name}-float"
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnxfile.save(model, path)
    seen = calibration.observe(path, data, folder, work.threads)
    settings = static_int8.BASE | {"reduceRange": bool(work.parameters.get("reduceRange"))}
    return static_int8.quantize(onnxfile.load(path), calibration.ranges(seen, "minmax"), settings, [])
