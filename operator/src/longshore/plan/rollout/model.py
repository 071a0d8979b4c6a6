"""What a rollout remembers, what it sees, and what it wants to stand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from longshore.plan.analysis.judge import Judgement
from longshore.plan.analysis.verdict import Verdict
from longshore.plan.rollout.commands import Command


class Phase(StrEnum):
    """Where a rollout stands."""

    IDLE = "Idle"
    STARTING = "Starting"
    PREFLIGHT = "Preflight"
    STEPPING = "Stepping"
    PROMOTING = "Promoting"
    BAKING = "Baking"
    ABORTING = "Aborting"
    ABORTED = "Aborted"

    @property
    def tries(self) -> bool:
        """Whether a new revision is being tried, and could still be given up without a move back."""
        return self in (Phase.STARTING, Phase.PREFLIGHT, Phase.STEPPING, Phase.PROMOTING)


class Ending(StrEnum):
    """Why the new revision's weight goes back."""

    FAILED = "Failed"
    SUPERSEDED = "Superseded"
    RETURNED = "Returned"


class TrafficMode(StrEnum):
    """What divides requests between stable and canary."""

    GATEWAY = "Gateway"
    SERVICE = "Service"


@dataclass(frozen=True)
class FailedRevision:
    """A revision that was given up, and why; it is not tried again by itself."""

    revision: str
    why: str


@dataclass(frozen=True)
class RolloutState:
    """All that is remembered of a rollout; stands in status.

    Attributes:
        phase: where it stands.
        stable: the revision that answers; None before the first one does.
        canary: the revision that is tried.
        previous: the revision that was stable before, while it is kept ready for a return.
        step: index of the stage in the policy, from 0.
        held: seconds for which the stage's weight has been in force, or the new revision has baked.
        waited: seconds without what the phase waits for.
        clock: time of the last decision, seconds since the epoch.
        paused: a person paused it.
        full: a person asked to skip what is left.
        forced: a rollback that skips preflight, steps and analysis.
        pinned: revision that a rollback asked for, in place of the spec's.
        pinned_against: the spec's revision at that time; a new one ends the pin.
        ending: why weight goes back; None unless Aborting.
        why: the sentence behind the last abort.
        failed: revisions that were given up, newest first.
        handled: one-shot annotations that were answered and not yet seen to be gone.
        reason: reason of what it waits for, as last told.
        answer: what became of the last one-shot annotation, a sentence.
    """

    phase: Phase = Phase.IDLE
    stable: str | None = None
    canary: str | None = None
    previous: str | None = None
    step: int = 0
    held: float = 0.0
    waited: float = 0.0
    clock: float | None = None
    paused: bool = False
    full: bool = False
    forced: bool = False
    pinned: str | None = None
    pinned_against: str | None = None
    ending: Ending | None = None
    why: str = ""
    failed: tuple[FailedRevision, ...] = ()
    handled: tuple[str, ...] = ()
    reason: str = ""
    answer: str = ""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.held, self.waited, self.clock or 0.0))):
            raise ValueError("times are finite numbers")

    def failure_of(self, revision: str | None) -> FailedRevision | None:
        """Find why a revision was given up."""
        return next((failed for failed in self.failed if failed.revision == revision), None)


@dataclass(frozen=True)
class RevisionView:
    """The pods of one revision.

    Attributes:
        revision: name of the revision.
        wanted: replicas that its Deployment asks for.
        ready: pods that are ready and not going away.
        restarts: container restarts of its present pods.
        problem: why pods are not ready or restart, a sentence; empty when nothing is known.
        present: pods that exist, those that are going away included.
        out_of_memory: its present pods of which a container was last ended for using too much memory.
    """

    revision: str
    wanted: int = 0
    ready: int = 0
    restarts: int = 0
    problem: str = ""
    present: int = 0
    out_of_memory: int = 0


