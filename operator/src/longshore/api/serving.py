"""`spec.serving`: what answers, and with how much."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from longshore.api.base import Duration, Name, Part, Quantity, Rule
from longshore.api.model import SecretReference
from longshore.api.resources import Resources

Key = Annotated[str, Field(max_length=317)]
Value = Annotated[str, Field(max_length=63, description="Its value.")]
LongValue = Annotated[str, Field(max_length=4096, description="Its value.")]
TensorName = Annotated[
    str,
    Field(min_length=1, max_length=256, pattern=r"^[^\s\"\\]+$", description="Name of a tensor."),
]


DEFAULT_QUEUE = 1000
"""Requests that may wait on OnnxRuntime where the spec says nothing."""


class RuntimeName(StrEnum):
    """What runs the model. Auto measures those that can and keeps the better."""

    ONNX_RUNTIME = "OnnxRuntime"
    TRITON = "Triton"
    AUTO = "Auto"


class Packaging(StrEnum):
    """How server and model come together in a pod: the model as a volume, or one image of both."""

    VOLUME = "Volume"
    IMAGE = "Image"


class Batching(Part):
    """How requests are run together."""

    max_size: int = Field(
        default=32, ge=1, le=4096, description="Most rows that run together; 1 switches it off."
    )
    max_delay: Duration | None = Field(
        default=None,
        description=(
            "Longest that a request waits for others. Absent: measured on OnnxRuntime, none on Triton; 0s: "
            "only what is there."
        ),
    )
    queue: int | None = Field(
        default=None,
        ge=1,
        le=1000000,
        description=(
            "Requests that may wait; more are answered with 503. Absent: 1000 on OnnxRuntime, no bound on "
            "Triton, whose batcher fetches no batch ahead once its queue is bounded."
        ),
    )


class Toleration(Part):
    """A toleration, as in a Pod."""

    key: Annotated[str, Field(max_length=317)] | None = Field(default=None, description="Key of the taint.")
    operator: Annotated[str, Field(max_length=8, pattern="^(Exists|Equal)$")] = Field(
        default="Equal", description="Exists or Equal."
    )
    value: Value | None = Field(default=None, description="Value of the taint.")
    effect: (
        Annotated[str, Field(max_length=16, pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")] | None
    ) = Field(default=None, description="Effect of the taint; absent: all.")
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=31536000, description="How long NoExecute is tolerated, in seconds."
    )


class EnvironmentVariable(Part):
    """One environment variable of the server."""

    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Name of the variable."
    )
    value: LongValue = Field(default="", description="Its value, in the open: not for secrets.")


class PodTemplate(Part):
    """What a user may lay over the serving pods. Security settings cannot be loosened here."""

    labels: Annotated[dict[Key, Value], Field(max_length=32)] = Field(default={}, description="More labels.")
    annotations: Annotated[dict[Key, LongValue], Field(max_length=32)] = Field(
        default={}, description="More annotations."
    )
    node_selector: Annotated[dict[Key, Value], Field(max_length=32)] = Field(
        default={}, description="Labels that the node must have."
    )
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = Field(
        default=(), description="Taints that are tolerated."
    )
    affinity: dict[str, Any] | None = Field(
        default=None,
        description="Affinity, as in a Pod.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    topology_spread_constraints: Annotated[
        tuple[
            Annotated[
                dict[str, Any],
                Field(
                    description="A topology spread constraint, as in a Pod.",
                    json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
                ),
            ],
            ...,
        ],
        Field(max_length=8),
    ] = Field(default=(), description="How pods spread over nodes and zones, as in a Pod.")
    priority_class_name: Name | None = Field(default=None, description="Priority class of the pods.")
    runtime_class_name: Name | None = Field(default=None, description="Runtime class of the pods.")
    scheduler_name: Name | None = Field(default=None, description="Scheduler that places the pods.")
    image_pull_secrets: Annotated[tuple[SecretReference, ...], Field(max_length=8)] = Field(
        default=(), description="Secrets of the registries that images come from."
    )
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64)] = Field(
        default=(), description="More environment variables of the server."
    )


class Accelerator(StrEnum):
    """What may speed up an ONNX model inside Triton, as far as the image has it."""

    TENSORRT = "TensorRT"
    OPENVINO = "OpenVINO"


class SequenceStrategy(StrEnum):
    """How Triton places the requests of a sequence: each on one instance, or oldest first in batches."""

    DIRECT = "Direct"
    OLDEST = "Oldest"


class Sequence(Part):
    """Sequence batching for models with state: which inputs tell the model where a sequence stands."""

    strategy: SequenceStrategy = Field(
        default=SequenceStrategy.DIRECT, description="Direct keeps a sequence on one instance."
    )
    max_idle: Duration = Field(default="60s", description="A sequence without requests ends after this.")
    start: TensorName | None = Field(
        default=None, description="Input that is 1 on a sequence's first request."
    )
    ready: TensorName | None = Field(
        default=None, description="Input that is 1 where the row holds a request."
    )
    end: TensorName | None = Field(default=None, description="Input that is 1 on a sequence's last request.")
    correlation: TensorName | None = Field(
        default=None, description="Input that holds the sequence's number."
    )


class RateLimit(Part):
    """What an execution takes from resources that instances share."""

    resources: Annotated[
        dict[Key, Annotated[int, Field(ge=1, le=1000000, description="Units an execution takes.")]],
        Field(max_length=16),
    ] = Field(
        default={}, description="How much of each resource one execution takes, by the resource's name."
    )
    priority: int = Field(default=0, ge=0, le=1000000, description="1 goes first; 0: Triton's default.")


class Triton(Part):
    """What only Triton knows."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        default=None, description="Image to run; absent: the operator's setting."
    )
    allow_python: bool = Field(
        default=False, description="Allow Python and BLS models: they run code from the artifact."
    )
    instances: int | None = Field(
        default=None, ge=1, le=64, description="Copies of the model a device; absent: by cores and size."
    )
    preferred_batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=4096, description="Rows.")], ...], Field(max_length=16)
    ] = Field(default=(), description="Batch sizes to aim for; absent: from the measured batch curve.")
    accelerator: Accelerator | None = Field(
        default=None, description="Accelerator for an ONNX model; refused where the image lacks it."
    )
    response_cache: Quantity | None = Field(
        default=None, description="Memory for answers to equal requests; absent: no cache."
    )
    latest_versions: int = Field(
        default=1, ge=1, le=64, description="Versions of a repository's model that are served, newest first."
    )
    warmup: int = Field(
        default=1,
        ge=0,
        le=100,
        description="Requests made of the model's own shapes before it counts as ready.",
    )
    rate_limit: RateLimit | None = Field(default=None, description="Shared resources that executions take.")
    sequence: Sequence | None = Field(default=None, description="Sequence batching, for models with state.")


