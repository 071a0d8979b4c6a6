"""scikit-learn estimators and pipelines, from skops files or (by opt-in) pickles, through skl2onnx."""

import importlib
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer import locales
from longshore_optimizer.convert import samples
from longshore_optimizer.convert.parity import Difference, compare, judge
from longshore_optimizer.convert.protocol import Converted
from longshore_optimizer.convert.registry import Order
from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch import content

Array = NDArray[Any]

_OPSETS: tuple[int | dict[str, int], ...] = (17, {"": 17, "ai.onnx.ml": 3}, 18, {"": 18, "ai.onnx.ml": 3})
"""In the order that is tried: some converters are for newer operators (KNNImputer), some for older ones of
decision trees (IsolationForest)."""
_MADE_UP = 64
_LIBRARIES = ("sklearn.", "numpy.", "scipy.")
INPUT = "input"
"""Name of the ONNX input where the samples name none."""


def convert(order: Order) -> Converted:
    """Load, convert and compare; writes ONNX to `order.out`.

    Raises:
        Problem: PickleNotAllowed, ConversionFailed or ParityFailed.
    """
    from longshore_optimizer.convert.scikit_learn_steps import for_skl2onnx

    estimator = load(order.model, order.allow_pickle)
    arrays = _samples(estimator, order.samples)
    onnx_model = _to_onnx(for_skl2onnx(estimator), arrays)
    locales.make_portable(onnx_model)
    order.out.write_bytes(onnx_model.SerializeToString())
    differences = _compare(estimator, order.out, arrays)
    return judge("scikit-learn", len(next(iter(arrays.values()))), differences)


def load(model: Path, allow_pickle: bool) -> Any:
    """Load an estimator: skops files without running code, pickles only by opt-in."""
    if content.container(model) == content.SKOPS:
        import skops.io

        named = skops.io.get_untrusted_types(file=model)
        # The library's own classes run no foreign code; what crafted state could do stays in this process.
        unknown = [t for t in named if not t.startswith(_LIBRARIES)]
        if unknown and not allow_pickle:
            raise Problem(
                Reason.PICKLE_NOT_ALLOWED,
                f"the skops file holds types that are not trusted ({', '.join(unknown[:5])}): remove them "
                "from the "
                "pipeline, or set allowPickle (--allow-pickle) if you trust the file",
            )
        return skops.io.load(model, trusted=named)
    if not allow_pickle:
        raise Problem(
            Reason.PICKLE_NOT_ALLOWED,
            "the model is a pickle, and loading it runs code from the file: save it with skops.io.dump or "
            "export it to "
            "ONNX, or set allowPickle (--allow-pickle) if you trust the file",
        )
    import joblib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            estimator = joblib.load(model)
        except (
            pickle.UnpicklingError,
            EOFError,
            KeyError,
            ValueError,
            ModuleNotFoundError,
            AttributeError,
        ) as error:
            raise Problem(
                Reason.INVALID_MODEL,
                f"the pickle cannot be loaded: {type(error).__name__}: {error}; save it again with the "
                "versions that "
                "run here, and without classes of your own",
            ) from error
    if not hasattr(estimator, "predict") and not hasattr(estimator, "transform"):
        raise Problem(
            Reason.INVALID_MODEL,
            f"the pickle holds a {type(estimator).__name__}, no fitted estimator: save the estimator itself",
        )
    return estimator


def _samples(estimator: Any, path: Path | None) -> dict[str, Array]:
    """Give the arrays to convert and compare with, one an ONNX input."""
    count = int(getattr(estimator, "n_features_in_", 0) or 0)
    arrays = samples.stored(path)
    if arrays:
        return {k: _narrow(v) for k, v in arrays.items()}
    if not count:
        raise Problem(
            Reason.CONVERSION_FAILED,
            "the estimator does not tell how many features it takes: give calibration data, whose arrays "
            "tell it",
        )
    rng = np.random.default_rng(0)
    return {INPUT: rng.standard_normal((_MADE_UP, count)).astype(np.float32)}


