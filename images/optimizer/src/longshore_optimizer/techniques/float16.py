"""Half precision: weights only (half the size, the speed of float32), or the arithmetic too."""

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from onnx import TensorProto, helper, numpy_helper

from longshore_optimizer.measure.session import open_session
from longshore_optimizer.techniques import editing, onnxfile
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work, lacks_weights

_LEAST_ELEMENTS = 256
_LARGEST: dict[int, float] = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: 3.389e38}
"""Largest finite numbers (IEEE 754; bfloat16 has seven bits of mantissa), rounded down."""


_FLOAT32_ONLY = ("TfIdfVectorizer",)
"""Operators that the converter does not know to answer in float32 only (ONNX operators, opset 9)."""


class Float16:
    """Stores, or also computes, in IEEE half precision."""

    name = TechniqueName.FLOAT16

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Float32 weights are needed."""
        del target
        return lacks_weights(model)

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
            from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

            editing.separate_weights(model.graph)
            if any(n.domain == "ai.onnx.ml" or n.op_type in _FLOAT32_ONLY for n in model.graph.node):
                _tell_types(model, work)
            model = convert_float_to_float16(
                model,
                keep_io_types=True,
                disable_shape_infer=True,
                op_block_list=[*DEFAULT_OP_BLOCK_LIST, *_FLOAT32_ONLY],
            )
            # It appends its casts: the runtime sorts nodes itself, other readers of the file do not.
            editing.sort(model.graph)
        onnxfile.save(model, work.out)


def _tell_types(model: onnx.ModelProto, work: Work) -> None:
    """Add the types of float32 tensors inside the graph, as the runtime infers them: around an operator that
    stays in float32 the converter puts casts only where it knows the types."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {o.name for o in copy.graph.output}
    names = [o for n in copy.graph.node for o in n.output if o and o not in present]
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    typed = work.scratch / "types.onnx"
    onnxfile.save(copy, typed)
    floats = {
        o.name for o in open_session(typed, 1, optimize=False).get_outputs() if o.type == "tensor(float)"
    }
    typed.unlink()
    known = {v.name for v in model.graph.value_info}
    model.graph.value_info.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n in floats - known
    )


def store_halves(model: onnx.ModelProto, kind: int = TensorProto.FLOAT16) -> int:
    """Replace large float32 weights by 16 bits and a Cast, which is folded on loading; gives how many.

    `kind` is FLOAT16 or BFLOAT16; weights that are too large for it stay.
    """
    dtype, largest = helper.tensor_dtype_to_np_dtype(kind), _LARGEST[kind]
    casts = []
    outputs = {o.name for o in model.graph.output}
    inputs = {i.name for i in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name in outputs or tensor.name in inputs:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _LEAST_ELEMENTS or not np.isfinite(values).all() or np.abs(values).max() > largest:
            continue
        name = tensor.name
        half = numpy_helper.from_array(values.astype(dtype), f"{name}.half")
        tensor.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    for position, node in enumerate(casts):
        model.graph.node.insert(position, node)
    return len(casts)
