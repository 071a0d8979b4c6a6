"""What techniques that rewrite graphs share: who uses a tensor, attributes, which weights may be replaced."""

import itertools
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from longshore_optimizer.techniques import onnxfile

Weights = NDArray[np.float32]


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of an attribute, `default` where the node does not set it."""
    for found in node.attribute:
        if found.name == name:
            return helper.get_attribute_value(found)
    return default


def users(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Nodes of this graph that read each tensor, one entry for every reading input."""
    result: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            if name:
                result.setdefault(name, []).append(node)
    return result


def captured(graph: onnx.GraphProto) -> set[str]:
    """Names that bodies of Loop, If and Scan read; they may be tensors of the graph around them."""
    return {name for node in graph.node for body in _bodies(node) for name in _reads(body)}


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for found in node.attribute:
        if found.type == AttributeProto.GRAPH:
            yield found.g
        elif found.type == AttributeProto.GRAPHS:
            yield from found.graphs


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for body in _bodies(node):
            yield from _reads(body)
    yield from (o.name for o in graph.output)


def replaceable(model: onnx.ModelProto, least: int) -> dict[str, Weights]:
    """Finite float32 weights of at least two dimensions and `least` elements that only nodes read."""
    graph = model.graph
    fixed = {o.name for o in graph.output} | {i.name for i in graph.input}
    result = {}
    for name, tensor in onnxfile.float_initializers(model).items():
        if name in fixed or len(tensor.dims) < 2 or int(np.prod(tensor.dims)) < least:
            continue
        values = numpy_helper.to_array(tensor)
        if np.isfinite(values).all():
            result[name] = values
    return result


def prepend(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put nodes before all others."""
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def sort(graph: onnx.GraphProto) -> None:
    """Put every node behind those that it reads from, as the format demands, in bodies too."""
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    before: dict[int, set[int]] = {}
    for i, node in enumerate(graph.node):
        read = set(node.input)
        for body in _bodies(node):
            sort(body)
            read.update(_reads(body))
        before[i] = {makers[name] for name in read if name in makers} - {i}
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend(rest[i] for i in TopologicalSorter(before).static_order())


def fresh_names(graph: onnx.GraphProto, prefix: str) -> Iterator[str]:
    """Names that neither this graph nor a body in it has."""
    used = _names(graph)
    return (name for name in (f"{prefix}_{number}" for number in itertools.count()) if name not in used)


def _names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update(node.input, node.output)
        for body in _bodies(node):
            names |= _names(body)
    return names


def separate_weights(graph: onnx.GraphProto) -> None:
    """Give every weight in a body a name that no other has: the branches of an If may each have one of a
    name, which tools that look them up by name mix up.
    """
    fresh = fresh_names(graph, "body_weight")
    taken = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for body in _bodies(node):
            _separate(body, taken, fresh)


def _separate(graph: onnx.GraphProto, taken: set[str], fresh: Iterator[str]) -> None:
    names = {tensor.name: next(fresh) for tensor in graph.initializer if tensor.name in taken}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
        taken.add(tensor.name)
    if names:
        _rename(graph, names)
    for node in graph.node:
        for body in _bodies(node):
            _separate(body, taken, fresh)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename what nodes and bodies read; a body that gives a name of its own meaning keeps it."""
    own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    names = {old: new for old, new in names.items() if old not in own}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for body in _bodies(node):
            _rename(body, names)
    for output in graph.output:
        output.name = names.get(output.name, output.name)


def remove_initializers(graph: onnx.GraphProto, names: set[str]) -> None:
    """Drop weights by name."""
    kept = [i for i in graph.initializer if i.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and weights that nothing reads."""
    wanted = {o.name for o in graph.output} | captured(graph)
    kept = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            wanted |= set(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    remove_initializers(graph, {i.name for i in graph.initializer} - wanted)


def add_constant(graph: onnx.GraphProto, name: str, values: NDArray[Any]) -> str:
    """Add a constant tensor; gives its name."""
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def set_constant(tensor: TensorProto, values: NDArray[Any]) -> None:
    """Replace the values of a constant, keeping its name."""
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
