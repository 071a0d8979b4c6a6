"""Static quantization: QDQ form, ranges from calibration data, U8S8 per channel first."""

import numpy as np
from longshore.api.optimize import TechniqueName
from onnx import TensorProto

from longshore_optimizer.techniques import calibration, onnxfile, sensitivity
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work
from longshore_optimizer.techniques.prepare import LEAST_OPSET

_SHARES = (0.05, 0.15, 0.35)
"""Shares of the most sensitive layers that escalation keeps in float32, where the full int8 model loses
too much."""

_HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm")


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
        """The usual best first; then other calibrators, fewer operators, per tensor."""
        reduced = not target.vnni
        base = {"calibrator": "minmax", "perChannel": True, "activations": "uint8", "weights": "int8"}
        base |= {"reduceRange": reduced, "operators": "all"}
        variants: tuple[tuple[str, dict[str, object]], ...] = (
            ("static-int8", {}),
            ("static-int8-heavy", {"operators": "heavy"}),
            ("static-int8-percentile", {"calibrator": "percentile:99.99"}),
            ("static-int8-entropy", {"calibrator": "entropy"}),
            ("static-int8-mse", {"calibrator": "mse"}),
            ("static-int8-per-tensor", {"perChannel": False}),
        )
        proposals = [Proposal(name, self.name, base | changed) for name, changed in variants]
        for share in _SHARES:
            parameters = base | {"operators": "heavy", "excludeShare": share}
            name = f"static-int8-without-{share * 100:.0f}"
            proposals.append(Proposal(name, self.name, parameters, after="static-int8"))
        return tuple(proposals)

    @staticmethod
    def _excluded(work: Work, ranges: dict[str, tuple[float, float]]) -> list[str]:
        """Nodes to leave in float32: the share of the most sensitive ones that the parameters ask for."""
        share = float(work.parameters.get("excludeShare", 0.0))
        if not share or work.calibration is None:
            return []
        ranked = sensitivity.rank(work.model, work.calibration, ranges, work.scratch, work.threads)
        return ranked[: max(1, round(share * len(ranked)))]

    def apply(self, work: Work) -> None:
        """Quantize with ranges from the calibration data."""
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry

        if work.calibration is None:
            raise ValueError("static quantization needs calibration data")
        observed = calibration.observe(work.model, work.calibration, work.scratch, work.threads)
        chosen = calibration.ranges(observed, str(work.parameters["calibrator"]))
        data = {
            name: TensorData(lowest=np.array(low, dtype=np.float32), highest=np.array(high, dtype=np.float32))
            for name, (low, high) in chosen.items()
        }
        operators = list(QDQRegistry) if work.parameters["operators"] == "all" else list(_HEAVY)
        types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
        quantizer = QDQQuantizer(
            onnxfile.load(work.model),
            bool(work.parameters["perChannel"]),
            bool(work.parameters["reduceRange"]),
            types[str(work.parameters["weights"])],
            types[str(work.parameters["activations"])],
            TensorsData(CalibrationMethod.MinMax, data),
            [],
            self._excluded(work, chosen),
            operators,
            {"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        quantizer.quantize_model()
        model = quantizer.model.model
        del model.graph.value_info[:]
        onnxfile.save(model, work.out)
