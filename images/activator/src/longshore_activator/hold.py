"""Connections that wait for a pod: read into bounded buffers so that one that left is noticed."""

import socket
from collections.abc import Callable
from dataclasses import dataclass

from longshore_activator.poller import Poller
from longshore_activator.relay import reset

_READ_SIZE = 64 * 1024
MAX_BYTES_PER_CONNECTION = 256 * 1024
"""Beyond this a held client is not read further: the kernel's window holds it back."""


@dataclass
class Budget:
    """What may be held, in connections and bytes; shared by all models or of one."""

    max_count: int
    max_bytes: int
    count: int = 0
    bytes: int = 0

    @property
    def full(self) -> bool:
        """Whether one more connection is too many."""
        return self.count >= self.max_count

    @property
    def may_read(self) -> bool:
        """Whether more bytes may be taken in."""
        return self.bytes < self.max_bytes


class Held:
    """One waiting client.

    Args:
        poller: watches the socket.
        sock: the accepted, non-blocking socket.
        target: port on the pod that it is meant for.
        budgets: counted against until released.
        since: loop time of its arrival.
        on_data: called when the first bytes arrive.
        on_gone: called when the client leaves before it is released.
    """

    __slots__ = (
        "_budgets",
        "_on_data",
        "_on_gone",
        "_poller",
        "_reading",
        "buffer",
        "ended",
        "held",
        "since",
        "sock",
        "target",
    )

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        target: int,
        budgets: tuple[Budget, ...],
        since: float,
        on_data: Callable[["Held"], None],
        on_gone: Callable[["Held"], None],
    ) -> None:
        self._poller = poller
        self._budgets = budgets
        self._on_data = on_data
        self._on_gone = on_gone
        self.sock = sock
        self.target = target
        self.since = since
        self.buffer = bytearray()
        self.ended = False
        self.held = True
        for budget in budgets:
            budget.count += 1
        self._reading = True
        poller.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        room = MAX_BYTES_PER_CONNECTION - len(self.buffer)
        if room <= 0 or not all(budget.may_read for budget in self._budgets):
            self._stop_reading()
            return
        try:
            data = self.sock.recv(min(_READ_SIZE, room))
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            return
        if not data:
            if not self.buffer:
                self._leave()  # said nothing and closed: a port check, not a request
                return
            self.ended = True
            self._stop_reading()
            return
        first = not self.buffer
        self.buffer += data
        for budget in self._budgets:
            budget.bytes += len(data)
        if first:
            self._on_data(self)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._poller.remove_reader(self.sock.fileno())

    def _leave(self) -> None:
        self.release()
        self.sock.close()
        self._on_gone(self)

    def take_back(self, first: bytes, ended: bool) -> None:
        """Resume a wait with what had already been read from the client."""
        self.buffer += first
        self.ended = ended
        for budget in self._budgets:
            budget.bytes += len(first)
        if ended:
            self._stop_reading()

    def release(self) -> tuple[bytes, bool]:
        """Stop holding; give what was read and whether the client has ended its half."""
        if self.held:
            self.held = False
            self._stop_reading()
            for budget in self._budgets:
                budget.count -= 1
                budget.bytes -= len(self.buffer)
        return bytes(self.buffer), self.ended

    def refuse(self) -> None:
        """Let the client go with a reset."""
        self.release()
        reset(self.sock)
