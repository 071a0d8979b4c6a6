"""Reads the signature of an ONNX file without loading its weights.

Only the fields that name inputs and outputs are decoded; everything else is stepped over in a memory map, so
the time does not grow with the weights. Sources: onnx.proto (https://github.com/onnx/onnx), and the protocol
buffer encoding (https://protobuf.dev/programming-guides/encoding/).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from longshore_triton.errors import StartError
from longshore_triton.tensors import Dimension, Signature, Tensor

_TYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
"""TensorProto.DataType to the protocol's names; the others (complex, float8, int4) cannot be sent."""

_MOST_TENSORS = 4096
_MOST_RANK = 64
_LONGEST_NAME = 1024

_GRAPH, _INITIALIZER, _INPUT, _OUTPUT = 7, 5, 11, 12
_INITIALIZER_NAME = 8


class _BrokenError(Exception):
    """The bytes are no ONNX model."""


class _Field(NamedTuple):
    """One field: its number, and where its bytes lie, or its value where it is a varint."""

    number: int
    begin: int
    end: int
    varint: int


def read_signature(path: Path) -> Signature:
    """Read what the model at `path` takes and gives.

    Raises:
        StartError: the file is missing, empty or no ONNX model, or a tensor has a type that cannot be sent.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _model(data)
    except OSError as error:
        raise StartError(
            "ModelUnreadable", f"{path.name} cannot be read: {error.strerror or error}; check the artifact"
        ) from None
    except (_BrokenError, ValueError) as error:
        raise StartError(
            "ModelInvalid", f"{path.name} is no ONNX model ({error}): it is damaged, or another format"
        ) from None


def _model(data: mmap.mmap) -> Signature:
    graphs = [f for f in _fields(data, 0, len(data)) if f.number == _GRAPH]
    if not graphs:
        raise _BrokenError("it holds no graph")
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    constants: set[str] = set()
    for field in _fields(data, graphs[-1].begin, graphs[-1].end):
        if field.number == _INPUT:
            inputs.append(_tensor(data, field))
        elif field.number == _OUTPUT:
            outputs.append(_tensor(data, field))
        elif field.number == _INITIALIZER:
            constants.update(
                _text(data, part)
                for part in _fields(data, field.begin, field.end)
                if part.number == _INITIALIZER_NAME
            )
        if len(inputs) + len(outputs) > _MOST_TENSORS:
            raise _BrokenError(f"it has more than {_MOST_TENSORS} inputs and outputs")
    if not outputs:
        raise _BrokenError("its graph has no output")
    # Before IR version 4 every weight was listed as an input too.
    return Signature(tuple(t for t in inputs if t.name not in constants), tuple(outputs))


def _tensor(data: mmap.mmap, value: _Field) -> Tensor:
    name = ""
    dtype: str | None = None
    shape: tuple[Dimension, ...] = ()
    for field in _fields(data, value.begin, value.end):
        if field.number == 1:
            name = _text(data, field)
        elif field.number == 2:
            dtype, shape = _type(data, field)
    if not name or dtype is None:
        raise StartError(
            "ModelUnsupported",
            f"input or output {name!r} of the model is no tensor of a type that can be sent: "
            "convert the model without sequences, maps and 4- or 8-bit floats at its border",
        )
    return Tensor(name, dtype, shape)


def _type(data: mmap.mmap, value: _Field) -> tuple[str | None, tuple[Dimension, ...]]:
    dtype: str | None = None
    shape: list[Dimension] = []
    for kind in _fields(data, value.begin, value.end):
        if kind.number != 1:
            continue
        for field in _fields(data, kind.begin, kind.end):
            if field.number == 1:
                dtype = _TYPES.get(field.varint)
            elif field.number == 2:
                shape = [_dimension(data, d) for d in _fields(data, field.begin, field.end) if d.number == 1]
                if len(shape) > _MOST_RANK:
                    raise _BrokenError(f"a tensor has more than {_MOST_RANK} dimensions")
    return dtype, tuple(shape)


def _dimension(data: mmap.mmap, value: _Field) -> Dimension:
    for field in _fields(data, value.begin, value.end):
        if field.number == 1:
            size = field.varint - (1 << 64) if field.varint >> 63 else field.varint
            return size if size >= 0 else None
        if field.number == 2:
            return _text(data, field)
    return None


def _text(data: mmap.mmap, field: _Field) -> str:
    if field.end - field.begin > _LONGEST_NAME:
        raise _BrokenError(f"a name is longer than {_LONGEST_NAME} bytes")
    return data[field.begin : field.end].decode()


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[_Field]:
    """Step over the fields of the message in `data[begin:end]`."""
    at = begin
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        value = 0
        start = at
        if wire == 0:
            value, at = _varint(data, at, end)
        elif wire == 1:
            at += 8
        elif wire == 2:
            length, start = _varint(data, at, end)
            at = start + length
        elif wire == 5:
            at += 4
        else:
            raise _BrokenError(f"byte {at} is no field")
        if number == 0 or at > end:
            raise _BrokenError(f"a field at byte {start} runs past the end")
        yield _Field(number, start, at, value)


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _BrokenError("it ends in the middle")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise _BrokenError("a number has more than ten bytes")
