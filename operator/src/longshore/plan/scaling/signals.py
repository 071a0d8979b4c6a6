"""How many pods each signal asks for."""

import math
from dataclasses import dataclass

from longshore.api.scaling import Signal
from longshore.plan.scaling.inputs import External, Target, clean
from longshore.plan.scaling.queueing import ServiceCurve
from longshore.plan.scaling.window import Averages

_TOLERANCE = 0.1
"""Utilization within this share of its target asks for no change, as in an HPA."""

_PLANNED_SHARE = 0.85
"""Planned latency over the objective: load varies within a window more than its average shows."""

_FELT_SECONDS = 10.0
"""Planned is one standard deviation above the mean of what comes in this long."""

_LEAST_TO_PROBE = 3
"""Fewer pods are not lowered to learn: one less would raise the load of the others by half or more."""

EXTERNAL_STALE = 60.0
"""The answer of a Prometheus older than this is not used, in seconds."""


@dataclass(frozen=True)
class Load:
    """What the signals are judged on."""

    rate: float
    """Requests per second to plan for, growth until new pods are ready included."""
    stable: Averages
    recent: Averages
    curve: ServiceCurve | None
    dispersion: float
    ready: int
    correction: float
    recent_window: float
    utilization: float
    now: float


@dataclass(frozen=True)
class Need:
    """Pods asked for (None: the signal could not be read, `problem` says why) and the words for it."""

    pods: float | None
    words: str = ""
    problem: str = ""
    relative: bool = False
    """Whether it was found relative to the pods that run, and so means nothing without any."""
    given: bool = False
    """Whether it was given as a number, and so carries no noise of counted requests."""


def need_of(target: Target, load: Load, external: External | None) -> Need:
    """Judge one target."""
    match target.signal:
        case Signal.LATENCY:
            return _timed(target, load, target.percentile)
        case Signal.QUEUE_TIME:
            return _timed(target, load, None)
        case Signal.REQUESTS_PER_SECOND:
            return Need(load.rate / target.value, f"{_rate(load.rate)}, target {target.value:g} rps a pod")
        case Signal.CONCURRENCY:
            return _concurrent(target, load)
        case Signal.PENDING:
            return _gauge(target, load.recent.pending, "requests pending")
        case Signal.CPU:
            return _busy(target, load, load.stable.cpu, load.recent.cpu, "CPU")
        case Signal.GPU:
            return _gpu(target, load, external)
        case Signal.PROMETHEUS:
            return external_need(target, load.now, external)


def default_need(load: Load) -> Need:
    """Judge without any target: pods are kept busy up to a share of what they can do."""
    if load.curve is None:
        return _unlearned(load)
    capacity = load.curve.capacity
    words = f"{_rate(load.rate)}, a pod can do {capacity:.3g} rps, planned {load.utilization:.0%} busy"
    return Need(load.rate / (capacity * load.utilization), words)


def milliseconds(value: float) -> str:
    """Write a time in seconds for a person."""
    if not math.isfinite(value):
        return "unbounded"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _rate(rate: float) -> str:
    return f"{rate:.3g} rps" if rate < 1000 else f"{rate:.0f} rps"


def _timed(target: Target, load: Load, percentile: float | None) -> Need:
    queue = load.recent.queue_time
    seen = f"{milliseconds(queue)} queue at {_rate(load.rate)}" if queue is not None else _rate(load.rate)
    words = f"{seen}, objective {milliseconds(target.seconds)}"
    if load.rate <= 0:
        return Need(0.0, words)
    if load.curve is None:
        return _unlearned(load)
    # What comes within some seconds varies more than the average of a window shows.
    rate = load.rate * (1 + min(math.sqrt(load.dispersion / max(load.rate * _FELT_SECONDS, 1.0)), 0.5))
    per_pod = load.curve.rate_within(
        target.seconds * _PLANNED_SHARE, percentile, load.dispersion, load.utilization
    )
    if per_pod > 0:
        pods = rate / per_pod * load.correction
        short = load.stable.seconds < load.recent_window
        if load.ready and (short or not load.curve.known):
            pods, words = _while_learning(target, load, load.curve.known, pods, words)
        return Need(pods, words)
    # No number of pods holds it: run at half load, where queueing adds little to the bare run time.
    own = milliseconds(load.curve.latency(0.0, percentile or 0.5))
    return Need(
        load.rate / (load.curve.capacity * 0.5),
        words,
        problem=f"the objective {milliseconds(target.seconds)} is below the {own} that an idle pod takes: "
        "no number of pods meets it; raise it, or optimize the model",
    )


