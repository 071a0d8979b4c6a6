"""Reads a body in chunked transfer coding (RFC 9112 section 7.1), strictly and incrementally."""

import re

from longshore_server.errors import RequestError, bad_request, too_large

_SIZE = re.compile(rb"[0-9A-Fa-f]{1,12}")
_MAX_LINE = 256
_MAX_TRAILERS = 8192


class ChunkedBody:
    """Collects one body. After `done`, `body` is complete and `rest` is what follows the message."""

    __slots__ = ("_buffer", "_left", "_limit", "_state", "_trailers", "body", "done", "rest")

    def __init__(self, limit: int) -> None:
        """`limit`: the most bytes the body may have."""
        self.body = bytearray()
        self.done = False
        self.rest = b""
        self._limit = limit
        self._buffer = bytearray()
        self._left = 0
        self._state = self._size
        self._trailers = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes. Raises `RequestError`, after which the connection must be closed."""
        self._buffer += data
        while not self.done and self._state():
            pass
        if self.done:
            self.rest = bytes(self._buffer)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n", 0, _MAX_LINE)
        if end < 0:
            if len(self._buffer) >= _MAX_LINE:
                raise bad_request("a chunk's line is too long")
            return None
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise bad_request("a chunk's line does not end in CR LF")
        return line[:-2]

    def _size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        # Chunk extensions are legal, used by nobody, and read differently by different servers.
        if not _SIZE.fullmatch(line):
            raise bad_request("a chunk's size is no hexadecimal number")
        self._left = int(line, 16)
        if len(self.body) + self._left > self._limit:
            raise _over(self._limit)
        self._state = self._data if self._left else self._trailer
        return True

    def _data(self) -> bool:
        if not self._buffer:
            return False
        part = self._buffer[: self._left]
        self.body += part
        self._left -= len(part)
        del self._buffer[: len(part)]
        if self._left == 0:
            self._state = self._data_end
        return True

    def _data_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise bad_request("a chunk is longer than its size says")
        del self._buffer[:2]
        self._state = self._size
        return True

    def _trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        self._trailers += len(line)
        if self._trailers > _MAX_TRAILERS:
            raise bad_request("the trailers are too long")
        self.done = not line  # trailer fields are dropped
        return not self.done


def _over(limit: int) -> RequestError:
    return too_large(f"the body is larger than the limit of {limit} bytes")
