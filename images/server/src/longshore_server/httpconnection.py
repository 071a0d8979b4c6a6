"""HTTP/1.1 connections: bytes in, complete requests out, answers back in order.

One request of a connection is worked on at a time; what a client pipelines waits its turn.
"""

import asyncio
import time
from enum import Enum
from typing import TYPE_CHECKING, cast

import numpy as np

from longshore_server.chunked import ChunkedBody
from longshore_server.errors import GrpcStatus, RequestError, overloaded
from longshore_server.httpexchange import Exchange
from longshore_server.httphead import Body, RequestHead
from longshore_server.readgate import ReadGate
from longshore_server.tracing import Answered, Observer

if TYPE_CHECKING:
    from longshore_server.httpserver import HttpServer

# The first read of a message holds its head and, if it is small, all of it. What is left of a larger body
# is then read straight into the memory that the runtime will use.
RECEIVE_BYTES = 16 << 10
_ALIGNMENT = 16
# Room that a large body leaves in its buffer: a read that does not fill all of it is known to have been the
# last one, where a filled buffer would be followed by a read in vain.
_SPARE = 1
# A body that is slower than this many bytes a second, after the body timeout, is cut off.
_SLOWEST_BODY = 128 << 10
_LINGER_SECONDS = 2.0


class Phase(Enum):
    """What a connection waits for; the sweeper ends those that wait too long."""

    IDLE = "a request"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    BUSY = "the answer"
    LINGER = "the client to stop sending after a refusal"


