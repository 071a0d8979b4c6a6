"""A model's groups of channels, what each loses and saves, and how many of each go."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from longshore_optimizer.techniques import blocks, channels, coupling, elimination, onnxfile
from longshore_optimizer.techniques.base import NotApplicableError, Work
from longshore_optimizer.techniques.channels import Channels
from longshore_optimizer.techniques.coupling import Coupling, Group
from longshore_optimizer.techniques.elimination import Ranking

_FINE = 8
"""The most channels that go at a time where blocks do not count."""

_LANES = 16
"""Numbers of 32 bits in a register of AVX-512: what a kernel that takes two registers at once can do, too."""

_LEAST_CHANNELS = 8
_MOST_FEATURES = 4096
"""Readers of more features are not pruned into: their second moments would not fit into memory."""

_GRAPH = 3.0
"""How many times larger the graph is with QuantizeLinear and DequantizeLinear at every tensor."""

_A_CHANNEL = 16
"""Bytes for each bias: in 32 bits, with a scale, a zero point and their weight's scale."""

Removals = dict[int, int]
"""How many channels go, by space."""


@dataclass(frozen=True)
class Survey:
    """A model with its groups, the order in which channels of each would go, and what each channel costs.

    `costs` are products (multiply-accumulates) for each channel; `block` is how many channels a kernel
    computes at once, None where only products and bytes count.
    """

    model: onnx.ModelProto
    coupling: Coupling
    groups: Mapping[int, Group]
    rankings: Mapping[int, Ranking]
    costs: Mapping[int, float]
    seen: Mapping[str, Channels]
    block: int | None = None

    @cached_property
    def _weights(self) -> Mapping[str, tuple[tuple[int, ...], float]]:
        """Dimensions of each float32 weight, and at how many places of a sample it is used."""
        uses = coupling.places_of(self.model)
        tensors = onnxfile.float_initializers(self.model)
        return {n: (tuple(t.dims), float(uses.get(n, 1))) for n, t in tensors.items()}

    def _left(self, removals: Removals) -> dict[str, int]:
        """Numbers of each weight that are left."""
        dims = {name: list(shape) for name, (shape, _) in self._weights.items()}
        for part in self.coupling.slices:
            for segment in part.layout:
                dims[part.weight][part.axis] -= removals.get(segment.space, 0) * segment.block
        return {name: math.prod(shape) for name, shape in dims.items()}

    def elements(self, removals: Removals) -> int:
        """How many float32 weights are left."""
        return sum(self._left(removals).values())

    def products(self, removals: Removals) -> float:
        """Products of one sample that go through the weights that are left."""
        left = self._left(removals)
        names = {s.weight for s in self.coupling.slices if len(self._weights[s.weight][0]) > 1}
        return sum(left[name] * self._weights[name][1] for name in names)

    def unit(self, space: int) -> int:
        """Give what the channels of a group that stay are a multiple of, and the least that stays."""
        size = self.groups[space].size
        # Without a block finer steps choose better, and odd numbers would save nothing in any runtime.
        unit, units = (_FINE, 4) if self.block is None else (self.block, 2)
        while unit > 2 and size < units * unit:
            unit //= 2
        return unit

    def step(self, space: int, gone: int) -> int:
        """Give how many channels of a group go next, after those that are `gone`; 0 where no more may."""
        left, unit = self.groups[space].size - gone, self.unit(space)
        step = left % unit or unit
        return step if left - step >= unit else 0

    def saved(self, space: int, gone: int, step: int) -> float:
        """Give products that a step saves as far as kernels notice.

        Those that read a group do less for every channel, those that make it for every block only.
        """
        if self.block is None:
            return self.costs[space] * step
        lanes = min(self.block, _LANES)
        left = self.groups[space].size - gone
        made = lanes * (math.ceil(left / lanes) - math.ceil((left - step) / lanes))
        return self.costs[space] * (step + made) / 2


def survey_of(work: Work, data: Path, criterion: str) -> Survey:
    """Survey the model that a technique starts from; other shares of it ask for the same one.

    Raises:
        NotApplicableError: as `take_survey`.
    """
    written = work.model.stat().st_mtime_ns
    survey = _survey_of(work.model, written, data, work.scratch, work.threads, criterion)
    return replace(survey, block=blocks.of(work))


@lru_cache(maxsize=1)
def _survey_of(
    model: Path, written: int, data: Path, scratch: Path, threads: int, criterion: str
) -> "Survey":
    """`written` tells apart models that one path has held."""
    del written
    return take_survey(onnxfile.load(model), data, scratch, threads, criterion)


