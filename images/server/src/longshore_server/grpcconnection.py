"""HTTP/2 (RFC 9113) as far as gRPC needs it: the frames of one connection, and which streams are open.

Requests come in as gRPC messages (a 5-byte prefix each), whole: what becomes of them is the `Service`'s.
"""

import asyncio
import time
from typing import TYPE_CHECKING, cast

from longshore_server import http2frames as h2
from longshore_server.errors import GrpcStatus
from longshore_server.grpcreceiving import CONNECTION_WINDOW, STREAM_WINDOW, Receiving
from longshore_server.grpcsending import Sending
from longshore_server.grpcstream import Method, Stream
from longshore_server.headerblocks import HeaderBlocks
from longshore_server.http2frames import FRAME, FRAME_HEAD_BYTES, UINT32, Http2Error
from longshore_server.patience import Patience
from longshore_server.tracing import Answered, Observer

if TYPE_CHECKING:
    from longshore_server.grpcserver import GrpcServer

# What this server grants.
FRAME_BYTES = 1 << 20
STREAMS = 1024
_MAX_CONTINUATIONS = 32
_LAST_STREAM = 2**31 - 1
_DRAIN_NOTICE = 0.25
_SERVER_FAULTS = (GrpcStatus.DEADLINE_EXCEEDED, GrpcStatus.INTERNAL, GrpcStatus.UNAVAILABLE)


