"""Says in plain operators what exporters say in roundabout ways that nothing here follows channels through.

torch.onnx writes global pooling as a mean and, with a free batch axis, a Gather that counts through the whole
tensor (`as_strided`); `view` becomes a Reshape that names the number of features.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from longshore_optimizer.techniques import editing

_COUNTING = frozenset({"Range", "Mul", "Add", "Unsqueeze", "Squeeze", "Reshape", "Cast", "Concat", "Shape"})
_BATCH = 3


def straighten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the model in plain operators; as it was where nothing is found or its answers change."""
    found = _detours(model.graph)
    straight = onnx.ModelProto()
    straight.CopyFrom(model)
    for node in straight.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = found.get(name, name)
    _remove_unread(straight.graph)
    straight = onnx.shape_inference.infer_shapes(straight, data_prop=True)
    changed = [_plain(straight.graph, node) for node in straight.graph.node]
    if not found and not any(changed):
        return model
    _remove_unread(straight.graph)
    return straight if _same(model, straight) else model


def _plain(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Make a mean over all positions a pooling, and a Reshape to rows a Flatten; tells whether it did."""
    if node.op_type not in ("ReduceMean", "Reshape") or len(node.input) != 2:
        return False
    shape = _shape(graph, node.input[0])
    constant = next((i for i in graph.initializer if i.name == node.input[1]), None)
    if shape is None or constant is None or len(shape) < 2:
        return False
    wanted = numpy_helper.to_array(constant).tolist()
    if node.op_type == "ReduceMean":
        axes = sorted(a % len(shape) for a in wanted)
        if len(shape) < 3 or axes != list(range(2, len(shape))) or not editing.attribute(node, "keepdims", 1):
            return False
        node.op_type = "GlobalAveragePool"
        attributes = []
    else:
        inner = shape[1:]
        if shape[0] or len(wanted) != 2 or wanted[0] not in (0, -1) or not all(inner):
            return False
        if wanted[1] != int(np.prod(inner)):
            return False
        node.op_type = "Flatten"
        attributes = [helper.make_attribute("axis", 1)]
    del node.input[1:]
    del node.attribute[:]
    node.attribute.extend(attributes)
    return True


def _shape(graph: onnx.GraphProto, name: str) -> list[int] | None:
    """Sizes of a tensor, 0 where one is free; None where they are not known."""
    for value in (*graph.value_info, *graph.input):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return [d.dim_value for d in value.type.tensor_type.shape.dim]
    return None


def _detours(graph: onnx.GraphProto) -> dict[str, str]:
    """Outputs of Gathers that count through a flattened tensor, with the tensor."""
    makers = {output: node for node in graph.node for output in node.output}
    constants = {i.name: i for i in graph.initializer}
    kept = {o.name for o in graph.output}
    result = {}
    for node in graph.node:
        flat = makers.get(node.input[0]) if node.op_type == "Gather" else None
        if flat is None or flat.op_type != "Reshape" or node.output[0] in kept:
            continue
        shape = constants.get(flat.input[1])
        if (
            shape is None
            or numpy_helper.to_array(shape).tolist() != [-1]
            or editing.attribute(node, "axis", 0)
        ):
            continue
        if _counts(node.input[1], makers):
            result[node.output[0]] = flat.input[0]
    return result


def _counts(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a tensor is made of a Range, constants and shapes only."""
    waiting, ranged = [name], False
    while waiting:
        node = makers.get(waiting.pop())
        if node is None:
            continue
        if node.op_type not in _COUNTING:
            return False
        ranged = ranged or node.op_type == "Range"
        if node.op_type != "Shape":
            waiting.extend(node.input)
    return ranged


def _remove_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes of which nothing is read, and the constants that only they read."""
    outputs = {o.name for o in graph.output}
    while True:
        read = outputs | editing.captured(graph) | {name for node in graph.node for name in node.input}
        kept = [node for node in graph.node if any(o in read for o in node.output)]
        if len(kept) == len(graph.node):
            break
        del graph.node[:]
        graph.node.extend(kept)
    editing.remove_initializers(graph, {i.name for i in graph.initializer} - read)


def _same(first: onnx.ModelProto, second: onnx.ModelProto) -> bool:
    """Whether both answer alike on made-up inputs with another batch size than one."""
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    feeds = {}
    for value in first.graph.input:
        kind = value.type.tensor_type
        sizes = [d.dim_value for d in kind.shape.dim]
        if kind.elem_type != TensorProto.FLOAT or not sizes or not all(sizes[1:]):
            return False
        feeds[value.name] = rng.standard_normal([sizes[0] or _BATCH, *sizes[1:]]).astype(np.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    given = []
    for model in (first, second):
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        given.append(session.run(None, feeds))
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*given, strict=True)
    )
