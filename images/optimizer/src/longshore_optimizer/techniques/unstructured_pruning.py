"""Unstructured and N:M pruning by magnitude, and the stored form that makes the file smaller for it.

What it buys is size: the runtime's CPU kernels multiply by zeros as fast as by anything else. Only N:M on a
GPU with sparse tensor cores (TensorRT) is faster, so there the weights stay dense.
"""

import numpy as np
import onnx
from longshore.api.optimize import TechniqueName
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

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
_LEAST_OPSET = 11
_SPARSITIES = (0.5, 0.7, 0.85)
_GAP = 255
_LARGEST = 65504.0
"""Largest finite float16 (IEEE 754)."""

_INPUT_AXIS = {"Conv": 1, "MatMul": -2, "Gemm": 0}


class UnstructuredPruning:
    """Keeps the weights with |w| > theta, theta a multiple of each tensor's root mean square.

    One multiple for the whole model, chosen so that the wanted share is pruned: layers with many small
    weights lose more.
    """

    name = TechniqueName.UNSTRUCTURED_PRUNING

    def applies(self, model: ModelFacts, target: TargetFacts) -> str | None:
        """Float32 weights are needed, and opset 11 to store them sparse."""
        del target
        lacking = lacks_weights(model)
        if lacking is None and model.opset < _LEAST_OPSET:
            return f"opset {model.opset} is older than {_LEAST_OPSET}, which sparse storage needs"
        return lacking

    def space(self, model: ModelFacts, target: TargetFacts) -> tuple[Proposal, ...]:
        """Three sparsities, and 2 of every 4 weights."""
        del model
        proposals = [
            Proposal(f"pruned-{s * 100:g}", self.name, {"sparsity": s}, size_only=True) for s in _SPARSITIES
        ]
        fast = target.gpu is not None
        parameters = {"keep": 2, "of": 4, "dense": fast}
        return (*proposals, Proposal("pruned-2-of-4", self.name, parameters, size_only=not fast))

    def apply(self, work: Work) -> None:
        """Prune and store."""
        model = onnxfile.load(work.model)
        if "of" in work.parameters:
            pruned = prune_pattern(model, int(work.parameters["keep"]), int(work.parameters["of"]))
        else:
            pruned = prune_small(model, float(work.parameters["sparsity"]))
        if not pruned:
            raise NotApplicableError("no weight is large enough, or shaped so, to be pruned")
        if not work.parameters.get("dense"):
            store_sparse(model, pruned)
        del model.graph.value_info[:]
        onnxfile.save(model, work.out)


def prune_small(model: onnx.ModelProto, sparsity: float) -> set[str]:
    """Set the share `sparsity` of all large weights to zero; gives the names of the tensors."""
    candidates = editing.replaceable(model, _LEAST_ELEMENTS)
    if not candidates:
        return set()
    relative = {
        name: np.abs(values) / max(float(np.sqrt(np.mean(values.astype(np.float64) ** 2))), 1e-30)
        for name, values in candidates.items()
    }
    theta = float(np.quantile(np.concatenate([r.reshape(-1) for r in relative.values()]), sparsity))
    tensors = onnxfile.float_initializers(model)
    for name, values in candidates.items():
        kept = relative[name] > theta
        editing.set_constant(tensors[name], np.where(kept, values, np.float32(0)))
    return set(candidates)


def prune_pattern(model: onnx.ModelProto, keep: int, of: int) -> set[str]:
    """Keep the `keep` largest of every `of` neighbours along a layer's inputs; gives the tensors' names."""
    candidates = editing.replaceable(model, _LEAST_ELEMENTS)
    tensors = onnxfile.float_initializers(model)
    pruned = set()
    for node in model.graph.node:
        if node.op_type not in _INPUT_AXIS or len(node.input) < 2 or node.input[1] not in candidates:
            continue
        name = node.input[1]
        values = candidates[name]
        axis = 1 if editing.attribute(node, "transB", 0) else _INPUT_AXIS[node.op_type]
        if values.shape[axis] % of or name in pruned:
            continue
        editing.set_constant(tensors[name], keep_largest(values, axis, keep, of))
        pruned.add(name)
    return pruned


def keep_largest(values: Weights, axis: int, keep: int, of: int) -> Weights:
    """Set all but the `keep` largest magnitudes of every `of` neighbours along `axis` to zero."""
    rows = np.moveaxis(values, axis, -1)
    groups = rows.reshape(-1, of)
    order = np.argsort(-np.abs(groups), axis=1, kind="stable")
    result = groups.copy()
    np.put_along_axis(result, order[:, keep:], np.float32(0), axis=1)
    return np.moveaxis(result.reshape(rows.shape), -1, axis)


def store_sparse(model: onnx.ModelProto, names: set[str]) -> None:
    """Store tensors as gaps (a byte each) and values (float16), where that is smaller; the runtime expands
    them once, on loading."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    stored = set()
    for tensor in [i for i in graph.initializer if i.name in names]:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        gaps, kept = relative_gaps(values.reshape(-1))
        if np.abs(kept).max(initial=0.0) > _LARGEST or 3 * len(gaps) >= values.nbytes:
            continue
        stored.add(name)
        for part, constant in (
            ("gaps", gaps),
            ("values", kept.astype(np.float16)),
            ("count", np.array([values.size], np.int64)),
            ("shape", np.array(values.shape, np.int64)),
            ("axis", np.array(0, np.int64)),
        ):
            editing.add_constant(graph, f"{name}.{part}", constant)
        zeros, flat = f"{name}.zeros", f"{name}.flat"
        nodes += [
            helper.make_node("ConstantOfShape", [f"{name}.count"], [zeros], name=zeros),
            _cast(f"{name}.gaps", f"{name}.steps", TensorProto.INT64),
            helper.make_node(
                "CumSum", [f"{name}.steps", f"{name}.axis"], [f"{name}.places"], name=f"{name}.places"
            ),
            _cast(f"{name}.values", f"{name}.floats", TensorProto.FLOAT),
            helper.make_node(
                "ScatterElements", [zeros, f"{name}.places", f"{name}.floats"], [flat], name=flat, axis=0
            ),
            helper.make_node("Reshape", [flat, f"{name}.shape"], [name], name=f"{name}.restore"),
        ]
    editing.remove_initializers(graph, stored)
    editing.prepend(graph, nodes)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=target, to=kind)


def relative_gaps(values: Weights) -> tuple[NDArray[np.uint8], Weights]:
    """Encode a flat array by the distance from each nonzero to the one before (the first: to the start).

    Distances over 255 are bridged by entries of value zero (Han et al. 2015, section 3.2).
    """
    places = np.flatnonzero(values)
    gaps = np.diff(places, prepend=0)
    bridges = np.maximum(gaps - 1, 0) // _GAP
    total = len(places) + int(bridges.sum())
    result, kept = np.full(total, _GAP, np.uint8), np.zeros(total, np.float32)
    ends = np.arange(len(places)) + np.cumsum(bridges)
    result[ends] = gaps - bridges * _GAP
    kept[ends] = values[places]
    return result, kept
