"""The frames of HTTP/2 (RFC 9113) and the header blocks that this server sends."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xB
# The settings that this server gives or heeds.
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x1, 0x2, 0x3, 0x4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x5, 0x6
DEFAULT_WINDOW = 65535
DEFAULT_FRAME_BYTES = 16384
MAX_WINDOW = 2**31 - 1

FRAME = struct.Struct(">IBI")  # length and type in one, flags, stream
FRAME_HEAD_BYTES = FRAME.size
PREFIX = struct.Struct(">BI")  # gRPC: compressed flag, message length
PREFIX_BYTES = PREFIX.size
UINT32 = struct.Struct(">I")
SETTING = struct.Struct(">HI")


class Http2Error(Exception):
    """The connection must be closed with this HTTP/2 error code."""

    def __init__(self, code: int, text: str) -> None:
        """`text` goes to the client as debug data."""
        super().__init__(text)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return FRAME.pack(len(payload) << 8 | kind, flags, stream) + payload


def header_block(flags: int, payload: bytes) -> bytes:
    """A HEADERS frame's part of the header block, without padding and priority. Raises `Http2Error`."""
    if not flags & (PADDED | HAS_PRIORITY):
        return payload
    padding = 0
    if flags & PADDED:
        if not payload:
            raise Http2Error(FRAME_SIZE_ERROR, "a padded frame is empty")
        padding, payload = payload[0], payload[1:]
    if flags & HAS_PRIORITY:
        payload = payload[5:]
    if padding > len(payload):
        raise Http2Error(PROTOCOL_ERROR, "padding is longer than the frame")
    return payload[: len(payload) - padding]


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*item) for item in values.items()))


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, UINT32.pack(size))


def literal(name: bytes, value: bytes) -> bytes:
    """One header field as a literal without indexing (RFC 7541 section 6.2.2).

    Its bytes are the same whatever the state of the client's table. Values are cut at 4,000 bytes.
    """
    value = value[:4000]
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """An integer with a 7-bit prefix (RFC 7541 section 5.1); strings are not Huffman coded."""
    if size < 127:
        return bytes((size,))
    out, left = bytearray((127,)), size - 127
    while left >= 128:
        out.append(left & 127 | 128)
        left >>= 7
    out.append(left)
    return bytes(out)


_STATUS_200 = b"\x88"
RESPONSE_BLOCK = (
    _STATUS_200
    + literal(b"content-type", b"application/grpc")
    + literal(b"grpc-accept-encoding", b"identity,deflate,gzip")
)
_TRAILERS_OK = literal(b"grpc-status", b"0")
# Frame heads up to the stream's number, and what follows it.
RESPONSE_HEAD = UINT32.pack(len(RESPONSE_BLOCK) << 8 | HEADERS) + bytes((END_HEADERS,))
TRAILERS_OK_HEAD = UINT32.pack(len(_TRAILERS_OK) << 8 | HEADERS) + bytes((END_HEADERS | END_STREAM,))
TRAILERS_OK_BLOCK = _TRAILERS_OK


def error_trailers(status: int, message: str) -> bytes:
    """The header block that ends a call with an error; the message is percent-encoded as gRPC over HTTP/2
    says.
    """
    encoded = b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in message.encode()[:1000]
    )
    return literal(b"grpc-status", str(status).encode()) + literal(b"grpc-message", encoded)
