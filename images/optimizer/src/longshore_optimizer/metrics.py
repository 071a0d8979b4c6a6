"""Evaluation metrics on arrays: predictions from raw outputs, scores, and the paired loss between two
models."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from longshore.api.optimize import Metric
from numpy.typing import NDArray

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.statistics import Drop, bootstrap_drop, mean_drop, paired_binary

Array = NDArray[Any]
Outputs = dict[str, Array]

ALIASES = {
    "accuracy": Metric.ACCURACY, "acc": Metric.ACCURACY, "top1": Metric.ACCURACY,
    "top5": Metric.TOP5, "topk": Metric.TOP5,
    "precision": Metric.PRECISION, "recall": Metric.RECALL, "f1": Metric.F1,
    "rocauc": Metric.ROC_AUC, "auc": Metric.ROC_AUC,
    "mae": Metric.MAE, "meanabsoluteerror": Metric.MAE,
    "rmse": Metric.RMSE, "rootmeansquarederror": Metric.RMSE, "r2": Metric.R2,
    "agreement": Metric.AGREEMENT, "cosine": Metric.AGREEMENT,
    "wer": Metric.WORD_ERROR_RATE, "worderrorrate": Metric.WORD_ERROR_RATE,
    "cer": Metric.CHARACTER_ERROR_RATE, "charactererrorrate": Metric.CHARACTER_ERROR_RATE,
    "custom": Metric.CUSTOM,
    "map": Metric.MEAN_AVERAGE_PRECISION, "meanaverageprecision": Metric.MEAN_AVERAGE_PRECISION,
}  # fmt: skip

LOWER_IS_BETTER = frozenset({Metric.MAE, Metric.RMSE, Metric.WORD_ERROR_RATE, Metric.CHARACTER_ERROR_RATE})
_REGRESSION = frozenset({Metric.MAE, Metric.RMSE, Metric.R2})
_TEXT = frozenset({Metric.WORD_ERROR_RATE, Metric.CHARACTER_ERROR_RATE})


def parse_metric(text: str) -> Metric:
    """Find a metric by name, in any case and with or without separators.

    Raises:
        Problem: UnknownMetric with the names that there are.
    """
    key = "".join(c for c in text.lower() if c.isalnum())
    if key not in ALIASES:
        raise Problem(
            Reason.UNKNOWN_METRIC, f"unknown metric {text!r}: use one of {', '.join(m.value for m in Metric)}"
        )
    return ALIASES[key]


@dataclass(frozen=True)
class Evaluated:
    """A model's answers on the evaluation data, reduced to what the metric needs.

    `scores` are per sample (higher is better) where the metric is a mean of them; `prediction` is what other
    metrics are computed from, and `outputs` are whole where the metric is the user's.
    """

    value: float
    scores: NDArray[np.float64] | None
    prediction: Array | None
    outputs: Outputs | None = None


class Judge(Protocol):
    """What scores candidates: `Evaluator`, or the user's own function."""

    def evaluate(self, outputs: Outputs) -> Evaluated:
        """Compute the metric for one model."""
        ...

    def drop(self, original: Evaluated, candidate: Evaluated) -> Drop:
        """Loss of the candidate against the original with its upper bound."""
        ...


@dataclass(frozen=True)
class Evaluator:
    """Scores outputs against labels, or against the original's outputs for agreement."""

    metric: Metric
    labels: Array | None
    reference: Outputs
    confidence: float
    seed: int

    def evaluate(self, outputs: Outputs) -> Evaluated:
        """Compute the metric for one model.

        Raises:
            Problem: MetricFailed where outputs and labels do not fit the metric, NanOutput for NaN.
        """
        if self.metric is Metric.AGREEMENT:
            scores = agreement(self.reference, outputs)
            return Evaluated(float(scores.mean()), scores, None)
        if self.labels is None:
            raise Problem(
                Reason.LABELS_MISSING,
                f"the metric {self.metric.value} needs labels: add an array `labels` to the evaluation "
                "data, or use the metric Agreement",
            )
        try:
            return _EVALUATORS[self.metric](outputs, self.labels)
        except (ValueError, IndexError, TypeError, KeyError) as error:
            raise Problem(
                Reason.METRIC_FAILED,
                f"the metric {self.metric.value} cannot be computed from outputs "
                f"{ {k: v.shape for k, v in outputs.items()} } and labels {self.labels.shape}: {error}; "
                "choose a metric that fits the model",
            ) from error

    def drop(self, original: Evaluated, candidate: Evaluated) -> Drop:
        """Loss of the candidate against the original with its upper bound, in units of the metric."""
        if original.scores is not None and candidate.scores is not None:
            first, second = original.scores, candidate.scores
            if self.metric in (Metric.ACCURACY, Metric.TOP5) and _binary(first) and _binary(second):
                return paired_binary(first > 0.5, second > 0.5, self.confidence)
            return mean_drop(first, second, self.confidence, self.seed)
        statistic = _paired_statistic(self.metric, original, candidate, self.labels)
        n = len(self.labels) if self.labels is not None else 0
        return bootstrap_drop(statistic, n, self.confidence, self.seed)


