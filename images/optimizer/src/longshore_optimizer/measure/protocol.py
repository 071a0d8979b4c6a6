"""What the parent asks of a worker process and what it answers, as JSON lines."""

from typing import Any

from longshore.artifact.base import Wire

from longshore_optimizer.data import TensorSpec


class Io(Wire):
    """One input or output on the wire."""

    name: str
    dtype: str
    symbols: tuple[int | str | None, ...]

    def spec(self) -> TensorSpec:
        """Give the value that the data functions take."""
        shape = tuple(d if isinstance(d, int) and d >= 0 else None for d in self.symbols)
        return TensorSpec(self.name, self.dtype, shape, self.symbols)


class Loaded(Wire):
    """Answer to `load`."""

    inputs: tuple[Io, ...]
    outputs: tuple[Io, ...]
    load_ms: float
    rss_bytes: int


class MadeUp(Wire):
    """Whether inputs were found with which the model runs; they are in the file that was named."""

    found: bool


class Predicted(Wire):
    """Answer to `predict`: outputs lie in the file that was asked for."""

    samples: int
    nan_outputs: tuple[str, ...]
    run_ms: float


class Timed(Wire):
    """Answer to `time`: one latency an inference in ms, and the CPU time of an inference in ms."""

    latencies_ms: tuple[float, ...]
    cpu_ms: float


class Failure(Wire):
    """Answer where something went wrong."""

    error: str
    kind: str


Request = dict[str, Any]
