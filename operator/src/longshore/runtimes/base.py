"""The protocol of a runtime: everything that differs between servers, as pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from longshore.api.model import Format
from longshore.api.serving import RuntimeName, Serving
from longshore.settings import Settings

MODEL_PATH = "/mnt/model"
"""Where a pod finds the model directory, read-only."""


@dataclass(frozen=True)
class ContainerInput:
    """What a runtime needs to know to build its container."""

    model_name: str
    serving: Serving
    settings: Settings
    cpu_millicores: int
    mirror_target: str = ""
    """`host:port` of the revision that is tried, for copies of requests."""
    mirror_key: str = ""
    """What the pods know the operator, and each other's copies, by."""


@dataclass(frozen=True)
class Series:
    """One series of a pod's metrics: its name, what stands among its labels, and the factor to our unit."""

    name: str
    scale: float = 1.0
    label: str = ""


@dataclass(frozen=True)
class MetricSource:
    """Where a pod tells what it does, and under which names.

    `series` maps our names to those of the runtime, whose values are added up: `requests` (answered, with
    success or not), `errors` (of them, failed or refused), `slow` (of them, slower than the objective),
    `executions`, `rows`, `queue_seconds`, `compute_seconds`, `request_seconds`, all cumulative; `pending`,
    `in_flight`, `open_streams` as they are now; `compared` (answers to mirrored requests) and `differing` (of
    them, not the same as the original's) and `uncopied` (copies that were not answered), all cumulative, and
    `mirroring` (share of the requests that is copied). A name that is missing is not known of this runtime.
    """

    port: int
    path: str
    series: Mapping[str, tuple[Series, ...]]
    predictions: str = ""
    """Path under which predictions are counted by bin; empty where the runtime does not count them."""
    side_port: int = 0
    """Port at which pods are asked for predictions and to copy requests, where it is not `port`.

    The answer to `POST /mirror` then tells the series of copies.
    """


COPIES: Mapping[str, tuple[Series, ...]] = {
    "compared": (Series("longshore_mirror_compared_total"),),
    "differing": (Series("longshore_mirror_differing_total"),),
    "uncopied": (Series("longshore_mirror_failed_total"),),
    "mirroring": (Series("longshore_mirror_share"),),
}
"""What a runtime of ours that copies requests tells of them."""


class Runtime(Protocol):
    """One way to serve a model."""

    name: RuntimeName
    loads: frozenset[Format]
    """Formats that it loads as they are."""
    metrics: MetricSource
    samples_port: int
    """Port at which its pods give recorded requests, where they have any: `GET /samples`, with
    `ContainerInput.mirror_key` as the header `Longshore-Mirror-Key`."""

    def refuses(self, serving: Serving) -> str | None:
        """Say why this runtime cannot serve so, with the next step; None when it can."""
        ...

    def container(self, wanted: ContainerInput) -> dict[str, Any]:
        """Build the serving container: image, arguments, ports, probes. The model lies at `MODEL_PATH`."""
        ...

    def volumes(self, wanted: ContainerInput) -> list[dict[str, Any]]:
        """Give further volumes that the container mounts."""
        ...

    def grace_period(self, serving: Serving) -> int:
        """Give the seconds between SIGTERM and SIGKILL."""
        ...


def http_probe(path: str, port: int, period: int, failures: int) -> dict[str, Any]:
    """Give a probe that asks `path` every `period` seconds and fails after `failures` bad answers.

    A bad answer and a refused connection count at once; 5 s is the patience with none. A short one takes
    a busy pod out of its Service, which moves its load to the others until none is left.
    """
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
