"""Architecture search: widths, ranks and kernels of all layers are chosen together, by what they save."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import onnx
from longshore.api.optimize import Goal, TechniqueName

from longshore_optimizer.techniques import architecture_space, blocks, onnxfile, students
from longshore_optimizer.techniques.architecture_space import Space
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NotApplicableError,
    Proposal,
    TargetFacts,
    Work,
    lacks_training,
)

STUDY_NAME = "architecture-search.journal"
"""File in the scratch directory with every point examined so far."""

_DROPS = (0.01, 0.03)
"""What a point may have lost after short training; long training gets most of it back."""

_TRIALS = 24
_SEARCH_SHARE = 0.5
_TRAINING_SHARE = 0.3


class ArchitectureSearch:
    """Optuna sets the width of each group of channels and the rank or kernel of each layer; points are judged
    by drop, p95 and size after short training, and the best of the Pareto front are trained to the end."""

    name = TechniqueName.ARCHITECTURE_SEARCH

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Layers with float32 weights, training data, PyTorch and optuna are needed."""
        if model.quantized:
            return "the model is quantized already"
        if not model.count("Conv", "MatMul", "Gemm") or not model.weight_bytes:
            return "the search space has no legal point: the model has no convolution or matrix product"
        missing = lacks_training(target)
        if missing is None and importlib.util.find_spec("optuna") is None:
            return "it needs optuna: install longshore-optimizer[search]"
        return missing

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """The best point for each allowance after short training, in eight bits too."""
        proposals: list[Proposal] = []
        for drop in _DROPS:
            parameters = {"drop": drop, "trials": _TRIALS, "smallest": target.goal is Goal.SIZE}
            parameters |= blocks.asked(target)
            point = Proposal(f"searched-{drop * 100:g}", self.name, parameters, trains=True)
            proposals += students.in_eight_bits_too(point, model, target)
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Search, or go on with the search that the scratch directory holds; then train the point chosen.

        NotApplicableError where the space has no legal point, or none that beats the original.
        """
        if work.training is None:
            raise ValueError("architecture search needs training data")
        teacher = onnxfile.load(work.model)
        data = work.calibration or work.training
        space = architecture_space.find(teacher, data, work.scratch, work.threads, blocks.of(work))
        student = _trained(space, teacher, _Material(work, work.training, data))
        if work.parameters.get("int8"):
            student = students.quantized(student, data, work)
        del student.graph.value_info[:]
        onnxfile.save(student, work.out)


@dataclass(frozen=True)
class _Material:
    work: Work
    training: Path
    data: Path


def _trained(space: Space, teacher: onnx.ModelProto, material: _Material) -> onnx.ModelProto:
    """Give the chosen point after long training; one that was trained for another candidate is read."""
    from longshore_optimizer.techniques import architecture_study, training
    from longshore_optimizer.techniques.lesson import Lesson

    work, data = material.work, material.data
    samples = training.load(work.model, material.training)
    seconds = _SEARCH_SHARE * work.seconds
    short = Lesson(
        epochs=min(int(work.parameters.get("shortEpochs", 2)), work.epochs),
        seconds=seconds / 8,
        seed=work.seed,
        threads=work.threads,
    )
    key = architecture_study.key_of(work.model, material.training, data, str(space.choices), str(work.seed))
    front, original = architecture_study.search(
        space,
        architecture_study.Examiner(space, work.model, data, samples, short),
        work.scratch / STUDY_NAME,
        key,
        int(work.parameters["trials"]),
        seconds,
        work.seed,
    )
    allowed = original.drop + float(work.parameters["drop"])
    found = architecture_study.choose(front, original, allowed, smallest=bool(work.parameters["smallest"]))
    if found is None:
        raise NotApplicableError(
            "no point of the search beats the original and loses no more than "
            f"{float(work.parameters['drop']):g} after short training"
        )
    mark = architecture_study.key_of(key, str(sorted(found.point.items())))
    cached = work.scratch / f"searched-{mark}.onnx"
    if cached.is_file():
        return onnxfile.load(cached)
    lesson = Lesson(
        epochs=work.passes(20),
        seconds=_TRAINING_SHARE * work.seconds,
        seed=work.seed,
        threads=work.threads,
    )
    built = architecture_space.build(space, found.point, data, work.scratch, work.threads)
    student = training.train(built, teacher, samples, lesson)
    onnxfile.save(student, cached)
    return student
