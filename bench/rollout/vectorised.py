"""Many rollouts at once: `longshore.plan.analysis.comparison.observe` over arrays.

The same arithmetic as the production function, proven equal by
`tests/plan_analysis/test_bench_vectorised.py`; only the loop over rollouts is numpy's.
"""

from dataclasses import dataclass

import numpy as np
from longshore.plan.analysis import evidence as production
from longshore.plan.analysis.comparison import (
    BETTER_RATIOS,
    HARMLESS,
    HARMLESS_RATIOS,
    NO_WORSE,
    WORSE,
    WORSE_RATIOS,
    Limits,
)
from longshore.plan.analysis.evidence import CAP, RESTART_SECONDS, Mixture
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def log_normalizers(n1: Ints, n0: Ints, failed: Ints, thetas: tuple[float, ...]) -> Floats:
    """log Z(theta) up to a constant of the table; (thetas, tables). For failures up to a few hundred a
    tick."""
    lowest = np.maximum(0, failed - n0)
    width = int((np.minimum(failed, n1) - lowest).max(initial=0))
    log_theta = np.log(np.asarray(thetas))[:, None]
    term = np.zeros((len(thetas), len(failed)))
    total = np.zeros_like(term)
    with np.errstate(divide="ignore"):
        for i in range(width):
            k = lowest + i
            factor = (
                np.maximum(n1 - k, 0)
                * np.maximum(failed - k, 0)
                / ((k + 1) * np.maximum(n0 - failed + k + 1, 1))
            )
            term = term + np.log(factor) + log_theta
            total = np.logaddexp(total, term)
    result: Floats = total + lowest * log_theta
    return result


@dataclass
class Process:
    """`Evidence` of many rollouts under one `Mixture`."""

    mixture: Mixture
    logs: Floats
    streak: Floats
    spare: float
    seconds: float = 0.0

    @classmethod
    def start(cls, mixture: Mixture, rollouts: int) -> "Process":
        first = mixture.start()
        logs = np.repeat(np.asarray(first.logs)[:, None], rollouts, axis=1)
        return cls(mixture, logs, np.zeros(rollouts), first.spare)

    def _log_mean(self, logs: Floats) -> Floats:
        highest: Floats = logs.max(axis=0)
        mean: Floats = highest + np.log(np.asarray(self.mixture.weights) @ np.exp(logs - highest))
        return mean

    def value(self) -> Floats:
        mixed = self._log_mean(self.logs)
        if self.spare > 0:
            mixed = np.logaddexp(mixed, np.log(self.spare))
        value: Floats = mixed
        return value

    def advance(self, log_ratios: Floats, seconds: float) -> None:
        informative = (log_ratios != 0).any(axis=0)
        self.logs = self.logs + np.minimum(log_ratios, CAP * (1 + self.streak))
        pointing = informative & (self._log_mean(log_ratios) > 0)
        self.streak = np.where(pointing, np.minimum(self.streak + 1, 1000), 0)
        self.seconds += seconds
        if self.mixture.kept_back > 0:
            restarts = self.seconds // RESTART_SECONDS
            halves = production._RESTART_HALVES
            left = self.mixture.kept_back * halves / (halves + restarts)
            if left < self.spare:
                self.logs = np.logaddexp(self.logs, np.log(self.spare - left))
                self.spare = left


class Fleet:
    """Many comparisons with the same limits, ticking together."""

    def __init__(self, limits: Limits, rollouts: int) -> None:
        self.limits = limits
        self.worse = Process.start(WORSE, rollouts)
        self.no_worse = Process.start(NO_WORSE, rollouts)
        self.harmless = Process.start(HARMLESS, rollouts)

    def observe(self, n1: Ints, k1: Ints, n0: Ints, k0: Ints, seconds: float, promote: bool = True) -> None:
        """One tick of every rollout; `promote=False` skips what only promotion needs. n0 must be above 0."""
        limits = self.limits
        thetas = (
            limits.margin,
            *(limits.margin * r for r in WORSE_RATIOS),
            limits.harm,
            *(limits.margin * r for r in BETTER_RATIOS),
        )
        if not promote:
            thetas = thetas[: 1 + len(WORSE_RATIOS)]
        ratios = np.zeros((len(thetas), len(n1)))
        told = np.minimum(k1 + k0, n1) > np.maximum(0, k1 + k0 - n0)
        if told.any():
            ratios[:, told] = k1[told] * np.log(np.asarray(thetas))[:, None] - log_normalizers(
                n1[told], n0[told], (k1 + k0)[told], thetas
            )
        alternatives = len(WORSE_RATIOS)
        self.worse.advance(ratios[1 : 1 + alternatives] - ratios[0], seconds)
        if not promote:
            return
        self.no_worse.advance(ratios[2 + alternatives :] - ratios[1 + alternatives], seconds)
        p0 = limits.harmless
        p = np.asarray(HARMLESS_RATIOS)[:, None] * p0
        self.harmless.advance(k1 * np.log(p / p0) + (n1 - k1) * (np.log1p(-p) - np.log1p(-p0)), seconds)

    def aborts(self) -> NDArray[np.bool_]:
        """Which rollouts stand at or above the abort line."""
        aborted: NDArray[np.bool_] = self.worse.value() >= self.limits.abort_at
        return aborted

    def promotes(self) -> NDArray[np.bool_]:
        """Which rollouts stand at or above the promote line."""
        mean: Floats = np.logaddexp(self.no_worse.value(), self.harmless.value()) + np.log(0.5)
        promoted: NDArray[np.bool_] = mean >= self.limits.promote_at
        return promoted
