"""What the operator asks of an optimize Job, and what the Job answers in its termination message."""

from enum import StrEnum

from pydantic import Field

from longshore.api.model import Model
from longshore.api.optimize import Optimize
from longshore.artifact.base import Wire
from longshore.artifact.manifest import Verdict

REQUEST_VARIABLE = "LONGSHORE_JOB"
"""Name of the environment variable that holds the `JobRequest` as JSON."""

REPORT_LIMIT = 4096
"""Bytes that the kubelet keeps of a termination message (Kubernetes: `terminationMessagePath`)."""


class Target(Wire):
    """What the model will be served on; part of the artifact's key."""

    runtime: str = "OnnxRuntime"
    cpu_millicores: int = Field(default=1000, ge=1, description="CPU limit of a serving pod, in millicores")
    gpu: str | None = Field(
        default=None, description="GPU that a TensorRT engine is built for, None where none is wanted"
    )


class JobRequest(Wire):
    """Everything the Job needs; credentials come as mounted files, never in here."""

    namespace: str
    name: str
    model: Model
    optimize: Optimize | None = None
    target: Target = Target()
    store: str = Field(description="where the artifact goes: oci://host/repository, s3://..., file:///...")
    store_plain_http: bool = Field(default=False, description="the registry speaks HTTP without TLS")
    samples: int = Field(default=16, ge=0, description="rows of the data that become sample requests")
    server_image: str | None = Field(
        default=None, description="image of the server that the model is put onto, as pods reach it"
    )


class ReportRow(Wire):
    """One line of the measured table, as status shows it."""

    name: str
    verdict: Verdict
    drop: float | None = None
    drop_upper: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    size_bytes: int | None = None
    reason: str = ""


class Outcome(StrEnum):
    """How the Job ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class JobReport(Wire):
    """The termination message: at most `REPORT_LIMIT` bytes of UTF-8 JSON.

    `reason` is one CamelCase word (FetchFailed, DigestMismatch, ...), `message` a sentence with cause and
    next step; both become the `Stalled` condition as they are. `retryable` tells whether the same spec can
    succeed later (an unreachable host) or not (a wrong digest).
    """

    version: int = 1
    outcome: Outcome
    reason: str = ""
    message: str = ""
    retryable: bool = False
    artifact: str | None = Field(default=None, description="reference with digest, oci://...@sha256:...")
    artifact_sha256: str | None = Field(
        default=None, description="digest of the OCI manifest, or of the files"
    )
    image: str | None = Field(
        default=None, description="image of server and model, oci://...@sha256:..., where one was asked for"
    )
    input_sha256: str | None = None
    format: str | None = None
    chosen: str | None = None
    metric: str | None = None
    rows: tuple[ReportRow, ...] = ()
    rows_omitted: int = Field(default=0, description="rows cut to stay under the limit")
    cached: bool = Field(default=False, description="the store held an artifact for the same key already")


class Progress(Wire):
    """One JSON line on the Job's standard output for every change of stage or step."""

    stage: str = Field(description="Fetch, Verify, Convert, Candidates, Measure, Choose, Export, Store")
    done: int = 0
    total: int = 0
    best: str | None = None
    message: str = ""
