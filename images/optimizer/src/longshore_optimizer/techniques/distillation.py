"""Distillation: a student, the original with fewer channels and layers or one that is given, learns what the
original answers."""

from dataclasses import replace
from pathlib import Path

import onnx
from longshore.api.optimize import TechniqueName

from longshore_optimizer.techniques import (
    blocks,
    depth,
    given_student,
    onnxfile,
    structured_pruning,
    students,
    survey,
)
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work, lacks_training
from longshore_optimizer.techniques.coupling import products
from longshore_optimizer.techniques.prepare import infer

_SHARES = (0.5, 0.75, 0.9)
_SHALLOW = (0.3, 0.75)
"""Share of the layers that may go, and of the products that go with them and with channels."""

_TAUGHT_ON = 2
"""Of so many students, the first ones, the lesson goes on where they fail the gate."""

_TRAINING_SHARE = 0.75
"""Share of the time that training may take; the rest is for ranking channels and for quantizing."""


class Distillation:
    """Takes layers and channels away, then trains on labels and answers (Hinton et al. 2015)."""

    name = TechniqueName.DISTILLATION

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Training data, PyTorch, and layers that can be made narrower are needed."""
        if model.quantized:
            return "the model is quantized already"
        if not model.count("Conv", "MatMul", "Gemm") or not model.weight_bytes:
            return "the model has no convolution or matrix product to make narrower"
        return lacks_training(target)

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """The student that is given, if there is one; a shallow one, which fewer layers make faster than
        fewer channels can; then students of three sizes taught by answers, the middle one by features and
        relations too.

        Where 8 bits alone do not meet a limit on the size, those that are made lose more channels until they
        do.
        """
        proposals = [*self._given(model, target)]
        block = blocks.asked(target)
        layers, rest = _SHALLOW
        shallow: dict[str, object] = {"share": rest, "layers": layers}
        named: dict[str, dict[str, object]] = {f"shallow-{rest * 100:g}": shallow}
        named |= {f"{share * 100:g}": {"share": share} for share in _SHARES}
        for number, (name, smaller) in enumerate(named.items()):
            parameters = smaller | {"relation": "response"} | block
            student = Proposal(f"distilled-{name}", self.name, parameters, trains=True)
            forms = students.in_eight_bits_too(student, model, target)
            if structured_pruning.must_shrink(model, target):
                forms = structured_pruning.sized(forms, target)
            proposals += forms
            if number < _TAUGHT_ON:
                proposals += students.continued(forms)
        for relation in ("feature", "relation"):
            wanted: dict[str, object] = {"share": 0.75, "relation": relation}
            proposals.append(Proposal(f"distilled-75-{relation}", self.name, wanted | block, trains=True))
        return tuple(proposals)

    def _given(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        if not target.student:
            return ()
        given = Proposal("distilled-given", self.name, {"given": True, "relation": "response"}, trains=True)
        forms = students.in_eight_bits_too(given, model, target)
        return (*forms, *students.continued(forms))

    def apply(self, work: Work) -> None:
        """Prune, train, quantize where asked to; NotApplicableError where the graph cannot be trained."""
        students.write(work, _student)


def _student(work: Work) -> onnx.ModelProto:
    from longshore_optimizer.techniques import foreign_teacher, training
    from longshore_optimizer.techniques.lesson import Lesson

    if work.training is None:
        raise ValueError("distillation needs training data")
    teacher = onnxfile.load(work.model)
    samples = training.load(work.model, work.training)
    lesson = Lesson(
        relation=str(work.parameters["relation"]),
        epochs=work.passes(60),
        seconds=_TRAINING_SHARE * work.seconds,
        seed=work.seed,
        threads=work.threads,
    )
    student = _given(work, teacher) if work.parameters.get("given") else _smaller(work, teacher)
    return training.train(student, teacher, samples, lesson, foreign=foreign_teacher.of(work))


def _given(work: Work, original: onnx.ModelProto) -> onnx.ModelProto:
    if work.student is None:
        raise ValueError("there is no student")
    return given_student.load(work.student, original)


def _smaller(work: Work, teacher: onnx.ModelProto) -> onnx.ModelProto:
    """Take channels and layers away."""
    data = work.calibration or work.training
    assert data is not None
    found, share = _survey(work, teacher, data), float(work.parameters["share"])
    # Of the original's products: those of layers that went count.
    removals = survey.by_share(found, 1 - (1 - share) * products(teacher) / found.products({}))
    removals = survey.to_size(found, removals, work.parameters.get("sizeLimit"))
    return infer(survey.pruned(found, removals))


def _survey(work: Work, teacher: onnx.ModelProto, data: Path) -> survey.Survey:
    """Survey the original, or what is left of it without the layers that may go."""
    layers = work.parameters.get("layers")
    if layers is None:
        return survey.survey_of(work, data, "reconstruction")
    model = depth.shallower(teacher, float(layers), data, work.scratch, work.threads)
    found = survey.take_survey(model, data, work.scratch, work.threads, "reconstruction")
    return replace(found, block=blocks.of(work))
