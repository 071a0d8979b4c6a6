"""Bursts that come again: what load does while new pods start, learned, so that room is kept for it.

One burst teaches nothing: a step may never come back, and keeping room for it would be an overshoot.
"""

import math
from dataclasses import dataclass, replace

from longshore.plan.scaling.window import Averages

_SIGMA = 4.5
"""The panic window counts when its requests exceed what the rest of the stable window expects by this many
standard deviations: with a look every 2 s, Poisson noise does so less than once in a week."""

_REMEMBERED = 8
_MEMORY_SECONDS = 7200.0
_RECURRING = 2
_MOST_GROWTH = 3.0


@dataclass(frozen=True)
class Surge:
    """A burst: when it was noticed, the rate before it, and the highest while pods would start."""

    at: float
    before: float
    peak: float

    @property
    def growth(self) -> float:
        """Give how many times the load grew."""
        return min(max(self.peak / max(self.before, 1e-9), 1.0), _MOST_GROWTH)


@dataclass(frozen=True)
class Surges:
    """The last bursts, and the one that is being followed."""

    known: tuple[Surge, ...] = ()
    open: Surge | None = None
    surging_until: float = 0.0

    def follow(self, now: float, before: float | None, rate: float, horizon: float) -> "Surges":
        """Take in a look: `before` is the rate before a burst, None when there is none; seconds."""
        current = self.open
        if current is not None:
            current = replace(current, peak=max(current.peak, rate))
            if now - current.at >= horizon:
                return Surges((*self.known, current)[-_REMEMBERED:], None, now)
            return replace(self, open=current)
        if before is None:
            return self
        if now - self.surging_until < 2 * horizon:
            return replace(self, surging_until=now)
        return replace(self, open=Surge(now, before, rate), surging_until=now)

    def room(self, now: float, rate: float) -> float:
        """Give the rate to be ready for at the present `rate`: what recurring bursts would make of it."""
        recent = [s for s in self.known if 0 <= now - s.at <= _MEMORY_SECONDS]
        if len(recent) < _RECURRING:
            return rate
        growths = sorted(s.growth for s in recent)
        return max(rate, min(rate * growths[(3 * len(growths)) // 4], max(s.peak for s in recent)))


def rate_before(stable: Averages, recent: Averages, dispersion: float) -> float | None:
    """Give the rate before a burst, None when the panic window holds no more than chance brings."""
    before_seconds = stable.seconds - recent.seconds
    if before_seconds <= 0:
        return None
    before = max(stable.rate * stable.seconds - recent.rate * recent.seconds, 0.0) / before_seconds
    expected = before * recent.seconds
    # Both counts are noisy; a handful of requests after silence is no surge of a busy model.
    deviation = math.sqrt(dispersion * max(expected * (1 + recent.seconds / before_seconds), 4.0))
    return before if recent.rate * recent.seconds - expected > _SIGMA * deviation else None
