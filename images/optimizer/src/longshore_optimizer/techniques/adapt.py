"""What an ONNX model needs before it can be served at all, however good it is."""

from onnx import ModelProto, TensorProto, helper

from longshore_optimizer import locales
from longshore_optimizer.fetch.protobuf import Outline
from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import Work


def needs_adapting(outline: Outline) -> bool:
    """Whether a model has operators that no server can answer with or that not every machine can run."""
    return ("ai.onnx.ml", "ZipMap") in outline.operators or ("", "StringNormalizer") in outline.operators


def adapt(work: Work) -> None:
    """Remove maps from the outputs, and name a locale that exists; answers stay the same."""
    model = onnxfile.load(work.model)
    _remove_zip_maps(model)
    locales.make_portable(model)
    onnxfile.save(model, work.out)


def _remove_zip_maps(model: ModelProto) -> None:
    """Rename the input of each `ZipMap` to its output: scikit-learn's converters add them, and maps are no
    tensors. The probabilities keep the order of the classes."""
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
