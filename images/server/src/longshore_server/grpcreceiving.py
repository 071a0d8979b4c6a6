"""Requests of one gRPC connection: from DATA frames, whole or in parts, to messages for their methods.

Grants the client's windows again as they are used up.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from longshore_server import compression
from longshore_server import http2frames as h2
from longshore_server.errors import GrpcStatus, RequestError
from longshore_server.grpcstream import Method, PartialMessage, Stream
from longshore_server.http2frames import PREFIX, PREFIX_BYTES, Http2Error
from longshore_server.patience import Patience

if TYPE_CHECKING:
    from longshore_server.grpcserver import GrpcServer

# Windows large enough that no upload waits for an update on a fast network.
STREAM_WINDOW = 16 << 20
CONNECTION_WINDOW = 64 << 20
# A message that is slower than this many bytes a second, after the body timeout, is cut off.
_SLOWEST_MESSAGE = 128 << 10


class Receiving:
    """What has come of a connection's messages. `in_frame`: the next bytes belong to a begun DATA frame."""

    __slots__ = (
        "_frame_flags",
        "_frame_left",
        "_frame_length",
        "_frame_stream",
        "_patience",
        "_received",
        "_server",
        "_transport",
        "in_frame",
    )

    def __init__(self, server: "GrpcServer", transport: asyncio.WriteTransport, patience: Patience) -> None:
        """One for each connection."""
        self._server = server
        self._transport = transport
        self._patience = patience
        self._received = 0
        self.in_frame = False
        self._frame_stream: Stream | None = None
        self._frame_length = 0
        self._frame_left = 0
        self._frame_flags = 0

    # Frames.

    def frame(self, stream: Stream | None, flags: int, data: bytes, start: int, end: int) -> None:
        """A whole DATA frame; its payload is `data[start:end]`. Raises `Http2Error`.

        `stream` is None when it has ended meanwhile.
        """
        length = end - start
        self._received += length
        if stream is None:
            self._patience.lose()  # may have crossed a reset or an early answer on its way
            return
        if flags & h2.PADDED:
            if start == end or data[start] > end - start - 1:
                raise Http2Error(h2.PROTOCOL_ERROR, "padding is longer than the frame")
            start, end = start + 1, end - data[start]
        if stream.client_done:
            raise Http2Error(h2.STREAM_CLOSED, "DATA after the end of the stream")
        if stream.partial is None and end - start >= PREFIX_BYTES:
            compressed, size = PREFIX.unpack_from(data, start)
            if size == end - start - PREFIX_BYTES and size <= self._server.limits.body_bytes:
                # The common case: one frame, one message.
                self._message(stream, compressed, data[start + PREFIX_BYTES : end])
                if flags & h2.END_STREAM:
                    self.ended(stream)
                elif stream.method.streaming:
                    self._grant(stream, length)
                return
        if start == end and not flags & h2.END_STREAM:
            self._patience.lose()
        self._collect(stream, memoryview(data)[start:end])
        self._end_of_frame(stream, flags, length)

    def begin_frame(self, stream: Stream | None, flags: int, length: int, part: memoryview) -> None:
        """The beginning of a DATA frame of `length` bytes that is not all here: large messages are not kept
        twice. Raises `Http2Error`.
        """
        self._received += length
        if stream is None:
            self._patience.lose()
        elif stream.client_done:
            raise Http2Error(h2.STREAM_CLOSED, "DATA after the end of the stream")
        self.in_frame = True
        self._frame_stream, self._frame_flags = stream, flags
        self._frame_length = self._frame_left = length
        self.continue_frame(part)

    def continue_frame(self, part: memoryview) -> int:
        """Take what belongs to the begun frame; returns how many bytes that was."""
        stream, taken = self._frame_stream, min(self._frame_left, len(part))
        self._frame_left -= taken
        if stream is not None and not stream.cancelled:
            self._collect(stream, part[:taken])
        if self._frame_left == 0:
            self.in_frame, self._frame_stream = False, None
            if stream is not None and not stream.cancelled:
                self._end_of_frame(stream, self._frame_flags, self._frame_length)
        return taken

    def ended(self, stream: Stream) -> None:
        """The client has sent all of the call."""
        stream.client_done = True
        if stream.cancelled:
            return
        if stream.partial is not None:
            stream.finish(RequestError(400, GrpcStatus.INTERNAL, "the request ends inside a message"))
        elif stream.method.streaming:
            if not stream.open_answers:
                stream.finish()
        elif not stream.messages:
            stream.finish(RequestError(400, GrpcStatus.INTERNAL, "the request holds no message"))

    def forget(self, stream: Stream) -> None:
        """Give back what the stream holds."""
        self._server.message_bytes -= stream.reserved
        stream.reserved = 0
        stream.partial = None

    def enforce_timeout(self, stream: Stream, now: float) -> None:
        """End a call whose message is too slow; `now` on the clock of `time.monotonic`."""
        partial = stream.partial
        if partial is None:
            return
        allowed = self._server.limits.body_timeout + len(partial.buffer) / _SLOWEST_MESSAGE
        if now - partial.since > allowed:
            text = f"the message did not arrive within {allowed:g} s"
            stream.finish(RequestError(408, GrpcStatus.DEADLINE_EXCEEDED, text))

    # Windows.

    def grant(self) -> None:
        """Grant again what the connection has used, some of it at a time."""
        if self._received >= CONNECTION_WINDOW // 4:
            self._transport.write(h2.window_update(0, self._received))
            self._received = 0

    def _grant(self, stream: Stream, length: int) -> None:
        stream.received += length
        if stream.received >= STREAM_WINDOW // 4:
            self._transport.write(h2.window_update(stream.id, stream.received))
            stream.received = 0

    def _end_of_frame(self, stream: Stream, flags: int, length: int) -> None:
        if flags & h2.END_STREAM:
            self.ended(stream)
        elif not stream.cancelled:
            self._grant(stream, length)

    # Messages.

    def _collect(self, stream: Stream, part: memoryview) -> None:
        """Put parts of messages together."""
        while len(part) and not stream.cancelled:
            partial = stream.partial
            if partial is None:
                partial = stream.partial = PartialMessage(PREFIX_BYTES, time.monotonic())
            buffer = partial.buffer
            taken = min(len(buffer) - partial.filled, len(part))
            buffer[partial.filled : partial.filled + taken] = part[:taken]
            partial.filled += taken
            part = part[taken:]
            if partial.filled < len(buffer):
                return
            if partial.in_prefix:
                if not self._begin(stream, partial):
                    return
            else:
                stream.partial = None
                self._message(stream, partial.compressed, memoryview(buffer))

    def _begin(self, stream: Stream, partial: PartialMessage) -> bool:
        """The prefix is complete; returns whether its message is taken."""
        compressed, size = PREFIX.unpack(partial.buffer)
        if not self._expect(stream, size):
            return False
        if size:
            partial.compressed = compressed
            partial.in_prefix = False
            partial.buffer, partial.filled = bytearray(size), 0
        else:
            stream.partial = None
            self._message(stream, compressed, b"")
        return True

    def _expect(self, stream: Stream, size: int) -> bool:
        server = self._server
        if size > server.limits.body_bytes:
            text = f"the message has {size} bytes, the limit is {server.limits.body_bytes}"
            stream.finish(RequestError(413, GrpcStatus.RESOURCE_EXHAUSTED, text))
            return False
        if server.message_bytes + size > server.limits.in_flight_bytes:
            text = "too many bytes of requests are being received: retry later"
            stream.finish(RequestError(503, GrpcStatus.RESOURCE_EXHAUSTED, text))
            return False
        server.message_bytes += size
        stream.reserved += size
        return True

    def _message(self, stream: Stream, compressed: int, message: bytes | memoryview) -> None:
        method = stream.method
        stream.messages += 1
        if compressed:
            self._decompress(stream, method, message)
            return
        if stream.messages > 1 and not method.streaming:
            stream.finish(RequestError(400, GrpcStatus.INVALID_ARGUMENT, "more than one message"))
            return
        assert method.handle is not None
        try:
            method.handle(stream, message)
        except RequestError as error:
            self._server.service.refused(stream, error)

    def _decompress(self, stream: Stream, method: Method, message: bytes | memoryview) -> None:
        if method.coding in ("", "identity"):
            text = "a message is compressed, but grpc-encoding names no coding"
            stream.finish(RequestError(400, GrpcStatus.INTERNAL, text))
            return
        try:
            decoded = compression.decompress(method.coding, message, self._server.limits.body_bytes)
        except RequestError as error:
            self._server.service.refused(stream, error)
            return
        stream.messages -= 1
        self._message(stream, 0, decoded)
