"""Paired intervals for the loss of a candidate against the original on the same samples. Pure functions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

RESAMPLES = 2000


@dataclass(frozen=True)
class Drop:
    """Loss of a candidate in units of the metric: point estimate and one-sided upper bound."""

    estimate: float
    upper: float


def paired_binary(
    original_right: NDArray[np.bool_], candidate_right: NDArray[np.bool_], confidence: float
) -> Drop:
    """Loss of accuracy of a candidate, both measured on the same n samples.

    The bound is Tango's score interval for a paired difference (Tango 1998, Statistics in Medicine
    17:891-908). Where no sample speaks for the candidate, the exact Clopper-Pearson bound on the share of
    lost samples is taken as well and the larger counts: the score interval is slightly too narrow at that
    border.
    """
    n = len(original_right)
    if n == 0:
        raise ValueError("no samples")
    lost = int(np.count_nonzero(original_right & ~candidate_right))
    won = int(np.count_nonzero(~original_right & candidate_right))
    estimate = (lost - won) / n
    upper = tango_upper(lost, won, n, confidence)
    if won == 0:
        upper = max(upper, clopper_pearson_upper(lost, n, confidence))
    return Drop(estimate, max(upper, estimate))


def clopper_pearson_upper(count: int, n: int, confidence: float) -> float:
    """Exact one-sided upper bound on a proportion (Clopper and Pearson 1934)."""
    if count >= n:
        return 1.0
    return float(special.betaincinv(count + 1, n - count, confidence))


def tango_upper(lost: int, won: int, n: int, confidence: float) -> float:
    """One-sided upper score bound on (lost - won) / n for paired binary data (Tango 1998)."""
    z = float(special.ndtri(confidence))
    low, high = (lost - won) / n, 1.0
    # The score falls monotonically in the difference; 60 halvings reach double precision.
    for _ in range(60):
        middle = (low + high) / 2
        if _tango_score(lost, won, n, middle) > -z:
            low = middle
        else:
            high = middle
    return high


def _tango_score(lost: int, won: int, n: int, difference: float) -> float:
    """Score statistic at a hypothetical difference; the nuisance is its restricted maximum likelihood."""
    linear = (lost + won) * (1 - difference) - 2 * difference * (n - lost)
    root = math.sqrt(max(linear * linear + 8 * n * won * difference * (1 - difference), 0.0))
    nuisance = max((linear + root) / (4 * n), 0.0, -difference)
    variance = n * (2 * nuisance + difference * (1 - difference))
    if variance <= 0:
        return 0.0
    return (lost - won - n * difference) / math.sqrt(variance)


def bootstrap_drop(
    statistic: Callable[[Indices], float], n: int, confidence: float, seed: int, resamples: int = RESAMPLES
) -> Drop:
    """One-sided upper bound on a paired loss by the bias-corrected and accelerated bootstrap (Efron 1987).

    `statistic` maps sample indices (repeats allowed, length n) to the loss; NaN marks a resample on which the
    metric is not defined (a class is missing) and is left out. With fewer than 2 samples nothing bounds
    the loss.
    """
    everyone = np.arange(n)
    estimate = statistic(everyone)
    if n < 2:
        return Drop(estimate, math.inf)
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    draws = np.sort(draws[np.isfinite(draws)])
    if len(draws) < resamples // 2:
        return Drop(estimate, math.inf)
    if draws[0] == draws[-1]:
        # Every resample agrees: the bound is the estimate, unless it is 0 only because nothing differs at
        # all.
        return Drop(estimate, max(estimate, float(draws[-1])))
    below = (np.count_nonzero(draws < estimate) + 0.5 * np.count_nonzero(draws == estimate)) / len(draws)
    bias = float(special.ndtri(min(max(below, 1 / (2 * len(draws))), 1 - 1 / (2 * len(draws)))))
    acceleration = _acceleration(statistic, n, seed)
    z = float(special.ndtri(confidence))
    adjusted = float(special.ndtr(bias + (bias + z) / max(1 - acceleration * (bias + z), 1e-6)))
    position = min(max(math.ceil(adjusted * len(draws)) - 1, 0), len(draws) - 1)
    return Drop(estimate, max(float(draws[position]), estimate))


def _acceleration(statistic: Callable[[Indices], float], n: int, seed: int) -> float:
    """Acceleration from a jackknife over at most 200 groups of samples (Efron and Tibshirani 1993, ch.
    14)."""
    groups = np.array_split(np.random.default_rng(seed).permutation(n), min(n, 200))
    everyone = np.arange(n)
    values = []
    for group in groups:
        keep = np.delete(everyone, group)
        value = statistic(keep)
        if math.isfinite(value):
            values.append(value)
    spread = np.mean(values) - np.array(values) if values else np.zeros(1)
    scale = float(np.sum(spread**2)) ** 1.5
    return float(np.sum(spread**3)) / (6 * scale) if scale > 0 else 0.0


def mean_drop(original: Floats, candidate: Floats, confidence: float, seed: int) -> Drop:
    """Loss of a mean of per-sample scores (higher is better), by paired bootstrap over blocks of
    resamples."""
    difference = original - candidate
    n = len(difference)
    if not difference.any():
        # Identical on every sample: as with proportions, n agreements bound the share that may differ.
        scale = float(np.max(np.abs(original))) if n else 0.0
        return Drop(0.0, scale * clopper_pearson_upper(0, n, confidence) if n else math.inf)
    return bootstrap_drop(lambda index: float(difference[index].mean()), n, confidence, seed)


@dataclass(frozen=True)
class Ratio:
    """Ratio of two latencies (original over candidate: above 1 is faster) with a two-sided interval."""

    estimate: float
    low: float
    high: float


def paired_ratio(original: Floats, candidate: Floats, confidence: float) -> Ratio:
    """Ratio measured in interleaved rounds; arrays of one positive value a round, same length.

    The rounds are paired, so a slow spell that hits both cancels out. The estimate is the median of the
    rounds' ratios, its interval the order statistics that hold the median at `confidence` whatever the noise
    looks like (the sign test's interval; Conover 1999, section 3.2). With too few rounds nothing is bounded.
    """
    ratios = np.sort(np.asarray(original) / np.asarray(candidate))
    rounds = len(ratios)
    estimate = float(np.median(ratios))
    # Largest count k with P(Binomial(rounds, 1/2) < k) <= (1 - confidence) / 2.
    skipped = int(stats.binom.ppf((1 - confidence) / 2, rounds, 0.5))
    if stats.binom.cdf(skipped, rounds, 0.5) > (1 - confidence) / 2:
        skipped -= 1
    if skipped < 0:
        return Ratio(estimate, 0.0, math.inf)
    return Ratio(estimate, float(ratios[skipped]), float(ratios[rounds - 1 - skipped]))


def smallest_sample(max_drop: float, confidence: float) -> int:
    """Fewest samples with which a candidate that answers identically passes `max_drop` (rule of three,
    exact)."""
    if max_drop <= 0:
        return 2**31
    if max_drop >= 1:
        return 1
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_drop))
