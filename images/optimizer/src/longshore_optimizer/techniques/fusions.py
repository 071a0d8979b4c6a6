"""Fuses what transformers are made of into operators of the runtime: attention, normalizations with what is
added before, activations with their bias.

Beside attention these are the runtime's own offline fusions (onnxruntime.transformers), some of which it does
not make when it loads a model.
"""

import logging
from collections.abc import Mapping

import onnx

from longshore_optimizer.techniques import attention

_LARGEST_BYTES = 1_500_000_000
_FEWEST = ("MatMul", "Softmax")
"""Operators without which there is no transformer."""

logger = logging.getLogger(__name__)


def may_fuse(operators: Mapping[str, int]) -> bool:
    """Tell whether a model with so many of each operator can be a transformer."""
    return all(operators.get(name) for name in _FEWEST)


def fuse(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Give the model with its fusions made, and how many; the model that is given may change."""
    if model.ByteSize() > _LARGEST_BYTES:
        return model, 0
    before = _fused(model)
    attention.fuse(model)
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    try:
        model = _offline(model)
    except Exception as error:  # noqa: BLE001 - they raise all kinds of errors on graphs they do not know
        logger.warning("fusions: %s", error)
        model = kept
    count = _fused(model) - before
    if count:
        attention.import_domain(model)
    return model, count


def _fused(model: onnx.ModelProto) -> int:
    return sum(node.domain == attention.DOMAIN for node in model.graph.node)


def _offline(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_by_fusion

    options = FusionOptions("bert")
    # The one above finds more, and one that takes in the first layer's inputs changes their type.
    options.enable_attention = False
    options.enable_embed_layer_norm = False
    producer = model.producer_name, model.producer_version
    model.producer_name = ""
    fused: onnx.ModelProto = optimize_by_fusion(model, "bert", optimization_options=options).model
    fused.producer_name, fused.producer_version = producer
    return fused
