"""Simulated pods: start-up, a queue, runs of batches, and the counters that a real pod would show."""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from random import Random

from longshore.plan.scaling.inputs import PodSample
from longshore.plan.scaling.queueing import ServiceCurve


@dataclass(frozen=True)
class PodModel:
    """What a simulated pod is like."""

    curve: ServiceCurve
    startup: float = 10.0
    """Seconds from creation to readiness."""
    queue: int = 1000
    """Requests that may wait; more are refused."""
    objective: float | None = None


class SimulatedPod:
    """One pod. Time is given to it; it never goes back."""

    def __init__(self, name: str, model: PodModel, created: float, random: Random) -> None:
        self.name = name
        self.created = created
        self.ready_at = created + model.startup
        self.stopping_at: float | None = None
        self._model = model
        self._random = random
        self._queue: list[float] = []
        self._arrived: list[float] = []
        self._head = 0
        self._free = [self.ready_at] * model.curve.workers
        self._running: deque[tuple[float, int, float, float, int]] = deque()
        self.requests = self.executions = self.refused = 0
        self.queue_seconds = self.busy_seconds = self.request_seconds = 0.0
        self.slow = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue) - self._head

    def ready(self, now: float) -> bool:
        """Whether it takes requests."""
        return self.ready_at <= now and self.stopping_at is None

    def offer(self, arrived: float, usable_from: float) -> bool:
        """Queue a request that came at `arrived` and reached the pod at `usable_from`; False: refused."""
        if len(self._queue) - self._head >= self._model.queue:
            self.refused += 1
            return False
        self._queue.append(usable_from)
        self._arrived.append(arrived)
        return True

    def run(self, until: float, done: list[tuple[float, float]]) -> None:
        """Run what starts before `until`; appends (arrived, latency) to `done`."""
        model, curve, queue, came = self._model, self._model.curve, self._queue, self._arrived
        base, each, most = curve.base, curve.per_request, curve.max_batch
        sigma2 = curve.variance
        head, size = self._head, len(queue)
        objective = model.objective
        while head < size:
            worker = 0
            if len(self._free) > 1:
                worker = min(range(len(self._free)), key=self._free.__getitem__)
            first = queue[head]
            start = max(self._free[worker], first)
            if start >= until:
                break
            end_index = min(bisect_right(queue, start, head, size), head + most)
            count = end_index - head
            time = base + each * count
            if sigma2 > 0:
                time *= self._random.gammavariate(1 / sigma2, sigma2)
            end = start + time
            self._free[worker] = end
            waited, total, slow = 0.0, 0.0, 0
            for i in range(head, end_index):
                arrived = came[i]
                latency = end - arrived
                waited += start - arrived
                total += latency
                if objective is not None and latency > objective:
                    slow += 1
                done.append((arrived, latency))
            self._running.append((end, count, time, waited, slow))
            self.request_seconds += total
            head = end_index
        if head > 4096:
            del queue[:head]
            del came[:head]
            head = 0
        self._head = head

    def settle(self, now: float) -> None:
        """Count what has ended by `now`."""
        running = self._running
        kept: deque[tuple[float, int, float, float, int]] = deque()
        for entry in running:
            end, count, time, waited, slow = entry
            if end <= now:
                self.requests += count
                self.executions += 1
                self.busy_seconds += time
                self.queue_seconds += waited
                self.slow += slow
            else:
                kept.append(entry)
        self._running = kept

    def idle(self, now: float) -> bool:
        """Whether nothing runs or waits."""
        return not self.waiting and all(entry[0] <= now for entry in self._running)

    def cpu_seconds(self, now: float) -> float:
        """Processor time used until `now`, runs under way included."""
        part = sum(max(0.0, entry[2] - (entry[0] - now)) for entry in self._running if entry[0] > now)
        return self.busy_seconds + part

    def sample(self, now: float) -> PodSample:
        """Show what a scrape would."""
        in_flight = sum(entry[1] for entry in self._running) + self.waiting
        return PodSample(
            pod=self.name,
            revision="simulated",
            at=now,
            requests=float(self.requests + self.refused),
            succeeded=float(self.requests),
            executions=float(self.executions),
            rows=float(self.requests),
            queue_seconds=self.queue_seconds,
            compute_seconds=self.busy_seconds,
            slow=None if self._model.objective is None else float(self.slow),
            cpu_seconds=self.cpu_seconds(now),
            pending=float(self.waiting),
            in_flight=float(in_flight),
            open_streams=0.0,
            workers=float(self._model.curve.workers),
        )