class Serving(Part):
    """What answers requests."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.triton) || (has(self.runtime) && self.runtime != 'OnnxRuntime')",
            "serving.triton has no effect on OnnxRuntime: set runtime to Triton or Auto, or remove it",
            lambda s: s.triton is None or s.runtime is not RuntimeName.ONNX_RUNTIME,
        ),
        Rule(
            "!has(self.packaging) || self.packaging == 'Volume' || !has(self.runtime) || "
            "self.runtime == 'OnnxRuntime'",
            "serving.packaging Image puts the model onto the server's image: set runtime to OnnxRuntime, or "
            "packaging to Volume",
            lambda s: s.packaging is Packaging.VOLUME or s.runtime is RuntimeName.ONNX_RUNTIME,
        ),
    )

    runtime: RuntimeName = Field(default=RuntimeName.ONNX_RUNTIME, description="What runs the model.")
    packaging: Packaging = Field(
        default=Packaging.VOLUME,
        description=(
            "Volume mounts the model beside the server. Image has a Job make one image of both, whose pods "
            "start sooner as they wait for no volume; the operator's store must be a registry that nodes "
            "pull from."
        ),
    )
    resources: Resources = Field(
        default=Resources(),
        description="Requests and limits; absent: 250m CPU, 256Mi requested, 1 CPU, 2Gi at most.",
    )
    batching: Batching = Field(default=Batching(), description="How requests are run together.")
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Fixed number of pods; absent: what scaling decides, at least 1.",
    )
    latency_objective: Duration | None = Field(
        default=None, description="A request slower than this counts as slow, in rollouts and in scaling."
    )
    pod_template: PodTemplate = Field(
        default=PodTemplate(), description="What is laid over the serving pods."
    )
    triton: Triton | None = Field(default=None, description="What only Triton knows.")
