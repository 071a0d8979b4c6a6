"""Half precision: weights only (half the size, the speed of float32), or the arithmetic too."""

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from onnx import TensorProto, helper, numpy_helper

from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work

_LEAST_ELEMENTS = 256
_LARGEST = 65504.0
"""Largest finite float16 (IEEE 754)."""


class Float16:
    """Stores, or also computes, in IEEE half precision."""

    name = TechniqueName.FLOAT16

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Float32 weights are needed."""
        del target
        if model.quantized:
            return "the model is quantized already"
        return None if model.weight_bytes else "the model has no float32 weights"

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Weights only, then everything."""
        del model, target
        return (
            Proposal("float16-weights", self.name, {"arithmetic": "float32"}, size_only=True),
            Proposal("float16", self.name, {"arithmetic": "float16"}),
        )

    def apply(self, work: Work) -> None:
        """Convert the weights, or the whole graph with inputs and outputs kept in float32."""
        model = onnxfile.load(work.model)
        if work.parameters["arithmetic"] == "float32":
            store_halves(model)
        else:
            from onnxruntime.transformers.float16 import convert_float_to_float16

            model = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
        onnxfile.save(model, work.out)


def store_halves(model: onnx.ModelProto) -> int:
    """Replace large float32 weights by float16 and a Cast, which the runtime folds on loading; gives how
    many."""
    casts = []
    outputs = {o.name for o in model.graph.output}
    inputs = {i.name for i in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in outputs or tensor.name in inputs:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _LEAST_ELEMENTS or not np.isfinite(values).all() or np.abs(values).max() > _LARGEST:
            continue
        name = tensor.name
        half = numpy_helper.from_array(values.astype(np.float16), f"{name}.float16")
        tensor.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    for position, node in enumerate(casts):
        model.graph.node.insert(position, node)
    return len(casts)
