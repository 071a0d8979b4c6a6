"""Finds attention (Vaswani et al. 2017, section 3.2) in plain operators and says it in one of the runtime's.

The runtime's own fusions know the graphs of a few exporters; this goes by what is computed: from a Softmax
back to the tensors of queries and keys, and on to the product with the values. Operators: ONNX Runtime,
"Contrib Operators", com.microsoft.Attention and com.microsoft.MultiHeadAttention.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from longshore_optimizer.techniques import editing, onnxfile

DOMAIN = "com.microsoft"
_LEAST_OPSET = 13
"""Where Softmax is over one axis, and axes to unsqueeze are an input."""

_LEAST_MASK = -100.0
"""A mask that adds more than this to a score does not take its key out."""


@dataclass(frozen=True)
class Attention:
    """Names of the tensors, (batch, tokens, features) each, and of what is added to the scores."""

    query: str
    key: str
    value: str
    output: str
    heads: int
    scale: float
    bias: str | None


@dataclass(frozen=True)
class Projection:
    """One product with weights (features, width) and a bias (width,) added."""

    source: str
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


class Graph:
    """A graph with what is looked up in it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.makers = {name: n for n in model.graph.node for name in n.output}
        self.users = editing.users(model.graph)
        self.constants = {i.name: i for i in model.graph.initializer}
        self.ranks = {
            v.name: len(v.type.tensor_type.shape.dim)
            for v in (*model.graph.value_info, *model.graph.input)
            if v.type.tensor_type.HasField("shape")
        }
        self.kept = {o.name for o in model.graph.output} | editing.captured(model.graph)

    def maker(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """Give the node that makes a tensor, where it is of such a kind and nothing else reads the tensor's
        values."""
        node = self.makers.get(name)
        alone = self._reader(name) is not None
        return node if node is not None and alone and node.op_type in kinds and not node.domain else None

    def user(self, name: str, kind: str) -> onnx.NodeProto | None:
        """Give the only node that reads a tensor's values, where it is of such a kind."""
        found = self._reader(name)
        return found if found is not None and found.op_type == kind and not found.domain else None

    def _reader(self, name: str) -> onnx.NodeProto | None:
        found = [user for user in self.users.get(name, ()) if user.op_type != "Shape"]
        return found[0] if len(found) == 1 and name not in self.kept else None

    def values(self, name: str) -> NDArray[np.generic] | None:
        """Give a constant."""
        tensor = self.constants.get(name)
        return numpy_helper.to_array(tensor) if tensor is not None else None

    def number(self, name: str) -> float | None:
        """Give a constant of one element."""
        values = self.values(name)
        return float(values.ravel()[0]) if values is not None and values.size == 1 else None

    def last_sizes(self, name: str, count: int) -> tuple[int, ...] | None:
        """Give the last sizes that a Reshape asks for, where they are constant: alone or after others."""
        values = self.values(name)
        if values is None:
            joined = self.makers.get(name)
            if joined is None or joined.op_type != "Concat":
                return None
            parts = [self.values(i) for i in joined.input]
            tail: list[int] = []
            for part in reversed(parts):
                if part is None:
                    break
                tail = [int(v) for v in part.ravel()] + tail
            sizes, rank = tail, None
        else:
            sizes = [int(v) for v in values.ravel()]
            rank = len(sizes)
        if len(sizes) < count or (rank is not None and rank != count + 2) or min(sizes[-count:]) < 1:
            return None
        return tuple(sizes[-count:])


def find(graph: Graph) -> list[Attention]:
    """Give every attention of a graph."""
    found = (_around(graph, n) for n in graph.graph.node if n.op_type == "Softmax" and not n.domain)
    return [f for f in found if f is not None]


def fuse(model: onnx.ModelProto) -> int:
    """Replace every attention by one operator, in place; gives how many.

    One whose queries, keys and values are products of the same tensor takes those in, where a mask of keys is
    all that is added to the scores: only that form has a quantized counterpart.
    """
    if onnxfile.default_opset(model) < _LEAST_OPSET:
        return 0
    graph = Graph(model)
    found = find(graph)
    made = {
        attention.output: _with_projections(graph, attention, name) or _alone(graph, attention, name)
        for name, attention in ((f"attention.{number}", a) for number, a in enumerate(found))
    }
    nodes = [part for node in model.graph.node for part in made.get(node.output[0], [node])]
    if found:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        editing.drop_unused(model.graph)
        import_domain(model)
    return len(found)


def import_domain(model: onnx.ModelProto) -> None:
    """Name the runtime's own operators among those that a model uses, in place."""
    if all(o.domain != DOMAIN for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _around(graph: Graph, softmax: onnx.NodeProto) -> Attention | None:
    if editing.attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    scores, bias = _split_bias(graph, softmax.input[0])
    product, scale = _unscaled(graph, scores)
    if product is None:
        return None
    query, first = _split_heads(graph, product.input[0], (0, 2, 1, 3))
    key, second = _split_heads(graph, product.input[1], (0, 2, 3, 1))
    mixed = graph.user(softmax.output[0], "MatMul")
    if query is None or key is None or mixed is None or mixed.input[0] != softmax.output[0]:
        return None
    value, _ = _split_heads(graph, mixed.input[1], (0, 2, 1, 3))
    merged = graph.user(mixed.output[0], "Transpose")
    if value is None or merged is None or tuple(editing.attribute(merged, "perm", ())) != (0, 2, 1, 3):
        return None
    output = graph.user(merged.output[0], "Reshape")
    heads, width = query.heads, value.heads * value.size
    if output is None or len({query.heads, key.heads, value.heads}) > 1 or query.size != key.size:
        return None
    if (graph.last_sizes(output.input[1], 1) or ())[-1:] != (width,):
        return None
    return Attention(
        query.source, key.source, value.source, output.output[0], heads, scale * first * second, bias
    )


@dataclass(frozen=True)
class _Split:
    source: str
    heads: int
    size: int


def _split_bias(graph: Graph, name: str) -> tuple[str, str | None]:
    """Tell scores from what is added to them."""
    added = graph.maker(name, "Add")
    if added is None:
        return name, None
    for scores, bias in (added.input, reversed(added.input)):
        if _unscaled(graph, scores)[0] is not None:
            return scores, bias
    return name, None


def _unscaled(graph: Graph, name: str) -> tuple[onnx.NodeProto | None, float]:
    """Follow factors back to a MatMul; gives it and the product of the factors."""
    factor = 1.0
    while True:
        node = graph.maker(name, "MatMul", "Mul", "Div")
        if node is None or node.op_type == "MatMul":
            return node, factor
        stepped = _factor(graph, node)
        if stepped is None:
            return None, factor
        name, factor = stepped[0], factor * stepped[1]


def _factor(graph: Graph, node: onnx.NodeProto) -> tuple[str, float] | None:
    first, second = (graph.number(name) for name in node.input)
    if node.op_type == "Div":
        return (node.input[0], 1 / second) if second else None
    if second is not None:
        return node.input[0], second
    return (node.input[1], first) if first is not None else None


def _split_heads(graph: Graph, name: str, wanted: tuple[int, ...]) -> tuple[_Split | None, float]:
    """Follow transpositions and factors back to the Reshape that splits features into heads."""
    factor = 1.0
    order: tuple[int, ...] = (0, 1, 2, 3)
    while True:
        node = graph.maker(name, "Transpose", "Reshape", "Mul", "Div")
        if node is None:
            return None, factor
        moved = _moved(graph, node)
        if moved is not None:
            name, order = moved[0], tuple(moved[1][axis] for axis in order)
            continue
        if node.op_type == "Reshape":
            break
        stepped = _factor(graph, node)
        if stepped is None:
            return None, factor
        name, factor = stepped[0], factor * stepped[1]
    sizes = graph.last_sizes(node.input[1], 2)
    if order != wanted or sizes is None or graph.ranks.get(node.input[0]) != 3:
        return None, factor
    return _Split(node.input[0], *sizes), factor


def _moved(graph: Graph, node: onnx.NodeProto) -> tuple[str, tuple[int, ...]] | None:
    """Give what a node transposes and how: in four dimensions, or in three with batch and heads as one."""
    if node.op_type == "Transpose":
        permutation = tuple(editing.attribute(node, "perm", ()))
        return (node.input[0], permutation) if len(permutation) == 4 else None
    inner = graph.maker(node.input[0], "Transpose") if node.op_type == "Reshape" else None
    if inner is None or tuple(editing.attribute(inner, "perm", ())) != (0, 2, 1):
        return None
    flat = graph.maker(inner.input[0], "Reshape")
    return (flat.input[0], (0, 1, 3, 2)) if flat is not None else None


def _alone(graph: Graph, attention: Attention, name: str) -> list[onnx.NodeProto]:
    """One operator after the products; what is added to the scores gets the scores' own sizes."""
    before: list[onnx.NodeProto] = []
    bias = ""
    if attention.bias is not None:
        bias = f"{name}.bias"
        ones = editing.add_constant(graph.graph, f"{name}.ones", np.ones(2, np.int64))
        sizes = [f"{name}.queries", f"{name}.keys"]
        before = [
            helper.make_node("Shape", [attention.query], sizes[:1], start=1, end=2),
            helper.make_node("Shape", [attention.key], sizes[1:], start=1, end=2),
            helper.make_node("Concat", [ones, *sizes], [f"{name}.sizes"], axis=0),
            helper.make_node("Expand", [attention.bias, f"{name}.sizes"], [bias]),
        ]
        for part in before:
            part.name = f"{name}.{part.output[0]}"
    inputs = [attention.query, attention.key, attention.value, "", "", bias]
    return [
        *before,
        helper.make_node(
            "MultiHeadAttention",
            inputs if bias else inputs[:3],
            [attention.output],
            name=name,
            domain=DOMAIN,
            num_heads=attention.heads,
            scale=attention.scale,
        ),
    ]


def _with_projections(graph: Graph, attention: Attention, name: str) -> list[onnx.NodeProto] | None:
    """One operator that makes queries, keys and values itself, None where it cannot."""
    parts = [_projection(graph, n) for n in (attention.query, attention.key, attention.value)]
    made = [p for p in parts if p is not None]
    if len(made) < 3 or len({p.source for p in made}) > 1 or len({p.weights.shape for p in made}) > 1:
        return None
    mask, before = "", []
    filtered: dict[str, Any] = {}
    if attention.bias is not None:
        known = _key_mask(graph, attention.bias)
        if known is None:
            return None
        mask, filtered = f"{name}.mask", {"mask_filter_value": known[1]}
        before = [helper.make_node("Cast", [known[0]], [mask], name=f"{name}.cast", to=TensorProto.INT32)]
    weights = editing.add_constant(
        graph.graph, f"{name}.weight", np.concatenate([p.weights for p in made], axis=1)
    )
    bias = editing.add_constant(graph.graph, f"{name}.added", np.concatenate([p.bias for p in made]))
    inputs = [made[0].source, weights, bias, mask]
    return [
        *before,
        helper.make_node(
            "Attention",
            inputs if mask else inputs[:3],
            [attention.output],
            name=name,
            domain=DOMAIN,
            num_heads=attention.heads,
            scale=attention.scale,
            **filtered,
        ),
    ]


def _projection(graph: Graph, name: str) -> Projection | None:
    added = graph.maker(name, "Add")
    if added is None:
        return None
    for product, bias in (added.input, reversed(added.input)):
        node, values = graph.maker(product, "MatMul"), graph.values(bias)
        weights = graph.values(node.input[1]) if node is not None else None
        if node is None or values is None or weights is None or graph.ranks.get(node.input[0]) != 3:
            continue
        plain = weights.dtype == values.dtype == np.float32 and weights.ndim == 2
        if plain and values.shape == weights.shape[1:]:
            return Projection(node.input[0], weights.astype(np.float32), values.astype(np.float32))
    return None


def _key_mask(graph: Graph, bias: str) -> tuple[str, float] | None:
    """Give the tensor (batch, keys) of a mask `(1 - mask) * low`, and `low`."""
    scaled = graph.makers.get(bias)
    if scaled is None or scaled.op_type != "Mul":
        return None
    low = next((n for n in map(graph.number, scaled.input) if n is not None), None)
    inverted = next((m for m in map(graph.makers.get, scaled.input) if m is not None), None)
    if low is None or low > _LEAST_MASK or inverted is None or inverted.op_type != "Sub":
        return None
    if graph.number(inverted.input[0]) != 1:
        return None
    name, axes = inverted.input[1], False
    while (node := graph.makers.get(name)) is not None and node.op_type in ("Cast", "Unsqueeze"):
        if node.op_type == "Unsqueeze":
            wanted = graph.values(node.input[1]) if len(node.input) > 1 else None
            if wanted is None or axes or wanted.ravel().tolist() not in ([1, 2], [-2, -3], [-3, -2]):
                return None
            axes = True
        name = node.input[0]
    return (name, low) if axes and graph.ranks.get(name) == 2 else None
