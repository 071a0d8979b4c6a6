"""The protocol of an export and what its process answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from longshore.artifact.base import Wire
from numpy.typing import NDArray

Array = NDArray[Any]
Runner = Callable[[Mapping[str, Array]], list[Array]]
"""Runs the export on one sample's feeds; gives the outputs in the order of the ONNX model's."""


@dataclass(frozen=True)
class ExportWork:
    """The ONNX model to export, and the directory that takes the files; `threads` for running them."""

    model: Path
    out: Path
    threads: int


class Exporter(Protocol):
    """One format."""

    runtime: str
    """Name and version of the runtime that it is compared with."""

    def write(self, work: ExportWork) -> Path:
        """Write the files; gives the one that a runtime loads."""
        ...

    def runner(self, written: Path, work: ExportWork) -> Runner:
        """Load what was written."""
        ...


class Exported(Wire):
    """Answer of the exporting process; errors and agreement are against the ONNX model on the samples."""

    files: tuple[str, ...]
    size_bytes: int
    samples: int
    max_absolute_error: float
    max_relative_error: float
    agreement: float
    p50_ms: float
    p95_ms: float
    runtime: str
