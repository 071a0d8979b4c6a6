"""Quantization-aware training: the weights learn to answer well after they are rounded to 8 bits."""

import onnx
from longshore.api.optimize import TechniqueName

from longshore_optimizer.techniques import calibration, onnxfile, static_int8
from longshore_optimizer.techniques.base import ModelFacts, Proposal, TargetFacts, Work, lacks_training
from longshore_optimizer.techniques.prepare import LEAST_OPSET

_TRAINING_SHARE = 0.8
"""Share of the time that training may take; the rest is for calibration."""

_RULES = ("minmax", "entropy", "percentile:99.99", "mse")
"""Calibrators that are compared: ranges stay as they are while the weights learn."""


class QuantizationAwareTraining:
    """Trains with every tensor rounded as static quantization would (Jacob et al. 2018), on labels and on the
    answers of the original; then writes the graph that static quantization writes."""

    name = TechniqueName.QUANTIZATION_AWARE_TRAINING

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """What static quantization needs, but training data in place of calibration data; PyTorch."""
        if model.quantized:
            return "the model is quantized already"
        if not model.count("Conv", "MatMul", "Gemm") or not model.weight_bytes:
            return "the model has no convolution or matrix product to quantize"
        if model.opset < LEAST_OPSET:
            return (
                f"opset {model.opset} cannot be raised to {LEAST_OPSET}, which per-channel quantization needs"
            )
        return lacks_training(target)

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Escalations of static quantization: of all operators, and of the heavy ones."""
        del model
        base = static_int8.BASE | {"reduceRange": not target.vnni, "calibrator": "best"}
        return tuple(
            Proposal(
                f"qat-int8{suffix}",
                self.name,
                base | {"operators": operators},
                after=f"static-int8{suffix}",
                trains=True,
            )
            for suffix, operators in (("", "all"), ("-heavy", "heavy"))
        )

    def apply(self, work: Work) -> None:
        """Calibrate, train, quantize; NotApplicableError where the graph cannot be trained."""
        from longshore_optimizer.techniques import fake_quantization, training
        from longshore_optimizer.techniques.lesson import Lesson

        if work.training is None:
            raise ValueError("quantization-aware training needs training data")
        model = onnxfile.load(work.model)
        static_int8.flatten_biases(model)
        samples = training.load(work.model, work.training)
        lesson = Lesson(
            epochs=work.passes(20),
            seconds=_TRAINING_SHARE * work.seconds,
            seed=work.seed,
            threads=work.threads,
        )
        seen = calibration.observe(work.model, work.calibration or work.training, work.scratch, work.threads)
        wanted = str(work.parameters["calibrator"])
        starts = []
        for rule in _RULES if wanted == "best" else (wanted,):
            ranges = calibration.ranges(seen, rule)
            form = _quantized(model, ranges, work)
            rounding = fake_quantization.roundings(form, model, reduced=bool(work.parameters["reduceRange"]))
            loss = training.untrained_loss(model, model, samples, lesson, rounding)
            starts.append((loss, ranges, rounding))
        _, ranges, rounding = min(starts, key=lambda s: s[0])
        trained = training.train(model, model, samples, lesson, rounding)
        onnxfile.save(_quantized(trained, ranges, work), work.out)


def _quantized(model: onnx.ModelProto, ranges: dict[str, tuple[float, float]], work: Work) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return static_int8.quantize(copy, ranges, work.parameters, [])
