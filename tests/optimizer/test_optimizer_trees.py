"""LightGBM and XGBoost models become ONNX that answers as those libraries do."""

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime as ort
import pytest
import xgboost
from longshore.api.model import Format
from longshore_optimizer.convert.run import convert
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.modeldir import identify

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 6)).astype(np.float32)
BINARY = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)
CLASSES = np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])
AMOUNT = 10 + X[:, 0] * 3 + X[:, 1] ** 2


def data(path: Path) -> Path:
    np.savez(path, features=X, labels=BINARY)
    return path


def answers(path: Path) -> dict[str, Any]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["features"]
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"features": X}), strict=True))


@pytest.mark.parametrize(
    ("objective", "target"),
    [
        ({"objective": "binary"}, BINARY),
        ({"objective": "multiclass", "num_class": 3}, CLASSES),
        ({"objective": "regression"}, AMOUNT),
    ],
    ids=["binary", "classes", "regression"],
)
def test_a_lightgbm_text_file_answers_as_lightgbm(
    tmp_path: Path, objective: dict[str, Any], target: Any
) -> None:
    settings = objective | {"verbosity": -1, "num_threads": 1, "num_leaves": 15}
    booster = lightgbm.train(settings, lightgbm.Dataset(X, target), num_boost_round=20)
    booster.save_model(tmp_path / "model.bin")
    source = identify(tmp_path / "model.bin")
    assert source.format is Format.LIGHTGBM
    report = convert(source, tmp_path / "out.onnx", data(tmp_path / "data.npz"), allow_pickle=False)
    assert report.framework == "LightGBM"
    assert report.samples == 400
    assert report.max_absolute_error < 1e-3
    found, expected = answers(tmp_path / "out.onnx"), booster.predict(X)
    if "probabilities" in found:
        scores = found["probabilities"]
        np.testing.assert_allclose(scores[:, 1] if expected.ndim == 1 else scores, expected, atol=1e-4)
    else:
        np.testing.assert_allclose(next(iter(found.values())).ravel(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("objective", "target", "suffix"),
    [
        ({"objective": "binary:logistic"}, BINARY, "json"),
        ({"objective": "binary:logistic"}, BINARY, "ubj"),
        ({"objective": "multi:softprob", "num_class": 3}, CLASSES, "json"),
        ({"objective": "multi:softmax", "num_class": 3}, CLASSES, "ubj"),
        ({"objective": "reg:squarederror"}, AMOUNT, "ubj"),
    ],
    ids=["binary", "binary-ubj", "probabilities", "classes", "regression"],
)
def test_an_xgboost_file_answers_as_xgboost(
    tmp_path: Path, objective: dict[str, Any], target: Any, suffix: str
) -> None:
    names = [f"column {i}" for i in range(6)]
    training = xgboost.DMatrix(X, target, feature_names=names)
    booster = xgboost.train(objective | {"nthread": 1, "max_depth": 4}, training, num_boost_round=10)
    booster.save_model(tmp_path / f"saved.{suffix}")
    # The name says nothing: the content has to.
    (tmp_path / f"saved.{suffix}").rename(tmp_path / "weights")
    source = identify(tmp_path / "weights")
    assert source.format is Format.XGBOOST
    report = convert(source, tmp_path / "out.onnx", data(tmp_path / "data.npz"), allow_pickle=False)
    assert report.framework == "XGBoost"
    assert report.disagreements == 0
    found, expected = answers(tmp_path / "out.onnx"), booster.predict(training)
    if objective["objective"] == "multi:softmax":
        np.testing.assert_array_equal(found["label"], expected)
    elif "probabilities" in found:
        scores = found["probabilities"]
        np.testing.assert_allclose(scores[:, 1] if expected.ndim == 1 else scores, expected, atol=1e-4)
    else:
        np.testing.assert_allclose(next(iter(found.values())).ravel(), expected, rtol=1e-4)


def test_a_file_cut_short_is_said_to_be(tmp_path: Path) -> None:
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(X, AMOUNT), num_boost_round=5)
    booster.save_model(tmp_path / "model.json")
    whole = (tmp_path / "model.json").read_bytes()
    (tmp_path / "model.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Problem) as caught:
        convert(identify(tmp_path / "model.json"), tmp_path / "out.onnx", None, allow_pickle=False)
    assert caught.value.reason is Reason.INVALID_MODEL
    assert "save the model again" in caught.value.message


def test_data_of_another_width_is_named(tmp_path: Path) -> None:
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1}, lightgbm.Dataset(X, AMOUNT), 5)
    booster.save_model(tmp_path / "model.txt")
    np.savez(tmp_path / "data.npz", x=X[:, :4])
    with pytest.raises(Problem) as caught:
        convert(
            identify(tmp_path / "model.txt"), tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=False
        )
    assert caught.value.reason is Reason.DATA_SHAPE_MISMATCH
    assert "(n, 6)" in caught.value.message
