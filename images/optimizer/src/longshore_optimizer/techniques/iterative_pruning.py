"""Structured pruning with fine-tuning: a little goes, the rest is trained, and so on to the share."""

from dataclasses import replace

import numpy as np
import onnx

from longshore_optimizer.techniques import blocks, onnxfile, training
from longshore_optimizer.techniques.base import Work
from longshore_optimizer.techniques.coupling import places
from longshore_optimizer.techniques.elimination import Ranking
from longshore_optimizer.techniques.lesson import Lesson
from longshore_optimizer.techniques.prepare import infer
from longshore_optimizer.techniques.survey import Survey, by_share, pruned, take_survey, to_size

_TRAINING_SHARE = 0.8

_LAST = 0.6
"""Share of the training that follows the last pruning: what was learned between is partly cut away again."""


def shares(final: float, rounds: int, schedule: str) -> list[float]:
    """Shares pruned after each round: `constant` has all at once, `polynomial` slows with the third power
    (Zhu and Gupta 2017)."""
    if schedule == "constant":
        return [final]
    return [final * (1 - (1 - number / rounds) ** 3) for number in range(1, rounds + 1)]


def portions(rounds: int) -> list[float]:
    """Share of the training after each round: most of it after the last."""
    if rounds == 1:
        return [1.0]
    return [(1 - _LAST) / (rounds - 1)] * (rounds - 1) + [_LAST]


def prune(work: Work) -> onnx.ModelProto:
    """Prune by Taylor importance and train after every round, with the original as the teacher.

    Raises:
        NotApplicableError: nothing can be pruned, or an operator cannot be trained.
    """
    if work.training is None:
        raise ValueError("fine-tuning needs training data")
    teacher = onnxfile.load(work.model)
    samples = training.load(work.model, work.training)
    plan = shares(
        float(work.parameters["share"]),
        min(int(work.parameters.get("rounds", 4)), work.epochs),
        str(work.parameters.get("schedule", "polynomial")),
    )
    lesson = Lesson(
        epochs=work.passes(60), seconds=_TRAINING_SHARE * work.seconds, seed=work.seed, threads=work.threads
    )
    data = work.calibration or work.training
    consulted = training.consult(teacher, samples, lesson)
    student, whole = teacher, 0.0
    for share, part in zip(plan, portions(len(plan)), strict=True):
        survey = take_survey(student, data, work.scratch, work.threads, "norm")
        survey = replace(by_taylor(survey, teacher, samples, lesson), block=blocks.of(work))
        left = survey.products({})
        whole = whole or left
        # Of what is there: a round of whole blocks may have taken more than its share.
        removals = by_share(survey, 1 - (1 - share) * whole / left)
        if share == plan[-1]:
            removals = to_size(survey, removals, work.parameters.get("sizeLimit"))
        turn = replace(lesson, epochs=max(1, int(part * lesson.epochs)), seconds=part * lesson.seconds)
        student = infer(pruned(survey, removals))
        student = training.train(student, teacher, samples, turn, consulted=consulted)
    return student


def by_taylor(survey: Survey, teacher: onnx.ModelProto, samples: training.Samples, lesson: Lesson) -> Survey:
    """Rank channels by what the loss changes, to first order, when they go (Molchanov et al. 2019)."""
    totals = training.gradients(survey.model, teacher, samples, lesson)
    rankings = {}
    for space, group in survey.groups.items():
        scores = np.zeros(group.size)
        for part in (*group.makers, *group.others):
            if part.weight in totals:
                moved = np.moveaxis(totals[part.weight], part.axis, 0)
                values = moved.reshape(len(moved), -1).sum(axis=1)
                scores += values[places(part.layout, survey.coupling.sizes, space)].sum(axis=1)
        harm = np.abs(scores)
        order = np.argsort(harm, kind="stable")
        # Not relative to the group: the loss is the same for all groups.
        rankings[space] = Ranking(order, np.cumsum(harm[order]))
    return replace(survey, rankings=rankings)