def _binary(scores: NDArray[np.float64]) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def agreement(reference: Outputs, outputs: Outputs) -> NDArray[np.float64]:
    """Cosine of each sample's outputs with the reference's, the least over all outputs; shape (n,), in
    [-1, 1].

    Integer and string outputs agree (1) or not (0). One number a sample has a sign and no direction: it is
    scored by its squared error over the reference's variance, so that the mean is R2 against the reference.
    """
    result: NDArray[np.float64] | None = None
    for name, wanted in reference.items():
        if name not in outputs:
            raise Problem(Reason.PARITY_FAILED, f"the candidate has no output {name!r}")
        given = outputs[name]
        if len(given) != len(wanted):
            raise Problem(
                Reason.PARITY_FAILED, f"the output {name!r} has {len(given)} rows, not {len(wanted)}"
            )
        if _one_number_each(wanted) and _one_number_each(given):
            scores = _explained(wanted, given)
        else:
            scores = np.array([_cosine(a, b) for a, b in zip(wanted, given, strict=True)], dtype=np.float64)
        result = scores if result is None else np.minimum(result, scores)
    if result is None:
        raise Problem(
            Reason.PARITY_FAILED,
            "the model has no outputs that could be compared: export it with the outputs that are asked for",
        )
    return result


def _one_number_each(values: Iterable[Any]) -> bool:
    return all(np.asarray(v).size == 1 and np.asarray(v).dtype.kind == "f" for v in values)


def _explained(wanted: Iterable[Any], given: Iterable[Any]) -> NDArray[np.float64]:
    x, y = (np.array([float(np.asarray(v).item()) for v in side]) for side in (wanted, given))
    if len(x) == 0:
        return np.ones(0)
    # A reference that is the same for all samples has no variance: its own size is the measure then.
    scale = float(x.var()) or float(np.square(x).mean())
    errors: NDArray[np.float64] = np.square(x - y)
    if scale == 0.0:
        return np.where(errors == 0.0, 1.0, 0.0)
    return np.clip(1.0 - errors / scale, -1.0, 1.0)


def _cosine(first: Array, second: Array) -> float:
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        return 0.0
    if a.dtype.kind != "f":
        return float(np.mean(np.equal(a, b))) if a.size else 1.0
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    product = float(np.linalg.norm(x) * np.linalg.norm(y))
    if product == 0.0:
        return 1.0 if np.array_equal(x, y) else 0.0
    return float(np.clip(x @ y / product, -1.0, 1.0))


def predicted_classes(outputs: Outputs) -> Array:
    """Classes that a classifier predicts: a label output as it is, else the argmax of scores.

    A single score a sample is a binary decision, at 0.5 where all scores are probabilities, else at 0.
    """
    for values in outputs.values():
        if (
            values.dtype.kind in "iuOUSb"
            and values.ndim in (1, 2)
            and (values.ndim == 1 or values.shape[1] == 1)
        ):
            return values.reshape(len(values))
    scores = _scores(outputs)
    if scores.ndim == 1 or scores.shape[-1] == 1:
        flat = scores.reshape(len(scores), -1)
        threshold = 0.5 if ((flat >= 0) & (flat <= 1)).all() else 0.0
        decided: Array = (flat > threshold).astype(np.int64)
        return decided[:, 0] if decided.shape[1] == 1 else decided
    classes: Array = np.argmax(scores, axis=-1)
    return classes


def _scores(outputs: Outputs) -> Array:
    for values in outputs.values():
        if values.dtype.kind == "f" and values.ndim >= 1:
            return values
    raise ValueError("the model has no output of floating-point scores")


