"""Static quantization: QDQ form, ranges from calibration data, U8S8 per channel first."""

from collections.abc import Mapping

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from onnx import TensorProto, numpy_helper

from longshore_optimizer.techniques import calibration, dynamic_int8, editing, onnxfile, sensitivity
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work
from longshore_optimizer.techniques.prepare import LEAST_OPSET

_SHARES = (0.5, 0.75, 0.9)
"""Escalation keeps the layers in float32 that do this share of the harm, where the full int8 model loses
too much."""

_SEARCH_SECONDS = 40.0

BASE: dict[str, object] = {
    "calibrator": "minmax",
    "perChannel": True,
    "activations": "uint8",
    "weights": "int8",
    "reduceRange": False,
    "operators": "all",
}
"""U8S8, per channel, every operator that the runtime has in 8 bits."""

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_PRODUCTS = ("MatMul", "Gemm")
_BIASED = (*_CONVOLUTIONS, "Gemm")
_HEAVY = (*_CONVOLUTIONS, *_PRODUCTS)
_OPERATORS = {"heavy": _HEAVY, "convolutions": _CONVOLUTIONS}


class StaticInt8:
    """QDQ quantization by ONNX Runtime's quantizer with this package's own calibration."""

    name = TechniqueName.STATIC_INT8

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Convolutions or matrix products, float32 weights, calibration data and opset 13 are needed."""
        if model.quantized:
            return "the model is quantized already"
        if not model.count(*_HEAVY):
            return "the model has no convolution or matrix product to quantize"
        if not model.weight_bytes:
            return "the model has no float32 weights"
        if not target.calibration:
            return "static quantization needs calibration data: add optimize.calibration"
        if model.opset < LEAST_OPSET:
            return (
                f"opset {model.opset} cannot be raised to {LEAST_OPSET}, which per-channel quantization needs"
            )
        return None

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """The usual best first; then other calibrators, fewer operators, per tensor.

        Where there are convolutions and matrix products, also the first by calibrated ranges and the second
        by ranges as they come, as suits each.
        """
        reduced = not target.vnni
        base = BASE | {"reduceRange": reduced}
        variants: tuple[tuple[str, dict[str, object]], ...] = (
            ("static-int8", {}),
            ("static-int8-heavy", {"operators": "heavy"}),
            ("static-int8-percentile", {"calibrator": "percentile:99.99"}),
            ("static-int8-entropy", {"calibrator": "entropy"}),
            ("static-int8-mse", {"calibrator": "mse"}),
            ("static-int8-per-tensor", {"perChannel": False}),
            ("static-int8-signed", {"activations": "int8"}),
        )
        proposals = [Proposal(name, self.name, base | changed) for name, changed in variants]
        mixed: dict[str, object] = {"operators": "convolutions", "products": "dynamic", "calibrator": "mse"}
        if model.count(*_CONVOLUTIONS) and model.count(*_PRODUCTS):
            proposals.insert(1, Proposal("static-int8-mixed", self.name, base | mixed))
            proposals += self._without(base | mixed, "static-int8-mixed")
        proposals += self._without(base | {"operators": "heavy", "calibrator": "mse"}, "static-int8")
        return tuple(proposals)

    def _without(self, parameters: Mapping[str, object], name: str) -> list[Proposal]:
        """Escalations that leave ever more layers as they are, the dearest first."""
        return [
            Proposal(
                f"{name}-without-{share * 100:.0f}",
                self.name,
                {**parameters, "excludeHarm": share},
                after="static-int8",
            )
            for share in _SHARES
        ]

    @staticmethod
    def _excluded(work: Work, ranges: dict[str, tuple[float, float]]) -> list[str]:
        """Nodes to leave in float32: those that do the share of the harm that the parameters ask for."""
        share = float(work.parameters.get("excludeHarm", 0.0))
        if not share or work.calibration is None:
            return []
        rule = str(work.parameters["calibrator"]).replace(":", "-")
        cache = work.scratch / f"sensitivity-{rule}.json"
        seconds = min(_SEARCH_SECONDS, 0.15 * work.seconds)
        found = sensitivity.harms(work.model, work.calibration, ranges, cache, work.threads, seconds)
        graph = onnxfile.load(work.model).graph
        if work.parameters["operators"] == "convolutions":
            names = {n.name for n in graph.node if n.op_type in _CONVOLUTIONS}
            found = {name: harm for name, harm in found.items() if name in names}
        return sensitivity.with_makers(graph, sensitivity.worst(found, share))

    def apply(self, work: Work) -> None:
        """Quantize with ranges from the calibration data."""
        if work.calibration is None:
            raise ValueError("static quantization needs calibration data")
        observed = calibration.observe(work.model, work.calibration, work.scratch, work.threads)
        chosen = calibration.ranges(observed, str(work.parameters["calibrator"]))
        excluded = self._excluded(work, chosen)
        model = quantize(onnxfile.load(work.model), chosen, work.parameters, excluded)
        if work.parameters.get("products") == "dynamic":
            staged = work.scratch / f"{work.out.parent.name}.staged.onnx"
            model = dynamic_int8.quantize(model, work.parameters | {"operators": _PRODUCTS}, staged)
        onnxfile.save(model, work.out)


def quantize(
    model: onnx.ModelProto,
    ranges: dict[str, tuple[float, float]],
    parameters: Mapping[str, object],
    excluded: list[str],
) -> onnx.ModelProto:
    """Give the model in QDQ form; `ranges` are (lowest, highest) of activations, `excluded` node names."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry

    data = {
        name: TensorData(lowest=np.array(low, dtype=np.float32), highest=np.array(high, dtype=np.float32))
        for name, (low, high) in ranges.items()
    }
    wanted = str(parameters["operators"])
    operators = list(QDQRegistry) if wanted == "all" else list(_OPERATORS[wanted])
    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    separate_biases(model)
    flatten_biases(model)
    quantizer = QDQQuantizer(
        model,
        bool(parameters["perChannel"]),
        bool(parameters["reduceRange"]),
        types[str(parameters["weights"])],
        types[str(parameters["activations"])],
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        excluded,
        operators,
        {
            "MatMulConstBOnly": True,
            "DefaultTensorType": TensorProto.FLOAT,
            # With symmetric activations zero points vanish, which is what S8S8 is for.
            "ActivationSymmetric": parameters["activations"] == "int8",
        },
    )
    quantizer.quantize_model()
    # The runtime sorts nodes itself, other readers of the file do not.
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    del result.graph.value_info[:]
    return result