class GrpcConnection(asyncio.Protocol):
    """One client connection."""

    _transport: asyncio.Transport
    _sending: Sending
    _receiving: Receiving

    def __init__(self, server: "GrpcServer") -> None:
        """Made by the listener."""
        self.server = server
        self.closed = False
        self.streams: dict[int, Stream] = {}
        self._blocks = HeaderBlocks(server.limits.header_bytes)
        self._patience = Patience()
        self._rest = b""
        self._started = False
        self._last_stream = 0
        # A header block of which more is to come.
        self._header_stream = 0
        self._header_flags = 0
        self._header_block = b""
        self._continuations = 0
        self._going_away = False
        self._since = time.monotonic()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the server's settings, or refuse the connection when too many are open."""
        self._transport = cast(asyncio.Transport, transport)
        self._sending = Sending(self._transport, self._answered)
        self._receiving = Receiving(self.server, self._transport, self._patience)
        server = self.server
        server.connections.add(self)
        server.metrics.connections("grpc", 1)
        granted = {
            h2.MAX_CONCURRENT_STREAMS: STREAMS,
            h2.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            h2.MAX_FRAME_SIZE: FRAME_BYTES,
            h2.MAX_HEADER_LIST_SIZE: server.limits.header_bytes,
        }
        self._transport.write(
            h2.settings(granted) + h2.window_update(0, CONNECTION_WINDOW - h2.DEFAULT_WINDOW)
        )
        if len(server.connections) > server.limits.connections:
            self._close(h2.ENHANCE_YOUR_CALM, "too many connections")
        elif server.draining:
            self.go_away()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel every open call."""
        self._set_closed()
        for stream in list(self.streams.values()):
            stream.cancelled = True
            self._forget(stream)
        self.server.connections.discard(self)
        self.server.metrics.connections("grpc", -1)

    def pause_writing(self) -> None:
        """The client takes its answers slower than they are written."""
        self._sending.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._sending.resume()

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        if self.closed:
            return
        try:
            self._feed(self._rest + data if self._rest else data)
        except Http2Error as error:
            self._close(error.code, str(error))

    # Frames.

    def _feed(self, data: bytes) -> None:
        position, size = 0, len(data)
        if not self._started:
            if not h2.PREFACE.startswith(data[: len(h2.PREFACE)]):
                raise Http2Error(h2.PROTOCOL_ERROR, "this port speaks gRPC over HTTP/2")
            if size < len(h2.PREFACE):
                self._rest = data
                return
            self._started = True
            position = len(h2.PREFACE)
        receiving = self._receiving
        if receiving.in_frame:
            position = receiving.continue_frame(memoryview(data))
        while size - position >= FRAME_HEAD_BYTES and not self.closed:
            head, flags, number = FRAME.unpack_from(data, position)
            length, kind = head >> 8, head & 0xFF
            if length > FRAME_BYTES:
                raise Http2Error(h2.FRAME_SIZE_ERROR, "a frame is larger than the settings allow")
            start = position + FRAME_HEAD_BYTES
            end = start + length
            if end > size:
                if kind == h2.DATA and not flags & h2.PADDED and not self._header_stream:
                    receiving.begin_frame(self._known(number), flags, length, memoryview(data)[start:])
                    position = size
                break
            if kind == h2.DATA and not self._header_stream:
                receiving.frame(self._known(number), flags, data, start, end)
            elif kind == h2.HEADERS and flags & h2.END_HEADERS and not self._header_stream:
                self._headers(number, flags, h2.header_block(flags, data[start:end]))
            else:
                self._other(kind, flags, number, data[start:end])
            position = end
        if self.closed:
            return
        self._rest = data[position:] if position < size else b""
        receiving.grant()

    def _known(self, number: int) -> Stream | None:
        """The stream with this number; None when it has ended. Raises `Http2Error`."""
        stream = self.streams.get(number)
        if stream is None and (number > self._last_stream or not number & 1):
            raise Http2Error(h2.PROTOCOL_ERROR, "DATA on a stream that was never opened")
        return stream

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Every frame but the two that a call consists of."""
        if self._header_stream and (kind != h2.CONTINUATION or number != self._header_stream):
            raise Http2Error(h2.PROTOCOL_ERROR, "a header block is interrupted")
        if kind == h2.HEADERS:
            self._header_stream, self._header_flags = number, flags
            self._header_block, self._continuations = h2.header_block(flags, payload), 0
        elif kind == h2.CONTINUATION:
            self._continuation(flags, payload)
        elif kind == h2.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == h2.WINDOW_UPDATE:
            self._window_update(number, payload)
        elif kind == h2.PING:
            if number or len(payload) != 8:
                raise Http2Error(h2.PROTOCOL_ERROR, "bad PING")
            if not flags & h2.ACK:
                self._patience.lose()
                self._transport.write(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.RST_STREAM:
            self._reset(number, payload)
        elif kind == h2.PUSH_PROMISE:
            raise Http2Error(h2.PROTOCOL_ERROR, "a client cannot push")
        elif kind == h2.GOAWAY:
            self._going_away = True
            self._close_when_done()
        else:
            self._patience.lose()  # PRIORITY and unknown kinds are ignored (RFC 9113 sections 5.3.2 and 5.5)

    def _continuation(self, flags: int, payload: bytes) -> None:
        if not self._header_stream:
            raise Http2Error(h2.PROTOCOL_ERROR, "CONTINUATION continues nothing")
        self._header_block += payload
        self._continuations += 1
        if (
            self._continuations > _MAX_CONTINUATIONS
            or len(self._header_block) > self.server.limits.header_bytes
        ):
            raise Http2Error(h2.ENHANCE_YOUR_CALM, "a header block is too large")
        if flags & h2.END_HEADERS:
            number, self._header_stream = self._header_stream, 0
            self._headers(number, self._header_flags, self._header_block)

    def _headers(self, number: int, flags: int, block: bytes) -> None:
        method: Method | None = self._blocks.lookup(block)
        if method is None:
            try:
                method = self.server.service.resolve(self._blocks.decode(block))
            except ValueError as error:
                raise Http2Error(h2.COMPRESSION_ERROR, str(error)) from None
            self._blocks.remember(block, method)
        if number <= self._last_stream:
            stream = self.streams.get(number)
            if stream is None or not flags & h2.END_STREAM:
                raise Http2Error(h2.PROTOCOL_ERROR, "HEADERS on a stream that is not new")
            self._receiving.ended(stream)  # trailers, which gRPC clients do not send, end the request
            return
        if not number & 1:
            raise Http2Error(h2.PROTOCOL_ERROR, "a client opens odd streams only")
        self._last_stream = number
        if self._going_away or len(self.streams) >= STREAMS:
            self._patience.lose()
            self._transport.write(h2.frame(h2.RST_STREAM, 0, number, UINT32.pack(h2.REFUSED_STREAM)))
            return
        opened = time.perf_counter() if self.server.observer is not None else 0.0
        sending = self._sending
        stream = Stream(sending, number, method, sending.new_stream_window, opened)
        self.streams[number] = stream
        self.server.metrics.streams(1)
        if method.error is not None:
            stream.finish(method.error)
        elif flags & h2.END_STREAM:
            self._receiving.ended(stream)

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & h2.ACK and payload):
            raise Http2Error(h2.FRAME_SIZE_ERROR, "bad SETTINGS")
        if flags & h2.ACK:
            return
        self._patience.lose()
        self._sending.heed(h2.SETTING.iter_unpack(payload), self.streams.values())
        self._transport.write(h2.frame(h2.SETTINGS, h2.ACK, 0))
        self._sending.flush_blocked()

    def _window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(h2.FRAME_SIZE_ERROR, "bad WINDOW_UPDATE")
        increment = UINT32.unpack(payload)[0] & h2.MAX_WINDOW
        if increment == 0:
            raise Http2Error(h2.PROTOCOL_ERROR, "a window grows by nothing")
        stream = self.streams.get(number)
        if number == 0 or stream is not None:
            self._sending.widen(stream, increment)
        elif number > self._last_stream:
            raise Http2Error(h2.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
        self._sending.flush_blocked()

    def _reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(h2.FRAME_SIZE_ERROR, "bad RST_STREAM")
        if number > self._last_stream or not number & 1:
            raise Http2Error(h2.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
        self._patience.lose()
        stream = self.streams.get(number)
        if stream is not None:
            stream.cancelled = True
            self._forget(stream)

    # Ending a stream.

    def _answered(self, stream: Stream) -> None:
        """The answer is written whole."""
        if self.server.observer is not None:
            self._observe(self.server.observer, stream)
        self._patience.regain()
        self._forget(stream)

    def _observe(self, observer: Observer, stream: Stream) -> None:
        headers = stream.method.headers
        address = self._transport.get_extra_info("peername")
        observer(
            Answered(
                protocol="grpc",
                method="POST",
                path=headers.get(b":path", b"").decode("latin-1"),
                status=stream.status,
                failed=stream.status in _SERVER_FAULTS,
                started=stream.opened,
                peer=str(address[0]) if address else "",
                traceparent=headers.get(b"traceparent", b"").decode("latin-1"),
                tracestate=headers.get(b"tracestate", b"").decode("latin-1"),
            )
        )

    def _forget(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is not None:
            self.server.metrics.streams(-1)
        self._sending.forget(stream)
        self._receiving.forget(stream)
        if not self.streams:
            self._since = time.monotonic()
        if self._going_away:
            self._close_when_done()

    # Ending the connection.

    def go_away(self) -> None:
        """Announce the end; a little later streams that did not heed it are refused, and may be retried."""
        notice = UINT32.pack(_LAST_STREAM) + UINT32.pack(h2.NO_ERROR)
        self._transport.write(h2.frame(h2.GOAWAY, 0, 0, notice))
        self.server.loop.call_later(_DRAIN_NOTICE, self._stop_accepting)

    def _stop_accepting(self) -> None:
        if self.closed:
            return
        self._going_away = True
        last = UINT32.pack(self._last_stream) + UINT32.pack(h2.NO_ERROR)
        self._transport.write(h2.frame(h2.GOAWAY, 0, 0, last))
        self._close_when_done()

    def _close_when_done(self) -> None:
        if not self.streams and not self.closed:
            self._set_closed()
            self._transport.close()

    def _close(self, code: int, text: str) -> None:
        """Close at once, saying why."""
        if self.closed:
            return
        last = UINT32.pack(self._last_stream) + UINT32.pack(code) + text.encode()
        self._transport.write(h2.frame(h2.GOAWAY, 0, 0, last))
        self._set_closed()
        self._transport.close()

    def _set_closed(self) -> None:
        self.closed = self._sending.closed = True

    def forget_headers(self) -> None:
        """Resolve header blocks anew from now on."""
        self._blocks.forget()

    def enforce_timeouts(self, now: float) -> None:
        """Close what its client leaves unfinished; `now` on the clock of `time.monotonic`."""
        limits = self.server.limits
        paused_since = self._sending.paused_since
        if paused_since and now - paused_since > limits.write_timeout:
            self._transport.abort()
        elif not self._started and now - self._since > limits.header_timeout:
            self._close(h2.NO_ERROR, "no preface arrived in time")
        elif self._header_stream and now - self._since > limits.header_timeout + limits.idle_timeout:
            self._close(h2.PROTOCOL_ERROR, "a header block was not finished in time")
        elif not self.streams and now - self._since > limits.idle_timeout:
            self._close(h2.NO_ERROR, "the connection was idle")
        for stream in list(self.streams.values()):
            self._receiving.enforce_timeout(stream, now)
