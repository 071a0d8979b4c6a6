"""scikit-learn models become ONNX that answers alike; hostile pickles get nowhere."""

import pickle
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pandas
import pytest
from longshore.api.model import Format
from longshore.api.optimize import TechniqueName
from longshore.artifact.manifest import Verdict
from longshore_optimizer.convert.parity import compare, judge
from longshore_optimizer.convert.run import convert
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.locales import make_portable
from longshore_optimizer.measure.cpu import usable_cores
from longshore_optimizer.modeldir import identify
from longshore_optimizer.pipeline import optimize
from longshore_optimizer.progress import Reporter
from longshore_optimizer.request import Request
from onnx import TensorProto, helper
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import NMF
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import KNNImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 6))
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int)


def answers(path: Path, feeds: dict[str, Any]) -> list[Any]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def dumped(tmp_path: Path, model: Any) -> Path:
    import skops.io  # Takes seconds, also of processes that only look for tests.

    skops.io.dump(model, tmp_path / "model.skops")
    return tmp_path / "model.skops"


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(20, random_state=0),
        GradientBoostingRegressor(n_estimators=20, random_state=0),
        make_pipeline(
            StandardScaler(),
            VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
        ),
    ],
    ids=["pipeline", "forest", "regressor", "vote"],
)
def test_a_skops_file_needs_no_opt_in(tmp_path: Path, model: Any) -> None:
    model.fit(X, Y)
    source = identify(dumped(tmp_path, model))
    assert source.format is Format.SCIKIT_LEARN
    np.savez(tmp_path / "data.npz", features=X.astype(np.float32), labels=Y)
    report = convert(source, tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=False)
    assert report.samples == 200
    assert report.disagreements <= 2
    found = answers(tmp_path / "out.onnx", {"features": X.astype(np.float32)})[0]
    expected = model.predict(X.astype(np.float32))
    assert np.mean(np.isclose(found.ravel(), expected, rtol=1e-3)) >= 0.99


def test_a_pickle_is_converted_by_opt_in_only(digits: Path, tmp_path: Path) -> None:
    source = identify(digits / "digits.pkl")
    with pytest.raises(Problem) as caught:
        convert(source, tmp_path / "out.onnx", None, allow_pickle=False)
    assert caught.value.reason is Reason.PICKLE_NOT_ALLOWED
    report = convert(source, tmp_path / "out.onnx", digits / "calibration.npz", allow_pickle=True)
    assert report.disagreements == 0
    with np.load(digits / "evaluation.npz") as data:
        found = answers(tmp_path / "out.onnx", {"X": data["X"]})[0]
        assert np.mean(found == data["labels"]) > 0.95


def test_a_pickle_cannot_reach_the_network(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    reached: list[int] = []

    def accept() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        reached.append(1)
        connection.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()

    class Caller:
        def __reduce__(self) -> tuple[Any, ...]:
            return socket.create_connection, (("127.0.0.1", listener.getsockname()[1]), 2)

    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Caller()))
    with pytest.raises(Problem) as caught:
        convert(identify(tmp_path / "model.pkl"), tmp_path / "out.onnx", None, allow_pickle=True)
    listener.close()
    assert "not permitted" in caught.value.message
    assert not reached


def test_a_pickle_sees_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("LONGSHORE_CREDENTIALS", "/secret")

    class Reader:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, ("__import__('os').environ['AWS_SECRET_ACCESS_KEY']",)

    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Reader()))
    with pytest.raises(Problem) as caught:
        convert(identify(tmp_path / "model.pkl"), tmp_path / "out.onnx", None, allow_pickle=True)
    assert "geheim" not in caught.value.message


def test_a_pickle_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"weights": [1, 2]}))
    with pytest.raises(Problem) as caught:
        convert(identify(tmp_path / "model.pkl"), tmp_path / "out.onnx", None, allow_pickle=True)
    assert caught.value.reason is Reason.INVALID_MODEL
    assert "dict" in caught.value.message


