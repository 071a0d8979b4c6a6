"""Copies of requests: asked of another revision over the Open Inference Protocol, and the answers compared.

An answer is the same when it has the same outputs, each of the same datatype and shape, and: numbers with a
fraction are near (the Euclidean distance of each row is within `tolerance` of the row's own length), whole
numbers, booleans and strings are equal. Longshore's own server compares so too.
"""

import http.client
import json
import struct
import time
from collections.abc import Collection, Mapping
from math import prod
from typing import Any
from urllib.parse import quote

import numpy as np

from longshore_triton.mirror import Target
from longshore_triton.traced import DTYPES, MOST_RANK, MOST_TENSORS, Array, Tensor

KEY_HEADER = "Longshore-Mirror-Key"
"""Header that says: this is a copy of a request, and the sender knows the key."""

LARGEST = 8 << 20
"""Bytes of a request, or of an answer, up to which it is copied and compared."""

_NOTHING = 1e-6
"""Distance that two rows of zeros may have."""


class BadAnswerError(Exception):
    """What came back is no answer of the protocol, or none at all."""


def ask(target: Target, inputs: Mapping[str, Tensor], outputs: Collection[str] = ()) -> dict[str, Tensor]:
    """Ask for what was asked here, on a connection of its own: a Service spreads connections, not requests.

    Args:
        target: who is asked.
        inputs: by name.
        outputs: names of those that are wanted; none are all that there are.

    Raises:
        BadAnswerError: no answer in time, another status than 200, or no answer of the protocol.
    """
    body, length = _encode(inputs, outputs)
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(length),
        KEY_HEADER: target.key,
    }
    connection = http.client.HTTPConnection(target.host, target.port, timeout=target.seconds)
    try:
        connection.request("POST", f"/v2/models/{quote(target.model, safe='')}/infer", body, headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise BadAnswerError(f"HTTP {answer.status}")
        return _decode(
            _read(answer, time.monotonic() + target.seconds),
            answer.headers.get("Inference-Header-Content-Length", ""),
        )
    except (OSError, http.client.HTTPException) as error:
        raise BadAnswerError(str(error) or type(error).__name__) from None
    finally:
        connection.close()


def _read(answer: http.client.HTTPResponse, end: float) -> bytes:
    """Read an answer up to `LARGEST` bytes, until the moment `end`. Raises BadAnswerError, OSError."""
    found = bytearray()
    while piece := answer.read1(64 << 10):
        found += piece
        if len(found) > LARGEST:
            raise BadAnswerError(f"it is longer than {LARGEST} bytes")
        if time.monotonic() > end:
            raise BadAnswerError("it takes too long")
    return bytes(found)


def same(own: Mapping[str, Tensor], other: Mapping[str, Tensor], rows: bool, tolerance: float) -> bool:
    """Compare an answer with one's own.

    Args:
        own: one's own outputs by name.
        other: the other's.
        rows: the first dimension counts rows that are independent of each other.
        tolerance: see above.
    """
    if own.keys() != other.keys():
        return False
    return all(_same_values(tensor, other[name], rows, tolerance) for name, tensor in own.items())


def _same_values(own: Tensor, other: Tensor, rows: bool, tolerance: float) -> bool:
    if own.datatype != other.datatype or own.values.shape != other.values.shape:
        return False
    if own.datatype == "BYTES":
        return bool(own.values.reshape(-1).tolist() == other.values.reshape(-1).tolist())
    if own.values.dtype.kind != "f":
        return bool(np.array_equal(own.values, other.values))
    if not own.values.size:
        return True
    count = own.values.shape[0] if rows and own.values.ndim else 1
    mine, others = (tensor.values.astype(np.float64).reshape(count, -1) for tensor in (own, other))
    return _near(mine, others, tolerance)


def _near(own: Array, other: Array, tolerance: float) -> bool:
    odd = ~np.isfinite(own) | ~np.isfinite(other)
    if odd.any():
        if not np.array_equal(own[odd], other[odd], equal_nan=True):
            return False
        own, other = np.where(odd, 0.0, own), np.where(odd, 0.0, other)
    # Values near the end of the range have squares beyond it.
    scale = np.maximum(np.maximum(np.abs(own).max(axis=1), np.abs(other).max(axis=1)), 1.0)[:, None]
    distance = np.linalg.norm(own / scale - other / scale, axis=1)
    return bool(np.all(distance <= tolerance * np.linalg.norm(own / scale, axis=1) + _NOTHING / scale[:, 0]))


def _encode(inputs: Mapping[str, Tensor], outputs: Collection[str]) -> tuple[bytes, int]:
    """Write a request with binary tensors; gives it, and the length of its JSON part."""
    tensors: list[dict[str, Any]] = []
    blobs = []
    for name, tensor in inputs.items():
        if tensor.datatype == "BYTES":
            texts = tensor.values.reshape(-1).tolist()
            blob = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        else:
            blob = tensor.values.tobytes()
        blobs.append(blob)
        parameters = {"binary_data_size": len(blob)}
        shape = list(tensor.values.shape)
        tensors.append({"name": name, "datatype": tensor.datatype, "shape": shape, "parameters": parameters})
    request: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": True}}
    if outputs:
        request["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps(request).encode()
    return b"".join((head, *blobs)), len(head)


def _decode(text: bytes, length: str) -> dict[str, Tensor]:
    size = int(length) if length.isascii() and length.isdigit() and len(length) < 10 else 0
    if not 0 < size <= len(text):
        raise BadAnswerError("it has no binary tensors")
    try:
        outputs = json.loads(text[:size])["outputs"]
        if not isinstance(outputs, list) or len(outputs) > MOST_TENSORS:
            raise BadAnswerError("its outputs are no list, or too many")
        found, position = {}, size
        for output in outputs:
            count = output["parameters"]["binary_data_size"]
            if type(count) is not int or count < 0:
                raise BadAnswerError("a size is no whole number")
            found[str(output["name"])] = _tensor(output, text[position : position + count])
            position += count
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, struct.error) as error:
        raise BadAnswerError(str(error) or type(error).__name__) from None
    if position != len(text):
        raise BadAnswerError("its tensors do not end where it does")
    return found


def _tensor(output: Mapping[str, Any], raw: bytes) -> Tensor:
    datatype, shape = output["datatype"], output["shape"]
    if len(shape) > MOST_RANK or not all(type(size) is int and size >= 0 for size in shape):
        raise BadAnswerError("a shape is no list of sizes")
    count = prod(shape)
    if datatype == "BYTES":
        return Tensor(datatype, _unpacked(raw, count).reshape(shape))
    dtype = np.dtype(np.uint16) if datatype == "BF16" else DTYPES[datatype]
    if count * dtype.itemsize != len(raw):
        raise BadAnswerError("a tensor has another size than its shape wants")
    return Tensor(datatype, np.frombuffer(raw, dtype).reshape(shape))


def _unpacked(raw: bytes, count: int) -> Array:
    if 4 * count > len(raw):
        raise BadAnswerError("a shape wants more strings than there are")
    strings, position = np.empty(count, object), 0
    for index in range(count):
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4 + length
        if position > len(raw):
            raise BadAnswerError("a string ends after its tensor")
        strings[index] = raw[position - length : position]
    if position != len(raw):
        raise BadAnswerError("a tensor has another size than its shape wants")
    return strings
