"""Protobuf's wire format, as far as it is dealt with by hand (protobuf.dev/programming-guides/encoding)."""

from collections.abc import Iterable, Iterator


def varint(value: int) -> bytes:
    """A non-negative integer."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def head(number: int, size: int) -> bytes:
    """What comes before `size` bytes of a length-delimited field."""
    return varint(number << 3 | 2) + varint(size)


def field(number: int, content: bytes | str) -> bytes:
    """A length-delimited field; nothing when it is empty, as proto3 has it."""
    raw = content.encode() if isinstance(content, str) else content
    return head(number, len(raw)) + raw if raw else b""


def packed(number: int, values: Iterable[int]) -> bytes:
    """A packed repeated integer field."""
    return field(number, b"".join(map(varint, values)))


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of a trusted message that has length-delimited fields only."""
    at = 0
    while at < len(message):
        tag, at = _read(message, at)
        size, at = _read(message, at)
        yield tag >> 3, message[at : at + size]
        at += size


def _read(message: bytes, at: int) -> tuple[int, int]:
    """The integer at this place, and the place after it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