def take_survey(model: onnx.ModelProto, data: Path, scratch: Path, threads: int, criterion: str) -> Survey:
    """Find the groups, watch their channels on calibration data and rank them by a criterion.

    Criteria: `reconstruction`, `norm`, `activation`, `information`.

    Raises:
        NotApplicableError: no channels can be removed.
    """
    traced = coupling.trace(model)
    tensors = onnxfile.float_initializers(model)
    groups = [
        g
        for g in traced.groups
        if g.size >= _LEAST_CHANNELS
        and all(tensors[r.weight].dims[r.weight_axis] <= _MOST_FEATURES for r in g.readers)
    ]
    if not groups:
        raise NotApplicableError(
            "every group of channels is tied to the model's outputs or to unknown operators"
        )
    wanted = {r.tensor: r.axis for g in groups for r in g.readers}
    # scikit-learn's classifiers answer with the label first, then with what it was chosen by.
    outputs = model.graph.output
    answers = next((o for o in outputs if o.type.tensor_type.elem_type == TensorProto.FLOAT), outputs[0]).name
    seen = channels.observe(model, {answers: -1, **wanted}, data, scratch, threads, second=True)
    groups = [g for g in groups if all(_matches(traced, r, seen) for r in g.readers)]
    rankings = {}
    for group in groups:
        if criterion == "norm":
            rankings[group.space] = elimination.by_norm(model, traced, group)
        elif criterion == "activation":
            rankings[group.space] = elimination.by_activation(traced, group, seen)
        elif criterion == "information":
            if answers not in seen or seen[answers].samples.shape[1:] < (2,):
                raise NotApplicableError("the model's answers hold no classes")
            classes = np.argmax(seen[answers].samples, axis=1)
            rankings[group.space] = elimination.by_information(traced, group, seen, classes)
        else:
            rankings[group.space] = elimination.by_reconstruction(model, traced, group, seen)
    uses = coupling.places_of(model)
    costs = {}
    for group in groups:
        parts = {
            name
            for name in (
                *(s.weight for s in (*group.makers, *group.others)),
                *(r.weight for r in group.readers),
            )
            if len(tensors[name].dims) > 1
        }
        costs[group.space] = float(sum(np.prod(tensors[w].dims) * uses.get(w, 1) for w in parts)) / group.size
    return Survey(model, traced, {g.space: g for g in groups}, rankings, costs, seen)


def _matches(traced: Coupling, reader: coupling.Reader, seen: Mapping[str, Channels]) -> bool:
    count = sum(traced.sizes[s.space] * s.block for s in reader.layout)
    return reader.tensor in seen and len(seen[reader.tensor].second) == count


def by_share(survey: Survey, share: float) -> Removals:
    """Remove `share` of the products: always where the loss for each product saved is least."""
    removals = dict.fromkeys(survey.groups, 0)
    wanted = (1 - share) * survey.products({})
    while survey.products(removals) > wanted and (choices := can_go_on(survey, removals)):
        space = min(choices, key=lambda s: _price(survey, removals, s))
        removals[space] += survey.step(space, removals[space])
    return removals


def to_size(survey: Survey, removals: Removals, limit: int | None) -> Removals:
    """Remove more until the weights in 8 bits fit into a file of `limit` bytes, least loss a byte first.

    Raises:
        NotApplicableError: they do not fit however much goes.
    """
    removals = dict(removals)
    room = limit - _beside_weights(survey.model) if limit is not None else 0.0
    while limit is not None and survey.elements(removals) > room:
        best: tuple[float, int] | None = None
        for space in can_go_on(survey, removals):
            step = survey.step(space, removals[space])
            saved = survey.elements(removals) - survey.elements(removals | {space: removals[space] + step})
            price = _loss(survey, removals, space) / max(saved, 1)
            best = min(best or (price, space), (price, space))
        if best is None:
            raise NotApplicableError("however many channels go, the model stays over limits.size")
        removals[best[1]] += survey.step(best[1], removals[best[1]])
    return removals


def _beside_weights(model: onnx.ModelProto) -> float:
    """Bytes of a file in 8 bits that are not weights: nodes that quantize, scales, and biases of 32 bits."""
    tensors = onnxfile.float_initializers(model).values()
    graph = int(model.ByteSize()) - sum(4 * int(np.prod(t.dims)) for t in tensors)
    vectors = sum(int(np.prod(t.dims)) for t in tensors if len(t.dims) < 2)
    return _GRAPH * graph + _A_CHANNEL * vectors


def can_go_on(survey: Survey, removals: Removals) -> list[int]:
    """Give the groups that another step can be taken out of."""
    return [space for space in survey.groups if survey.step(space, removals[space])]


def _loss(survey: Survey, removals: Removals, space: int) -> float:
    """What the next step of a group loses."""
    losses, gone = survey.rankings[space].losses, removals[space]
    return float(losses[gone + survey.step(space, gone) - 1] - (losses[gone - 1] if gone else 0.0))


def _price(survey: Survey, removals: Removals, space: int) -> float:
    gone = removals[space]
    return _loss(survey, removals, space) / survey.saved(space, gone, survey.step(space, gone))


def pruned(survey: Survey, removals: Removals, *, compensated: bool = True) -> onnx.ModelProto:
    """Give a copy of the model without the channels that go first, the layers behind compensated for it."""
    model = onnx.ModelProto()
    model.CopyFrom(survey.model)
    kept: dict[int, NDArray[np.int64]] = {}
    for space, count in removals.items():
        if not count:
            continue
        group, gone = survey.groups[space], survey.rankings[space].order[:count]
        if compensated:
            elimination.compensate(model, survey.coupling, group, gone, dict(survey.seen))
        kept[space] = np.setdiff1d(np.arange(group.size), gone)
    coupling.cut(model, survey.coupling, kept)
    return model