def separate_biases(model: onnx.ModelProto) -> None:
    """Give every layer a bias of its own: the quantizer copies shared ones under their name and a number,
    which another tensor may have.
    """
    tensors = onnxfile.float_initializers(model)
    biased = [node for node in model.graph.node if node.op_type in _BIASED and len(node.input) > 2]
    taken = editing.captured(model.graph) | {output.name for output in model.graph.output}
    for node in model.graph.node:
        taken.update(node.input[:2] if node.op_type in _BIASED else node.input)
    fresh = editing.fresh_names(model.graph, "bias")
    for node in biased:
        bias = tensors.get(node.input[2])
        if bias is not None and bias.name in taken:
            node.input[2] = editing.add_constant(model.graph, next(fresh), numpy_helper.to_array(bias))
        elif bias is not None:
            taken.add(bias.name)


def flatten_biases(model: onnx.ModelProto) -> None:
    """Give biases of Gemm of shape (1, n) the shape (n,): the quantizer looks for channels on axis 0
    (https://github.com/microsoft/onnxruntime/issues/24815)."""
    tensors = onnxfile.float_initializers(model)
    readers = editing.users(model.graph)
    for node in model.graph.node:
        if node.op_type != "Gemm" or len(node.input) < 3:
            continue
        bias = tensors.get(node.input[2])
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1 and len(readers[bias.name]) == 1:
            editing.set_constant(bias, numpy_helper.to_array(bias).reshape(-1))
