"""HTTP/2 (RFC 9113) as far as gRPC needs it: one connection's frames, streams and flow control.

Requests come in as gRPC messages (a 5-byte prefix each), whole: what becomes of them is the `Service`'s. An
answer to a unary call leaves in one write when flow control lets it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from longshore_server import compression
from longshore_server import http2frames as h2
from longshore_server.config import Limits
from longshore_server.errors import GrpcStatus, RequestError
from longshore_server.headerblocks import HeaderBlocks, Headers
from longshore_server.http2frames import FRAME, PREFIX, UINT32, Http2Error
from longshore_server.metrics import Metrics
from longshore_server.tracing import Answered, Observer

# What this server grants: windows large enough that no upload waits for an update on a fast network.
FRAME_BYTES = 1 << 20
STREAM_WINDOW = 16 << 20
CONNECTION_WINDOW = 64 << 20
STREAMS = 1024
# Frames that cost the server more than their sender, beyond what its answered calls excuse, before it is shut
# out (floods of resets, pings, settings or empty frames: CVE-2019-9512, -9515, -9518, CVE-2023-44487).
_MAX_NUISANCES = 1000
_MAX_CONTINUATIONS = 32
_LAST_STREAM = 2**31 - 1
_PREFIX_BYTES = 5
# A message that is slower than this many bytes a second, after the body timeout, is cut off.
_SLOWEST_MESSAGE = 128 << 10
_DRAIN_NOTICE = 0.25
_SERVER_FAULTS = (GrpcStatus.DEADLINE_EXCEEDED, GrpcStatus.INTERNAL, GrpcStatus.UNAVAILABLE)


class Method:
    """What a header block asks for; shared by all calls with the same block.

    `handle` gets each message of a call. `error` is what to answer at once instead. `timeout` in seconds.
    """

    __slots__ = ("coding", "error", "handle", "headers", "streaming", "timeout")

    def __init__(
        self,
        handle: "Callable[[Stream, bytes | memoryview], None] | None",
        streaming: bool = False,
        error: RequestError | None = None,
        timeout: float | None = None,
        coding: str = "",
        headers: Headers | None = None,
    ) -> None:
        self.handle = handle
        self.streaming = streaming
        self.error = error
        self.timeout = timeout
        self.coding = coding
        self.headers = headers or {}


class Service(Protocol):
    """What the calls mean."""

    def resolve(self, headers: Headers) -> Method:
        """The method that the headers ask for; mistakes are in its `error`."""

    def refused(self, stream: "Stream", error: RequestError) -> None:
        """A message of a call was refused: count it and end the call or, in a stream, answer it."""


class Stream:
    """One call."""

    __slots__ = (
        "buffer",
        "cancelled",
        "client_done",
        "compressed",
        "connection",
        "expected",
        "filled",
        "id",
        "id_bytes",
        "messages",
        "method",
        "open_answers",
        "opened",
        "out",
        "received",
        "reserved",
        "responded",
        "send_window",
        "since",
        "status",
        "trailers",
    )

    def __init__(self, connection: "GrpcConnection", number: int, method: Method, send_window: int) -> None:
        self.connection = connection
        self.id = number
        self.id_bytes = UINT32.pack(number)
        self.method = method
        self.send_window = send_window
        self.buffer: bytearray | None = None
        self.filled = 0
        self.expected = 0
        self.compressed = 0
        self.received = 0
        self.reserved = 0
        self.messages = 0
        self.client_done = False
        self.cancelled = False
        self.responded = False
        self.open_answers = 0
        self.out: deque[memoryview] | None = None
        self.trailers: bytes | None = None
        self.since = 0.0
        self.status = 0
        self.opened = time.perf_counter() if connection.server.observer is not None else 0.0

    def reply(self, parts: tuple[bytes | memoryview, ...]) -> None:
        """Answer a unary call with one message, given in parts."""
        self.connection.reply(self, parts)

    def send(self, parts: tuple[bytes | memoryview, ...]) -> None:
        """Send one message of a streaming answer."""
        self.connection.send_message(self, parts)

    def finish(self, error: RequestError | None = None) -> None:
        """End the answer, with an error or well."""
        self.connection.finish(self, error)


class GrpcServer:
    """What all connections of one listener share."""

    def __init__(
        self, service: Service, limits: Limits, metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        """`service` is asked for each distinct header block of each connection."""
        self.service = service
        self.limits = limits
        self.metrics = metrics
        self.loop = loop
        self.connections: set[GrpcConnection] = set()
        self.message_bytes = 0
        self.draining = False
        self.observer: Observer | None = None

    def __call__(self) -> "GrpcConnection":
        """A protocol for a new connection."""
        return GrpcConnection(self)

    def drain(self) -> None:
        """Tell every client to open no more streams here; open ones go on."""
        self.draining = True
        for connection in list(self.connections):
            connection.go_away()

    def forget_headers(self) -> None:
        """Resolve all header blocks anew, after what they were checked against has changed."""
        for connection in self.connections:
            connection.forget_headers()

    def sweep(self, now: float) -> None:
        """Close what has waited too long; `now` on the clock of `time.monotonic`."""
        for connection in list(self.connections):
            connection.enforce_timeouts(now)


class GrpcConnection(asyncio.Protocol):
    """One client connection."""

    def __init__(self, server: GrpcServer) -> None:
        """Made by the listener."""
        self.server = server
        self.closed = False
        self.streams: dict[int, Stream] = {}
        self._blocks = HeaderBlocks(server.limits.header_bytes)
        self._rest = b""
        self._started = False
        self._last_stream = 0
        self._send_window = h2.DEFAULT_WINDOW
        self._stream_send_window = h2.DEFAULT_WINDOW
        self._peer_frame_bytes = h2.DEFAULT_FRAME_BYTES
        self._received = 0
        self._header_stream = 0
        self._header_flags = 0
        self._header_block = b""
        self._continuations = 0
        self._partial: Stream | None = None
        self._partial_left = 0
        self._partial_flags = 0
        self._blocked: dict[Stream, None] = {}
        self._nuisances = 0
        self._going_away = False
        self._since = time.monotonic()
        self._writing_paused_since = 0.0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the server's settings, or refuse the connection when too many are open."""
        self.transport = cast(asyncio.Transport, transport)
        server = self.server
        server.connections.add(self)
        server.metrics.connections("grpc", 1)
        granted = {
            h2.MAX_CONCURRENT_STREAMS: STREAMS,
            h2.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            h2.MAX_FRAME_SIZE: FRAME_BYTES,
            h2.MAX_HEADER_LIST_SIZE: server.limits.header_bytes,
        }
        self.transport.write(
            h2.settings(granted) + h2.window_update(0, CONNECTION_WINDOW - h2.DEFAULT_WINDOW)
        )
        if len(server.connections) > server.limits.connections:
            self._close(h2.ENHANCE_YOUR_CALM, "too many connections")
        elif server.draining:
            self.go_away()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel every open call."""
        self.closed = True
        for stream in list(self.streams.values()):
            stream.cancelled = True
            self._forget(stream)
        self._blocked.clear()
        self.server.connections.discard(self)
        self.server.metrics.connections("grpc", -1)

    def pause_writing(self) -> None:
        """The client takes its answers slower than they are written."""
        self._writing_paused_since = time.monotonic()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writing_paused_since = 0.0
        self._flush_blocked()

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        if self.closed:
            return
        try:
            self._feed(self._rest + data if self._rest else data)
        except Http2Error as error:
            self._close(error.code, str(error))

    # Reading.

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
        if self._partial is not None:
            position = self._feed_partial(data)
        while size - position >= 9 and not self.closed:
            head, flags, number = FRAME.unpack_from(data, position)
            length, kind = head >> 8, head & 0xFF
            if length > FRAME_BYTES:
                raise Http2Error(h2.FRAME_SIZE_ERROR, "a frame is larger than the settings allow")
            end = position + 9 + length
            if end > size:
                if kind == h2.DATA and not flags & h2.PADDED and not self._header_stream:
                    self._begin_partial(number, length, flags, memoryview(data)[position + 9 :])
                    position = size
                break
            if kind == h2.DATA and not self._header_stream:
                self._data(number, flags, data, position + 9, end)
            elif kind == h2.HEADERS and flags & h2.END_HEADERS and not self._header_stream:
                self._headers(number, flags, self._block(flags, data[position + 9 : end]))
            else:
                self._other(kind, flags, number, data[position + 9 : end])
            position = end
        if self.closed:
            return
        self._rest = data[position:] if position < size else b""
        if self._received >= CONNECTION_WINDOW // 4:
            self.transport.write(h2.window_update(0, self._received))
            self._received = 0

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Every frame but the two that a call consists of."""
        if self._header_stream and (kind != h2.CONTINUATION or number != self._header_stream):
            raise Http2Error(h2.PROTOCOL_ERROR, "a header block is interrupted")
        if kind == h2.HEADERS:
            self._header_stream, self._header_flags = number, flags
            self._header_block, self._continuations = self._block(flags, payload), 0
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
                self._nuisance()
                self.transport.write(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.RST_STREAM:
            self._reset(number, payload)
        elif kind == h2.PUSH_PROMISE:
            raise Http2Error(h2.PROTOCOL_ERROR, "a client cannot push")
        elif kind == h2.GOAWAY:
            self._going_away = True
            self._close_when_done()
        else:
            self._nuisance()  # PRIORITY and unknown kinds are ignored (RFC 9113 sections 5.3.2 and 5.5)

    def _block(self, flags: int, payload: bytes) -> bytes:
        """A HEADERS frame's part of the header block, without padding and priority."""
        if not flags & (h2.PADDED | h2.HAS_PRIORITY):
            return payload
        padding = 0
        if flags & h2.PADDED:
            if not payload:
                raise Http2Error(h2.FRAME_SIZE_ERROR, "a padded frame is empty")
            padding, payload = payload[0], payload[1:]
        if flags & h2.HAS_PRIORITY:
            payload = payload[5:]
        if padding > len(payload):
            raise Http2Error(h2.PROTOCOL_ERROR, "padding is longer than the frame")
        return payload[: len(payload) - padding]

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
            self._client_done(stream)  # trailers, which gRPC clients do not send, end the request
            return
        if not number & 1:
            raise Http2Error(h2.PROTOCOL_ERROR, "a client opens odd streams only")
        self._last_stream = number
        if self._going_away or len(self.streams) >= STREAMS:
            self._nuisance()
            self.transport.write(h2.frame(h2.RST_STREAM, 0, number, UINT32.pack(h2.REFUSED_STREAM)))
            return
        stream = Stream(self, number, method, self._stream_send_window)
        self.streams[number] = stream
        self.server.metrics.streams(1)
        if method.error is not None:
            self.finish(stream, method.error)
        elif flags & h2.END_STREAM:
            self._client_done(stream)

    def _data(self, number: int, flags: int, data: bytes, start: int, end: int) -> None:
        """A whole DATA frame; its payload is `data[start:end]`."""
        length = end - start
        self._received += length
        stream = self.streams.get(number)
        if stream is None:
            self._data_for_none(number, length)
            return
        if flags & h2.PADDED:
            if start == end or data[start] > end - start - 1:
                raise Http2Error(h2.PROTOCOL_ERROR, "padding is longer than the frame")
            start, end = start + 1, end - data[start]
        if stream.client_done:
            raise Http2Error(h2.STREAM_CLOSED, "DATA after the end of the stream")
        if stream.buffer is None and end - start >= _PREFIX_BYTES:
            compressed, size = PREFIX.unpack_from(data, start)
            if size == end - start - _PREFIX_BYTES:
                # The common case: one frame, one message.
                self._message(stream, compressed, data[start + _PREFIX_BYTES : end])
                if flags & h2.END_STREAM:
                    self._client_done(stream)
                elif stream.method.streaming:
                    self._open_window(stream, length)
                return
        if start == end and not flags & h2.END_STREAM:
            self._nuisance()
        self._collect(stream, memoryview(data)[start:end])
        self._end_of_frame(stream, flags, length)

    def _begin_partial(self, number: int, length: int, flags: int, part: memoryview) -> None:
        """The beginning of a DATA frame that is not all here: large messages are not kept twice."""
        self._received += length
        stream = self.streams.get(number)
        if stream is not None and stream.client_done:
            raise Http2Error(h2.STREAM_CLOSED, "DATA after the end of the stream")
        if stream is None:
            self._data_for_none(number, length)
            # A stream that is gone still has the rest of its frame under way.
            stream = Stream(self, 0, Method(None), 0)
            stream.cancelled = True
        self._partial, self._partial_left, self._partial_flags = stream, length, flags
        self._take_partial(part)

    def _feed_partial(self, data: bytes) -> int:
        return self._take_partial(memoryview(data))

    def _take_partial(self, part: memoryview) -> int:
        """Take what belongs to the begun frame; returns how many bytes that was."""
        stream, taken = self._partial, min(self._partial_left, len(part))
        assert stream is not None
        self._partial_left -= taken
        if not stream.cancelled:
            self._collect(stream, part[:taken])
        if self._partial_left == 0:
            self._partial = None
            if not stream.cancelled:
                self._end_of_frame(stream, self._partial_flags, taken)
        return taken

    def _data_for_none(self, number: int, length: int) -> None:
        if number > self._last_stream or not number & 1:
            raise Http2Error(h2.PROTOCOL_ERROR, "DATA on a stream that was never opened")
        self._nuisance()  # may have crossed a reset or an early answer on its way

    def _end_of_frame(self, stream: Stream, flags: int, length: int) -> None:
        if flags & h2.END_STREAM:
            self._client_done(stream)
        elif not stream.cancelled:
            self._open_window(stream, length)

    def _open_window(self, stream: Stream, length: int) -> None:
        """Grant again what the stream has used, some of it at a time."""
        stream.received += length
        if stream.received >= STREAM_WINDOW // 4:
            self.transport.write(h2.window_update(stream.id, stream.received))
            stream.received = 0

    def _collect(self, stream: Stream, part: memoryview) -> None:
        """Put parts of messages together."""
        while len(part) and not stream.cancelled:
            buffer = stream.buffer
            if buffer is None:
                buffer = stream.buffer = bytearray(_PREFIX_BYTES)
                stream.filled = 0
                stream.since = time.monotonic()
            taken = min(len(buffer) - stream.filled, len(part))
            buffer[stream.filled : stream.filled + taken] = part[:taken]
            stream.filled += taken
            part = part[taken:]
            if stream.filled == _PREFIX_BYTES and not stream.expected:
                compressed, size = PREFIX.unpack(buffer)
                if not self._expect(stream, size):
                    return
                stream.compressed = compressed
                if size:
                    stream.expected = size
                    stream.buffer, stream.filled = bytearray(size), 0
                else:
                    stream.buffer = None
                    self._message(stream, compressed, b"")
            elif stream.expected and stream.filled == stream.expected:
                stream.buffer, stream.expected = None, 0
                self._message(stream, stream.compressed, memoryview(buffer))

    def _expect(self, stream: Stream, size: int) -> bool:
        limits = self.server.limits
        if size > limits.body_bytes:
            text = f"the message has {size} bytes, the limit is {limits.body_bytes}"
            self.finish(stream, RequestError(413, GrpcStatus.RESOURCE_EXHAUSTED, text))
            return False
        if self.server.message_bytes + size > limits.in_flight_bytes:
            text = "too many bytes of requests are being received: retry later"
            self.finish(stream, RequestError(503, GrpcStatus.RESOURCE_EXHAUSTED, text))
            return False
        self.server.message_bytes += size
        stream.reserved += size
        return True

    def _message(self, stream: Stream, compressed: int, message: bytes | memoryview) -> None:
        method = stream.method
        stream.messages += 1
        if compressed:
            self._decompress(stream, message)
            return
        if stream.messages > 1 and not method.streaming:
            self.finish(stream, RequestError(400, GrpcStatus.INVALID_ARGUMENT, "more than one message"))
            return
        assert method.handle is not None
        try:
            method.handle(stream, message)
        except RequestError as error:
            self.refuse(stream, error)

    def _decompress(self, stream: Stream, message: bytes | memoryview) -> None:
        method = stream.method
        if method.coding in ("", "identity"):
            text = "a message is compressed, but grpc-encoding names no coding"
            self.finish(stream, RequestError(400, GrpcStatus.INTERNAL, text))
            return
        try:
            decoded = compression.decompress(method.coding, message, self.server.limits.body_bytes)
        except RequestError as error:
            self.refuse(stream, error)
            return
        stream.messages -= 1
        self._message(stream, 0, decoded)

    def _client_done(self, stream: Stream) -> None:
        stream.client_done = True
        if stream.cancelled:
            return
        if stream.buffer is not None:
            self.finish(stream, RequestError(400, GrpcStatus.INTERNAL, "the request ends inside a message"))
        elif stream.method.streaming:
            if not stream.open_answers:
                self.finish(stream)
        elif not stream.messages:
            self.finish(stream, RequestError(400, GrpcStatus.INTERNAL, "the request holds no message"))

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & h2.ACK and payload):
            raise Http2Error(h2.FRAME_SIZE_ERROR, "bad SETTINGS")
        if flags & h2.ACK:
            return
        self._nuisance()
        for key, value in h2.SETTING.iter_unpack(payload):
            if key == h2.INITIAL_WINDOW_SIZE:
                if value > h2.MAX_WINDOW:
                    raise Http2Error(h2.FLOW_CONTROL_ERROR, "a window is too large")
                change, self._stream_send_window = value - self._stream_send_window, value
                for stream in self.streams.values():
                    stream.send_window += change
            elif key == h2.MAX_FRAME_SIZE:
                if not h2.DEFAULT_FRAME_BYTES <= value < 1 << 24:
                    raise Http2Error(h2.PROTOCOL_ERROR, "bad SETTINGS_MAX_FRAME_SIZE")
                self._peer_frame_bytes = value
        self.transport.write(h2.frame(h2.SETTINGS, h2.ACK, 0))
        self._flush_blocked()

    def _window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(h2.FRAME_SIZE_ERROR, "bad WINDOW_UPDATE")
        increment = UINT32.unpack(payload)[0] & h2.MAX_WINDOW
        stream = self.streams.get(number)
        if increment == 0:
            raise Http2Error(h2.PROTOCOL_ERROR, "a window grows by nothing")
        if number == 0:
            self._send_window += increment
            if self._send_window > h2.MAX_WINDOW:
                raise Http2Error(h2.FLOW_CONTROL_ERROR, "the window is too large")
        elif stream is not None:
            stream.send_window += increment
            if stream.send_window > h2.MAX_WINDOW:
                raise Http2Error(h2.FLOW_CONTROL_ERROR, "a window is too large")
        elif number > self._last_stream:
            raise Http2Error(h2.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
        if self._blocked:
            self._flush_blocked()

    def _reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(h2.FRAME_SIZE_ERROR, "bad RST_STREAM")
        if number > self._last_stream or not number & 1:
            raise Http2Error(h2.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
        self._nuisance()
        stream = self.streams.get(number)
        if stream is not None:
            stream.cancelled = True
            self._forget(stream)

    def _nuisance(self) -> None:
        self._nuisances += 1
        if self._nuisances > _MAX_NUISANCES:
            raise Http2Error(h2.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # Answering.

    def reply(self, stream: Stream, parts: tuple[bytes | memoryview, ...]) -> None:
        """Answer a unary call with one message."""
        if stream.cancelled:
            return
        size = sum(map(len, parts))
        framed = size + _PREFIX_BYTES
        if (
            framed <= self._send_window
            and framed <= stream.send_window
            and framed <= self._peer_frame_bytes
            and stream.out is None
        ):
            self._send_window -= framed
            number = stream.id_bytes
            self.transport.write(
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
            self._done(stream)
            return
        self.send_message(stream, parts)
        self.finish(stream)

    def send_message(self, stream: Stream, parts: tuple[bytes | memoryview, ...]) -> None:
        """Send one message of an answer, as far as flow control lets it."""
        if stream.cancelled:
            return
        if not stream.responded:
            stream.responded = True
            self.transport.write(h2.RESPONSE_HEAD + stream.id_bytes + h2.RESPONSE_BLOCK)
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

    def refuse(self, stream: Stream, error: RequestError) -> None:
        """End a call with an error that its request caused before it was queued."""
        self.server.service.refused(stream, error)

    def _flush(self, stream: Stream) -> None:
        """Send as much of the stream's answer as the windows let through."""
        out = stream.out
        while out:
            room = min(self._send_window, stream.send_window, self._peer_frame_bytes)
            if room <= 0 or self._writing_paused_since:
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
            self._send_window -= size
            stream.send_window -= size
            self.transport.writelines([FRAME.pack(size << 8, 0, stream.id), *parts])
        if stream.trailers is not None:
            self.transport.write(stream.trailers)
            self._done(stream)

    def _flush_blocked(self) -> None:
        if self.closed:
            return
        blocked, self._blocked = self._blocked, {}
        for stream in blocked:
            if not stream.cancelled:
                self._flush(stream)

    def _done(self, stream: Stream) -> None:
        """The answer is written."""
        if self.server.observer is not None:
            self._observe(self.server.observer, stream)
        if self._nuisances:
            self._nuisances -= 1
        if not stream.client_done:
            # The answer is complete before the request is (RFC 9113 section 8.1): the rest is not wanted.
            self.transport.write(h2.frame(h2.RST_STREAM, 0, stream.id, UINT32.pack(h2.NO_ERROR)))
        stream.cancelled = True
        self._forget(stream)

    def _observe(self, observer: Observer, stream: Stream) -> None:
        headers = stream.method.headers
        path = headers.get(b":path", b"").decode("latin-1")
        traceparent = headers.get(b"traceparent", b"").decode("latin-1")
        address = self.transport.get_extra_info("peername")
        peer = str(address[0]) if address else ""
        failed = stream.status in _SERVER_FAULTS
        observer(Answered("grpc", "POST", path, stream.status, failed, stream.opened, peer, traceparent))

    def _forget(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is not None:
            self.server.metrics.streams(-1)
        self._blocked.pop(stream, None)
        self.server.message_bytes -= stream.reserved
        stream.reserved = 0
        stream.buffer = None
        stream.out = None
        self._since = time.monotonic() if not self.streams else self._since
        if self._going_away:
            self._close_when_done()

    # Ending.

    def go_away(self) -> None:
        """Announce the end; a little later streams that did not heed it are refused, and may be retried."""
        notice = UINT32.pack(_LAST_STREAM) + UINT32.pack(h2.NO_ERROR)
        self.transport.write(h2.frame(h2.GOAWAY, 0, 0, notice))
        self.server.loop.call_later(_DRAIN_NOTICE, self._stop_accepting)

    def _stop_accepting(self) -> None:
        if self.closed:
            return
        self._going_away = True
        last = UINT32.pack(self._last_stream) + UINT32.pack(h2.NO_ERROR)
        self.transport.write(h2.frame(h2.GOAWAY, 0, 0, last))
        self._close_when_done()

    def _close_when_done(self) -> None:
        if not self.streams and not self.closed:
            self.closed = True
            self.transport.close()

    def _close(self, code: int, text: str) -> None:
        """Close at once, saying why."""
        if self.closed:
            return
        last = UINT32.pack(self._last_stream) + UINT32.pack(code) + text.encode()
        self.transport.write(h2.frame(h2.GOAWAY, 0, 0, last))
        self.transport.close()
        self.closed = True

    def forget_headers(self) -> None:
        """Resolve header blocks anew from now on."""
        self._blocks.forget()

    def enforce_timeouts(self, now: float) -> None:
        """Close what its client leaves unfinished; `now` on the clock of `time.monotonic`."""
        limits = self.server.limits
        if self._writing_paused_since and now - self._writing_paused_since > limits.write_timeout:
            self.transport.abort()
        elif not self._started and now - self._since > limits.header_timeout:
            self._close(h2.NO_ERROR, "no preface arrived in time")
        elif self._header_stream and now - self._since > limits.header_timeout + limits.idle_timeout:
            self._close(h2.PROTOCOL_ERROR, "a header block was not finished in time")
        elif not self.streams and now - self._since > limits.idle_timeout:
            self._close(h2.NO_ERROR, "the connection was idle")
        for stream in list(self.streams.values()):
            allowed = limits.body_timeout + len(stream.buffer or b"") / _SLOWEST_MESSAGE
            if stream.buffer is not None and now - stream.since > allowed:
                text = f"the message did not arrive within {allowed:g} s"
                self.finish(stream, RequestError(408, GrpcStatus.DEADLINE_EXCEEDED, text))
