"""`status`: what stands, what is under way, and why."""

from typing import Annotated, Any

from pydantic import Field

from longshore.api.base import Part, Text, Time

ShortText = Annotated[str, Field(max_length=128)]
Reference = Annotated[str, Field(max_length=2048)]
RevisionName = Annotated[str, Field(max_length=63)]


class Condition(Part):
    """A condition as in metav1.Condition."""

    type: ShortText = Field(description="Type of the condition.")
    status: Annotated[str, Field(max_length=7, pattern="^(True|False|Unknown)$")] = Field(
        description="True, False or Unknown."
    )
    reason: ShortText = Field(description="One word for programs.")
    message: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="A sentence for people: cause and next step."
    )
    last_transition_time: Time = Field(description="When status last changed.")
    observed_generation: int | None = Field(default=None, ge=0, description="Generation this was decided on.")


class Side(Part):
    """The stable revision, or the canary beside it."""

    revision: RevisionName = Field(description="Name of the revision.")
    weight: int = Field(ge=0, le=100, description="Share of requests that it gets, in percent.")
    replicas: int = Field(default=0, ge=0, description="Pods that are wanted.")
    ready_replicas: int = Field(default=0, ge=0, description="Pods that answer.")
    step: int | None = Field(default=None, ge=0, le=64, description="Step of the rollout, counted from 1.")
    steps: int | None = Field(default=None, ge=0, le=64, description="How many steps there are.")
    since: Time | None = Field(default=None, description="When this step began.")
    evidence: Text | None = Field(default=None, description="What is known about it, in words.")


class Revision(Part):
    """One revision that can be gone back to."""

    name: RevisionName = Field(description="Name of the revision: hash of model, optimize and serving.")
    model: Reference = Field(default="", description="Uri of the model it was made from.")
    artifact: Reference | None = Field(default=None, description="What its pods load, with its digest.")
    digest: ShortText | None = Field(default=None, description="SHA-256 of the artifact.")
    image: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Image its pods run."
    )
    chosen: ShortText | None = Field(default=None, description="Candidate that the optimizer chose.")
    phase: ShortText = Field(default="Pending", description="Pending, Canary, Stable, Retired or Failed.")
    reason: Text = Field(default="", description="Why it was chosen, refused or given up.")
    created: Time | None = Field(default=None, description="When it was first seen.")


class MeasuredCandidate(Part):
    """One line of what the optimizer measured."""

    name: ShortText = Field(description="Name of the candidate.")
    verdict: ShortText = Field(description="Chosen, Kept, Refused, Failed or Skipped.")
    drop: float | None = Field(default=None, description="Loss against the original, in units of the metric.")
    drop_upper: float | None = Field(default=None, description="Upper bound of the loss.")
    p50_ms: float | None = Field(default=None, description="Median latency at batch 1, in ms.")
    p95_ms: float | None = Field(default=None, description="95th percentile of latency at batch 1, in ms.")
    size_bytes: int | None = Field(default=None, description="Size in bytes.")
    reason: Text = Field(default="", description="Why it was kept or refused.")


class Optimization(Part):
    """What the optimize Job found for the current spec."""

    revision: RevisionName = Field(description="Revision it was done for.")
    job: ShortText | None = Field(default=None, description="Name of the Job.")
    metric: ShortText | None = Field(default=None, description="What was measured on the evaluation data.")
    chosen: ShortText | None = Field(default=None, description="Candidate that is served.")
    candidates: Annotated[tuple[MeasuredCandidate, ...], Field(max_length=64)] = Field(
        default=(), description="The measured table; the artifact's manifest.json holds all of it."
    )
    omitted: int = Field(default=0, ge=0, description="Candidates left out of the table here.")


class MeasuredRuntime(Part):
    """One runtime that could serve, as sample requests measured it."""

    name: ShortText = Field(description="Name of the runtime.")
    verdict: ShortText = Field(description="Chosen, Kept or Refused.")
    p50_ms: float | None = Field(default=None, description="Median latency of one request at a time, in ms.")
    p95_ms: float | None = Field(default=None, description="95th percentile of the same, in ms.")
    throughput: float | None = Field(
        default=None, description="Requests a second that one pod answers, of several at a time."
    )
    reason: Text = Field(default="", description="Why it was chosen or not.")


class RuntimeComparison(Part):
    """What `runtime: Auto` measured, and what it chose."""

    key: ShortText = Field(description="Hash of what the choice depends on; it is measured once for each.")
    goal: ShortText = Field(description="What the better one is better by.")
    chosen: ShortText = Field(description="Runtime that serves.")
    candidates: Annotated[tuple[MeasuredRuntime, ...], Field(max_length=16)] = Field(
        default=(), description="The measured table."
    )


class PendingNotification(Part):
    """A transition that not every web hook has been told of yet."""

    id: ShortText = Field(description="The same each time it is told: a web hook may get it twice.")
    time: Time = Field(description="When it happened.")
    type: ShortText = Field(description="Normal or Warning.")
    reason: ShortText = Field(description="One word for programs.")
    message: Text = Field(default="", description="A sentence for people.")


class Status(Part):
    """What stands."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="Generation this status is about."
    )
    phase: ShortText | None = Field(default=None, description="One word: where it stands.")
    message: Annotated[str, Field(max_length=4096)] | None = Field(
        default=None, description="One sentence: why it stands there."
    )
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = Field(default=(), description="Ready, Reconciling, Stalled, FieldsSupported and one a stage.")
    stable: Side | None = Field(default=None, description="The revision that answers.")
    canary: Side | None = Field(default=None, description="The revision that is tried beside it.")
    revisions: Annotated[tuple[Revision, ...], Field(max_length=24)] = Field(
        default=(), description="Revisions, the newest first."
    )
    optimization: Optimization | None = Field(default=None, description="What the optimizer measured.")
    runtimes: RuntimeComparison | None = Field(
        default=None, description="What runtime Auto measured; absent with another."
    )
    rollout: dict[str, Any] | None = Field(
        default=None,
        description="What the operator remembers of a rollout; not for other programs.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    scaling: dict[str, Any] | None = Field(
        default=None,
        description="What the operator learned of the load, for after a restart; not for other programs.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    notifications: Annotated[tuple[PendingNotification, ...], Field(max_length=16)] | None = Field(
        default=None,
        description="Transitions that not every web hook has been told of yet, the oldest first.",
    )
    url: Reference | None = Field(default=None, description="Where to send requests.")
    replicas: int | None = Field(default=None, ge=0, description="Pods there are, for the scale subresource.")
    selector: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Label selector of the pods, for the scale subresource."
    )
