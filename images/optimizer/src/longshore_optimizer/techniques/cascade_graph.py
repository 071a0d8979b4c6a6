"""Joins a small and a large classifier into one graph: the large one runs only where the small is unsure.

The confidence is the small model's highest class probability (Viola and Jones 2001 for the idea). With
several rows the least sure of them decides, as a graph has one branch for all.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from longshore_optimizer.techniques import onnxfile
from longshore_optimizer.techniques.base import NotApplicableError, Work

_SMALL = "small/"
_LARGE = "large/"
_AXES_AS_INPUT = 18
"""Opset from which ReduceMax and ReduceMin take their axes as an input."""


def join(work: Work) -> None:
    """Write the cascade of `parameters.small` and `parameters.large` to `work.out`.

    Raises:
        NotApplicableError: the two cannot stand in one graph.
    """
    small = onnxfile.load(Path(work.parameters["small"]))
    large = onnxfile.load(Path(work.parameters["large"]))
    if small.ByteSize() + large.ByteSize() > onnxfile.EXTERNAL_ABOVE:
        raise NotApplicableError("both models together are too large for one file")
    opsets = _opsets(small, large)
    inputs, outputs = list(small.graph.input), list(small.graph.output)
    given = {i.name for i in small.graph.initializer}
    inputs = [i for i in inputs if i.name not in given]
    names = [o.name for o in outputs]
    if sorted(o.name for o in large.graph.output) != sorted(names):
        raise NotApplicableError("the two models have other outputs")
    # Prefixes keep the two apart; the inputs are shared and stay as they are.
    shared = {i.name for i in inputs}
    first, second = _prefixed(small, _SMALL, shared), _prefixed(large, _LARGE, shared)
    scores = _SMALL + str(work.parameters["output"])
    softmax, threshold = bool(work.parameters["softmax"]), float(work.parameters["threshold"])
    nodes, constants = _unsure(scores, softmax, threshold, opsets.get("", 0))
    sure = helper.make_graph(
        [helper.make_node("Identity", [_SMALL + n], [f"sure/{n}"], name=f"sure/{n}") for n in names],
        "sure",
        [],
        [_renamed(o, f"sure/{o.name}") for o in outputs],
    )
    ask = helper.make_graph(
        list(second.node),
        "unsure",
        [],
        [_renamed(o, _LARGE + o.name) for o in outputs],
        list(second.initializer),
        sparse_initializer=list(second.sparse_initializer),
    )
    branch = helper.make_node(
        "If", ["cascade/unsure"], names, name="cascade", then_branch=ask, else_branch=sure
    )
    graph = helper.make_graph(
        [*first.node, *nodes, branch],
        "cascade",
        inputs,
        outputs,
        [*first.initializer, *constants],
        sparse_initializer=list(first.sparse_initializer),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()],
        ir_version=max(small.ir_version, large.ir_version),
    )
    model.functions.extend(large.functions)
    onnxfile.save(model, work.out)


def _opsets(small: onnx.ModelProto, large: onnx.ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for model in (small, large):
        for entry in model.opset_import:
            domain = "" if entry.domain == "ai.onnx" else entry.domain
            if found.setdefault(domain, entry.version) != entry.version:
                raise NotApplicableError(f"the two models use other opsets of {domain or 'ONNX'}")
    return found


def _prefixed(model: onnx.ModelProto, prefix: str, shared: set[str]) -> onnx.GraphProto:
    renamed = compose.add_prefix(model, prefix, rename_inputs=False)
    back = {prefix + name: name for name in shared}
    for node in renamed.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = back.get(name, name)
    return renamed.graph


def _unsure(
    scores: str, softmax: bool, threshold: float, opset: int
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    nodes, last = [], scores
    if softmax:
        nodes.append(helper.make_node("Softmax", [scores], ["cascade/probabilities"], axis=-1))
        last = "cascade/probabilities"
    constants = [numpy_helper.from_array(np.array(threshold, dtype=np.float32), "cascade/threshold")]
    if opset >= _AXES_AS_INPUT:
        constants.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), "cascade/axes"))
        highest = helper.make_node("ReduceMax", [last, "cascade/axes"], ["cascade/highest"], keepdims=0)
    else:
        highest = helper.make_node("ReduceMax", [last], ["cascade/highest"], axes=[-1], keepdims=0)
    nodes += [
        highest,
        helper.make_node("ReduceMin", ["cascade/highest"], ["cascade/least"], keepdims=0),
        helper.make_node("Less", ["cascade/least", "cascade/threshold"], ["cascade/unsure"]),
    ]
    return nodes, constants


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy
