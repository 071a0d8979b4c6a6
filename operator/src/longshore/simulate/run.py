"""One replay: a trace, a kind of pod and a scaler in; what clients and the bill saw out."""

import math
from collections import deque
from dataclasses import dataclass
from random import Random

from longshore.simulate.pods import PodModel, SimulatedPod
from longshore.simulate.scalers import Scaler, View
from longshore.simulate.trace import Trace

STEP = 1.0
"""Seconds between moves of the simulation; decisions fall on it."""

JUDGED = 10.0
"""The objective is judged over intervals of this many seconds."""

MAX_EVENTS = 10_000


@dataclass(frozen=True)
class ScaleEvent:
    """A change of the number of pods wanted."""

    at: float
    before: int
    after: int
    reason: str


@dataclass(frozen=True)
class Interval:
    """What happened in `JUDGED` seconds from `at`; `latency` is the percentile, None without requests."""

    at: float
    requests: int
    lost: int
    latency: float | None
    wanted: int
    ready: int


@dataclass(frozen=True)
class Result:
    """One replay."""

    name: str
    requests: int
    lost: int
    p50: float
    p95: float
    p99: float
    longest: float
    held_share: float
    """Share of intervals with traffic in which the percentile was within the objective and nothing lost."""
    pod_seconds: float
    peak: int
    events: tuple[ScaleEvent, ...]
    intervals: tuple[Interval, ...]

    @property
    def mean_pods(self) -> float:
        """Pods on average."""
        span = len(self.intervals) * JUDGED
        return self.pod_seconds / span if span else 0.0


def replay(
    trace: Trace,
    model: PodModel,
    scaler: Scaler,
    *,
    objective: float,
    percentile: float = 0.95,
    start: int = 1,
    seed: int = 1,
) -> Result:
    """Replay a trace.

    Args:
        trace: when requests come.
        model: what pods are like.
        scaler: who decides.
        objective: latency in seconds that the percentile is held to.
        percentile: of latency, judged over each interval.
        start: pods that are ready at the beginning.
        seed: the same gives the same result.
    """
    random = Random(seed)  # noqa: S311 - a simulation, no secret
    arrivals = trace.arrivals(seed)
    upcoming = next(arrivals, math.inf)
    pods = [SimulatedPod(f"pod-{i}", model, -model.startup, random) for i in range(start)]
    draining: list[SimulatedPod] = []
    made = start
    held: deque[float] = deque()
    done: list[tuple[float, float]] = []
    lost: list[float] = []
    events: list[ScaleEvent] = []
    counts: list[tuple[int, int]] = []
    pod_seconds = 0.0
    peak = start
    since_look = 0
    next_look = 0.0
    now = 0.0
    end = math.ceil(trace.seconds / STEP) * STEP
    tail = end + 120.0
    while now < end or ((held or any(p.waiting for p in pods)) and now < tail):
        until = now + STEP
        ready = [pod for pod in pods if pod.ready(now)]
        while held and ready:
            arrived = held.popleft()
            if not random.choice(ready).offer(arrived, now):
                lost.append(arrived)
        while upcoming < until:
            since_look += 1
            if ready:
                pod = ready[int(random.random() * len(ready))]
                if not pod.offer(upcoming, upcoming):
                    lost.append(upcoming)
            elif scaler.holds:
                held.append(upcoming)
            else:
                lost.append(upcoming)
            upcoming = next(arrivals, math.inf)
        for pod in ready:
            pod.run(until, done)
        for pod in draining:
            pod.run(until, done)
        if now < end:
            pod_seconds += (len(pods) + len(draining)) * STEP
        counts.append((len(pods), len(ready)))
        now = until
        draining = [pod for pod in draining if not pod.idle(now)]
        woken = scaler.holds and held and not pods
        if now >= next_look or woken:
            next_look = now + scaler.interval
            for pod in pods:
                pod.settle(now)
            wanted, reason = scaler.decide(View(now, tuple(pods), len(held), since_look))
            since_look = 0
            if wanted != len(pods) and len(events) < MAX_EVENTS:
                events.append(ScaleEvent(now, len(pods), wanted, reason))
            while len(pods) < wanted:
                pods.append(SimulatedPod(f"pod-{made}", model, now, random))
                made += 1
            while len(pods) > wanted:
                # Pods that are not ready go first, then the youngest, as a ReplicaSet does.
                pod = max(pods, key=lambda p: p.ready_at)
                pods.remove(pod)
                pod.stopping_at = now
                if pod.ready_at <= now:
                    draining.append(pod)
            peak = max(peak, len(pods))
    lost += held
    return _summary(scaler.name, end, done, lost, events, counts, pod_seconds, peak, objective, percentile)


def _summary(
    name: str,
    end: float,
    done: list[tuple[float, float]],
    lost: list[float],
    events: list[ScaleEvent],
    counts: list[tuple[int, int]],
    pod_seconds: float,
    peak: int,
    objective: float,
    percentile: float,
) -> Result:
    size = max(1, math.ceil(end / JUDGED))
    buckets: list[list[float]] = [[] for _ in range(size)]
    losses = [0] * size
    for arrived, latency in done:
        buckets[min(int(arrived / JUDGED), size - 1)].append(latency)
    for arrived in lost:
        losses[min(int(arrived / JUDGED), size - 1)] += 1
    intervals: list[Interval] = []
    good = judged = 0
    for index, latencies in enumerate(buckets):
        latencies.sort()
        value = quantile(latencies, percentile)
        wanted, ready = counts[min(int(index * JUDGED / STEP), len(counts) - 1)]
        intervals.append(
            Interval(index * JUDGED, len(latencies) + losses[index], losses[index], value, wanted, ready)
        )
        if latencies or losses[index]:
            judged += 1
            good += losses[index] == 0 and value is not None and value <= objective
    everything = sorted(latency for _, latency in done)
    return Result(
        name=name,
        requests=len(done) + len(lost),
        lost=len(lost),
        p50=quantile(everything, 0.5) or 0.0,
        p95=quantile(everything, 0.95) or 0.0,
        p99=quantile(everything, 0.99) or 0.0,
        longest=everything[-1] if everything else 0.0,
        held_share=good / judged if judged else 1.0,
        pod_seconds=pod_seconds,
        peak=peak,
        events=tuple(events),
        intervals=tuple(intervals),
    )


def quantile(ordered: list[float], share: float) -> float | None:
    """Give the smallest value that `share` of the sorted values do not exceed; None of nothing."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]
