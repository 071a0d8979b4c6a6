"""Evidence that grows while it is looked at: a mixture of capped likelihood-ratio products (an e-process).

Let L_j be the likelihood ratio of one tick of alternative j against the boundary of the null hypothesis.
If E[L_j | past] <= 1 under every member of the null, then with a cap c that is fixed before the tick,
E[min(L_j, c) | past] <= 1 too, the product over ticks is a supermartingale of at most 1 in expectation, and
so is any mixture of such products with weights that sum to 1. By Ville's inequality it ever reaches 1/alpha
with probability alpha at most, however often and whenever one looks. Sources: Ville 1939; Ramdas, Grunwald,
Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38(4), 2023.

Two choices serve practice and cost no validity:

- **Blocks by tick.** A tick may multiply the evidence by exp(CAP) at most, and by exp(CAP) more for each
  tick right before it that pointed the same way. Errors come in bursts (a client retries, a batch shares one
  bad request), and a burst is one event, not ten; what goes on for three ticks is no burst.
- **Restarts.** A fault may come late, after hours in which the product has shrunk. A part of the mixture's
  weight is kept back and put in at its start value every `RESTART_SECONDS`, in shares that sum to that part.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CAP = 1.5
"""Largest log-likelihood ratio of a lone tick, in nats: about one failure that only the canary had.

Calibrated by `make bench-rollout`: 1.2 delays an abort at 0.5 -> 5 % errors by a tenth, 1.6 doubles the good
canaries that bursts of three errors abort."""

RESTART_SECONDS = 30.0
"""Between two restarts; a fault is at most this much older than the nearest one."""

_LONGEST_STREAK = 1000

_RESTART_HALVES = 20
"""After this many restarts half of what was kept back is put in: shares h/((i+h)(i+h+1)) telescope to 1."""


@dataclass(frozen=True)
class Evidence:
    """Evidence against one null hypothesis, as it stands in status.

    Attributes:
        logs: natural logarithm of each alternative's process, in the order of its `Mixture`.
        spare: share of the mixture's weight not yet put in, 0 to 1.
        seconds: time over which evidence was gathered.
        streak: ticks in a row that pointed away from the null.
    """

    logs: tuple[float, ...]
    spare: float = 0.0
    seconds: float = 0.0
    streak: int = 0

    def __post_init__(self) -> None:
        if not (all(map(math.isfinite, self.logs)) and 0 <= self.spare < 1 and 0 <= self.seconds < math.inf):
            raise ValueError("evidence is a few finite numbers")


@dataclass(frozen=True)
class Mixture:
    """Prior weights of the alternatives.

    Attributes:
        weights: one a alternative, positive, sum 1.
        kept_back: share that is put in by restarts, 0 up to but without 1.
    """

    weights: tuple[float, ...]
    kept_back: float = 0.0

    def start(self) -> Evidence:
        """Give the evidence before any data: 1, that is none."""
        return Evidence(logs=(math.log1p(-self.kept_back),) * len(self.weights), spare=self.kept_back)

    def log_mean(self, logs: Sequence[float]) -> float:
        """Compute log of the weighted mean of exp(logs)."""
        highest = max(logs)
        return highest + math.log(
            sum(weight * math.exp(log - highest) for weight, log in zip(self.weights, logs, strict=True))
        )

    def value(self, evidence: Evidence) -> float:
        """Give the natural logarithm of the e-process: 0 is none, log(1/alpha) decides."""
        mixed = self.log_mean(evidence.logs)
        if evidence.spare <= 0:
            return mixed
        return _log_add(mixed, math.log(evidence.spare))

    def advance(self, evidence: Evidence, log_ratios: Sequence[float], seconds: float) -> Evidence:
        """Multiply the ratios of one tick in.

        Args:
            evidence: as it stood before the tick.
            log_ratios: log-likelihood ratio of each alternative, nats; all 0 when the tick tells nothing.
            seconds: length of the tick, at least 0.
        """
        logs: Sequence[float] = evidence.logs
        if any(log_ratios):
            cap = CAP * (1 + evidence.streak)
            logs = [log + min(ratio, cap) for log, ratio in zip(logs, log_ratios, strict=True)]
        pointing = any(log_ratios) and self.log_mean(log_ratios) > 0
        age = evidence.seconds + seconds
        spare = evidence.spare
        if self.kept_back > 0:
            restarts = age // RESTART_SECONDS
            left = self.kept_back * _RESTART_HALVES / (_RESTART_HALVES + restarts)
            if left < spare:
                put_in = math.log(spare - left)
                logs = [_log_add(log, put_in) for log in logs]
                spare = left
        return Evidence(
            logs=tuple(logs),
            spare=spare,
            seconds=age,
            streak=min(evidence.streak + 1, _LONGEST_STREAK) if pointing else 0,
        )


def _log_add(a: float, b: float) -> float:
    high, low = (a, b) if a >= b else (b, a)
    return high + math.log1p(math.exp(low - high))
