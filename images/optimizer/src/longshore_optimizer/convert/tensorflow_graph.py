"""A function of TensorFlow as one graph: variables become constants, as does all else that it refers to."""

from typing import Any

import onnx

_COMPILED = ("_XlaMustCompile", "_noinline")
"""Marks of a function that XLA should compile, which keep it from being inlined."""


def to_onnx(tf: Any, function: Any, specs: list[Any], opset: int) -> onnx.ModelProto:
    """Convert a `tf.function` for inputs of these `tf.TensorSpec`, whose names the result's inputs take.

    tf2onnx's own `from_function` takes tensors that a function refers to, such as the mean of a normalization
    layer, for inputs, and leaves functions compiled by XLA, such as Keras' grouped convolutions, as they are.
    """
    import tf2onnx.convert
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    from tf2onnx import tf_loader

    concrete = function.get_concrete_function(*specs)
    try:
        frozen = convert_variables_to_constants_v2(
            concrete, lower_control_flow=False, aggressive_inlining=True
        )
        graph = frozen.graph.as_graph_def(add_shapes=True)
    except ValueError as error:
        # Layers that draw at random keep their seeds in variables, which a function of the model assigns.
        if "incompatible with expected resource" not in str(error):
            raise
        graph = tf_loader.fix_freezing_errors(tf_loader.convert_variables_to_constants_large_model(concrete))
    graph = tf_loader.fix_freezing_errors_part2(graph)
    referred = _make_constant(tf, graph, concrete)
    _inline_compiled(graph)
    inputs = [t.name for t in concrete.inputs if t.dtype != tf.resource and t.op.name not in referred]
    outputs = [t.name for t in concrete.outputs if t.dtype != tf.resource]
    model: onnx.ModelProto
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        input_names=inputs,
        output_names=outputs,
        opset=opset,
        tensors_to_rename=tf2onnx.convert.tensor_names_from_structed(concrete, inputs, outputs),
    )
    return model


def _make_constant(tf: Any, graph: Any, concrete: Any) -> set[str]:
    """Put the values of tensors that a function refers to in place of their placeholders; gives these."""
    values = {
        inner.op.name: outer.numpy()
        for outer, inner in concrete.graph.captures
        if outer.dtype not in (tf.resource, tf.variant) and hasattr(outer, "numpy")
    }
    for node in graph.node:
        if node.op == "Placeholder" and node.name in values:
            dtype = node.attr["dtype"].type
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = dtype
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values[node.name], dtype=dtype))
    return set(values)


def _inline_compiled(graph: Any) -> None:
    """Let functions be inlined that XLA should compile."""
    for part in (graph.node, graph.library.function, *(f.node_def for f in graph.library.function)):
        for item in part:
            for mark in _COMPILED:
                item.attr.pop(mark, None)
