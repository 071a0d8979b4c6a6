"""Low-rank factorization: a wide matrix product becomes two thin ones, where the weights allow it."""

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import ModelFacts, NotApplicableError, Proposal, TargetFacts, Work

_LEAST_SIDE = 32
_WORTH = 0.8
"""A factorization is used only where it needs less than 80 % of the multiplications."""

_ENERGIES = (0.9999, 0.995, 0.97)


class LowRank:
    """Truncated singular value decomposition of the weights of MatMul and Gemm (Eckart and Young 1936)."""

    name = TechniqueName.LOW_RANK

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Matrix products with constant float32 weights are needed."""
        del target
        if model.quantized:
            return "the model is quantized already"
        if not model.count("MatMul", "Gemm") or not model.weight_bytes:
            return "the model has no matrix product with constant weights"
        return None

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Ranks by the share of the squared singular values that is kept."""
        del model, target
        return tuple(Proposal(f"low-rank-{e * 100:g}", self.name, {"energy": e}) for e in _ENERGIES)

    def apply(self, work: Work) -> None:
        """Factorize every product that gets cheaper; raises NotApplicableError where none does."""
        model = onnxfile.load(work.model)
        if factorize(model, float(work.parameters["energy"])) == 0:
            raise NotApplicableError("no weight matrix is of low rank at this energy")
        del model.graph.value_info[:]
        onnxfile.save(model, work.out)


def factorize(model: onnx.ModelProto, energy: float) -> int:
    """Replace products by two thinner ones in place; gives how many."""
    weights = onnxfile.float_initializers(model)
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    nodes: list[onnx.NodeProto] = []
    dropped: set[str] = set()
    for node in model.graph.node:
        factors = None
        if _is_plain_product(node) and node.input[1] in weights and uses[node.input[1]] == 1:
            factors = split(_matrix(node, weights[node.input[1]]), energy)
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
    weight: NDArray[np.float32], energy: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Give two factors that keep `energy` of the squared singular values, None where that is no gain."""
    rows, columns = weight.shape
    if min(rows, columns) < _LEAST_SIDE or not np.isfinite(weight).all():
        return None
    left, values, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    share = np.cumsum(values**2) / max(float(np.sum(values**2)), 1e-30)
    rank = int(np.searchsorted(share, energy)) + 1
    if rank * (rows + columns) >= _WORTH * rows * columns:
        return None
    root = np.sqrt(values[:rank])
    return (left[:, :rank] * root).astype(np.float32), (root[:, None] * right[:rank]).astype(np.float32)


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
