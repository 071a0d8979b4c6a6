"""Techniques take what scikit-learn's pipelines become: texts, one-hot columns, classes with names."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pandas
import pytest
from longshore.api.optimize import TechniqueName
from longshore_optimizer.convert.run import convert
from longshore_optimizer.modeldir import identify
from longshore_optimizer.techniques.base import Work
from longshore_optimizer.techniques.registry import TECHNIQUES
from onnx import TensorProto
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

Answers = list[np.ndarray[Any, Any]]


def _texts() -> tuple[Any, dict[str, Any]]:
    words = ("day", "night", "food", "room")
    texts = np.array([f"{a} {b} {c}" for a in ("Good", "bad", "nice", "awful") for b in words for c in words])
    moods = np.where([t.split()[0] in ("Good", "nice") for t in texts], "happy", "sad")
    return make_pipeline(TfidfVectorizer(), _network()).fit(texts, moods), {"text": texts[:, None]}


def _table() -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"age": rng.uniform(18, 80, 80), "city": rng.choice(["rome", "oslo"], 80)})
    columns = make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(), ["city"]))
    model = make_pipeline(columns, _network()).fit(frame, np.where(frame["age"] > 40, "old", "young"))
    city = frame[["city"]].to_numpy().astype(str)
    return model, {"age": frame[["age"]].to_numpy().astype(np.float32), "city": city}


def _network() -> MLPClassifier:
    return MLPClassifier((64, 64), random_state=0, tol=0.01, n_iter_no_change=3, max_iter=1000)


@pytest.fixture(scope="module", params=[_texts, _table], ids=["texts", "table"])
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.onnx` and `data.npz`."""
    folder = tmp_path_factory.mktemp("converted")
    model, arrays = request.param()
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    np.savez(folder / "data.npz", **arrays)
    source = identify(folder / "model.pkl")
    convert(source, folder / "model.onnx", folder / "data.npz", allow_pickle=True)
    return folder


def answers(model: Path, data: Path) -> Answers:
    with np.load(data) as stored:
        feeds = {n: a.astype(object) if a.dtype.kind == "U" else a for n, a in dict(stored).items()}
    return ort.InferenceSession(model).run(None, feeds)


def apply(
    folder: Path, scratch: Path, technique: TechniqueName, **parameters: Any
) -> tuple[Path, Answers, Answers]:
    """The new model, and what it and its source answer."""
    model, out, data = folder / "model.onnx", scratch / "out.onnx", folder / "data.npz"
    work = Work(
        model=model, out=out, parameters=parameters, calibration=data, scratch=scratch, seed=0, threads=1
    )
    TECHNIQUES[technique].apply(work)
    return out, answers(out, data), answers(model, data)


def weights(path: Path) -> list[onnx.TensorProto]:
    return [t for t in onnx.load(path).graph.initializer if len(t.dims) == 2]


def test_half_precision_keeps_what_only_single_precision_has(converted: Path, tmp_path: Path) -> None:
    out, ours, theirs = apply(converted, tmp_path, TechniqueName.FLOAT16, arithmetic="float16")
    assert [t.data_type for t in weights(out)].count(TensorProto.FLOAT16) >= 3
    assert [a.dtype for a in ours] == [a.dtype for a in theirs]
    assert np.mean(ours[0] == theirs[0]) > 0.95
    assert np.allclose(ours[1], theirs[1], atol=0.01)


@pytest.mark.parametrize("criterion", ["norm", "reconstruction", "information"])
def test_channels_are_removed_where_a_text_is_the_first_output(
    converted: Path, tmp_path: Path, criterion: str
) -> None:
    technique = TechniqueName.STRUCTURED_PRUNING
    out, ours, theirs = apply(converted, tmp_path, technique, share=0.3, criterion=criterion)
    before, after = (sum(int(np.prod(t.dims)) for t in weights(p)) for p in (converted / "model.onnx", out))
    assert after < 0.85 * before
    assert ours[0].dtype.kind == "O"
    assert np.mean(ours[0] == theirs[0]) > 0.8