def test_a_pipeline_over_columns_takes_strings_and_numbers(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"colour": ["red", "green", "blue", "red"] * 20, "size": np.arange(80.0)})
    target = (frame["size"] > 30).astype(int)
    model = make_pipeline(
        ColumnTransformer([("c", OneHotEncoder(), ["colour"]), ("s", StandardScaler(), ["size"])]),
        LogisticRegression(),
    ).fit(frame, target)
    np.savez(
        tmp_path / "data.npz",
        colour=frame["colour"].to_numpy().astype(str)[:, None],
        size=frame[["size"]].to_numpy().astype(np.float32),
        labels=target.to_numpy(),
    )
    source = identify(dumped(tmp_path, model))
    report = convert(source, tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=False)
    assert report.disagreements == 0


TEXTS = np.array(["Good day SIR", "bad NIGHT", "Good sir", "bad Bad day"] * 20)
MOODS = np.array([1, 0, 1, 0] * 20)


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(TfidfVectorizer(), LogisticRegression()),
        make_pipeline(CountVectorizer(ngram_range=(1, 2)), MultinomialNB()),
        make_pipeline(
            FeatureUnion([("one", TfidfVectorizer()), ("two", CountVectorizer())]), LogisticRegression()
        ),
    ],
    ids=["tfidf", "n-grams", "union"],
)
def test_a_model_of_texts_needs_no_locale_of_the_machine(tmp_path: Path, model: Any) -> None:
    np.savez(tmp_path / "data.npz", text=TEXTS)
    source = identify(dumped(tmp_path, model.fit(TEXTS, MOODS)))
    report = convert(source, tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=False)
    assert (report.samples, report.disagreements) == (80, 0)
    assert locales_of(tmp_path / "out.onnx") == {"C.UTF-8"}
    asked = np.array([["GOOD sir"], ["Bad night"]], object)
    assert answers(tmp_path / "out.onnx", {"text": asked})[0].tolist() == [1, 0]


def locales_of(path: Path) -> set[str]:
    nodes = [n for n in onnx.load(path).graph.node if n.op_type == "StringNormalizer"]
    return {a.s.decode() for n in nodes for a in n.attribute if a.name == "locale"}


@pytest.mark.parametrize("named", [None, "en_US.UTF-8"])
def test_an_onnx_model_of_texts_needs_no_locale_of_the_machine(tmp_path: Path, named: str | None) -> None:
    with_locale = {"locale": named} if named else {}
    node = helper.make_node("StringNormalizer", ["text"], ["y"], case_change_action="LOWER", **with_locale)
    ends = [helper.make_tensor_value_info(n, TensorProto.STRING, [None]) for n in ("text", "y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "model.onnx")
    request = Request(
        model=tmp_path / "model.onnx",
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        techniques=(TechniqueName.GRAPH,),
    )
    optimize(request, Reporter())
    served = tmp_path / "out" / "model.onnx"
    assert locales_of(served) == {"C.UTF-8"}
    assert answers(served, {"text": np.array(["GRÖSSE"], object)})[0].tolist() == ["grösse"]


def test_a_classifier_whose_classes_have_names_is_optimized(tmp_path: Path) -> None:
    names = np.array(["no", "yes indeed"])[Y]
    model = make_pipeline(
        StandardScaler(), MLPClassifier((64,), random_state=0, tol=0.01, n_iter_no_change=3)
    ).fit(X, names)
    x = X.astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=x[:100])
    np.savez(tmp_path / "evaluation.npz", x=x[100:], labels=names[100:])
    request = Request(
        model=dumped(tmp_path, model),
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        calibration=tmp_path / "calibration.npz",
        evaluation=tmp_path / "evaluation.npz",
        max_drop=0.05,
        techniques=(TechniqueName.GRAPH, TechniqueName.DYNAMIC_INT8),
    )
    manifest = optimize(request, Reporter())
    original = manifest.candidates[0]
    assert original.metric == pytest.approx(float(np.mean(model.predict(x[100:]) == names[100:])))
    judged = {c.verdict for c in manifest.candidates if c.technique == "DynamicInt8"}
    assert judged <= {Verdict.CHOSEN, Verdict.KEPT, Verdict.REFUSED}
    label = answers(tmp_path / "out" / "model.onnx", {"x": x[:50]})[0]
    assert np.mean(label == model.predict(x[:50])) > 0.9


def test_columns_of_a_table_are_given_as_they_are_stored(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"colour": ["red", "green", "blue", "red"] * 20, "size": np.arange(80.0)})
    target = np.where(frame["size"] > 30, "large", "small")
    model = make_pipeline(
        ColumnTransformer([("c", OneHotEncoder(), ["colour"]), ("s", StandardScaler(), ["size"])]),
        LogisticRegression(),
    ).fit(frame, target)
    columns = {"colour": frame["colour"].to_numpy().astype(str), "size": frame["size"].to_numpy()}
    np.savez(tmp_path / "data.npz", **columns, labels=target)
    request = Request(
        model=dumped(tmp_path, model),
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        calibration=tmp_path / "data.npz",
        evaluation=tmp_path / "data.npz",
        techniques=(TechniqueName.GRAPH,),
    )
    manifest = optimize(request, Reporter())
    assert manifest.candidates[0].metric == pytest.approx(float(np.mean(model.predict(frame) == target)))


