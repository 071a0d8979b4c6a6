"""The GPU that a TensorRT engine is built for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """What tells it from others.

    Attributes:
        resource: what a pod asks for to get one: a whole GPU or a MIG slice.
        labels: what a node's labels say of GPU and driver, by name; empty where no node is known.
    """

    resource: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Give the labels as one line."""
        return ",".join(f"{name}={value}" for name, value in self.labels)

    @property
    def text(self) -> str:
        """Give all of it as one line."""
        return f"{self.resource} {self.name}".strip()


def parse_labels(name: str) -> tuple[tuple[str, str], ...]:
    """Read `Gpu.name`."""
    pairs = (part.partition("=") for part in name.split(",") if part)
    return tuple((label, value) for label, _, value in pairs)
