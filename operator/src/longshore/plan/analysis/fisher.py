"""Fisher's noncentral hypergeometric distribution in log space, in time that hardly grows with the counts.

Of n1 requests to the canary and n0 to the stable revision, K failed in all. Given these totals, the number
that failed on the canary has, under odds ratio theta, the probability

    P(k) = C(n1, k) C(n0, K - k) theta^k / Z(theta),    Z(theta) = sum over k of the numerator,

whatever the failure rate itself is, so an incident that both revisions share cancels out. See A. Fog,
"Sampling Methods for Wallenius' and Fisher's Noncentral Hypergeometric Distributions", Communications in
Statistics - Simulation and Computation 37(2), 2008.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LARGEST_COUNT = 10**9
"""Counts beyond this are refused: log-gamma would leave fewer than six digits after the point."""

_NEGLIGIBLE = 1e-18
"""A term this much smaller than the largest is the end of the sum: terms fall off faster and faster."""

_EXACT_DEVIATION = 24.0
"""Up to this standard deviation every term is summed; beyond it every h-th, h = deviation / 4.

By Poisson's summation formula the error of the strided sum of a bell of deviation s is about
exp(-2 pi^2 s^2 / h^2) = exp(-316) for h = s / 4.
"""


@dataclass(frozen=True)
class Table:
    """Totals of one tick: what is known before looking at which side the failures fell on.

    Attributes:
        canary: requests to the canary (n1).
        stable: requests to the stable revision (n0).
        failed: requests that failed on both sides together (K).
    """

    canary: int
    stable: int
    failed: int

    def __post_init__(self) -> None:
        if min(self.canary, self.stable, self.failed) < 0 or self.failed > self.canary + self.stable:
            raise ValueError(
                f"{self.failed} failures of {self.canary} + {self.stable} requests is not possible: "
                "counts are at least 0 and failures at most the requests"
            )
        if self.canary + self.stable > LARGEST_COUNT:
            raise ValueError(f"{self.canary + self.stable} requests in one tick are more than 10^9")

    @property
    def lowest(self) -> int:
        """Fewest failures that the canary can have had."""
        return max(0, self.failed - self.stable)

    @property
    def highest(self) -> int:
        """Most failures that the canary can have had."""
        return min(self.failed, self.canary)

    @property
    def tells_nothing(self) -> bool:
        """Whether only one split is possible, so that it has probability 1 under any odds ratio."""
        return self.lowest == self.highest


def log_normalizer(table: Table, theta: float) -> float:
    """Compute log Z(theta) - log Z(1) + log C(n0 + n1, K), which is log Z(theta), to about 1e-9.

    Raises:
        ValueError: theta is not a positive finite number.
    """
    _check(theta)
    mode = _mode(table, theta)
    anchor = _log_term(table, mode, theta)
    deviation = _deviation(table, mode)
    if deviation <= _EXACT_DEVIATION:
        return anchor + math.log(_sum_every(table, mode, theta))
    return anchor + math.log(_sum_strided(table, mode, theta, anchor, int(deviation / 4)))


def log_ratio(table: Table, k: int, theta: float, theta0: float) -> float:
    """Compute the log-likelihood ratio log P_theta(k) - log P_theta0(k).

    Raises:
        ValueError: k is outside of the possible splits, or an odds ratio is not positive and finite.
    """
    return log_ratios(table, k, (theta,), theta0)[0]


def log_ratios(table: Table, k: int, thetas: Sequence[float], theta0: float) -> tuple[float, ...]:
    """Compute `log_ratio` for several alternatives against one theta0."""
    if not table.lowest <= k <= table.highest:
        raise ValueError(f"{k} failures on the canary are outside of {table.lowest} to {table.highest}")
    _check(theta0)
    if table.tells_nothing:
        return (0.0,) * len(thetas)
    base = log_normalizer(table, theta0)
    return tuple(
        k * math.log(theta / theta0) - (log_normalizer(table, theta) - base) if theta != theta0 else 0.0
        for theta in thetas
    )


def log_probability(table: Table, k: int, theta: float) -> float:
    """Compute log P_theta(k); minus infinity outside of the possible splits."""
    if not table.lowest <= k <= table.highest:
        return -math.inf
    return _log_term(table, k, theta) - log_normalizer(table, theta)


def _check(theta: float) -> None:
    if not (theta > 0 and math.isfinite(theta)):
        raise ValueError(f"odds ratio {theta} is not a positive finite number")


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_term(table: Table, k: int, theta: float) -> float:
    return (
        _log_choose(table.canary, k)
        + _log_choose(table.stable, table.failed - k)
        + (k * math.log(theta) if k else 0.0)
    )


def _rising(table: Table, k: int, theta: float) -> bool:
    """Whether the term of k + 1 is at least that of k; true up to the mode only, the terms are
    log-concave."""
    return theta * (table.canary - k) * (table.failed - k) >= (k + 1) * (table.stable - table.failed + k + 1)


def _mode(table: Table, theta: float) -> int:
    low, high = table.lowest, table.highest
    while low < high:
        middle = (low + high) // 2
        if _rising(table, middle, theta):
            low = middle + 1
        else:
            high = middle
    return low


def _deviation(table: Table, mode: int) -> float:
    """Standard deviation of the normal curve with the same curvature at the mode."""
    cells = (mode, table.canary - mode, table.failed - mode, table.stable - table.failed + mode)
    return 1 / math.sqrt(sum(1 / (cell + 0.5) for cell in cells))


def _sum_every(table: Table, mode: int, theta: float) -> float:
    """Sum the terms outwards from the mode, each relative to the mode's, by their ratios."""
    n1, n0_less_failed, failed = table.canary, table.stable - table.failed, table.failed
    total = term = 1.0
    for k in range(mode, table.highest):
        term *= theta * (n1 - k) * (failed - k) / ((k + 1) * (n0_less_failed + k + 1))
        total += term
        if term < _NEGLIGIBLE:
            break
    term = 1.0
    for k in range(mode, table.lowest, -1):
        term *= k * (n0_less_failed + k) / (theta * (n1 - k + 1) * (failed - k + 1))
        total += term
        if term < _NEGLIGIBLE:
            break
    return total


def _sum_strided(table: Table, mode: int, theta: float, anchor: float, stride: int) -> float:
    """Sum every `stride`-th term outwards from the mode, each standing for `stride` of them."""
    total = 1.0
    for step, end in ((stride, table.highest + 1), (-stride, table.lowest - 1)):
        for k in range(mode + step, end, step):
            term = math.exp(_log_term(table, k, theta) - anchor)
            total += term
            if term < _NEGLIGIBLE:
                break
    return total * stride
