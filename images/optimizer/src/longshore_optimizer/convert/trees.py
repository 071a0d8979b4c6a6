"""LightGBM and XGBoost models, from the files that those libraries save, through onnxmltools."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer.convert import samples
from longshore_optimizer.convert.parity import Difference, compare, judge
from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.convert.registry import Order
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import content

Array = NDArray[Any]

_OPSET = 15
_MADE_UP = 256
INPUT = "input"
"""Name of the ONNX input where the samples name none."""


def convert(order: Order) -> Converted:
    """Load, convert and compare; writes ONNX to `order.out`.

    Raises:
        Problem: InvalidModel, ConversionFailed or ParityFailed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _lightgbm(order.model) if order.container == content.LIGHTGBM else _xgboost(order.model)
        name, features = _features(order.samples, model.features)
        onnx_model = model.to_onnx(name)
        order.out.write_bytes(onnx_model.SerializeToString())
        differences = _compare(model.predict(features), model.labels, order.out, name, features)
    return judge(model.framework, len(features), differences)


class _Model:
    """A boosted ensemble: `labels` says that the source answers with classes, not scores."""

    framework: str
    features: int
    labels = False

    def to_onnx(self, name: str) -> Any:
        """Convert, with one float input of that name."""
        raise NotImplementedError

    def predict(self, features: Array) -> Array:
        """Answer as the source library does."""
        raise NotImplementedError


class _LightGBM(_Model):
    framework = "LightGBM"

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self.features = int(booster.num_feature())

    def to_onnx(self, name: str) -> Any:
        from onnxmltools import convert_lightgbm

        return convert_lightgbm(
            self._booster, initial_types=_types(name, self.features), target_opset=_OPSET, zipmap=False
        )

    def predict(self, features: Array) -> Array:
        return np.asarray(self._booster.predict(features.astype(np.float64)))


class _XGBoost(_Model):
    framework = "XGBoost"

    def __init__(self, booster: Any, objective: str) -> None:
        # The converter takes no feature names but its own; the order of the columns is what counts.
        booster.feature_names = None
        booster.feature_types = None
        self._booster = booster
        self.features = int(booster.num_features())
        self.labels = objective == "multi:softmax"

    def to_onnx(self, name: str) -> Any:
        from onnxmltools import convert_xgboost

        return convert_xgboost(self._booster, initial_types=_types(name, self.features), target_opset=_OPSET)

    def predict(self, features: Array) -> Array:
        from xgboost import DMatrix

        return np.asarray(self._booster.predict(DMatrix(features)))


def _types(name: str, features: int) -> list[tuple[str, Any]]:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [(name, FloatTensorType([None, features]))]


def _lightgbm(path: Path) -> _Model:
    import lightgbm

    try:
        return _LightGBM(lightgbm.Booster(model_file=str(path), params={"verbosity": -1}))
    except lightgbm.basic.LightGBMError as error:
        raise _unreadable("LightGBM", path, error) from error


def _xgboost(path: Path) -> _Model:
    import json

    import xgboost

    booster = xgboost.Booster()
    try:
        # The library tells JSON from UBJSON by the suffix alone.
        booster.load_model(bytearray(path.read_bytes()))
        settings = json.loads(booster.save_config())["learner"]
    except (xgboost.core.XGBoostError, ValueError, KeyError) as error:
        raise _unreadable("XGBoost", path, error) from error
    if settings.get("gradient_booster", {}).get("name") == "gblinear":
        raise Problem(
            Reason.CONVERSION_FAILED,
            "the XGBoost model is linear (gblinear), which is not converted: train it with gbtree, or use "
            "scikit-learn's linear models",
        )
    return _XGBoost(booster, str(settings.get("objective", {}).get("name", "")))


def _unreadable(library: str, path: Path, error: Exception) -> Problem:
    text = " ".join(str(error).split())[:300]
    return Problem(
        Reason.INVALID_MODEL, f"{library} cannot read {path.name} ({text}): save the model again, whole"
    )


def _features(path: Path | None, count: int) -> tuple[str, Array]:
    arrays = samples.stored(path)
    if not arrays:
        made_up = np.random.default_rng(0).standard_normal((_MADE_UP, count)).astype(np.float32)
        return INPUT, made_up
    if len(arrays) > 1:
        raise Problem(
            Reason.DATA_SHAPE_MISMATCH,
            f"the data holds {len(arrays)} arrays ({', '.join(sorted(arrays)[:5])}), the model takes one of "
            f"shape (n, {count}): stack the columns in the order of training",
        )
    name, array = next(iter(arrays.items()))
    if array.dtype.kind not in "fiub":
        raise Problem(
            Reason.DATA_TYPE_MISMATCH,
            f"the array {name!r} is of type {array.dtype}, not of numbers: encode it as for training",
        )
    if array.ndim != 2 or array.shape[1] != count:
        raise Problem(
            Reason.DATA_SHAPE_MISMATCH,
            f"the array {name!r} has shape {array.shape}, the model takes (n, {count}): give the columns "
            "of training, one row a sample",
        )
    return name, array.astype(np.float32)


def _compare(expected: Array, labels: bool, out: Path, name: str, features: Array) -> list[Difference]:
    from longshore_optimizer.measure.session import open_session

    session = open_session(out, 1)
    names = [o.name for o in session.get_outputs()]
    found = dict(zip(names, session.run(None, {name: features}), strict=True))
    if labels:
        return [compare("label", expected, np.asarray(found["label"], dtype=expected.dtype))]
    if "probabilities" not in found:
        return [compare(names[0], expected, found[names[0]])]
    probabilities = found["probabilities"]
    if expected.ndim == 1:
        probabilities = probabilities[:, -1]
    return [compare("probabilities", expected, probabilities)]