@dataclass(frozen=True)
class TrafficView:
    """How requests are divided, as it is known to be in force.

    Attributes:
        mode: what divides them.
        weight: percent to the canary, as written in the route; without a gateway, what was asked of the
            Service (0: it selects the stable revision only).
        confirmed: the weight is in force: accepted, observed and, where it can be, probed. A route that does
            not exist has weight 0 and is confirmed.
        problem: why the route cannot be written or is not accepted; None when all is well.
        stable: revision that the stable Service selects.
        canary: revision that the canary Service selects.
        mirrored: revision that gets copies of the requests; None when no requests are mirrored.
        unmirrored: why none are, where that is known.
        preview: revision that the preview route leads to.
    """

    mode: TrafficMode = TrafficMode.GATEWAY
    weight: int = 0
    confirmed: bool = True
    problem: str | None = None
    stable: str | None = None
    canary: str | None = None
    mirrored: str | None = None
    preview: str | None = None
    unmirrored: str = ""


@dataclass(frozen=True)
class PreflightView:
    """What sample requests to the new revision found.

    Attributes:
        revision: the revision that was asked.
        verdict: Pass, Fail, NoData (no sample requests), Inconclusive (under way) or Error (holds).
        text: a sentence for a person.
    """

    revision: str
    verdict: Verdict
    text: str = ""


@dataclass(frozen=True)
class Seen:
    """Everything that one decision rests on.

    Attributes:
        now: seconds since the epoch.
        desired: revision of the spec; None while it is not known (a bad spec, the artifact is being made).
        load_replicas: pods that the whole present load needs, by whatever scales; 0 when idle at zero.
        revisions: the revisions that have a Deployment, by name.
        traffic: how requests are divided.
        known: revisions that can be gone back to.
        commands: one-shot annotations.
        preflight: outcome of the preflight, None while it has not been asked for.
        judgement: what the analysis says, None before there is one.
        judged: the revision that the judgement is about.
    """

    now: float
    desired: str | None
    load_replicas: int = 1
    revisions: Mapping[str, RevisionView] = field(default_factory=dict)
    traffic: TrafficView = field(default_factory=TrafficView)
    known: frozenset[str] = frozenset()
    commands: tuple[Command, ...] = ()
    preflight: PreflightView | None = None
    judgement: Judgement | None = None
    judged: str | None = None

    def pods(self, revision: str | None) -> RevisionView:
        """Give the pods of a revision; none where it has no Deployment."""
        return self.revisions.get(revision or "", RevisionView(revision or ""))

    @property
    def full(self) -> int:
        """Pods that can carry all requests; at least one while something rolls."""
        return max(1, self.load_replicas)

    def verdict_on(self, revision: str | None) -> Judgement | None:
        """Give the judgement if it is about this revision."""
        return self.judgement if self.judgement is not None and self.judged == revision else None


@dataclass(frozen=True)
class Targets:
    """What shall stand. Safe to apply in part: each decision asks only for what may be now.

    Attributes:
        replicas: wanted pods by revision; a revision that is not named shall have none.
        weight: percent of requests to the canary; the stable revision gets the rest.
        stable: revision that the stable Service shall select; None: leave it.
        canary: revision that the canary Service shall select; None: leave it.
        mirror: revision that shall get copies of requests; None: no mirroring.
        preview: revision that the preview route shall lead to; None: no preview route.
        preflight: revision to send sample requests to; None: none.
        analyse: revision whose counters shall be compared with the stable revision's; None: none.
    """

    replicas: Mapping[str, int]
    weight: int
    stable: str | None = None
    canary: str | None = None
    mirror: str | None = None
    preview: str | None = None
    preflight: str | None = None
    analyse: str | None = None

    @property
    def stable_weight(self) -> int:
        """Percent of requests to the stable revision."""
        return 100 - self.weight


@dataclass(frozen=True)
class Answer:
    """What became of a one-shot annotation.

    Attributes:
        command: the annotation, to be removed from the object.
        accepted: whether it was done.
        text: a sentence for status and an event; empty when it was answered before.
    """

    command: Command
    accepted: bool
    text: str
