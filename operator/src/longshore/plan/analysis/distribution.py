"""Do stable and canary predict alike? PSI for classes and scores, Kolmogorov-Smirnov for outputs.

Both need all answers so far, not one tick's, so they are no e-process. They look a bounded number of times:
at 200, 400, 800, ... canary answers, and look l (from 1) may spend alpha / (l (l + 1)) of the error
probability, which sums to alpha over all looks. So alpha is again the probability of ever failing a canary
that predicts from the same distribution. Significance alone would fail a harmless difference once traffic is
large, so a shift must also be as large as its bound.

PSI is sum over bins of (p - q) log(p / q): the symmetrised Kullback-Leibler divergence; 0.1 is usually read
as a small shift and 0.25 as a large one (Siddiqi, "Credit Risk Scorecards", 2006).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from longshore.plan.analysis.special import chi_squared_tail, kolmogorov_tail
from longshore.plan.analysis.verdict import Verdict

FIRST_LOOK = 200
"""Canary answers at the first look."""

MOST_LOOKS = 24
"""200 * 2^23 answers are 1.7 billion; nobody waits longer."""

_KS_NOISE = 1.36
"""95 % quantile of Kolmogorov's distribution: the distance that chance alone seldom exceeds, unscaled."""

_PSI_BINS = 20
"""Ordered bins are joined into this many of like weight: the index is meant for 10 to 20, and of many nearly
empty ones it would tell only noise."""

_FEWEST_EXPECTED = 5.0
"""Bins that expect fewer answers are pooled: Cochran's rule for the chi-squared test."""


@dataclass(frozen=True)
class Distributions:
    """How often each class or bin was predicted since the canary began.

    Attributes:
        canary: counts on the canary, one a bin.
        stable: counts on the stable revision, of the same length and order.
        ordered: bins are neighbouring ranges of a number (then KS counts too), not classes.
    """

    canary: tuple[int, ...]
    stable: tuple[int, ...]
    ordered: bool = False

    def __post_init__(self) -> None:
        if len(self.canary) != len(self.stable):
            raise ValueError(
                f"{len(self.canary)} bins on the canary, {len(self.stable)} on the stable revision: "
                "both must use the same bins"
            )
        if min((0, *self.canary, *self.stable)) < 0:
            raise ValueError("a bin cannot hold fewer than 0 answers")


@dataclass(frozen=True)
class Bounds:
    """How large a shift is tolerated.

    Attributes:
        psi: bound of the population stability index.
        ks: bound of the Kolmogorov-Smirnov distance (ordered bins only), 0 to 1.
        alpha: probability of ever failing a canary that predicts from the same distribution.
    """

    psi: float = 0.2
    ks: float = 0.1
    alpha: float = 0.01


@dataclass(frozen=True)
class Shift:
    """What is remembered between looks.

    Attributes:
        looks: looks taken.
        verdict: outcome of the last one.
        psi: population stability index at the last one.
        ks: Kolmogorov-Smirnov distance at the last one, 0 for classes.
        answers: canary answers at the last one.
    """

    looks: int = 0
    verdict: Verdict = Verdict.NO_DATA
    psi: float = 0.0
    ks: float = 0.0
    answers: int = 0


def observe_shift(bounds: Bounds, before: Shift, seen: Distributions) -> Shift:
    """Look if a look is due, else leave things as they are. A proven shift stays proven."""
    n, m = sum(seen.canary), sum(seen.stable)
    if before.verdict is Verdict.FAIL or before.looks >= MOST_LOOKS:
        return before
    if n < FIRST_LOOK * 2**before.looks or m < FIRST_LOOK:
        if before.looks == 0 and n > 0:
            return Shift(verdict=Verdict.INCONCLUSIVE, answers=n)
        return before
    looks = before.looks + 1
    alpha = bounds.alpha / (looks * (looks + 1))
    whole = (seen.canary, seen.stable)
    canary, stable = joined(*whole) if seen.ordered else whole
    psi, noise = population_stability_index(canary, stable)
    ks = ks_distance(seen.canary, seen.stable) if seen.ordered else 0.0
    tests = 2 if seen.ordered else 1
    shifted = psi > bounds.psi and homogeneity_p_value(canary, stable) < alpha / tests
    moved = seen.ordered and ks > bounds.ks and ks_p_value(ks, n, m) < alpha / tests
    within = psi + 2 * noise < bounds.psi and (
        not seen.ordered or ks + _KS_NOISE * math.sqrt(1 / n + 1 / m) < bounds.ks
    )
    if shifted or moved:
        verdict = Verdict.FAIL
    elif within:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.INCONCLUSIVE
    return Shift(looks, verdict, psi, ks, n)


