"""Removes `ZipMap`, which scikit-learn's converters add: maps are no tensors, so no server can answer with
them."""

from onnx import TensorProto, helper

from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import Work


def remove_zip_map(work: Work) -> None:
    """Rename each ZipMap's input to its output; the probabilities keep the order of the classes."""
    model = onnxfile.load(work.model)
    graph = model.graph
    for node in [n for n in graph.node if n.op_type == "ZipMap" and n.domain == "ai.onnx.ml"]:
        graph.node.remove(node)
        graph.node.append(
            helper.make_node("Identity", [node.input[0]], [node.output[0]], name=f"{node.name}.plain")
        )
        for position, output in enumerate(graph.output):
            if output.name == node.output[0]:
                plain = helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None, None])
                graph.output[position].CopyFrom(plain)
    onnxfile.save(model, work.out)
