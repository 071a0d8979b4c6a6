"""What a model predicts, counted in bins whose bounds never change, so that two revisions can be compared.

The bins are those of Longshore's own server (longshore_server/predictions.py): classes fall into 64 by their
number or the hash of their name, values into a binary logarithm with 32 steps an octave, of either sign. Of
each request the first row counts: rows of one request are not independent of each other.
"""

import math
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longshore_triton.traced import Array, Tensor, Traced

NAME = "longshore_predictions_total"
LEASE_SECONDS = 15.0
"""How long requests are traced after somebody asked last."""

_CLASSES = 64
_STEPS = 32
_SMALLEST = -10  # 2^-10: nearer to zero is the bin of zero
_OCTAVES = 31  # up to 2^21: farther falls into the last bin
_SIDE = _STEPS * _OCTAVES
_NAN = 2 * _SIDE + 1
_ELEMENTS = 4096


class Predictions:
    """Counts what one model predicts; reads what is traced while somebody asks for the counts."""

    eager = True

    def __init__(self, wake: Callable[[], None]) -> None:
        """Nothing is counted while nobody asks."""
        self._wake = wake
        self._end = 0.0
        self._counts: Counter[tuple[str, int]] = Counter()
        self.batched = False
        """Whether the first dimension counts rows."""

    def exposition(self) -> str:
        """Give the bins that hold something, in Prometheus's text format, and go on counting for a while."""
        self._end = time.monotonic() + LEASE_SECONDS
        self._wake()
        lines = [f"# HELP {NAME} Sampled predictions by bin", f"# TYPE {NAME} counter"]
        for (kind, number), count in sorted(self._counts.copy().items()):
            lines.append(f'{NAME}{{kind="{kind}",bin="{number}"}} {count}')
        return "\n".join(lines) + "\n"

    def wants(self) -> float:
        """Give the share of the requests that is wanted."""
        return 1.0 if time.monotonic() < self._end else 0.0

    def take(self, request: "Traced", share: float) -> None:
        """Count one request."""
        self._counts.update(bins(list(request.outputs.values()), self.batched))

    def drop(self) -> None:
        """Count nothing."""


def bins(outputs: "list[Tensor]", batched: bool) -> Iterator[tuple[str, int]]:
    """Give the bins of one answer: of its class, and of its value.

    A label (one integer, boolean or string a row) is the class, else the position of the largest of several
    scores. The value is the one number of a row, the largest of its scores, or the mean of what has more
    dimensions.
    """
    rows = [(tensor.values.dtype.kind == "f", _first_row(tensor.values, batched)) for tensor in outputs]
    label = next((row for is_float, row in rows if not is_float and row.size == 1), None)
    score = next((row for is_float, row in rows if is_float), None)
    if label is not None:
        yield "class", _class_of(label.reshape(-1).tolist()[0])
    if score is None or not score.size:
        return
    flat = score.reshape(-1)
    if score.ndim == 1 and score.size > 1:
        largest = int(flat.argmax())
        if label is None:
            yield "class", largest % _CLASSES
        yield "value", _value_bin(float(flat[largest]))
    else:
        yield "value", _value_bin(float(flat[0] if flat.size == 1 else flat[:_ELEMENTS].mean()))


def _first_row(values: "Array", batched: bool) -> "Array":
    if values.ndim > 1 or (batched and values.ndim):
        return values[:1].reshape(values.shape[1:]) if len(values) else values
    return values


def _class_of(label: object) -> int:
    if isinstance(label, bytes):
        return zlib.crc32(label) % _CLASSES
    return int(label) % _CLASSES  # type: ignore[call-overload,no-any-return]  # a whole number or a boolean


def _value_bin(value: float) -> int:
    if value != value:
        return _NAN
    if math.isinf(value):
        return _SIDE + (_SIDE if value > 0 else -_SIDE)
    fraction, exponent = math.frexp(abs(value))
    octave = exponent - 1 - _SMALLEST
    if octave < 0 or not value:
        return _SIDE
    step = min(octave * _STEPS + int((fraction - 0.5) * 2 * _STEPS), _SIDE - 1) + 1
    return _SIDE + step if value > 0 else _SIDE - step
