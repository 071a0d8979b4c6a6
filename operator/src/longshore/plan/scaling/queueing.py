"""How long requests wait in a pod that runs them in batches, and how many pods an objective needs.

Load balancers spread connections over pods without looking at queues, so each pod is its own queue.

Sources:
- Wait in a GI/G/c queue: A. O. Allen, Probability, Statistics and Queueing Theory with Computer Science
  Applications, 2nd ed. 1990, section 5.3 (the Allen-Cunneen approximation): Wq = C(c, rho) / (c mu (1 - rho))
  * (ca2 + cs2) / 2, C being Erlang's delay formula. For c = 1 and Poisson arrivals it is exact
  (Pollaczek-Khinchine).
- Batches with run time t(B) = a + bB that take what waits, up to a bound: Y. Inoue, Queueing analysis of
  GPU-based inference servers with dynamic batching, Performance Evaluation 147 (2021), 102183: at rate x
  the mean batch settles where it holds what arrived during one run, B = x t(B), so B = xa / (1 - xb).
- Quantiles: the wait of those who wait is taken as exponential beyond one run, its heavy-traffic limit
  (J. F. C. Kingman, 1962); within one run the residual is taken as uniform.
"""

import math
from dataclasses import dataclass


def erlang_c(servers: int, utilization: float) -> float:
    """Give the probability that an arrival waits in M/M/c (Erlang's delay formula).

    Args:
        servers: c, at least 1.
        utilization: load per server; below 0 counts as 0, from 1 on everyone waits.
    """
    if utilization <= 0:
        return 0.0
    if utilization >= 1:
        return 1.0
    offered = servers * utilization
    blocking = 1.0
    for k in range(1, servers + 1):
        blocking = offered * blocking / (k + offered * blocking)
    return blocking / (1 - utilization * (1 - blocking))


@dataclass(frozen=True)
class ServiceCurve:
    """What a pod can do: run time of a batch of B requests, t(B) = base + per_request * B, in seconds.

    `variance` is the squared coefficient of variation of a run's time; `workers` runs go on at once.
    """

    base: float
    per_request: float
    max_batch: int = 1
    variance: float = 1.0
    workers: int = 1
    known: bool = True
    """Whether the shape was measured; if not, larger batches are taken to gain nothing."""

    def run_time(self, batch: float) -> float:
        """Give the mean time of one run in seconds."""
        return self.base + self.per_request * batch

    @property
    def capacity(self) -> float:
        """Requests per second that a pod can answer at most."""
        return self.workers * self.max_batch / max(self.run_time(self.max_batch), 1e-9)

    def batch_at(self, rate: float) -> float:
        """Give the mean batch that settles at `rate` requests per second."""
        per_worker = rate / self.workers
        room = 1 - per_worker * self.per_request
        if room <= 0:
            return float(self.max_batch)
        return min(max(per_worker * self.base / room, 1.0), float(self.max_batch))

    def wait(self, rate: float, arrival_variance: float = 1.0) -> tuple[float, float]:
        """Give the mean wait before a run in seconds, in two parts.

        The first part is the rest of the run that goes on at arrival, the second the queue beyond it;
        infinite when `rate` reaches the capacity.
        """
        load = rate / self.capacity
        if load >= 1:
            return math.inf, math.inf
        batch = self.batch_at(rate)
        time = self.run_time(batch)
        busy = erlang_c(self.workers, rate * time / (batch * self.workers))
        residual = busy * time / self.workers * (1 + self.variance) / 2
        # Arrivals gathered in full batches are as much steadier as the batch is large.
        spread = (arrival_variance / self.max_batch + self.variance) / 2
        queue = busy * load / (1 - load) * self.run_time(self.max_batch) / self.workers * spread
        if self.max_batch > 1:
            queue *= load  # a batch that is not full takes the whole queue with it
        return residual, queue

    def latency(self, rate: float, percentile: float, arrival_variance: float = 1.0) -> float:
        """Give a percentile (0.5 to 0.999) of wait plus run in seconds; infinite at capacity."""
        load = rate / self.capacity
        if load >= 1:
            return math.inf
        batch = self.batch_at(rate)
        time = self.run_time(batch)
        busy = erlang_c(self.workers, rate * time / (batch * self.workers))
        rest = 1 - percentile
        residual_mean, queue_mean = self.wait(rate, arrival_variance)
        own = time * (1 + self._service_tail(percentile))
        if busy <= rest:
            return own
        if self.max_batch == 1:
            waiting_mean = (residual_mean + queue_mean) / busy
            wait = waiting_mean * math.log(busy / rest)
            # Run and wait seldom peak together: the larger tail carries the mean of the other.
            return max(time + wait, residual_mean + queue_mean + own)
        residual = time / self.workers * (1 - rest / busy)
        queued = queue_mean / busy * math.log(busy / rest)
        return own + residual + queued

    def _service_tail(self, percentile: float) -> float:
        """Give how far a run's percentile lies above its mean, in means (gamma-like tail)."""
        return math.sqrt(self.variance) * max(0.0, -math.log(1 - percentile) - 1) if self.variance else 0.0

    def rate_within(
        self, objective: float, percentile: float | None, arrival_variance: float, utilization: float
    ) -> float:
        """Give the highest rate per pod, requests per second, that keeps an objective.

        Args:
            objective: seconds.
            percentile: of the latency; None: `objective` bounds the mean wait alone.
            arrival_variance: squared coefficient of variation of arrivals, 1 for Poisson.
            utilization: highest share of the capacity to plan for.

        Returns:
            0.0 when not even an idle pod keeps it.
        """

        def kept(rate: float) -> bool:
            if percentile is None:
                return sum(self.wait(rate, arrival_variance)) <= objective
            return self.latency(rate, percentile, arrival_variance) <= objective

        high = self.capacity * utilization
        if kept(high):
            return high
        low = 0.0
        if not kept(high * 1e-3):
            return 0.0
        for _ in range(24):
            middle = (low + high) / 2
            if kept(middle):
                low = middle
            else:
                high = middle
        return low
