"""Some of what clients asked lately, for an artifact without requests that the optimizer left.

The operator asks them of a new revision before clients do. Each line is a request of the Open Inference
Protocol in JSON.
"""

import json
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longshore_triton.traced import Tensor, Traced

_MOST = 16
"""Requests that are kept."""

_LARGEST = 128 << 10
"""Bytes of a request that is kept, as JSON."""

_FILLING = 1.0
_RENEWING = 10.0
"""Seconds between two requests that are kept: until there are enough, and from then on."""


class Recent:
    """The requests of one server; reads one that is traced now and then."""

    eager = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is kept yet."""
        self._clock = clock
        self._kept: deque[bytes] = deque(maxlen=_MOST)
        self._due = 0.0

    def lines(self) -> bytes:
        """Give the requests, oldest first; from any thread."""
        return b"".join(tuple(self._kept))

    def wants(self) -> float:
        """Give the share of the requests that is wanted: all, when it is time for one."""
        return 1.0 if self._clock() >= self._due else 0.0

    def take(self, request: "Traced", share: float) -> None:
        """Keep a request that is not too large, and can be written in JSON."""
        self._due = self._clock() + (_RENEWING if len(self._kept) == _MOST else _FILLING)
        inputs = request.inputs
        if sum(tensor.values.nbytes for tensor in inputs.values()) > _LARGEST:
            return
        try:
            text = json.dumps({"inputs": [_input(name, inputs[name]) for name in inputs]}, allow_nan=False)
        except ValueError:
            return
        if len(text) <= _LARGEST:
            self._kept.append(text.encode() + b"\n")

    def drop(self) -> None:
        """Wait for another one, and not at once."""
        self._due = self._clock() + _RENEWING


def _input(name: str, tensor: "Tensor") -> dict[str, object]:
    values = tensor.values.reshape(-1).tolist()
    if tensor.datatype == "BYTES":
        values = [text.decode("utf-8", "replace") for text in values]
    return {"name": name, "datatype": tensor.datatype, "shape": list(tensor.values.shape), "data": values}
