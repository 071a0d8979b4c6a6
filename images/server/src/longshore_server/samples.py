"""Requests that were recorded: those that the optimizer left beside the model, else some of the traffic.

The operator asks them of a new revision before clients do. Each line is a request of the Open Inference
Protocol in JSON.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from longshore_server.dtypes import BF16, bf16_to_float
from longshore_server.inference import payload_length

if TYPE_CHECKING:
    from longshore_server.inference import Group, Payload, Work
    from longshore_server.session import Signature, TensorSpec

_log = logging.getLogger(__name__)

EVALUATION = "evaluation"
TRAFFIC = "traffic"

LARGEST = 4 << 20
"""Bytes of all requests together."""

_MOST = 16
"""Requests of the traffic that are kept."""

_LARGEST_REQUEST = 128 << 10
"""Bytes of the inputs of a request that is kept: all of them stay below 2 MiB of a worker's memory."""

_FILLING = 1.0
_RENEWING = 10.0
"""Seconds between two requests that are kept: until there are enough, and from then on."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A request as it came; its payloads are its own."""

    group: "Group"
    rows: int
    payloads: "list[Payload]"


class Samples:
    """The recorded requests of one worker."""

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`file` holds what the optimizer left, one request a line; None: the traffic is sampled."""
        self._file = file
        self._clock = clock
        self._kept: deque[_Kept] = deque(maxlen=_MOST)
        self._due = 0.0

    @property
    def source(self) -> str:
        """Where the requests come from."""
        return TRAFFIC if self._file is None else EVALUATION

    def observe(self, works: "Sequence[Work]") -> None:
        """These requests were answered: now and then one is kept. For the event loop's thread."""
        if self._file is not None or self._clock() < self._due:
            return
        work = works[0]
        if work.copied or sum(map(payload_length, work.payloads)) > _LARGEST_REQUEST:
            return
        full = len(self._kept) == _MOST
        self._due = self._clock() + (_RENEWING if full else _FILLING)
        # Payloads may be views of a buffer that the next request is received into.
        payloads = [list(p) if isinstance(p, list) else bytes(p) for p in work.payloads]
        self._kept.append(_Kept(work.group, work.rows, payloads))

    def lines(self, signature: "Signature") -> bytes:
        """Give the requests, at most `LARGEST` bytes of whole lines; from any thread."""
        if self._file is not None:
            return _whole_lines(self._file)
        written, size = [], 0
        for kept in tuple(self._kept):
            line = _encode(signature, kept)
            size += len(line) + 1
            if size > LARGEST:
                break
            written.append(line + b"\n")
        return b"".join(written)


def _whole_lines(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            found = stream.read(LARGEST + 1)
    except OSError as error:
        _log.warning("cannot read %s: %s", file, error.strerror)
        return b""
    if len(found) <= LARGEST:
        return found
    return found[: found.rfind(b"\n", 0, LARGEST) + 1]


def _encode(signature: "Signature", kept: _Kept) -> bytes:
    inputs = []
    for spec, shape, payload in zip(signature.inputs, kept.group.shapes, kept.payloads, strict=True):
        inputs.append(
            {
                "name": spec.name,
                "datatype": spec.datatype.name,
                "shape": [kept.rows, *shape] if kept.group.batched else list(shape),
                "data": _values(spec, payload),
            }
        )
    return orjson.dumps({"inputs": inputs}, option=orjson.OPT_SERIALIZE_NUMPY)


def _values(spec: "TensorSpec", payload: "Payload") -> object:
    if spec.datatype.is_bytes:
        return [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in payload]
    array = np.frombuffer(payload, dtype=spec.datatype.numpy)
    return np.ascontiguousarray(bf16_to_float(array)) if spec.datatype is BF16 else array
