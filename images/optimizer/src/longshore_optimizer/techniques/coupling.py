"""Which channels must go together: follows them through a graph, from the layer that makes them to readers.

Two tensors that are added share one space of channels; so do the inputs and outputs of normalization,
activation, pooling and depthwise convolution. Where an operator mixes channels in a way that is not known
here, the spaces that meet there are frozen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from longshore_optimizer.techniques import editing, onnxfile

_PASSING = frozenset(
    [
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Celu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Softplus",
        "Softsign",
        "Erf",
        "Gelu",
        "Mish",
        "Swish",
        "Abs",
        "Neg",
        "Exp",
        "Sqrt",
        "Clip",
        "Identity",
        "Dropout",
        "Cast",
        "ThresholdedRelu",
    ]
)
_POOLING = frozenset(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"])
_ELEMENTWISE = frozenset(["Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "PRelu"])
_REDUCING = frozenset(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"])


@dataclass(frozen=True)
class Segment:
    """A run of channels on an axis: all of one space, each taking `block` neighbouring places."""

    space: int
    block: int = 1


Layout = tuple[Segment, ...]


@dataclass(frozen=True)
class Slice:
    """An axis of a weight that follows a layout."""

    weight: str
    axis: int
    layout: Layout


@dataclass(frozen=True)
class Reader:
    """A layer that sums over the channels of `tensor` (on its negative `axis`), by one axis of its weight."""

    node: str
    tensor: str
    axis: int
    weight: str
    weight_axis: int
    layout: Layout


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together; `makers` and `others` are cut along them too."""

    space: int
    size: int
    makers: tuple[Slice, ...]
    others: tuple[Slice, ...]
    readers: tuple[Reader, ...]


@dataclass
class Coupling:
    """The groups of a model, and what of it to cut."""

    groups: tuple[Group, ...]
    slices: tuple[Slice, ...]
    depthwise: frozenset[str]
    sizes: Mapping[int, int] = field(default_factory=dict)


def trace(model: onnx.ModelProto) -> Coupling:
    """Find the groups of channels of the main graph; a graph out of order has none."""
    return _Tracer(model).run()


def cut(model: onnx.ModelProto, coupling: Coupling, kept: Mapping[int, NDArray[np.int64]]) -> None:
    """Keep only the channels `kept` (sorted numbers by space) of the spaces named there, in place."""
    tensors = {i.name: i for i in model.graph.initializer}
    for part in coupling.slices:
        if not any(s.space in kept for s in part.layout):
            continue
        places = positions(part.layout, coupling.sizes, kept)
        values = numpy_helper.to_array(tensors[part.weight])
        editing.set_constant(tensors[part.weight], np.take(values, places, axis=part.axis))
    for node in model.graph.node:
        if node.name in coupling.depthwise:
            count = tensors[node.input[1]].dims[0]
            del node.attribute[next(i for i, a in enumerate(node.attribute) if a.name == "group")]
            node.attribute.append(helper.make_attribute("group", count))
    del model.graph.value_info[:]


