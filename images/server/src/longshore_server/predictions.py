"""What a model predicts, counted in bins whose bounds never change, so that two revisions can be compared.

Classes fall into 64 bins by their number (or the hash of their name). Values fall into bins of a binary
logarithm with 32 steps an octave, of either sign, so no range need be known beforehand. Of each batch a few
requests count, of each of them the first row, and of batches at most a thousand a second, fewer when that
would take more than a hundredth of the time: requests are independent of each other, rows of one request are
not, and counting must cost next to nothing.
"""

import math
import mmap
import time
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from longshore_server.dtypes import BF16, Array, Kind, bf16_to_float

if TYPE_CHECKING:
    from longshore_server.inference import Outputs, Work

NAME = "longshore_predictions_total"

_CLASSES = 64
_STEPS = 32
_SMALLEST = -10  # 2^-10: nearer to zero is the bin of zero
_OCTAVES = 31  # up to 2^21: farther falls into the last bin
_SIDE = _STEPS * _OCTAVES
_ZERO = _CLASSES + _SIDE
_NAN = _ZERO + _SIDE + 1
_WIDTH = _NAN + 1
_INTERVAL = 1e-3
_SHARE = 0.01  # the most of the time that counting may take: wide outputs are counted less often
_REQUESTS = 4
_ELEMENTS = 4096


class PredictionMemory:
    """The counts of all workers; made before they are forked."""

    def __init__(self, workers: int) -> None:
        """Room for `workers` rows, all zero."""
        self._map = mmap.mmap(-1, max(workers * _WIDTH * 8, mmap.PAGESIZE))
        self.workers = workers

    def row(self, worker: int) -> "memoryview[float]":
        """The row that `worker` writes."""
        return memoryview(self._map).cast("d")[worker * _WIDTH : (worker + 1) * _WIDTH]

    def exposition(self, labels: str) -> bytes:
        """The bins that hold something, in Prometheus text format 0.0.4; `labels` without braces."""
        counts = np.frombuffer(self._map, np.float64, self.workers * _WIDTH)
        sums = counts.reshape(self.workers, _WIDTH).sum(axis=0)
        lines = [f"# HELP {NAME} Sampled predictions by bin", f"# TYPE {NAME} counter"]
        prefix = f"{labels}," if labels else ""
        for index in np.flatnonzero(sums):
            kind, number = ("class", index) if index < _CLASSES else ("value", index - _CLASSES)
            lines.append(f'{NAME}{{{prefix}kind="{kind}",bin="{number}"}} {int(sums[index])}')
        return ("\n".join(lines) + "\n").encode()


class Predictions:
    """Counts what one worker's model predicts."""

    def __init__(self, row: "memoryview[float]", clock: Callable[[], float] = time.perf_counter) -> None:
        """`row` is written by this worker only; `clock` in seconds measures what counting costs."""
        self._row = row
        self._clock = clock
        self._due = 0.0
        self._count: Callable[[Outputs, int], None] | None = None

    def observe(self, works: "Sequence[Work]", outputs: "Outputs", now: float) -> None:
        """Count a batch's answers, if it is time again; `now` in seconds on any monotonic clock."""
        if now < self._due:
            return
        began = self._clock()
        count = self._count
        if count is None:
            count = self._count = self._chosen(outputs)
        start = 0
        for work in works[:_REQUESTS]:
            if work.rows:
                count(outputs, start)
            start += work.rows
        self._due = now + max(_INTERVAL, (self._clock() - began) / _SHARE)

    def _chosen(self, outputs: "Outputs") -> "Callable[[Outputs, int], None]":
        """Choose once what of a model's outputs is its class, and what its value.

        A label (one integer, boolean or string a row) is the class, else the position of the largest of
        several scores. The value is the one number of a row, the largest of its scores, or the mean of what
        has more dimensions.
        """
        specs = outputs.signature.outputs
        rows = [_row_of(outputs, index, 0) for index in range(len(specs))]
        floats = [index for index, spec in enumerate(specs) if spec.datatype.kind is Kind.FLOAT]
        labels = [i for i, spec in enumerate(specs) if i not in floats and rows[i].size == 1]
        label = labels[0] if labels else None
        score = floats[0] if floats else None
        scores = score is not None and rows[score].ndim == 1 and rows[score].size > 1

        def count(found: "Outputs", start: int) -> None:
            if label is not None:
                named = _row_of(found, label, start).reshape(-1)
                if named.size:
                    self._row[_class_of(named[0])] += 1
            if score is None:
                return
            row = _row_of(found, score, start).reshape(-1)
            if not row.size:
                return
            if specs[score].datatype is BF16:
                row = bf16_to_float(row)
            if scores:
                largest = int(row.argmax())
                value = row[largest]
                if label is None:
                    self._row[largest % _CLASSES] += 1
            else:
                value = row[0] if row.size == 1 else row[:_ELEMENTS].mean()
            self._row[_value_bin(float(value))] += 1

        return count


def _row_of(outputs: "Outputs", index: int, start: int) -> Array:
    array = outputs.arrays[index]
    if outputs.batched:
        return np.asarray(array[start])
    return array if array.ndim <= 1 or not len(array) else np.asarray(array[0])


def _class_of(label: object) -> int:
    if isinstance(label, str | bytes):
        text = label.encode() if isinstance(label, str) else label
        return zlib.crc32(text) % _CLASSES
    return int(label) % _CLASSES  # type: ignore[call-overload,no-any-return]  # a numpy integer or boolean


def _value_bin(value: float) -> int:
    if value != value:
        return _NAN
    if math.isinf(value):
        return _ZERO + (_SIDE if value > 0 else -_SIDE)
    fraction, exponent = math.frexp(abs(value))
    octave = exponent - 1 - _SMALLEST
    if octave < 0 or not value:
        return _ZERO
    step = min(octave * _STEPS + int((fraction - 0.5) * 2 * _STEPS), _SIDE - 1) + 1
    return _ZERO + step if value > 0 else _ZERO - step
