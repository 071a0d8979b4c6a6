"""From counters to what happened since the last look, with every way a counter can lie."""

import math
from dataclasses import dataclass

from longshore.plan.scaling.inputs import PodSample, clean

MAX_RATE = 1e6
"""Requests per second that no pod answers: a counter that rose faster was not counting."""

COUNTERS = (
    "requests",
    "succeeded",
    "executions",
    "rows",
    "queue_seconds",
    "compute_seconds",
    "request_seconds",
    "slow",
    "cpu_seconds",
)


@dataclass(frozen=True)
class Baseline:
    """A pod's counters at the last look."""

    pod: str
    at: float
    requests: float | None = None
    succeeded: float | None = None
    executions: float | None = None
    rows: float | None = None
    queue_seconds: float | None = None
    compute_seconds: float | None = None
    request_seconds: float | None = None
    slow: float | None = None
    cpu_seconds: float | None = None
    pending: float | None = None


@dataclass(frozen=True)
class Delta:
    """What one pod did between two looks, `seconds` apart. None: the server does not count it."""

    revision: str
    seconds: float
    requests: float
    succeeded: float
    arrivals: float
    executions: float | None
    rows: float | None
    queue_seconds: float | None
    compute_seconds: float | None
    request_seconds: float | None
    slow: float | None
    cpu_seconds: float | None


def baseline_of(sample: PodSample) -> Baseline:
    """Keep what the next look needs."""
    values = {name: clean(getattr(sample, name)) for name in COUNTERS}
    return Baseline(sample.pod, sample.at, pending=clean(sample.pending), **values)


def broken(sample: PodSample) -> tuple[str, ...]:
    """Name the values of a sample that are no numbers of their kind: NaN, infinite or negative."""
    names = (*COUNTERS, "pending", "in_flight", "open_streams", "gpu_percent", "workers")
    return tuple(
        f"{name}={value:g}"
        for name in names
        if (value := getattr(sample, name)) is not None and clean(value) is None
    )


def difference(before: Baseline, sample: PodSample) -> tuple[Delta | None, str]:
    """Compare a sample with the last look at the same pod.

    Returns:
        What happened, or None with the reason: nothing new was read, a counter fell (the server restarted
        or lied; the next look compares with the new value), or rose faster than anything counts.
    """
    elapsed = sample.at - before.at
    if elapsed <= 0:
        return None, "nothing new was read"
    now = baseline_of(sample)
    if now.requests is None:
        return None, "it does not say how many requests it answered"
    if before.requests is None:
        return None, "it was not counted before"
    changes: dict[str, float | None] = {}
    for name in COUNTERS:
        old, new = getattr(before, name), getattr(now, name)
        if old is None or new is None:
            changes[name] = None
            continue
        # Sums of floating-point seconds may wobble in their last digit.
        if new < old - 1e-9 * max(old, 1.0):
            return None, f"its counter {name} fell from {old:g} to {new:g}"
        changes[name] = max(new - old, 0.0)
    requests = changes["requests"] or 0.0
    if requests > MAX_RATE * elapsed:
        return None, f"its counter of requests rose by {requests:g} in {elapsed:.1f} s"
    arrivals = requests
    if before.pending is not None and now.pending is not None:
        arrivals = max(requests + now.pending - before.pending, 0.0)
    slow = changes["slow"]
    succeeded = changes["succeeded"]
    return (
        Delta(
            revision=sample.revision,
            seconds=elapsed,
            requests=requests,
            succeeded=requests if succeeded is None else min(succeeded, requests),
            arrivals=arrivals,
            executions=changes["executions"],
            rows=changes["rows"],
            queue_seconds=changes["queue_seconds"],
            compute_seconds=changes["compute_seconds"],
            request_seconds=changes["request_seconds"],
            slow=None if slow is None else min(slow, requests),
            cpu_seconds=changes["cpu_seconds"],
        ),
        "",
    )


def total(values: list[float | None]) -> float | None:
    """Sum what is known, None when nothing is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) if known else None
