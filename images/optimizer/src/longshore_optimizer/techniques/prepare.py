"""Brings a model into the form that the other techniques start from: recent opset, slim, shapes inferred."""

import logging

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from longshore_optimizer.techniques import detours, onnxfile
from longshore_optimizer.techniques.base import Work

LEAST_OPSET = 13
"""QuantizeLinear has its per-channel axis from opset 13 on (https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html)."""

UPGRADE_TO = 17
"""Opset that older models are raised to; LayerNormalization exists from there on."""

_SLIM_LIMIT = 1_500_000_000

logger = logging.getLogger(__name__)


def prepare(work: Work) -> int:
    """Write the prepared model; a step that fails is left out, as the next ones do not need it.

    Gives the number of subnormal weights that were set to zero.
    """
    model = onnxfile.load(work.model)
    model = upgrade(model)
    model = slim(model)
    flushed = flush_subnormals(model)
    try:
        if model.ByteSize() <= _SLIM_LIMIT:
            model = detours.straighten(model)
    except Exception as error:  # noqa: BLE001 - the runtime raises its own errors on odd graphs
        logger.warning("detours: %s", error)
    name_nodes(model)
    onnxfile.save(infer(model), work.out)
    return flushed


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own; techniques speak of nodes by name."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}.{number}"
        seen.add(node.name)


def upgrade(model: onnx.ModelProto) -> onnx.ModelProto:
    """Raise an old opset; gives the model as it was where the converter does not know an operator."""
    if onnxfile.default_opset(model) >= LEAST_OPSET:
        return model
    for target in (UPGRADE_TO, LEAST_OPSET):
        try:
            converted = version_converter.convert_version(inputs_without_weights(model), target)
            onnx.checker.check_model(converted)
        except Exception as error:  # noqa: BLE001 - the converter raises all kinds of errors on odd graphs
            logger.warning("opset %d: %s", target, error)
            continue
        return converted
    return model


def inputs_without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give a copy whose weights are not listed as inputs: IR version 3 did so, the converter trips over
    it."""
    names = {i.name for i in model.graph.initializer}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [i for i in copy.graph.input if i.name not in names]
    del copy.graph.input[:]
    copy.graph.input.extend(kept)
    copy.ir_version = max(copy.ir_version, 4)
    return copy


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and remove what does nothing; gives the model as it was where that fails."""
    if model.ByteSize() > _SLIM_LIMIT:
        return model
    try:
        import onnxslim

        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        slimmed: onnx.ModelProto = onnxslim.slim(copy)
        onnx.checker.check_model(slimmed)
        if [o.name for o in slimmed.graph.output] != [o.name for o in model.graph.output]:
            return model
        if {i.name for i in slimmed.graph.input} != {i.name for i in model.graph.input}:
            return model
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it exits or raises anything on graphs it does not know
        logger.warning("onnxslim: %s", error)
        return model
    return slimmed


def flush_subnormals(model: onnx.ModelProto) -> int:
    """Set weights below the least normal number (1.2e-38 in float32) to zero, in place; gives how many.

    No answer shows them, and every product with one of them takes a processor tens of times as long (Intel 64
    and IA-32 Architectures Optimization Reference Manual, "Floating-point Exceptions").
    """
    flushed = 0
    for tensor in onnxfile.float_initializers(model).values():
        values = numpy_helper.to_array(tensor)
        small = (values != 0) & (np.abs(values) < np.finfo(values.dtype).tiny)
        if small.any():
            flushed += int(small.sum())
            tensor.CopyFrom(numpy_helper.from_array(np.where(small, np.float32(0), values), tensor.name))
    return flushed


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Infer types and shapes where that works; quantization needs the types."""
    if model.ByteSize() > _SLIM_LIMIT:
        return model
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # noqa: BLE001 - an odd graph stays without shapes
        logger.warning("shape inference: %s", error)
        return model
