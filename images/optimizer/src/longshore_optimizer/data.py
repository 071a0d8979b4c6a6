"""Calibration and evaluation data: `.npz` files or directories of shards, checked against the model's
inputs."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshore_optimizer.errors import Problem, Reason

LABELS = "labels"
_SHARDS = 10_000

Array = NDArray[Any]
Feeds = dict[str, Array]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an ONNX model: numpy dtype name and shape, None where a dimension is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    symbols: tuple[int | str | None, ...] = ()

    @property
    def rank(self) -> int | None:
        """Number of dimensions, None where the model does not say."""
        return None if self.shape is None else len(self.shape)


@dataclass(frozen=True)
class Shard:
    """Samples that share one shape: arrays with the samples on axis 0, and labels (None where absent)."""

    arrays: Mapping[str, Array]
    labels: Array | None

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(next(iter(self.arrays.values())))


@dataclass(frozen=True)
class Dataset:
    """Samples for a model; `name` says in messages which data it is (calibration, evaluation, training)."""

    name: str
    shards: tuple[Shard, ...]

    @property
    def count(self) -> int:
        """Number of samples in all shards."""
        return sum(s.count for s in self.shards)

    @property
    def labels(self) -> Array | None:
        """All labels in order, None where a shard has none; ragged labels come as an object array."""
        parts = [s.labels for s in self.shards]
        if any(p is None for p in parts) or not parts:
            return None
        arrays = [p for p in parts if p is not None]
        if len({a.shape[1:] for a in arrays}) == 1:
            return np.concatenate(arrays)
        ragged = np.empty(sum(len(a) for a in arrays), dtype=object)
        ragged[:] = [row for a in arrays for row in a]
        return ragged

    def head(self, count: int) -> "Dataset":
        """Give the first `count` samples."""
        shards: list[Shard] = []
        left = count
        for shard in self.shards:
            if left <= 0:
                break
            take = min(left, shard.count)
            labels = shard.labels[:take] if shard.labels is not None else None
            shards.append(Shard({k: v[:take] for k, v in shard.arrays.items()}, labels))
            left -= take
        return Dataset(self.name, tuple(shards))

    def spread(self, count: int) -> "Dataset":
        """Give at most `count` samples, at even distances, in order."""
        if count >= self.count:
            return self
        wanted = np.linspace(0, self.count - 1, count).round().astype(int)
        shards: list[Shard] = []
        before = 0
        for shard in self.shards:
            own = wanted[(wanted >= before) & (wanted < before + shard.count)] - before
            if own.size:
                labels = shard.labels[own] if shard.labels is not None else None
                shards.append(Shard({k: v[own] for k, v in shard.arrays.items()}, labels))
            before += shard.count
        return Dataset(self.name, tuple(shards))


def read(path: Path, name: str, inputs: Sequence[TensorSpec], *, max_bytes: int = 8 << 30) -> Dataset:
    """Read a `.npz`, or a directory of them in name order, and check it against the model's inputs.

    Arrays carry the samples on axis 0. An input without a batch axis takes one sample at a time. Labels
    lie in `labels`. `max_bytes` bounds the unpacked size.

    Raises:
        Problem: InvalidData, EmptyData, DataShapeMismatch or DataTypeMismatch.
    """
    files = sorted(path.rglob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise Problem(
            Reason.EMPTY_DATA,
            f"the {name} data {path.name} holds no .npz file: write shards with numpy.savez",
        )
    if len(files) > _SHARDS:
        raise Problem(
            Reason.INVALID_DATA, f"the {name} data has over {_SHARDS} shards: write fewer, larger ones"
        )
    shards: list[Shard] = []
    budget = max_bytes
    for file in files:
        arrays = _read_npz(file, name, budget)
        budget -= sum(a.nbytes for a in arrays.values())
        shard = _check(arrays, name, file.name, inputs)
        if shard.count:
            shards.append(shard)
    if not shards:
        raise Problem(
            Reason.EMPTY_DATA, f"the {name} data is empty: give at least one sample (hundreds are better)"
        )
    return Dataset(name, tuple(shards))


def _read_npz(path: Path, name: str, budget: int) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as bundle:
            size = sum(info.file_size for info in bundle.infolist())
        if size > budget:
            raise Problem(
                Reason.TOO_LARGE, f"the {name} data unpacks to more than {budget} bytes: use fewer samples"
            )
        with np.load(path, allow_pickle=False) as loaded:
            return {k: loaded[k] for k in loaded.files}
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise Problem(
                Reason.INVALID_DATA,
                f"the {name} data {path.name} holds Python objects, which are not loaded: save plain arrays "
                "(fixed-width strings with dtype=str)",
            ) from error
        raise Problem(
            Reason.INVALID_DATA,
            f"the {name} data {path.name} is no readable .npz ({error}): write it with numpy.savez",
        ) from error


def _check(arrays: dict[str, Array], name: str, file: str, inputs: Sequence[TensorSpec]) -> Shard:
    labels = arrays.pop(LABELS, None) if LABELS not in {i.name for i in inputs} else arrays.get(LABELS)
    if len(inputs) == 1 and inputs[0].name not in arrays and len(arrays) == 1:
        # One array for one input can only mean that input, whatever its name.
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    checked: dict[str, Array] = {}
    for spec in inputs:
        if spec.name not in arrays:
            raise Problem(
                Reason.INVALID_DATA,
                f"the {name} data {file} has no array {spec.name!r}: it has "
                f"{', '.join(sorted(arrays)) or 'none'}; "
                f"name the arrays after the model's inputs ({', '.join(i.name for i in inputs)})",
            )
        checked[spec.name] = _as_column(_cast(arrays[spec.name], spec, name), spec)
        _check_shape(checked[spec.name], spec, name)
    counts = {k: len(v) for k, v in checked.items()}
    if labels is not None:
        counts[LABELS] = len(labels) if labels.ndim else 0
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{k}: {v}" for k, v in counts.items())
        raise Problem(
            Reason.INVALID_DATA,
            f"the arrays of the {name} data {file} differ in length ({listed}): align them",
        )
    return Shard(checked, labels)


def _cast(array: Array, spec: TensorSpec, name: str) -> Array:
    """Give the array in the model's dtype where no value can change its meaning."""
    wanted = np.dtype(object) if spec.dtype == "object" else np.dtype(spec.dtype)
    if wanted.kind == "O":
        if array.dtype.kind in "US":
            return array.astype(object)
        return _refuse_dtype(array, spec, name)
    same_kind = (array.dtype.kind, wanted.kind) in {
        ("f", "f"),
        ("i", "i"),
        ("u", "u"),
        ("u", "i"),
        ("i", "u"),
        ("b", "b"),
    }
    if array.dtype == wanted:
        result = array
    elif same_kind:
        result = array.astype(wanted)
        if wanted.kind in "iu" and not np.array_equal(result, array):
            return _refuse_dtype(array, spec, name)
    else:
        return _refuse_dtype(array, spec, name)
    if result.dtype.kind == "f" and not np.isfinite(result).all():
        raise Problem(
            Reason.INVALID_DATA,
            f"the {name} data for input {spec.name!r} holds NaN or infinite values: clean the data",
        )
    return np.ascontiguousarray(result)


