"""Reads just enough of an ONNX file to know which other files it would make the runtime open.

An ONNX file is a protobuf message (onnx.proto, ModelProto). Only its external data references are wanted,
so the wire format is walked over a memory map instead of parsed into objects: no copy, no dependency on
`onnx`, and a hostile file costs no more memory than its path to the deepest message.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Messages that can hold a tensor, by the field numbers that lead to one (onnx.proto):
# ModelProto 7 graph, 20 training_info, 25 functions; GraphProto 1 node, 5 initializer, 15 sparse_initializer;
# NodeProto 5 attribute; AttributeProto 5 t, 6 g, 10 tensors, 11 graphs, 22 sparse_tensor, 23 sparse_tensors;
# FunctionProto 7 node, 11 attribute_proto; TrainingInfoProto 1 initialization, 2 algorithm;
# SparseTensorProto 1 values, 2 indices; TensorProto 13 external_data.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_MODEL_GRAPH = 7
_MAX_DEPTH = 64

_TEXT = frozenset(b"\t\n\r" + bytes(range(0x20, 0x7F)))
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class NotOnnxError(ValueError):
    """The file is no ONNX model; the message says how one can tell."""


@dataclass(frozen=True, slots=True)
class ExternalData:
    """One tensor's reference to another file: `offset` and `length` in bytes, `length` None for the rest."""

    location: str
    offset: int
    length: int | None


def external_data(path: Path) -> set[ExternalData]:
    """Return every external data reference in the ONNX file at `path`.

    Raises `NotOnnxError` when the file is not an ONNX model or ends too early, `OSError` when it cannot be
    read.
    """
    with path.open("rb") as file:
        start = file.read(64)
        if not start:
            raise NotOnnxError("it is empty")
        if start.startswith(b"version https://git-lfs"):
            raise NotOnnxError("it is a Git LFS pointer, which `git lfs pull` replaces")
        if all(byte in _TEXT for byte in start):
            raise NotOnnxError(f"it is text that begins with {start[:24].decode()!r}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _scan(data, len(data))


def _scan(data: mmap.mmap, size: int) -> set[ExternalData]:
    found: set[ExternalData] = set()
    has_graph = False
    stack: list[tuple[str, Iterator[tuple[int, int, int]]]] = [("model", _fields(data, 0, size))]
    entries: dict[str, str] = {}
    while stack:
        kind, fields = stack[-1]
        field = next(fields, None)
        if field is None:
            stack.pop()
            if kind == "tensor" and "location" in entries:
                found.add(_reference(entries))
            continue
        number, start, end = field
        child = _CHILDREN[kind].get(number)
        if child is None:
            continue
        has_graph = has_graph or (kind == "model" and number == _MODEL_GRAPH)
        if child == "entry":
            key, value = _entry(data, start, end)
            entries[key] = value
            continue
        if len(stack) >= _MAX_DEPTH:
            raise NotOnnxError(f"its graphs are nested more than {_MAX_DEPTH} deep")
        if child == "tensor":
            entries = {}
        stack.append((child, _fields(data, start, end)))
    if not has_graph:
        raise NotOnnxError("it holds no graph")
    return found


def _reference(entries: dict[str, str]) -> ExternalData:
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else None
    except ValueError:
        raise NotOnnxError(f"an external data offset or length is no number: {entries}") from None
    return ExternalData(entries["location"], offset, length)


def _entry(data: mmap.mmap, start: int, end: int) -> tuple[str, str]:
    """One StringStringEntryProto: 1 key, 2 value."""
    texts = {1: "", 2: ""}
    for number, low, high in _fields(data, start, end):
        if number in texts:
            texts[number] = data[low : min(high, low + 4096)].decode(errors="replace")
    return texts[1], texts[2]


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, end) of each length-delimited field between `position` and `end`."""
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise NotOnnxError(f"it is no protobuf message (byte {position})")
        if wire == _BYTES:
            length, position = _varint(data, position, end)
            if length > end - position:
                missing = length - (end - position)
                raise NotOnnxError(
                    f"it is truncated or damaged: a field at byte {position} lacks {missing} bytes"
                )
            yield number, position, position + length
            position += length
        elif wire == _VARINT:
            _, position = _varint(data, position, end)
        elif wire in (_FIXED32, _FIXED64):
            position += 4 if wire == _FIXED32 else 8
            if position > end:
                raise NotOnnxError("it is truncated")
        else:
            raise NotOnnxError(f"it is no protobuf message (wire type {wire} at byte {position})")


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise NotOnnxError(f"it is no protobuf message (a number too long at byte {position})")
    raise NotOnnxError("it is truncated")
