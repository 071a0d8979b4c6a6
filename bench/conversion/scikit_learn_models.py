"""Every estimator of scikit-learn that fits plain numbers, and the pipelines that people build of them."""

import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import calibration, ensemble, impute, linear_model, multioutput, naive_bayes, preprocessing, svm
from sklearn.datasets import load_iris, load_wine, make_regression
from sklearn.feature_extraction import text
from sklearn.pipeline import make_pipeline
from sklearn.utils import all_estimators

from bench.conversion.outcomes import Feeds, Source, judge, tell

Array = np.ndarray[Any, Any]
TEXTS = np.array(["good day sir", "bad night", "good sir", "bad bad day", "what a good night"] * 16)


@dataclass(frozen=True)
class Fit:
    """An estimator with what it learns from."""

    name: str
    estimator: Any
    x: Array
    y: Array


def fits() -> Iterator[Fit]:
    """All that is tried; what scikit-learn cannot fit is left out by the caller."""
    flowers, kinds = load_iris(return_X_y=True)
    wines, cultivars = load_wine(return_X_y=True)
    flowers, wines = flowers.astype(np.float32), np.abs(wines).astype(np.float32) + 0.1
    numbers, targets = make_regression(200, 6, noise=0.1, random_state=0)
    numbers = numbers.astype(np.float32)
    for kind, x, y in (
        ("classifier", flowers, kinds),
        ("regressor", numbers, targets),
        ("cluster", flowers, kinds),
        ("transformer", wines, cultivars),
    ):
        for name, make in all_estimators(type_filter=kind):
            try:
                estimator = make()
            except TypeError:
                continue
            if kind == "transformer":
                estimator = make_pipeline(estimator, linear_model.LogisticRegression(max_iter=500))
            yield Fit(f"{kind}: {name}", estimator, x, y)
    logistic = linear_model.LogisticRegression(max_iter=500)
    gaps = np.where(np.random.default_rng(0).random(flowers.shape) < 0.1, np.nan, flowers).astype(np.float32)
    pairs = np.stack([targets, -targets], 1)
    positive = np.char.find(TEXTS, "good") >= 0
    forest = ensemble.RandomForestClassifier(10, random_state=0)
    stack = ensemble.StackingClassifier([("forest", forest), ("vectors", svm.SVC())], logistic)
    scaled = make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler(), svm.SVC())
    words = make_pipeline(text.TfidfVectorizer(), logistic)
    counts = make_pipeline(text.CountVectorizer(ngram_range=(1, 2)), naive_bayes.MultinomialNB())
    yield Fit("pipeline: stack", stack, flowers, kinds)
    yield Fit("pipeline: calibrated", calibration.CalibratedClassifierCV(svm.LinearSVC()), flowers, kinds)
    yield Fit("pipeline: classes with names", logistic, flowers, np.array(["a", "b", "c"])[kinds])
    yield Fit("pipeline: gaps filled", scaled, gaps, kinds)
    yield Fit("pipeline: gaps in trees", ensemble.HistGradientBoostingClassifier(), gaps, kinds)
    yield Fit("pipeline: two targets", multioutput.MultiOutputRegressor(linear_model.Ridge()), numbers, pairs)
    yield Fit("pipeline: words", words, TEXTS, positive)
    yield Fit("pipeline: counts", counts, TEXTS, positive)


def sources(folder: Path) -> Iterator[Source]:
    """Every estimator that scikit-learn itself fits on this data and that predicts."""
    for fit in fits():
        try:
            fit.estimator.fit(fit.x, fit.y)
        except (ValueError, TypeError, AttributeError, NotImplementedError, ImportError):
            continue
        if not hasattr(fit.estimator, "predict"):
            continue
        path, samples = folder / "model.pkl", folder / "samples.npz"
        path.write_bytes(pickle.dumps(fit.estimator))
        half = len(fit.x) // 2
        np.savez(samples, x=_column(fit.x[::2]))
        held_out = fit.x[1::2][:half]
        yield Source(
            "scikit-learn",
            fit.name,
            "pickle",
            path,
            _rows(held_out),
            _answer(fit.estimator),
            samples,
            pickled=True,
            labels=True,
        )


def _column(x: Array) -> Array:
    return x if x.ndim > 1 else x.reshape(-1, 1)


def _rows(x: Array) -> Callable[[int], Feeds]:
    return lambda rows: {"x": _column(x[:rows]).astype(object if x.dtype.kind == "U" else x.dtype)}


def _answer(estimator: Any) -> Callable[[Feeds], list[Array]]:
    def answer(feeds: Feeds) -> list[Array]:
        x = feeds["x"]
        return [np.asarray(estimator.predict(x.ravel() if x.dtype == object else x))]

    return answer


def main() -> None:
    """Print an outcome a line."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        for source in sources(Path(name)):
            tell(judge(source, Path(name), batches=(1, 60)))


if __name__ == "__main__":
    main()
