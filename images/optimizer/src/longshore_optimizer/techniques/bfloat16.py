"""Weights in bfloat16: half the size, and the range of float32, which half precision does not have.

Nothing computes in it: on CPUs ONNX Runtime has no such kernel, and a graph with one does not load
(https://github.com/microsoft/onnxruntime/issues/28768).
"""

from longshore.api.optimize import TechniqueName
from onnx import TensorProto

from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NotApplicableError,
    Proposal,
    TargetFacts,
    Work,
    lacks_weights,
)
from longshore_optimizer.techniques.float16 import store_halves

_LEAST_OPSET = 13
"""Cast knows bfloat16 from there on (https://onnx.ai/onnx/operators/onnx__Cast.html)."""


class BFloat16:
    """Stores weights with eight bits of exponent and seven of mantissa."""

    name = TechniqueName.BFLOAT16

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Float32 weights are needed."""
        del target
        old = f"opset {model.opset} is older than {_LEAST_OPSET}" if model.opset < _LEAST_OPSET else None
        return lacks_weights(model) or old

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """One candidate."""
        del model, target
        return (Proposal("bfloat16-weights", self.name, {}, size_only=True),)

    def apply(self, work: Work) -> None:
        """Round the weights to the nearest.

        Raises:
            NotApplicableError: no weight is large enough.
        """
        model = onnxfile.load(work.model)
        if not store_halves(model, TensorProto.BFLOAT16):
            raise NotApplicableError("no weight is large enough to store in 16 bits")
        onnxfile.save(model, work.out)
