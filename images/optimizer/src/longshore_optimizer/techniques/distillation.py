"""Distillation: a smaller student, derived from the original by pruning, learns what the original answers."""

import onnx
from longshore.api.optimize import TechniqueName

from longshore_optimizer.techniques import blocks, onnxfile, structured_pruning, students, survey
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work, lacks_training
from longshore_optimizer.techniques.prepare import infer

_SHARES = (0.5, 0.75, 0.9)
_TRAINING_SHARE = 0.75
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
        """Students of three sizes taught by answers; the middle one by features and relations too.

        Where 8 bits alone do not meet a limit on the size, each loses more channels until it does.
        """
        proposals: list[Proposal] = []
        block = blocks.asked(target)
        for share in _SHARES:
            parameters: dict[str, object] = {"share": share, "relation": "response"}
            student = Proposal(f"distilled-{share * 100:g}", self.name, parameters | block, trains=True)
            forms = students.in_eight_bits_too(student, model, target)
            if structured_pruning.must_shrink(model, target):
                forms = structured_pruning.sized(forms, target)
            proposals += forms
            if share == _SHARES[0]:
                proposals += students.continued(forms)
        for relation in ("feature", "relation"):
            parameters = {"share": 0.75, "relation": relation}
            proposals.append(Proposal(f"distilled-75-{relation}", self.name, parameters | block, trains=True))
        return tuple(proposals)

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
    data = work.calibration or work.training
    found = survey.survey_of(work, data, "reconstruction")
    removals = survey.by_share(found, float(work.parameters["share"]))
    removals = survey.to_size(found, removals, work.parameters.get("sizeLimit"))
    student = infer(survey.pruned(found, removals))
    lesson = Lesson(
        relation=str(work.parameters["relation"]),
        epochs=work.passes(60),
        seconds=_TRAINING_SHARE * work.seconds,
        seed=work.seed,
        threads=work.threads,
    )
    return training.train(student, teacher, samples, lesson, foreign=foreign_teacher.of(work))
