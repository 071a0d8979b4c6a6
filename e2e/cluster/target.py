"""What every kind of cluster offers the command line: up, down, status, images, and where its registry is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Say = Callable[[str], None]


@dataclass(frozen=True)
class Registry:
    """The addresses of the cluster's own registry: as the nodes pull, as pods and as this host reach it."""

    nodes: str
    pods: str
    host: str


@dataclass(frozen=True)
class Part:
    """One line of the status: a part of the cluster, whether it is well, and a remark."""

    name: str
    well: bool
    remark: str


@dataclass(frozen=True)
class Environment:
    """What a shell or a test needs to use a running cluster; `registry` is None where it has none of ours."""

    kubeconfig: Path
    programs: Path | None
    registry: Registry | None


class Target(Protocol):
    """A cluster that the user named, or our own local one."""

    def up(self, say: Say) -> Path:
        """Start it where it does not run, and return its kubeconfig."""

    def down(self, say: Say) -> None:
        """End it and remove all of it."""

    def status(self) -> list[Part]:
        """What of it runs."""

    def load_images(self, names: Sequence[str], say: Say, *, refresh: bool) -> None:
        """Build these images (all for none) and make them available to pods."""

    def environment(self) -> Environment:
        """How to use it, whether it runs or not."""
