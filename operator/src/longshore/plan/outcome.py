"""What a stage of the plan can answer, and the plan itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from longshore.api.status import Optimization, Revision, RuntimeComparison, Side
from longshore.plan.analysis.questions import Questions
from longshore.plan.mirror import Mirroring
from longshore.plan.scaling.queries import MetricQuery
from longshore.plan.state import Activation, Analysed, Exercise, Measurement, Scaled

T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """The stage is through and gives what the next one needs."""

    value: T


@dataclass(frozen=True)
class Waiting:
    """Something is under way; look again at the next event, or after `again` seconds."""

    reason: str
    message: str
    again: float | None = None


@dataclass(frozen=True)
class Problem:
    """It cannot go on: cause and next step in `message`. `again`: seconds until it is tried once more."""

    reason: str
    message: str
    again: float | None = None


@dataclass(frozen=True)
class Deletion:
    """An object to delete; only the one with this uid."""

    kind: str
    name: str
    uid: str
    propagation: str = "Background"


@dataclass(frozen=True)
class Facts:
    """What the status is made from."""

    phase: str
    message: str
    ready: bool
    ready_reason: str
    ready_message: str
    reconciling: Waiting | None = None
    stalled: Problem | None = None
    optimized: Waiting | Problem | Done[str] | None = None
    available: Waiting | Problem | Done[str] | None = None
    routed: Waiting | Problem | Done[str] | None = None
    scaling: Waiting | Problem | Done[str] | None = None
    unsupported: tuple[str, ...] = ()
    stable: Side | None = None
    canary: Side | None = None
    revisions: tuple[Revision, ...] = ()
    optimization: Optimization | None = None
    runtimes: RuntimeComparison | None = None
    url: str | None = None
    replicas: int = 0
    selector: str = ""
    rollout: Mapping[str, Any] | None = None
    learned: Mapping[str, Any] | None = None
    """What status shall remember of the load."""


@dataclass(frozen=True)
class Notice:
    """An event to record."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """What shall stand. `apply` is in order; `rests_on` names what must be read live first."""

    apply: tuple[Mapping[str, Any], ...] = ()
    delete: tuple[Deletion, ...] = ()
    facts: Facts | None = None
    notices: tuple[Notice, ...] = ()
    requeue_after: float | None = None
    rests_on: tuple[tuple[str, str], ...] = ()
    finalizers: tuple[str, ...] | None = None
    release: tuple[str, ...] = ()
    """Artifacts that nothing uses any more."""
    insists: bool = False
    """The finalizers stand while an artifact's registry is away."""
    answered: tuple[str, ...] = ()
    """One-shot annotations of the ModelDeployment that were answered."""
    analysed: Analysed | None = None
    """What the next plan shall find as `Observed.analysed`."""
    scaled: Scaled | None = None
    """The same, as `Observed.scaled`."""
    listen: bool = False
    """The pods' counters are needed."""
    activation: Activation | None = None
    """What the activators shall know of this model."""
    queries: tuple[MetricQuery, ...] = ()
    """What Prometheus shall be asked for scaling."""
    exercise: Exercise | None = None
    """Sample requests that may be sent while a canary is undecided."""
    predictions: bool = False
    """What the pods predicted is needed as well."""
    questions: Questions | None = None
    """What Prometheus servers and web hooks shall be asked."""
    mirroring: Mirroring | None = None
    """Copies of requests that pods shall be asked to send."""
    preflight: str | None = None
    """Revision that sample requests shall be sent to."""
    looks_at_nodes: bool = False
    """The labels of the nodes with a GPU are needed."""
    measurement: Measurement | None = None
    """Pods of several runtimes that sample requests shall be sent to."""