def _while_learning(target: Target, load: Load, known: bool, pods: float, words: str) -> tuple[float, str]:
    """Let what is measured outweigh a model that has seen too little.

    Good answers ask for no more pods. Very good ones let one pod go, slowly: a different load per pod is
    what shows how run times grow with batches.
    """
    queue, slow = load.recent.queue_time, load.stable.slow_share or 0.0
    if queue is None or queue > target.seconds / 2 or slow > 2 * (1 - target.percentile):
        return pods, words
    words = f"{words}, run times still being learned"
    very_good = queue <= target.seconds / 4 and slow <= (1 - target.percentile) / 5
    if very_good and not known and load.ready >= _LEAST_TO_PROBE:
        return min(pods, load.ready - 1.25), words
    return min(pods, float(load.ready)), words


def _unlearned(load: Load) -> Need:
    """Without a service time, go by how busy the pods are."""
    busy = load.recent.concurrency
    if busy is None:
        return Need(
            None, problem="pods report no compute time and no concurrency: set a RequestsPerSecond metric"
        )
    return Need(busy, f"{busy:.3g} requests in flight at {_rate(load.rate)}, service time not known yet")


def _concurrent(target: Target, load: Load) -> Need:
    recent, stable = load.recent.concurrency, load.stable.concurrency
    if recent is None or stable is None:
        return Need(None, problem="pods report no concurrency")
    # The longer window unless the load has moved: a rate that doubled doubles what runs.
    value = max(stable, recent) if load.rate > load.stable.rate else stable
    return Need(value / target.value, f"{value:.3g} requests in flight, target {target.value:g} a pod")


def _gauge(target: Target, value: float | None, what: str) -> Need:
    if value is None:
        return Need(None, problem=f"pods do not report {what}")
    return Need(value / target.value, f"{value:.3g} {what}, target {target.value:g} a pod")


def _busy(target: Target, load: Load, stable: float | None, recent: float | None, what: str) -> Need:
    if stable is None or recent is None or load.ready == 0:
        return Need(None, problem=f"pods report no {what} utilization", relative=True)
    value = max(stable, recent) if recent > target.value else stable
    words = f"{what} {value:.0f} %, target {target.value:g} %"
    ratio = value / target.value
    if abs(ratio - 1) <= _TOLERANCE:
        ratio = 1.0
    return Need(load.ready * ratio, words, relative=True)


def _gpu(target: Target, load: Load, external: External | None) -> Need:
    """Judge what the pods say of their GPUs, else what the cluster's exporter says of them."""
    if load.recent.gpu is not None or external is None:
        need = _busy(target, load, load.stable.gpu, load.recent.gpu, "GPU")
        advice = "; name the Prometheus that scrapes the DCGM exporter in monitoring.prometheus of the chart"
        return Need(None, problem=need.problem + advice, relative=True) if need.problem else need
    value, problem = _answer(load.now, external)
    if value is None:
        return Need(None, problem=problem, relative=True)
    return _busy(target, load, value, value, "GPU")


def external_need(target: Target, now: float, external: External | None) -> Need:
    """Judge the answer to a metric's PromQL; it means something even where no pod runs."""
    value, problem = _answer(now, external)
    if value is None:
        return Need(None, problem=problem)
    words = f"query gives {value:.4g}, target {target.value:g} a pod"
    return Need(value / target.value, words, given=True)


def _answer(now: float, external: External | None) -> tuple[float | None, str]:
    """Give the number that a Prometheus answered, or why there is none."""
    if external is None:
        return None, "Prometheus has not answered yet"
    if external.error:
        return None, f"Prometheus: {external.error}; check the address and the query in scaling.metrics"
    value = clean(external.value)
    if value is None:
        return None, f"Prometheus answered {external.value}, which is no number of at least 0"
    if abs(now - external.at) > EXTERNAL_STALE:
        return None, f"the answer of Prometheus is {now - external.at:.0f} s old"
    return value, ""