class HttpConnection(Exchange, asyncio.BufferedProtocol):
    """One client connection."""

    __slots__ = (
        "_body",
        "_body_reserved",
        "_chunked",
        "_filled",
        "_gate",
        "_heads",
        "_linger",
        "_pending",
        "_phase",
        "_receive",
        "_seen_answers",
        "_since",
        "_write_blocked_since",
        "server",
    )

    def __init__(self, server: "HttpServer") -> None:
        """Made by the listener."""
        super().__init__(server.metrics, server.loop)
        self.server = server
        self._heads = server.heads
        self._receive = server.receive_buffer
        self._pending = b""
        self._phase = Phase.IDLE
        self._since = time.monotonic()
        self._seen_answers = 0
        self._body: memoryview | None = None
        self._body_reserved = 0
        self._filled = 0
        self._chunked: ChunkedBody | None = None
        self._linger = False
        self._write_blocked_since = 0.0

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, or refuse it when too many are open."""
        self.transport = cast(asyncio.Transport, transport)
        self._gate = ReadGate(self.transport, self._loop)
        server = self.server
        server.connections.add(self)
        server.metrics.connections("http", 1)
        if len(server.connections) > server.limits.connections:
            self.fail(overloaded("too many connections: retry later or add replicas"), close=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back everything."""
        self.closed = True
        self._release_body()
        self._pending = b""
        self._chunked = None
        self.server.connections.discard(self)
        self.server.metrics.connections("http", -1)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: the shared buffer, or the rest of a large body."""
        body = self._body
        return self._receive if body is None else body[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived in the buffer that was given last."""
        if self._phase is Phase.LINGER:
            return
        if self._body is None:
            data = bytes(self._receive[:nbytes])
            if self._pending:
                data = self._pending + data
            self._feed(data)
            return
        self._filled += nbytes
        body, length = self._body, len(self._body) - _SPARE
        if self._filled >= length:
            self._body = None
            self._pending = bytes(body[length : self._filled])
            self._dispatch(body[:length])

    def eof_received(self) -> bool:
        """The client will send no more: what it asked for is still answered."""
        if self._phase is Phase.BUSY:
            self._close_after = True
            return True
        return False

    def pause_writing(self) -> None:
        """The client takes its answer slower than it is written."""
        self._write_blocked_since = time.monotonic()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._write_blocked_since = 0.0

    # Reading.

    def _feed(self, data: bytes) -> None:
        """Go on with `data`, which begins where the last message ended or inside the current head or
        chunk.
        """
        if self._chunked is not None:
            self._pending = b""
            self._feed_chunk(self._chunked, data)
            return
        if self._phase is Phase.BUSY:
            self._pending = data
            if len(data) > RECEIVE_BYTES:
                self._gate.close()
            return
        end = data.find(b"\r\n\r\n") + 4
        head = self._heads.get(data[:end])
        if head is None:
            self._feed_new_head(data, end)
            return
        self._take(head, data, end)

    def _feed_new_head(self, data: bytes, end: int) -> None:
        if data.startswith(b"\r\n"):  # RFC 9112 section 2.2: empty lines before a request are skipped
            while data.startswith(b"\r\n"):
                data = data[2:]
            self._pending = b""
            self._feed(data)
            return
        if end < 4:
            self._pending = data
            if len(data) > self.server.limits.header_bytes:
                self._refuse(_head_too_large(self.server.limits.header_bytes))
            elif data and self._phase is not Phase.HEAD:
                self._enter(Phase.HEAD)
            return
        if end > self.server.limits.header_bytes:
            self._refuse(_head_too_large(self.server.limits.header_bytes))
            return
        try:
            head = self.server.resolve(data[:end])
        except RequestError as error:
            self._refuse(error)
            return
        self._take(head, data, end)

    def _take(self, head: RequestHead, data: bytes, end: int) -> None:
        """A head is complete; `data[end:]` is what came after it."""
        self.head = head
        length = head.content_length
        rest = len(data) - end
        if rest == length and not head.chunked:
            self._pending = b""
            self._dispatch(data[end:] if length else b"")
            return
        limits = self.server.limits
        if head.expects_continue and not rest:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.chunked:
            self._chunked = ChunkedBody(limits.body_bytes)
            self._enter(Phase.BODY)
            self._pending = b""
            self._feed_chunk(self._chunked, data[end:])
        elif rest > length:
            self._pending = data[end + length :]
            self._dispatch(data[end : end + length])
        else:
            self._receive_body(head, data, end)

    def _receive_body(self, head: RequestHead, data: bytes, end: int) -> None:
        server, length = self.server, head.content_length
        if server.body_bytes + length > server.limits.in_flight_bytes:
            self._refuse(overloaded("too many bytes of requests are being received: retry later"))
            return
        server.body_bytes += length
        self._body_reserved = length
        # The first tensor begins after the JSON part: it is what must lie on an aligned address.
        self._body = _aligned(length + _SPARE, max(head.json_length, 0))
        self._filled = len(data) - end
        self._body[: self._filled] = data[end:]
        self._pending = b""
        self._enter(Phase.BODY)

    def _feed_chunk(self, chunked: ChunkedBody, data: bytes) -> None:
        try:
            chunked.feed(data)
        except RequestError as error:
            self._refuse(error)
            return
        self._reserve(len(chunked.body))
        if chunked.done:
            self._chunked = None
            self._pending = chunked.rest
            self._dispatch(memoryview(chunked.body))

    def _reserve(self, size: int) -> None:
        self.server.body_bytes += size - self._body_reserved
        self._body_reserved = size

    def _release_body(self) -> None:
        self._body = None
        if self._body_reserved:
            self._reserve(0)

    def _dispatch(self, body: Body) -> None:
        head = self.head
        assert head is not None
        self._phase = Phase.BUSY
        self._close_after = not head.keep_alive or self.server.draining
        try:
            head.endpoint(self, head, body)
        except RequestError as error:
            self._failed(error)

    # Ending a request.

    def _overloaded(self) -> None:
        if not self.closed:
            self._gate.hold_off()

    def _refuse(self, error: RequestError) -> None:
        """Answer and close: where the next message would begin is not known."""
        if self._phase in (Phase.IDLE, Phase.HEAD):
            self.started = time.perf_counter()
        self._pending = b""
        self._chunked = None
        self._body = None
        self._linger = True
        if self._phase is Phase.BODY and self.head is not None and self.head.is_inference:
            self.server.metrics.request_failed(error)
        self.fail(error, close=True)

    def _close(self) -> None:
        """Close, but not into the face of a client that still sends: a reset could overtake the answer."""
        if self._linger and not self.closed and self.transport.can_write_eof():
            self._enter(Phase.LINGER)
            self.transport.write_eof()
        else:
            self.transport.close()

    def _answered(self) -> None:
        head, self.head = self.head, None
        self.answers += 1
        if self._body_reserved:
            self._release_body()
        if self.server.observer is not None and head is not None:
            self._observe(self.server.observer, head)
        if self._close_after:
            self._close()
            return
        self._phase = Phase.IDLE
        if self._gate.closed:
            self._gate.open()
        if self._pending:
            self._loop.call_soon(self._feed_pending)

    def _observe(self, observer: Observer, head: RequestHead) -> None:
        started = self.started if head.is_inference else time.perf_counter()
        observer(
            Answered(
                protocol="http",
                method=head.method,
                path=head.path,
                status=self.status,
                failed=self.status >= 500,
                started=started,
                peer=self._peer(),
                traceparent=head.header(b"traceparent"),
                tracestate=head.header(b"tracestate"),
            )
        )

    def _peer(self) -> str:
        address = self.transport.get_extra_info("peername")
        return str(address[0]) if address else ""

    def _feed_pending(self) -> None:
        if self._pending and not self.closed and self._phase is not Phase.BUSY:
            data, self._pending = self._pending, b""
            self._feed(data)

    # Limits.

    def close_if_idle(self) -> None:
        """Close now if nothing is asked, else after the answer."""
        self._close_after = True
        if self._phase is Phase.IDLE and not self._pending:
            self.transport.close()

    def enforce_timeouts(self, now: float) -> None:
        """Close the connection if its client is too slow; `now` on the clock of `time.monotonic`."""
        limits = self.server.limits
        waited = now - self._since
        if self._write_blocked_since:
            if now - self._write_blocked_since > limits.write_timeout:
                self.transport.abort()
        elif self._phase is Phase.IDLE:
            if self.answers != self._seen_answers:
                self._seen_answers, self._since = self.answers, now
            elif waited > limits.idle_timeout:
                self.transport.close()
        elif self._phase is Phase.HEAD:
            if waited > limits.header_timeout:
                self._refuse(_timeout(f"the head did not arrive within {limits.header_timeout:g} s"))
        elif self._phase is Phase.LINGER:
            if waited > _LINGER_SECONDS:
                self.transport.abort()
        elif self._phase is Phase.BODY:
            allowed = limits.body_timeout + (self.head.content_length if self.head else 0) / _SLOWEST_BODY
            if waited > allowed:
                self._refuse(_timeout(f"the body did not arrive within {allowed:g} s"))

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = time.monotonic()


def _aligned(size: int, offset: int) -> memoryview:
    """Uninitialized memory of `size` bytes in which the byte at `offset` has an aligned address.

    That large blocks begin at one is taken from malloc, not looked up; the batcher copies a tensor that it
    finds elsewhere.
    """
    whole = np.empty(size + _ALIGNMENT, np.uint8)
    start = -offset % _ALIGNMENT
    return whole[start : start + size].data


def _head_too_large(limit: int) -> RequestError:
    return RequestError(
        431, GrpcStatus.INVALID_ARGUMENT, f"the head is larger than the limit of {limit} bytes"
    )


def _timeout(message: str) -> RequestError:
    return RequestError(408, GrpcStatus.DEADLINE_EXCEEDED, message)