def test_a_language_that_a_model_names_is_left_to_it() -> None:
    node = helper.make_node(
        "StringNormalizer", ["t"], ["y"], case_change_action="LOWER", locale="tr_TR.UTF-8"
    )
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert not make_portable(model)
    assert model.graph.node[0] == node


@pytest.mark.parametrize(
    "model",
    [
        IsolationForest(random_state=0),
        KMeans(3, random_state=0),
        make_pipeline(KNNImputer(), LogisticRegression()),
        HistGradientBoostingClassifier(max_iter=10),
    ],
    ids=["anomalies", "clusters", "imputer", "missing"],
)
def test_models_whose_converters_want_other_operators_or_dtypes_are_converted(
    tmp_path: Path, model: Any
) -> None:
    x = X.astype(np.float32)
    if isinstance(model, Pipeline | HistGradientBoostingClassifier):
        x[::7, 2] = np.nan
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model.fit(x, Y)))
    np.savez(tmp_path / "data.npz", x=x)
    source = identify(tmp_path / "model.pkl")
    report = convert(source, tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=True)
    assert report.disagreements == 0
    assert np.array_equal(answers(tmp_path / "out.onnx", {"x": x})[0].ravel(), model.predict(x))


@pytest.mark.parametrize(
    "steps",
    [
        (StandardScaler(), LinearDiscriminantAnalysis()),
        (LinearDiscriminantAnalysis(solver="eigen", n_components=1),),
        (StandardScaler(), KMeans(5, random_state=0, n_init=1)),
        (FeatureUnion([("near", KMeans(4, random_state=0, n_init=1)), ("all", StandardScaler())]),),
        (ColumnTransformer([("near", KMeans(4, n_init=1), [1, 2]), ("rest", StandardScaler(), [0, 3])]),),
    ],
    ids=["discriminants", "eigen", "distances", "union", "columns"],
)
def test_what_predicts_too_transforms_in_the_middle_of_a_pipeline(tmp_path: Path, steps: Any) -> None:
    x = X.astype(np.float32)
    model = make_pipeline(*steps, LogisticRegression()).fit(x, Y)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    np.savez(tmp_path / "data.npz", x=x[:100])
    source = identify(tmp_path / "model.pkl")
    report = convert(source, tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=True)
    assert report.disagreements == 0
    label, probabilities = answers(tmp_path / "out.onnx", {"x": x[100:]})
    assert np.array_equal(label, model.predict(x[100:]))
    np.testing.assert_allclose(probabilities, model.predict_proba(x[100:]), atol=1e-4)


def test_distances_of_whole_numbers_from_centres_that_are_none(tmp_path: Path) -> None:
    x = RNG.integers(0, 9, 300)
    model = make_pipeline(KMeans(4, random_state=0, n_init=1), LogisticRegression()).fit(x[:, None], x % 2)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    np.savez(tmp_path / "data.npz", x=x)
    source = identify(tmp_path / "model.pkl")
    convert(source, tmp_path / "out.onnx", tmp_path / "data.npz", allow_pickle=True)
    probabilities = answers(tmp_path / "out.onnx", {"x": x[:, None]})[1]
    np.testing.assert_allclose(probabilities, model.predict_proba(x[:, None]), atol=1e-4)


