"""The metrics mean what scikit-learn means by their names."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from longshore.api.optimize import Metric
from longshore_optimizer.metrics import Evaluator
from sklearn import metrics as reference

RNG = np.random.default_rng(5)
CLASSES = RNG.integers(0, 7, 300)
SCORES = RNG.standard_normal((300, 7)) + 1.5 * np.eye(7)[CLASSES]
BINARY = RNG.integers(0, 2, 300)
PROBABILITY = np.clip(0.3 * BINARY + RNG.uniform(0, 0.7, 300), 0, 1)
COARSE = np.round(SCORES)
"""Many equal scores, as a quantized model gives."""
TARGETS = RNG.standard_normal((300, 3)) * (1, 5, 20)
ESTIMATES = TARGETS + RNG.standard_normal((300, 3)) * (0.5, 1, 15)


def value(metric: Metric, outputs: Any, labels: Any) -> float:
    found = {"y": outputs}
    return Evaluator(metric, labels, found, 0.95, 0).evaluate(found).value


def macro(score: Callable[..., Any]) -> float:
    return float(score(CLASSES, SCORES.argmax(1), average="macro"))


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "expected"),
    [
        (Metric.ACCURACY, SCORES, CLASSES, reference.accuracy_score(CLASSES, SCORES.argmax(1))),
        (Metric.ACCURACY, PROBABILITY, BINARY, reference.accuracy_score(BINARY, PROBABILITY > 0.5)),
        (Metric.TOP5, SCORES, CLASSES, reference.top_k_accuracy_score(CLASSES, SCORES, k=5)),
        (Metric.PRECISION, SCORES, CLASSES, macro(reference.precision_score)),
        (Metric.RECALL, SCORES, CLASSES, macro(reference.recall_score)),
        (Metric.F1, SCORES, CLASSES, macro(reference.f1_score)),
        (Metric.F1, PROBABILITY, BINARY, reference.f1_score(BINARY, PROBABILITY > 0.5)),
        (Metric.ROC_AUC, PROBABILITY, BINARY, reference.roc_auc_score(BINARY, PROBABILITY)),
        (
            Metric.ROC_AUC,
            COARSE,
            CLASSES,
            np.mean([reference.roc_auc_score(c == CLASSES, COARSE[:, c]) for c in range(7)]),
        ),
        (Metric.MAE, ESTIMATES, TARGETS, reference.mean_absolute_error(TARGETS, ESTIMATES)),
        (
            Metric.RMSE,
            ESTIMATES[:, :1],
            TARGETS[:, 0],
            reference.root_mean_squared_error(TARGETS[:, 0], ESTIMATES[:, 0]),
        ),
        (Metric.R2, ESTIMATES, TARGETS, reference.r2_score(TARGETS, ESTIMATES)),
        (
            Metric.MEAN_AVERAGE_PRECISION,
            COARSE,
            CLASSES,
            reference.average_precision_score(np.eye(7)[CLASSES], COARSE, average="macro"),
        ),
        (Metric.WORD_ERROR_RATE, np.array(["a b c", "d e"]), np.array(["a x c", "d e"]), 1 / 6),
        (Metric.CHARACTER_ERROR_RATE, np.array(["kitten"]), np.array(["sitting"]), 3 / 7),
    ],
)
def test_a_metric_is_what_its_name_says(metric: Metric, outputs: Any, labels: Any, expected: float) -> None:
    assert value(metric, outputs, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [m for m in Metric if m not in (Metric.AGREEMENT, Metric.CUSTOM)])
def test_nothing_is_lost_against_itself_and_a_loss_is_seen(metric: Metric) -> None:
    right: Any = np.eye(7)[CLASSES] * 4
    labels: Any = CLASSES
    if metric in (Metric.WORD_ERROR_RATE, Metric.CHARACTER_ERROR_RATE):
        labels = np.array([f"w{a} x{b}" for a, b in zip(CLASSES, BINARY, strict=True)])
        right, wrong = labels, np.roll(labels, 1)
    elif metric in (Metric.MAE, Metric.RMSE, Metric.R2):
        labels, right, wrong = TARGETS, TARGETS, ESTIMATES
    else:
        wrong = SCORES
    judge = Evaluator(metric, labels, {"y": right}, 0.95, 0)
    original, candidate = judge.evaluate({"y": right}), judge.evaluate({"y": wrong})
    assert judge.drop(original, original).estimate == 0
    lost = judge.drop(original, candidate)
    assert 0 < lost.estimate <= lost.upper
