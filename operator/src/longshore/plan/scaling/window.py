"""The last minute or so, one entry a tick: averages over the stable and the panic window."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MAX_ENTRIES = 64

_POISSON_LIKE = 1.75
"""Below this the estimate cannot be told from Poisson arrivals: its own spread over 30 ticks is about 0.4."""


@dataclass(frozen=True)
class Tick:
    """What all pods did in `seconds` that ended at `at`; rates are scaled up where pods were not seen.

    Gauges are means over pods times their number; None: no pod reports it.
    """

    at: float
    seconds: float
    coverage: float
    """Share of ready pods that were seen, 0 to 1."""
    arrivals: float = 0.0
    requests: float = 0.0
    executions: float = 0.0
    queue_seconds: float = 0.0
    slow: float = 0.0
    judged: float = 0.0
    """Requests of which is known whether they were slow."""
    concurrency: float | None = None
    pending: float | None = None
    streams: float | None = None
    cpu: float | None = None
    gpu: float | None = None
    ready: int = 0


@dataclass(frozen=True)
class Averages:
    """A window's means. Rates are per second, times in seconds."""

    seconds: float
    coverage: float
    rate: float
    requests: float
    queue_time: float | None
    slow_share: float | None
    judged: float
    concurrency: float | None
    pending: float | None
    streams: float | None
    cpu: float | None
    gpu: float | None
    ready: float


def append(entries: tuple[Tick, ...], tick: Tick, window: float) -> tuple[Tick, ...]:
    """Add a tick and drop what is older than the window; entries stay bounded by merging."""
    kept = [e for e in entries if e.at > tick.at - window - 1e-9]
    width = window / (MAX_ENTRIES - 2)
    if kept and kept[-1].seconds + tick.seconds <= width:
        kept[-1] = _merge(kept[-1], tick)
    else:
        kept.append(tick)
    return tuple(kept[-MAX_ENTRIES:])


def averages(entries: Sequence[Tick], now: float, window: float) -> Averages | None:
    """Average what ended within `window` seconds before `now`; None when nothing did."""
    chosen = [e for e in entries if e.at > now - window - 1e-9]
    span = sum(e.seconds for e in chosen)
    if span <= 0:
        return None
    requests = sum(e.requests for e in chosen)
    judged = sum(e.judged for e in chosen)
    return Averages(
        seconds=span,
        coverage=sum(e.coverage * e.seconds for e in chosen) / span,
        rate=sum(e.arrivals for e in chosen) / span,
        requests=requests,
        queue_time=sum(e.queue_seconds for e in chosen) / requests if requests > 0 else None,
        slow_share=sum(e.slow for e in chosen) / judged if judged > 0 else None,
        judged=judged,
        concurrency=_mean(chosen, "concurrency"),
        pending=_mean(chosen, "pending"),
        streams=_mean(chosen, "streams"),
        cpu=_mean(chosen, "cpu"),
        gpu=_mean(chosen, "gpu"),
        ready=sum(e.ready * e.seconds for e in chosen) / span,
    )


def dispersion(entries: Sequence[Tick]) -> float:
    """Estimate how much burstier than Poisson arrivals are: variance over mean of counts, 1 to 8.

    Differences of neighbours are used, so that a rising or falling load does not count as burstiness
    (von Neumann's mean square successive difference), and their median, so that one step does not either:
    the median of a squared standard normal is 0.4549.
    """
    chosen = [e for e in entries if e.coverage > 0 and e.seconds > 0]
    if len(chosen) < 8:
        return 1.0
    width = sum(e.seconds for e in chosen) / len(chosen)
    counts = [e.arrivals * width / e.seconds for e in chosen]
    mean = sum(counts) / len(counts)
    if mean <= 0:
        return 1.0
    squares = median((b - a) ** 2 for a, b in itertools.pairwise(counts))
    value = squares / (2 * 0.4549) / mean
    return 1.0 if value < _POISSON_LIKE else min(value, 8.0)


def trend(entries: Sequence[Tick], now: float) -> tuple[float, float, float]:
    """Fit a line through the rates.

    Returns:
        The line's value at `now`, its slope per second and the slope's standard error; the error is
        infinite where too little was seen.
    """
    chosen = [e for e in entries if e.coverage > 0 and e.seconds > 0]
    if len(chosen) < 8:
        return 0.0, 0.0, math.inf
    times = [e.at - e.seconds / 2 - now for e in chosen]
    rates = [e.arrivals / e.seconds for e in chosen]
    count = len(chosen)
    mean_time, mean_rate = sum(times) / count, sum(rates) / count
    spread = sum((t - mean_time) ** 2 for t in times)
    if spread <= 0:
        return mean_rate, 0.0, math.inf
    slope = sum((t - mean_time) * (r - mean_rate) for t, r in zip(times, rates, strict=True)) / spread
    level = mean_rate - slope * mean_time
    squares = sum((r - level - slope * t) ** 2 for t, r in zip(times, rates, strict=True))
    return level, slope, math.sqrt(squares / (count - 2) / spread) + 1e-12


def _merge(a: Tick, b: Tick) -> Tick:
    span = a.seconds + b.seconds

    def mean(x: float | None, y: float | None) -> float | None:
        if x is None or y is None:
            return x if y is None else y
        return (x * a.seconds + y * b.seconds) / span

    return Tick(
        at=b.at,
        seconds=span,
        coverage=(a.coverage * a.seconds + b.coverage * b.seconds) / span,
        arrivals=a.arrivals + b.arrivals,
        requests=a.requests + b.requests,
        executions=a.executions + b.executions,
        queue_seconds=a.queue_seconds + b.queue_seconds,
        slow=a.slow + b.slow,
        judged=a.judged + b.judged,
        concurrency=mean(a.concurrency, b.concurrency),
        pending=mean(a.pending, b.pending),
        streams=mean(a.streams, b.streams),
        cpu=mean(a.cpu, b.cpu),
        gpu=mean(a.gpu, b.gpu),
        ready=b.ready,
    )


def _mean(entries: Sequence[Tick], name: str) -> float | None:
    known = [(value, e.seconds) for e in entries if (value := getattr(e, name)) is not None]
    span = sum(seconds for _, seconds in known)
    return sum(value * seconds for value, seconds in known) / span if span > 0 else None
