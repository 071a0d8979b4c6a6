"""Low-rank factorization: a wide matrix product or convolution becomes thin ones, where data allows it."""

from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from longshore_optimizer.techniques import channels, low_rank_convolution, onnxfile
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, Proposal, TargetFacts, Work

_LEAST_SIDE = 16
_MOST_SIDE = 4096
_DAMPING = 1e-4
WORTH = 0.8
"""A factorization is used only where it needs less than 80 % of the multiplications."""

_ENERGIES = (0.9999, 0.995, 0.97)

Floats = NDArray[np.floating]


class LowRank:
    """Truncated SVD of MatMul and Gemm (Eckart and Young 1936), Tucker or CP decomposition of Conv."""

    name = TechniqueName.LOW_RANK

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Matrix products or convolutions with constant float32 weights are needed."""
        del target
        if model.quantized:
            return "the model is quantized already"
        if not model.count("MatMul", "Gemm", "Conv") or not model.weight_bytes:
            return "the model has no matrix product or convolution with constant weights"
        return None

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Ranks by the share of the squared weights that is kept; CP of convolutions once."""
        del target
        proposals = [
            Proposal(f"low-rank-{e * 100:g}", self.name, {"energy": e, "convolutions": "tucker"})
            for e in _ENERGIES
        ]
        if model.count("Conv"):
            parameters = {"energy": _ENERGIES[-1], "convolutions": "cp"}
            proposals.append(Proposal(f"low-rank-cp-{_ENERGIES[-1] * 100:g}", self.name, parameters))
        return tuple(proposals)

    def apply(self, work: Work) -> None:
        """Factorize every layer that gets cheaper; raises NotApplicableError where none does."""
        model = onnxfile.load(work.model)
        energy, form = float(work.parameters["energy"]), str(work.parameters["convolutions"])
        data = work.calibration
        metrics = input_metrics(model, data, work.scratch, work.threads) if data is not None else {}
        done = factorize(model, energy, metrics)
        done += low_rank_convolution.factorize(model, energy, form, WORTH, metrics)
        if done == 0:
            raise NotApplicableError("no weight is of low rank at this energy")
        del model.graph.value_info[:]
        onnxfile.save(model, work.out)


def input_metrics(model: onnx.ModelProto, data: Path, scratch: Path, threads: int) -> dict[str, Floats]:
    """Give L with L L^T the second moments of each layer's input on data, by the input's name.

    What counts is the output's error on real inputs, which lie in far fewer directions than weights do.
    """
    tensors = onnxfile.float_initializers(model)
    wanted = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm") and node.input[1] in tensors:
            dims = tensors[node.input[1]].dims
            if min(dims[:2]) >= _LEAST_SIDE and max(dims[:2]) <= _MOST_SIDE:
                wanted[node.input[0]] = 1 - len(dims) if node.op_type == "Conv" else -1
    if not wanted:
        return {}
    seen = channels.observe(model, wanted, data, scratch, threads, second=True)
    result = {}
    for name, observed in seen.items():
        size = len(observed.second)
        damping = _DAMPING * max(float(np.trace(observed.second)) / size, 1e-12)
        result[name] = np.linalg.cholesky(observed.second + damping * np.eye(size))
    return result


def factorize(
    model: onnx.ModelProto, energy: float, metrics: Mapping[str, Floats], only: Container[str] | None = None
) -> int:
    """Replace products by two thinner ones in place, those of the nodes `only` where it is given; gives how
    many.

    `metrics` gives L by the name of an input whose second moments are L L^T; the identity where it has none.
    """
    weights = onnxfile.float_initializers(model)
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    nodes: list[onnx.NodeProto] = []
    dropped: set[str] = set()
    for node in model.graph.node:
        factors = None
        asked = only is None or node.name in only
        if asked and _is_plain_product(node) and node.input[1] in weights and uses[node.input[1]] == 1:
            factors = split(_matrix(node, weights[node.input[1]]), energy, metrics.get(node.input[0]))
        if factors is None:
            nodes.append(node)
            continue
        weight = node.input[1]
        names = [f"{weight}.left", f"{weight}.right"]
        model.graph.initializer.extend(
            numpy_helper.from_array(f, n) for f, n in zip(factors, names, strict=True)
        )
        middle, product = f"{weight}.middle", f"{weight}.product"
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else None
        last = product if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], names[0]], [middle], name=middle))
        nodes.append(helper.make_node("MatMul", [middle, names[1]], [last], name=product))
        if bias:
            nodes.append(helper.make_node("Add", [product, bias], [node.output[0]], name=f"{weight}.bias"))
        dropped.add(weight)
    kept = [i for i in model.graph.initializer if i.name not in dropped]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    return len(dropped)


def split(
    weight: NDArray[np.float32], energy: float, metric: Floats | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Give two factors of (inputs, outputs) that keep `energy` of the squared output, None where that is no
    gain."""
    rows, columns = weight.shape
    if min(rows, columns) < _LEAST_SIDE or not np.isfinite(weight).all():
        return None
    if metric is None or len(metric) != rows:
        metric = np.eye(rows)
    left, values, right = np.linalg.svd(metric.T @ weight.astype(np.float64), full_matrices=False)
    share = np.cumsum(values**2) / max(float(np.sum(values**2)), 1e-30)
    rank = int(np.searchsorted(share, energy)) + 1
    if rank * (rows + columns) >= WORTH * rows * columns:
        return None
    root = np.sqrt(values[:rank])
    first = np.linalg.solve(metric.T, left[:, :rank] * root)
    return first.astype(np.float32), (root[:, None] * right[:rank]).astype(np.float32)


def _is_plain_product(node: onnx.NodeProto) -> bool:
    if node.op_type == "MatMul":
        return True
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    scaled = settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0
    return node.op_type == "Gemm" and not settings.get("transA") and not scaled


def _matrix(node: onnx.NodeProto, tensor: onnx.TensorProto) -> NDArray[np.float32]:
    values = numpy_helper.to_array(tensor)
    if values.ndim != 2:
        return np.zeros((1, 1), np.float32)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return values.T if transposed else values
