"""Small real models for the scenarios."""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Digits:
    """A classifier of 8x8 digits as ONNX, with held-out data."""

    model: bytes
    calibration: bytes
    evaluation: bytes
    images: Array
    labels: Array


@lru_cache
def digits(seed: int = 0) -> Digits:
    """Train logistic regression on scikit-learn's digits; the network is its Gemm and Softmax."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    train_x, rest_x, train_y, rest_y = train_test_split(images, labels, test_size=0.4, random_state=seed)
    fitted = LogisticRegression(max_iter=500).fit(train_x, train_y)
    model = classifier(fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32))
    return Digits(
        model=model,
        calibration=npz(x=rest_x[:200]),
        evaluation=npz(x=rest_x[200:], labels=rest_y[200:]),
        images=rest_x[200:],
        labels=rest_y[200:],
    )


def classifier(weights: Array, bias: Array) -> bytes:
    """Build `softmax(x @ weights + bias)` as ONNX, with a dynamic batch."""
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def npz(**arrays: Array) -> bytes:
    """Give arrays as the content of an `.npz` file."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def fragile(limit: int, width: int = 4) -> bytes:
    """Build a classifier that fails on rows whose first value is `limit` or more.

    It looks that value up in a table of `limit` rows; an index beyond it is an error of the runtime. A
    warm-up with small values passes.
    """
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "zero", "one", "axis"], ["first"]),
            helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["looked"], axis=0),
            helper.make_node("ReduceSum", ["looked", "axes"], ["extra"], keepdims=0),
            helper.make_node("Softmax", ["x"], ["soft"], axis=1),
            helper.make_node("Add", ["soft", "extra"], ["probabilities"]),
        ],
        "fragile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", width])],
        [
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            numpy_helper.from_array(np.zeros((limit, width), np.float32), "table"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def slow(size: int, width: int = 4) -> bytes:
    """Build a classifier that answers as `classifier(eye)` does, after multiplying matrices of `size`."""
    ballast = np.eye(size, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["ballast", "mean"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "scaled"], ["work"]),
            helper.make_node("MatMul", ["work", "scaled"], ["more"]),
            helper.make_node("ReduceMean", ["more"], ["worked"], keepdims=0),
            helper.make_node("Mul", ["worked", "nothing"], ["zero"]),
            helper.make_node("Add", ["x", "zero"], ["same"]),
            helper.make_node("Softmax", ["same"], ["probabilities"], axis=1),
        ],
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", width])],
        [
            numpy_helper.from_array(ballast, "ballast"),
            numpy_helper.from_array(np.zeros((), np.float32), "nothing"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def greedy(width: int = 4) -> bytes:
    """Build a classifier that holds as many mebibytes while it answers as the first value of a row says."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "mebibyte"], ["floats"]),
            helper.make_node("Cast", ["floats"], ["count"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["count", "axis"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["held"]),
            helper.make_node("ReduceMax", ["held"], ["zero"], keepdims=0),
            helper.make_node("Add", ["x", "zero"], ["same"]),
            helper.make_node("Softmax", ["same"], ["probabilities"], axis=1),
        ],
        "greedy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", width])],
        [
            numpy_helper.from_array(np.array(2**18, np.float32), "mebibyte"),
            numpy_helper.from_array(np.array([0], np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def unknown_operator() -> bytes:
    """A model that needs an operator which the runtime lacks."""
    graph = helper.make_graph(
        [helper.make_node("Imaginary", ["x"], ["y"], domain="example.nowhere")],
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example.nowhere", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
