"""What is remembered between ticks: small, frozen, and the same after a trip through JSON."""

from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from longshore.plan.scaling.counters import Baseline
from longshore.plan.scaling.curve import CurveFit
from longshore.plan.scaling.forecast import Seasonal
from longshore.plan.scaling.surges import Surges
from longshore.plan.scaling.window import Tick

DEFAULT_READINESS = 10.0
"""Seconds from a pod's creation to its readiness, until one has been seen."""


@dataclass(frozen=True)
class NeedAt:
    """The most pods that were needed around `at`."""

    at: float
    pods: float


@dataclass(frozen=True)
class State:
    """Memory of one model. A fresh one is always valid: it holds until it has seen a window."""

    at: float = 0.0
    baselines: tuple[Baseline, ...] = ()
    entries: tuple[Tick, ...] = ()
    fits: tuple[tuple[str, CurveFit], ...] = ()
    """What was learned of the newest revisions, by name."""
    rows_per_request: float = 1.0
    workers: int = 1
    """Runs that a pod can have going at once."""
    readiness: tuple[float, ...] = ()
    """Last times from creation to readiness, in seconds."""
    starts_until: float = 0.0
    needs: tuple[NeedAt, ...] = ()
    dispersion: float = 1.0
    correction: float = 1.0
    """Learned: how many times the model's pods it takes to hold the objective."""
    surges: Surges = field(default_factory=Surges)
    idle_since: float | None = None
    missing_since: float | None = None
    lowered_at: float = 0.0
    seasonal: Seasonal | None = None
    accepted: float | None = None
    """Connections that the activators had accepted at the last tick."""

    @property
    def readiness_seconds(self) -> float:
        """Give the time a pod takes to become ready: the upper quartile of what was seen."""
        if not self.readiness:
            return DEFAULT_READINESS
        return sorted(self.readiness)[(3 * len(self.readiness)) // 4]

    def learned(self) -> "State":
        """Give only what outlives a restart: what was learned, without windows and counters."""
        return replace(
            self, baselines=(), entries=(), needs=(), idle_since=None, missing_since=None, accepted=None
        )


_ADAPTER = TypeAdapter(State)


def to_json(state: State) -> str:
    """Write a state, at most some kilobytes."""
    return _ADAPTER.dump_json(state).decode()


def from_json(text: str) -> State:
    """Read a state; what cannot be read is a fresh one, which holds until it has seen a window."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError:
        return State()
