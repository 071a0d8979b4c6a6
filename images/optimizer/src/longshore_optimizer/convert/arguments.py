"""The inputs of a source model, and the arrays that it is tried on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer.errors import Problem, Reason

Array = NDArray[Any]

BATCH = 4
"""Rows tried at once: torch.export takes sizes of 0 and 1 as fixed, so a free batch axis needs 2 or more."""


@dataclass(frozen=True)
class Argument:
    """One input: numpy dtype and shape where the model tells them, None for an axis of any size."""

    name: str
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None


def arrays(arguments: Sequence[Argument], stored: Mapping[str, Array], save_with: str) -> dict[str, Array]:
    """Give one array an input, samples on axis 0: by name, or the only one for the only input.

    Without stored samples they are made up from the shapes; `save_with` names what would have told them.

    Raises:
        Problem: DataShapeMismatch where an input has no array, ConversionFailed where no shape is known.
    """
    if not stored:
        return _made_up(arguments, save_with)
    if len(arguments) == 1 and len(stored) == 1:
        given = {arguments[0].name: next(iter(stored.values()))}
    else:
        given = dict(stored)
    missing = [a.name for a in arguments if a.name not in given]
    if missing:
        raise Problem(
            Reason.DATA_SHAPE_MISMATCH,
            f"the data has no array for the input {missing[0]!r}: it needs "
            f"{', '.join(a.name for a in arguments)}, and holds {', '.join(sorted(stored)[:8])}; "
            "name the arrays after the inputs",
        )
    result = {a.name: _typed(given[a.name], a.dtype) for a in arguments}
    for argument in arguments:
        _check(argument, result[argument.name])
    return result


def _check(argument: Argument, array: Array) -> None:
    if argument.shape is None:
        return
    known = zip(argument.shape[1:], array.shape[1:], strict=False)
    if len(array.shape) != len(argument.shape) or any(want not in (None, have) for want, have in known):
        wanted = ", ".join("n" if size is None else str(size) for size in (None, *argument.shape[1:]))
        raise Problem(
            Reason.DATA_SHAPE_MISMATCH,
            f"the array for the input {argument.name!r} has shape {array.shape}, the model takes ({wanted}): "
            "prepare the samples as for the model itself",
        )


def _made_up(arguments: Sequence[Argument], save_with: str) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    result: dict[str, Array] = {}
    for argument in arguments:
        if argument.shape is None:
            raise Problem(
                Reason.CONVERSION_FAILED,
                "the model does not tell the shapes of its inputs: give calibration data, whose arrays tell "
                f"them, or save it with {save_with}",
            )
        shape = tuple(BATCH if d is None else d for d in argument.shape)
        dtype = np.dtype(argument.dtype or "float32")
        values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        result[argument.name] = values.astype(dtype)
    return result


def _typed(array: Array, dtype: str | None) -> Array:
    if dtype is not None:
        return array.astype(dtype)
    return array.astype(np.float32) if array.dtype.kind == "f" else array
