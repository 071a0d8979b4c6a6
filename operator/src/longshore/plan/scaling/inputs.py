"""What a scaling decision rests on and what it says: frozen values, time included."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.api.scaling import Schedule, Signal
from longshore.plan.scaling.queueing import ServiceCurve


def clean(value: float | None, low: float = 0.0, high: float = 1e15) -> float | None:
    """Give a number that can be reckoned with, None for NaN, infinities and what is out of bounds."""
    if value is None or not math.isfinite(value) or not low <= value <= high:
        return None
    return float(value)


@dataclass(frozen=True)
class PodSample:
    """A pod's own numbers, as scraped.

    Counters rise from the pod's start and may be None where the server does not have them; seconds are
    sums over requests except `compute_seconds`, which sums over executions of a batch.
    """

    pod: str
    revision: str
    at: float
    """When it was read, seconds since the epoch."""
    requests: float | None = None
    """Requests that came to an end, refused and failed ones included."""
    succeeded: float | None = None
    """Of `requests`, those that were run; None: all."""
    executions: float | None = None
    """Batches run."""
    rows: float | None = None
    """Rows run, summed over batches."""
    queue_seconds: float | None = None
    compute_seconds: float | None = None
    request_seconds: float | None = None
    slow: float | None = None
    """Of `requests`, those that took longer than the latency objective."""
    cpu_seconds: float | None = None
    pending: float | None = None
    """Requests that wait, now."""
    in_flight: float | None = None
    """Requests being answered, waiting ones included, now."""
    open_streams: float | None = None
    """Streams and connections that a client may still use, now."""
    gpu_percent: float | None = None
    workers: float | None = None
    """Runs that the pod can have going at once."""


@dataclass(frozen=True)
class External:
    """The answer to a metric's PromQL, or why there is none."""

    value: float | None
    at: float
    error: str = ""


@dataclass(frozen=True)
class Waiting:
    """What the activators say about a model, summed over them."""

    demand: int = 0
    """Clients that wait for a pod."""
    active: int = 0
    """Connections that pass through."""
    accepted: float | None = None
    """Connections accepted since their start."""


@dataclass(frozen=True)
class RevisionLoad:
    """One living revision.

    `weight` is the share of traffic it has or is about to get, 0 to 100; `floor` what the rollout needs.
    """

    name: str
    replicas: int
    ready: int
    weight: float = 100.0
    floor: int = 0
    measured: tuple[float, float] | None = None
    """Run time of a batch as the optimizer measured it: seconds, and seconds more per request."""


@dataclass(frozen=True)
class PodStart:
    """A pod that became ready: its creation and the moment it was ready, seconds since the epoch."""

    pod: str
    created: float
    ready: float


@dataclass(frozen=True)
class Observation:
    """Everything a tick sees."""

    now: float
    revisions: tuple[RevisionLoad, ...]
    samples: tuple[PodSample, ...] = ()
    ready_pods: frozenset[str] = frozenset()
    """Pods that should have answered the scrape."""
    starts: tuple[PodStart, ...] = ()
    external: Mapping[int, External] = field(default_factory=dict)
    """By position in the policy's targets."""
    waiting: Waiting | None = None
    granted: int | None = None
    """Most pods that the budget allows, None without one."""


@dataclass(frozen=True)
class Target:
    """One signal with what is wanted of it: `value` per pod, or `seconds` for times."""

    signal: Signal
    value: float = 0.0
    seconds: float = 0.0
    percentile: float = 0.95


@dataclass(frozen=True)
class Policy:
    """`spec.scaling` with durations in seconds and defaults filled in."""

    min: int
    max: int
    targets: tuple[Target, ...]
    stable_window: float = 60.0
    panic_window: float = 6.0
    idle_after: float = 300.0
    schedules: tuple[Schedule, ...] = ()
    forecast_period: float | None = None
    forecast_ahead: float | None = None
    max_batch: int = 1
    counted_objective: float | None = None
    """The latency objective, in seconds, that the pods count slow requests against."""
    cores: float = 1.0
    """CPU that a pod requests, of which a Cpu target is a percentage."""
    utilization: float = 0.8
    """Highest share of a pod's capacity that is planned for: headroom for what no window has seen."""

    @property
    def objective(self) -> float | None:
        """The latency objective in seconds, of the first target that has one."""
        return next((t.seconds for t in self.targets if t.signal is Signal.LATENCY), None)


@dataclass(frozen=True)
class Decision:
    """What to do, and why in one line."""

    replicas: Mapping[str, int]
    """Pods wanted, by revision."""
    total: int
    need: float | None
    """Pods that the load asks for, before bounds; None when unknown."""
    reason: str
    held: bool = False
    """Whether something that would have lowered the number could not be seen."""
    problems: tuple[str, ...] = ()
    """What could not be used and why, for a condition."""
    readiness_seconds: float | None = None
    forecast: str = ""
    rate: float = 0.0
    """Requests per second that were planned for."""
    curve: ServiceCurve | None = None
    """What a pod can do, as far as it is known."""
