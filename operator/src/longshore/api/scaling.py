"""`spec.scaling`: how many pods, decided by what traffic asks."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from longshore.api.base import Duration, Name, Part, Rule, seconds


class Engine(StrEnum):
    """What changes the number of pods."""

    BUILTIN = "Builtin"
    HPA = "HPA"
    KEDA = "KEDA"


class Signal(StrEnum):
    """What is looked at."""

    CONCURRENCY = "Concurrency"
    REQUESTS_PER_SECOND = "RequestsPerSecond"
    QUEUE_TIME = "QueueTime"
    LATENCY = "Latency"
    PENDING = "Pending"
    CPU = "Cpu"
    GPU = "Gpu"
    PROMETHEUS = "Prometheus"


_TIMES = frozenset({Signal.LATENCY, Signal.QUEUE_TIME})


class ScalingMetric(Part):
    """One signal with its target per pod."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type != 'Prometheus' || (has(self.query) && has(self.serverAddress))",
            "type Prometheus needs query and serverAddress: add both",
            lambda m: m.type is not Signal.PROMETHEUS or bool(m.query and m.server_address),
        ),
        Rule(
            "self.type == 'Prometheus' || !has(self.query)",
            "query is only read with type: Prometheus: remove it or change the type",
            lambda m: m.type is Signal.PROMETHEUS or m.query is None,
        ),
        Rule(
            "!(self.type in ['Latency', 'QueueTime']) || (has(self.duration) && !has(self.target))",
            "Latency and QueueTime take duration (such as 50ms), not target: set duration, remove target",
            lambda m: m.type not in _TIMES or (m.duration is not None and m.target is None),
        ),
        Rule(
            "self.type in ['Latency', 'QueueTime'] || (has(self.target) && !has(self.duration))",
            "this type takes target (a number per pod), not duration: set target, remove duration",
            lambda m: m.type in _TIMES or (m.target is not None and m.duration is None),
        ),
        Rule(
            "!has(self.duration) || self.duration.matches('[1-9]')",
            "a duration of 0 cannot be reached: give one above 0, such as 50ms",
            lambda m: m.duration is None or seconds(m.duration) > 0,
        ),
    )

    type: Signal = Field(description="What is looked at.")
    target: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        description="Wanted value per pod: requests, requests per second, percent of CPU or GPU.",
    )
    duration: Duration | None = Field(
        default=None, description="Wanted value for Latency and QueueTime, such as 50ms."
    )
    percentile: float = Field(
        default=0.95, ge=0.5, le=0.999, description="Which percentile Latency holds to its duration."
    )
    query: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        default=None, description="PromQL that gives one number, the value over all pods."
    )
    server_address: Annotated[str, Field(max_length=512, pattern=r"^https?://[^\x00-\x20\x7f]+$")] | None = (
        Field(default=None, description="Address of the Prometheus server.")
    )


class Schedule(Part):
    """A floor for a part of the day or week."""

    start: Annotated[str, Field(min_length=9, max_length=64)] = Field(
        description="When it begins, as five cron fields."
    )
    duration: Duration = Field(description="How long it lasts.")
    min: int = Field(ge=0, le=1000, description="Fewest pods in this time.")
    time_zone: Annotated[str, Field(max_length=64)] = Field(default="UTC", description="IANA time zone.")


class Forecast(Part):
    """Scale ahead of load that repeats."""

    period: Duration = Field(default="24h", description="Length of the season, such as 24h or 168h.")
    ahead: Duration | None = Field(
        default=None, description="How far ahead; absent: the time a pod needs to become ready, as learned."
    )


class ScalingBudget(Part):
    """A bound over all ModelDeployments of the namespace that name the same budget."""

    name: Name = Field(default="default", description="Which budget of the namespace.")
    max_replicas: int | None = Field(default=None, ge=1, le=100000, description="Most pods over the budget.")
    max_cost: float | None = Field(
        default=None, gt=0, le=1e9, description="Highest cost per hour over the budget."
    )
    cost: float = Field(default=1.0, gt=0, le=1e6, description="Cost of one pod of this model per hour.")
    priority: int = Field(default=0, ge=-1000, le=1000, description="Higher gets pods first.")


class Scaling(Part):
    """How many pods run."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.min) || !has(self.max) || self.min <= self.max",
            "scaling.min is above scaling.max: raise max or lower min",
            lambda s: s.max is None or "min" not in s.model_fields_set or s.min <= s.max,
        ),
        Rule(
            "!has(self.max) || has(self.min) || self.max >= 1",
            "scaling.max of 0 needs scaling.min: 0: set it, or raise max",
            lambda s: s.max is None or "min" in s.model_fields_set or s.max >= 1,
        ),
        Rule(
            "!has(self.engine) || self.engine != 'HPA' || !has(self.min) || self.min >= 1",
            "an HPA cannot go to zero: set scaling.min to 1, or engine to Builtin or KEDA",
            lambda s: s.engine is not Engine.HPA or s.min >= 1,
        ),
    )

    min: int = Field(default=1, ge=0, le=1000, description="Fewest pods; 0 lets an idle model stop.")
    max: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Most pods; absent: the larger of min and 1, so nothing scales.",
    )
    metrics: Annotated[tuple[ScalingMetric, ...], Field(max_length=8)] = Field(
        default=(),
        description="Signals with targets; the one that asks for most pods decides. Absent: concurrency.",
    )
    engine: Engine = Field(default=Engine.BUILTIN, description="What changes the number of pods.")
    stable_window: Duration = Field(
        default="60s", description="Load is averaged over this long to scale down."
    )
    panic_window: Duration = Field(
        default="6s", description="Load is averaged over this long to see a burst."
    )
    idle_after: Duration = Field(
        default="5m", description="Without a request for this long, a model may go to zero."
    )
    warm: int = Field(
        default=0, ge=0, le=10, description="Paused, loaded pods kept while the model is at zero."
    )
    schedules: Annotated[tuple[Schedule, ...], Field(max_length=16)] = Field(
        default=(), description="Floors for parts of the day or week."
    )
    forecast: Forecast | None = Field(default=None, description="Scale ahead of load that repeats.")
    budget: ScalingBudget | None = Field(default=None, description="A bound shared within the namespace.")

    @property
    def ceiling(self) -> int:
        """Most pods, with the default filled in."""
        return self.max if self.max is not None else max(self.min, 1)
