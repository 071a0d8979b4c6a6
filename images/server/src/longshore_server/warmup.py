"""Makes inputs from a model's own signature, runs it, and learns from that: does it work, may rows be joined,
how long does a batch take.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from longshore_server.cost import CostModel
from longshore_server.dtypes import BF16, Array, Kind, float_to_bf16
from longshore_server.errors import RequestError
from longshore_server.session import Signature, TensorSpec

Run = Callable[[Sequence[Array]], list[Array]]
Inputs = tuple[Array, ...]
"""One request's arrays, in the signature's order."""

# Sizes tried for dimensions that may vary: modest ones first, then the usual sides of images and lengths of
# text.
SIZES = (32, 8, 1, 16, 48, 64, 128, 224, 256, 320, 384, 512, 640)
# When one size for all does not work: pairs of these for the first two kinds of dimension that differ.
_PAIRED_SIZES = (1, 2, 8, 32, 64, 224)
_MAX_ELEMENTS = 32 << 20
_SEED = 20240229


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs on which the model has run; `recorded` holds all of their shapes, None: they are made up."""

    inputs: Inputs
    recorded: tuple[Inputs, ...] | None = None


@dataclass(frozen=True, slots=True)
class Attempts:
    """What was tried in vain: `sizes` in order, and the runtime's `last_error`."""

    sizes: tuple[int, ...]
    last_error: str


def find_sample(signature: Signature, run: Run, budget: float) -> Sample | Attempts:
    """Search sizes for the model's free dimensions until it runs, for at most `budget` seconds."""
    started = time.monotonic()
    tried: list[int] = []
    last = "no time to try"
    for sizes in _assignments(signature):
        if time.monotonic() - started > budget and tried:
            break
        shapes = [_fill(spec, sizes) for spec in signature.inputs]
        if sum(map(prod, shapes)) > _MAX_ELEMENTS:
            continue
        tried.append(max(sizes.values(), default=0))
        for zeros in (False, True):
            inputs = tuple(
                np.zeros(shape, spec.datatype.numpy)
                if zeros and spec.datatype.kind is Kind.INTEGER
                else make_input(spec, shape, 0)
                for spec, shape in zip(signature.inputs, shapes, strict=True)
            )
            try:
                run(inputs)
            except RequestError as error:
                last = error.message
            else:
                return Sample(inputs)
    return Attempts(tuple(dict.fromkeys(tried)), last)


def may_have_batch_axis(signature: Signature) -> bool:
    """Whether every input and output begins with a free dimension, of one name where it has names."""
    specs = (*signature.inputs, *signature.outputs)
    if any(not spec.shape or spec.shape[0] != -1 for spec in specs):
        return False
    return len({spec.symbols[0] for spec in signature.inputs}) == 1


def proves_batching(signature: Signature, run: Run, sample: Sample) -> bool:
    """Whether rows give the same answers together as alone; not proven by a single recorded one.

    A free leading dimension does not prove that: it may be a sequence, and models quantized dynamically
    take one scale for the whole batch, so that one client's values would change another's answers.
    """
    recorded, inputs = sample.recorded, sample.inputs
    mismatches = turns = 0
    for rows in _random_pairs(signature, inputs) if recorded is None else pairwise(recorded):
        turns += 1
        try:
            alone = [run(row) for row in rows]
            together = run([np.concatenate(pair) for pair in zip(*rows, strict=True)])
        except RequestError:
            return False
        for spec, whole, *parts in zip(signature.outputs, together, *alone, strict=True):
            if whole.ndim == 0 or any(part.ndim == 0 or part.shape[0] != 1 for part in parts):
                return False
            expected = [part.shape[1:] for part in parts]
            if whole.shape[0] != len(parts) or any(shape != whole.shape[1:] for shape in expected):
                return False
            if spec.datatype.kind is Kind.FLOAT and spec.datatype is not BF16:
                if not _close(whole, np.concatenate(parts)):
                    return False
            elif not np.array_equal(whole, np.concatenate(parts)):
                # Two classes may tie: a sound model can differ in a label once, not each time.
                mismatches += 1
    return mismatches < turns