def test_a_step_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    model = make_pipeline(NMF(2, init="nndsvda", tol=0.1), LogisticRegression()).fit(abs(X), Y)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    with pytest.raises(Problem) as caught:
        convert(identify(tmp_path / "model.pkl"), tmp_path / "out.onnx", None, allow_pickle=True)
    assert caught.value.reason is Reason.CONVERSION_FAILED
    assert "no ONNX form of NMF: put another step" in caught.value.message


def test_a_conversion_that_answers_differently_is_stopped() -> None:
    right = np.eye(4)[RNG.integers(0, 4, 500)]
    wrong = right.copy()
    wrong[:50] = 1 - wrong[:50]
    with pytest.raises(Problem) as caught:
        judge("scikit-learn", 500, [compare("probabilities", right, wrong)])
    assert caught.value.reason is Reason.PARITY_FAILED
    assert "50 of 500" in caught.value.message
    assert judge("scikit-learn", 500, [compare("p", right, right + 1e-7)]).disagreements == 0


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_the_only_samples_there_are_may_not_differ(samples: int) -> None:
    right = np.eye(4)[np.zeros(samples, np.int64)]
    wrong = right.copy()
    wrong[0] = 1 - wrong[0]
    with pytest.raises(Problem, match=f"1 of {samples} samples"):
        judge("PyTorch", samples, [compare("scores", right, wrong)])


def test_one_of_many_samples_may_lie_on_a_threshold() -> None:
    right = np.zeros((8, 2))
    right[:, 0] = 1
    wrong = right.copy()
    wrong[3] = 1 - wrong[3]
    assert judge("LightGBM", 8, [compare("scores", right, wrong)]).disagreements == 1
    wrong[4] = 1 - wrong[4]
    with pytest.raises(Problem, match="2 of 8 samples"):
        judge("LightGBM", 8, [compare("scores", right, wrong)])


def test_the_manifest_tells_how_the_conversion_compares(digits: Path, tmp_path: Path) -> None:
    request = Request(
        model=digits / "digits.skops",
        input_sha256="0" * 64,
        uri=None,
        work=tmp_path / "work",
        out=tmp_path / "out",
        cores=usable_cores(1),
        calibration=digits / "calibration.npz",
        evaluation=digits / "calibration.npz",
        techniques=(TechniqueName.GRAPH,),
    )
    manifest = optimize(request, Reporter())
    assert manifest.input.format == "ScikitLearn"
    assert manifest.conversion is not None
    assert manifest.conversion.framework == "scikit-learn"
    assert manifest.conversion.max_absolute_error < 1e-4
    assert any("held-out" in note for note in manifest.notes)


def test_the_stated_format_must_be_the_one_that_came(digits: Path) -> None:
    with pytest.raises(Problem) as caught:
        identify(digits / "digits.onnx", Format.SCIKIT_LEARN)
    assert caught.value.reason is Reason.FORMAT_MISMATCH


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"tree\nversion=v4\nnum_class=1\n", "LightGBM"),
        (b'{"learner":{"attributes":{}}}', "XGBoost"),
        (b"\x1c\x00\x00\x00TFL3" + b"\0" * 64, "TFLite"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "Keras"),
        ((10).to_bytes(8, "little") + b'{"a":{}}  ' + b"\0" * 64, "PyTorch"),
    ],
)
def test_formats_are_told_by_content_not_by_name(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert identify(tmp_path / "model.onnx").format == expected


def test_other_zips_are_told_apart(tmp_path: Path) -> None:
    import zipfile

    cases = {
        "torchscript": (["m/data.pkl", "m/code/__torch__.py"], "PyTorch"),
        "state": (["archive/data.pkl", "archive/data/0"], "PyTorch"),
        "export": (["m/archive_format", "m/models/model.json"], "PyTorch"),
        "keras": (["metadata.json", "config.json", "model.weights.h5"], "Keras"),
    }
    for name, (members, expected) in cases.items():
        with zipfile.ZipFile(tmp_path / name, "w") as bundle:
            for member in members:
                bundle.writestr(member, "x")
        assert identify(tmp_path / name).format == expected
