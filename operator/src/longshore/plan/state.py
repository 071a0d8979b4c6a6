"""What a decision rests on: one frozen value, with time as a field."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longshore.api.serving import RuntimeName
from longshore.plan.analysis.counters import PodSample
from longshore.plan.analysis.judge import AnalysisState
from longshore.plan.analysis.predictions import Gathered
from longshore.plan.analysis.questions import Answers
from longshore.plan.choice import Measured
from longshore.plan.rollout.model import PreflightView
from longshore.plan.scaling import Budget, Claim, External, State, Waiting
from longshore.plan.telemetry import Telemetry
from longshore.resources.deployment import Provenance
from longshore.resources.names import Owner
from longshore.settings import Settings


@dataclass(frozen=True)
class Terminated:
    """How a container ended."""

    container: str
    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True)
class PodView:
    """What matters of a pod. `ready` is the Ready condition; times are seconds since the epoch."""

    name: str
    revision: str | None
    component: str | None
    job: str | None
    phase: str
    ready: bool
    ip: str | None
    deleting: bool
    created: float
    ready_since: float | None = None
    reason: str = ""
    message: str = ""
    unschedulable: str = ""
    unschedulable_since: float | None = None
    disrupted: bool = False
    waiting: tuple[tuple[str, str, str], ...] = ()
    """Containers that wait: name, reason, message."""
    terminated: tuple[Terminated, ...] = ()
    """Containers that ended, init containers included; of one that waits to run again, its last end."""
    ended_before: tuple[Terminated, ...] = ()
    """The last ends of containers that run again."""
    restarts: int = 0
    runtime: str | None = None
    """What a measuring pod runs."""
    out_of_memory: bool = False
    """The latest end of a container was for memory, even if it runs again."""
    job_index: int = 0
    """Which of the pods of an Indexed Job it is; the first one leads and reports."""


@dataclass(frozen=True)
class JobView:
    """What matters of a Job."""

    name: str
    uid: str
    key: str
    attempt: int
    retry: str | None
    active: int
    succeeded: bool
    failed: bool
    reason: str
    message: str
    finished: float | None
    deleting: bool
    suspended: bool = False
    """Its pods are deleted and none is started until somebody resumes it."""
    queue: str | None = None
    """The Kueue queue that it was given; a changed one counts for the next Job."""


@dataclass(frozen=True)
class DeploymentView:
    """What matters of the Deployment of a revision; `template` and the rest come from its annotations."""

    name: str
    uid: str
    revision: str
    created: float
    replicas: int
    ready: int
    available: int
    current: int
    settled: bool
    """The controller has seen the present spec."""
    deleting: bool
    template: Mapping[str, Any] | None
    provenance: Provenance
    conditions: tuple[tuple[str, str, str, str], ...] = ()
    """type, status, reason, message."""


@dataclass(frozen=True)
class Analysed:
    """What is remembered between looks at a canary; `baselines` is by revision and lives in the process."""

    revision: str
    state: AnalysisState = field(default_factory=AnalysisState)
    looked_at: float = 0.0
    baselines: Mapping[str, Mapping[str, PodSample]] = field(default_factory=dict)
    gathered: Mapping[str, Gathered] = field(default_factory=dict)
    """Predictions by revision; they live in the process too."""
    answered_at: float = 0.0
    """Time of the last round of Prometheus servers and web hooks that was taken into account."""


@dataclass(frozen=True)
class Said:
    """A sentence, and since when it is told."""

    text: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Scaled:
    """What is remembered between looks at the load; a fresh one holds what stands."""

    state: State = field(default_factory=State)
    replicas: int | None = None
    looked_at: float = 0.0
    reason: str = ""
    """Why the number last changed, in one line."""
    limited: Said = Said()
    """Why the budget gives fewer pods than are wanted."""
    problem: Said = Said()
    """Why the number is held."""
    claim: Claim | None = None
    """What it asks of its budget; None without one."""
    warm: int | None = None
    """Warm copies that the budget pays for at most; None: all that the spec asks for."""
    forecast: str = ""
    """What is forecast and how far off forecasts are; empty without one."""


@dataclass(frozen=True, order=True)
class Endpoint:
    """A pod that a held connection may be joined to; a warm copy only while no other pod is ready."""

    address: str
    ready: bool
    warm: bool = False


@dataclass(frozen=True)
class Activation:
    """What the activators shall know of a model: their ports for it, and its pods."""

    http: int
    grpc: int
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class AskedPod:
    """A ready pod that sample requests go to.

    Attributes:
        address: its IP.
        samples_port: where it gives requests that were recorded, if it has any.
    """

    address: str
    samples_port: int


@dataclass(frozen=True)
class Exercise:
    """Sample requests that may be sent to both revisions.

    Attributes:
        rate: requests a second to each.
        canary: its ready pods.
        stable: its ready pods.
        thin: traffic is too thin to decide, so that they are needed now.
        mirror_key: what the pods know the operator by.
    """

    rate: float
    canary: tuple[AskedPod, ...]
    stable: tuple[AskedPod, ...]
    thin: bool
    mirror_key: str


@dataclass(frozen=True)
class Measurement:
    """Pods that sample requests shall be sent to in turn, to compare the runtimes.

    Attributes:
        revision: whose pods they are.
        addresses: of a ready pod of each runtime.
        mirror_key: what the pods know the operator by.
    """

    revision: str
    addresses: Mapping[RuntimeName, str]
    mirror_key: str


@dataclass(frozen=True)
class ActivatorView:
    """What is known of the activators for one model: who holds its ports, and who waits there."""

    addresses: tuple[str, ...]
    http: int
    grpc: int
    waiting: Waiting


@dataclass(frozen=True)
class RouteClaim:
    """A route that another ModelDeployment wants as well."""

    namespace: str
    name: str
    created: float
    keys: frozenset[str]


@dataclass(frozen=True, order=True)
class ForeignAutoscaler:
    """Somebody else's HorizontalPodAutoscaler on what is ours: its name and what it scales."""

    name: str
    kind: str
    target: str