def positions(
    layout: Layout, sizes: Mapping[int, int], kept: Mapping[int, NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Places on an axis of this layout that stay."""
    result, start = [], 0
    for segment in layout:
        channels = kept.get(segment.space, np.arange(sizes[segment.space]))
        result.append((start + channels[:, None] * segment.block + np.arange(segment.block)).reshape(-1))
        start += sizes[segment.space] * segment.block
    return np.concatenate(result).astype(np.int64)


def places(layout: Layout, sizes: Mapping[int, int], space: int) -> NDArray[np.int64]:
    """Places (channels, k) that each channel of a space takes on an axis of this layout."""
    columns, start = [], 0
    for segment in layout:
        if segment.space == space:
            grid = np.arange(sizes[space] * segment.block).reshape(sizes[space], segment.block)
            columns.append(start + grid)
        start += sizes[segment.space] * segment.block
    return np.concatenate(columns, axis=1)


@dataclass(frozen=True)
class _Place:
    """Where the channels of a tensor lie: a negative axis, and the layout on it."""

    axis: int
    layout: Layout


class _Tracer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._weights = {n: tuple(t.dims) for n, t in onnxfile.float_initializers(model).items()}
        self._constants = {i.name: i for i in model.graph.initializer}
        self._uses = {n: len(readers) for n, readers in editing.users(model.graph).items()}
        self._shapes = _shapes(model.graph)
        self._parents: list[int] = []
        self._sizes: list[int] = []
        self._frozen: set[int] = set()
        self._places: dict[str, _Place] = {}
        self._makers: list[Slice] = []
        self._others: list[Slice] = []
        self._readers: list[Reader] = []
        self._depthwise: set[str] = set()
        self._handlers: dict[str, Callable[[onnx.NodeProto], bool]] = {
            "Conv": self._convolution,
            "ConvTranspose": self._transposed,
            "MatMul": self._product,
            "Gemm": self._product,
            "BatchNormalization": self._normalization,
            "Flatten": self._flatten,
            "Reshape": self._flatten,
            "Concat": self._concatenation,
            **dict.fromkeys(_PASSING, self._pass),
            **dict.fromkeys(_POOLING, self._pool),
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
            **dict.fromkeys(_REDUCING, self._reduce),
        }

    def run(self) -> Coupling:
        if not _in_order(self._graph):
            return Coupling((), (), frozenset())
        for node in self._graph.node:
            handler = self._handlers.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if handler is None or not handler(node):
                for name in node.input:
                    self._freeze(name)
        for name in {o.name for o in self._graph.output} | editing.captured(self._graph):
            self._freeze(name)
        return self._result()

    def _result(self) -> Coupling:
        def settled(layout: Layout) -> Layout:
            return tuple(Segment(self._root(s.space), s.block) for s in layout)

        makers = [Slice(s.weight, s.axis, settled(s.layout)) for s in self._makers]
        others = [Slice(s.weight, s.axis, settled(s.layout)) for s in self._others]
        readers = [
            Reader(r.node, r.tensor, r.axis, r.weight, r.weight_axis, settled(r.layout))
            for r in self._readers
        ]
        frozen = {self._root(s) for s in self._frozen}
        groups = []
        for space in sorted({s.space for m in makers for s in m.layout} - frozen):
            mine = [[x for x in part if any(s.space == space for s in x.layout)] for part in (makers, others)]
            read = tuple(r for r in readers if any(s.space == space for s in r.layout))
            if read:
                groups.append(Group(space, self._sizes[space], tuple(mine[0]), tuple(mine[1]), read))
        cuts = (*makers, *others, *(Slice(r.weight, r.weight_axis, r.layout) for r in readers))
        sizes = {i: self._sizes[i] for i in range(len(self._sizes))}
        return Coupling(tuple(groups), cuts, frozenset(self._depthwise), sizes)

    def _root(self, space: int) -> int:
        while self._parents[space] != space:
            space = self._parents[space]
        return space

    def _new(self, size: int) -> Layout:
        self._parents.append(len(self._parents))
        self._sizes.append(size)
        return (Segment(len(self._parents) - 1),)

    def _freeze(self, name: str) -> None:
        place = self._places.get(name)
        if place is not None:
            self._frozen.update(s.space for s in place.layout)

    def _count(self, layout: Layout) -> int:
        return sum(self._sizes[s.space] * s.block for s in layout)

    def _join(self, first: Layout, second: Layout) -> bool:
        if [(self._sizes[s.space], s.block) for s in first] != [
            (self._sizes[s.space], s.block) for s in second
        ]:
            return False
        for a, b in zip(first, second, strict=True):
            one, other = self._root(a.space), self._root(b.space)
            self._parents[max(one, other)] = min(one, other)
        return True

    def _own(self, name: str) -> bool:
        """Whether a float32 weight has no other reader, so that it can be cut."""
        return name in self._weights and self._uses.get(name, 0) == 1

    def _vector(self, name: str, count: int) -> int | None:
        """Axis of a constant on which its `count` channels lie; None where it cannot be cut."""
        dims = self._weights.get(name, ())
        return len(dims) - 1 if self._own(name) and dims and dims[-1] == count == int(np.prod(dims)) else None

    def _make(self, node: onnx.NodeProto, axis: int, weight_axis: int, read_axis: int) -> bool:
        """A layer with one weight: reads channels on one of its axes, makes new ones on the other."""
        source, weight = node.input[0], node.input[1]
        if weight not in self._weights:
            return False
        place = self._places.get(source)
        own = self._own(weight)
        if place is not None:
            if own and place.axis == axis and self._count(place.layout) == self._weights[weight][read_axis]:
                self._readers.append(Reader(node.name, source, axis, weight, read_axis, place.layout))
            else:
                self._freeze(source)
        layout = self._new(self._weights[weight][weight_axis])
        self._places[node.output[0]] = _Place(axis, layout)
        self._makers.append(Slice(weight, weight_axis, layout))
        bias = node.input[2] if len(node.input) > 2 else ""
        bias_axis = self._vector(bias, self._count(layout)) if bias else None
        if bias_axis is not None:
            self._others.append(Slice(bias, bias_axis, layout))
        if not own or (bias and bias_axis is None):
            self._freeze(node.output[0])
        return True

    def _convolution(self, node: onnx.NodeProto) -> bool:
        dims = self._weights.get(node.input[1])
        if dims is None:
            return False
        axis, groups = 1 - len(dims), editing.attribute(node, "group", 1)
        if groups == 1:
            return self._make(node, axis, 0, 1)
        place = self._places.get(node.input[0])
        if place is None or place.axis != axis or dims[1] != 1 or dims[0] != groups or len(place.layout) != 1:
            return False
        if not self._own(node.input[1]) or place.layout[0].block != 1:
            return False
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and self._vector(bias, dims[0]) is None:
            return False
        self._others.append(Slice(node.input[1], 0, place.layout))
        if bias:
            self._others.append(Slice(bias, 0, place.layout))
        self._depthwise.add(node.name)
        self._places[node.output[0]] = place
        return True

    def _transposed(self, node: onnx.NodeProto) -> bool:
        dims = self._weights.get(node.input[1])
        if dims is None or editing.attribute(node, "group", 1) != 1:
            return False
        return self._make(node, 1 - len(dims), 1, 0)

    def _product(self, node: onnx.NodeProto) -> bool:
        dims = self._weights.get(node.input[1])
        if dims is None or len(dims) != 2 or editing.attribute(node, "transA", 0):
            return False
        transposed = editing.attribute(node, "transB", 0)
        return self._make(node, -1, 0 if transposed else 1, 1 if transposed else 0)

    def _normalization(self, node: onnx.NodeProto) -> bool:
        place = self._places.get(node.input[0])
        if place is None:
            return True
        axes = [self._vector(n, self._count(place.layout)) for n in node.input[1:5]]
        if any(a is None for a in axes) or len(node.output) > 1:
            return False
        self._others.extend(Slice(n, 0, place.layout) for n in node.input[1:5])
        self._places[node.output[0]] = place
        return True

    def _pass(self, node: onnx.NodeProto) -> bool:
        place = self._places.get(node.input[0])
        if place is not None:
            self._places[node.output[0]] = place
        return True

    def _pool(self, node: onnx.NodeProto) -> bool:
        place = self._places.get(node.input[0])
        if place is not None and place.axis == -1:
            return False
        return self._pass(node) and len([o for o in node.output if o]) == 1

    def _elementwise(self, node: onnx.NodeProto) -> bool:
        tracked = [self._places[n] for n in node.input if n in self._places]
        if not tracked:
            return True
        axis = tracked[0].axis
        wide = max(tracked, key=lambda p: self._count(p.layout))
        for place in tracked:
            if place.axis != axis:
                return False
            if self._count(place.layout) == 1 and self._count(wide.layout) > 1:
                self._frozen.update(s.space for s in place.layout)
            elif not self._join(wide.layout, place.layout):
                return False
        cuts = []
        for name in node.input:
            if name in self._places:
                continue
            if name not in self._constants:
                return False
            dims = tuple(self._constants[name].dims)
            if len(dims) < -axis or dims[axis] == 1:
                continue
            if dims[axis] != self._count(wide.layout) or not self._own(name):
                return False
            cuts.append(Slice(name, len(dims) + axis, wide.layout))
        self._others.extend(cuts)
        self._places[node.output[0]] = _Place(axis, wide.layout)
        return True

    def _reduce(self, node: onnx.NodeProto) -> bool:
        place, shape = self._places.get(node.input[0]), self._shapes.get(node.input[0])
        if place is None:
            return True
        axes = editing.attribute(node, "axes")
        if axes is None and len(node.input) > 1 and node.input[1] in self._constants:
            axes = numpy_helper.to_array(self._constants[node.input[1]]).tolist()
        if axes is None or shape is None:
            return False
        reduced = {a if a < 0 else a - len(shape) for a in axes}
        if place.axis in reduced:
            return False
        gone = 0 if editing.attribute(node, "keepdims", 1) else sum(a > place.axis for a in reduced)
        self._places[node.output[0]] = _Place(place.axis + gone, place.layout)
        return True

    def _flatten(self, node: onnx.NodeProto) -> bool:
        place, shape = self._places.get(node.input[0]), self._shapes.get(node.input[0])
        if place is None:
            return True
        if node.op_type == "Flatten":
            flat = editing.attribute(node, "axis", 1) == 1
        else:
            wanted = self._constants.get(node.input[1])
            target = numpy_helper.to_array(wanted).tolist() if wanted is not None else []
            flat = len(target) == 2 and target[1] == -1 and target[0] in (0, 1)
        if not flat or shape is None or len(shape) < 2 or place.axis != 1 - len(shape):
            return False
        spatial = shape[2:]
        if any(d is None for d in spatial):
            return False
        block = int(np.prod([d for d in spatial if d is not None], dtype=np.int64))
        layout = tuple(Segment(s.space, s.block * block) for s in place.layout)
        self._places[node.output[0]] = _Place(-1, layout)
        return True

    def _concatenation(self, node: onnx.NodeProto) -> bool:
        tracked = [self._places.get(n) for n in node.input]
        if all(p is None for p in tracked):
            return True
        shape = self._shapes.get(node.input[0])
        places = [p for p in tracked if p is not None]
        if len(places) != len(tracked) or shape is None or len({p.axis for p in places}) != 1:
            return False
        axis = editing.attribute(node, "axis")
        if (axis if axis < 0 else axis - len(shape)) != places[0].axis:
            return False
        self._places[node.output[0]] = _Place(places[0].axis, tuple(s for p in places for s in p.layout))
        return True


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    result = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            result[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return result


def _in_order(graph: onnx.GraphProto) -> bool:
    later = {o for node in graph.node for o in node.output if o}
    for node in graph.node:
        if any(n in later for n in node.input):
            return False
        later.difference_update(node.output)
    return True


def places_of(model: onnx.ModelProto) -> dict[str, int]:
    """How often each weight is used in one sample: positions of the output of its layer (1 where unknown)."""
    shapes = _shapes(model.graph)
    result = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 1:
            spatial = (shapes.get(node.output[0]) or ())[2:]
            result[node.input[1]] = int(np.prod([d or 1 for d in spatial], dtype=np.int64))
    return result


def products(model: onnx.ModelProto) -> float:
    """Products (multiply-accumulates) of one sample that go through constant weights."""
    weights, uses = {i.name: i for i in model.graph.initializer}, places_of(model)
    # Weights in 8 bits stand behind a DequantizeLinear.
    restored = {
        n.output[0]: weights[n.input[0]]
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in weights
    }
    known = weights | restored
    return float(
        sum(
            np.prod(known[node.input[1]].dims) * uses.get(node.input[1], 1)
            for node in model.graph.node
            if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm") and node.input[1] in known
        )
    )
