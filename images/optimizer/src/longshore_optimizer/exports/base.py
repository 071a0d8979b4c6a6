"""The protocol of an export and what its process answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from longshore.artifact.base import Wire
from numpy.typing import NDArray

Array = NDArray[Any]
Runner = Callable[[Mapping[str, Array]], list[Array]]
"""Runs the export on one sample's feeds; gives the outputs in the order of the ONNX model's."""


LEAST_AGREEMENT = 0.995
"""Mean cosine with the ONNX model below which an export is no copy of it: what float16 or another runtime's
int8 arithmetic changes stays above."""

LEAST_AGREEMENT_INT8 = 0.98
"""The same for an export that is itself quantized to eight bits."""


@dataclass(frozen=True)
class ExportWork:
    """The ONNX model to export, and the directory that takes the files; `threads` for running them.

    `sample` is one set of feeds, for formats that fix their shapes; `calibration` is empty where no data for
    it was given.
    """

    model: Path
    out: Path
    threads: int
    sample: Mapping[str, Array] = field(default_factory=dict)
    calibration: Sequence[Mapping[str, Array]] = ()


class Exporter(Protocol):
    """One format."""

    runtime: str
    """Name and version of the runtime that it is compared with."""
    least_agreement: float
    """Mean cosine with the ONNX model that a faithful export reaches."""
    from_float: bool
    """Whether it cannot be made from a model that is quantized already: it is made from the original then."""
    most_samples: int
    """Samples that it is compared on, at most."""

    def write(self, work: ExportWork) -> Path:
        """Write the files; gives the one that a runtime loads."""
        ...

    def runner(self, written: Path, work: ExportWork) -> Runner | str:
        """Load what was written; gives why where no runtime here can run it."""
        ...

    def notes(self, written: Path, work: ExportWork) -> tuple[str, ...]:
        """Sentences on what was written, for the report."""
        ...

    def latencies(self, written: Path, work: ExportWork) -> list[float] | None:
        """Time of some runs in ms each, where the runtime tells better than a clock around `runner`."""
        ...

    def withdraw(self, work: ExportWork, why: str) -> str | None:
        """Remove what failed or answers differently; gives why what is left was not compared, None where
        nothing of use is left."""
        ...


class MissingDataError(Exception):
    """A format needs data that was not given; the message says which."""


class Format:
    """What most formats have in common."""

    least_agreement = LEAST_AGREEMENT
    from_float = False
    most_samples = 64

    def notes(self, written: Path, work: ExportWork) -> tuple[str, ...]:
        """Nothing to add."""
        del written, work
        return ()

    def latencies(self, written: Path, work: ExportWork) -> list[float] | None:
        """Take those of a clock around the runner."""
        del written, work
        return None

    def withdraw(self, work: ExportWork, why: str) -> str | None:
        """All of it is one thing."""
        del work, why
        return None


class Exported(Wire):
    """Answer of the exporting process; errors and agreement are against the ONNX model on the samples.

    `not_compared` tells why it was not run; `from_original` that the served model could not be its source.
    """

    files: tuple[str, ...]
    size_bytes: int
    samples: int = 0
    max_absolute_error: float = 0.0
    max_relative_error: float = 0.0
    agreement: float | None = None
    least_agreement: float = LEAST_AGREEMENT
    p50_ms: float | None = None
    p95_ms: float | None = None
    runtime: str
    not_compared: str | None = None
    from_original: bool = False
    notes: tuple[str, ...] = ()