def _random_pairs(signature: Signature, inputs: Inputs) -> Iterator[tuple[Inputs, Inputs]]:
    """Three pairs of random rows of the shapes of `inputs`, each made when it is asked for."""
    for seed in range(1, 7, 2):
        first, second = (
            tuple(
                make_input(spec, array.shape, seed + row)
                for spec, array in zip(signature.inputs, inputs, strict=True)
            )
            for row in range(2)
        )
        yield first, second


def measure(
    signature: Signature, run: Run, sample: Sample, batched: bool, most: int, budget: float
) -> CostModel:
    """Measure t(rows) on growing batches of the sample for about `budget` seconds."""
    cost = CostModel()
    started = time.perf_counter()
    rows = 1
    while True:
        inputs = (
            [np.repeat(array, rows, axis=0) for array in sample.inputs] if batched else list(sample.inputs)
        )
        taken = []
        try:
            for _ in range(3):
                before = time.perf_counter()
                run(inputs)
                taken.append(time.perf_counter() - before)
                if time.perf_counter() - started > budget:
                    break
        except RequestError:
            break  # a batch too large for memory: what was measured so far stands
        cost.observe(rows, min(taken))
        rows *= 4
        if not batched or rows > most or time.perf_counter() - started > budget:
            break
    return cost


def make_input(spec: TensorSpec, shape: Sequence[int], seed: int) -> Array:
    """Plausible values: floats in [0, 1), small whole numbers (valid as ids), true, short strings."""
    # Not NumPy's generators: their modules alone would take a twentieth of a small model's start.
    generator = random.Random(_SEED + seed)  # noqa: S311 - plausible values, no secret
    count = prod(shape)
    kind = spec.datatype.kind
    if kind is Kind.STRING:
        array: Array = np.empty(tuple(shape), object)
        array.fill("a")
        return array
    if kind is Kind.BOOLEAN:
        return np.ones(shape, bool)
    if kind is Kind.INTEGER:
        bits = np.frombuffer(generator.randbytes(count), np.uint8).reshape(shape) & 1
        return (bits if seed else np.ones(shape)).astype(spec.datatype.numpy)
    # The 24 upper bits of each word: as many as a float32 in [0, 1) tells apart.
    words = np.frombuffer(generator.randbytes(4 * count), np.uint32).reshape(shape) >> 8
    floats = words.astype(np.float32) * np.float32(2.0**-24)
    return float_to_bf16(floats) if spec.datatype is BF16 else floats.astype(spec.datatype.numpy)


def _assignments(signature: Signature) -> Iterator[dict[str, int]]:
    """Sizes for the free dimensions, each under its symbol or its place; the leading ones are 1."""
    batch = {_key(spec, 0) for spec in signature.inputs if spec.shape and spec.shape[0] == -1}
    free = [
        _key(spec, axis)
        for spec in signature.inputs
        for axis, size in enumerate(spec.shape)
        if size == -1 and _key(spec, axis) not in batch
    ]
    names = list(dict.fromkeys(free))
    if not names:
        yield dict.fromkeys(batch, 1)
    for size in SIZES if names else ():
        yield dict.fromkeys(batch, 1) | dict.fromkeys(names, size)
    if len(names) > 1:
        for first, second in itertools.product(_PAIRED_SIZES, repeat=2):
            if first != second:
                rest = dict.fromkeys(names[1:], second)
                yield dict.fromkeys(batch, 1) | {names[0]: first} | rest
    for size in SIZES[1:]:  # models whose leading dimension is no batch
        yield dict.fromkeys([*batch, *names], size)


def _key(spec: TensorSpec, axis: int) -> str:
    return spec.symbols[axis] or f"{spec.name}[{axis}]"


def _fill(spec: TensorSpec, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[_key(spec, axis)] if size == -1 else size for axis, size in enumerate(spec.shape))


def _close(whole: Array, parts: Array) -> bool:
    """Equal up to what another order of summation may change: 1e-3 of each value or of the largest one."""
    if whole.size == 0:
        return True
    wide, narrow = whole.astype(np.float64), parts.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(finite, np.isfinite(narrow)):
        return False
    largest = float(np.max(np.abs(narrow[finite]), initial=0.0))
    return bool(
        np.all(np.abs(wide[finite] - narrow[finite]) <= 1e-3 * np.abs(narrow[finite]) + 1e-4 * largest)
    )
