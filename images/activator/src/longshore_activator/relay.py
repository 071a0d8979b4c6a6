"""Two connected sockets made one: bytes, half-closes and resets pass through, nothing is parsed.

One read buffer serves all connections, so an idle connection costs no memory; what the receiver cannot take
yet is copied once and reading stops until it is gone. Measured against splice(2) through pipes
(`make bench-scaling`): on loopback this moves more bytes a second, for more processor time a byte, while
pipes cost four more descriptors and set-up time a connection.
"""

import contextlib
import socket
import struct
from collections.abc import Callable

from longshore_activator.poller import Poller

BUFFER_SIZE = 1024 * 1024
"""Read at once at most: on loopback 1 MiB moves a quarter more bytes a second than 256 KiB."""

_FIRST_READ = 64 * 1024
"""Read at once at first, and from who sends faster than the other side takes: so much is copied and kept."""

_MUCH_KEPT = 64 * 1024 * 1024
"""Bytes kept for slow receivers, all together, from which on nobody is read more of at once than at first."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CLOSE_GRACEFULLY = struct.pack("ii", 0, 0)


def reset(sock: socket.socket) -> None:
    """Close so that the peer sees a reset at once (RST), not an end of data."""
    with contextlib.suppress(OSError):  # already gone: closing is all that is left
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()


def reset_if_killed(listener: socket.socket) -> None:
    """Make accepted connections end in a reset if this process dies: Linux hands the option down."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def close_gracefully(sock: socket.socket) -> None:
    """Close so that what was written still reaches the peer."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_GRACEFULLY)
    sock.close()


class Buffer:
    """What all relays of a loop read into (the loop is one thread), and how much they keep of it."""

    __slots__ = ("kept", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BUFFER_SIZE))
        self.kept = 0


class _Half:
    """One direction: from `source` to `sink`."""

    __slots__ = ("ended", "owner", "pending", "room", "sink", "sink_fd", "source", "source_fd")

    def __init__(self, owner: "Relay", source: socket.socket, sink: socket.socket) -> None:
        self.owner = owner
        self.source = source
        self.sink = sink
        self.source_fd = source.fileno()
        self.sink_fd = sink.fileno()
        self.pending: memoryview | None = None
        self.room = _FIRST_READ
        self.ended = False

    def start(self, first: bytes, ended: bool) -> None:
        """Send what was read before there was a sink, then go on with the source."""
        self.ended = ended
        if first:
            self._send(memoryview(first))
        elif ended:
            self._end()
        if self.owner.open and self.pending is None and not self.ended:
            self.owner.poller.add_reader(self.source_fd, self.on_readable)

    def on_readable(self) -> None:
        buffer = self.owner.buffer
        room = self.room if buffer.kept < _MUCH_KEPT else _FIRST_READ
        try:
            count = self.source.recv_into(buffer.view, room)
        except BlockingIOError:
            return
        except OSError:
            self.owner.abort()
            return
        if count == 0:
            self.ended = True
            self._end()
            if self.owner.open:
                self.owner.poller.remove_reader(self.source_fd)
            return
        owner = self.owner
        owner.moved = True
        try:
            sent = self.sink.send(buffer.view[:count])
        except BlockingIOError:
            sent = 0
        except OSError:
            owner.abort()
            return
        if sent < count:
            self.room = max(self.room // 2, _FIRST_READ)
            owner.poller.remove_reader(self.source_fd)
            self._wait(memoryview(bytes(buffer.view[sent:count])))
        elif count == self.room < BUFFER_SIZE:
            self.room *= 2

    def on_writable(self) -> None:
        pending = self.pending
        if pending is None:
            return
        self.owner.poller.remove_writer(self.sink_fd)
        self.drop()
        self._send(pending)
        if self.owner.open and self.pending is None and not self.ended:
            self.owner.poller.add_reader(self.source_fd, self.on_readable)

    def _send(self, data: memoryview) -> None:
        try:
            sent = self.sink.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.owner.abort()
            return
        if sent:
            self.owner.moved = True
        if sent < len(data):
            self._wait(data[sent:])
        elif self.ended:
            self._end()

    def _wait(self, data: memoryview) -> None:
        self.pending = data
        self.owner.buffer.kept += len(data)
        self.owner.poller.add_writer(self.sink_fd, self.on_writable)

    def drop(self) -> None:
        """Keep nothing any longer."""
        if self.pending is not None:
            self.owner.buffer.kept -= len(self.pending)
            self.pending = None

    def _end(self) -> None:
        """Pass the half-close on once everything before it has been sent."""
        other = self.owner.backward if self is self.owner.forward else self.owner.forward
        if other.ended and other.pending is None:
            self.owner.finish()
            return
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.owner.abort()


class Relay:
    """A client's and a pod's socket, both connected and non-blocking, joined until both have ended.

    Args:
        poller: watches both sockets.
        buffer: shared by all relays of the poller.
        client: the accepted socket.
        upstream: the connected socket to the pod.
        first: bytes already read from the client.
        client_ended: whether the client has already closed its sending half.
        on_close: called once, when both sockets are closed.
    """

    __slots__ = (
        "backward",
        "buffer",
        "client",
        "forward",
        "moved",
        "on_close",
        "open",
        "poller",
        "stalled",
        "upstream",
    )

    def __init__(
        self,
        poller: Poller,
        buffer: Buffer,
        client: socket.socket,
        upstream: socket.socket,
        first: bytes,
        client_ended: bool,
        on_close: Callable[["Relay"], None],
    ) -> None:
        self.poller = poller
        self.buffer = buffer
        self.client = client
        self.upstream = upstream
        self.on_close = on_close
        self.open = True
        self.moved = True
        self.stalled = 0.0
        self.forward = _Half(self, client, upstream)
        self.backward = _Half(self, upstream, client)
        self.backward.start(b"", False)
        self.forward.start(first, client_ended)

    def check_stall(self, elapsed: float, limit: float) -> None:
        """Abort when a receiver has taken nothing of what waits for it during `limit` seconds."""
        waiting = self.forward.pending is not None or self.backward.pending is not None
        self.stalled = self.stalled + elapsed if waiting and not self.moved else 0.0
        self.moved = False
        if self.stalled >= limit:
            self.abort()

    def finish(self) -> None:
        """Close both sides after both have ended."""
        if self._release():
            close_gracefully(self.client)
            self.upstream.close()

    def abort(self) -> None:
        """Close both sides with a reset, as the side that failed did."""
        if self._release():
            self.client.close()  # ends in a reset: see `reset_if_killed`
            reset(self.upstream)

    def _release(self) -> bool:
        if not self.open:
            return False
        self.open = False
        for half in (self.forward, self.backward):
            self.poller.forget(half.source_fd)
            half.drop()
        self.on_close(self)
        return True
