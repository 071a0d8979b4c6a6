"""Answers of one gRPC connection, as fast as HTTP/2's flow control (RFC 9113 section 5.2) lets them go.

An answer to a unary call leaves in one write when the windows are wide enough for it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

from longshore_server import http2frames as h2
from longshore_server.errors import RequestError
from longshore_server.grpcstream import Stream
from longshore_server.http2frames import FRAME, PREFIX, PREFIX_BYTES, UINT32, Http2Error


class Sending:
    """What may be sent on a connection, and what waits until it may.

    `paused_since`: since when the socket takes no more, on the clock of `time.monotonic`; 0 while it does.
    """

    __slots__ = (
        "_blocked",
        "_done",
        "_frame_bytes",
        "_new_stream_window",
        "_transport",
        "_window",
        "closed",
        "paused_since",
    )

    def __init__(self, transport: asyncio.WriteTransport, done: Callable[[Stream], None]) -> None:
        """`done` is told of each stream whose answer is written whole."""
        self._transport = transport
        self._done = done
        self._window = h2.DEFAULT_WINDOW
        self._new_stream_window = h2.DEFAULT_WINDOW
        self._frame_bytes = h2.DEFAULT_FRAME_BYTES
        self._blocked: dict[Stream, None] = {}
        self.closed = False
        self.paused_since = 0.0

    @property
    def new_stream_window(self) -> int:
        """The window that a new stream begins with."""
        return self._new_stream_window

    # What the client allows.

    def heed(self, settings: Iterable[tuple[int, int]], streams: Iterable[Stream]) -> None:
        """Take the client's settings. Raises `Http2Error`."""
        for key, value in settings:
            if key == h2.INITIAL_WINDOW_SIZE:
                if value > h2.MAX_WINDOW:
                    raise Http2Error(h2.FLOW_CONTROL_ERROR, "a window is too large")
                change, self._new_stream_window = value - self._new_stream_window, value
                for stream in streams:
                    stream.send_window += change
            elif key == h2.MAX_FRAME_SIZE:
                if not h2.DEFAULT_FRAME_BYTES <= value < 1 << 24:
                    raise Http2Error(h2.PROTOCOL_ERROR, "bad SETTINGS_MAX_FRAME_SIZE")
                self._frame_bytes = value

    def widen(self, stream: Stream | None, increment: int) -> None:
        """Widen the stream's window, or without one the connection's. Raises `Http2Error`."""
        if stream is None:
            self._window += increment
            if self._window > h2.MAX_WINDOW:
                raise Http2Error(h2.FLOW_CONTROL_ERROR, "the window is too large")
        else:
            stream.send_window += increment
            if stream.send_window > h2.MAX_WINDOW:
                raise Http2Error(h2.FLOW_CONTROL_ERROR, "a window is too large")

    def pause(self) -> None:
        """The socket takes no more."""
        self.paused_since = time.monotonic()

    def resume(self) -> None:
        """The socket takes more."""
        self.paused_since = 0.0
        self.flush_blocked()

    # What is to be sent.

    def reply(self, stream: Stream, parts: tuple[bytes | memoryview, ...]) -> None:
        """Answer a unary call with one message."""
        if stream.cancelled:
            return
        size = sum(map(len, parts))
        framed = size + PREFIX_BYTES
        if (
            framed <= self._window
            and framed <= stream.send_window
            and framed <= self._frame_bytes
            and stream.out is None
        ):
            self._window -= framed
            number = stream.id_bytes
            self._transport.write(
                b"".join(
                    (
                        h2.RESPONSE_HEAD,
                        number,
                        h2.RESPONSE_BLOCK,
                        FRAME.pack(framed << 8, 0, stream.id),
                        PREFIX.pack(0, size),
                        *parts,
                        h2.TRAILERS_OK_HEAD,
                        number,
                        h2.TRAILERS_OK_BLOCK,
                    )
                )
            )
            self._written(stream)
            return
        self.send(stream, parts)
        self.finish(stream)

    def send(self, stream: Stream, parts: tuple[bytes | memoryview, ...]) -> None:
        """Send one message of an answer, as far as flow control lets it."""
        if stream.cancelled:
            return
        if not stream.responded:
            stream.responded = True
            self._transport.write(h2.RESPONSE_HEAD + stream.id_bytes + h2.RESPONSE_BLOCK)
        if stream.out is None:
            stream.out = deque()
        stream.out.append(memoryview(PREFIX.pack(0, sum(map(len, parts)))))
        stream.out.extend(memoryview(part) for part in parts if len(part))
        self._flush(stream)

    def finish(self, stream: Stream, error: RequestError | None = None) -> None:
        """End the answer after what is still to be sent."""
        if stream.cancelled:
            return
        stream.status = int(error.grpc) if error else 0
        block = h2.error_trailers(error.grpc, error.message) if error else h2.TRAILERS_OK_BLOCK
        if not stream.responded:
            block = h2.RESPONSE_BLOCK + block
            stream.responded = True
        stream.trailers = h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream.id, block)
        self._flush(stream)

    def forget(self, stream: Stream) -> None:
        """Send nothing more of this stream."""
        self._blocked.pop(stream, None)
        stream.out = None

    def flush_blocked(self) -> None:
        """Go on with what waited for a window."""
        if self.closed or not self._blocked:
            return
        blocked, self._blocked = self._blocked, {}
        for stream in blocked:
            if not stream.cancelled:
                self._flush(stream)

    def _flush(self, stream: Stream) -> None:
        """Send as much of the stream's answer as the windows let through."""
        out = stream.out
        while out:
            room = min(self._window, stream.send_window, self._frame_bytes)
            if room <= 0 or self.paused_since:
                self._blocked[stream] = None
                return
            parts: list[bytes | memoryview] = []
            size = 0
            while out and size < room:
                part = out.popleft()
                if len(part) > room - size:
                    out.appendleft(part[room - size :])
                    part = part[: room - size]
                parts.append(part)
                size += len(part)
            self._window -= size
            stream.send_window -= size
            self._transport.writelines([FRAME.pack(size << 8, 0, stream.id), *parts])
        if stream.trailers is not None:
            self._transport.write(stream.trailers)
            self._written(stream)

    def _written(self, stream: Stream) -> None:
        if not stream.client_done:
            # The answer is complete before the request is (RFC 9113 section 8.1): the rest is not wanted.
            self._transport.write(h2.frame(h2.RST_STREAM, 0, stream.id, UINT32.pack(h2.NO_ERROR)))
        stream.cancelled = True
        self._done(stream)
