"""What a lesson asks for: how long, how fast, and the loss by which answers are judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Lesson:
    """How to train: loss = alpha x cross-entropy + (1 - alpha) x distillation (Hinton et al. 2015).

    `relation` is `response` (answers softened by `temperature`), `feature` (hidden tensors of one shape too,
    Romero et al. 2014) or `relation` (distances between samples too, Park et al. 2019). `seconds` bounds it.
    The labels weigh more than the original, which a student that is to lose nothing must be able to correct.
    """

    epochs: int = 20
    rate: float = 1e-3
    alpha: float = 0.7
    temperature: float = 4.0
    relation: str = "response"
    seconds: float = 300.0
    seed: int = 0
    threads: int = 1


def rate(lesson: Lesson, progress: float) -> float:
    """Learning rate at a share of the lesson, in steps or in time: half a cosine wave down to zero.

    (Loshchilov and Hutter 2016.) A lesson that its time ends must have slowed down too, or it ends in noise.
    """
    return lesson.rate * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def loss_of(
    outputs: Sequence[Tensor], expected: Sequence[Tensor], classes: Tensor | None, lesson: Lesson
) -> Tensor:
    """Loss of a batch; without classes only what the teacher says counts."""
    taught = distillation(outputs, expected, lesson)
    if classes is None or outputs[0].dim() != 2:
        return taught
    return lesson.alpha * functional.cross_entropy(outputs[0], classes) + (1 - lesson.alpha) * taught


def distillation(outputs: Sequence[Tensor], expected: Sequence[Tensor], lesson: Lesson) -> Tensor:
    """The teacher's part of the loss."""
    given, wanted = outputs[0], expected[0]
    if given.dim() == 2 and given.shape[1] > 1:
        heat = lesson.temperature
        loss = heat**2 * functional.kl_div(
            functional.log_softmax(given / heat, 1),
            functional.log_softmax(wanted / heat, 1),
            reduction="batchmean",
            log_target=True,
        )
    else:
        loss = functional.mse_loss(given, wanted) / wanted.var(unbiased=False).clamp_min(1e-8)
    for mine, other in zip(outputs[1:], expected[1:], strict=True):
        loss = loss + functional.mse_loss(mine, other) / other.var(unbiased=False).clamp_min(1e-8)
    if lesson.relation == "relation":
        loss = loss + functional.smooth_l1_loss(_distances(given), _distances(wanted))
    return loss


def _distances(values: Tensor) -> Tensor:
    """Distances between the samples of a batch, relative to their mean."""
    flat = values.reshape(len(values), -1)
    # The square root has no gradient at zero, where every sample meets itself.
    squares = (flat[:, None] - flat[None]).pow(2).sum(-1)
    distances = (squares + 1e-12).sqrt()
    return distances / distances.mean().clamp_min(1e-8)
