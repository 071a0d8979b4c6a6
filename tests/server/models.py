"""Small ONNX models, each made for what a test asks."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def save(
    directory: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[Any]]],
    outputs: Sequence[tuple[str, int, Sequence[Any]]],
    constants: dict[str, Any] | None = None,
) -> Path:
    """Write `directory/model.onnx`; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save(model, directory / "model.onnx")
    return directory


def mlp(directory: Path, sizes: Sequence[int] = (16, 32, 8), seed: int = 0) -> Path:
    """x [N, sizes[0]] -> y [N, sizes[-1]], FP32."""
    generator = np.random.default_rng(seed)
    nodes, constants, name = [], {}, "x"
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        weights = generator.standard_normal((rows, columns)) / np.sqrt(rows)
        constants[f"w{layer}"] = weights.astype(np.float32)
        constants[f"b{layer}"] = generator.standard_normal(columns).astype(np.float32)
        last = layer == len(sizes) - 2
        nodes.append(
            helper.make_node("Gemm", [name, f"w{layer}", f"b{layer}"], ["y" if last else f"g{layer}"])
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"g{layer}"], [f"r{layer}"]))
            name = f"r{layer}"
    return save(
        directory,
        nodes,
        [("x", TensorProto.FLOAT, ["N", sizes[0]])],
        [("y", TensorProto.FLOAT, ["N", sizes[-1]])],
        constants,
    )


def identity(directory: Path, onnx_type: int, shape: Sequence[Any] = ("N", "M")) -> Path:
    """x -> y = x of any type."""
    return save(
        directory,
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", onnx_type, shape)],
        [("y", onnx_type, shape)],
    )


def two_inputs(directory: Path) -> Path:
    """a FP32 [N, 4], b INT64 [N, 4] -> total FP32 [N, 4] = a + b, twice INT64 [N, 4] = 2 b."""
    return save(
        directory,
        [
            helper.make_node("Cast", ["b"], ["b_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["a", "b_float"], ["total"]),
            helper.make_node("Add", ["b", "b"], ["twice"]),
        ],
        [("a", TensorProto.FLOAT, ["N", 4]), ("b", TensorProto.INT64, ["N", 4])],
        [("total", TensorProto.FLOAT, ["N", 4]), ("twice", TensorProto.INT64, ["N", 4])],
    )


def whole_batch_mean(directory: Path) -> Path:
    """x [N, 4] -> y [N, 4] = x - the mean over all rows: looks batched, is not."""
    return save(
        directory,
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["N", 4])],
        [("y", TensorProto.FLOAT, ["N", 4])],
    )


def slow(directory: Path, turns: int, width: int = 64) -> Path:
    """x [N, width] -> y [N, width] after `turns` matrix products in a loop: a run that takes its time."""
    weights = np.eye(width, dtype=np.float32)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    return save(
        directory,
        [helper.make_node("Loop", ["turns", "yes", "x"], ["y"], body=body)],
        [("x", TensorProto.FLOAT, ["N", width])],
        [("y", TensorProto.FLOAT, ["N", width])],
        {"turns": np.int64(turns), "yes": np.bool_(True), "w": weights},
    )
