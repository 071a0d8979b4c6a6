"""Weights in 8 or 4 bits, arithmetic in float32: smaller files, and less memory traffic where kernels
exist."""

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NotApplicableError,
    Proposal,
    TargetFacts,
    Work,
    lacks_weights,
)

_LEAST_ELEMENTS = 1024
_LEAST_OPSET = 13
_STORED_IN = {"Conv": 1, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1, "Gather": 0, "LSTM": 1, "GRU": 1}


class WeightOnly:
    """Weight-only quantization: stored in int8 and restored on loading, or MatMul in blocks of 8 or 4
    bits."""

    name = TechniqueName.WEIGHT_ONLY

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Large float32 weights are needed."""
        del target
        old = f"opset {model.opset} is older than {_LEAST_OPSET}" if model.opset < _LEAST_OPSET else None
        return lacks_weights(model) or old

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Stored int8 for any model; blocks for those that are mostly matrix products."""
        del target
        proposals = [Proposal("weight-int8-stored", self.name, {"bits": 8, "form": "stored"}, size_only=True)]
        if model.count("MatMul") >= 4:
            proposals += [
                Proposal("weight-int8-blocks", self.name, {"bits": 8, "form": "blocks", "block": 32}),
                Proposal("weight-int4-blocks", self.name, {"bits": 4, "form": "blocks", "block": 32}),
            ]
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Quantize the weights."""
        model = onnxfile.load(work.model)
        if work.parameters["form"] == "stored":
            if store_bytes(model) == 0:
                raise NotApplicableError("no weight is large enough to store in 8 bits")
        else:
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            quantizer = MatMulNBitsQuantizer(
                model,
                bits=int(work.parameters["bits"]),
                block_size=int(work.parameters["block"]),
                is_symmetric=True,
                accuracy_level=4,
            )
            quantizer.process()
            model = quantizer.model.model
        del model.graph.value_info[:]
        onnxfile.save(model, work.out)


def store_bytes(model: onnx.ModelProto) -> int:
    """Replace large float32 weights by int8 with one scale a channel; gives how many.

    Cast and Mul of constants are folded when the runtime loads the model, so its speed is that of float32.
    DequantizeLinear would say the same but is never folded.
    """
    kept = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
    places: dict[str, tuple[str, bool]] = {}
    for node in model.graph.node:
        position = _STORED_IN.get(node.op_type)
        if position is not None and len(node.input) > position:
            rows_out = node.op_type in ("Conv", "Gather", "LSTM", "GRU") or any(
                a.name == "transB" and a.i for a in node.attribute
            )
            places[node.input[position]] = (node.op_type, rows_out)
    restored = []
    for name, tensor in onnxfile.float_initializers(model).items():
        values = numpy_helper.to_array(tensor)
        if name in kept or name not in places or values.size < _LEAST_ELEMENTS or values.ndim < 2:
            continue
        if not np.isfinite(values).all():
            continue
        codes, scales = round_channels(values, axis=0 if places[name][1] else values.ndim - 1)
        tensor.CopyFrom(numpy_helper.from_array(codes, f"{name}.int8"))
        model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scale"))
        restored += [
            helper.make_node(
                "Cast", [f"{name}.int8"], [f"{name}.cast"], name=f"{name}.cast", to=TensorProto.FLOAT
            ),
            helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name], name=f"{name}.restore"),
        ]
    for position, node in enumerate(restored):
        model.graph.node.insert(position, node)
    return len(restored) // 2


def round_channels(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round to int8 with one symmetric scale an index of `axis`; scales broadcast against the codes."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, 1e-12).astype(np.float32)
    return np.clip(np.round(values / scale), -127, 127).astype(np.int8), scale
