"""Reads what Triton's tracing writes of one request at level TENSORS: what was asked, and what was answered.

The text is JSON in form only: strings stand in it as they are, whole numbers of one byte as that byte, and
floats have six digits; of 16-bit floats nothing is told. What one model did stands together, the models of an
ensemble in any order (src/tracer.cc of https://github.com/triton-inference-server/server).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

ROUNDED = 1e-5
"""Relative distance that six digits may make."""

MOST_TENSORS = 1024
MOST_RANK = 64

Array = np.ndarray[Any, Any]

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{
        f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}")
        for sign in ("", "U")
        for bits in (8, 16, 32, 64)
    },
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
"""NumPy's names of the protocol's datatypes; BYTES and BF16 apart."""

_BYTE = ("INT8", "UINT8")
_UNTOLD = ("FP16", "BF16")

_RECORD = re.compile(
    rb'\{"id":(?P<id>\d{1,19}),"activity":"(?P<activity>TENSOR_\w{1,30})","tensor":\{"name":"(?P<name>[^"]{1,1024})",'
    rb'"data":"(?P<data>.*?)","shape":"(?P<shape>[\d,]{0,1024})","dtype":"(?P<dtype>[A-Z0-9]{1,8})"\}\}(?=,\{"id":|\]$)',
    re.DOTALL,
)
_ASKED = b"TENSOR_QUEUE_INPUT"
_ANSWERED = b"TENSOR_BACKEND_OUTPUT"


class UnreadableError(Exception):
    """A trace that does not tell what was asked and answered."""


@dataclass(frozen=True)
class Tensor:
    """A tensor: its datatype in the protocol's words, and its values; strings as bytes objects."""

    datatype: str
    values: Array


@dataclass(frozen=True)
class Traced:
    """One request: its inputs and outputs by name."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def parse(text: bytes) -> Traced:
    """Read a whole trace of one request; of an ensemble what the client asked and got.

    Raises:
        UnreadableError: it is cut off, tells too little, or could mean several things.
    """
    if not (text.startswith(b"[") and text.endswith(b"]")):
        raise UnreadableError("the trace is not whole")
    records = list(_RECORD.finditer(text))
    if sum(len(record[0]) for record in records) + len(records) + 1 != len(text):
        raise UnreadableError("the trace is not what Triton was seen to write")
    if len(records) > MOST_TENSORS:
        raise UnreadableError("it has too many tensors")
    # Steps of an ensemble have numbers of their own, after that of the request.
    first = min((int(record["id"]) for record in records), default=0)
    runs = [number for number, _ in groupby(records, lambda record: int(record["id"]))]
    if len(set(runs)) != len(runs):
        raise UnreadableError("what belongs together stands apart: a string may look like a tensor")
    found: dict[bytes, dict[str, Tensor]] = {_ASKED: {}, _ANSWERED: {}}
    for record in records:
        side = found.get(record["activity"])
        if side is not None and int(record["id"]) == first:
            name = record["name"].decode("utf-8", "replace")
            if name in side:
                raise UnreadableError("a tensor stands there twice: a string may look like one")
            side[name] = _tensor(record)
    if not found[_ASKED] or not found[_ANSWERED]:
        raise UnreadableError("Triton tells no inputs or no outputs of this model")
    return Traced(found[_ASKED], found[_ANSWERED])


def _tensor(record: re.Match[bytes]) -> Tensor:
    datatype, data = record["dtype"].decode(), record["data"]
    shape = tuple(int(size) for size in record["shape"].split(b",") if size)
    count = prod(shape)
    if len(shape) > MOST_RANK:
        raise UnreadableError("a shape is no list of sizes")
    if datatype == "BYTES":
        return Tensor(datatype, _strings(data, count).reshape(shape))
    dtype = DTYPES.get(datatype)
    if dtype is None or datatype in _UNTOLD:
        raise UnreadableError(f"Triton tells no values of datatype {datatype}")
    if datatype in _BYTE:
        if len(data) != max(0, 2 * count - 1):
            raise UnreadableError("a tensor has another size than its shape wants")
        return Tensor(datatype, np.frombuffer(data[::2], dtype).reshape(shape))
    words = data.split(b",") if data else []
    if len(words) != count:
        raise UnreadableError("a tensor has another size than its shape wants")
    try:
        # A whole number of 64 bits is more than a float can hold.
        if dtype.kind in "iu":
            return Tensor(datatype, np.array([int(word) for word in words], dtype).reshape(shape))
        numbers = np.array([float(word) for word in words])
    except (ValueError, OverflowError) as error:
        raise UnreadableError(f"a tensor holds what is no {datatype}: {error}") from None
    with np.errstate(over="ignore"):
        return Tensor(datatype, numbers.astype(dtype).reshape(shape))


def _strings(data: bytes, count: int) -> Array:
    strings = np.empty(count, object)
    if not count and not data:
        return strings
    # Later versions write a backslash before each mark.
    mark = b'\\"' if data.startswith(b"\\") else b'"'
    parts = data[len(mark) : -len(mark)].split(mark + b"," + mark)
    ends = data.startswith(mark) and data.endswith(mark) and len(data) >= 2 * len(mark)
    if not ends or len(parts) != count or b'"tensor":{' in data:
        raise UnreadableError("strings cannot be told apart: quotation marks and commas are in them")
    strings[:] = parts
    return strings
