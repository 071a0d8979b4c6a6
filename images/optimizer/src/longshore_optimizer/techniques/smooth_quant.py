"""SmoothQuant: outliers of activations move into the weights before both are quantized."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from longshore_optimizer.techniques import calibration, channels, dynamic_int8, editing, onnxfile, static_int8
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, Proposal, TargetFacts, Work
from longshore_optimizer.techniques.prepare import LEAST_OPSET

OUTLIER = 3.0
"""A tensor has outliers where its largest channel is over three times the median one."""

_STRENGTHS = (0.5, 0.75)


@dataclass(frozen=True)
class _Site:
    """A tensor and the products with constant weights that read it."""

    tensor: str
    nodes: tuple[onnx.NodeProto, ...]


class SmoothQuant:
    """Xiao et al. 2022: X W = (X / s)(s W), s = max|X|^alpha / max|W|^(1 - alpha) for each channel of X.

    The division is folded into the LayerNormalization before, where nothing else reads its result.
    """

    name = TechniqueName.SMOOTH_QUANT

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Matrix products, float32 weights and calibration data are needed."""
        if model.quantized:
            return "the model is quantized already"
        if not model.count("MatMul", "Gemm") or not model.weight_bytes:
            return "the model has no matrix product with constant weights"
        if not target.calibration:
            return "SmoothQuant needs calibration data: add optimize.calibration"
        if model.opset < LEAST_OPSET:
            return (
                f"opset {model.opset} cannot be raised to {LEAST_OPSET}, which per-channel quantization needs"
            )
        return None

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Two strengths of migration, activations quantized as they come or by calibrated ranges."""
        del model
        shared = {"reduceRange": not target.vnni}
        return tuple(
            Proposal(f"smooth-{kind}-{alpha:g}", self.name, {"alpha": alpha, "activations": kind, **shared})
            for alpha in _STRENGTHS
            for kind in ("dynamic", "static")
        )

    def apply(self, work: Work) -> None:
        """Smooth, then quantize; raises NotApplicableError where no activation has outliers."""
        if work.calibration is None:
            raise ValueError("SmoothQuant needs calibration data")
        model = onnxfile.load(work.model)
        alpha = float(work.parameters["alpha"])
        if smooth(model, work.calibration, alpha, work.scratch, work.threads) == 0:
            raise NotApplicableError("no activation before a matrix product has outliers")
        reduced = bool(work.parameters["reduceRange"])
        if work.parameters["activations"] == "dynamic":
            settings = {"operators": ["MatMul", "Gemm"], "perChannel": True, "reduceRange": reduced}
            model = dynamic_int8.quantize(model, settings, work.scratch / f"{work.out.stem}-smooth.onnx")
        else:
            folder = work.scratch / f"smooth-{alpha:g}"
            folder.mkdir(exist_ok=True)
            smoothed = folder / "model.onnx"
            onnxfile.save(model, smoothed)
            seen = calibration.observe(smoothed, work.calibration, folder, work.threads)
            settings = static_int8.BASE | {"operators": "heavy", "reduceRange": reduced}
            model = static_int8.quantize(model, calibration.ranges(seen, "minmax"), settings, [])
        onnxfile.save(model, work.out)


def smooth(model: onnx.ModelProto, data: Path, alpha: float, scratch: Path, threads: int) -> int:
    """Balance channels in place wherever an activation has outliers; gives in how many places."""
    sites = _sites(model)
    seen = channels.observe(model, {s.tensor: -1 for s in sites}, data, scratch, threads)
    done = 0
    for site in sites:
        if site.tensor not in seen:
            continue
        most = seen[site.tensor].most
        if most.max(initial=0.0) <= OUTLIER * max(float(np.median(most)), 1e-12):
            continue
        _balance(model, site, most, alpha)
        done += 1
    return done


def _sites(model: onnx.ModelProto) -> list[_Site]:
    weights = editing.replaceable(model, 1)
    readers = editing.users(model.graph)
    by_tensor: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or editing.attribute(node, "transA", 0):
            continue
        weight = node.input[1]
        if node.input[0] in weights or weight not in weights or weights[weight].ndim != 2:
            continue
        # A weight with another reader would be scaled for both.
        if len(readers[weight]) == 1:
            by_tensor.setdefault(node.input[0], []).append(node)
    return [_Site(tensor, tuple(nodes)) for tensor, nodes in by_tensor.items()]


def _rows_first(node: onnx.NodeProto) -> bool:
    """Whether axis 0 of the weight runs along the channels of the input."""
    return not editing.attribute(node, "transB", 0)


def _balance(model: onnx.ModelProto, site: _Site, most: NDArray[np.float64], alpha: float) -> None:
    tensors = onnxfile.float_initializers(model)
    largest = np.zeros(len(most))
    for node in site.nodes:
        values = numpy_helper.to_array(tensors[node.input[1]])
        largest = np.maximum(largest, np.abs(values).max(axis=1 if _rows_first(node) else 0))
    factor = np.maximum(most, 1e-5) ** alpha / np.maximum(largest, 1e-5) ** (1 - alpha)
    factor = np.clip(factor / np.exp(np.mean(np.log(factor))), 1e-4, 1e4).astype(np.float32)
    for node in site.nodes:
        values = numpy_helper.to_array(tensors[node.input[1]])
        shaped = factor[:, None] if _rows_first(node) else factor[None, :]
        editing.set_constant(tensors[node.input[1]], values * shaped)
    if not _fold_into_norm(model, site, factor):
        _divide(model, site, factor)


def _fold_into_norm(model: onnx.ModelProto, site: _Site, factor: NDArray[np.float32]) -> bool:
    graph = model.graph
    readers = editing.users(graph)
    maker = next((n for n in graph.node if site.tensor in n.output), None)
    held = site.tensor in {o.name for o in graph.output} | editing.captured(graph)
    if maker is None or maker.op_type != "LayerNormalization" or held:
        return False
    if len(readers[site.tensor]) != len(site.nodes) or len(maker.output) > 1:
        return False
    tensors = onnxfile.float_initializers(model)
    parameters = [n for n in maker.input[1:] if n]
    for name in parameters:
        if name not in tensors or len(readers[name]) > 1 or list(tensors[name].dims) != [len(factor)]:
            return False
    for name in parameters:
        editing.set_constant(tensors[name], numpy_helper.to_array(tensors[name]) / factor)
    return True


def _divide(model: onnx.ModelProto, site: _Site, factor: NDArray[np.float32]) -> None:
    graph = model.graph
    smoothed = f"{site.tensor}.smooth"
    scale = editing.add_constant(graph, f"{smoothed}.factor", (1 / factor).astype(np.float32))
    names = {n.name for n in site.nodes}
    first = next(i for i, n in enumerate(graph.node) if n.name in names)
    for node in graph.node:
        if node.name in names and node.input[0] == site.tensor:
            node.input[0] = smoothed
    graph.node.insert(first, helper.make_node("Mul", [site.tensor, scale], [smoothed], name=smoothed))
