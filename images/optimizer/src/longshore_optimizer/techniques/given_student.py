"""A student that was made elsewhere, in the form of the model that it is to replace."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import NotApplicableError
from longshore_optimizer.techniques.prepare import LEAST_OPSET, infer, name_nodes, slim, upgrade


def load(path: Path, original: onnx.ModelProto) -> onnx.ModelProto:
    """Read a student and give its inputs and outputs the names of the original's.

    Raises:
        NotApplicableError: it takes or answers something else than the original, or its opset is too old.
    """
    student = slim(upgrade(onnxfile.load(path)))
    if onnxfile.default_opset(student) < LEAST_OPSET:
        raise NotApplicableError(f"the student's opset is older than {LEAST_OPSET}: export it anew")
    names = _paired("takes", _inputs(student), _inputs(original))
    names |= _paired("answers", _outputs(student), _outputs(original))
    rename(student, names)
    name_nodes(student)
    return infer(student)


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename tensors in place; another tensor that has a new name already makes way."""
    graph = model.graph
    taken = set(names.values()) - set(names)
    known = {name for node in graph.node for name in (*node.input, *node.output)} | {
        value.name for value in (*graph.initializer, *graph.value_info)
    }
    every = dict(names) | {name: f"{name}.student" for name in taken & known}
    for node in graph.node:
        for places in (node.input, node.output):
            for position, name in enumerate(places):
                places[position] = every.get(name, name)
    for value in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
        value.name = every.get(value.name, value.name)


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _outputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return list(model.graph.output)


def _paired(verb: str, own: list[onnx.ValueInfoProto], wanted: list[onnx.ValueInfoProto]) -> dict[str, str]:
    """Give the original's name for each of the student's: by name, or where there is one of each."""
    names, targets = {v.name for v in own}, {v.name for v in wanted}
    if len(own) == len(wanted) == 1:
        pairs = {own[0].name: wanted[0].name}
    elif names == targets:
        pairs = {name: name for name in names}
    else:
        raise NotApplicableError(
            f"the student {verb} {', '.join(sorted(names))}, the model {', '.join(sorted(targets))}: give "
            "the student the model's names"
        )
    kinds = {v.name: v.type.tensor_type.elem_type for v in wanted}
    for value in own:
        if value.type.tensor_type.elem_type != kinds[pairs[value.name]]:
            raise NotApplicableError(f"the student {verb} {value.name!r} in another type than the model")
    return pairs
