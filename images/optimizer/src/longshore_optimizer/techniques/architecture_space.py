"""The architectures that a search may choose from: the width of every group of channels, and for every layer
its rank, a compact kernel, or to do without it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from longshore_optimizer.techniques import (
    compact_convolution,
    depth,
    editing,
    low_rank,
    low_rank_convolution,
    onnxfile,
)
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.compact_convolution import Form
from longshore_optimizer.techniques.prepare import infer
from longshore_optimizer.techniques.survey import Removals, Survey, by_share, pruned, take_survey

Point = Mapping[str, str]
"""One architecture: the choice made for every parameter of the space."""

KEPT = "0"
"""The choice that leaves a width as it is."""

AS_IS = "as-is"
"""The choice that leaves a layer as it is."""

GONE = "gone"
"""The choice that lets go of a layer; what follows reads what it read."""

_WIDTHS = (KEPT, "0.125", "0.25", "0.375", "0.5", "0.625", "0.75")
_RANKS = ("rank-0.995", "rank-0.97")
_KERNELS = ("separable-1", "separable-2", "grouped-2", "grouped-4")
_STARTS = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Space:
    """`choices` gives by parameter (`width:<group>`, `layer:<node>`) what it may be, unchanged first.

    Where the points share weights (`shares`), these were trained at all widths, and are not changed to make
    up for what goes.
    """

    model: onnx.ModelProto
    survey: Survey | None
    choices: Mapping[str, tuple[str, ...]]
    shares: bool = False

    @property
    def original(self) -> dict[str, str]:
        """The point that changes nothing."""
        return {name: options[0] for name, options in self.choices.items()}

    def removals(self, point: Point) -> Removals:
        """How many channels of each group go at a point."""
        survey = self.survey
        if survey is None:
            return {}
        return {space: _count(survey, space, point[f"width:{space}"]) for space in survey.groups}

    def starts(self) -> list[dict[str, str]]:
        """Points that are worth a look first: the original, pruned where it harms least, without the layers
        that may go, with compact kernels."""
        points = [self.original]
        if self.survey is not None:
            for share in _STARTS:
                removals = by_share(self.survey, share)
                widths = {f"width:{s}": self._nearest(s, c) for s, c in removals.items()}
                points.append(self.original | widths)
        for kernel in (GONE, _KERNELS[0], _RANKS[-1]):
            layers = {name: kernel for name, options in self.choices.items() if kernel in options}
            if layers:
                points.append(self.original | layers)
        return [p for i, p in enumerate(points) if p not in points[:i]]

    def _nearest(self, space: int, count: int) -> str:
        survey, options = self.survey, self.choices[f"width:{space}"]
        return min(options, key=lambda w: abs(_count(survey, space, w) - count)) if survey else options[0]


def find(model: onnx.ModelProto, data: Path, scratch: Path, threads: int, block: int | None = None) -> Space:
    """Give the space of a model; widths are whole multiples of `block` where one is given.

    Raises:
        NotApplicableError: nothing of the model can be changed.
    """
    choices: dict[str, tuple[str, ...]] = {}
    survey, obstacle = None, ""
    try:
        survey = replace(take_survey(model, data, scratch, threads, "reconstruction"), block=block)
        choices |= {f"width:{space}": _widths(survey, space) for space in survey.groups}
    except NotApplicableError as error:
        obstacle = str(error)
    dense = compact_convolution.dense(model)
    weights = editing.replaceable(model, 1)
    readers = editing.users(model.graph)
    for node in model.graph.node:
        if node.name in dense:
            choices[f"layer:{node.name}"] = (AS_IS, *_KERNELS, *_RANKS)
        elif (
            node.op_type in ("Conv", "MatMul", "Gemm")
            and node.input[1] in weights
            and len(readers[node.input[1]]) == 1
            and editing.attribute(node, "group", 1) == 1
            and min(weights[node.input[1]].shape[:2]) >= compact_convolution.LEAST_CHANNELS
        ):
            choices[f"layer:{node.name}"] = (AS_IS, *_RANKS)
    for name in depth.removable(model):
        choices[f"layer:{name}"] = (*choices.get(f"layer:{name}", (AS_IS,)), GONE)
    if not choices:
        raise NotApplicableError(
            f"the search space has no legal point: {obstacle}, and no layer is wide enough for a lower rank "
            "or a compact kernel"
        )
    return Space(model, survey, choices)


def build(space: Space, point: Point, data: Path, scratch: Path, threads: int) -> onnx.ModelProto:
    """Give the untrained model at a point; a choice that what pruning left is too narrow for changes
    nothing."""
    model = onnx.ModelProto()
    model.CopyFrom(space.model)
    if space.survey is not None:
        model = infer(pruned(space.survey, space.removals(point), compensated=not space.shares))
    layers = {
        name.removeprefix("layer:"): choice
        for name, choice in point.items()
        if name.startswith("layer:") and choice != AS_IS
    }
    if not layers:
        return model
    model = depth.without(model, [name for name, choice in layers.items() if choice == GONE])
    metrics = low_rank.input_metrics(model, data, scratch, threads)
    forms = {}
    for name, weight in compact_convolution.dense(model).items():
        form = _form(layers.get(name, AS_IS))
        if form is not None and compact_convolution.fits(weight, form):
            forms[name] = form
    for choice in _RANKS:
        names, energy = {n for n, c in layers.items() if c == choice}, float(choice.removeprefix("rank-"))
        low_rank.factorize(model, energy, metrics, names)
        low_rank_convolution.factorize(model, energy, "tucker", low_rank.WORTH, metrics, names)
    return compact_convolution.replaced(model, forms, {n: m @ m.T for n, m in metrics.items()})


def _count(survey: Survey, space: int, width: str) -> int:
    """Channels of a group that go at a width; whole units stay."""
    size, unit = survey.groups[space].size, survey.unit(space)
    left = round((1 - float(width)) * size / unit) * unit
    return size - max(min(left, size), unit) if width != KEPT else 0


def _widths(survey: Survey, space: int) -> tuple[str, ...]:
    """Widths of a group that differ in their channels."""
    counts: dict[int, str] = {}
    for width in _WIDTHS:
        counts.setdefault(_count(survey, space, width), width)
    return tuple(counts.values())


def _form(choice: str) -> Form | None:
    kind, _, number = choice.partition("-")
    if kind == "separable":
        return Form("separable", int(number))
    return Form("grouped", int(number)) if kind == "grouped" else None


def size(model: onnx.ModelProto) -> int:
    """Bytes of the weights."""
    return sum(len(t.raw_data) or 4 * len(t.float_data) for t in onnxfile.float_initializers(model).values())
