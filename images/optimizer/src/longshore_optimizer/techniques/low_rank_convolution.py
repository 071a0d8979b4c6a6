"""Low-rank factorization of convolutions: Tucker (two thin 1x1 layers around a small one) and CP (around a
depthwise one)."""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from longshore_optimizer.techniques import editing
from longshore_optimizer.techniques.editing import Weights

_LEAST_CHANNELS = 16
_ROUNDS = 30
_RANKS = (0.2, 0.4, 0.7)
"""Ranks that CP tries, as shares of the one at which products are as many as before."""

_LARGEST = 3_000_000
"""Elements above which CP is not tried: its alternating least squares take minutes."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Stage:
    """One convolution of a factorized one; `spatial` has the kernel, strides and padding of the original."""

    weight: Weights
    spatial: bool
    group: int = 1


def factorize(
    model: onnx.ModelProto,
    energy: float,
    form: str,
    worth: float,
    metrics: Mapping[str, Floats],
    only: Container[str] | None = None,
) -> int:
    """Replace convolutions that get cheaper than `worth` times their products, in place, those of the nodes
    `only` where it is given; gives how many.

    `form` is `tucker` or `cp`; `energy` the share of the squared output that is kept for inputs with second
    moments L L^T; `metrics` gives L by the name of the input, the identity where it has none.
    """
    graph = model.graph
    weights = editing.replaceable(model, _LEAST_CHANNELS**2)
    readers = editing.users(graph)
    nodes: list[onnx.NodeProto] = []
    dropped: set[str] = set()
    for node in graph.node:
        stages = None
        own = node.op_type == "Conv" and node.input[1] in weights and len(readers[node.input[1]]) == 1
        if own and (only is None or node.name in only):
            stages = split(node, weights[node.input[1]], energy, form, worth, metrics.get(node.input[0]))
        if stages is None:
            nodes.append(node)
            continue
        nodes += replacement(graph, node, stages)
        dropped.add(node.input[1])
    del graph.node[:]
    graph.node.extend(nodes)
    editing.remove_initializers(graph, dropped)
    return len(dropped)


def split(
    node: onnx.NodeProto,
    weight: Weights,
    energy: float,
    form: str,
    worth: float,
    metric: Floats | None = None,
) -> tuple[Stage, ...] | None:
    """Factorize the weight (out, in, *kernel) of a Conv; None where that saves too little."""
    outs, ins = weight.shape[:2]
    if editing.attribute(node, "group", 1) != 1 or min(outs, ins) < _LEAST_CHANNELS:
        return None
    area = int(np.prod(weight.shape[2:]))
    stride = int(np.prod(editing.attribute(node, "strides", [1])))
    # The layer before the stride runs at every position of the input.
    plain = area == 1 or form == "tucker"
    stages = tucker(weight, energy, metric) if plain else cp(weight, energy, worth)
    if stages is None:
        return None
    products = sum(
        s.weight.size * (stride if i == 0 and len(stages) > 1 else 1) for i, s in enumerate(stages)
    )
    return stages if products < worth * outs * ins * area else None


def tucker(weight: Weights, energy: float, metric: Floats | None = None) -> tuple[Stage, ...]:
    """Tucker-2 by higher-order SVD (Kim et al. 2015); of a 1x1 kernel it is the SVD of the matrix."""
    outs, ins = weight.shape[:2]
    kernel = weight.shape[2:]
    if metric is None or len(metric) != ins:
        metric = np.eye(ins)
    values = np.einsum("oik,ij->ojk", weight.astype(np.float64).reshape(outs, ins, -1), metric)
    back = np.linalg.inv(metric)
    ones = (1,) * len(kernel)
    if values.shape[2] == 1:
        left, sizes, right = np.linalg.svd(values[:, :, 0], full_matrices=False)
        rank = _rank(sizes, energy)
        root = np.sqrt(sizes[:rank])
        first, last = root[:, None] * right[:rank] @ back, left[:, :rank] * root
        return (
            Stage(first.reshape(rank, ins, *ones).astype(np.float32), spatial=False),
            Stage(last.reshape(outs, rank, *ones).astype(np.float32), spatial=True),
        )
    # Each of the two truncations may lose half of what may be lost.
    share = 1 - (1 - energy) / 2
    u_out, s_out, _ = np.linalg.svd(values.reshape(outs, -1), full_matrices=False)
    u_in, s_in, _ = np.linalg.svd(values.transpose(1, 0, 2).reshape(ins, -1), full_matrices=False)
    a, b = u_out[:, : _rank(s_out, share)], u_in[:, : _rank(s_in, share)]
    core = np.einsum("oik,or,is->rsk", values, a, b, optimize=True)
    return (
        Stage((b.T @ back).reshape(b.shape[1], ins, *ones).astype(np.float32), spatial=False),
        Stage(core.reshape(a.shape[1], b.shape[1], *kernel).astype(np.float32), spatial=True),
        Stage(a.reshape(outs, a.shape[1], *ones).astype(np.float32), spatial=False),
    )


def cp(weight: Weights, energy: float, worth: float) -> tuple[Stage, ...] | None:
    """Canonical polyadic decomposition (Lebedev et al. 2014) of (out, in, kernel); None where none is close.

    A sum of r products of three vectors: 1x1 to r channels, one kernel for each, 1x1 to the outputs.
    """
    outs, ins = weight.shape[:2]
    kernel = weight.shape[2:]
    values = weight.astype(np.float64).reshape(outs, ins, -1)
    if values.size > _LARGEST:
        return None
    break_even = values.size / (outs + ins + values.shape[2])
    ones = (1,) * len(kernel)
    for share in _RANKS:
        rank = int(share * worth * break_even)
        if rank < 1:
            continue
        a, b, c, lost = alternate(values, rank)
        if lost <= 1 - energy:
            return (
                Stage(b.T.reshape(rank, ins, *ones).astype(np.float32), spatial=False),
                Stage(c.T.reshape(rank, 1, *kernel).astype(np.float32), spatial=True, group=rank),
                Stage(a.reshape(outs, rank, *ones).astype(np.float32), spatial=False),
            )
    return None


def alternate(values: Floats, rank: int) -> tuple[Floats, Floats, Floats, float]:
    """Alternating least squares; gives the three factors and the share of the squared norm that is lost."""
    rng = np.random.default_rng(0)
    unfolded = [np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) for axis in range(3)]
    factors: list[Floats] = [rng.standard_normal((size, rank)) for size in values.shape]
    total = max(float(np.sum(values**2)), 1e-30)
    lost = 1.0
    for _ in range(_ROUNDS):
        for axis in range(3):
            first, second = (factors[i] for i in range(3) if i != axis)
            gram = (first.T @ first) * (second.T @ second)
            gram += 1e-9 * max(float(np.trace(gram)) / rank, 1e-12) * np.eye(rank)
            products = (first[:, None, :] * second[None, :, :]).reshape(-1, rank)
            factors[axis] = np.linalg.solve(gram, (unfolded[axis] @ products).T).T
            if axis < 2:
                factors[axis] /= np.maximum(np.linalg.norm(factors[axis], axis=0), 1e-12)
        rebuilt = np.einsum("or,ir,kr->oik", *factors, optimize=True)
        before, lost = lost, float(np.sum((values - rebuilt) ** 2)) / total
        if before - lost < 1e-4 * before:
            break
    a, b, c = factors
    return a, b, c, lost


def _rank(sizes: Floats, energy: float) -> int:
    share = np.cumsum(sizes**2) / max(float(np.sum(sizes**2)), 1e-30)
    return min(int(np.searchsorted(share, energy)) + 1, len(sizes))


def replacement(
    graph: onnx.GraphProto, node: onnx.NodeProto, stages: tuple[Stage, ...]
) -> list[onnx.NodeProto]:
    """Give the nodes that stand in for a Conv; their weights are added to the graph."""
    weight, source = node.input[1], node.input[0]
    result = []
    for number, stage in enumerate(stages):
        last = number == len(stages) - 1
        name = editing.add_constant(graph, f"{weight}.factor{number}", stage.weight)
        inputs = [source, name, *(node.input[2:3] if last else ())]
        output = node.output[0] if last else f"{weight}.stage{number}"
        made = helper.make_node("Conv", inputs, [output], name=f"{node.name}.{number}")
        if stage.spatial:
            made.attribute.extend(a for a in node.attribute if a.name != "group")
            made.attribute.append(helper.make_attribute("group", stage.group))
        result.append(made)
        source = output
    return result
