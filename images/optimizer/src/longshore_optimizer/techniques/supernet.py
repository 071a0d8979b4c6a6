"""One network whose weights serve every width of a space, so that points are judged without training each.

Each step trains another random point, by gradients on the weights that it shares with all others (single path
one-shot, Guo et al. 2020; for widths Yu and Huang 2019).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from longshore_optimizer.techniques import onnxfile, training
from longshore_optimizer.techniques.architecture_space import Point, Space
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.coupling import Reader, places
from longshore_optimizer.techniques.lesson import Lesson


def shared(space: Space, samples: training.Samples, lesson: Lesson, file: Path) -> Space:
    """Give the space of the widths alone, with weights that were trained at all of them.

    `file` keeps them for another candidate: other weights would be another search.

    Raises:
        NotApplicableError: the space has no widths, or an operator cannot be trained here.
    """
    widths = {name: options for name, options in space.choices.items() if name.startswith("width:")}
    if space.survey is None or not widths:
        raise NotApplicableError("no group of channels has widths that could share weights")
    narrow = Space(space.model, space.survey, widths, shares=True)
    if file.is_file():
        trained = onnxfile.load(file)
    else:
        changes = Masks(narrow, lesson.seed).by_weight()
        trained = training.train(space.model, space.model, samples, lesson, changes)
        onnxfile.save(trained, file)
    return replace(narrow, model=trained, survey=replace(space.survey, model=trained))


@dataclass
class Masks:
    """Sets what reads channels that a point does not have to zero: that is what cutting them gives."""

    space: Space
    seed: int
    steps: dict[str, int] = field(default_factory=dict)
    known: dict[tuple[str, tuple[str, ...]], Tensor] = field(default_factory=dict)

    def by_weight(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Give for each weight that reads channels what to make of it."""
        survey = self.space.survey
        assert survey is not None
        readers: dict[str, list[tuple[int, Reader]]] = {}
        for number, group in survey.groups.items():
            for reader in group.readers:
                readers.setdefault(reader.weight, []).append((number, reader))
        return {weight: self._change(weight, found) for weight, found in readers.items()}

    def _change(self, weight: str, readers: list[tuple[int, Reader]]) -> Callable[[Tensor], Tensor]:
        def change(values: Tensor) -> Tensor:
            return values * self._mask(weight, readers, values.dim(), self._point(weight))

        return change

    def _point(self, weight: str) -> Point:
        """Every weight sees the same points, step by step; the middle of the space judges."""
        choices = self.space.choices
        if not torch.is_grad_enabled():
            return {name: options[len(options) // 2] for name, options in choices.items()}
        step = self.steps[weight] = self.steps.get(weight, 0) + 1
        rng = np.random.default_rng([self.seed, step])
        return {name: options[int(rng.integers(len(options)))] for name, options in choices.items()}

    def _mask(self, weight: str, readers: list[tuple[int, Reader]], dims: int, point: Point) -> Tensor:
        key = weight, tuple(point[f"width:{number}"] for number, _ in readers)
        if key not in self.known:
            self.known[key] = self._made(readers, dims, point)
        return self.known[key]

    def _made(self, readers: list[tuple[int, Reader]], dims: int, point: Point) -> Tensor:
        survey = self.space.survey
        assert survey is not None
        mask = torch.ones([1] * dims)
        for number, reader in readers:
            gone = survey.rankings[number].order[: self.space.removals(point)[number]]
            length = sum(survey.coupling.sizes[s.space] * s.block for s in reader.layout)
            ones = torch.ones(length)
            ones[torch.from_numpy(places(reader.layout, survey.coupling.sizes, number)[gone].reshape(-1))] = 0
            shape = [1] * dims
            shape[reader.weight_axis] = length
            mask = mask * ones.reshape(shape)
        return mask
