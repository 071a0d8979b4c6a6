"""Weight sharing: each tensor keeps a few distinct values, found by k-means; the file holds their numbers."""

from collections.abc import Set
from typing import Any

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from numpy.typing import NDArray
from onnx import TensorProto, helper

from longshore_optimizer.techniques import editing, onnxfile
from longshore_optimizer.techniques.base import (
    ModelFacts,
    NotApplicableError,
    Proposal,
    TargetFacts,
    Work,
    lacks_weights,
)
from longshore_optimizer.techniques.editing import Weights

_LEAST_ELEMENTS = 1024
_ROUNDS = 300
_CLUSTERS = (256, 64, 16)
"""Codes of 8, 6 and 4 bits; numbers between would be stored in as many bits."""


class WeightSharing:
    """Codebooks as in Han et al. 2015, "Deep Compression"; the runtime expands them once, on loading.

    Speed is that of float32: what is saved is the size of the file. Recurrent layers are shared too.
    """

    name = TechniqueName.WEIGHT_SHARING

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Float32 weights are needed."""
        del target
        return lacks_weights(model)

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Codebooks of 256 values (a byte a weight), of 64 (three quarters) and of 16 (half a byte)."""
        del model, target
        return tuple(
            Proposal(f"shared-{count}", self.name, {"clusters": count}, size_only=True) for count in _CLUSTERS
        )

    def apply(self, work: Work) -> None:
        """Cluster every large weight."""
        model = onnxfile.load(work.model)
        if share(model, int(work.parameters["clusters"])) == 0:
            raise NotApplicableError("no weight is large enough to share values")
        del model.graph.value_info[:]
        onnxfile.save(model, work.out)


def share(model: onnx.ModelProto, clusters: int, only: Set[str] | None = None) -> int:
    """Replace large weights (of those named in `only`) by codebook, numbers and channel scales, in place.

    `clusters` is at most 256; up to 16, two weights share a byte, by a codebook of pairs; up to 64, the low
    four bits of two weights share one and the high two of four another.
    Gives how many were replaced.
    """
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    large = editing.replaceable(model, _LEAST_ELEMENTS)
    shared = {n: v for n, v in large.items() if only is None or n in only}
    for name, values in shared.items():
        scale = channel_scale(values)
        codebook, codes = cluster(values / scale, clusters)
        flat = codes.reshape(-1)
        table: NDArray[np.float32] = codebook
        if 16 < clusters <= 64:
            inner = list(values.shape)
            editing.add_constant(graph, f"{name}.codebook", table)
            editing.add_constant(graph, f"{name}.scale", scale)
            editing.add_constant(graph, f"{name}.shape", np.array(inner, np.int64))
            nodes += _six_bits(graph, name, flat)
            nodes += [
                helper.make_node(
                    "Gather",
                    [f"{name}.codebook", f"{name}.number"],
                    [f"{name}.spread"],
                    name=f"{name}.spread",
                ),
                *_restored(name, f"{name}.spread"),
            ]
            continue
        if clusters <= 16:
            if flat.size % 2:
                flat = np.append(flat, np.uint8(0))
            flat = flat[0::2] * np.uint8(len(codebook)) + flat[1::2]
            table = np.stack(np.meshgrid(codebook, codebook, indexing="ij"), -1).reshape(-1, 2)
        inner, count = list(values.shape), int(values.size)
        editing.add_constant(graph, f"{name}.codebook", table)
        editing.add_constant(graph, f"{name}.codes", flat)
        editing.add_constant(graph, f"{name}.scale", scale)
        editing.add_constant(graph, f"{name}.shape", np.array(inner, np.int64))
        spread = f"{name}.spread"
        nodes += [
            helper.make_node(
                "Cast", [f"{name}.codes"], [f"{name}.wide"], name=f"{name}.wide", to=TensorProto.INT32
            ),
            helper.make_node("Gather", [f"{name}.codebook", f"{name}.wide"], [spread], name=spread),
        ]
        if clusters <= 16 and count % 2:
            for part, value in (("start", 0), ("end", count), ("axis", 0), ("flat", -1)):
                editing.add_constant(graph, f"{name}.{part}", np.array([value], np.int64))
            nodes += [
                helper.make_node("Reshape", [spread, f"{name}.flat"], [f"{name}.line"], name=f"{name}.line"),
                helper.make_node(
                    "Slice",
                    [f"{name}.line", f"{name}.start", f"{name}.end", f"{name}.axis"],
                    [f"{name}.cut"],
                    name=f"{name}.cut",
                ),
            ]
            spread = f"{name}.cut"
        nodes += _restored(name, spread)
    editing.remove_initializers(graph, set(shared))
    editing.prepend(graph, nodes)
    return len(shared)


