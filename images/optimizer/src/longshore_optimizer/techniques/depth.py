"""Depth: a layer that gives what it takes, in shape, may go; what follows then reads its input."""

import math
import random
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from longshore_optimizer.data import batches, read
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import editing, onnxfile
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.prepare import infer

_MOST_LAYERS = 64
_MOST_SECONDS = 60.0
"""So many layers at most are tried one by one, for so long; those that are not tried stay."""

_JUDGED = 32
_WEIGHED = ("Conv", "MatMul", "Gemm")

Shape = tuple[int | str, ...]


def removable(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the layers that may go.

    These are convolutions and matrix products that keep the shape of what they take, and additions of a
    branch to the tensor that it starts from (He et al. 2015), which go with the branch.
    """
    shapes, weights = _shapes(model), onnxfile.float_initializers(model)
    fixed = {o.name for o in model.graph.output} | editing.captured(model.graph)
    sources = {o: n for n in model.graph.node for o in n.output}
    found = []
    for node in model.graph.node:
        if not node.name or len(node.output) != 1 or node.output[0] in fixed:
            continue
        if node.op_type in _WEIGHED and node.input[1] not in weights:
            continue
        kept = _source(node, sources)
        if kept is not None and kept in shapes and shapes[kept] == shapes.get(node.output[0]):
            found.append(node.name)
    return tuple(found)


def without(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Give a copy without these layers; those that the shapes do not allow any more stay."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    # One at a time: where a block goes, so does what is in it.
    for name in [n for n in removable(model) if n in names]:
        if name not in removable(result):
            continue
        graph = result.graph
        sources = {o: n for n in graph.node for o in n.output}
        node = next(n for n in graph.node if n.name == name)
        kept = _source(node, sources)
        assert kept is not None
        _redirect(graph, node.output[0], kept)
        _repeated(graph)
        editing.drop_unused(graph)
        result = infer(result)
    return result


def shallower(
    model: onnx.ModelProto, share: float, data: Path, scratch: Path, threads: int
) -> onnx.ModelProto:
    """Give the model without a share of its removable layers, at least one: those that change its answers on
    calibration data least.

    Raises:
        NotApplicableError: no layer may go.
    """
    started = time.monotonic()
    names = removable(model)
    if not names:
        raise NotApplicableError(
            "no layer gives what it takes, in shape, so that the model could do without it"
        )
    expected = _answers(model, data, scratch, threads)

    def harm(name: str) -> float:
        given = _answers(without(model, {name}), data, scratch, threads)
        found = float(np.sum((given - expected) ** 2)) if given.shape == expected.shape else math.inf
        return math.inf if math.isnan(found) else found

    harms: dict[str, float] = {}
    # In any order: where the time ends early, the layers tried are from everywhere.
    for name in random.Random(0).sample(names, min(len(names), _MOST_LAYERS)):  # noqa: S311 - no secret
        if harms and time.monotonic() - started > _MOST_SECONDS:
            break
        harms[name] = harm(name)
    order = sorted(harms, key=lambda name: harms[name])
    return without(model, order[: math.ceil(share * len(names))])


def _source(node: onnx.NodeProto, sources: dict[str, onnx.NodeProto]) -> str | None:
    """The tensor that takes the place of what a node gives, None where none can."""
    if node.op_type in _WEIGHED:
        return str(node.input[0])
    if node.op_type == "Add" and all(name in sources for name in node.input):
        for start, branch in ((0, 1), (1, 0)):
            if node.input[start] in _behind(node.input[branch], sources):
                return str(node.input[start])
    return None


def _behind(tensor: str, sources: dict[str, onnx.NodeProto]) -> set[str]:
    """Tensors that a tensor is computed from."""
    found: set[str] = set()
    waiting = [tensor]
    while waiting:
        maker = sources.get(waiting.pop())
        fresh = {name for name in maker.input if name and name not in found} if maker is not None else set()
        found |= fresh
        waiting += fresh
    return found


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of the tensors whose dimensions all have a size or a name."""
    graph = model.graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims)
        if shape and all(d != "" for d in shape):
            shapes[value.name] = shape
    return shapes


def _redirect(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


def _repeated(graph: onnx.GraphProto) -> None:
    """Let go of a Relu of what a Relu gives."""
    sources = {o: n for n in graph.node for o in n.output}
    fixed = {o.name for o in graph.output}
    for node in graph.node:
        maker = sources.get(node.input[0]) if node.input else None
        if node.op_type != "Relu" or maker is None or maker.op_type != "Relu":
            continue
        if node.output[0] not in fixed:
            _redirect(graph, node.output[0], node.input[0])


def _answers(model: onnx.ModelProto, data: Path, scratch: Path, threads: int) -> NDArray[np.float64]:
    """Give all float outputs for calibration data, one after another."""
    path = scratch / "depth.onnx"
    onnxfile.save(model, path)
    session = open_session(path, threads)
    path.unlink()
    inputs = tensor_specs(session.get_inputs())
    dataset = read(data, "calibration", inputs).head(_JUDGED)
    return np.concatenate([_flat(session.run(None, b.feeds)) for b in batches(dataset, inputs)])


def _flat(values: list[Any]) -> NDArray[np.float64]:
    parts: Iterator[NDArray[np.float64]] = (
        np.asarray(v, np.float64).ravel() for v in values if np.asarray(v).dtype.kind == "f"
    )
    return np.concatenate([np.zeros(0), *parts])
