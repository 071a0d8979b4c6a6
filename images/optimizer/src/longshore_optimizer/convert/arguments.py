"""The inputs of a source model, and the samples that it is tried on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer import made_up
from longshore_optimizer.convert import samples
from longshore_optimizer.data import Dataset, Feeds, TensorSpec, batches, read
from longshore_optimizer.errors import Problem, Reason

Array = NDArray[Any]

BATCH = 4
"""Rows tried at once: torch.export takes sizes of 0 and 1 as fixed, so a free batch axis needs 2 or more."""

_MAKING_UP = 60.0
"""Seconds for finding sizes with which the source model runs."""


@dataclass(frozen=True)
class Argument:
    """One input: numpy dtype and shape where the model tells them, None for an axis of any size, which
    `symbols` may name."""

    name: str
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    symbols: tuple[int | str | None, ...] = ()


@dataclass(frozen=True)
class Material:
    """Samples for a source model, checked against its inputs."""

    inputs: tuple[TensorSpec, ...]
    dataset: Dataset

    def example(self, rows: int) -> tuple[Array, ...]:
        """Give what one call takes, of at most so many samples, in the order of the inputs."""
        feeds = next(batches(self.dataset, self.inputs, rows)).feeds
        return tuple(np.ascontiguousarray(feeds[spec.name]) for spec in self.inputs)


def material(
    arguments: Sequence[Argument], stored: Path | None, run: Callable[..., object], save_with: str
) -> Material:
    """Give samples: those stored as `.npz` by name, or the only array for the only input.

    Without any they are made up, of sizes with which `run` takes the inputs in their order; `save_with` names
    what would have told their shapes.

    Raises:
        Problem: as `data.read`, ConversionFailed where no shape is known or no size works.
    """
    if stored is not None:
        inputs = _typed(arguments, stored)
        return Material(inputs, read(stored, "sample", inputs).head(samples.MOST))
    if any(a.shape is None for a in arguments):
        raise Problem(
            Reason.CONVERSION_FAILED,
            "the model does not tell the shapes of its inputs: give calibration data, whose arrays tell "
            f"them, or save it with {save_with}",
        )
    inputs = tuple(TensorSpec(a.name, a.dtype or "float32", a.shape, a.symbols) for a in arguments)
    deadline = time.monotonic() + _MAKING_UP

    def runs(feeds: Feeds) -> object:
        return run(*(np.ascontiguousarray(feeds[spec.name]) for spec in inputs))

    def left() -> float:
        return deadline - time.monotonic()

    # A program may have been exported for two rows and more.
    found = made_up.find(inputs, runs, 0, left) or made_up.find(inputs, runs, 0, left, rows=BATCH)
    if found is None:
        raise Problem(
            Reason.CONVERSION_FAILED,
            "the model runs on no inputs that were made up from its shapes: give calibration data, whose "
            "arrays tell what it takes",
        )
    return Material(inputs, found)


def _typed(arguments: Sequence[Argument], stored: Path) -> tuple[TensorSpec, ...]:
    """The inputs with the dtypes of the stored arrays where the model tells none."""
    arrays = samples.stored(stored, 1) if any(a.dtype is None for a in arguments) else {}
    only = next(iter(arrays.values())) if len(arguments) == 1 and len(arrays) == 1 else None
    result = []
    for argument in arguments:
        array = arrays.get(argument.name, only)
        told = array.dtype.name if array is not None and array.dtype.kind in "iub" else "float32"
        result.append(TensorSpec(argument.name, argument.dtype or told, argument.shape, argument.symbols))
    return tuple(result)
