"""A few rows of the user's data as requests: a new revision is asked them before clients ask it.

They lie in the artifact as `samples.jsonl`, each line a request of the Open Inference Protocol in JSON, so
that `sed -n 1p samples.jsonl | curl -d @- .../infer` asks one by hand.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longshore_optimizer.data import Array, Dataset, TensorSpec, batches

LARGEST = 4 << 20
"""Bytes of the file: what a server gives in one answer."""

MOST = 64
"""Requests: enough to tell a wrong model from a good one."""

WIRE_TYPES = {
    "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "bool": "BOOL", "object": "BYTES",
}  # fmt: skip
"""Names of the Open Inference Protocol for numpy's."""


def write(dataset: Dataset, inputs: Sequence[TensorSpec], count: int, file: Path) -> None:
    """Write up to `count` requests, their rows spread over the data; nothing where none is small enough."""
    size = 0
    lines: list[bytes] = []
    for line in _requests(dataset, inputs, min(count, MOST)):
        size += len(line)
        if size > LARGEST:
            break
        lines.append(line)
    if lines:
        file.write_bytes(b"".join(lines))


def _requests(dataset: Dataset, inputs: Sequence[TensorSpec], count: int) -> Iterator[bytes]:
    # Data is often sorted by class: the first rows would all be of one.
    for batch in batches(dataset.spread(count), inputs):
        if sum(array.nbytes for array in batch.feeds.values() if array.dtype != object) > LARGEST:
            return
        tensors = [
            {
                "name": spec.name,
                "datatype": WIRE_TYPES[spec.dtype],
                "shape": list(batch.feeds[spec.name].shape),
                "data": _values(batch.feeds[spec.name]),
            }
            for spec in inputs
        ]
        yield json.dumps({"inputs": tensors}, ensure_ascii=False).encode() + b"\n"


def _values(array: Array) -> list[Any]:
    flat = array.reshape(-1)
    if flat.dtype in (np.float16, np.float32):
        # The shortest text that gives the same value: a third of what the same number as a double takes.
        return [float(text) for text in flat.astype(str)]
    if flat.dtype == object:
        return [
            value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in flat
        ]
    values: list[Any] = flat.tolist()
    return values
