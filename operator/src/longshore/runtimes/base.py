"""The protocol of a runtime: everything that differs between servers, as pure functions."""

from dataclasses import dataclass
from typing import Any, Protocol

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


class Runtime(Protocol):
    """One way to serve a model."""

    name: RuntimeName

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
