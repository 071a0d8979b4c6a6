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
