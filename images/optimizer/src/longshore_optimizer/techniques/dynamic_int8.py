"""Dynamic quantization: weights in 8 bits, activations quantized as they come; needs no data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from longshore.api.optimize import TechniqueName
from onnx import TensorProto

from longshore_optimizer.techniques import onnxfile, weight_sharing
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work

_MATMUL = ("MatMul", "Gemm", "Attention", "LSTM")


class DynamicInt8:
    """`quantize_dynamic` of ONNX Runtime on the operators where it pays."""

    name = TechniqueName.DYNAMIC_INT8

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Matrix products with constant weights are needed: dynamic convolutions are slow everywhere."""
        del target
        if model.quantized:
            return "the model is quantized already"
        if not model.count(*_MATMUL):
            return "the model has no matrix product (MatMul, Gemm, Attention, LSTM) to quantize"
        if not model.weight_bytes:
            return "the model has no float32 weights"
        return None

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Matrix products, per channel and per tensor; embeddings too where there are any: 8, 6 or 4 bits."""
        reduced = not target.vnni
        shared = {"reduceRange": reduced}
        proposals = []
        if model.count("Gather"):
            proposals.append(
                Proposal(
                    "dynamic-int8-embeddings",
                    self.name,
                    {"operators": [*_MATMUL, "Gather"], "perChannel": True, **shared},
                )
            )
            for bits in (6, 4):
                parameters = {"operators": [*_MATMUL], "perChannel": True, "tableClusters": 2**bits, **shared}
                proposals.append(Proposal(f"dynamic-int8-tables-{bits}-bit", self.name, parameters))
        proposals.append(
            Proposal("dynamic-int8", self.name, {"operators": [*_MATMUL], "perChannel": True, **shared}),
        )
        proposals.append(
            Proposal(
                "dynamic-int8-per-tensor", self.name, {"operators": [*_MATMUL], "perChannel": False, **shared}
            )
        )
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Quantize."""
        staged = work.scratch / f"{work.out.stem}-quantized.onnx"
        model = quantize(onnxfile.load(work.model), work.parameters, staged)
        if "tableClusters" in work.parameters:
            weight_sharing.share(model, int(work.parameters["tableClusters"]), tables(model))
        onnxfile.save(model, work.out)


def tables(model: onnx.ModelProto) -> set[str]:
    """Weights that are only looked up in: embeddings of tokens and positions."""
    read: dict[str, set[str]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            looked_up = node.op_type in ("Gather", "Slice") and position == 0
            read.setdefault(name, set()).add("table" if looked_up else "other")
    return {name for name, kinds in read.items() if kinds == {"table"}}


def quantize(model: onnx.ModelProto, parameters: Mapping[str, Any], staged: Path) -> onnx.ModelProto:
    """Give the model with `operators` quantized; `staged` is a file to use on the way."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Operators of other domains leave tensors without an inferred type; activations are float32 there.
    options = {"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(
        model,
        staged,
        op_types_to_quantize=list(parameters["operators"]),
        per_channel=bool(parameters["perChannel"]),
        reduce_range=bool(parameters["reduceRange"]),
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(parameters.get("exclude", ())),
        use_external_data_format=model.ByteSize() > onnxfile.EXTERNAL_ABOVE,
        extra_options=options,
    )
    result = onnxfile.load(staged)
    staged.unlink()
    del result.graph.value_info[:]
    return result
