"""`manifest.json`: what an artifact holds, what was tried, and why it was kept or refused."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from longshore.artifact.base import Wire

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

MANIFEST_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
SAMPLES_NAME = "samples.jsonl"
EVENTS_NAME = "tensorboard"
ORIGINAL = "original"


class Verdict(StrEnum):
    """What became of a candidate."""

    CHOSEN = "Chosen"
    KEPT = "Kept"
    REFUSED = "Refused"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class Tensor(Wire):
    """One input or output of the model. A dimension is a size, or a name (or None) where it is dynamic."""

    name: str
    dtype: str = Field(description="Open Inference Protocol data type: FP32, INT64, BYTES, ...")
    shape: tuple[int | str | None, ...]


class InputModel(Wire):
    """The model as it came in."""

    sha256: Sha256
    format: str
    uri: str | None = None
    size_bytes: int | None = None


class OutputModel(Wire):
    """The model as it is served; the digest is of `model.onnx` (and its external data, in name order)."""

    sha256: Sha256
    size_bytes: int
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


class Candidate(Wire):
    """One candidate with what was measured. Latencies in ms at batch 1 under the Job's CPU limit."""

    name: str
    technique: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    metric: float | None = Field(default=None, description="the evaluation metric on held-out data")
    drop: float | None = Field(default=None, description="original minus candidate, in units of the metric")
    drop_upper: float | None = Field(default=None, description="upper bound of the drop at `confidence`")
    p50_ms: float | None = None
    p95_ms: float | None = None
    cpu_ms: float | None = Field(default=None, description="CPU time of one request, of all threads together")
    size_bytes: int | None = None
    verdict: Verdict
    reason: str


class Environment(Wire):
    """Where it was measured."""

    cpu_flags: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int = 0
    cpus: float | None = Field(default=None, description="CPU limit in cores that the measurement ran under")
    threads: int | None = Field(
        default=None,
        description="threads that the original was timed with; on as many processors, the server gives them "
        "to what was made of it, too, unless one thread is faster",
    )


class Conversion(Wire):
    """How the converted model compares with its source on the calibration data."""

    framework: str
    samples: int
    max_absolute_error: float
    max_relative_error: float = Field(description="relative to the root mean square of the output")
    disagreements: int = Field(description="samples that differ by more than the tolerance")


class Manifest(Wire):
    """The whole of `manifest.json`."""

    version: int = 1
    input: InputModel
    output: OutputModel
    chosen: str
    metric: str | None = Field(default=None, description="name of the evaluation metric")
    goal: str | None = None
    candidates: tuple[Candidate, ...] = ()
    environment: Environment
    key: str | None = Field(default=None, description="hash of everything that decides this artifact")
    conversion: Conversion | None = Field(default=None, description="None where the model came in as ONNX")
    notes: tuple[str, ...] = Field(default=(), description="what a reader of the result should know")
