"""Load that repeats: seasonal exponential smoothing with its own error measured all along.

A multiplicative Holt-Winters without trend (P. R. Winters, Forecasting Sales by Exponentially Weighted
Moving Averages, Management Science 6(3), 1960): a mean rate for each part of the season, times how much
today differs from the usual.
"""

from dataclasses import dataclass, replace

MAX_BINS = 168
"""Parts of a season: a quarter of an hour in a day, an hour in a week."""

_SEASON_GAIN = 0.3
_LEVEL_GAIN = 0.2
_ERROR_GAIN = 0.05
USABLE_ERROR = 0.5
"""A forecast that is off by more than this share on average is told but not followed."""


@dataclass(frozen=True)
class Seasonal:
    """State of one forecast. `bins` holds requests per second, -1 where nothing was seen."""

    period: float
    bins: tuple[float, ...]
    level: float = 1.0
    error: float = 1.0
    """Mean absolute error over mean load, 0 is perfect."""
    judged: int = 0
    open_bin: int = -1
    open_sum: float = 0.0
    open_seconds: float = 0.0

    @property
    def width(self) -> float:
        """Length of one bin in seconds."""
        return self.period / len(self.bins)

    @property
    def usable(self) -> bool:
        """Whether forecasts have been good enough, over at least a quarter of a season, to act on."""
        return self.judged >= len(self.bins) // 4 and self.error <= USABLE_ERROR

    def index(self, at: float) -> int:
        """Give the bin of a moment (seconds since the epoch)."""
        return int(at % self.period / self.width) % len(self.bins)

    def add(self, at: float, seconds: float, rate: float) -> "Seasonal":
        """Take in the mean rate of the `seconds` that ended at `at`."""
        index = self.index(at)
        if index == self.open_bin:
            return self._with(
                open_sum=self.open_sum + rate * seconds, open_seconds=self.open_seconds + seconds
            )
        closed = self._close()
        return closed._with(open_bin=index, open_sum=rate * seconds, open_seconds=seconds)

    def at(self, moment: float) -> float | None:
        """Forecast the rate at `moment`, between the bins around it; None where nothing was ever seen."""
        position = moment % self.period / self.width - 0.5
        low = int(position // 1) % len(self.bins)
        share = position % 1
        a, b = self.bins[low], self.bins[(low + 1) % len(self.bins)]
        if a < 0 or b < 0:
            return None if max(a, b) < 0 else max(a, b) * self.level
        return (a * (1 - share) + b * share) * self.level

    def _close(self) -> "Seasonal":
        """Learn from the bin that ended; one seen for less than half of its time teaches nothing."""
        if self.open_bin < 0 or self.open_seconds < self.width / 2:
            return self
        rate = self.open_sum / self.open_seconds
        old = self.bins[self.open_bin]
        if old < 0:
            return self._with(bins=self._replaced(rate))
        expected = old * self.level
        miss = min(abs(rate - expected) / max(rate, expected, 1e-9), 1.0)
        error = miss if self.judged == 0 else self.error + _ERROR_GAIN * (miss - self.error)
        level = self.level
        if old > 1e-9:
            level = min(max(level + _LEVEL_GAIN * (rate / old - level), 0.25), 4.0)
        return self._with(
            bins=self._replaced(old + _SEASON_GAIN * (rate - old)),
            level=level,
            error=error,
            judged=min(self.judged + 1, 10**6),
        )

    def _replaced(self, rate: float) -> tuple[float, ...]:
        return (*self.bins[: self.open_bin], float(f"{rate:.4g}"), *self.bins[self.open_bin + 1 :])

    def _with(self, **changes: object) -> "Seasonal":
        return replace(self, **changes)  # type: ignore[arg-type]


def seasonal(period: float) -> Seasonal:
    """Begin a forecast for a season of `period` seconds."""
    bins = min(MAX_BINS, max(24, int(period // 900)))
    if bins == MAX_BINS:
        bins = max(24, min(MAX_BINS, int(period // 3600)))
    return Seasonal(period=period, bins=(-1.0,) * bins)
