"""What the operator asks of a pod: one JSON value in the environment."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from longshore_triton.errors import StartError

VARIABLE = "LONGSHORE_TRITON"
"""Name of the environment variable that holds a `Wanted` as JSON."""


@dataclass(frozen=True)
class Wanted:
    """How a model shall be served; times in microseconds or seconds as named, memory in bytes.

    `objective_us` bounds the batch, `slow_us` only decides which requests count as slow. Whoever knows
    `samples_key` is given recorded requests at `samples_port`, and may have requests copied to
    `mirror_target` (`host:port`); nobody is, without one. After `grpc_age_seconds`, within a
    tenth of it, gRPC's clients are told to connect anew: else they keep to one pod for ever, and to one that
    ends until its model is gone (GRPC_ARG_MAX_CONNECTION_AGE_MS of gRPC).
    """

    name: str
    http_port: int = 8080
    grpc_port: int = 8081
    metrics_port: int = 8002
    samples_port: int = 8003
    samples_key: str = field(default="", repr=False)
    mirror_target: str = ""
    cpu_millicores: int = 1000
    memory_bytes: int = 2 << 30
    gpus: int = 0
    max_batch_size: int = 32
    max_delay_us: int | None = None
    queue: int | None = None
    objective_us: int | None = None
    slow_us: int = 100_000
    allow_python: bool = False
    instances: int | None = None
    preferred_batch_sizes: tuple[int, ...] = ()
    accelerator: str | None = None
    cache_bytes: int = 0
    latest_versions: int = 1
    warmup: int = 1
    rate_resources: Mapping[str, int] = field(default_factory=dict)
    rate_priority: int = 0
    sequence: "WantedSequence | None" = None
    grpc_age_seconds: int = 15
    drain_seconds: int = 3
    exit_seconds: int = 22

    @property
    def cores(self) -> int:
        """Give the whole cores that may be used, at least one."""
        return max(1, self.cpu_millicores // 1000)


@dataclass(frozen=True)
class WantedSequence:
    """Sequence batching; the names are those of the model's control inputs."""

    strategy: str = "Direct"
    max_idle_us: int = 60_000_000
    start: str | None = None
    ready: str | None = None
    end: str | None = None
    correlation: str | None = None


def parse(text: str) -> Wanted:
    """Read the JSON of the operator; fields of a later version are dropped.

    Raises:
        StartError: the text is no JSON object, or has no `name`.
    """
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict) or not raw.get("name"):
            raise ValueError("it has no name")
        sequence = raw.pop("sequence", None)
        raw["preferred_batch_sizes"] = tuple(raw.get("preferred_batch_sizes", ()))
        return Wanted(
            **_known(Wanted, raw),
            sequence=WantedSequence(**_known(WantedSequence, sequence)) if sequence else None,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise StartError(
            "RequestInvalid", f"the environment variable {VARIABLE} cannot be read: {error}"
        ) from None


def _known(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in raw.items() if name in names}