def _restored(name: str, spread: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Reshape", [spread, f"{name}.shape"], [f"{name}.plain"], name=f"{name}.plain"),
        helper.make_node("Mul", [f"{name}.plain", f"{name}.scale"], [name], name=f"{name}.restore"),
    ]


def _six_bits(graph: onnx.GraphProto, name: str, codes: NDArray[np.uint8]) -> list[onnx.NodeProto]:
    """Add codes below 64 in six bits each; the nodes give them as `name.number` in one line."""
    padded = np.append(codes, np.zeros(-len(codes) % 4, np.uint8))
    low, high = padded & 15, padded >> 4
    every = np.arange(256)
    parts = {
        "low": (low[0::2] << 4 | low[1::2], np.stack([every >> 4, every & 15], 1)),
        "high": (
            high[0::4] << 6 | high[1::4] << 4 | high[2::4] << 2 | high[3::4],
            16 * np.stack([every >> shift & 3 for shift in (6, 4, 2, 0)], 1),
        ),
    }
    editing.add_constant(graph, f"{name}.line", np.array([-1], np.int64))
    known = {i.name for i in graph.initializer}
    nodes = []
    for part, (packed, table) in parts.items():
        base, shared = f"{name}.{part}", f"six-bits.{part}"
        editing.add_constant(graph, f"{base}.codes", packed)
        if shared not in known:
            editing.add_constant(graph, shared, table.astype(np.uint8))
        steps: dict[str, tuple[str, list[str], dict[str, Any]]] = {
            "wide": ("Cast", [f"{base}.codes"], {"to": TensorProto.INT32}),
            "bits": ("Gather", [shared, f"{base}.wide"], {}),
            "line": ("Reshape", [f"{base}.bits", f"{name}.line"], {}),
            "number": ("Cast", [f"{base}.line"], {"to": TensorProto.INT32}),
        }
        nodes += [
            helper.make_node(kind, given, [f"{base}.{step}"], name=f"{base}.{step}", **options)
            for step, (kind, given, options) in steps.items()
        ]
    nodes.append(
        helper.make_node(
            "Add", [f"{name}.low.number", f"{name}.high.number"], [f"{name}.padded"], name=f"{name}.padded"
        )
    )
    for border, value in (("start", 0), ("end", len(codes)), ("axis", 0)):
        editing.add_constant(graph, f"{name}.{border}", np.array([value], np.int64))
    borders = [f"{name}.{border}" for border in ("start", "end", "axis")]
    nodes.append(
        helper.make_node("Slice", [f"{name}.padded", *borders], [f"{name}.number"], name=f"{name}.number")
    )
    return nodes


def channel_scale(values: Weights) -> Weights:
    """Root mean square of each channel along the axis where channels differ most; broadcasts to `values`."""

    def root(axis: int) -> Weights:
        others = tuple(i for i in range(values.ndim) if i != axis)
        squares = np.mean(values.astype(np.float64) ** 2, axis=others, keepdims=True)
        scale: Weights = np.maximum(np.sqrt(squares), 1e-12).astype(np.float32)
        return scale

    axes = [a for a in range(values.ndim) if values.shape[a] > 1] or [0]
    # One number for every 16 weights at least, or the scales cost more than they mend.
    worth = [a for a in axes if values.size // values.shape[a] >= 16]
    if not worth:
        return np.ones((1,) * values.ndim, np.float32)
    return max((root(a) for a in worth), key=lambda s: float(np.std(np.log(s))))


def cluster(values: Weights, clusters: int) -> tuple[Weights, NDArray[np.uint8]]:
    """One-dimensional k-means from evenly spaced centres; gives centres (k,) and each value's nearest one.

    Lloyd's algorithm on sorted values: a cluster is an interval, so its mean comes from prefix sums.
    """
    ordered = np.sort(values.reshape(-1).astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    low, high = np.quantile(ordered, (0.0005, 0.9995))
    centres = np.linspace(low, high, clusters)
    for _ in range(_ROUNDS):
        borders = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], borders, [len(ordered)]])
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centres)
        if np.allclose(moved, centres, rtol=0, atol=1e-5 * max(high - low, 1e-12)):
            break
        centres = np.sort(moved)
    codes = np.searchsorted((centres[1:] + centres[:-1]) / 2, values).astype(np.uint8)
    return centres.astype(np.float32), codes
