"""A cascade from what was measured: which candidate goes first, and how sure it must be. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from longshore.api.optimize import Metric, TechniqueName
from numpy.typing import NDArray
from scipy import special

from longshore_optimizer.decide import Trial
from longshore_optimizer.metrics import Outputs
from longshore_optimizer.statistics import clopper_pearson_upper, paired_binary

NAME = "cascade"
CASCADE_NAME = "cascade.json"
"""What the server reads: the two models, the output with the scores, the threshold."""

FASTER = 0.75
"""A first model that takes more than this share of the original's time leaves too little to win."""

MOST_ESCALATED = 0.9
"""Share of rows for the large model above which a cascade cannot pay."""

_THRESHOLDS = 200
_PROBABILITY_ERROR = 1e-2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibrated:
    """How sure the small model must be; `share` of the samples go on to the large one."""

    output: str
    softmax: bool
    threshold: float
    share: float


def wanted(techniques: Sequence[TechniqueName]) -> bool:
    """Tell whether a cascade may be tried."""
    return TechniqueName.AUTO in techniques or TechniqueName.CASCADE in techniques


def missing(
    metric: Metric | None, *, evaluation: bool, calibration: bool, smalls: Sequence[Trial]
) -> str | None:
    """Say what keeps a cascade from being built, None where nothing does."""
    if not evaluation or metric is not Metric.ACCURACY:
        return "a cascade is proved by evaluation data with the metric Accuracy: add them"
    if not calibration:
        return "the threshold of a cascade is calibrated on data of its own: add optimize.calibration"
    if not smalls:
        return (
            "a cascade needs a candidate that is clearly faster than the original: none was found; name more "
            "techniques, or use Auto"
        )
    return None


def smalls(original: Trial, trials: Sequence[Trial]) -> list[Trial]:
    """Give the candidates that could answer first, the fastest first; what they lose the large one mends."""
    if original.latency is None or not original.latency.rounds:
        return []
    limit = FASTER * original.latency.p50
    found = [t for t in trials if t.alive and t.latency is not None and t.latency.p50 < limit]
    return sorted(found, key=lambda t: t.latency.p50 if t.latency is not None else 0.0)


def scores_of(outputs: Outputs) -> tuple[str, Floats] | None:
    """Name and values of the output with class scores, shape (n, classes); None without such an output."""
    for name, values in outputs.items():
        if values.dtype.kind == "f" and values.ndim == 2 and values.shape[1] >= 2:
            return name, values.astype(np.float64)
    return None


def calibrate(
    small: Outputs, large: Outputs, labels: NDArray[Any] | None, max_drop: float, confidence: float
) -> Calibrated | None:
    """Find the lowest threshold with which the cascade is proved to lose at most `max_drop` of accuracy.

    With labels (n,) the loss is that of accuracy, without them the share of answers that change. Its upper
    bound at `confidence` counts, with room for the evaluation data to come out less kindly where there are
    samples enough. None where too few rows would be kept from the large model.
    """
    first, second = scores_of(small), scores_of(large)
    if first is None or second is None or first[1].shape != second[1].shape or not len(first[1]):
        return None
    name, scores = first
    softmax = not _are_probabilities(scores)
    sure = _softmax(scores).max(axis=1) if softmax else scores.max(axis=1)
    mine, theirs = scores.argmax(axis=1), second[1].argmax(axis=1)
    grid = np.unique(np.quantile(sure, np.linspace(0, 1, _THRESHOLDS)))
    grid = grid[[float(np.mean(sure < t)) <= MOST_ESCALATED for t in grid]]
    # The bound on other data of that size passes at `confidence` where this one does at 1 + sqrt(2) times z.
    roomy = float(special.ndtr((1 + math.sqrt(2)) * special.ndtri(confidence)))
    for level, threshold in ((level, t) for level in (roomy, confidence) for t in grid):
        kept = sure >= threshold
        if labels is not None and labels.shape == mine.shape and labels.dtype.kind in "iu":
            answers = np.where(kept, mine, theirs)
            upper = paired_binary(theirs == labels, answers == labels, level).upper
        else:
            changed = int(np.count_nonzero(kept & (mine != theirs)))
            upper = clopper_pearson_upper(changed, len(mine), level)
        if upper <= max_drop:
            return Calibrated(name, softmax, float(threshold), float(np.mean(~kept)))
    return None


def _are_probabilities(scores: Floats) -> bool:
    inside = bool(((scores >= 0) & (scores <= 1)).all())
    return inside and bool((np.abs(scores.sum(axis=1) - 1) < _PROBABILITY_ERROR).all())


def _softmax(scores: Floats) -> Floats:
    shifted: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return result