def _refuse_dtype(array: Array, spec: TensorSpec, name: str) -> Array:
    wanted = "strings" if spec.dtype == "object" else spec.dtype
    raise Problem(
        Reason.DATA_TYPE_MISMATCH,
        f"the {name} data for input {spec.name!r} has dtype {array.dtype}, the model takes {wanted}: "
        "convert the array",
    )


def is_batched(array_rank: int, spec: TensorSpec) -> bool:
    """Tell whether axis 0 of the data is the input's own batch axis; else each sample is a whole input."""
    return spec.rank is None or array_rank == spec.rank


def _as_column(array: Array, spec: TensorSpec) -> Array:
    """Give one value a sample the shape that an input of one value a sample has: (n,) becomes (n, 1)."""
    if array.ndim == 1 and spec.shape is not None and len(spec.shape) > 1 and set(spec.shape[1:]) == {1}:
        return array.reshape(-1, *spec.shape[1:])
    return array


def _check_shape(array: Array, spec: TensorSpec, name: str) -> None:
    if spec.shape is None:
        fits = array.ndim >= 1
    elif array.ndim == len(spec.shape) and array.ndim >= 1:
        fits = all(w is None or w == g for w, g in zip(spec.shape[1:], array.shape[1:], strict=True))
    elif array.ndim == len(spec.shape) + 1:
        fits = all(w is None or w == g for w, g in zip(spec.shape, array.shape[1:], strict=True))
    else:
        fits = False
    if not fits:
        wanted = spec.shape or ()
        rows = ["n", *("any" if d is None else str(d) for d in wanted[1:])] if wanted else ["n"]
        raise Problem(
            Reason.DATA_SHAPE_MISMATCH,
            f"the {name} data for input {spec.name!r} has shape {tuple(array.shape)}, the model takes "
            f"({', '.join(rows)}) with n samples: reshape the array",
        )


@dataclass(frozen=True)
class Batch:
    """Feeds for one run of `rows` samples, of which `count` count (a fixed batch size may need padding)."""

    feeds: Feeds
    count: int
    rows: int
    batched: bool


def batches(dataset: Dataset, inputs: Sequence[TensorSpec], size: int = 1) -> Iterator[Batch]:
    """Cut a dataset into runs of at most `size` samples; a batch size fixed in the model wins.

    The last batch of a model with a fixed batch size is padded with its last sample.
    """
    for shard in dataset.shards:
        batched = [is_batched(shard.arrays[i.name].ndim, i) for i in inputs]
        whole = all(batched)
        fixed = next(
            (i.shape[0] for i, b in zip(inputs, batched, strict=True) if b and i.shape and i.shape[0]), None
        )
        step = fixed or size if whole else 1
        for start in range(0, shard.count, step):
            count = min(step, shard.count - start)
            rows = fixed or count if whole else 1
            feeds: Feeds = {}
            for spec, has_batch in zip(inputs, batched, strict=True):
                array = shard.arrays[spec.name]
                if not has_batch:
                    feeds[spec.name] = np.asarray(array[start])
                    continue
                part = array[start : start + count]
                if len(part) < rows:
                    part = np.concatenate([part, np.repeat(part[-1:], rows - len(part), axis=0)])
                feeds[spec.name] = part
            yield Batch(feeds, count, rows, whole)
