"""What the operator learns beside the watches: pods' counters and answers. A restart learns anew."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from longshore.index import Key
from longshore.plan.analysis.questions import Answers
from longshore.plan.choice import Measured
from longshore.plan.mirror import Mirroring
from longshore.plan.rollout.model import PreflightView
from longshore.plan.scaling import External
from longshore.plan.state import ActivatorView, Analysed, Scaled
from longshore.plan.telemetry import Telemetry


@dataclass
class Senses:
    """By ModelDeployment: what was heard last, and what the last plan remembered of it."""

    listening: set[Key] = field(default_factory=set)
    """Whose pods are asked for their counters."""
    predicting: set[Key] = field(default_factory=set)
    """Whose pods are asked for their predictions as well."""
    mirroring: dict[Key, Mirroring] = field(default_factory=dict)
    """Whose pods are asked to send copies of requests, and where to."""
    exercising: set[Key] = field(default_factory=set)
    """Whose revisions are sent sample requests."""
    telemetry: dict[Key, Telemetry] = field(default_factory=dict)
    analysed: dict[Key, Analysed] = field(default_factory=dict)
    scaled: dict[Key, Scaled] = field(default_factory=dict)
    external: dict[Key, Mapping[int, External]] = field(default_factory=dict)
    """What Prometheus servers said for scaling, by position in `scaling.metrics`."""
    preflight: dict[Key, PreflightView] = field(default_factory=dict)
    measured: dict[Key, Measured] = field(default_factory=dict)
    """What sample requests to the pods of several runtimes found."""
    answers: dict[Key, Answers] = field(default_factory=dict)
    """What Prometheus servers and web hooks said of a canary."""
    delivered: dict[Key, frozenset[str]] = field(default_factory=dict)
    """Entries of `status.notifications` that every web hook took."""
    gpu_nodes: tuple[Mapping[str, str], ...] | None = None
    """Labels of the nodes with a GPU; None while no model needs them, or nobody has looked yet."""
    activators: Callable[[Key], ActivatorView | None] | None = None
    """Tells what the activators know of a model; None where there are none."""

    def forget(self, key: Key) -> None:
        """Forget a ModelDeployment that is gone."""
        self.listening.discard(key)
        self.predicting.discard(key)
        for known in (
            self.mirroring,
            self.telemetry,
            self.analysed,
            self.scaled,
            self.preflight,
            self.measured,
            self.answers,
            self.delivered,
            self.external,
        ):
            known.pop(key, None)