@dataclass(frozen=True)
class Observed:
    """Everything that a plan for one ModelDeployment needs; `now` is in seconds since the epoch."""

    now: float
    settings: Settings
    owner: Owner
    generation: int
    created: float
    deleted: float | None
    """When its deletion was asked for."""
    finalizers: tuple[str, ...]
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    deployments: tuple[DeploymentView, ...] = ()
    jobs: tuple[JobView, ...] = ()
    pods: tuple[PodView, ...] = ()
    warm: tuple[PodView, ...] = ()
    """Warm copies; they are in none of `pods` and `deployments`, so nothing counts them."""
    measuring: tuple[PodView, ...] = ()
    """Pods that measure runtimes; they are in none of `pods` and `deployments` either."""
    measuring_since: Mapping[str, float] = field(default_factory=dict)
    """When the Deployments of such pods were made, by name."""
    measured: Measured | None = None
    """What sample requests to them found; None where nobody asked."""
    live: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    """Every owned object as it is known to stand, by kind and name."""
    other_routes: tuple[RouteClaim, ...] = ()
    shared_artifacts: frozenset[str] = frozenset()
    """Artifacts that other ModelDeployments use too."""
    installed: frozenset[str] = frozenset()
    """Kinds of others that the cluster has."""
    telemetry: Telemetry | None = None
    """The latest round of what the pods told; None where nobody asked."""
    analysed: Analysed | None = None
    """What the last plan remembered; None after a start."""
    scaled: Scaled | None = None
    """The same, of scaling."""
    preflight: PreflightView | None = None
    exercising: bool = False
    """Sample requests are being sent to both revisions."""
    answers: Answers | None = None
    """The latest round of what Prometheus servers and web hooks said; None where nobody asked."""
    activators: ActivatorView | None = None
    """None while no activator is heard."""
    external: Mapping[int, External] = field(default_factory=dict)
    """What Prometheus said for scaling, by position in `scaling.metrics`."""
    autoscalers: tuple[ForeignAutoscaler, ...] = ()
    """Those of others; Longshore's own is in `live`."""
    gpu_nodes: tuple[Mapping[str, str], ...] | None = None
    """Labels of the nodes with a GPU; None while nobody has looked."""
    budget: Budget | None = None
    """What it shares with others of its namespace; None where the spec names no budget."""

    def deployment(self, revision: str) -> DeploymentView | None:
        """Find the Deployment of a revision."""
        return next((d for d in self.deployments if d.revision == revision), None)

    def autoscaler_of(self, revision: str) -> ForeignAutoscaler | None:
        """Find somebody else's autoscaler that writes the number of a revision's pods."""
        standing = self.deployment(revision)
        # At zero an HPA rests (Kubernetes, "Implicit maintenance-mode deactivation").
        if standing is None or standing.replicas == 0:
            return None
        found = (a for a in self.autoscalers if (a.kind, a.target) == ("Deployment", standing.name))
        return next(found, None)

    def job(self, key: str) -> JobView | None:
        """Find the latest attempt for an artifact key."""
        return max((j for j in self.jobs if j.key == key), key=lambda j: j.attempt, default=None)

    def pods_of(self, revision: str) -> tuple[PodView, ...]:
        """Find the serving pods of a revision."""
        return tuple(p for p in self.pods if p.revision == revision and p.job is None)

    def warm_of(self, revision: str) -> tuple[PodView, ...]:
        """Find the warm copies of a revision that are not on their way out."""
        return tuple(p for p in self.warm if p.revision == revision and not p.deleting)

    def measuring_of(self, revision: str, runtime: RuntimeName) -> tuple[PodView, ...]:
        """Find the pods that measure a revision on a runtime and are not on their way out."""
        return tuple(
            p for p in self.measuring if (p.revision, p.runtime) == (revision, runtime) and not p.deleting
        )
