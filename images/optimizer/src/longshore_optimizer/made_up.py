"""Makes inputs from a model's own signature where the user gave no data: finds sizes with which it runs."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from longshore_optimizer.data import Array, Dataset, Feeds, Shard, TensorSpec, batches

# Sizes tried for dimensions that may vary: modest ones first, then the usual sides of images and lengths of
# text.
SIZES = (32, 8, 1, 16, 48, 64, 128, 224, 256, 320, 384, 512, 640)
# When one size for all does not work: pairs of these for the first two kinds of dimension that differ.
_PAIRED_SIZES = (1, 2, 8, 32, 64, 224)
_MAX_ELEMENTS = 32 << 20
_ROWS = 8


@dataclass(frozen=True)
class _Attempt:
    """Sizes by the key of a dimension; `whole`: leading dimensions are no batch, each sample is all of it."""

    sizes: Mapping[str, int]
    whole: bool = False


def find(
    inputs: Sequence[TensorSpec],
    run: Callable[[Feeds], object],
    seed: int,
    left: Callable[[], float],
    rows: int = 1,
) -> Dataset | None:
    """Search sizes for free dimensions until `run` takes the first sample, or the first `rows` at once; None:
    with no size that was tried.

    Floats are standard normal, strings `a`. Integers are 0 or 1, so that they are valid as masks, token types
    and indices alike, and zeros where a model takes no others; an `attention_mask` hides the ends of rows, as
    tokenizers do: what attends to nothing is not defined. `left` tells the seconds that are left.
    """
    for attempt in _attempts(inputs):
        if left() <= 0:
            break
        if sum(prod(_shape(spec, attempt)) for spec in inputs) > _MAX_ELEMENTS:
            continue
        for zeros in (False, True):
            dataset = _dataset(inputs, attempt, seed, zeros)
            try:
                run(dict(next(batches(dataset, inputs, rows)).feeds))
            except Exception:  # noqa: BLE001, S112 - whatever a model raises, it does not take these inputs
                continue
            return dataset
    return None


def save(dataset: Dataset, path: Path) -> None:
    """Write made-up samples as the `.npz` that `data.read` takes."""
    (shard,) = dataset.shards
    plain = {n: a.astype(str) if a.dtype == object else a for n, a in shard.arrays.items()}
    np.savez(path, allow_pickle=False, **plain)


def _dataset(inputs: Sequence[TensorSpec], attempt: _Attempt, seed: int, zeros: bool) -> Dataset:
    generator = np.random.default_rng(seed)
    shared = _shared_batch(inputs)
    rows = max(_ROWS, shared)
    arrays = {}
    for spec in inputs:
        shape = _shape(spec, attempt)
        by_row = not attempt.whole and bool(shape) and _leading(spec) in (None, 1, shared)
        whole = (rows, *(shape[1:] if by_row else shape))
        if spec.name.endswith("attention_mask") and np.dtype(spec.dtype).kind in "biuf":
            arrays[spec.name] = _padded(spec.dtype, whole, generator)
        else:
            arrays[spec.name] = _values(spec.dtype, whole, generator, zeros)
    return Dataset("made-up", (Shard(arrays, None),))


def _padded(dtype: str, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Ones, at least one in a row, then zeros."""
    length = generator.integers(1, max(shape[-1], 1) + 1, (*shape[:-1], 1))
    return (np.arange(shape[-1]) < length).astype(dtype)


def _values(dtype: str, shape: tuple[int, ...], generator: np.random.Generator, zeros: bool) -> Array:
    if dtype == "object":
        return np.full(shape, "a", dtype=object)
    if dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if np.dtype(dtype).kind in "iu":
        return np.zeros(shape, dtype) if zeros else generator.integers(0, 2, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)


def _attempts(inputs: Sequence[TensorSpec]) -> Iterator[_Attempt]:
    batch = {
        _key(spec, 0) for spec in inputs if spec.shape is None or (_leading(spec) is None and spec.shape)
    }
    free = [
        _key(spec, axis)
        for spec in inputs
        for axis, size in enumerate(spec.shape or ())
        if size is None and _key(spec, axis) not in batch
    ]
    names = list(dict.fromkeys(free))
    if not names:
        yield _Attempt(dict.fromkeys(batch, 1))
    for size in SIZES if names else ():
        yield _Attempt(dict.fromkeys(batch, 1) | dict.fromkeys(names, size))
    if len(names) > 1:
        for first, second in itertools.product(_PAIRED_SIZES, repeat=2):
            if first != second:
                rest = dict.fromkeys(names[1:], second)
                yield _Attempt(dict.fromkeys(batch, 1) | {names[0]: first} | rest)
    for size in SIZES if batch else ():
        yield _Attempt(dict.fromkeys([*batch, *names], size), whole=True)


def _shared_batch(inputs: Sequence[TensorSpec]) -> int:
    """The batch size that all inputs fix alike; 1 where they do not."""
    leading = {_leading(spec) for spec in inputs if spec.shape != ()}
    return next(iter(leading)) or 1 if len(leading) == 1 else 1


def _leading(spec: TensorSpec) -> int | None:
    return spec.shape[0] if spec.shape else None


def _key(spec: TensorSpec, axis: int) -> str:
    symbol = spec.symbols[axis] if axis < len(spec.symbols) else None
    return symbol if isinstance(symbol, str) and symbol else f"{spec.name}[{axis}]"


def _shape(spec: TensorSpec, attempt: _Attempt) -> tuple[int, ...]:
    """One sample's shape, its leading dimension included; a model that tells no rank gets a vector."""
    shape = (None,) if spec.shape is None else spec.shape
    return tuple(attempt.sizes[_key(spec, a)] if size is None else size for a, size in enumerate(shape))
