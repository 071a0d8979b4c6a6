"""Reads the outline of an ONNX file without loading it: operators, opsets, external data.

It walks the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) over a memory map, so
that checking a model costs milliseconds and no parser sees hostile bytes first. Field numbers are those of
onnx.proto.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from longshore_optimizer.errors import Problem, Reason

_DEPTH = 32
_MODEL = {"ir_version": 1, "graph": 7, "opset_import": 8, "training_info": 20, "functions": 25}
_KNOWN_MODEL_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26))


@dataclass(frozen=True)
class External:
    """A tensor's external data: file name as written, offset and length in bytes (None: to the end)."""

    location: str
    offset: int
    length: int | None


@dataclass
class Outline:
    """What an ONNX file says about itself."""

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external: set[External] = field(default_factory=set)
    nodes: int = 0
    float_bytes: int = 0


class _MalformedError(Exception):
    """The bytes are no protobuf message; `truncated` when a length runs past the end."""

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    for _ in range(10):
        if position >= len(data):
            raise _MalformedError("ends inside a number", truncated=True)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _MalformedError("a number is too long")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Give (field number, value): integers for numbers, memory for everything with a length."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise _MalformedError("field number 0")
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _MalformedError(f"wire type {kind}")
        if position + length > len(data):
            raise _MalformedError(f"{position + length - len(data)} bytes are missing", truncated=True)
        yield number, data[position : position + length]
        position += length


def _view(path: Path) -> memoryview:
    """Map a file; the map goes with the last slice of it, which is why nothing closes it by hand."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def looks_like_onnx(path: Path) -> bool:
    """Tell whether the file starts as an ONNX model does, complete or not."""
    if path.stat().st_size < 4:
        return False
    return _starts_as_onnx(_view(path))


def _starts_as_onnx(view: memoryview) -> bool:
    seen: set[int] = set()
    position = 0
    try:
        while position < len(view) and len(seen) < 16:
            key, position = _varint(view, position)
            number, kind = key >> 3, key & 7
            if number not in _KNOWN_MODEL_FIELDS or kind not in (0, 2):
                return False
            value, position = _varint(view, position)
            if number == _MODEL["ir_version"] and not (kind == 0 and 0 < value < 1000):
                return False
            if (number in (1, 5)) != (kind == 0):
                return False
            seen.add(number)
            if number == _MODEL["graph"]:
                return True
            if kind == 2:
                position += value
    except _MalformedError:
        return bool(seen)
    return _MODEL["ir_version"] in seen and _MODEL["graph"] in seen


def outline(path: Path) -> Outline:
    """Walk the file.

    Raises:
        Problem: Truncated where bytes are missing, InvalidModel where it is no ONNX model.
    """
    result = Outline()
    if path.stat().st_size == 0:
        raise Problem(Reason.INVALID_MODEL, f"{path.name} is empty: upload the model again")
    try:
        _walk_model(_view(path), result)
    except _MalformedError as error:
        if error.truncated:
            raise Problem(
                Reason.TRUNCATED, f"the ONNX file {path.name} is truncated ({error}): upload the model again"
            ) from None
        raise Problem(
            Reason.INVALID_MODEL, f"{path.name} is no ONNX model ({error}): export the model to ONNX again"
        ) from None
    if not result.ir_version or not result.nodes:
        raise Problem(
            Reason.INVALID_MODEL, f"{path.name} holds no ONNX graph: export the model to ONNX again"
        )
    return result


def _walk_model(view: memoryview, result: Outline) -> None:
    for number, value in _fields(view):
        if number == 1 and isinstance(value, int):
            result.ir_version = value
        elif number == 7 and isinstance(value, memoryview):
            _walk_graph(value, result, 0)
        elif number == 8 and isinstance(value, memoryview):
            domain, version = _opset(value)
            result.opsets[domain] = version
        elif number == 20 and isinstance(value, memoryview):
            for inner, graph in _fields(value):
                if inner in (1, 2) and isinstance(graph, memoryview):
                    _walk_graph(graph, result, 1)
        elif number == 25 and isinstance(value, memoryview):
            _walk_function(value, result)


def _opset(view: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in _fields(view):
        if number == 1 and isinstance(value, memoryview):
            domain = _text(value)
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def _walk_graph(view: memoryview, result: Outline, depth: int) -> None:
    if depth > _DEPTH:
        raise _MalformedError(f"graphs nest deeper than {_DEPTH}")
    for number, value in _fields(view):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            _walk_node(value, result, depth)
        elif number == 5:
            _walk_tensor(value, result)
        elif number == 15:
            for inner, tensor in _fields(value):
                if inner in (1, 2) and isinstance(tensor, memoryview):
                    _walk_tensor(tensor, result)


def _walk_function(view: memoryview, result: Outline) -> None:
    name = domain = ""
    for number, value in _fields(view):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            name = _text(value)
        elif number == 7:
            _walk_node(value, result, 1)
        elif number == 10:
            domain = _text(value)
    result.functions.add((domain, name))


def _walk_node(view: memoryview, result: Outline, depth: int) -> None:
    operator = domain = ""
    for number, value in _fields(view):
        if not isinstance(value, memoryview):
            continue
        if number == 4:
            operator = _text(value)
        elif number == 5:
            _walk_attribute(value, result, depth + 1)
        elif number == 7:
            domain = _text(value)
    result.nodes += 1
    result.counts[operator] += 1
    result.operators.add(("" if domain == "ai.onnx" else domain, operator))


def _walk_attribute(view: memoryview, result: Outline, depth: int) -> None:
    for number, value in _fields(view):
        if not isinstance(value, memoryview):
            continue
        if number in (5, 10):
            _walk_tensor(value, result)
        elif number in (6, 11):
            _walk_graph(value, result, depth)
        elif number in (22, 23):
            for inner, tensor in _fields(value):
                if inner in (1, 2) and isinstance(tensor, memoryview):
                    _walk_tensor(tensor, result)


def _walk_tensor(view: memoryview, result: Outline) -> None:
    entries: dict[str, str] = {}
    external = False
    elements, data_type = 1, 0
    for number, value in _fields(view):
        if number == 13 and isinstance(value, memoryview):
            pair = {n: _text(v) for n, v in _fields(value) if isinstance(v, memoryview)}
            entries[pair.get(1, "")] = pair.get(2, "")
        elif number == 14 and value == 1:
            external = True
        elif number == 1 and isinstance(value, int):
            elements *= value
        elif number == 1 and isinstance(value, memoryview):
            elements *= _packed_product(value)
        elif number == 2 and isinstance(value, int):
            data_type = value
    if data_type == 1:
        result.float_bytes += 4 * elements
    if not external and "location" not in entries:
        return
    try:
        offset, length = int(entries.get("offset") or 0), entries.get("length")
        size = int(length) if length else None
    except ValueError:
        raise _MalformedError("an external tensor's offset or length is no number") from None
    result.external.add(External(entries.get("location", ""), offset, size))


def _packed_product(view: memoryview) -> int:
    product, position = 1, 0
    while position < len(view):
        value, position = _varint(view, position)
        product *= value
    return product


def _text(view: memoryview) -> str:
    return bytes(view[:4096]).decode("utf-8", errors="replace")
