"""Learning t(B) = a + bB from what pods report: weighted least squares that forgets."""

from dataclasses import dataclass

from longshore.plan.scaling.queueing import ServiceCurve

_FORGET = 0.998
"""Share kept a tick: with a tick of 2 s, half of what is known is younger than 12 minutes."""
_MAX_WEIGHT = 1000.0
_PRIOR_VARIANCE = 0.2
"""Until it is measured: a run of a model varies little, but a busy node makes it vary."""

_MIN_TICKS = 8.0


@dataclass(frozen=True)
class CurveFit:
    """Sums of weighted least squares over ticks; the weight is the number of runs in a tick.

    `b` is requests per run and `t` seconds per run, both means over a tick.
    """

    ticks: float = 0.0
    w: float = 0.0
    wb: float = 0.0
    wbb: float = 0.0
    wt: float = 0.0
    wbt: float = 0.0
    wtt: float = 0.0

    def add(self, batch: float, time: float, runs: float) -> "CurveFit":
        """Take in one tick."""
        w = min(runs, _MAX_WEIGHT)
        keep = _FORGET
        return CurveFit(
            self.ticks * keep + 1,
            self.w * keep + w,
            self.wb * keep + w * batch,
            self.wbb * keep + w * batch * batch,
            self.wt * keep + w * time,
            self.wbt * keep + w * batch * time,
            self.wtt * keep + w * time * time,
        )

    def curve(
        self, max_batch: float, workers: int, measured: tuple[float, float] | None = None
    ) -> ServiceCurve | None:
        """Give the curve that fits best, None before anything ran.

        Args:
            max_batch: most requests in a run.
            workers: runs that go on at once in a pod.
            measured: (base, per request) in seconds from elsewhere; gives the shape as long as what was
                seen does not, scaled to the times seen.

        While all runs had the same size nothing is known about larger ones, and a run is taken to cost as
        much more as it holds more: pods are then found too many rather than too few.
        """
        size = max(1, int(max_batch))
        if self.w <= 0 or self.wt <= 0:
            return None if measured is None else ServiceCurve(*measured, size, _PRIOR_VARIANCE, workers)
        batch, time = self.wb / self.w, self.wt / self.w
        spread = max(self.wbb / self.w - batch * batch, 0.0)
        known = self.ticks >= _MIN_TICKS or measured is not None
        if self.ticks >= _MIN_TICKS and spread > (0.1 * batch) ** 2:
            slope = min(max((self.wbt / self.w - batch * time) / spread, 0.0), time / batch)
        elif measured is not None and measured[0] + measured[1] * batch > 0:
            slope = time * measured[1] / (measured[0] + measured[1] * batch)
        else:
            slope, known = time / batch, known and size == 1
        base = max(time - slope * batch, 0.0)
        return ServiceCurve(base, slope, size, self._variance(base, slope, time), workers, known)

    def _variance(self, base: float, slope: float, time: float) -> float:
        """Give the squared coefficient of variation of one run.

        A tick's mean over n runs varies n times less than a run, which its weight n undoes.
        """
        if self.ticks < _MIN_TICKS:
            return _PRIOR_VARIANCE
        squares = (
            self.wtt
            - 2 * base * self.wt
            - 2 * slope * self.wbt
            + base * base * self.w
            + 2 * base * slope * self.wb
            + slope * slope * self.wbb
        )
        return min(max(squares / self.ticks / (time * time), 0.02), 4.0)
