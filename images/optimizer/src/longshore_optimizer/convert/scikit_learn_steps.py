"""Estimators that a pipeline uses to transform, where skl2onnx writes what they predict.

`LinearDiscriminantAnalysis` and `KMeans` are both: in the middle of a pipeline their `transform` counts, and
skl2onnx hands on what they predict. What only transforms stands in for them.
"""

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import FeatureUnion, Pipeline

Array = NDArray[Any]


class Distances(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Euclidean distances of samples, (n, features), from centres, (k, features): (n, k)."""

    def __init__(self, centres: Array) -> None:
        self.centres = centres

    def transform(self, samples: Array) -> Array:
        """Give the distances."""
        found: Array = np.linalg.norm(samples[:, None, :] - self.centres[None], axis=-1)
        return found


def for_skl2onnx(estimator: Any) -> Any:
    """Give an estimator that answers alike and whose every step skl2onnx writes as it is used."""
    if not isinstance(estimator, Pipeline | FeatureUnion | ColumnTransformer):
        return estimator
    _register()
    return _replaced(copy.deepcopy(estimator), transforms=False)


def _replaced(estimator: Any, *, transforms: bool) -> Any:
    """Replace steps in place; `transforms` tells whether what contains this estimator calls its transform."""
    if isinstance(estimator, Pipeline):
        last = len(estimator.steps) - 1
        estimator.steps = [
            (name, _replaced(step, transforms=transforms or number < last))
            for number, (name, step) in enumerate(estimator.steps)
        ]
    elif isinstance(estimator, FeatureUnion):
        estimator.transformer_list = [
            (name, _replaced(part, transforms=True)) for name, part in estimator.transformer_list
        ]
    elif isinstance(estimator, ColumnTransformer):
        estimator.transformers_ = [
            (name, _replaced(part, transforms=True), columns)
            for name, part, columns in estimator.transformers_
        ]
    elif transforms and isinstance(estimator, LinearDiscriminantAnalysis):
        return _projection(estimator)
    elif transforms and isinstance(estimator, KMeans | MiniBatchKMeans | BisectingKMeans):
        return Distances(np.asarray(estimator.cluster_centers_))
    return estimator


def _projection(analysis: Any) -> Any:
    """A linear projection, in the only words that skl2onnx has for one."""
    scalings = np.asarray(analysis.scalings_)[:, : analysis._max_components]
    found = PCA(n_components=scalings.shape[1])
    found.components_ = scalings.T
    found.mean_ = analysis.xbar_ if analysis.solver == "svd" else np.zeros(scalings.shape[0])
    found.n_components_, found.n_features_in_ = scalings.shape[1], scalings.shape[0]
    return found


def _register() -> None:
    from skl2onnx import update_registered_converter
    from skl2onnx.algebra import onnx_ops as ops
    from skl2onnx.common.data_types import guess_numpy_type, guess_proto_type, guess_tensor_type

    def shape(operator: Any) -> None:
        centres = operator.raw_operator.centres
        (given,) = operator.inputs
        kind = type(guess_tensor_type(given.type))
        operator.outputs[0].type = kind([given.get_first_dimension(), len(centres)])

    def write(scope: Any, operator: Any, container: Any) -> None:
        kind, opset = operator.outputs[0].type, container.target_opset
        centres = operator.raw_operator.centres.astype(guess_numpy_type(kind))[None]
        samples = ops.OnnxCast(operator.inputs[0], to=guess_proto_type(kind), op_version=opset)
        rows = ops.OnnxUnsqueeze(samples, np.array([1], np.int64), op_version=opset)
        apart = ops.OnnxSub(rows, centres, op_version=opset)
        squares = ops.OnnxReduceSum(
            ops.OnnxMul(apart, apart, op_version=opset), np.array([2], np.int64), keepdims=0, op_version=opset
        )
        ops.OnnxSqrt(squares, op_version=opset, output_names=operator.outputs).add_to(scope, container)

    update_registered_converter(Distances, "LongshoreDistances", shape, write)