def joined(a: Sequence[int], b: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Join neighbouring bins into at most 20 of like weight in both together."""
    whole, before = sum(a) + sum(b), 0
    sums: dict[int, tuple[int, int]] = {}
    for x, y in zip(a, b, strict=True):
        place = min(_PSI_BINS - 1, int((before + (x + y) / 2) * _PSI_BINS / max(1, whole)))
        before += x + y
        in_a, in_b = sums.get(place, (0, 0))
        sums[place] = in_a + x, in_b + y
    return tuple(x for x, _ in sums.values()), tuple(y for _, y in sums.values())


def population_stability_index(a: Sequence[int], b: Sequence[int]) -> tuple[float, float]:
    """Compute the index and the standard deviation it would have were there no shift.

    Half an answer is added to each bin, so an empty bin gives a finite value. The expectation without a
    shift, (bins - 1)(1/n + 1/m), is taken off: else many classes alone would look like a shift. (Yurdakul and
    Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation
    2020.)
    """
    n, m = sum(a), sum(b)
    used = [(x, y) for x, y in zip(a, b, strict=True) if x or y]
    if not n or not m or len(used) < 2:
        return 0.0, 0.0
    whole_n, whole_m = n + 0.5 * len(used), m + 0.5 * len(used)
    raw = sum(
        ((x + 0.5) / whole_n - (y + 0.5) / whole_m)
        * (math.log((x + 0.5) / whole_n) - math.log((y + 0.5) / whole_m))
        for x, y in used
    )
    spread = 1 / n + 1 / m
    degrees = len(used) - 1
    return max(0.0, raw - degrees * spread), math.sqrt(2 * degrees) * spread


def homogeneity_p_value(a: Sequence[int], b: Sequence[int]) -> float:
    """P-value of the chi-squared test that both are drawn from one distribution, rare bins pooled."""
    n, m = sum(a), sum(b)
    if not n or not m:
        return 1.0
    smaller_share = min(n, m) / (n + m)
    cells: list[tuple[int, int]] = []
    rare = (0, 0)
    for x, y in zip(a, b, strict=True):
        if (x + y) * smaller_share >= _FEWEST_EXPECTED:
            cells.append((x, y))
        else:
            rare = (rare[0] + x, rare[1] + y)
    if sum(rare) * smaller_share >= _FEWEST_EXPECTED or (rare != (0, 0) and not cells):
        cells.append(rare)
    elif rare != (0, 0):
        smallest = min(range(len(cells)), key=lambda i: sum(cells[i]))
        cells[smallest] = (cells[smallest][0] + rare[0], cells[smallest][1] + rare[1])
    statistic = 0.0
    for x, y in cells:
        expected_x, expected_y = (x + y) * n / (n + m), (x + y) * m / (n + m)
        statistic += (x - expected_x) ** 2 / expected_x + (y - expected_y) ** 2 / expected_y
    return chi_squared_tail(statistic, len(cells) - 1)


def ks_distance(a: Sequence[int], b: Sequence[int]) -> float:
    """Largest difference of the two cumulative distributions over bins; at most that of the raw values."""
    n, m = sum(a), sum(b)
    if not n or not m:
        return 0.0
    x = y = 0
    largest = 0.0
    for in_a, in_b in zip(a, b, strict=True):
        x, y = x + in_a, y + in_b
        largest = max(largest, abs(x / n - y / m))
    return largest


def ks_p_value(distance: float, n: int, m: int) -> float:
    """P-value of the two-sample test, with Stephens' correction (JRSS B 32, 1970)."""
    root = math.sqrt(n * m / (n + m))
    return kolmogorov_tail((root + 0.12 + 0.11 / root) * distance)