def _narrow(array: Array) -> Array:
    """Give float32 for any number, strings as they are; columns of a table come as shape (n, 1)."""
    if array.dtype.kind in "US":
        return array.astype(str).reshape(len(array), -1)
    if array.dtype.kind in "iub":
        return array.astype(np.int64).reshape(len(array), -1) if array.ndim == 1 else array.astype(np.float32)
    return array.astype(np.float32) if array.ndim > 1 else array.astype(np.float32).reshape(-1, 1)


def _to_onnx(estimator: Any, arrays: dict[str, Array]) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    kinds = {"f": FloatTensorType, "i": Int64TensorType, "U": StringTensorType}
    types = [(name, kinds[a.dtype.kind]([None, *a.shape[1:]])) for name, a in arrays.items()]
    for part in (estimator, *estimator.get_params().values()):
        # The shape of what a VotingClassifier transforms to; a default that skl2onnx refuses to convert.
        if getattr(part, "flatten_transform", None) is True:
            part.flatten_transform = False
    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
    errors: list[Exception] = []
    for opset in _OPSETS:
        try:
            return convert_sklearn(estimator, initial_types=types, target_opset=opset, options=options)
        except NameError as error:
            # skl2onnx raises NameError for an option that the converter does not know.
            if "zipmap" not in str(error):
                raise
            return convert_sklearn(estimator, initial_types=types, target_opset=opset)
        except (MissingConverter, MissingShapeCalculator) as error:
            named = re.search(r"<class '[\w.]*?(\w+)'>", str(error))
            raise Problem(
                Reason.CONVERSION_FAILED,
                f"skl2onnx has no ONNX form of {named[1] if named else 'one of the steps'}: put another step "
                "in its place, or do before the model what it does",
            ) from error
        except (RuntimeError, AssertionError) as error:
            errors.append(error)
    raise errors[0]


def _compare(estimator: Any, out: Path, arrays: dict[str, Array]) -> list[Difference]:
    from longshore_optimizer.measure.session import open_session

    session = open_session(out, 1)
    feeds = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in arrays.items()}
    converted = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    given = _as_frame(estimator, arrays)
    differences = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "probabilities" in converted and hasattr(estimator, "predict_proba"):
            expected = _answer(estimator.predict_proba, given)
            if isinstance(converted["probabilities"], np.ndarray) and not isinstance(expected, list):
                differences.append(compare("probabilities", expected, converted["probabilities"]))
        if hasattr(estimator, "predict"):
            name = next(
                (n for n in ("label", "output_label", "variable") if n in converted), next(iter(converted))
            )
            differences.append(compare(name, _answer(estimator.predict, given), converted[name]))
        elif hasattr(estimator, "transform"):
            name = next(iter(converted))
            differences.append(compare(name, _answer(estimator.transform, given), converted[name]))
    return differences


def _answer(method: Callable[[Any], Any], given: Any) -> Any:
    """What the estimator answers; some that learned from float32 take nothing else (KMeans)."""
    try:
        return method(given)
    except ValueError:
        if not isinstance(given, np.ndarray) or given.dtype != np.float64:
            raise
        return method(given.astype(np.float32))


def _takes_documents(estimator: Any) -> bool:
    """Whether it takes texts, one a sample, and no table: what begins with the vectorizer of a text."""
    if steps := getattr(estimator, "steps", None):
        return _takes_documents(steps[0][1])
    if parts := getattr(estimator, "transformer_list", None):
        return all(_takes_documents(part) for _, part in parts)
    return hasattr(estimator, "build_analyzer")


def _as_frame(estimator: Any, arrays: dict[str, Array]) -> Any:
    if len(arrays) == 1:
        only = next(iter(arrays.values()))
        if only.dtype.kind == "U" and _takes_documents(estimator):
            return only.reshape(len(only))
        return only.astype(np.float64) if only.dtype.kind == "f" else only
    names = list(getattr(estimator, "feature_names_in_", arrays))
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        raise Problem(
            Reason.CONVERSION_FAILED,
            "a pipeline over named columns needs pandas to be compared: install pandas",
        ) from None
    return pandas.DataFrame({n: arrays[n].reshape(len(arrays[n])) for n in names})
