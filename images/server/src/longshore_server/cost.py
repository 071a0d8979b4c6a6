"""How long a batch takes, t(rows) = a + b * rows, measured while serving."""

# Weight of the past at each observation: about the last hundred batches count.
_MEMORY = 0.99
# Below this spread of batch sizes (variance in rows^2) the slope cannot be told from noise.
_MIN_SPREAD = 0.05


class CostModel:
    """Weighted least squares of run time in seconds over rows, forgetting old batches exponentially."""

    __slots__ = ("_n", "_t", "_x", "_xt", "_xx", "fixed", "per_row")

    def __init__(self, fixed: float = 0.0, per_row: float = 0.0) -> None:
        """Begin with a guess: `fixed` seconds a batch and `per_row` seconds a row."""
        self.fixed = fixed
        self.per_row = per_row
        self._n = self._x = self._t = self._xx = self._xt = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one batch.

        A run far above expectation (a pause of the machine) is clipped, not believed.
        """
        if self._n >= 5:
            seconds = min(seconds, 4 * self.predict(rows) + 1e-6)
        self._n = _MEMORY * self._n + 1
        self._x = _MEMORY * self._x + rows
        self._t = _MEMORY * self._t + seconds
        self._xx = _MEMORY * self._xx + rows * rows
        self._xt = _MEMORY * self._xt + rows * seconds
        mean_x, mean_t = self._x / self._n, self._t / self._n
        spread = self._xx / self._n - mean_x * mean_x
        if spread > _MIN_SPREAD:
            slope = (self._xt / self._n - mean_x * mean_t) / spread
            self.per_row = min(max(slope, 0.0), mean_t / mean_x)
        else:
            self.per_row = min(self.per_row, mean_t / mean_x)
        self.fixed = max(mean_t - self.per_row * mean_x, 0.0)

    def predict(self, rows: int) -> float:
        """Seconds that a batch of `rows` is expected to take."""
        return self.fixed + self.per_row * rows

    def best_rows(self, objective: float, most: int) -> int:
        """The largest batch worth running together under a latency objective in seconds.

        A request may arrive just after a batch has started, so it waits for one batch and rides in the next:
        a batch may take half the objective. A model slower than that alone gets batches that at most double
        its time. When rows cost as much together as alone, batching only adds latency and copies: one at a
        time.
        """
        alone = self.predict(1)
        if alone <= 0:
            return most
        if self.fixed < 0.03 * alone:
            return 1
        budget = max(objective / 2, 2 * alone)
        rows = int((budget - self.fixed) / self.per_row) if self.per_row > 0 else most
        return max(1, min(rows, most))