def _compare(predicted: Array, labels: Array) -> NDArray[np.float64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == predicted.ndim + 1:
        labels = np.argmax(labels, axis=-1)
    if predicted.shape != labels.shape:
        raise ValueError(f"predictions have shape {predicted.shape}, labels {labels.shape}")
    if predicted.dtype.kind in "OUS" or labels.dtype.kind in "OUS":
        predicted, labels = predicted.astype(str), labels.astype(str)
    right: NDArray[np.float64] = np.equal(predicted, labels).astype(np.float64)
    scores: NDArray[np.float64] = right.reshape(len(right), -1).mean(axis=1)
    return scores


def _accuracy(outputs: Outputs, labels: Array) -> Evaluated:
    scores = _compare(predicted_classes(outputs), labels)
    return Evaluated(float(scores.mean()), scores, None)


def _top5(outputs: Outputs, labels: Array) -> Evaluated:
    scores = _scores(outputs)
    if scores.ndim != 2 or labels.ndim != 1:
        raise ValueError("top-5 needs scores of shape (n, classes) and labels of shape (n,)")
    count = min(5, scores.shape[1])
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    right = (best == labels[:, None]).any(axis=1).astype(np.float64)
    return Evaluated(float(right.mean()), right, None)


def _classification(metric: Metric) -> Callable[[Outputs, Array], Evaluated]:
    def evaluate(outputs: Outputs, labels: Array) -> Evaluated:
        predicted = predicted_classes(outputs)
        flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if predicted.shape != flat.shape or flat.ndim != 1:
            raise ValueError(f"predictions have shape {predicted.shape}, labels {labels.shape}")
        return Evaluated(class_score(metric, predicted, flat), None, predicted)

    return evaluate


def class_score(metric: Metric, predicted: Array, labels: Array) -> float:
    """Precision, recall or F1: of class 1 where the labels are 0 and 1, else the mean over the labels'
    classes."""
    if predicted.dtype.kind in "OUS" or labels.dtype.kind in "OUS":
        predicted, labels = predicted.astype(str), labels.astype(str)
    classes = np.unique(labels)
    if labels.dtype.kind in "iub" and set(classes.tolist()) <= {0, 1}:
        classes = np.array([1])
    values = []
    for label in classes:
        hit = float(np.count_nonzero((predicted == label) & (labels == label)))
        called, there = np.count_nonzero(predicted == label), np.count_nonzero(labels == label)
        precision = hit / called if called else 0.0
        recall = hit / there if there else 0.0
        both = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        values.append({Metric.PRECISION: precision, Metric.RECALL: recall}.get(metric, both))
    return float(np.mean(values))


def _roc_auc(outputs: Outputs, labels: Array) -> Evaluated:
    scores = _scores(outputs)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if scores.ndim == 2 and scores.shape[1] == 2:
        scores = scores[:, 1] - scores[:, 0]
    elif scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if labels.ndim != 1:
        raise ValueError("the labels are not of shape (n,)")
    return Evaluated(auc(scores, labels), None, scores)


def auc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve by rank sums (ties count half); one-versus-rest mean for several classes.

    NaN where a class is missing.
    """
    if scores.ndim == 1:
        return _binary_auc(scores, labels == 1)
    present = [c for c in range(scores.shape[1]) if (labels == c).any()]
    return float(np.mean([_binary_auc(scores[:, c], labels == c) for c in present])) if present else math.nan


def _binary_auc(scores: Array, positive: Array) -> float:
    count = int(np.count_nonzero(positive))
    rest = len(positive) - count
    if not count or not rest:
        return math.nan
    _, inverse, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * rest))


def _regression(metric: Metric) -> Callable[[Outputs, Array], Evaluated]:
    def evaluate(outputs: Outputs, labels: Array) -> Evaluated:
        predicted = _scores(outputs).astype(np.float64)
        wanted = labels.astype(np.float64)
        predicted = predicted.reshape(len(predicted), -1)
        wanted = wanted.reshape(len(wanted), -1)
        if predicted.shape != wanted.shape:
            raise ValueError(f"predictions have shape {predicted.shape}, labels {wanted.shape}")
        if metric is Metric.MAE:
            errors = np.abs(predicted - wanted).mean(axis=1)
            return Evaluated(float(errors.mean()), -errors, None)
        return Evaluated(_regression_score(metric, predicted, wanted), None, predicted)

    return evaluate


def _regression_score(metric: Metric, predicted: Array, labels: Array) -> float:
    wanted = labels.astype(np.float64).reshape(len(labels), -1)
    if metric is Metric.RMSE:
        return float(np.sqrt(np.mean((predicted - wanted) ** 2)))
    totals = np.sum((wanted - wanted.mean(axis=0)) ** 2, axis=0)
    errors = np.sum((predicted.reshape(wanted.shape) - wanted) ** 2, axis=0)
    varies = totals > 0
    return float(np.mean(1.0 - errors[varies] / totals[varies])) if varies.any() else math.nan


def edit_distance(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Levenshtein distance of two sequences."""
    previous = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        current = [i]
        for j, b in enumerate(second, start=1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]


def greedy_ctc(scores: Array) -> list[list[int]]:
    """Decode (n, time, classes) scores by best path: repeats merged, class 0 is the blank (Graves et al.
    2006)."""
    best = np.argmax(scores, axis=-1)
    decoded = []
    for row in best:
        merged = row[np.concatenate([[True], row[1:] != row[:-1]])] if len(row) else row
        decoded.append([int(c) for c in merged if c != 0])
    return decoded


def _character_errors(outputs: Outputs, labels: Array) -> Evaluated:
    decoded = _texts(outputs)
    wanted = [
        list(row) if isinstance(row, str) else [int(c) for c in np.atleast_1d(row) if c > 0] for row in labels
    ]
    return _error_rate(decoded, wanted)


def _word_errors(outputs: Outputs, labels: Array) -> Evaluated:
    decoded = [("".join(t) if t and isinstance(t[0], str) else t) for t in _texts(outputs)]
    split = [t.split() if isinstance(t, str) else t for t in decoded]
    wanted = [
        row.split() if isinstance(row, str) else [int(c) for c in np.atleast_1d(row) if c > 0]
        for row in labels
    ]
    return _error_rate(split, wanted)


def _texts(outputs: Outputs) -> list[Any]:
    for values in outputs.values():
        if values.dtype.kind in "OUS":
            return [list(str(v)) for v in values.reshape(len(values))]
    for values in outputs.values():
        if values.dtype.kind in "iu" and values.ndim == 2:
            return [[int(c) for c in row if c > 0] for row in values]
    scores = _scores(outputs)
    if scores.ndim != 3:
        raise ValueError("error rates need text, class sequences or scores of shape (n, time, classes)")
    return greedy_ctc(scores)


def _error_rate(decoded: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> Evaluated:
    if len(decoded) != len(wanted):
        raise ValueError(f"{len(decoded)} predictions for {len(wanted)} labels")
    rates = np.array(
        [edit_distance(d, w) / max(len(w), 1) for d, w in zip(decoded, wanted, strict=True)], dtype=np.float64
    )
    return Evaluated(float(rates.mean()), -rates, None)


def _average_precision(outputs: Outputs, labels: Array) -> Evaluated:
    scores = _scores(outputs)
    if scores.ndim != 2:
        raise ValueError("mean average precision needs scores of shape (n, classes)")
    return Evaluated(average_precision(scores, labels), None, scores)


def average_precision(scores: Array, labels: Array) -> float:
    """Mean over classes of the area under the precision-recall curve, for labels (n,) or multi-label (n,
    classes)."""
    wanted = labels if labels.ndim == 2 else np.eye(scores.shape[1], dtype=bool)[labels.astype(np.int64)]
    values = []
    for column in range(scores.shape[1]):
        positive = wanted[:, column].astype(bool)
        if not positive.any():
            continue
        order = np.argsort(-scores[:, column], kind="stable")
        ranked = scores[order, column]
        # Equal scores, which quantized models give many of, are one threshold: their order means nothing.
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        hits = np.cumsum(positive[order])[last]
        values.append(float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / hits[-1]))
    return float(np.mean(values)) if values else math.nan


def _paired_statistic(
    metric: Metric, original: Evaluated, candidate: Evaluated, labels: Array | None
) -> Callable[[NDArray[np.intp]], float]:
    if labels is None or original.prediction is None or candidate.prediction is None:
        raise Problem(
            Reason.LABELS_MISSING,
            f"the metric {metric.value} needs labels: add an array `labels` to the evaluation data, or use "
            "the metric Agreement",
        )
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    first, second = original.prediction, candidate.prediction
    score: Callable[[Array, Array], float]
    if metric is Metric.ROC_AUC:
        score = auc
    elif metric is Metric.MEAN_AVERAGE_PRECISION:
        score = average_precision
    elif metric in _REGRESSION:

        def score(predicted: Array, wanted: Array) -> float:
            return _regression_score(metric, predicted, wanted)
    else:

        def score(predicted: Array, wanted: Array) -> float:
            return class_score(metric, predicted, wanted)

    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0

    def statistic(index: NDArray[np.intp]) -> float:
        wanted = flat[index]
        return sign * (score(first[index], wanted) - score(second[index], wanted))

    return statistic


_EVALUATORS: dict[Metric, Callable[[Outputs, Array], Evaluated]] = {
    Metric.ACCURACY: _accuracy,
    Metric.TOP5: _top5,
    Metric.PRECISION: _classification(Metric.PRECISION),
    Metric.RECALL: _classification(Metric.RECALL),
    Metric.F1: _classification(Metric.F1),
    Metric.ROC_AUC: _roc_auc,
    Metric.MAE: _regression(Metric.MAE),
    Metric.RMSE: _regression(Metric.RMSE),
    Metric.R2: _regression(Metric.R2),
    Metric.WORD_ERROR_RATE: _word_errors,
    Metric.CHARACTER_ERROR_RATE: _character_errors,
    Metric.MEAN_AVERAGE_PRECISION: _average_precision,
}
