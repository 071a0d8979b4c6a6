"""Finds the layers that quantization harms most: each one alone in 8 bits, all in one session."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from longshore_optimizer.data import batches, read
from longshore_optimizer.measure.session import open_session, tensor_specs
from longshore_optimizer.techniques import onnxfile

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_SAMPLES = 8
_SIDE = ".quantized-alone"
_SWITCHES = "quantized-alone.switches"


@dataclass(frozen=True)
class Harm:
    """What 8 bits in one layer do to the model's answers, and the products a sample that they speed up."""

    error: float
    products: float

    @property
    def price(self) -> float:
        """Harm set against the root of what is gained: layers that cost little are left out first."""
        return self.error / math.sqrt(max(self.products, 1.0))


def harms(
    model_path: Path,
    data: Path,
    ranges: Mapping[str, tuple[float, float]],
    cache: Path,
    threads: int,
    seconds: float = 40.0,
) -> dict[str, Harm]:
    """What each layer with constant weights does to the model's answers when it alone is in 8 bits.

    Beside every layer a twin is added that gets the layer's own float32 input and weights, both rounded to 8
    bits, and a switch that passes one or the other on. The harm is the squared error of the outputs relative
    to their size. Where trying every layer takes over `seconds`, the error of the layer's own output stands
    in. What was found is kept in `cache`, which belongs to these ranges.
    """
    if cache.is_file():
        return {name: Harm(*stored) for name, stored in json.loads(cache.read_text()).items()}
    model = onnxfile.load(model_path)
    answers = [o.name for o in model.graph.output]
    twins = _add_twins(model, ranges)
    if not twins:
        return {}
    weights = onnxfile.float_initializers(model)
    layers = [n for n in model.graph.node if n.name in twins]
    kinds = {n.name: n.op_type for n in layers}
    sizes = {n.name: float(np.prod(weights[n.input[1]].dims)) for n in layers}
    augmented = cache.with_suffix(".onnx")
    onnxfile.save(model, augmented)
    session = open_session(augmented, threads, optimize=False)
    augmented.unlink()
    inputs = tuple(i for i in tensor_specs(session.get_inputs()) if i.name != _SWITCHES)
    samples = [b.feeds for b in batches(read(data, "calibration", inputs).head(_SAMPLES), inputs)]

    def run(wanted: list[str], sample: int, layer: int | None) -> list[NDArray[np.float64]]:
        switches = np.zeros(len(twins), np.float32)
        if layer is not None:
            switches[layer] = 1.0
        given = session.run(wanted, samples[sample] | {_SWITCHES: switches})
        return [np.asarray(v, np.float64) for v in given]

    started = time.monotonic()
    exact = [run(answers, number, None) for number in range(len(samples))]
    each = (time.monotonic() - started) / len(samples)
    count = min(len(samples), int(seconds / max(each * len(twins), 1e-9)))
    names = [name for output in twins.values() for name in (output, output + _SIDE)]
    values = dict(zip(names, run(names, 0, None), strict=True))
    products = {n: sizes[n] * _uses(kinds[n], values[o].shape) for n, o in twins.items()}
    error = dict.fromkeys(twins, 0.0)
    if count == 0:
        error = {n: _error([values[o]], [values[o + _SIDE]]) for n, o in twins.items()}
    for number in range(count):
        for layer, node in enumerate(twins):
            error[node] += _error(exact[number], run(answers, number, layer))
    found = {n: Harm(error[n], products[n]) for n in twins}
    cache.write_text(json.dumps({n: [h.error, h.products] for n, h in found.items()}))
    return found


def _uses(kind: str, shape: tuple[int, ...]) -> float:
    """How often each weight of a layer is used for an output of this shape."""
    places = shape[2:] if kind.startswith("Conv") else shape[:-1]
    return float(np.prod(places, dtype=np.float64))


def _error(exact: Sequence[NDArray[np.float64]], given: Sequence[NDArray[np.float64]]) -> float:
    """Squared error relative to the squares of what is exact."""
    noise = sum(float(np.sum((a - b) ** 2)) for a, b in zip(exact, given, strict=True))
    return noise / max(sum(float(np.sum(a**2)) for a in exact), 1e-30)


def worst(found: Mapping[str, Harm], share: float) -> list[str]:
    """Name layers that together do this share of the harm, the dearest first; one at least."""
    wanted, done, result = share * sum(h.error for h in found.values()), 0.0, list[str]()
    for name in sorted(found, key=lambda n: -found[n].price):
        if result and done >= wanted:
            break
        result.append(name)
        done += found[name].error
    return result


def with_makers(graph: onnx.GraphProto, names: Sequence[str]) -> list[str]:
    """Add the layers whose output the named ones read: an output in 8 bits would round it all the same."""
    makers = {output: node for node in graph.node for output in node.output}
    layers = {node.name: node for node in graph.node if node.op_type in LAYERS}
    result = list(names)
    seen: set[str] = set()
    tensors = [layers[name].input[0] for name in names]
    while tensors:
        node = makers.get(tensors.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type not in LAYERS:
            tensors.extend(node.input)
        elif node.name not in result:
            result.append(node.name)
    return result


def _add_twins(model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> dict[str, str]:
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
                numpy_helper.from_array(np.array(len(twins), np.int64), f"{prefix}.place"),
                numpy_helper.from_array(_rounded(node, weights[weight]), f"{prefix}.weight"),
            ]
        )
        parameters = [f"{prefix}.scale", f"{prefix}.zero"]
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = prefix
        twin.input[0], twin.input[1] = f"{prefix}.x", f"{prefix}.weight"
        output = node.output[0]
        node.output[0] = twin_of = f"{output}.exact"
        twin.output[0] = twin_of + _SIDE
        model.graph.node.extend(
            [
                helper.make_node("QuantizeLinear", [source, *parameters], [f"{prefix}.q"]),
                helper.make_node("DequantizeLinear", [f"{prefix}.q", *parameters], [f"{prefix}.x"]),
                twin,
                helper.make_node("Gather", [_SWITCHES, f"{prefix}.place"], [f"{prefix}.switch"]),
                helper.make_node("Sub", [twin.output[0], twin_of], [f"{prefix}.error"]),
                helper.make_node("Mul", [f"{prefix}.error", f"{prefix}.switch"], [f"{prefix}.passed"]),
                helper.make_node("Add", [twin_of, f"{prefix}.passed"], [output]),
            ]
        )
        twins[node.name] = twin_of
    if twins:
        model.graph.input.append(helper.make_tensor_value_info(_SWITCHES, TensorProto.FLOAT, [len(twins)]))
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
