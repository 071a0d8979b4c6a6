"""Collects a model's outputs sample by sample, and moves them between processes as `.npz`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer.data import Batch

Array = NDArray[Any]


def collect(names: Sequence[str], runs: Sequence[tuple[Batch, Sequence[Any]]]) -> dict[str, list[Array]]:
    """Split each run's outputs into samples.

    An output that carries the batch axis gives one row a sample; any other belongs to its run as a whole.
    """
    result: dict[str, list[Array]] = {name: [] for name in names}
    for batch, values in runs:
        for name, value in zip(names, values, strict=True):
            array = np.asarray(value)
            carries_batch = batch.batched and array.ndim >= 1 and len(array) == batch.rows
            # A row of strings is a plain `str`.
            result[name] += [np.asarray(row) for row in array[: batch.count]] if carries_batch else [array]
    return result


def save(path: Path, outputs: dict[str, list[Array]]) -> None:
    """Write outputs: one array where all samples have one shape, else one array a sample."""
    arrays: dict[str, Array] = {}
    for position, rows in enumerate(outputs.values()):
        plain = [r.astype(str) if r.dtype.kind == "O" else r for r in rows]
        if len({(r.shape, r.dtype.kind) for r in plain}) == 1:
            arrays[f"{position}"] = np.stack(plain)
        else:
            arrays |= {f"{position}.{number}": row for number, row in enumerate(plain)}
    names = np.array(list(outputs), dtype=str)
    with path.open("wb") as file:
        np.savez(file, names=names, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> dict[str, Array]:
    """Read what `save` wrote; samples of different shapes come as an object array of arrays."""
    with np.load(path, allow_pickle=False) as stored:
        result: dict[str, Array] = {}
        for position, name in enumerate(stored["names"]):
            key = f"{position}"
            if key in stored.files:
                result[str(name)] = stored[key]
                continue
            count = sum(1 for f in stored.files if f.startswith(f"{position}."))
            ragged = np.empty(count, dtype=object)
            for number in range(count):
                ragged[number] = stored[f"{position}.{number}"]
            result[str(name)] = ragged
        return result
