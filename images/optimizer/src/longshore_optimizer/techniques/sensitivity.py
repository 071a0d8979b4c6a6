"""Ranks layers by what quantization does to them: the error of each one alone, all found in a few runs."""

import json
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from longshore_optimizer.data import batches, read
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import onnxfile

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_SAMPLES = 4
_SIDE = ".quantized-alone"


def rank(
    model_path: Path, data: Path, ranges: dict[str, tuple[float, float]], scratch: Path, threads: int
) -> list[str]:
    """Give the names of the layers with constant weights, the most sensitive first.

    Beside every layer a twin is added that gets the layer's own float32 input and weights, both rounded to 8
    bits; the twin's relative squared error is the layer's sensitivity.
    """
    cache = scratch / "sensitivity.json"
    if cache.is_file():
        stored: list[str] = json.loads(cache.read_text())
        return stored
    model = onnxfile.load(model_path)
    twins = _add_twins(model, ranges)
    if not twins:
        return []
    augmented = scratch / "twins.onnx"
    onnxfile.save(model, augmented)
    session = open_session(augmented, threads, optimize=False)
    inputs = tensor_specs(session.get_inputs())
    wanted = [name for output in twins.values() for name in (output, output + _SIDE)]
    noise = dict.fromkeys(twins, 0.0)
    signal = dict.fromkeys(twins, 1e-12)
    for batch in batches(read(data, "calibration", inputs).head(_SAMPLES), inputs):
        values = dict(zip(wanted, session.run(wanted, batch.feeds), strict=True))
        for node, output in twins.items():
            exact = values[output].astype(np.float64)
            noise[node] += float(np.sum((values[output + _SIDE] - exact) ** 2))
            signal[node] += float(np.sum(exact**2))
    augmented.unlink()
    ranked = sorted(twins, key=lambda n: noise[n] / signal[n], reverse=True)
    cache.write_text(json.dumps(ranked))
    return ranked


def _add_twins(model: onnx.ModelProto, ranges: dict[str, tuple[float, float]]) -> dict[str, str]:
    weights = onnxfile.float_initializers(model)
    twins: dict[str, str] = {}
    for node in list(model.graph.node):
        if node.op_type not in LAYERS or len(node.input) < 2:
            continue
        source, weight = node.input[0], node.input[1]
        if weight not in weights or source not in ranges:
            continue
        low, high = min(ranges[source][0], 0.0), max(ranges[source][1], 0.0)
        scale = max((high - low) / 255, 1e-12)
        prefix = f"{node.name}{_SIDE}"
        zero = int(np.clip(round(-low / scale), 0, 255))
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(scale, np.float32), f"{prefix}.scale"),
                numpy_helper.from_array(np.array(zero, np.uint8), f"{prefix}.zero"),
                numpy_helper.from_array(_rounded(node, weights[weight]), f"{prefix}.weight"),
            ]
        )
        parameters = [f"{prefix}.scale", f"{prefix}.zero"]
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = prefix
        twin.input[0], twin.input[1] = f"{prefix}.x", f"{prefix}.weight"
        twin.output[0] = node.output[0] + _SIDE
        model.graph.node.extend(
            [
                helper.make_node("QuantizeLinear", [source, *parameters], [f"{prefix}.q"]),
                helper.make_node("DequantizeLinear", [f"{prefix}.q", *parameters], [f"{prefix}.x"]),
                twin,
            ]
        )
        twins[node.name] = node.output[0]
    present = {o.name for o in model.graph.output}
    for output in twins.values():
        for name in (output, output + _SIDE):
            if name not in present:
                model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return twins


def _rounded(node: onnx.NodeProto, tensor: TensorProto) -> NDArray[np.float32]:
    """Weights rounded to int8, one scale an output channel."""
    values = numpy_helper.to_array(tensor)
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    first = node.op_type == "Conv" or transposed
    axis = 0 if first else 1 if node.op_type == "ConvTranspose" else values.ndim - 1
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, 1e-12)
    rounded: NDArray[np.float32] = (np.round(values / scale) * scale).astype(np.float32)
    return rounded
