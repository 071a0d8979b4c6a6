"""Architecture search: widths, ranks and kernels of all layers are chosen together, by what they save."""

import hashlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from longshore.api.optimize import Goal, TechniqueName

from longshore_optimizer.techniques import architecture_space, blocks, onnxfile, students
from longshore_optimizer.techniques.architecture_space import Space
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NothingBetterError,
    Proposal,
    TargetFacts,
    Work,
    lacks_training,
)

STUDY_NAME = "architecture-search.journal"
"""File in the scratch directory with every point examined so far."""

_EVOLUTIONARY, _ONE_SHOT, _REINFORCED = "evolutionary", "one-shot", "reinforced"

_SEARCHES = ((_EVOLUTIONARY, 0.01), (_ONE_SHOT, 0.01), (_EVOLUTIONARY, 0.03), (_REINFORCED, 0.01))
"""How points are found: by evolution (NSGA-II), by evolution among weights that all widths share, by a policy
that is reinforced; and what they may have lost after short training: long training gets most of it back."""

_TRIALS = 24
_TRIALS_OF_SHARED_WEIGHTS = 120
"""Points that share weights cost no training of their own."""

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
        for strategy, drop in _SEARCHES:
            trials = _TRIALS if strategy != _ONE_SHOT else _TRIALS_OF_SHARED_WEIGHTS
            smallest = target.goal is Goal.SIZE
            parameters: dict[str, object] = {"drop": drop, "trials": trials, "smallest": smallest}
            name = f"searched-{drop * 100:g}"
            if strategy != _EVOLUTIONARY:
                parameters, name = parameters | {"strategy": strategy}, f"{name}-{strategy}"
            point = Proposal(name, self.name, parameters | blocks.asked(target), trains=True)
            proposals += students.in_eight_bits_too(point, model, target)
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Search, or go on with the search that the scratch directory holds; then train the point chosen.

        NotApplicableError where the space has no legal point, NothingBetterError where none of them beats
        the original.
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
    from longshore_optimizer.techniques import architecture_study, supernet, training
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
    strategy = str(work.parameters.get("strategy", _EVOLUTIONARY))
    loses, smallest = float(work.parameters["drop"]), bool(work.parameters["smallest"])
    key = architecture_study.key_of(
        work.model, material.training, data, str(space.choices), str(work.seed), strategy
    )
    sampler = architecture_study.evolutionary(work.seed)
    if strategy == _REINFORCED:
        sampler = architecture_study.reinforced(space, work.seed, loses, smallest=smallest)
    if strategy == _ONE_SHOT:
        shared = replace(short, seconds=seconds / 2, epochs=work.passes(30))
        space = supernet.shared(space, samples, shared, work.scratch / f"supernet-{key}.onnx")
        # Points of other weights are other points.
        key = architecture_study.key_of(key, hashlib.sha256(space.model.SerializeToString()).hexdigest())
        seconds /= 2
    front, original = architecture_study.search(
        space,
        architecture_study.Examiner(space, work.model, data, samples, short),
        work.scratch / STUDY_NAME,
        key,
        int(work.parameters["trials"]),
        seconds,
        sampler,
    )
    found = architecture_study.choose(front, original, original.drop + loses, smallest=smallest)
    if found is None:
        raise NothingBetterError(
            f"no point of the search beats the original and loses no more than {loses:g} after short training"
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
