"""Distillation: a smaller student, derived from the original by pruning, learns what the original answers."""

from pathlib import Path

import onnx
from longshore.api.optimize import TechniqueName

from longshore_optimizer.techniques import calibration, onnxfile, static_int8, structured_pruning
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work, lacks_training
from longshore_optimizer.techniques.prepare import LEAST_OPSET, infer

_TRAINING_SHARE = 0.6
"""Share of the time that training may take; the rest is for ranking channels and for quantizing."""


class Distillation:
    """Prunes whole channels, then trains on labels and on the original's answers (Hinton et al. 2015)."""

    name = TechniqueName.DISTILLATION

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Training data, PyTorch, and layers that can be made narrower are needed."""
        if model.quantized:
            return "the model is quantized already"
        if not model.count("Conv", "MatMul", "Gemm") or not model.weight_bytes:
            return "the model has no convolution or matrix product to make narrower"
        return lacks_training(target)

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Students of three sizes taught by answers; the middle one by features and relations too."""
        proposals: list[Proposal] = []
        for share in (0.5, 0.75, 0.9):
            student = Proposal(
                f"distilled-{share * 100:g}", self.name, {"share": share, "relation": "response"}
            )
            proposals += in_eight_bits_too(student, model, target)
        for relation in ("feature", "relation"):
            parameters = {"share": 0.75, "relation": relation}
            proposals.append(Proposal(f"distilled-75-{relation}", self.name, parameters))
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Prune, train, quantize where asked to; NotApplicableError where the graph cannot be trained."""
        from longshore_optimizer.techniques import training
        from longshore_optimizer.techniques.foreign_teacher import ForeignTeacher

        if work.training is None:
            raise ValueError("distillation needs training data")
        teacher = onnxfile.load(work.model)
        samples = training.load(work.model, work.training)
        data = work.calibration or work.training
        survey = structured_pruning.take_survey(teacher, data, work.scratch, work.threads, "reconstruction")
        removals = structured_pruning.by_share(survey, float(work.parameters["share"]))
        student = infer(structured_pruning.pruned(survey, removals))
        lesson = training.Lesson(
            relation=str(work.parameters["relation"]),
            epochs=work.passes(20),
            seconds=_TRAINING_SHARE * work.seconds,
            seed=work.seed,
            threads=work.threads,
        )
        foreign = None
        if work.teacher is not None:
            foreign = ForeignTeacher(work.teacher, work.out.parent, work.threads)
        student = training.train(student, teacher, samples, lesson, foreign=foreign)
        if work.parameters.get("int8"):
            student = quantized(student, data, work)
        del student.graph.value_info[:]
        onnxfile.save(student, work.out)


def in_eight_bits_too(student: Proposal, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
    """A trained student quantized, where the opset allows that, and as it is."""
    if model.opset < LEAST_OPSET:
        return (student,)
    quantized = student.parameters | {"int8": True, "reduceRange": not target.vnni}
    return Proposal(f"{student.name}-int8", student.technique, quantized), student


def quantized(model: onnx.ModelProto, data: Path, work: Work) -> onnx.ModelProto:
    """Give the trained student in QDQ form."""
    folder = work.scratch / f"{work.out.parent.name}-float"
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnxfile.save(model, path)
    seen = calibration.observe(path, data, folder, work.threads)
    settings = static_int8.BASE | {"reduceRange": bool(work.parameters.get("reduceRange"))}
    return static_int8.quantize(onnxfile.load(path), calibration.ranges(seen, "minmax"), settings, [])
