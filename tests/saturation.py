"""Models whose sums of 8-bit products do not fit the 16 bits in which CPUs without VNNI add two of them."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FORMS = ("unsigned activations", "signed activations", "dynamic")
WEIGHTS = np.full((64, 8), 127, np.int8)
SHARED = "a shared zero point"
"""For which ONNX Runtime cannot take products precisely: without VNNI it saturates, but runs."""

ROWS = (0.9 + 0.1 * np.random.default_rng(0).random((3, 64))).astype(np.float32)
SUMS = ROWS.sum(1, keepdims=True) * np.ones((1, 8), np.float32)
"""What exact arithmetic answers: all weights are 1."""

ERROR = 0.5
"""What rounding may change: a step of the answer and those of 64 activations."""


def model(form: str) -> onnx.ModelProto:
    """x [n, 64] -> y [n, 8]: static quantization as ONNX Runtime's tools write it, or dynamic.

    Where a zero point is shared, another layer has the same weights and answers `z`.
    """
    step = np.float32(1 / 127)
    if form == "dynamic":
        constants: dict[str, Any] = {"w": WEIGHTS, "zero": np.int8(0), "step": step}
        nodes = [
            ("DynamicQuantizeLinear", ["x"], ["bits", "scale", "point"]),
            ("MatMulInteger", ["bits", "w", "point", "zero"], ["sums"]),
            ("Cast", ["sums"], ["floats"]),
            ("Mul", ["scale", "step"], ["steps"]),
            ("Mul", ["floats", "steps"], ["y"]),
        ]
    else:
        point = np.int8(-128) if form.startswith("signed") else np.uint8(0)
        constants = {"w": WEIGHTS, "zero": np.int8(0), "step": step, "point": point}
        constants |= {"scale": np.float32(1 / 255), "steps": np.float32(0.3)}
        nodes = [
            ("QuantizeLinear", ["x", "scale", "point"], ["bits"]),
            ("DequantizeLinear", ["bits", "scale", "point"], ["near"]),
            ("DequantizeLinear", ["w", "step", "zero"], ["weights"]),
            ("MatMul", ["near", "weights"], ["sums"]),
            ("QuantizeLinear", ["sums", "steps", "point"], ["bits_out"]),
            ("DequantizeLinear", ["bits_out", "steps", "point"], ["y"]),
        ]
    if form == SHARED:
        constants["w2"] = WEIGHTS
        nodes += [
            ("DequantizeLinear", ["w2", "step", "zero"], ["weights2"]),
            ("MatMul", ["near", "weights2"], ["sums2"]),
            ("QuantizeLinear", ["sums2", "steps", "point"], ["bits_out2"]),
            ("DequantizeLinear", ["bits_out2", "steps", "point"], ["z"]),
        ]
    outputs = ["y", "z"] if form == SHARED else ["y"]
    graph = helper.make_graph(
        [
            helper.make_node(kind, given, made, **({"to": TensorProto.FLOAT} if kind == "Cast" else {}))
            for kind, given, made in nodes
        ],
        "saturating",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
